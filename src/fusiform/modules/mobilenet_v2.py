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

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusiform.errors import UsageError
from fusiform.modules.backbones import Backbone
from fusiform.modules.layers import check_arguments, conv1x1, conv3x3
from fusiform.modules.split import Layer, in_slices, with_norm
from fusiform.spec import Padding
from fusiform.tables import MOBILENET_V2_BOTTLENECKS, TRAITS, mobilenet_v2_channels, trade_strides


class MobileNetV2(Backbone):
    """MobileNetV2 at any width, for (N, in_channels, H, W) pictures of any size from 32x32 up.

    ``width`` multiplies the channels of every layer, rounded to multiples of 8; the paper trains 0.35 to 1.4
    (Section 4). ``padding`` belongs to the weights: ``symmetric`` for PyTorch's, ``same`` for TensorFlow's.
    ``output_stride`` 16 or 8 keeps the feature maps denser by trading later strides for dilation, with the same
    weights (Section 6.3). ``dropout``, in [0, 1), acts before the classifier while training. ``feature_channels``
    maps the names of ``forward_features`` to channels. Wrong arguments raise UsageError.
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
    ) -> None:
        super().__init__(output_stride)
        if not isinstance(width, (int, float)) or not (math.isfinite(width) and width > 0):
            raise UsageError(f"MobileNetV2: width must be a positive number such as 1.0 or 0.35, got {width!r}")
        check_arguments(
            "MobileNetV2",
            num_classes,
            padding=padding,
            in_channels=in_channels,
            dropout=dropout,
            output_stride=output_stride,
        )
        stem, rows, last = mobilenet_v2_channels(width)
        strides = [s if i == 0 else 1 for _, _, n, s in MOBILENET_V2_BOTTLENECKS for i in range(n)]
        blocks = iter(trade_strides(strides, 2, output_stride))

        features: list[nn.Module] = [conv_bn_relu6(conv3x3(in_channels, stem, 2, padding=padding))]
        inputs = stem
        for (t, _, n, s), outputs in zip(MOBILENET_V2_BOTTLENECKS, rows, strict=True):
            for i in range(n):
                stride, dilation = next(blocks)
                # By the table's stride: a block that gave up its stride has not learned to work with a shortcut.
                shortcut = (s == 1 or i > 0) and inputs == outputs
                features.append(
                    Bottleneck(inputs, outputs, t, stride=stride, dilation=dilation, padding=padding, shortcut=shortcut)
                )
                inputs = outputs
        features.append(conv_bn_relu6(conv1x1(inputs, last)))

        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, num_classes))
        self.feature_channels = {
            "stride_4": rows[1],
            "stride_8": rows[2],
            "stride_16": rows[4],
            "expansion_13": 6 * rows[4],
            "stride_32": rows[6],
            "bottleneck_17": rows[6],
            "last": last,
        }
        self.expansion_slices = 1
        self._initialise()

    def split_expansion(self, slices: int) -> MobileNetV2:
        """Compute each bottleneck in this many slices of its expansion from now on, in eval mode; 1 is the plain way.

        Saves memory, not time: the expanded tensors, which are the largest, are never held whole (Section 5; the paper
        recommends 2 to 5). Weights and their names stay, answers change by rounding alone. Training and
        ``forward_features`` go the plain way. Returns the network. Raises UsageError for less than one slice.
        """
        if not isinstance(slices, int) or isinstance(slices, bool) or slices < 1:
            raise UsageError(f"MobileNetV2: slices must be a whole number, 1 or more, got {slices!r}")
        self.expansion_slices = slices
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of pictures (N, in_channels, H, W), normalised as the weights' spec says."""
        sliced = self.expansion_slices > 1 and not self.training
        x = self._features_in_slices(x) if sliced else self.features(x)
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        logits: Tensor = self.classifier(x)
        return logits

    @torch.jit.export
    def forward_features(self, x: Tensor) -> dict[str, Tensor]:
        """The maps that detection and segmentation attach to, by name, in the order they are computed.

        - ``stride_4``, ``stride_8``, ``stride_16``, ``stride_32``: the last bottleneck's output at each stride, linear;
        - ``expansion_13``: the input of layer 15's depthwise convolution, after ReLU6, at stride 16, where SSDLite
          attaches (Section 6.2). 13 is its number in TensorFlow, which counts bottlenecks from 0;
        - ``bottleneck_17``: the second-last map, where DeepLabv3 attaches (Section 6.3); the same as ``stride_32``;
        - ``last``: the output of the last 1x1 convolution, after ReLU6, which the classifier averages.

        Sides are ceil(H / stride) and ceil(W / stride). With ``output_stride`` 16 or 8 each name means the same
        layer, at a stride of ``output_stride`` where its own would be larger.
        """
        features: dict[str, Tensor] = {}
        # TorchScript unrolls a loop over all of a Sequential, but not over a slice of it.
        for i, block in enumerate(self.features):
            if i == 14:
                x, features["expansion_13"] = self.features[14].with_expansion(x)  # type: ignore[operator]
            else:
                x = block(x)
            if i == 3:
                features["stride_4"] = x
            if i == 6:
                features["stride_8"] = x
            if i == 13:
                features["stride_16"] = x
            if i == 17:
                features["stride_32"] = x
                features["bottleneck_17"] = x
        features["last"] = x
        return features

    def stages(self) -> list[nn.Module]:
        """Each of ``features``."""
        return list(self.features)

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
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)
            # BatchNorm comes from PyTorch with the ones and zeros that it should have.


class Bottleneck(nn.Module):
    """Table 1: expand t times with ReLU6, filter each channel with ReLU6, project without an activation.

    The projection is linear because ReLU destroys information in few channels (Section 3.2). The shortcut joins
    the narrow ends (Section 3.3). At t = 1 there is nothing to expand, and that convolution is left out.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        t: int,
        *,
        stride: int,
        dilation: int,
        padding: Padding,
        shortcut: bool,
    ) -> None:
        super().__init__()
        hidden = t * inputs
        expand = [conv_bn_relu6(conv1x1(inputs, hidden))] if t > 1 else []
        depthwise = conv3x3(hidden, hidden, stride, padding=padding, dilation=dilation, groups=hidden)
        self.conv = nn.Sequential(
            *expand,
            conv_bn_relu6(depthwise),
            conv1x1(hidden, outputs),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = shortcut

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


def conv_bn_relu6(conv: nn.Conv2d) -> ConvNormReLU6:
    """The three, freshly initialised."""
    return ConvNormReLU6(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU6(inplace=True))
