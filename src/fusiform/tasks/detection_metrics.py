"""How good a detector's boxes are: COCO's average precision, as its own evaluator counts it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusiform.data.annotated import BoxLabel
from fusiform.errors import MissingExtraError
from fusiform.tasks.detection import Detections


@dataclass(frozen=True)
class DetectionScores:
    """COCO's average precision in [0, 1], None where there is no object that it could be about.

    ``ap`` is the mean over the intersections over union 0.50, 0.55 ... 0.95 and over the classes that have objects;
    ``ap50`` and ``ap75`` are at one of them; ``small`` objects are below 32 x 32 pixels, ``large`` ones above 96 x 96,
    ``medium`` between. ``classes`` has the ``ap`` of each class.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    small: float | None
    medium: float | None
    large: float | None
    classes: tuple[float | None, ...]


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
        raise MissingExtraError("faster-coco-eval", "detect", "average precision") from None
    if len(truth) != len(found):
        raise ValueError(f"{len(truth)} pictures with true boxes, but {len(found)} with found ones")
    data = COCO(
        {
            "images": [{"id": k, "width": one.width, "height": one.height} for k, one in enumerate(found)],
            # Identifiers count from 1: to the evaluator 0 means that there is none.
            "categories": [{"id": label + 1, "name": str(label)} for label in range(classes)],
            "annotations": _annotations(truth, classes),
        }
    )
    evaluator = COCOeval_faster(data, data.loadRes(_results(found, classes)), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    ap, ap50, ap75, small, medium, large = (_known(value) for value in evaluator.stats[:6])
    # (IoU thresholds, recalls, classes, areas: all of them first, limits of boxes: 100 last)
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    per_class = tuple(_known(precision[:, :, k].mean()) for k in range(classes))
    return DetectionScores(ap, ap50, ap75, small, medium, large, per_class)


def _annotations(truth: Sequence[Sequence[BoxLabel]], classes: int) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for picture, boxes in enumerate(truth):
        for box in boxes:
            width, height = box.right - box.left, box.bottom - box.top
            area = width * height if box.area is None else box.area
            if not 0 <= box.label < classes:
                raise ValueError(f"picture {picture}: a true box has label {box.label}, not 0 to {classes - 1}")
            if not all(map(math.isfinite, (box.left, box.top, width, height, area))):
                raise ValueError(f"picture {picture}: a true box is not finite: {box}")
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


def _results(found: Sequence[Detections], classes: int) -> list[dict[str, Any]]:
    results = []
    for picture, detections in enumerate(found):
        for box in detections.boxes:
            if box.index >= classes:
                raise ValueError(f"picture {picture}: a found box has class {box.index}, not 0 to {classes - 1}")
            results.append(
                {
                    "image_id": picture,
                    "category_id": box.index + 1,
                    "bbox": [box.left, box.top, box.right - box.left, box.bottom - box.top],
                    "score": box.score,
                }
            )
    return results


def _known(value: np.floating[Any]) -> float | None:
    """COCO's -1 stands for no objects."""
    return None if value < 0 else float(value)
