"""The compiled library, and the sets of kernels in it that this processor can run."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path

_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
LIBRARY = Path(__file__).with_name(f"fusiform_native{_SUFFIX}")
VERSION = 8
"""That of native.h: a library that was compiled from other sources is not called."""
PORTABLE = "portable"
"""The kernels in plain C: right everywhere, and slower than LiteRT."""
UNMEASURED = frozenset(["neon-i8mm", "neon-dotprod"])
"""Kernels that answer right, in an emulator: no machine at hand could say whether they are faster than LiteRT."""

_INT, _LONG, _POINTER = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
_FUNCTIONS: dict[str, tuple[object, list[object]]] = {
    "kernels": (ctypes.c_char_p, [_INT]),
    "bytes": (_INT, [_INT]),
    "less": (_INT, [_INT]),
    "run": (_INT, [_POINTER, _POINTER, _LONG, _POINTER, _LONG, _POINTER, _LONG, _LONG]),
    "resize": (None, [_INT, _POINTER, _LONG, _INT, _POINTER, _POINTER, _POINTER, _POINTER]),
    "pack": (None, [_POINTER, _POINTER, _INT]),
    "taps": (_INT, [_INT, _INT, _INT, _INT, _INT, _POINTER, _POINTER]),
}
"""What each function that Python calls, of program.c and packing.c, answers and takes."""


@cache
def load(path: Path = LIBRARY) -> ctypes.CDLL | None:
    """The compiled library, None where there is none or it does not fit this machine."""
    try:
        library = ctypes.CDLL(str(path))
        if library.fusiform_native_version() != VERSION:
            return None
        for name, (answer, takes) in _FUNCTIONS.items():
            function = getattr(library, f"fusiform_native_{name}")
            function.restype, function.argtypes = answer, takes
    except (OSError, AttributeError):
        return None
    return library


def usable_kernels() -> dict[str, int]:
    """The sets of kernels that this machine can run, the fastest first, with the numbers that the library has for them.

    None where the library was not compiled.
    """
    library, usable, number = load(), {}, 0
    while library is not None and (name := library.fusiform_native_kernels(number)) is not None:
        if name:
            usable[name.decode()] = number
        number += 1
    return usable


@cache
def fast_kernels() -> int | None:
    """The number of the fastest set of kernels; None where none is known to be faster than LiteRT."""
    name, number = next(iter(usable_kernels().items()), (PORTABLE, 0))
    return None if name == PORTABLE or name in UNMEASURED else number
