"""What users see of a detector's and a segmenter's answers, a file's beside the reference's: boxes and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.data.annotated import BoxLabel
from fusiform.data.preprocess import placement
from fusiform.exporting.verification.parity import NEAR_BOX, SAME_BOX, Decoded, Measured
from fusiform.spec import ModelSpec
from fusiform.tasks import bootstrap, detection, segmentation
from fusiform.tasks.bootstrap import Figure
from fusiform.tasks.classification_metrics import Difference
from fusiform.tasks.detection import EVALUATED_SCORE, SCORE_THRESHOLD, Detections, iou_matrix
from fusiform.tasks.detection_metrics import match_boxes, mean_average_precisions
from fusiform.tasks.segmentation_metrics import class_counts, mean_iou, pixel_confusion

Answer = Mapping[str, NDArray[Any]]
"""An engine's answer to one picture, as the spec's ``answers`` say."""

_SMALLEST_BOX = 1.0
"""Sides in pixels below which a box is a sliver that clipping left, whose share with another is one of rounding."""
_LOWEST_THRESHOLD = SCORE_THRESHOLD / 2
_MOST_BOXES = 5000
"""The highest-scoring boxes before suppression, which a harmed network may have hundreds of thousands of."""


class Truth(NamedTuple):
    """What a labelled photograph shows: its boxes, or its mask (height, width) of labels, -1 where it says nothing."""

    boxes: Sequence[BoxLabel] = ()
    mask: NDArray[np.int32] | None = None


class Boxes:
    """Counts the boxes that the file and the reference have in common, picture by picture.

    A box scored above ``SCORE_THRESHOLD`` has to be found among the other side's of the same class, of whatever score
    the tolerance leaves: the bound on logits allows a score to differ by half of it, so that a box near the threshold
    may be missing from the other side's answer; an int8 file's may have half the threshold. It is looked for among the
    other side's boxes before suppression, which is the same code for both: of two boxes that cover each other and have
    nearly the same score either may remain. Boxes with a side below a pixel are not looked for.
    """

    def __init__(self, spec: ModelSpec, reference: ModelSpec, *, tolerance: float | None) -> None:
        self.spec, self.reference, self.tolerance = spec, reference, tolerance
        self.count = self.same = self.near = self.pictures = 0
        self.worst, self.most = "", -1
        self.truths: list[Sequence[BoxLabel]] = []
        self.found: list[Detections] = []
        self.expected: list[Detections] = []

    def add(self, name: str, size: tuple[int, int], answer: Answer, expected: Answer, truth: Truth | None) -> None:
        """Compare both sides' answers to a photograph of ``size`` (width, height)."""
        lowest = self.lowest(self.margin(expected))
        sides = ((answer, self.spec), (expected, self.reference))
        mine, theirs = (decode_answer(side, spec, size) for side, spec in sides)
        all_mine, all_theirs = (all_boxes(side, spec, size, lowest) for side, spec in sides)
        self.count_shares(name, np.concatenate([best_overlaps(mine, all_theirs), best_overlaps(theirs, all_mine)]))
        if truth is not None:
            self.truths.append(truth.boxes)
            self.found.append(decode_answer(answer, self.spec, size, EVALUATED_SCORE))
            self.expected.append(decode_answer(expected, self.reference, size, EVALUATED_SCORE))

    def margin(self, expected: Answer) -> float:
        """By how much a score may differ from the reference's."""
        return float(np.inf if self.tolerance is None else self.tolerance * float(np.abs(expected["logits"]).max()) / 2)

    def lowest(self, margin: float) -> float:
        """The score from which the other side's boxes are looked at."""
        return max(_LOWEST_THRESHOLD, SCORE_THRESHOLD - margin)

    def count_shares(self, name: str, shared: NDArray[np.float64]) -> None:
        """Count the boxes of both sides, of each of which the other side has the share given."""
        others = int((shared < SAME_BOX).sum())
        if others > self.most:
            self.worst, self.most = name, others
        self.pictures += 1
        self.count += len(shared)
        self.same += len(shared) - others
        self.near += int((shared >= NEAR_BOX).sum())

    def decoded(self, kind: str) -> Decoded:
        """The shares over all pictures."""
        same, near = (number / self.count if self.count else 1.0 for number in (self.same, self.near))
        return Decoded(kind, "boxes", self.pictures, self.count, same, near, self.worst)

    def measured(self) -> Measured | None:
        """COCO's average precision of both sides; None where no photograph has a labelled object."""
        return _measured(self._figure(self.found), self._figure(self.expected), len(self.truths))

    def _figure(self, found: Sequence[Detections]) -> Figure:
        matches = match_boxes(self.truths, found, self.reference.num_classes)
        return lambda weights: mean_average_precisions(matches, weights).mean(1, keepdims=True)


