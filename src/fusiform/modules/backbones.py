"""What every architecture's module is to detectors, segmenters and training."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor, nn

from fusiform.spec import Padding
from fusiform.tables import Traits


class Backbone(nn.Module):
    """A classifier whose feature maps detectors and segmenters can read.

    A subclass has its ``traits`` and is built as ``BackboneClass`` says. Its ``forward`` averages the map ``last`` and
    sends it through its only ``nn.Dropout`` and its classifier. ``output_stride`` is the one that it was built with,
    and ``feature_channels`` maps the names of ``forward_features`` to channels.
    """

    traits: ClassVar[Traits]

    # Set here and not annotated above: TorchScript would read annotations of the class, which are text.
    def __init__(self, output_stride: int) -> None:
        super().__init__()
        self.output_stride = output_stride
        self.feature_channels: dict[str, int] = {}

    def forward_features(self, x: Tensor) -> dict[str, Tensor]:
        """The feature maps of pictures (N, in_channels, H, W) by name.

        Every architecture has ``stride_4``, ``stride_8``, ``stride_16``, ``stride_32``, ``last`` and
        ``traits.detection_map``, whose sides are ceil(H / stride) and ceil(W / stride).
        """
        raise NotImplementedError

    def stages(self) -> list[nn.Module]:
        """The blocks from the input on, up to the last map: the rows of the paper's table, repeats one by one."""
        raise NotImplementedError


class BackboneClass(Protocol):
    """What builds an architecture's module: each knows its own dropout, and checks all arguments (UsageError)."""

    def __call__(
        self,
        width: float = ...,
        num_classes: int = ...,
        *,
        padding: Padding = ...,
        in_channels: int = ...,
        dropout: float = ...,
        output_stride: int = ...,
    ) -> Backbone: ...


def classifier_of(backbone: nn.Module) -> nn.Linear:
    """The linear layer that ends a classifier."""
    assert isinstance(backbone, Backbone)
    layer = backbone.get_submodule(backbone.traits.classifier)
    assert isinstance(layer, nn.Linear)
    return layer


def take_off_classifier(backbone: Backbone) -> None:
    """Replace a backbone's classifier by nothing, so that no unused weights are trained, counted or saved."""
    _take_off(backbone, backbone.traits.classifier.partition(".")[0])


def take_off_last(backbone: Backbone) -> None:
    """Replace the last 1x1 convolution, where nothing reads it, by nothing: ``last`` is then the map before it."""
    _take_off(backbone, backbone.traits.last)
    backbone.feature_channels["last"] = backbone.feature_channels["stride_32"]


def _take_off(backbone: Backbone, path: str) -> None:
    parent, _, name = path.rpartition(".")
    backbone.get_submodule(parent).add_module(name, nn.Sequential())
