"""The permutation test against calculations by hand, its false alarms, and what it finds."""

from __future__ import annotations

from itertools import combinations
from math import comb, erfc

import numpy as np
import pytest

from fusiform.tasks.two_samples import _columns, _normal, _scores, _tail, sizes_of_tests, tell_apart

CLASSES, MEASURED = 4, 6


def drawn(random: np.random.Generator, count: int, new: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Measures and classes of images that hang together; a share ``new`` takes the name 1, and lies a little apart."""
    strange = random.random(count) < new
    named = np.where(strange, 1, random.integers(CLASSES, size=count))
    values = random.normal(size=(count, MEASURED)) + random.normal(size=(count, 1)) + named[:, None]
    values[strange] += [0.8, -0.8, 0, 0.8, 0, -0.8]
    return values.round(1), named


def test_when_it_is_tested() -> None:
    assert sizes_of_tests(49) == []
    assert sizes_of_tests(50) == [(50, 0.25)]
    found = sizes_of_tests(3200)
    assert [size for size, _ in found] == [50, 100, 200, 400, 800, 1600, 3200]
    np.testing.assert_allclose([share for _, share in found], [1 / 4, 1 / 4, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64])
    assert sizes_of_tests(900) == found[:5]  # what comes later changes nothing of what was


def test_scores_by_hand() -> None:
    # Of eight images three are named 1, of which both of the stream's two are: 2 - 2 * 3 / 8 above what is expected, in
    # standard deviations of the hypergeometric distribution.
    named = np.array([0, 0, 1, 0, 0, 0, 1, 1])
    columns, sizes = _columns(np.zeros((8, 1)), named, 2)
    assert sizes == [0, 0]  # too few images, and all alike
    member = np.array([[0, 0, 0, 0, 0, 0, 1, 1]], np.float32)
    often, moved = _scores(columns, sizes, member, 2)[:, 0]
    expected = (2 - 0.75) / np.sqrt(2 * 6 / 7 * 3 / 8 * 5 / 8)
    np.testing.assert_allclose(often, [-np.log(erfc(z / np.sqrt(2)) / 2) for z in (-expected, expected)], rtol=1e-3)
    np.testing.assert_allclose(moved, 0, atol=1e-6)


def test_normal_scores() -> None:
    # A standard normal number is below 0.967422 with a chance of 5/6.
    np.testing.assert_allclose(_normal(np.array([7.0, 1, 3])), [0.967422, -0.967422, 0], atol=1e-6)
    np.testing.assert_allclose(_normal(np.full(5, 2.0)), 0, atol=1e-12)
    chances = np.interp([0, 1.644854, 3.090232, 4.753424], *_tail())
    np.testing.assert_allclose(chances, -np.log([0.5, 0.05, 1e-3, 1e-6]), rtol=1e-4)


def test_measures_of_a_class_do_not_hang_together() -> None:
    values, named = drawn(np.random.default_rng(0), 400)
    columns, sizes = _columns(np.column_stack([values, values[:, 0], np.ones(400)]), named, CLASSES)
    assert sizes == [MEASURED] * CLASSES  # neither what was there already nor what is the same for all
    for label in range(CLASSES):
        mine = columns[named == label][:, CLASSES + label * MEASURED : CLASSES + (label + 1) * MEASURED]
        np.testing.assert_allclose(mine.T @ mine / len(mine), np.eye(MEASURED), atol=1e-4)


def test_permutations_reach_what_all_samples_do() -> None:
    """Of all samples of 3 of 12 images the share in which some class is named at least as unexpectedly often."""
    named = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 1, 1, 0])
    values = np.zeros((12, 1))
    columns, sizes = _columns(values, named, 3)
    samples = np.zeros((comb(12, 3), 12), np.float32)
    for row, chosen in enumerate(combinations(range(12), 3)):
        samples[row, list(chosen)] = 1
    largest = _scores(columns, sizes, samples, 3).sum(0).max(1)
    own = samples[-1:]
    exact = (largest >= _scores(columns, sizes, own, 3).sum(0).max() * (1 - 1e-5)).mean()
    told = tell_apart((values[:9], named[:9]), (values[9:], named[9:]), 3, 0.01, np.random.default_rng(1))
    coarse = tell_apart((values[:9], named[:9]), (values[9:], named[9:]), 3, 0.99, np.random.default_rng(1))
    assert coarse.p == pytest.approx(exact, abs=0.3)
    assert told.p == pytest.approx(exact, abs=0.06)
    assert told.label == 1
    assert told.oftener


def test_false_alarms_are_no_more_than_stated() -> None:
    alarms = 0
    for number in range(400):
        random = np.random.default_rng(number)
        told = tell_apart(drawn(random, 200), drawn(random, 60), CLASSES, 0.05, random)
        alarms += told.p <= 0.05
    # A twentieth, and 3 standard errors above and 4 below: it is exact.
    assert 0.05 - 4 * np.sqrt(0.05 * 0.95 / 400) <= alarms / 400 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_a_new_class_under_a_known_name_is_found() -> None:
    found = []
    for number in range(10):
        random = np.random.default_rng(number)
        known, stream = drawn(random, 600), drawn(random, 200, 0.2)
        told = tell_apart(known, stream, CLASSES, 0.001, random)
        found.append(told.p <= 0.001)
        assert told.label == 1 or not found[-1]
        assert ((told.unlike > -np.inf) == (stream[1] == 1)).all() or not found[-1]
    assert sum(found) >= 9


def test_a_level_that_no_permutation_reaches() -> None:
    random = np.random.default_rng(0)
    assert tell_apart(drawn(random, 200), drawn(random, 60, 0.9), CLASSES, 1e-9, random).p > 1e-9
