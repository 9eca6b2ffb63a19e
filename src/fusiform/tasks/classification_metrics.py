"""How good a classifier's answers are, in numpy: accuracy with its interval, confusion, calibration, comparison.

``logits`` are (pictures, classes), finite, of any float type; log-probabilities are logits too. ``labels`` are
(pictures,) and hold the index of each picture's true class. Logits are taken a few thousand rows at a time, so that no
function needs much more memory than its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CALIBRATION_BINS = 15
"""Guo et al. (arXiv 1706.04599), Section 5."""
TEMPERATURES = (0.05, 20.0)
"""The temperatures that ``fit_temperature`` chooses from."""
EXACT_PAIRS = 25
"""Discordant pairs from which on McNemar's test needs no exact binomial."""

_NORMAL_975 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution, for two-sided intervals of 95 %."""
_ROWS = 4096
_CLOSE = 1e-7
"""Relative precision of a fitted temperature."""


class ClassScore(NamedTuple):
    """Precision, recall and F1 of one class, in [0, 1], and ``support``, its number of pictures."""

    precision: float
    recall: float
    f1: float
    support: int


class CalibrationBin(NamedTuple):
    """The answers whose confidence lies in (``low``, ``high``]: their number, mean confidence and accuracy.

    Both means are 0 in an empty bin.
    """

    low: float
    high: float
    pictures: int
    confidence: float
    accuracy: float


class Difference(NamedTuple):
    """How much more often the first of two models is right, in [-1, 1], with its 95 % interval."""

    value: float
    low: float
    high: float


def in_top(logits: NDArray[Any], labels: NDArray[np.integer[Any]], k: int) -> NDArray[np.bool_]:
    """Whether each picture's true class is among its ``k`` likeliest; among equals the lower index comes first."""
    found = np.empty(len(labels), bool)
    for rows in _slices(len(labels)):
        values, truth = logits[rows], labels[rows, None]
        own = np.take_along_axis(values, truth, 1)
        before = (values > own) | ((values == own) & (np.arange(values.shape[1]) < truth))
        found[rows] = before.sum(1) < k
    return found


def top_k_accuracy(logits: NDArray[Any], labels: NDArray[np.integer[Any]], k: int = 1) -> float:
    """The share of pictures whose true class is among the ``k`` likeliest; 1 where there are no more than k classes."""
    return float(in_top(logits, labels, k).mean())


def wilson_interval(right: int, pictures: int, *, level: float = 0.95) -> tuple[float, float]:
    """The score interval of a share, ``right`` of ``pictures``, 95 % by default (Wilson 1927, JASA 22, 209-212).

    (0, 1) where there are no pictures.
    """
    if pictures == 0:
        return 0.0, 1.0
    z = _NORMAL_975 if level == 0.95 else NormalDist().inv_cdf((1 + level) / 2)
    z2, share = z**2, right / pictures
    centre = (share + z2 / (2 * pictures)) / (1 + z2 / pictures)
    half = z / (1 + z2 / pictures) * math.sqrt(share * (1 - share) / pictures + z2 / (4 * pictures**2))
    # At the ends the formula gives exactly 0 or 1, but for rounding.
    low = 0.0 if right == 0 else max(0.0, centre - half)
    return low, 1.0 if right == pictures else min(1.0, centre + half)


def predictions(logits: NDArray[Any], temperature: float = 1.0) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The likeliest class of each picture, the lower index among equals, and its probability."""
    predicted = logits.argmax(1)
    return predicted, np.exp(log_likelihoods(logits, predicted, temperature))


def log_likelihoods(
    logits: NDArray[Any], labels: NDArray[np.integer[Any]], temperature: float = 1.0
) -> NDArray[np.float64]:
    """The logarithm of the probability that each picture's answer gives to its label."""
    result = np.empty(len(labels))
    for rows in _slices(len(labels)):
        values = logits[rows].astype(np.float64) / temperature
        values -= values.max(1, keepdims=True)
        result[rows] = np.take_along_axis(values, labels[rows, None], 1)[:, 0] - np.log(np.exp(values).sum(1))
    return result


def negative_log_likelihood(logits: NDArray[Any], labels: NDArray[np.integer[Any]], temperature: float = 1.0) -> float:
    """The mean cross-entropy in nats, at least 0."""
    return max(0.0, -float(log_likelihoods(logits, labels, temperature).mean()))


def confusion_matrix(
    labels: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], classes: int, *, columns: int | None = None
) -> NDArray[np.int64]:
    """Counts (classes, columns): rows are true classes, columns predicted ones.

    ``columns`` is ``classes`` or more; those beyond the classes stand for answers that no picture's label is.
    """
    columns = classes if columns is None else columns
    cells = labels.astype(np.int64) * columns + predicted
    return np.bincount(cells, minlength=classes * columns).reshape(classes, columns)


def class_scores(confusion: NDArray[np.integer[Any]]) -> tuple[ClassScore, ...]:
    """The scores of each row's class; what divides by nothing is 0, as with scikit-learn's ``zero_division=0``."""
    scores = []
    for k, row in enumerate(confusion):
        right, support, predicted = int(row[k]), int(row.sum()), int(confusion[:, k].sum())
        scores.append(
            ClassScore(
                precision=right / predicted if predicted else 0.0,
                recall=right / support if support else 0.0,
                f1=2 * right / (support + predicted) if support + predicted else 0.0,
                support=support,
            )
        )
    return tuple(scores)


def macro_f1(confusion: NDArray[np.integer[Any]]) -> float:
    """The mean F1 of the classes that have pictures; 0 where none has."""
    return _mean([score.f1 for score in class_scores(confusion) if score.support])


