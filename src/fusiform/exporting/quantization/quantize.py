"""int8 quantisation: the arithmetic in one place, for calibration and for training with quantisation in the loop.

Weights are symmetric with one scale an output channel, activations have one scale and zero point a tensor (Jacob et
al., arXiv 1712.05877; a scale a tensor for weights ruins depthwise layers). ``QuantizedNetwork`` runs a graph in
PyTorch as the int8 runtime will: weights and activations are rounded in the forward pass, gradients pass through.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fusiform.errors import InputError, UsageError
from fusiform.graph.inputs import fold_normalization, pixel_zero_point
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
    sources,
)
from fusiform.progress import Tracker, silent

_BINS = 2048
_FEW_PASSED = 0.1  # a channel that is nearly always clipped is not to be shifted far for the rest of its values


class LayerError(NamedTuple):
    """How much rounding one layer alone changes what it makes, and the logits, relative to their own size.

    A detector's logits and codes count alike.
    """

    name: str
    noise: float
    logits: float


class QuantizedNetwork(nn.Module):
    """A float32 graph that computes as its int8 form would.

    ``forward`` takes pixels as float32 NCHW in [0, 255] and gives logits; ``answers`` gives all outputs. Call
    ``calibrate`` before anything that quantises; ``freeze`` gives the int8 graph. Inside ``with network.in_float():``
    it computes the float32 network.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        if graph.quantization is not None:
            raise UsageError("the graph is int8 already: quantise the float32 network it came from")
        if isinstance(graph.nodes[0], Center):
            raise UsageError("quantise the network that reads normalised pictures")
        if graph.spec.input_channels != 3:
            raise InputError(
                f"int8 networks read pixels of 3 colours, this one has {graph.spec.input_channels} channels"
            )
        self.graph = fold_normalization(graph)
        self.weights = nn.ParameterDict()
        self.biases = nn.ParameterDict()
        for node in self.graph.nodes:
            if isinstance(node, Conv | Linear):
                key = _key(node.name)
                self.weights[key] = nn.Parameter(torch.from_numpy(node.weight.copy()))
                self.biases[key] = nn.Parameter(torch.from_numpy(node.bias.copy()))
        last = {name: node.name for node in self.graph.nodes for name in sources(node)}
        kept = self.graph.outputs.values()
        self.read_last = {
            node.name: [name for name in {*sources(node)} if last[name] == node.name and name not in kept]
            for node in self.graph.nodes
        }
        """The tensors that no later node reads, by node: photographs of 500 pixels have gigabytes of them."""
        self.zero_pixel = pixel_zero_point(graph.spec.preprocess)
        self.groups = _shared_scales(self.graph)
        self.scales: dict[str, Scale] = {}
        self.kept: frozenset[str] = frozenset()
        """Nodes that stay in float32; see ``graph.ir.Quantization.in_float``."""
        self.quantize = True
        self.observer: _Histograms | _ChannelRanges | None = None

    @contextmanager
    def in_float(self) -> Iterator[None]:
        """Compute without rounding inside this block."""
        before, self.quantize = self.quantize, False
        try:
            yield
        finally:
            self.quantize = before

    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Choose the scale of every activation: the range that loses least (squared error) over ``batches``.

        Each batch is float32 NCHW pixels in [0, 255]. Two passes: extremes, then histograms.
        """
        batches = list(batches)
        self.observer = histograms = _Histograms(self.groups)
        try:
            with torch.no_grad(), self.in_float():
                for histograms.counting in (False, True):
                    for batch in batches:
                        self(batch)
            self.scales = histograms.scales()
        finally:
            self.observer = None

    def channel_ranges(self, batches: Iterable[Tensor]) -> dict[str, NDArray[np.float32]]:
        """The largest absolute value of each channel of each tensor over ``batches``, for ``equalize``."""
        self.observer = observer = _ChannelRanges()
        try:
            with torch.no_grad(), self.in_float():
                for batch in batches:
                    self(batch)
            return {name: largest.numpy() for name, largest in observer.largest.items()}
        finally:
            self.observer = None

    def weight(self, node: Conv | Linear) -> Tensor:
        """The node's weight, rounded to its int8 grid unless computing in float."""
        weight: Tensor = self.weights[_key(node.name)]
        if not self.rounds(node):
            return weight
        scales = weight_scales(weight)
        zeros = torch.zeros(len(scales), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -127, 127)

    def rounds(self, node: Node) -> bool:
        """Whether the node computes with rounded numbers."""
        return self.quantize and node.name not in self.kept

    def activation(self, name: str, x: Tensor) -> Tensor:
        """``x`` rounded to the int8 grid of tensor ``name``."""
        if self.observer is not None:
            self.observer.see(name, x)
        if not self.quantize or name in self.kept:
            return x
        return self.rounded(name, x)

    def rounded(self, name: str, x: Tensor) -> Tensor:
        """``x`` on the int8 grid of tensor ``name``."""
        scale = self.scales[self.groups[name]]
        result: Tensor = _Round.apply(x, scale.scale, scale.zero_point)
        return result

    def forward(self, pixels: Tensor) -> Tensor:
        return self.answers(pixels)[0]

    def answers(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The graph's outputs in their order, channels second where they are maps."""
        values = {INPUT: pixels - self.zero_pixel}
        for node in self.graph.nodes:
            values[node.name] = self.compute(node, values)
            for name in self.read_last[node.name]:
                del values[name]
        return tuple(values[name] for name in self.graph.outputs.values())

    def compute(self, node: Node, values: Mapping[str, Tensor]) -> Tensor:
        """What the node makes of the tensors before it."""

        def read(name: str) -> Tensor:
            real = isinstance(node, Linear) or (isinstance(node, Mean) and not node.as_map)
            if name in self.kept and self.rounds(node) and not real:
                return self.rounded(name, values[name])
            return values[name]

        match node:
            case Conv():
                x = self.convolve(node, read(node.source))
                if node.activation is not None and not self.rounds(node):  # the int8 range ends where they clip
                    x = F.relu(x) if node.activation == "relu" else F.relu6(x)
                return self.activation(node.name, x)
            case Add():
                return self.activation(node.name, read(node.left) + read(node.right))
            case Gather():
                pieces = [read(name)[:, first:end] for name, first, end in node.pieces]
                return torch.cat(pieces, 1) if len(pieces) > 1 else pieces[0]
            case MaxPool():
                x = _padded(read(node.source), 3, 2, node.padding)
                return F.max_pool2d(x, 3, 2, 1 if node.padding == "symmetric" else 0)
            case Mean():
                if node.as_map:
                    return self.activation(node.name, read(node.source).mean((2, 3), keepdim=True))
                return read(node.source).mean((2, 3))
            case Spread():
                return read(node.source).expand(-1, -1, node.height, node.width)
            case Stack():
                rows = [read(name).permute(0, 2, 3, 1) for name in node.sources]
                return torch.cat([row.reshape(len(row), -1, node.values) for row in rows], 1)
            case Linear():
                x = read(node.source)
                if self.rounds(node):
                    x = _dynamic_int8(x)
                return F.linear(x, self.weight(node), self.biases[_key(node.name)])
            case _:
                raise AssertionError(f"{node.name}: quantised networks normalise in their first convolution")

    def convolve(self, node: Conv, x: Tensor) -> Tensor:
        """The convolution of ``x`` with its bias, before the activation."""
        return F.conv2d(
            _padded(x, node.reach, node.stride, node.padding),
            self.weight(node),
            self.biases[_key(node.name)],
            stride=node.stride,
            padding=node.reach // 2 if node.padding == "symmetric" else 0,
            dilation=node.dilation,
            groups=node.groups,
        )

    @torch.no_grad()
    def correct_biases(self, pixels: Tensor) -> None:
        """Shift each channel's bias so that rounding leaves its mean over ``pixels`` where it was.

        Rounded weights and inputs move the mean of what a layer makes, that of depthwise ones, with nine weights a
        channel, most of all. Layer by layer, each corrected before the next is looked at (Nagel et al., arXiv
        1906.04721, Section 4.2, measured instead of derived). What is brought back is the mean past the activation,
        which is what the next layer reads: a shift moves it by the share of values that are not clipped. Call it
        after ``calibrate``.
        """
        real = {INPUT: pixels - self.zero_pixel}
        rounded = dict(real)
        for node in self.graph.nodes:
            with self.in_float():
                real[node.name] = self.compute(node, real)
            if isinstance(node, Conv):
                found = self.convolve(node, rounded[node.source])
                ceiling = {None: None, "relu": math.inf, "relu6": 6.0}[node.activation]
                passed = torch.ones(found.shape[1])
                if ceiling is not None:
                    passed = ((found > 0) & (found < ceiling)).float().mean((0, 2, 3)).clamp_min(_FEW_PASSED)
                    found = found.clamp(0, ceiling)
                self.biases[_key(node.name)] += (real[node.name] - found).mean((0, 2, 3)) / passed
            elif isinstance(node, Linear):
                self.biases[_key(node.name)] += (real[node.name] - self.compute(node, rounded)).mean(0)
            rounded[node.name] = self.compute(node, rounded)
            for name in self.read_last[node.name]:
                del real[name], rounded[name]

    @torch.no_grad()
    def layer_errors(self, pixels: Tensor, progress: Tracker = silent) -> list[LayerError]:
        """What rounding each layer alone does to it and to the logits, over ``pixels``, the worst for the logits first.

        ``noise`` and ``logits`` are root mean squares of the errors over those of the right values. Costs half as many
        passes through the network as it has layers, and keeps all of its tensors.
        """
        nodes = self.graph.nodes
        real = {INPUT: pixels - self.zero_pixel}
        with self.in_float():
            for node in nodes:
                real[node.name] = self.compute(node, real)
        errors = []
        rounding = [(k, node) for k, node in enumerate(nodes) if isinstance(node, Conv | Add | Linear)]
        with progress(total=len(rounding), label="rank layers", unit="layers") as bar:
            for k, node in rounding:
                values = dict(real)
                values[node.name] = self.compute(node, real)
                with self.in_float():
                    for later in nodes[k + 1 :]:
                        values[later.name] = self.compute(later, values)
                noise = _relative_error(values[node.name], real[node.name])
                outputs = self.graph.outputs.values()
                answers = sum(_relative_error(values[name], real[name]) for name in outputs) / len(outputs)
                errors.append(LayerError(node.name, noise, answers))
                bar.advance()
        return sorted(errors, key=lambda error: -error.logits)

    @torch.no_grad()
    def freeze(self) -> Graph:
        """The int8 graph: int8 weights, int32 biases, and the scales of all tensors."""
        zero = self.zero_pixel - 128
        activations = {INPUT: Scale(1.0, zero)}
        activations |= {name: self.scales[group] for name, group in self.groups.items()}
        scales: dict[str, np.ndarray] = {}
        nodes = []
        for node in self.graph.nodes:
            if isinstance(node, Conv | Linear) and node.name in self.kept:
                weight, bias = self.weights[_key(node.name)].numpy(), self.biases[_key(node.name)].numpy()
                node = dataclasses.replace(node, weight=weight.copy(), bias=bias.copy())
            elif isinstance(node, Conv | Linear):
                weight, bias = self.weights[_key(node.name)], self.biases[_key(node.name)].double().numpy()
                of_weight = weight_scales(weight)
                shape = (-1, *(1,) * (weight.ndim - 1))
                # Times the reciprocal, as the fake quantisation of training does it: a division rounds some ties apart.
                rounded = (weight * (1 / of_weight).reshape(shape)).round().clamp(-127, 127).to(torch.int8).numpy()
                scales[node.name] = of_weight.numpy()
                if isinstance(node, Conv):
                    step = of_weight.double().numpy() * activations[node.source].scale
                    limit = 2**31 - 1
                    node = dataclasses.replace(
                        node, weight=rounded, bias=np.clip(np.rint(bias / step), -limit, limit).astype(np.int32)
                    )
                else:
                    node = dataclasses.replace(node, weight=rounded, bias=bias.astype(np.float32))
            nodes.append(node)
        return Graph(self.graph.spec, tuple(nodes), Quantization(activations, scales, self.kept))


class _Round(torch.autograd.Function):
    """To the nearest int8 value and back; the gradient passes where nothing was clipped.

    A third of the time of torch.fake_quantize_per_tensor_affine on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, zero_point: int) -> Tensor:
        low, high = -128 - zero_point, 127 - zero_point
        ctx.save_for_backward(x)
        ctx.range = low * scale, high * scale
        return (x * (1 / scale)).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, x, *ctx.range), None, None


def weight_scales(weight: Tensor) -> Tensor:
    """One scale for each output channel, so that its largest weight becomes 127."""
    return weight.detach().abs().flatten(1).amax(1).clamp_min(1e-8) / 127


def _relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-12))


def _key(name: str) -> str:
    return name.replace(".", "_")  # a ParameterDict has no dots


def _padded(x: Tensor, kernel: int, stride: int, padding: str) -> Tensor:
    if padding == "symmetric" or kernel == 1:
        return x
    (top, bottom), (left, right) = (pads(size, kernel, stride, "same") for size in x.shape[2:])
    return F.pad(x, (left, right, top, bottom))


def _dynamic_int8(x: Tensor) -> Tensor:
    """Round each picture's features to int8 with its own range, as the runtime does before the classifier."""
    low, high = x.amin(1, keepdim=True).clamp_max(0), x.amax(1, keepdim=True).clamp_min(0)
    scale = ((high - low) / 255).clamp_min(1e-8).detach()
    return x + ((x / scale).round() * scale - x).detach()


def _shared_scales(graph: Graph) -> dict[str, str]:
    """The tensor whose scale each activation has: pieces that are gathered together, and pooling, change no scale."""
    group: dict[str, str] = {}

    def merge(names: list[str]) -> None:
        roots = {group[name] for name in names}
        root = min(roots, key=list(group).index)
        for name, old in group.items():
            if old in roots:
                group[name] = root

    for node in graph.nodes:
        if isinstance(node, Conv | Add) or (isinstance(node, Mean) and node.as_map):
            group[node.name] = node.name
        elif isinstance(node, MaxPool | Spread):
            group[node.name] = group[node.source]
        elif isinstance(node, Stack):
            group[node.name] = group[node.sources[0]]
            merge([node.name, *node.sources])
        elif isinstance(node, Gather):
            group[node.name] = group[node.pieces[0][0]]
            merge([node.name, *(name for name, _, _ in node.pieces)])
    return group


class _ChannelRanges:
    """The largest absolute value of each channel of each tensor."""

    def __init__(self) -> None:
        self.largest: dict[str, Tensor] = {}

    def see(self, name: str, x: Tensor) -> None:
        largest = x.abs().amax((0, 2, 3))
        self.largest[name] = torch.maximum(self.largest[name], largest) if name in self.largest else largest


class _Histograms:
    """What values each group of tensors takes: extremes in a first pass, then counts in equal bins between them."""

    def __init__(self, groups: dict[str, str]) -> None:
        self.groups = groups
        self.low: dict[str, float] = {}
        self.high: dict[str, float] = {}
        self.counts: dict[str, Tensor] = {}
        self.counting = False

    def see(self, name: str, x: Tensor) -> None:
        group = self.groups[name]
        if self.counting:
            counts = torch.histc(x, _BINS, self.low[group], self.high[group])
            self.counts[group] = self.counts.get(group, torch.zeros(_BINS)) + counts
        else:
            low, high = x.aminmax()
            self.low[group] = min(self.low.get(group, 0.0), float(low))
            self.high[group] = max(self.high.get(group, 1e-6), float(high))

    def scales(self) -> dict[str, Scale]:
        return {group: self._best(group) for group in self.counts}

    def _best(self, group: str) -> Scale:
        """The scale of least squared error, among clippings of the whole range (zero stays exact)."""
        low, high, counts = self.low[group], self.high[group], self.counts[group].double().numpy()
        width = (high - low) / _BINS
        centers = low + width * (np.arange(_BINS) + 0.5)
        best, least = None, np.inf
        for share in np.linspace(1.0, 0.3, 71):
            scale = max(high - low, 1e-6) * share / 255
            zero_point = int(np.clip(round(-128 - low * share / scale), -128, 127))
            rounded = scale * (np.clip(np.rint(centers / scale) + zero_point, -128, 127) - zero_point)
            error = float((counts * (rounded - centers) ** 2).sum())
            if error < least:
                best, least = Scale(float(np.float32(scale)), zero_point), error
        assert best is not None
        return best
