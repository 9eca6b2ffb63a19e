"""A network as a list of operators: numpy weights, batch normalisation folded away, no framework.

Everything that is written for a runtime (LiteRT, ONNX), counted (multiply-adds) or quantised starts from this list.
Tensors are pictures of height x width x channels and carry the name of the node that makes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fusiform.spec import FEATURES, ModelSpec, Padding

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
    ``name`` and ``norm`` are what torchvision calls the convolution and the batch normalisation folded into it; "" for
    a convolution with a bias of its own. Above a ``dilation`` of 1 the stride is 1.
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
    dilation: int = 1

    @property
    def kernel(self) -> int:
        return int(self.weight.shape[2])

    @property
    def reach(self) -> int:
        """The pixels from the first that a window looks at to the last, both counted."""
        return (self.kernel - 1) * self.dilation + 1

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
    """Global average pooling: a vector of channels, or with ``as_map`` a map of one cell, for convolutions."""

    name: str
    source: str
    as_map: bool = False


@dataclass(frozen=True)
class Linear:
    """The classifier; ``weight`` is (classes, channels)."""

    name: str
    source: str
    weight: NDArray[np.float32] | NDArray[np.int8]
    bias: NDArray[np.float32]


@dataclass(frozen=True)
class Spread:
    """A map of one cell, repeated in every cell of a map of ``height`` x ``width``."""

    name: str
    source: str
    height: int
    width: int


@dataclass(frozen=True)
class Stack:
    """Maps of different sizes as one list of rows of ``values`` numbers: (1, rows, values).

    Map by map, cell by cell as they lie, and each cell's channels in pieces of ``values``.
    """

    name: str
    sources: tuple[str, ...]
    values: int


Node = Center | Conv | Add | Gather | MaxPool | Mean | Linear | Spread | Stack


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
    """Nodes in the order they run. ``quantization`` is None for float32.

    A float32 graph reads normalised pictures, or uint8 pixels where its first node is a ``Center``. The last node makes
    the output, and what it reads are a classifier's features; a detector's two outputs are the nodes of their names.
    Outputs are float32 in int8 graphs too.
    """

    spec: ModelSpec
    nodes: tuple[Node, ...]
    quantization: Quantization | None = None
    shapes: Mapping[str, Shape] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", infer_shapes(self))

    @property
    def outputs(self) -> dict[str, str]:
        """The node that makes each of the network's answers."""
        names, last = list(self.spec.network_answers), self.nodes[-1]
        if self.spec.features:
            return {names[0]: last.name, FEATURES: sources(last)[0]}
        return {names[0]: last.name} if len(names) == 1 else {name: name for name in names}


def reads_pixels(graph: Graph) -> bool:
    """Whether the graph takes pixels rather than normalised pictures."""
    return graph.quantization is not None or isinstance(graph.nodes[0], Center)


def pads(size: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Rows (or columns) of padding before and after, for windows as long as ``kernel``; ``same`` is TensorFlow's."""
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
                    _windows(height, node.reach, node.stride, node.padding),
                    _windows(width, node.reach, node.stride, node.padding),
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
            case Spread():
                shapes[node.name] = (node.height, node.width, shapes[node.source][2])
            case Stack():
                numbers = sum(math.prod(shapes[name]) for name in node.sources)
                shapes[node.name] = (1, numbers // node.values, node.values)
    return shapes


def sources(node: Node) -> tuple[str, ...]:
    """The tensors that a node reads."""
    match node:
        case Add():
            return node.left, node.right
        case Gather():
            return tuple(dict.fromkeys(name for name, _, _ in node.pieces))
        case Stack():
            return node.sources
        case Center():
            return (INPUT,)
        case _:
            return (node.source,)
