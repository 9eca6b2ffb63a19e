"""What is wrong with a labelled dataset: its files, its labels, its splits, and pictures that it holds twice."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fusiform.data.checks import PICTURE_ENDINGS
from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.data.duplicates import find_groups
from fusiform.data.faults import Severity
from fusiform.data.image import UNREAD_PICTURE_ENDINGS, is_of_system, natural_key
from fusiform.data.names import nfc
from fusiform.data.open import open_dataset
from fusiform.doctor.classes import about_imbalance, alike_names
from fusiform.doctor.findings import Diagnosis, Finding, Kind, by_split, counted, in_severity, in_split, relative
from fusiform.doctor.judge import Judge
from fusiform.doctor.pictures import DUPLICATES, KEPT, Look, about_pictures, copies_to_leave, in_order, joined, look_at
from fusiform.doctor.shortcuts import about_shortcuts
from fusiform.errors import UsageError
from fusiform.machine import usable_cores
from fusiform.progress import Tracker, silent
from fusiform.report import Cell
from fusiform.zoo.model import Model

FEW = 5
"""Pictures; a class with fewer to train on is hardly learned."""
INPUT_SIDE = 224
"""Pixels; the usual input, for a dataset that is examined without a model."""


def examine(
    source: str | os.PathLike[str] | DataSet,
    *,
    model: str | os.PathLike[str] | Model | None = None,
    threads: int | None = None,
    progress: Tracker = silent,
) -> Diagnosis[DataSet]:
    """Examine a labelled dataset: every file, the labels, the splits, and which pictures it holds more than once.

    ``source`` is what ``open_dataset`` reads, or what it returned. With ``model``, a name, a file or an opened one of
    any classifier, labels are suspicious by confident learning (Northcutt et al., arXiv 1911.00068, Section 3.1): a
    last layer is learned on the model's features in five folds, so that no picture is judged by what has learned its
    label or that of its copies, unless the model itself was trained on them. See ``tasks.label_noise``. Classes with
    fewer than ten pictures, and classes whose own get less than 0.5 on average, are not judged.

    The files are read once, in ``threads`` threads, all cores by default. Raises what ``open_dataset`` and
    ``open_engine`` raise; what is wrong with a picture is a finding. ``clean`` is the dataset without pictures that
    cannot be read, with one copy of each picture, and without pictures that have two labels.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}")
    dataset = source if isinstance(source, DataSet) else open_dataset(source, task="classification")
    judge = None if model is None else Judge(model)
    entries = [(split, sample) for split, samples in dataset.splits.items() for sample in samples]

    findings: list[Finding] = []
    looks: list[Look] = []
    features: list[NDArray[np.float16] | None] = []
    side = INPUT_SIDE if judge is None else judge.spec.input_size
    with progress(total=len(entries), label="doctor") as bar:
        seen = in_order(lambda entry: _look(entry[1], judge), entries, threads or usable_cores())
        for (split, sample), (look, values) in zip(entries, seen, strict=True):
            findings += [
                Finding(f.kind, f.severity, f.message, sample.name, sample, split, dataset.classes[sample.label])
                for f in look.faults
            ]
            looks.append(look)
            features.append(values)
            bar.advance()

    findings += about_pictures(looks, side)
    with progress(total=None, label="find copies"):
        groups = find_groups([look.fingerprint for look in looks])
    for group in groups:
        findings += _about_group(dataset, group.kind, [entries[i] for i in group.members])
    copies = {i for group in groups for i in group.members[1:]}
    once = [(look, entry) for i, (look, entry) in enumerate(zip(looks, entries, strict=True)) if i not in copies]
    shown = [(look.appearance, sample.label) for look, (_, sample) in once if look.appearance is not None]
    findings += about_shortcuts([each for each, _ in shown], [label for _, label in shown], dataset.classes)
    findings += _about_classes(dataset)
    findings += _about_other_files(dataset)
    findings += [Finding("dataset", "note", note) for note in dataset.notes]
    if judge is not None:
        joined_groups = [sorted(members) for members in joined(group.members for group in groups)]
        with progress(total=None, label="judge the labels"):
            findings += judge.findings(dataset, entries, features, joined_groups)

    clean = _clean(dataset, entries, [look.pixels for look in looks], [group.members for group in groups])
    return Diagnosis(dataset, in_severity(findings), clean, tuple(_class_rows(dataset)))


def _look(sample: Sample, judge: Judge | None) -> tuple[Look, NDArray[np.float16] | None]:
    look, image = look_at(sample)
    return look, None if judge is None or image is None else judge.look(image)


def _class_rows(dataset: DataSet) -> Iterator[dict[str, Cell]]:
    """A row for each class: its name, and its pictures in each split."""
    counts = {split: Counter(s.label for s in samples) for split, samples in dataset.splits.items()}
    for label, name in enumerate(dataset.classes):
        yield {"class": name, **by_split({split: count[label] for split, count in counts.items()}, "images")}


