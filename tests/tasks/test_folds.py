"""Folds of cross-validation."""

from __future__ import annotations

import numpy as np
import pytest

from fusiform.tasks.folds import folds_of


@pytest.mark.parametrize("seed", range(5))
def test_each_class_is_spread_evenly(seed: int) -> None:
    labels = np.random.default_rng(seed).choice([0, 1, 2, 7], 203, p=[0.6, 0.3, 0.08, 0.02])
    folds = folds_of(labels, 5, seed)
    assert set(folds) == set(range(5))
    for label in np.unique(labels):
        counts = np.bincount(folds[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert np.bincount(folds).tolist() == [41, 41, 41, 40, 40]


def test_copies_are_in_one_fold() -> None:
    labels = np.repeat([0, 1], 20)
    folds = folds_of(labels, 5, 0, groups=[[0, 3, 25], [7, 8]])
    assert folds[0] == folds[3] == folds[25]
    assert folds[7] == folds[8]
    others = [k for k in range(40) if k not in (3, 25, 8)]
    assert (folds[others] == folds_of(labels, 5, 0)[others]).all()


def test_another_seed_deals_otherwise() -> None:
    labels = np.repeat([0, 1], 20)
    assert (folds_of(labels, 5, 0) == folds_of(labels, 5, 0)).all()
    assert (folds_of(labels, 5, 0) != folds_of(labels, 5, 1)).any()
