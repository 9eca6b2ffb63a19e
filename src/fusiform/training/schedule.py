"""What changes as training goes on, as pure functions of the epoch.

There is no state to save, so that a run that is taken up again cannot restart its schedule.
"""

from __future__ import annotations

import math

from fusiform.training.recipe import Recipe


def factor(recipe: Recipe, epoch: float) -> float:
    """What ``recipe.lr`` is multiplied by at ``epoch``, in [0, 1]; (step + 0.5) / steps is a step's own place.

    The rate rises in proportion over ``warmup_epochs``. With t epochs since then, of T in all:

    - ``cosine``: half a cosine from 1 to ``min_lr`` (SGDR without restarts, arXiv 1608.03983);
    - ``linear``: straight from 1 to ``min_lr``;
    - ``step``: ``decay_rate`` to the power of t / ``step_epochs``, rounded down;
    - ``poly``: 1 less the share t / T, to the power of ``power``;
    - ``exponential``: ``decay_rate`` to the power of t, without steps;
    - ``constant``: 1.

    None goes below ``min_lr``, and after the last epoch it stays where it ended.
    """
    if epoch < recipe.warmup_epochs:
        return epoch / recipe.warmup_epochs
    lowest = recipe.min_lr / recipe.lr
    total = recipe.epochs - recipe.warmup_epochs
    passed = min(epoch - recipe.warmup_epochs, max(total, 0.0))
    share = passed / total if total > 0 else 0.0
    if recipe.schedule == "cosine":
        return lowest + (1 - lowest) * (1 + math.cos(math.pi * share)) / 2
    if recipe.schedule == "linear":
        return lowest + (1 - lowest) * (1 - share)
    if recipe.schedule == "poly":
        return max(math.pow(1 - share, recipe.power), lowest)
    if recipe.schedule == "step":
        return max(math.pow(recipe.decay_rate, math.floor(passed / recipe.step_epochs)), lowest)
    if recipe.schedule == "exponential":
        return max(math.pow(recipe.decay_rate, passed), lowest)
    return 1.0


def crop_size(recipe: Recipe, epoch: float) -> int:
    """The side in pixels of the training pictures at ``epoch``: each of ``sizes`` for an equal part of the epochs."""
    if not recipe.sizes:
        return recipe.size
    part = int(epoch * len(recipe.sizes) / recipe.epochs) if recipe.epochs else 0
    return recipe.sizes[min(part, len(recipe.sizes) - 1)]


def frozen_stages(recipe: Recipe, epoch: float, stages: int) -> int:
    """How many of the backbone's ``stages``, counted from the input, do not learn at ``epoch``.

    ``freeze`` of them never do. With ``unfreeze_epochs`` the topmost learns from the start and one more after each
    such span, so that the general features below change last (ULMFiT, arXiv 1801.06146, Section 3.3).
    """
    always = round(recipe.freeze * stages)
    if recipe.unfreeze_epochs == 0:
        return always
    learning = 1 + math.floor(epoch / recipe.unfreeze_epochs)
    return max(always, stages - learning)
