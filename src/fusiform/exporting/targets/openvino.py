"""OpenVINO IR: what Intel's runtime reads, on processors, graphics and NPUs.

An ``.xml`` with the network beside a ``.bin`` with the weights; ``openvino.Core().read_model("NAME.xml")`` opens both.
The network is made of OpenVINO's own operators, not read from our ONNX file: its reader numbers what it makes by the
order in the process, so that no two files would be the same, and needs five times the description.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fusiform.engines.openvino import open_core
from fusiform.engines.quiet import import_openvino
from fusiform.errors import MissingExtraError
from fusiform.exporting.targets.base import Precision, Written, file_stem
from fusiform.exporting.targets.model_info import model_info
from fusiform.exporting.targets.openvino_decoded import add_decoding
from fusiform.files import write_file
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
    Spread,
    Stack,
    pads,
    reads_pixels,
)
from fusiform.report import Cell


def write(graph: Graph, precision: Precision, folder: Path) -> list[Written]:
    """Write a graph as ``NAME_PRECISION.xml`` and ``.bin``, for batches of any size.

    A float32 graph reads normalised float32 NCHW pictures; an int8 graph, or one that starts with ``Center``, reads
    uint8 NHWC pixels. All give the network's answers under their names, float32: logits (N, classes) of a classifier,
    logits (N, priors, 1 + classes) and codes (N, priors, 4) of a detector, logits (N, rows, columns, classes) of a
    segmenter; or where the spec says ``decoded`` what ``openvino_decoded.add_decoding`` makes of them. ``float16``
    stores the weights in half the space; what is computed in is the device's choice. ``int8`` stores int8 weights, and
    OpenVINO computes in int8 what stands between ``FakeQuantize`` operators: of all convolutions and the classifier
    (``layers``) the figures count those that it does on this machine (``int8_layers``); the classifier is in float32,
    with int8 weights. The spec lies in ``rt_info`` under ``fusiform``, and under ``model_info`` what Model API reads.
    Raises MissingExtraError without OpenVINO.
    """
    try:
        openvino = import_openvino()
    except ImportError:
        raise MissingExtraError("openvino", "openvino", "exporting to OpenVINO") from None
    model = to_openvino(graph)
    for keys, value in _rt_info(graph).items():
        model.set_rt_info(value, list(keys))
    name = file_stem(graph.spec, precision)
    with tempfile.TemporaryDirectory() as temporary:
        saved = Path(temporary) / f"{name}.xml"
        half = precision == "float16"
        openvino.save_model(model, saved, compress_to_fp16=half)
        weights = saved.with_suffix(".bin").read_bytes()
        # The runtime takes any file that is long enough for the weights; this tells that it is the right one.
        model.set_rt_info(hashlib.sha256(weights).hexdigest(), ["fusiform", "weights_sha256"])
        openvino.save_model(model, saved, compress_to_fp16=half)
        description = saved.read_bytes()
    files = folder / f"{name}.xml", folder / f"{name}.bin"
    write_file(files[1], weights)
    write_file(files[0], description)
    return [Written(files[0], files, _int8_layers(model) if graph.quantization is not None else {})]


def to_openvino(graph: Graph) -> Any:
    """The graph as an ``openvino.Model``, without a description of itself."""
    writer = _Writer(graph)
    for node in graph.nodes:
        writer.node(node)
    return writer.finish()


def _int8_layers(model: Any) -> Mapping[str, Cell]:
    """How many convolutions and classifiers the compiled network has, and how many of them compute in int8."""
    compiled = open_core("computing with OpenVINO").compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    details = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kernels = [  # such as brgconv_avx512_dw_I8
        detail["primitiveType"].astype(str).lower()
        for detail in details
        if detail["layerType"].astype(str) in ("Convolution", "FullyConnected", "MatMul")
    ]
    return {"int8_layers": sum(kernel.endswith("_i8") for kernel in kernels), "layers": len(kernels)}


def _rt_info(graph: Graph) -> dict[tuple[str, str], str]:
    spec = graph.spec
    info = {("fusiform", "spec"): spec.to_json()}
    info |= {("model_info", key): value for key, value in model_info(spec, reads_pixels=reads_pixels(graph)).items()}
    return info


class _Writer:
    """``made`` is the value of each activation as its node computes it, ``rounded`` the one rounded to int8.

    What only moves values about, or takes the largest, makes rounded ones of rounded ones.
    """

    def __init__(self, graph: Graph) -> None:
        import_openvino()
        from openvino import Layout, PartialShape, Type, layout_helpers
        from openvino import opset8 as ops

        self.graph = graph
        self.ops = ops
        size, _, channels = graph.shapes[INPUT]
        self.pixels = reads_pixels(graph)
        self.made: dict[str, Any] = {}
        self.rounded: dict[str, Any] = {}
        if self.pixels:
            self.input = ops.parameter(PartialShape([-1, size, size, channels]), Type.u8, name="pixels")
            order = self.constant(f"{INPUT}/order", np.array([0, 3, 1, 2], np.int64))
            planes = ops.transpose(self.input, order, name=f"{INPUT}/planes")
            self.made[INPUT] = ops.convert(planes, "f32", name=INPUT)
        else:
            self.input = ops.parameter(PartialShape([-1, channels, size, size]), Type.f32, name=INPUT)
            self.made[INPUT] = self.input
        self.input.output(0).set_names({self.input.get_friendly_name()})
        layout_helpers.set_layout(self.input.output(0), Layout("NHWC" if self.pixels else "NCHW"))

    def constant(self, name: str, values: Any) -> Any:
        return self.ops.constant(np.ascontiguousarray(values), name=name)

    def in_float(self, name: str) -> bool:
        quantization = self.graph.quantization
        return quantization is None or name in quantization.in_float

    def real(self, name: str, reader: str) -> Any:
        """An activation as the node ``reader`` takes it: as it was made from one node in float to the other."""
        quantization = self.graph.quantization
        if quantization is None or name not in quantization.activations:
            return self.made[name]
        if name in quantization.in_float and reader in quantization.in_float:
            return self.made[name]
        if name not in self.rounded:
            self.rounded[name] = self.fake_quantize(name)
        return self.rounded[name]

    def fake_quantize(self, name: str) -> Any:
        """The activation rounded to its scale; int8's range does the clipping of ReLU and ReLU6."""
        assert self.graph.quantization is not None
        scale = self.graph.quantization.activations[name]
        low, high = (scale.scale * (value - scale.zero_point) for value in (-128, 127))
        limits = [self.constant(f"{name}/{what}", np.float32(value)) for what, value in (("low", low), ("high", high))]
        given = limits
        if name == INPUT:  # pixels, of which the zero point is subtracted in the same step
            given = [self.constant(f"{name}/{what}", np.float32(what)) for what in (0, 255)]
        return self.ops.fake_quantize(self.made[name], *given, *limits, 256, name=f"{name}/int8")

    def weight(self, node: Conv | Linear, array: Any) -> Any:
        """The weights in float32, made from int8 where they are stored so."""
        if self.in_float(node.name):
            return self.constant(f"{node.name}.weight", array)
        assert self.graph.quantization is not None
        scales = self.graph.quantization.weights[node.name]
        # A depthwise weight starts with its groups, all others with their outputs.
        shape = (array.shape[0], *(array.ndim - 1) * [1])
        if isinstance(node, Conv) and node.depthwise:
            shape = (*array.shape[:2], 1, 1, 1)
        stored = self.ops.convert(self.constant(f"{node.name}.weight", array), "f32", name=f"{node.name}.weight/f32")
        scale = self.constant(f"{node.name}.weight/scale", scales.reshape(shape))
        return self.ops.multiply(stored, scale, name=f"{node.name}.weight/real")

    def bias(self, node: Conv) -> Any:
        if self.in_float(node.name):
            return node.bias
        quantization = self.graph.quantization
        assert quantization is not None
        return node.bias * (quantization.weights[node.name] * np.float32(quantization.activations[node.source].scale))

    def padding(self, source: str, kernel: int, stride: int, padding: Any) -> tuple[list[int], list[int]]:
        """Rows and columns of padding before, and after."""
        height, width, _ = self.graph.shapes[source]
        (top, bottom), (left, right) = (pads(size, kernel, stride, padding) for size in (height, width))
        return [top, left], [bottom, right]

    def node(self, node: Node) -> None:
        match node:
            case Center():
                color = self.constant(f"{node.name}/color", np.array(node.color, np.float32).reshape(1, -1, 1, 1))
                self.made[node.name] = self.ops.subtract(self.made[INPUT], color, name=node.name)
            case Conv():
                self.made[node.name] = self.conv(node)
            case Add():
                terms = [self.real(source, node.name) for source in (node.left, node.right)]
                self.made[node.name] = self.ops.add(*terms, name=node.name)
            case Gather():
                self.made[node.name] = self.rounded[node.name] = self.gather(node)
            case MaxPool():
                begin, end = self.padding(node.source, 3, 2, node.padding)
                source = self.real(node.source, node.name)
                x = self.ops.max_pool(source, [2, 2], [1, 1], begin, end, [3, 3], name=node.name)
                self.made[node.name] = self.rounded[node.name] = x.output(0)  # the other one: where the maxima are
            case Mean():
                axes = self.constant(f"{node.name}/axes", np.array([2, 3], np.int64))
                source = self.real(node.source, node.name)
                self.made[node.name] = self.ops.reduce_mean(source, axes, node.as_map, name=node.name)
            case Linear():
                weight = self.weight(node, node.weight)
                product = self.ops.matmul(
                    self.real(node.source, node.name), weight, False, True, name=f"{node.name}/product"
                )
                bias = self.constant(f"{node.name}.bias", node.bias.reshape(1, -1))
                self.made[node.name] = self.ops.add(product, bias, name=node.name)
            case Spread():
                shape = self.constant(f"{node.name}/shape", np.array([1, 1, node.height, node.width], np.int64))
                x = self.ops.broadcast(
                    self.real(node.source, node.name), shape, broadcast_spec="BIDIRECTIONAL", name=node.name
                )
                self.made[node.name] = self.rounded[node.name] = x
            case Stack():
                self.made[node.name] = self.rounded[node.name] = self.stack(node)

    def conv(self, node: Conv) -> Any:
        begin, end = self.padding(node.source, node.reach, node.stride, node.padding)
        source, array = self.real(node.source, node.name), node.weight
        strides, dilations = [node.stride] * 2, [node.dilation] * 2
        if node.depthwise:
            array = array.reshape(node.groups, -1, *array.shape[1:])
        convolution = self.ops.group_convolution if node.depthwise else self.ops.convolution
        x = convolution(source, self.weight(node, array), strides, begin, end, dilations, name=f"{node.name}/conv")
        bias = self.constant(f"{node.name}.bias", np.asarray(self.bias(node), np.float32).reshape(1, -1, 1, 1))
        plain = node.activation is None or not self.in_float(node.name)
        x = self.ops.add(x, bias, name=node.name if plain else f"{node.name}/biased")
        if plain:
            return x
        if node.activation == "relu":
            return self.ops.relu(x, name=node.name)
        return self.ops.clamp(x, 0, 6, name=node.name)

    def gather(self, node: Gather) -> Any:
        pieces = []
        for k, (name, first, end) in enumerate(node.pieces):
            piece = self.real(name, node.name)
            if end - first < self.graph.shapes[name][2]:
                bounds = [
                    self.constant(f"{node.name}/{k}/{what}", np.array([value], np.int64))
                    for what, value in (("first", first), ("end", end), ("step", 1), ("axis", 1))
                ]
                piece = self.ops.slice(piece, *bounds, name=f"{node.name}/{k}")
            pieces.append(piece)
        return self.ops.concat(pieces, 1, name=node.name) if len(pieces) > 1 else pieces[0]

    def stack(self, node: Stack) -> Any:
        pieces = []
        order = self.constant(f"{node.name}/order", np.array([0, 2, 3, 1], np.int64))
        rows = self.constant(f"{node.name}/rows", np.array([0, -1, node.values], np.int64))
        for k, name in enumerate(node.sources):
            last = self.ops.transpose(self.real(name, node.name), order, name=f"{node.name}/{k}/last")
            pieces.append(self.ops.reshape(last, rows, True, name=f"{node.name}/{k}"))
        return self.ops.concat(pieces, 1, name=node.name)

    def answer(self, name: str) -> Any:
        """What the node of this name makes, rounded where it is int8 elsewhere."""
        quantization = self.graph.quantization
        value = self.made[name]
        if quantization is not None and name in quantization.activations and name not in quantization.in_float:
            value = self.real(name, "")
        return value

    def channels_last(self, name: str, value: Any) -> Any:
        """An answer as the file gives it."""
        if self.graph.spec.task != "segmentation":
            return value
        order = self.constant(f"{name}/order", np.array([0, 2, 3, 1], np.int64))
        return self.ops.transpose(value, order, name=f"{name}/last")

    def finish(self) -> Any:
        from openvino import Model

        outputs = {answer: self.answer(name) for answer, name in self.graph.outputs.items()}
        if self.graph.spec.decoded:
            outputs = add_decoding(self, outputs)
        else:
            names = self.graph.outputs
            outputs = {answer: self.channels_last(names[answer], value) for answer, value in outputs.items()}
        results = []
        for answer, output in outputs.items():
            output.output(0).set_names({answer})
            results.append(self.ops.result(output, name=answer))
        return Model(results, [self.input], self.graph.spec.name)
