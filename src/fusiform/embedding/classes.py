"""Classes added to a classifier from a few images: what ``fusiform add-class`` runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.dataset import Sample
from fusiform.data.image import find_images
from fusiform.data.open import TRAINED_ON, choose_split, open_dataset
from fusiform.embedding.prototypes import Features, Head, Labels, added_class, added_without
from fusiform.errors import FusiformError, ImageError, InputError, UsageError
from fusiform.files import check_place
from fusiform.graph.build import build_graph
from fusiform.graph.tflite import to_tflite
from fusiform.prediction.predictor import Predictor
from fusiform.progress import Tracker, tracker
from fusiform.report import Cell, Report, Row
from fusiform.spec import ModelSpec
from fusiform.tables import TRAITS
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.model import Model, open_model

LOOKED_AT = 1800
"""Images of the old classes, evenly of each, that say how far a new class may reach."""
ENOUGH = 5
"""The fewest of each."""


class _Old(NamedTuple):
    """Images of the old classes: their features, their numbers, and where they are from."""

    features: Features
    labels: Labels
    source: str


def add_class(
    model: str | os.PathLike[str] | Model,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    data: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress: bool | Tracker | None = None,
) -> Report:
    """Add classes to a classifier from a few images of each; what it knows of the others stays as it is.

    Only the last layer grows, by a row for each class: five images are enough for one that looks like no other.

    Args:
        model: A classifier: a name, a file of weights, LiteRT or ONNX, or the folder of a run.
        images: A folder of images for each class, which is called as its folder is.
        out: The model to write, a ``.safetensors`` file.
        name: What the class is called, where there is one folder.
        data: Images of the old classes, a labelled dataset: the new class is set apart from them, and the accuracy on
            them is told before and after. None is those that the run was trained on, where ``model`` is one's folder
            and they are still there; without any the new class is set by its own images alone, and may take more of
            others' images.
        root: The folder that the paths in a list begin in; None is the list's own.
        threads: The number of cores to use; None is all.
        progress: Whether to show how far it is; None does on a terminal and in a notebook.

    Returns:
        A report with a row for each new class: its images, and the share of them that is named right where each is
        left out of what the class is made from (None without images of the old classes). Its figures have the accuracy
        on the old classes' images before and after.

    Raises:
        UsageError: For arguments that do not fit, such as a class that the model knows already.
        InputError: For a folder without images that can be read.
        FusiformError: For a model that cannot be used, and a file that cannot be written.

    Example:
        >>> import fusiform
        >>> report = fusiform.add_class("runs/first", "photos/heron", "birds.safetensors")
        >>> report.figures["classes"], report.rows[0]["class"]
        (4, 'heron')

    """
    check_place(out, (".safetensors",), "the model is written as weights: let the name end in .safetensors")
    show = tracker(progress)
    opened = open_model(model)
    spec = opened.spec
    if spec.task != "classification":
        raise UsageError(f"{opened.path}: is for {spec.task}, and classes are added to classifiers")
    folders = _folders(images, name, spec)
    state = opened.state()
    layer = TRAITS[spec.architecture].classifier
    float_spec = spec.replace(output="logits", features=False, certainty=None)  # promises are of the old classes
    network = Model(opened.path, "tflite", float_spec, to_tflite(build_graph(float_spec, state)))
    with Predictor(network, threads=threads, features=True) as predictor:
        new = {label: _features(predictor, folder, show) for label, folder in folders.items()}
        old = _old(predictor, opened, data, root, show)
    head = Head(state[f"{layer}.weight"].astype(np.float64), state[f"{layer}.bias"].astype(np.float64))
    grown, rows = _grow(head, new, old)
    made = float_spec.replace(
        labels=(*spec.labels, *new),
        label_ids=(),
        accuracy=(),
        provenance=f"{', '.join(new)} added by fusiform; {spec.provenance}".rstrip("; "),
    )
    weights = {f"{layer}.weight": grown.weight.astype(np.float32), f"{layer}.bias": grown.bias.astype(np.float32)}
    write_safetensors(Path(out), {**state, **weights}, made)
    figures: dict[str, Cell] = {
        "model": str(opened.path),
        "file": str(out),
        "classes": len(made.labels),
        "data": None if old is None else old.source,
        "images": None if old is None else len(old.labels),
        "top1_before": _top1(head, old),
        "top1_after": _top1(grown, old),
    }
    title = f"{', '.join(new)} added to {spec.name}"
    return Report(title, tuple(rows), figures, schema="fusiform.added_classes/1")


def _folders(
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], name: str | None, spec: ModelSpec
) -> Mapping[str, Path]:
    """The folder of each new class."""
    places = [Path(images)] if isinstance(images, (str, os.PathLike)) else [Path(each) for each in images]
    if not places:
        raise UsageError("name a folder of images for each new class")
    if name is not None and len(places) > 1:
        raise UsageError(
            f"name is for one folder, and there are {len(places)}: classes are called as their folders are"
        )
    folders: dict[str, Path] = {}
    for place in places:
        label = place.absolute().name if name is None else name
        if label in spec.labels or label in folders:
            raise UsageError(f"{label}: the model knows this class already: give the new one another name")
        if not place.is_dir():
            raise InputError(f"{place}: is no folder: give a folder of images that show {label}")
        folders[label] = place
    # SpecError for names that no file can hold.
    spec.replace(labels=(*spec.labels, *folders), label_ids=(), certainty=None)
    return folders


def _features(predictor: Predictor, folder: Path, show: Tracker) -> Features:
    found = find_images(folder)
    rows = [answer.features for answer in predictor.iter(found, top=1, progress=show) if answer.features is not None]
    if not rows:
        raise InputError(f"{folder}: has no image that can be read: give a folder of images of the new class")
    return np.stack(rows)


def _old(
    predictor: Predictor,
    opened: Model,
    data: str | os.PathLike[str] | None,
    root: str | os.PathLike[str] | None,
    show: Tracker,
) -> _Old | None:
    """Images of the old classes, evenly of each: of the data that are named, or that the model's run was trained on."""
    if data is None:
        run = opened.path.parent
        if not ((run / "run.json").is_file() and (run / "data.csv").is_file()):
            return None
        data, root = run / "data.csv", None
        try:
            return _look(predictor, opened.spec, data, root, show)
        except FusiformError:
            return None  # they are there no more
    found = _look(predictor, opened.spec, data, root, show)
    if found is None:
        raise InputError(f"{data}: has no image of the model's classes that can be read")
    return found


