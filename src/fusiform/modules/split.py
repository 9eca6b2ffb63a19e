"""An inverted residual in slices of its expansion, for PyTorch (arXiv 1801.04381, Section 5)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fusiform.modules.layers import pad_same


class Layer(NamedTuple):
    """A convolution, and its batch normalisation in eval mode as a factor and a shift for each channel."""

    weight: Tensor
    factor: Tensor
    shift: Tensor
    channels: int
    stride: int
    padding: int
    dilation: int


def with_norm(
    weight: Tensor, window: tuple[int, int, int, int], norm: tuple[Tensor, Tensor, Tensor, Tensor], epsilon: float
) -> Layer:
    """The layer that a convolution and the normalisation behind it are, with the running statistics.

    ``window`` is (out_channels, stride, padding, dilation), ``norm`` (weight, bias, running_mean, running_var).
    """
    gamma, beta, mean, variance = norm
    factor = gamma * torch.rsqrt(variance + epsilon)
    return Layer(weight, factor, beta - mean * factor, window[0], window[1], window[2], window[3])


def in_slices(x: Tensor, expand: Layer, depthwise: Layer, project: Layer, slices: int) -> Tensor:
    """``project`` of ``depthwise`` of ``expand`` of (N, C, H, W), with a ReLU6 after the first two, slice by slice.

    Held at one time are ``x``, the sum so far, and one slice of the expansion and of its filtered form, or of that
    and what is projected from it. ``slices`` is cut down to the channels there are.
    """
    channels = expand.channels  # a number while tracing, too
    slices = min(slices, channels)
    total = _slice(x, expand, depthwise, project, 0, channels // slices)
    total += project.shift[:, None, None]
    for k in range(1, slices):
        total += _slice(x, expand, depthwise, project, channels * k // slices, channels * (k + 1) // slices)
    return total


def _slice(x: Tensor, expand: Layer, depthwise: Layer, project: Layer, first: int, end: int) -> Tensor:
    """What channels ``first`` to ``end`` of the expansion add to the projection."""
    y = F.relu6(_convolve(x, expand, first, end, 1), inplace=True)
    y = F.relu6(_convolve(y, depthwise, first, end, end - first), inplace=True)
    return F.conv2d(y, project.weight[:, first:end] * project.factor[:, None, None, None])


def _convolve(x: Tensor, layer: Layer, first: int, end: int, groups: int) -> Tensor:
    """Channels ``first`` to ``end`` of a layer; no more of its weights than these are copied for the factor."""
    if layer.stride == 2 and layer.padding == 0:  # TensorFlow's rule: see conv3x3
        x = pad_same(x)
    weight = layer.weight[first:end] * layer.factor[first:end, None, None, None]
    return F.conv2d(x, weight, layer.shift[first:end], layer.stride, layer.padding, layer.dilation, groups)
