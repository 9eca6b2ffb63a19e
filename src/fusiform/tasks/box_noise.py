"""Which boxes of a dataset are probably wrong: missed, shifted, swapped or of nothing, as a detector sees them.

The kinds are ObjectLab's (Tkachenko et al., arXiv 2309.00832): overlooked, badly located, and swapped. Its fixed
thresholds are of detectors whose scores are near 1; here what counts as confident follows from the scores that each
class gets where it is labelled, as in confident learning (Northcutt et al., arXiv 1911.00068, Section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.data.annotated import BoxLabel
from fusiform.tasks.detection import Box, Detections, iou_matrix

MATCHED = 0.5
"""Intersection over union from which a found box and a labelled one are of one object."""
BESIDE = 0.3
"""Intersection over union from which a found box that is not on a labelled one of its class is of no other object."""
TOUCHED = 0.1
"""Intersection over union below which they have nothing to do with each other."""
SIGHT = 0.2
"""Intersection over union from which a found box, of whatever class and score, shows that there is something."""
CONFIDENT = 0.5
"""The least score that is confident, whatever the class's boxes get."""
LENIENT = 0.8
"""Of the confident score, the share from which a box speaks against a label that it lies on or beside: the label says
that there is an object, which only a missed one's score has to say alone."""
LOOSE = 0.6
"""Intersection over union from which a box is never shifted, however well the others fit."""
SEEN = 0.95
"""The share of a class's boxes that have to be seen, for one that is not to be of nothing."""
FEW = 10
"""Found boxes; a class that has fewer on its labels is not judged."""

BoxFault = Literal["missed", "shifted", "swapped", "spurious"]


class BoxDoubt(NamedTuple):
    """A box that is probably wrong, or missing: the number of its picture, and what is wrong.

    ``label`` is the labelled box, None for one that is missed; ``found`` what the detector finds in its place, None for
    a ``spurious`` one. ``gain`` in (0, 1] is how much of a right box is expected to be won by the correction.
    """

    picture: int
    fault: BoxFault
    gain: float
    label: BoxLabel | None
    found: Box | None


class BoxNorms(NamedTuple):
    """What is usual of each class where it is labelled: arrays (classes,).

    ``scores`` are the least that are confident; ``fits`` the intersections over union below which a box is shifted;
    ``seen`` the shares of the labelled boxes that the detector sees anything in. ``judged`` says of which classes
    enough is known.
    """

    scores: NDArray[np.float64]
    fits: NDArray[np.float64]
    seen: NDArray[np.float64]
    judged: NDArray[np.bool_]


def box_norms(truth: Sequence[Sequence[BoxLabel]], found: Sequence[Detections | None], classes: int) -> BoxNorms:
    """What is usual of the found boxes on labelled ones; pictures that are None were not read."""
    scores: list[list[float]] = [[] for _ in range(classes)]
    fits: list[list[float]] = [[] for _ in range(classes)]
    seen: list[list[bool]] = [[] for _ in range(classes)]
    for labels, shown in zip(truth, found, strict=True):
        if shown is None:
            continue
        shared, own = _shared(labels, shown.boxes), _score_matrix(labels, shown.boxes)
        for i, label in enumerate(labels):
            if label.crowd or label.difficult:
                continue
            seen[label.label].append(bool((shared[i] >= SIGHT).any()))
            near = np.where(shared[i] >= MATCHED, own[i], 0)
            if near.any():
                scores[label.label].append(float(near.max()))
                fits[label.label].append(float(shared[i, near.argmax()]))
    # The mean of scores that are all the same may come out above them by the last digit.
    means = [max(CONFIDENT, min(float(np.mean(values)), max(values))) if values else 1.0 for values in scores]
    every = [fit for values in fits for fit in values]
    # Tukey's fence: below it lie the fits that are far from all the others, of a class or, where that has few, of all.
    fences = [_fence(values if len(values) >= FEW else every) for values in fits]
    shares = [float(np.mean(values)) if values else 0.0 for values in seen]
    return BoxNorms(
        np.array(means),
        np.array(fences),
        np.array(shares),
        np.array([len(values) >= FEW for values in scores], bool),
    )


def doubted_boxes(
    truth: Sequence[Sequence[BoxLabel]], found: Sequence[Detections | None], norms: BoxNorms
) -> list[BoxDoubt]:
    """The boxes that are probably wrong, those first whose correction is expected to gain most.

    ``truth`` are the labelled boxes of each picture, ``found`` the detector's, down to a score of 0.01; the labels are
    its own. With "confident" for a score of at least ``norms.scores`` of the found class,

    - swapped: a box of another class lies on a labelled one, with ``LENIENT`` of what is confident or more, and the
      label's own class scores less there; the gain is the one score less the other;
    - shifted: a box of the label's class, as confident, shares less than ``norms.fits`` with it, and what is seen where
      it is labelled scores less; the gain is the difference, times one less the intersection over union;
    - missed: a confident box is on no labelled one, nor the place of a shifted one; the gain is its score;
    - spurious: no found box of any class shares ``SIGHT`` with a labelled one, though ``norms.seen`` of its class is at
      least ``SEEN``; the gain is the score that the class usually gets.

    Boxes of crowds and difficult ones are never doubted, nor is what is found in them.
    """
    doubts: list[BoxDoubt] = []
    for picture, (labels, shown) in enumerate(zip(truth, found, strict=True)):
        if shown is not None:
            doubts += _of_picture(picture, labels, shown.boxes, norms)
    return sorted(doubts, key=lambda doubt: -doubt.gain)


