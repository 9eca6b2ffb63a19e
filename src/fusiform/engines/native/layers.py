"""From the operators of a TFLite file to the layers that the C library computes, or why it cannot."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.engines.native.packing import GRANULE, Numbers, in_order, in_panels, pack_depthwise, pack_gemm, padded
from fusiform.graph.tflite_checks import Step, read_steps
from fusiform.graph.tflite_operators import INT8, UINT8, Tensor

INPUT, CONV, POINTWISE, DEPTHWISE, ADD, GATHER, MAXPOOL, CLASSIFIER = range(8)
"""The kinds of layers, as in native.h."""
_ADD, _CONCATENATION, _CONV, _DEPTHWISE, _DEQUANTIZE, _FULLY_CONNECTED = 0, 2, 3, 4, 6, 9
_MAX_POOL, _MUL, _SOFTMAX, _PAD, _MEAN, _SUB, _SLICE, _QUANTIZE = 17, 18, 25, 34, 40, 41, 65, 114
_RELU, _RELU6 = 1, 3
_MOST = 2e9
"""Sums, and what they become before they are bytes, stay below it: an int32 holds both."""


class OtherNetworkError(Exception):
    """The file has something that the library does not compute; the message says what."""


class Layer(ctypes.Structure):
    """``struct fusiform_layer`` of native.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("kind", "source", "other", "channels", "stride", "before", "after")),
        *((name, ctypes.c_int32) for name in ("height", "width", "softmax", "zero", "low", "high")),
        *((name, ctypes.c_int32) for name in ("bias", "left", "right", "shift", "first_piece", "pieces")),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("weights", "biases", "scales")),
        *((name, ctypes.c_int64) for name in ("weight_size", "bias_size", "scale_size")),
        *((name, ctypes.c_int32) for name in ("step", "expand", "project", "add", "rows", "within")),
        ("map", ctypes.c_void_p),
    )


class Piece(ctypes.Structure):
    """``struct fusiform_piece`` of native.h."""

    _fields_ = tuple((name, ctypes.c_int32) for name in ("source", "first", "end"))


class Weights(NamedTuple):
    """A layer's numbers as the file has them: (channels, groups, 4) int8, and what sums are added and multiplied to."""

    values: NDArray[np.int8]
    biases: NDArray[np.int32]
    scales: NDArray[np.float32]
    offsets: NDArray[np.float32] | None = None


