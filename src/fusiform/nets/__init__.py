"""PyTorch modules only: no files, no names, no downloads."""

from __future__ import annotations

import functools

from fusiform.nets.mobilenet_v2 import MobileNetV2
from fusiform.nets.shufflenet_v2 import ShuffleNetV2
from fusiform.spec import Architecture, ModelSpec

__all__ = ["ARCHITECTURES", "MobileNetV2", "ShuffleNetV2", "build_network"]

ARCHITECTURES: dict[Architecture, type[MobileNetV2] | type[ShuffleNetV2]] = {
    "mobilenet_v2": MobileNetV2,
    "shufflenet_v2": ShuffleNetV2,
}


def build_network(
    spec: ModelSpec, *, dropout: float | None = None, output_stride: int = 32
) -> MobileNetV2 | ShuffleNetV2:
    """The network that ``spec`` describes, freshly initialised, in training mode.

    It answers logits, also where ``spec.output`` says that the file ends in a softmax. ``dropout`` None means the
    network's own: 0.2 for MobileNetV2, 0 for ShuffleNetV2. Raises UsageError for a wrong dropout or output_stride.
    """
    network = functools.partial(
        ARCHITECTURES[spec.architecture],
        spec.width,
        spec.num_classes,
        padding=spec.padding,
        in_channels=spec.input_channels,
        output_stride=output_stride,
    )
    return network() if dropout is None else network(dropout=dropout)
