"""What a training is from its data to its report, whatever the task."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from fusiform.data.annotated import AnnotatedSample, AnnotatedSet
from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.data.layouts.summary import summary
from fusiform.data.masks import Ignore
from fusiform.engines.device import describe_device
from fusiform.errors import InputError
from fusiform.evaluation.uses import note_use
from fusiform.machine import free_memory
from fusiform.progress import Tracker, both, lines_to, named, silent
from fusiform.report import Cell, Report
from fusiform.spec import Architecture, ModelSpec, parse_network_name
from fusiform.spec import Task as ModelTask
from fusiform.tasks.bootstrap import Interval
from fusiform.training import batch_norm
from fusiform.training.distributed import World
from fusiform.training.environment import describe_environment
from fusiform.training.fitting import describe_fit, fit_recipe
from fusiform.training.loader import Examples, Loaded, Pictures, load, mix_seed
from fusiform.training.loop import Outcome, Task, fit
from fusiform.training.recipe import Recipe, shortened_warmup
from fusiform.training.recipes import RECIPES
from fusiform.training.run_folder import RunFolder, make_folder
from fusiform.training.schedule import crop_size
from fusiform.zoo.catalog import ALIASES, CATALOG
from fusiform.zoo.checkpoint import State
from fusiform.zoo.model import Model, open_model

UNFOLD_PICTURES = 256
"""Training pictures from which batch normalisation's statistics are estimated where the weights came without any."""


_MEASURED: Mapping[ModelTask, tuple[str, ...]] = {
    "classification": ("top1", "top1_low", "top1_high", "top5"),
    "detection": ("map", "map50"),
    "segmentation": ("miou", "pixel_accuracy"),
}
"""What a report says of the best weights, None where there are no images for it."""


class Start(NamedTuple):
    """What a training starts from: a spec with the data's classes, weights, and whether the head is fresh.

    ``fresh`` names the fresh weights of detectors and segmenters.
    """

    spec: ModelSpec
    state: State
    fresh_head: bool
    fresh: frozenset[str] = frozenset()


class PicturesTask(Task, Protocol):
    """A task that learns from pictures, which it normalises itself."""

    def normalize(self, pictures: Tensor) -> Tensor:
        """Pixels (N, 3, H, W) as the network takes them."""
        ...


D = TypeVar("D", DataSet, AnnotatedSet)


