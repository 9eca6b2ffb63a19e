"""What an evaluation reads: a dataset for the model's task, a split's images, and the model's label of each class."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from fusiform.data.annotated import AnnotatedSample, AnnotatedSet
from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.data.masks import Ignore
from fusiform.data.open import bind_classes, bind_masks, choose_split, open_dataset, recognise
from fusiform.errors import InputError, UsageError
from fusiform.spec import ModelSpec

S = TypeVar("S", Sample, AnnotatedSample)

_ANNOTATIONS = {"detection": "boxes", "segmentation": "masks"}


@dataclass(frozen=True)
class Chosen(Generic[S]):
    """The images of a split that a model is to be shown.

    ``outputs`` are the model's labels of the dataset's classes, in the dataset's order.
    """

    source: Path
    split: Split
    samples: tuple[S, ...]
    outputs: tuple[int, ...]
    notes: tuple[str, ...]


def read_data(
    data: DataSet | AnnotatedSet | str | os.PathLike[str],
    spec: ModelSpec,
    *,
    model: str,
    ignore: Ignore | None = None,
    root: str | os.PathLike[str] | None = None,
) -> DataSet | AnnotatedSet:
    """The dataset for a model's task, which errors call ``model``: a path of any layout, or what was read before.

    ``ignore`` is what 255 is in masks, and ``root`` where a list's paths begin, see ``open_dataset``. A ``DataSet`` for
    a classifier, an ``AnnotatedSet`` for the others. Raises UsageError for data of another kind or with classes that
    the model does not know, and what the readers raise.
    """
    if spec.task == "classification":
        return _read_classes(data, spec, model, root)
    if isinstance(data, AnnotatedSet):
        return data
    place = data.source if isinstance(data, DataSet) else data
    return open_dataset(place, task=spec.task, spec=spec, model=model, ignore=ignore, root=root)


def choose_classes(data: DataSet, spec: ModelSpec, *, split: Split | None) -> Chosen[Sample]:
    """The images for a classifier; UsageError for unknown classes and for a split that is not there."""
    bound = bind_classes(data.classes, spec)
    chosen, samples = choose_split(data.source, data.splits, split)
    return Chosen(data.source, chosen, samples, bound, data.notes)


def choose_boxes(data: AnnotatedSet, spec: ModelSpec, *, split: Split | None, model: str) -> Chosen[AnnotatedSample]:
    """The images for a detector; UsageError for labels that are not its own, and for a split that is not there."""
    if data.task != "detection" or data.classes != spec.labels:
        raise InputError(f"{data.source}: was not read with the classes of {model}: give its path")
    chosen, samples = choose_split(data.source, data.splits, split)
    return Chosen(data.source, chosen, samples, tuple(range(spec.num_classes)), data.notes)


def choose_masks(data: AnnotatedSet, spec: ModelSpec, *, split: Split | None, model: str) -> Chosen[AnnotatedSample]:
    """The images for a segmenter; UsageError for unknown classes and for a split that is not there."""
    if data.task != "segmentation":
        raise InputError(f"{data.source}: was read without masks, and {model} is a segmenter: give its path")
    bound = bind_masks(data, spec, model=model)
    chosen, samples = choose_split(data.source, data.splits, split)
    return Chosen(data.source, chosen, samples, bound, data.notes)


def _read_classes(
    data: DataSet | AnnotatedSet | str | os.PathLike[str],
    spec: ModelSpec,
    model: str,
    root: str | os.PathLike[str] | None,
) -> DataSet:
    if isinstance(data, AnnotatedSet):
        raise _not_for_classifiers(data.source, _ANNOTATIONS[data.task], model)
    if isinstance(data, DataSet):
        bind_classes(data.classes, spec)
        return data
    try:
        found = open_dataset(data, task="classification", root=root)
        bind_classes(found.classes, spec)
    except UsageError:
        # Only now: a folder of classes may hold what looks like another layout.
        if (task := recognise(data)) is None:
            raise
        raise _not_for_classifiers(data, _ANNOTATIONS[task], model) from None
    return found


def _not_for_classifiers(source: str | os.PathLike[str], what: str, model: str) -> UsageError:
    return InputError(
        f"{source}: is a dataset with {what}, and {model} is a classifier: give a folder with one for each class"
    )
