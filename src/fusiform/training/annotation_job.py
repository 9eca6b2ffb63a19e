"""Training detectors and segmenters: where that is another job than training classifiers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, cast

from torch import nn

from fusiform.data.annotated import AnnotatedSample, AnnotatedSet, BoxLabel
from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.data.duplicates import find_groups, fingerprint_all
from fusiform.data.open import open_dataset
from fusiform.data.outlines import outlines_as_json, outlines_from_json
from fusiform.data.split import split_dataset
from fusiform.errors import InputError
from fusiform.evaluation.detection import box_figures
from fusiform.evaluation.segmentation import mask_figures
from fusiform.report import Cell
from fusiform.spec import Architecture, ModelSpec, Preprocess
from fusiform.training.base import Job, PicturesTask, Start
from fusiform.training.detection import BoxExamples, DetectionTask, start_detector
from fusiform.training.loader import Pictures
from fusiform.training.narrowing import slice_state
from fusiform.training.segmentation import MaskExamples, SegmentationTask, start_segmenter
from fusiform.zoo.checkpoint import State
from fusiform.zoo.model import Model, open_model

LIST = "data.json"
"""A run's list of pictures; classifiers have theirs in ``data.csv``."""


class AnnotatedJob(Job[AnnotatedSet]):
    """A training of a detector or segmenter, as the recipe says."""

    list_name = LIST

    def prepare(self, source: Path) -> AnnotatedSet:
        """The data with a training and, if the recipe asks for it, a validation split."""
        recipe = self.recipe
        assert recipe.task != "classification"
        with self.progress(total=None, label="read the dataset"):
            dataset = open_dataset(source, task=recipe.task, ignore=self.ignore, root=self.root)
        for note in dataset.notes:
            self.say(note)
        if "val" not in dataset.splits:
            self.held_out = "train" if "train" in dataset.splits else "all"
            dataset = self._split(dataset)
        if not dataset.splits.get("train"):
            raise InputError(f"{source}: has no training pictures: name them in a list or file called train")
        if recipe.task == "detection" and not any(sample.boxes for sample in dataset.splits["train"]):
            raise InputError(f"{source}: no training picture has an object: check the annotations")
        return dataset

    def _split(self, dataset: AnnotatedSet) -> AnnotatedSet:
        """Hold pictures out as for classification, as if all were of one class."""
        by_file = {sample.file: sample for samples in dataset.splits.values() for sample in samples}
        plain = {split: tuple(Sample(sample.file, 0) for sample in one) for split, one in dataset.splits.items()}
        groups: list[list[Sample]] = []
        if self.recipe.val_fraction:
            samples = plain.get("all", plain.get("train", ()))
            prints, _ = fingerprint_all(samples, threads=self.threads, progress=self.progress)
            with self.progress(total=None, label="find copies"):
                groups = [[samples[i] for i in group.members] for group in find_groups(prints)]
        split = split_dataset(
            DataSet(dataset.source, ("pictures",), plain),
            fraction=self.recipe.val_fraction,
            seed=self.recipe.seed,
            groups=groups,
        )
        for note in split.notes:
            self.say(note)
        found = {name: tuple(by_file[sample.file] for sample in samples) for name, samples in split.splits.items()}
        return dataclasses.replace(dataset, splits=found)

    def list_text(self, dataset: AnnotatedSet) -> str:
        """The whole dataset as JSON, which ``read_annotated_list`` reads."""
        splits = {
            split: [
                {
                    "file": str(sample.file.absolute()),
                    "mask_file": None if sample.mask_file is None else str(sample.mask_file.absolute()),
                    "size": sample.size,
                    "image_id": sample.image_id,
                    "ignore": sample.ignore,
                    "boxes": None if sample.boxes is None else [astuple(box) for box in sample.boxes],
                    **({} if sample.outlines is None else {"outlines": outlines_as_json(sample.outlines)}),
                }
                for sample in samples
            ]
            for split, samples in dataset.splits.items()
        }
        fields = {"task": dataset.task, "category_ids": dataset.category_ids, "splits": splits}
        return json.dumps(fields, ensure_ascii=False) + "\n"

    def read_list(self, run: Path) -> AnnotatedSet:
        """See ``read_annotated_list``."""
        return read_annotated_list(run)

    def adapt(self, base: Model | tuple[Architecture, float, Model | None], dataset: AnnotatedSet, model: str) -> Start:
        """Spec and weights for the data's classes, with fresh layers where the base has none that fit."""
        state: State = {}
        if isinstance(base, Model):
            # What is trained is the network, whatever the file did with its answers.
            spec, state, origin = base.spec.replace(decoded=False), base.state(), Path(model).name
        else:
            architecture, width, wider = base
            origin = f"random weights of {model}"
            spec = ModelSpec(architecture, width, dataset.classes, preprocess=Preprocess())
            if wider is not None:
                origin = f"the widest channels of {wider.spec.name}"
                spec, state = wider.spec.replace(width=width), slice_state(wider.state(), wider.spec, width)
        start = start_detector if self.recipe.task == "detection" else start_segmenter
        new, weights, fresh = start(spec, state, dataset.classes, self.recipe)
        provenance = f"trained by fusiform ({self.recipe.name}) on {dataset.source.name} from {origin}"
        new = new.replace(provenance=provenance + (f"; {spec.provenance}" if spec.provenance else ""))
        return Start(new, weights, bool(fresh), fresh)

    def make_task(
        self, start: Start, dataset: AnnotatedSet, taught_by: Model | None, state: Mapping[str, Any] | None
    ) -> DetectionTask | SegmentationTask:
        """The task as the training finds it; what a saved ``state`` brings along is not computed again."""
        recipe, world = self.recipe, self.world
        assert taught_by is None, "recipes of these tasks have no teacher"
        detects = recipe.task == "detection"
        examples = BoxExamples(recipe, start.spec) if detects else MaskExamples(recipe, start.spec)
        loaded = self.load(dataset.splits["train"], examples)
        pictures = Pictures(loaded, examples, recipe, world)
        make = DetectionTask if detects else SegmentationTask
        task = make(
            start.spec,
            start.state,
            pictures,
            cast("Sequence[AnnotatedSample]", dataset.splits.get("val", ())),
            recipe,
            world,
            fresh=start.fresh,
            threads=self.threads,
        )
        if state is None:
            self.unfold(task, pictures)
        return task

    def folded(self, task: PicturesTask) -> nn.Module:
        """The backbone alone where the head is fresh, whose norms would take a gain from the little that they read."""
        network = task.network
        fresh = {id(parameter) for parameter in task.head}
        norms = (module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
        backbone = network.backbone
        assert isinstance(backbone, nn.Module)
        return backbone if any(id(norm.weight) in fresh for norm in norms) else network

    def figures(self, best: Path, dataset: AnnotatedSet) -> dict[str, Cell]:
        """What the best weights reach on pictures that had no part in choosing them, if there are any."""
        split: Split = "test" if dataset.splits.get("test") else "val"
        samples = dataset.splits.get(split, ())
        if not samples:
            return {}
        measure = box_figures if self.recipe.task == "detection" else mask_figures
        found = measure(open_model(best), samples, threads=self.threads, progress=self.progress)
        measured: dict[str, Cell] = {"split": split, **found}
        self.note_test(best, samples, measured)
        return measured


def read_annotated_list(run: Path) -> AnnotatedSet:
    """The pictures of a run's folder, with their splits; UsageError where the list is not the one it began with."""
    from fusiform.training.run_folder import read_settings

    settings = read_settings(run)
    path = run / LIST
    try:
        fields = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
        splits: dict[Split, tuple[AnnotatedSample, ...]] = {
            split: tuple(_sample(entry) for entry in entries) for split, entries in fields["splits"].items()
        }
        dataset = AnnotatedSet(
            Path(settings["data"]),
            fields["task"],
            tuple(settings["classes"]),
            splits,
            category_ids=tuple(fields["category_ids"]),
        )
        expected = (run / "data.sha256").read_text(encoding="utf-8").split()[:1]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}): start a new run") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is damaged ({error}): start a new run") from None
    if expected != [dataset.fingerprint()]:
        raise InputError(f"{path}: is not the list that the run began with: restore it, or start a new run")
    return dataset


def _sample(entry: Mapping[str, Any]) -> AnnotatedSample:
    return AnnotatedSample(
        Path(entry["file"]),
        None if entry["boxes"] is None else tuple(BoxLabel(*box) for box in entry["boxes"]),
        None if entry["mask_file"] is None else Path(entry["mask_file"]),
        None if entry["size"] is None else (entry["size"][0], entry["size"][1]),
        entry["image_id"],
        entry.get("ignore", True),  # a run of a version that knew no other
        outlines=outlines_from_json(entry["outlines"]) if "outlines" in entry else None,
    )
