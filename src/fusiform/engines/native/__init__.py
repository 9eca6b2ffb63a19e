"""fusiform's own kernels for int8 classifiers, in C: each answer equals LiteRT's, in about half its time.

The library is compiled when fusiform is installed, where there is a C compiler; see ``native.h`` for what it computes
and ``kernels.inc`` for how.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform.engines.batch import Batch, as_pixels, check_batch
from fusiform.engines.native.layers import Layer, OtherNetworkError, Piece, Program
from fusiform.errors import UsageError, WeightsError
from fusiform.spec import ModelSpec

_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
LIBRARY = Path(__file__).with_name(f"fusiform_native{_SUFFIX}")
VERSION = 3
"""That of native.h: a library that was compiled from other sources is not called."""
PORTABLE = "portable"
"""The kernels in plain C: right everywhere, and slower than LiteRT."""


@cache
def _library(path: Path = LIBRARY) -> ctypes.CDLL | None:
    """The compiled library, None where there is none or it does not fit this machine."""
    try:
        library = ctypes.CDLL(str(path))
        if library.fusiform_native_version() != VERSION:
            return None
        library.fusiform_native_kernels.restype = ctypes.c_char_p
        library.fusiform_native_kernels.argtypes = [ctypes.c_int]
        library.fusiform_native_new.argtypes = [
            ctypes.POINTER(Layer), ctypes.c_int, ctypes.POINTER(Piece), ctypes.c_int, ctypes.c_int,
            ctypes.POINTER(ctypes.c_void_p),
        ]  # fmt: skip
        library.fusiform_native_run.argtypes = [
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64,
            ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
        ]  # fmt: skip
        library.fusiform_native_free.argtypes = [ctypes.c_void_p]
        library.fusiform_native_free.restype = None
    except (OSError, AttributeError):
        return None
    return library


def usable_kernels() -> list[str]:
    """The sets of kernels that this machine can run, the fastest first; none where the library was not compiled."""
    library = _library()
    names: list[str] = []
    while library is not None and (name := library.fusiform_native_kernels(len(names))) is not None:
        names.append(name.decode())
    return [name for name in names if name]


def is_fast() -> bool:
    """Whether the library is there, with kernels that this processor is fast with."""
    return usable_kernels()[:1] not in ([], [PORTABLE])


_latest: list[tuple[bytes, Program | str]] = []
"""The file that was read last: whoever asks whether one can be run, runs it next, and each thread opens it again."""


def _read(data: bytes) -> Program | str:
    """The program in a file, or what in it is not for the library."""
    for file, program in _latest[:]:
        if file is data:
            return program
    found: Program | str
    try:
        found = Program(data)
    except OtherNetworkError as reason:
        found = str(reason)
    _latest[:] = [(data, found)]
    return found


def can_run(data: bytes) -> bool:
    """Whether the library computes what a TFLite file holds; what is wrong with a damaged one LiteRT's engine says."""
    try:
        return isinstance(_read(data), Program)
    except WeightsError:
        return False


class NativeEngine:
    """Runs a TFLite file of an int8 classifier, picture by picture, in one thread.

    It answers with the features where ``spec`` does, whether the file does or not, and releases the interpreter's lock
    while it computes, so engines in several threads use several cores. ``kernels`` is one of ``usable_kernels``, None
    the fastest. Raises UsageError where the library is not there, and for a file that it does not compute; WeightsError
    for one that is not shaped as ``spec`` says.
    """

    def __init__(self, file: bytes, spec: ModelSpec, *, kernels: str | None = None) -> None:
        self.spec = spec
        self._handle = ctypes.c_void_p()
        usable, library = usable_kernels(), _library()
        if library is None or not usable:
            raise UsageError(
                "the engine native was not compiled when fusiform was installed: install a C compiler and then "
                "fusiform again, or leave --engine out"
            )
        self._library = library
        program = _read(file)
        if isinstance(program, str):
            raise UsageError(f"the engine native runs int8 classifiers alone, and {spec.name} {program}")
        first, last = program.layers[0], program.layers[-1]
        shape, features = (first.height, first.width, first.channels), program.layers[last.source].channels
        sizes = [(last.channels,), (features,)][: len(spec.answers)]
        if shape != (spec.input_size, spec.input_size, spec.input_channels) or sizes != [*spec.answers.values()]:
            raise WeightsError(
                f"the file reads {list(shape)} and answers {last.channels} numbers, but its description says "
                f"otherwise: write it again with fusiform port"
            )
        names = [library.fusiform_native_kernels(k) for k in range(len(usable) + 3)]
        wanted = names.index((kernels or usable[0]).encode())
        layers, self._memory = program.packed(library.fusiform_native_bytes(wanted))
        pieces = (Piece * len(program.pieces))(*program.pieces)
        status = library.fusiform_native_new(
            layers, len(layers), pieces, len(pieces), wanted, ctypes.byref(self._handle)
        )
        if status == 1:
            raise MemoryError
        if status:
            raise UsageError(f"the engine native cannot run {spec.name}: its sizes or scales are out of range")

    def __del__(self) -> None:
        if self._handle:
            self._library.fusiform_native_free(self._handle)

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Answer a batch; see ``Engine.run``."""
        check_batch(batch, self.spec)
        pixels = np.ascontiguousarray(as_pixels(batch, self.spec.preprocess))
        answers = {name: np.empty((len(batch), *shape), np.float32) for name, shape in self.spec.answers.items()}
        memory: list[int | None] = [n for values in answers.values() for n in (values.ctypes.data, values.size)]
        memory += [None, 0] if len(answers) == 1 else []
        status = self._library.fusiform_native_run(self._handle, pixels.ctypes.data, pixels.size, *memory, len(batch))
        if status:
            raise UsageError(f"{self.spec.name}: the library refused the pictures")
        return answers
