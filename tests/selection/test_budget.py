"""Budgets, and which files hold them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fusiform.errors import UsageError
from fusiform.selection.budget import Budget, Plan, Shipped, Training


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"max_ms": 0}, "max-ms"),
        ({"max_mb": -1}, "max-mb"),
        ({"max_ms": math.nan}, "max-ms"),
        ({"min_accuracy": 101}, "percent"),
        ({"min_accuracy": 0.9}, "in percent: write 90, not 0.9"),
    ],
)
def test_budgets_that_mean_nothing_are_refused(budget: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Budget(**budget)


def test_one_slow_measurement_of_five_is_forgiven_and_two_are_not() -> None:
    training = Training(Plan("shufflenet_v2", 1.0, 224), 4, False, 0.9, 1.0, 1.0, Path("run"))
    for slow, holds in ((1, True), (2, False)):
        checks = (1.9,) * (5 - slow) + (3.0,) * slow
        assert Shipped(training, "int8", Path("f"), checks, 1.0, 0.9).holds(Budget(max_ms=2)) is holds
    assert not Shipped(training, "int8", Path("f"), (1.0,) * 5, 2.01, 0.9).holds(Budget(max_mb=2))
