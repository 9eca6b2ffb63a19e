"""Precision, recall and ROC of a class against the rest: by hand, by definition, and as scikit-learn has them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fusiform.tasks.ranking_metrics import average_precisions, curve

SCORES = np.array([0.9, 0.8, 0.8, 0.4, 0.1])
POSITIVE = np.array([True, False, True, True, False])


def areas(scores: np.ndarray, positive: np.ndarray, weights: object = None) -> tuple[float, float]:
    drawn = np.ones((1, len(scores)), np.int32) if weights is None else np.array([weights], np.int32)
    average, area = average_precisions(scores, positive, drawn)
    return float(average[0]), float(area[0])


@st.composite
def ranked(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores of which many are equal, and both kinds of images."""
    count = draw(st.integers(2, 25))
    scores = draw(arrays(np.float64, count, elements=st.integers(0, 8).map(lambda k: k / 8)))
    positive = draw(arrays(bool, count))
    positive[:2] = True, False
    return scores, positive


def test_a_curve_by_hand() -> None:
    found = curve(SCORES, POSITIVE)
    assert found.thresholds.tolist() == [0.9, 0.8, 0.4, 0.1]
    assert found.precision == pytest.approx([1, 2 / 3, 3 / 4, 3 / 5])
    assert found.recall == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert found.false_positive_rate == pytest.approx([0, 1 / 2, 1 / 2, 1])
    # 1/3 (1 + 2/3 + 3/4); of 6 pairs 4 are in order and one is a tie.
    assert areas(SCORES, POSITIVE) == pytest.approx((29 / 36, 4.5 / 6))


def test_any_threshold_has_a_point() -> None:
    found = curve(SCORES, POSITIVE)
    assert found.at(0.8) == pytest.approx((2 / 3, 2 / 3, 1 / 2))
    assert found.at(0.5) == pytest.approx((2 / 3, 2 / 3, 1 / 2))
    assert found.at(0.0) == pytest.approx((3 / 5, 1, 1))
    precision, recall, false = found.at(0.95)
    assert math.isnan(precision)
    assert (recall, false) == (0, 0)


def test_what_has_no_images_has_no_figure() -> None:
    none, all_ = np.zeros(5, bool), np.ones(5, bool)
    assert [math.isnan(value) for value in areas(SCORES, none)] == [True, True]
    average, area = areas(SCORES, all_)
    assert (average, math.isnan(area)) == (1, True)
    assert np.isnan(curve(SCORES, none).recall).all()
    assert np.isnan(curve(SCORES, all_).false_positive_rate).all()
    # A resample in which the class does not come.
    average, area = areas(SCORES, POSITIVE, [0, 1, 0, 0, 1])
    assert [math.isnan(value) for value in (average, area)] == [True, True]


@given(ranked(), st.integers(0, 2**32 - 1))
def test_weights_are_repeated_images(given_: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    scores, positive = given_
    weights = np.random.default_rng(seed).integers(0, 4, len(scores))
    weights[:2] += 1
    again = np.repeat(scores, weights), np.repeat(positive, weights)
    assert areas(scores, positive, weights) == pytest.approx(areas(*again))


@given(ranked())
def test_the_area_is_how_often_a_pair_is_in_order(given_: tuple[np.ndarray, np.ndarray]) -> None:
    scores, positive = given_
    differences = scores[positive][:, None] - scores[~positive]
    assert areas(scores, positive)[1] == pytest.approx(float(((differences > 0) + (differences == 0) / 2).mean()))


@given(ranked())
def test_scikit_learn_has_the_same(given_: tuple[np.ndarray, np.ndarray]) -> None:
    oracle = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    scores, positive = given_
    expected = oracle.average_precision_score(positive, scores), oracle.roc_auc_score(positive, scores)
    assert areas(scores, positive) == pytest.approx(expected)
    found = curve(scores, positive)
    precision, recall, thresholds = oracle.precision_recall_curve(positive, scores)
    assert found.thresholds.tolist() == thresholds[::-1].tolist()
    assert found.precision == pytest.approx(precision[:-1][::-1])
    assert found.recall == pytest.approx(recall[:-1][::-1])
    false, recalls, _ = oracle.roc_curve(positive, scores, drop_intermediate=False)
    assert found.false_positive_rate == pytest.approx(false[1:])
    assert found.recall == pytest.approx(recalls[1:])
