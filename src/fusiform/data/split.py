"""Holding pictures out for validation."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.data.names import listed
from fusiform.errors import UsageError


def split_dataset(
    dataset: DataSet,
    *,
    fraction: float = 0.1,
    seed: int = 0,
    groups: Sequence[Sequence[Sample]] | None = None,
) -> DataSet:
    """Hold a part of each class's pictures out for validation, where the dataset has no ``val`` of its own.

    ``all``, or ``train`` where there is no ``all``, becomes ``train`` and ``val``; ``test`` stays. ``val`` gets
    ``fraction`` (0 to below 1) of each class, rounded, yet at least one picture, and at least one stays in ``train``;
    a class with one picture is not held out. The pictures of one of the ``groups``, near copies of each other, go to
    the same side together, so that ``val`` can hold less, or in a class of large groups more, up to half. A fraction
    of 0 holds nothing out. A dataset that has ``val``, or nothing to take it from, is returned as it is.

    Which pictures are held out hangs on ``seed`` and their names within the dataset, and on nothing else: neither
    on the machine nor on where the data lies, and pictures added later mostly leave the others where they are.
    """
    if not 0 <= fraction < 1:
        raise UsageError(f"the fraction to hold out must be 0 or more and below 1, got {fraction}")
    source: Split = "all" if "all" in dataset.splits else "train"
    if "val" in dataset.splits or source not in dataset.splits:
        return dataset
    samples = dataset.splits[source]
    notes = list(dataset.notes)
    chosen: set[int] = set()
    if fraction > 0:
        chosen = _hold_out(samples, fraction, _units(dataset, samples, seed, groups or ()))
        notes.append(f"{len(chosen)} of {len(samples)} pictures are held out for validation (seed {seed})")
        notes += _shortfalls(dataset, samples, chosen)

    splits: dict[Split, tuple[Sample, ...]] = {
        "train": tuple(sample for index, sample in enumerate(samples) if index not in chosen)
    }
    if chosen:
        splits["val"] = tuple(sample for index, sample in enumerate(samples) if index in chosen)
    splits.update({split: kept for split, kept in dataset.splits.items() if split != source})
    return dataclasses.replace(dataset, splits=splits, notes=tuple(notes))


def _units(
    dataset: DataSet, samples: Sequence[Sample], seed: int, groups: Iterable[Sequence[Sample]]
) -> list[list[int]]:
    """What goes to one side together, as indices, shuffled by the seed."""
    parents = list(range(len(samples)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    # One picture that a list names twice goes to one side, even with two labels.
    positions: dict[tuple[Path, str], int] = {}
    for index, sample in enumerate(samples):
        parents[index] = positions.setdefault((sample.file, sample.key), index)
    for group in groups:
        members = [positions[at] for sample in group if (at := (sample.file, sample.key)) in positions]
        for member in members[1:]:
            parents[root(member)] = root(members[0])

    units: dict[int, list[int]] = {}
    for index in range(len(samples)):
        units.setdefault(root(index), []).append(index)

    def rank(unit: list[int]) -> bytes:
        name = min(dataset.locate(samples[index]) for index in unit)
        return hashlib.sha256(f"{seed}\n{name}".encode("utf-8", "surrogateescape")).digest()

    return sorted(units.values(), key=rank)


def _hold_out(samples: Sequence[Sample], fraction: float, units: Sequence[list[int]]) -> set[int]:
    totals = Counter(sample.label for sample in samples)
    # Half is rounded up; a tiny bit more keeps 0.07 of 50 pictures, 3.5, from falling below the half.
    targets = {
        label: min(max(math.floor(fraction * total + 0.5 + 1e-9), 1), total - 1) for label, total in totals.items()
    }
    held: Counter[int] = Counter()
    chosen: set[int] = set()

    def take(unit: list[int], limits: dict[int, int]) -> None:
        counts = Counter(samples[index].label for index in unit)
        if all(held[label] + count <= limits[label] for label, count in counts.items()):
            held.update(counts)
            chosen.update(unit)

    for unit in units:
        take(unit, targets)
    # A class of large groups has none yet: its smallest that leaves half of the pictures of each class in train.
    halves = {label: max(total // 2, targets[label]) for label, total in totals.items()}
    for unit in sorted(units, key=len):
        if any(held[samples[index].label] == 0 for index in unit):
            take(unit, halves)
    return chosen


def _shortfalls(dataset: DataSet, samples: Sequence[Sample], chosen: set[int]) -> list[str]:
    totals = Counter(sample.label for sample in samples)
    held = Counter(samples[index].label for index in chosen)
    notes = []
    for reason, labels in (
        ("one picture, which stays in train", [label for label in totals if totals[label] == 1]),
        (
            "pictures that are all near copies of each other and stay in train",
            [label for label in totals if totals[label] > 1 and not held[label]],
        ),
    ):
        if labels:
            names = [dataset.classes[label] for label in sorted(labels)]
            notes.append(f"held out nothing of classes with {reason}: {listed(names)}")
    return notes
