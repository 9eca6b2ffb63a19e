"""What every architecture's module is to detectors, segmenters, training, and programs written for timm."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor, nn

from fusiform.errors import UsageError
from fusiform.modules.layers import check_whole
from fusiform.spec import Padding
from fusiform.tables import Traits


class Backbone(nn.Module):
    """A classifier whose feature maps detectors and segmenters can read.

    A subclass has its ``traits`` and is built as ``BackboneClass`` says. Its ``forward`` is ``forward_head`` of
    ``forward_features``, written in a file without postponed annotations: torch.fx copies them into its graphs, and
    TorchScript cannot read them as text. ``output_stride`` is the one that it was built with, ``num_classes`` what it
    was built with or reset to, and ``feature_channels`` maps the names of ``forward_stages`` to channels.
    """

    traits: ClassVar[Traits]
    __jit_unused_properties__ = ("num_features",)

    # Set here and not annotated above: TorchScript would read annotations of the class, which are text.
    def __init__(self, output_stride: int, num_classes: int) -> None:
        super().__init__()
        self.output_stride = output_stride
        self.num_classes = num_classes
        self.feature_channels: dict[str, int] = {}

    @property
    def num_features(self) -> int:
        """The channels of the map ``last``, which are what the classifier reads."""
        return self.feature_channels["last"]

    def forward_features(self, x: Tensor) -> Tensor:
        """The map ``last`` of pictures (N, in_channels, H, W), before it is averaged."""
        return self.forward_stages(x)["last"]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The logits (N, num_classes) of the map ``last``, or with ``pre_logits`` its average (N, num_features).

        The average goes through the network's only ``nn.Dropout`` and its classifier. With ``num_classes`` 0 it is the
        answer.
        """
        raise NotImplementedError

    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        """The feature maps of pictures (N, in_channels, H, W) by name.

        Every architecture has ``stride_4``, ``stride_8``, ``stride_16``, ``stride_32``, ``last`` and
        ``traits.detection_map``, whose sides are ceil(H / stride) and ceil(W / stride).
        """
        raise NotImplementedError

    def stages(self) -> list[nn.Module]:
        """The blocks from the input on, up to the last map: the rows of the paper's table, repeats one by one."""
        raise NotImplementedError

    def make_classifier(self, num_classes: int) -> nn.Module:
        """What the network ends in, freshly initialised; with 0 classes a layer that changes nothing."""
        return nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """The linear layer that the network ends in; with 0 classes, or put there by the user, what is in its place."""
        place, _, within = self.traits.classifier.partition(".")
        head = self.get_submodule(place)
        return head.get_submodule(within) if within and within in dict(head.named_children()) else head

    def reset_classifier(self, num_classes: int) -> None:
        """Put a fresh classifier of so many classes on the network, or with 0 take it off.

        Raises UsageError for anything but a whole number, 0 or more.
        """
        check_whole(self.traits.title, "num_classes", num_classes, least=0)
        head = self.make_classifier(num_classes).to(next(self.parameters())).train(self.training)
        setattr(self, self.traits.classifier.partition(".")[0], head)
        self.num_classes = num_classes


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
    """The linear layer that ends a classifier; UsageError where it ends in something else."""
    assert isinstance(backbone, Backbone)
    layer = backbone.get_classifier()
    if not isinstance(layer, nn.Linear):
        raise UsageError(f"{backbone.traits.title}: ends in {type(layer).__name__} where a linear layer is needed")
    return layer


def check_maps(network: str, backbone: Backbone, name: str) -> None:
    """Raise UsageError, which names ``network``, for a backbone without the feature map that it reads."""
    if name not in backbone.feature_channels:
        raise UsageError(f"{network}: the backbone has no feature map {name}; build it with the paper's own table")


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
