"""Images that show none of a classifier's classes, found by its features: one product of a vector and a small matrix.

Features (what the last layer reads) are projected to some dimensions: those in which the classes and the last layer's
weights lie, then those in which the images of a class differ most. What an image has in them, and how much it has
beside them, is evidence of several kinds; see ``EVIDENCE``. Which one, or which sum, is chosen without any foreign
image: each class is left out in turn, of everything but the features, and its images are the strangers. Scores become
conformal p-values (Bates et al., arXiv 2104.08279): of images of the known classes, at most a stated share is called
unknown.

Arrays: ``features`` (images, features) float32, ``truth`` (images,) the classes; ``weight`` (classes, features) and
``bias`` (classes,) are those of the last layer.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.calibration.conformal import make_table
from fusiform.certainty import ARRAYS, Evidence, Part, Unknown
from fusiform.errors import SpecError
from fusiform.tasks.folds import folds_of

Floats = NDArray[np.float32]
Truth = NDArray[np.integer[Any]]

CANDIDATES: Mapping[str, Mapping[Evidence, float]] = {
    "all": {"energy": 1.0, "mahalanobis": 0.5, "residual": 0.2},
    "softmax": {"softmax": 1.0},
    "energy": {"energy": 1.0},
    "mahalanobis": {"mahalanobis": 1.0},
    "knn": {"knn": 1.0},
    "vim": {"energy": 1.0, "residual": 1.0},
}
"""What is tried, as weights of evidence in standard deviations: Hendrycks and Gimpel (arXiv 1610.02136), Liu et al.
(2010.03759), Lee et al. (1807.03888), Sun et al. (2204.06507), Wang et al. (2203.10807).

The first is a sum of what errs on different images: energy tells new classes, the residual what is nothing like any. It
is taken unless another is better beyond chance, for a few classes and images tell little. Its weights, and
``DIMENSIONS``, are from few that were tried on six scenes (benchmarks/certainty.py).
"""
BEYOND_CHANCE = 2.0
"""Standard errors by which another candidate must be better."""
DIMENSIONS = 16
"""Dimensions of the projection, where the images and the model's size allow them."""
FOLDS = 5
LEFT_OUT = 10
"""Classes, or groups of classes where there are more, that are left out in turn."""
FEWEST = 5
"""Images that every class must have; its mean is taken from them, and the folds need one each."""
SHRINKAGE = 0.1
"""The share by which the covariance is moved towards its diagonal."""
NEIGHBOURS = 8
"""Points that stand for a class in ``knn``."""
MOST = 5000
"""Images that a detector learns from, evenly spread."""
SIZE = 0.05
"""What a detector's text may take of the model's own bytes, stored as int8."""
SEED = 0
_EXTRA = 8
"""Directions that the search for the largest ones follows beside those that are wanted."""
_SMALL = 1e-12


