"""ExecuTorch programs: one file for phones and embedded boards, its arithmetic done by XNNPACK.

A quantised graph becomes explicit quantise and dequantise operators, the form that PyTorch's own quantiser hands over
and XNNPACK's partitioner knows: it turns dequantise, convolve, quantise into one int8 convolution.
"""

from __future__ import annotations

import math
import operator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from fusiform.engines.quiet import quietly
from fusiform.errors import MissingExtraError
from fusiform.exporting.targets.base import Precision, Written, file_stem
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
    Scale,
    Spread,
    Stack,
    pads,
    reads_pixels,
)
from fusiform.spec import Padding
from fusiform.zoo.programs import EXECUTORCH_DIGEST, EXECUTORCH_SPEC, NO_DIGEST, executorch_digest

# The largest bias to which the products of the longest sum can be added without leaving int32, where they would wrap.
_LARGEST_BIAS = 2**31 - 2**26


def write(graph: Graph, precision: Precision, folder: Path) -> list[Written]:
    """Write ``NAME_PRECISION.pte`` for XNNPACK: float32 graphs for ``float32``, quantised ones for ``int8``.

    ``forward`` takes one float32 picture (1, channels, size, size), (pixel / 255 - mean) / std in the file's own
    ``mean`` and ``std``, and gives the spec's answers in their order, float32: logits (1, classes) of a classifier,
    logits (1, priors, 1 + classes) and codes (1, priors, 4) of a detector, logits (1, rows, columns, classes) of a
    segmenter. Where the network normalises by itself, as every int8 one does, the file's mean is 0 and its std
    1 / 255: it takes the pixels as they are. The constant methods ``fusiform_spec`` (JSON), ``labels``,
    ``input_size``, ``mean``, ``std``, ``color_order`` and ``reads_pixels`` say so to an app in any language; a
    detector's logits have the background before the labels.

    The figures count the operators that XNNPACK runs and those that it does not. In an int8 file the classifier has
    int8 weights and quantises the features of each picture by their own range, as LiteRT does.

    Raises MissingExtraError without executorch.
    """
    spec = graph.spec
    module = _Writer(graph).finish()
    example = torch.zeros(1, spec.input_channels, spec.input_size, spec.input_size)
    with quietly():
        try:
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
        except ImportError:
            raise MissingExtraError("executorch", "executorch", "writing ExecuTorch programs") from None
        edge = to_edge_transform_and_lower(
            torch.export.export(module, (example,)),
            partitioner=[XnnpackPartitioner()],
            # The check knows no quantised operators.
            compile_config=EdgeCompileConfig(_check_ir_validity=graph.quantization is None),
            constant_methods=_constants(graph),
        )
        delegated, others = _count(edge.exported_program().graph_module)
        data = bytes(edge.to_executorch().buffer)
    path = folder / f"{file_stem(spec, precision)}.pte"
    write_file(path, data.replace(NO_DIGEST.encode(), executorch_digest(data)))
    return [Written(path, (path,), {"delegated": delegated, "not_delegated": others})]


def _constants(graph: Graph) -> dict[str, Any]:
    """What the file says of itself: each becomes a method without arguments."""
    spec, pixels = graph.spec, reads_pixels(graph)
    return {
        EXECUTORCH_SPEC: spec.to_json(),
        EXECUTORCH_DIGEST: NO_DIGEST,
        "labels": list(spec.labels),
        "input_size": spec.input_size,
        "mean": [0.0, 0.0, 0.0] if pixels else [float(value) for value in spec.preprocess.mean],
        "std": [1 / 255] * 3 if pixels else [float(value) for value in spec.preprocess.std],
        "color_order": spec.preprocess.color_order,
        "reads_pixels": pixels,
    }


def _count(lowered: fx.GraphModule) -> tuple[int, int]:
    """How many operators the delegates run, and how many are left to ExecuTorch's own kernels."""
    delegated = others = 0
    for node in lowered.graph.nodes:
        if node.op != "call_function" or node.target is operator.getitem:
            continue
        if getattr(node.target, "__name__", "") == "executorch_call_delegate":
            inner = getattr(lowered, node.args[0].target).original_module.graph
            delegated += sum(n.op == "call_function" and n.target is not operator.getitem for n in inner.nodes)
        else:
            others += 1
    return delegated, others


