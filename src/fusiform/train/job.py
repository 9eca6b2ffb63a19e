"""A training from its data to its report: what ``fusiform train`` runs."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fusiform.data.annotated import recognise
from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.data.duplicates import find_groups, fingerprint_all
from fusiform.data.layouts import read_dataset
from fusiform.data.split import split_dataset
from fusiform.errors import UsageError, WeightsError
from fusiform.evaluate.classification import answers
from fusiform.machine import free_memory
from fusiform.progress import Tracker, silent
from fusiform.report import Cell, Report
from fusiform.spec import Accuracy, Architecture, ModelSpec, Preprocess
from fusiform.tasks import metrics
from fusiform.train import batch_norm
from fusiform.train.classification import (
    ClassificationTask,
    State,
    Teacher,
    compute_features,
    head_name,
    train_head,
)
from fusiform.train.curves import draw_lr_finder
from fusiform.train.environment import describe_environment
from fusiform.train.loop import Outcome, Task, fit
from fusiform.train.lr_finder import suggest, sweep
from fusiform.train.pictures import ClassExamples, Examples, Loaded, Pictures, load, mix_seed
from fusiform.train.recipe import Recipe
from fusiform.train.recipes import finetune_small
from fusiform.train.run import Run, Say, make_folder, read_settings
from fusiform.train.schedule import crop_size
from fusiform.train.slicing import slice_state
from fusiform.train.world import World, join
from fusiform.zoo.catalog import ALIASES, CATALOG
from fusiform.zoo.checkpoint import read_safetensors, write_safetensors
from fusiform.zoo.model import Model, open_model

UNFOLD_PICTURES = 256
"""Training pictures from which batch normalisation's statistics are estimated where the weights came without any."""
_COLUMNS = ("path", "label", "split", "offset", "size", "key")


class Start(NamedTuple):
    """What a training starts from: a spec with the data's classes, weights, and whether the head is fresh.

    ``fresh`` names the fresh weights of detectors and segmenters.
    """

    spec: ModelSpec
    state: State
    fresh_head: bool
    fresh: frozenset[str] = frozenset()


def train(
    data: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] = "mobilenet_v2",
    recipe: Recipe = finetune_small,
    teacher: str | os.PathLike[str] | None = None,
    scratch: bool = False,
    resume: bool = False,
    device: str = "cpu",
    threads: int | None = None,
    save_minutes: float = 5.0,
    say: Say = lambda _: None,
    progress: Tracker = silent,
) -> Report:
    """Train a model on ``data``, for the recipe's task, and keep everything in the folder ``out``; see ``train.run``.

    ``data`` is what ``read_dataset`` reads, or ``read_annotated`` for detectors and segmenters; without a validation
    split, part of the training pictures is kept for it, near-duplicates always on one side. ``model`` is a name or file
    with weights to start from, or a network's name (``mobilenet_v2_x0_35``), which starts from the most important
    channels of a wider one: the teacher, or else the bundled weights; ``scratch`` starts from random weights.
    ``teacher`` is a model to learn from as well (``recipe.distill``). ``resume`` goes on with the run in ``out``, with
    its own data, model and recipe. ``threads`` is the number of cores, all by default. ``say`` gets a line now and
    then.

    The report's figures are those of ``best.safetensors``, on the test pictures if there are any. Raises UsageError
    for data, arguments or a recipe that cannot be used, and OutputError for a folder that cannot be written.
    """
    threads = threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    folder = Path(out)
    with join(device) as world:
        run = Run(folder, say) if world.writes else None
        try:
            settings: dict[str, Any] = {}
            if resume:
                settings = read_settings(folder)
                recipe = Recipe.from_json(_read(folder / "recipe.json"), source=str(folder / "recipe.json"))
                teacher, model, scratch = settings["teacher"], settings["model"], settings["scratch"]
            elif data is None:
                raise UsageError("name the data to train on, or add --resume to go on with a run")
            elif folder.absolute().is_relative_to(Path(data).absolute()):
                raise UsageError(
                    f"{folder}: lies within the data, where the next training would take it for a class: "
                    "choose another folder for --out"
                )
            learns = recipe.distill or recipe.distill_features
            if learns and teacher is None:
                raise UsageError("recipe: distill is above 0 but there is no teacher: name one with --teacher")
            if teacher is not None and not learns:
                raise UsageError("a teacher needs a share of the loss: add --set distill=0.5, or leave out --teacher")
            if recipe.deterministic:
                torch.use_deterministic_algorithms(True)
            return _job(world, run, recipe, threads, save_minutes, progress).go(
                Path(data) if data is not None else None, os.fspath(model), teacher, scratch, resume
            )
        finally:
            if recipe.deterministic:
                torch.use_deterministic_algorithms(False)
            if run:
                run.close()


