"""What a detector answers: boxes with names and scores, decoded from what its network says about its priors.

The priors, their codes and their matching are those of TensorFlow's SSDLite, which the MobileNetV2 paper measured
(arXiv 1801.04381, Section 6.2; Liu et al., SSD, arXiv 1512.02325, Section 2.2). A box is a row of left, top, right and
bottom. Priors and the boxes that are matched to them are in units of the network's input, which shows the whole
photograph squeezed into a square: 0 to 1 whatever the photograph's size and aspect.

Training uses the same functions: a worker that reads pictures calls ``make_targets``, and ``torch.from_numpy`` makes
tensors of the answer without a copy. The loss then compares classes and codes and needs no geometry of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.graph.priors import (
    CODE_SCALES,
    EVALUATED_SCORE,
    IOU_THRESHOLD,
    LARGEST_EXPONENT,
    MAX_BOXES,
    SCORE_THRESHOLD,
    prior_boxes,
)
from fusiform.spec import ModelSpec
from fusiform.tasks.classification import softmax

__all__ = [
    "EVALUATED_SCORE",
    "IOU_THRESHOLD",
    "MAX_BOXES",
    "SCORE_THRESHOLD",
    "Box",
    "Detections",
    "Targets",
    "decode",
    "decode_boxes",
    "detect",
    "encode_boxes",
    "iou_matrix",
    "make_targets",
    "match_priors",
    "nms",
    "prior_boxes",
]

_BLOCK = 256
"""Boxes that ``nms`` compares with each other at once."""


@dataclass(frozen=True)
class Box:
    """One object: the ``index`` of its class, its ``name``, a ``score`` in [0, 1], its edges in pixels.

    Edges are between pixels: a picture reaches from 0 to its width. ValueError unless the box has an area.
    """

    index: int
    name: str
    score: float
    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        if self.index < 0 or not 0 <= self.score <= 1:
            raise ValueError(f"a box needs index >= 0 and score in [0, 1], got {self}")
        edges = (self.left, self.top, self.right, self.bottom)
        if not (all(map(math.isfinite, edges)) and self.left < self.right and self.top < self.bottom):
            raise ValueError(f"a box needs left < right and top < bottom, got {self}")


@dataclass(frozen=True)
class Detections:
    """The objects in a photograph of ``width`` x ``height`` pixels, highest-scoring first; none is an answer too.

    ValueError for boxes in another order, or that leave the photograph.
    """

    boxes: tuple[Box, ...]
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a photograph has at least one pixel, got {self.width} x {self.height}")
        scores = [box.score for box in self.boxes]
        if scores != sorted(scores, reverse=True):
            raise ValueError(f"boxes must come highest-scoring first, got scores {scores}")
        for box in self.boxes:
            if min(box.left, box.top) < 0 or box.right > self.width or box.bottom > self.height:
                raise ValueError(f"the box leaves the photograph of {self.width} x {self.height}: {box}")


class Targets(NamedTuple):
    """What the network should say about each prior of one picture.

    ``classes`` (priors,) int64 are 0 for background, else the label and one; ``codes`` (priors, 4) float32 are 0 for
    background.
    """

    classes: NDArray[np.int64]
    codes: NDArray[np.float32]


def encode_boxes(boxes: NDArray[Any], priors: NDArray[Any]) -> NDArray[np.float64]:
    """What the network has to say about each prior for it to become the box in the same row: (N, 4) codes.

    The codes are of x and y of the middle, width and height, times ``CODE_SCALES`` (SSD, equation 2). ValueError for
    boxes without an area, whose width has no logarithm.
    """
    x, y, width, height = _middles(boxes)
    prior_x, prior_y, prior_width, prior_height = _middles(priors)
    if not (np.all(width > 0) and np.all(height > 0)):
        raise ValueError("a box without an area cannot be encoded")
    codes = (
        (x - prior_x) / prior_width,
        (y - prior_y) / prior_height,
        np.log(width / prior_width),
        np.log(height / prior_height),
    )
    return np.stack(codes, axis=-1) * CODE_SCALES


def decode_boxes(codes: NDArray[Any], priors: NDArray[Any]) -> NDArray[np.float64]:
    """The boxes (N, 4) that codes (N, 4) make of the priors in the same rows; the inverse of ``encode_boxes``.

    Boxes may leave the picture. No side becomes longer than 62 times its prior's.
    """
    x, y, width, height = _middles(priors)
    code_x, code_y, code_width, code_height = (codes.astype(np.float64) / CODE_SCALES).T
    x, y = x + code_x * width, y + code_y * height
    half_width = width * np.exp(np.minimum(code_width, LARGEST_EXPONENT)) / 2
    half_height = height * np.exp(np.minimum(code_height, LARGEST_EXPONENT)) / 2
    return np.stack((x - half_width, y - half_height, x + half_width, y + half_height), axis=-1)


def _middles(boxes: NDArray[Any]) -> tuple[NDArray[np.float64], ...]:
    """X and y of the middles of boxes, their widths and heights."""
    left, top, right, bottom = boxes.astype(np.float64).T
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def iou_matrix(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of each of the ``first`` boxes (N, 4) with each of the ``second`` (M, 4): (N, M).

    In [0, 1]; a box without an area has none with any other, itself included.
    """
    a, b = first.astype(np.float64)[:, None], second.astype(np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(sides, 0).prod(-1)
    union = _areas(a) + _areas(b) - shared
    found: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return found


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    areas: NDArray[np.float64] = np.maximum(boxes[..., 2:] - boxes[..., :2], 0).prod(-1)
    return areas


def match_priors(boxes: NDArray[Any], priors: NDArray[Any], *, threshold: float = 0.5) -> NDArray[np.intp]:
    """Which of the boxes (N, 4) each of the priors (P, 4) stands for: (P,) indices, -1 for background.

    A prior stands for the box with which its intersection over union is largest, from ``threshold`` on; and each box
    gets the best prior of its own however little they share, the closest pair first where two boxes want one prior
    (SSD, Section 2.2). A box that meets no prior gets none.
    """
    if not len(boxes):
        return np.full(len(priors), -1, np.intp)
    shared = iou_matrix(boxes, priors)
    matches = np.where(shared.max(0) >= threshold, shared.argmax(0), -1)
    for _ in range(len(boxes)):
        box, prior = np.unravel_index(shared.argmax(), shared.shape)
        if shared[box, prior] <= 0:
            break
        matches[prior] = box
        shared[box], shared[:, prior] = 0, 0
    return matches


def make_targets(boxes: NDArray[Any], labels: NDArray[Any], priors: NDArray[Any]) -> Targets:
    """What training compares the network's answer for one picture with.

    ``boxes`` (N, 4) are in units of the picture, ``labels`` (N,) their classes from 0. Boxes that leave the picture are
    clipped to it, and left out where no area remains; without boxes all is background. ValueError for values that are
    not finite.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    labels = np.asarray(labels, np.int64)
    if not np.isfinite(boxes).all():
        raise ValueError("the true boxes hold values that are not finite")
    if labels.shape != (len(boxes),):
        raise ValueError(f"{len(boxes)} boxes with labels of shape {labels.shape}: give one label for each")
    boxes = np.clip(boxes, 0, 1)
    there = _areas(boxes) > 0
    boxes, labels = boxes[there], labels[there]
    matches = match_priors(boxes, priors)
    objects = matches >= 0
    classes = np.zeros(len(priors), np.int64)
    codes = np.zeros((len(priors), 4), np.float32)
    classes[objects] = labels[matches[objects]] + 1
    codes[objects] = encode_boxes(boxes[matches[objects]], priors[objects])
    return Targets(classes, codes)


def nms(
    boxes: NDArray[Any], scores: NDArray[Any], classes: NDArray[Any], *, iou_threshold: float, limit: int | None = None
) -> NDArray[np.intp]:
    """The indices of the boxes that remain, highest-scoring first, when each suppresses those that it mostly covers.

    ``boxes`` (N, 4), ``scores`` and ``classes`` (N,). A box goes if a higher-scoring one of its class, the earlier
    among equals, remains and shares more than ``iou_threshold`` with it, as in ``torchvision.ops.batched_nms``. At most
    ``limit`` remain; what comes after them is not looked at. ValueError for scores or boxes that are not finite.
    """
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError("the boxes or their scores hold values that are not finite")
    limit = len(scores) if limit is None else limit

    def covers(first: NDArray[np.intp], second: NDArray[np.intp]) -> NDArray[np.bool_]:
        same = classes[first][:, None] == classes[second]
        covered: NDArray[np.bool_] = same & (iou_matrix(boxes[first], boxes[second]) > iou_threshold)
        return covered

    order = np.argsort(-scores.astype(np.float64), kind="stable")
    kept = order[:0]
    for start in range(0, len(order), _BLOCK):
        if len(kept) >= limit:
            break
        block = order[start : start + _BLOCK]
        block = block[~covers(kept, block).any(0)]
        covered = covers(block, block)
        remains = np.ones(len(block), bool)
        for k in range(len(block)):
            if remains[k]:
                remains[k + 1 :] &= ~covered[k, k + 1 :]
        kept = np.concatenate([kept, block[remains]])
    return kept[:limit]


def detect(
    answers: Mapping[str, NDArray[Any]],
    spec: ModelSpec,
    *,
    sizes: Sequence[tuple[int, int]],
    score_threshold: float = SCORE_THRESHOLD,
    iou_threshold: float = IOU_THRESHOLD,
    limit: int = MAX_BOXES,
) -> list[Detections]:
    """The objects in each picture, of what an engine answers for the ``spec``: see ``decode``.

    Of a ``decoded`` file they are those that it found, with ``IOU_THRESHOLD``: another ``iou_threshold`` changes
    nothing.
    """
    if spec.decoded:
        return _read_decoded(answers, spec, sizes=sizes, score_threshold=score_threshold, limit=limit)
    return decode(
        answers["logits"],
        answers["codes"],
        spec,
        sizes=sizes,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        limit=limit,
    )


def _read_decoded(
    answers: Mapping[str, NDArray[Any]],
    spec: ModelSpec,
    *,
    sizes: Sequence[tuple[int, int]],
    score_threshold: float,
    limit: int,
) -> list[Detections]:
    """The objects of decoded ``boxes``, ``labels`` and ``scores``; ValueError for what cannot be boxes."""
    if not all(np.isfinite(values).all() for values in answers.values()):
        raise ValueError(f"{spec.name}: the answer holds values that are not finite")
    results = []
    for boxes, labels, scores, (width, height) in zip(
        answers["boxes"], answers["labels"].astype(np.int64), answers["scores"], sizes, strict=True
    ):
        # Files clip to the picture in float32, with what that leaves of the last digit.
        boxes = np.clip(boxes.astype(np.float64), 0, 1) * (width, height, width, height)
        kept = np.flatnonzero((scores > score_threshold) & (_areas(boxes) > 0))[:limit]
        if len(kept) and not 0 <= labels[kept].min() <= labels[kept].max() < spec.num_classes:
            raise ValueError(f"{spec.name}: the answer names classes that there are not: export the file again")
        found = tuple(
            Box(int(labels[k]), spec.labels[labels[k]], float(scores[k]), *map(float, boxes[k])) for k in kept
        )
        results.append(Detections(found, width, height))
    return results


def decode(
    logits: NDArray[Any],
    codes: NDArray[Any],
    spec: ModelSpec,
    *,
    sizes: Sequence[tuple[int, int]],
    score_threshold: float = SCORE_THRESHOLD,
    iou_threshold: float = IOU_THRESHOLD,
    limit: int = MAX_BOXES,
) -> list[Detections]:
    """The objects in each picture, highest-scoring first, in pixels of the photographs of ``sizes`` (width, height).

    ``logits`` are (N, priors, 1 + classes), the first of background; ``codes`` (N, priors, 4) say where.
    ``spec.scores`` makes scores of logits: softmax, or a sigmoid for each class, which leaves background out
    (TensorFlow's weights, focal loss). A prior may show several classes. Boxes scored above ``score_threshold`` are
    clipped to the photograph, and left out where no area remains; of each class those remain that ``nms`` leaves, and
    ``limit`` in all. Values of other shapes, or not finite, raise ValueError: the engine and the spec do not belong
    together.
    """
    priors = prior_boxes(spec.input_size)
    expected = (len(sizes), len(priors), spec.num_classes + 1)
    if logits.shape != expected or codes.shape != (*expected[:2], 4):
        raise ValueError(
            f"{spec.name}: answers have shapes {logits.shape} and {codes.shape}, "
            f"not (pictures, priors, 1 + classes) = {expected} and {(*expected[:2], 4)}"
        )
    if not (np.isfinite(logits).all() and np.isfinite(codes).all()):
        raise ValueError(f"{spec.name}: the answer holds values that are not finite")
    results = []
    for picture_logits, picture_codes, (width, height) in zip(logits, codes, sizes, strict=True):
        scores = _scores(picture_logits, spec)[:, 1:]
        boxes = np.clip(decode_boxes(picture_codes, priors), 0, 1) * (width, height, width, height)
        rows, classes = np.nonzero((scores > score_threshold) & (_areas(boxes) > 0)[:, None])
        kept = nms(boxes[rows], scores[rows, classes], classes, iou_threshold=iou_threshold, limit=limit)
        found = tuple(
            Box(int(k), spec.labels[k], float(scores[row, k]), *map(float, boxes[row]))
            for row, k in zip(rows[kept], classes[kept], strict=True)
        )
        results.append(Detections(found, width, height))
    return results


def _scores(logits: NDArray[Any], spec: ModelSpec) -> NDArray[np.float64]:
    if spec.scores == "softmax":
        return softmax(logits)
    # The same as 1 / (1 + exp(-x)), which overflows for logits below -709.
    scores: NDArray[np.float64] = 0.5 + 0.5 * np.tanh(logits.astype(np.float64) / 2)
    return scores
