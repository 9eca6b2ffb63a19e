"""The training loop: one for every task, which comes as an argument."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fusiform.errors import InputError
from fusiform.progress import Tracker, clock, named, silent
from fusiform.spec import ModelSpec
from fusiform.training.curves import SCORES
from fusiform.training.distributed import World, sync_batch_norm
from fusiform.training.ema import MovingAverage
from fusiform.training.fused import fuse
from fusiform.training.interruption import Interruption
from fusiform.training.loader import Batch, mix_seed
from fusiform.training.optim import make_optimizer
from fusiform.training.recipe import Metric, Recipe
from fusiform.training.run_folder import Record, RunFolder, not_this_run, place
from fusiform.training.schedule import crop_size, factor, frozen_stages
from fusiform.training.shares import share

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def compute_type(recipe: Recipe, world: World) -> torch.dtype:
    """What convolutions are computed in here: the recipe's precision, or float32 on a CPU that only emulates it."""
    if recipe.precision == "bfloat16" and world.device.type == "cpu":
        try:
            supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        except (AttributeError, RuntimeError):  # a build without oneDNN
            supported = False
        if not supported:
            return torch.float32
    return DTYPES[recipe.precision]


class Task(Protocol):
    """What is learned: the network, its pictures, its loss and its measure. Everything else is the loop's."""

    network: nn.Module
    """In float32, on the world's device."""
    spec: ModelSpec
    """What the saved model says of itself."""
    head: list[nn.Parameter]
    """The parameters that start fresh."""
    extra: nn.ModuleDict
    """Modules that learn beside the network and are not saved with the model; may be empty."""
    stages: list[nn.Module]
    """The backbone's blocks from the input on, for freezing."""
    steps: int
    """Optimiser steps of an epoch."""
    batch: int
    """Pictures of a step, of all processes."""
    score: str
    """What ``loss`` counts right answers as, in the records: ``top1``."""

    def batches(self, epoch: int, step: int) -> Iterator[Batch]:
        """The batches of this process from a step of an epoch to the end of the last epoch."""
        ...

    def loss(self, network: nn.Module, batch: Batch, seed: int) -> tuple[Tensor, float]:
        """A scalar to be made small, the mean over the batch, and how many answers were right; ``seed`` for chance.

        Right answers are pictures, or the sum over pictures of the share that was right in each.
        """
        ...

    def measure(self, world: World, progress: Tracker) -> dict[str, float]:
        """Figures on the validation pictures with the network's weights, each picture counted once; {} without any.

        It may be broken off anywhere, and then has changed nothing.
        """
        ...


@runtime_checkable
class CountingTask(Protocol):
    """A task whose loss is no mean over pictures, but over something that one picture has more of than another."""

    def amount(self, labels: Tensor) -> float:
        """How much of it is in the labels of a batch: objects, pixels; where it is 0, ``loss`` is not divided."""
        ...


@runtime_checkable
class WeighingTask(Protocol):
    """A task that tells the validation pictures' losses one by one, so that chance can be told from what was learnt."""

    losses: Tensor
    """Of each picture, as ``measure`` found them last; NaN for those that cannot be read."""


class Outcome(NamedTuple):
    """How a run ended: the epoch whose weights are the best, its figures, and the epochs trained."""

    best_epoch: int
    best: dict[str, float]
    epochs: int