class _Writer:
    """``made`` is each activation as its node makes it: int8 in a quantised graph, but for nodes in float.

    Every reader has a dequantisation of its own: XNNPACK fuses it into that reader.
    """

    def __init__(self, graph: Graph) -> None:
        # The operators' library: PyTorch registers them when this is imported.
        from torch.ao.quantization.fx import _decomposed  # noqa: F401

        self.graph = graph
        self.root = nn.Module()
        self.lines = fx.Graph()
        given = self.lines.placeholder("pixels" if reads_pixels(graph) else INPUT, type_expr=Tensor)
        self.made = {INPUT: given}
        self.rounded: dict[str, fx.Node] = {}
        if graph.quantization is not None:
            scale = graph.quantization.activations[INPUT]
            grey = self.constant("grey", np.full((1, 1, 1, 1), scale.zero_point + 128, np.float32))
            self.made[INPUT] = self.quantized(self.call(torch.sub, given, grey), scale)

    def finish(self) -> fx.GraphModule:
        for node in self.graph.nodes:
            self.node(node)
        answers = [self.answer(name) for name in self.graph.outputs.values()]
        self.lines.output(answers[0] if len(answers) == 1 else tuple(answers))
        return fx.GraphModule(self.root, self.lines).eval()

    def answer(self, name: str) -> fx.Node:
        """What the node of this name makes, in float32, channels last where that is a map."""
        quantization = self.graph.quantization
        value = self.made[name]
        if quantization is not None and name in quantization.activations:
            value = self.real(name, rounded=False)
        return self.call(torch.permute, value, (0, 2, 3, 1)) if self.graph.spec.task == "segmentation" else value

    def call(self, function: Any, *arguments: Any) -> fx.Node:
        return self.lines.call_function(function, arguments)

    def constant(self, name: str, array: NDArray[Any]) -> fx.Node:
        key = name.replace(".", "_").replace("/", "_")
        self.root.register_buffer(key, torch.from_numpy(array.copy()))  # may be read-only, or have strides of 0
        return self.lines.get_attr(key)

    def is_real(self, name: str) -> bool:
        """Whether the node of this name is computed, and its activation kept, in float32."""
        quantization = self.graph.quantization
        return quantization is None or name in quantization.in_float

    def scale(self, name: str) -> Scale:
        assert self.graph.quantization is not None
        return self.graph.quantization.activations[name]

    def quantized(self, value: fx.Node, scale: Scale) -> fx.Node:
        quantize = torch.ops.quantized_decomposed.quantize_per_tensor.default
        return self.call(quantize, value, scale.scale, scale.zero_point, -128, 127, torch.int8)

    def dequantized(self, value: fx.Node, scale: Scale) -> fx.Node:
        dequantize = torch.ops.quantized_decomposed.dequantize_per_tensor.default
        return self.call(dequantize, value, scale.scale, scale.zero_point, -128, 127, torch.int8)

    def int8(self, name: str) -> fx.Node:
        """The form of an activation that is moved about: int8 in a quantised graph."""
        if self.graph.quantization is None or not self.is_real(name):
            return self.made[name]
        if name not in self.rounded:
            self.rounded[name] = self.quantized(self.made[name], self.scale(name))
        return self.rounded[name]

    def real(self, name: str, *, rounded: bool) -> fx.Node:
        """The float32 form of an activation, ``rounded`` to its scale for a node in int8."""
        if self.graph.quantization is None or (self.is_real(name) and not rounded):
            return self.made[name]
        return self.dequantized(self.int8(name), self.scale(name))

    def moved(self, value: fx.Node, name: str) -> fx.Node:
        """``value``, which is the dequantised ``name`` in another place, in the form that is moved about."""
        return value if self.graph.quantization is None else self.quantized(value, self.scale(name))

    def store(self, name: str, value: fx.Node) -> None:
        """Let ``value`` be the activation ``name``; int8's range does the clipping of ReLU and ReLU6."""
        self.made[name] = value if self.is_real(name) else self.quantized(value, self.scale(name))

    def parameters(self, node: Conv | Linear) -> tuple[fx.Node, fx.Node]:
        """Weight and bias in float32, the weight dequantised from int8 for a node in int8."""
        weight = self.constant(f"{node.name}.weight", node.weight)
        bias: NDArray[Any] = node.bias
        if not self.is_real(node.name):
            assert self.graph.quantization is not None
            scales = self.graph.quantization.weights[node.name].astype(np.float32)
            if isinstance(node, Conv):
                step = scales.astype(np.float64) * self.scale(node.source).scale
                bias = np.clip(bias, -_LARGEST_BIAS, _LARGEST_BIAS) * step
            weight = self.call(
                torch.ops.quantized_decomposed.dequantize_per_channel.default,
                weight,
                self.constant(f"{node.name}.scale", scales),
                self.constant(f"{node.name}.zero_point", np.zeros(len(scales), np.int64)),
                0,
                -127,
                127,
                torch.int8,
            )
        return weight, self.constant(f"{node.name}.bias", bias.astype(np.float32))

    def pads(self, source: str, kernel: int, stride: int, padding: Padding) -> tuple[int, int, int, int]:
        """Columns before and after, rows before and after: the order of ``torch.nn.functional.pad``."""
        height, width, _ = self.graph.shapes[source]
        return (*pads(width, kernel, stride, padding), *pads(height, kernel, stride, padding))

    def node(self, node: Node) -> None:
        match node:
            case Center():
                color = self.constant(f"{node.name}.color", np.array(node.color, np.float32)[None, :, None, None])
                self.made[node.name] = self.call(torch.sub, self.made[INPUT], color)
            case Conv():
                self.store(node.name, self.conv(node))
            case Add():
                left, right = (self.real(name, rounded=not self.is_real(node.name)) for name in (node.left, node.right))
                self.store(node.name, self.call(torch.add, left, right))
            case Gather():
                self.gather(node)
            case MaxPool():
                self.made[node.name] = self.max_pool(node)
            case Mean():
                # XNNPACK averages over a picture that it may leave four-dimensional.
                pooled = self.call(torch.mean, self.real(node.source, rounded=False), (2, 3), True)
                if node.as_map:
                    self.store(node.name, pooled)
                else:
                    self.made[node.name] = self.call(torch.flatten, pooled, 1)
            case Linear():
                weight, bias = self.parameters(node)
                features = self.made[node.source]
                if not self.is_real(node.name):
                    features = self.dynamic(features)
                self.made[node.name] = self.call(F.linear, features, weight, bias)
            case Spread():
                # Of one cell, interpolation is repetition; XNNPACK has no other.
                source, size = self.real(node.source, rounded=True), (node.height, node.width)
                x = self.call(F.interpolate, source, size, None, "bilinear", True)
                self.made[node.name] = self.moved(x, node.source)
            case Stack():
                self.stack(node)

    def conv(self, node: Conv) -> fx.Node:
        x = self.real(node.source, rounded=not self.is_real(node.name))
        left, right, top, bottom = self.pads(node.source, node.reach, node.stride, node.padding)
        padding = (top, left)
        if padding != (bottom, right):
            x, padding = self.call(F.pad, x, (left, right, top, bottom)), (0, 0)
        stride, dilation = ((n, n) for n in (node.stride, node.dilation))
        x = self.call(torch.conv2d, x, *self.parameters(node), stride, padding, dilation, node.groups)
        if node.activation is not None and self.is_real(node.name):
            x = self.call(F.relu if node.activation == "relu" else F.relu6, x)
        return x

    def max_pool(self, node: MaxPool) -> fx.Node:
        left, right, top, bottom = self.pads(node.source, 3, 2, node.padding)
        # Windows that hang over the end where only that is padded: XNNPACK pads no int8 tensor before it pools.
        hang_over = (top, left) != (bottom, right)
        source = self.real(node.source, rounded=True)
        return self.moved(self.call(F.max_pool2d, source, 3, 2, (top, left), 1, hang_over), node.source)

    def gather(self, node: Gather) -> None:
        pieces = []
        for name, first, end in node.pieces:
            piece = self.int8(name)
            if end - first < self.graph.shapes[name][2]:
                piece = self.moved(self.call(torch.narrow, self.real(name, rounded=True), 1, first, end - first), name)
            pieces.append(piece)
        if len(pieces) == 1:
            self.made[node.name] = pieces[0]
            return
        if self.graph.quantization is not None:
            pieces = [self.dequantized(piece, self.scale(node.name)) for piece in pieces]
        self.made[node.name] = self.moved(self.call(torch.cat, pieces, 1), node.name)

    def stack(self, node: Stack) -> None:
        pieces = []
        for name in node.sources:
            rows = math.prod(self.graph.shapes[name]) // node.values
            last = self.call(torch.permute, self.real(name, rounded=True), (0, 2, 3, 1))
            pieces.append(self.call(torch.reshape, last, (1, rows, node.values)))
        self.made[node.name] = self.moved(self.call(torch.cat, pieces, 1), node.name)

    def dynamic(self, features: fx.Node) -> fx.Node:
        """Features rounded to int8 by the range that they have in this picture."""
        library = torch.ops.quantized_decomposed
        chosen = self.call(library.choose_qparams.tensor, features, -128, 127, 1e-8, torch.int8)
        scale, zero_point = (self.call(operator.getitem, chosen, k) for k in (0, 1))
        rounded = self.call(library.quantize_per_tensor.tensor, features, scale, zero_point, -128, 127, torch.int8)
        return self.call(library.dequantize_per_tensor.tensor, rounded, scale, zero_point, -128, 127, torch.int8)
