"""A narrower network cut out of a trained wider one, as a better start than random numbers.

Of each layer's channels those stay that matter most, judged by the weights alone: how strong a channel is, times the L1
norm of the weights that read it. Its strength is the scale that batch normalisation gives it (Network Slimming,
arXiv 1708.06519), and where that is folded away the L1 norm of the filter that makes it (arXiv 1608.08710). Channels
that are added, passed on or shuffled together stay together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import InputError
from fusiform.spec import Architecture, ModelSpec
from fusiform.tables import (
    MOBILENET_V2_BOTTLENECKS,
    SHUFFLENET_V2_CHANNELS,
    SHUFFLENET_V2_REPEATS,
    TRAITS,
    mobilenet_v2_channels,
)

State = dict[str, NDArray[Any]]
Indices = NDArray[np.intp]
Importance = NDArray[np.float64]


def slice_state(state: Mapping[str, NDArray[Any]], spec: ModelSpec, width: float) -> State:
    """The weights of the network of ``spec`` at ``width``, cut out of those at ``spec.width``.

    ``state`` has torchvision's names; batch normalisation may be folded into the convolutions or not. The classifier
    is cut to the features that are left, and left out where ``state`` has none. The filters that lost inputs are
    magnified to their former L2 norm, so that activations keep their size. At the same width the weights come back
    as they are.

    The answers have to be learned again, and what was cut is a start for that: nothing is left of them at half the
    width, but the features resemble the wide network's more than random ones do, once batch normalisation has the
    statistics of the narrow network. So unfold folded weights before they are cut (``batch_norm.unfold``), and train
    with ``batch_norm="train"``.

    Raises UsageError for a width that is larger or that the network does not have, and for one of none of ``SLICES``.
    """
    traits = TRAITS[spec.architecture]
    if not traits.any_width and width not in traits.widths:
        raise InputError(f"{spec.architecture} has widths {', '.join(map(str, traits.widths))}, not {width}")
    if not 0 < width <= spec.width:
        raise InputError(f"a network of width {spec.width} can be cut to a smaller one, not to {width}")
    if (slice_network := SLICES.get(spec.architecture)) is None:
        raise InputError(f"a {traits.title} cannot be cut to another width: use --scratch, or weights of its own")
    cut = _Cut(state)
    slice_network(cut, width)
    return cut.result


def _slice_mobilenet_v2(cut: _Cut, width: float) -> None:
    stem, rows, last = mobilenet_v2_channels(width)

    # Layer i of features: the row of the table that it is in, and whether there is an expansion before the depthwise.
    row_of = [row for row, (_, _, repeats, _) in enumerate(MOBILENET_V2_BOTTLENECKS) for _ in range(repeats)]
    paths = [f"features.{i + 1}.conv" for i in range(len(row_of))]
    expand = [None if row == 0 else f"{path}.0" for row, path in zip(row_of, paths, strict=True)]
    depthwise = [f"{path}.{0 if row == 0 else 1}" for row, path in zip(row_of, paths, strict=True)]
    project = [f"{path}.{1 if row == 0 else 2}" for row, path in zip(row_of, paths, strict=True)]
    project_norm = [f"{path}.{2 if row == 0 else 3}" for row, path in zip(row_of, paths, strict=True)]

    # What reads the output of each layer: the next one's expansion, or the last convolution.
    readers = [*(f"{name}.0" for name in expand[1:]), "features.18.0"]

    # A row's layers add to one stream: the channels are chosen for all of them at once.
    streams = []
    for row, channels in enumerate(rows):
        layers = [i for i, of in enumerate(row_of) if of == row]
        written = np.sum([cut.makes(project[i], project_norm[i]) for i in layers], axis=0)
        read = np.sum([cut.reads(readers[i]) for i in layers], axis=0)
        streams.append(_largest(written * read, channels))

    filtered = cut.makes("features.1.conv.0.0", "features.1.conv.0.1")
    inputs = _largest(
        cut.makes("features.0.0", "features.0.1") * filtered * cut.reads(project[0]),
        stem,
    )
    cut.conv("features.0.0", "features.0.1", inputs, None)
    for i, row in enumerate(row_of):
        hidden = inputs  # at t = 1 the depthwise convolution sees the stem's channels
        if (name := expand[i]) is not None:
            importance = cut.makes(f"{name}.0", f"{name}.1")
            importance = importance * cut.makes(f"{depthwise[i]}.0", f"{depthwise[i]}.1") * cut.reads(project[i])
            hidden = _largest(importance, MOBILENET_V2_BOTTLENECKS[row][0] * len(inputs))
            cut.conv(f"{name}.0", f"{name}.1", hidden, inputs)
        cut.conv(f"{depthwise[i]}.0", f"{depthwise[i]}.1", hidden, None)
        inputs = streams[row]
        cut.conv(project[i], project_norm[i], inputs, hidden)
    features = _largest(cut.makes("features.18.0", "features.18.1") * cut.reads("classifier.1"), last)
    cut.conv("features.18.0", "features.18.1", features, inputs)
    cut.linear("classifier.1", features)


def _slice_shufflenet_v2(cut: _Cut, width: float) -> None:
    channels = SHUFFLENET_V2_CHANNELS[width]

    # How much the weights behind each stage's last unit read of its channels; stages 2 to 4 are 0 to 2 here.
    read_after: list[Importance] = []
    for stage in range(3):
        if stage == 2:
            read_after.append(cut.reads("conv5.0"))
        else:
            first = f"stage{stage + 3}.0"
            through = cut.makes(f"{first}.branch1.0", f"{first}.branch1.1") * cut.reads(f"{first}.branch1.2")
            read_after.append(through + cut.reads(f"{first}.branch2.0"))

    inputs: Indices = np.arange(channels[0])  # conv1 has the same channels at every width
    cut.conv("conv1.0", "conv1.1", inputs, None)
    for stage, units in enumerate(SHUFFLENET_V2_REPEATS):
        name = f"stage{stage + 2}"
        inputs = _slice_stage(cut, name, units, channels=channels[stage + 1], inputs=inputs, read=read_after[stage])
    features = _largest(cut.makes("conv5.0", "conv5.1") * cut.reads("fc"), channels[4])
    cut.conv("conv5.0", "conv5.1", features, inputs)
    cut.linear("fc", features)


def _slice_stage(cut: _Cut, name: str, units: int, *, channels: int, inputs: Indices, read: Importance) -> Indices:
    """Cut a stage of ShuffleNetV2 to ``channels``; ``inputs`` and the answer say which wide channel each is.

    ``read`` is how much of each channel the weights behind the stage read. A unit's output interleaves the half that
    passed with the half that was filtered: in the next unit the channels at a place p in the lower half pass, to 2p,
    and those in the upper half are filtered. A wide channel can stand in for a narrow one if both pass equally many
    units before they are filtered; among those the strongest are taken.
    """
    wide = len(read)
    # How much of each place after each unit is read: the upper half by the next unit, the lower half further on.
    reads = [read]
    for unit in range(units - 1, 0, -1):
        reads.insert(0, np.concatenate([reads[0][0::2], cut.reads(f"{name}.{unit}.branch2.0")]))

    for unit in range(units):
        path = f"{name}.{unit}"
        passes_wide, passes_narrow = _passes(wide, units - 1 - unit), _passes(channels, units - 1 - unit)
        if unit == 0:
            importance = cut.makes(f"{path}.branch1.2", f"{path}.branch1.3") * reads[unit][0::2]
            left = _matching(importance, passes_wide[0::2], passes_narrow[0::2])
            cut.conv(f"{path}.branch1.0", f"{path}.branch1.1", inputs, None)
            cut.conv(f"{path}.branch1.2", f"{path}.branch1.3", left, inputs)
            filtered = inputs
        else:
            left = inputs[: channels // 2]
            filtered = inputs[channels // 2 :] - wide // 2
        importance = cut.makes(f"{path}.branch2.5", f"{path}.branch2.6") * reads[unit][1::2]
        right = _matching(importance, passes_wide[1::2], passes_narrow[1::2])
        importance = (
            cut.makes(f"{path}.branch2.0", f"{path}.branch2.1")
            * cut.makes(f"{path}.branch2.3", f"{path}.branch2.4")
            * cut.reads(f"{path}.branch2.5")
        )
        middle = _largest(importance, channels // 2)
        cut.conv(f"{path}.branch2.0", f"{path}.branch2.1", middle, filtered)
        cut.conv(f"{path}.branch2.3", f"{path}.branch2.4", middle, None)
        cut.conv(f"{path}.branch2.5", f"{path}.branch2.6", right, middle)
        inputs = np.stack([2 * left, 2 * right + 1], axis=1).ravel()
    return inputs


def _passes(channels: int, units: int) -> Indices:
    """How many of the ``units`` to come each channel passes by before it is filtered."""
    passed = np.zeros(channels, np.intp)
    place = np.arange(channels)
    for _ in range(units):
        passing = place < channels // 2
        # One that was filtered is another channel from then on.
        place = np.where(passing, 2 * place, channels)
        passed += passing
    return passed


def _matching(importance: Importance, kinds: Indices, wanted: Indices) -> Indices:
    """For each kind in ``wanted`` the place of an important channel of that kind in ``kinds``, in order of place."""
    chosen = np.empty(len(wanted), np.intp)
    for kind in np.unique(wanted):
        of_kind = np.flatnonzero(kinds == kind)
        places = np.flatnonzero(wanted == kind)
        chosen[places] = of_kind[_largest(importance[of_kind], len(places))]
    return chosen


def _largest(importance: Importance, count: int) -> Indices:
    """The places of the ``count`` largest values, in order of place."""
    return np.sort(np.argsort(-importance, kind="stable")[:count])


class _Cut:
    """Layers of a state measured, and cut into ``result``."""

    def __init__(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._state = state
        self.result: State = {}

    def makes(self, conv: str, norm: str) -> Importance:
        """How strong each output channel is: its scale in batch normalisation, or the L1 norm of its filter."""
        scale: Importance = np.abs(self._state[f"{norm}.weight"].astype(np.float64))
        if np.any(scale != 1):
            return scale
        weight = self._state[f"{conv}.weight"]
        return _absolute_sum(weight, tuple(range(1, weight.ndim)))

    def reads(self, layer: str) -> Importance:
        """For each input channel the L1 norm of the weights that read it; ones for a classifier that is absent."""
        weight = self._state.get(f"{layer}.weight")
        if weight is None:
            return np.ones(1)
        return _absolute_sum(weight, (0, *range(2, weight.ndim)))

    def conv(self, conv: str, norm: str, outputs: Indices, inputs: Indices | None) -> None:
        """Keep these outputs and inputs of a convolution (None: all it has, or depthwise) and what follows it."""
        weight = self._state[f"{conv}.weight"][outputs]
        if inputs is not None:
            weight = _rescaled(weight[:, inputs], weight)
        self.result[f"{conv}.weight"] = weight
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.result[f"{norm}.{name}"] = self._state[f"{norm}.{name}"][outputs]
        if (batches := self._state.get(f"{norm}.num_batches_tracked")) is not None:
            self.result[f"{norm}.num_batches_tracked"] = batches

    def linear(self, layer: str, inputs: Indices) -> None:
        """Keep these inputs of the classifier, if there is one."""
        if (weight := self._state.get(f"{layer}.weight")) is not None:
            self.result[f"{layer}.weight"] = _rescaled(weight[:, inputs], weight)
            self.result[f"{layer}.bias"] = self._state[f"{layer}.bias"]


SLICES: dict[Architecture, Callable[[_Cut, float], None]] = {
    "mobilenet_v2": _slice_mobilenet_v2,
    "shufflenet_v2": _slice_shufflenet_v2,
}
"""How a network is cut to a smaller width; those without an entry start from weights of their own, or random ones."""


def _absolute_sum(weight: NDArray[Any], axes: tuple[int, ...]) -> Importance:
    total: Importance = np.abs(weight).sum(axes, dtype=np.float64)
    return total


def _rescaled(kept: NDArray[Any], whole: NDArray[Any]) -> NDArray[Any]:
    """The filters that lost inputs, each with the L2 norm that it had."""
    if kept.shape == whole.shape:
        return kept
    axes = tuple(range(1, whole.ndim))
    before = np.sqrt((whole.astype(np.float64) ** 2).sum(axes, keepdims=True))
    after = np.sqrt((kept.astype(np.float64) ** 2).sum(axes, keepdims=True))
    ratio: NDArray[Any] = np.divide(before, after, out=np.ones_like(before), where=after > 0)
    rescaled: NDArray[Any] = (kept * ratio).astype(whole.dtype)
    return rescaled
