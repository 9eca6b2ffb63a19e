"""How good a detector's boxes are: COCO's average precision, as its own evaluator counts it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.data.annotated import BoxLabel
from fusiform.errors import MissingExtraError
from fusiform.tasks.detection import MAX_BOXES, Box, Detections, iou_matrix

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
_CELLS = 1 << 22
"""The most boxes, times resamples, that are weighed at once."""


@dataclass(frozen=True)
class DetectionScores:
    """COCO's average precision in [0, 1], None where there is no object that it could be about.

    ``ap`` is the mean over the intersections over union 0.50, 0.55 ... 0.95 and over the classes that have objects;
    ``ap50`` and ``ap75`` are at one of them; ``small`` objects are below 32 x 32 pixels, ``large`` ones above 96 x 96,
    ``medium`` between. ``classes`` has the ``ap`` of each class, ``classes50`` the ``ap50``.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    small: float | None
    medium: float | None
    large: float | None
    classes: tuple[float | None, ...]
    classes50: tuple[float | None, ...]


@dataclass(frozen=True)
class ClassMatches:
    """The boxes found of one class in all pictures, highest-scoring first, and which objects they found, if any.

    ``scores`` and ``pictures`` (boxes,) are each one's score and the number of its picture. ``right`` and ``forgiven``
    (thresholds, boxes) say for each of ``IOU_THRESHOLDS`` whether it found an object, or only a crowd or a difficult
    one, which makes it neither right nor wrong. ``objects`` (pictures,) are the numbers of objects, without those two.
    """

    scores: NDArray[np.float64]
    pictures: NDArray[np.int64]
    right: NDArray[np.bool_]
    forgiven: NDArray[np.bool_]
    objects: NDArray[np.int64]


class Counts(NamedTuple):
    """Of each picture, the ``objects``, how many of them were ``found``, and the boxes that are ``wrong``; (pictures,).

    Objects without crowds and difficult ones; found at an intersection over union of 0.5.
    """

    objects: NDArray[np.int64]
    found: NDArray[np.int64]
    wrong: NDArray[np.int64]


