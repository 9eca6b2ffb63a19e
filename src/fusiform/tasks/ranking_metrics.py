"""How well the probability of a class ranks its images above the others': precision and recall, and ROC, in numpy.

One class against the rest: ``scores`` (images,) are its probabilities, ``positive`` (images,) says which images show
it. ``weights`` (resamples, images) say how often each image counts. Equal scores stand or fall together, as they do
with a threshold.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Curve(NamedTuple):
    """What comes of each threshold, from the highest on: a class is named where its score reaches it.

    ``recall`` is the share of the class's images that are named so, ``precision`` the share of those named so that are
    right, ``false_positive_rate`` the share of the other images that are named so; NaN where there are none.
    """

    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    false_positive_rate: NDArray[np.float64]

    def at(self, threshold: float) -> tuple[float, float, float]:
        """Precision (NaN where nothing is named so), recall and false positive rate of any threshold."""
        place = int(np.searchsorted(-self.thresholds, -threshold, "right")) - 1
        if place < 0:
            return float("nan"), 0 * float(self.recall[-1]), 0 * float(self.false_positive_rate[-1])
        return float(self.precision[place]), float(self.recall[place]), float(self.false_positive_rate[place])


def curve(scores: NDArray[Any], positive: NDArray[np.bool_]) -> Curve:
    """The curve of a class; there must be images."""
    named, found, order, ends = _counts(scores, positive, np.ones((1, len(scores)), np.int32))
    with np.errstate(invalid="ignore"):
        recall, false = found[0] / found[0, -1], (named - found)[0] / (named - found)[0, -1]
    return Curve(scores[order][ends].astype(np.float64), found[0] / named[0], recall, false)


def average_precisions(
    scores: NDArray[Any], positive: NDArray[np.bool_], weights: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The average precision and the area under the ROC curve of each resample, NaN where a side has no image.

    The average precision is the mean of the precisions by what each adds to the recall, without interpolation, as
    scikit-learn has it. The area is how often an image of the class scores above another, ties counting half.
    """
    named, found, _, _ = _counts(scores, positive, weights)
    others = named - found
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(named > 0, found / named, 0.0)
        more = np.diff(found, axis=1, prepend=0)
        average = (precision * more).sum(1) / found[:, -1]
        before = np.concatenate([np.zeros((len(found), 1), found.dtype), found[:, :-1]], 1)
        area = ((before + found) / 2 * np.diff(others, axis=1, prepend=0)).sum(1) / (found[:, -1] * others[:, -1])
    return average, area


def _counts(
    scores: NDArray[Any], positive: NDArray[np.bool_], weights: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
    """How many images have at least each score, in all and of the class, and the order and ends of equal scores."""
    order = np.argsort(-scores, kind="stable")
    sorted_ = scores[order]
    ends = np.flatnonzero(np.append(sorted_[:-1] != sorted_[1:], True))
    drawn = weights[:, order]
    named = np.cumsum(drawn, axis=1, dtype=np.float64)[:, ends]
    found = np.cumsum(drawn * positive[order], axis=1, dtype=np.float64)[:, ends]
    return named, found, order, ends
