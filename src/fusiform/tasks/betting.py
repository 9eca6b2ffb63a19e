"""Whether a stream of numbers is still like the reference: bets on ranks, which win only if it is not; in numpy.

Each new number's rank among the reference and all before it is, while nothing changes, equally likely to be any
(Vovk et al., Algorithmic Learning in a Random World, 2005, Section 7.1). Who bets on such ranks at fair odds does not
get rich: the chance that the wealth ever reaches 1 / alpha is at most alpha (Ville 1939), however long one looks. Of
several who bet on different ranks, one who reaches 1 / (alpha * share) is found with a chance of at most alpha, if the
shares sum to 1. What they have together need not be fair: each one's odds are, given its own past, not that of all.
"""

from __future__ import annotations

import bisect

import numpy as np
from numpy.typing import NDArray

BETS = ((1.0, 0.3), (1.0, 0.7), (0.5, 0.5))
"""Bets of 1 - e + e k p^(k - 1) on small ranks and on large ones, e and k: as if a share e of the numbers had changed,
which is the bolder the smaller k is. Their mean over all ranks is 1."""
MORE, LESS = 0.2, 0.8
"""The shares of images that are bet to have come to a class, and to have left it."""


def conformal_ranks(
    reference: NDArray[np.float64], stream: NDArray[np.float64], random: np.random.Generator
) -> NDArray[np.float64]:
    """The rank of each number of the stream among the reference and those before it, in (0, 1); ties are drawn.

    Independent and uniform if all of them come in random order from one source.
    """
    seen = sorted(reference.tolist())
    drawn = 1 - random.random(len(stream))
    ranks = np.empty(len(stream))
    for number, value in enumerate(stream.tolist()):
        low, high = bisect.bisect_left(seen, value), bisect.bisect_right(seen, value)
        ranks[number] = (low + drawn[number] * (high - low + 1)) / (len(seen) + 1)
        seen.insert(high, value)
    return ranks


def wealth(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithm of the wealth after each rank: (2, ranks), of bets that ranks are small, and that they are large.

    Each begins with 1, which is shared out equally among the ``BETS``.
    """
    found = []
    for side in (ranks, 1 - ranks):
        small = np.maximum(side, 1e-12)
        bets = [np.cumsum(np.log(1 - share + share * power * small ** (power - 1))) for share, power in BETS]
        found.append(np.logaddexp.reduce(bets, axis=0) - np.log(len(BETS)))
    return np.array(found)


def class_wealth(ranks: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """The same for ranks of 0 and 1, whether a class was named: of bets that it is named less often, and more often.

    The largest ``1 / classes`` of the ranks are taken for those of the class, whatever its share: bets may not know the
    numbers that the ranks are among.
    """
    named = ranks >= 1 - 1 / classes
    more = np.where(named, 1 - MORE + MORE * classes, 1 - MORE)
    rest = max(1 - 1 / classes, 0.5)  # of one class, nothing can leave it
    less = np.where(ranks < rest, 1 - LESS + LESS / rest, 1 - LESS)
    return np.array([np.cumsum(np.log(less)), np.cumsum(np.log(more))])
