"""Networks by the names, arguments and habits of torchvision's builders."""

from __future__ import annotations

import enum
import os
from typing import TypeVar

from fusiform.errors import InputError, UsageError
from fusiform.modules import DeepLabV3, MobileNetV2, ShuffleNetV2, SSDLite
from fusiform.modules.mobilenet_v2 import NormLayer, Rows
from fusiform.progress import tracker
from fusiform.spec import Architecture, Task, network_name
from fusiform.zoo.catalog import find_weights
from fusiform.zoo.fetch import fetch
from fusiform.zoo.load import load, load_state, with_classes
from fusiform.zoo.model import Model, looks_like_a_file, open_model

Weights = str | os.PathLike[str] | enum.Enum | bool | None
"""None for fresh weights, ``bundled``, ``IMAGENET1K_V1``, ``IMAGENET1K_V2``, ``DEFAULT``, a member of torchvision's
enumeration for the network, or a model file. True and False are torchvision's old ``pretrained``, which came first."""

Network = TypeVar("Network", MobileNetV2, ShuffleNetV2)
Headed = TypeVar("Headed", SSDLite, DeepLabV3)


def mobilenet_v2(
    weights: Weights = None,
    progress: bool = True,
    *,
    num_classes: int | None = None,
    width_mult: float | None = None,
    inverted_residual_setting: Rows | None = None,
    round_nearest: int = 8,
    norm_layer: NormLayer | None = None,
    dropout: float = 0.2,
    pretrained: bool | None = None,
    width: float | None = None,
) -> MobileNetV2:
    """MobileNetV2, with the arguments of torchvision's ``mobilenet_v2``; in eval mode where it has trained weights.

    ``weights`` are as ``Weights`` says; ``pretrained=True`` is ``weights='bundled'``, which needs no download.
    ``progress`` shows a bar while weights are downloaded. ``num_classes`` other than those of the weights puts a fresh
    classifier on them, and 0 none. ``width`` is another name of ``width_mult``. Raises UsageError for arguments that do
    not go together, and WeightsError for weights that do not fit the network.
    """
    weights = _one_of(weights, pretrained)
    if width is not None and width_mult is not None:
        raise UsageError("mobilenet_v2: width and width_mult are one thing: give one of them")
    width = width_mult if width is None else width
    model = _open("mobilenet_v2", weights, width, progress, trained="bundled")
    spec = None if model is None else model.spec
    network = MobileNetV2(
        (1.0 if width is None else width) if spec is None else spec.width,
        num_classes if num_classes is not None else 1000 if spec is None else spec.num_classes,
        padding="symmetric" if spec is None else spec.padding,
        in_channels=3 if spec is None else spec.input_channels,
        dropout=dropout,
        inverted_residual_setting=inverted_residual_setting,
        round_nearest=round_nearest,
        norm_layer=norm_layer,
    )
    return network if model is None else _filled(network, model)


def shufflenet_v2_x0_5(
    weights: Weights = None,
    progress: bool = True,
    *,
    num_classes: int | None = None,
    dropout: float = 0.0,
    pretrained: bool | None = None,
) -> ShuffleNetV2:
    """ShuffleNetV2 x0.5; arguments as of ``mobilenet_v2``, but ``pretrained=True`` is ``weights='DEFAULT'``."""
    return _shufflenet_v2(0.5, _one_of(weights, pretrained), progress, num_classes, dropout)


def shufflenet_v2_x1_0(
    weights: Weights = None,
    progress: bool = True,
    *,
    num_classes: int | None = None,
    dropout: float = 0.0,
    pretrained: bool | None = None,
) -> ShuffleNetV2:
    """ShuffleNetV2 x1.0; arguments as of ``mobilenet_v2``: ``pretrained=True`` is ``weights='bundled'``."""
    return _shufflenet_v2(1.0, _one_of(weights, pretrained), progress, num_classes, dropout)


def shufflenet_v2_x1_5(
    weights: Weights = None,
    progress: bool = True,
    *,
    num_classes: int | None = None,
    dropout: float = 0.0,
    pretrained: bool | None = None,
) -> ShuffleNetV2:
    """ShuffleNetV2 x1.5; arguments as of ``mobilenet_v2``, but ``pretrained=True`` is ``weights='DEFAULT'``."""
    return _shufflenet_v2(1.5, _one_of(weights, pretrained), progress, num_classes, dropout)


def shufflenet_v2_x2_0(
    weights: Weights = None,
    progress: bool = True,
    *,
    num_classes: int | None = None,
    dropout: float = 0.0,
    pretrained: bool | None = None,
) -> ShuffleNetV2:
    """ShuffleNetV2 x2.0; arguments as of ``mobilenet_v2``, but ``pretrained=True`` is ``weights='DEFAULT'``."""
    return _shufflenet_v2(2.0, _one_of(weights, pretrained), progress, num_classes, dropout)


def ssdlite_mobilenet_v2(
    weights: str | os.PathLike[str] | None = None,
    *,
    num_classes: int = 81,
    width: float = 1.0,
    backbone: Weights = None,
) -> SSDLite:
    """SSDLite over MobileNetV2; ``num_classes`` counts the background, ``backbone`` is ``weights`` of its backbone.

    ``weights`` is a model file, which knows its classes and its width.
    """
    if weights is not None:
        return _headed(weights, SSDLite)
    return SSDLite(mobilenet_v2(backbone, width_mult=width), num_classes, width=width)


