"""int8 quantisation: the arithmetic in one place, for calibration and for training with quantisation in the loop.

Weights are symmetric with one scale an output channel, activations have one scale and zero point a tensor (Jacob et
al., arXiv 1712.05877; a scale a tensor for weights ruins depthwise layers). ``QuantizedNetwork`` runs a graph in
PyTorch as the int8 runtime will: weights and activations are rounded in the forward pass, gradients pass through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fusiform.errors import UsageError
from fusiform.graph.build import fold_normalization, pixel_zero_point
from fusiform.graph.ir import INPUT, Add, Conv, Gather, Graph, Linear, MaxPool, Mean, Quantization, Scale, pads

_BINS = 2048


class QuantizedNetwork(nn.Module):
    """A float32 graph that computes as its int8 form would.

    ``forward`` takes pixels as float32 NCHW in [0, 255] and gives logits. Call ``calibrate`` before anything that
    quantises; ``freeze`` gives the int8 graph. Inside ``with network.in_float():`` it computes the float32 network.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        if graph.quantization is not None:
            raise UsageError("the graph is int8 already: quantise the float32 network it came from")
        if graph.spec.input_channels != 3:
            raise UsageError(
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
        self.zero_pixel = pixel_zero_point(graph.spec.preprocess)
        self.groups = _shared_scales(self.graph)
        self.scales: dict[str, Scale] = {}
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
        if not self.quantize:
            return weight
        scales = weight_scales(weight)
        zeros = torch.zeros(len(scales), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -127, 127)

    def activation(self, name: str, x: Tensor) -> Tensor:
        """``x`` rounded to the int8 grid of tensor ``name``."""
        if self.observer is not None:
            self.observer.see(name, x)
        if not self.quantize:
            return x
        scale = self.scales[self.groups[name]]
        rounded: Tensor = _Round.apply(x, scale.scale, scale.zero_point)
        return rounded

    def forward(self, pixels: Tensor) -> Tensor:
        values = {INPUT: pixels - self.zero_pixel}
        for node in self.graph.nodes:
            match node:
                case Conv():
                    x = F.conv2d(
                        _padded(values[node.source], node.kernel, node.stride, node.padding),
                        self.weight(node),
                        self.biases[_key(node.name)],
                        stride=node.stride,
                        padding=node.kernel // 2 if node.padding == "symmetric" else 0,
                        groups=node.groups,
                    )
                    if node.activation is not None and not self.quantize:  # the int8 range ends where they clip
                        x = F.relu(x) if node.activation == "relu" else F.relu6(x)
                    values[node.name] = self.activation(node.name, x)
                case Add():
                    values[node.name] = self.activation(node.name, values[node.left] + values[node.right])
                case Gather():
                    pieces = [values[name][:, first:end] for name, first, end in node.pieces]
                    values[node.name] = torch.cat(pieces, 1) if len(pieces) > 1 else pieces[0]
                case MaxPool():
                    x = _padded(values[node.source], 3, 2, node.padding)
                    values[node.name] = F.max_pool2d(x, 3, 2, 1 if node.padding == "symmetric" else 0)
                case Mean():
                    values[node.name] = values[node.source].mean((2, 3))
                case Linear():
                    x = values[node.source]
                    if self.quantize:
                        x = _dynamic_int8(x)
                    values[node.name] = F.linear(x, self.weight(node), self.biases[_key(node.name)])
        return values[self.graph.nodes[-1].name]

    @torch.no_grad()
    def freeze(self) -> Graph:
        """The int8 graph: int8 weights, int32 biases, and the scales of all tensors."""
        zero = self.zero_pixel - 128
        activations = {INPUT: Scale(1.0, zero)}
        activations |= {name: self.scales[group] for name, group in self.groups.items()}
        scales: dict[str, np.ndarray] = {}
        nodes = []
        for node in self.graph.nodes:
            if isinstance(node, Conv | Linear):
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
        return Graph(self.graph.spec, tuple(nodes), Quantization(activations, scales))


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
        if isinstance(node, Conv | Add):
            group[node.name] = node.name
        elif isinstance(node, MaxPool):
            group[node.name] = group[node.source]
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
