"""TensorFlow's DeepLabv3 on MobileNetV2, with its own names and layouts, as a state for ``nets.deeplab_v3``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import WeightsError
from fusiform.graph.builder import BATCH_NORM_EPSILON
from fusiform.zoo.checkpoint import State
from fusiform.zoo.foreign_names import shown

_BLOCKS = 17
# The offsets that batch normalisation left behind are called after whichever operator TensorFlow had folded it into.
_OFFSETS = ("{}_Conv2D_bn_offset", "{}_depthwise_bn_offset", "{}_BatchNorm_FusedBatchNorm")


def is_deeplab(arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Whether arrays are TensorFlow's DeepLabv3, by their names."""
    return "logits_semantic_Conv2D" in arrays and "MobilenetV2_Conv_Conv2D" in arrays


def port(arrays: Mapping[str, NDArray[Any]], *, source: str = "the weights") -> State:
    """The state of a ``DeepLabV3`` without ASPP, from TensorFlow's arrays with folded batch normalisations.

    ``arrays`` are float kernels (out, height, width, in), or (1, height, width, channels) if depthwise, and a vector of
    offsets for each, under TensorFlow's names with underscores for slashes. The network is ``DeepLabV3`` over
    ``MobileNetV2(width, padding="same")`` at output stride 8 or 16, which share weights, on pictures scaled to
    [-1, 1]: mean and std are 0.5. Raises WeightsError, which names ``source``, where an array is missing, left over or
    of another rank.
    """
    left = dict(arrays)
    state: State = {}

    def take(name: str, rank: int) -> NDArray[np.float32]:
        if name not in left:
            raise WeightsError(
                f"{source}: {name} is missing. Only TensorFlow's DeepLabv3 on MobileNetV2 without ASPP can be ported, "
                "with its batch normalisations folded"
            )
        array = np.asarray(left.pop(name), np.float32)
        if array.ndim != rank:
            raise WeightsError(f"{source}: {name} has the shape {array.shape}, not the {rank} dimensions expected")
        return array

    def layer(theirs: str, ours: str, norm: str, *, depthwise: bool = False) -> None:
        kernel = take(f"{theirs}_depthwise" if depthwise else f"{theirs}_Conv2D", 4)
        weight = kernel.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
        found = (offset.format(theirs) for offset in _OFFSETS)
        bias = take(next((name for name in found if name in left), _OFFSETS[0].format(theirs)), 1)
        state[f"{ours}.weight"] = np.ascontiguousarray(weight)
        state[f"{norm}.weight"] = np.ones_like(bias)
        state[f"{norm}.bias"] = bias
        state[f"{norm}.running_mean"] = np.zeros_like(bias)
        # So that with the epsilon it is 1.
        state[f"{norm}.running_var"] = np.ones_like(bias) * np.float32(1 - BATCH_NORM_EPSILON)
        state[f"{norm}.num_batches_tracked"] = np.array(0, np.int64)

    features = "backbone.features"
    layer("MobilenetV2_Conv", f"{features}.0.0", f"{features}.0.1")
    for block in range(_BLOCKS):
        theirs = "MobilenetV2_expanded_conv" + (f"_{block}" if block else "")
        ours = f"{features}.{block + 1}.conv"
        k = 0
        if block:  # the first has nothing to expand
            layer(f"{theirs}_expand", f"{ours}.0.0", f"{ours}.0.1")
            k = 1
        layer(f"{theirs}_depthwise", f"{ours}.{k}.0", f"{ours}.{k}.1", depthwise=True)
        layer(f"{theirs}_project", f"{ours}.{k + 1}", f"{ours}.{k + 2}")
    layer("image_pooling", "pooling.0", "pooling.1")
    layer("aspp0", "branches.0.0", "branches.0.1")
    layer("concat_projection", "projection.0", "projection.1")
    state["classifier.weight"] = np.ascontiguousarray(take("logits_semantic_Conv2D", 4).transpose(0, 3, 1, 2))
    state["classifier.bias"] = take("logits_semantic_biases", 1)
    if left:
        raise WeightsError(
            f"{source}: {', '.join(map(shown, sorted(left)[:3]))} {'are' if len(left) > 1 else 'is'} unexpected. Only "
            "TensorFlow's DeepLabv3 on MobileNetV2 without ASPP can be ported"
        )
    return state
