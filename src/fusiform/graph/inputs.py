"""What a graph's input is: normalised pictures, or pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fusiform.graph.ir import INPUT, Center, Conv, Graph, Node
from fusiform.spec import ModelSpec, Preprocess

CENTER = "centered"


def pixel_zero_point(preprocess: Preprocess) -> int:
    """The grey (0 to 255) that stands for zero in a network that reads pixels: the mean over the three colours."""
    return round(255 * sum(preprocess.mean) / len(preprocess.mean))


def fold_normalization(graph: Graph) -> Graph:
    """The same network for pixels less ``pixel_zero_point`` instead of normalised pictures.

    Exact inside the picture; the padding is that grey instead of the mean colour.
    """
    return _rescale_input(graph, inverse=False)


def unfold_normalization(graph: Graph) -> Graph:
    """Undo ``fold_normalization``."""
    return _rescale_input(graph, inverse=True)


def read_pixels(graph: Graph) -> Graph:
    """The same float32 network for uint8 pixels: the mean is subtracted first, the first weights divide by the std.

    Exact, the padding included: zeros around what has no mean are the mean colour.
    """
    red, green, blue = (255 * value for value in graph.spec.preprocess.mean)
    factor = 1 / _deviation(graph.spec.preprocess)
    changed = (  # the stem is several convolutions where it was split
        _scaled(node, factor, source=CENTER) if isinstance(node, Conv) and node.source == INPUT else node
        for node in graph.nodes
    )
    return Graph(graph.spec, (Center(CENTER, (red, green, blue)), *changed))


def read_normalized(graph: Graph) -> Graph:
    """Undo ``read_pixels``, up to rounding."""
    return _unscaled(graph.spec, graph.nodes[1:])


def unscale_input(graph: Graph) -> Graph:
    """The network for normalised pictures, of one whose first weights divide by the standard deviation of pixels."""
    return _unscaled(graph.spec, graph.nodes)


def _unscaled(spec: ModelSpec, nodes: Sequence[Node]) -> Graph:
    first = nodes[0]
    assert isinstance(first, Conv)
    return Graph(spec, (_scaled(first, _deviation(spec.preprocess), source=INPUT), *nodes[1:]))


def _scaled(conv: Conv, factor: NDArray[np.float64], *, source: str) -> Conv:
    weight = (conv.weight.astype(np.float64) * factor).astype(np.float32)
    return dataclasses.replace(conv, source=source, weight=weight)


def _deviation(preprocess: Preprocess) -> NDArray[np.float64]:
    """The standard deviation of pixels, to divide or multiply weights (out, in, height, width) by."""
    return 255 * np.array(preprocess.std)[:, None, None]


def _rescale_input(graph: Graph, *, inverse: bool) -> Graph:
    first = graph.nodes[0]
    assert isinstance(first, Conv)
    preprocess = graph.spec.preprocess
    std = _deviation(preprocess)
    # What the grey becomes when it is normalised.
    offset = ((pixel_zero_point(preprocess) / 255 - np.array(preprocess.mean)) / np.array(preprocess.std))[
        :, None, None
    ]
    weight = first.weight.astype(np.float64)
    if inverse:
        weight = weight * std
        bias = first.bias - (weight * offset).sum((1, 2, 3))
    else:
        bias = first.bias + (weight * offset).sum((1, 2, 3))
        weight = weight / std
    changed = dataclasses.replace(first, weight=weight.astype(np.float32), bias=bias.astype(np.float32))
    return Graph(graph.spec, (changed, *graph.nodes[1:]))