class Job(ABC, Generic[D]):
    """A training from its data to its report; what depends on the task is left to the two that there are."""

    list_name: str
    """The file of a run's folder that ``list_text`` goes into."""
    ignore: Ignore | None = None
    """What 255 is in masks, see ``open_dataset``."""
    held_out: Split | None = None
    """What the validation pictures were taken from, where the data has none of its own."""
    root: str | os.PathLike[str] | None = None
    """The folder that a list's paths begin in, by default its own."""
    asked_threads: int | None = None
    """The number of threads that was asked for; a run that goes on takes it too, so that sums are rounded alike."""

    def __init__(
        self, world: World, run: RunFolder | None, recipe: Recipe, threads: int, save_minutes: float, progress: Tracker
    ) -> None:
        self.world, self.run, self.recipe, self.threads = world, run, recipe, threads
        self.save_minutes = save_minutes
        self.progress = (both(progress, lines_to(run.log)) if run else progress) if world.writes else silent

    @abstractmethod
    def prepare(self, source: Path) -> D:
        """The data with a training and, if the recipe asks for it, a validation split."""

    @abstractmethod
    def list_text(self, dataset: D) -> str:
        """The list of the pictures for the run's folder."""

    @abstractmethod
    def read_list(self, run: Path) -> D:
        """The data of a run's folder; UsageError where the list is not the one it began with."""

    @abstractmethod
    def adapt(self, base: Model | tuple[Architecture, float, Model | None], dataset: D, model: str) -> Start:
        """Spec and weights for the data's classes."""

    @abstractmethod
    def make_task(
        self, start: Start, dataset: D, taught_by: Model | None, state: Mapping[str, Any] | None
    ) -> PicturesTask:
        """The task as the main phase finds it; what a saved ``state`` brings along is not computed again."""

    @abstractmethod
    def figures(self, best: Path, dataset: D) -> dict[str, Cell]:
        """What the best weights reach on pictures that had no part in choosing them, if there are any."""

    def say(self, text: str) -> None:
        """A line for the run's log and the console."""
        if self.run:
            self.run.say(text)

    def shown(self, label: str) -> Tracker:
        """What shows the progress of a part of the work, by the part's name."""
        return named(self.progress, label)

    def go(
        self, data: Path | None, model: str, teacher: str | os.PathLike[str] | None, scratch: bool, resume: bool
    ) -> Report:
        """Train, in this process's part of the world."""
        began = time.monotonic()
        world = self.world
        taught_by = open_model(teacher) if teacher is not None else None
        # Whatever can be refused is refused before anything is written, and before the pictures are looked at.
        base = open_base(model, taught_by, scratch=scratch)
        found: D | None = None
        if self.run and resume:
            self.run.lock()
            found = self.read_list(self.run.folder)
        elif self.run:
            self.run.check()
            found = self.prepare(cast("Path", data))
            for line in summary(found, held_out=self.held_out if found.splits.get("val") else None):
                self.say(line)
            self._tell_shortened()
            self.fit(found)
        dataset, recipe = cast("tuple[D, Recipe]", world.share((found, self.recipe)))
        self.recipe = recipe
        start = self.adapt(base, dataset, model)
        if self.run and not resume:
            self._write_down(dataset, model, teacher, scratch)
        saved = self.run.load_state() if self.run and resume else None
        if self.run and resume and saved is None:
            self.say("no step was saved: training begins again")
        if world.device.type != "cpu":
            self.say(f"computing on {describe_device(str(world.device))}")
        state = cast("Mapping[str, Any] | None", world.share(saved))

        task = self.make_task(start, dataset, taught_by, state)
        outcome = fit(
            task,
            recipe,
            world,
            run=self.run,
            state=state,
            save_minutes=self.save_minutes,
            progress=self.progress,
        )
        world.wait()
        if outcome.epochs and outcome.best and not outcome.best_epoch:
            self._tell_not_beaten(start)
        return self._report(dataset, outcome, time.monotonic() - began)

    def fit(self, dataset: D) -> None:
        """Fit the recipe to the pictures, and say what came of it."""
        recipe = self.recipe
        self.recipe = fit_recipe(recipe, dataset, held_out=self.held_out is not None)
        if told := describe_fit(recipe, self.recipe):
            self.say(told)

    def _tell_shortened(self) -> None:
        """Say what the preset has that does not fit into so few epochs, see ``override``."""
        recipe, preset = self.recipe, RECIPES.get(self.recipe.name)
        if preset is None or not recipe.epochs or recipe.warmup_epochs == preset.warmup_epochs:
            return
        if recipe.warmup_epochs == shortened_warmup(preset, recipe.epochs):
            self.say(
                f"warm-up: {recipe.warmup_epochs:.3g} epochs in place of {preset.warmup_epochs:g}, which do not fit "
                f"into {recipe.epochs}"
            )

    def _tell_not_beaten(self, start: Start) -> None:
        """Say that the best weights are those of before the main phase, and what could be done about it."""
        recipe = self.recipe
        slower = f"a smaller learning rate (--set lr={recipe.lr / 3:.1g})"
        if start.fresh_head and recipe.head_epochs:
            self.say(
                "fine-tuning has not beaten the head: best.safetensors has the head that was trained on the frozen "
                f"network; try {slower}, more pictures, or --set epochs=0, which trains the head alone"
            )
        else:
            self.say(
                "training has not beaten the model that it started from, which is in best.safetensors; "
                f"try {slower}, more epochs or more pictures"
            )

    def _write_down(self, dataset: D, model: str, teacher: str | os.PathLike[str] | None, scratch: bool) -> None:
        run = self.run
        assert run is not None
        make_folder(run.folder)
        run.lock()
        run.check()  # again: another training may have begun and ended meanwhile
        run.write_text("recipe.json", self.recipe.to_json(indent=2) + "\n")
        run.write_json("environment.json", describe_environment())
        run.write_text(self.list_name, self.list_text(dataset))
        run.write_text("data.sha256", f"{dataset.fingerprint()}  {self.list_name} as classes, names and splits\n")
        # Last: a folder with this file holds a run, and has all that it can go on from.
        run.create(
            {
                "schema": "fusiform.run/1",
                "data": str(dataset.source.absolute()),
                "model": _absolute(model),
                "teacher": None if teacher is None else _absolute(os.fspath(teacher)),
                "scratch": scratch,
                "ignore": self.ignore,
                "root": None if self.root is None else str(Path(self.root).absolute()),
                "classes": list(dataset.classes),
                "processes": self.world.size,
                "device": self.world.device.type,
                "threads": self.asked_threads,
            }
        )

    def load(self, samples: Sequence[Any], examples: Examples) -> Loaded:
        """The pictures of a split, decoded as far as there is room."""
        recipe = self.recipe
        if not recipe.epochs:
            return Loaded(list(samples), [None] * len(samples), [], 0)
        loaded = load(
            samples,
            examples,
            cache=recipe.cache,
            threads=self.threads,
            progress=self.progress,
        )
        for error in loaded.errors[:10]:
            self.say(f"left out: {error}")
        if len(loaded.errors) > 10:
            self.say(f"left out: {len(loaded.errors) - 10} more; fusiform doctor lists all")
        if not loaded.samples:
            raise InputError("none of the training pictures can be read: fusiform doctor says why")
        held = sum(pixels is not None for pixels in loaded.decoded)
        free = f"{free_memory() / 1e9:.1f} GB free"
        if held == len(loaded.samples):
            self.say(f"{held} training pictures decoded and kept in memory: {loaded.bytes / 1e6:.0f} MB, {free}")
        elif recipe.cache != "none":
            self.say(
                f"{held} of {len(loaded.samples)} training pictures decoded and kept in memory "
                f"({loaded.bytes / 1e6:.0f} MB, {free}), the others are decoded in each epoch"
            )
        return loaded

    def unfold(self, task: PicturesTask, pictures: Pictures) -> None:
        """Give weights without batch statistics some, where batch statistics are going to be used."""
        network = self.folded(task)
        if self.recipe.batch_norm != "train" or not batch_norm.is_folded(network):
            return
        size = crop_size(self.recipe, 0)
        chosen = pictures.order(0)[:UNFOLD_PICTURES].tolist()
        parts = [chosen[i : i + 32] for i in range(0, len(chosen), 32)]
        batches = (
            task.normalize(
                torch.stack([pictures.look(i, size, mix_seed(self.recipe.seed, i)) for i in part]).to(self.world.device)
            )
            for part in parts
        )
        with self.progress(total=None, label="statistics", unit="steps"):
            batch_norm.unfold(network, batches)
        self.say(f"batch normalisation: statistics estimated from {len(chosen)} training pictures")

    def folded(self, task: PicturesTask) -> nn.Module:
        """The part of the network that came with weights."""
        return task.network

    def _report(self, dataset: D, outcome: Outcome, seconds: float) -> Report:
        """What came of it, with the best weights' figures on pictures that had no part in choosing them."""
        figures: dict[str, Cell] = {}
        if self.run:
            best = self.run.folder / "best.safetensors"
            measured = self.figures(best, dataset)
            spec = open_model(best).spec
            figures = {
                "run": str(self.run.folder),
                "model": str(best),
                "network": spec.name,
                "task": self.recipe.task,
                "classes": spec.num_classes,
                "train_images": len(dataset.splits["train"]),
                "best_epoch": outcome.best_epoch,
                "epochs": outcome.epochs,
                **dict.fromkeys(("split", "images", *_MEASURED[self.recipe.task])),
                **measured,
                "seconds": round(seconds, 1),
            }
        report = Report("training", (), figures, schema="fusiform.training/1")
        if self.run:
            self.run.write_json("report.json", report.to_dict())
        return report

    def note_test(
        self, best: Path, samples: Sequence[Sample] | Sequence[AnnotatedSample], measured: Mapping[str, Cell]
    ) -> None:
        """Write down that the test pictures were used, if it was them, and say so where other runs used them too."""
        if measured.get("split") != "test":
            return
        first = _MEASURED[self.recipe.task][0]
        value, low, high = (cast("float | None", measured.get(f"{first}{end}")) for end in ("", "_low", "_high"))
        what = {"top1": "top-1", "map": "mAP", "miou": "mean IoU"}[first]
        used = note_use(
            best.parent,
            best,
            samples,
            split="test",
            what=what,
            interval=Interval(value, low, high),
            figures=measured,
        )
        if used.runs > 1:
            self.say(used.sentence)


def open_base(model: str, teacher: Model | None, *, scratch: bool) -> Model | tuple[Architecture, float, Model | None]:
    """The model to start from, or the network's name and what it is cut from (None for random weights)."""
    network = parse_network_name(model)
    named = model in ALIASES or model in CATALOG
    if scratch and network is None:
        spec = open_model(model).spec
        return spec.architecture, spec.width, None
    if network is None or (named and not scratch):
        return open_model(model)
    architecture, width = network
    if scratch:
        return architecture, width, None
    for wider in (teacher, open_model(architecture) if architecture in ALIASES else None):
        if wider and wider.spec.architecture == architecture and wider.spec.width >= width:
            return architecture, width, wider
    raise InputError(
        f"there are no weights to start {model} from: use --scratch, or a --teacher of the same kind that is wider"
    )


def read_text(path: Path) -> str:
    """A file of a run's folder; UsageError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}): start a new run") from None


def _absolute(model: str) -> str:
    """A model's name as it is, a file's path from the root."""
    return str(Path(model).resolve()) if Path(model).is_file() else model
