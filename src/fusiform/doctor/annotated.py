"""What is wrong with a dataset of boxes or masks: its pictures, its annotations, its splits and its classes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fusiform.data.annotated import AnnotatedSample, AnnotatedSet, AnnotationTask
from fusiform.data.dataset import Sample, Split
from fusiform.data.duplicates import find_groups
from fusiform.data.faults import AnnotationFault, Fault, Severity
from fusiform.data.masks import Ignore
from fusiform.data.open import open_dataset
from fusiform.doctor import boxes
from fusiform.doctor.annotation_judge import AnnotationJudge
from fusiform.doctor.classes import about_counts, alike_names
from fusiform.doctor.findings import Diagnosis, Finding, Kind, by_split, counted, in_severity, in_split, relative
from fusiform.doctor.masks import check_mask
from fusiform.doctor.pictures import DUPLICATES, KEPT, Look, about_pictures, in_order, look_at
from fusiform.doctor.thumbnails import Mark
from fusiform.errors import UsageError
from fusiform.machine import usable_cores
from fusiform.progress import Tracker, silent
from fusiform.report import Cell
from fusiform.zoo.model import Model

INPUT_SIDES = {"detection": boxes.INPUT_SIDE, "segmentation": 513}
"""Pixels; the papers' inputs."""
SAME_SHARES = 0.05
"""The most by which the classes' shares of two masks differ in all, if they are of the same objects."""


def examine_annotated(
    source: str | os.PathLike[str],
    task: AnnotationTask,
    *,
    ignore: Ignore | None = None,
    root: str | os.PathLike[str] | None = None,
    model: str | os.PathLike[str] | Model | None = None,
    threads: int | None = None,
    progress: Tracker = silent,
) -> Diagnosis[AnnotatedSet]:
    """Examine a dataset of boxes (``detection``) or masks (``segmentation``): files, annotations, classes, and copies.

    ``source``, ``ignore`` and ``root`` are what ``open_dataset`` takes. Damaged annotations, which are refused
    elsewhere, are findings here. ``clean`` is the dataset without pictures that cannot be learned from, with one copy
    of each picture (of those in several splits the one in test, or else in val; a near copy in the same split stays if
    it shows other objects), and with boxes clipped to their pictures and each there once.

    With ``model``, a detector or a segmenter of these classes, boxes and masks are held against what it sees, see
    ``tasks.box_noise`` and ``tasks.mask_noise``.

    The files are read once, and for a model once more, in ``threads`` threads, all cores by default. Raises UsageError
    for what is no such dataset, and for annotations of which nothing can be read; InputError for a model of another
    task or without these classes.
    """
    judge = None if model is None else AnnotationJudge(model, task)
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}")
    faults: list[AnnotationFault] = []
    with progress(total=None, label="read the dataset"):
        dataset = open_dataset(source, task=task, faults=faults, ignore=ignore, root=root)
    if judge is not None:
        judge.bind(dataset)  # a model of other classes is told before any picture is read
    entries = [(split, sample) for split, samples in dataset.splits.items() for sample in samples]

    found: list[Finding] = []
    looks: list[_AnnotatedLook] = []
    with progress(total=len(entries), label="doctor") as bar:
        seen = in_order(lambda entry: _look(entry[1], dataset), entries, threads or usable_cores())
        for i, look in enumerate(seen):
            split, sample = entries[i]
            if sample.boxes is not None and sample.size is None and look.seen.pixels:
                sample, more = boxes.measured(sample, split, look.seen.size, dataset.classes)
                entries[i] = split, sample
                faults += more
            faults_seen = (*look.seen.faults, *look.faults)
            found += [_about_picture(fault, look.seen.size, split, sample, dataset) for fault in faults_seen]
            looks.append(look)
            bar.advance()
    splits: dict[Split, list[AnnotatedSample]] = {split: [] for split in dataset.splits}
    for split, sample in entries:
        splits[split].append(sample)
    dataset = replace(dataset, splits={split: tuple(samples) for split, samples in splits.items()})

    findings = [*_about_faults(faults, dataset), *found]
    if task == "detection":
        for split, sample in entries:
            if sample.size is not None:
                findings += boxes.about_boxes(sample, split, dataset.classes)
    findings += about_pictures([look.seen for look in looks], INPUT_SIDES[task], padded=task == "segmentation")
    with progress(total=None, label="find copies"):
        groups = find_groups([look.seen.fingerprint for look in looks])
    for group in groups:
        # First the copy that is better left out, which is the one to name.
        first, *rest = sorted(group.members, key=lambda i: KEPT[entries[i][0]])
        named = entries[first][1], looks[first]
        others = [entries[i] for i in rest if not _same_objects((entries[i][1], looks[i]), named)]
        findings += _about_group(dataset, group.kind, [entries[i] for i in (first, *rest)], others)

    counts = _counts(dataset, looks)
    first = 1 if task == "segmentation" else 0  # the background is everywhere
    names = dict(list(enumerate(dataset.classes))[first:])
    if any(map(any, counts.values())):  # else no mask can be used, which is told
        findings += about_counts(names, counts, "object" if task == "detection" else "picture")
    findings += alike_names(dataset.classes)
    findings += _about_empty(dataset, looks)
    findings += [Finding("dataset", "note", note) for note in dataset.notes]

    quality: dict[str, float] = {}
    if judge is not None:
        usable = [
            entry
            for entry, look in zip(entries, looks, strict=True)
            if look.seen.pixels and not (look.refused or entry[1].damaged)
        ]
        doubted, quality = judge.findings(dataset, usable, threads=threads, progress=progress)
        findings += doubted

    clean = _clean(dataset, entries, looks, [group.members for group in groups])
    rows = _box_rows(dataset, counts) if task == "detection" else _mask_rows(dataset, counts, looks)
    objects = {"objects": sum(map(sum, counts.values()))} if task == "detection" else {}
    return Diagnosis(dataset, in_severity(findings), clean, tuple(rows), objects, quality)