class Learner(nn.Module):
    """The network and what learns beside it as one module, so that gradients are averaged over processes for both."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = [task]  # in a list: not a module of this one
        self.network, self.extra = task.network, task.extra

    def forward(self, batch: Batch, seed: int) -> tuple[Tensor, float]:
        return self.task[0].loss(self.network, batch, seed)


def fit(
    task: Task,
    recipe: Recipe,
    world: World,
    *,
    run: RunFolder | None,
    state: Mapping[str, Any] | None = None,
    save_minutes: float = 5.0,
    progress: Tracker = silent,
) -> Outcome:
    """Train for the recipe's epochs, from the start or from a saved ``state``.

    ``run`` is the folder that keeps everything, None in processes that do not write. A checkpoint is written after
    each epoch, and within one every ``save_minutes``. At each step all chance comes from the seed and the step's
    number, and rates and sizes are functions of the epoch, so that an interrupted run goes on as it would have. A
    single process that writes ends its step and saves it before Ctrl-C raises KeyboardInterrupt.
    """
    return _Fit(task, recipe, world, run, save_minutes, progress).go(state)


class _Fit:
    def __init__(
        self, task: Task, recipe: Recipe, world: World, run: RunFolder | None, save_minutes: float, progress: Tracker
    ) -> None:
        self.task, self.recipe, self.world, self.run = task, recipe, world, run
        self.save_seconds, self.progress = 60 * save_minutes, progress
        network = task.network
        if recipe.channels_last:
            network.to(memory_format=torch.channels_last)
        if recipe.batch_norm == "train" and recipe.sync_batch_norm:
            sync_batch_norm(network, world)
        if recipe.fused and not recipe.compile and world.device.type == "cpu":
            fuse(network)
            share(network, torch.get_num_threads())
        self.learner = Learner(task)
        self.optimizer = make_optimizer(self.learner, recipe, head=[*task.head, *task.extra.parameters()])
        self.average = MovingAverage(network, recipe.ema) if recipe.ema else None
        self.dtype = compute_type(recipe, world)
        if self.run and self.dtype is not DTYPES[recipe.precision]:
            self.run.say("this processor has no fast bfloat16: computing in float32")
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.dtype is torch.float16)
        self.frozen = -1
        self.module: nn.Module = self.learner
        self.epoch = self.step = 0
        self.seconds = self.waited = 0.0
        self.sums = [0.0, 0.0, 0.0]  # loss x pictures, right answers, pictures: of this process, in this epoch
        self.best: dict[str, float] = {}
        self.best_epoch = 0
        self.interruption = Interruption()
        self.rest = Rest(recipe, task.steps)
        self.start_losses = torch.empty(0, dtype=torch.float64)  # of the validation pictures, one by one

    def go(self, state: Mapping[str, Any] | None) -> Outcome:
        """Train to the end."""
        # Several processes are not asked to end at the same step, and could not go on to it without each other.
        with self.interruption if self.run and self.world.size == 1 else nullcontext():
            return self._go(state)

    def _go(self, state: Mapping[str, Any] | None) -> Outcome:
        recipe, task = self.recipe, self.task
        if state is None:
            self._start()
        else:
            self._load(state)
        batches = task.batches(self.epoch, self.step) if self.epoch < recipe.epochs else iter(())
        saved = time.monotonic()
        while self.epoch < recipe.epochs and not self._has_stalled():
            self._freeze(frozen_stages(recipe, self.epoch, len(task.stages)))
            left = task.batch * (task.steps - self.step)
            with self.progress(total=left, label=f"epoch {self.epoch + 1}/{recipe.epochs}") as bar:
                began = time.monotonic()
                while self.step < task.steps:
                    self._step(batches)
                    self.step += 1
                    now = time.monotonic()
                    self.rest.stepped(self.epoch, now - began)
                    self.seconds, began = self.seconds + now - began, now
                    bar.advance(task.batch, self._note())
                    asked = self.interruption.asked
                    if self.run and (asked or now - saved > self.save_seconds) and self.step < task.steps:
                        self._save()
                        self.interruption.obey()
                        saved = began = time.monotonic()
            self._end_epoch()
            self.interruption.obey()
            saved = time.monotonic()
        return Outcome(self.best_epoch, self.best, self.epoch)

    def _start(self) -> None:
        """Measure and save what training starts from: no epoch after it is better unless it is better than this."""
        with self.interruption.at_once():
            self.best = self._measure()
        if isinstance(self.task, WeighingTask):
            self.start_losses = self.task.losses
        if self.run:
            for name in ("last.safetensors", "best.safetensors"):
                self.run.save_model(name, self.task.network.state_dict(), self.task.spec)
            self.run.record({"phase": "start", "epoch": 0.0, "step": 0, **self.best})
            if self.best:
                self.run.say(f"at the start  {_measured(self.best)}")
            self._save()

    def _measure(self) -> dict[str, float]:
        began = time.monotonic()
        figures = self.task.measure(self.world, named(self.progress, "validate"))
        self.rest.measured(time.monotonic() - began)
        return figures

    def _note(self) -> str:
        """The mean loss of the epoch so far, and how long the run will take, in few words."""
        loss, _, pictures = self.sums
        return f"loss {loss / pictures:.3f}, {clock(self.rest.seconds(self.epoch, self.step))} left of the run"

    def _step(self, batches: Iterator[Batch]) -> None:
        recipe = self.recipe
        if self.run:
            self.run.unsaved = True
        number = self.epoch * self.task.steps + self.step
        for group in self.optimizer.param_groups:
            rate = recipe.lr * factor(recipe, (number + 0.5) / self.task.steps)
            group["lr"] = rate * group["lr_scale"]
        torch.manual_seed(mix_seed(recipe.seed, number, self.world.rank))  # for dropout
        waiting = time.monotonic()
        batch = next(batches)
        self.waited += time.monotonic() - waiting
        parts = recipe.accumulate if len(batch.labels) % recipe.accumulate == 0 else 1
        size = len(batch.labels) // parts
        slices = [slice(part * size, (part + 1) * size) for part in range(parts)]
        weights = self._weights([batch.labels[chosen] for chosen in slices])
        for part, chosen in enumerate(slices):
            pictures = batch.pictures[chosen].to(self.world.device, non_blocking=True)
            labels = batch.labels[chosen].to(self.world.device, non_blocking=True)
            seed = mix_seed(recipe.seed, number, self.world.rank, part)
            self._backward(Batch(pictures, labels), seed, parts, part, weights[part])
        if recipe.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.learner.parameters(), recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.task.network)

    def _weights(self, parts: Sequence[Tensor]) -> list[float]:
        """What each micro-step's loss counts in the mean over all of them and over all processes, from their labels.

        Each loss is a mean itself, and a mean of means is the loss of the whole batch only where all are over as much:
        not where one part has more objects than another, or more pixels that belong to a class.
        """
        count = len(parts) * self.world.size
        if count == 1 or not isinstance(self.task, CountingTask):
            return [1.0] * len(parts)
        amounts = [self.task.amount(labels) for labels in parts]
        (total,) = self.world.sum([sum(amounts)])
        return [count * (amount or 1.0) / (total or 1.0) for amount in amounts]

    def _backward(self, batch: Batch, seed: int, parts: int, part: int, weight: float) -> None:
        # Processes exchange gradients once a step, with the last part.
        ahead = part < parts - 1
        with self.module.no_sync() if ahead and isinstance(self.module, DistributedDataParallel) else nullcontext():
            with torch.autocast(self.world.device.type, self.dtype, enabled=self.dtype is not torch.float32):
                loss, right = self.module(batch, seed)
            loss = loss * weight
            self.scaler.scale(loss / parts).backward()
        value = loss.item()
        if not math.isfinite(value) and not self.scaler.is_enabled():
            raise InputError(
                f"the loss became {value} in epoch {self.epoch + 1}, step {self.step + 1}: train again with a smaller "
                "learning rate (--set lr=...) or a limit to the gradient (--set clip=1); the last checkpoint is kept"
            )
        count = len(batch.labels)
        self.sums = [a + b for a, b in zip(self.sums, (value * count, right, count), strict=True)]

    def _freeze(self, count: int) -> None:
        """Let all but the first ``count`` stages learn, and set which modules behave as in training."""
        task, recipe = self.task, self.recipe
        set_modes(task, recipe, count)
        if count != self.frozen:
            self.frozen = count
            if recipe.compile:
                self.learner.compile()
            self.module = self.world.wrap(self.learner)

    def _end_epoch(self) -> None:
        loss, right, pictures = self.world.sum(self.sums)
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        record: Record = {
            "phase": "network",
            "epoch": float(self.epoch + 1),
            "step": (self.epoch + 1) * self.task.steps,
            "lr": rate,
            "train_loss": loss / pictures,
            f"train_{self.task.score}": right / pictures,
            "images_per_second": pictures / max(self.seconds, 1e-9),
            "waited": self.waited / max(self.seconds, 1e-9),
            "seconds": self.seconds,
        }
        try:
            with self._averaged(), self.interruption.at_once():
                self._same_buffers()
                figures = self._measure()
        except KeyboardInterrupt:
            if self.run and self.interruption.asked and not self.interruption.insisted:
                self._save()  # with all steps of the epoch done
            raise
        self.epoch, self.step = self.epoch + 1, 0
        self.seconds = self.waited = 0.0
        self.sums = [0.0, 0.0, 0.0]
        with self._averaged():
            self._finish(record, figures)
        if self.run:
            self._save()

    def _averaged(self) -> AbstractContextManager[None]:
        """Within ``with``, the network has the weights that the model will have."""
        return self.average.swapped(self.task.network) if self.average else nullcontext()

    def _finish(self, record: Record, figures: dict[str, float]) -> None:
        """Save the network, and what was measured of it."""
        run, network = self.run, self.task.network
        record |= figures
        better = self._is_better(figures)
        if better:
            self.best, self.best_epoch = dict(figures), self.epoch
        if run:
            run.save_model("last.safetensors", network.state_dict(), self.task.spec)
            if better:
                run.save_model("best.safetensors", network.state_dict(), self.task.spec)
            run.record(record)
            run.draw()
            run.say(describe(record, self.recipe.epochs) + ("  best so far" if better and figures else ""))

    def _is_better(self, figures: Mapping[str, float]) -> bool:
        """Whether this epoch is the best so far. Its start gives way only to what is better beyond chance."""
        if not is_better(figures, self.best, self.recipe.metric):
            return False
        if self.best_epoch or self.recipe.metric != "loss" or not isinstance(self.task, WeighingTask):
            return True
        return len(self.start_losses) < 2 or is_beyond_chance(self.start_losses - self.task.losses)

    def _has_stalled(self) -> bool:
        recipe, patience = self.recipe, self.recipe.early_stop
        said = ""
        if recipe.give_up and self.best and not self.best_epoch and self.epoch >= recipe.give_up * recipe.epochs:
            said = f"stopped after {self.epoch} of {recipe.epochs} epochs: none was better than the start"
        elif patience and self.best and self.epoch - self.best_epoch >= patience:
            said = f"stopped early: no better {recipe.metric} in {patience} epochs"
        if said and self.run:
            self.run.say(said)
        return bool(said)

    def _same_buffers(self) -> None:
        """Give all processes the running statistics that are saved."""
        if self.world.size > 1:
            for buffer in self.task.network.buffers():
                torch.distributed.broadcast(buffer, 0)

    def _save(self) -> None:
        assert self.run is not None
        self.run.save_state(
            {
                "epoch": self.epoch,
                "step": self.step,
                "steps": self.task.steps,
                "learner": self.learner.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.average.state_dict() if self.average else None,
                "scaler": self.scaler.state_dict(),
                "best": self.best,
                "best_epoch": self.best_epoch,
                "start_losses": self.start_losses,
                "sums": self.sums,
                "seconds": self.seconds,
                "waited": self.waited,
            }
        )

    def _load(self, state: Mapping[str, Any]) -> None:
        try:
            self._take(state)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise not_this_run(self.run.folder / "state.pt" if self.run else Path("state.pt")) from error
        if self.run:
            self.run.forget_after(self.epoch * self.task.steps + self.step)
            self.run.say(f"going on: {place(self.epoch, self.step, self.task.steps)}")

    def _take(self, state: Mapping[str, Any]) -> None:
        if state["steps"] != self.task.steps:
            raise InputError(
                f"the run had {state['steps']} steps an epoch and now has {self.task.steps}: pictures that could be "
                "read then cannot be read now, or the other way round; restore them, or start a new run"
            )
        self.epoch, self.step = int(state["epoch"]), int(state["step"])
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.scaler.load_state_dict(state["scaler"])
        self.best, self.best_epoch = dict(state["best"]), state["best_epoch"]
        if "start_losses" in state:
            self.start_losses = state["start_losses"]
        elif self.recipe.label_smoothing and self.epoch < self.recipe.epochs:
            self.best = {}  # version 0.1 measured without label smoothing: the next epoch is the best so far
        # What the other processes had counted is gone; the epoch's figures are then those of the rest.
        self.sums = state["sums"] if self.world.writes else [0.0, 0.0, 0.0]
        self.seconds, self.waited = float(state["seconds"]), float(state["waited"])


class Rest:
    """How long the rest of a run will take, from what was measured of it: an estimate.

    A step costs as much as its pictures have pixels; every epoch ends with a validation.
    """

    def __init__(self, recipe: Recipe, steps: int) -> None:
        self.steps = steps
        self.costs = [crop_size(recipe, epoch) ** 2 for epoch in range(recipe.epochs)]
        self.done = self.taken = 0.0
        self.validations: list[float] = []

    def stepped(self, epoch: int, seconds: float) -> None:
        """A step of an epoch took so long."""
        self.done += self.costs[epoch]
        self.taken += seconds

    def measured(self, seconds: float) -> None:
        """A validation took so long."""
        self.validations.append(seconds)

    def seconds(self, epoch: int, step: int) -> float:
        """How long it is to the end of the run, from after so many steps of an epoch; 0 before the first step."""
        if not self.done:
            return 0.0
        cost = (self.steps - step) * self.costs[epoch] + self.steps * sum(self.costs[epoch + 1 :])
        validation = sum(self.validations) / len(self.validations) if self.validations else 0.0
        return cost * self.taken / self.done + (len(self.costs) - epoch) * validation


def set_modes(task: Task, recipe: Recipe, frozen: int) -> None:
    """Let all but the first ``frozen`` stages learn; what is frozen behaves as in evaluation."""
    task.network.train()
    task.extra.train()
    for parameter in task.network.parameters():
        parameter.requires_grad_(True)
    for stage in task.stages[:frozen]:
        stage.eval()
        for parameter in stage.parameters():
            parameter.requires_grad_(False)
    if recipe.batch_norm == "frozen":
        fresh = {id(parameter) for parameter in task.head}
        for module in task.network.modules():
            # A fresh one has no statistics to keep.
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and id(module.weight) not in fresh:
                module.eval()


def is_beyond_chance(gains: Tensor) -> bool:
    """Whether the mean of what each picture gains is above its standard error; without those that are NaN."""
    known = gains[~gains.isnan()]
    return len(known) > 1 and bool(known.mean() > known.std() / math.sqrt(len(known)))


def is_better(figures: Mapping[str, float], best: Mapping[str, float], metric: Metric) -> bool:
    """Whether an epoch's figures on the validation pictures are better than the best so far; always without figures."""
    if not figures or not best:
        return True
    if metric == "loss":
        return figures["val_loss"] < best["val_loss"]
    name = f"val_{metric}"
    # Among equals, the one that is more confident of what is right.
    return (figures[name], -figures["val_loss"]) > (best[name], -best["val_loss"])


def describe(record: Mapping[str, float | int | str], epochs: int) -> str:
    """A line for people about an epoch."""
    text = f"epoch {record['epoch']:.0f}/{epochs}  loss {record['train_loss']:.3f}"
    if "val_loss" in record:
        text += f"  {_measured(record)}"
    return text + f"  {record['images_per_second']:.0f} images/s"


def _measured(record: Mapping[str, float | int | str]) -> str:
    text = f"val loss {record['val_loss']:.3f}"
    for name, title in SCORES.items():
        if name in record:
            text += f"  val {title} {100 * float(record[name]):.1f} %"
    return text
