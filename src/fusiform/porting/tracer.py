"""Another framework's network: its layers, the channels that each reads, and torchvision's names for them.

A foreign file is run on channel numbers instead of pictures. Every layer gives the channels it makes new numbers;
whatever only moves channels (split, concatenation, shuffle, reshape, another layout) moves the numbers. Afterwards each
layer says exactly which channels it reads, in whatever way the file wrote that down, and in whatever order it keeps
them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import WeightsError
from fusiform.graph.ir import Activation, pads
from fusiform.spec import MAX_ACTIVATION_BYTES, MAX_CHANNELS, Padding

Numbers = NDArray[np.int32]
Border = tuple[int, int, int, int]
"""Rows or columns added at the top, bottom, left and right."""

BORDER = -1
"""The channel number of pixels that were added around a picture."""
PADDINGS: tuple[Padding, ...] = ("symmetric", "same")
_LARGEST_SIDE = 2048
_LARGEST_BORDER = 8
_MAX_VALUES = MAX_ACTIVATION_BYTES // 4
_MAX_WORK = 1 << 32
"""Values that all operators together look at: seconds. MobileNetV2 for 2,048 pixels has 1.7 thousand million."""


class Tensor(NamedTuple):
    """A tensor of a foreign file with channel numbers for values, in the file's own layout."""

    numbers: Numbers


Value = Tensor | NDArray[Any]
"""What a foreign operator reads: something computed from the picture, or a constant."""


@dataclass(frozen=True, eq=False)
class Layer:
    """Something that makes new channels, ``makes``, from those of one or two tensors, ``reads``."""

    kind: Literal["input", "convolution", "maximum", "sum", "mean"]
    reads: tuple[Numbers, ...]
    makes: Numbers


