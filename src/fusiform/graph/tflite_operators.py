"""What each operator of fusiform's TFLite files may be given: the rules of ``tflite_checks``.

A rule raises ``UnsoundError`` for what no runtime can do, some of which LiteRT's kernels do not look at before they
divide by it or read there (github.com/tensorflow/tensorflow, tensorflow/lite/kernels); ``MismatchError`` where a shape
is not stated as it follows, and ``UnknownError`` for what may be sound and that fusiform's files do not have.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

FLOAT32, FLOAT16, INT32, UINT8, INT64, BOOL, INT8 = 0, 1, 2, 3, 4, 6, 9
SIZES = {FLOAT32: 4, FLOAT16: 2, INT32: 4, UINT8: 1, INT64: 8, BOOL: 1, INT8: 1}
"""The bytes of a number of each type that is known."""
MOST_MEMORY = 1 << 30
"""Bytes that the tensors of one picture may take together."""
CUSTOM = 32
"""The number of the operators that are not built in."""
_EIGHT_BITS = (INT8, UINT8)
_ACTIVATIONS = (0, 1, 3)  # none, ReLU, ReLU6
_SAME, _VALID = 0, 1
_LONGEST_STEP = 1 << 12
"""Pixels; LiteRT multiplies steps and windows in 32 bits."""
_LARGEST_FACTOR = 256.0
"""The most that XNNPACK lets a quantised layer multiply its sums by."""
_SUM_SHIFT = 20
"""LiteRT shifts quantised summands so far to the left, and aborts where their sum is still too small for its scale."""


class UnsoundError(Exception):
    """No runtime can do this; the message goes on after the operator's name."""


class UnknownError(Exception):
    """No rule is known for this."""


class MismatchError(UnknownError):
    """A shape that is stated is not the one that follows."""


class Tensor(NamedTuple):
    """A tensor: ``data`` is where the bytes of a constant lie in the file and how many, None for what is computed."""

    shape: tuple[int, ...]
    numbers: int
    kind: int
    data: tuple[int, int] | None
    scales: Sequence[float]
    zeros: Sequence[int]
    axis: int


class Operator(NamedTuple):
    """An operator; ``options`` is where its table of options lies, 0 for none, and ``fields`` that table's layout."""

    inputs: Sequence[Tensor | None]
    outputs: Sequence[Tensor]
    options_kind: int
    file: bytes
    options: int
    fields: tuple[int, ...]
    custom: bytes
    extra: bytes

    def take(self, count: int) -> list[Tensor]:
        """The inputs, which must be so many."""
        if len(self.inputs) > count:
            raise UnknownError(f"reads {len(self.inputs)} tensors")
        found = [tensor for tensor in self.inputs if tensor is not None]
        if len(found) < count:
            raise UnsoundError("lacks a tensor to read")
        return found

    def make(self) -> Tensor:
        """The one output."""
        if len(self.outputs) != 1:
            raise UnsoundError(f"makes {len(self.outputs)} tensors")
        return self.outputs[0]

    def makes(self, shape: tuple[int, ...], kinds: Sequence[int]) -> Tensor:
        """The one output, of this shape and one of these types."""
        made = self.make()
        if made.shape != shape:
            raise MismatchError(f"makes {list(made.shape)}, where {list(shape)} follows from what it reads")
        if made.kind not in kinds:
            raise UnknownError(f"makes the type number {made.kind}")
        return made

    def need_options(self, kind: int) -> None:
        if self.options_kind != kind or not self.options:
            raise UnknownError("lacks its options")

    def integer(self, field: int, default: int = 0) -> int:
        distance = self.fields[field]
        return int(struct.unpack_from("<i", self.file, self.options + distance)[0]) if distance else default

    def byte(self, field: int) -> int:
        distance = self.fields[field]
        return self.file[self.options + distance] if distance else 0

    def real(self, field: int) -> float:
        distance = self.fields[field]
        return float(struct.unpack_from("<f", self.file, self.options + distance)[0]) if distance else 0.0

    def constants(self, tensor: Tensor) -> tuple[int, ...]:
        """The values of a constant of int32."""
        if tensor.data is None or tensor.kind != INT32:
            raise UnknownError("reads a shape that is not a constant")
        return struct.unpack_from(f"<{tensor.numbers}i", self.file, tensor.data[0])

    def activation(self, field: int) -> None:
        if self.byte(field) not in _ACTIVATIONS:
            raise UnknownError("has an activation that is not known")


