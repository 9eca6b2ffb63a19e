"""A model's answers to the images of a dataset, kept in parts: what the figures need of each image, and no more.

A part is an ``.npz`` that ``numpy.load`` reads; rows are images, in the dataset's order. A classifier's has ``truth``
(images,) int64, the model's outputs, and ``logits`` (images, classes) float32, NaN where an image could not be read;
with ``features`` (images, C) where the model tells unknown images by them. A detector's has ``sizes`` (images, 2),
``found_counts`` and ``true_counts`` (images,), and for all boxes one after the other ``found_boxes`` and ``true_boxes``
(n, 4) float64, left, top, right, bottom, ``found_scores``, ``found_labels``, ``true_labels``, ``true_areas`` (NaN where
only the box is known), ``true_crowd`` and ``true_difficult``. A segmenter's has ``counts`` (images, 3, classes) int64,
the pixels that are right, true and found, and ``confusion`` (classes, classes), that of the part's images together.
``description`` is JSON: which part, of what, and the messages about images that could not be read.

Logits are kept as float32, as the model says them: as float16 they would tie classes that they tell apart.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform import engines
from fusiform.data.annotated import AnnotatedSample, AnnotatedSet, BoxLabel
from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.data.outlines import outlines_as_json
from fusiform.engines import EngineName
from fusiform.errors import InputError
from fusiform.evaluation.classification import Answers
from fusiform.evaluation.detection import FoundBoxes
from fusiform.evaluation.segmentation import Outlines
from fusiform.evaluation.source import Chosen, choose_boxes, choose_classes, choose_masks
from fusiform.progress import Tracker, silent
from fusiform.scaling.folder import all_parts, differences, read_journals, read_settings
from fusiform.scaling.plan import Slices
from fusiform.scaling.run import hash_model
from fusiform.tasks.detection import Box, Detections
from fusiform.zoo.model import Model

SCHEMA = "fusiform.answers/1"
FORM = "npz"

AnyAnswers = Answers | FoundBoxes | Outlines
Arrays = Mapping[str, NDArray[Any]]


class Kept(NamedTuple):
    """Answers that were read from a folder, and how long all machines together took for them."""

    answers: AnyAnswers
    seconds: float


def choose(model: Model, name: str, data: DataSet | AnnotatedSet, split: Split | None) -> Chosen[Any]:
    """The images that a model, called ``name``, is to be shown; see ``choose_classes`` and the others."""
    if isinstance(data, DataSet):
        return choose_classes(data, model.spec, split=split)
    if model.spec.task == "detection":
        return choose_boxes(data, model.spec, split=split, model=name)
    return choose_masks(data, model.spec, split=split, model=name)


def describe(
    model: Model,
    name: str,
    data: DataSet | AnnotatedSet,
    chosen: Chosen[Any],
    *,
    engine: EngineName | None,
    multi_scale: bool,
) -> dict[str, Any]:
    """What answers are of, as ``parts.json`` has it; the place of model and data does not matter."""
    return {
        "schema": SCHEMA,
        "fusiform": version("fusiform"),
        "model": name,
        "data": str(chosen.source),
        "split": chosen.split,
        "engine": "torch" if multi_scale else engine or engines.own_engine(model),
        "multi_scale": multi_scale,
        "format": FORM,
        "images": len(chosen.samples),
        "model_sha256": hash_model(model),
        "description_sha256": sha256(model.spec.to_json().encode()).hexdigest(),
        "dataset_sha256": _fingerprint(data, chosen),
    }


def _fingerprint(data: DataSet | AnnotatedSet, chosen: Chosen[Any]) -> str:
    """The SHA-256 of the images' names and ground truth, in their order; their content is not looked at."""
    digest = sha256(json.dumps([data.classes, chosen.outputs]).encode())
    for sample in chosen.samples:
        truth: list[Any]
        if isinstance(sample, AnnotatedSample):
            boxes = None if sample.boxes is None else [astuple(box) for box in sample.boxes]
            mask = None if sample.mask_file is None else "/".join(sample.mask_file.parts[-2:])
            outlines = None if sample.outlines is None else outlines_as_json(sample.outlines)
            truth = [sample.size, boxes, mask, sample.ignore, outlines]
        else:
            truth = [sample.label]
        digest.update(json.dumps([data.locate(sample), *truth]).encode() + b"\n")
    return digest.hexdigest()


