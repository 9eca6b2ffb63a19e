"""Sets of names that hold the right one for a stated share of images: split conformal prediction.

A score says how badly a class fits an image. The scores of the true classes of images that took no part in training
make a table, and a set holds the classes whose scores are no larger than the table's threshold for the wanted share.
Where images are drawn like those of the calibration, of which there were n, the share of sets that hold the true class
lies between ``share`` and ``share + 1 / (n + 1)`` on average (Lei et al., arXiv 1604.04173, Theorem 2); given one
calibration it is drawn from Beta(k, n + 1 - k) with k = ceil((n + 1) share) (Vovk, arXiv 1209.2673, Section 3).

The likeliest class is in every set: it scores 0. So a set is never empty, the other scores are compared among those
images alone where the first name is wrong, and a promise that is smaller than the accuracy is kept by the first name.

``probabilities`` are (images, classes), ``truth`` (images,) the index of each image's true class.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.certainty import CERTAIN, Sets, SetScore, Table, kept_ranks

Probabilities = NDArray[np.float64]
Truth = NDArray[np.integer[Any]]

CHOOSING = 1000
"""Images of a calibration from which on a fifth of them is spent on the choice of a score."""
PENALTY, FREE = 0.01, 5
"""What ``raps`` adds for each rank after the first five: the published values for ImageNet's classes."""
SEED = 0
_ROWS = 4096
_SIX_DIGITS = decimal.Context(prec=6, rounding=decimal.ROUND_CEILING)


def set_scores(
    probabilities: NDArray[Any], score: SetScore, *, penalty: float = PENALTY, free: int = FREE, empty: bool = False
) -> NDArray[np.float64]:
    """How badly each class fits each image, (images, classes), as ``certainty.Sets`` defines it.

    With ``empty`` ``lac`` is the plain score of the literature, with which a set may have no name in it; in the others
    the likeliest class scores 0 by their own definition.
    """
    found = np.empty(probabilities.shape)
    for start in range(0, len(probabilities), _ROWS):
        part = probabilities[start : start + _ROWS].astype(np.float64)
        rows = np.arange(len(part))[:, None]
        if score == "lac":
            scores = 1 - part
            if not empty:
                scores[rows[:, 0], part.argmax(1)] = 0
        else:
            order = np.argsort(-part, axis=1, kind="stable")
            sorted_ = np.take_along_axis(part, order, 1)
            before = np.cumsum(sorted_, axis=1) - sorted_  # of the likelier classes together
            if score == "raps":
                before += penalty * np.maximum(0, np.arange(1, part.shape[1] + 1) - free)
            before[:, 0] = 0
            scores = np.empty_like(part)
            scores[rows, order] = np.maximum(before, 0)
        found[start : start + _ROWS] = scores
    return found


def make_table(scores: NDArray[Any]) -> Table:
    """The table of the calibration's scores, of which there must be one at least."""
    ordered = np.sort(scores.astype(np.float64))
    ranks = kept_ranks(len(ordered))
    return Table(len(ordered), tuple(ranks), tuple(_rounded_up(ordered[rank - 1]) for rank in ranks))


def fit_sets(
    probabilities: NDArray[Any],
    truth: Truth,
    *,
    score: SetScore | None = None,
    coverage: float = CERTAIN,
    per_class: bool = False,
) -> Sets:
    """Sets from images that took no part in training.

    ``score`` None is ``lac``, whose sets are the smallest on average of all with the same promise where probabilities
    are right (Sadinle et al., arXiv 1609.00451, Theorem 1); of ``CHOOSING`` images and more a fifth, which the tables
    then leave out, is to show which of the three has the smallest. ``per_class`` gives each class a table of its own
    images, so that the promise is to each class (Vovk, arXiv 1209.2673, Section 4); a class with too few images for
    ``coverage`` has the table of all.
    """
    kept = np.ones(len(truth), bool)
    if score is None:
        score = "lac"
        if len(truth) >= CHOOSING:
            chosen = np.random.default_rng(SEED).permutation(len(truth))[: len(truth) // 5]
            kept[chosen] = False
            score = choose_score(probabilities[chosen], truth[chosen], coverage=coverage)
    rows = np.arange(int(kept.sum()))
    own = set_scores(probabilities[kept], score)[rows, truth[kept]]
    table = make_table(own)
    classes: list[Table] = []
    if per_class:
        for label in range(probabilities.shape[1]):
            of_class = own[truth[kept] == label]
            few = not len(of_class) or math.ceil((len(of_class) + 1) * coverage) > len(of_class)
            classes.append(table if few else make_table(of_class))
    penalty, free = (PENALTY, FREE) if score == "raps" else (0.0, 0)
    return Sets(score, table, coverage, penalty, free, tuple(classes))


def choose_score(probabilities: NDArray[Any], truth: Truth, *, coverage: float = CERTAIN) -> SetScore:
    """The score with the smallest sets: thresholds from each half of the images, sizes on the other."""
    halves = np.random.default_rng(SEED).permutation(len(truth)) % 2
    sizes: dict[SetScore, float] = {}
    scores: tuple[SetScore, ...] = ("lac", "aps", "raps")
    for score in scores:
        of_all = set_scores(probabilities, score)
        own = of_all[np.arange(len(truth)), truth]
        found = 0.0
        for half in (0, 1):
            threshold = make_table(own[halves == half]).threshold(coverage)
            found += float((of_all[halves != half] <= (math.inf if threshold is None else threshold)).sum())
        sizes[score] = found
    return min(scores, key=lambda score: sizes[score])  # the first among equals


def in_sets(probabilities: NDArray[Any], sets: Sets, share: float | None = None) -> NDArray[np.bool_]:
    """Whether each class belongs to each image's set, (images, classes); ``share`` None is the sets' own promise.

    Where a table has too few images for the share, all classes do.
    """
    share = sets.coverage if share is None else share
    tables: Sequence[Table] = sets.classes or (sets.table,)
    found = [table.threshold(share) for table in tables]
    if sets.classes:  # of a class with too few images for this share
        found = [sets.table.threshold(share) if threshold is None else threshold for threshold in found]
    thresholds = np.array([math.inf if threshold is None else threshold for threshold in found])
    inside: NDArray[np.bool_] = (
        set_scores(probabilities, sets.score, penalty=sets.penalty, free=sets.free) <= thresholds
    )
    return inside


class Coverage(NamedTuple):
    """How many of ``images`` sets hold the true class, and how many names they have on average, in ``sizes`` each."""

    images: int
    covered: int
    sizes: NDArray[np.int64]


def measure_sets(probabilities: NDArray[Any], truth: Truth, sets: Sets, share: float | None = None) -> Coverage:
    """What a promise comes to on other images."""
    inside = in_sets(probabilities, sets, share)
    return Coverage(len(truth), int(inside[np.arange(len(truth)), truth].sum()), inside.sum(1))


def _rounded_up(value: float) -> float:
    """Six significant digits, no smaller: the promise is about scores up to this one."""
    return float(_SIX_DIGITS.create_decimal_from_float(float(value)))
