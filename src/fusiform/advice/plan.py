"""Whether the data are enough: how sure the accuracy is, what more images would bring, and what stands in the way."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.advice.seen import Seen, see
from fusiform.data.dataset import DataSet, Split
from fusiform.data.open import bind_classes, open_dataset
from fusiform.errors import InputError, UsageError
from fusiform.progress import Tracker, tracker
from fusiform.report import Cell, Report, Tabular
from fusiform.tasks.label_noise import doubted_labels
from fusiform.tasks.learning_curve import Curve
from fusiform.tasks.linear_head import discriminants, out_of_fold, statistics
from fusiform.tasks.sample_size import exact_interval, images_to_compare, images_to_tell
from fusiform.zoo.model import Model, open_model

MORE = (100, 500)
"""How many more images of each class are asked about."""
STEP = 0.01
"""The difference of two accuracies that has to be told: 93 from 94 %."""
ORDERS = 5
"""In how many orders the images are taken for the learning curve."""
SHARES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0)
LEAST = 3
"""Images of each class that a subset has to have on average."""
WORTH = 0.005
"""A gain in accuracy that is worth the work."""
_HELD_OUT = 5
"""Of data without splits every fifth image is set aside to measure on."""


@dataclass(frozen=True, repr=False)
class Plan(Tabular):
    """What ``fusiform.plan`` found: ``figures`` of the whole, a row for each class, the ``curve`` and the ``more``.

    ``curve`` has the accuracy of a last layer with so many training images, as measured; ``more`` what is expected of
    so many more of each class, with its 90 % interval. Both are empty where there are too few images.
    """

    figures: dict[str, Cell]
    rows: tuple[dict[str, Cell], ...]
    curve: tuple[dict[str, Cell], ...]
    more: tuple[dict[str, Cell], ...]
    notes: tuple[str, ...]

    def report(self) -> Report:
        """All of it."""
        tables = {"curve": self.curve, "more": self.more}
        title = f"{self.figures['data']}: {self.figures['train_images']:,} training images"
        return Report(title, self.rows, {**self.figures, "notes": self.notes}, tables, "fusiform.plan/1")

    def __str__(self) -> str:
        return self.report().to_table()


class Parts(NamedTuple):
    """The rows of images to learn from and to measure on, and what the latter are called."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    called: Split


