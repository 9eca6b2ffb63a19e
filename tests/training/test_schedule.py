from __future__ import annotations

import dataclasses
import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusiform.training.recipe import Recipe, Schedule
from fusiform.training.schedule import crop_size, factor, frozen_stages

PLAIN = Recipe("plain", 10, lr=0.5)


def plain(**fields: Any) -> Recipe:
    return dataclasses.replace(PLAIN, **fields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"schedule": "constant"}, {0: 1, 5.5: 1, 10: 1}),
        ({"schedule": "linear"}, {0: 1, 2.5: 0.75, 10: 0}),
        ({"schedule": "linear", "min_lr": 0.05}, {0: 1, 5: 0.55, 10: 0.1}),
        ({"schedule": "cosine"}, {0: 1, 2.5: (1 + math.sqrt(0.5)) / 2, 5: 0.5, 10: 0}),
        ({"schedule": "cosine", "min_lr": 0.05}, {0: 1, 5: 0.55, 10: 0.1}),
        ({"schedule": "step", "step_epochs": 3}, {0: 1, 2.99: 1, 3: 0.1, 6: 0.01, 9.5: 0.001}),
        ({"schedule": "step", "step_epochs": 3, "min_lr": 0.025}, {0: 1, 3: 0.1, 6: 0.05, 10: 0.05}),
        ({"schedule": "step", "decay_rate": 0.98}, {0.99: 1, 1: 0.98, 2.5: 0.9604}),
        ({"schedule": "exponential", "decay_rate": 0.25}, {0: 1, 0.5: 0.5, 1: 0.25, 2: 0.0625}),
        ({"schedule": "linear", "warmup_epochs": 2}, {0: 0, 0.5: 0.25, 2: 1, 6: 0.5, 10: 0}),
        ({"schedule": "step", "warmup_epochs": 2, "step_epochs": 4}, {1: 0.5, 5.9: 1, 6: 0.1, 9.9: 0.1}),
    ],
)
def test_the_rate_by_hand(fields: dict[str, Any], expected: dict[float, float]) -> None:
    recipe = plain(**fields)
    assert {epoch: factor(recipe, epoch) for epoch in expected} == pytest.approx(expected)


def test_cosine_is_pytorchs() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=0.01)
    recipe = plain(min_lr=0.01)
    for step in range(40):
        assert recipe.lr * factor(recipe, step / 4) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


@given(
    st.sampled_from(get_args(Schedule)),
    st.floats(0, 9),
    st.floats(0, 0.5),
    st.floats(0, 20),
    st.floats(0, 20),
)
def test_the_rate_rises_once_and_then_only_falls(
    schedule: Any, warmup: float, lowest: float, one: float, other: float
) -> None:
    recipe = plain(schedule=schedule, warmup_epochs=warmup, min_lr=lowest, step_epochs=2.5)
    first, second = sorted([one, other])
    assert 0 <= factor(recipe, first) <= 1 + 1e-12
    if first >= warmup:
        assert factor(recipe, second) <= factor(recipe, first) + 1e-12
        assert factor(recipe, second) >= lowest / 0.5 - 1e-12
    elif second < warmup:
        assert factor(recipe, first) <= factor(recipe, second)


def test_no_main_phase_has_a_rate_all_the_same() -> None:
    for schedule in get_args(Schedule):
        assert factor(plain(epochs=0, schedule=schedule), 0) == 1


def test_crop_sizes_share_the_epochs_equally() -> None:
    recipe = plain(sizes=(96, 128, 160), epochs=9, size=200)
    assert [crop_size(recipe, epoch) for epoch in range(9)] == [96] * 3 + [128] * 3 + [160] * 3
    assert crop_size(recipe, 9) == crop_size(recipe, 100) == 160
    assert crop_size(plain(size=200), 3) == 200
    assert crop_size(plain(sizes=(96,), epochs=0), 0) == 96


def test_stages_thaw_from_the_top() -> None:
    assert [frozen_stages(plain(unfreeze_epochs=2), epoch, 4) for epoch in range(8)] == [3, 3, 2, 2, 1, 1, 0, 0]
    assert [frozen_stages(plain(unfreeze_epochs=0.5), epoch / 4, 4) for epoch in range(8)] == [3, 3, 2, 2, 1, 1, 0, 0]
    assert frozen_stages(plain(unfreeze_epochs=2), 100, 4) == 0


def test_a_share_of_the_stages_never_thaws() -> None:
    assert [frozen_stages(plain(freeze=share), 9, 18) for share in (0, 0.5, 1)] == [0, 9, 18]
    assert [frozen_stages(plain(freeze=0.5, unfreeze_epochs=1), epoch, 4) for epoch in range(4)] == [3, 2, 2, 2]
