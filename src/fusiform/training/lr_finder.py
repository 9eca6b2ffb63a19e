"""The search for a learning rate: it rises until the loss does (Smith, arXiv 1506.01186, Section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from fusiform.errors import InputError
from fusiform.progress import Tracker, silent
from fusiform.training.distributed import World
from fusiform.training.loader import mix_seed
from fusiform.training.loop import Learner, Task, compute_type, set_modes
from fusiform.training.optim import make_optimizer
from fusiform.training.recipe import Recipe
from fusiform.training.schedule import frozen_stages

LOWEST, HIGHEST = 1e-6, 1.0
STEPS = 100
SMOOTHING = 0.9
"""How much of the average loss stays at a step."""


def sweep(task: Task, recipe: Recipe, world: World, progress: Tracker = silent) -> tuple[list[float], list[float]]:
    """Learning rates, from 1e-6 up by equal factors, and the smoothed loss at each; ends once it is 4 times the lowest.

    The task's network is trained by this and of no more use.
    """
    learner = Learner(task)
    optimizer = make_optimizer(learner, recipe, head=[*task.head, *task.extra.parameters()])
    set_modes(task, recipe, frozen_stages(recipe, 0, len(task.stages)))
    dtype = compute_type(recipe, world)
    rates: list[float] = []
    losses: list[float] = []
    average, lowest = 0.0, math.inf
    batches = task.batches(0, 0)
    with progress(total=STEPS, label="learning rates", unit="steps") as bar:
        for step in range(STEPS):
            batch = next(batches, None)
            if batch is None:
                break
            rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
            for group in optimizer.param_groups:
                group["lr"] = rate * group["lr_scale"]
            torch.manual_seed(mix_seed(recipe.seed, step))
            moved = batch._replace(pictures=batch.pictures.to(world.device), labels=batch.labels.to(world.device))
            with torch.autocast(world.device.type, dtype, enabled=dtype is not torch.float32):
                loss, _ = learner(moved, step)
            value = loss.item()
            average = SMOOTHING * average + (1 - SMOOTHING) * value
            smooth = average / (1 - SMOOTHING ** (step + 1))
            if not math.isfinite(value) or (step > 10 and smooth > 4 * lowest):
                break
            rates.append(rate)
            losses.append(smooth)
            lowest = min(lowest, smooth)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            bar.advance(1, f"rate {rate:.1e}, loss {smooth:.3f}")
    return rates, losses


def suggest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """A tenth of the rate with the lowest loss: still falling fast there, and far from where it blows up.

    Raises UsageError where the sweep was too short to say.
    """
    if len(rates) < 10:
        raise InputError(
            f"only {len(rates)} steps could be tried, too few to suggest a rate: give more epochs or a smaller batch"
        )
    return rates[min(range(len(losses)), key=losses.__getitem__)] / 10
