"""A recipe fitted to the pictures that it is used for: how many steps it takes, and of what size it makes them."""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
from collections.abc import Sequence

from fusiform.data.annotated import AnnotatedSample, AnnotatedSet
from fusiform.data.dataset import DataSet, Sample
from fusiform.data.image import read_size
from fusiform.data.masks import Ignore
from fusiform.data.open import open_dataset
from fusiform.errors import ImageError
from fusiform.training.recipe import Recipe

MOST_EPOCHS = 12
"""Epochs beyond which a small set is shown several times in each: else measuring and saving take most of the time."""
SMALLEST = 128
"""Pixels of an input below which the networks' last maps have too few places for what they have learnt."""
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
    recipe = fit_steps(recipe, max(1, round(count)))
    return fit_size(recipe, median_side(samples)) if recipe.fit_size else recipe


def median_side(samples: Sequence[Sample | AnnotatedSample]) -> int:
    """The median of the shorter sides, in pixels, of ``LOOKS`` images spread over ``samples``; 0 where none is read."""
    sides = [side for sample in samples[:: max(1, len(samples) // LOOKS)] if (side := _side(sample))]
    return round(statistics.median(sides)) if sides else 0


def _side(sample: Sample | AnnotatedSample) -> int:
    try:
        if isinstance(sample, Sample) and sample.key:  # of a shard or table, whose images have no files
            return min(sample.read().size)
        return min(read_size(sample.file))
    except (ImageError, OSError):
        return 0


def fit_size(recipe: Recipe, side: int) -> Recipe:
    """The recipe with smaller sizes for images whose shorter side is ``side`` pixels, where that is small.

    A network sees no more in an image that was made more than twice as wide, and takes the longer for it. The finished
    model's input is twice the side, from ``SMALLEST`` to the recipe's own; training's size keeps its share of it.
    """
    if not side:
        return recipe
    eval_size = min(recipe.eval_size, max(SMALLEST, 32 * math.ceil(2 * side / 32)))
    scale = eval_size / recipe.eval_size

    def scaled(size: int) -> int:
        return size if scale == 1 else max(32, 16 * math.ceil(size * scale / 16))

    return dataclasses.replace(
        recipe,
        size=scaled(recipe.size),
        sizes=tuple(map(scaled, recipe.sizes)),
        eval_size=eval_size,
        eval_resize=round(recipe.eval_resize * scale),
    )


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
