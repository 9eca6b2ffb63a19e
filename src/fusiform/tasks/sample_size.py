"""How many test images it takes: exact binomial intervals and tests, in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
"""How often a test may see a difference where there is none, two-sided."""
POWER = 0.8
"""How often a difference that is there has to be seen."""


def exact_interval(right: int, images: int, *, level: float = LEVEL) -> tuple[float, float]:
    """The two-sided interval of a share that holds it in at least 1 - ``level`` of all samples, whatever it is.

    Clopper and Pearson 1934, Biometrika 26, 404-413. (0, 1) where there are no images.
    """
    if images == 0:
        return 0.0, 1.0
    low = 0.0 if right == 0 else _root(lambda share: _upper(right, images, share) - level / 2)
    high = 1.0 if right == images else _root(lambda share: level / 2 - (1 - _upper(right + 1, images, share)))
    return low, high


@cache
def images_to_tell(share: float, other: float) -> int:
    """The fewest test images on which an accuracy of ``other`` is told from a known one of ``share``.

    By the exact binomial test at ``LEVEL``, two-sided, in at least ``POWER`` of all samples. Both are in [0, 1] and not
    the same.
    """
    if share > other:  # the same question of the errors
        share, other = 1 - share, 1 - other
    spread = 1.96 * math.sqrt(share * (1 - share)) + 0.8416 * math.sqrt(other * (1 - other))
    images = max(1, int(0.97 * (spread / (other - share)) ** 2) - 20)  # the exact number is never far below
    while True:
        tails = np.cumsum(binomial(images, share)[::-1])[::-1]  # of at least so many right
        enough = int((tails > LEVEL / 2).sum())
        if enough <= images and binomial(images, other)[enough:].sum() >= POWER:
            return images
        images += 1


def images_to_compare(difference: float, disagreement: float) -> int:
    """The test images on which one model is told from another that is right less often by ``difference``.

    Both answer the same images, and are not both right or both wrong on ``disagreement`` of them (more than the
    difference). By McNemar's exact test at ``LEVEL``, in at least ``POWER`` of all samples; to one in a hundred.
    """
    better = (disagreement + difference) / (2 * disagreement)
    pairs = 1
    while _sign_power(pairs, better) < POWER:  # on the way up it falls again and again, by little
        pairs += max(1, pairs // 200)
    images = pairs / disagreement
    powers: dict[int, float] = {}
    while True:
        count = math.ceil(images)
        chances = binomial(count, disagreement)
        likely = np.flatnonzero(chances > 1e-6)
        for m in likely.tolist():
            if m not in powers:
                powers[m] = _sign_power(m, better)
        if sum(chances[m] * powers[m] for m in likely.tolist()) >= POWER:
            return count
        images *= 1.01


def binomial(count: int, share: float) -> NDArray[np.float64]:
    """The probabilities of 0 to ``count`` successes."""
    if share in (0.0, 1.0):
        certain = np.zeros(count + 1)
        certain[count if share else 0] = 1.0
        return certain
    k = np.arange(count + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    found: NDArray[np.float64] = np.exp(
        logs[count] - logs - logs[::-1] + k * math.log(share) + (count - k) * math.log1p(-share)
    )
    return found


def _upper(successes: int, count: int, share: float) -> float:
    """The probability of at least so many."""
    return float(binomial(count, share)[successes:].sum())


def _sign_power(pairs: int, better: float) -> float:
    """How often the sign test of so many pairs sees that the better one wins ``better`` of them."""
    tails = np.cumsum(binomial(pairs, 0.5)[::-1])[::-1]
    enough = int((tails > LEVEL / 2).sum())
    return float(binomial(pairs, better)[enough:].sum()) if enough <= pairs else 0.0


def _root(rising: Callable[[float], float]) -> float:
    """Where a function that rises with the share is 0."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2
