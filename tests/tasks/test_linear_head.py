"""The head against calculations by hand, and against heads that were learned again from what is left."""

from __future__ import annotations

import numpy as np

from fusiform.tasks.linear_head import (
    discriminants,
    fit_head,
    fit_slope,
    log_shares,
    log_softmax,
    out_of_fold,
    statistics,
)


def test_discriminants_by_hand() -> None:
    # One feature, two classes around -2 and 2, each with values one below and one above: the variance within is 1, and
    # with one feature there is nothing to shrink towards but itself. The weight is mean / variance, the bias -mean^2/2.
    features = np.array([[-3.0], [-1.0], [1.0], [3.0]])
    head = discriminants(statistics(features, np.array([0, 0, 1, 1]), 2))
    np.testing.assert_allclose(head.weight, [[-2.0, 2.0]])
    np.testing.assert_allclose(head.bias, [-2.0, -2.0])
    np.testing.assert_allclose(head(np.array([[1.0]])), [[-4.0, 0.0]])


def test_shrinkage_by_hand() -> None:
    # Two features, of which the second is always 0: the covariance is [[1, 0], [0, 0]], its mean spread 0.5, and with
    # two features and four pictures the share of the identity is 2 / 6: 2/3 + 1/6 and 1/6 on the diagonal.
    features = np.array([[-3.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    head = discriminants(statistics(features, np.array([0, 0, 1, 1]), 2))
    np.testing.assert_allclose(head.weight, [[-2 / (5 / 6), 2 / (5 / 6)], [0, 0]])


def test_a_class_without_pictures_is_never_named() -> None:
    head = fit_head(np.array([[-3.0], [-1.0], [1.0], [3.0]]), np.array([0, 0, 2, 2]), 3)
    assert head(np.array([[0.0], [9.0]])).argmax(1).tolist() == [0, 2]
    np.testing.assert_allclose(log_shares(np.array([2, 0, 2])), [np.log(0.5), 0, np.log(0.5)])


def test_the_slope_is_the_likeliest_one() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (4000, 3))
    labels = (logits + random.gumbel(size=logits.shape)).argmax(1)
    slope = fit_slope(logits * 8, labels, np.zeros(3))
    assert 0.11 < slope < 0.14
    tried = [log_softmax(logits * 8 * s)[np.arange(4000), labels].sum() for s in (slope * 0.97, slope, slope * 1.03)]
    assert tried[1] == max(tried)


def test_out_of_fold_is_what_the_others_say() -> None:
    random = np.random.default_rng(1)
    labels = np.arange(60) % 3
    features = random.normal(0, 1, (60, 8)) + 3 * np.eye(8)[labels]
    found = out_of_fold(features, labels, 3)
    np.testing.assert_allclose(found.probabilities.sum(1), 1)
    assert (found.probabilities.argmax(1) == labels).mean() > 0.8


def test_no_picture_is_judged_by_its_own_label_or_its_copys() -> None:
    random = np.random.default_rng(2)
    labels = np.arange(40) % 2
    features = random.normal(0, 1, (40, 6))
    features[1:4] = features[0] + 20  # four copies far from all others, which are labelled alike below
    labels[:4] = 1
    together = out_of_fold(features, labels, 2, groups=[[0, 1, 2, 3]]).probabilities[:4, 1]
    apart = out_of_fold(features, labels, 2).probabilities[1:4, 1]
    assert (apart > together[1:4]).all()
