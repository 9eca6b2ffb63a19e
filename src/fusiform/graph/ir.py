"""A network as a list of operators: numpy weights, batch normalisation folded away, no framework.

Everything that is written for a runtime (LiteRT, ONNX), counted (multiply-adds) or quantised starts from this list.
Tensors are pictures of height x width x channels and carry the name of the node that makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fusiform.spec import ModelSpec, Padding

Activation = Literal["relu", "relu6"]
Shape = tuple[int, int, int]
"""Height, width, channels."""

INPUT = "image"


@dataclass(frozen=True)
class Center:
    """Pixels less a colour, in [0, 255]: the first node of a float32 network that reads uint8 pixels."""

    name: str
    color: tuple[float, float, float]


@dataclass(frozen=True)
class Conv:
    """A convolution with its bias and activation; depthwise when ``groups`` equals its channels.

    ``weight`` is (out, in / groups, height, width), float32 or, in a quantised graph, int8 with one scale an output.
    ``name`` and ``norm`` are what torchvision calls the convolution and the batch normalisation folded into it.
    """

    name: str
    norm: str
    source: str
    weight: NDArray[np.float32] | NDArray[np.int8]
    bias: NDArray[np.float32] | NDArray[np.int32]
    stride: int = 1
    padding: Padding = "symmetric"
    groups: int = 1
    activation: Activation | None = None

    @property
    def kernel(self) -> int:
        return int(self.weight.shape[2])

    @property
    def depthwise(self) -> bool:
        return self.groups > 1


@dataclass(frozen=True)
class Add:
    """The residual connection."""

    name: str
    left: str
    right: str


@dataclass(frozen=True)
class Gather:
    """Channels taken from earlier tensors, one after the other: each piece is (tensor, first channel, end)."""

    name: str
    pieces: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class MaxPool:
    """Maximum over 3x3 windows at stride 2; its input is not negative, so padding with zeros never wins."""

    name: str
    source: str
    padding: Padding = "symmetric"


@dataclass(frozen=True)
class Mean:
    """Global average pooling: a vector of channels."""

    name: str
    source: str


@dataclass(frozen=True)
class Linear:
    """The classifier; ``weight`` is (classes, channels)."""

    name: str
    source: str
    weight: NDArray[np.float32] | NDArray[np.int8]
    bias: NDArray[np.float32]


Node = Center | Conv | Add | Gather | MaxPool | Mean | Linear


@dataclass(frozen=True)
class Scale:
    """``real = scale * (quantised - zero_point)`` with int8 ``quantised``."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Quantization:
    """The scales of an int8 graph: one for each activation tensor, one per output channel for each weight.

    An int8 graph reads pixels: its input has scale 1, and its first convolution does the normalisation.

    ``in_float`` names nodes (convolutions, additions, the classifier) that are computed in float32, convolutions and
    classifier with float32 weights and biases: they read the real values of their sources. What they make stays
    float32 for readers in float, and is rounded to its scale in ``activations`` for the others.
    """

    activations: Mapping[str, Scale]
    weights: Mapping[str, NDArray[np.float32]]
    in_float: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Graph:
    """Nodes in the order they run; the last one makes the output. ``quantization`` is None for float32.

    A float32 graph reads normalised pictures, or uint8 pixels where its first node is a ``Center``.
    """

    spec: ModelSpec
    nodes: tuple[Node, ...]
    quantization: Quantization | None = None
    shapes: Mapping[str, Shape] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", infer_shapes(self))


def reads_pixels(graph: Graph) -> bool:
    """Whether the graph takes pixels rather than normalised pictures."""
    return graph.quantization is not None or isinstance(graph.nodes[0], Center)


def pads(size: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Rows (or columns) of padding before and after; ``same`` is TensorFlow's rule."""
    if padding == "symmetric":
        return kernel // 2, kernel // 2
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _windows(size: int, kernel: int, stride: int, padding: Padding) -> int:
    return (size + sum(pads(size, kernel, stride, padding)) - kernel) // stride + 1


def infer_shapes(graph: Graph) -> dict[str, Shape]:
    """Height, width and channels of every tensor."""
    size = graph.spec.input_size
    shapes: dict[str, Shape] = {INPUT: (size, size, graph.spec.input_channels)}
    for node in graph.nodes:
        match node:
            case Center():
                shapes[node.name] = shapes[INPUT]
            case Conv():
                height, width, _ = shapes[node.source]
                shapes[node.name] = (
                    _windows(height, node.kernel, node.stride, node.padding),
                    _windows(width, node.kernel, node.stride, node.padding),
                    len(node.bias),
                )
            case MaxPool():
                height, width, channels = shapes[node.source]
                shapes[node.name] = (
                    _windows(height, 3, 2, node.padding),
                    _windows(width, 3, 2, node.padding),
                    channels,
                )
            case Add():
                shapes[node.name] = shapes[node.left]
            case Gather():
                height, width, _ = shapes[node.pieces[0][0]]
                shapes[node.name] = (height, width, sum(end - first for _, first, end in node.pieces))
            case Mean():
                shapes[node.name] = (1, 1, shapes[node.source][2])
            case Linear():
                shapes[node.name] = (1, 1, len(node.bias))
    return shapes
