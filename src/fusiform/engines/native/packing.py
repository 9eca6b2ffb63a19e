"""The numbers of layers in the order that the C library reads them: done once a file, and shared by all its engines.

Four sums of four channels a lane of 16 bytes become bytes within lanes (``kernels.inc``), so the channels of a panel,
four vectors or the half or a quarter of that, stand in the order that makes them come out as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
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
def order(width: int, vector: int) -> tuple[tuple[slice, ...], NDArray[np.intp]]:
    """The panels that ``width`` channels are computed in, and which channel stands at each place of them.

    ``vector`` is the number of bytes in one of the processor's vectors.
    """
    panels, places, first, vectors = [], np.arange(width), 0, 4
    while first < width:
        while (channels := vectors * vector // 4) > width - first:
            vectors //= 2
        channel = np.arange(channels)
        place = channel // 4 % vectors * vector // 4 + channel // (4 * vectors) * 4 + channel % 4
        places[first + place] = first + channel
        panels.append(slice(first, first + channels))
        first += channels
    return tuple(panels), places


def pack(arrays: Iterable[Numbers | None], *, unit: int, vector: int, ordered: bool) -> list[Numbers]:
    """Weights (channels, groups, 4) in panels, and the numbers of each channel beside them.

    The channels are padded to multiples of ``unit``, and stay in their order unless ``ordered``.
    """
    weights, *others = (array for array in arrays if array is not None)
    channels, groups, _ = weights.shape
    width = padded(channels, unit)
    panels, places = order(width, vector)
    if not ordered:
        panels = tuple(slice(first, first + vector) for first in range(0, width, vector))
    whole: list[Numbers] = []
    for array in (np.ascontiguousarray(weights).view(np.uint32).reshape(channels, groups), *others):
        if width > channels:
            array = np.concatenate([array, np.zeros((width - channels, *array.shape[1:]), array.dtype)])
        whole.append(array[places] if ordered else array)
    fours = np.concatenate([whole[0][panel].T.ravel() for panel in panels])
    return [fours.view(np.int8), *whole[1:]]


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