def find_rate(
    data: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] = "mobilenet_v2",
    recipe: Recipe = finetune_small,
    teacher: str | os.PathLike[str] | None = None,
    scratch: bool = False,
    device: str = "cpu",
    threads: int | None = None,
    progress: Tracker = silent,
) -> Report:
    """Look for a learning rate for ``train`` with the same arguments, and draw ``lr_finder.png`` in ``out``.

    Up to 100 steps at rising rates (``lr_finder.sweep``); the report's figures hold ``suggested``. Raises what
    ``train`` raises.
    """
    if data is None:
        raise UsageError("name the data to look for a learning rate on")
    threads = threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    with join(device) as world:
        if world.size > 1:
            raise UsageError("--find-lr runs in a single process: start it without torchrun")
        taught_by = open_model(teacher) if teacher is not None else None
        base = open_base(os.fspath(model), taught_by, scratch=scratch)
        job = _job(world, None, recipe, threads, 0, progress)
        dataset = job.prepare(Path(data))
        task = job.make_task(job.adapt(base, dataset, os.fspath(model)), dataset, taught_by, None)
        rates, losses = sweep(task, recipe, world)
    suggested = suggest(rates, losses)
    picture = Path(out) / "lr_finder.png"
    make_folder(picture.parent)
    draw_lr_finder(rates, losses, suggested, picture)
    figures: dict[str, Cell] = {"suggested": float(f"{suggested:.2g}"), "steps": len(rates), "picture": str(picture)}
    return Report("learning rate", (), figures)


def _job(
    world: World, run: Run | None, recipe: Recipe, threads: int, save_minutes: float, progress: Tracker
) -> Job[Any]:
    if recipe.task == "classification":
        return ClassificationJob(world, run, recipe, threads, save_minutes, progress)
    from fusiform.train.annotated import AnnotatedJob

    return AnnotatedJob(world, run, recipe, threads, save_minutes, progress)


class Pictured(Protocol):
    """What a job asks of a data set, of either kind."""

    @property
    def source(self) -> Path: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def splits(self) -> Mapping[Split, Sequence[Any]]: ...
    def fingerprint(self) -> str:
        """The hash of what is in it."""
        ...


class PicturesTask(Task, Protocol):
    """A task that learns from pictures, which it normalises itself."""

    def normalize(self, pictures: Tensor) -> Tensor:
        """Pixels (N, 3, H, W) as the network takes them."""
        ...


D = TypeVar("D", bound=Pictured)


