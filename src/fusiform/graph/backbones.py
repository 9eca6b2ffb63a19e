"""The networks as graphs, by architecture."""

from __future__ import annotations

from collections.abc import Callable

from fusiform.graph.builder import Builder, FeatureMap
from fusiform.graph.mobilenet_v2 import mobilenet_v2
from fusiform.graph.shufflenet_v2 import shufflenet_v2
from fusiform.spec import Architecture

BACKBONES: dict[Architecture, Callable[[Builder], dict[str, FeatureMap]]] = {
    "mobilenet_v2": mobilenet_v2,
    "shufflenet_v2": shufflenet_v2,
}
"""What adds a network's nodes, without its classifier and, for a segmenter, without its last convolution.

The answer has the feature maps that heads read: ``stride_32``, ``last`` but for a segmenter, and ``detection_map`` of
the architecture's ``Traits``. Convolutions come in the order of the state dict, which ``shapes`` is read off.
"""
