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
    order = np.argsort(-scores, kind="stable")
    ends = _ends(scores[order])
    found = np.cumsum(positive[order])[ends].astype(np.float64)
    named = ends + 1.0
    with np.errstate(invalid="ignore"):
        recall, false = found / found[-1], (named - found) / (named - found)[-1]
    return Curve(scores[order][ends].astype(np.float64), found / named, recall, false)


def average_precisions(
    scores: NDArray[Any], positive: NDArray[np.bool_], weights: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The average precision and the area under the ROC curve of each resample, NaN where a side has no image.

    The average precision is the mean of the precisions by what each adds to the recall, without interpolation, as
    scikit-learn has it. The area is how often an image of the class scores above another, ties counting half. Weights
    in Fortran's order take half the time.
    """
    order = np.argsort(-scores, kind="stable")
    mine = positive[order]
    ends = _ends(scores[order])
    # Of neighbouring scores that no image of the class has, only their sum matters.
    has_mine = np.diff(np.cumsum(mine)[ends], prepend=0) > 0
    last = np.append(has_mine[1:] | has_mine[:-1], True)
    starts = np.append(0, ends[last][:-1] + 1)
    drawn = weights.T[order]
    named = np.cumsum(np.add.reduceat(drawn, starts, axis=0), axis=0, dtype=np.float64)
    found = np.zeros_like(named)
    own = np.flatnonzero(mine)
    if len(own):
        places = np.searchsorted(starts, own, "right") - 1
        first = np.flatnonzero(np.diff(places, prepend=-1))
        found[places[first]] = np.add.reduceat(drawn[own], first, axis=0)
    more = found
    found = np.cumsum(more, axis=0)
    others = named - found
    with np.errstate(invalid="ignore", divide="ignore"):
        average = (np.where(named > 0, found / named, 0.0) * more).sum(0) / found[-1]
        pairs = ((found - more / 2) * np.diff(others, axis=0, prepend=0)).sum(0)
        return average, pairs / (found[-1] * others[-1])


def _ends(ordered: NDArray[Any]) -> NDArray[np.intp]:
    """The last place of each score."""
    return np.flatnonzero(np.append(ordered[:-1] != ordered[1:], True))