# --- writing ---


def write_answers(
    file: BinaryIO,
    number: int,
    settings: Mapping[str, Any],
    answers: AnyAnswers,
    truth: NDArray[np.int64] | None = None,
) -> None:
    """Write the part of this number; ``truth`` are a classifier's true outputs."""
    arrays: dict[str, NDArray[Any]]
    if isinstance(answers, Answers):
        assert truth is not None
        arrays = {"truth": truth, "logits": answers.values}
        if answers.features is not None:
            arrays["features"] = answers.features
        images = len(truth)
    elif isinstance(answers, FoundBoxes):
        arrays, images = _boxes_as_arrays(answers), len(answers.truth)
    else:
        arrays, images = {"counts": answers.counts, "confusion": answers.confusion}, len(answers.counts)
    errors = {str(i): message for i, message in answers.errors.items()}
    text = json.dumps({**settings, "part": number, "part_images": images, "errors": errors})
    # Counts are mostly zeros; logits are noise to a compressor.
    kind = zipfile.ZIP_STORED if isinstance(answers, Answers) else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for name, values in {"description": np.array(text), **arrays}.items():
            # As numpy.savez, but without the time, so that the same answers give the same bytes.
            info = zipfile.ZipInfo(f"{name}.npy")
            info.compress_type = kind
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(values), allow_pickle=False)


def _boxes_as_arrays(answers: FoundBoxes) -> dict[str, NDArray[Any]]:
    found = [() if each is None else each.boxes for each in answers.found]
    boxes = [box for each in found for box in each]
    known = [box for each in answers.truth for box in each]
    sizes = [(0, 0) if each is None else (each.width, each.height) for each in answers.found]
    return {
        "sizes": np.array(sizes, np.int64).reshape(-1, 2),
        "found_counts": np.array([len(each) for each in found], np.int64),
        "found_boxes": _edges(boxes),
        "found_scores": np.array([box.score for box in boxes], np.float64),
        "found_labels": np.array([box.index for box in boxes], np.int64),
        "true_counts": np.array([len(each) for each in answers.truth], np.int64),
        "true_boxes": _edges(known),
        "true_labels": np.array([box.label for box in known], np.int64),
        "true_areas": np.array([np.nan if box.area is None else box.area for box in known], np.float64),
        "true_crowd": np.array([box.crowd for box in known], np.bool_),
        "true_difficult": np.array([box.difficult for box in known], np.bool_),
    }


def _edges(boxes: Sequence[Box | BoxLabel]) -> NDArray[np.float64]:
    return np.array([(box.left, box.top, box.right, box.bottom) for box in boxes], np.float64).reshape(-1, 4)


# --- reading ---


