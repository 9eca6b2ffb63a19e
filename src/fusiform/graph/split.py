"""Inverted residuals in slices of their expansion: the same network in less memory (arXiv 1801.04381, Section 5)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import NamedTuple

import numpy as np

from fusiform.errors import UsageError
from fusiform.graph.ir import Add, Conv, Graph, Node, sources


class Expansion(NamedTuple):
    """A convolution, the depthwise one that alone reads it, and the linear projection that alone reads that.

    Each channel between ``expand`` and ``project`` goes its own way, so the projection is a sum over slices of them.
    """

    expand: Conv
    depthwise: Conv
    project: Conv


def find_expansions(graph: Graph) -> tuple[Expansion, ...]:
    """The inverted residuals of a graph, in its order; none in ShuffleNetV2, whose projections end in a ReLU.

    In MobileNetV2 the stem with the first bottleneck is one of them: that bottleneck has no expansion of its own, and
    what Section 5 says of the others holds for it too (Table 3's caption).
    """
    made = {node.name: node for node in graph.nodes}
    readers = Counter(name for node in graph.nodes for name in sources(node))
    found = []
    for project in graph.nodes:
        if not (isinstance(project, Conv) and project.kernel == 1 and project.groups == 1):
            continue
        depthwise = made.get(project.source)
        if project.activation is not None or not (isinstance(depthwise, Conv) and depthwise.depthwise):
            continue
        expand = made.get(depthwise.source)
        if isinstance(expand, Conv) and expand.groups == 1 and readers[expand.name] == readers[depthwise.name] == 1:
            found.append(Expansion(expand, depthwise, project))
    return tuple(found)


def split_expansion(graph: Graph, slices: int) -> Graph:
    """The same float32 network with every inverted residual computed in slices of its expansion.

    Each becomes up to ``slices`` thinner ones, one after the other, whose projections are added up as they come: the
    expanded tensor is never held whole, and nothing is computed twice. Channels that do not divide evenly are spread.
    Node k of a convolution is called ``NAME/k``; the last sum has the projection's name. Answers differ from the
    graph's by rounding alone. Files made of the result run, but ``from_tflite`` and ``from_onnx`` do not read them
    back. Raises UsageError for less than one slice and for int8 graphs, whose partial sums would each be rounded.
    """
    if slices < 1:
        raise UsageError(f"an expansion is computed in 1 slice or more, not in {slices}")
    if graph.quantization is not None:
        raise UsageError("only float32 networks are split into slices: in int8 each partial sum would be rounded")
    if slices == 1:
        return graph
    expansions = find_expansions(graph)
    inner = {conv.name for expansion in expansions for conv in (expansion.expand, expansion.depthwise)}
    split = {expansion.project.name: _slices(expansion, slices) for expansion in expansions}
    nodes = (split.get(node.name, (node,)) for node in graph.nodes if node.name not in inner)
    return Graph(graph.spec, tuple(node for group in nodes for node in group))


def _slices(expansion: Expansion, slices: int) -> tuple[Node, ...]:
    """One slice after the other, each added to the sum as soon as it is there: no more than two outputs wait."""
    expand, depthwise, project = expansion
    channels = len(expand.bias)
    slices = min(slices, channels)
    nodes: list[Node] = []
    total = ""
    for k in range(slices):
        part = slice(channels * k // slices, channels * (k + 1) // slices)
        wide, filtered, narrow = (f"{conv.name}/{k}" for conv in expansion)
        nodes.append(_outputs(expand, part, wide))
        nodes.append(
            dataclasses.replace(_outputs(depthwise, part, filtered), source=wide, groups=part.stop - part.start)
        )
        nodes.append(
            dataclasses.replace(
                project,
                name=narrow,
                source=filtered,
                weight=project.weight[:, part].copy(),
                bias=project.bias if k == 0 else np.zeros_like(project.bias),
            )
        )
        if k > 0:
            nodes.append(Add(project.name if k == slices - 1 else f"{project.name}/sum/{k}", total, narrow))
        total = nodes[-1].name
    return tuple(nodes)


def _outputs(conv: Conv, part: slice, name: str) -> Conv:
    """The convolution that makes these of ``conv``'s channels."""
    return dataclasses.replace(conv, name=name, weight=conv.weight[part], bias=conv.bias[part])
