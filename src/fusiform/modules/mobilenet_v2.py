"""MobileNetV2: Inverted Residuals and Linear Bottlenecks (Sandler et al., arXiv 1801.04381).

Table 2 of the paper, the network at width 1.0 and 224x224 pixels; it stands as data in ``fusiform.tables``:

    input        operator        t     c     n   s      here
    224^2 x 3    conv2d 3x3      -     32    1   2      features.0
    112^2 x 32   bottleneck      1     16    1   1      features.1
    112^2 x 16   bottleneck      6     24    2   2      features.2 and 3      stride_4
    56^2 x 24    bottleneck      6     32    3   2      features.4 to 6       stride_8
    28^2 x 32    bottleneck      6     64    4   2      features.7 to 10
    14^2 x 64    bottleneck      6     96    3   1      features.11 to 13     stride_16
    14^2 x 96    bottleneck      6    160    3   2      features.14 to 16     expansion_13 within 14
    7^2 x 160    bottleneck      6    320    1   1      features.17           stride_32, bottleneck_17
    7^2 x 320    conv2d 1x1      -   1280    1   1      features.18           last
    7^2 x 1280   avgpool 7x7     -      -    1   -
    1^2 x 1280   conv2d 1x1      -      k    -          classifier.1

Parameter names, shapes, order and initial values are those of torchvision's ``mobilenet_v2``.
"""

# No postponed annotations here: see Backbone.
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusiform.errors import UsageError
from fusiform.modules.backbones import Backbone, classifier_of
from fusiform.modules.layers import check_arguments, check_whole, conv1x1, conv3x3
from fusiform.modules.split import Layer, in_slices, with_norm
from fusiform.spec import Padding
from fusiform.tables import (
    MOBILENET_V2_BOTTLENECKS,
    MOBILENET_V2_LAST,
    MOBILENET_V2_STEM,
    TRAITS,
    round_channels,
    trade_strides,
)

Rows = Sequence[Sequence[float]]
"""Bottlenecks as in Table 2: expansion t, output channels c, repeats n, stride s of the first repeat."""
NormLayer = Callable[[int], nn.Module]
"""What makes the normalisation of so many channels."""


