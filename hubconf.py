"""Entry points for ``torch.hub.load('PATH/TO/fusiform', 'mobilenet_v2', source='local')``.

``weights`` is None for fresh weights, as in torchvision, or ``'bundled'`` (no download), ``'IMAGENET1K_V1'``,
``'IMAGENET1K_V2'``, ``'DEFAULT'``, or a path to a model file. Detectors and segmenters take a path, such as a training
run's ``best.safetensors``; fresh ones take a classifier's weights for their backbone.
"""

import sys
from pathlib import Path

dependencies = ["torch", "numpy", "PIL", "safetensors", "flatbuffers", "ai_edge_litert"]

sys.path.insert(0, str(Path(__file__).parent / "src"))

from fusiform.errors import UsageError  # noqa: E402
from fusiform.nets import DeepLabV3, MobileNetV2, ShuffleNetV2, SSDLite  # noqa: E402
from fusiform.zoo.load import load  # noqa: E402
from fusiform.zoo.model import open_model  # noqa: E402


def mobilenet_v2(
    weights: str | None = None, *, width: float = 1.0, num_classes: int | None = None, pretrained: bool = False
) -> MobileNetV2:
    """MobileNetV2 at ``width``; ``pretrained=True`` is ``weights='bundled'``. In train mode only if fresh."""
    if pretrained and weights is None:
        weights = "bundled"
    if weights is None:
        return MobileNetV2(width, 1000 if num_classes is None else num_classes)
    if Path(weights).is_file():
        return load(weights, num_classes=num_classes)
    name = "mobilenet_v2" if width == 1.0 else "mobilenet_v2_x" + f"{width}".replace(".", "_")
    return load(name, weights=weights, num_classes=num_classes)


def _shufflenet_v2(width: float, weights: str | None, num_classes: int | None, pretrained: bool) -> ShuffleNetV2:
    if pretrained and weights is None:
        weights = "bundled" if width == 1.0 else "DEFAULT"
    if weights is None:
        return ShuffleNetV2(width, 1000 if num_classes is None else num_classes)
    if Path(weights).is_file():
        return load(weights, num_classes=num_classes)
    return load("shufflenet_v2_x" + f"{width}".replace(".", "_"), weights=weights, num_classes=num_classes)


def shufflenet_v2_x0_5(
    weights: str | None = None, *, num_classes: int | None = None, pretrained: bool = False
) -> ShuffleNetV2:
    """ShuffleNetV2 x0.5; ``pretrained=True`` is ``weights='DEFAULT'``."""
    return _shufflenet_v2(0.5, weights, num_classes, pretrained)


def shufflenet_v2_x1_0(
    weights: str | None = None, *, num_classes: int | None = None, pretrained: bool = False
) -> ShuffleNetV2:
    """ShuffleNetV2 x1.0; ``pretrained=True`` is ``weights='bundled'``."""
    return _shufflenet_v2(1.0, weights, num_classes, pretrained)


def shufflenet_v2_x1_5(
    weights: str | None = None, *, num_classes: int | None = None, pretrained: bool = False
) -> ShuffleNetV2:
    """ShuffleNetV2 x1.5; ``pretrained=True`` is ``weights='DEFAULT'``."""
    return _shufflenet_v2(1.5, weights, num_classes, pretrained)


def shufflenet_v2_x2_0(
    weights: str | None = None, *, num_classes: int | None = None, pretrained: bool = False
) -> ShuffleNetV2:
    """ShuffleNetV2 x2.0; ``pretrained=True`` is ``weights='DEFAULT'``."""
    return _shufflenet_v2(2.0, weights, num_classes, pretrained)


def ssdlite_mobilenet_v2(
    weights: str | None = None, *, width: float = 1.0, num_classes: int = 81, backbone: str | None = None
) -> SSDLite:
    """SSDLite over MobileNetV2; ``num_classes`` counts the background, ``backbone`` is ``weights`` of its backbone."""
    if weights is not None:
        return _load(weights, SSDLite)
    return SSDLite(mobilenet_v2(backbone, width=width), num_classes, width=width)


def ssdlite_shufflenet_v2_x1_0(
    weights: str | None = None, *, num_classes: int = 81, backbone: str | None = None
) -> SSDLite:
    """SSDLite over ShuffleNetV2 x1.0; ``num_classes`` counts the background."""
    return _load(weights, SSDLite) if weights is not None else SSDLite(shufflenet_v2_x1_0(backbone), num_classes)


def deeplab_v3_mobilenet_v2(
    weights: str | None = None,
    *,
    width: float = 1.0,
    num_classes: int = 21,
    output_stride: int = 16,
    aspp: bool = False,
    backbone: str | None = None,
) -> DeepLabV3:
    """DeepLabv3 over MobileNetV2; the weights of a file serve output stride 8 and 16."""
    if weights is not None:
        return _load(weights, DeepLabV3, output_stride)
    network = MobileNetV2(width, output_stride=output_stride)
    if backbone is not None:
        network.load_state_dict(mobilenet_v2(backbone, width=width).state_dict())
    return DeepLabV3(network, num_classes, output_stride=output_stride, aspp=aspp)


def deeplab_v3_shufflenet_v2_x1_0(
    weights: str | None = None,
    *,
    num_classes: int = 21,
    output_stride: int = 16,
    aspp: bool = False,
    backbone: str | None = None,
) -> DeepLabV3:
    """DeepLabv3 over ShuffleNetV2 x1.0; the weights of a file serve output stride 8 and 16."""
    if weights is not None:
        return _load(weights, DeepLabV3, output_stride)
    network = ShuffleNetV2(1.0, output_stride=output_stride)
    if backbone is not None:
        network.load_state_dict(shufflenet_v2_x1_0(backbone).state_dict())
    return DeepLabV3(network, num_classes, output_stride=output_stride, aspp=aspp)


def _load(weights: str, kind: type, output_stride: int | None = None) -> SSDLite | DeepLabV3:
    task = "detection" if kind is SSDLite else "segmentation"
    if (found := open_model(weights).spec.task) != task:
        raise UsageError(f"{weights}: is for {found}, not for {task}: name another file")
    return load(weights, output_stride=output_stride)
