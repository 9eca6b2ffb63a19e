"""The photographs that an export calibrates and verifies with: what was named, or what the model's run has."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fusiform.data.annotated import AnnotatedSample
from fusiform.data.dataset import Sample, Split
from fusiform.data.image import find_images
from fusiform.data.layouts.parquet import is_table
from fusiform.data.layouts.rooted import refuse_root
from fusiform.data.masks import Ignore
from fusiform.data.open import HELD_OUT, TRAINED_ON, choose_split, open_dataset, read_pictures
from fusiform.errors import InputError, UsageError
from fusiform.spec import ModelSpec
from fusiform.training.classification_job import read_list
from fusiform.zoo.model import Model


@dataclass(frozen=True)
class Pictures:
    """``calibration`` to quantise with, ``held_out`` to verify with, and whether the latter have known labels.

    ``mask_labels`` are as in ``data.open.Pictures``.
    """

    calibration: Sequence[Sample | AnnotatedSample] = ()
    held_out: Sequence[Sample | AnnotatedSample] = ()
    labelled: bool = False
    mask_labels: Sequence[int] | None = None
    verified_on: str = "synthetic images and noise alone"


def find_pictures(
    opened: Model,
    calibrate_on: str | os.PathLike[str] | None,
    data: str | os.PathLike[str] | None,
    ignore: Ignore | None,
    root: str | os.PathLike[str] | None,
) -> Pictures:
    """The photographs to calibrate and to verify with, from what was named and from the model's run."""
    found = _of_run(opened)
    named = [Path(source) for source in (calibrate_on, data) if source is not None]
    if root is not None and not any(source.is_file() for source in named):
        raise refuse_root(named[0], root)
    if calibrate_on is not None:
        found = replace(
            found, calibration=_to_calibrate(Path(calibrate_on), opened, ignore, _of_list(calibrate_on, root))
        )
    if data is not None:
        found = _to_verify(found, Path(data), opened, ignore, _of_list(data, root))
    elif not found.held_out and calibrate_on is not None:
        found = replace(found, held_out=found.calibration, verified_on="the pictures of the calibration")
    return found


def _of_list(source: str | os.PathLike[str], root: str | os.PathLike[str] | None) -> str | os.PathLike[str] | None:
    """Where the paths of a list begin, if ``source`` is one beside another that is a folder."""
    return root if Path(source).is_file() else None


def _of_run(opened: Model) -> Pictures:
    """The photographs that a run trained on and held out; none for a model that is in no run's folder."""
    run = opened.path.parent
    classifier = opened.spec.task == "classification"
    if not ((run / "run.json").is_file() and (run / ("data.csv" if classifier else "data.json")).is_file()):
        return Pictures()
    splits: Mapping[Split, Sequence[Sample | AnnotatedSample]]
    if classifier:
        splits = read_list(run).splits
    else:
        from fusiform.training.annotation_job import read_annotated_list

        splits = read_annotated_list(run).splits
    calibration = splits.get("train", ())
    # Not the test pictures if others will do: what is decided here must not show in the accuracy on them.
    split: Split = "val" if splits.get("val") else "test"
    held_out = splits.get(split, ())
    if not held_out:
        return Pictures(calibration)
    return Pictures(calibration, held_out, True, verified_on=f"the run's {split} pictures")


def _to_calibrate(
    source: Path, opened: Model, ignore: Ignore | None, root: str | os.PathLike[str] | None
) -> Sequence[Sample | AnnotatedSample]:
    if opened.spec.task == "classification":
        return _unlabelled(source, root, TRAINED_ON)
    return read_pictures(
        source, opened.spec, model=str(opened.path), prefer=TRAINED_ON, ignore=ignore, root=root
    ).samples


def _to_verify(
    found: Pictures, source: Path, opened: Model, ignore: Ignore | None, root: str | os.PathLike[str] | None
) -> Pictures:
    """``found`` with the pictures of ``source`` to verify with."""
    if opened.spec.task == "classification":
        labelled = _labelled(source, opened.spec, root)
        samples = _unlabelled(source, root, HELD_OUT) if labelled is None else labelled
        found = replace(found, held_out=samples, labelled=labelled is not None)
    else:
        read = read_pictures(source, opened.spec, model=str(opened.path), ignore=ignore, root=root)
        found = replace(found, held_out=read.samples, labelled=read.labelled, mask_labels=read.mask_labels)
    return replace(found, verified_on=str(source) if found.labelled else f"{source}, unlabelled")


def _unlabelled(source: Path, root: str | os.PathLike[str] | None, prefer: Sequence[Split]) -> tuple[Sample, ...]:
    """The pictures of a folder, or the first of ``prefer`` of a list or of a file that holds many."""
    if source.is_dir() and (files := find_images(source)):
        return tuple(Sample(path, -1) for path in files)  # of no known class
    if not source.exists() or (source.is_dir() and not is_table(source)):
        raise InputError(f"{source}: has no pictures: name a folder of pictures, or a list")
    dataset = open_dataset(source, task="classification", root=root)
    _, samples = choose_split(dataset.source, dataset.splits, None, prefer=prefer)
    return tuple(replace(sample, label=-1) for sample in samples)


def _labelled(source: Path, spec: ModelSpec, root: str | os.PathLike[str] | None) -> tuple[Sample, ...] | None:
    """The test, else validation, else all pictures, labelled by the model's outputs; None if they cannot be."""
    try:
        dataset = open_dataset(source, task="classification", spec=spec, root=root)
    except UsageError:
        return None
    return choose_split(dataset.source, dataset.splits, None)[1]
