"""What a rule comes to beside the likeliest class, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fusiform.calibration.decision import NO_CLASS
from fusiform.certainty import Certainty, Decision, Sets, Table, Threshold
from fusiform.drawing.page import Page
from fusiform.evaluation.decisions import (
    add_decisions,
    decision_figures,
    decision_table,
    decision_text,
    measure_decisions,
)
from fusiform.spec import ModelSpec
from fusiform.tasks.classification_metrics import wilson_interval

NAMES = ("cat", "dog", "cow")
P = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.25, 0.45, 0.3], [0.1, 0.1, 0.8]])
TRUTH = np.array([0, 1, 1, 2, 2])


def spec(decision: Decision | None) -> ModelSpec:
    sets = Sets("lac", Table(9, tuple(range(1, 10)), tuple(k / 10 for k in range(1, 10))), 0.8)
    certainty = Certainty(sets, None, 9, "photos", decision=decision)
    return ModelSpec("mobilenet_v2", 1.0, NAMES, certainty=certainty, temperature=2.0)


LOGITS = (2 * np.log(P)).astype(np.float32)


def test_there_is_nothing_without_a_rule() -> None:
    assert measure_decisions(spec(None), LOGITS, TRUTH) is None
    assert measure_decisions(ModelSpec("mobilenet_v2", 1.0, NAMES), LOGITS, TRUTH) is None
    assert decision_figures(None, NAMES, (0, 1, 2)) is None
    assert decision_table(None, NAMES, (0, 1, 2)) == ""


def test_thresholds() -> None:
    found = measure_decisions(spec(Decision((Threshold(0, 0.7, 0.5), Threshold(2, 0.29)))), LOGITS, TRUTH)
    assert found is not None
    assert found.answers.tolist() == [0, NO_CLASS, 1, 2, 2]
    assert found.likeliest.tolist() == [0, 0, 1, 1, 2]
    assert found.decided == (0.8, *wilson_interval(4, 5))
    assert found.accuracy == (1.0, *wilson_interval(4, 4))
    assert found.cost == (None, None, None)
    figures = decision_figures(found, NAMES, (0, 1))
    assert figures is not None
    assert (figures["rule"], figures["decided_share"], figures["cost"]) == ("thresholds", 0.8, None)
    cat, dog, cow = figures["classes"]  # the cow for its threshold
    assert (cat["threshold"], cat["promised_precision"], cat["decided_images"]) == (0.7, 0.5, 1)
    assert (dog["threshold"], dog["precision"], dog["recall"]) == (None, 1.0, 0.5)
    assert (cow["threshold"], cow["promised_precision"], cow["recall"]) == (0.29, None, 1.0)
    assert decision_text(found).startswith("Decided by thresholds: a class is given to 80.0 % ")
    assert "the likeliest class is right for 60.0 % of all." in decision_text(found)
    assert "cow" in decision_table(found, NAMES, (0, 1))


def test_costs() -> None:
    costs = ((0.0, 1.0, 1.0, 0.25), (1.0, 0.0, 1.0, 0.25), (9.0, 9.0, 0.0, 0.25))
    found = measure_decisions(spec(Decision(costs=costs)), LOGITS, TRUTH)
    assert found is not None
    # Expected costs of cat, dog, cow: 1, 1.7, .9; 1.2, 1.5, .9; 1.6, 1.1, .9; 3.15, 2.95, .7; 7.3, 7.3, .2.
    assert found.answers.tolist() == [NO_CLASS] * 4 + [2]
    assert found.cost.value == pytest.approx((4 * 0.25 + 0) / 5)
    assert found.top1_cost.value == pytest.approx((0 + 1 + 0 + 9 + 0) / 5)
    assert found.saved.value == pytest.approx(2 - 0.2)
    for value, low, high in (found.cost, found.top1_cost, found.saved):
        assert value is not None
        assert low is not None
        assert high is not None
        assert low < value < high
    assert "A decision costs 0.2 (95 % interval " in decision_text(found)
    assert "it saves 1.8 (95 %" in decision_text(found)


def test_nothing_is_decided() -> None:
    found = measure_decisions(spec(Decision(tuple(Threshold(k, 0.99) for k in range(3)))), LOGITS, TRUTH)
    assert found is not None
    assert found.accuracy == (None, None, None)
    figures = decision_figures(found, NAMES, (0, 1, 2))
    assert figures is not None
    assert figures["decided_share"] == 0
    assert [row["precision"] for row in figures["classes"]] == [None] * 3
    assert ", and right for" not in decision_text(found)
    page = Page("page")
    add_decisions(page, found, ("<cat>", "dog", "cow"), (0, 1, 2))
    assert "&lt;cat&gt;" in page.fragment()
    add_decisions(page, None, NAMES, (0, 1, 2))
    assert page.fragment().count("<h2>") == 1
