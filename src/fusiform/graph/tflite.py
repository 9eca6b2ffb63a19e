"""Graphs as TensorFlow Lite files: the format that LiteRT runs.

Writing needs only the schema that ships with LiteRT, and the same graph always gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Mapping
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as tfl
from numpy.typing import NDArray

from fusiform.errors import WeightsError
from fusiform.graph.build import number_weights
from fusiform.graph.flatbuffer import read_metadata
from fusiform.graph.inputs import unscale_input
from fusiform.graph.ir import (
    INPUT,
    Activation,
    Add,
    Center,
    Conv,
    Gather,
    Graph,
    Linear,
    MaxPool,
    Mean,
    Node,
    Quantization,
    Scale,
    Spread,
    Stack,
    pads,
)
from fusiform.graph.tflite_checks import check_tflite
from fusiform.graph.tflite_decoded import POSTPROCESS, add_decoding
from fusiform.spec import METADATA_KEY, ModelSpec, Padding

_SCHEMA_VERSION = 3
_ALIGNMENT = 16  # bytes; kernels read weights with aligned loads
_GREY = f"{INPUT}/grey"
"""The constant with the grey, 0 to 255, that stands for zero in an int8 graph."""
_BLACK = -128
"""Black as int8."""
_CONCATENATION_INPUTS = 5  # XNNPACK takes no more; the graph would be cut in two
_TYPES: dict[np.dtype[Any], int] = {
    np.dtype("float32"): tfl.TensorType.FLOAT32,
    np.dtype("float16"): tfl.TensorType.FLOAT16,
    np.dtype("uint8"): tfl.TensorType.UINT8,
    np.dtype("int8"): tfl.TensorType.INT8,
    np.dtype("int32"): tfl.TensorType.INT32,
    np.dtype("bool"): tfl.TensorType.BOOL,
}
_ACTIVATIONS: dict[Activation | None, int] = {
    None: tfl.ActivationFunctionType.NONE,
    "relu": tfl.ActivationFunctionType.RELU,
    "relu6": tfl.ActivationFunctionType.RELU6,
}


def to_tflite(graph: Graph, *, half: bool = False, metadata: Mapping[str, bytes] | None = None) -> bytes:
    """The graph as a TFLite flatbuffer with its spec inside, for one picture.

    A float32 graph reads a normalised float32 picture (1, height, width, channels), or uint8 pixels where it starts
    with ``Center``; an int8 graph reads uint8 pixels, of scale 1 and zero point 0, and its first convolution
    normalises. All give the spec's answers in their order, float32, as batches of one: where the spec's output is
    ``probabilities``, a softmax of the logits divided by the spec's temperature, and where the spec says ``decoded``
    what ``tflite_decoded.add_decoding`` makes of the network's. A signature names input and answers. ``half`` stores
    the weights that are float32 as float16, in half the space; the runtime computes with them in float32. ``metadata``
    is added under its names.
    """
    writer = _Writer(graph, half=half)
    for node in graph.nodes:
        writer.node(node)
    return writer.finish({METADATA_KEY: graph.spec.to_json().encode(), **(metadata or {})})


def stores_halves(data: bytes) -> bool:
    """Whether a file that ``to_tflite`` wrote holds weights as float16."""
    graphs = tfl.ModelT.InitFromPackedBuf(data).subgraphs
    return any(tensor.type == tfl.TensorType.FLOAT16 for tensor in graphs[0].tensors)


def input_type(data: bytes) -> str:
    """The type of what a file that ``to_tflite`` wrote reads: ``float32``, ``uint8``, or ``int8`` in older files."""
    graph = tfl.ModelT.InitFromPackedBuf(data).subgraphs[0]
    code = graph.tensors[graph.inputs[0]].type
    return next(str(dtype) for dtype, known in _TYPES.items() if known == code)


def from_tflite(data: bytes, *, source: str = "the file") -> Graph:
    """Read back what ``to_tflite`` wrote, also files that read int8; ``source`` names the file in errors.

    Raises WeightsError for damaged files and SpecError for those without a spec.
    """
    spec = ModelSpec.from_json(read_metadata(data, source=source), source=source)
    check_tflite(data, source=source, described=True)
    try:
        return _from_tflite(data, spec)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from None
    # What the generated code raises for distances that lead out of the file, and what is not there then.
    except (struct.error, IndexError, KeyError, TypeError, ValueError, AttributeError):
        raise WeightsError(
            f"{source}: damaged, or not written by fusiform; write it again, or port it: fusiform port {source}"
        ) from None


def _from_tflite(data: bytes, spec: ModelSpec) -> Graph:
    model = tfl.ModelT.InitFromPackedBuf(data)
    tensors = {tensor.name.decode(): tensor for tensor in model.subgraphs[0].tensors}
    dtypes: dict[int, np.dtype[Any]] = {code: dtype for dtype, code in _TYPES.items()}

    def array(name: str) -> NDArray[Any]:
        tensor = tensors[name]
        raw = model.buffers[tensor.buffer].data.tobytes()
        shape = tuple(int(size) for size in tensor.shape)
        return np.frombuffer(raw, dtypes[tensor.type].newbyteorder("<")).reshape(shape)

    def real_array(name: str) -> NDArray[Any]:
        values = array(name)
        return values.astype(np.float32) if values.dtype == np.float16 else values

    def scale(name: str) -> Scale:
        quantization = tensors[name].quantization
        return Scale(float(quantization.scale[0]), int(quantization.zeroPoint[0]))

    def is_int8(name: str) -> bool:
        return name in tensors and tensors[name].type == tfl.TensorType.INT8

    weights: dict[str, NDArray[Any]] = {}
    for name in tensors:
        if name.endswith(".weight"):
            weight = real_array(name)
            if weight.ndim == 4:  # OHWI, or 1HWO for depthwise, to OIHW
                depthwise = weight.shape[0] == 1 and len(array(name[:-6] + "bias")) > 1
                weight = weight.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
            weights[name[:-7]] = np.ascontiguousarray(weight)
    nodes = tuple(
        dataclasses.replace(node, weight=weights[node.name], bias=real_array(f"{node.name}.bias"))
        if isinstance(node, Conv | Linear)
        else node
        for node in number_weights(spec, weights).nodes
    )
    reads_grey = _GREY in tensors or is_int8(INPUT)
    if not reads_grey and all(weight.dtype == np.float32 for weight in weights.values()):
        graph = Graph(spec, nodes)
        return unscale_input(graph) if tensors[INPUT].type == tfl.TensorType.UINT8 else graph
    in_float = frozenset(
        node.name
        for node in nodes
        if (isinstance(node, Conv | Linear) and node.weight.dtype == np.float32)
        or (isinstance(node, Add) and tensors[node.name].type == tfl.TensorType.FLOAT32)
    )
    quantized = [INPUT, *(node.name for node in nodes)]
    stored = {name: f"{name}/int8" if f"{name}/int8" in tensors else name for name in quantized}
    activations = {name: scale(tensor) for name, tensor in stored.items() if is_int8(tensor)}
    if _GREY in tensors:
        activations[INPUT] = Scale(1.0, int(array(_GREY)[0]) + _BLACK)
    scales = {
        name: array(f"{name}.scales")
        if f"{name}.scales" in tensors
        else np.asarray(tensors[f"{name}.weight"].quantization.scale, np.float32)
        for name in weights
        if name not in in_float
    }
    return Graph(spec, nodes, Quantization(activations, scales, in_float))


class _Buffer(tfl.BufferT):  # type: ignore[misc]  # the schema is untyped
    """A buffer that honours the schema's alignment, which the generated Python code forgets."""

    def Pack(self, builder: Any) -> Any:  # noqa: N802  # the generated code's name
        data = None
        if self.data is not None:
            raw = bytes(self.data)
            builder.StartVector(1, len(raw), _ALIGNMENT)
            head = builder.Head() - len(raw)
            builder.head = head
            builder.Bytes[head : head + len(raw)] = raw
            data = builder.EndVector()
        tfl.BufferStart(builder)
        if data is not None:
            tfl.BufferAddData(builder, data)
        return tfl.BufferEnd(builder)


