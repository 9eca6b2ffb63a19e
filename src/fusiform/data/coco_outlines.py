"""The outlines in COCO's JSON: polygons, and run lengths with their picture's size."""

from __future__ import annotations

import contextlib
import math
import re
from array import array
from collections.abc import Mapping
from typing import Any

from fusiform.data.limits import MAX_PIXELS
from fusiform.data.objects import around
from fusiform.data.outlines import box_of, check_counts, decode_counts, encode_counts, fill_counts
from fusiform.errors import InputError, UsageError
from fusiform.fields import show


def with_box(entry: dict[str, Any]) -> dict[str, Any]:
    """An object of JSON, with the box of its outline if it has none."""
    outline = entry.get("segmentation")
    if not entry.get("bbox") and outline:
        edges = None
        if isinstance(outline, list) and (polygons := _polygons(outline)):
            edges = around(polygons)
        elif isinstance(outline, dict):
            with contextlib.suppress(UsageError):
                counts, size = read_counts(outline, "")
                edges = box_of(fill_counts(decode_counts(counts), size))
        if edges is not None:
            entry["bbox"] = [edges[0], edges[1], edges[2] - edges[0], edges[3] - edges[1]]
    return entry


def without_outline(entry: dict[str, Any]) -> dict[str, Any]:
    """An object of JSON without its outline: they are most of a file, and gigabytes as Python's lists."""
    with_box(entry).pop("segmentation", None)
    return entry


def with_outline(entry: dict[str, Any]) -> dict[str, Any]:
    """An object of JSON with its polygons packed."""
    outline = with_box(entry).get("segmentation")
    if isinstance(outline, list) and (polygons := _polygons(outline)):
        entry["segmentation"] = tuple(array("d", polygon) for polygon in polygons)
    return entry


def _polygons(outline: list[Any]) -> list[list[float]] | None:
    """The polygons of an outline, or None where it is none: without those of fewer than three corners."""
    parts = outline if all(isinstance(part, list) for part in outline) else [outline]
    polygons = []
    for part in parts:
        numbers = [as_number(value) for value in part]
        known = [number for number in numbers if number is not None]
        if len(known) < len(numbers) or len(known) % 2:
            return None
        if len(known) >= 6:
            polygons.append(known)
    return polygons or None


def read_counts(outline: Mapping[str, Any], where: str) -> tuple[str, tuple[int, int]]:
    """Run lengths as COCO's string, and the width and height of their picture."""
    counts, size = outline.get("counts"), outline.get("size")
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)):
        raise InputError(f"{where}: size must be height and width in pixels, got {show(size)}: fix it")
    height, width = size
    if width * height > MAX_PIXELS:
        raise InputError(f"{where}: is for {width} x {height} pixels, and pictures are not so large: fix size")
    try:
        if isinstance(counts, str):
            numbers = decode_counts(counts)
        elif isinstance(counts, list) and all(type(number) is int for number in counts):
            numbers = counts
        else:
            raise ValueError(f"is {show(counts)}")
        check_counts(numbers, (width, height))
    except ValueError as error:
        raise InputError(f"{where}: its run lengths cannot be read (counts {error}): draw it again") from None
    return encode_counts(numbers), (width, height)


def as_number(value: object) -> float | None:
    """A number of JSON that a float holds, perhaps in quotes; Python reads NaN and Infinity too."""
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
