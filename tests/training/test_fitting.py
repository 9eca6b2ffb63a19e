"""How a recipe is fitted to the pictures that it is for."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusiform.training.fitting import MOST_EPOCHS, fit_steps
from fusiform.training.recipe import Recipe, override

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
    assert fit_steps(override(LIMITED, ["epochs=2", "min_steps=10"]), 20).epochs == 10
