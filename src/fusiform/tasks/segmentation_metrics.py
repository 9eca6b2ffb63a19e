"""How good masks are: intersection over union from a confusion matrix that grows picture by picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.data.masks import IGNORE
from fusiform.tasks.classification_metrics import confusion_matrix


def pixel_confusion(
    truth: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], classes: int, *, ignore: int | None = IGNORE
) -> NDArray[np.int64]:
    """Counts (classes, classes) of one picture's pixels: rows are true classes, columns predicted ones.

    Both masks are (H, W) of class indices; pixels whose truth is ``ignore`` do not count. Add the matrices of all
    pictures. ValueError for masks of different sizes, or values that are no class.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"the true mask has shape {truth.shape}, the predicted one {predicted.shape}")
    if ignore is not None:
        counts = truth != ignore
        truth, predicted = truth[counts], predicted[counts]
    for name, mask in (("true", truth), ("predicted", predicted)):
        if mask.size and (mask.min() < 0 or mask.max() >= classes):
            raise ValueError(f"the {name} mask reaches from {mask.min()} to {mask.max()}, but has {classes} classes")
    return confusion_matrix(truth.ravel(), predicted.ravel(), classes)


def class_counts(confusion: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Of each class the pixels that are found right, that are it, and that are taken for it: (3, classes).

    All that ``mean_iou`` and ``pixel_accuracy`` need of a picture, and small enough to keep for each.
    """
    return np.stack([np.diag(confusion), confusion.sum(1), confusion.sum(0)]).astype(np.int64)


def class_ious(counts: NDArray[np.number[Any]]) -> NDArray[np.float64]:
    """The intersection over union of each class, (..., classes), from ``class_counts`` (..., 3, classes), summed.

    True positives / (true positives + false positives + false negatives), in [0, 1]; NaN for a class that is neither
    true nor found.
    """
    right, true, found = np.moveaxis(counts, -2, 0)
    return _ratio(right, true + found - right)


def mean_iou(counts: NDArray[np.number[Any]], classes: Sequence[int]) -> NDArray[np.float64]:
    """The mean intersection over union of some ``classes``, (...), from ``class_counts`` (..., 3, classes), summed.

    As VOC's devkit counts (``VOCevalseg``): over all pictures at once, background among the classes, and a class that
    was found although no picture has it counts as 0. A class that is neither true nor found is 0 / 0, and no part of
    it; NaN where there is no other.
    """
    ious = class_ious(counts)[..., list(classes)]
    known = ~np.isnan(ious)
    return _ratio(np.where(known, ious, 0).sum(-1), known.sum(-1))


def pixel_accuracy(counts: NDArray[np.number[Any]]) -> NDArray[np.float64]:
    """The share of right pixels, (...), from ``class_counts`` (..., 3, classes), summed; NaN where there are none."""
    return _ratio(counts[..., 0, :].sum(-1), counts[..., 1, :].sum(-1))


def _ratio(part: Any, whole: Any) -> NDArray[np.float64]:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    share: NDArray[np.float64] = np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)
    return share
