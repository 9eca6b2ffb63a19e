"""What the networks share: the two padding rules and the check of their arguments."""

from __future__ import annotations

import math
from typing import get_args

import torch.nn.functional as F
from torch import Tensor, nn

from fusiform.errors import UsageError
from fusiform.spec import Padding

OUTPUT_STRIDES = (8, 16, 32)


def conv1x1(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1x1 (pointwise) convolution without bias, which a BatchNorm follows."""
    return nn.Conv2d(inputs, outputs, 1, bias=False)


def conv3x3(
    inputs: int, outputs: int, stride: int, *, padding: Padding, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A 3x3 convolution without bias whose output is ceil(size / stride) on each side, under either padding rule.

    At stride 1 the two rules are one: ``dilation`` zeros on every side. They part only at stride 2.
    """
    if padding == "same" and stride == 2:
        return SameConv2d(inputs, outputs, 3, stride, groups=groups, bias=False)
    return nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, groups=groups, bias=False)


def max_pool3x3(*, padding: Padding) -> nn.Module:
    """The 3x3 max pool of stride 2; its padding never wins, even where all values are negative."""
    return SameMaxPool2d() if padding == "same" else nn.MaxPool2d(kernel_size=3, stride=2, padding=1)


def pad_same(x: Tensor, value: float = 0.0) -> Tensor:
    """Pad (N, C, H, W) as TensorFlow's SAME rule asks of a 3x3 window at stride 2, whatever the size.

    SAME puts ``max((ceil(size / 2) - 1) * 2 + 3 - size, 0)`` values on an axis, the odd one at the bottom or right.
    That is 1 for an even size and 2 for an odd one: always one after, and one before if the size is odd.
    """
    return F.pad(x, [x.shape[3] % 2, 1, x.shape[2] % 2, 1], value=value)


class SameConv2d(nn.Conv2d):
    """A 3x3 convolution at stride 2 with TensorFlow's SAME padding; parameters and their names are nn.Conv2d's."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(pad_same(x), self.weight, self.bias, self.stride, groups=self.groups)


class SameMaxPool2d(nn.Module):
    """A 3x3 max pool at stride 2 with TensorFlow's SAME padding."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(pad_same(x, value=-math.inf), 3, 2)


class LoneBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm that takes a batch of one value a channel in training, where there is nothing to normalise by.

    Such a batch, one picture on a map of one cell, has no variance, and PyTorch refuses it. It is normalised by the
    running statistics, as in eval mode, and leaves them as they are. Every other batch is treated as by BatchNorm2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        # TorchScript has no super().forward, so this is its body, for a momentum that is a number.
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        learns = self.training and x.numel() > x.shape[1]
        if learns:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, learns, self.momentum, self.eps
        )


def check_whole(network: str, name: str, number: int, *, least: int) -> None:
    """Raise UsageError, which names ``network`` and the argument, for anything but a whole number from ``least`` on."""
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise UsageError(f"{network}: {name} must be a whole number, {least} or more, got {number!r}")


def check_arguments(
    network: str, num_classes: int, *, padding: str, in_channels: int, dropout: float, output_stride: int
) -> None:
    """Raise UsageError, which names ``network``, for an argument that no network can be built with.

    ``num_classes`` 0 is a classifier without its last layer.
    """
    check_whole(network, "num_classes", num_classes, least=0)
    check_whole(network, "in_channels", in_channels, least=1)
    if padding not in get_args(Padding):
        raise UsageError(
            f"{network}: padding must be 'symmetric' (PyTorch's weights) or 'same' (TensorFlow's), got {padding!r}"
        )
    if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise UsageError(f"{network}: dropout is a probability, 0 or more and below 1, got {dropout!r}")
    if output_stride not in OUTPUT_STRIDES:
        raise UsageError(f"{network}: output_stride must be 8, 16 or 32, got {output_stride!r}")
