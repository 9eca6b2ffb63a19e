"""Reading TensorFlow Lite files that other tools wrote: float, or quantised in uint8 or int8 and then dequantised."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as tfl
from numpy.typing import NDArray

from fusiform.errors import FusiformError, WeightsError
from fusiform.graph.ir import Activation
from fusiform.porting.network import ForeignNetwork, match_network
from fusiform.porting.tracer import Tensor, Tracer, Value, dequantize

_OPERATORS: dict[int, str] = {code: name for name, code in vars(tfl.BuiltinOperator).items() if isinstance(code, int)}
_DTYPES: dict[int, str] = {
    tfl.TensorType.FLOAT32: "<f4",
    tfl.TensorType.FLOAT16: "<f2",
    tfl.TensorType.INT8: "i1",
    tfl.TensorType.UINT8: "u1",
    tfl.TensorType.INT32: "<i4",
    tfl.TensorType.INT64: "<i8",
}
_ACTIVATIONS: dict[int, Activation | None] = {
    tfl.ActivationFunctionType.NONE: None,
    tfl.ActivationFunctionType.RELU: "relu",
    tfl.ActivationFunctionType.RELU6: "relu6",
}
_PIXEL_OFFSETS: dict[int, int] = {tfl.TensorType.UINT8: 0, tfl.TensorType.INT8: 128}
"""What is added to a quantised input to make it a pixel, 0 to 255."""


def read_tflite(data: bytes, *, source: str) -> ForeignNetwork:
    """The network in a TensorFlow Lite file; ``source`` names the file in errors.

    A quantised input says how pixels are normalised: ``(q - zero_point) * scale`` is ``(pixel / 255 - mean) / std``; a
    grey that is subtracted from them first, as in fusiform's own files, is a part of the mean. Raises WeightsError for
    a damaged file and for any other network.
    """
    try:
        model = tfl.ModelT.InitFromPackedBuf(data, 0)
        return _Reader(model, source).read()
    except FusiformError:
        raise
    except Exception as error:  # the generated code and numpy raise many kinds for damaged files
        raise WeightsError(
            f"{source} is damaged or not shaped like a classifier ({type(error).__name__}: {error}): fetch or export "
            "it again"
        ) from None


class _Reader:
    def __init__(self, model: Any, source: str) -> None:
        self.model = model
        self.graph = model.subgraphs[0]
        self.trace = Tracer(source, channel_axis=3)
        self.values: dict[int, Value] = {}
        self.pixels: set[int] = set()
        """The tensors that are the input in another type."""
        self.grey = 0.0

    def read(self) -> ForeignNetwork:
        (given,) = self.graph.inputs
        self.values[given] = self.trace.input([int(side) for side in self.graph.tensors[given].shape])
        self.pixels.add(given)
        for operator in self.graph.operators:
            results = self.run(operator)
            for index, result in zip(
                operator.outputs, results if isinstance(results, list) else [results], strict=True
            ):
                self.values[index] = result
        network = match_network(self.trace, self.picture(self.graph.outputs[0]))
        quantization, kind = self.graph.tensors[given].quantization, self.graph.tensors[given].type
        if kind == tfl.TensorType.FLOAT32:
            return network
        if kind not in _PIXEL_OFFSETS or not _scaled(quantization):
            raise self.trace.refuse("the input is neither float32 nor quantised in 8 bits")
        scale, zero = float(quantization.scale[0]), int(quantization.zeroPoint[0]) + _PIXEL_OFFSETS[kind]
        return network._replace(mean=(zero + self.grey / scale) / 255, std=1 / (255 * scale))

    def value(self, index: int) -> Value:
        """What an operator left in a tensor, or the constant that lies there, dequantised."""
        if index not in self.values:
            tensor = self.graph.tensors[index]
            raw = self.model.buffers[tensor.buffer].data
            if raw is None or tensor.type not in _DTYPES or tensor.sparsity is not None:
                raise self.trace.refuse(f"the weights {_name(tensor)} are of a type or form that is not known")
            # A scalar's shape may be left out.
            shape = () if tensor.shape is None else [int(side) for side in tensor.shape]
            array: NDArray[Any] = np.frombuffer(bytes(raw), _DTYPES[tensor.type]).reshape(shape)
            if _scaled(tensor.quantization):
                scaling = tensor.quantization
                array = dequantize(array, scaling.scale, scaling.zeroPoint, int(scaling.quantizedDimension))
            elif array.dtype.itemsize == 1:
                raise self.trace.refuse(f"the weights {_name(tensor)} are quantised without a scale")
            self.values[index] = array
        return self.values[index]

    def picture(self, index: int) -> Tensor:
        value = self.value(index)
        if not isinstance(value, Tensor):
            raise self.trace.refuse("a layer that reads no picture")
        return value

    def constant(self, index: int) -> NDArray[Any]:
        value = self.value(index)
        if isinstance(value, Tensor):
            raise self.trace.refuse("a layer whose weights or shape depend on the picture")
        return value

    def optional(self, operator: Any, position: int) -> NDArray[Any] | None:
        inputs = operator.inputs
        return self.constant(inputs[position]) if len(inputs) > position and inputs[position] >= 0 else None

    def run(self, operator: Any) -> Value | list[Value]:
        """One operator, https://ai.google.dev/edge/litert/models/ops_compatibility, on channel numbers."""
        code = self.model.operatorCodes[operator.opcodeIndex]
        # Files from before the 127th operator have only the deprecated field.
        name = _OPERATORS.get(max(code.builtinCode, code.deprecatedBuiltinCode), "an unknown operator")
        options, inputs = operator.builtinOptions, operator.inputs
        known = (self.values[index] for index in inputs if index in self.values)
        self.trace.spend(sum((value.numbers if isinstance(value, Tensor) else value).size for value in known))
        match name:
            case "CONV_2D" | "DEPTHWISE_CONV_2D":
                return self.convolve(operator, depthwise=name == "DEPTHWISE_CONV_2D")
            case "FULLY_CONNECTED":
                weight = self.constant(inputs[1])
                rows = Tensor(self.picture(inputs[0]).numbers.reshape(-1, weight.shape[1]))
                return self.activate(self.trace.multiply(rows, weight, self.optional(operator, 2)), options)
            case "ADD":
                return self.activate(self.add(inputs[0], inputs[1]), options)
            case "SUB":
                return self.subtract(inputs[0], inputs[1])
            case "MUL":
                x, factor = self.split_constant(inputs)
                return self.activate(self.trace.rescale(x, factor, 0), options)
            case "MAX_POOL_2D":
                pooled = self.trace.max_pool(
                    self.picture(inputs[0]),
                    kernel=(options.filterHeight, options.filterWidth),
                    strides=(options.strideH, options.strideW),
                    border=_border(options),
                )
                return self.activate(pooled, options)
            case "AVERAGE_POOL_2D":
                x = self.picture(inputs[0])
                if (options.filterHeight, options.filterWidth) != x.numbers.shape[1:3]:
                    raise self.trace.refuse("an average over less than the whole picture")
                return self.activate(self.trace.mean(x, (1, 2), keep=True), options)
            case "MEAN":
                axes = self.constant(inputs[1]).reshape(-1).tolist()
                return self.trace.mean(self.picture(inputs[0]), axes, keep=bool(options.keepDims))
            case "PAD" | "PADV2":
                value = self.optional(operator, 2)
                amounts = self.constant(inputs[1])
                return self.trace.pad(
                    self.picture(inputs[0]), amounts, 0 if value is None else float(value.reshape(()))
                )
            case "RELU":
                return self.trace.activate(self.picture(inputs[0]), "relu")
            case "RELU6":
                return self.trace.activate(self.picture(inputs[0]), "relu6")
            case "QUANTIZE" | "DEQUANTIZE" | "SOFTMAX" | "LOG_SOFTMAX" | "ARG_MAX":
                if inputs[0] in self.pixels:
                    self.pixels.add(operator.outputs[0])
                return self.value(inputs[0])
            case "SHAPE":
                return np.array(self.picture(inputs[0]).numbers.shape)
            case "PACK":
                return np.stack([self.constant(index) for index in inputs], options.axis)
            case "CONCATENATION":
                parts = [self.picture(index).numbers for index in inputs]
                return self.activate(Tensor(np.concatenate(parts, options.axis)), options)
            case "SPLIT":
                axis = int(self.constant(inputs[0]).reshape(()))
                return [Tensor(part) for part in np.split(self.picture(inputs[1]).numbers, options.numSplits, axis)]
            case "SPLIT_V":
                ends, axis = np.cumsum(self.constant(inputs[1])), int(self.constant(inputs[2]).reshape(()))
                return [Tensor(part) for part in np.split(self.picture(inputs[0]).numbers, ends[:-1], axis)]
            case "RESHAPE":
                shape = self.optional(operator, 1)
                return self.move(inputs[0], lambda x: x.reshape(options.newShape if shape is None else shape))
            case "SQUEEZE":
                axes = None if options.squeezeDims is None else tuple(int(axis) for axis in options.squeezeDims)
                return self.move(inputs[0], lambda x: x.squeeze(axes or None))
            case "EXPAND_DIMS":
                axis = int(self.constant(inputs[1]).reshape(()))
                return self.move(inputs[0], lambda x: np.expand_dims(x, axis))
            case "TRANSPOSE":
                return self.move(inputs[0], lambda x: x.transpose(self.constant(inputs[1])))
            case "GATHER":
                if options.batchDims:
                    raise self.trace.refuse("a GATHER of one picture at a time")
                return self.move(inputs[0], lambda x: self.trace.take(x, self.constant(inputs[1]), options.axis))
            case "SLICE":
                begin, size = self.constant(inputs[1]), self.constant(inputs[2])
                piece = tuple(slice(b, None if s < 0 else b + s) for b, s in zip(begin, size, strict=True))
                return self.move(inputs[0], lambda x: x[piece])
            case "STRIDED_SLICE":
                return self.strided_slice(inputs, options)
        raise self.trace.refuse(f"the operator {name} (for {_name(self.graph.tensors[operator.outputs[0]])})")

    def convolve(self, operator: Any, *, depthwise: bool) -> Tensor:
        options, weight = operator.builtinOptions, self.constant(operator.inputs[1])
        made = self.trace.convolve(
            self.picture(operator.inputs[0]),
            # 1HWO or OHWI to OIHW
            weight.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2)),
            self.optional(operator, 2),
            strides=(options.strideH, options.strideW),
            dilations=(options.dilationHFactor, options.dilationWFactor),
            border=_border(options),
        )
        return self.activate(made, options)

    def activate(self, x: Tensor, options: Any) -> Tensor:
        """The activation that an operator has inside."""
        code = options.fusedActivationFunction
        if code not in _ACTIVATIONS:
            raise self.trace.refuse(f"the activation number {code}")
        activation = _ACTIVATIONS[code]
        return x if activation is None else self.trace.activate(x, activation)

    def add(self, left: int, right: int) -> Tensor:
        x, y = self.value(left), self.value(right)
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return self.trace.add(x, y)
        tensor, shift = self.split_constant((left, right))
        return self.trace.rescale(tensor, 1, shift)

    def subtract(self, left: int, right: int) -> Tensor:
        """Less a constant: a part of how pixels are normalised, or of a convolution's bias."""
        amount = self.constant(right)
        if left not in self.pixels:
            return self.trace.rescale(self.picture(left), 1, -amount)
        if amount.size != 1:
            raise self.trace.refuse("another number for each colour is subtracted from the input")
        self.grey += float(amount.reshape(()))
        return self.picture(left)

    def split_constant(self, inputs: Any) -> tuple[Tensor, NDArray[Any]]:
        """The picture and the constant among two inputs in either order."""
        left, right = inputs
        if isinstance(self.value(left), Tensor):
            return self.picture(left), self.constant(right)
        return self.picture(right), self.constant(left)

    def move(self, index: int, moved: Any) -> Value:
        """A tensor or a constant with its values in other places."""
        value = self.value(index)
        return Tensor(moved(value.numbers)) if isinstance(value, Tensor) else moved(value)

    def strided_slice(self, inputs: Any, options: Any) -> Value:
        if options.ellipsisMask or options.newAxisMask:
            raise self.trace.refuse("a STRIDED_SLICE with an ellipsis or new dimensions")
        pieces: list[slice | int] = []
        bounds = (self.constant(index).tolist() for index in inputs[1:])
        for axis, (begin, end, stride) in enumerate(zip(*bounds, strict=True)):
            bit = 1 << axis
            if options.shrinkAxisMask & bit:
                pieces.append(begin)
            else:
                first = None if options.beginMask & bit else begin
                pieces.append(slice(first, None if options.endMask & bit else end, stride))
        return self.move(inputs[0], lambda x: x[tuple(pieces)])


def _border(options: Any) -> tuple[int, int, int, int] | None:
    return None if options.padding == tfl.Padding.SAME else (0, 0, 0, 0)


def _scaled(quantization: Any) -> bool:
    return quantization is not None and quantization.scale is not None and len(quantization.scale) > 0


def _name(tensor: Any) -> str:
    return tensor.name.decode(errors="replace") if tensor.name else "without a name"
