"""Ranks and bets against calculations by hand, and false alarms over many streams."""

from __future__ import annotations

import numpy as np

from fusiform.tasks.betting import BETS, LESS, MORE, class_wealth, conformal_ranks, wealth


class Half:
    """Draws the middle of every tie."""

    def random(self, count: int) -> np.ndarray:
        return np.full(count, 0.5)


def test_ranks_by_hand() -> None:
    # Among 1, 2, 3 a 2 has one below and, with itself, two that are equal: (1 + 0.5 * 2) / 4. Then a 9 among four:
    # (4 + 0.5) / 5; then a 0 among five: 0.5 / 6.
    ranks = conformal_ranks(np.array([3.0, 1, 2]), np.array([2.0, 9, 0]), Half())  # type: ignore[arg-type]
    np.testing.assert_allclose(ranks, [2 / 4, 4.5 / 5, 0.5 / 6])


def test_ranks_are_uniform_with_ties_and_without() -> None:
    random = np.random.default_rng(0)
    for values in (random.normal(size=6000), random.integers(0, 3, 6000)):
        ranks = conformal_ranks(values[:1000].astype(float), values[1000:].astype(float), random)
        counts = np.histogram(ranks, 10, (0, 1))[0]
        assert np.square(counts - 500).sum() / 500 < 27.9  # chi-squared, 9 degrees of freedom, 0.1 %


def test_wealth_by_hand() -> None:
    # One rank of 0.25: the bets on small ranks become 1 - e + e k 0.25^(k - 1), those on large ones with 0.75.
    small = np.mean([1 - e + e * k * 0.25 ** (k - 1) for e, k in BETS])
    large = np.mean([1 - e + e * k * 0.75 ** (k - 1) for e, k in BETS])
    np.testing.assert_allclose(np.exp(wealth(np.array([0.25])))[:, 0], [small, large])
    # Each bet is fair: its mean over all ranks is 1.
    ranks = (np.arange(200_000) + 0.5) / 200_000
    for e, k in BETS:
        np.testing.assert_allclose((1 - e + e * k * ranks ** (k - 1)).mean(), 1, rtol=0.08)


def test_bets_on_a_class_by_hand() -> None:
    # Of four classes the largest quarter of the ranks are the class's.
    less, more = np.exp(class_wealth(np.array([0.5, 0.9]), 4))
    np.testing.assert_allclose(more, np.cumprod([1 - MORE, 1 - MORE + 4 * MORE]))
    np.testing.assert_allclose(less, np.cumprod([1 - LESS + LESS / 0.75, 1 - LESS]))
    for classes in (1, 2, 3, 20):  # fair: the mean over all ranks is 1
        ranks = (np.arange(60_000) + 0.5) / 60_000
        means = [np.exp(np.diff(side, prepend=0)).mean() for side in class_wealth(ranks, classes)]
        np.testing.assert_allclose(means, 1, rtol=1e-3)


def test_a_class_that_comes_more_often_is_found() -> None:
    random = np.random.default_rng(5)
    reference, stream = (random.random(800) < 0.2).astype(float), (random.random(200) < 0.36).astype(float)
    less, more = class_wealth(conformal_ranks(reference, stream, random), 5)
    assert more.max() > np.log(100)
    assert less[-1] < 0


def test_false_alarms_are_no_more_than_stated() -> None:
    random = np.random.default_rng(3)
    alarms = 0
    for _ in range(400):
        values = random.normal(size=150)
        small, large = wealth(conformal_ranks(values[:50], values[50:], random))
        alarms += max(small.max(), large.max()) >= np.log(2 / 0.1)
    # Two bettors who begin with a half each: at most a tenth, and 3 standard errors.
    assert alarms / 400 <= 0.1 + 3 * np.sqrt(0.09 / 400)


def test_a_shift_is_found() -> None:
    random = np.random.default_rng(4)
    small, large = wealth(conformal_ranks(random.normal(size=300), random.normal(1, 1, 100), random))
    assert large[-1] > np.log(1e4)
    assert small[-1] < 0
