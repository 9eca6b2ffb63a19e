"""From the operators of a TFLite file to the layers that the C library computes, or why it cannot."""

from __future__ import annotations

import ctypes
import math
from array import array
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any, Literal, NamedTuple

from fusiform.graph.tflite_checks import Step, read_steps
from fusiform.graph.tflite_operators import INT8, UINT8, Tensor

INPUT, CONV, POINTWISE, DEPTHWISE, ADD, GATHER, MAXPOOL, CLASSIFIER = range(8)
"""The kinds of layers, as in native.h."""
_ADD, _CONCATENATION, _CONV, _DEPTHWISE, _DEQUANTIZE, _FULLY_CONNECTED = 0, 2, 3, 4, 6, 9
_MAX_POOL, _MUL, _SOFTMAX, _PAD, _MEAN, _SUB, _SLICE, _QUANTIZE = 17, 18, 25, 34, 40, 41, 65, 114
_RELU, _RELU6 = 1, 3
_MOST = 2e9
"""Sums, and what they become before they are bytes, stay below it: an int32 holds both."""
GRANULE = 16
"""Channels are padded to multiples of it, as in native.h."""
_LINE = 64
"""Bytes of a line of the cache."""


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


class Numbers(ctypes.Structure):
    """``struct fusiform_numbers`` of native.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("values", "biases", "scales")),
        *((name, ctypes.c_int32) for name in ("rows", "inputs", "copies", "zero")),
        *((name, ctypes.c_float) for name in ("source_scale", "scale")),
    )


class Weights(NamedTuple):
    """A layer's numbers as files have them: int8 (channels, rows, inputs), from ``start`` on in ``values``, and others.

    ``biases`` and ``scales`` are the file's. ``zero`` times the sum of a channel's weights, each of which stands
    ``copies`` times, is taken off its bias, and its scale is multiplied by ``source_scale`` and divided by ``scale``.
    A classifier has ``offsets`` behind its scales.
    """

    values: bytes
    start: int
    rows: int
    inputs: int
    biases: array[int]
    scales: array[float]
    copies: int = 1
    zero: int = 0
    source_scale: float = 1.0
    scale: float = 1.0
    offsets: bytes = b""

    @property
    def groups(self) -> int:
        """How many groups of four inputs a channel has."""
        return self.rows * padded(self.inputs, 4) // 4

    def given(self) -> Numbers:
        """What the library packs; it points into these."""
        numbers = Numbers(rows=self.rows, inputs=self.inputs, copies=self.copies, zero=self.zero)
        numbers.source_scale, numbers.scale = self.source_scale, self.scale
        numbers.values = (ctypes.cast(ctypes.c_char_p(self.values), ctypes.c_void_p).value or 0) + self.start
        numbers.biases, numbers.scales = self.biases.buffer_info()[0], self.scales.buffer_info()[0]
        return numbers


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
        self._steps, given, self._answers = found  # until they are read
        self._scales: list[float] = []
        """That of each layer's tensor."""
        self._weights: dict[int, Weights] = {}
        self._packed: dict[tuple[int, int], tuple[ctypes.Array[Layer], bytearray]] = {}
        self._of: dict[int, int] = {}
        """The layer that makes a tensor."""
        self._pads: dict[int, tuple[int, int]] = {}
        """What stands before and after the rows and columns of a tensor that is padded."""
        self._parts: dict[int, list[tuple[int, int, int]]] = {}
        """The pieces of a tensor that is a slice: layer, first channel and end."""
        at = self._start(given)
        while at < len(self._steps) and self._steps[at].code != _DEQUANTIZE:
            self._take(self._steps[at])
            at += 1
        if at == len(self._steps):
            raise OtherNetworkError("does not end in a classifier")
        self._finish(self._steps[at:])
        self._steps = []

    def packed(self, library: ctypes.CDLL, vector: int, less: int = 0) -> tuple[ctypes.Array[Layer], bytearray]:
        """The layers for vectors of so many bytes, and the memory that they point to: the same for all engines.

        Kernels that read activations ``less`` by a number get biases that are more by it, times each weight.
        """
        if (vector, less) in self._packed:
            return self._packed[vector, less]
        layers = (Layer * len(self.layers))(*self.layers)
        size = 4 * _LINE
        for index, weights in self._weights.items():
            layer = layers[index]
            unit = {CLASSIFIER: vector, DEPTHWISE: max(GRANULE, vector // 2)}.get(layer.kind, GRANULE)
            layer.bias_size = width = padded(layer.channels, unit)
            layer.weight_size, layer.scale_size = 4 * width * weights.groups, width * (2 if weights.offsets else 1)
            size += padded(layer.weight_size, _LINE) + padded(12 * width, _LINE)
        # One block of memory, each layer's weights and biases at the beginning of a line of the cache.
        memory = bytearray(size)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        at = -start % _LINE
        for index, weights in self._weights.items():
            layer, width = layers[index], layers[index].bias_size
            layer.weights = start + at
            at += padded(layer.weight_size, _LINE)
            layer.biases, layer.scales = start + at, start + at + 4 * width
            offsets = at + 8 * width
            memory[offsets : offsets + len(weights.offsets)] = weights.offsets
            at += padded(12 * width, _LINE)
            given = weights.given()
            if layer.kind != CLASSIFIER:  # which takes the sums of its weights into account itself
                given.zero -= less
            library.fusiform_native_pack(ctypes.byref(layer), ctypes.byref(given), vector)
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
                or self._numbers(grey, "f")[0] != _zero(tensor)
            ):
                raise OtherNetworkError("does not read its pixels as they are")
            self._of[self._steps[2].makes[0]] = 0
        if tuple(tensor.scales) != (1.0,) or given.shape[0] != 1:
            raise OtherNetworkError("does not read the pixels of one picture as they are")
        self._scales.append(1.0)
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
        scale, zero = made.scales[0], _zero(made)
        low = zero if activation in (_RELU, _RELU6) else 0
        high = min(255, round(min(_float32(6 / scale), 255.0)) + zero) if activation == _RELU6 else 255
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
        left, right = (_float32(self._scales[source] / self._scales[-1]) for source in (layer.source, layer.other))
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
        channels, count = made.shape[3], weight.numbers // made.shape[3]
        scales = array("f", weight.scales) * (channels // len(weight.scales))
        source_scale, scale = self._scales[layer.source], self._scales[-1]
        least, largest = (_float32(_float32(end(weight.scales) * source_scale) / scale) for end in (min, max))
        biases = self._numbers(bias, "i")
        most = max(max(biases), -min(biases)) + 255 * 128 * count
        if not (least > 0 and largest < 256 and most < _MOST and most * largest < _MOST):
            raise OtherNetworkError("has sums or scales that are out of range")
        values, start, rows, copies = self.data, self._place(weight)[0], kernel[0], 1
        if depthwise:
            copies = 2 if layer.stride == 1 else 1
            values, start, rows, count = _columns(values, start, channels, copies), 0, 3 * copies, 12 * copies
        zero = self.layers[layer.source].zero
        numbers = Weights(values, start, rows, count // rows, biases, scales, copies, zero, source_scale, scale)
        self._weights[len(self.layers) - 1] = numbers

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
        # For biases the sums of a class's weights: 0 less -1 times that.
        sums, factors = array("i", bytes(4 * layer.channels)), self._numbers(scales, "f")
        inputs, offsets = weight.shape[1], self._numbers(bias, "f").tobytes()
        numbers = Weights(self.data, self._place(weight)[0], 1, inputs, sums, factors, zero=-1, offsets=offsets)
        self._weights[len(self.layers) - 1] = numbers

    def _place(self, tensor: Tensor) -> tuple[int, int]:
        """Where the bytes of a constant begin in the file, and how many they are."""
        if tensor.data is None:
            raise OtherNetworkError("computes its weights")
        return tensor.data

    def _numbers(self, tensor: Tensor, kind: Literal["i", "f"]) -> array[Any]:
        """The numbers of a constant of int32 or float32, whose order of bytes is that of the machines here."""
        start, size = self._place(tensor)
        return array(kind, self.data[start : start + size])


def padded(channels: int, unit: int = GRANULE) -> int:
    """The number of channels with those that fill the last ``unit``."""
    return -(-channels // unit) * unit


def _float32(value: float) -> float:
    """The number of float32 nearest to it; infinity beyond the largest."""
    return ctypes.c_float(value).value


def _zero(tensor: Tensor) -> int:
    """A tensor's zero point of uint8, whose values are those of int8 and 128."""
    return (int(tensor.zeros[0]) if tensor.zeros else 0) + 128


def _columns(file: bytes, start: int, channels: int, made: int) -> bytes:
    """Depthwise weights (3, 3, channels) of a file, by columns: (channels, 3, made, 4).

    For each of the rows of output that are ``made`` at once they stand beside the four rows of input.
    """
    columns = bytearray(channels * 12 * made)
    for x, y, row in product(range(3), range(made), range(3)):
        first = start + (3 * row + x) * channels
        columns[4 * (made * x + y) + y + row :: 12 * made] = file[first : first + channels]
    return bytes(columns)
