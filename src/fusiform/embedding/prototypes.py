"""Linear classifiers from the features of a few images, in closed form.

A linear discriminant (Hastie et al., The Elements of Statistical Learning, Section 4.3) with one covariance for all
classes, shrunk towards its mean variance (Ledoit and Wolf 2004), or the means of unit features, compared by their
cosine. Both are a matrix and a bias, and so the last layer of a network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.tasks.folds import folds_of

Features = NDArray[np.float32]
Labels = NDArray[np.int64]
Reals = NDArray[np.float64]

SHRINKAGES = (0.1, 0.3, 0.5, 0.8, 0.95)
"""Shares of the mean variance in the covariance that are tried, beside the cosine."""
_FOLDS = 5
_SCALES = np.geomspace(0.003, 30, 41)
"""What logits are multiplied by, of which the best is taken: a discriminant is far too sure of itself."""
SHRINKAGE = 0.9
"""That of an added class: of 0.1, 0.3, 0.5, 0.7 and 0.9 it named most new images at the same loss, on 20 classes of
ImageNet added to six scenes (benchmarks/added_class.py)."""
LOST = 0.005
"""The share of old images that an added class may take, as its bias is set."""
MOST = 0.01
"""The share that it may take at most, however many new images that gains."""
WORTH = 30
"""What a share of old images counts beside the same share of new ones: with five of these, one more is worth 0.7 % of
the old ones."""


class Head(NamedTuple):
    """A linear layer: ``weight`` (classes, features) and ``bias``; ``way`` says how it was made.

    ``top1`` and ``tried`` are cross-validated accuracies: its own, and those of all ways.
    """

    weight: Reals
    bias: Reals
    way: str = ""
    top1: float = 0.0
    tried: tuple[tuple[str, float], ...] = ()


class Spread:
    """Means of classes and the covariance that they share, decomposed once for any shrinkage."""

    def __init__(self, features: Features, labels: Labels, classes: int) -> None:
        x = features.astype(np.float64)
        self.counts = np.bincount(labels, minlength=classes)
        sums = np.zeros((classes, x.shape[1]))
        np.add.at(sums, labels, x)
        self.means = sums / np.maximum(self.counts, 1)[:, None]
        rest = x - self.means[labels]
        degrees = max(1, len(x) - int((self.counts > 0).sum()))
        # Of fewer images than features there are no more axes than images: their products are the smaller matrix.
        few = len(x) < x.shape[1]
        variances, axes = np.linalg.eigh((rest @ rest.T if few else rest.T @ rest) / degrees)
        kept = variances > 1e-9 * max(float(variances[-1]), np.finfo(np.float32).tiny)
        self.variances, axes = variances[kept], axes[:, kept]
        self.axes = rest.T @ axes / np.sqrt(degrees * self.variances) if few else axes
        self.variance = max(float(self.variances.sum()) / x.shape[1], np.finfo(np.float32).tiny)

    def solve(self, vectors: Reals, shrinkage: float) -> Reals:
        """The inverse of the shrunk covariance times the rows of ``vectors``."""
        least, along = shrinkage * self.variance, vectors @ self.axes
        across = vectors - along @ self.axes.T
        solved: Reals = across / least + (along / ((1 - shrinkage) * self.variances + least)) @ self.axes.T
        return solved

    def discriminant(self, shrinkage: float) -> Head:
        """The discriminant that takes all classes for equally frequent."""
        weight = self.solve(self.means, shrinkage)
        return Head(weight, -0.5 * (weight * self.means).sum(1))


def prototype_head(features: Features, labels: Labels, classes: int, *, seed: int = 0) -> Head:
    """The head that names most images right in cross-validation, its logits as large as suits their certainty.

    Tried are the cosine to the mean of each class, and discriminants with each of ``SHRINKAGES``; the more plain one
    remains where two are as good. A class that is in no fold's other part is not counted.
    """
    folds = _folds(labels, seed)
    ways = ["cosine", *(f"discriminant, shrinkage {share:g}" for share in SHRINKAGES)]
    logits = np.zeros((len(ways), len(labels), classes))
    for fold in range(int(folds.max()) + 1):
        mine, others = folds == fold, folds != fold
        for k, head in enumerate(_heads(features[others], labels[others], classes)):
            logits[k, mine] = features[mine] @ head.weight.T + head.bias
    right = (logits.argmax(2) == labels).mean(1)
    best = int(right.argmax())
    head = _heads(features, labels, classes)[best]
    scale = _best_scale(logits[best], labels)
    tried = tuple(zip(ways, map(float, right), strict=True))
    return Head(scale * head.weight, scale * head.bias, ways[best], float(right[best]), tried)


def _heads(features: Features, labels: Labels, classes: int) -> list[Head]:
    """A head for each way."""
    lengths = np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    sums = np.zeros((classes, features.shape[1]))
    np.add.at(sums, labels, features / lengths)
    units = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    spread = Spread(features, labels, classes)
    return [Head(units, np.zeros(classes)), *(spread.discriminant(share) for share in SHRINKAGES)]


def _folds(labels: Labels, seed: int) -> NDArray[np.int64]:
    """The part that each image belongs to: of small classes there are fewer parts, so that each has some."""
    return folds_of(labels, int(min(_FOLDS, max(2, np.bincount(labels).max()))), seed)


def _best_scale(logits: Reals, labels: Labels) -> float:
    """The factor on logits of held-out images with which their log-likelihood is largest."""
    logits = logits - logits.max(1, keepdims=True)
    typical = max(float(np.abs(logits).mean()), np.finfo(np.float32).tiny)

    def loss(scale: float) -> float:
        scaled = logits * scale / typical
        return float((np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(labels)), labels]).mean())

    best = min(range(len(_SCALES)), key=lambda k: loss(float(_SCALES[k])))
    return float(_SCALES[best] / typical)


class Added(NamedTuple):
    """The row of an added class, and the share of its images that are named by it where each is left out of it.

    ``recall`` is None where the bias was set by these images alone: it would say nothing.
    """

    weight: Reals
    bias: float
    recall: float | None


def added_class(head: Head, new: Features, old: Features, old_labels: Labels) -> Added:
    """A row for the class that ``new`` (images, features) show, beside a head that stays as it is.

    ``old`` are images of the head's classes, ``old_labels`` their numbers. The row is the discriminant between the new
    class and all old ones, as large as the old rows are in their logits. Its bias is the largest with which it takes at
    most ``LOST`` of the old images that the head names right, measured on images that its covariance has not seen; or,
    up to ``MOST``, a larger one where that gains more of the new images than ``WORTH`` old ones for each.
    """
    logits = old @ head.weight.T + head.bias
    maker = _Row(old, old_labels, logits)
    margins = np.empty(len(old))
    folds = _folds(old_labels, 0)
    for fold in range(int(folds.max()) + 1):
        mine, others = folds == fold, folds != fold
        row = _Row(old[others], old_labels[others], logits[others]) if others.any() else maker
        weight, offset = row(new)
        margins[mine] = logits[mine].max(1) - (old[mine] @ weight + offset)
    right = logits.argmax(1) == old_labels
    counted = np.sort(margins[right] if right.any() else margins)
    least = float(counted[int(LOST * len(counted))])
    needed = _needed(head, new, maker)

    def cost(bias: float) -> float:
        return float((needed > bias).mean() + WORTH * (counted < bias).mean())

    farther = (float(each) for each in needed if each > least and (counted < each).mean() <= MOST)
    bias = min((least, *farther), key=cost)
    weight, offset = maker(new)
    return Added(weight, offset + bias, float((needed <= bias).mean()))


class _Row:
    """Makes the row of a new class beside old ones, of which there are images and the ``logits`` of the head.

    With the row comes what brings its answers to the old images to 0 on average, so that those of rows which were made
    from other parts of the images can be compared.
    """

    def __init__(self, old: Features, labels: Labels, logits: Reals) -> None:
        self.old, self.size = old, float(logits.std())
        self.center: Reals = old.mean(0, dtype=np.float64)
        self.spread = Spread(old, labels, logits.shape[1])

    def __call__(self, new: Features) -> tuple[Reals, float]:
        direction = self.spread.solve((new.mean(0, dtype=np.float64) - self.center)[None], SHRINKAGE)[0]
        length = max(float((self.old @ direction).std()), np.finfo(np.float32).tiny)
        row: Reals = direction * (self.size / length)
        return row, -float(self.center @ row)


def added_without(head: Head, new: Features) -> Added:
    """The same where no image of the old classes is at hand: the cosine to the mean of the new images.

    Its row is as long as the head's others, and its bias the smallest with which each of the new images, left out of
    the mean, is named by it (Qi et al., arXiv 1712.07136, imprint weights so, without a bias).
    """
    length = float(np.linalg.norm(head.weight - head.weight.mean(0), axis=1).mean())

    def row(images: Features) -> tuple[Reals, float]:
        mean = images.mean(0, dtype=np.float64)
        unit: Reals = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return unit * length, 0.0

    needed = _needed(head, new, row)
    return Added(row(new)[0], float(needed.max()), None)


def _needed(head: Head, new: Features, row: Callable[[Features], tuple[Reals, float]]) -> Reals:
    """The bias from which on each of the new images is named by the row that the others make."""
    tops = (new @ head.weight.T + head.bias).max(1)
    parts = [np.delete(new, k, 0) if len(new) > 1 else new for k in range(len(new))]
    rows = [row(part) for part in parts]
    return np.array(
        [top - image @ weight - offset for top, image, (weight, offset) in zip(tops, new, rows, strict=True)]
    )