class MobileNetV2(Backbone):
    """MobileNetV2 at any width, for (N, in_channels, H, W) pictures of any size from 32x32 up.

    ``width``, torchvision's ``width_mult``, multiplies the channels of every layer, rounded to multiples of
    ``round_nearest``; the paper trains 0.35 to 1.4 (Section 4). ``num_classes`` 0 leaves out the classifier.
    ``inverted_residual_setting`` replaces the rows of the table, and ``norm_layer`` nn.BatchNorm2d.

    ``padding`` belongs to the weights: ``symmetric`` for PyTorch's, ``same`` for TensorFlow's. ``output_stride`` 16 or
    8 keeps the feature maps denser by trading later strides for dilation, with the same weights (Section 6.3).
    ``dropout``, in [0, 1), acts before the classifier while training. ``feature_channels`` maps the names of
    ``forward_stages`` to channels. Wrong arguments raise UsageError.
    """

    traits = TRAITS["mobilenet_v2"]

    def __init__(
        self,
        width: float = 1.0,
        num_classes: int = 1000,
        *,
        padding: Padding = "symmetric",
        in_channels: int = 3,
        dropout: float = 0.2,
        output_stride: int = 32,
        width_mult: float | None = None,
        inverted_residual_setting: Rows | None = None,
        round_nearest: int = 8,
        norm_layer: NormLayer | None = None,
    ) -> None:
        super().__init__(output_stride, num_classes)
        width = check_width(width, width_mult)
        rows = check_rows(MOBILENET_V2_BOTTLENECKS if inverted_residual_setting is None else inverted_residual_setting)
        check_whole("MobileNetV2", "round_nearest", round_nearest, least=1)
        check_arguments(
            "MobileNetV2",
            num_classes,
            padding=padding,
            in_channels=in_channels,
            dropout=dropout,
            output_stride=output_stride,
        )
        norm = norm_layer or nn.BatchNorm2d
        strides = [s if i == 0 else 1 for _, _, n, s in rows for i in range(n)]
        # A table of one's own may go beyond 32, which then is no wish for denser maps.
        densest = 2 * math.prod(strides) if output_stride == 32 else output_stride
        blocks = iter(trade_strides(strides, 2, densest))

        inputs = round_channels(MOBILENET_V2_STEM * width, round_nearest)
        features: list[nn.Module] = [conv_bn_relu6(conv3x3(in_channels, inputs, 2, padding=padding), norm)]
        # Where each stride's map is in features, at the last block before the next stride, and its channels.
        ends: dict[int, tuple[int, int]] = {}
        reached = 2
        for t, c, n, s in rows:
            outputs = round_channels(c * width, round_nearest)
            for i in range(n):
                stride, dilation = next(blocks)
                # By the table's stride: a block that gave up its stride has not learned to work with a shortcut.
                shortcut = (s == 1 or i > 0) and inputs == outputs
                reached *= s if i == 0 else 1
                features.append(
                    Bottleneck(
                        inputs,
                        outputs,
                        t,
                        stride=stride,
                        dilation=dilation,
                        padding=padding,
                        shortcut=shortcut,
                        norm_layer=norm,
                    )
                )
                inputs = outputs
                ends[reached] = (len(features) - 1, outputs)
        # Its channels grow only above width 1.0 (Section 4, trade-off hyper parameters).
        self.last_channel = round_channels(MOBILENET_V2_LAST * max(1.0, width), round_nearest)
        features.append(conv_bn_relu6(conv1x1(inputs, self.last_channel), norm))
        self.paper_rows = rows == MOBILENET_V2_BOTTLENECKS
        self.map_ends = {ends[s][0]: f"stride_{s}" for s in (4, 8, 16, 32) if s in ends}
        self.map_ends[len(features) - 1] = "last"
        for stride in (4, 8, 16, 32):
            if stride == 32 and self.paper_rows:
                self.feature_channels["expansion_13"] = 6 * ends[16][1]
            if stride in ends:
                self.feature_channels[f"stride_{stride}"] = ends[stride][1]
        if self.paper_rows:
            self.feature_channels["bottleneck_17"] = inputs
        self.feature_channels["last"] = self.last_channel
        self.features = nn.Sequential(*features)
        self.dropout_rate = dropout
        self.classifier = self.make_classifier(num_classes)
        # Slices need what BatchNorm keeps, and the stem in front of the only block that does not expand. TorchScript
        # compiles them only where this attribute is.
        if self.paper_rows and isinstance(features[0].get_submodule("1"), nn.BatchNorm2d):
            self.expansion_slices = 1
        self._initialise()

    def make_classifier(self, num_classes: int) -> nn.Module:
        """Dropout and a linear layer; with 0 classes a layer that changes nothing."""
        if num_classes == 0:
            return nn.Identity()
        return Classifier(nn.Dropout(self.dropout_rate), nn.Linear(self.num_features, num_classes))

    def reset_classifier(self, num_classes: int) -> None:
        """As ``Backbone`` says, with the initial values that the network begins with."""
        super().reset_classifier(num_classes)
        if num_classes:
            _initialise_linear(classifier_of(self))

    def split_expansion(self, slices: int) -> "MobileNetV2":
        """Compute each bottleneck in this many slices of its expansion from now on, in eval mode; 1 is the plain way.

        Saves memory, not time: the expanded tensors, which are the largest, are never held whole (Section 5; the paper
        recommends 2 to 5). Weights and their names stay, answers change by rounding alone. Training and
        ``forward_stages`` go the plain way. Returns the network. Raises UsageError for less than one slice, and for
        another ``norm_layer`` than BatchNorm or another table than the paper's.
        """
        if not hasattr(self, "expansion_slices"):
            raise UsageError("MobileNetV2: only the paper's own table with nn.BatchNorm2d is computed in slices")
        if not isinstance(slices, int) or isinstance(slices, bool) or slices < 1:
            raise UsageError(f"MobileNetV2: slices must be a whole number, 1 or more, got {slices!r}")
        self.expansion_slices = slices
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of pictures (N, in_channels, H, W), normalised as the weights' spec says."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The output of the last 1x1 convolution, after ReLU6: (N, num_features, ceil(H / 32), ceil(W / 32))."""
        # TorchScript decides this before it compiles, and leaves out what is behind a name that is not there.
        features: Tensor = self._sliced_or_not(x) if hasattr(self, "expansion_slices") else self.features(x)
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The logits (N, num_classes) of the last map, or its average (N, num_features) alone."""
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return x if pre_logits else self.classifier(x)

    @torch.jit.export
    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        """The maps that detection and segmentation attach to, by name, in the order they are computed.

        - ``stride_4``, ``stride_8``, ``stride_16``, ``stride_32``: the last bottleneck's output at each stride, linear;
        - ``expansion_13``: the input of layer 15's depthwise convolution, after ReLU6, at stride 16, where SSDLite
          attaches (Section 6.2). 13 is its number in TensorFlow, which counts bottlenecks from 0;
        - ``bottleneck_17``: the second-last map, where DeepLabv3 attaches (Section 6.3); the same as ``stride_32``;
        - ``last``: the output of the last 1x1 convolution, after ReLU6, which the classifier averages.

        Sides are ceil(H / stride) and ceil(W / stride). With ``output_stride`` 16 or 8 each name means the same
        layer, at a stride of ``output_stride`` where its own would be larger. A network with rows of its own has
        those of the first four that it has a stride for, and ``last``.
        """
        features: dict[str, Tensor] = {}
        # TorchScript unrolls a loop over all of a Sequential, but not over a slice of it.
        for i, block in enumerate(self.features):
            if hasattr(block, "shortcut"):  # a bottleneck, which TorchScript decides for each before it compiles
                if self.paper_rows and i == 14:
                    x, features["expansion_13"] = block.with_expansion(x)  # type: ignore[operator]
                else:
                    x = block(x)
            else:
                x = block(x)
            if i in self.map_ends:
                features[self.map_ends[i]] = x
            if self.paper_rows and i == 17:
                features["bottleneck_17"] = x
        return features

    def stages(self) -> list[nn.Module]:
        """Each of ``features``."""
        return list(self.features)

    def _sliced_or_not(self, x: Tensor) -> Tensor:
        sliced = self.expansion_slices > 1 and not self.training
        features: Tensor = self._features_in_slices(x) if sliced else self.features(x)
        return features

    def _features_in_slices(self, x: Tensor) -> Tensor:
        """``features`` in eval mode, all bottlenecks in slices: the stem is the first one's expansion."""
        stem: Layer = self.features[0].layer()  # type: ignore[operator]
        for i, block in enumerate(self.features):
            if hasattr(block, "shortcut"):  # a bottleneck, which TorchScript decides for each before it compiles
                x = block.in_slices(x, stem if i == 1 else block.expansion(), self.expansion_slices)  # type: ignore[operator]
            elif i > 0:
                x = block(x)
        return x

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                _initialise_linear(module)
            # BatchNorm comes from PyTorch with the ones and zeros that it should have.


