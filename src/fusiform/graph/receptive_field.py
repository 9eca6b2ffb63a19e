"""How much of the picture each tensor sees."""

from __future__ import annotations

from fusiform.graph.ir import INPUT, Conv, Graph, MaxPool, Mean, sources


def receptive_fields(graph: Graph) -> dict[str, int]:
    """The side in pixels of the square of the picture that one value of each tensor depends on.

    It may be larger than the picture: the border is its limit then. Where branches meet it is the largest of theirs
    (the recurrence of Araujo et al., "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019).
    """
    fields, steps = {INPUT: 1}, {INPUT: 1}
    for node in graph.nodes:
        kernel, stride = 1, 1
        match node:
            case Conv():
                kernel, stride = node.reach, node.stride
            case MaxPool():
                kernel, stride = 3, 2
            case Mean():
                kernel = max(graph.shapes[node.source][:2])
        field, step = max((fields[name], steps[name]) for name in sources(node))
        fields[node.name] = field + (kernel - 1) * step
        steps[node.name] = step * stride
    return fields
