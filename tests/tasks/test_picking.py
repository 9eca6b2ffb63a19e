"""What is picked, on points in a plane."""

from __future__ import annotations

import numpy as np

from fusiform.tasks.picking import pick, strangeness


def heaps(count: int, each: int) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.concatenate([random.normal((20 * k, 10 * k), 0.1, (each, 2)) for k in range(count)])


def test_without_margins_each_heap_gives_its_most_typical_image() -> None:
    points = heaps(4, 25)
    # k-means finds the heaps from most beginnings; from any one it finds three of them.
    found = pick(points, 4)
    assert len(set(found // 25)) >= 3
    assert len(set(found)) == 4


def test_the_uncertain_ones_are_picked_and_they_are_unlike_each_other() -> None:
    points = heaps(3, 20)
    margins = np.full(60, 0.9)
    margins[[1, 2, 21, 22, 41, 42]] = (0.1, 0.2, 0.1, 0.2, 0.1, 0.2)
    found = pick(points, 2, margins=margins)
    assert set(found) <= {1, 2, 21, 22, 41, 42}
    assert len(set(found // 20)) == 2
    assert (np.diff(margins[found]) >= 0).all()


def test_all_where_there_are_no_more() -> None:
    points = heaps(1, 5)
    assert pick(points, 9).tolist() == [0, 1, 2, 3, 4]
    assert sorted(pick(points, 9, margins=np.arange(5) / 5).tolist()) == [0, 1, 2, 3, 4]


def test_the_same_image_many_times() -> None:
    assert len(set(pick(np.ones((30, 3)), 5).tolist())) == 5


def test_strangeness_by_hand() -> None:
    # Directions at 0, 10, 30 and 80 degrees: the nearest of the others are 10, 10, 20 and 50 degrees away. One at 5
    # degrees is 5 away, which all are at least: 1. One at 180 is 100 away: 1 / 5. One at 55 is 25 away: one.
    def at(*degrees: float) -> np.ndarray:
        angles = np.radians(degrees)
        return 3 * np.stack([np.cos(angles), np.sin(angles)], 1)

    np.testing.assert_allclose(strangeness(at(5, 180, 55), at(0, 10, 30, 80)), [1, 0.2, 0.4])


def test_of_known_images_no_more_are_strange_than_said() -> None:
    random = np.random.default_rng(1)
    known, new = random.normal(0, 1, (2, 500, 8)) + 2
    found = strangeness(new, known)
    for share in (0.05, 0.2):
        assert (found <= share).mean() < share + 3 * np.sqrt(2 * share / 500)
