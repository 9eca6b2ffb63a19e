"""Regions of masks that are probably wrong: answers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fusiform.tasks.mask_noise import confident_regions, connected, doubted_regions, look_at_mask, softmin


def answer(likeliest: NDArray[np.int64], probability: float, classes: int = 3) -> NDArray[np.float32]:
    """What a segmenter says that gives one class this much everywhere, and the others the same."""
    values = np.full((*likeliest.shape, classes), (1 - probability) / (classes - 1), np.float32)
    np.put_along_axis(values, likeliest[..., None], np.float32(probability), 2)
    return values


def test_a_region_of_another_class() -> None:
    found = np.zeros((100, 100), np.int64)
    found[20:50, 30:70] = 2
    truth = np.zeros((100, 100), np.int64)
    truth[:10] = -1
    look = look_at_mask(answer(found, 0.9), truth, known=(0, 1, 2))
    (region,) = look.regions
    # 30 x 40 pixels, less 4 at each side.
    assert (region.label, region.other, region.pixels, region.edges) == (0, 2, 22 * 32, (34, 24, 66, 46))
    assert region.probability == pytest.approx(0.9)
    assert region.gain == pytest.approx(22 * 32 * (0.9 - 0.05) / 9000)
    assert look.counts.tolist() == [9000, 0, 0]
    assert look.sums[0] == pytest.approx(7800 * 0.9 + 1200 * 0.05)
    confident = confident_regions([look], 3)
    # Nothing is labelled with the others.
    np.testing.assert_allclose(confident, [(7800 * 0.9 + 1200 * 0.05) / 9000, 1, 1], rtol=1e-6)
    # Where a class gets less than 0.6 on average, 0.6 is the least.
    unsure = look_at_mask(answer(found, 0.5), np.zeros((100, 100), np.int64), known=(0, 1, 2))
    np.testing.assert_allclose(confident_regions([unsure], 3), [0.6, 1, 1])
    assert doubted_regions({7: look}, confident) == []
    assert doubted_regions({7: look}, np.array([1, 1, 0.9 - 1e-6])) == [(7, region)]
    assert doubted_regions({7: look}, np.array([1, 1, 0.95])) == []
    # A class that the dataset does not have is nothing to correct a mask to.
    assert look_at_mask(answer(found, 0.9), truth, known=(0, 1)).regions == ()


def test_borders_and_specks_are_no_regions() -> None:
    found = np.zeros((100, 100), np.int64)
    found[:, 40:48] = 1  # 8 pixels wide: nothing is left without 4 at each side
    found[10:24, 70:84] = 1  # 6 x 6 are left, 0.36 % of the picture
    assert look_at_mask(answer(found, 0.95), np.zeros((100, 100), int), known=(0, 1)).regions == ()


def test_the_softmin_of_the_labels_probabilities() -> None:
    weights = np.exp([0, -1])
    assert softmin(np.array([0.1, 0.2])) == pytest.approx((0.1 * weights[0] + 0.2 * weights[1]) / weights.sum())
    assert softmin(np.array([0.7, 0.7])) == pytest.approx(0.7)
    unlabelled = look_at_mask(answer(np.zeros((8, 8), np.int64), 0.9), np.full((8, 8), -1), known=(0,))
    assert (unlabelled.quality, unlabelled.regions) == (None, ())


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.floats(0.2, 0.9))
def test_connected_regions_are_those_that_a_flood_fills(seed: int, height: int, width: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    left = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    expected = set()
    while left:
        waiting, region = [left.pop()], set()
        while waiting:
            row, column = waiting.pop()
            region.add((row, column))
            near = {(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)} & left
            left -= near
            waiting += near
        expected.add(frozenset(region))
    found = [frozenset(zip(rows.tolist(), columns.tolist(), strict=True)) for rows, columns in connected(mask)]
    assert len(found) == len(expected)
    assert set(found) == expected