class Classifier(nn.Sequential):
    """Dropout and a linear layer, whose sizes are its own: programs read ``classifier.in_features`` to replace it."""

    __jit_unused_properties__ = ("in_features", "out_features")

    @property
    def in_features(self) -> int:
        """The channels that it reads."""
        return self._linear().in_features

    @property
    def out_features(self) -> int:
        """The classes that it answers with."""
        return self._linear().out_features

    def _linear(self) -> nn.Linear:
        layer = self[1]
        assert isinstance(layer, nn.Linear)
        return layer


class Bottleneck(nn.Module):
    """Table 1: expand t times with ReLU6, filter each channel with ReLU6, project without an activation.

    The projection is linear because ReLU destroys information in few channels (Section 3.2). The shortcut joins
    the narrow ends (Section 3.3). At t = 1 there is nothing to expand, and that convolution is left out.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        t: float,
        *,
        stride: int,
        dilation: int,
        padding: Padding,
        shortcut: bool,
        norm_layer: NormLayer,
    ) -> None:
        super().__init__()
        hidden = round(t * inputs)
        expand = [conv_bn_relu6(conv1x1(inputs, hidden), norm_layer)] if t != 1 else []
        depthwise = conv3x3(hidden, hidden, stride, padding=padding, dilation=dilation, groups=hidden)
        self.conv = nn.Sequential(
            *expand,
            conv_bn_relu6(depthwise, norm_layer),
            conv1x1(hidden, outputs),
            norm_layer(outputs),
        )
        self.shortcut = shortcut
        # Torchvision's detectors look for these: where the map gets smaller, and its channels.
        self._is_cn = stride > 1
        self.out_channels = outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.shortcut else y

    def in_slices(self, x: Tensor, expansion: Layer, slices: int) -> Tensor:
        """The output in eval mode, computed in slices of ``expansion``: the block's own, or the stem with its input."""
        project = with_norm(
            self.conv[-2].weight,  # type: ignore[arg-type]
            (self.conv[-2].out_channels, 1, 0, 1),  # type: ignore[arg-type]
            (self.conv[-1].weight, self.conv[-1].bias, self.conv[-1].running_mean, self.conv[-1].running_var),  # type: ignore[arg-type]
            self.conv[-1].eps,  # type: ignore[arg-type]
        )
        y = in_slices(x, expansion, self.conv[-3].layer(), project, slices)  # type: ignore[operator]
        if self.shortcut:
            y += x
        return y

    def expansion(self) -> Layer:
        """The first convolution with its normalisation, which is the expansion where t > 1."""
        layer: Layer = self.conv[0].layer()  # type: ignore[operator]
        return layer

    def with_expansion(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output and, caught on the way to it, the expansion: the depthwise convolution's input."""
        y = expansion = x
        for i, layer in enumerate(self.conv):
            y = layer(y)
            if i == 0:
                expansion = y
        return x + y if self.shortcut else y, expansion


class ConvNormReLU6(nn.Sequential):
    """A convolution with all that follows it; ReLU6, not ReLU, because it is robust at low precision (Section 4)."""

    __jit_unused_properties__ = ("out_channels",)

    @property
    def out_channels(self) -> int:
        """The channels that it makes."""
        convolution = self[0]
        assert isinstance(convolution, nn.Conv2d)
        return convolution.out_channels

    def layer(self) -> Layer:
        """The convolution and the normalisation, in eval mode, for what computes only some of their channels."""
        # Each comment for mypy names one error: TorchScript takes those that name two for its own.
        return with_norm(
            self[0].weight,  # type: ignore[arg-type]
            (  # type: ignore[arg-type]
                self[0].out_channels,
                self[0].stride[0],  # type: ignore[index]
                self[0].padding[0],  # type: ignore[index]
                self[0].dilation[0],  # type: ignore[index]
            ),
            (self[1].weight, self[1].bias, self[1].running_mean, self[1].running_var),  # type: ignore[arg-type]
            self[1].eps,  # type: ignore[arg-type]
        )


def conv_bn_relu6(conv: nn.Conv2d, norm_layer: NormLayer) -> ConvNormReLU6:
    """The three, freshly initialised."""
    return ConvNormReLU6(conv, norm_layer(conv.out_channels), nn.ReLU6(inplace=True))


def check_width(width: float, width_mult: float | None) -> float:
    """The width that is meant by two names; UsageError where they differ and for anything but a positive number."""
    if width_mult is not None:
        if width not in (1.0, width_mult):
            raise UsageError(
                f"MobileNetV2: width {width!r} and width_mult {width_mult!r} are one thing: give one of them"
            )
        width = width_mult
    if not isinstance(width, (int, float)) or not (math.isfinite(width) and width > 0):
        raise UsageError(f"MobileNetV2: width must be a positive number such as 1.0 or 0.35, got {width!r}")
    if isinstance(width, int) and width > 4:  # torchvision's first argument
        raise UsageError(
            f"MobileNetV2: width must be a positive number such as 1.0 or 0.35, got {width!r}; a number of classes is "
            f"num_classes={width}"
        )
    return width


def check_rows(rows: Rows) -> tuple[tuple[float, int, int, int], ...]:
    """The rows of a table, checked; UsageError for anything but t, c, n and s in each."""
    checked = []
    for row in rows:
        if len(row) != 4 or row[0] <= 0 or not all(int(k) == k >= 1 for k in row[1:]) or row[3] > 2:
            break
        checked.append((row[0], int(row[1]), int(row[2]), int(row[3])))
    if not checked or len(checked) < len(rows):
        raise UsageError(
            "MobileNetV2: inverted_residual_setting must be rows of expansion, channels, repeats and stride (1 or 2) "
            f"such as [6, 24, 2, 2], got {rows!r}"
        )
    return tuple(checked)


def _initialise_linear(layer: nn.Linear) -> None:
    nn.init.normal_(layer.weight, 0, 0.01)
    nn.init.zeros_(layer.bias)
