"""What detectors and segmenters ask of a backbone, and take off it."""

from __future__ import annotations

import math

from torch import nn

from fusiform.nets.mobilenet_v2 import MobileNetV2
from fusiform.nets.shufflenet_v2 import ShuffleNetV2

Backbone = MobileNetV2 | ShuffleNetV2


def output_stride_of(backbone: Backbone) -> int:
    """The output stride that a backbone was built with: what is left of its table's strides."""
    if isinstance(backbone, MobileNetV2):
        return math.prod(_strides(backbone.features))
    # Both branches of a stage's first unit have its stride; conv1 and the max pool keep theirs.
    return 4 * math.prod(max(_strides(stage)) for stage in (backbone.stage2, backbone.stage3, backbone.stage4))


def take_off_classifier(backbone: Backbone) -> None:
    """Replace a backbone's classifier by nothing, so that no unused weights are trained, counted or saved."""
    backbone.add_module("classifier" if isinstance(backbone, MobileNetV2) else "fc", nn.Sequential())


def take_off_last(backbone: Backbone) -> None:
    """Replace the last 1x1 convolution, where nothing reads it, by nothing: ``last`` is then the map before it."""
    if isinstance(backbone, MobileNetV2):
        backbone.features[18] = nn.Sequential()
    else:
        backbone.conv5 = nn.Sequential()
    backbone.feature_channels["last"] = backbone.feature_channels["stride_32"]


def _strides(layers: nn.Module) -> list[int]:
    return [module.stride[0] for module in layers.modules() if isinstance(module, nn.Conv2d)]
