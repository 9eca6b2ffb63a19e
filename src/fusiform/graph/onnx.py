"""Graphs as ONNX files, and back: the format that ONNX Runtime runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import MissingExtraError, SpecError, WeightsError
from fusiform.fields import show
from fusiform.graph.build import number_weights
from fusiform.graph.builder import POOL
from fusiform.graph.inputs import unscale_input
from fusiform.graph.ir import (
    INPUT,
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
    reads_pixels,
    sources,
)
from fusiform.spec import FEATURES, METADATA_KEY, ModelSpec, Padding

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from fusiform.graph.onnx_decoded import add_decoding
    from fusiform.graph.onnx_limits import check_growth, check_sizes
except ImportError:
    raise MissingExtraError("onnx", "onnx", "reading and writing ONNX files") from None

OPSET = 17
_NO_ZERO_POINT = f"{INPUT}/zero"
"""In files whose first bias has the pixels' zero point in it; earlier ones subtracted that from the pixels."""
IR_VERSION = 8  # what ONNX Runtime of 2022 reads


def to_onnx(graph: Graph, *, half: bool = False, metadata: Mapping[str, str] | None = None) -> bytes:
    """The graph as an ONNX model with its spec in ``metadata_props``, for batches of any size.

    A float32 graph reads normalised float32 NCHW pictures; an int8 graph, or one that starts with ``Center``, reads
    uint8 NHWC pixels. All give the network's answers in their order, float32, channels last, or where the spec says
    ``decoded`` what ``onnx_decoded.add_decoding`` makes of them, detectors for one picture. ``half`` stores the weights
    that are float32 as float16, in half the space; the runtime computes with them in float32. ``metadata`` is added
    under its names.
    """
    writer = _Writer(graph, half=half)
    for node in graph.nodes:
        writer.node(node)
    return writer.finish({METADATA_KEY: graph.spec.to_json(), **(metadata or {})})


def read_spec(data: bytes, *, source: str) -> ModelSpec:
    """The spec inside an ONNX file; raises WeightsError for other files, SpecError where it is missing or wrong."""
    model = _parse(data, source)
    try:
        entries = {entry.key: entry.value for entry in reversed(model.metadata_props)}  # the first of a name counts
    except UnicodeDecodeError:
        raise WeightsError(f"{source}: is damaged (its description is no text): fetch or export it again") from None
    if METADATA_KEY in entries:
        spec = ModelSpec.from_json(entries[METADATA_KEY], source=source)
        check_growth(model, source)
        return spec
    raise SpecError(
        f"{source}: carries no description by fusiform (labels, preprocessing); "
        f"write one with: fusiform port {source} --out FILE"
    )


def reads_uint8(data: bytes, *, source: str) -> bool:
    """Whether an ONNX file's first input takes uint8; raises WeightsError for other files."""
    model = _parse(data, source)
    return bool(model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8)


def from_onnx(data: bytes, *, source: str = "the file") -> Graph:
    """Read back what ``to_onnx`` wrote; ``source`` names the file in errors."""
    spec = read_spec(data, source=source)
    model = _parse(data, source)
    try:
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    except Exception as error:  # onnx and numpy raise many kinds for damaged files
        raise WeightsError(f"{source}: is damaged ({_reason(error)}): fetch or export it again") from None
    arrays |= {
        name: array.astype(np.float32)
        for name, array in arrays.items()
        if name.endswith((".weight", ".bias")) and array.dtype == np.float16
    }
    try:
        made = {output for node in model.graph.node for output in node.output}
        weights = {name[: -len(".weight")]: array for name, array in arrays.items() if name.endswith(".weight")}
        weights = {name: array.T if array.ndim == 2 else array for name, array in weights.items()}
        template = number_weights(spec, weights).nodes
        _check_arrays(template, arrays, spec)
        nodes = tuple(
            dataclasses.replace(node, weight=np.ascontiguousarray(weights[node.name]), bias=arrays[f"{node.name}.bias"])
            if isinstance(node, Conv | Linear)
            else node
            for node in template
        )
        if all(weight.dtype == np.float32 for weight in weights.values()):
            graph = Graph(spec, nodes)
            return (
                unscale_input(graph) if model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8 else graph
            )
        in_float = frozenset(
            node.name
            for node in nodes
            if (isinstance(node, Conv | Linear) and node.weight.dtype == np.float32)
            or (isinstance(node, Add) and f"{node.name}/int8" not in made)
        )
        activations = {
            name: Scale(float(arrays[f"{name}/scale"]), int(arrays[f"{name}/zero_point"]) - 128)
            for name in (INPUT, *(node.name for node in nodes))
            if f"{name}/scale" in arrays
        }
        scales = {name: arrays[f"{name}.weight/scale"] for name in weights if name not in in_float}
        quantization = Quantization(activations, scales, in_float)
        if _NO_ZERO_POINT in arrays:
            nodes = tuple(
                dataclasses.replace(node, bias=node.bias + _of_zero(node, quantization))
                if isinstance(node, Conv) and node.source == INPUT
                else node
                for node in nodes
            )
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from None
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise WeightsError(
            f"{source}: was not written by fusiform ({_reason(error)}); port it: fusiform port {source}"
        ) from None
    return Graph(spec, nodes, quantization)


