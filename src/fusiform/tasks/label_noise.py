"""Which labels are probably wrong: confident learning on probabilities of heads that have not seen the picture."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Doubt(NamedTuple):
    """A label that is probably wrong: the picture's number, the class to give it, and what that is expected to gain.

    ``gain`` is the other class's probability less the given one's: the right labels that there will be more, on
    average, if the label is changed.
    """

    number: int
    other: int
    gain: float


def doubted_labels(probabilities: NDArray[np.float64], labels: NDArray[np.integer[Any]]) -> list[Doubt]:
    """The labels that are probably wrong, those first whose correction is expected to gain most.

    ``probabilities`` (pictures, classes) are out of fold, ``labels`` the given ones. How many there are is what
    confident learning estimates (Northcutt et al., arXiv 1911.00068, Section 3.1); which they are is not chosen class
    by class, as its pruning does, but among all pictures: a label that is more probably wrong never stays for one that
    is less.
    """
    count, classes = probabilities.shape
    rows = np.arange(count)
    own = probabilities[rows, labels]
    wrong = round(count - np.trace(_joint(probabilities, labels, classes)))
    others = probabilities.copy()
    others[rows, labels] = -1
    best = others.argmax(1)
    gains = others[rows, best] - own
    first = np.argsort(-gains, kind="stable")[: max(wrong, 0)]
    return [Doubt(int(i), int(best[i]), float(gains[i])) for i in first if gains[i] > 0]


def _joint(probabilities: NDArray[np.float64], labels: NDArray[np.integer[Any]], classes: int) -> NDArray[np.float64]:
    """The estimated number of pictures with each given label (rows) and true one; a row adds up to its class's.

    A picture counts for the likeliest of the classes that get at least what their own pictures get on average
    (equations 1 to 3); that what fails for all of them counts nowhere, the rest is scaled up to the class's number.
    """
    given = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=probabilities[np.arange(len(labels)), labels], minlength=classes)
    thresholds = np.where(given > 0, sums / np.maximum(given, 1), np.inf)
    sure = np.where(probabilities >= thresholds, probabilities, -1)
    counted = sure.max(1) >= 0
    joint = np.zeros((classes, classes))
    np.add.at(joint, (labels[counted], sure.argmax(1)[counted]), 1)
    empty = joint.sum(1) == 0
    joint[empty, empty.nonzero()[0]] = 1  # nothing is known of such a class, so its labels count as right
    scaled: NDArray[np.float64] = joint * (given / joint.sum(1))[:, None]
    return scaled
