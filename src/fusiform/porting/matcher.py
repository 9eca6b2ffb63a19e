"""Gives the layers of a foreign network torchvision's names, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import WeightsError
from fusiform.graph.builder import BATCH_NORM_EPSILON
from fusiform.graph.ir import Activation
from fusiform.porting.tracer import PADDINGS, Convolution, Layer, MaxPool, Numbers, Tracer, describe
from fusiform.spec import Padding
from fusiform.zoo.checkpoint import State, guess_architecture


class Matcher:
    """Finds a network's layers by what they read, and writes their weights under torchvision's names.

    Channels are passed from layer to layer in torchvision's order, whatever order the file keeps them in.
    """

    def __init__(self, tracer: Tracer, title: str, layers: list[Layer]) -> None:
        self.tracer = tracer
        self.title = title
        self.layers = layers
        self.input = next(layer.makes for layer in layers if layer.kind == "input")
        self.state: State = {}
        self._paddings = set(PADDINGS)

    def differs(self, name: str, wanted: str, found: str) -> WeightsError:
        return WeightsError(
            f"{self.tracer.source} is no {self.title}, the network it resembles: for {name}, {wanted} was "
            f"expected, and it has {found}. Only MobileNetV2 and ShuffleNetV2 classifiers can be ported"
        )

    def conv(
        self,
        x: Numbers,
        name: str,
        *,
        kernel: int = 1,
        stride: int = 1,
        depthwise: bool = False,
        activation: Activation | None,
    ) -> Convolution:
        """The convolution that reads the channels ``x`` and no others."""
        readers = self._readers(x)
        for layer in readers:
            if (
                isinstance(layer, Convolution)
                and (layer.weight.shape[2], layer.stride, layer.depthwise) == (kernel, stride, depthwise)
                and layer.acts_as(activation)
            ):
                return layer
        raise self.differs(name, describe(kernel, stride, depthwise, activation), _list(readers))

    def write(self, layer: Convolution, x: Numbers, name: str, norm: str, order: Numbers | None = None) -> Numbers:
        """Write a convolution that reads ``x``; returns the channels it makes, in torchvision's order.

        ``order`` is that order; without it, it is that of ``x`` for depthwise convolutions and the file's for others.
        """
        columns = _positions(layer.reads[0], x)
        weight, rows = layer.weight, np.arange(len(layer.makes))
        if layer.depthwise:
            rows = columns
        else:
            weight = weight[:, columns]
        if order is not None:
            rows = _positions(layer.makes, order)
        bias = layer.bias[rows]
        ones = np.ones_like(bias)
        self.state[f"{name}.weight"] = np.ascontiguousarray(weight[rows])
        self.state[f"{norm}.weight"] = ones
        self.state[f"{norm}.bias"] = bias
        self.state[f"{norm}.running_mean"] = np.zeros_like(bias)
        self.state[f"{norm}.running_var"] = ones * np.float32(1 - BATCH_NORM_EPSILON)
        self._paddings &= layer.paddings
        return layer.makes[rows]

    def add(self, x: Numbers, y: Numbers, name: str) -> Numbers:
        """The sum of ``x`` and ``y``, channel by channel."""
        readers = self._readers(x)
        for layer in readers:
            if layer.kind == "sum":
                left, right = layer.reads if np.isin(x, layer.reads[0]).all() else layer.reads[::-1]
                order = _positions(left, x)
                if np.array_equal(right[order], y):
                    return layer.makes[order]
        raise self.differs(name, "a sum of the block's input and output", _list(readers))

    def pool(self, x: Numbers, kind: Literal["maximum", "mean"], name: str) -> Numbers:
        """The maximum or the mean of ``x``, channel by channel."""
        readers = self._readers(x)
        for layer in readers:
            if layer.kind == kind:
                if isinstance(layer, MaxPool):
                    self._paddings &= layer.paddings
                return layer.makes[_positions(layer.reads[0], x)]
        raise self.differs(name, f"a {kind}", _list(readers))

    def classifier(self, x: Numbers, name: str) -> Numbers:
        """The mean over the picture and the matrix behind it."""
        x = self.pool(x, "mean", "the pooling")
        layer = self.conv(x, name, activation=None)
        self.state[f"{name}.weight"] = np.ascontiguousarray(layer.weight[:, _positions(layer.reads[0], x), 0, 0])
        self.state[f"{name}.bias"] = layer.bias
        return layer.makes

    def finish(self) -> State:
        """The state, complete and in torchvision's order."""
        for name in [name for name in self.state if name.endswith(".running_mean")]:
            self.state[name.replace("running_mean", "num_batches_tracked")] = np.array(0, np.int64)
        network = guess_architecture(self.state, source=self.tracer.source)
        return {name: self.state[name] for name in network.shapes()}

    def padding(self) -> Padding:
        """The padding that all layers share. An odd side is padded alike by both: then TensorFlow's layout decides."""
        if not self._paddings:
            raise self.tracer.refuse("some layers are padded symmetrically and some as TensorFlow's SAME")
        if len(self._paddings) == 2:
            return "same" if self.tracer.channel_axis == 3 else "symmetric"
        return self._paddings.pop()

    def _readers(self, x: Numbers) -> list[Layer]:
        wanted = np.sort(x)
        return [layer for layer in self.layers if any(np.array_equal(np.sort(read), wanted) for read in layer.reads)]


def _list(layers: Sequence[Layer]) -> str:
    return (
        " and ".join(str(layer) if isinstance(layer, Convolution) else f"a {layer.kind}" for layer in layers) or "none"
    )


def _positions(numbers: Numbers, wanted: Numbers) -> NDArray[np.intp]:
    """Where each of ``wanted`` stands in ``numbers``; both hold the same, each once."""
    order = np.argsort(numbers)
    positions: NDArray[np.intp] = order[np.searchsorted(numbers, wanted, sorter=order)]
    return positions
