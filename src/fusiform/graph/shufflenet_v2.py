"""ShuffleNetV2 as a graph (arXiv 1807.11164)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fusiform.graph.builder import Builder, FeatureMap, Order
from fusiform.graph.ir import INPUT, Gather, MaxPool
from fusiform.tables import SHUFFLENET_V2_CHANNELS, SHUFFLENET_V2_REPEATS, trade_strides

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

    def __init__(self, build: Builder, name: str, repeats: int, half: int) -> None:
        self.build, self.name, self.half = build, name, half
        reader = _readers(repeats, half)
        branches = ("0.branch1", *(f"{unit}.branch2" for unit in range(repeats)))
        self.readers = {branch: np.array([reader[branch, i] for i in range(half)]) for branch in branches}
        self.orders = {branch: np.argsort(readers, kind="stable") for branch, readers in self.readers.items()}
        """The channels of each branch, sorted by who reads them."""
        self.tensors: dict[str, str] = {}

    def gather(self, unit: int, channels: list[Channel]) -> tuple[str, NDArray[np.intp]]:
        """The tensor that holds the ``channels`` that ``unit`` reads, and which of them each of its channels is."""
        pieces, positions = [], []
        position = {channel: k for k, channel in enumerate(channels)}
        for branch, tensor in self.tensors.items():
            order, readers = self.orders[branch], self.readers[branch]
            first, end = np.searchsorted(readers[order], (unit, unit + 1)).tolist()
            if first < end:
                pieces.append((tensor, first, end))
                positions += [position[branch, i] for i in order[first:end].tolist()]
        node = Gather(f"{self.build.prefix}{self.name}.{unit}.gather", tuple(pieces))
        return self.build.add(node, len(positions)), np.array(positions)


def shufflenet_v2(build: Builder) -> dict[str, FeatureMap]:
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
    maps: dict[str, FeatureMap] = {}
    x = build.conv(INPUT, "conv1.0", "conv1.1", stem, kernel=3, stride=2, activation="relu")
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
            out_order=stage.orders["0.branch1"],
        )
        stage.tensors["0.branch2"] = _branch2(build, x, at, step, order, stage.orders["0.branch2"])
        channels = _first_unit(stage.half)
        for unit in range(1, repeats):
            y, order = stage.gather(unit, channels[stage.half :])
            branch = f"{unit}.branch2"
            stage.tensors[branch] = _branch2(build, y, f"{stage.name}.{unit}", next(steps), order, stage.orders[branch])
            channels = _next_unit(channels, unit)
        x, order = stage.gather(repeats, channels)
        maps[f"stride_{2 ** (k + 3)}"] = FeatureMap(x, order)
    if spec.task != "segmentation":
        x = build.conv(x, "conv5.0", "conv5.1", last, activation="relu", in_order=order)
        maps["last"] = FeatureMap(x)
    return maps


def _branch2(
    build: Builder, x: str, at: str, step: tuple[int, int], in_order: Order, out_order: NDArray[np.intp]
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
