"""Cross-validation: which part of the images each one is judged in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def folds_of(
    labels: NDArray[np.integer[Any]], count: int, seed: int, groups: Sequence[Sequence[int]] = ()
) -> NDArray[np.int64]:
    """The fold of each image, from 0 to ``count`` - 1: those of a class are dealt out in turn.

    ``groups`` are the numbers of images that belong together, such as copies of one: all go with the first of them.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), np.int64)
    folds[order] = np.arange(len(labels)) % count
    for group in groups:
        folds[list(group)] = folds[group[0]]
    return folds
