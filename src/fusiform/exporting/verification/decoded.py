"""What files say that decode boxes and masks themselves, beside what the reference's answers are decoded to.

There are no numbers of the network to compare: what users see has to be the same, and the numbers are held against the
reference in the same file without that end, which ``fusiform export`` writes and verifies first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.data.preprocess import placement
from fusiform.exporting.verification.answers import (
    Answer,
    Boxes,
    Masks,
    Truth,
    all_boxes,
    best_overlaps,
    box_rows,
    decode_answer,
    large_boxes,
)
from fusiform.exporting.verification.parity import SAME_BOX
from fusiform.tasks import segmentation
from fusiform.tasks.detection import (
    EVALUATED_SCORE,
    IOU_THRESHOLD,
    MAX_BOXES,
    SCORE_THRESHOLD,
    Detections,
    detect,
    iou_matrix,
)

_BORDER = 0.02
"""How close to the threshold of suppression a share must be for rounding to decide."""
_ROUNDING = 1e-5
"""What scores may differ by beside what the tolerance of the logits allows."""
_LEAST = 10
"""How many boxes of a picture are compared even if they score below ``SCORE_THRESHOLD``: few networks are sure of what
is made up, and nothing would be compared."""
_SUM = 1e-3
"""How far the probabilities of a pixel may be from 1 together."""


class DecodedBoxes(Boxes):
    """Counts the boxes that a decoded file and the reference have in common, after both have suppressed theirs.

    Those are compared that score above ``SCORE_THRESHOLD``, and of float files at least the ``_LEAST`` highest-scoring
    of each picture. A box of a float file is the reference's if that has one of the same class and score (as far as the
    tolerance leaves it) with an intersection over union of ``SAME_BOX``. One that is missing on the other side is
    forgiven where rounding decided: a box there suppresses it, and shares just about as much as it must with it, or has
    nearly the same score, or is itself missing on this side. An int8 file's boxes are compared as ``Boxes`` does it.
    """

    def add(self, name: str, size: tuple[int, int], answer: Answer, expected: Answer, truth: Truth | None) -> None:
        """Compare both sides' answers to a photograph of ``size`` (width, height)."""
        (mine,) = detect(_one(answer), self.spec, sizes=[size], score_threshold=EVALUATED_SCORE)
        theirs = decode_answer(expected, self.reference, size, EVALUATED_SCORE)
        threshold, margin = self.threshold(theirs), self.margin(expected)
        seen_mine, seen_theirs = (_above(side, threshold) for side in (mine, theirs))
        if self.tolerance is None:
            lowest = self.lowest(margin)
            before = all_boxes(expected, self.reference, size, lowest)
            shared = [best_overlaps(seen_mine, before), best_overlaps(seen_theirs, _above(mine, lowest))]
        else:
            # What is not among the reference's boxes before suppression is none of them, whatever covers it there.
            before = all_boxes(expected, self.reference, size, max(EVALUATED_SCORE, threshold - margin))
            shared = [np.minimum(_shares(seen_mine, mine, theirs, margin), best_overlaps(seen_mine, before))]
            shared.append(_shares(seen_theirs, theirs, mine, margin))
        self.count_shares(name, np.concatenate(shared))
        if truth is not None:
            self.truths.append(truth.boxes)
            self.found.append(mine)
            self.expected.append(theirs)

    def threshold(self, boxes: Detections) -> float:
        """The score above which boxes are compared, of all that the reference finds."""
        if self.tolerance is None or not boxes.boxes:
            return SCORE_THRESHOLD
        last = boxes.boxes[min(_LEAST, len(boxes.boxes)) - 1].score
        return min(SCORE_THRESHOLD, last * (1 - _ROUNDING))


class DecodedMasks(Masks):
    """Counts the pixels that a decoded file and the reference give the same class, at the size of the file's masks.

    None are where a file's answer is no probabilities.
    """

    def add(self, name: str, size: tuple[int, int], answer: Answer, expected: Answer, truth: Truth | None) -> None:
        """Compare both sides' answers to a photograph of ``size`` (width, height)."""
        values = answer["probabilities"]
        side = self.reference.input_size
        theirs = segmentation.decode(expected["logits"], self.reference, (side, side)).classes
        shares = values.min() >= 0 and np.abs(values.sum(-1) - 1).max() <= _SUM
        self.count_pixels(name, int((values.argmax(-1) == theirs).sum()) if shares else 0, theirs.size)
        if truth is not None and truth.mask is not None:
            scores = ((values, self.spec), (expected["logits"], self.reference))
            masks = (segmentation.decode(v, s, size, placement=placement(size, s.preprocess)) for v, s in scores)
            self.measure(truth.mask, *(mask.classes for mask in masks))


def _one(answer: Answer) -> dict[str, NDArray[Any]]:
    """The answer to one picture as a batch."""
    return {name: values[None] for name, values in answer.items()}


def _above(found: Detections, score: float) -> Detections:
    return Detections(tuple(box for box in found.boxes if box.score > score), found.width, found.height)


def _shares(boxes: Detections, own: Detections, others: Detections, margin: float) -> NDArray[np.float64]:
    """For each of the ``boxes``, some of its ``own`` side, how much the other side has of it: 1 if that is forgiven."""
    boxes = large_boxes(boxes)
    (mine, classes), (theirs, other_classes) = box_rows(boxes), box_rows(others)
    scores, other_scores = (np.array([box.score for box in side.boxes]) for side in (boxes, others))
    shared = iou_matrix(mine, theirs) * (classes[:, None] == other_classes)
    # A logit that is off moves a score by no more than twice as much times the score.
    margins = np.minimum(margin, 4 * margin * scores) + _ROUNDING
    close = np.abs(scores[:, None] - other_scores) <= margins[:, None]
    found: NDArray[np.float64] = (shared * close).max(1, initial=0.0)
    suppresses = (shared > IOU_THRESHOLD - _BORDER) & (other_scores >= (scores - margins)[:, None])
    absent = _absent(others, own)
    by_chance = suppresses & ((shared < IOU_THRESHOLD + _BORDER) | close | absent)
    forgiven = by_chance.any(1)
    if len(others.boxes) >= MAX_BOXES:  # those that found no room there
        forgiven |= scores <= other_scores.min() + margins
    return np.where((found < SAME_BOX) & forgiven, 1.0, found)


def _absent(boxes: Detections, others: Detections) -> NDArray[np.bool_]:
    """Which of the ``boxes`` the other side does not have."""
    (mine, classes), (theirs, other_classes) = box_rows(boxes), box_rows(others)
    shared = iou_matrix(mine, theirs) * (classes[:, None] == other_classes)
    missing: NDArray[np.bool_] = shared.max(1, initial=0.0) < SAME_BOX
    return missing
