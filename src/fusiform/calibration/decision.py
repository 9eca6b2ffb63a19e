"""What a classifier answers by a rule: thresholds of classes, some chosen for a wanted precision, or a cost matrix.

``probabilities`` are (images, classes), ``truth`` (images,) the index of each image's true class.

A threshold for a precision is promised at ``CONFIDENCE``: the images that are named so are taken from the likeliest on,
ever more of them, as long as Clopper and Pearson's one-sided lower bound (1934, Biometrika 26, 404-413) of the share
that is right reaches the precision; the first time that it does not ends it (fixed sequence testing, Angelopoulos et
al., arXiv 2110.01052, Section 3.2). Where answers are the more often right the likelier they are, the wanted precision
is missed for at most 1 - ``CONFIDENCE`` of all calibrations: there is one number of images from which on it is missed,
and the sequence would have to pass that one test. It begins with half of the images, and where there are many also with
a quarter and less, at a level that is shared among the beginnings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.certainty import Decision, Threshold
from fusiform.errors import InputError
from fusiform.report import printable
from fusiform.tasks.sample_size import binomial

Probabilities = NDArray[np.float64]
Truth = NDArray[np.integer[Any]]

CONFIDENCE = 0.95
"""In this share of all calibrations a chosen threshold has the wanted precision."""
NO_CLASS = -1
"""The answer "unsure"."""
_CLOSE = 1e-12
"""By how much, of the largest, costs may differ by rounding."""


class Rule(NamedTuple):
    """What is asked of a decision: thresholds, wanted precisions, each by the class's index, or a cost matrix.

    ``names`` are those of all classes, for messages.
    """

    names: Sequence[str]
    thresholds: Mapping[int, float]
    precisions: Mapping[int, float]
    costs: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def of(cls, decision: Decision, names: Sequence[str]) -> Rule:
        """What a decision was asked to be."""
        given, chosen = {}, {}
        for each in decision.thresholds:
            if each.precision is None:
                given[each.index] = each.value
            else:
                chosen[each.index] = each.precision
        return cls(names, given, chosen, decision.costs)


def decide(probabilities: NDArray[Any], decision: Decision) -> NDArray[np.intp]:
    """The class that each image is given, (images,), or ``NO_CLASS``.

    By thresholds: a class whose threshold a person gave where its probability reaches it, of several the likeliest;
    else the likeliest class if its probability reaches its threshold, should it have one; else none. By costs: the
    answer of the least expected cost, among equals the likeliest class.
    """
    likeliest: NDArray[np.intp] = probabilities.argmax(1)
    if decision.costs:
        costs = np.array(decision.costs)
        expected = probabilities @ costs
        least = expected <= expected.min(1, keepdims=True) + _CLOSE * costs.max()
        shown = np.full(expected.shape, -1.0)  # no class is the last among equals
        shown[:, : probabilities.shape[1]] = probabilities
        chosen: NDArray[np.intp] = np.where(least, shown, -2.0).argmax(1)
        return np.where(chosen == probabilities.shape[1], NO_CLASS, chosen)
    rows, needed = np.arange(len(probabilities)), np.zeros(probabilities.shape[1])
    for each in decision.thresholds:
        needed[each.index] = each.value
    found = np.where(probabilities[rows, likeliest] >= needed[likeliest], likeliest, NO_CLASS)
    given = np.array([each.index for each in decision.thresholds if each.precision is None], np.intp)
    if len(given):
        reached = np.where(probabilities[:, given] >= needed[given], probabilities[:, given], -1.0)
        found = np.where(reached.max(1) >= 0, given[reached.argmax(1)], found)
    return found


def fit_decision(probabilities: Probabilities, truth: Truth, rule: Rule) -> Decision:
    """The decision that a rule asks for, its thresholds for a precision chosen on images outside training.

    Raises UsageError where no threshold reaches a wanted precision, for all such classes at once.
    """
    if rule.costs:
        return Decision(costs=rule.costs)
    given = tuple(Threshold(index, value) for index, value in sorted(rule.thresholds.items()))
    left = decide(probabilities, Decision(given)) if given else probabilities.argmax(1)
    chosen, missed = [], []
    for index, wanted in sorted(rule.precisions.items()):
        mine = left == index
        value = choose_threshold(probabilities[mine, index], truth[mine] == index, wanted)
        if value is None:
            missed.append(_not_reached(printable(rule.names[index]), wanted, truth[mine] == index))
        else:
            chosen.append(Threshold(index, value, wanted))
    if missed:
        raise InputError("; ".join(missed) + ": ask for less, or calibrate on more images")
    return Decision((*given, *chosen))


def choose_threshold(scores: NDArray[Any], right: NDArray[np.bool_], wanted: float) -> float | None:
    """The lowest threshold of ``scores`` (images,) above which the share that is ``right`` is promised; None without.

    See the module for the promise. ``wanted`` is in (0, 1); the images are all that are named so.
    """
    order = np.argsort(-scores, kind="stable")
    scores, wrong = scores[order], np.cumsum(~right[order])
    # Only where the next score is another one, a threshold lies between the two.
    ends = np.flatnonzero(np.append(scores[:-1] > scores[1:], True)) + 1 if len(scores) else np.empty(0, np.intp)
    beginnings = _beginnings(len(scores), wanted)
    level = (1 - CONFIDENCE) / len(beginnings)
    longest = 0
    for begin in beginnings:
        count = begin
        for end in ends[ends >= begin].tolist():
            if end < count:  # some of them are enough
                continue
            if not _is_promised(int(wrong[end - 1]), end, wanted, level):
                break
            longest = max(longest, end)
            count = end + max(1, end // 100)
    if longest == 0:
        return None
    lowest = float(scores[longest - 1])
    below = float(scores[longest]) if longest < len(scores) else 0.0
    short = math.floor(lowest * 1e6) / 1e6  # six digits say it, unless the next score is as near
    return short if short > below else lowest


def fewest_images(wanted: float, level: float = 1 - CONFIDENCE) -> int:
    """How many images, all of them right, it takes to promise a precision."""
    return math.ceil(math.log(level) / math.log(wanted) - 1e-9)


def _beginnings(images: int, wanted: float) -> list[int]:
    """The numbers of images that sequences begin with: half, and smaller parts as long as they can pass."""
    count = 1
    while images // 2 ** (count + 1) >= fewest_images(wanted, (1 - CONFIDENCE) / (count + 1)):
        count += 1
    least = fewest_images(wanted, (1 - CONFIDENCE) / count)
    return [max(least, images // 2 ** (k + 1)) for k in range(count)]


def _is_promised(wrong: int, images: int, wanted: float, level: float) -> bool:
    """Whether the one-sided lower bound of the share that is right, at 1 - ``level``, is at least ``wanted``."""
    return float(binomial(images, 1 - wanted)[: wrong + 1].sum()) <= level


def _not_reached(name: str, wanted: float, right: NDArray[np.bool_]) -> str:
    fewest, count = fewest_images(wanted), len(right)
    if count < fewest:
        return (
            f"{name}: a precision of {wanted:g} takes {fewest:,} calibration images that are named so, all of them "
            f"right, and {count:,} are"
        )
    return (
        f"{name}: no threshold reaches a precision of {wanted:g} with {CONFIDENCE:.0%} confidence; of {count:,} "
        f"calibration images that are named so {int(right.sum()):,} are right"
    )