def count_answers(file: BinaryIO) -> tuple[int, int]:
    """How many images a part holds, and how many of them could not be read; ValueError where it is no part."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            told = json.loads(str(arrays["description"]))
            return int(told["part_images"]), len(told["errors"])
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError) as error:
        raise ValueError(str(error)) from None


def read_answers(
    place: str | os.PathLike[str],
    model: Model,
    name: str,
    data: DataSet | AnnotatedSet,
    *,
    split: Split | None,
    engine: EngineName | None,
    multi_scale: bool,
    progress: Tracker = silent,
) -> Kept:
    """The answers of a folder of parts, which have to be this model's to these images.

    Raises InputError, which names them, for missing and damaged parts, and for those of another model, of other images
    or made with other options.
    """
    folder = Path(place)
    begun = read_settings(folder)
    if not begun:
        raise InputError(
            f"{folder}: holds no answers: fusiform evaluate MODEL DATA --part 10000 --out {folder} writes them"
        )
    chosen = choose(model, name, data, split)
    wanted = describe(model, name, data, chosen, engine=engine, multi_scale=multi_scale)
    if what := differences(begun, wanted):
        raise InputError(
            f"{folder}: was begun with {what}, and its answers are not those that are asked for: give what its "
            "parts.json names, or make others with --part and another folder for --out"
        )
    size = begun.get("images_per_part")
    if not isinstance(size, int) or size < 1:
        raise InputError(f"{folder / 'parts.json'}: is not what --part writes: make the folder again")
    plan = Slices(chosen.samples, size)
    paths = all_parts(folder, len(plan), FORM)
    seconds = sum(done.seconds for done in read_journals(folder).values())

    def parts() -> Iterator[tuple[int, _Part]]:
        with progress(total=len(plan), label="read the answers", unit="files") as bar:
            for number, path in enumerate(paths):
                yield number * size, _read_part(path, number, plan.count(number), begun)
                bar.advance()

    try:
        return Kept(_joined(parts(), model, chosen), seconds)
    except (LookupError, ValueError, TypeError) as error:
        raise InputError(
            f"{folder}: its parts do not hold what --part writes ({error}): make the folder again"
        ) from None


class _Part(NamedTuple):
    arrays: Arrays
    errors: Mapping[int, str]


def _read_part(path: Path, number: int, images: int, begun: Mapping[str, Any]) -> _Part:
    again = "remove it, and run the command that began its folder again"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
        told = json.loads(str(arrays.pop("description")))
        errors = {int(i): str(message) for i, message in told.pop("errors").items()}
        count, mine = int(told.pop("part_images")), int(told.pop("part"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error):
        raise InputError(f"{path}: cannot be read as a part: {again}") from None
    if what := differences(told, begun):
        raise InputError(f"{path}: was made with {what} than the rest of its folder: {again}")
    if (mine, count) != (number, images):
        raise InputError(f"{path}: is part {mine} with {count} images, and part {number} has {images}: {again}")
    return _Part(arrays, errors)


def _joined(parts: Iterable[tuple[int, _Part]], model: Model, chosen: Chosen[Any]) -> AnyAnswers:
    """The answers of all parts as one, each part with the number of its first image; one part is held at a time."""
    task, images = model.spec.task, len(chosen.samples)
    joined: dict[str, NDArray[Any]] = {}
    pairs: list[tuple[tuple[BoxLabel, ...], Detections | None]] = []
    errors: dict[int, str] = {}
    for start, part in parts:
        errors |= {start + i: message for i, message in part.errors.items()}
        if task == "detection":
            pairs += _boxes_of(part.arrays, model.spec.labels)
            continue
        for name, values in part.arrays.items():
            if name == "confusion":
                joined[name] = joined.get(name, 0) + values
                continue
            rows = joined.setdefault(name, np.empty((images, *values.shape[1:]), values.dtype))
            rows[start : start + len(values)] = values
    if task == "detection":
        return FoundBoxes(tuple(true for true, _ in pairs), tuple(found for _, found in pairs), errors)
    if task == "segmentation":
        return Outlines(joined["counts"], joined["confusion"], errors)
    if not np.array_equal(joined["truth"], true_outputs(chosen, chosen.samples)):
        raise ValueError("other truth")
    return Answers(joined["logits"], errors, joined.get("features"))


def true_outputs(chosen: Chosen[Any], samples: Sequence[Sample]) -> NDArray[np.int64]:
    """A classifier's true output for each of some images."""
    return np.array([chosen.outputs[sample.label] for sample in samples], np.int64)


def _boxes_of(arrays: Arrays, labels: Sequence[str]) -> Sequence[tuple[tuple[BoxLabel, ...], Detections | None]]:
    found = [
        Box(label, labels[label], score, *edges)
        for label, score, edges in zip(
            arrays["found_labels"].tolist(),
            arrays["found_scores"].tolist(),
            arrays["found_boxes"].tolist(),
            strict=True,
        )
    ]
    names = ("true_labels", "true_boxes", "true_crowd", "true_difficult", "true_areas")
    known = [
        BoxLabel(label, left, top, right, bottom, crowd, difficult, None if np.isnan(area) else area)
        for label, (left, top, right, bottom), crowd, difficult, area in zip(
            *(arrays[name].tolist() for name in names), strict=True
        )
    ]
    pairs = []
    first_found = first_known = 0
    counts = zip(arrays["sizes"].tolist(), arrays["found_counts"].tolist(), arrays["true_counts"].tolist(), strict=True)
    for (width, height), count, true_count in counts:
        here = tuple(found[first_found : first_found + count])
        there = tuple(known[first_known : first_known + true_count])
        pairs.append((there, Detections(here, width, height) if width else None))
        first_found, first_known = first_found + count, first_known + true_count
    return pairs
