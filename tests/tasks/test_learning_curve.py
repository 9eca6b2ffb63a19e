"""Curves that are known are foretold."""

from __future__ import annotations

import numpy as np
import pytest

from fusiform.tasks.learning_curve import Curve

SIZES = np.array([100, 200, 400, 800])


def drawn(errors: np.ndarray, images: int = 20_000, orders: int = 5) -> np.ndarray:
    """Answers with these errors on average, nested: who is right with fewer images stays right with more."""
    random = np.random.default_rng(0)
    hardness = random.random(images)
    return np.broadcast_to(hardness >= errors[:, None], (orders, len(errors), images))


@pytest.mark.parametrize("power", [0.2, 0.35])
def test_a_power_law(power: float) -> None:
    curve = Curve(SIZES, drawn(2.0 * SIZES**-power * 0.3))
    foretold = curve.at(3200)
    assert foretold.low <= 1 - 0.6 * 3200**-power <= foretold.high
    assert foretold.high - foretold.low < 0.06


def test_a_floor() -> None:
    curve = Curve(SIZES, drawn(0.05 + SIZES**-0.5))
    foretold = curve.at(3200)
    assert foretold.low <= 0.95 - 3200**-0.5 <= foretold.high


def test_more_images_never_harm() -> None:
    curve = Curve(SIZES, drawn(np.array([0.1, 0.11, 0.12, 0.13])))
    assert curve.at(6400).accuracy == pytest.approx(curve.at(800).accuracy, abs=0.005)


def test_few_test_images_make_it_wide() -> None:
    errors = 0.05 + SIZES**-0.5
    wide, narrow = (Curve(SIZES, drawn(errors, images)).at(1600) for images in (100, 10_000))
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_two_subsets_are_no_curve() -> None:
    with pytest.raises(ValueError, match="three subsets"):
        Curve(SIZES[:2], drawn(np.array([0.2, 0.1])))
