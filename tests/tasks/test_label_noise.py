"""Confident learning against a calculation by hand."""

from __future__ import annotations

import numpy as np

from fusiform.tasks.label_noise import Doubt, doubted_labels


def test_by_hand() -> None:
    # Of class 0 four pictures, which get 0.9, 0.9, 0.8 and 0.2 for it: the threshold is 0.7. Of class 1 four, which get
    # 0.9, 0.9, 0.9 and 0.1: 0.7 again. Sure are all but the one of 0.2, which gets 0.8 for class 1, and so counts as
    # given 0, true 1; the last counts as given 1, true 0. So two labels are wrong.
    zero = np.array([0.9, 0.9, 0.8, 0.2, 0.1, 0.1, 0.1, 0.9])
    found = doubted_labels(np.stack([zero, 1 - zero], 1), np.array([0, 0, 0, 0, 1, 1, 1, 1]))
    assert [(number, other) for number, other, _ in found] == [(7, 0), (3, 1)]
    np.testing.assert_allclose([doubt.gain for doubt in found], [0.8, 0.6])
    assert isinstance(found[0], Doubt)


def test_what_is_sure_of_nothing_is_scaled_up() -> None:
    # Class 0: 0.9, 0.5, 0.1, threshold 0.5; sure of 0 are two, of 1 one (0.9 of 1, threshold 0.8). Class 1: 0.8, twice,
    # and both are sure. The one of 0.5 is sure of 0. One of three in class 0 is wrong: round(1) picture.
    one = np.array([0.1, 0.5, 0.9, 0.8, 0.8])
    found = doubted_labels(np.stack([1 - one, one], 1), np.array([0, 0, 0, 1, 1]))
    assert [number for number, _, _ in found] == [2]


def test_nothing_is_doubted_where_all_agree() -> None:
    probabilities = np.full((20, 2), 0.1)
    labels = np.arange(20) % 2
    probabilities[np.arange(20), labels] = 0.9
    assert doubted_labels(probabilities, labels) == []


def test_a_class_that_nothing_is_sure_of() -> None:
    # Class 2 has no pictures at all, and class 1 one that gets nothing: its threshold is 0, and it is sure of 0.
    probabilities = np.array([[1.0, 0, 0], [1.0, 0, 0], [1.0, 0, 0]])
    assert [doubt.number for doubt in doubted_labels(probabilities, np.array([0, 0, 1]))] == [2]