class Job(ABC, Generic[D]):
    """A training from its data to its report; what depends on the task is left to the two that there are."""

    list_name: str
    """The file of a run's folder that ``list_text`` goes into."""

    def __init__(
        self, world: World, run: Run | None, recipe: Recipe, threads: int, save_minutes: float, progress: Tracker
    ) -> None:
        self.world, self.run, self.recipe, self.threads = world, run, recipe, threads
        self.save_minutes, self.progress = save_minutes, progress

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

    def go(
        self, data: Path | None, model: str, teacher: str | os.PathLike[str] | None, scratch: bool, resume: bool
    ) -> Report:
        """Train, in this process's part of the world."""
        began = time.monotonic()
        recipe, world = self.recipe, self.world
        taught_by = open_model(teacher) if teacher is not None else None
        # Whatever can be refused is refused before anything is written, and before the pictures are looked at.
        base = open_base(model, taught_by, scratch=scratch)
        found: D | None = None
        if self.run and resume:
            found = self.read_list(self.run.folder)
        elif self.run:
            self.run.check()
            found = self.prepare(cast("Path", data))
        dataset = cast("D", world.share(found))
        start = self.adapt(base, dataset, model)
        if self.run and not resume:
            self._write_down(dataset, model, teacher, scratch)
        saved = self.run.load_state() if self.run and resume else None
        state = cast("Mapping[str, Any] | None", world.share(saved))

        task = self.make_task(start, dataset, taught_by, state)
        outcome = fit(
            task,
            recipe,
            world,
            run=self.run,
            state=state,
            save_minutes=self.save_minutes,
            progress=self.progress if world.writes else silent,
        )
        world.wait()
        return self._report(dataset, outcome, time.monotonic() - began)

    def _write_down(self, dataset: D, model: str, teacher: str | os.PathLike[str] | None, scratch: bool) -> None:
        run = self.run
        assert run is not None
        make_folder(run.folder)
        run.write_text("recipe.json", self.recipe.to_json(indent=2) + "\n")
        run.write_json("environment.json", describe_environment())
        run.write_text(self.list_name, self.list_text(dataset))
        run.write_text("data.sha256", f"{dataset.fingerprint()}  {self.list_name} as classes, names and splits\n")
        # Last: a folder with this file holds a run, and has all that it can go on from.
        run.create(
            {
                "data": str(dataset.source.absolute()),
                "model": _absolute(model),
                "teacher": None if teacher is None else _absolute(os.fspath(teacher)),
                "scratch": scratch,
                "classes": list(dataset.classes),
                "processes": self.world.size,
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
            progress=self.progress if self.world.writes else silent,
        )
        for error in loaded.errors[:10]:
            self.say(f"left out: {error}")
        if len(loaded.errors) > 10:
            self.say(f"left out: {len(loaded.errors) - 10} more; fusiform doctor lists all")
        if not loaded.samples:
            raise UsageError("none of the training pictures can be read: fusiform doctor says why")
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
                "classes": spec.num_classes,
                "training pictures": len(dataset.splits["train"]),
                "best epoch": outcome.best_epoch,
                "epochs": outcome.epochs,
                **measured,
                "seconds": round(seconds, 1),
            }
        return Report("training", (), figures)


