"""Masks from objects' outlines: polygons and run lengths, to the pixel as COCO's own tools draw them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.data.masks import IGNORE

MAX_CLASSES = IGNORE
"""How many classes a mask has values for, the background among them."""
_SCALE = 5
"""Steps to a pixel in which COCO's tools walk along an outline."""
_CORNERS = 64
"""Corners of the polygon that stands for an ellipse."""


class Outline(NamedTuple):
    """An object's area: ``polygons``, whose union it is, or else ``counts``, COCO's run lengths as a string.

    A polygon is the bytes of float64 x, y, x, y, ... in pixels from the picture's upper left corner; those of a set of
    a million objects fit into memory. ``label`` is the value of its pixels. A ``crowd`` is of no class.
    """

    label: int
    polygons: tuple[bytes, ...] = ()
    counts: str = ""
    crowd: bool = False


def outlines_as_json(outlines: Iterable[Outline]) -> list[list[Any]]:
    """What JSON can hold of outlines, with all of their digits."""
    return [
        [one.label, [np.frombuffer(polygon).tolist() for polygon in one.polygons], one.counts, one.crowd]
        for one in outlines
    ]


def outlines_from_json(entries: Iterable[Sequence[Any]]) -> tuple[Outline, ...]:
    """The outlines that ``outlines_as_json`` gave."""
    return tuple(
        Outline(int(label), tuple(map(pack, polygons)), str(counts), bool(crowd))
        for label, polygons, counts, crowd in entries
    )


def pack(corners: Iterable[float]) -> bytes:
    """A polygon's x, y, x, y, ... as ``Outline`` has them."""
    return np.array(list(corners), np.float64).tobytes()


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> list[float]:
    """The corners of a polygon that stands for an ellipse."""
    angles = [2 * math.pi * i / _CORNERS for i in range(_CORNERS)]
    return [value for a in angles for value in (x + radius_x * math.cos(a), y + radius_y * math.sin(a))]


def turned(corners: Sequence[float], degrees: float, x: float, y: float) -> list[float]:
    """Corners turned clockwise, as the picture is seen, around a point."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    pairs = zip(corners[::2], corners[1::2], strict=True)
    return [
        value
        for a, b in pairs
        for value in (x + (a - x) * cosine - (b - y) * sine, y + (a - x) * sine + (b - y) * cosine)
    ]


def fill_polygon(corners: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels [height, width] within a polygon, in a picture of ``size`` (width, height), as ``rleFrPoly`` has them.

    COCO's rule: corners are rounded to fifths of a pixel, edges are walked in such steps, and a column's pixels lie
    within where the outline crosses the column's middle (https://github.com/cocodataset/cocoapi, maskApi.c).
    """
    width, height = size
    # C's casts cut off towards zero.
    xs, ys = (np.trunc(_SCALE * corners[start::2] + 0.5).astype(np.int64) for start in (0, 1))
    dx, dy = np.abs(np.roll(xs, -1) - xs), np.abs(np.roll(ys, -1) - ys)
    flat = dx >= dy
    # An edge is walked to the right or down, and read the other way round where the outline runs so.
    flip = np.where(flat, xs > np.roll(xs, -1), ys > np.roll(ys, -1))
    x, x_end = np.where(flip, np.roll(xs, -1), xs), np.where(flip, xs, np.roll(xs, -1))
    y, y_end = np.where(flip, np.roll(ys, -1), ys), np.where(flip, ys, np.roll(ys, -1))
    length = np.maximum(dx, dy)
    slope = np.where(flat, y_end - y, x_end - x) / np.maximum(length, 1)
    edge = np.repeat(np.arange(len(xs)), length + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(length + 1) - (length + 1), length + 1)
    step = np.where(flip[edge], length[edge] - step, step)
    straight = step + np.where(flat, x, y)[edge]
    leaning = np.trunc(np.where(flat, y, x)[edge] + slope[edge] * step + 0.5).astype(np.int64)
    u, v = np.where(flat[edge], straight, leaning), np.where(flat[edge], leaning, straight)
    crossing = np.flatnonzero(u[1:] != u[:-1]) + 1
    column = (np.minimum(u[crossing], u[crossing - 1]) + 0.5) / _SCALE - 0.5
    row = (np.minimum(v[crossing], v[crossing - 1]) + 0.5) / _SCALE - 0.5
    inside = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    column, row = column[inside].astype(np.int64), np.ceil(row[inside].clip(0, height)).astype(np.int64)
    filled = np.zeros((height, width), np.bool_)
    if not len(column):
        return filled
    left, right, top, bottom = int(column.min()), int(column.max()) + 1, int(row.min()), int(row.max())
    # Each crossing turns in into out for what lies below it, down to the last. Eight bits overflow to the same parity.
    turns = np.zeros((right - left, bottom - top + 1), np.uint8)
    np.add.at(turns, (column - left, row - top), 1)
    inside_out = turns.cumsum(1, dtype=np.uint8)[:, : bottom - top] & 1
    filled[top:bottom, left:right] = inside_out.T
    return filled


