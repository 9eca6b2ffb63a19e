"""Collects the operators of a graph, with weights by torchvision's names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import WeightsError
from fusiform.graph.ir import INPUT, Activation, Conv, Linear, Mean, Node
from fusiform.spec import ModelSpec

BATCH_NORM_EPSILON = 1e-5
POOL = "pool"
"""The node that makes a classifier's features."""


State = Mapping[str, NDArray[Any]]
Shape = tuple[int, ...]
Order = NDArray[np.intp] | None
"""Which of the network's channels each channel of a tensor is; None where they are in the network's own order."""


class Weights(ABC):
    """Where a builder takes a layer's weight and bias from, by their names in the state dict."""

    @abstractmethod
    def conv(self, name: str, norm: str, shape: Shape) -> tuple[NDArray[Any], NDArray[Any]]:
        """Of a convolution with the normalisation ``norm`` ("" for none), whose weight should have this shape."""

    @abstractmethod
    def linear(self, name: str, shape: Shape) -> tuple[NDArray[Any], NDArray[Any]]:
        """Of a layer with a bias of its own."""

    def reorder(
        self, weight: NDArray[Any], bias: NDArray[Any], in_order: Order, out_order: Order
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Both with their channels in another order."""
        if in_order is not None:
            weight = weight[:, in_order]
        if out_order is not None:
            weight, bias = weight[out_order], bias[out_order]
        return np.ascontiguousarray(weight), bias


class FoldedWeights(Weights):
    """A state dict's weights, each batch normalisation folded into the convolution before it."""

    def __init__(self, state: State) -> None:
        self.state = state

    def conv(self, name: str, norm: str, shape: Shape) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if not norm:
            return self.linear(name, shape)
        return fold_batch_norm(self.state, name, norm)

    def linear(self, name: str, shape: Shape) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        del shape
        return np.asarray(self.state[f"{name}.weight"], np.float32), np.asarray(self.state[f"{name}.bias"], np.float32)


class Numbers(Weights):
    """Positions instead of weights; float64 holds them exactly."""

    def __init__(self, weights: Mapping[str, NDArray[Any]]) -> None:
        self.shapes = {name: weight.shape for name, weight in weights.items()}

    def conv(self, name: str, norm: str, shape: Shape) -> tuple[NDArray[Any], NDArray[Any]]:
        del norm
        return self.linear(name, shape)

    def linear(self, name: str, shape: Shape) -> tuple[NDArray[Any], NDArray[Any]]:
        shape = self.shapes[name]
        return np.arange(np.prod(shape), dtype=np.float64).reshape(shape), np.arange(shape[0], dtype=np.float64)


class Outline(Weights):
    """Zeros instead of weights, and in ``entries`` the state dict that was asked for: names and shapes in its order.

    A graph's file builds convolutions in the order in which the PyTorch module holds them, so that the two are one.
    """

    def __init__(self) -> None:
        self.entries: dict[str, Shape] = {}

    def conv(self, name: str, norm: str, shape: Shape) -> tuple[NDArray[Any], NDArray[Any]]:
        if not norm:
            return self.linear(name, shape)
        self.entries[f"{name}.weight"] = shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            self.entries[f"{norm}.{part}"] = shape[:1]
        self.entries[f"{norm}.num_batches_tracked"] = ()
        return _zeros(shape)

    def linear(self, name: str, shape: Shape) -> tuple[NDArray[Any], NDArray[Any]]:
        self.entries |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        return _zeros(shape)

    def reorder(
        self, weight: NDArray[Any], bias: NDArray[Any], in_order: Order, out_order: Order
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """As they are: zeros are the same in any order."""
        del in_order, out_order
        return weight, bias


def _zeros(shape: Shape) -> tuple[NDArray[Any], NDArray[Any]]:
    """A weight and a bias that take no memory, however large the network."""
    zero = np.float32(0)
    return np.broadcast_to(zero, shape), np.broadcast_to(zero, shape[:1])


class FeatureMap(NamedTuple):
    """A tensor that a head reads, and the order of its channels."""

    name: str
    order: Order = None


class Builder:
    """Collects nodes."""

    def __init__(self, weights: Weights, spec: ModelSpec) -> None:
        self.weights = weights
        self.spec = spec
        self.padding = spec.padding
        self.prefix = "" if spec.task == "classification" else "backbone."
        """What the names of the backbone's weights begin with."""
        self.nodes: list[Node] = []
        self.channels = {INPUT: spec.input_channels}

    def add(self, node: Node, channels: int) -> str:
        self.nodes.append(node)
        self.channels[node.name] = channels
        return node.name

    def conv(
        self,
        source: str,
        conv: str,
        norm: str,
        channels: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        kernel: int | None = None,
        depthwise: bool = False,
        activation: Activation | None,
        in_order: Order = None,
        out_order: Order = None,
    ) -> str:
        """Add the convolution stored as ``conv`` with the normalisation ``norm``; optionally reorder its channels.

        ``kernel`` is the side of its windows, by default 3 of a depthwise convolution and 1 of any other.
        """
        conv, norm = f"{self.prefix}{conv}", f"{self.prefix}{norm}" if norm else ""
        groups = channels if depthwise else 1
        kernel = kernel or (3 if depthwise else 1)
        shape = (channels, self.channels[source] // groups, kernel, kernel)
        weight, bias = self.weights.conv(conv, norm, shape)
        self.check(conv, weight, shape)
        weight, bias = self.weights.reorder(weight, bias, in_order, out_order)
        node = Conv(conv, norm, source, weight, bias, stride, self.padding, groups, activation, dilation)
        return self.add(node, channels)

    def classifier(self, source: str, name: str) -> None:
        pooled = self.add(Mean(POOL, source), self.channels[source])
        weight, bias = self.weights.linear(name, (self.spec.num_classes, self.channels[source]))
        self.check(name, weight, (len(bias), self.channels[source]))
        self.add(Linear(name, pooled, weight, bias), len(bias))

    def check(self, name: str, weight: NDArray[Any], shape: Shape) -> None:
        if weight.shape != shape:
            raise WeightsError(
                f"{name}.weight has the shape {weight.shape}, but {self.spec.name} needs {shape}: are the weights "
                "of another network?"
            )


def fold_batch_norm(state: State, conv: str, norm: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight and bias of a convolution that does the work of itself and the batch normalisation after it."""
    weight = np.asarray(state[f"{conv}.weight"], np.float64)
    gamma, beta, mean, variance = parts = [
        np.asarray(state[f"{norm}.{part}"], np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    ]
    if any(part.shape != weight.shape[:1] for part in parts):
        raise WeightsError(
            f"{norm} does not have one value for each channel that {conv} makes: are the weights damaged?"
        )
    factor = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
    weight = weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
    return weight.astype(np.float32), (beta - mean * factor).astype(np.float32)
