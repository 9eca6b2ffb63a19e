"""Resizing without averaging: 1, 2 or 4 taps a side, as torchvision does it on uint8 tensors without ``antialias``."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.axis import Axis
from fusiform.errors import SpecError
from fusiform.spec import Interpolation


def sample(image: Image.Image, y: Axis, x: Axis, interpolation: Interpolation) -> Image.Image:
    """The kept pixels of a resized RGB picture, to one grey level; SpecError for lanczos, which has no such form."""
    return Image.fromarray(np.ascontiguousarray(_sample(np.array(image), y, x, interpolation)))


def _sample(pixels: NDArray[np.uint8], y: Axis, x: Axis, interpolation: Interpolation) -> NDArray[np.uint8]:
    if (y.resized, x.resized) == (y.length, x.length):
        return pixels[y.first : y.first + y.kept, x.first : x.first + x.kept]
    rows, row_weights = _taps(y, interpolation)
    columns, column_weights = _taps(x, interpolation)
    values = np.zeros((y.kept, x.kept, 3), np.float32)
    for row, row_weight in zip(rows, row_weights, strict=True):
        for column, column_weight in zip(columns, column_weights, strict=True):
            values += pixels[row[:, None], column] * (row_weight[:, None] * column_weight)[..., None]
    return cast(NDArray[np.uint8], np.rint(values).clip(0, 255).astype(np.uint8))


def _taps(axis: Axis, interpolation: Interpolation) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The source pixels and weights, (taps, kept) each, of PyTorch's ``interpolate`` with ``align_corners=False``."""
    scale = np.float32(axis.length) / np.float32(axis.resized)
    kept = np.arange(axis.first, axis.first + axis.kept, dtype=np.float32)
    last = axis.length - 1
    if interpolation == "nearest":
        # The upper left corner decides, not the centre as in Pillow.
        source = np.floor(kept * scale).astype(np.int64).clip(0, last)
        return source[None], np.ones((1, axis.kept), np.float32)
    centre = (kept + np.float32(0.5)) * scale - np.float32(0.5)
    if interpolation == "bilinear":
        centre = centre.clip(0, None)
        source = np.floor(centre).astype(np.int64).clip(0, last)
        t = centre - source.astype(np.float32)
        return np.stack([source, (source + 1).clip(0, last)]), np.stack([1 - t, t])
    if interpolation == "bicubic":
        source = np.floor(centre).astype(np.int64)
        distance = np.abs(centre - source - np.arange(-1, 3, dtype=np.float32)[:, None])
        return np.stack([source + i for i in range(-1, 3)]).clip(0, last), _cubic(distance)
    raise SpecError("preprocess: lanczos always averages the pixels it covers: set antialias to true")


def _cubic(d: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keys' kernel (1981) with the a = -0.75 that PyTorch and OpenCV use."""
    a = np.float32(-0.75)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return cast(NDArray[np.float32], np.where(d <= 1, near, far).astype(np.float32))