def coco_scores(truth: Sequence[Sequence[BoxLabel]], found: Sequence[Detections], classes: int) -> DetectionScores:
    """Average precision of the boxes ``found`` in each picture against its ``truth``, at most 100 a picture.

    ``classes`` is their number. ``found`` should hold every box down to ``EVALUATED_SCORE``. Objects are small or large
    by their ``area``, which is COCO's outline, or their box's where it is None. Crowds and difficult objects are
    treated alike, as COCO does crowds: what lies in one is neither right nor wrong. Raises ValueError for lists of
    different lengths, labels that are no class, or coordinates that are not finite, and MissingExtraError without
    faster-coco-eval.
    """
    try:
        from faster_coco_eval import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
            COCO,
            COCOeval_faster,
        )
    except ImportError:
        raise MissingExtraError("faster-coco-eval", "detection", "average precision") from None
    _check(truth, found, classes)
    data = COCO(
        {
            "images": [{"id": k, "width": one.width, "height": one.height} for k, one in enumerate(found)],
            # Identifiers count from 1: to the evaluator 0 means that there is none.
            "categories": [{"id": label + 1, "name": str(label)} for label in range(classes)],
            "annotations": _annotations(truth),
        }
    )
    evaluator = COCOeval_faster(data, data.loadRes(_results(found)), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    ap, ap50, ap75, small, medium, large = (_known(value) for value in evaluator.stats[:6])
    # (IoU thresholds, recalls, classes, areas: all of them first, limits of boxes: 100 last)
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    per_class = tuple(_known(precision[:, :, k].mean()) for k in range(classes))
    per_class50 = tuple(_known(precision[0, :, k].mean()) for k in range(classes))
    return DetectionScores(ap, ap50, ap75, small, medium, large, per_class, per_class50)


def match_boxes(
    truth: Sequence[Sequence[BoxLabel]], found: Sequence[Detections], classes: int
) -> tuple[ClassMatches, ...]:
    """Which of the ``found`` boxes are right, for each class: what ``coco_scores`` is computed from, kept.

    The arguments, and the ValueErrors for them, are those of ``coco_scores``; so is the matching. The highest-scoring
    box chooses first, the object that it shares most with among those that nobody has taken; crowds and difficult
    objects come last, and a crowd is there for any number of boxes.
    """
    _check(truth, found, classes)
    answers: list[list[_Match]] = [[] for _ in range(classes)]
    objects = np.zeros((classes, len(found)), np.int64)
    for picture, (trues, detections) in enumerate(zip(truth, found, strict=True)):
        for label in {box.label for box in trues} | {box.index for box in detections.boxes}:
            mine = [box for box in trues if box.label == label]
            boxes = [box for box in detections.boxes if box.index == label][:MAX_BOXES]
            objects[label, picture] = sum(not (box.crowd or box.difficult) for box in mine)
            answers[label] += _match(picture, mine, boxes)
    return tuple(_merge(answers[label], objects[label]) for label in range(classes))


def average_precisions(matches: ClassMatches, weights: NDArray[np.int32] | None = None) -> NDArray[np.float64]:
    """The average precision of one class: (resamples, thresholds), NaN where there are no objects.

    ``weights`` (resamples, pictures) say how often each picture counts, by default once, in one resample.
    """
    if weights is None:
        weights = np.ones((1, len(matches.objects)), np.int32)
    result = np.full((len(weights), len(IOU_THRESHOLDS)), np.nan)
    rows = max(1, _CELLS // max(1, len(matches.scores)))
    for start in range(0, len(weights), rows):
        result[start : start + rows] = _average_precisions(matches, weights[start : start + rows])
    return result


def mean_average_precisions(
    matches: Sequence[ClassMatches], weights: NDArray[np.int32] | None = None
) -> NDArray[np.float64]:
    """The mean of the classes' average precisions: (resamples, thresholds), NaN where no class has objects.

    A class that has no object in a resample is no part of its mean. The mean over all thresholds is COCO's ``ap``.
    """
    total: NDArray[np.float64] | None = None
    for each in matches:
        values = average_precisions(each, weights)
        known = ~np.isnan(values)
        parts = np.stack([np.where(known, values, 0), known])
        total = parts if total is None else total + parts
    if total is None:
        raise ValueError("there are no classes to take the mean of")
    mean: NDArray[np.float64] = np.divide(total[0], total[1], out=np.full_like(total[0], np.nan), where=total[1] > 0)
    return mean


def precision_curve(matches: ClassMatches, threshold: int = 0) -> NDArray[np.float64] | None:
    """The precision at each of ``RECALLS``, (101,), at one of ``IOU_THRESHOLDS``; None where there are no objects.

    The highest precision at this recall or a higher one, as in COCO; 0 beyond the highest recall.
    """
    objects = int(matches.objects.sum())
    if not objects:
        return None
    right, forgiven = matches.right[threshold], matches.forgiven[threshold]
    found = np.cumsum(right)[right]
    precision = found / np.cumsum(~forgiven)[right]
    best = np.maximum.accumulate(precision[::-1])[::-1]
    first = np.searchsorted(found / objects, RECALLS)
    curve: NDArray[np.float64] = np.append(best, 0.0)[first]
    return curve


def count_boxes(matches: ClassMatches, score: float) -> Counts:
    """What boxes scored above ``score`` find of one class in each picture, and how many of them are wrong."""
    shown = matches.scores > score
    wrong = shown & ~matches.right[0] & ~matches.forgiven[0]
    pictures = len(matches.objects)
    found, false = (
        np.bincount(matches.pictures[mask], minlength=pictures) for mask in (shown & matches.right[0], wrong)
    )
    return Counts(matches.objects, found, false)


class _Match(NamedTuple):
    score: float
    picture: int
    right: NDArray[np.bool_]
    forgiven: NDArray[np.bool_]


def _match(picture: int, truth: Sequence[BoxLabel], boxes: Sequence[Box]) -> list[_Match]:
    """What each box of one class in one picture found, at each threshold."""
    no = np.zeros(len(IOU_THRESHOLDS), bool)
    if not truth or not boxes:
        return [_Match(box.score, picture, no, no) for box in boxes]
    # The objects that count come first, as in COCO: among equals the last of them is taken.
    truth = sorted(truth, key=lambda box: box.crowd or box.difficult)
    forgiving = np.array([box.crowd or box.difficult for box in truth])
    shared = _shared(boxes, truth, forgiving)
    taken = np.zeros((len(IOU_THRESHOLDS), len(truth)), bool)
    matches = []
    for box, row in zip(boxes, shared, strict=True):
        if row.max() < IOU_THRESHOLDS[0]:
            matches.append(_Match(box.score, picture, no, no))
            continue
        free = (row >= IOU_THRESHOLDS[:, None]) & ~taken
        # Any object that counts goes before all that do not.
        worth = np.where(free, row + 2 * ~forgiving, -1)
        best = len(truth) - 1 - worth[:, ::-1].argmax(1)
        got = free.any(1)
        taken[got, best[got]] = ~forgiving[best[got]]
        matches.append(_Match(box.score, picture, got & ~forgiving[best], got & forgiving[best]))
    return matches


def _shared(boxes: Sequence[Box], truth: Sequence[BoxLabel], forgiving: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Intersections over union (boxes, truth); of a crowd, the share of the box that lies in it."""
    first, second = (
        np.array([(each.left, each.top, each.right, each.bottom) for each in some]) for some in (boxes, truth)
    )
    shared = iou_matrix(first, second)
    if forgiving.any():
        crowds = second[forgiving]
        sides = np.minimum(first[:, None, 2:], crowds[:, 2:]) - np.maximum(first[:, None, :2], crowds[:, :2])
        areas = (first[:, 2:] - first[:, :2]).prod(1)
        shared[:, forgiving] = np.maximum(sides, 0).prod(-1) / areas[:, None]
    return shared


def _merge(answers: Sequence[_Match], objects: NDArray[np.int64]) -> ClassMatches:
    scores = np.array([each.score for each in answers], np.float64)
    order = np.argsort(-scores, kind="stable")
    shape = (len(answers), len(IOU_THRESHOLDS))
    right, forgiven = (
        np.array(values, bool).reshape(shape)[order].T
        for values in ([each.right for each in answers], [each.forgiven for each in answers])
    )
    pictures = np.array([each.picture for each in answers], np.int64)
    return ClassMatches(scores[order], pictures[order], right, forgiven, objects)


def _average_precisions(matches: ClassMatches, weights: NDArray[np.int32]) -> NDArray[np.float64]:
    """See ``average_precisions``. Precision has its peaks where an object is found: only there it is computed."""
    objects = weights @ matches.objects
    counts = weights[:, matches.pictures]
    every = np.cumsum(counts, axis=1, dtype=np.int32)
    result = np.empty((len(weights), len(IOU_THRESHOLDS)))
    for t in range(len(IOU_THRESHOLDS)):
        right, forgiven = matches.right[t], matches.forgiven[t]
        found = np.cumsum(counts[:, right], axis=1, dtype=np.int32)
        counted = every[:, right]
        if forgiven.any():
            counted = counted - np.cumsum(counts * forgiven, axis=1, dtype=np.int32)[:, right]
        # A resample may lack the pictures of the first boxes, and then there is nothing yet to divide by.
        precision = found / np.maximum(counted, 1)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        # COCO samples the curve at 101 recalls: each peak stands for those between the one before it and itself.
        reached = np.searchsorted(RECALLS, found / np.maximum(objects, 1)[:, None], side="right")
        result[:, t] = (best * np.diff(reached, axis=1, prepend=0)).sum(1) / len(RECALLS)
    result[objects == 0] = np.nan
    return result


def _check(truth: Sequence[Sequence[BoxLabel]], found: Sequence[Detections], classes: int) -> None:
    """ValueError for what cannot be judged."""
    if len(truth) != len(found):
        raise ValueError(f"{len(truth)} pictures with true boxes, but {len(found)} with found ones")
    for picture, (boxes, detections) in enumerate(zip(truth, found, strict=True)):
        for box in boxes:
            if not 0 <= box.label < classes:
                raise ValueError(f"picture {picture}: a true box has label {box.label}, not 0 to {classes - 1}")
            if not all(map(math.isfinite, (box.left, box.top, box.right, box.bottom, box.area or 0))):
                raise ValueError(f"picture {picture}: a true box is not finite: {box}")
        for each in detections.boxes:
            if each.index >= classes:
                raise ValueError(f"picture {picture}: a found box has class {each.index}, not 0 to {classes - 1}")


def _annotations(truth: Sequence[Sequence[BoxLabel]]) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for picture, boxes in enumerate(truth):
        for box in boxes:
            width, height = box.right - box.left, box.bottom - box.top
            area = width * height if box.area is None else box.area
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": picture,
                    "category_id": box.label + 1,
                    "bbox": [box.left, box.top, width, height],
                    "area": area,
                    "iscrowd": int(box.crowd or box.difficult),
                }
            )
    return annotations


def _results(found: Sequence[Detections]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": picture,
            "category_id": box.index + 1,
            "bbox": [box.left, box.top, box.right - box.left, box.bottom - box.top],
            "score": box.score,
        }
        for picture, detections in enumerate(found)
        for box in detections.boxes
    ]


def _known(value: np.floating[Any]) -> float | None:
    """COCO's -1 stands for no objects."""
    return None if value < 0 else float(value)
