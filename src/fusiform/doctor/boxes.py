"""What is wrong with a picture's boxes, beyond what reading them tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.data.annotated import AnnotatedSample, BoxCheck, BoxLabel
from fusiform.data.dataset import Split
from fusiform.data.faults import AnnotationFault
from fusiform.doctor.findings import Finding
from fusiform.doctor.thumbnails import Mark
from fusiform.tasks.detection import iou_matrix

INPUT_SIDE = 320
"""Pixels; the papers' input, for what a detector sees of a picture that is squeezed into it."""
SMALL_SIDE = 4
"""Pixels of the input: a box whose shorter side is shorter there is hardly seen by an SSDLite, whose finest map has a
cell for 16 pixels."""
SAME = 0.95
"""Intersection over union from which two boxes are one drawn twice."""

MOST_PAIRS = 1000
"""Pairs of boxes that are told of one picture; of a thousand copies of one box there are half a million."""
_AT_A_TIME = 1 << 20
"""Pairs of boxes that are compared at a time, so that the memory does not grow with their number."""

SAME_OBJECT = 0.6
"""Intersection over union of an object's boxes in two copies of a picture: one may be cut by some percent."""


def mark(box: BoxLabel, classes: Sequence[str]) -> Mark:
    """A box to draw."""
    return Mark(box.label, classes[box.label], (box.left, box.top, box.right, box.bottom))


def is_small(box: BoxLabel, size: tuple[int, int]) -> bool:
    """Whether a detector of 320 pixels hardly sees the object in a picture of this width and height."""
    width, height = (box.right - box.left) / size[0], (box.bottom - box.top) / size[1]
    return min(width, height) * INPUT_SIDE < SMALL_SIDE


def measured(
    sample: AnnotatedSample, split: Split, size: tuple[int, int], classes: Sequence[str]
) -> tuple[AnnotatedSample, list[AnnotationFault]]:
    """A picture whose annotations do not give its size, with the size that it has, and what that shows of its boxes."""
    faults: list[AnnotationFault] = []
    check = BoxCheck(faults, split)
    boxes = []
    for box in sample.boxes or ():
        edges = (box.left, box.top, box.right, box.bottom)
        if clipped := check.clip(*edges, size=size, file=sample.file, name=classes[box.label]):
            left, top, right, bottom = clipped
            boxes.append(replace(box, left=left, top=top, right=right, bottom=bottom))
    # Too thin a box was told when it was read.
    faults = [fault for fault in faults if fault.kind != "box of a pixel"]
    return replace(sample, boxes=tuple(boxes), size=size), faults


def about_boxes(sample: AnnotatedSample, split: Split, classes: Sequence[str]) -> Iterator[Finding]:
    """Boxes that are there twice, and how many are too small; ``sample`` has its ``size``."""
    boxes = [box for box in sample.boxes or () if not box.crowd]
    edges = np.array([(box.left, box.top, box.right, box.bottom) for box in boxes]).reshape(-1, 4)
    pairs, more = same_pairs(edges)
    if more:
        text = (
            f"more than {MOST_PAIRS:,} pairs of its {len(boxes):,} boxes are the same: the first are told (--fix helps)"
        )
        yield Finding("box twice", "warning", text, sample.name, sample, split)
    for i, k, shared in pairs:
        first, second = boxes[i], boxes[k]
        names, marks = (classes[first.label], classes[second.label]), (mark(first, classes), mark(second, classes))
        where = f"at ({first.left:g}, {first.top:g})"
        how = "are the same" if shared == 1 else f"cover each other by {shared:.0%}"
        if first.label == second.label:
            fix = " (--fix does)" if _is_copy(first, second) else ""
            text = f"two boxes of {names[0]} {where} {how}: remove one{fix}"
            yield Finding("box twice", "warning", text, sample.name, sample, split, names[0], marks=marks)
        else:
            text = f"a box of {names[0]} and one of {names[1]} {where} {how}: keep the right one"
            yield Finding("box of two classes", "warning", text, sample.name, sample, split, names[0], marks=marks)
    assert sample.size is not None
    if small := [box for box in boxes if is_small(box, sample.size)]:
        least = min(small, key=lambda box: (box.right - box.left) * (box.bottom - box.top))
        text = (
            f"{len(small):,} of its boxes {'is' if len(small) == 1 else 'are'} less than {SMALL_SIDE} pixels wide or "
            f"high when the picture is seen at {INPUT_SIDE}, such as {classes[least.label]} of "
            f"{least.right - least.left:.0f} x {least.bottom - least.top:.0f}: hardly to be found"
        )
        shown = tuple(mark(box, classes) for box in small)
        yield Finding("small boxes", "note", text, sample.name, sample, split, marks=shown)