def _of_picture(picture: int, labels: Sequence[BoxLabel], boxes: Sequence[Box], norms: BoxNorms) -> Iterator[BoxDoubt]:
    shared, own = _shared(labels, boxes), _score_matrix(labels, boxes)
    scores = np.array([box.score for box in boxes])
    index = np.array([box.index for box in boxes], int)
    usual = np.where(norms.judged[index], norms.scores[index], np.inf)
    leaning = scores >= LENIENT * usual
    on = np.where(shared >= MATCHED, own, 0)
    partners = _partners(on)
    taken = np.zeros(len(boxes), bool)  # found boxes that a label or a doubt has
    taken[partners[partners >= 0]] = True
    for i, label in enumerate(labels):
        if label.crowd or label.difficult or not norms.judged[label.label]:
            continue
        k = int(partners[i])
        here = float(on[i, k]) if k >= 0 else 0.0
        free = leaning & ~taken & (scores > here)
        swapped = np.where(free & (own[i] == 0) & (shared[i] >= MATCHED), scores - here, 0)
        # What is seen where it is labelled has not been drawn elsewhere: what is beside it is another object.
        moved = free & (own[i] > 0) & (shared[i] >= TOUCHED) & (k < 0 or not leaning[k])
        shifted = np.where(moved, (scores - here) * (1 - shared[i]), 0)
        if max(swapped.max(initial=0), shifted.max(initial=0)) > 0:
            fault: BoxFault = "swapped" if swapped.max() >= shifted.max() else "shifted"
            gains = swapped if fault == "swapped" else shifted
            other = int(gains.argmax())
            taken[other] = True
            yield BoxDoubt(picture, fault, float(gains[other]), label, boxes[other])
        elif k >= 0 and leaning[k] and shared[i, k] < norms.fits[label.label]:
            yield BoxDoubt(picture, "shifted", here * (1 - float(shared[i, k])), label, boxes[k])
        elif norms.seen[label.label] >= SEEN and not (shared[i] >= SIGHT).any():
            yield BoxDoubt(picture, "spurious", float(norms.scores[label.label]), label, None)
    yield from _missed(picture, labels, boxes, (scores >= usual) & ~taken)


def _partners(on: NDArray[np.float64]) -> NDArray[np.intp]:
    """Of each label the found box of its class that lies on it, -1 for none: the highest-scoring pairs first.

    ``on`` (labels, boxes) are the scores, 0 where they are not of one object.
    """
    partners = np.full(len(on), -1, np.intp)
    free = on.copy()
    while free.any():
        i, k = np.unravel_index(free.argmax(), free.shape)
        partners[i] = k
        free[i], free[:, k] = 0, 0
    return partners


def _missed(
    picture: int, labels: Sequence[BoxLabel], boxes: Sequence[Box], free: NDArray[np.bool_]
) -> Iterator[BoxDoubt]:
    """Confident boxes that lie on no label: each object once, whatever it is taken for."""
    shared, own = _shared(labels, boxes), _score_matrix(labels, boxes)
    # A second box of a labelled object; one of its class that lies beside it seldom is another.
    known = (shared >= MATCHED) | ((own > 0) & (shared >= BESIDE))
    crowds = [label for label in labels if label.crowd or label.difficult]
    told: list[Box] = []
    for k in np.flatnonzero(free & ~known.any(0)).tolist():  # boxes come highest-scoring first
        box = boxes[k]
        if any(_inside(box, crowd) >= MATCHED for crowd in crowds):
            continue
        if told and iou_matrix(_edges([box]), _edges(told)).max() >= MATCHED:
            continue
        told.append(box)
        yield BoxDoubt(picture, "missed", box.score, None, box)


def _fence(fits: Sequence[float]) -> float:
    if len(fits) < FEW:
        return MATCHED
    low, high = np.quantile(fits, (0.25, 0.75))
    return float(np.clip(low - 1.5 * (high - low), MATCHED, LOOSE))


def _edges(boxes: Sequence[Box] | Sequence[BoxLabel]) -> NDArray[np.float64]:
    return np.array([(box.left, box.top, box.right, box.bottom) for box in boxes], np.float64).reshape(-1, 4)


def _shared(labels: Sequence[BoxLabel], boxes: Sequence[Box]) -> NDArray[np.float64]:
    return iou_matrix(_edges(labels), _edges(boxes))


def _score_matrix(labels: Sequence[BoxLabel], boxes: Sequence[Box]) -> NDArray[np.float64]:
    """The scores (labels, boxes) of the found boxes that are of the label's class, 0 for the others."""
    same = np.array([label.label for label in labels], int)[:, None] == np.array([box.index for box in boxes], int)
    scores: NDArray[np.float64] = np.where(same, np.array([box.score for box in boxes], np.float64), 0)
    return scores


def _inside(box: Box, label: BoxLabel) -> float:
    """The share of a found box that lies in a labelled one, as COCO's evaluator measures crowds."""
    width = min(box.right, label.right) - max(box.left, label.left)
    height = min(box.bottom, label.bottom) - max(box.top, label.top)
    return max(width, 0) * max(height, 0) / ((box.right - box.left) * (box.bottom - box.top))
