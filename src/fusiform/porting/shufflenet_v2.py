"""ShuffleNetV2's layers in a foreign file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fusiform.porting.matcher import Matcher
from fusiform.porting.tracer import BORDER, Convolution, Layer, Numbers
from fusiform.tables import SHUFFLENET_V2_REPEATS


class _Branch(NamedTuple):
    """The convolutions of one branch of a unit, from its input to its output, and their names in torchvision."""

    layers: list[Convolution]
    names: list[tuple[str, str]]


def resembles(layers: Sequence[Layer]) -> bool:
    """Whether a network of these layers is to be compared with this one, which has a max pooling."""
    return any(layer.kind == "maximum" for layer in layers)


def match(net: Matcher) -> Numbers:
    """Table 5 and Figure 3 of arXiv 1807.11164.

    Split, concatenation and shuffle only decide which unit reads which channel: any file in which each unit reads as
    many channels of each earlier branch as in torchvision's computes the same function, in another order of channels.
    """
    stem = net.conv(net.input, "conv1.0", kernel=3, stride=2, activation="relu")
    x = net.pool(net.write(stem, net.input, "conv1.0", "conv1.1"), "maximum", "maxpool")
    for stage, repeats in zip((2, 3, 4), SHUFFLENET_V2_REPEATS, strict=True):
        at = f"stage{stage}.0"
        first = net.conv(x, f"{at}.branch1.0", kernel=3, stride=2, depthwise=True, activation=None)
        second = net.conv(first.makes, f"{at}.branch1.2", activation="relu")
        names = [(f"{at}.branch1.{conv}", f"{at}.branch1.{conv + 1}") for conv in (0, 2)]
        branches = [_Branch([first, second], names), _branch2(net, x, at, 2)]
        half = len(second.makes)
        made = np.concatenate([branch.layers[-1].makes for branch in branches])
        for unit in range(1, repeats):
            reads = _unit_input(net, made, half, f"stage{stage}.{unit}.branch2.0")
            branches.append(_branch2(net, reads, f"stage{stage}.{unit}", 1))
            made = np.concatenate([made, branches[-1].layers[-1].makes])
        x = _write_stage(net, x, branches, half)
    x = net.write(net.conv(x, "conv5.0", activation="relu"), x, "conv5.0", "conv5.1")
    return net.classifier(x, "fc")


def _branch2(net: Matcher, x: Numbers, at: str, stride: int) -> _Branch:
    first = net.conv(x, f"{at}.branch2.0", activation="relu")
    second = net.conv(first.makes, f"{at}.branch2.3", kernel=3, stride=stride, depthwise=True, activation=None)
    third = net.conv(second.makes, f"{at}.branch2.5", activation="relu")
    return _Branch([first, second, third], [(f"{at}.branch2.{conv}", f"{at}.branch2.{conv + 1}") for conv in (0, 3, 5)])


def _unit_input(net: Matcher, made: Numbers, half: int, name: str) -> Numbers:
    """What the next unit of a stage reads: half as many channels as there are, and some of the newest branch."""
    newest = set(made[-half:].tolist())
    known = set(made.tolist())
    for layer in net.layers:
        if isinstance(layer, Convolution) and len(layer.reads[0]) == half and not layer.depthwise:
            reads = set(layer.reads[0].tolist())
            if reads <= known and reads & newest:
                return layer.reads[0]
    raise net.differs(name, "a 1x1 convolution of half of the channels", "none")


def _shuffle(channels: Numbers) -> Numbers:
    """The channel shuffle with two groups: first of either half, second of either half, and so on."""
    return np.concatenate(channels.reshape(2, -1).T)


def _write_stage(net: Matcher, x: Numbers, branches: list[_Branch], half: int) -> Numbers:
    """Write a stage that reads ``x``; returns the channels it makes, in torchvision's order.

    In torchvision's order, channel ``i`` of branch ``b`` (0 and 1 for the first unit's two) is slot ``b * half + i``.
    Slots and the file's channels that go to the same unit from the same branch are paired off in order.
    """
    channel = np.full(len(branches) * half, BORDER, np.int32)

    def pair(slots: Numbers, reads: Numbers) -> None:
        for b, branch in enumerate(branches):
            of_branch = np.sort(slots[slots // half == b])
            channels = np.sort(reads[np.isin(reads, branch.layers[-1].makes)])
            if len(of_branch) != len(channels):
                raise net.differs(branch.names[-1][0], "a shuffle of two groups", "another pattern")
            channel[of_branch] = channels

    slots, inputs = _shuffle(np.arange(2 * half, dtype=np.int32)), []
    rest = np.concatenate([branch.layers[-1].makes for branch in branches])
    for b, branch in enumerate(branches[2:], start=2):
        inputs.append(slots[half:])
        pair(inputs[-1], branch.layers[0].reads[0])
        rest = rest[~np.isin(rest, branch.layers[0].reads[0])]
        slots = _shuffle(np.concatenate([slots[:half], np.arange(b * half, (b + 1) * half, dtype=np.int32)]))
    pair(slots, rest)

    for b, (branch, y) in enumerate(zip(branches, [x, x, *(channel[slots] for slots in inputs)], strict=True)):
        for layer, (name, norm) in zip(branch.layers, branch.names, strict=True):
            last = layer is branch.layers[-1]
            y = net.write(layer, y, name, norm, channel[b * half : (b + 1) * half] if last else None)
    return channel[slots]
