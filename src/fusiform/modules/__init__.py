"""PyTorch modules only: no files, no names, no downloads."""

from __future__ import annotations

import functools

from fusiform.modules.backbones import Backbone, BackboneClass
from fusiform.modules.deeplab_v3 import DeepLabV3
from fusiform.modules.mobilenet_v2 import MobileNetV2
from fusiform.modules.shufflenet_v2 import ShuffleNetV2
from fusiform.modules.ssdlite import SSDLite
from fusiform.spec import Architecture, ModelSpec
from fusiform.tables import TRAITS

__all__ = ["ARCHITECTURES", "DeepLabV3", "MobileNetV2", "SSDLite", "ShuffleNetV2", "build_backbone", "build_network"]

ARCHITECTURES: dict[Architecture, BackboneClass] = {
    "mobilenet_v2": MobileNetV2,
    "shufflenet_v2": ShuffleNetV2,
}


def build_network(spec: ModelSpec, *, dropout: float | None = None) -> Backbone | SSDLite | DeepLabV3:
    """The network that ``spec`` describes, freshly initialised, in training mode.

    It answers logits, also where ``spec.output`` says that the file ends in a softmax. ``dropout`` None means the
    network's own: 0.2 for MobileNetV2, 0 for ShuffleNetV2, 0.1 for DeepLabv3; SSDLite has none. Raises UsageError for a
    wrong dropout.
    """
    if spec.task == "detection":
        width = TRAITS[spec.architecture].head_width(spec.width)
        return SSDLite(build_backbone(spec), spec.num_classes + 1, width=width, padding=spec.padding)
    if spec.task == "segmentation":
        segmenter = functools.partial(
            DeepLabV3,
            build_backbone(spec, output_stride=spec.output_stride),
            spec.num_classes,
            output_stride=spec.output_stride,
            aspp=spec.aspp,
            align_corners=spec.align_corners,
        )
        return segmenter() if dropout is None else segmenter(dropout=dropout)
    return build_backbone(spec, spec.num_classes, dropout=dropout)


def build_backbone(
    spec: ModelSpec, num_classes: int = 1, *, dropout: float | None = None, output_stride: int = 32
) -> Backbone:
    """The classifier whose layers ``spec``'s network has for a backbone, freshly initialised, in training mode.

    Raises UsageError for a wrong dropout or output_stride.
    """
    network = functools.partial(
        ARCHITECTURES[spec.architecture],
        spec.width,
        num_classes,
        padding=spec.padding,
        in_channels=spec.input_channels,
        output_stride=output_stride,
    )
    return network() if dropout is None else network(dropout=dropout)
