"""What the compiled library takes for granted: every layer reads what is there, and no number leaves its range.

Python's integers hold whatever a damaged or hostile file says; afterwards all sizes fit into C's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from fusiform.engines.native.layers import (
    ADD,
    CLASSIFIER,
    CONV,
    DEPTHWISE,
    GATHER,
    GRANULE,
    INPUT,
    MAXPOOL,
    POINTWISE,
    Layer,
    OtherNetworkError,
    Piece,
    padded,
)

_MOST_LAYERS, _MOST_SIDE, _MOST_CHANNELS, _MOST_BYTES = 4096, 4096, 8192, 1 << 28
_WINDOWS = (CONV, DEPTHWISE, MAXPOOL)
"""The kinds of layers that look at 3x3 pixels."""


def check_layers(layers: Sequence[Layer], pieces: Sequence[Piece]) -> None:
    """Give each layer the height, the width and the bytes a pixel (``step``) of its map, if all of them fit together.

    Raises OtherNetworkError if not.
    """
    if not 3 <= len(layers) <= _MOST_LAYERS:
        raise OtherNetworkError("has too few layers, or too many")
    for index, layer in enumerate(layers):
        first, end = layer.first_piece, layer.first_piece + layer.pieces
        there = 0 <= first <= end <= len(pieces)
        if not (there and _in_range(layer) and _fits(index, layer, layers, pieces[first:end])):
            raise OtherNetworkError(f"has a layer that does not fit the others, or is out of range (number {index})")


def check_weights(layers: Sequence[Layer] | ctypes.Array[Layer], vector: int) -> None:
    """OtherNetworkError for a layer whose numbers, packed for vectors of so many bytes, are not as many as it reads."""
    for index, layer in enumerate(layers):
        if layer.kind not in (CONV, POINTWISE, DEPTHWISE, CLASSIFIER):
            continue
        unit, groups = GRANULE, -(-layers[layer.source].channels // 4)
        if layer.kind == CONV:
            groups = 9
        elif layer.kind == DEPTHWISE:
            unit, groups = max(GRANULE, vector // 2), 6 if layer.stride == 1 else 3
        elif layer.kind == CLASSIFIER:
            unit = vector
        width = padded(layer.channels, unit)
        sizes = 4 * width * groups, width, 2 * width if layer.kind == CLASSIFIER else width
        there = layer.weights and layer.biases and layer.scales
        if not there or (layer.weight_size, layer.bias_size, layer.scale_size) != sizes:
            raise OtherNetworkError(f"has a layer with more weights than it reads, or fewer (number {index})")


def _in_range(layer: Layer) -> bool:
    return bool(
        1 <= layer.channels <= _MOST_CHANNELS
        and 0 <= layer.zero <= 255
        and 0 <= layer.low <= layer.high <= 255
        and 0 <= layer.shift <= 31
    )


def _fits(index: int, layer: Layer, layers: Sequence[Layer], pieces: Sequence[Piece]) -> bool:
    """Whether a layer reads maps that are there and as it needs them."""
    kind, channels = layer.kind, layer.channels
    layer.step = padded(channels)
    if index == 0:
        sides = 1 <= layer.height <= _MOST_SIDE and 1 <= layer.width <= _MOST_SIDE
        return bool(kind == INPUT and channels == 3 and sides)
    if not 0 <= layer.source < index or (layer.source == 0) != (kind == CONV):
        return False
    if (kind == CLASSIFIER) != (index == len(layers) - 1):  # so no layer reads one
        return False
    source = layers[layer.source]
    height, width = source.height, source.width
    if kind in _WINDOWS:
        pad, stride = layer.before + layer.after - 3, layer.stride
        if layer.before not in (0, 1) or layer.after not in (0, 1) or stride not in (1, 2):
            return False
        if height + pad < 0 or width + pad < 0 or (kind == DEPTHWISE and stride == 1 and pad != -1):
            return False
        height, width = (height + pad) // stride + 1, (width + pad) // stride + 1
    layer.height, layer.width = height, width
    if height * width * layer.step > _MOST_BYTES:
        return False
    shape = height, width, channels
    if kind == ADD:
        other = layers[layer.other] if 0 < layer.other < index else layer
        return other is not layer and all((x.height, x.width, x.channels) == shape for x in (source, other))
    if kind == GATHER:
        return _is_whole(index, layer, layers, pieces)
    if kind in (DEPTHWISE, MAXPOOL):
        return bool(source.channels == channels and (kind == DEPTHWISE or layer.stride == 2))
    return kind in (CONV, POINTWISE, CLASSIFIER)


def _is_whole(index: int, layer: Layer, layers: Sequence[Layer], pieces: Sequence[Piece]) -> bool:
    """Whether pieces of maps are there, and are all of a layer's channels."""
    for piece in pieces:
        if not 0 < piece.source < index:
            return False
        source = layers[piece.source]
        if not 0 <= piece.first < piece.end <= source.channels:
            return False
        if (source.height, source.width) != (layer.height, layer.width):
            return False
    return bool(sum(piece.end - piece.first for piece in pieces) == layer.channels)
