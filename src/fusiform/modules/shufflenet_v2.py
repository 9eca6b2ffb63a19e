"""ShuffleNetV2: Practical Guidelines for Efficient CNN Architecture Design (Ma et al., arXiv 1807.11164).

Table 5 of the paper at 224x224 pixels; it stands as data in ``fusiform.tables``:

    layer        output   stride  repeat   0.5x   1x    1.5x   2x      here
    image        224^2                     3      3     3      3
    conv1 3x3    112^2    2       1        24     24    24     24      conv1
    maxpool 3x3  56^2     2                                            maxpool   stride_4
    stage 2      28^2     2       1        48     116   176    244     stage2.0
                 28^2     1       3                                    stage2.1 to 3    stride_8
    stage 3      14^2     2       1        96     232   352    488     stage3.0
                 14^2     1       7                                    stage3.1 to 7    stride_16
    stage 4      7^2      2       1        192    464   704    976     stage4.0
                 7^2      1       3                                    stage4.1 to 3    stride_32
    conv5 1x1    7^2      1       1        1024   1024  1024   2048    conv5     last
    global pool  1^2
    fc                                     1000   1000  1000   1000    fc

Parameter names, shapes, order and initial values are those of torchvision's ``shufflenet_v2_x*``.
"""

# No postponed annotations here: see Backbone.
from itertools import islice

import torch
from torch import Tensor, nn

from fusiform.errors import UsageError
from fusiform.modules.backbones import Backbone
from fusiform.modules.layers import check_arguments, conv1x1, conv3x3, max_pool3x3
from fusiform.spec import Padding
from fusiform.tables import SHUFFLENET_V2_CHANNELS, SHUFFLENET_V2_REPEATS, TRAITS, trade_strides