class ClassificationJob(Job[DataSet]):
    """A training of a classifier."""

    list_name = "data.csv"

    def list_text(self, dataset: DataSet) -> str:
        """A row for each picture."""
        return _list_csv(dataset)

    def read_list(self, run: Path) -> DataSet:
        """See the function of that name."""
        return read_list(run)

    def adapt(self, base: Model | tuple[Architecture, float, Model | None], dataset: DataSet, model: str) -> Start:
        """See the function of that name."""
        return adapt(base, dataset, self.recipe, model)

    def make_task(
        self, start: Start, dataset: DataSet, taught_by: Model | None, state: Mapping[str, Any] | None
    ) -> ClassificationTask:
        """The task as the main phase finds it; what a saved ``state`` brings along is not computed again."""
        recipe, world = self.recipe, self.world
        examples = ClassExamples(recipe, shorter_side=_kept_side(recipe))
        loaded = self.load(dataset.splits["train"], examples)
        labels = [sample.label for sample in loaded.samples]
        pictures = Pictures(loaded, examples, recipe, world, labels=labels)
        weights = start.state
        if state is None and start.fresh_head and recipe.head_epochs:
            weights = self._train_head(start, loaded.samples)
        task = ClassificationTask(
            start.spec,
            weights,
            pictures,
            dataset.splits.get("val", ()),
            recipe,
            world,
            teacher=Teacher(taught_by, start.spec.labels, world, threads=self.threads) if taught_by else None,
            threads=self.threads,
        )
        if state is None:
            if recipe.epochs:
                self.unfold(task, pictures)
        else:
            self.say(f"going on from epoch {state['epoch']}, step {state['step']}")
        return task

    def prepare(self, source: Path) -> DataSet:
        """The data with a training and, if the recipe asks for it, a validation split."""
        recipe = self.recipe
        if recognise(source) is not None:
            raise UsageError(
                f"{source}: has boxes or masks, and recipe {recipe.name} is for classifiers: leave out --recipe and "
                "--task classify, or give a folder with one folder a class"
            )
        dataset = read_dataset(source)
        for note in dataset.notes:
            self.say(note)
        if len(dataset.classes) < 2:
            raise UsageError(
                f"{source}: has one class, {dataset.classes[0]}, and a classifier needs two or more: add a folder of "
                "pictures that show something else"
            )
        if "val" not in dataset.splits:
            split: Split = "train" if "train" in dataset.splits else "all"
            samples = dataset.splits.get(split, ())
            groups: list[list[Sample]] = []
            if recipe.val_fraction:
                prints, _ = fingerprint_all(samples, threads=self.threads, progress=self.progress)
                groups = [[samples[i] for i in group.members] for group in find_groups(prints)]
            told = len(dataset.notes)
            dataset = split_dataset(dataset, fraction=recipe.val_fraction, seed=recipe.seed, groups=groups)
            for note in dataset.notes[told:]:
                self.say(note)
        if not dataset.splits.get("train"):
            raise UsageError(f"{source}: has no training pictures: add a folder train with one folder a class")
        return dataset

    def _train_head(self, start: Start, samples: Sequence[Sample]) -> State:
        """The weights with a head trained on the frozen backbone's features."""
        began = time.monotonic()
        features, labels = compute_features(start.spec, start.state, samples, self.world, threads=self.threads)
        if not len(features):
            raise UsageError("none of the training pictures can be read: fusiform doctor says why")
        seconds = time.monotonic() - began
        weight, bias = train_head(features, labels, start.spec.num_classes, self.recipe)
        name = head_name(start.spec)
        state = {**start.state, f"{name}.weight": weight, f"{name}.bias": bias}
        self.say(
            f"head: features of {len(features)} pictures in {seconds:.1f} s, "
            f"{self.recipe.head_epochs} epochs on them in {time.monotonic() - began - seconds:.1f} s"
        )
        return state

    def figures(self, best: Path, dataset: DataSet) -> dict[str, Cell]:
        """Measured on the test or else the validation pictures, and written into the model's description."""
        spec, state = read_safetensors(best)
        assert spec is not None
        split: Split = "test" if dataset.splits.get("test") else "val"
        samples = dataset.splits.get(split, ())
        if not samples:
            return {}
        values = answers(best, samples, threads=self.threads, progress=self.progress).values
        read = ~np.isnan(values).any(axis=1)
        truth = np.array([sample.label for sample in samples])[read]
        if not len(truth):
            return {}
        figures = _figures(values[read], truth, split)
        accuracy = Accuracy(
            f"{dataset.source.name} {split}",
            100 * cast("float", figures["top1"]),
            100 * cast("float", figures["top5"]),
            len(truth),
            "fusiform train",
        )
        write_safetensors(best, state, spec.replace(accuracy=(accuracy,)))
        return figures


def read_list(run: Path) -> DataSet:
    """The pictures of a run's folder, with their splits; UsageError where the list is not the one it began with."""
    settings = read_settings(run)
    classes = tuple(settings["classes"])
    path = run / "data.csv"
    splits: dict[Split, list[Sample]] = {}
    for row in csv.DictReader(io.StringIO(_read(path), newline="")):
        sample = Sample(
            Path(row["path"]),
            classes.index(row["label"]),
            int(row["offset"]),
            int(row["size"]) if row["size"] else None,
            row["key"],
        )
        splits.setdefault(cast("Split", row["split"]), []).append(sample)
    dataset = DataSet(Path(settings["data"]), classes, {split: tuple(found) for split, found in splits.items()})
    if _read(run / "data.sha256").split()[:1] != [dataset.fingerprint()]:
        raise UsageError(f"{path}: is not the list that the run began with: restore it, or start a new run")
    return dataset


