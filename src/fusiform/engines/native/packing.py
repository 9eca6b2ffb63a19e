"""The numbers of layers in the order that the C library reads them: done once a file, and shared by all its engines.

Four sums of four channels a lane of 16 bytes become bytes within lanes (``kernels.inc``), so the channels of a panel,
four vectors or the half or a quarter of that, stand in the order that makes them come out as they are.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRANULE = 16
"""Channels are padded to multiples of it, as in native.h."""

Numbers = NDArray[Any]


def padded(channels: int, unit: int = GRANULE) -> int:
    """The number of channels with those that fill the last ``unit``."""
    return -(-channels // unit) * unit


@cache
def order(width: int, vector: int) -> tuple[tuple[tuple[int, int], ...], NDArray[np.intp]]:
    """The panels that ``width`` channels are computed in, from where to where, and which channel stands at each place.

    ``vector`` is the number of bytes in one of the processor's vectors.
    """
    panels, places, first, vectors = [], np.arange(width), 0, 4
    while first < width:
        while (channels := vectors * vector // 4) > width - first:
            vectors //= 2
        # From lanes of 16 bytes, each with four channels of each vector, to vectors of lanes.
        places[first : first + channels] = (
            places[first : first + channels].reshape(-1, vectors, 4).swapaxes(0, 1).ravel()
        )
        panels.append((first, first + channels))
        first += channels
    return tuple(panels), places


def in_panels(weights: NDArray[np.int8], width: int, vector: int, *, ordered: bool, to: NDArray[np.uint8]) -> None:
    """Write weights (channels, groups, 4), and zeros up to ``width`` channels, in panels of a processor's vectors.

    The channels stay in their order unless ``ordered``.
    """
    channels, groups, _ = weights.shape
    fours = np.ascontiguousarray(weights).view(np.uint32).reshape(channels, groups)
    out = to.view(np.uint32)
    if not ordered:
        panels: tuple[tuple[int, int], ...] = tuple((first, first + vector) for first in range(0, width, vector))
    else:
        panels, places = order(width, vector)
        fours = padded_to(fours, width)[places]
    for first, end in panels:
        panel = out[first * groups : end * groups].reshape(groups, end - first)
        kept = fours[first:end].T
        panel[:, : kept.shape[1]] = kept
        panel[:, kept.shape[1] :] = 0


def in_order(numbers: Numbers, width: int, vector: int, *, ordered: bool) -> Numbers:
    """The numbers of channels, and zeros up to ``width``, as ``in_panels`` orders their weights."""
    numbers = padded_to(numbers, width)
    return numbers[order(width, vector)[1]] if ordered else numbers


def padded_to(array: Numbers, width: int) -> Numbers:
    """The array with zeros up to ``width`` channels, its first dimension."""
    if len(array) == width:
        return array
    whole = np.zeros((width, *array.shape[1:]), array.dtype)
    whole[: len(array)] = array
    return whole


def pack_gemm(weights: NDArray[np.int8]) -> NDArray[np.int8]:
    """Weights (channels, rows, inputs), the inputs of each row in groups of four: (channels, groups, 4)."""
    channels, rows, inputs = weights.shape
    if inputs % 4:
        whole = np.zeros((channels, rows, padded(inputs, 4)), np.int8)
        whole[:, :, :inputs] = weights
        weights = whole
    return weights.reshape(channels, -1, 4)


def pack_depthwise(weights: NDArray[np.int8], stride: int) -> NDArray[np.int8]:
    """Weights (3, 3, channels), for each column, and each row of output that is made at once, four rows of input."""
    rows = 2 if stride == 1 else 1
    packed = np.zeros((weights.shape[2], 3, rows, 4), np.int8)
    for y in range(rows):
        packed[:, :, y, y : y + 3] = weights.transpose(2, 1, 0)
    return packed.reshape(-1, 3 * rows, 4)
