"""What is wrong with a picture's boxes, beyond what reading them tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

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
    shared = np.triu(iou_matrix(edges, edges), 1)
    for i, k in np.argwhere(shared >= SAME).tolist():
        first, second = boxes[i], boxes[k]
        names, marks = (classes[first.label], classes[second.label]), (mark(first, classes), mark(second, classes))
        where = f"at ({first.left:g}, {first.top:g})"
        how = "are the same" if shared[i, k] == 1 else f"cover each other by {shared[i, k]:.0%}"
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


def same_objects(one: AnnotatedSample, other: AnnotatedSample) -> bool:
    """Whether two copies of a picture, perhaps of other sizes or cut a little, have the same boxes."""
    first, second = _relative_edges(one), _relative_edges(other)
    labels = [np.array([box.label for box in sample.boxes or ()]) for sample in (one, other)]
    if len(first) != len(second) or not len(first):
        return len(first) == len(second)
    shared = np.where(labels[0][:, None] == labels[1], iou_matrix(first, second), 0)
    return bool((shared.max(0) >= SAME_OBJECT).all() and (shared.max(1) >= SAME_OBJECT).all())


def _relative_edges(sample: AnnotatedSample) -> NDArray[np.float64]:
    width, height = sample.size or (1, 1)
    edges = np.array([(box.left, box.top, box.right, box.bottom) for box in sample.boxes or ()]).reshape(-1, 4)
    return edges / (width, height, width, height)


def without_copies(sample: AnnotatedSample) -> AnnotatedSample:
    """The picture with each box once."""
    kept: list[BoxLabel] = []
    for box in sample.boxes or ():
        if box.crowd or not any(_is_copy(box, other) for other in kept):
            kept.append(box)
    return replace(sample, boxes=tuple(kept))


def _is_copy(box: BoxLabel, other: BoxLabel) -> bool:
    return replace(box, area=None, difficult=False) == replace(other, area=None, difficult=False)
