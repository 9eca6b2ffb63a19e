"""What a network says of every pixel of a photograph: its class, decoded from logits of a sixteenth of the size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.data.masks import IGNORE
from fusiform.data.preprocess import Placement
from fusiform.spec import ModelSpec

_ROWS = 64
"""Rows that are decoded at once: a strip of even a large photograph stays in the processor's cache."""


@dataclass(frozen=True)
class Share:
    """A class that a photograph shows: its ``index``, its ``name``, and its ``share`` of the pixels in (0, 1]."""

    index: int
    name: str
    share: float


@dataclass(frozen=True, eq=False)
class SegmentationMap:
    """The class of every pixel: ``classes`` (H, W), uint8 or uint16, index the ``names``.

    The array cannot be written to through the map. ValueError for another type or shape, or for indices that have no
    name.
    """

    classes: NDArray[np.uint8] | NDArray[np.uint16] = field(repr=False)
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        classes = self.classes.view()
        if classes.dtype not in (np.uint8, np.uint16) or classes.ndim != 2 or not classes.size:
            raise ValueError(f"classes must be (H, W), uint8 or uint16, got {classes.shape} of {classes.dtype}")
        if classes.max() >= len(self.names):
            raise ValueError(f"a pixel has class {classes.max()}, but there are {len(self.names)} names")
        classes.flags.writeable = False
        object.__setattr__(self, "classes", classes)

    @property
    def width(self) -> int:
        return int(self.classes.shape[1])

    @property
    def height(self) -> int:
        return int(self.classes.shape[0])

    def shares(self) -> tuple[Share, ...]:
        """The classes that are there, the largest first and the lower index first among equals."""
        counts = np.bincount(self.classes.ravel(), minlength=len(self.names))
        order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
        return tuple(Share(int(k), self.names[k], float(counts[k] / self.classes.size)) for k in order)


def decode(
    logits: NDArray[Any],
    spec: ModelSpec,
    size: tuple[int, int],
    *,
    placement: Placement | None = None,
) -> SegmentationMap:
    """The likeliest class of every pixel of a photograph of ``size`` (width, height), the lower index among equals.

    ``logits`` (h, w, classes) are what the network says of its whole input, or the probabilities that a decoded file
    gives at the input's size; ``placement`` says where in it the photograph lies, by default filling a square of
    ``spec.input_size``. Logits are interpolated, not classes, and at once to the photograph's own pixels: borders are
    as fine as the photograph, whatever its size and aspect.

    ``spec.align_corners`` says where a logit stands. True, TensorFlow's way: the first and the last on the input's
    first and last pixel. Strides make it so: at an input of 16 n + 1 pixels, such as 513, output stride 16 puts logits
    on pixels 0, 16, ... 16 n, with either rule of padding. False, torchvision's way: in the middle of equal parts of
    the input. The difference is half a cell at the borders.

    Logits of another shape, or not finite, raise ValueError: the engine and the spec do not belong together.
    """
    if logits.ndim != 3 or logits.shape[2] != spec.num_classes or not logits.size:
        raise ValueError(f"{spec.name}: answer has shape {logits.shape}, not (h, w, {spec.num_classes} classes)")
    if not np.isfinite(logits).all():
        raise ValueError(f"{spec.name}: the answer holds values that are not finite")
    width, height = size
    if placement is None:
        placement = Placement(spec.input_size, spec.input_size, 0, 0, spec.input_size, spec.input_size)
    _check(placement, size)
    p, aligned = placement, spec.align_corners
    rows = _positions(height, p.top, p.height, p.input_height, len(logits), aligned)
    columns = _positions(width, p.left, p.width, p.input_width, logits.shape[1], aligned)
    # One plane a class, (classes, h, width): the rest is arithmetic on long rows.
    planes = np.ascontiguousarray(
        _interpolate(logits.transpose(1, 2, 0).astype(np.float32), columns).transpose(1, 2, 0)
    )
    # 255 stays free for pixels to ignore, so that a mask of up to 255 classes can be held against a true one.
    classes = np.zeros((height, width), np.uint8 if spec.num_classes <= IGNORE else np.uint16)
    for start in range(0, height, _ROWS):
        strip = slice(start, start + _ROWS)
        best = _interpolate(planes[0], rows[strip])
        for k in range(1, spec.num_classes):
            values = _interpolate(planes[k], rows[strip])
            classes[strip][values > best] = k
            np.maximum(best, values, out=best)
    return SegmentationMap(classes, spec.labels)


def class_probabilities(
    answer: NDArray[Any], spec: ModelSpec, size: tuple[int, int], *, placement: Placement
) -> NDArray[np.float32]:
    """The probability of every class (height, width, classes) at ``size`` (width, height), which may be a smaller one.

    ``answer`` and ``placement`` are what ``decode`` takes: logits are interpolated before they become probabilities.
    """
    _check(placement, size)
    p, aligned = placement, spec.align_corners
    rows = _positions(size[1], p.top, p.height, p.input_height, len(answer), aligned)
    columns = _positions(size[0], p.left, p.width, p.input_width, answer.shape[1], aligned)
    values = _interpolate(answer.astype(np.float32), rows)
    values = _interpolate(values.transpose(1, 0, 2), columns).transpose(1, 0, 2)
    if not spec.decoded:
        values = np.exp(values - values.max(2, keepdims=True))
    found: NDArray[np.float32] = values / values.sum(2, keepdims=True)
    return found


def _check(placement: Placement, size: tuple[int, int]) -> None:
    inside = (
        0 <= placement.left < placement.left + placement.width <= placement.input_width
        and 0 <= placement.top < placement.top + placement.height <= placement.input_height
    )
    if not inside or min(size) < 1:
        raise ValueError(f"a photograph of {size[0]} x {size[1]} pixels cannot lie in the input as {placement}")


def _positions(
    pixels: int, start: int, length: int, input_length: int, logits: int, align_corners: bool
) -> NDArray[np.float64]:
    """Where along one axis of the logits the middles of the photograph's pixels are, in logits from the first."""
    # Resized photographs keep their edges, so that pixels are compared by their middles.
    at = start + (np.arange(pixels) + 0.5) * length / pixels - 0.5
    at = at * (logits - 1) / max(1, input_length - 1) if align_corners else (at + 0.5) * logits / input_length - 0.5
    return np.clip(at, 0, logits - 1)


def _interpolate(values: NDArray[np.float32], positions: NDArray[np.float64]) -> NDArray[np.float32]:
    """Values at positions between those of the first axis."""
    before = positions.astype(np.intp)
    after = np.minimum(before + 1, len(values) - 1)
    weight = (positions - before).astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
    first = values[before]
    return first + (values[after] - first) * weight
