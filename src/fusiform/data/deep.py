"""Pictures of more than 8 bits, which Pillow does not make 8-bit ones of as they should be: with numpy, in strips."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def to_grey(image: Image.Image) -> Image.Image:
    """A picture of mode I;16, I or F in 8-bit grey; see ``to_rgb``."""
    return Image.fromarray(grey_levels(np.asarray(image)))


def whitened(image: Image.Image, full: int) -> Image.Image:
    """A picture of mode I;16 or I in 8-bit grey, in which ``full`` is white."""
    whiten = 255 / full
    return Image.fromarray(in_strips(np.asarray(image), lambda rows: np.rint(rows * whiten)))


def largest_of(image: Image.Image) -> int:
    """The largest sample of a picture of mode I;16 or I."""
    return int(np.asarray(image).max())


def grey_levels(values: NDArray[Any]) -> NDArray[np.uint8]:
    """The levels of modes I;16, I and F by the rules that ``to_rgb`` states."""
    is_float = values.dtype.kind == "f"

    def finite(rows: NDArray[Any]) -> NDArray[Any]:
        return np.where(np.isfinite(rows), rows, 0).astype(np.float64) if is_float else rows

    ends = [(float(part.min()), float(part.max())) for part in (finite(values[rows]) for rows in strips(values))]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    if low < 0 or high > (255 if is_float else 65535):
        span = (high - low) or 1
        return in_strips(values, lambda rows: np.rint((finite(rows) - low) / span * 255))
    if is_float:
        scale = 255 if high <= 1 else 1
        return in_strips(values, lambda rows: np.rint(finite(rows) * scale))
    return in_strips(values, lambda rows: rows >> 8)


def in_strips(values: NDArray[Any], levels: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[np.uint8]:
    """What ``levels`` makes of some rows at a time, as uint8: of all rows, floats would take many times the picture."""
    made = np.empty(values.shape, np.uint8)
    for rows in strips(values):
        made[rows] = levels(values[rows])
    return made


def strips(values: NDArray[Any]) -> Iterator[slice]:
    """The rows of a picture, about a million samples at a time."""
    step = max(1, (1 << 20) // max(1, values[:1].size))
    return (slice(top, top + step) for top in range(0, len(values), step))
