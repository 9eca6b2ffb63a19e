"""Collects the operators of a graph, with weights by torchvision's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import WeightsError
from fusiform.graph.ir import INPUT, Activation, Conv, Linear, Mean, Node
from fusiform.spec import ModelSpec

BATCH_NORM_EPSILON = 1e-5


State = Mapping[str, NDArray[Any]]


class FoldedWeights:
    """A state dict's weights, each batch normalisation folded into the convolution before it."""

    def __init__(self, state: State) -> None:
        self.state = state

    def conv(self, name: str, norm: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if not norm:
            return self.linear(name)
        return fold_batch_norm(self.state, name, norm)

    def linear(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.asarray(self.state[f"{name}.weight"], np.float32), np.asarray(self.state[f"{name}.bias"], np.float32)


class Numbers:
    """Positions instead of weights; float64 holds them exactly."""

    def __init__(self, weights: Mapping[str, NDArray[Any]]) -> None:
        self.shapes = {name: weight.shape for name, weight in weights.items()}

    def conv(self, name: str, norm: str) -> tuple[NDArray[Any], NDArray[Any]]:
        del norm
        return self.linear(name)

    def linear(self, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
        shape = self.shapes[name]
        return np.arange(np.prod(shape), dtype=np.float64).reshape(shape), np.arange(shape[0], dtype=np.float64)


Order = NDArray[np.intp] | None
"""Which of the network's channels each channel of a tensor is; None where they are in the network's own order."""


class FeatureMap(NamedTuple):
    """A tensor that a head reads, and the order of its channels."""

    name: str
    order: Order = None


class Builder:
    """Collects nodes."""

    def __init__(self, weights: FoldedWeights | Numbers, spec: ModelSpec) -> None:
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
        kernel: int = 1,
        depthwise: bool = False,
        activation: Activation | None,
        in_order: Order = None,
        out_order: Order = None,
    ) -> str:
        """Add the convolution stored as ``conv`` with the normalisation ``norm``; optionally reorder its channels."""
        conv, norm = f"{self.prefix}{conv}", f"{self.prefix}{norm}" if norm else ""
        weight, bias = self.weights.conv(conv, norm)
        groups = channels if depthwise else 1
        kernel = 3 if depthwise or source == INPUT else kernel
        self.check(conv, weight, (channels, self.channels[source] // groups, kernel, kernel))
        if in_order is not None:
            weight = weight[:, in_order]
        if out_order is not None:
            weight, bias = weight[out_order], bias[out_order]
        weight = np.ascontiguousarray(weight)
        node = Conv(conv, norm, source, weight, bias, stride, self.padding, groups, activation, dilation)
        return self.add(node, channels)

    def classifier(self, source: str, name: str) -> None:
        pooled = self.add(Mean("pool", source), self.channels[source])
        weight, bias = self.weights.linear(name)
        self.check(name, weight, (len(bias), self.channels[source]))
        self.add(Linear(name, pooled, weight, bias), len(bias))

    def check(self, name: str, weight: NDArray[Any], shape: tuple[int, ...]) -> None:
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
