"""Training classifiers: where that is another job than training detectors and segmenters."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.data.duplicates import find_groups, fingerprint_all
from fusiform.data.open import open_dataset, recognise
from fusiform.data.split import split_dataset
from fusiform.embedding.prototypes import prototype_head
from fusiform.errors import InputError, WeightsError
from fusiform.evaluation.calibration import calibrated_spec, fit_calibration
from fusiform.evaluation.classification import accuracies, answers
from fusiform.evaluation.promises import Seen
from fusiform.report import Cell, printable
from fusiform.spec import Accuracy, Architecture, ModelSpec, Preprocess
from fusiform.training.base import Job, Start, read_text
from fusiform.training.classification import ClassificationTask, State, Teacher, compute_features, head_name, train_head
from fusiform.training.loader import ClassExamples, Pictures
from fusiform.training.narrowing import slice_state
from fusiform.training.recipe import Recipe
from fusiform.training.run_folder import read_settings
from fusiform.zoo.checkpoint import read_safetensors, write_safetensors
from fusiform.zoo.model import Model, open_model

FEWEST_CALIBRATED = 100
"""Validation pictures that a calibration takes: with fewer, a promise of 99 % cannot be made at all."""
_COLUMNS = ("path", "label", "split", "offset", "size", "key")


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
        if state is None and (recipe.head == "prototypes" or (start.fresh_head and recipe.head_epochs)):
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
        if state is None and recipe.epochs:
            self.unfold(task, pictures)
        return task

    def prepare(self, source: Path) -> DataSet:
        """The data with a training and, if the recipe asks for it, a validation split."""
        recipe = self.recipe
        if recognise(source) is not None:
            raise InputError(
                f"{source}: has boxes or masks, and recipe {recipe.name} is for classifiers: leave out --recipe and "
                "--task classification, or give a folder with one folder a class"
            )
        with self.progress(total=None, label="read the dataset"):
            dataset = open_dataset(source, task="classification", root=self.root)
        for note in dataset.notes:
            self.say(note)
        if len(dataset.classes) < 2:
            raise InputError(
                f"{source}: has one class, {dataset.classes[0]}, and a classifier needs two or more: add a folder of "
                "pictures that show something else"
            )
        if "val" not in dataset.splits:
            split: Split = "train" if "train" in dataset.splits else "all"
            self.held_out = split
            samples = dataset.splits.get(split, ())
            groups: list[list[Sample]] = []
            if recipe.val_fraction:
                prints, _ = fingerprint_all(samples, threads=self.threads, progress=self.progress)
                with self.progress(total=None, label="find copies"):
                    groups = [[samples[i] for i in group.members] for group in find_groups(prints)]
            told = len(dataset.notes)
            dataset = split_dataset(dataset, fraction=recipe.val_fraction, seed=recipe.seed, groups=groups)
            for note in dataset.notes[told:]:
                self.say(note)
        if not dataset.splits.get("train"):
            raise InputError(f"{source}: has no training pictures: add a folder train with one folder a class")
        return dataset

    def _train_head(self, start: Start, samples: Sequence[Sample]) -> State:
        """The weights with a head trained on the frozen backbone's features."""
        began = time.monotonic()
        progress = self.shown("features")
        features, labels = compute_features(
            start.spec, start.state, samples, self.world, threads=self.threads, progress=progress
        )
        if not len(features):
            raise InputError("none of the training pictures can be read: fusiform doctor says why")
        seconds = time.monotonic() - began
        name = head_name(start.spec)
        if self.recipe.head == "prototypes":
            found = prototype_head(features, labels, start.spec.num_classes, seed=self.recipe.seed)
            tried = ", ".join(f"{way} {top1:.1%}" for way, top1 in found.tried)
            self.say(f"head: {found.way}, of features of {len(features)} pictures; cross-validated top-1: {tried}")
            weights = found.weight.astype(np.float32), found.bias.astype(np.float32)
            return {**start.state, f"{name}.weight": weights[0], f"{name}.bias": weights[1]}
        weight, bias = train_head(features, labels, start.spec.num_classes, self.recipe, self.shown("head"))
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
        (top1, low, high), (top5, _, _) = accuracies(values[read], truth).values()
        accuracy = Accuracy(f"{dataset.source.name} {split}", top1, top5, len(truth), "fusiform train")
        spec = self._calibrated(best, spec.replace(accuracy=(accuracy,)), dataset)
        write_safetensors(best, state, spec)
        measured: dict[str, Cell] = {
            "split": split,
            "images": len(truth),
            "top1": top1,
            "top1_low": low,
            "top1_high": high,
            "top5": top5 if spec.num_classes > 5 else None,  # of five classes, five answers are all there are
        }
        self.note_test(best, [samples[i] for i in np.flatnonzero(read)], measured)
        return measured

    def _calibrated(self, best: Path, spec: ModelSpec, dataset: DataSet) -> ModelSpec:
        """The description with temperature, sets of names and what is unknown, from the validation pictures.

        They have helped to choose the epoch, which makes promises a little too good; the test pictures take no part.
        """
        samples = dataset.splits.get("val", ())
        if len(samples) < FEWEST_CALIBRATED:
            return spec
        model = open_model(best)
        found = answers(model, samples, threads=self.threads, features=True, progress=self.progress)
        read = np.flatnonzero(~np.isnan(found.values).any(axis=1))
        if len(read) < FEWEST_CALIBRATED or found.features is None:
            return spec
        chosen = tuple(samples[i] for i in read)
        seen = Seen(chosen, found.values[read], found.features[read])
        truth = np.array([sample.label for sample in chosen])
        name = printable(dataset.source.name)
        calibrated = fit_calibration(model, seen, truth, source=f"{name} (val)")
        for note in calibrated.notes:
            self.say(note)
        self.say(f"calibrated on {len(chosen)} validation pictures: temperature {calibrated.temperature.value:.3f}")
        return calibrated_spec(spec, calibrated)


