from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fusiform.tasks import classification_metrics as metrics
from fusiform.tasks.classification import softmax

counts = st.integers(0, 200)


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Logits with many equal values, and labels."""
    pictures, classes = draw(st.integers(1, 30)), draw(st.integers(2, 8))
    logits = draw(arrays(np.float32, (pictures, classes), elements=st.integers(-4, 4).map(float)))
    return logits, draw(arrays(np.int64, pictures, elements=st.integers(0, classes - 1)))


@given(answers(), st.integers(1, 9))
def test_in_top_sorts_stably_by_value(given_: tuple[np.ndarray, np.ndarray], k: int) -> None:
    logits, labels = given_
    expected = [
        int(label) in sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]
        for row, label in zip(logits, labels, strict=True)
    ]
    assert metrics.in_top(logits, labels, k).tolist() == expected
    assert metrics.top_k_accuracy(logits, labels, k) == pytest.approx(sum(expected) / len(expected))


def test_five_of_three_classes_hold_every_answer() -> None:
    assert metrics.top_k_accuracy(np.float32([[3, 2, 1], [1, 2, 3]]), np.array([2, 0]), 5) == 1


@pytest.mark.parametrize(
    ("right", "pictures", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17, 857-872, Table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_as_published(right: int, pictures: int, low: float, high: float) -> None:
    assert metrics.wilson_interval(right, pictures) == pytest.approx((low, high), abs=5e-5)


@given(counts, counts)
def test_wilson_interval_holds_the_share_and_is_symmetric(right: int, wrong: int) -> None:
    low, high = metrics.wilson_interval(right, right + wrong)
    share = right / (right + wrong) if right + wrong else 0.5
    assert 0 <= low <= share <= high <= 1
    assert metrics.wilson_interval(wrong, right + wrong) == pytest.approx((1 - high, 1 - low))


def test_confusion_and_scores_by_hand() -> None:
    # Class 2 is never predicted, class 3 has no pictures; the last column is for classes that the data lacks.
    labels, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 4, 1])
    confusion = metrics.confusion_matrix(labels, predicted, 4, columns=5)
    assert confusion.tolist() == [[2, 1, 0, 0, 0], [0, 1, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert metrics.class_scores(confusion) == (
        metrics.ClassScore(1.0, pytest.approx(2 / 3), pytest.approx(0.8), 3),
        metrics.ClassScore(pytest.approx(1 / 3), 0.5, pytest.approx(0.4), 2),
        metrics.ClassScore(0.0, 0.0, 0.0, 1),
        metrics.ClassScore(0.0, 0.0, 0.0, 0),
    )
    assert metrics.macro_f1(confusion) == pytest.approx((0.8 + 0.4 + 0) / 3)
    assert metrics.balanced_accuracy(confusion) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_no_pictures_have_no_scores() -> None:
    empty = metrics.confusion_matrix(np.zeros(0, int), np.zeros(0, int), 2)
    assert empty.tolist() == [[0, 0], [0, 0]]
    assert (metrics.macro_f1(empty), metrics.balanced_accuracy(empty)) == (0, 0)


def test_calibration_error_by_hand() -> None:
    # With 5 bins: 0.2 and 0.15 lie in the first, (0, 0.2]; 0.9 and 0.85 in the last.
    confidences, right = np.array([0.2, 0.15, 0.9, 0.85, 0.5]), np.array([True, False, True, True, False])
    bins = metrics.reliability(confidences, right, bins=5)
    assert [b.pictures for b in bins] == [2, 0, 1, 0, 2]
    assert (bins[0].confidence, bins[0].accuracy) == pytest.approx((0.175, 0.5))
    assert (bins[1].confidence, bins[1].accuracy) == (0, 0)
    expected = (2 * (0.5 - 0.175) + 1 * 0.5 + 2 * (1 - 0.875)) / 5
    assert metrics.expected_calibration_error(confidences, right, bins=5) == pytest.approx(expected)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_every_answer_is_in_the_bin_of_its_confidence(pairs: list[tuple[float, bool]]) -> None:
    confidences, right = (np.array(values) for values in zip(*pairs, strict=True))
    bins = metrics.reliability(confidences, right)
    assert sum(b.pictures for b in bins) == len(pairs)
    for b in bins:
        if b.pictures:
            assert b.low - 1e-12 <= b.confidence <= b.high + 1e-12
    assert 0 <= metrics.expected_calibration_error(confidences, right) <= 1


def test_likelihoods_and_predictions_by_hand() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.2], [0.25, 0.25, 0.5]]))
    labels = np.array([1, 2])
    assert np.exp(metrics.log_likelihoods(logits, labels)) == pytest.approx([0.3, 0.5])
    assert metrics.negative_log_likelihood(logits, labels) == pytest.approx(-(math.log(0.3) + math.log(0.5)) / 2)
    # At temperature 1/2 probabilities are squared and divided by their sum.
    assert np.exp(metrics.log_likelihoods(logits, labels, 0.5)) == pytest.approx([0.09 / 0.38, 0.25 / 0.375])
    predicted, confidence = metrics.predictions(logits)
    assert (predicted.tolist(), confidence) == ([0, 2], pytest.approx([0.5, 0.5]))


def test_many_pictures_are_taken_in_pieces() -> None:
    random = np.random.default_rng(1)
    logits, labels = random.normal(0, 300, (9000, 3)).astype(np.float32), random.integers(0, 3, 9000)
    rows = np.arange(9000)
    with np.errstate(divide="ignore"):
        expected = np.log(softmax(logits)[rows, labels])
    found = metrics.log_likelihoods(logits, labels)
    near = expected > -600  # where the probability itself is a float
    assert near.sum() > 5000
    assert found[near] == pytest.approx(expected[near])
    assert np.isfinite(found).all()
    assert metrics.in_top(logits, labels, 1).tolist() == (logits.argmax(1) == labels).tolist()


@pytest.mark.parametrize(("margin", "right", "wrong"), [(4.0, 3, 1), (0.5, 99, 1), (9.0, 51, 49)])
def test_temperature_has_a_closed_form_for_one_margin(margin: float, right: int, wrong: int) -> None:
    # Every answer prefers class 0 by the same margin: its probability has to become the share that is right.
    logits = np.tile(np.float32([margin, 0]), (right + wrong, 1))
    labels = np.array([0] * right + [1] * wrong)
    expected = margin / math.log(right / wrong)
    fitted = metrics.fit_temperature(logits, labels)
    assert fitted == pytest.approx(min(max(expected, metrics.TEMPERATURES[0]), metrics.TEMPERATURES[1]), rel=1e-6)
    assert fitted == metrics.fit_temperature(logits, labels)


def test_answers_without_a_best_temperature_give_a_bound() -> None:
    logits = np.float32([[2, 0], [0, 1]])
    assert metrics.fit_temperature(logits, np.array([0, 1])) == metrics.TEMPERATURES[0]
    assert metrics.fit_temperature(logits, np.array([1, 0])) == metrics.TEMPERATURES[1]


@given(answers())
def test_no_other_temperature_is_likelier(given_: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = given_
    fitted = metrics.fit_temperature(logits, labels)
    best = metrics.negative_log_likelihood(logits, labels, fitted)
    for other in (*np.geomspace(*metrics.TEMPERATURES, 15), fitted * 1.05, fitted / 1.05):
        if metrics.TEMPERATURES[0] <= other <= metrics.TEMPERATURES[1]:
            assert best <= metrics.negative_log_likelihood(logits, labels, other) + 1e-9


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1),
        (5, 5, 1),
        (1, 7, 2 * (1 + 8) / 2**8),
        (0, 24, 2 / 2**24),
        # Chi-squared is (64 - 1)^2 / 236 = 16.818 with one degree of freedom.
        (150, 86, 4.115e-05),
    ],
)
def test_mcnemar(only_first: int, only_second: int, p: float) -> None:
    assert metrics.mcnemar(only_first, only_second) == pytest.approx(p, rel=2e-4)
    assert metrics.mcnemar(only_second, only_first) == metrics.mcnemar(only_first, only_second)


@given(counts, counts)
def test_mcnemar_gives_a_probability(only_first: int, only_second: int) -> None:
    assert 0 <= metrics.mcnemar(only_first, only_second) <= 1


def test_paired_difference_as_published() -> None:
    # Newcombe (1998), Statistics in Medicine 17, 2635-2650: the example 36, 12, 2, 0 with method 10.
    assert metrics.paired_difference(36, 12, 2, 0) == pytest.approx((0.2, 0.0569, 0.3404), abs=5e-5)


@given(counts, counts, counts, counts)
def test_paired_difference_changes_its_sign_with_the_order(a: int, b: int, c: int, d: int) -> None:
    if a + b + c + d == 0:
        return
    value, low, high = metrics.paired_difference(a, b, c, d)
    assert -1 - 1e-12 <= low <= value <= high <= 1 + 1e-12
    assert metrics.paired_difference(a, c, b, d) == pytest.approx((-value, -high, -low))
