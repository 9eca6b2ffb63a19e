"""What is kept of each picture gives the same scores as all pixels together; the scores are in test_segmentation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusiform.tasks.segmentation_metrics import (
    class_counts,
    class_ious,
    mean_iou,
    pixel_accuracy,
    pixel_confusion,
)


@given(st.integers(0, 2**32 - 1))
def test_counts_give_the_same_scores(seed: int) -> None:
    random = np.random.default_rng(seed)
    confusions = []
    for _ in range(3):  # class 4 is nowhere, class 3 only found
        truth = random.choice(np.array([0, 1, 2, 255], np.uint8), (3, 4))
        confusions.append(pixel_confusion(truth, random.integers(0, 4, (3, 4)).astype(np.uint8), 5))
    counts = np.stack([class_counts(each) for each in confusions])
    weights = random.integers(0, 3, (2, 3))
    totals = np.einsum("rp,pkc->rkc", weights, counts)
    for row, total, miou, accuracy in zip(
        weights, totals, mean_iou(totals, range(5)), pixel_accuracy(totals), strict=True
    ):
        whole = np.einsum("p,pij->ij", row, np.stack(confusions))
        right, union = np.diag(whole), whole.sum(0) + whole.sum(1) - np.diag(whole)
        ious = [int(r) / int(u) if u else np.nan for r, u in zip(right, union, strict=True)]
        known = [iou for iou in ious if not np.isnan(iou)]
        assert class_ious(total) == pytest.approx(ious, nan_ok=True)
        assert float(miou) == pytest.approx(sum(known) / len(known) if known else np.nan, nan_ok=True)
        assert float(accuracy) == pytest.approx(right.sum() / whole.sum() if whole.any() else np.nan, nan_ok=True)


def test_counts_by_hand() -> None:
    truth = np.array([[0, 0, 1, 255], [0, 0, 1, 255]], np.uint8)
    found = np.array([[0, 0, 1, 2], [0, 3, 0, 3]], np.uint8)
    counts = class_counts(pixel_confusion(truth, found, 4))
    assert counts.tolist() == [[3, 1, 0, 0], [4, 2, 0, 0], [4, 1, 0, 1]]
    assert class_ious(counts)[:2].tolist() == pytest.approx([3 / 5, 1 / 2])
    # Class 3, found where it is not, counts as 0; class 2, which is nowhere, does not count.
    assert float(mean_iou(counts, range(4))) == pytest.approx((3 / 5 + 1 / 2 + 0) / 3)
    assert float(mean_iou(counts, [2, 1])) == pytest.approx(1 / 2)
    assert np.isnan(mean_iou(counts, [2]))