def balanced_accuracy(confusion: NDArray[np.integer[Any]]) -> float:
    """The mean recall of the classes that have pictures; 0 where none has."""
    return _mean([score.recall for score in class_scores(confusion) if score.support])


def reliability(
    confidences: NDArray[np.floating[Any]], right: NDArray[np.bool_], *, bins: int = CALIBRATION_BINS
) -> tuple[CalibrationBin, ...]:
    """Answers in bins of equal width by their confidence: what a reliability diagram draws.

    ``confidences`` are the probabilities of the likeliest classes, in [0, 1]; ``right`` says which of them are true.
    Bin m is ((m - 1) / bins, m / bins] as in Guo et al. (arXiv 1706.04599, Section 2); 0 belongs to the first.
    """
    index = np.clip(np.ceil(confidences * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    confidence = np.bincount(index, weights=confidences, minlength=bins) / np.maximum(counts, 1)
    accuracy = np.bincount(index, weights=right, minlength=bins) / np.maximum(counts, 1)
    return tuple(
        CalibrationBin(m / bins, (m + 1) / bins, int(counts[m]), float(confidence[m]), float(accuracy[m]))
        for m in range(bins)
    )


def expected_calibration_error(
    confidences: NDArray[np.floating[Any]], right: NDArray[np.bool_], *, bins: int = CALIBRATION_BINS
) -> float:
    """How far confidence is from accuracy, in [0, 1]: Guo et al. (arXiv 1706.04599), equation 3."""
    found = reliability(confidences, right, bins=bins)
    return sum(each.pictures * abs(each.accuracy - each.confidence) for each in found) / max(1, len(right))


def fit_temperature(logits: NDArray[Any], labels: NDArray[np.integer[Any]]) -> float:
    """The temperature of the least negative log likelihood (Guo et al., arXiv 1706.04599, Section 4.2).

    The likelihood is convex in 1 / temperature, so that Newton's method within a shrinking bracket finds the one
    minimum, always the same. It stays within ``TEMPERATURES``, where answers that are all right, or no better than
    chance, have none.
    """
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    inverse = 1.0
    for _ in range(100):
        slope, curvature = _slope(logits, labels, inverse)
        if slope > 0:
            high = inverse
        else:
            low = inverse
        step = slope / curvature if curvature > 0 else math.inf
        if abs(step) <= _CLOSE * inverse or high - low <= _CLOSE * low:
            break
        # Out of the bracket Newton's method goes wrong; halve the bracket then.
        inverse = inverse - step if low < inverse - step < high else math.sqrt(low * high)
    for bound in TEMPERATURES:
        if math.isclose(1 / inverse, bound, rel_tol=2 * _CLOSE):
            return bound
    return 1 / inverse


def mcnemar(only_first: int, only_second: int) -> float:
    """The p-value of McNemar's test that two models are right equally often.

    ``only_first`` counts the pictures that only the first model names right, ``only_second`` those that only the
    second does. Exact and two-sided below 25 such pictures, else chi-squared with one degree of freedom and
    continuity correction (McNemar 1947, Psychometrika 12, 153-157; Edwards 1948, Psychometrika 13, 185-187).
    """
    pairs = only_first + only_second
    if pairs < EXACT_PAIRS:
        tail = sum(math.comb(pairs, k) for k in range(min(only_first, only_second) + 1))
        return min(1.0, 2 * tail * 0.5**pairs)
    statistic = max(0, abs(only_first - only_second) - 1) ** 2 / pairs
    return math.erfc(math.sqrt(statistic / 2))


def paired_difference(both: int, only_first: int, only_second: int, neither: int) -> Difference:
    """How much more often the first model is right on the same pictures, with the 95 % interval.

    Counts of pictures, at least one in all. Method 10 of Newcombe (1998, Statistics in Medicine 17, 2635-2650): the
    two Wilson intervals, joined by the correlation of the answers.
    """
    pictures = both + only_first + only_second + neither
    first, second = both + only_first, both + only_second
    (low1, high1), (low2, high2) = wilson_interval(first, pictures), wilson_interval(second, pictures)
    share1, share2 = first / pictures, second / pictures
    down1, up1, down2, up2 = share1 - low1, high1 - share1, share2 - low2, high2 - share2
    product = first * (pictures - first) * second * (pictures - second)
    association: float = both * neither - only_first * only_second
    if association > 0:
        association = max(0, association - pictures / 2)
    correlation = association / math.sqrt(product) if product else 0.0
    value = (only_first - only_second) / pictures
    return Difference(
        value,
        value - math.sqrt(max(0.0, down1**2 - 2 * correlation * down1 * up2 + up2**2)),
        value + math.sqrt(max(0.0, up1**2 - 2 * correlation * up1 * down2 + down2**2)),
    )


def _slope(logits: NDArray[Any], labels: NDArray[np.integer[Any]], inverse: float) -> tuple[float, float]:
    """First and second derivative of the summed negative log likelihood by the inverse temperature."""
    slope = curvature = 0.0
    for rows in _slices(len(labels)):
        values = logits[rows].astype(np.float64)
        values -= values.max(1, keepdims=True)
        weights = np.exp(values * inverse)
        weights /= weights.sum(1, keepdims=True)
        mean = (weights * values).sum(1)
        slope += float((mean - np.take_along_axis(values, labels[rows, None], 1)[:, 0]).sum())
        curvature += float((weights * (values - mean[:, None]) ** 2).sum())
    return slope, curvature


def _slices(count: int) -> Iterator[slice]:
    for start in range(0, count, _ROWS):
        yield slice(start, start + _ROWS)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
