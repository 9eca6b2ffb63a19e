"""A graph as a PyTorch module: what TorchScript, ExecuTorch and Core ML files are made from.

The module's ``forward`` is generated from the graph, one line an operator, so that it can be scripted, traced and
exported; batch normalisation is folded away and ShuffleNetV2 shuffles nothing.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fusiform.graph.ir import (
    INPUT,
    Add,
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
)


def to_module(graph: Graph) -> fx.GraphModule:
    """A float32 graph as a module in eval mode: float32 NCHW, normalised, of any batch size, to the spec's answers.

    One answer comes as a tensor, several as a tuple in the spec's order: logits (N, classes) of a classifier, logits
    (N, priors, 1 + classes) and codes (N, priors, 4) of a detector, logits (N, rows, columns, classes) of a segmenter.
    """
    assert graph.quantization is None, "to_module takes float32 graphs"
    writer = _Writer(graph)
    for node in graph.nodes:
        writer.node(node)
    answers = [writer.answer(name) for name in graph.outputs.values()]
    writer.lines.output(answers[0] if len(answers) == 1 else tuple(answers))
    module = fx.GraphModule(writer.root, writer.lines, class_name=graph.spec.name)
    return module.eval().requires_grad_(False)


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.root = nn.Module()
        self.lines = fx.Graph()
        self.values = {INPUT: self.lines.placeholder(INPUT, type_expr=Tensor)}

    def constant(self, name: str, array: np.ndarray) -> fx.Node:
        key = name.replace(".", "_").replace("/", "_")
        self.root.register_buffer(key, torch.from_numpy(array.copy()))  # a model file's arrays are read-only
        return self.lines.get_attr(key)

    def padded(self, source: str, kernel: int, stride: int, padding: str) -> tuple[fx.Node, tuple[int, int]]:
        """The tensor to slide over and the padding on both sides, with an explicit pad where the sides differ."""
        height, width, _ = self.graph.shapes[source]
        (top, bottom), (left, right) = (pads(n, kernel, stride, padding) for n in (height, width))  # type: ignore[arg-type]
        if top == bottom and left == right:
            return self.values[source], (top, left)
        return self.lines.call_function(F.pad, (self.values[source], (left, right, top, bottom))), (0, 0)

    def answer(self, name: str) -> fx.Node:
        """What the node of this name makes, channels last where that is a map."""
        value = self.values[name]
        if self.graph.spec.task == "segmentation":
            value = self.lines.call_function(torch.permute, (value, (0, 2, 3, 1)))
        return value

    def node(self, node: Node) -> None:
        call = self.lines.call_function
        match node:
            case Conv():
                x, padding = self.padded(node.source, node.reach, node.stride, node.padding)
                weight = self.constant(f"{node.name}.weight", node.weight)
                bias = self.constant(f"{node.name}.bias", node.bias)
                stride, dilation = ((n, n) for n in (node.stride, node.dilation))
                x = call(torch.conv2d, (x, weight, bias, stride, padding, dilation, node.groups))
                if node.activation is not None:
                    x = call(F.relu if node.activation == "relu" else F.relu6, (x,))
            case Add():
                x = call(torch.add, (self.values[node.left], self.values[node.right]))
            case Gather():
                pieces = []
                for name, first, end in node.pieces:
                    whole = end - first == self.graph.shapes[name][2]
                    value = self.values[name]
                    pieces.append(value if whole else call(torch.narrow, (value, 1, first, end - first)))
                x = call(torch.cat, (pieces, 1)) if len(pieces) > 1 else pieces[0]
            case MaxPool():
                x, padding = self.padded(node.source, 3, 2, node.padding)
                x = call(F.max_pool2d, (x, (3, 3), (2, 2), padding))
            case Mean():
                x = call(torch.mean, (self.values[node.source], (2, 3), *([True] if node.as_map else [])))
            case Linear():
                weight = self.constant(f"{node.name}.weight", node.weight)
                bias = self.constant(f"{node.name}.bias", node.bias)
                x = call(F.linear, (self.values[node.source], weight, bias))
            case Spread():
                x = call(torch.tile, (self.values[node.source], (1, 1, node.height, node.width)))
            case Stack():
                pieces = []
                for name in node.sources:
                    last = call(torch.permute, (self.values[name], (0, 2, 3, 1)))
                    rows = math.prod(self.graph.shapes[name]) // node.values
                    pieces.append(call(torch.reshape, (last, (-1, rows, node.values))))
                x = call(torch.cat, (pieces, 1))
        self.values[node.name] = x
