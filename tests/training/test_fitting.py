"""How a recipe is fitted to the pictures that it is for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusiform.data.open import open_dataset
from fusiform.training.fitting import MOST_EPOCHS, SMALLEST, describe_fit, fit_size, fit_steps, fit_to, median_side
from fusiform.training.recipe import Recipe, override
from fusiform.training.recipes import finetune_small

LIMITED = Recipe("limited", 4, batch=32, min_steps=200, max_steps=600, warmup_epochs=0.4)


def steps_of(recipe: Recipe, pictures: int) -> int:
    """The optimiser steps that ``loader.Pictures`` makes of it."""
    batch = min(recipe.batch, pictures)
    return recipe.epochs * (pictures * recipe.repeats // batch)


@given(
    st.integers(1, 100_000),
    st.builds(
        lambda epochs, batch, least, more, share: Recipe(
            "r",
            epochs,
            batch=batch,
            min_steps=least,
            max_steps=least + more if more else 0,
            warmup_epochs=share * epochs,
            sizes=(64, 96)[:epochs],
        ),
        st.integers(1, 50),
        st.integers(1, 256),
        st.integers(0, 3000),
        st.integers(0, 3000),
        st.floats(0, 0.9),
    ),
)
def test_the_steps_are_within_the_limits(pictures: int, recipe: Recipe) -> None:
    fitted = fit_steps(recipe, pictures)
    assert steps_of(fitted, pictures) >= recipe.min_steps
    if not (recipe.min_steps or recipe.max_steps):
        assert fitted == recipe
        return
    one_pass, passes = max(1, pictures // recipe.batch), fitted.epochs * fitted.repeats
    needed = math.ceil(recipe.min_steps / one_pass)
    if passes > max(1, needed, recipe.max_steps // one_pass if recipe.max_steps else recipe.epochs):
        # Whole epochs of as many passes each: one pass too many in each at most.
        assert passes < needed + fitted.repeats
    assert fitted.epochs <= max(MOST_EPOCHS, recipe.epochs)
    assert fitted.warmup_epochs / fitted.epochs == pytest.approx(recipe.warmup_epochs / recipe.epochs)


def test_small_sets_are_shown_more_often_and_large_ones_less() -> None:
    for pictures, epochs, repeats in (
        (27, 12, 17),
        (540, 7, 2),
        (600, 12, 1),
        (1600, 4, 1),
        (3780, 4, 1),
        (9600, 2, 1),
    ):
        fitted = fit_steps(LIMITED, pictures)
        assert (fitted.epochs, fitted.repeats) == (epochs, repeats), pictures
        assert fitted.warmup_epochs == pytest.approx(0.1 * epochs)
    # 200 steps of 27 pictures are 200 passes: 12 epochs of 17.
    assert steps_of(fit_steps(LIMITED, 27), 27) == 204


def test_a_recipe_without_limits_stays() -> None:
    plain = dataclasses.replace(LIMITED, min_steps=0, max_steps=0)
    assert fit_steps(plain, 10) == plain
    head = dataclasses.replace(LIMITED, epochs=0)
    assert fit_steps(head, 10) == head


def test_epochs_that_are_asked_for_are_as_many_as_that() -> None:
    assert fit_steps(override(LIMITED, ["epochs=2"]), 10).epochs == 2
    assert override(finetune_small, ["epochs=2"]).give_up == 0.0
    assert override(finetune_small, ["epochs=2", "give_up=0.5"]).give_up == 0.5
    assert fit_steps(override(LIMITED, ["epochs=2", "min_steps=10"]), 20).epochs == 10


@given(st.integers(0, 5000), st.integers(32, 512), st.integers(32, 512))
def test_an_input_is_never_larger_than_the_recipes_nor_needlessly_small(side: int, size: int, eval_size: int) -> None:
    recipe = Recipe("r", 1, size=size, eval_size=eval_size, fit_size=True)
    fitted = fit_size(recipe, side)
    assert min(recipe.eval_size, SMALLEST) <= fitted.eval_size <= recipe.eval_size
    assert fitted.eval_size >= min(recipe.eval_size, 2 * side)
    if fitted.eval_size == recipe.eval_size:
        assert fitted == recipe
    else:
        assert fitted.eval_size % 32 == 0
        assert abs(fitted.size / fitted.eval_size - recipe.size / recipe.eval_size) <= 32 / fitted.eval_size


def test_the_default_sizes() -> None:
    sizes = {side: fit_size(finetune_small, side) for side in (0, 8, 28, 64, 80, 100, 128, 150, 500)}
    assert {side: (recipe.size, recipe.eval_size) for side, recipe in sizes.items()} == {
        0: (144, 224),  # no image can be read: training says so
        8: (96, 128),
        28: (96, 128),
        64: (96, 128),
        80: (112, 160),
        100: (144, 224),
        128: (144, 224),
        150: (144, 224),
        500: (144, 224),
    }


def test_sizes_that_are_set_stay() -> None:
    for setting in ("size=160", "eval_size=192", "eval_resize=256", "sizes=96,128"):
        assert not override(finetune_small, [setting]).fit_size
    assert override(finetune_small, ["size=160", "fit_size=true"]).fit_size


def test_a_folder_is_fitted_to_by_its_median_image(tmp_path: Path, make_pictures: Callable[..., None]) -> None:
    make_pictures(tmp_path / "data", {"red": 20, "blue": 20})
    (tmp_path / "data" / "red" / "damaged.png").write_bytes(b"none")
    samples = open_dataset(tmp_path / "data", task="classification").splits["all"]
    assert median_side(samples) == 40
    fitted = fit_to(finetune_small, tmp_path / "data", ignore=None, root=None)
    # 41 images less a tenth are one step of 32.
    assert (fitted.epochs, fitted.repeats, fitted.size, fitted.eval_size) == (12, 17, 96, 128)
    told = "fitted to the pictures: 12 epochs of 17 passes over the pictures, at 96 pixels for an input of 128"
    assert describe_fit(finetune_small, fitted) == told
    assert describe_fit(fitted, fitted) == ""
