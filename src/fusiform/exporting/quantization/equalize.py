"""Cross-layer equalisation: the same network with its channels rescaled so that int8 loses less.

A tensor's channels share one int8 scale, so a channel of small values gets few of the 255 steps. Dividing a channel by
a factor where it is made and multiplying by it where it is read changes nothing in float32 (Nagel et al., "Data-Free
Quantization Through Weight Equalization and Bias Correction", arXiv 1906.04721, Section 4.1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fusiform.graph.ir import Add, Conv, Gather, Graph, Linear, MaxPool, Mean, Node, Spread, Stack

_SMALLEST = 0.01  # a channel is magnified at most a hundredfold: it may only look dead in the calibration


def equalize(graph: Graph, ranges: Mapping[str, NDArray[np.float32]], *, balance: float = 0.5) -> Graph:
    """Rescale the channels of ``graph``, given the largest absolute value of each channel of each tensor.

    Where only depthwise convolutions read a tensor, whose weights have a scale a channel, its channels are all brought
    to one range, which costs nothing. Elsewhere the gain for the activations is a loss for the weights that read
    them: each channel's factor is its range to the power of ``balance``, over its largest weight to the power of
    1 - ``balance`` (SmoothQuant's rule, arXiv 2211.10438). Tensors joined by a residual connection are rescaled
    together; those that ShuffleNetV2 passes on in pieces are left alone.
    """
    pooled = {node.name: node.source for node in graph.nodes if isinstance(node, Mean)}
    nodes = {node.name: node for node in graph.nodes}
    factors: dict[str, NDArray[np.float64]] = {}
    for group in _residual_groups(graph):
        readers = [
            node
            for node in graph.nodes
            if isinstance(node, Conv | Linear) and pooled.get(node.source, node.source) in group
        ]
        value_range = _bounded(np.max([ranges[name] for name in group], 0))
        dense = [np.abs(node.weight) for node in readers if isinstance(node, Linear) or not node.depthwise]
        factor = value_range
        if dense:
            weight_range = _bounded(np.max([weight.reshape(*weight.shape[:2], -1).max((0, 2)) for weight in dense], 0))
            factor = value_range**balance / weight_range ** (1 - balance)
        factor = factor / (factor / value_range).min() / value_range.max()  # the largest value stays what it was
        if any(isinstance(node, Conv) and node.activation == "relu6" for node in map(nodes.get, group)):
            factor = np.minimum(factor, 1)  # what is magnified still ends below 6, what was clipped still is
        factors |= dict.fromkeys(group, factor)
    return Graph(graph.spec, tuple(_rescaled(node, factors, pooled) for node in graph.nodes))


def _bounded(ranges: NDArray[np.float32]) -> NDArray[np.float64]:
    """The ranges, none less than a hundredth of the largest, and none zero where all are."""
    return np.maximum(ranges.astype(np.float64), max(ranges.max() * _SMALLEST, 1e-30))


def _rescaled(node: Node, factors: Mapping[str, NDArray[np.float64]], pooled: Mapping[str, str]) -> Node:
    if not isinstance(node, Conv | Linear):
        return node
    weight, bias = node.weight.astype(np.float64), node.bias.astype(np.float64)
    read = factors.get(pooled.get(node.source, node.source))
    if read is not None:
        along = 0 if isinstance(node, Conv) and node.depthwise else 1
        weight = weight * np.expand_dims(read, [axis for axis in range(weight.ndim) if axis != along])
    made = factors.get(node.name)
    if made is not None:
        weight, bias = weight / made.reshape(-1, *(1,) * (weight.ndim - 1)), bias / made
    return dataclasses.replace(node, weight=weight.astype(np.float32), bias=bias.astype(np.float32))


def _residual_groups(graph: Graph) -> list[list[str]]:
    """Tensors whose channels must be rescaled alike because they are added; without those that stay as they are."""
    group_of: dict[str, list[str]] = {}
    fixed: set[str] = set()
    for node in graph.nodes:
        if isinstance(node, Conv):
            group_of[node.name] = [node.name]
        elif isinstance(node, Add):
            merged = group_of[node.left]
            if group_of[node.right] is not merged:
                merged += group_of[node.right]
            merged.append(node.name)
            group_of |= dict.fromkeys(merged, merged)
        elif isinstance(node, Gather):
            fixed |= {name for name, _, _ in node.pieces}
        elif isinstance(node, MaxPool | Spread):
            fixed.add(node.source)
        elif isinstance(node, Stack):
            fixed |= set(node.sources)
    fixed |= set(graph.outputs.values())
    groups = {id(group): group for group in group_of.values()}
    return [group for group in groups.values() if not fixed.intersection(group)]
