"""Parameters and multiply-adds of a network."""

from __future__ import annotations

from fusiform.graph.ir import Conv, Graph, Linear, Node


def count_parameters(graph: Graph) -> int:
    """Trainable numbers, as PyTorch counts them: two for each channel of a batch normalisation, none folded away."""
    return sum(node_parameters(node) for node in graph.nodes)


def node_parameters(node: Node) -> int:
    """Those of one node."""
    if not isinstance(node, Conv | Linear):
        return 0
    return node.weight.size + (2 if isinstance(node, Conv) and node.norm else 1) * len(node.bias)


def count_multiply_adds(graph: Graph) -> int:
    """Multiplications of convolutions and classifier for one picture, as the papers count them."""
    total = 0
    for node in graph.nodes:
        if isinstance(node, Conv):
            height, width, _ = graph.shapes[node.name]
            total += height * width * node.weight.size
        elif isinstance(node, Linear):
            total += node.weight.size
    return total
