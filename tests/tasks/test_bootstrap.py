from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fusiform.tasks.bootstrap import RESAMPLES, Compared, Comparison, Interval, compare, intervals, resamples

VALUES = np.random.default_rng(5).normal(3, 2, 200)


def mean_of(values: NDArray[np.float64]) -> object:
    return lambda weights: (weights @ values / weights.sum(1))[:, None]


def test_a_resample_has_as_many_pictures_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = np.concatenate(list(resamples(7)))
    assert drawn.shape == (RESAMPLES, 7)
    assert (drawn.sum(1) == 7).all()
    # Each picture is left out of a resample with (6 / 7)^7.
    assert (drawn == 0).mean() == pytest.approx((6 / 7) ** 7, abs=0.02)
    monkeypatch.setattr("fusiform.tasks.bootstrap._CELLS", 100)
    parts = list(resamples(7))
    assert max(map(len, parts)) == 14
    np.testing.assert_array_equal(np.concatenate(parts), drawn)


def test_the_interval_of_a_mean_is_the_one_of_the_textbook() -> None:
    (found,) = intervals(mean_of(VALUES), len(VALUES), most=9)  # type: ignore[arg-type]
    half = 1.96 * VALUES.std() / np.sqrt(len(VALUES))
    assert found.value == pytest.approx(VALUES.mean())
    assert found.low == pytest.approx(VALUES.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(VALUES.mean() + half, abs=0.15 * half)
    assert found.excludes_zero
    assert not Interval(0.1, -0.1, 0.3).excludes_zero
    assert Interval(-0.2, -0.3, -0.1).excludes_zero
    assert not Interval(None, None, None).excludes_zero


def test_an_interval_lies_around_its_figure() -> None:
    """The largest value in a resample is never above the largest of all: moved, its values lie on both sides."""

    def largest(weights: NDArray[np.int32]) -> NDArray[np.float64]:
        return np.where(weights > 0, np.arange(20) / 20, 0).max(1)[:, None]

    (found,) = intervals(largest, 20)
    assert found.value == 0.95
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.95 < found.high <= 1
    (capped,) = intervals(largest, 20, least=0.94, most=0.96)
    assert capped == (0.95, 0.94, 0.96)


def test_what_has_no_value_has_no_interval() -> None:
    def figure(weights: NDArray[np.int32]) -> NDArray[np.float64]:
        # The second needs the first picture: a third of the resamples lack it.
        first = np.where(weights[:, 0] > 0, 1.0, np.nan)
        return np.stack([np.full(len(weights), np.nan), first], axis=1)

    assert intervals(figure, 3) == [(None, None, None), (1, 1, 1)]
    assert intervals(figure, 1) == [(None, None, None), (1, 1, 1)]


def test_a_paired_difference_is_narrower_than_both() -> None:
    """What is hard for both models is no difference: here the second is 0.3 worse on every picture, give or take."""
    other = VALUES - 0.3 + np.random.default_rng(6).normal(0, 0.1, len(VALUES))
    # In the second, the pictures come in another order, and one that the first has not stands before them.
    order = np.random.default_rng(7).permutation(len(VALUES))
    second = np.append([1e6], other[order])
    pairs = [(int(i), k + 1) for k, i in enumerate(order)]
    (found,) = compare(
        ("mean",),
        mean_of(VALUES),  # type: ignore[arg-type]
        mean_of(second),  # type: ignore[arg-type]
        pairs=pairs,
        pictures=(200, 201),
    )
    assert (found.name, found.value, found.other) == (
        "mean",
        pytest.approx(VALUES.mean()),
        pytest.approx(other.mean()),
    )
    value, low, high = found.difference
    assert value == pytest.approx((VALUES - other).mean())
    half = 1.96 * (VALUES - other).std() / np.sqrt(len(VALUES))
    assert (low, high) == pytest.approx((value - half, value + half), abs=0.2 * half)


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ((0.1, 0.02, 0.2), "a.tflite has the higher mean IoU, by 10.0 percentage points over b.tflite (95 % interval"),
        ((0.1, 0.02, 0.2), "interval 2.0 to 20.0); the difference is real"),
        ((-0.1, -0.2, -0.02), "b.tflite has the higher mean IoU, by 10.0 percentage points over a.tflite"),
        ((-0.1, -0.2, -0.02), "interval 2.0 to 20.0); the difference is real"),
        ((-0.1, -0.2, 0.02), "interval -2.0 to 20.0); the difference cannot be told from chance"),
        ((0.0, 0.0, 0.0), "a.tflite and b.tflite have the same mean IoU"),
        ((None, None, None), "cannot be compared: there is nothing to find"),
    ],
)
def test_comparisons_speak_plainly(difference: tuple[float | None, ...], words: str) -> None:
    compared = Compared("miou", 0.5, 0.4, Interval(*difference))
    assert words in Comparison("a.tflite", "b.tflite", 3, "mean IoU", (compared,)).sentence