def _conv(op: Operator) -> None:
    _convolve(op, depthwise=False)


def _depthwise(op: Operator) -> None:
    _convolve(op, depthwise=True)


def _convolve(op: Operator, *, depthwise: bool) -> None:
    if len(op.inputs) == 2 and None not in op.inputs:
        raise UnknownError("has no bias")
    x, weight, bias = op.take(3)
    op.need_options(2 if depthwise else 1)
    if len(x.shape) != 4 or len(weight.shape) != 4:
        raise UnsoundError(f"reads {list(x.shape)} and {list(weight.shape)}")
    channels, kernel = x.shape[3], weight.shape[1:3]
    made = weight.shape[3] if depthwise else weight.shape[0]
    if depthwise:
        fits = weight.shape[0] == 1 and op.integer(3) > 0 and made == channels * op.integer(3)
    else:
        fits = weight.shape[3] == channels
    if not fits or bias.numbers != made:
        raise UnsoundError(f"has weights {list(weight.shape)} and {bias.numbers} biases for {channels} channels")
    more = 1 if depthwise else 0
    op.activation(3 + more)
    dilations = op.integer(5 if depthwise else 4, 1), op.integer(6 if depthwise else 5, 1)
    rows, columns = _windows(op, x, kernel, dilations=(dilations[1], dilations[0]))
    y = op.makes((x.shape[0], rows, columns, made), (x.kind,))
    _check_layer(x, weight, bias, y, 3 if depthwise else 0, made)