def add_features(data: bytes, spec: ModelSpec, *, source: str) -> bytes:
    """The file of a classifier that ``spec`` describes, with the features, which its last layer reads, as an answer.

    Raises WeightsError, which names ``source``, for a file that fusiform did not write.
    """
    model = _parse(data, source)
    if not any(name == POOL for node in model.graph.node for name in node.output):
        raise WeightsError(
            f"{source}: has no features that fusiform knows: write it again with fusiform export {source} --to onnx "
            "--features"
        )
    model.graph.node.append(helper.make_node("Identity", [POOL], [FEATURES], name=FEATURES))
    answer = helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["N", spec.num_features])
    model.graph.output.append(answer)
    return bytes(model.SerializeToString(deterministic=True))


def _parse(data: bytes, source: str) -> Any:
    try:
        model = onnx.load_from_string(data)
    except Exception:  # protobuf's DecodeError is not ours to import
        raise WeightsError(f"{source}: not an ONNX file, or a damaged one") from None
    if not model.graph.node:
        raise WeightsError(f"{source}: not an ONNX file, or an empty one")
    check_sizes(model, source)
    if not (model.graph.input and model.graph.output):
        raise WeightsError(f"{source}: has no input or no output: fetch or export it again")
    return model


def _check_arrays(template: Sequence[Node], arrays: Mapping[str, NDArray[Any]], spec: ModelSpec) -> None:
    """ValueError for constants that are no weights, and WeightsError for those of another number of classes."""
    for node in template:
        if not isinstance(node, Conv | Linear):
            continue
        weight, bias = arrays[f"{node.name}.weight"], arrays[f"{node.name}.bias"]
        if f"{weight.dtype} {bias.dtype}" not in ("float32 float32", "int8 int32", "int8 float32"):
            raise ValueError(f"{node.name} has weights in {weight.dtype} and {bias.dtype}")
        if bias.shape != node.bias.shape:
            raise ValueError(f"{node.name}.bias has the shape {bias.shape}")
        scale = arrays.get(f"{node.name}.weight/scale")
        if weight.dtype == np.int8 and (scale is None or scale.shape not in ((), (1,), bias.shape)):
            raise ValueError(f"{node.name}.weight has no scales, or too many")
    last = template[-1]
    if isinstance(last, Linear) and len(last.bias) != spec.num_classes:
        raise WeightsError(f"the weights answer with {len(last.bias)} classes, the spec names {spec.num_classes}")


def _reason(error: Exception) -> str:
    """What a library says of a fault, in a line."""
    return show(str(error)) if isinstance(error, ValueError) else show(f"{type(error).__name__}: {error}")


def _of_zero(node: Conv, quantization: Quantization) -> NDArray[np.int32]:
    """What the first convolution makes of the grey that stands for zero, in the steps of its bias."""
    zero = quantization.activations[INPUT].zero_point + 128
    return np.asarray(zero * node.weight.sum((1, 2, 3), dtype=np.int32), np.int32)


