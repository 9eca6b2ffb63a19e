"""Photographs for a network: Pillow's bytes in a fifth of its time, for only what the crop keeps is computed."""

from __future__ import annotations

import ctypes
import math
from array import array
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from fusiform.data import preprocess as pillow
from fusiform.data.axis import Axis
from fusiform.engines.native.compiled import fast_kernels, load
from fusiform.spec import Interpolation, Preprocess

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SUPPORT: dict[Interpolation, float] = {"bilinear": 1.0, "bicubic": 2.0}
_SLACK = 64
"""Bytes behind an array that the library may read and write, as in native.h."""

_IN_ONE_PIECE = 1 << 21
"""Pixels; Pillow allots memory by 16 MB, so up to twice as many lie in one piece."""
_AT_ONCE = 1 << 19
"""Pixels of a larger picture that are copied and resized at a time: what stays in the cache."""


def crop_pixels(image: Image.Image, preprocess: Preprocess, *, fast: bool = False) -> NDArray[np.uint8]:
    """What ``data.preprocess.crop_pixels`` makes of a photograph, by the library where it is there."""
    return pillow.crop_pixels(image, preprocess, fast=fast, resize=_resize if _is_pillow() else None)


def crop_bytes(image: Image.Image, preprocess: Preprocess, *, fast: bool = False) -> bytearray:
    """The same as bytes, without numpy; see ``data.preprocess.crop_bytes``."""
    return pillow.crop_bytes(image, preprocess, fast=fast, resize=_resize if _is_pillow() else None)


def _resize(image: Image.Image, x: Axis, y: Axis, interpolation: Interpolation) -> bytearray | None:
    """The kept pixels of a resized RGB picture with Pillow's bytes, None where Pillow has to make them.

    The weights are Pillow's in the same precision, and between the two directions are bytes. What Pillow resizes
    downwards first is left to it (from version 13 on: what shrinks by twice as many rows as columns).
    """
    kernels, library = fast_kernels(), load()
    if kernels is None or library is None or interpolation not in _SUPPORT:
        return None
    if y.length > y.resized and y.length - y.resized > 2 * (x.length - x.resized):
        return None
    across, down = _taps(x, interpolation, library), _taps(y, interpolation, library)
    top, bottom, row = down.first[0], down.first[-1] + down.given.count, x.kept * 3
    between, pixels = _room((bottom - top) * row + _SLACK), _room(y.kept * row + _SLACK)
    rows_at, pixels_at = (ctypes.addressof(ctypes.c_char.from_buffer(memory)) for memory in (between, pixels))
    resize = partial(library.fusiform_native_resize, kernels)
    # Of a large picture, which Pillow keeps in several pieces, some rows at a time.
    most = bottom if image.width * image.height <= _IN_ONE_PIECE else max(1, _AT_ONCE // image.width)
    for first in range(top, bottom, most):
        rows = min(most, bottom - first)
        part = image if most == bottom else image.crop((0, first, image.width, first + rows))
        memory = _memory(part)
        if memory is None:
            return None
        to = rows_at + (first - top) * row
        start = memory.pixels + (4 * image.width * first if part is image else 0)
        resize(start, 4 * image.width, rows, ctypes.byref(across.given), ctypes.byref(_NOTHING), to, None)
    resize(None, 0, 0, ctypes.byref(across.given), ctypes.byref(down.given), rows_at, pixels_at)
    del pixels[y.kept * row :]
    return pixels


@cache
def _is_pillow() -> bool:
    """Whether the library makes what this Pillow does: another version, or one that is built otherwise, may not."""
    if fast_kernels() is None:
        return False
    # Noise: the binary digits of 1 / 1,000,000,007, from where they begin.
    noise = ((1 << 8 * 53 * 61 * 3 + 28) // 1_000_000_007).to_bytes(53 * 61 * 3, "big")
    image, x, y = Image.frombytes("RGB", (61, 53), noise), Axis(61, 37, 5, 23, 0), Axis(53, 32, 3, 23, 0)
    for interpolation in _SUPPORT:
        wanted = image.resize((37, 32), pillow.RESAMPLING[interpolation]).crop((5, 3, 28, 26))
        found = _resize(image, x, y, interpolation)
        if found is None or bytes(found) != wanted.tobytes():
            return False
    return True


class _Given(ctypes.Structure):
    """``struct taps`` of native.h."""

    _fields_ = (
        ("kept", ctypes.c_int32),
        ("count", ctypes.c_int32),
        ("first", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
    )


_NOTHING = _Given(0, 0, None, None)


class _Taps(NamedTuple):
    """What each kept pixel of a side is made of: so many pixels from ``first`` on, times ``weights``."""

    first: array[int]
    weights: array[int]
    given: _Given


@lru_cache(maxsize=64)  # a folder has few sizes
def _taps(axis: Axis, interpolation: Interpolation, library: ctypes.CDLL) -> _Taps:
    """Pillow's ``precompute_coeffs`` and ``normalize_coeffs_8bpc`` for the kept pixels of a side."""
    most = 2 * math.ceil(_SUPPORT[interpolation] * max(axis.scale, 1.0)) + 1
    first, weights = array("i", bytes(4 * axis.kept)), array("i", bytes(4 * axis.kept * most))
    starts, values, cubic = first.buffer_info()[0], weights.buffer_info()[0], interpolation == "bicubic"
    count = library.fusiform_native_taps(axis.length, axis.resized, axis.first, axis.kept, cubic, starts, values)
    return _Taps(first, weights, _Given(axis.kept, count, starts, values))


class _ArrowArray(ctypes.Structure):
    """The beginning of ``struct ArrowArray`` of Arrow's C data interface."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
        ("buffers", ctypes.POINTER(ctypes.c_void_p)),
        ("children", ctypes.POINTER(ctypes.c_void_p)),
    )


class _Memory(NamedTuple):
    """Where a picture's pixels lie, four bytes each, and what holds them there."""

    pixels: int
    holder: object


_new_bytes = ctypes.pythonapi.PyByteArray_FromStringAndSize
_new_bytes.restype, _new_bytes.argtypes = ctypes.py_object, [ctypes.c_char_p, ctypes.c_ssize_t]


def _room(size: int) -> bytearray:
    """So many bytes, which are all written to before they are read: ``bytearray`` would set them to zero first."""
    made: bytearray = _new_bytes(None, size)
    return made


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _memory(image: Image.Image) -> _Memory | None:
    """The memory of an RGB picture, without a copy; None where it lies in several pieces or Pillow is older."""
    give = getattr(image, "__arrow_c_array__", None)
    if image.mode != "RGB" or give is None:
        return None
    try:
        _, holder = give()
    except ValueError:
        return None
    array = _ArrowArray.from_address(_pointer(holder, b"arrow_array"))
    if array.length != image.width * image.height or array.offset or array.n_children != 1:
        return None
    values = _ArrowArray.from_address(array.children[0])
    if values.length != 4 * array.length or values.offset or values.n_buffers != 2:
        return None
    return _Memory(values.buffers[1], holder)
