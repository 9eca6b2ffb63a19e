"""The entries of a network's state dict, with their shapes: what its graph asks for when it is built."""

from __future__ import annotations

from fusiform.graph.builder import Builder, Outline, Shape
from fusiform.graph.heads import build_nodes
from fusiform.spec import Architecture, ModelSpec
from fusiform.tables import TRAITS

Shapes = dict[str, Shape]


def expected_shapes(
    architecture: Architecture, width: float, *, num_classes: int = 1000, input_channels: int = 3
) -> Shapes:
    """Every entry of torchvision's state dict for a network, in its order, with its shape."""
    # One class, and the others afterwards: a thousand labels take as long to check as the network to build.
    shapes = state_shapes(ModelSpec(architecture, width, ("class 0",), input_channels=input_channels))
    classifier = TRAITS[architecture].classifier
    for part in ("weight", "bias"):
        name = f"{classifier}.{part}"
        shapes[name] = (num_classes, *shapes[name][1:])
    return shapes


def state_shapes(spec: ModelSpec) -> Shapes:
    """Every entry of the state dict of the network that ``spec`` describes, in its order, with its shape."""
    outline = Outline()
    build_nodes(Builder(outline, spec))
    return outline.entries
