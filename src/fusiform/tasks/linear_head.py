"""A last layer that is learned in seconds from stored features: linear discriminant analysis, in numpy.

``features`` are (pictures, D), finite, of any float type: what a classifier's last layer reads. ``labels`` are
(pictures,) and hold class indices. Nothing here is random but the folds, which a seed gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.tasks.folds import folds_of

FOLDS = 5
"""Parts that the pictures are divided into: the head that judges one has learned from the others."""
_ROWS = 4096
_SLOPES = (0.01, 3.0)
"""What discriminants are multiplied by to become logits; trained networks' features ask for some 0.1 to 0.5."""
_STEPS = 30


class LinearHead(NamedTuple):
    """``weight`` (D, classes) and ``bias`` (classes,): features times the weight plus the bias are logits."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def __call__(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """The logits (pictures, classes)."""
        return np.asarray(features, np.float64) @ self.weight + self.bias


class Statistics(NamedTuple):
    """All that a head needs to know of its pictures, and what can be added and taken away: counts, sums, products."""

    counts: NDArray[np.int64]
    sums: NDArray[np.float64]
    products: NDArray[np.float64]

    def without(self, other: Statistics) -> Statistics:
        """Those of the pictures that the other one does not have."""
        return Statistics(self.counts - other.counts, self.sums - other.sums, self.products - other.products)

    def with_(self, other: Statistics) -> Statistics:
        """Those of both."""
        return Statistics(self.counts + other.counts, self.sums + other.sums, self.products + other.products)


def statistics(features: NDArray[Any], labels: NDArray[np.integer[Any]], classes: int) -> Statistics:
    """The pictures of each class, the sums of their features (classes, D), and the sum of their products (D, D)."""
    width = features.shape[1]
    sums, products = np.zeros((classes, width)), np.zeros((width, width))
    for start in range(0, len(features), _ROWS):
        rows = features[start : start + _ROWS].astype(np.float32)
        sums += (labels[start : start + _ROWS] == np.arange(classes)[:, None]).astype(np.float32) @ rows
        products += rows.T @ rows
    return Statistics(np.bincount(labels, minlength=classes), sums, products)


def discriminants(of: Statistics) -> LinearHead:
    """The head that linear discriminant analysis gives, without the classes' frequencies.

    The covariance within the classes is shrunk towards a multiple of the identity, by D / (D + pictures): as if as many
    pictures as there are features had been seen of which nothing is known but their spread. So there is nothing to
    choose, with ten pictures as with ten thousand. A class without pictures is never named.
    """
    pictures, width = int(of.counts.sum()), of.products.shape[0]
    means = of.sums / np.maximum(of.counts, 1)[:, None]
    within = of.products - (of.sums.T @ means)
    spread = float(np.trace(within)) / width
    shrinkage = width / (width + pictures)
    within *= (1 - shrinkage) / max(pictures, 1)
    within[np.diag_indices(width)] += max(shrinkage * spread / max(pictures, 1), 1e-12)
    weight = np.linalg.solve(within, means.T)
    bias = -0.5 * (means.T * weight).sum(0)
    bias[of.counts == 0] = -np.inf
    return LinearHead(weight, bias)


def fit_head(
    features: NDArray[Any], labels: NDArray[np.integer[Any]], classes: int, *, slope: float = 1.0
) -> LinearHead:
    """A head of these pictures; ``slope`` is what ``fit_slope`` found, without which its logits are far too sure."""
    known = statistics(features, labels, classes)
    head = discriminants(known)
    return LinearHead(slope * head.weight, slope * head.bias + log_shares(known.counts))


def log_shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The logarithm of each class's share; that of a class without pictures, which is never named, is 0."""
    return np.log(np.maximum(counts, 1) / max(int(counts.sum()), 1)) * (counts > 0)


def fit_slope(values: NDArray[np.float64], labels: NDArray[np.integer[Any]], offsets: NDArray[np.float64]) -> float:
    """What discriminants of pictures that the head has not seen are to be multiplied by: the likeliest number.

    ``offsets`` (classes,) are added afterwards. A temperature by another name (Guo et al., arXiv 1706.04599, 4.2); its
    loss is convex in it, so golden sections of its logarithm find it.
    """
    ratio = (5**0.5 - 1) / 2
    low, high = np.log(_SLOPES[0]), np.log(_SLOPES[1])

    def loss(at: float) -> float:
        own = log_softmax(np.exp(at) * values + offsets)[np.arange(len(labels)), labels]
        return -float(own[np.isfinite(own)].sum())

    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(_STEPS):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return float(np.exp((low + high) / 2))


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithms of the probabilities (pictures, classes); NaN where no class can be named at all."""
    with np.errstate(invalid="ignore"):
        logits = logits - logits.max(1, keepdims=True)
        found: NDArray[np.float64] = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return found


class OutOfFold(NamedTuple):
    """``probabilities`` (pictures, classes) by heads that have not seen the picture, and the ``slope`` they share."""

    probabilities: NDArray[np.float64]
    slope: float


def out_of_fold(
    features: NDArray[Any],
    labels: NDArray[np.integer[Any]],
    classes: int,
    *,
    groups: Sequence[Sequence[int]] = (),
    seed: int = 0,
) -> OutOfFold:
    """Judge each picture by a head that has learned from others alone, in ``FOLDS`` folds that have all classes alike.

    ``groups`` are the numbers of pictures that are one picture: they are in one fold, or each would tell the label of
    the other. A picture whose class the other folds do not have gets 0 for it.
    """
    fold = folds_of(labels, FOLDS, seed, groups)
    centred = features.astype(np.float32) - features.mean(0, dtype=np.float64).astype(np.float32)
    whole = statistics(centred, labels, classes)
    values = np.empty((len(labels), classes))
    for number in range(FOLDS):
        mine = fold == number
        if mine.any():
            values[mine] = discriminants(whole.without(statistics(centred[mine], labels[mine], classes)))(centred[mine])
    offsets = log_shares(whole.counts)
    slope = fit_slope(values, labels, offsets)
    return OutOfFold(np.exp(log_softmax(slope * values + offsets)), slope)
