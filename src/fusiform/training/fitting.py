"""A recipe fitted to the pictures that it is used for: how many steps it takes, and of what size it makes them."""

from __future__ import annotations

import dataclasses
import math
import os

from fusiform.data.annotated import AnnotatedSet
from fusiform.data.dataset import DataSet
from fusiform.data.masks import Ignore
from fusiform.data.open import open_dataset
from fusiform.training.recipe import Recipe

MOST_EPOCHS = 12
"""Epochs beyond which a small set is shown several times in each: else measuring and saving take most of the time."""
LOOKS = 50
"""Pictures whose sides are looked up, spread over the whole set."""


def fit_to(
    recipe: Recipe, data: str | os.PathLike[str], *, ignore: Ignore | None, root: str | os.PathLike[str] | None
) -> Recipe:
    """The recipe as ``train`` would use it for ``data``; raises what ``open_dataset`` raises."""
    if recipe.task == "classification":
        dataset: DataSet | AnnotatedSet = open_dataset(data, task=recipe.task, root=root)
    else:
        dataset = open_dataset(data, task=recipe.task, ignore=ignore, root=root)
    return fit_recipe(recipe, dataset, held_out="val" not in dataset.splits)


def fit_recipe(recipe: Recipe, dataset: DataSet | AnnotatedSet, *, held_out: bool) -> Recipe:
    """The recipe fitted to a dataset; ``held_out`` says that its ``val`` was, or will be, taken from the others."""
    splits = dataset.splits
    samples = [*splits.get("train", ()), *splits.get("all", ())]
    count: float = len(samples)
    if held_out:
        # The share that is asked for, not the pictures that came of it: what is shown before the split is true after.
        count = (len(samples) + len(splits.get("val", ()))) * (1 - recipe.val_fraction)
    return fit_steps(recipe, max(1, round(count)))


def describe_fit(recipe: Recipe, fitted: Recipe) -> str:
    """A line for people about what fitting changed; empty where that is nothing."""
    if fitted == recipe:
        return ""
    passes = f" of {fitted.repeats} passes over the pictures" if fitted.repeats > 1 else ""
    epochs = f"{fitted.epochs} epochs{passes}" if fitted.epochs != 1 else f"1 epoch{passes}"
    size = f", at {fitted.size} pixels for an input of {fitted.eval_size}"
    return f"fitted to the pictures: {epochs}{size}"


def fit_steps(recipe: Recipe, pictures: int) -> Recipe:
    """The recipe with as many epochs, and passes in each, as make ``min_steps`` to ``max_steps`` of the pictures.

    ``pictures``, 1 or more, are those that are trained on. What is counted in epochs, such as the warm-up, keeps its
    share of them. A recipe without either limit, or of the head only, is returned as it is.
    """
    if not recipe.epochs or not (recipe.min_steps or recipe.max_steps):
        return recipe
    steps = max(1, pictures // recipe.batch)  # of one pass over the pictures
    passes = recipe.epochs * recipe.repeats
    if recipe.max_steps:
        passes = min(passes, max(1, recipe.max_steps // steps))
    passes = max(passes, math.ceil(recipe.min_steps / steps))
    repeats = math.ceil(passes / max(MOST_EPOCHS, recipe.epochs))
    epochs = math.ceil(passes / repeats)
    share = epochs / recipe.epochs
    return dataclasses.replace(
        recipe,
        epochs=epochs,
        repeats=repeats,
        sizes=recipe.sizes[-epochs:],
        warmup_epochs=recipe.warmup_epochs * share,
        step_epochs=recipe.step_epochs * share,
        unfreeze_epochs=recipe.unfreeze_epochs * share,
    )
