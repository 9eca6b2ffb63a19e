"""How images are prepared for weights that do not say it: what the user states, and what is assumed beside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, get_args

from fusiform.errors import UsageError
from fusiform.fields import show
from fusiform.spec import MAX_INPUT_SIZE, Colours, Fit, Preprocess


class Stated(NamedTuple):
    """What a user says of the preprocessing that weights were trained with; None is not said."""

    mean: Colours | None = None
    std: Colours | None = None
    resize: int | None = None
    crop: int | None = None
    fit: Fit | None = None

    @property
    def names(self) -> list[str]:
        """The options that were given."""
        return [name for name, value in zip(self._fields, self, strict=True) if value is not None]

    def over(self, assumed: Preprocess) -> Preprocess:
        """``assumed`` with what is stated in its place; UsageError for what no preprocessing can be.

        Where only ``crop`` or only ``resize`` is stated, the other keeps to it as in ``assumed``, whose share of the
        shorter side it is; with ``stretch`` and ``pad`` both are one.
        """
        fit = assumed.fit if self.fit is None else self.fit
        if fit not in get_args(Fit):
            raise UsageError(f"fit must be one of {', '.join(get_args(Fit))}, got {fit!r}")
        for name, pixels in (("resize", self.resize), ("crop", self.crop)):
            if pixels is not None and (not isinstance(pixels, int) or isinstance(pixels, bool) or pixels < 32):
                raise UsageError(f"{name} must be a whole number of pixels, 32 or more, got {show(pixels)}")
            if pixels is not None and pixels > MAX_INPUT_SIZE:
                raise UsageError(f"{name} must be at most {MAX_INPUT_SIZE} pixels, got {show(pixels)}")
        if fit != "crop":
            crop = self.crop or self.resize or assumed.crop
            if self.resize not in (None, crop):
                raise UsageError(f"fit {fit} resizes to the crop: resize {self.resize} and crop {crop} contradict it")
            resize = crop
        else:
            crop = assumed.crop if self.crop is None else self.crop
            resize = round(crop * assumed.resize / assumed.crop) if self.resize is None else self.resize
            if resize < crop:
                raise UsageError(f"resize {resize} is less than crop {crop}: the crop is cut out of what was resized")
        mean = assumed.mean if self.mean is None else _three("mean", self.mean)
        std = assumed.std if self.std is None else _three("std", self.std)
        return Preprocess(
            resize, crop, assumed.interpolation, assumed.antialias, mean, std, assumed.color_order, fit=fit
        )

    def missing(self) -> tuple[str, ...]:
        """What is assumed all the same: ``crop`` and ``resize`` stand for each other, and ``fit`` for both."""
        size = () if self.crop is not None or self.resize is not None else ("resize", "crop")
        return (
            *(() if self.mean is not None else ("mean",)),
            *(() if self.std is not None else ("std",)),
            *size,
            *(() if self.fit is not None or not size else ("fit",)),
        )


def in_words(preprocess: Preprocess) -> str:
    """The preprocessing in a line: ``resize 256, crop 224, mean 0.5, std 0.5``."""
    size = f"resize {preprocess.resize}, crop {preprocess.crop}"
    if preprocess.fit != "crop":
        size = f"{preprocess.fit} to {preprocess.crop}"
    return f"{size}, mean {_colours(preprocess.mean)}, std {_colours(preprocess.std)}"


def assumption(source: str, preprocess: Preprocess, missing: Sequence[str]) -> str:
    """What is assumed of a file that does not say it, and how to say it."""
    options = " ".join(f"--{name}" for name in missing)
    return f"{source}: does not say how its images were prepared; assumed: {in_words(preprocess)} (else give {options})"


def _three(name: str, given: Colours) -> tuple[float, float, float]:
    values = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
    values = values * 3 if len(values) == 1 else values
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    if len(values) != 3 or not numbers or not all(map(math.isfinite, values)):
        raise UsageError(f"{name} must be one number, or three for red, green and blue, got {given!r}")
    first, second, third = (float(value) for value in values)
    if max(first, second, third) > 1:
        scaled = tuple(float(f"{value / 255:.4g}") for value in (first, second, third))
        raise UsageError(
            f"{name} applies to values in [0, 1], and {_colours((first, second, third))} is on the scale of 0 to 255: "
            f"divide by 255, which gives {name} {_colours(scaled)}"
        )
    if min(first, second, third) < 0 or (name == "std" and min(first, second, third) <= 0):
        positive = "positive" if name == "std" else "0 or more"
        raise UsageError(f"{name} must be {positive} and at most 1, got {_colours((first, second, third))}")
    return first, second, third


def _colours(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else ",".join(f"{value:g}" for value in values)
