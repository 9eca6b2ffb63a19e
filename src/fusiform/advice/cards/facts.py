"""What is known of a model: what its file says, and all that the folder of its run holds."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusiform.advice.cards.personal import Personal, look_at_all
from fusiform.data.annotated import AnnotatedSample, AnnotatedSet
from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.data.open import open_dataset
from fusiform.errors import FusiformError, InputError
from fusiform.evaluation.uses import count_uses, find_run, name_in, read_uses
from fusiform.progress import Tracker, silent
from fusiform.runs import Run, need_training
from fusiform.spec import ModelSpec
from fusiform.zoo.info import describe
from fusiform.zoo.model import Model, open_model

AnySet = DataSet | AnnotatedSet


@dataclass(frozen=True)
class Data:
    """The images that a run learned from, as its list has them, or those of a dataset that was named.

    ``counts`` are images (or objects, of detectors) of a class in a split. ``fingerprint`` is the list's. ``change``
    says what became of the dataset since, "" where it is as it was. ``personal`` is what the files say of people, None
    where they are gone. ``held_out`` says that the training took the validation images from the others.
    """

    name: str
    splits: Mapping[Split, int]
    counts: Mapping[str, Mapping[Split, int]]
    fingerprint: str = ""
    change: str = ""
    held_out: bool = False
    personal: Personal | None = None


@dataclass(frozen=True)
class Use:
    """The last time that a file of the run was measured: its line, and how often those images were used by how many."""

    line: Mapping[str, Any]
    times: int
    runs: int


@dataclass(frozen=True)
class Facts:
    """All that is known. What there is only of a run is empty without one."""

    name: str
    model: Model
    about: Mapping[str, Any]
    """Figures of ``fusiform info``."""
    run: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    reached: Mapping[str, Any] = field(default_factory=dict)
    """Figures of the training's report."""
    epochs: int = 0
    """Times that the validation images were looked at to choose the best weights."""
    use: Use | None = None
    exported: Sequence[Mapping[str, Any]] = ()
    chosen: Mapping[str, Any] | None = None
    """What ``choose`` measured of this run's file, with ``trainings``, how many it chose among."""
    data: Data | None = None

    @property
    def spec(self) -> ModelSpec:
        """The model's description."""
        return self.model.spec


def gather(
    model: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    progress: Tracker = silent,
) -> Facts:
    """Read all that there is; see ``card``."""
    opened = open_model(model)
    about = describe(model).figures
    run = find_run(opened.path)
    if run is None:
        found = None if data is None else _named(Path(data), opened.spec, root, progress)
        return Facts(opened.path.stem, opened, about, data=found)
    need_training("the card of a run")
    settings = _json(run / "run.json")
    try:
        reached = Run(run).metrics
    except InputError:  # a training under way has a model, too
        reached = {}
    file, chosen = name_in(run, opened.path), _chosen(run)
    name = run.name if file == "best.safetensors" else f"{run.name} ({opened.path.name})"
    if chosen and opened.path.parent.absolute() == run.absolute().parent.parent:  # the file that choose made
        reached = dict(chosen)
    elif file != "best.safetensors":  # the report is of that one alone
        reached = {}
    lines = [line for line in read_uses(run) if line["file"] == file]
    use = None
    if lines:  # one with all figures tells more than the last look of the training itself
        line = next((line for line in reversed(lines) if line["rows"]), lines[-1])
        images = line["images_sha256"]
        same = [each for each in lines if each["images_sha256"] == images]
        stress = next((each["stress"] for each in reversed(same) if each.get("stress")), None)
        use = Use({**line, "stress": stress}, *count_uses(run, images))
    return Facts(
        name,
        opened,
        about,
        run=run,
        settings=settings,
        recipe=_json(run / "recipe.json"),
        environment=_json(run / "environment.json"),
        reached=reached,
        epochs=_looks(run),
        use=use,
        exported=_exported(run),
        chosen=chosen,
        data=_of_run(run, settings, None if data is None else Path(data), root, progress),
    )


def _of_run(
    run: Path, settings: Mapping[str, Any], place: Path | None, root: str | os.PathLike[str] | None, progress: Tracker
) -> Data:
    """The list of a run, and what has become of the dataset that it is of."""
    from fusiform.training.annotation_job import read_annotated_list
    from fusiform.training.classification_job import read_list

    listed: AnySet = read_list(run) if (run / "data.csv").is_file() else read_annotated_list(run)
    source = place or listed.source
    found = Data(listed.source.name, *_count(listed), listed.fingerprint())
    try:
        task = listed.task if isinstance(listed, AnnotatedSet) else "classification"
        with progress(total=None, label="read the dataset"):
            now = open_dataset(source, task=task, ignore=settings.get("ignore"), root=root or settings.get("root"))
    except (FusiformError, OSError) as error:
        if place is not None:
            raise
        gone = f"{source} is no longer there" if not source.exists() else f"{source} can no longer be read ({error})"
        return dataclasses.replace(found, change=f"{gone}: what its files say of people is not known.")
    held_out = "val" in listed.splits and "val" not in now.splits
    change = _changed(listed, now)
    return dataclasses.replace(found, change=change, held_out=held_out, personal=_look(now, progress))


