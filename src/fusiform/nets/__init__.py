"""The networks for PyTorch users: ``from fusiform.nets import mobilenet_v2`` where torchvision's stood."""

from __future__ import annotations

from fusiform.modules import DeepLabV3, MobileNetV2, ShuffleNetV2, SSDLite, build_backbone, build_network
from fusiform.nets.builders import (
    deeplab_v3_mobilenet_v2,
    deeplab_v3_shufflenet_v2_x1_0,
    mobilenet_v2,
    shufflenet_v2_x0_5,
    shufflenet_v2_x1_0,
    shufflenet_v2_x1_5,
    shufflenet_v2_x2_0,
    ssdlite_mobilenet_v2,
    ssdlite_shufflenet_v2_x1_0,
)

__all__ = [
    "DeepLabV3",
    "MobileNetV2",
    "SSDLite",
    "ShuffleNetV2",
    "build_backbone",
    "build_network",
    "deeplab_v3_mobilenet_v2",
    "deeplab_v3_shufflenet_v2_x1_0",
    "mobilenet_v2",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "ssdlite_mobilenet_v2",
    "ssdlite_shufflenet_v2_x1_0",
]