def read_list(run: Path) -> DataSet:
    """The pictures of a run's folder, with their splits; UsageError where the list is not the one it began with."""
    settings = read_settings(run)
    classes = tuple(settings["classes"])
    path = run / "data.csv"
    splits: dict[Split, list[Sample]] = {}
    try:
        for row in csv.DictReader(io.StringIO(read_text(path), newline="")):
            sample = Sample(
                Path(row["path"]),
                classes.index(row["label"]),
                int(row["offset"]),
                int(row["size"]) if row["size"] else None,
                row["key"],
            )
            splits.setdefault(cast("Split", row["split"]), []).append(sample)
    except (ValueError, KeyError, TypeError, csv.Error):
        raise InputError(f"{path}: is not what fusiform train writes: restore it, or start a new run") from None
    dataset = DataSet(Path(settings["data"]), classes, {split: tuple(found) for split, found in splits.items()})
    if read_text(run / "data.sha256").split()[:1] != [dataset.fingerprint()]:
        raise InputError(f"{path}: is not the list that the run began with: restore it, or start a new run")
    return dataset


def adapt(
    base: Model | tuple[Architecture, float, Model | None], dataset: DataSet, recipe: Recipe, model: str
) -> Start:
    """Spec and weights for the data's classes; the classifier is kept where it is for the same classes."""
    classes = dataset.classes
    preprocess = Preprocess(resize=recipe.eval_resize or recipe.eval_size, crop=recipe.eval_size)
    if not isinstance(base, Model):
        architecture, width, wider = base
        origin = f"random weights of {model}" if wider is None else f"the widest channels of {wider.spec.name}"
        spec = (
            ModelSpec(architecture, width, classes)
            if wider is None
            else wider.spec.replace(width=width, certainty=None)
        )
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
        certainty=None,
        provenance=f"trained by fusiform ({recipe.name}) on {dataset.source.name} from {origin}"
        + (f"; {spec.provenance}" if spec.provenance else ""),
    )
    if new.input_channels != 3:
        raise WeightsError(f"{model}: reads {new.input_channels} channels; photographs have 3")
    return Start(new, _complete(new, state, same_head, recipe.seed), not same_head)


def _complete(spec: ModelSpec, state: State, same_head: bool, seed: int) -> State:
    """The weights with fresh ones, drawn from the seed, where there are none: the whole network or its head."""
    from fusiform.modules import build_network

    if same_head:
        return state
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = {name: value.numpy() for name, value in build_network(spec).state_dict().items()}
    if not state:
        return fresh
    name = head_name(spec)
    return {**state, **{key: fresh[key] for key in (f"{name}.weight", f"{name}.bias")}}


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