@dataclass(frozen=True)
class Detector:
    """A detector's arrays, ready to be used; what no part of it needs is empty."""

    parts: tuple[Part, ...]
    centre: Floats
    projection: Floats
    means: Floats
    whitening: Floats
    head: Floats
    points: Floats

    @classmethod
    def of(cls, unknown: Unknown) -> Detector:
        """The detector of a description; SpecError for arrays that are no numbers."""
        d = unknown.dimensions
        found: dict[str, Floats] = {}
        kinds = {"projection": "<i1", "scales": "<f4", "whitening": "<f4"}
        for name, size in unknown.sizes().items():
            try:
                data = base64.b64decode(getattr(unknown, name), validate=True)
            except ValueError:
                data = b""
            if len(data) != size:
                raise SpecError(f"certainty: {name} is not base64 of {size:,} bytes: calibrate the model again")
            found[name] = np.frombuffer(data, np.dtype(kinds.get(name, "<f2"))).astype(np.float32)
            if not np.isfinite(found[name]).all():
                raise SpecError(f"certainty: {name} holds values that are not finite: calibrate the model again")
        return cls(
            unknown.parts,
            found["centre"],
            found["projection"].reshape(-1, d) * found["scales"],
            found["means"].reshape(-1, d),
            found["whitening"].reshape(-1, d),
            found["head"].reshape(-1, d + 1),
            found["points"].reshape(-1, d),
        )

    def scores(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """How much speaks for each image showing none of the classes, (images,)."""
        place = self.place(features)
        total = np.zeros(len(features))
        for part in self.parts:
            total += part.weight * EVIDENCE[part.evidence](self, place)
        return total

    @cached_property
    def white_means(self) -> Floats:
        """The classes' means where the covariance that they share is the identity."""
        return self.means @ self.whitening

    def place(self, features: NDArray[Any]) -> Place:
        """Where images lie in the projection, and how far they are from it."""
        centred = features.astype(np.float32) - self.centre
        inside = centred @ self.projection
        beside = np.maximum((centred**2).sum(1) - (inside**2).sum(1), 0)
        return Place(inside.astype(np.float32), np.sqrt(beside).astype(np.float32))


class Place(NamedTuple):
    """Images in the projection, (images, dimensions), and the length of what they have beside it, (images,)."""

    inside: Floats
    beside: Floats


def _logits(detector: Detector, place: Place) -> Floats:
    found: Floats = place.inside @ detector.head[:, :-1].T + detector.head[:, -1]
    return found


def _energy(detector: Detector, place: Place) -> Floats:
    """Less the logarithm of the summed exponentials of the logits, as far as the projection holds them."""
    logits = _logits(detector, place)
    largest = logits.max(1)
    found: Floats = -np.log(np.exp(logits - largest[:, None]).sum(1)) - largest
    return found


def _softmax(detector: Detector, place: Place) -> Floats:
    """The logarithm of the likeliest class's probability, negative: the order of 1 less the probability."""
    found: Floats = -_energy(detector, place) - _logits(detector, place).max(1)
    return found


def _mahalanobis(detector: Detector, place: Place) -> Floats:
    """The distance to the nearest class's mean, by the covariance that all classes share."""
    found: Floats = np.sqrt(_squares(place.inside @ detector.whitening, detector.white_means).min(1))
    return found


def _knn(detector: Detector, place: Place) -> Floats:
    """The distance to the nearest of the points that stand for the classes; both of length 1."""
    found: Floats = np.sqrt(_squares(_unit(place.inside), detector.points).min(1))
    return found


def _residual(_: Detector, place: Place) -> Floats:
    """What the projection leaves out."""
    return place.beside


EVIDENCE: Mapping[Evidence, Callable[[Detector, Place], Floats]] = {
    "softmax": _softmax,
    "energy": _energy,
    "mahalanobis": _mahalanobis,
    "knn": _knn,
    "residual": _residual,
}
"""Each kind of evidence: larger for images that show none of the classes."""


class Fitted(NamedTuple):
    """A detector, the cross-fitted scores of the images that it learnt from, and each candidate's mean AUROC.

    ``residual`` is what the projection left out of the same images, cross-fitted too; ``rows`` are their places among
    all that were given.
    """

    unknown: Unknown
    scores: NDArray[np.float64]
    aurocs: dict[str, float]
    residual: NDArray[np.float64]
    rows: NDArray[np.int64]


def fit_unknown(
    features: Floats,
    truth: Truth,
    weight: Floats,
    bias: Floats,
    *,
    strangers: Floats | None = None,
    most_bytes: float = float("inf"),
    seed: int = SEED,
) -> Fitted | None:
    """A detector from images that took no part in training; None where some class has fewer than ``FEWEST``.

    ``strangers`` are features of images that show none of the classes: they help to choose, as much as all left-out
    classes together. Every score in the table is of a detector that has not learnt from its image (cross-fitting).
    ``most_bytes`` is what the text of the arrays may take.
    """
    classes, size = weight.shape
    if int(np.bincount(truth, minlength=classes).min()) < FEWEST:
        return None
    rows = np.arange(len(truth))
    if len(truth) > MOST:
        rows = np.sort(np.random.default_rng(seed).permutation(len(truth))[:MOST])
        features, truth = features[rows], truth[rows]
    dimensions = _dimensions(len(truth), classes, size, most_bytes)
    if dimensions < 2:
        return None
    folds = folds_of(truth, FOLDS, seed)
    evidence = {kind: np.empty(len(truth)) for kind in EVIDENCE}
    for fold in range(FOLDS):
        mine = folds == fold
        learnt = _learn(features[~mine], truth[~mine], weight, bias, dimensions, seed)
        place = learnt.place(features[mine])
        for kind, of in EVIDENCE.items():
            evidence[kind][mine] = of(learnt, place)
    spread = {kind: max(float(values.std()), _SMALL) for kind, values in evidence.items()}
    final = _learn(features, truth, weight, bias, dimensions, seed)
    near = _left_out(features, truth, classes, dimensions, seed)
    if strangers is not None:
        far = final.place(strangers)
        for name, kinds in CANDIDATES.items():
            foreign = sum(weight * EVIDENCE[kind](final, far) / spread[kind] for kind, weight in kinds.items())
            known = sum(weight * evidence[kind] / spread[kind] for kind, weight in kinds.items())
            # As much as all that were left out together.
            found = auroc(np.asarray(known), np.asarray(foreign))
            near[name] = near[name] + [found] * max(1, len(near[name]))
    best = _choose(near)
    kinds = CANDIDATES[best]
    scores = np.asarray(sum(weight * evidence[kind] / spread[kind] for kind, weight in kinds.items()))
    parts = tuple(Part(kind, float(f"{weight / spread[kind]:.9g}")) for kind, weight in kinds.items())
    aurocs = {name: float(np.mean(values)) for name, values in near.items() if values}
    unknown = _pack(final, parts, scores, classes, size, dimensions, aurocs.get(best, 0.0))
    return Fitted(unknown, scores, aurocs, evidence["residual"], rows)


def _choose(aurocs: Mapping[str, Sequence[float]]) -> str:
    """The first candidate, or the best one where that is better beyond chance, pair by pair."""
    first, *_ = aurocs
    best = max(aurocs, key=lambda name: float(np.mean(aurocs[name])) if aurocs[name] else 0.0)
    better = np.subtract(aurocs[best], aurocs[first])
    if best == first or len(better) < 3:
        return first
    chance = float(better.std(ddof=1)) / np.sqrt(len(better))
    return best if float(better.mean()) > BEYOND_CHANCE * chance else first


def auroc(known: NDArray[Any], foreign: NDArray[Any]) -> float:
    """How often a foreign image scores above a known one, ties counting half: the area under the ROC curve."""
    both = np.concatenate([known, foreign])
    _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    above = float(ranks[len(known) :].sum()) - len(foreign) * (len(foreign) + 1) / 2
    return above / (len(known) * len(foreign))


def auroc_interval(known: NDArray[Any], foreign: NDArray[Any]) -> tuple[float, float, float]:
    """The area under the ROC curve with its 95 % interval, by DeLong's variance (1988, Biometrics 44, 837-845)."""
    area = auroc(known, foreign)
    if min(len(known), len(foreign)) < 2:
        return area, 0.0, 1.0
    below = _share_below(known, foreign)  # of each foreign image
    above = 1 - _share_below(foreign, known)
    variance = below.var(ddof=1) / len(foreign) + above.var(ddof=1) / len(known)
    half = 1.959963984540054 * float(np.sqrt(variance))
    return area, max(0.0, area - half), min(1.0, area + half)


def _share_below(values: NDArray[Any], of: NDArray[Any]) -> NDArray[np.float64]:
    """The share of ``values`` below each of the others, ties counting half."""
    ordered = np.sort(values)
    found = np.searchsorted(ordered, of, "left") + np.searchsorted(ordered, of, "right")
    return np.asarray(found / (2 * len(ordered)), np.float64)


def _dimensions(images: int, classes: int, size: int, most_bytes: float) -> int:
    """As many as ``DIMENSIONS``, the images and the bytes allow: base64 takes four characters for three bytes."""
    d = min(DIMENSIONS, images // 4, size // 2)
    while (
        d > 1 and 4 / 3 * (size * (2 + d) + 2 * classes * (2 * d + 1 + NEIGHBOURS * d) + 4 * d * (d + 1)) > most_bytes
    ):
        d -= 1
    return d


def _learn(features: Floats, truth: Truth, weight: Floats, bias: Floats, dimensions: int, seed: int) -> Detector:
    """All that any evidence needs, in the numbers that a description keeps."""
    classes = len(weight)
    means = np.stack([features[truth == label].mean(0) for label in range(classes)])
    centre = _half(means.mean(0))
    within = features - means[truth]
    apart = np.concatenate([_scaled(means - means.mean(0)), _scaled(weight - weight.mean(0))])
    first = _largest(apart, min(2 * (classes - 1), dimensions // 2), seed)
    rest = _largest(within - within @ first @ first.T, dimensions - first.shape[1], seed)
    projection = np.concatenate([first, rest], axis=1)
    scales = np.maximum(np.abs(projection).max(0) / 127, _SMALL).astype(np.float32)
    projection = np.rint(projection / scales) * scales
    inside = within @ projection
    covariance = inside.T @ inside / len(inside)
    diagonal = np.diag(np.maximum(np.diag(covariance), _SMALL))
    values, vectors = np.linalg.eigh((1 - SHRINKAGE) * covariance + SHRINKAGE * diagonal)
    whitening = (vectors / np.sqrt(np.maximum(values, _SMALL))).astype(np.float32)
    head = np.concatenate([weight @ projection, (bias + weight @ centre)[:, None]], axis=1)
    points = _points(_unit((features - centre) @ projection), truth, classes, seed)
    return Detector(
        (),
        centre,
        projection.astype(np.float32),
        _half((means - centre) @ projection),
        whitening,
        _half(head),
        _half(points),
    )


def _left_out(features: Floats, truth: Truth, classes: int, dimensions: int, seed: int) -> dict[str, list[float]]:
    """Each candidate's AUROCs with each class, or group of classes, left out in turn; none for two classes.

    What is left out is left out of the last layer too, which is learnt anew on the remaining classes' images: its own
    weights have seen the class.
    """
    groups = np.array_split(np.random.default_rng(seed).permutation(classes), min(classes, LEFT_OUT))
    found: dict[str, list[float]] = {name: [] for name in CANDIDATES}
    for group in groups:
        strange = np.isin(truth, group)
        kept = np.setdiff1d(np.arange(classes), group)
        if len(kept) < 2 or not strange.any():
            continue
        labels = np.searchsorted(kept, truth[~strange])
        known = features[~strange]
        halves = folds_of(labels, 2, seed)
        learning, other = known[halves == 0], known[halves == 1]
        of = labels[halves == 0]
        weight, bias = _last_layer(learning, of, len(kept))
        learnt = _learn(learning, of, weight, bias, dimensions, seed)
        here, there = learnt.place(other), learnt.place(features[strange])
        evidence = {kind: (value(learnt, here), value(learnt, there)) for kind, value in EVIDENCE.items()}
        for name, kinds in CANDIDATES.items():
            sums = [
                sum(of * evidence[kind][k] / max(evidence[kind][0].std(), _SMALL) for kind, of in kinds.items())
                for k in (0, 1)
            ]
            found[name].append(auroc(np.asarray(sums[0]), np.asarray(sums[1])))
    return found


def _last_layer(features: Floats, truth: Truth, classes: int, *, steps: int = 200) -> tuple[Floats, Floats]:
    """A softmax layer on a few images' features: multinomial regression, by accelerated gradient steps.

    In the space that the images span, where each step takes hardly any time.
    """
    mean = features.mean(0)
    basis = _largest(features - mean, min(4 * DIMENSIONS, *(side // 2 for side in features.shape)), SEED)
    x = (features - mean) @ basis
    scale = float(np.sqrt((x**2).sum(1).mean())) or 1.0
    x = np.concatenate([x / scale, np.ones((len(x), 1), np.float32)], axis=1)
    wanted = 0.9 * np.eye(classes, dtype=np.float32)[truth] + 0.1 / classes
    decay = 1e-4
    rate = 1 / (0.5 * float(np.linalg.norm(x, 2)) ** 2 / len(x) + decay)
    w = ahead = np.zeros((classes, x.shape[1]), np.float32)
    t = 1.0
    for _ in range(steps):
        logits = x @ ahead.T
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        new = ahead - rate * ((p - wanted).T @ x / len(x) + decay * ahead)
        later = (1 + np.sqrt(1 + 4 * t * t)) / 2
        ahead = new + (t - 1) / later * (new - w)
        w, t = new, later
    weight = w[:, :-1] @ basis.T / scale
    return weight.astype(np.float32), (w[:, -1] - weight @ mean).astype(np.float32)


def _largest(rows: NDArray[Any], count: int, seed: int) -> Floats:
    """The ``count`` directions, (columns, count), in which rows are largest (Halko et al., arXiv 0909.4061)."""
    rows = rows.astype(np.float32)
    count = min(count, *rows.shape)
    wide = min(count + _EXTRA, *rows.shape)
    found = np.random.default_rng(seed).standard_normal((rows.shape[1], wide)).astype(np.float32)
    for _ in range(4):
        found, _ = np.linalg.qr(rows.T @ (rows @ found))
    left, _, _ = np.linalg.svd(found.T @ rows.T @ rows @ found) if wide else (found, None, None)
    largest: Floats = (found @ left)[:, :count]
    return largest


def _points(unit: Floats, truth: Truth, classes: int, seed: int) -> Floats:
    """``NEIGHBOURS`` points for each class: centres of its images, by some rounds of k-means from random ones."""
    random, found = np.random.default_rng(seed), []
    for label in range(classes):
        mine = unit[truth == label]
        centres = mine[random.permutation(len(mine))[:NEIGHBOURS]].copy()
        for _ in range(10):
            nearest = _squares(mine, centres).argmin(1)
            for k in np.unique(nearest):
                centres[k] = mine[nearest == k].mean(0)
        found.append(_unit(centres))
    return np.concatenate(found)


def _pack(
    learnt: Detector,
    parts: tuple[Part, ...],
    scores: NDArray[np.float64],
    classes: int,
    features: int,
    dimensions: int,
    reached: float,
) -> Unknown:
    scales = np.maximum(np.abs(learnt.projection).max(0) / 127, _SMALL).astype("<f4")
    kinds = {part.evidence for part in parts}
    arrays: dict[str, NDArray[Any]] = {
        "centre": learnt.centre.astype("<f2"),
        "projection": np.rint(learnt.projection / scales).astype("<i1"),
        "scales": scales,
        "means": learnt.means.astype("<f2") if "mahalanobis" in kinds else np.empty(0),
        "whitening": learnt.whitening.astype("<f4") if "mahalanobis" in kinds else np.empty(0),
        "head": learnt.head.astype("<f2") if kinds & {"softmax", "energy"} else np.empty(0),
        "points": learnt.points.astype("<f2") if "knn" in kinds else np.empty(0),
    }
    texts = {name: base64.b64encode(arrays[name].tobytes()).decode("ascii") for name in ARRAYS}
    return Unknown(parts, make_table(scores), features, classes, dimensions, auroc=float(f"{reached:.4g}"), **texts)


def _half(values: NDArray[Any]) -> Floats:
    """The numbers as a description keeps them."""
    kept: Floats = np.clip(values, -65000, 65000).astype(np.float16).astype(np.float32)
    return kept


def _scaled(rows: NDArray[Any]) -> NDArray[Any]:
    """The rows, of a mean length of 1."""
    found: NDArray[Any] = rows / max(float(np.sqrt((rows**2).sum(1).mean())), _SMALL)
    return found


def _unit(rows: Floats) -> Floats:
    found: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _SMALL)
    return found


def _squares(rows: Floats, points: Floats) -> Floats:
    """The squared distance of each row to each point."""
    squares = (rows**2).sum(1)[:, None] - 2 * rows @ points.T + (points**2).sum(1)
    found: Floats = np.maximum(squares, 0).astype(np.float32)
    return found
