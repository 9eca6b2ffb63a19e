"""Photographs for a network: Pillow's bytes in a fifth of its time, for only what the crop keeps is computed."""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.data import preprocess as pillow
from fusiform.data.preprocess import Axis
from fusiform.engines.native.compiled import fast_kernels, load
from fusiform.spec import Interpolation, Preprocess

_BITS = 22
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


def _resize(image: Image.Image, x: Axis, y: Axis, interpolation: Interpolation) -> NDArray[np.uint8] | None:
    """The kept pixels of a resized RGB picture with Pillow's bytes, None where Pillow has to make them.

    The weights are Pillow's in the same precision, and between the two directions are bytes. What Pillow resizes
    downwards first is left to it (from version 13 on: what shrinks by twice as many rows as columns).
    """
    kernels, library = fast_kernels(), load()
    if kernels is None or library is None or interpolation not in _SUPPORT:
        return None
    if y.length > y.resized and y.length - y.resized > 2 * (x.length - x.resized):
        return None
    across, down = _taps(x, interpolation), _taps(y, interpolation)
    top, size, row = int(down.first[0]), y.kept * x.kept * 3, x.kept * 3
    bottom = int(down.first[-1]) + down.given.count
    between = np.empty((bottom - top) * row + _SLACK, np.uint8)
    pixels = np.empty(size + _SLACK, np.uint8)
    resize = partial(library.fusiform_native_resize, kernels)
    # Of a large picture, which Pillow keeps in several pieces, some rows at a time.
    most = bottom if image.width * image.height <= _IN_ONE_PIECE else max(1, _AT_ONCE // image.width)
    for first in range(top, bottom, most):
        rows = min(most, bottom - first)
        part = image if most == bottom else image.crop((0, first, image.width, first + rows))
        memory = _memory(part)
        if memory is None:
            return None
        to = between.ctypes.data + (first - top) * row
        start = memory.pixels + (4 * image.width * first if part is image else 0)
        resize(start, 4 * image.width, rows, ctypes.byref(across.given), ctypes.byref(_NOTHING), to, None)
    resize(None, 0, 0, ctypes.byref(across.given), ctypes.byref(down.given), between.ctypes.data, pixels.ctypes.data)
    return pixels[:size].reshape(y.kept, x.kept, 3)


@cache
def _is_pillow() -> bool:
    """Whether the library makes what this Pillow does: another version, or one that is built otherwise, may not."""
    if fast_kernels() is None:
        return False
    noise = (np.arange(53 * 61 * 3, dtype=np.uint32) * 2654435761 >> 17).astype(np.uint8)  # Knuth's multiplier
    image, x, y = Image.frombytes("RGB", (61, 53), noise.tobytes()), Axis(61, 37, 5, 23, 0), Axis(53, 32, 3, 23, 0)
    for interpolation in _SUPPORT:
        wanted = np.asarray(image.resize((37, 32), pillow.RESAMPLING[interpolation]))[3:26, 5:28]
        found = _resize(image, x, y, interpolation)
        if found is None or not np.array_equal(found, wanted):
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

    first: NDArray[np.int32]
    weights: NDArray[np.int32]
    given: _Given


@lru_cache(maxsize=64)  # a folder has few sizes
def _taps(axis: Axis, interpolation: Interpolation) -> _Taps:
    """Pillow's ``precompute_coeffs`` and ``normalize_coeffs_8bpc`` for the kept pixels of a side."""
    scale = axis.length / axis.resized
    wider = max(scale, 1.0)
    support = _SUPPORT[interpolation] * wider
    centre = (np.arange(axis.first, axis.first + axis.kept) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    many = np.minimum((centre + support + 0.5).astype(np.int64), axis.length) - first
    count = int(many.max())
    places = np.arange(count)
    distance = np.abs((places + first[:, None] - centre[:, None] + 0.5) * (1.0 / wider))
    weights = np.where(places < many[:, None], _filter(distance, interpolation), 0.0)
    total = np.zeros(axis.kept)
    for k in range(count):  # in their order, as Pillow adds them
        total += weights[:, k]
    weights /= np.where(total == 0, 1.0, total)[:, None]
    scaled = weights * (1 << _BITS)
    whole = np.trunc(np.where(weights < 0, scaled - 0.5, scaled + 0.5)).astype(np.int32)
    # The last pixels have fewer than the others: they begin earlier, with zeros.
    late = np.maximum(first + count - axis.length, 0)
    from_place = places - late[:, None]
    moved = np.take_along_axis(whole, np.maximum(from_place, 0), axis=1)
    shifted = np.where(from_place >= 0, moved, np.int32(0))
    starts = np.ascontiguousarray(first - late, np.int32)
    return _Taps(starts, shifted, _Given(axis.kept, count, starts.ctypes.data, shifted.ctypes.data))


def _filter(distance: NDArray[np.float64], interpolation: Interpolation) -> NDArray[np.float64]:
    x = distance
    if interpolation == "bilinear":
        return np.where(x < 1.0, 1.0 - x, 0.0)
    a = -0.5  # Keys' kernel (1981), in the order of Pillow's operations
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


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