class ShuffleNetV2(Backbone):
    """ShuffleNetV2 at a width of Table 5, for (N, in_channels, H, W) pictures of any size from 32x32 up.

    ``width`` is 0.5, 1.0, 1.5 or 2.0. ``padding`` belongs to the weights: ``symmetric`` for PyTorch's, ``same`` for
    TensorFlow's. ``output_stride`` 16 or 8 keeps the feature maps denser by trading later strides for dilation, with
    the same weights (DeepLabv3, arXiv 1706.05587). ``dropout``, in [0, 1), acts before ``fc`` while training; the
    paper uses none. ``num_classes`` 0 leaves out ``fc``. ``feature_channels`` maps the names of ``forward_stages`` to
    channels. Wrong arguments raise UsageError.
    """

    traits = TRAITS["shufflenet_v2"]

    def __init__(
        self,
        width: float = 1.0,
        num_classes: int = 1000,
        *,
        padding: Padding = "symmetric",
        in_channels: int = 3,
        dropout: float = 0.0,
        output_stride: int = 32,
    ) -> None:
        super().__init__(output_stride, num_classes)
        if width not in SHUFFLENET_V2_CHANNELS:
            widths = ", ".join(map(str, SHUFFLENET_V2_CHANNELS))
            raise UsageError(f"ShuffleNetV2: width must be one of {widths} (Table 5 of the paper), got {width!r}")
        check_arguments(
            "ShuffleNetV2",
            num_classes,
            padding=padding,
            in_channels=in_channels,
            dropout=dropout,
            output_stride=output_stride,
        )
        conv1, stage2, stage3, stage4, conv5 = SHUFFLENET_V2_CHANNELS[width]
        strides = [2 if i == 0 else 1 for repeats in SHUFFLENET_V2_REPEATS for i in range(repeats)]
        units = iter(trade_strides(strides, 4, output_stride))
        units2, units3, units4 = (list(islice(units, repeats)) for repeats in SHUFFLENET_V2_REPEATS)

        self.conv1 = conv_bn_relu(conv3x3(in_channels, conv1, 2, padding=padding))
        self.maxpool = max_pool3x3(padding=padding)
        self.stage2 = stage(conv1, stage2, units2, padding=padding)
        self.stage3 = stage(stage2, stage3, units3, padding=padding)
        self.stage4 = stage(stage3, stage4, units4, padding=padding)
        self.conv5 = conv_bn_relu(conv1x1(stage4, conv5))
        self.dropout = nn.Dropout(dropout)
        self.feature_channels = {
            "stride_4": conv1,
            "stride_8": stage2,
            "stride_16": stage3,
            "stride_32": stage4,
            "last": conv5,
        }
        self.fc = self.make_classifier(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of pictures (N, in_channels, H, W), normalised as the weights' spec says."""
        return self.forward_head(self.forward_features(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The logits (N, num_classes) of the last map, or its average (N, num_features) alone."""
        x = x.mean([2, 3])
        return x if pre_logits else self.fc(self.dropout(x))

    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        """The maps that detection and segmentation attach to, by name, in the order they are computed.

        - ``stride_4``: the max pool's output;
        - ``stride_8``, ``stride_16``, ``stride_32``: the outputs of stages 2, 3 and 4;
        - ``last``: the output of conv5, which the classifier averages.

        All are past a ReLU. Sides are ceil(H / stride) and ceil(W / stride). With ``output_stride`` 16 or 8 each name
        means the same layer, at a stride of ``output_stride`` where its own would be larger.
        """
        stride_4: Tensor = self.maxpool(self.conv1(x))
        stride_8: Tensor = self.stage2(stride_4)
        stride_16: Tensor = self.stage3(stride_8)
        stride_32: Tensor = self.stage4(stride_16)
        last: Tensor = self.conv5(stride_32)
        return {
            "stride_4": stride_4,
            "stride_8": stride_8,
            "stride_16": stride_16,
            "stride_32": stride_32,
            "last": last,
        }

    def stages(self) -> list[nn.Module]:
        """conv1, each unit, conv5."""
        return [self.conv1, *self.stage2, *self.stage3, *self.stage4, self.conv5]


class BasicUnit(nn.Module):
    """Figure 3c: half of the channels pass by, half are filtered, and the halves are shuffled together."""

    def __init__(self, channels: int, *, dilation: int, padding: Padding) -> None:
        super().__init__()
        self.branch2 = filtering_branch(channels // 2, channels // 2, 1, dilation=dilation, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        passing, filtered = x.chunk(2, dim=1)
        return channel_shuffle(torch.cat((passing, self.branch2(filtered)), dim=1))


class DownsamplingUnit(nn.Module):
    """Figure 3d: both branches see all channels, so that they double while the map shrinks by ``stride``.

    ``stride`` is 2, or 1 where it was traded for dilation.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, dilation: int, padding: Padding) -> None:
        super().__init__()
        half = outputs // 2
        self.branch1 = nn.Sequential(
            conv3x3(inputs, inputs, stride, padding=padding, dilation=dilation, groups=inputs),
            nn.BatchNorm2d(inputs),
            conv1x1(inputs, half),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
        )
        self.branch2 = filtering_branch(inputs, half, stride, dilation=dilation, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return channel_shuffle(torch.cat((self.branch1(x), self.branch2(x)), dim=1))


def stage(inputs: int, outputs: int, units: list[tuple[int, int]], *, padding: Padding) -> nn.Sequential:
    """One downsampling unit and then basic ones, with the (stride, dilation) of ``units``."""
    (stride, dilation), *rest = units
    return nn.Sequential(
        DownsamplingUnit(inputs, outputs, stride, dilation=dilation, padding=padding),
        *(BasicUnit(outputs, dilation=dilation, padding=padding) for _, dilation in rest),
    )


def filtering_branch(inputs: int, outputs: int, stride: int, *, dilation: int, padding: Padding) -> nn.Sequential:
    """The right branch of Figure 3c and 3d: 1x1, depthwise 3x3 without an activation, 1x1."""
    return nn.Sequential(
        conv1x1(inputs, outputs),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        conv3x3(outputs, outputs, stride, padding=padding, dilation=dilation, groups=outputs),
        nn.BatchNorm2d(outputs),
        conv1x1(outputs, outputs),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def channel_shuffle(x: Tensor) -> Tensor:
    """Interleave the two halves of the channels, so that information crosses between the branches."""
    return torch.unflatten(x, 1, (2, -1)).transpose(1, 2).flatten(1, 2)


def conv_bn_relu(conv: nn.Conv2d) -> nn.Sequential:
    """conv1 and conv5: a convolution with all that follows it."""
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True))