def _windows(op: Operator, x: Tensor, kernel: Sequence[int], *, dilations: tuple[int, int] = (1, 1)) -> tuple[int, int]:
    """The rows and columns that windows make of a map; padding and strides are the first three fields."""
    padding, strides = op.byte(0), (op.integer(2), op.integer(1))
    if padding not in (_SAME, _VALID):
        raise UnsoundError(f"has the padding number {padding}")
    if min(*strides, *dilations, *kernel, *x.shape) < 1 or max(*strides, *dilations, *kernel) > _LONGEST_STEP:
        raise UnsoundError(f"looks at {list(x.shape)} through {list(kernel)} in steps of {strides} and {dilations}")
    sides = []
    for side, size, stride, dilation in zip(x.shape[1:3], kernel, strides, dilations, strict=True):
        reach = (size - 1) * dilation + 1
        if padding == _VALID and reach > side:
            raise UnsoundError(f"looks at {side} pixels through a window of {reach}")
        sides.append(-(-side // stride) if padding == _SAME else (side - reach) // stride + 1)
    return sides[0], sides[1]


def _check_layer(x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor, axis: int, made: int) -> None:
    """The types and scales of a convolution or a fully connected layer."""
    if x.kind == FLOAT32:
        if weight.kind != FLOAT32 or (bias is not None and bias.kind != FLOAT32):
            raise UnknownError("mixes types")
        return
    if x.kind not in _EIGHT_BITS or weight.kind != x.kind or (bias is not None and bias.kind != INT32):
        raise UnknownError("mixes types")
    if weight.data is None or (bias is not None and bias.data is None):
        raise UnknownError("computes its weights")
    source, target = _scale(x), _scale(y)
    count = len(weight.scales)
    if count not in (1, made) or (count > 1 and (weight.axis != axis or x.kind != INT8)):
        raise UnknownError("has weights of other scales")
    zeros = weight.zeros
    if any(zeros) if x.kind == INT8 else len(zeros) > 1 or not all(0 <= zero <= 255 for zero in zeros):
        raise UnknownError("has weights with zero points")
    if not max(weight.scales) * source / target < _LARGEST_FACTOR:
        raise UnknownError("has scales that do not go together")


def _scale(tensor: Tensor) -> float:
    """The one scale of a tensor in eight bits, whose zero point the type has."""
    if len(tensor.scales) != 1 or len(tensor.zeros) > 1:
        raise UnknownError("reads or makes a tensor that has not one scale")
    low = -128 if tensor.kind == INT8 else 0
    if tensor.zeros and not low <= tensor.zeros[0] <= low + 255:
        raise UnsoundError(f"has the zero point {tensor.zeros[0]}")
    return float(tensor.scales[0])


def _alike(x: Tensor, y: Tensor) -> None:
    """Both are float32, or have the same eight bits: what only moves values cannot scale them."""
    if x.kind == FLOAT32 == y.kind:
        return
    if x.kind not in _EIGHT_BITS or _scale(x) != _scale(y) or list(x.zeros) != list(y.zeros):
        raise UnknownError("moves values from one scale to another")


def _pool(op: Operator) -> None:
    (x,) = op.take(1)
    op.need_options(5)
    op.activation(5)
    if len(x.shape) != 4:
        raise UnsoundError(f"reads {list(x.shape)}")
    kernel = op.integer(4), op.integer(3)
    rows, columns = _windows(op, x, kernel)
    if kernel[0] > x.shape[1] or kernel[1] > x.shape[2]:
        raise UnknownError("looks through windows larger than the map")
    _alike(x, op.makes((x.shape[0], rows, columns, x.shape[3]), (x.kind,)))


def _fully_connected(op: Operator) -> None:
    if len(op.inputs) == 3 and op.inputs[2] is None:
        op = op._replace(inputs=op.inputs[:2])
    x, weight, *rest = op.take(min(3, max(2, len(op.inputs))))
    bias = rest[0] if rest else None
    op.need_options(8)
    op.activation(0)
    if op.byte(1) or op.byte(2):
        raise UnknownError("has its weights in another order")
    if len(weight.shape) != 2 or min(weight.shape) < 1 or x.numbers == 0 or x.numbers % weight.shape[1]:
        raise UnsoundError(f"has weights {list(weight.shape)} for {list(x.shape)}")
    made, width = weight.shape
    if bias is not None and bias.numbers != made:
        raise UnsoundError(f"has {bias.numbers} biases for {made} sums")
    y = op.makes((x.numbers // width, made), (x.kind,))
    if x.kind == FLOAT32 and weight.kind == INT8:  # the activations are quantised picture by picture
        if weight.data is None or len(weight.scales) not in (1, made) or (bias and bias.kind != FLOAT32):
            raise UnknownError("mixes types")
        if any(weight.zeros) or weight.axis != 0:
            raise UnknownError("has weights with zero points")
        return
    if weight.kind != FLOAT32 and len(weight.scales) != 1:
        raise UnknownError("has weights of several scales")
    _check_layer(x, weight, bias, y, 0, made)


def _broadcast(x: Tensor, y: Tensor) -> tuple[int, ...]:
    """The shape of both stretched over each other, numpy's rule."""
    rank = max(len(x.shape), len(y.shape))
    left, right = ((1,) * (rank - len(tensor.shape)) + tensor.shape for tensor in (x, y))
    if any(a != b and 1 not in (a, b) for a, b in zip(left, right, strict=True)):
        raise UnsoundError(f"reads {list(x.shape)} and {list(y.shape)}")
    return tuple(b if a == 1 else a for a, b in zip(left, right, strict=True))


def _real_pair(op: Operator) -> None:
    x, y = op.take(2)
    if {x.kind, y.kind} != {FLOAT32}:
        raise UnknownError("mixes types")
    op.makes(_broadcast(x, y), (FLOAT32,))


def _arithmetic(op: Operator) -> None:
    if op.options:
        op.activation(0)
    _real_pair(op)


def _add(op: Operator) -> None:
    x, y = op.take(2)
    if x.kind not in _EIGHT_BITS:
        _arithmetic(op)
        return
    if op.options:
        op.activation(0)
    if y.kind != x.kind:
        raise UnknownError("mixes types")
    made = op.makes(_broadcast(x, y), (x.kind,))
    largest = max(_scale(x), _scale(y))
    if not 2 * largest / _scale(made) < 2.0**_SUM_SHIFT:
        raise UnsoundError("has scales that do not go together")


def _greater(op: Operator) -> None:
    x, y = op.take(2)
    if {x.kind, y.kind} != {FLOAT32}:
        raise UnknownError("mixes types")
    op.makes(_broadcast(x, y), (BOOL,))


def _unary(op: Operator) -> None:
    (x,) = op.take(1)
    if x.kind != FLOAT32:
        raise UnknownError("reads another type than float32")
    op.makes(x.shape, (FLOAT32,))


def _softmax(op: Operator) -> None:
    (x,) = op.take(1)
    op.need_options(9)
    if not x.shape or x.numbers == 0:
        raise UnsoundError(f"reads {list(x.shape)}")
    if not 0 < op.real(0) < math.inf:
        raise UnsoundError(f"has a beta of {op.real(0)}")
    _unary(op)


def _cast(op: Operator) -> None:
    (x,) = op.take(1)
    if x.kind not in (UINT8, BOOL):
        raise UnknownError("casts other types")
    op.makes(x.shape, (FLOAT32,))


def _quantize(op: Operator) -> None:
    (x,) = op.take(1)
    if x.kind != FLOAT32:
        raise UnknownError("reads another type than float32")
    _scale(op.makes(x.shape, _EIGHT_BITS))


def _dequantize(op: Operator) -> None:
    (x,) = op.take(1)
    op.makes(x.shape, (FLOAT32,))
    if x.kind == FLOAT16 and x.data is not None:
        return
    if x.kind not in _EIGHT_BITS:
        raise UnknownError("reads another type than float16 and eight bits")
    _scale(x)


def _pad(op: Operator) -> None:
    x, amounts = op.take(2)
    if amounts.shape != (len(x.shape), 2):
        raise UnsoundError(f"pads {list(x.shape)} by {list(amounts.shape)}")
    values = op.constants(amounts)
    if min(values, default=0) < 0:
        raise UnsoundError("pads by less than nothing")
    shape = tuple(side + values[2 * k] + values[2 * k + 1] for k, side in enumerate(x.shape))
    _alike(x, op.makes(shape, (x.kind,)))


def _resize(op: Operator) -> None:
    x, size = op.take(2)
    op.need_options(15)
    values = op.constants(size)
    if len(x.shape) != 4 or len(values) != 2 or min(*values, *x.shape) < 1:
        raise UnsoundError(f"resizes {list(x.shape)} to {list(values)}")
    _alike(x, op.makes((x.shape[0], *values, x.shape[3]), (x.kind,)))


def _reshape(op: Operator) -> None:
    if len(op.inputs) == 1:
        raise UnknownError("has its shape in its options")
    x, wanted = op.take(2)
    shape = list(op.constants(wanted))
    if shape.count(-1) == 1:
        rest = math.prod(side for side in shape if side != -1)
        if rest > 0:
            shape[shape.index(-1)] = x.numbers // rest
    if min(shape, default=0) < 0 or math.prod(shape) != x.numbers:
        raise UnsoundError(f"makes {shape} of {list(x.shape)}")
    made = op.makes(tuple(shape), (x.kind,))
    if x.kind != FLOAT32:
        _alike(x, made)


def _slice(op: Operator) -> None:
    x, begin, size = op.take(3)
    first, sizes = op.constants(begin), op.constants(size)
    if not len(first) == len(sizes) == len(x.shape):
        raise UnsoundError(f"cuts {list(x.shape)} from {list(first)} on by {list(sizes)}")
    sizes = tuple(
        side - start if wanted == -1 else wanted for side, start, wanted in zip(x.shape, first, sizes, strict=True)
    )
    if any(
        min(start, wanted) < 0 or start + wanted > side
        for side, start, wanted in zip(x.shape, first, sizes, strict=True)
    ):
        raise UnsoundError(f"cuts {list(x.shape)} from {list(first)} on by {list(sizes)}")
    _alike(x, op.makes(sizes, (x.kind,)))


def _concatenate(op: Operator) -> None:
    parts = op.take(len(op.inputs))
    op.need_options(10)
    if not parts:
        raise UnsoundError("lacks a tensor to read")
    axis, shape = op.integer(0), parts[0].shape
    axis = axis + len(shape) if axis < 0 else axis
    if op.byte(1):
        raise UnknownError("has an activation")
    if not 0 <= axis < len(shape):
        raise UnsoundError(f"joins {list(shape)} along the dimension {axis}")
    for part in parts:
        if len(part.shape) != len(shape) or (*part.shape[:axis], *part.shape[axis + 1 :]) != (
            *shape[:axis],
            *shape[axis + 1 :],
        ):
            raise UnsoundError(f"joins {list(part.shape)} to {list(shape)} along the dimension {axis}")
    total = sum(part.shape[axis] for part in parts)
    made = op.makes((*shape[:axis], total, *shape[axis + 1 :]), (parts[0].kind,))
    for part in parts:
        if part.kind != made.kind or (part.kind != FLOAT32 and part.kind not in _EIGHT_BITS):
            raise UnknownError("mixes types")


def _reduce(op: Operator) -> None:
    x, axes = op.take(2)
    op.need_options(27)
    rank = len(x.shape)
    chosen = op.constants(axes)
    if any(not -rank <= axis < rank for axis in chosen) or x.numbers == 0:
        raise UnsoundError(f"goes along {list(chosen)} of {list(x.shape)}")
    gone = {axis % rank for axis in chosen}
    if op.byte(0):
        shape = tuple(1 if k in gone else side for k, side in enumerate(x.shape))
    else:
        shape = tuple(side for k, side in enumerate(x.shape) if k not in gone)
    made = op.makes(shape, (x.kind,))
    if x.kind == FLOAT32:
        return
    if x.kind not in _EIGHT_BITS:
        raise UnknownError("reads another type")
    factor = _scale(x) / _scale(made)
    if not 2.0**-20 < factor < _LARGEST_FACTOR:
        raise UnknownError("has scales that do not go together")


def _gather(op: Operator) -> None:
    x, indices = op.take(2)
    op.need_options(23)
    axis = op.integer(0)
    axis = axis + len(x.shape) if axis < 0 else axis
    if op.integer(1):
        raise UnknownError("has batches")
    chosen = op.constants(indices)
    if not 0 <= axis < len(x.shape) or any(not 0 <= index < x.shape[axis] for index in chosen):
        raise UnsoundError(f"takes what {list(x.shape)} does not have")
    _alike(x, op.makes((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), (x.kind,)))


def _transpose(op: Operator) -> None:
    x, order = op.take(2)
    axes = op.constants(order)
    if sorted(axes) != list(range(len(x.shape))):
        raise UnsoundError(f"puts {list(x.shape)} in the order {list(axes)}")
    _alike(x, op.makes(tuple(x.shape[axis] for axis in axes), (x.kind,)))


def _postprocess(op: Operator) -> None:
    """Suppression of boxes, with the options that fusiform writes: their format is read without any checks."""
    from fusiform.graph.tflite_decoded import POSTPROCESS, postprocess_options  # no other file is to wait for it

    if op.custom.rstrip(b"\0") != POSTPROCESS.encode():
        raise UnknownError("is of another library")
    boxes, scores, anchors = op.take(3)
    if {tensor.kind for tensor in (boxes, scores, anchors)} != {FLOAT32} or anchors.data is None:
        raise UnknownError("mixes types")
    priors = anchors.shape[0] if anchors.shape else 0
    if not priors or boxes.shape != (1, priors, 4) or anchors.shape != (priors, 4) or len(scores.shape) != 3:
        raise UnsoundError(f"reads {list(boxes.shape)}, {list(scores.shape)} and {list(anchors.shape)}")
    if scores.shape[:2] != (1, priors) or scores.shape[2] < 2:
        raise UnsoundError(f"reads {list(boxes.shape)} and {list(scores.shape)}")
    if op.extra != postprocess_options(scores.shape[2] - 1).tobytes():
        raise UnknownError("has other options")
    shapes = [tensor.shape for tensor in op.outputs]
    if (
        len(shapes) != 4
        or [len(shape) for shape in shapes] != [3, 2, 2, 1]
        or {t.kind for t in op.outputs} != {FLOAT32}
    ):
        raise UnsoundError(f"makes {shapes}")


RULES: dict[int, tuple[str, Callable[[Operator], None]]] = {
    0: ("ADD", _add),
    1: ("AVERAGE_POOL_2D", _pool),
    2: ("CONCATENATION", _concatenate),
    3: ("CONV_2D", _conv),
    4: ("DEPTHWISE_CONV_2D", _depthwise),
    6: ("DEQUANTIZE", _dequantize),
    9: ("FULLY_CONNECTED", _fully_connected),
    14: ("LOGISTIC", _unary),
    17: ("MAX_POOL_2D", _pool),
    18: ("MUL", _arithmetic),
    19: ("RELU", _unary),
    21: ("RELU6", _unary),
    22: ("RESHAPE", _reshape),
    23: ("RESIZE_BILINEAR", _resize),
    25: ("SOFTMAX", _softmax),
    32: ("CUSTOM", _postprocess),
    34: ("PAD", _pad),
    36: ("GATHER", _gather),
    39: ("TRANSPOSE", _transpose),
    40: ("MEAN", _reduce),
    41: ("SUB", _arithmetic),
    47: ("EXP", _unary),
    53: ("CAST", _cast),
    55: ("MAXIMUM", _real_pair),
    57: ("MINIMUM", _real_pair),
    61: ("GREATER", _greater),
    65: ("SLICE", _slice),
    73: ("LOG", _unary),
    89: ("REDUCE_MIN", _reduce),
    114: ("QUANTIZE", _quantize),
}
"""The name of each operator, and what holds for it, by its number in TFLite's schema."""