def _about_group(
    dataset: DataSet, kind: Literal["exact", "near"], members: list[tuple[Split, Sample]]
) -> Iterator[Finding]:
    """What it means that these are one picture."""
    # First the copy that is better left out, which is the one to name.
    members = sorted(members, key=lambda member: KEPT[member[0]])
    (split, first), *rest = members
    others = tuple(sample for _, sample in rest)
    own_class = dataset.classes[first.label]
    same = "byte for byte the same as" if kind == "exact" else "nearly the same picture as"

    def about(name: Kind, severity: Severity, other: tuple[Split, Sample], what: str) -> Finding:
        more = f" (one of {len(rest):,} copies)" if len(rest) > 1 else ""
        message = f"is {same} {relative(dataset, other[1].name)}{more}{what}"
        return Finding(name, severity, message, first.name, first, split, own_class, others)

    different = next((member for member in rest if member[1].label != first.label), None)
    elsewhere = next((member for member in rest if member[0] != split), None)
    if different is not None:
        what = (
            f", which is labelled {dataset.classes[different[1].label]} and this {own_class}: keep it once with the "
            "right label (--fix leaves all of them out)"
        )
        yield about("contradictory labels", "error", different, what)
    if elsewhere is not None:
        what = (
            f" in {elsewhere[0]}, so that figures on {elsewhere[0]} are too good: remove it from {split} (--fix does)"
        )
        yield about("leak between splits", "error", elsewhere, what)
    if different is None and elsewhere is None:
        yield about(DUPLICATES[kind], "note", rest[0], ": one of them is enough (--fix keeps the largest)")


def _about_classes(dataset: DataSet) -> Iterator[Finding]:
    """Classes that are too small, missing somewhere, or named alike."""
    counts = {split: Counter(sample.label for sample in samples) for split, samples in dataset.splits.items()}
    learned: Split = "train" if "train" in counts else next(iter(counts))
    advice = "collect more of the small classes, or weigh them up in training"
    yield from about_imbalance(dict(enumerate(dataset.classes)), counts[learned], learned, "picture", advice)
    for label, name in enumerate(dataset.classes):
        if not any(count[label] for count in counts.values()):
            yield Finding(
                "empty class", "warning", f"{name} has no pictures: collect some, or remove it", class_name=name
            )
            continue
        for split, count in counts.items():
            if count[label] == 0:
                message = f"{name} has no pictures in {split}: put some there, or remove the class"
                yield Finding("class missing", "warning", message, split=split, class_name=name)
        if 0 < counts[learned][label] < FEW:
            message = (
                f"{name} has only {counted(counts[learned][label], 'picture')}{in_split(learned)}: collect more, or "
                "join it with another class"
            )
            yield Finding("small class", "warning", message, split=learned, class_name=name)
    yield from alike_names(dataset.classes)


def _about_other_files(dataset: DataSet) -> Iterator[Finding]:
    """The files in class folders that are not read, by folder and ending."""
    source = dataset.source
    in_folders = {(s.file.parent, s.label) for group in dataset.splits.values() for s in group if not s.key}
    if not in_folders or not source.is_dir():
        return
    # Beside the class folders lie lists and read-me files, which nobody takes for pictures.
    above = {source, *(p.parent for folder, label in in_folders for p in _class_folders(dataset, folder, label))}
    visited: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(source, followlinks=True):
        folder = Path(parent)
        status = folder.stat()
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted((name for name in folders if not is_of_system(name)), key=natural_key)
        if folder in above:
            continue
        endings = Counter(Path(name).suffix.lower() for name in files if not is_of_system(name))
        for ending, count in sorted(endings.items()):
            if ending in PICTURE_ENDINGS:
                continue
            called = (
                f"{counted(count, 'file')} ending in {ending}" if ending else f"{counted(count, 'file')} without ending"
            )
            if ending in UNREAD_PICTURE_ENDINGS:
                message = f"{called}: pictures of this kind are not read; save them as JPEG or PNG"
                yield Finding("pictures not read", "warning", message, str(folder))
            else:
                message = f"{called}: not read as pictures; nothing to do if they are none"
                yield Finding("other files", "note", message, str(folder))


def _class_folders(dataset: DataSet, folder: Path, label: int) -> Iterator[Path]:
    """The folder of a class, which ``folder`` is or lies in."""
    for path in (folder, *folder.parents):
        if path == dataset.source:
            return
        if nfc(path.name) == dataset.classes[label]:
            yield path


def _clean(
    dataset: DataSet,
    entries: Sequence[tuple[Split, Sample]],
    pixels: Sequence[int],
    groups: Iterable[Sequence[int]],
) -> DataSet:
    """The dataset without unreadable pictures, with one copy of each, none of those with two labels."""
    left_out = {i for i, size in enumerate(pixels) if size == 0}
    for members in joined(groups):
        if len({entries[i][1].label for i in members}) > 1:
            left_out |= members
        else:
            left_out |= copies_to_leave(members, [split for split, _ in entries], pixels)
    kept: dict[Split, list[Sample]] = {split: [] for split in dataset.splits}
    for i, (split, sample) in enumerate(entries):
        if i not in left_out:
            kept[split].append(sample)
    return replace(dataset, splits={split: tuple(samples) for split, samples in kept.items()})