def plan(
    data: str | os.PathLike[str] | DataSet,
    *,
    model: str | os.PathLike[str] | Model = "mobilenet_v2",
    more: Sequence[int] = MORE,
    root: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    seed: int = 0,
    progress: bool | Tracker | None = None,
) -> Plan:
    """Say whether there are enough images: to be sure of the accuracy, and to make it better.

    Every image is shown to the model once; what it saw is kept in the cache, so that the next plan takes seconds. The
    learning curve is that of a last layer on the model's features, learned from nested subsets.

    Args:
        data: Labelled images for a classifier, in any layout that ``train`` reads.
        model: The classifier whose features are used, best one that was not trained on these images. One that knows the
            classes of the data is measured itself; of another one a last layer on its features is.
        more: How many more images of each class to foretell the accuracy for.
        root: The folder that the paths in a list begin in; None is the list's own.
        threads: Cores to use, all by default.
        seed: Of the orders in which images are taken, and of the resamples.
        progress: Whether to show on standard error how far it is; None where that is a terminal or a notebook.

    Returns:
        The plan: ``figures``, ``rows`` for the classes, ``curve`` and ``more``; ``report()`` has all of it.

    Raises:
        UsageError: For arguments that do not fit, and for a model without features.
        InputError: For data of which no image can be read, or with fewer than two classes.
        FusiformError: For a model that cannot be opened.

    Example:
        >>> import fusiform
        >>> plan = fusiform.plan("photographs", threads=1)
        >>> plan.figures["test_images"], len(plan.rows)
        (1, 2)

    """
    if any(count < 1 for count in more):
        raise UsageError(f"more must be numbers of images, at least 1, got {', '.join(map(str, more))}")
    opened = open_model(model)
    show = tracker(progress)
    with show(total=None, label="read the dataset"):
        dataset = data if isinstance(data, DataSet) else open_dataset(data, task="classification", root=root)
    classes = len(dataset.classes)
    if classes < 2:
        raise InputError(f"{dataset.source}: has one class, and nothing to tell it from: add another one")
    samples = tuple(sample for group in dataset.splits.values() for sample in group)
    seen = see(opened, samples, threads=threads, progress=show)
    parts = _divide(dataset, seen, seed)
    labels = np.array([samples[i].label for i in seen.numbers], np.int64)
    features = seen.features - seen.features[parts.train].mean(0)
    with show(total=None, label="learn"):
        sizes, right = subsets(features, labels, classes, parts, seed)
        doubted = _doubted(features[parts.train], labels[parts.train], classes, seed)
    outputs = _outputs(dataset, opened)
    own = right[0, -1] if outputs is None else _answers(seen, outputs, parts.test) == labels[parts.test]
    notes = list(dataset.notes)
    if outputs is not None:
        notes.append(
            "the curve is of a last layer on the model's features; if the model was trained on these images it is too "
            "flat, and --model mobilenet_v2 tells more"
        )
    if seen.errors:
        notes.append(f"{len(seen.errors):,} images could not be read: fusiform doctor {dataset.source} names them")
    if parts.called == "all":
        notes.append("there is no test split: every fifth image was set aside to measure on")
    curve: list[dict[str, Cell]] = []
    foretold: list[dict[str, Cell]] = []
    gain = None
    if len(sizes) >= 3:
        fitted = Curve(sizes, right, seed=seed)
        curve = [
            {"train_images": int(size), "top1": _rounded(1 - error)}
            for size, error in zip(sizes, fitted.errors.mean(0), strict=True)
        ]
        now = fitted.at(int(sizes[-1])).accuracy
        for count in sorted(set(more)):
            total = int(sizes[-1]) + count * classes
            accuracy, low, high = fitted.at(total)
            gain = accuracy - now
            row: dict[str, Cell] = {"more_images": count, "train_images": total, "foretold": _rounded(accuracy)}
            row |= {"foretold_low": _rounded(low), "foretold_high": _rounded(high), "foretold_gain": _rounded(gain)}
            foretold.append(row)
    else:
        notes.append(f"there are fewer than {LEAST} images of each class in too many subsets: no curve can be told")
    rows = _class_rows(dataset, labels, parts, own, doubted, gain)
    figures = _figures(dataset, opened, parts, own, outputs is not None) | {"doubted": int(doubted.sum())}
    return Plan(figures, tuple(rows), tuple(curve), tuple(foretold), tuple(notes))


def _divide(dataset: DataSet, seen: Seen, seed: int) -> Parts:
    """The split that ``evaluate`` measures on, and what is learned from; rows of ``seen``."""
    samples = tuple(sample for group in dataset.splits.values() for sample in group)
    split_of: list[Split] = [split for split, group in dataset.splits.items() for _ in group]
    found: list[Split] = [split_of[i] for i in seen.numbers]
    splits = np.array(found)
    called: Split = next((split for split in ("test", "val") if split in found), "all")
    if called != "all" and "train" in found:
        return Parts(np.flatnonzero(splits == "train"), np.flatnonzero(splits == called), called)
    order = np.random.default_rng(seed).permutation(len(found))
    order = order[np.argsort([samples[seen.numbers[i]].label for i in order], kind="stable")]
    aside = np.zeros(len(found), bool)
    aside[order[::_HELD_OUT]] = True
    if aside.all():
        raise InputError(f"{dataset.source}: has {len(found)} image that can be read: add more")
    return Parts(np.flatnonzero(~aside), np.flatnonzero(aside), "all")


