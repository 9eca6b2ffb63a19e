"""Exact binomial figures against printed ones and calculations by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fusiform.tasks.sample_size import (
    LEVEL,
    POWER,
    binomial,
    exact_interval,
    images_to_compare,
    images_to_tell,
)


def test_intervals() -> None:
    # Of none in ten, the upper end is 1 - 0.025 ** (1 / 10); of all, the lower one 0.025 ** (1 / 10).
    np.testing.assert_allclose(exact_interval(0, 10), (0, 1 - 0.025**0.1), atol=1e-12)
    np.testing.assert_allclose(exact_interval(10, 10), (0.025**0.1, 1), atol=1e-12)
    # R's binom.test(8, 10): 0.4439045 0.9747893.
    np.testing.assert_allclose(exact_interval(8, 10), (0.4439045, 0.9747893), atol=5e-8)
    assert exact_interval(0, 0) == (0, 1)


def test_they_hold_the_share_as_often_as_they_say() -> None:
    for share in (0.03, 0.5, 0.9):
        held = [low <= share <= high for low, high in (exact_interval(k, 40) for k in range(41))]
        assert binomial(40, share)[held].sum() >= 1 - LEVEL


def test_binomial_by_hand() -> None:
    np.testing.assert_allclose(binomial(3, 0.5), [1 / 8, 3 / 8, 3 / 8, 1 / 8])
    np.testing.assert_allclose(binomial(2, 0.1), [0.81, 0.18, 0.01])
    assert binomial(2, 1.0).tolist() == [0, 0, 1]
    assert binomial(2, 0.0).tolist() == [1, 0, 0]


def test_images_to_tell() -> None:
    # Half from four fifths, 20: of 20 images 15 have to be right for the test (0.0207 <= 0.025 < 0.0577), and of those
    # that are right four times in five they are in 0.804; of 19 too 15 have to be (0.0096), which they are in 0.673.
    assert images_to_tell(0.5, 0.8) == 20
    assert binomial(20, 0.5)[15:].sum() <= LEVEL / 2 < binomial(20, 0.5)[14:].sum()
    assert binomial(20, 0.8)[15:].sum() >= POWER
    assert images_to_tell(0.5, 0.2) == 20
    # The normal approximation says 4,898, without the steps.
    assert images_to_tell(0.93, 0.94) == pytest.approx(4898, rel=0.03)


def test_images_to_compare() -> None:
    # The better of two that never err on the same image wins all pairs: six of them suffice (2 / 64 <= 0.05), which
    # there are in four fifths of all samples of n images from n = 76 on, of which a tenth are pairs.
    found = images_to_compare(0.0999, 0.1)
    assert 76 <= found <= 80
    assert binomial(found, 0.1)[6:].sum() >= 0.79
    # Connor (1987): about ((1.96 + 0.84) / 0.01) ** 2 * 0.07.
    assert images_to_compare(0.01, 0.07) == pytest.approx(5490, rel=0.06)
