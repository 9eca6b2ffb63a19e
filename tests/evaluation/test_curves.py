"""Each class against the rest: what reports, pages and JSON have of the curves."""

from __future__ import annotations

import numpy as np
import pytest

from fusiform.drawing.page import Page
from fusiform.evaluation import curves
from fusiform.evaluation.curves import add_curves, curve_details, curve_figures, curve_headlines, measure_curves
from fusiform.tasks.classification import softmax

NAMES = ("cat", "<dog>", "cow", "ant")


def drawn(images: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Answers that are often right, to images of the first three of four classes."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, images)
    logits = random.standard_normal((images, 4)).astype(np.float32)
    logits[np.arange(images), truth] += 1.5
    return logits, truth


def test_probabilities_are_those_of_the_temperature() -> None:
    logits, truth = drawn()
    found = measure_curves(logits, truth, (0, 1, 2), temperature=2.0)
    p = softmax(logits / 2)
    for k, each in enumerate(found.classes):
        assert (each.output, each.images) == (k, int((truth == k).sum()))
        assert each.curve.thresholds == pytest.approx(sorted(set(p[:, k]), reverse=True))
        precision, recall, false = each.curve.at(0.3)
        named = p[:, k] >= 0.3
        assert precision == pytest.approx((truth == k)[named].mean())
        assert recall == pytest.approx(named[truth == k].mean())
        assert false == pytest.approx(named[truth != k].mean())


def test_means_and_intervals() -> None:
    logits, truth = drawn()
    found = measure_curves(logits, truth, (0, 1, 2))
    oracle = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    p = softmax(logits)
    for k, each in enumerate(found.classes):
        assert each.average_precision.value == pytest.approx(oracle.average_precision_score(truth == k, p[:, k]))
        assert each.auroc.value == pytest.approx(oracle.roc_auc_score(truth == k, p[:, k]))
        for value, low, high in (each.average_precision, each.auroc):
            assert value is not None
            assert low is not None
            assert high is not None
            assert 0 <= low < value < high <= 1
            assert 0.05 < high - low < 0.35
    for name in ("average_precision", "auroc"):
        mean = np.mean([getattr(each, name).value for each in found.classes])
        assert getattr(found, name).value == pytest.approx(mean)


def test_a_class_without_images_is_no_part_of_the_mean() -> None:
    logits, truth = drawn()
    found = measure_curves(logits, truth, (0, 1, 2, 3))
    assert found.classes[3].average_precision == found.classes[3].auroc == (None, None, None)
    assert found.average_precision.value == measure_curves(logits, truth, (0, 1, 2)).average_precision.value
    alone = measure_curves(logits[truth == 0], truth[truth == 0], (0,))
    assert alone.auroc == (None, None, None)
    assert alone.average_precision.value == 1
    assert curve_headlines(alone)["AUROC"] == "none"
    page = Page("page")
    add_curves(page, alone, NAMES)
    assert "against the rest" not in page.fragment()


def test_there_are_no_intervals_where_they_take_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, truth = drawn()
    full = measure_curves(logits, truth, (0, 1, 2))
    monkeypatch.setattr(curves, "MOST_CELLS", 100)
    found = measure_curves(logits, truth, (0, 1, 2))
    assert found.auroc == (full.auroc.value, None, None)
    assert found.classes[0].average_precision == (full.classes[0].average_precision.value, None, None)
    assert curve_figures(found)["macro_auroc_low"] is None


def test_json_has_each_threshold() -> None:
    logits, truth = drawn()
    details = curve_details(measure_curves(logits, truth, (0, 1, 3)), NAMES)
    assert details["thresholds"][0] == 0.05
    assert details["thresholds"][-1] == 0.95
    cat, _, ant = details["classes"]
    assert (cat["class"], ant["class"], ant["images"], ant["auroc"]) == ("cat", "ant", 0, None)
    assert [len(cat[key]) for key in ("precisions", "recalls", "false_positive_rates")] == [19, 19, 19]
    assert cat["recalls"] == sorted(cat["recalls"], reverse=True)
    assert ant["recalls"] == [None] * 19
    assert ant["precisions"][0] == 0


def test_the_page_has_both_drawings() -> None:
    logits, truth = drawn()
    page = Page("page")
    add_curves(page, measure_curves(logits, truth, (0, 1, 2)), NAMES)
    text = page.fragment()
    assert text.count("<svg") == 2
    assert "Precision over recall: mean of the classes, " in text
    assert "Recall over false positives: mean of the classes, " in text
    assert "&lt;dog&gt;" in text
    assert "<dog>" not in text
    assert text.count("<polyline") == 2 * (3 + 2)
    one = Page("page")
    add_curves(one, measure_curves(logits, truth, (0,)), NAMES)
    assert "mean of the classes" not in one.fragment()
