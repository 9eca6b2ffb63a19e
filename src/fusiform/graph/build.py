"""Both networks, and SSDLite and DeepLabv3 over them, as graphs: from their spec and torchvision-named weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import WeightsError
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
    Spread,
    Stack,
    reads_pixels,
)
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tables import (
    DEEPLAB_ASPP_RATES,
    DEEPLAB_CHANNELS,
    MOBILENET_V2_BOTTLENECKS,
    SHUFFLENET_V2_CHANNELS,
    SHUFFLENET_V2_REPEATS,
    SSD_PRIORS_PER_CELL,
    mobilenet_v2_channels,
    ssd_extra_channels,
    trade_strides,
)

BATCH_NORM_EPSILON = 1e-5
CENTER = "centered"
State = Mapping[str, NDArray[Any]]


def build_graph(spec: ModelSpec, state: State) -> Graph:
    """The graph of the network that ``spec`` describes, with the weights of ``state``.

    ``state`` maps torchvision's parameter names to arrays of any float type. Raises WeightsError for weights that do
    not fit the spec.
    """
    try:
        graph = _build(spec, _FoldedWeights(state))
    except KeyError as error:
        raise WeightsError(f"the weights lack {error}, which {spec.name} needs: are they of another network?") from None
    for name, shape in spec.answers.items():
        if (values := graph.shapes[graph.outputs[name]][2]) != shape[-1]:
            background = " and the background" if spec.task == "detection" else ""
            raise WeightsError(
                f"the weights answer with {values} classes, the spec names {spec.num_classes}{background}"
            )
    return graph


def to_state(graph: Graph) -> dict[str, NDArray[np.float32]]:
    """The weights of a graph under torchvision's names: what ``build_graph`` takes, with identity normalisations.

    Weights of an int8 graph are dequantised, and the first convolution reads normalised pictures again.
    """
    graph = to_float(graph)
    weights = {node.name: node.weight for node in graph.nodes if isinstance(node, Conv | Linear)}
    numbers = {node.name: node for node in number_weights(graph.spec, weights).nodes}
    state: dict[str, NDArray[np.float32]] = {}
    for node in graph.nodes:
        if isinstance(node, Linear):
            state[f"{node.name}.weight"], state[f"{node.name}.bias"] = node.weight.astype(np.float32), node.bias
        elif isinstance(node, Conv):
            origin = numbers[node.name]
            assert isinstance(origin, Conv)
            weight, bias = np.empty_like(node.weight, np.float32), np.empty_like(node.bias, np.float32)
            weight.flat[origin.weight.astype(np.intp).ravel()] = node.weight.ravel()
            bias[origin.bias.astype(np.intp)] = node.bias
            ones = np.ones_like(bias)
            state[f"{node.name}.weight"] = weight
            if not node.norm:
                state[f"{node.name}.bias"] = bias
                continue
            state[f"{node.norm}.weight"] = ones
            state[f"{node.norm}.bias"] = bias
            state[f"{node.norm}.running_mean"] = np.zeros_like(bias)
            state[f"{node.norm}.running_var"] = ones * np.float32(1 - BATCH_NORM_EPSILON)
            state[f"{node.norm}.num_batches_tracked"] = np.array(0, np.int64)
    return state


def number_weights(spec: ModelSpec, weights: Mapping[str, NDArray[Any]]) -> Graph:
    """The graph whose every weight is its own position in torchvision's array: it shows what was reordered how.

    ``weights`` gives the shape of each convolution's and the classifier's weight by name.
    """
    return _build(spec, _Numbers(weights))


def to_float(graph: Graph) -> Graph:
    """The float32 graph for normalised pictures that an int8 graph, or one that reads pixels, stands for."""
    if graph.quantization is not None:
        return unfold_normalization(dequantize(graph))
    return read_normalized(graph) if reads_pixels(graph) else graph


def dequantize(graph: Graph) -> Graph:
    """An int8 graph with float32 weights and biases and no quantisation of activations; it still reads pixels."""
    assert graph.quantization is not None
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Conv | Linear) and node.name not in graph.quantization.in_float:
            scales = graph.quantization.weights[node.name]
            weight = node.weight * scales.reshape(-1, *(1,) * (node.weight.ndim - 1))
            step: NDArray[np.float64] | float = 1.0
            if isinstance(node, Conv):
                step = scales.astype(np.float64) * graph.quantization.activations[node.source].scale
            node = dataclasses.replace(
                node, weight=weight.astype(np.float32), bias=np.asarray(node.bias * step, np.float32)
            )
        nodes.append(node)
    return Graph(graph.spec, tuple(nodes))


def pixel_zero_point(preprocess: Preprocess) -> int:
    """The grey (0 to 255) that stands for zero in a network that reads pixels: the mean over the three colours."""
    return round(255 * sum(preprocess.mean) / len(preprocess.mean))


def fold_normalization(graph: Graph) -> Graph:
    """The same network for pixels less ``pixel_zero_point`` instead of normalised pictures.

    Exact inside the picture; the padding is that grey instead of the mean colour.
    """
    return _rescale_input(graph, inverse=False)


def unfold_normalization(graph: Graph) -> Graph:
    """Undo ``fold_normalization``."""
    return _rescale_input(graph, inverse=True)


def read_pixels(graph: Graph) -> Graph:
    """The same float32 network for uint8 pixels: the mean is subtracted first, the first weights divide by the std.

    Exact, the padding included: zeros around what has no mean are the mean colour.
    """
    red, green, blue = (255 * value for value in graph.spec.preprocess.mean)
    factor = 1 / _deviation(graph.spec.preprocess)
    changed = (  # the stem is several convolutions where it was split
        _scaled(node, factor, source=CENTER) if isinstance(node, Conv) and node.source == INPUT else node
        for node in graph.nodes
    )
    return Graph(graph.spec, (Center(CENTER, (red, green, blue)), *changed))


def read_normalized(graph: Graph) -> Graph:
    """Undo ``read_pixels``, up to rounding."""
    return _unscaled(graph.spec, graph.nodes[1:])


def unscale_input(graph: Graph) -> Graph:
    """The network for normalised pictures, of one whose first weights divide by the standard deviation of pixels."""
    return _unscaled(graph.spec, graph.nodes)


def _unscaled(spec: ModelSpec, nodes: Sequence[Node]) -> Graph:
    first = nodes[0]
    assert isinstance(first, Conv)
    return Graph(spec, (_scaled(first, _deviation(spec.preprocess), source=INPUT), *nodes[1:]))


def _scaled(conv: Conv, factor: NDArray[np.float64], *, source: str) -> Conv:
    weight = (conv.weight.astype(np.float64) * factor).astype(np.float32)
    return dataclasses.replace(conv, source=source, weight=weight)


def _deviation(preprocess: Preprocess) -> NDArray[np.float64]:
    """The standard deviation of pixels, to divide or multiply weights (out, in, height, width) by."""
    return 255 * np.array(preprocess.std)[:, None, None]


def _rescale_input(graph: Graph, *, inverse: bool) -> Graph:
    first = graph.nodes[0]
    assert isinstance(first, Conv)
    preprocess = graph.spec.preprocess
    std = _deviation(preprocess)
    # What the grey becomes when it is normalised.
    offset = ((pixel_zero_point(preprocess) / 255 - np.array(preprocess.mean)) / np.array(preprocess.std))[
        :, None, None
    ]
    weight = first.weight.astype(np.float64)
    if inverse:
        weight = weight * std
        bias = first.bias - (weight * offset).sum((1, 2, 3))
    else:
        bias = first.bias + (weight * offset).sum((1, 2, 3))
        weight = weight / std
    changed = dataclasses.replace(first, weight=weight.astype(np.float32), bias=bias.astype(np.float32))
    return Graph(graph.spec, (changed, *graph.nodes[1:]))


class _FoldedWeights:
    """A state dict's weights, each batch normalisation folded into the convolution before it."""

    def __init__(self, state: State) -> None:
        self.state = state

    def conv(self, name: str, norm: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if not norm:
            return self.linear(name)
        return fold_batch_norm(self.state, name, norm)

    def linear(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.asarray(self.state[f"{name}.weight"], np.float32), np.asarray(self.state[f"{name}.bias"], np.float32)


class _Numbers:
    """Positions instead of weights; float64 holds them exactly."""

    def __init__(self, weights: Mapping[str, NDArray[Any]]) -> None:
        self.shapes = {name: weight.shape for name, weight in weights.items()}

    def conv(self, name: str, norm: str) -> tuple[NDArray[Any], NDArray[Any]]:
        del norm
        return self.linear(name)

    def linear(self, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
        shape = self.shapes[name]
        return np.arange(np.prod(shape), dtype=np.float64).reshape(shape), np.arange(shape[0], dtype=np.float64)


def _build(spec: ModelSpec, weights: _FoldedWeights | _Numbers) -> Graph:
    build = _Builder(weights, spec)
    {"classification": _classifier, "detection": _ssdlite, "segmentation": _deeplab_v3}[spec.task](build)
    return Graph(spec, tuple(build.nodes))


Order = NDArray[np.intp] | None
"""Which of the network's channels each channel of a tensor is; None where they are in the network's own order."""


class _Map(NamedTuple):
    """A tensor that a head reads, and the order of its channels."""

    name: str
    order: Order = None


class _Builder:
    """Collects nodes."""

    def __init__(self, weights: _FoldedWeights | _Numbers, spec: ModelSpec) -> None:
        self.weights = weights
        self.spec = spec
        self.padding = spec.padding
        self.prefix = "" if spec.task == "classification" else "backbone."
        """What the names of the backbone's weights begin with."""
        self.nodes: list[Node] = []
        self.channels = {INPUT: spec.input_channels}

    def add(self, node: Node, channels: int) -> str:
        self.nodes.append(node)
        self.channels[node.name] = channels
        return node.name

    def conv(
        self,
        source: str,
        conv: str,
        norm: str,
        channels: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        kernel: int = 1,
        depthwise: bool = False,
        activation: Activation | None,
        in_order: Order = None,
        out_order: Order = None,
    ) -> str:
        """Add the convolution stored as ``conv`` with the normalisation ``norm``; optionally reorder its channels."""
        conv, norm = f"{self.prefix}{conv}", f"{self.prefix}{norm}" if norm else ""
        weight, bias = self.weights.conv(conv, norm)
        groups = channels if depthwise else 1
        kernel = 3 if depthwise or source == INPUT else kernel
        self.check(conv, weight, (channels, self.channels[source] // groups, kernel, kernel))
        if in_order is not None:
            weight = weight[:, in_order]
        if out_order is not None:
            weight, bias = weight[out_order], bias[out_order]
        weight = np.ascontiguousarray(weight)
        node = Conv(conv, norm, source, weight, bias, stride, self.padding, groups, activation, dilation)
        return self.add(node, channels)

    def classifier(self, source: str, name: str) -> None:
        pooled = self.add(Mean("pool", source), self.channels[source])
        weight, bias = self.weights.linear(name)
        self.check(name, weight, (len(bias), self.channels[source]))
        self.add(Linear(name, pooled, weight, bias), len(bias))

    def check(self, name: str, weight: NDArray[Any], shape: tuple[int, ...]) -> None:
        if weight.shape != shape:
            raise WeightsError(
                f"{name}.weight has the shape {weight.shape}, but {self.spec.name} needs {shape}: are the weights "
                "of another network?"
            )


def fold_batch_norm(state: State, conv: str, norm: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight and bias of a convolution that does the work of itself and the batch normalisation after it."""
    weight = np.asarray(state[f"{conv}.weight"], np.float64)
    gamma, beta, mean, variance = parts = [
        np.asarray(state[f"{norm}.{part}"], np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    ]
    if any(part.shape != weight.shape[:1] for part in parts):
        raise WeightsError(
            f"{norm} does not have one value for each channel that {conv} makes: are the weights damaged?"
        )
    factor = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
    weight = weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
    return weight.astype(np.float32), (beta - mean * factor).astype(np.float32)


def _classifier(build: _Builder) -> None:
    features = BACKBONES[build.spec.architecture](build)
    build.classifier(features["last"].name, "classifier.1" if build.spec.architecture == "mobilenet_v2" else "fc")


def _ssdlite(build: _Builder) -> None:
    """SSDLite's extra maps and predictions, as ``nets.ssdlite`` has them."""
    spec = build.spec
    features = BACKBONES[spec.architecture](build)
    build.prefix = ""
    wide = "expansion_13" if spec.architecture == "mobilenet_v2" else "stride_16"
    maps = [features[wide], features["last"]]
    width = spec.width if spec.architecture == "mobilenet_v2" else 1.0
    for k, (half, outputs) in enumerate(ssd_extra_channels(width)):
        at = f"extras.{k}"
        x = build.conv(maps[-1].name, f"{at}.0.0", f"{at}.0.1", half, activation="relu6")
        x = build.conv(x, f"{at}.1.0", f"{at}.1.1", half, stride=2, depthwise=True, activation="relu6")
        maps.append(_Map(build.conv(x, f"{at}.2.0", f"{at}.2.1", outputs, activation="relu6")))
    for layers, answer, values in (("classes", "logits", spec.num_classes + 1), ("boxes", "codes", 4)):
        predictions = []
        for k, (source, priors) in enumerate(zip(maps, SSD_PRIORS_PER_CELL, strict=True)):
            at, channels = f"{layers}.{k}", build.channels[source.name]
            x = build.conv(
                source.name,
                f"{at}.0.0",
                f"{at}.0.1",
                channels,
                depthwise=True,
                activation="relu6",
                out_order=source.order,
            )
            predictions.append(build.conv(x, f"{at}.1", "", priors * values, activation=None, in_order=source.order))
        build.add(Stack(answer, tuple(predictions), values), values)


def _deeplab_v3(build: _Builder) -> None:
    """DeepLabv3's head, as ``nets.deeplab_v3`` has it; its logits are those before they are resized."""
    spec = build.spec
    source, order = BACKBONES[spec.architecture](build)["stride_32"]
    build.prefix = ""
    cells = spec.answers["logits"][0]
    pooled = build.add(Mean("pool", source, as_map=True), build.channels[source])
    pooled = build.conv(pooled, "pooling.0", "pooling.1", DEEPLAB_CHANNELS, activation="relu", in_order=order)
    parts = [build.add(Spread("spread", pooled, cells, cells), DEEPLAB_CHANNELS)]
    for k, rate in enumerate((1, *(DEEPLAB_ASPP_RATES[spec.output_stride] if spec.aspp else ()))):
        kernel = 1 if k == 0 else 3
        at = f"branches.{k}"
        x = build.conv(
            source,
            f"{at}.0",
            f"{at}.1",
            DEEPLAB_CHANNELS,
            kernel=kernel,
            dilation=rate,
            activation="relu",
            in_order=order,
        )
        parts.append(x)
    pieces = tuple((name, 0, DEEPLAB_CHANNELS) for name in parts)
    x = build.add(Gather("branches", pieces), len(pieces) * DEEPLAB_CHANNELS)
    x = build.conv(x, "projection.0", "projection.1", DEEPLAB_CHANNELS, activation="relu")
    build.conv(x, "classifier", "", spec.num_classes, activation=None)


def _mobilenet_v2(build: _Builder) -> dict[str, _Map]:
    """Table 2 of arXiv 1801.04381; the maps are called as in ``nets.mobilenet_v2``.

    Without the last convolution for a segmenter, which does not read it.
    """
    spec = build.spec
    stem, rows, last = mobilenet_v2_channels(spec.width)
    strides = [s if i == 0 else 1 for _, _, n, s in MOBILENET_V2_BOTTLENECKS for i in range(n)]
    steps = iter(trade_strides(strides, 2, spec.output_stride))
    maps: dict[str, _Map] = {}
    x = build.conv(INPUT, "features.0.0", "features.0.1", stem, stride=2, activation="relu6")
    block = 0
    for (expansion, _, repeats, first_stride), narrow in zip(MOBILENET_V2_BOTTLENECKS, rows, strict=True):
        for repeat in range(repeats):
            block += 1
            stride, dilation = next(steps)
            source, at, layer = x, f"features.{block}.conv", 0
            wide = expansion * build.channels[source]
            if expansion != 1:
                x = build.conv(x, f"{at}.0.0", f"{at}.0.1", wide, activation="relu6")
                layer = 1
            if block == _EXPANSION_13:
                maps["expansion_13"] = _Map(x)
            x = build.conv(
                x,
                f"{at}.{layer}.0",
                f"{at}.{layer}.1",
                wide,
                stride=stride,
                dilation=dilation,
                depthwise=True,
                activation="relu6",
            )
            x = build.conv(x, f"{at}.{layer + 1}", f"{at}.{layer + 2}", narrow, activation=None)
            # By the table's stride: a block that gave up its stride has not learned to work with a shortcut.
            if (repeat or first_stride == 1) and build.channels[source] == narrow:
                x = build.add(Add(f"{build.prefix}features.{block}", source, x), narrow)
    maps["stride_32"] = _Map(x)
    if spec.task != "segmentation":
        x = build.conv(x, f"features.{block + 1}.0", f"features.{block + 1}.1", last, activation="relu6")
        maps["last"] = _Map(x)
    return maps


_EXPANSION_13 = 14
"""The block whose expansion SSDLite reads: the last at stride 16, counted from 1; TensorFlow counts from 0."""


Channel = tuple[str, int]
"""A channel of the network as the paper numbers it: the branch that makes it, and its index there."""


def _shuffle(channels: list[Channel]) -> list[Channel]:
    """The channel shuffle with two groups: first of either half, second of either half, and so on."""
    half = len(channels) // 2
    return [channel for pair in zip(channels[:half], channels[half:], strict=True) for channel in pair]


def _readers(repeats: int, half: int) -> dict[Channel, int]:
    """Which unit of a stage reads each channel: 1 to ``repeats`` - 1, or ``repeats`` for the layer after the stage."""
    reader: dict[Channel, int] = {}
    channels = _first_unit(half)
    for unit in range(1, repeats):
        reader |= dict.fromkeys(channels[half:], unit)
        channels = _next_unit(channels, unit)
    return reader | dict.fromkeys(channels, repeats)


def _first_unit(half: int) -> list[Channel]:
    """The output of the spatial down sampling unit (Figure 3d): both branches, shuffled."""
    return _shuffle([("0.branch1", i) for i in range(half)] + [("0.branch2", i) for i in range(half)])


def _next_unit(channels: list[Channel], unit: int) -> list[Channel]:
    """The output of a basic unit (Figure 3c): one half of its input as it was, the other through the branch."""
    half = len(channels) // 2
    return _shuffle(channels[:half] + [(f"{unit}.branch2", i) for i in range(half)])


class _Stage:
    """Where the channels of one stage are: each branch makes them in the order of the units that read them."""

    def __init__(self, build: _Builder, name: str, repeats: int, half: int) -> None:
        self.build, self.name, self.half = build, name, half
        self.reader = _readers(repeats, half)
        self.tensors: dict[str, str] = {}

    def order(self, branch: str) -> NDArray[np.intp]:
        """The channels of a branch, sorted by who reads them."""
        return np.argsort([self.reader[branch, i] for i in range(self.half)], kind="stable")

    def gather(self, unit: int, channels: list[Channel]) -> tuple[str, NDArray[np.intp]]:
        """The tensor that holds the ``channels`` that ``unit`` reads, and which of them each of its channels is."""
        pieces, positions = [], []
        position = {channel: k for k, channel in enumerate(channels)}
        for branch, tensor in self.tensors.items():
            made: list[Channel] = [(branch, int(i)) for i in self.order(branch)]
            mine = [k for k, channel in enumerate(made) if self.reader[channel] == unit]
            if mine:
                pieces.append((tensor, mine[0], mine[-1] + 1))
                positions += [position[made[k]] for k in mine]
        node = Gather(f"{self.build.prefix}{self.name}.{unit}.gather", tuple(pieces))
        return self.build.add(node, len(positions)), np.array(positions)


def _shufflenet_v2(build: _Builder) -> dict[str, _Map]:
    """Table 5 and Figure 3 of arXiv 1807.11164, without ever moving a channel to shuffle it.

    Split, concatenation and shuffle only decide which unit reads which channel, and every channel is read by exactly
    one unit of its stage (or by the layer after it). So each branch makes its channels in the order of their readers,
    a unit gathers its half of the input as contiguous pieces of earlier branches, and the reordering disappears
    into the weights: a sixth of the memory traffic of doing as the figure says.

    The maps are called as in ``nets.shufflenet_v2``; without the last convolution for a segmenter.
    """
    spec = build.spec
    stem, *stages, last = SHUFFLENET_V2_CHANNELS[spec.width]
    strides = [2 if unit == 0 else 1 for repeats in SHUFFLENET_V2_REPEATS for unit in range(repeats)]
    steps = iter(trade_strides(strides, 4, spec.output_stride))
    maps: dict[str, _Map] = {}
    x = build.conv(INPUT, "conv1.0", "conv1.1", stem, stride=2, activation="relu")
    x = build.add(MaxPool("maxpool", x, build.padding), build.channels[x])
    order: Order = None
    for k, (repeats, out_channels) in enumerate(zip(SHUFFLENET_V2_REPEATS, stages, strict=True)):
        stage = _Stage(build, f"stage{k + 2}", repeats, out_channels // 2)
        at = f"{stage.name}.0"
        step = next(steps)
        y = build.conv(
            x,
            f"{at}.branch1.0",
            f"{at}.branch1.1",
            build.channels[x],
            stride=step[0],
            dilation=step[1],
            depthwise=True,
            activation=None,
            out_order=order,
        )
        stage.tensors["0.branch1"] = build.conv(
            y,
            f"{at}.branch1.2",
            f"{at}.branch1.3",
            stage.half,
            activation="relu",
            in_order=order,
            out_order=stage.order("0.branch1"),
        )
        stage.tensors["0.branch2"] = _branch2(build, x, at, step, order, stage.order("0.branch2"))
        channels = _first_unit(stage.half)
        for unit in range(1, repeats):
            y, order = stage.gather(unit, channels[stage.half :])
            branch = f"{unit}.branch2"
            stage.tensors[branch] = _branch2(build, y, f"{stage.name}.{unit}", next(steps), order, stage.order(branch))
            channels = _next_unit(channels, unit)
        x, order = stage.gather(repeats, channels)
        maps[f"stride_{2 ** (k + 3)}"] = _Map(x, order)
    if spec.task != "segmentation":
        x = build.conv(x, "conv5.0", "conv5.1", last, activation="relu", in_order=order)
        maps["last"] = _Map(x)
    return maps


def _branch2(
    build: _Builder, x: str, at: str, step: tuple[int, int], in_order: Order, out_order: NDArray[np.intp]
) -> str:
    half = len(out_order)
    stride, dilation = step
    x = build.conv(x, f"{at}.branch2.0", f"{at}.branch2.1", half, activation="relu", in_order=in_order)
    x = build.conv(
        x,
        f"{at}.branch2.3",
        f"{at}.branch2.4",
        half,
        stride=stride,
        dilation=dilation,
        depthwise=True,
        activation=None,
    )
    return build.conv(x, f"{at}.branch2.5", f"{at}.branch2.6", half, activation="relu", out_order=out_order)


BACKBONES = {"mobilenet_v2": _mobilenet_v2, "shufflenet_v2": _shufflenet_v2}