@dataclass(frozen=True)
class _AnnotatedLook:
    """What one look at a picture left; ``faults`` are those of its annotations, errors among them if it is ``refused``.

    ``pixels`` say how many pixels of its mask each label has, where there is a mask that can be used.
    """

    seen: Look
    faults: tuple[Fault, ...] = ()
    refused: bool = False
    pixels: NDArray[np.int64] | None = None


def _look(sample: AnnotatedSample, dataset: AnnotatedSet) -> _AnnotatedLook:
    seen, _ = look_at(Sample(sample.file, 0))
    if not seen.pixels:
        return _AnnotatedLook(seen)
    if (fault := sample.size_fault(seen.size)) is not None:
        return _AnnotatedLook(seen, (Fault("picture of another size", "error", fault),), refused=True)
    if not sample.has_mask:
        return _AnnotatedLook(seen)
    mask = check_mask(sample, seen.size, dataset.classes)
    return _AnnotatedLook(seen, mask.faults, refused=mask.pixels is None, pixels=mask.pixels)


def _about_picture(
    fault: Fault, size: tuple[int, int], split: Split, sample: AnnotatedSample, dataset: AnnotatedSet
) -> Finding:
    """A fault of a picture of this width and height; of some, annotations make something else than labels do."""
    severity, text = fault.severity, fault.message
    marks: tuple[Mark, ...] = ()
    if fault.kind == "long and narrow":
        seen = "squeezed into a square" if dataset.task == "detection" else "a strip of the square that is seen"
        text = f"is {size[0]} x {size[1]} pixels, and {seen}: crop it to what matters, or cut it up"
    elif fault.kind == "orientation":
        severity = "warning"
        marks = tuple(boxes.mark(box, dataset.classes) for box in sample.boxes or ())
        what = "boxes" if dataset.task == "detection" else "mask"
        text = f"is turned when read, as its EXIF orientation asks: look whether its {what} fit the turned picture"
    return Finding(fault.kind, severity, text, sample.name, sample, split, marks=marks)