def _look(predictor: Predictor, spec: ModelSpec, data: str | os.PathLike[str], root: Any, show: Tracker) -> _Old | None:
    dataset = open_dataset(Path(data), task="classification", spec=spec, root=root)
    _, samples = choose_split(dataset.source, dataset.splits, None, prefer=TRAINED_ON)
    chosen = _evenly(samples, max(ENOUGH, LOOKED_AT // spec.num_classes))
    labels: list[int] = []
    rows: list[NDArray[np.float32]] = []
    with show(total=len(chosen), label="old classes", unit="images") as bar:
        for k in range(0, len(chosen), 64):
            group = [(sample, image) for sample in chosen[k : k + 64] if (image := _read(sample)) is not None]
            for (sample, _), answer in zip(
                group, predictor([image for _, image in group], top=1, progress=False), strict=True
            ):
                if answer.features is not None:
                    labels.append(sample.label)
                    rows.append(answer.features)
            bar.advance(len(chosen[k : k + 64]))
    return _Old(np.stack(rows), np.array(labels, np.int64), str(data)) if rows else None


def _read(sample: Sample) -> Image.Image | None:
    """The picture; None where it cannot be read."""
    try:
        return sample.read()
    except ImageError:
        return None


def _evenly(samples: Sequence[Sample], most: int) -> list[Sample]:
    """Up to ``most`` of each class, from one end of it to the other."""
    of_class: dict[int, list[Sample]] = {}
    for sample in samples:
        of_class.setdefault(sample.label, []).append(sample)
    return [
        one[k]
        for one in of_class.values()
        for k in np.linspace(0, len(one) - 1, min(most, len(one))).round().astype(int)
    ]


def _grow(head: Head, new: Mapping[str, Features], old: _Old | None) -> tuple[Head, list[Row]]:
    """The head with a row for each new class, one after the other: each is set apart from those before it, too."""
    rows: list[Row] = []
    for label, features in new.items():
        added = added_without(head, features) if old is None else added_class(head, features, old.features, old.labels)
        number = len(head.bias)
        head = Head(np.vstack([head.weight, added.weight]), np.append(head.bias, added.bias))
        if old is not None:
            labels = np.append(old.labels, np.full(len(features), number, np.int64))
            old = old._replace(features=np.concatenate([old.features, features]), labels=labels)
        rows.append(
            {
                "class": label,
                "images": len(features),
                "recall": None if added.recall is None else round(added.recall, 6),
            }
        )
    return head, rows


def _top1(head: Head, old: _Old | None) -> float | None:
    """The share of the old classes' images that is named right."""
    if old is None:
        return None
    named = (old.features @ head.weight.T + head.bias).argmax(1)
    return round(float((named == old.labels).mean()), 6)