class _ChannelScales(tfl.QuantizationParametersT):  # type: ignore[misc]
    """One scale for each slice; files share the zero points, which would be a fifteenth of them."""

    def __init__(self, scales: NDArray[np.float32], dimension: int, zeros: dict[int, int]) -> None:
        super().__init__(scale=scales, quantizedDimension=dimension)
        self.zeros = zeros

    def Pack(self, builder: Any) -> Any:  # noqa: N802
        count = len(self.scale)
        if count not in self.zeros:
            self.zeros[count] = builder.CreateNumpyVector(np.zeros(count, np.int64))
        scale = builder.CreateNumpyVector(self.scale)
        tfl.QuantizationParametersStart(builder)
        tfl.QuantizationParametersAddScale(builder, scale)
        tfl.QuantizationParametersAddZeroPoint(builder, self.zeros[count])
        tfl.QuantizationParametersAddQuantizedDimension(builder, self.quantizedDimension)
        return tfl.QuantizationParametersEnd(builder)


class _Writer:
    """``index`` is the tensor of each activation as it is made: int8 in a quantised graph, but for nodes in float."""

    def __init__(self, graph: Graph, *, half: bool) -> None:
        self.graph, self.half = graph, half
        self.buffers: list[_Buffer] = [_Buffer()]  # buffer 0 is empty by the format's rule
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: dict[tuple[int, int], int] = {}
        self.index: dict[str, int] = {}
        self.converted: dict[tuple[str, bool], int] = {}
        self.zeros: dict[int, int] = {}
        if graph.quantization is not None:
            self.inputs = [self.less_grey(graph.quantization)]
        else:
            pixels = isinstance(graph.nodes[0], Center)
            self.index[INPUT] = self.tensor(INPUT, (1, *graph.shapes[INPUT]), "uint8" if pixels else "float32")
            self.inputs = [self.index[INPUT]]

    def is_real(self, name: str) -> bool:
        """Whether the node of this name is computed in float32, as are the pixels that come into any graph."""
        quantization = self.graph.quantization
        return quantization is None or name in quantization.in_float or name == INPUT

    def read(self, name: str, *, real: bool) -> int:
        """The activation as float32 or as int8, converted where it was made as the other."""
        if self.is_real(name) == real:
            return self.index[name]
        if (name, real) not in self.converted:
            assert self.graph.quantization is not None
            shape = tuple(self.tensors[self.index[name]].shape)
            if real:
                output = self.tensor(f"{name}/real", shape, "float32")
            else:
                output = self.tensor(f"{name}/int8", shape, "int8", self.graph.quantization.activations[name])
            code, kind = ("DEQUANTIZE", "Dequantize") if real else ("QUANTIZE", "Quantize")
            self.operator(getattr(tfl.BuiltinOperator, code), [self.index[name]], output, kind)
            self.converted[name, real] = output
        return self.converted[name, real]

    def less_grey(self, quantization: Quantization) -> int:
        """Read uint8 pixels into an int8 graph, less the grey that stands for zero; the input's tensor.

        A QUANTIZE of uint8 alone would be exact too, but could not be told that grey, and XNNPACK takes none: on a PC
        these three together cost nothing that can be measured, and that one a twelfth of ShuffleNetV2.
        """
        shape = (1, *self.graph.shapes[INPUT])
        given = self.tensor(INPUT, shape, "uint8", Scale(1.0, 0))
        pixels = self.tensor(f"{INPUT}/pixels", shape, "float32")
        self.operator(tfl.BuiltinOperator.DEQUANTIZE, [given], pixels, "Dequantize")
        grey = quantization.activations[INPUT].zero_point - _BLACK
        constant = self.tensor(_GREY, (1,), "float32", data=np.array([grey], np.float32))
        self.index[INPUT] = self.tensor(f"{INPUT}/real", shape, "float32")
        self.operator(tfl.BuiltinOperator.SUB, [pixels, constant], self.index[INPUT], "Sub")
        return given

    def real_constant(self, name: str, values: NDArray[Any]) -> int:
        """A float32 constant, stored as float16 where that is asked for."""
        if not self.half:
            return self.tensor(name, values.shape, "float32", data=values)
        stored = self.tensor(name, values.shape, "float16", data=values.astype(np.float16))
        output = self.tensor(f"{name}/real", values.shape, "float32")
        self.operator(tfl.BuiltinOperator.DEQUANTIZE, [stored], output, "Dequantize")
        return output

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: str,
        scale: Scale | tuple[NDArray[np.float32], int] | None = None,
        data: NDArray[Any] | None = None,
    ) -> int:
        """Add a tensor; ``scale`` is of the whole tensor, or (one for each slice, along this dimension)."""
        tensor = tfl.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), _TYPES[np.dtype(dtype)], 0
        tensor.hasRank = True
        if data is not None:
            tensor.buffer = len(self.buffers)
            self.buffers.append(_Buffer(data=np.ascontiguousarray(data, np.dtype(dtype).newbyteorder("<")).tobytes()))
        if scale is not None:
            if isinstance(scale, Scale):
                tensor.quantization = tfl.QuantizationParametersT(scale=[scale.scale], zeroPoint=[scale.zero_point])
            else:
                tensor.quantization = _ChannelScales(scale[0].astype(np.float32), scale[1], self.zeros)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def activation(
        self, name: str, *, like: str | None = None, shape: tuple[int, ...] | None = None, real: bool | None = None
    ) -> int:
        """Add the tensor that a node makes, int8 with its scale (or that of ``like``), or float32."""
        shape = shape or (1, *self.graph.shapes[name])
        if self.is_real(name) if real is None else real:
            self.index[name] = self.tensor(name, shape, "float32")
        else:
            assert self.graph.quantization is not None
            self.index[name] = self.tensor(name, shape, "int8", self.graph.quantization.activations[like or name])
        return self.index[name]

    def constant(self, name: str, values: list[Any]) -> int:
        array = np.array(values, np.int32)
        return self.tensor(name, array.shape, "int32", data=array)

    def operator(
        self,
        code: int,
        inputs: list[int],
        output: int,
        options: str | None = None,
        *,
        version: int | None = None,
        **fields: Any,
    ) -> None:
        # The version says which features of the operator a runtime must know: 1 float, 2 int8, 3 int8 per channel.
        if version is None:
            version = 1 if self.graph.quantization is None else _INT8_VERSIONS.get(code, 2)
        if code == tfl.BuiltinOperator.MEAN and self.tensors[output].type == tfl.TensorType.INT8:
            version = 2
        operator = tfl.OperatorT()
        operator.opcodeIndex = self.codes.setdefault((code, version), len(self.codes))
        operator.inputs, operator.outputs = inputs, [output]
        if options is not None:
            operator.builtinOptionsType = getattr(tfl.BuiltinOptions, f"{options}Options")
            operator.builtinOptions = getattr(tfl, f"{options}OptionsT")()
            for name, value in fields.items():
                setattr(operator.builtinOptions, name, value)
        self.operators.append(operator)

    def node(self, node: Node) -> None:
        match node:
            case Center():
                self.center(node)
            case Conv():
                self.conv(node)
            case Add():
                real = self.is_real(node.name)
                inputs = [self.read(node.left, real=real), self.read(node.right, real=real)]
                self.operator(tfl.BuiltinOperator.ADD, inputs, self.activation(node.name), "Add")
            case Gather():
                self.gather(node)
            case MaxPool():
                source, padding = self.padded(node.source, 3, 2, node.padding, real=self.graph.quantization is None)
                output = self.activation(node.name)
                window = {"filterHeight": 3, "filterWidth": 3, "strideH": 2, "strideW": 2}
                self.operator(tfl.BuiltinOperator.MAX_POOL_2D, [source], output, "Pool2D", padding=padding, **window)
            case Mean():
                self.mean(node)
            case Linear():
                self.linear(node)
            case Spread():
                size = self.constant(f"{node.name}/size", [node.height, node.width])
                inputs = [self.read(node.source, real=self.is_real(node.name)), size]
                # Of one cell, interpolation is repetition; the kernel for it is the one that every runtime has.
                self.operator(tfl.BuiltinOperator.RESIZE_BILINEAR, inputs, self.activation(node.name), "ResizeBilinear")
            case Stack():
                self.stack(node)

    def center(self, node: Center) -> None:
        cast = self.tensor(f"{node.name}/cast", (1, *self.graph.shapes[INPUT]), "float32")
        self.operator(
            tfl.BuiltinOperator.CAST,
            [self.index[INPUT]],
            cast,
            "Cast",
            inDataType=tfl.TensorType.UINT8,
            outDataType=tfl.TensorType.FLOAT32,
        )
        color = self.tensor(f"{node.name}/color", (3,), "float32", data=np.array(node.color, np.float32))
        self.operator(tfl.BuiltinOperator.SUB, [cast, color], self.activation(node.name), "Sub")

    def padded(self, name: str, kernel: int, stride: int, padding: Padding, *, real: bool) -> tuple[int, int]:
        """The tensor to convolve and TFLite's padding for it, with an explicit PAD where SAME means something else."""
        height, width, channels = self.graph.shapes[name]
        wanted = pads(height, kernel, stride, padding), pads(width, kernel, stride, padding)
        source = self.read(name, real=real)
        if wanted == (pads(height, kernel, stride, "same"), pads(width, kernel, stride, "same")):
            return source, tfl.Padding.SAME
        (top, bottom), (left, right) = wanted
        amounts = self.constant(f"{name}/pads", [[0, 0], [top, bottom], [left, right], [0, 0]])
        shape = (1, height + top + bottom, width + left + right, channels)
        output = self.activation(f"{name}/padded", like=name, shape=shape, real=real)
        self.operator(tfl.BuiltinOperator.PAD, [source, amounts], output, "Pad")
        return output, tfl.Padding.VALID

    def conv(self, node: Conv) -> None:
        real = self.is_real(node.name)
        source, padding = self.padded(node.source, node.reach, node.stride, node.padding, real=real)
        # OIHW to TFLite's OHWI, or 1HWO for depthwise
        weight = node.weight.transpose((1, 2, 3, 0) if node.depthwise else (0, 2, 3, 1))
        if real:
            weights = self.real_constant(f"{node.name}.weight", weight)
            bias = self.real_constant(f"{node.name}.bias", node.bias)
        else:
            quantization = self.graph.quantization
            assert quantization is not None
            scales = quantization.weights[node.name]
            weights = self.tensor(
                f"{node.name}.weight", weight.shape, "int8", (scales, 3 if node.depthwise else 0), weight
            )
            bias_scales = (scales * np.float32(quantization.activations[node.source].scale), 0)
            bias = self.tensor(f"{node.name}.bias", node.bias.shape, "int32", bias_scales, node.bias)
        options: dict[str, Any] = {
            "padding": padding,
            "strideH": node.stride,
            "strideW": node.stride,
            "dilationHFactor": node.dilation,
            "dilationWFactor": node.dilation,
            "fusedActivationFunction": _ACTIVATIONS[node.activation],
        }
        inputs, output = [source, weights, bias], self.activation(node.name)
        if node.depthwise:
            code, kind = tfl.BuiltinOperator.DEPTHWISE_CONV_2D, "DepthwiseConv2D"
            options["depthMultiplier"] = 1
        else:
            code, kind = tfl.BuiltinOperator.CONV_2D, "Conv2D"
        self.operator(code, inputs, output, kind, **options)

    def gather(self, node: Gather) -> None:
        height, width, _ = self.graph.shapes[node.name]
        pieces = []
        for k, (name, first, end) in enumerate(node.pieces):
            source = self.read(name, real=self.graph.quantization is None)
            if end - first == self.graph.shapes[name][2]:
                pieces.append(source)
                continue
            begin = self.constant(f"{node.name}/{k}/begin", [0, 0, 0, first])
            size = self.constant(f"{node.name}/{k}/size", [1, height, width, end - first])
            shape = (1, height, width, end - first)
            pieces.append(self.activation(f"{node.name}/{k}", like=name, shape=shape))
            self.operator(tfl.BuiltinOperator.SLICE, [source, begin, size], pieces[-1], "Slice")
        self.concatenate(node.name, pieces, axis=3)

    def concatenate(self, name: str, pieces: list[int], *, axis: int) -> None:
        while len(pieces) > 1:  # the oldest pieces are the smallest, so copying these twice costs least
            some, pieces = pieces[:_CONCATENATION_INPUTS], pieces[_CONCATENATION_INPUTS:]
            shape = list(self.tensors[some[0]].shape)
            shape[axis] = sum(self.tensors[piece].shape[axis] for piece in some)
            output = self.activation(name, shape=tuple(shape))
            self.operator(tfl.BuiltinOperator.CONCATENATION, some, output, "Concatenation", axis=axis)
            pieces.insert(0, output)
        self.index[name] = pieces[0]

    def stack(self, node: Stack) -> None:
        pieces = []
        for k, name in enumerate(node.sources):
            shape = (1, math.prod(self.graph.shapes[name]) // node.values, node.values)
            source = self.read(name, real=self.is_real(node.name))
            wanted = self.constant(f"{node.name}/{k}/shape", list(shape))
            pieces.append(self.activation(f"{node.name}/{k}", like=name, shape=shape, real=self.is_real(node.name)))
            self.operator(tfl.BuiltinOperator.RESHAPE, [source, wanted], pieces[-1], "Reshape", newShape=list(shape))
        self.concatenate(node.name, pieces, axis=1)

    def mean(self, node: Mean) -> None:
        """Average in float32: in an int8 graph the mean of 49 pixels holds more than eight bits can."""
        shape = self.graph.shapes[node.source]
        if node.as_map:
            source = self.read(node.source, real=self.is_real(node.name))
            axes = self.constant(f"{node.name}/axes", [1, 2])
            output = self.activation(node.name)
            self.operator(tfl.BuiltinOperator.MEAN, [source, axes], output, "Reducer", keepDims=True)
            return
        source = self.read(node.source, real=True)
        self.index[node.name] = self.tensor(node.name, (1, shape[2]), "float32")
        axes = self.constant(f"{node.name}/axes", [1, 2])
        self.operator(tfl.BuiltinOperator.MEAN, [source, axes], self.index[node.name], "Reducer", keepDims=False)

    def linear(self, node: Linear) -> None:
        """The classifier; int8 weights meet activations that the runtime quantises picture by picture.

        Their scales, one for each class, are operators of their own: runtimes from before 2024 (TensorFlow Lite's Task
        Library) take the first for all of a fully connected layer that quantises in this way, and say nothing.
        """
        quantization, shape, code = self.graph.quantization, (1, len(node.bias)), tfl.BuiltinOperator.FULLY_CONNECTED
        if quantization is None or node.name in quantization.in_float:
            weights = self.real_constant(f"{node.name}.weight", node.weight)
            bias = self.real_constant(f"{node.name}.bias", node.bias)
            self.index[node.name] = self.tensor(node.name, shape, "float32")
            inputs = [self.index[node.source], weights, bias]
            self.operator(code, inputs, self.index[node.name], "FullyConnected")
            return
        weights = self.tensor(f"{node.name}.weight", node.weight.shape, "int8", Scale(1.0, 0), node.weight)
        scales = self.tensor(f"{node.name}.scales", shape[1:], "float32", data=quantization.weights[node.name])
        bias = self.real_constant(f"{node.name}.bias", node.bias)
        sums, scaled, self.index[node.name] = (
            self.tensor(f"{node.name}{part}", shape, "float32") for part in ("/sums", "/scaled", "")
        )
        inputs = [self.index[node.source], weights, -1]
        self.operator(code, inputs, sums, "FullyConnected", asymmetricQuantizeInputs=True)
        self.operator(tfl.BuiltinOperator.MUL, [sums, scales], scaled, "Mul")
        self.operator(tfl.BuiltinOperator.ADD, [scaled, bias], self.index[node.name], "Add")

    def finish(self, metadata: Mapping[str, bytes]) -> bytes:
        outputs = []
        for answer, name in self.graph.outputs.items():
            made = self.index[name]
            outputs.append(self.read(name, real=True) if self.tensors[made].type == _TYPES[np.dtype("int8")] else made)
            if outputs[-1] != made:
                self.tensors[made].name = f"{name}/int8"
            self.tensors[outputs[-1]].name = answer
        if self.graph.spec.output == "probabilities":
            outputs[0] = self.softmax(outputs[0])
        if self.graph.spec.decoded:
            outputs = add_decoding(self, outputs)
        model = tfl.ModelT()
        model.version = _SCHEMA_VERSION
        model.description = f"fusiform {self.graph.spec.name}"
        model.operatorCodes = []
        for code, version in self.codes:
            entry = tfl.OperatorCodeT()
            entry.builtinCode = code
            entry.deprecatedBuiltinCode = min(code, 127)
            entry.version = version
            if code == tfl.BuiltinOperator.CUSTOM:
                entry.customCode = POSTPROCESS
            model.operatorCodes.append(entry)
        subgraph = tfl.SubGraphT()
        subgraph.name = "main"
        subgraph.tensors, subgraph.operators = self.tensors, self.operators
        subgraph.inputs, subgraph.outputs = self.inputs, outputs
        model.subgraphs = [subgraph]
        model.signatureDefs = [self.signature(outputs)]
        model.metadata = []
        for k, name in enumerate(metadata):
            entry = tfl.MetadataT()
            entry.name, entry.buffer = name, len(self.buffers) + k
            model.metadata.append(entry)
        model.buffers = [*self.buffers, *(_Buffer(data=data) for data in metadata.values())]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def softmax(self, logits: int) -> int:
        """Probabilities. The temperature is an operator of its own: few runtimes know a softmax that has one inside."""
        spec = self.graph.spec
        self.tensors[logits].name = "logits"
        if spec.temperature != 1:
            factor = self.tensor("sharpness", (1,), "float32", data=np.array([1 / spec.temperature], np.float32))
            tempered = self.tensor("tempered", (1, spec.num_classes), "float32")
            self.operator(tfl.BuiltinOperator.MUL, [logits, factor], tempered, "Mul")
            logits = tempered
        output = self.tensor(spec.output, (1, spec.num_classes), "float32")
        self.operator(tfl.BuiltinOperator.SOFTMAX, [logits], output, "Softmax", beta=1.0)
        return output

    def signature(self, outputs: list[int]) -> Any:
        """The names by which programs ask for input and answers, under TensorFlow's name for the only signature."""
        signature = tfl.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs, signature.outputs = (
            [tfl.TensorMapT(name=self.tensors[index].name, tensorIndex=index) for index in indices]
            for indices in (self.inputs, outputs)
        )
        return signature


_INT8_VERSIONS = {
    tfl.BuiltinOperator.CONV_2D: 3,
    tfl.BuiltinOperator.DEPTHWISE_CONV_2D: 3,
    tfl.BuiltinOperator.FULLY_CONNECTED: 9,
    tfl.BuiltinOperator.MEAN: 1,  # of real values, but for maps of one cell
    tfl.BuiltinOperator.RESHAPE: 1,
    # Of real values.
    tfl.BuiltinOperator.SUB: 1,
    tfl.BuiltinOperator.MUL: 1,
    tfl.BuiltinOperator.SOFTMAX: 1,
}
