"""From a graph back to weights under torchvision's names."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from fusiform.graph.build import number_weights
from fusiform.graph.builder import BATCH_NORM_EPSILON
from fusiform.graph.inputs import read_normalized, unfold_normalization
from fusiform.graph.ir import Conv, Graph, Linear, Node, reads_pixels


def to_state(graph: Graph) -> dict[str, NDArray[np.float32]]:
    """The weights of a graph under torchvision's names: what ``build_graph`` takes, with identity normalisations.

    Weights of an int8 graph are dequantised, and the first convolution reads normalised pictures again.
    """
    graph = to_float(graph)
    weights = {node.name: node.weight for node in graph.nodes if isinstance(node, Conv | Linear)}
    numbers = {node.name: node for node in number_weights(graph.spec, weights).nodes}
    state: dict[str, NDArray[np.float32]] = {}
    for node in graph.nodes:
        if isinstance(node, Linear):
            state[f"{node.name}.weight"], state[f"{node.name}.bias"] = node.weight.astype(np.float32), node.bias
        elif isinstance(node, Conv):
            origin = numbers[node.name]
            assert isinstance(origin, Conv)
            weight, bias = np.empty_like(node.weight, np.float32), np.empty_like(node.bias, np.float32)
            weight.flat[origin.weight.astype(np.intp).ravel()] = node.weight.ravel()
            bias[origin.bias.astype(np.intp)] = node.bias
            ones = np.ones_like(bias)
            state[f"{node.name}.weight"] = weight
            if not node.norm:
                state[f"{node.name}.bias"] = bias
                continue
            state[f"{node.norm}.weight"] = ones
            state[f"{node.norm}.bias"] = bias
            state[f"{node.norm}.running_mean"] = np.zeros_like(bias)
            state[f"{node.norm}.running_var"] = ones * np.float32(1 - BATCH_NORM_EPSILON)
            state[f"{node.norm}.num_batches_tracked"] = np.array(0, np.int64)
    return state


def to_float(graph: Graph) -> Graph:
    """The float32 graph for normalised pictures that an int8 graph, or one that reads pixels, stands for."""
    if graph.quantization is not None:
        return unfold_normalization(dequantize(graph))
    return read_normalized(graph) if reads_pixels(graph) else graph


def dequantize(graph: Graph) -> Graph:
    """An int8 graph with float32 weights and biases and no quantisation of activations; it still reads pixels."""
    assert graph.quantization is not None
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Conv | Linear) and node.name not in graph.quantization.in_float:
            scales = graph.quantization.weights[node.name]
            weight = node.weight * scales.reshape(-1, *(1,) * (node.weight.ndim - 1))
            step: NDArray[np.float64] | float = 1.0
            if isinstance(node, Conv):
                step = scales.astype(np.float64) * graph.quantization.activations[node.source].scale
            node = dataclasses.replace(
                node, weight=weight.astype(np.float32), bias=np.asarray(node.bias * step, np.float32)
            )
        nodes.append(node)
    return Graph(graph.spec, tuple(nodes))