def subsets(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    parts: Parts,
    seed: int,
    *,
    orders: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The sizes of nested subsets, and for each order and subset which test images a head of it names right."""
    count = len(parts.train)
    sizes = np.unique([round(share * count) for share in SHARES if share * count >= LEAST * classes or share == 1])
    right = np.empty((orders or ORDERS, len(sizes), len(parts.test)), bool)
    for number in range(len(right)):
        order = parts.train[_in_turn(labels[parts.train], np.random.default_rng([seed, number]))]
        known = statistics(features[:0], labels[:0], classes)
        begun = 0
        for k, size in enumerate(sizes):
            known = known.with_(statistics(features[order[begun:size]], labels[order[begun:size]], classes))
            begun = size
            answers = discriminants(known)(features[parts.test])
            right[number, k] = answers.argmax(1) == labels[parts.test]
    return sizes, right


def _in_turn(labels: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """An order in which every beginning has the classes as the whole has them."""
    order = random.permutation(len(labels))
    places = np.empty(len(labels))
    for label in np.unique(labels):
        own = order[labels[order] == label]
        places[own] = (np.arange(len(own)) + random.random()) / len(own)
    return np.argsort(places, kind="stable")


def _doubted(features: NDArray[np.float32], labels: NDArray[np.int64], classes: int, seed: int) -> NDArray[np.int64]:
    """How many labels of each class are probably wrong, by heads that have not seen the image."""
    found = out_of_fold(features, labels, classes, seed=seed).probabilities
    numbers = [doubt.number for doubt in doubted_labels(found, labels)]
    return np.bincount(labels[numbers], minlength=classes)


def _outputs(dataset: DataSet, model: Model) -> NDArray[np.int64] | None:
    """The model's outputs for the classes of the data, if it knows them."""
    try:
        return np.array(bind_classes(dataset.classes, model.spec))
    except UsageError:
        return None


def _answers(seen: Seen, outputs: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first answers as classes of the data; -1 for another class of the model."""
    first = seen.values[rows].argmax(1)
    place = np.full(seen.values.shape[1], -1)
    place[outputs] = np.arange(len(outputs))
    found: NDArray[np.int64] = place[first]
    return found


def _figures(dataset: DataSet, model: Model, parts: Parts, right: NDArray[np.bool_], own: bool) -> dict[str, Cell]:
    """The accuracy, how sure it is, and the test images that it takes to be surer."""
    images, count = len(right), int(right.sum())
    low, high = exact_interval(count, images)
    accuracy = count / images
    # Two models of an accuracy rarely err on the same images alone: half of their errors is what is usually seen.
    disagreement = max(1 - accuracy, 2 * STEP)
    return {
        "data": str(dataset.source),
        "model": str(model.path.name),
        "measured": "model" if own else "last layer",
        "split": parts.called,
        "classes": len(dataset.classes),
        "train_images": len(parts.train),
        "test_images": images,
        "top1": _rounded(accuracy),
        "top1_low": _rounded(low),
        "top1_high": _rounded(high),
        "images_to_tell": _needed(accuracy),
        "images_to_compare": images_to_compare(STEP, disagreement),
    }


def _class_rows(
    dataset: DataSet,
    labels: NDArray[np.int64],
    parts: Parts,
    right: NDArray[np.bool_],
    doubted: NDArray[np.int64],
    gain: float | None,
) -> list[dict[str, Cell]]:
    """A row for each class: how sure its recall is, and whether labels or images are what it lacks."""
    rows: list[dict[str, Cell]] = []
    learned = np.bincount(labels[parts.train], minlength=len(dataset.classes))
    for label, name in enumerate(dataset.classes):
        own = right[labels[parts.test] == label]
        count = int(own.sum())
        low, high = exact_interval(count, len(own))
        share = doubted[label] / max(int(learned[label]), 1)
        recall = count / len(own) if len(own) else None
        rows.append(
            {
                "class": name,
                "train_images": int(learned[label]),
                "test_images": len(own),
                "recall": None if recall is None else _rounded(recall),
                "recall_low": None if recall is None else _rounded(low),
                "recall_high": None if recall is None else _rounded(high),
                "images_to_tell": None if recall is None else _needed(recall),
                "doubted": int(doubted[label]),
                "limit": _limit(share, gain, None if recall is None else 1 - recall),
            }
        )
    return rows


def _limit(doubted: float, gain: float | None, errors: float | None) -> str | None:
    """What a class lacks most: ``labels`` where more of them are doubted than more images are expected to gain.

    ``images`` where these are expected to gain something; None where the class is right as it is, or nothing is known.
    """
    if gain is None or errors is None or errors <= WORTH:
        return None
    if doubted > max(gain, WORTH):
        return "labels"
    return "images" if gain >= WORTH else None


def _needed(accuracy: float) -> int:
    """The test images that tell an accuracy, to a thousandth, from one a point better, or worse where it is high."""
    accuracy = round(accuracy, 3)
    return images_to_tell(accuracy, accuracy + STEP if accuracy <= 1 - 2 * STEP else accuracy - STEP)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