class Masks:
    """Counts the pixels that the file and the reference give the same class, at the photographs' own size.

    ``classes`` are those that the true masks know, by default all.
    """

    def __init__(self, spec: ModelSpec, reference: ModelSpec, *, classes: Sequence[int] | None = None) -> None:
        self.spec, self.reference = spec, reference
        self.classes = range(reference.num_classes) if classes is None else classes
        self.count = self.same = self.pictures = 0
        self.worst, self.most = "", -1.0
        self.found: list[NDArray[np.int64]] = []
        self.expected: list[NDArray[np.int64]] = []

    def add(self, name: str, size: tuple[int, int], answer: Answer, expected: Answer, truth: Truth | None) -> None:
        """Compare both sides' answers to a photograph of ``size`` (width, height)."""
        mine, theirs = (
            segmentation.decode(side["logits"], spec, size, placement=placement(size, spec.preprocess)).classes
            for side, spec in ((answer, self.spec), (expected, self.reference))
        )
        self.count_pixels(name, int((mine == theirs).sum()), mine.size)
        if truth is not None and truth.mask is not None:
            self.measure(truth.mask, mine, theirs)

    def count_pixels(self, name: str, same: int, count: int) -> None:
        """Count the pixels of a picture, of which so many are the ``same`` on both sides."""
        others = 1 - same / count
        if others > self.most:
            self.worst, self.most = name, others
        self.pictures += 1
        self.count += count
        self.same += same

    def measure(self, truth: NDArray[np.int32], mine: NDArray[Any], theirs: NDArray[Any]) -> None:
        """Hold both sides' masks against the true one."""
        classes = self.reference.num_classes
        for side, counts in ((mine, self.found), (theirs, self.expected)):
            counts.append(class_counts(pixel_confusion(truth, side, classes, ignore=-1)))

    def decoded(self, kind: str) -> Decoded:
        """The share over the pixels of all pictures."""
        share = self.same / self.count if self.count else 1.0
        return Decoded(kind, "masks", self.pictures, self.count, share, share, self.worst)

    def measured(self) -> Measured | None:
        """The mean intersection over union of both sides; None where no mask has a pixel that counts."""
        return _measured(self._figure(self.found), self._figure(self.expected), len(self.found))

    def _figure(self, found: Sequence[NDArray[np.int64]]) -> Figure:
        counts = np.array(found, np.float64).reshape(len(found), -1)

        def figure(weights: NDArray[np.int32]) -> NDArray[np.float64]:
            total = (weights @ counts).reshape(len(weights), 3, self.reference.num_classes)
            return mean_iou(total, self.classes)[:, None]

        return figure


def _measured(file: Figure, reference: Figure, pictures: int) -> Measured | None:
    """Both sides' figure over the same labelled pictures, as ``fusiform evaluate --compare`` holds them together."""
    if not pictures:
        return None
    pairs = [(k, k) for k in range(pictures)]
    (found,) = bootstrap.compare(("",), reference, file, pairs=pairs, pictures=(pictures, pictures))
    drop, low, high = found.difference
    if found.value is None or found.other is None or drop is None or low is None or high is None:
        return None
    return Measured(found.other, found.value, Difference(drop, low, high))


def decode_answer(
    answer: Answer, spec: ModelSpec, size: tuple[int, int], score_threshold: float = SCORE_THRESHOLD
) -> Detections:
    """The boxes of an answer of the network itself."""
    logits, codes = answer["logits"][None], answer["codes"][None]
    return detection.decode(logits, codes, spec, sizes=[size], score_threshold=score_threshold)[0]


def all_boxes(answer: Answer, spec: ModelSpec, size: tuple[int, int], score_threshold: float) -> Detections:
    """The boxes before suppression."""
    logits, codes = answer["logits"][None], answer["codes"][None]
    # More than all of a box cannot be shared, so that none goes.
    (found,) = detection.decode(
        logits, codes, spec, sizes=[size], score_threshold=score_threshold, iou_threshold=2.0, limit=_MOST_BOXES
    )
    return found


def best_overlaps(boxes: Detections, others: Detections) -> NDArray[np.float64]:
    """For each box the largest intersection over union with one of the others that has its class."""
    (mine, classes), (theirs, other_classes) = box_rows(large_boxes(boxes)), box_rows(others)
    shared = iou_matrix(mine, theirs) * (classes[:, None] == other_classes)
    best: NDArray[np.float64] = shared.max(1, initial=0.0)
    return best


def large_boxes(found: Detections) -> Detections:
    """Without those that have a side below a pixel."""
    boxes = (box for box in found.boxes if min(box.right - box.left, box.bottom - box.top) >= _SMALLEST_BOX)
    return Detections(tuple(boxes), found.width, found.height)


def box_rows(found: Detections) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The edges (N, 4) and classes (N,) of boxes."""
    edges = np.array([(box.left, box.top, box.right, box.bottom) for box in found.boxes], np.float64)
    return edges.reshape(-1, 4), np.array([box.index for box in found.boxes], np.int64)