def decode_counts(counts: str) -> list[int]:
    """The run lengths in COCO's string; ValueError where it is none."""
    # maskApi.c, rleFrString: five bits a character, and from the fourth number on the difference to the last but one.
    numbers: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"has the character {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("ends within a number")
    return numbers


def encode_counts(numbers: Sequence[int]) -> str:
    """COCO's string of run lengths."""
    characters = []
    for i, number in enumerate(numbers):
        value = number - numbers[i - 2] if i > 2 else number
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            characters.append(chr((bits | 32 if more else bits) + 48))
    return "".join(characters)


def check_counts(numbers: Sequence[int], size: tuple[int, int]) -> None:
    """Raise ValueError for run lengths that do not fill a picture of ``size`` (width, height)."""
    if min(numbers, default=0) < 0 or sum(numbers) != size[0] * size[1]:
        raise ValueError(f"does not fill its {size[0]} x {size[1]} pixels")


def fill_counts(numbers: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels [height, width] of run lengths, column by column, that begin outside of the object."""
    values: NDArray[np.bool_] = np.repeat(np.arange(len(numbers)) % 2 == 1, numbers)
    pixels: NDArray[np.bool_] = values.reshape(size).T
    return pixels


def counts_of(pixels: NDArray[np.bool_]) -> list[int]:
    """The run lengths of pixels [height, width], column by column, beginning outside of the object."""
    flat = np.concatenate(([False], pixels.T.ravel()))
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate(([0], changes, [pixels.size]))).tolist()  # type: ignore[no-any-return]


def box_of(pixels: NDArray[np.bool_]) -> tuple[float, float, float, float] | None:
    """The left, top, right and bottom of pixels [height, width]; None where there are none."""
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    if not len(rows):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def fill(outline: Outline, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels [height, width] of an object in a picture of ``size`` (width, height)."""
    if outline.counts:
        return fill_counts(decode_counts(outline.counts), size)
    filled = np.zeros(size[::-1], np.bool_)
    for polygon in outline.polygons:
        filled |= fill_polygon(np.frombuffer(polygon, np.float64), size)
    return filled


def draw_labels(outlines: Sequence[Outline], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask: uint8 [height, width] with the label of each pixel, 0 where there is no object.

    Small objects lie over large ones, so that none is hidden, and of two as large the later one. Crowds are ``IGNORE``,
    and lie below all objects.
    """
    labels = np.zeros(size[::-1], np.uint8)
    parts = []
    for outline in outlines:
        pixels = fill(outline, size)
        if (box := box_of(pixels)) is not None:
            left, top, right, bottom = map(int, box)
            # No more than the object, of which there may be hundreds.
            part = pixels[top:bottom, left:right].copy()
            parts.append((outline, part, (slice(top, bottom), slice(left, right))))
    parts.sort(key=lambda part: (not part[0].crowd, -int(np.count_nonzero(part[1]))))
    for outline, part, place in parts:
        labels[place][part] = IGNORE if outline.crowd else outline.label
    return labels