def same_pairs(edges: NDArray[Any]) -> tuple[list[tuple[int, int, float]], bool]:
    """The pairs of boxes (N, 4) that are one drawn twice, with their intersection over union, in the boxes' order.

    The second value says that there are more than the ``MOST_PAIRS`` that are given. Only boxes are compared that begin
    near each other: of two that share so much, neither edge differs by more than ``1 - SAME`` of the larger one's side.
    """
    if len(edges) < 2:
        return [], False
    apart = (1 - SAME) / SAME
    orders, ends = [], []
    for axis in (0, 1):
        order = np.argsort(edges[:, axis], kind="stable")
        starts, sides = edges[order, axis], (edges[:, axis + 2] - edges[:, axis])[order]
        orders.append(order)
        ends.append(np.searchsorted(starts, starts + apart * sides * (1 + 1e-9), side="right"))
    axis = int(ends[1].sum() < ends[0].sum())
    order, counts = orders[axis], ends[axis] - np.arange(len(edges)) - 1
    boxes = edges[order].astype(np.float64)
    found: list[tuple[int, int, float]] = []
    first = 0
    while first < len(boxes):
        last = first + max(1, int(np.searchsorted(np.cumsum(counts[first : first + _AT_A_TIME]), _AT_A_TIME)))
        rows = np.arange(first, min(last, len(boxes)))
        for start in range(0, int(counts[rows].max(initial=0)) if len(rows) == 1 else 1, _AT_A_TIME):
            here = np.minimum(counts[rows] - start, _AT_A_TIME) if len(rows) == 1 else counts[rows]
            one = np.repeat(rows, here)
            other = one + 1 + start + np.arange(len(one)) - np.repeat(np.cumsum(here) - here, here)
            found += _same(boxes, order, one, other)
            if len(found) > MOST_PAIRS:
                return sorted(found)[:MOST_PAIRS], True
        first = last
    return sorted(found), False


def _same(
    boxes: NDArray[np.float64], order: NDArray[np.intp], one: NDArray[np.intp], other: NDArray[np.intp]
) -> list[tuple[int, int, float]]:
    """Those of the pairs of ``boxes`` that are the same, by their places in the picture: ``order`` has them."""
    near = np.abs(boxes[one, 1] - boxes[other, 1]) <= (boxes[one, 3] - boxes[one, 1]) * (1 - SAME) / SAME * (1 + 1e-9)
    one, other = one[near], other[near]
    a, b = boxes[one], boxes[other]
    areas = [(box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) for box in (a, b)]
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    common = np.maximum(sides, 0).prod(-1)
    union = areas[0] + areas[1] - common
    shared = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    same = shared >= SAME
    ends = np.sort(np.stack([order[one[same]], order[other[same]]]), axis=0)
    return list(zip(ends[0].tolist(), ends[1].tolist(), shared[same].tolist(), strict=True))


def same_objects(one: AnnotatedSample, other: AnnotatedSample) -> bool:
    """Whether two copies of a picture, perhaps of other sizes or cut a little, have the same boxes."""
    first, second = _relative_edges(one), _relative_edges(other)
    labels = [np.array([box.label for box in sample.boxes or ()]) for sample in (one, other)]
    if len(first) != len(second) or not len(first):
        return len(first) == len(second)
    met = np.zeros(len(second), bool)
    step = max(1, _AT_A_TIME // len(second))
    for top in range(0, len(first), step):
        rows = slice(top, top + step)
        shared = np.where(labels[0][rows, None] == labels[1], iou_matrix(first[rows], second), 0) >= SAME_OBJECT
        if not shared.any(1).all():
            return False
        met |= shared.any(0)
    return bool(met.all())


def _relative_edges(sample: AnnotatedSample) -> NDArray[np.float64]:
    width, height = sample.size or (1, 1)
    edges = np.array([(box.left, box.top, box.right, box.bottom) for box in sample.boxes or ()]).reshape(-1, 4)
    return edges / (width, height, width, height)


def without_copies(sample: AnnotatedSample) -> AnnotatedSample:
    """The picture with each box once."""
    kept: list[BoxLabel] = []
    seen: set[BoxLabel] = set()
    for box in sample.boxes or ():
        plain = _plain(box)
        if box.crowd or plain not in seen:
            kept.append(box)
        seen.add(plain)
    return replace(sample, boxes=tuple(kept))


def _is_copy(box: BoxLabel, other: BoxLabel) -> bool:
    return _plain(box) == _plain(other)


def _plain(box: BoxLabel) -> BoxLabel:
    return replace(box, area=None, difficult=False)