def open_base(model: str, teacher: Model | None, *, scratch: bool) -> Model | tuple[Architecture, float, Model | None]:
    """The model to start from, or the network's name and what it is cut from (None for random weights)."""
    network = re.fullmatch(r"(mobilenet_v2|shufflenet_v2)_x(\d+)_(\d+)", model)
    named = model in ALIASES or model in CATALOG
    if scratch and network is None:
        spec = open_model(model).spec
        return spec.architecture, spec.width, None
    if network is None or (named and not scratch):
        return open_model(model)
    architecture, width = cast("Architecture", network[1]), float(f"{network[2]}.{network[3]}")
    if scratch:
        return architecture, width, None
    for wider in (teacher, open_model(architecture) if architecture in ALIASES else None):
        if wider and wider.spec.architecture == architecture and wider.spec.width >= width:
            return architecture, width, wider
    raise UsageError(
        f"there are no weights to start {model} from: use --scratch, or a --teacher of the same kind that is wider"
    )


def adapt(
    base: Model | tuple[Architecture, float, Model | None], dataset: DataSet, recipe: Recipe, model: str
) -> Start:
    """Spec and weights for the data's classes; the classifier is kept where it is for the same classes."""
    classes = dataset.classes
    preprocess = Preprocess(resize=recipe.eval_resize or recipe.eval_size, crop=recipe.eval_size)
    if not isinstance(base, Model):
        architecture, width, wider = base
        origin = f"random weights of {model}" if wider is None else f"the widest channels of {wider.spec.name}"
        spec = ModelSpec(architecture, width, classes) if wider is None else wider.spec.replace(width=width)
        state: State = {} if wider is None else slice_state(wider.state(), wider.spec, width)
    else:
        spec, state, origin = base.spec, dict(base.state()), Path(model).name
    same_head = bool(state) and spec.labels == classes
    old = spec.preprocess
    if state:
        preprocess = dataclasses.replace(old, resize=preprocess.resize, crop=preprocess.crop)
    new = spec.replace(
        labels=classes,
        label_ids=(),
        input_size=recipe.eval_size,
        preprocess=preprocess,
        output="logits",
        temperature=1.0,
        accuracy=(),
        provenance=f"trained by fusiform ({recipe.name}) on {dataset.source.name} from {origin}"
        + (f"; {spec.provenance}" if spec.provenance else ""),
    )
    if new.input_channels != 3:
        raise WeightsError(f"{model}: reads {new.input_channels} channels; photographs have 3")
    return Start(new, _complete(new, state, same_head, recipe.seed), not same_head)


def _complete(spec: ModelSpec, state: State, same_head: bool, seed: int) -> State:
    """The weights with fresh ones, drawn from the seed, where there are none: the whole network or its head."""
    from fusiform.nets import build_network

    if same_head:
        return state
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = {name: value.numpy() for name, value in build_network(spec).state_dict().items()}
    if not state:
        return fresh
    name = head_name(spec)
    return {**state, **{key: fresh[key] for key in (f"{name}.weight", f"{name}.bias")}}


def _figures(values: NDArray[np.float32], truth: NDArray[np.int64], split: str) -> dict[str, Cell]:
    top = min(5, values.shape[1])
    right = int(metrics.in_top(values, truth, 1).sum())
    low, high = metrics.wilson_interval(right, len(truth))
    return {
        "split": split,
        "pictures": len(truth),
        "top1": right / len(truth),
        "top1_low": low,
        "top1_high": high,
        "top5": metrics.top_k_accuracy(values, truth, top),
    }


def _kept_side(recipe: Recipe) -> int:
    """The shorter side at which pictures are kept: even the smallest random part then has the pixels it needs."""
    largest = max((recipe.size, *recipe.sizes))
    smallest: float = recipe.crop_scale[0] if recipe.augment.startswith("crop") else 1.0
    return min(2 * largest, round(largest / math.sqrt(smallest)))


def _list_csv(dataset: DataSet) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for split, samples in dataset.splits.items():
        for sample in samples:
            size = "" if sample.size is None else sample.size
            path = sample.file.absolute()
            writer.writerow((path, dataset.classes[sample.label], split, sample.offset, size, sample.key))
    return text.getvalue()


def _absolute(model: str) -> str:
    """A model's name as it is, a file's path from the root."""
    return str(Path(model).resolve()) if Path(model).is_file() else model


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error}): start a new run") from None
