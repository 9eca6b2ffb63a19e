"""What users see of a detector's and a segmenter's answers, a file's beside the reference's: boxes and masks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.data.annotated import BoxLabel
from fusiform.data.preprocess import placement
from fusiform.export.parity import NEAR_BOX, SAME_BOX, Decoded, Measured
from fusiform.spec import ModelSpec
from fusiform.tasks import detection, segmentation
from fusiform.tasks.detection import EVALUATED_SCORE, SCORE_THRESHOLD, Detections, iou_matrix
from fusiform.tasks.detection_metrics import match_boxes, mean_average_precisions
from fusiform.tasks.segmentation_metrics import pixel_confusion, segmentation_scores

Answer = Mapping[str, NDArray[Any]]
"""An engine's answer to one picture, as the spec's ``answers`` say."""

_SMALLEST_BOX = 1.0
"""Sides in pixels below which a box is a sliver that clipping left, whose share with another is one of rounding."""
_LOWEST_THRESHOLD = SCORE_THRESHOLD / 2
_MOST_BOXES = 5000
"""The surest boxes before suppression, which a harmed network may have hundreds of thousands of."""


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
        margin = np.inf if self.tolerance is None else self.tolerance * float(np.abs(expected["logits"]).max()) / 2
        lowest = max(_LOWEST_THRESHOLD, SCORE_THRESHOLD - margin)
        sides = ((answer, self.spec), (expected, self.reference))
        mine, theirs = (_decode(side, spec, size) for side, spec in sides)
        all_mine, all_theirs = (_all_boxes(side, spec, size, lowest) for side, spec in sides)
        shared = np.concatenate([_best_overlaps(mine, all_theirs), _best_overlaps(theirs, all_mine)])
        others = int((shared < SAME_BOX).sum())
        if others > self.most:
            self.worst, self.most = name, others
        self.pictures += 1
        self.count += len(shared)
        self.same += len(shared) - others
        self.near += int((shared >= NEAR_BOX).sum())
        if truth is not None:
            self.truths.append(truth.boxes)
            self.found.append(_decode(answer, self.spec, size, EVALUATED_SCORE))
            self.expected.append(_decode(expected, self.reference, size, EVALUATED_SCORE))

    def decoded(self, kind: str) -> Decoded:
        """The shares over all pictures."""
        same, near = (number / self.count if self.count else 1.0 for number in (self.same, self.near))
        return Decoded(kind, "boxes", self.pictures, self.count, same, near, self.worst)

    def measured(self) -> Measured | None:
        """COCO's average precision of both sides; None where no photograph has a labelled object."""
        value, reference = (
            float(mean_average_precisions(match_boxes(self.truths, found, self.reference.num_classes)).mean())
            for found in (self.found, self.expected)
        )
        return None if math.isnan(reference) else Measured(value, reference)


class Masks:
    """Counts the pixels that the file and the reference give the same class, at the photographs' own size."""

    def __init__(self, spec: ModelSpec, reference: ModelSpec) -> None:
        self.spec, self.reference = spec, reference
        self.count = self.same = self.pictures = 0
        self.worst, self.most = "", -1.0
        classes = reference.num_classes
        self.found, self.expected = (np.zeros((classes, classes), np.int64) for _ in range(2))

    def add(self, name: str, size: tuple[int, int], answer: Answer, expected: Answer, truth: Truth | None) -> None:
        """Compare both sides' answers to a photograph of ``size`` (width, height)."""
        mine, theirs = (
            segmentation.decode(side["logits"], spec, size, placement=placement(size, spec.preprocess)).classes
            for side, spec in ((answer, self.spec), (expected, self.reference))
        )
        same = int((mine == theirs).sum())
        others = 1 - same / mine.size
        if others > self.most:
            self.worst, self.most = name, others
        self.pictures += 1
        self.count += mine.size
        self.same += same
        if truth is not None and truth.mask is not None:
            classes = self.reference.num_classes
            self.found += pixel_confusion(truth.mask, mine, classes, ignore=-1)
            self.expected += pixel_confusion(truth.mask, theirs, classes, ignore=-1)

    def decoded(self, kind: str) -> Decoded:
        """The share over the pixels of all pictures."""
        share = self.same / self.count if self.count else 1.0
        return Decoded(kind, "masks", self.pictures, self.count, share, share, self.worst)

    def measured(self) -> Measured | None:
        """The mean intersection over union of both sides; None where no mask has a pixel that counts."""
        value, reference = (segmentation_scores(matrix).mean_iou for matrix in (self.found, self.expected))
        return None if value is None or reference is None else Measured(value, reference)


def _decode(
    answer: Answer, spec: ModelSpec, size: tuple[int, int], score_threshold: float = SCORE_THRESHOLD
) -> Detections:
    logits, codes = answer["logits"][None], answer["codes"][None]
    return detection.decode(logits, codes, spec, sizes=[size], score_threshold=score_threshold)[0]


def _all_boxes(answer: Answer, spec: ModelSpec, size: tuple[int, int], score_threshold: float) -> Detections:
    """The boxes before suppression."""
    logits, codes = answer["logits"][None], answer["codes"][None]
    # More than all of a box cannot be shared, so that none goes.
    (found,) = detection.decode(
        logits, codes, spec, sizes=[size], score_threshold=score_threshold, iou_threshold=2.0, limit=_MOST_BOXES
    )
    return found


def _best_overlaps(boxes: Detections, others: Detections) -> NDArray[np.float64]:
    """For each box the largest intersection over union with one of the others that has its class."""
    (mine, classes), (theirs, other_classes) = _rows(boxes), _rows(others)
    sides = mine[:, 2:] - mine[:, :2]
    large = (sides >= _SMALLEST_BOX).all(1)
    mine, classes = mine[large], classes[large]
    shared = iou_matrix(mine, theirs) * (classes[:, None] == other_classes)
    best: NDArray[np.float64] = shared.max(1, initial=0.0)
    return best


def _rows(found: Detections) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    edges = np.array([(box.left, box.top, box.right, box.bottom) for box in found.boxes], np.float64)
    return edges.reshape(-1, 4), np.array([box.index for box in found.boxes], np.int64)