def ssdlite_shufflenet_v2_x1_0(
    weights: str | os.PathLike[str] | None = None, *, num_classes: int = 81, backbone: Weights = None
) -> SSDLite:
    """SSDLite over ShuffleNetV2 x1.0; arguments as of ``ssdlite_mobilenet_v2``."""
    if weights is not None:
        return _headed(weights, SSDLite)
    return SSDLite(shufflenet_v2_x1_0(backbone), num_classes)


def deeplab_v3_mobilenet_v2(
    weights: str | os.PathLike[str] | None = None,
    *,
    num_classes: int = 21,
    width: float = 1.0,
    output_stride: int = 16,
    aspp: bool = False,
    backbone: Weights = None,
) -> DeepLabV3:
    """DeepLabv3 over MobileNetV2; the weights of a file serve output stride 8 and 16.

    ``weights`` is a model file, which knows its classes, its width and its ``aspp``; ``backbone`` is ``weights`` of the
    backbone.
    """
    if weights is not None:
        return _headed(weights, DeepLabV3, output_stride)
    denser = MobileNetV2(width, output_stride=output_stride)
    if backbone is not None:
        denser.load_state_dict(mobilenet_v2(backbone, width_mult=width, num_classes=1000).state_dict())
    return DeepLabV3(denser, num_classes, output_stride=output_stride, aspp=aspp)


def deeplab_v3_shufflenet_v2_x1_0(
    weights: str | os.PathLike[str] | None = None,
    *,
    num_classes: int = 21,
    output_stride: int = 16,
    aspp: bool = False,
    backbone: Weights = None,
) -> DeepLabV3:
    """DeepLabv3 over ShuffleNetV2 x1.0; arguments as of ``deeplab_v3_mobilenet_v2``."""
    if weights is not None:
        return _headed(weights, DeepLabV3, output_stride)
    denser = ShuffleNetV2(1.0, output_stride=output_stride)
    if backbone is not None:
        denser.load_state_dict(shufflenet_v2_x1_0(backbone, num_classes=1000).state_dict())
    return DeepLabV3(denser, num_classes, output_stride=output_stride, aspp=aspp)


def _shufflenet_v2(
    width: float, weights: Weights, progress: bool, num_classes: int | None, dropout: float
) -> ShuffleNetV2:
    model = _open("shufflenet_v2", weights, width, progress, trained="bundled" if width == 1.0 else "DEFAULT")
    if model is None:
        return ShuffleNetV2(width, 1000 if num_classes is None else num_classes, dropout=dropout)
    spec = model.spec
    network = ShuffleNetV2(
        width,
        spec.num_classes if num_classes is None else num_classes,
        padding=spec.padding,
        in_channels=spec.input_channels,
        dropout=dropout,
    )
    return _filled(network, model)


def _one_of(weights: Weights, pretrained: bool | None) -> Weights:
    """The weights that are meant, by one of two arguments."""
    if pretrained is None:
        return weights
    if weights is not None:
        raise UsageError(
            f"weights={weights!r} and pretrained={pretrained!r} say the same thing twice: give weights alone"
        )
    return pretrained


def _open(
    architecture: Architecture, weights: Weights, width: float | None, progress: bool, *, trained: str
) -> Model | None:
    """The model with these weights, which is one of the network's; None for fresh weights."""
    if weights is None or weights is False:
        return None
    if weights is True:
        weights = trained
    if isinstance(weights, enum.Enum):
        weights = f"{type(weights).__name__}.{weights.name}"
    if not isinstance(weights, (str, os.PathLike)):
        raise UsageError(
            f"{architecture}: weights must be None, 'bundled', 'DEFAULT', a name such as 'IMAGENET1K_V1', a member of "
            f"torchvision's enumeration or a model file, got {weights!r}"
        )
    if isinstance(weights, os.PathLike) or looks_like_a_file(weights):
        return _fitting(open_model(weights), architecture, width)
    record = find_weights(network_name(architecture, 1.0 if width is None else width), weights)
    if not record.bundled:
        record.check_loadable()
        fetch(record, progress=tracker(progress))
    return open_model(record.name)


def _fitting(model: Model, architecture: Architecture, width: float | None) -> Model:
    """A classifier's file for the architecture, and the width where one was named."""
    spec = model.spec
    if spec.task != "classification":
        raise InputError(f"{model.path}: is for {spec.task}, not for classification: name another file")
    if spec.architecture != architecture or width not in (None, spec.width):
        meant = architecture if width is None else network_name(architecture, width)
        raise InputError(f"{model.path}: holds {spec.name}, not {meant}: name another file, or build that network")
    return model


def _filled(network: Network, model: Model) -> Network:
    """The network with a model's weights, in eval mode; a classifier of other classes stays as it is."""
    state, fresh = with_classes(model, network.num_classes)
    load_state(network, state, source=str(model.path), fresh=fresh)
    return network.eval()


def _headed(weights: str | os.PathLike[str], kind: type[Headed], output_stride: int | None = None) -> Headed:
    """A detector or segmenter from its file."""
    task: Task = "detection" if kind is SSDLite else "segmentation"
    if not isinstance(weights, (str, os.PathLike)):
        raise UsageError(f"weights of a network for {task} are a model file, got {weights!r}; there are no others")
    if (found := open_model(weights).spec.task) != task:
        raise InputError(f"{weights}: is for {found}, not for {task}: name another file")
    network = load(weights, output_stride=output_stride)
    assert isinstance(network, kind)
    return network