def _about_faults(faults: Iterable[AnnotationFault], dataset: AnnotatedSet) -> Iterator[Finding]:
    """What reading the annotations told, with the pictures that it is about."""
    samples = {(split, s.file): s for split, of_split in dataset.splits.items() for s in of_split}
    labels = {name: label for label, name in enumerate(dataset.classes)}
    for fault in faults:
        sample = None if fault.split is None else samples.get((fault.split, fault.file))
        marks: tuple[Mark, ...] = ()
        if fault.edges is not None and fault.class_name is not None:
            marks = (Mark(labels[fault.class_name], fault.class_name, fault.edges),)
        yield Finding(
            fault.kind,
            fault.severity,
            fault.message,
            str(fault.file),
            sample,
            fault.split,
            fault.class_name,
            marks=marks,
        )


def _about_group(
    dataset: AnnotatedSet,
    kind: Literal["exact", "near"],
    members: Sequence[tuple[Split, AnnotatedSample]],
    others: Sequence[tuple[Split, AnnotatedSample]],
) -> Iterator[Finding]:
    """What it means that these are one picture; ``others`` are those of them that show other objects than the first."""
    (split, first), *rest = members
    fixes = dataset.task == "detection"
    same = "byte for byte the same as" if kind == "exact" else "nearly the same picture as"

    def about(name: Kind, severity: Severity, other: tuple[Split, AnnotatedSample], what: str) -> Finding:
        more = f" (one of {len(rest):,} copies)" if len(rest) > 1 else ""
        is_same = "is there again" if other[1].file == first.file else f"is {same} {relative(dataset, other[1].name)}"
        copies = tuple(sample for _, sample in rest)
        return Finding(name, severity, f"{is_same}{more}{what}", first.name, first, split, others=copies)

    elsewhere = next((member for member in rest if member[0] != split), None)
    if elsewhere is not None:
        fix = " (--fix does)" if fixes else ""
        what = f" in {elsewhere[0]}, so that figures on {elsewhere[0]} are too good: remove it from {split}{fix}"
        yield about("leak between splits", "error", elsewhere, what)
    if others and kind == "exact":
        what = f", and is annotated otherwise{in_split(others[0][0])}: keep it once, with all of its objects"
        yield about("contradictory annotations", "warning", others[0], what)
    elif others and elsewhere is None:
        what = ", with other objects: nothing to do if they were there, else fix the annotations"
        yield about("near duplicates", "note", others[0], what)
    elif elsewhere is None:
        what = ": one of them is enough" + (" (--fix keeps the largest)" if fixes else "")
        yield about(DUPLICATES[kind], "note", rest[0], what)


def _same_objects(one: tuple[AnnotatedSample, _AnnotatedLook], other: tuple[AnnotatedSample, _AnnotatedLook]) -> bool:
    """Whether two copies of a picture show the same, as they are annotated."""
    if one[1].pixels is None or other[1].pixels is None:
        return boxes.same_objects(one[0], other[0])
    shares = [look.pixels / max(1, int(look.pixels.sum())) for _, look in (one, other) if look.pixels is not None]
    return float(np.abs(shares[0] - shares[1]).sum()) <= SAME_SHARES


def _counts(dataset: AnnotatedSet, looks: Sequence[_AnnotatedLook]) -> dict[Split, list[int]]:
    """The objects of each class in each split, or the pictures whose masks have some of it."""
    counts: dict[Split, list[int]] = {}
    start = 0
    for split, samples in dataset.splits.items():
        if dataset.task == "detection":
            found = Counter(box.label for sample in samples for box in sample.boxes or ())
            counts[split] = [found[label] for label in range(len(dataset.classes))]
        else:
            masks = [look.pixels for look in looks[start : start + len(samples)] if look.pixels is not None]
            counts[split] = [sum(bool(mask[label]) for mask in masks) for label in range(len(dataset.classes))]
        start += len(samples)
    return counts