@dataclass(frozen=True, eq=False, kw_only=True)
class Convolution(Layer):
    """A convolution, or the classifier as one of 1x1.

    ``weight`` is (out, in / groups, height, width). ``paddings`` are those that read the same pixels as the file does.
    ``ceiling`` is the largest value that a quantised output can hold if it can hold none below zero: quantisers drop
    activations that the output's scale already performs.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    stride: int
    paddings: frozenset[Padding]
    activation: Activation | None = None
    ceiling: float | None = None

    @property
    def depthwise(self) -> bool:
        return self.weight.shape[1] == 1 and len(self.weight) == len(self.reads[0]) > 1

    def acts_as(self, activation: Activation | None) -> bool:
        """Whether what leaves the layer has been through ``activation`` and nothing more."""
        if self.ceiling is None or self.activation is not None:
            return self.activation == activation
        # A ReLU6 whose input never got as far as 6 has a lower ceiling.
        return activation == "relu" or (activation == "relu6" and self.ceiling < 6.06)

    def __str__(self) -> str:
        kernel = self.weight.shape[2]
        return describe(kernel, self.stride, self.depthwise, self.activation) + f" with {len(self.makes)} channels"


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(Layer):
    """The maximum over 3x3 windows at stride 2."""

    paddings: frozenset[Padding]


def describe(kernel: int, stride: int, depthwise: bool, activation: Activation | None) -> str:
    """A convolution in words, for messages."""
    kind = "depthwise convolution" if depthwise else "convolution"
    return f"a {kernel}x{kernel} {kind} at stride {stride} with {activation or 'no activation'}"


class Tracer:
    """Collects the layers of a foreign file while its operators are run on channel numbers.

    ``source`` names the file in errors. Four-dimensional tensors have their channels along ``channel_axis`` where an
    operator cares, which is not everywhere.
    """

    def __init__(self, source: str, channel_axis: int) -> None:
        self.source = source
        self.channel_axis = channel_axis
        self.layers: list[Layer] = []
        self.input_size = 0
        self._spent = 0
        self._batch = 1
        self._count = 0
        self._maker: dict[int, int] = {}

    def refuse(self, what: str) -> WeightsError:
        """The error for a file that is whole but holds another network."""
        return WeightsError(
            f"{self.source}: {what}. Only classifiers with MobileNetV2's or ShuffleNetV2's own layers can be ported"
        )

    def spend(self, values: int) -> None:
        """Count values that an operator makes or looks at, before it does; WeightsError where they are too many."""
        self._spent += values
        if values > _MAX_VALUES or self._spent > _MAX_WORK:
            raise WeightsError(
                f"{self.source}: has tensors of more values than networks for pictures need: fetch or export it again"
            )

    def take(self, x: NDArray[Any], indices: NDArray[Any], axis: int) -> NDArray[Any]:
        """Slices of ``x`` along ``axis``, each as often as it is named."""
        self.spend(indices.size * (x.size // max(1, x.shape[axis])))
        return np.asarray(np.take(x, indices, axis))

    def input(self, shape: Sequence[int]) -> Tensor:
        """The picture, (batch, channels, height, width) or (batch, height, width, channels)."""
        if len(shape) != 4:
            raise self.refuse(f"the input has the shape {tuple(shape)}, which is no picture's")
        channel_axis = 1 if shape[1] < shape[3] else 3
        height, width = (side for axis, side in enumerate(shape) if axis not in (0, channel_axis))
        if height != width or not 32 <= height <= _LARGEST_SIDE:
            raise self.refuse(f"the input is a picture of {height}x{width}; it must be square, from 32 pixels up")
        if shape[channel_axis] > MAX_CHANNELS:
            raise self.refuse(f"the input has {shape[channel_axis]} channels, and at most {MAX_CHANNELS} are read")
        self.spend(math.prod(shape))
        self.input_size, self._batch = height, shape[0]
        numbers = self._number(shape[channel_axis])
        self._add(Layer("input", (), numbers))
        along_channels = [-1 if axis == channel_axis else 1 for axis in range(4)]
        return Tensor(np.broadcast_to(numbers.reshape(along_channels), tuple(shape)))

    def convolve(
        self,
        x: Tensor,
        weight: NDArray[Any],
        bias: NDArray[Any] | None,
        *,
        strides: Sequence[int],
        dilations: Sequence[int],
        border: Border | None,
    ) -> Tensor:
        """Add a convolution; ``weight`` is (out, in / groups, height, width), ``border`` None TensorFlow's SAME."""
        (stride,), (dilation,) = set(strides), set(dilations)
        if weight.shape[2] != weight.shape[3] or dilation != 1:
            raise self.refuse(f"a convolution of {weight.shape[2]}x{weight.shape[3]} with dilation {dilation}")
        numbers, added, sides = self._read(x)
        paddings, made_sides = self._windows(added, sides, weight.shape[2], stride, border)
        if len(numbers) % weight.shape[1] or len(numbers) // weight.shape[1] not in (1, len(weight)):
            raise self.refuse(f"a convolution with weights of {weight.shape} over {len(numbers)} channels")
        layer = Convolution(
            "convolution",
            (numbers,),
            self._number(len(weight)),
            weight=np.asarray(weight, np.float32),
            bias=np.zeros(len(weight), np.float32)
            if bias is None
            else np.asarray(bias, np.float32).reshape(len(weight)),
            stride=stride,
            paddings=paddings,
        )
        self._add(layer)
        return self._picture(layer.makes, made_sides)

    def multiply(self, x: Tensor, weight: NDArray[Any], bias: NDArray[Any] | None) -> Tensor:
        """Add the classifier, with a weight of (classes, channels)."""
        if x.numbers.ndim != 2:
            raise self.refuse(f"a matrix product with a tensor of the shape {x.numbers.shape}")
        made = self.convolve(x, weight[:, :, None, None], bias, strides=(1,), dilations=(1,), border=(0, 0, 0, 0))
        return Tensor(made.numbers.reshape(len(x.numbers), -1))

    def rescale(self, x: Tensor, factor: NDArray[Any] | float, shift: NDArray[Any] | float) -> Tensor:
        """``x * factor + shift``, folded into the convolution before it; one number a channel, or one for all."""
        layer = self._convolution_behind(x)
        if layer is None or layer.activation is not None or layer.ceiling is not None:
            raise self.refuse(
                "arithmetic that does not belong to a convolution (normalise pictures before the network)"
            )
        scales, shifts = (self._per_channel(values, x) for values in (factor, shift))
        weight = layer.weight.astype(np.float64) * scales[:, None, None, None]
        bias = layer.bias * scales + shifts
        return self._again(x, replace(layer, weight=weight.astype(np.float32), bias=bias.astype(np.float32)))

    def activate(self, x: Tensor, activation: Activation) -> Tensor:
        """An activation after a convolution."""
        layer = self._convolution_behind(x)
        if layer is None or layer.activation is not None:
            raise self.refuse(f"a {activation} that does not follow a convolution")
        return self._again(x, replace(layer, activation=activation))

    def clamp(self, x: Tensor, scale: NDArray[Any], zero_point: NDArray[Any]) -> Tensor:
        """Quantisation of what a convolution makes: the activation, where the scale starts at zero."""
        layer = self._convolution_behind(x)
        limits = np.iinfo(zero_point.dtype)
        if layer is None or layer.ceiling is not None or scale.size != 1 or int(zero_point.reshape(())) != limits.min:
            return x
        return self._again(x, replace(layer, ceiling=float(scale.reshape(())) * (limits.max - limits.min)))

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """The residual connection."""
        (left, left_border, sides), (right, right_border, _) = self._read(x), self._read(y)
        if x.numbers.shape != y.numbers.shape or any(left_border + right_border):
            raise self.refuse("a sum of pictures of different sizes")
        layer = Layer("sum", (left, right), self._number(len(left)))
        self._add(layer)
        return self._picture(layer.makes, sides)

    def max_pool(self, x: Tensor, *, kernel: Sequence[int], strides: Sequence[int], border: Border | None) -> Tensor:
        """The maximum over windows of 3x3 at stride 2; ``border`` None is TensorFlow's SAME."""
        if {*kernel} != {3} or {*strides} != {2}:
            raise self.refuse(f"a maximum over {tuple(kernel)} pixels at stride {tuple(strides)}")
        numbers, added, sides = self._read(x)
        paddings, made_sides = self._windows(added, sides, 3, 2, border)
        layer = MaxPool("maximum", (numbers,), self._number(len(numbers)), paddings=paddings)
        self._add(layer)
        return self._picture(layer.makes, made_sides)

    def mean(self, x: Tensor, axes: Iterable[int], *, keep: bool) -> Tensor:
        """The average over whole pictures; ``axes`` are those of height and width in the tensor's layout."""
        along = tuple(sorted(axis % x.numbers.ndim for axis in axes))
        first = x.numbers[tuple(slice(0, 1) if axis in along else slice(None) for axis in range(x.numbers.ndim))]
        if len(along) != 2 or (x.numbers != first).any() or (first == BORDER).any():
            raise self.refuse(f"an average over the dimensions {along} of {x.numbers.shape}")
        numbers = first[0].reshape(-1)
        layer = Layer("mean", (numbers,), self._number(len(numbers)))
        self._add(layer)
        made = np.broadcast_to(layer.makes.reshape(first[:1].shape), first.shape)
        return Tensor(made if keep else made.squeeze(along))

    def pad(self, x: Tensor, amounts: NDArray[Any], value: float = 0) -> Tensor:
        """Rows and columns of zeros around a picture; ``amounts`` is (dimensions, 2)."""
        if value != 0 or amounts.min() < 0 or amounts.max() > _LARGEST_BORDER:
            raise self.refuse(f"padding of {amounts.tolist()} with {value}")
        self.spend(math.prod(side + int(amount) for side, amount in zip(x.numbers.shape, amounts.sum(1), strict=True)))
        return Tensor(
            np.pad(x.numbers, [(int(before), int(after)) for before, after in amounts], constant_values=BORDER)
        )

    def behind(self, output: Tensor) -> list[Layer]:
        """The layers that the output depends on, in the order they run; all others are left out."""
        wanted = set(output.numbers.reshape(-1).tolist())
        layers = []
        for layer in reversed(self.layers):
            if not wanted.isdisjoint(layer.makes.tolist()):
                layers.append(layer)
                for numbers in layer.reads:
                    wanted.update(numbers.tolist())
        return layers[::-1]

    def _number(self, channels: int) -> Numbers:
        self._count += channels
        return np.arange(self._count - channels, self._count, dtype=np.int32)

    def _add(self, layer: Layer) -> None:
        self._maker[int(layer.makes[0])] = len(self.layers)
        self.layers.append(layer)

    def _again(self, x: Tensor, layer: Convolution) -> Tensor:
        """The layer once more with the change in it; the one without stays for whoever else reads it."""
        changed = replace(layer, makes=self._number(len(layer.makes)))
        self._add(changed)
        return Tensor(x.numbers - layer.makes[0] + changed.makes[0])

    def _convolution_behind(self, x: Tensor) -> Convolution | None:
        """The convolution that made ``x`` as it is; None where something was moved or added since."""
        maker = self._maker.get(int(x.numbers.flat[0]))
        layer = None if maker is None else self.layers[maker]
        if not isinstance(layer, Convolution) or x.numbers.ndim not in (2, 4):
            return None
        axis = self.channel_axis if x.numbers.ndim == 4 else 1
        makes = layer.makes.reshape([-1 if k == axis else 1 for k in range(x.numbers.ndim)])
        if x.numbers.shape[axis] != makes.size or (x.numbers != makes).any():
            return None
        return layer

    def _per_channel(self, values: NDArray[Any] | float, x: Tensor) -> NDArray[np.float64]:
        spread: NDArray[np.float64] = np.broadcast_to(np.asarray(values, np.float64), x.numbers.shape)
        rows = spread if spread.ndim == 2 else np.moveaxis(spread, self.channel_axis, -1)
        first: NDArray[np.float64] = rows[(0,) * (rows.ndim - 1)]
        if (rows != first).any():
            raise self.refuse("arithmetic that differs from pixel to pixel")
        return first

    def _read(self, x: Tensor) -> tuple[Numbers, Border, tuple[int, int]]:
        """The channels of a tensor, the border that was added to it, and its height and width without that."""
        if x.numbers.ndim not in (2, 4):
            raise self.refuse(f"a layer that reads a tensor of the shape {x.numbers.shape}")
        pixels = np.moveaxis(x.numbers, self.channel_axis, -1)[0] if x.numbers.ndim == 4 else x.numbers[:1, None]
        inside = pixels[..., 0] != BORDER
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        if not (len(rows) and len(columns)):
            raise self.refuse("a layer that reads nothing but padding")
        height, width, _ = pixels.shape
        border = (int(rows[0]), height - 1 - int(rows[-1]), int(columns[0]), width - 1 - int(columns[-1]))
        core = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if (core != core[0, 0]).any() or (core == BORDER).any():
            raise self.refuse("a layer that reads different channels in different places")
        return core[0, 0], border, core.shape[:2]

    def _windows(
        self, added: Border, sides: tuple[int, int], kernel: int, stride: int, border: Border | None
    ) -> tuple[frozenset[Padding], tuple[int, int]]:
        """Which paddings read the same pixels as these windows do, and the height and width of what they make."""
        found, made = set(PADDINGS), []
        for axis, side in enumerate(sides):
            before, after = added[2 * axis : 2 * axis + 2]
            more = (
                pads(side + before + after, kernel, stride, "same")
                if border is None
                else border[2 * axis : 2 * axis + 2]
            )
            before, after = before + more[0], after + more[1]
            made.append((side + before + after - kernel) // stride + 1)
            for padding in PADDINGS:
                first, last = pads(side, kernel, stride, padding)
                if (before, made[-1]) != (first, (side + first + last - kernel) // stride + 1):
                    found.discard(padding)
        if not found or min(made) < 1:
            raise self.refuse(
                f"{kernel}x{kernel} windows at stride {stride} over {sides} pixels, padded in a way of its own"
            )
        return frozenset(found), (made[0], made[1])

    def _picture(self, numbers: Numbers, sides: tuple[int, int]) -> Tensor:
        self.spend(self._batch * len(numbers) * sides[0] * sides[1])
        if self.channel_axis == 1:
            return Tensor(np.broadcast_to(numbers[None, :, None, None], (self._batch, len(numbers), *sides)))
        return Tensor(np.broadcast_to(numbers, (self._batch, *sides, len(numbers))))


def dequantize(
    values: NDArray[Any], scale: NDArray[Any], zero_point: NDArray[Any] | int, axis: int
) -> NDArray[np.float32]:
    """``scale * (values - zero_point)``, with one scale in all or one for each slice along ``axis``.

    ValueError for any other number of scales or zero points.
    """
    if not {np.size(scale), np.size(zero_point)} <= {1, values.shape[axis] if values.ndim else 1}:
        raise ValueError(f"{np.size(scale)} scales and {np.size(zero_point)} zero points for {values.shape}")
    along_axis = [-1 if k == axis % values.ndim else 1 for k in range(values.ndim)] if np.size(scale) > 1 else []
    zero = np.asarray(zero_point, np.float32).reshape(along_axis if np.size(zero_point) > 1 else [])
    return (values.astype(np.float32) - zero) * np.asarray(scale, np.float32).reshape(along_axis)