class Program:
    """The layers of a TFLite file, to be packed for a processor.

    Raises OtherNetworkError for what the library does not compute, and WeightsError for a damaged file.
    """

    def __init__(self, data: bytes) -> None:
        found = read_steps(data, source="the file")
        if found is None:
            raise OtherNetworkError("has operators that fusiform's own files do not have")
        self.data = data
        self.layers: list[Layer] = []
        self.pieces: list[Piece] = []
        self._steps, given, self._answers = found
        self._scales: list[np.float32] = []
        """That of each layer's tensor."""
        self._weights: dict[int, Weights] = {}
        self._packed: dict[tuple[int, int], tuple[ctypes.Array[Layer], Numbers]] = {}
        self._of: dict[int, int] = {}
        """The layer that makes a tensor."""
        self._pads: dict[int, tuple[int, int]] = {}
        """What stands before and after the rows and columns of a tensor that is padded."""
        self._parts: dict[int, list[tuple[int, int, int]]] = {}
        """The pieces of a tensor that is a slice: layer, first channel and end."""
        at = self._start(given)
        while at < len(self._steps):
            step = self._steps[at]
            if step.code == _DEQUANTIZE:
                self._finish(self._steps[at:])
                return
            self._take(step)
            at += 1
        raise OtherNetworkError("does not end in a classifier")

    def packed(self, vector: int, less: int = 0) -> tuple[ctypes.Array[Layer], Numbers]:
        """The layers for vectors of so many bytes, and the memory that they point to: the same for all engines.

        Kernels that read activations ``less`` by a number get biases that are more by it, times each weight.
        """
        if (vector, less) in self._packed:
            return self._packed[vector, less]
        layers = (Layer * len(self.layers))(*self.layers)
        widths, size = {}, 64
        for index, weights in self._weights.items():
            kind, (channels, groups, _) = layers[index].kind, weights.values.shape
            unit = {CLASSIFIER: vector, DEPTHWISE: max(GRANULE, vector // 2)}.get(kind, GRANULE)
            widths[index] = width = padded(channels, unit)
            size += padded(width * (4 * groups + 12), 64) + 256
        # One block of memory, each array at the beginning of a line of the cache.
        memory = np.empty(size, np.uint8)
        at = -memory.ctypes.data % 64
        for index, weights in self._weights.items():
            layer, width, ordered = layers[index], widths[index], weights.offsets is None
            layer.weight_size, layer.bias_size = 4 * width * weights.values.shape[1], width
            layer.weights = memory.ctypes.data + at
            if less and ordered:  # a classifier takes the sums of its weights into account itself
                copies = 2 if layer.kind == DEPTHWISE and layer.stride == 1 else 1
                weights = weights._replace(biases=weights.biases + less * (_sums(weights.values) // copies))
            in_panels(weights.values, width, vector, ordered=ordered, to=memory[at : at + layer.weight_size])
            at += padded(layer.weight_size, 64)
            numbers = [in_order(array, width, vector, ordered=ordered) for array in weights[1:] if array is not None]
            layer.biases, layer.scales = memory.ctypes.data + at, memory.ctypes.data + at + 4 * width
            layer.scale_size = width * (len(numbers) - 1)
            for array in numbers:
                memory[at : at + 4 * width] = array.view(np.uint8)
                at += 4 * width
            at = padded(at + memory.ctypes.data, 64) - memory.ctypes.data
        return self._packed.setdefault((vector, less), (layers, memory))

    def _start(self, given: Tensor) -> int:
        """The input's layer, and how many operators it takes from pixels to int8."""
        _, height, width, channels = given.shape if len(given.shape) == 4 else (0, 0, 0, 0)
        if given.kind == INT8:
            tensor, taken = given, 0
            self._of[self._steps[0].reads[0]] = 0
        else:
            first = [step.code for step in self._steps[:3]]
            if given.kind != UINT8 or first != [_DEQUANTIZE, _SUB, _QUANTIZE]:
                raise OtherNetworkError("does not read pixels into an int8 network")
            tensor, taken = self._steps[2].operator.make(), 3
            grey = self._steps[1].operator.take(2)[1]
            if (
                tuple(given.scales) != (1.0,)
                or any(given.zeros)
                or grey.numbers != 1
                or float(self._real(grey)[0]) != _zero(tensor)
            ):
                raise OtherNetworkError("does not read its pixels as they are")
            self._of[self._steps[2].makes[0]] = 0
        if tuple(tensor.scales) != (1.0,) or given.shape[0] != 1:
            raise OtherNetworkError("does not read the pixels of one picture as they are")
        self._scales.append(np.float32(1))
        layer = Layer(kind=INPUT, channels=channels, height=height, width=width, zero=_zero(tensor), high=255)
        self.layers.append(layer)
        return taken

    def _take(self, step: Step) -> None:
        operator, code = step.operator, step.code
        if code == _PAD:
            x, amounts = operator.take(2)
            rows = operator.constants(amounts)
            if len(rows) != 8 or any(rows[:2]) or any(rows[6:]) or rows[2:4] != rows[4:6]:
                raise OtherNetworkError("pads its maps unevenly")
            self._of[step.makes[0]] = self._layer(step.reads[0])
            self._pads[step.makes[0]] = rows[2], rows[3]
        elif code == _SLICE:
            x, begin, _ = operator.take(3)
            first, count = operator.constants(begin)[-1], operator.make().shape[-1]
            if len(x.shape) != 4 or operator.make().shape[:3] != x.shape[:3]:
                raise OtherNetworkError("cuts its maps")
            self._parts[step.makes[0]] = [(self._layer(step.reads[0]), first, first + count)]
        elif code == _CONCATENATION:
            self._concatenate(step)
        elif code in (_CONV, _DEPTHWISE):
            self._convolve(step)
        elif code == _ADD:
            if operator.options and operator.byte(0):
                raise OtherNetworkError("has an activation after an addition")
            layer = self._append(step, ADD, operator.make(), other=self._layer(step.reads[1]))
            self._add(layer)
        elif code == _MAX_POOL:
            if operator.byte(5) or (operator.integer(3), operator.integer(4)) != (3, 3):
                raise OtherNetworkError("has a pool of another size than 3x3")
            self._append(step, MAXPOOL, operator.make(), **self._window(step, 3))
        else:
            raise OtherNetworkError(f"has an operator of number {code}")

    def _layer(self, tensor: int) -> int:
        if tensor not in self._of or tensor in self._pads:
            raise OtherNetworkError("joins its layers in another way")
        return self._of[tensor]

    def _append(
        self,
        step: Step,
        kind: int,
        made: Tensor,
        *,
        other: int = 0,
        stride: int = 0,
        before: int = 0,
        after: int = 0,
        activation: int = 0,
    ) -> Layer:
        """Add a layer that reads what the operator's first input is made by."""
        if made.kind != INT8:
            raise OtherNetworkError("has layers in float")
        scale, zero = np.float32(made.scales[0]), _zero(made)
        low = zero if activation in (_RELU, _RELU6) else 0
        high = min(255, int(np.rint(np.float32(6) / scale)) + zero) if activation == _RELU6 else 255
        source = self._of.get(step.reads[0])
        if source is None:
            raise OtherNetworkError("joins its layers in another way")
        layer = Layer(kind=kind, source=source, other=other, channels=made.shape[-1], stride=stride, before=before)
        layer.after, layer.zero, layer.low, layer.high = after, zero, low, high
        self._of[step.makes[0]] = len(self.layers)
        self.layers.append(layer)
        self._scales.append(scale)
        return layer

    def _add(self, layer: Layer) -> None:
        """XNNPACK's fixed-point addition: the larger scale gets a multiplier of 21 bits."""
        left, right = (self._scales[source] / self._scales[-1] for source in (layer.source, layer.other))
        exponent = math.frexp(max(left, right))[1]
        if not (min(left, right) >= 2**-10 and exponent <= 8):
            raise OtherNetworkError("adds what has very different scales")
        layer.shift = 21 - exponent
        layer.left, layer.right = (round(math.ldexp(factor, layer.shift)) for factor in (left, right))
        zeros = layer.left * self.layers[layer.source].zero + layer.right * self.layers[layer.other].zero
        layer.bias = (1 << (layer.shift - 1)) - zeros

    def _window(self, step: Step, kernel: int) -> dict[str, int]:
        """Stride and padding of an operator's windows, its padding operator's counted."""
        operator = step.operator
        x = operator.take(len(operator.inputs))[0]
        stride = operator.integer(1)
        if operator.integer(2) != stride or len(set(x.shape[1:3])) != 1:
            raise OtherNetworkError("has maps or strides that are not square")
        before, after = self._pads.get(step.reads[0], (0, 0))
        if operator.byte(0) == 0:  # SAME
            size = x.shape[1]
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            before, after = before + total // 2, after + total - total // 2
        return {"stride": stride, "before": before, "after": after}

    def _convolve(self, step: Step) -> None:
        operator, depthwise = step.operator, step.code == _DEPTHWISE
        x, weight, bias = operator.take(3)
        more = 1 if depthwise else 0
        if (operator.integer(4 + more, 1), operator.integer(5 + more, 1)) != (1, 1):
            raise OtherNetworkError("has dilated convolutions")
        kernel = weight.shape[1:3]
        if x.kind != INT8 or weight.kind != INT8 or (depthwise and operator.integer(3) != 1):
            raise OtherNetworkError("has layers in float, or several filters a channel")
        window = self._window(step, kernel[0])
        if depthwise and kernel == (3, 3):
            kind = DEPTHWISE
        elif not depthwise and kernel == (1, 1) and window == {"stride": 1, "before": 0, "after": 0}:
            kind, window = POINTWISE, {}
        elif not depthwise and kernel == (3, 3) and x.shape[3] == 3:
            kind = CONV
        else:
            raise OtherNetworkError(f"has a convolution of {kernel[0]}x{kernel[1]} over {x.shape[3]} channels")
        made = operator.make()
        layer = self._append(step, kind, made, activation=operator.byte(3 + more), **window)
        scales = np.asarray(weight.scales, np.float32) * self._scales[layer.source] / self._scales[-1]
        values, channels = self._numbers(weight, "i1"), made.shape[3]
        if depthwise:
            packed = pack_depthwise(values.reshape(3, 3, channels), layer.stride)
        else:
            packed = pack_gemm(values.reshape(channels, kernel[0], -1))
        biases = self._numbers(bias, "<i4")
        most = max(int(biases.max()), -int(biases.min())) + 255 * 128 * (values.size // channels)
        if not (scales.min() > 0 and scales.max() < 256 and most < _MOST and most * float(scales.max()) < _MOST):
            raise OtherNetworkError("has sums or scales that are out of range")
        if zero := self.layers[layer.source].zero:
            biases = biases - zero * (values.reshape(9, -1).sum(0, dtype=np.int32) if depthwise else _sums(packed))
        self._weights[len(self.layers) - 1] = Weights(packed, biases, np.broadcast_to(scales, (channels,)))

    def _concatenate(self, step: Step) -> None:
        pieces: list[tuple[int, int, int]] = []
        for index, tensor in zip(step.reads, step.operator.take(len(step.reads)), strict=True):
            pieces += self._parts.get(index) or [(self._layer(index), 0, tensor.shape[-1])]
        self._parts[step.makes[0]] = pieces
        if any(step.makes[0] in later.reads and later.code == _CONCATENATION for later in self._steps):
            return  # one that goes on
        self._of[step.reads[0]] = pieces[0][0]
        layer = self._append(step, GATHER, step.operator.make())
        if any(
            (self._scales[source], self.layers[source].zero) != (self._scales[-1], layer.zero)
            for source, _, _ in pieces
        ):
            raise OtherNetworkError("joins what has different scales")
        layer.first_piece, layer.pieces = len(self.pieces), len(pieces)
        self.pieces += [Piece(*piece) for piece in pieces]
        del self._parts[step.makes[0]]

    def _finish(self, steps: Sequence[Step]) -> None:
        """The classifier: from int8 to float, mean, sums, scales and bias, and the probabilities."""
        codes = [step.code for step in steps]
        if codes[:5] != [_DEQUANTIZE, _MEAN, _FULLY_CONNECTED, _MUL, _ADD] or codes[5:] not in ([], [_SOFTMAX]):
            raise OtherNetworkError("ends in something else than a classifier in int8")
        for step, following in pairwise(steps):
            if following.reads[0] != step.makes[0]:
                raise OtherNetworkError("ends in something else than a chain of operators")
        mean, linear = steps[1].operator, steps[2].operator
        weight = linear.inputs[1]
        if weight is None or linear.inputs[2:] != [None]:
            raise OtherNetworkError("has a classifier of another form")
        scales, bias = (steps[k].operator.take(2)[1] for k in (3, 4))
        if (
            mean.constants(mean.take(2)[1]) != (1, 2)
            or weight.kind != INT8
            or tuple(weight.scales) != (1.0,)
            or any(step.operator.options and step.operator.byte(0) for step in steps[2:5])
            or not scales.numbers == bias.numbers == weight.shape[0]
            or scales.data is None
            or bias.data is None
            or (codes[5:] and steps[5].operator.real(0) != 1.0)
        ):
            raise OtherNetworkError("has a classifier of another form")
        # The features, which the mean makes, are computed whether the file answers them or not.
        if tuple(self._answers) not in ((steps[-1].makes[0],), (steps[-1].makes[0], steps[1].makes[0])):
            raise OtherNetworkError("answers with something else than its classes")
        layer = Layer(kind=CLASSIFIER, source=self._layer(steps[0].reads[0]), channels=weight.shape[0], high=255)
        layer.softmax, layer.scale = int(bool(codes[5:])), self._scales[layer.source]
        self.layers.append(layer)
        packed = pack_gemm(self._numbers(weight, "i1").reshape(layer.channels, 1, -1))
        numbers = Weights(packed, _sums(packed), self._real(scales), self._real(bias))
        self._weights[len(self.layers) - 1] = numbers

    def _numbers(self, tensor: Tensor, kind: str) -> NDArray[Any]:
        if tensor.data is None:
            raise OtherNetworkError("computes its weights")
        return np.frombuffer(self.data, kind, tensor.numbers, tensor.data[0])

    def _real(self, tensor: Tensor) -> NDArray[np.float32]:
        return self._numbers(tensor, "<f4").astype(np.float32, copy=False)


def _zero(tensor: Tensor) -> int:
    """A tensor's zero point of uint8, whose values are those of int8 and 128."""
    return (int(tensor.zeros[0]) if tensor.zeros else 0) + 128


def _sums(packed: NDArray[np.int8]) -> NDArray[np.int32]:
    """The sum of each channel's weights, by way of floats: they hold it exactly, and add faster."""
    sums: NDArray[np.float32] = packed.reshape(len(packed), -1).astype(np.float32).sum(1)
    return sums.astype(np.int32)
