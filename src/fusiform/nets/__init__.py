"""The networks for PyTorch users."""

from __future__ import annotations

from fusiform.modules import DeepLabV3, MobileNetV2, ShuffleNetV2, SSDLite, build_backbone, build_network

__all__ = ["DeepLabV3", "MobileNetV2", "SSDLite", "ShuffleNetV2", "build_backbone", "build_network"]
