"""Rules: thresholds and costs by hand, the promise of a precision over many draws, and what is stored of them."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusiform.calibration.decision import (
    NO_CLASS,
    Rule,
    choose_threshold,
    decide,
    fewest_images,
    fit_decision,
)
from fusiform.certainty import Certainty, Decision, Sets, Table, Threshold
from fusiform.errors import SpecError, UsageError
from fusiform.spec import ModelSpec

NAMES = ("cat", "dog", "cow")
SETS = Sets("lac", Table(9, tuple(range(1, 10)), tuple(k / 10 for k in range(1, 10))), 0.8)


def decided(rows: list[list[float]], decision: Decision) -> list[int]:
    found: list[int] = decide(np.array(rows), decision).tolist()
    return found


def test_a_given_threshold_names_its_class_there_and_nowhere_else() -> None:
    rule = Decision((Threshold(0, 0.3),))
    assert decided([[0.3, 0.6, 0.1], [0.29, 0.31, 0.4], [0.2, 0.7, 0.1]], rule) == [0, 2, 1]
    assert decided([[0.69, 0.21, 0.1], [0.7, 0.2, 0.1]], Decision((Threshold(0, 0.7),))) == [NO_CLASS, 0]
    two = Decision((Threshold(0, 0.3), Threshold(1, 0.2)))
    assert decided([[0.3, 0.25, 0.45], [0.31, 0.35, 0.34], [0.1, 0.1, 0.8]], two) == [0, 1, 2]


def test_a_threshold_for_a_precision_also_takes_the_likeliest_class() -> None:
    rule = Decision((Threshold(0, 0.3, 0.9),))
    assert decided([[0.35, 0.6, 0.05], [0.4, 0.3, 0.3], [0.29, 0.28, 0.27]], rule) == [1, 0, NO_CLASS]
    # What a person gave comes first.
    both = Decision((Threshold(0, 0.3, 0.9), Threshold(1, 0.2)))
    assert decided([[0.5, 0.25, 0.25], [0.6, 0.1, 0.3]], both) == [1, 0]


def test_costs_make_the_answer_of_the_least_expected_cost() -> None:
    # A cow that is missed costs ten: at 0.2 of a cow, "cat" costs 0.1 + 2, "cow" 0.8.
    costs = Decision(costs=((0, 1, 1), (1, 0, 1), (10, 10, 0)))
    assert decided([[0.7, 0.1, 0.2], [0.9, 0.05, 0.05]], costs) == [2, 0]
    # No class costs 0.3 whatever is shown: it is taken where the likeliest is below 0.7.
    unsure = Decision(costs=((0, 1, 1, 0.3), (1, 0, 1, 0.3), (1, 1, 0, 0.3)))
    assert decided([[0.71, 0.29, 0.0], [0.69, 0.31, 0.0]], unsure) == [0, NO_CLASS]
    assert decided([[0.7, 0.3, 0.0]], unsure) == [0]  # among equals, a class
    assert decided([[0.2, 0.3, 0.5]], Decision(costs=((0, 0, 0),) * 3)) == [2]  # among equals, the likeliest


@given(st.lists(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), min_size=1, max_size=20), st.floats(0.01, 100))
def test_equal_costs_of_all_mistakes_take_the_likeliest_class(rows: list[list[float]], cost: float) -> None:
    p = np.array(rows) / np.sum(rows, axis=1, keepdims=True)
    costs = Decision(costs=tuple(tuple(0.0 if i == j else cost for j in range(4)) for i in range(4)))
    found = decide(p, costs)
    assert p[np.arange(len(p)), found] == pytest.approx(p.max(1))


@given(st.integers(2, 5), st.integers(0, 1), st.integers(0, 2**32 - 1))
def test_no_answer_has_a_lower_expected_cost(classes: int, extra: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    costs = random.integers(0, 9, (classes, classes + extra)).astype(float)
    costs[np.arange(classes), np.arange(classes)] = costs.min(1)
    p = random.dirichlet(np.ones(classes), 10)
    found = decide(p, Decision(costs=tuple(map(tuple, costs.tolist()))))
    expected = [[sum(p[n, i] * costs[i, j] for i in range(classes)) for j in range(classes + extra)] for n in range(10)]
    for row, answer in zip(expected, found.tolist(), strict=True):
        assert row[classes if answer == NO_CLASS else answer] == pytest.approx(min(row))


def test_the_fewest_images_are_those_of_the_binomial() -> None:
    # 0.95 ** 59 = 0.0485, 0.95 ** 58 = 0.0510
    assert (fewest_images(0.95), fewest_images(0.5)) == (59, 5)
    scores = np.linspace(1, 0.5, 59)
    assert choose_threshold(scores, np.ones(59, bool), 0.95) == 0.5
    assert choose_threshold(scores[:58], np.ones(58, bool), 0.95) is None
    assert choose_threshold(np.empty(0), np.empty(0, bool), 0.95) is None
    # One wrong of 59 is not enough: sum of k <= 1 of Bin(59, 0.05) = 0.199.
    assert choose_threshold(scores, np.arange(59) != 3, 0.95) is None


def test_the_threshold_goes_down_as_far_as_the_bound_holds() -> None:
    right = np.arange(100) < 80
    scores = np.linspace(1, 0.01, 100)
    found = choose_threshold(scores, right, 0.9)
    # With 80 right and k wrong, the sum of Bin(80 + k, 0.1) up to k is at most 0.05, as long as it is.
    tails = [sum(math.comb(80 + k, i) * 0.1**i * 0.9 ** (80 + k - i) for i in range(k + 1)) for k in range(6)]
    last = max(k for k, tail in enumerate(tails) if tail <= 0.05)
    assert found == pytest.approx(scores[80 + last - 1], abs=1e-6)
    # Equal scores stand or fall together: none of the twenty wrong ones can be left out.
    assert choose_threshold(np.repeat([0.9, 0.4], [79, 21]), right, 0.9) == 0.9
    assert choose_threshold(np.full(100, 0.9), right, 0.9) is None


def test_the_precision_is_missed_in_no_more_than_one_of_twenty_calibrations() -> None:
    """At the worst point, where answers are the more often right the likelier, and just miss the precision on average.

    By what scores a threshold takes, its true precision is 1 - 0.1 (1 - threshold), 0.95 at 0.5 and 0.9 at 0.
    """
    missed = reached = 0
    for seed in range(150):
        random = np.random.default_rng(seed)
        scores = random.random(1000)
        right = random.random(1000) < 1 - 0.2 * (1 - scores)
        found = choose_threshold(scores, right, 0.95)
        if found is not None:
            reached += 1
            missed += 1 - 0.1 * (1 - found) < 0.95
    assert missed / 150 < 0.05
    assert reached > 75


def test_where_every_score_is_as_good_it_is_missed_as_often_as_stated() -> None:
    missed = 0
    for seed in range(500):
        random = np.random.default_rng(seed)
        missed += choose_threshold(random.random(200), random.random(200) < 0.949, 0.95) is not None
    assert missed / 500 < 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 500)


def test_a_rule_becomes_a_decision_and_back() -> None:
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(3) / 4, 900)
    truth = np.array([random.choice(3, p=row) for row in p])
    rule = Rule(NAMES, {1: 0.4}, {0: 0.75})
    found = fit_decision(p, truth, rule)
    given_, chosen = found.thresholds
    assert (given_, chosen.index, chosen.precision) == (Threshold(1, 0.4), 0, 0.75)
    assert Rule.of(found, NAMES) == rule
    answers = decide(p, found)
    assert float((truth[answers == 0] == 0).mean()) >= 0.75
    costs = Rule(NAMES, {}, {}, ((0.0, 1.0, 1.0), (2.0, 0.0, 2.0), (3.0, 3.0, 0.0)))
    assert Rule.of(fit_decision(p, truth, costs), NAMES) == costs


def test_what_is_not_reached_is_refused_by_name() -> None:
    p = np.tile([[0.6, 0.3, 0.1]], (200, 1))
    with pytest.raises(UsageError, match=r"cat: no threshold reaches a precision of 0.9 with 95% confidence; of 200"):
        fit_decision(p, np.arange(200) % 3, Rule(NAMES, {}, {0: 0.9}))
    with pytest.raises(UsageError, match=r"cat: no .*; dog: a precision of 0.9 takes 29 .* and 0 are: ask for less"):
        fit_decision(p, np.arange(200) % 3, Rule(NAMES, {}, {0: 0.9, 1: 0.9}))


def spec(decision: Decision | None) -> ModelSpec:
    return ModelSpec("mobilenet_v2", 1.0, NAMES, certainty=Certainty(SETS, None, 9, "photos", decision=decision))


def test_a_description_brings_it_back_and_is_unchanged_without() -> None:
    assert "decision" not in spec(None).to_json()
    for decision in (
        Decision((Threshold(0, 0.5), Threshold(2, 0.25, 0.9))),
        Decision(costs=((0, 1, 2), (1, 0, 2), (5, 5, 0))),
        Decision(costs=((0, 1, 2, 0.5), (1, 0, 2, 0.5), (1, 1, 0, 0.5))),
    ):
        assert ModelSpec.from_json(spec(decision).to_json()) == spec(decision)
    assert repr(Decision((Threshold(0, 0.5),))) == "<Decision by thresholds>"


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        ({}, "either thresholds or costs"),
        ({"thresholds": (Threshold(0, 0.5),), "costs": ((0.0,),)}, "either thresholds or costs"),
        ({"thresholds": (Threshold(0, 0.5), Threshold(0, 0.6))}, "a class has one threshold"),
        ({"costs": ((0.0, 1.0), (0.0, 1.0, 2.0))}, "a row for each class, and a column for each"),
        ({"costs": ((0.0, 1.0, 2.0, 3.0), (0.0, 1.0, 2.0, 3.0))}, "a row for each class, and a column for each"),
        ({"costs": ((0.0, -1.0), (1.0, 0.0))}, "costs must be numbers, 0 or more"),
        ({"costs": ((0.0, math.nan), (1.0, 0.0))}, "costs must be numbers, 0 or more"),
        ({"costs": ((0.0, math.inf), (1.0, 0.0))}, "costs must be numbers, 0 or more"),
        ({"costs": ((2.0, 1.0), (1.0, 0.0))}, "right answer must cost no more"),
        ({"costs": ((0.0,) * 300,) * 300}, "at most 256 classes"),
    ],
)
def test_a_decision_that_is_none_is_refused(decision: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Decision(**decision)


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        ((0, 0.0), "above 0 and at most 1"),
        ((0, 1.1), "above 0 and at most 1"),
        ((0, math.nan), "above 0 and at most 1"),
        ((-1, 0.5), "must be 0 or more"),
        ((0, 0.5, 1.0), "precision of a threshold must be between 0 and 1"),
    ],
)
def test_a_threshold_that_is_none_is_refused(threshold: tuple[Any, ...], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Threshold(*threshold)


def test_what_does_not_fit_the_network_is_refused() -> None:
    with pytest.raises(SpecError, match="costs of 2 classes for a network of 3"):
        spec(Decision(costs=((0, 1), (1, 0))))
    with pytest.raises(SpecError, match="a threshold of a class that a network of 3 classes does not have"):
        spec(Decision((Threshold(3, 0.5),)))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("decision",), 3, "decision"),
        (("decision", "thresholds"), [[0, 0.5]], "thresholds"),
        (("decision", "thresholds", 0, "value"), "half", "value"),
        (("decision", "thresholds", 0, "index"), 10**30, "does not have"),
        (("decision", "more"), 1, "unknown field"),
        (("decision", "costs"), [[0, "1"], [1, 0]], "costs"),
    ],
)
def test_hostile_json_is_refused_by_name(place: tuple[str | int, ...], value: Any, message: str) -> None:
    fields = json.loads(spec(Decision((Threshold(0, 0.5),))).to_json())
    *way, last = ("certainty", *place)
    inside: Any = fields
    for step in way:
        inside = inside[step]
    inside[last] = value
    with pytest.raises(SpecError, match=message):
        ModelSpec.from_json(json.dumps(fields), source="model.tflite")


def test_every_threshold_of_a_class_is_a_point_of_its_curve() -> None:
    """A class is named as often as its own probability says, whatever the others are."""
    p = np.array(list(itertools.product([0.1, 0.2, 0.3], repeat=3)))
    p /= p.sum(1, keepdims=True)
    for value in (0.2, 0.4, 0.6):
        assert (decide(p, Decision((Threshold(1, value),))) == 1).tolist() == (p[:, 1] >= value).tolist()