def _named(place: Path, spec: ModelSpec, root: str | os.PathLike[str] | None, progress: Tracker) -> Data:
    with progress(total=None, label="read the dataset"):
        now = open_dataset(place, task=spec.task, spec=spec, model=spec.name, root=root)
    counted = Data(now.source.name, *_count(now), now.fingerprint())
    return dataclasses.replace(counted, personal=_look(now, progress))


def _count(dataset: AnySet) -> tuple[dict[Split, int], dict[str, dict[Split, int]]]:
    """Images of each split, and of each class in it its images or, of a detector, its boxes."""
    splits: dict[Split, int] = {split: len(samples) for split, samples in dataset.splits.items()}
    counts: dict[str, dict[Split, int]] = {name: {} for name in dataset.classes}
    for split, samples in dataset.splits.items():
        labels: Counter[int] = Counter()
        for sample in samples:
            if isinstance(sample, Sample):
                labels[sample.label] += 1
            else:
                labels.update(box.label for box in sample.boxes or ())
        for label, count in sorted(labels.items()):
            counts[dataset.classes[label]][split] = count
    return splits, {name: each for name, each in counts.items() if each}


def _look(dataset: AnySet, progress: Tracker) -> Personal:
    samples: list[Sample | AnnotatedSample] = [sample for each in dataset.splits.values() for sample in each]
    return look_at_all(samples, dataset.locate, count=len(samples), progress=progress)


def _changed(listed: AnySet, now: AnySet) -> str:
    """What is different, in words; "" where nothing is."""
    before, after = _as_one(listed), _as_one(now)
    if before.fingerprint() == after.fingerprint():
        return ""
    one, other = _names(before), _names(after)
    missing, added = one.keys() - other.keys(), other.keys() - one.keys()
    changed = sum(one[name] != other[name] for name in one.keys() & other.keys())
    parts = [
        f"{count:,} {text}"
        for count, text in (
            (len(missing), "images are gone"),
            (len(added), "are new"),
            (changed, "have another label"),
        )
        if count
    ] or ["its labels are not what they were"]
    return (
        f"The dataset at {now.source} has changed since the training, and no longer has the hash of its list: "
        f"{', '.join(parts)}."
    )


def _as_one(dataset: AnySet) -> AnySet:
    """All images in one split: part of them may have been kept for validation."""
    if isinstance(dataset, DataSet):
        plain = tuple(sample for each in dataset.splits.values() for sample in each)
        return dataclasses.replace(dataset, splits={"all": plain})
    annotated = tuple(sample for every in dataset.splits.values() for sample in every)
    return dataclasses.replace(dataset, splits={"all": annotated})


def _names(dataset: AnySet) -> dict[str, object]:
    """What each image is labelled with, by its name."""
    found: dict[str, object] = {}
    if isinstance(dataset, DataSet):
        for samples in dataset.splits.values():
            found.update((dataset.locate(sample), dataset.classes[sample.label]) for sample in samples)
        return found
    for annotated in dataset.splits.values():
        for each in annotated:
            found[dataset.locate(each)] = repr((each.boxes, each.mask_file and each.mask_file.name, each.outlines))
    return found


def _looks(run: Path) -> int:
    """The lines of metrics.jsonl that have a figure of the validation images."""
    from fusiform.training.curves import read_metrics

    try:
        return sum(any(name.startswith("val_") for name in line) for line in read_metrics(run / "metrics.jsonl"))
    except (FusiformError, OSError):
        return 0


def _exported(run: Path) -> list[Mapping[str, Any]]:
    """The rows of the reports of exports into folders of the run, whose files are still there."""
    found: list[Mapping[str, Any]] = []
    for file in sorted(run.rglob("*_export.json")):
        rows = _json(file).get("rows")
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, dict) and isinstance(row.get("file"), str):
                here = file.parent / Path(row["file"]).name
                if row.get("passed") and here.exists():
                    found.append({**row, "file": here.relative_to(run).as_posix()})
    return found


def _chosen(run: Path) -> Mapping[str, Any] | None:
    """What ``choose`` says of the run, where it is the one that was chosen."""
    journal = _json(run.parent.parent / "choose.json")
    chosen, trainings = journal.get("chosen"), journal.get("trainings")
    if not isinstance(chosen, dict) or not isinstance(trainings, list):
        return None
    return {**chosen, "trainings": len(trainings)} if Path(str(chosen.get("run"))).name == run.name else None


def _json(file: Path) -> dict[str, Any]:
    """An object of a JSON file; none where there is no file. InputError, which names it, for a damaged one."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error}): restore it, or remove it to go without") from None
    if not isinstance(found, dict):
        raise InputError(f"{file}: is not what fusiform writes: restore it, or remove it to go without")
    return found
