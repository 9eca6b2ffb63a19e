"""Which unlabelled images to label: uncertain ones that are unlike each other, in numpy.

``features`` are (images, D). Numbers that are returned are places in them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

CHOICE = 3
"""How many of the most uncertain images there are to choose from for each that is picked."""
_ROUNDS = 10


def pick(
    features: NDArray[Any], count: int, *, margins: NDArray[np.float64] | None = None, seed: int = 0
) -> NDArray[np.int64]:
    """The numbers of ``count`` images to label, the most uncertain first; all where there are no more.

    ``margins`` (images,) are the likeliest class's probability less the next one's: the ``CHOICE`` times ``count``
    images with the least are clustered by k-means, the uncertain ones weighing more, and of each cluster one is taken
    that is near its centre and uncertain (Zhdanov, arXiv 1901.05954). Without margins, for the first labels, all images
    are clustered and the most typical ones taken (Hacohen et al., arXiv 2202.02794, in its simplest form).
    """
    images = len(features)
    if margins is None:
        choice, weights = np.arange(images), np.ones(images)
    else:
        choice = np.argsort(margins, kind="stable")[: CHOICE * count]
        weights = 1 - margins[choice] + 1e-6
    if count >= len(choice):
        return choice
    points = features[choice].astype(np.float32)
    nearest, distances = _cluster(points, weights.astype(np.float32), count, np.random.default_rng(seed))
    best = np.lexsort((distances / weights, nearest))
    first = np.unique(nearest[best], return_index=True)[1]
    taken = best[first]
    rest = np.setdiff1d(np.arange(len(choice)), taken)  # ascending: the most uncertain first
    picked: NDArray[np.int64] = choice[np.sort(np.concatenate([taken, rest[: count - len(taken)]]))]
    return picked


def _cluster(
    points: NDArray[np.float32], weights: NDArray[np.float32], count: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The number of each point's cluster and its squared distance from that one's centre: weighted k-means."""
    shares = weights.astype(np.float64) / weights.sum(dtype=np.float64)
    centres = points[random.choice(len(points), count, replace=False, p=shares)]
    for _ in range(_ROUNDS):
        nearest = nearest_of(points, centres)[0]
        members = (nearest == np.arange(count)[:, None]) * weights
        sums = members.sum(1, keepdims=True)
        centres = np.where(sums > 0, members @ points / np.maximum(sums, 1e-12), centres)
    return nearest_of(points, centres)


def nearest_of(
    points: NDArray[np.float32], centres: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each point the number of the nearest centre, and the square of its distance."""
    numbers, squares = np.empty(len(points), np.int64), np.empty(len(points), np.float32)
    lengths = np.square(centres).sum(1)
    for start in range(0, len(points), 1024):
        rows = points[start : start + 1024]
        found = np.square(rows).sum(1)[:, None] - 2 * rows @ centres.T + lengths
        numbers[start : start + 1024] = found.argmin(1)
        squares[start : start + 1024] = np.maximum(found.min(1), 0)
    return numbers, squares


def strangeness(features: NDArray[Any], known: NDArray[Any]) -> NDArray[np.float64]:
    """The share of the known images, one more counted, that are as far from all other known ones as each image is.

    In (0, 1]; distances are between the directions of features (Sun et al., arXiv 2204.06507, with one neighbour). Of
    images that are as the known ones, a share of p has p or less, whatever they show.
    """
    known, features = _directions(known), _directions(features)
    own = np.empty(len(known))
    for start in range(0, len(known), 1024):
        near = known[start : start + 1024] @ known.T
        near[np.arange(len(near)), np.arange(start, start + len(near))] = -np.inf
        own[start : start + 1024] = near.max(1)
    own.sort()
    theirs = np.concatenate([(features[s : s + 1024] @ known.T).max(1) for s in range(0, len(features), 1024)])
    found: NDArray[np.float64] = (np.searchsorted(own, theirs, side="right") + 1) / (len(known) + 1)
    return found


def _directions(features: NDArray[Any]) -> NDArray[np.float32]:
    values = features.astype(np.float32)
    found: NDArray[np.float32] = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return found