class _Writer:
    """``index`` is the value of each activation as it is made: uint8 in a quantised graph, but for nodes in float.

    uint8, because on x86 they meet int8 weights in the fastest instruction.
    """

    def __init__(self, graph: Graph, *, half: bool) -> None:
        self.graph, self.half = graph, half
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.index = {INPUT: INPUT}
        self.output = next(iter(graph.outputs))
        # Suppression answers with as many boxes as there are, which only one picture at a time keeps apart.
        batch = 1 if graph.spec.decoded and graph.spec.task == "detection" else "N"
        self.rounded: dict[str, str] = {}
        self.plain: dict[str, str] = {}
        size, _, channels = graph.shapes[INPUT]
        if not reads_pixels(graph):
            self.input = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [batch, channels, size, size])
            return
        self.input = helper.make_tensor_value_info("pixels", TensorProto.UINT8, [batch, size, size, channels])
        if any(INPUT in sources(node) and self.is_real(node.name) for node in graph.nodes):
            self.add("Transpose", ["pixels"], INPUT, perm=[0, 3, 1, 2])
        if graph.quantization is not None:
            for name, scale in graph.quantization.activations.items():
                self.constant(f"{name}/scale", np.float32(scale.scale))
                self.constant(f"{name}/zero_point", np.uint8(scale.zero_point + 128))

    def is_real(self, name: str) -> bool:
        """Whether the node of this name is computed, and its activation kept, in float32."""
        quantization = self.graph.quantization
        return quantization is None or name in quantization.in_float

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def real(self, name: str, *, rounded: bool) -> str:
        """The float32 form of an activation, ``rounded`` to its scale for a node in int8."""
        if self.is_real(name) and not rounded:
            return self.index[name]
        scale = [f"{name}/scale", f"{name}/zero_point"]
        return self.add("DequantizeLinear", [self.int8(name), *scale], f"{name}/real/{len(self.nodes)}")

    def computed(self, name: str) -> str:
        """The float32 form of an activation for a convolution in float, without a DequantizeLinear.

        ONNX Runtime takes a convolution between that and a QuantizeLinear for an int8 one, and rounds its float32
        weights (WeightBiasQuantization, 1.31).
        """
        if self.is_real(name):
            return self.index[name]
        if name not in self.plain:
            real = self.add("Cast", [self.index[name]], f"{name}/plain/cast", to=TensorProto.FLOAT)
            assert self.graph.quantization is not None
            zero = np.float32(self.graph.quantization.activations[name].zero_point + 128)
            real = self.add("Sub", [real, self.constant(f"{name}/plain/zero", zero)], f"{name}/plain/sub")
            self.plain[name] = self.add("Mul", [real, f"{name}/scale"], f"{name}/plain")
        return self.plain[name]

    def int8(self, name: str) -> str:
        """The form of an activation that is moved about: uint8 in a quantised graph."""
        if self.graph.quantization is None or not self.is_real(name):
            return self.index[name]
        if name not in self.rounded:
            self.rounded[name] = self.quantized(name, self.index[name], f"{name}/rounded")
        return self.rounded[name]

    def quantized(self, name: str, value: str, output: str) -> str:
        return self.add("QuantizeLinear", [value, f"{name}/scale", f"{name}/zero_point"], output)

    def store(self, name: str, value: str) -> None:
        """Let ``value`` be the activation ``name``; int8's range does the clipping of ReLU and ReLU6."""
        self.index[name] = value if self.is_real(name) else self.quantized(name, value, f"{name}/int8")

    def real_constant(self, name: str, values: Any) -> str:
        """A float32 constant, stored as float16 where that is asked for."""
        if not self.half:
            return self.constant(name, values)
        self.constant(name, values.astype(np.float16))
        return self.add("Cast", [name], f"{name}/real", to=TensorProto.FLOAT)

    def weight(self, node: Conv | Linear) -> str:
        name = f"{node.name}.weight"
        array = node.weight if isinstance(node, Conv) else np.ascontiguousarray(node.weight.T)
        if self.is_real(node.name):
            return self.real_constant(name, array)
        self.constant(name, array)
        if isinstance(node, Linear):
            return name
        assert self.graph.quantization is not None
        scales = self.graph.quantization.weights[node.name]
        self.constant(f"{name}/scale", scales)
        self.constant(f"{name}/zero_point", np.zeros(len(scales), np.int8))
        return self.add("DequantizeLinear", [name, f"{name}/scale", f"{name}/zero_point"], f"{name}/real", axis=0)

    def bias(self, node: Conv) -> str:
        name = f"{node.name}.bias"
        if self.is_real(node.name):
            return self.real_constant(name, node.bias)
        quantization = self.graph.quantization
        assert quantization is not None
        self.constant(name, node.bias - _of_zero(node, quantization) if node.source == INPUT else node.bias)
        scales = quantization.weights[node.name] * np.float32(quantization.activations[node.source].scale)
        self.constant(f"{name}/scale", scales)
        self.constant(f"{name}/zero_point", np.zeros(len(scales), np.int32))
        return self.add("DequantizeLinear", [name, f"{name}/scale", f"{name}/zero_point"], f"{name}/real", axis=0)

    def padded_pixels(self, padding: list[int]) -> str:
        """The pixels with their zero point around them, as real numbers that have none.

        What is to be subtracted from every pixel is in the bias instead: a convolution that pads with another number
        than zero is one that OpenVINO computes in float32. The pixels are planes last of all, where OpenVINO, which
        keeps channels last, has nothing to move.
        """
        top, left, bottom, right = padding
        amounts = self.constant(f"{INPUT}/pads", np.array([0, top, left, 0, 0, bottom, right, 0], np.int64))
        padded = self.add("Pad", ["pixels", amounts, f"{INPUT}/zero_point"], f"{INPUT}/padded")
        scale = [f"{INPUT}/scale", self.constant(_NO_ZERO_POINT, np.uint8(0))]
        real = self.add("DequantizeLinear", [padded, *scale], f"{INPUT}/padded/real")
        return self.add("Transpose", [real], f"{INPUT}/planes", perm=[0, 3, 1, 2])

    def pads(self, name: str, kernel: int, stride: int, padding: Padding) -> list[int]:
        height, width, _ = self.graph.shapes[name]
        (top, bottom), (left, right) = pads(height, kernel, stride, padding), pads(width, kernel, stride, padding)
        return [top, left, bottom, right]

    def node(self, node: Node) -> None:
        match node:
            case Center():
                real = self.add("Cast", [self.index[INPUT]], f"{node.name}/cast", to=TensorProto.FLOAT)
                color = np.array(node.color, np.float32)[None, :, None, None]
                self.index[node.name] = self.add("Sub", [real, self.constant(f"{node.name}/color", color)], node.name)
            case Conv():
                padding = self.pads(node.source, node.reach, node.stride, node.padding)
                if self.is_real(node.name):
                    source = self.computed(node.source)
                elif node.source == INPUT:
                    source, padding = self.padded_pixels(padding), [0] * 4
                else:
                    source = self.real(node.source, rounded=True)
                output = self.add(
                    "Conv",
                    [source, self.weight(node), self.bias(node)],
                    f"{node.name}/conv",
                    kernel_shape=[node.kernel] * 2,
                    strides=[node.stride] * 2,
                    pads=padding,
                    group=node.groups,
                    **({"dilations": [node.dilation] * 2} if node.dilation > 1 else {}),
                )
                if self.is_real(node.name) and node.activation == "relu":
                    output = self.add("Relu", [output], f"{node.name}/relu")
                elif self.is_real(node.name) and node.activation == "relu6":
                    limits = [self.constant(f"{node.name}/{limit}", np.float32(limit)) for limit in (0, 6)]
                    output = self.add("Clip", [output, *limits], f"{node.name}/relu6")
                self.store(node.name, output)
            case Add():
                both = [self.real(name, rounded=not self.is_real(node.name)) for name in (node.left, node.right)]
                self.store(node.name, self.add("Add", both, f"{node.name}/add"))
            case Gather():
                self.gather(node)
            case MaxPool():
                padding = self.pads(node.source, 3, 2, node.padding)
                self.index[node.name] = self.add(
                    "MaxPool", [self.int8(node.source)], node.name, kernel_shape=[3, 3], strides=[2, 2], pads=padding
                )
            case Mean():
                pooled = self.add("GlobalAveragePool", [self.real(node.source, rounded=False)], f"{node.name}/pool")
                if node.as_map:
                    self.store(node.name, pooled)
                else:
                    self.index[node.name] = self.add("Flatten", [pooled], node.name)
            case Linear():
                self.linear(node)
            case Spread():
                shape = self.constant(f"{node.name}/shape", np.array([1, 1, node.height, node.width], np.int64))
                self.index[node.name] = self.add("Expand", [self.int8(node.source), shape], node.name)
            case Stack():
                self.stack(node)

    def gather(self, node: Gather) -> None:
        pieces = []
        for k, (name, first, end) in enumerate(node.pieces):
            if end - first == self.graph.shapes[name][2]:
                pieces.append(self.int8(name))
                continue
            bounds = [
                self.constant(f"{node.name}/{k}/{what}", np.array([value], np.int64))
                for what, value in (("start", first), ("end", end), ("axis", 1))
            ]
            pieces.append(self.add("Slice", [self.int8(name), *bounds], f"{node.name}/{k}"))
        if len(pieces) > 1:
            pieces = [self.add("Concat", pieces, node.name, axis=1)]
        self.index[node.name] = pieces[0]

    def stack(self, node: Stack) -> None:
        pieces = []
        rows = self.constant(f"{node.name}/rows", np.array([0, -1, node.values], np.int64))
        for k, name in enumerate(node.sources):
            last = self.add("Transpose", [self.int8(name)], f"{node.name}/{k}/last", perm=[0, 2, 3, 1])
            pieces.append(self.add("Reshape", [last, rows], f"{node.name}/{k}"))
        self.index[node.name] = self.add("Concat", pieces, f"{node.name}/stack", axis=1)

    def linear(self, node: Linear) -> None:
        """The classifier; in int8, each picture's features are divided by their largest before they are rounded.

        So the scale is a constant and yet each picture's own, as with LiteRT. DynamicQuantizeLinear makes one for the
        whole batch, and OpenVINO computes what follows it in float32. A scale from the map that was averaged would be
        too coarse: averages fill a fifth of its range in ShuffleNetV2.
        """
        name, features, weight = node.name, self.index[node.source], self.weight(node)
        bias = self.real_constant(f"{name}.bias", node.bias)
        if self.is_real(name):
            self.index[name] = self.add("Gemm", [features, weight, bias], self.output)
            return
        quantization = self.graph.quantization
        assert quantization is not None
        averaged = next(made.source for made in self.graph.nodes if isinstance(made, Mean) and made.name == node.source)
        assert quantization.activations[averaged].zero_point == -128, "the features of a classifier are not negative"
        of_weight = [
            self.constant(f"{weight}/scale", quantization.weights[name]),
            self.constant(f"{weight}/zero_point", np.zeros(len(node.bias), np.int8)),
        ]
        weight = self.add("DequantizeLinear", [weight, *of_weight], f"{weight}/real", axis=1)
        largest = self.add("ReduceMax", [features], f"{name}/largest", axes=[1], keepdims=1)
        least = self.constant(f"{name}/least", np.float32(1e-6))  # of a picture without features
        largest = self.add("Max", [largest, least], f"{name}/divisor")
        share = self.add("Div", [features, largest], f"{name}/share")
        of_share = [
            self.constant(f"{name}/share/scale", np.float32(1 / 255)),
            self.constant(f"{name}/share/zero_point", np.uint8(0)),
        ]
        rounded = self.add("QuantizeLinear", [share, *of_share], f"{name}/share/int8")
        share = self.add("DequantizeLinear", [rounded, *of_share], f"{name}/share/real")
        product = self.add("Gemm", [share, weight], f"{name}/product")
        product = self.add("Mul", [product, largest], f"{name}/real")
        self.index[name] = self.add("Add", [product, bias], self.output)

    def made(self, name: str) -> str:
        """The float32 form of what the node of this name answers."""
        quantization = self.graph.quantization
        if quantization is None or name in quantization.in_float or name not in quantization.activations:
            return self.index[name]
        return self.add("DequantizeLinear", [self.index[name], f"{name}/scale", f"{name}/zero_point"], f"{name}/real")

    def answers(self, made: Mapping[str, str]) -> list[Any]:
        """The answers as the file gives them, channels last."""
        outputs = []
        for answer, real in made.items():
            shape = self.graph.spec.network_answers[answer]
            outputs.append(helper.make_tensor_value_info(answer, TensorProto.FLOAT, ["N", *shape]))
            if real == answer:
                continue
            if self.graph.spec.task == "segmentation":
                self.add("Transpose", [real], answer, perm=[0, 2, 3, 1])
            else:
                self.add("Identity", [real], answer)
        return outputs

    def finish(self, metadata: Mapping[str, str]) -> bytes:
        spec = self.graph.spec
        made = {answer: self.made(name) for answer, name in self.graph.outputs.items()}
        outputs = add_decoding(self, made) if spec.decoded else self.answers(made)
        body = helper.make_graph(self.nodes, spec.name, [self.input], outputs, self.constants)
        model = helper.make_model(
            body, producer_name="fusiform", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString(deterministic=True))