def _box_rows(dataset: AnnotatedSet, counts: dict[Split, list[int]]) -> Iterator[dict[str, Cell]]:
    """A row for each class: its objects in each split, and how many of them are small."""
    small = Counter(
        box.label
        for samples in dataset.splits.values()
        for sample in samples
        for box in sample.boxes or ()
        if sample.size is not None and boxes.is_small(box, sample.size)
    )
    for label, name in enumerate(dataset.classes):
        found = by_split({split: count[label] for split, count in counts.items()}, "objects")
        yield {"class": name, **found, "small": small[label]}


def _mask_rows(
    dataset: AnnotatedSet, counts: dict[Split, list[int]], looks: Sequence[_AnnotatedLook]
) -> Iterator[dict[str, Cell]]:
    """A row for each class: the pictures that show it in each split, and its share of all labelled pixels."""
    pixels = np.zeros(len(dataset.classes), np.int64)
    for look in looks:
        if look.pixels is not None:
            pixels += look.pixels
    shares = pixels / max(1, int(pixels.sum()))
    for label, name in enumerate(dataset.classes):
        found = by_split({split: count[label] for split, count in counts.items()}, "images")
        yield {"class": name, **found, "pixel_share": round(float(shares[label]), 6)}


def _about_empty(dataset: AnnotatedSet, looks: Sequence[_AnnotatedLook]) -> Iterator[Finding]:
    """The pictures of each split that show nothing but background."""
    start = 0
    for split, samples in dataset.splits.items():
        empty = []
        for sample, look in zip(samples, looks[start:], strict=False):
            shown = sample.boxes if look.pixels is None else look.pixels[1:].any() or not look.pixels.any()
            if not shown and not (look.pixels is None and dataset.task == "segmentation"):
                empty.append(sample)
        start += len(samples)
        if empty:
            message = (
                f"{len(empty):,} of {counted(len(samples), 'picture')}{in_split(split)} show nothing but background, "
                "and are learned as such: look whether somebody forgot to annotate them"
            )
            yield Finding("nothing annotated", "note", message, split=split, others=tuple(empty))


def _clean(
    dataset: AnnotatedSet,
    entries: Sequence[tuple[Split, AnnotatedSample]],
    looks: Sequence[_AnnotatedLook],
    groups: Iterable[Sequence[int]],
) -> AnnotatedSet:
    """The dataset as ``examine_annotated`` says."""

    def same(i: int, k: int) -> bool:
        one, other = looks[i].seen.fingerprint, looks[k].seen.fingerprint
        if one is not None and other is not None and one.sha256 == other.sha256:
            return True
        return _same_objects((entries[i][1], looks[i]), (entries[k][1], looks[k]))

    kept = {i for i, look in enumerate(looks) if look.seen.pixels and not (look.refused or entries[i][1].damaged)}
    for group in groups:
        # A copy that cannot be used is not the one to keep.
        members = [i for i in group if i in kept]
        members.sort(key=lambda i: (-KEPT[entries[i][0]], -looks[i].seen.pixels, -len(entries[i][1].boxes or ()), i))
        stay: list[int] = []
        for i in members:
            if any(entries[i][0] != entries[k][0] or same(i, k) for k in stay):
                kept.discard(i)
            else:
                stay.append(i)
    splits: dict[Split, list[AnnotatedSample]] = {split: [] for split in dataset.splits}
    for i in sorted(kept):
        split, sample = entries[i]
        splits[split].append(sample if sample.boxes is None else boxes.without_copies(sample))
    return replace(dataset, splits={split: tuple(samples) for split, samples in splits.items()})
