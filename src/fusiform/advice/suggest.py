"""Which unlabelled images to label next, and in what form to label them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.advice.seen import see
from fusiform.data.dataset import DataSet
from fusiform.data.duplicates import Fingerprint, find_groups, fingerprint
from fusiform.data.open import open_dataset
from fusiform.errors import ImageError, InputError, OutputError, UsageError
from fusiform.files import write_file
from fusiform.prediction.sources import Picture, Source, find_pictures
from fusiform.progress import Tracker, tracker
from fusiform.report import Cell, Report, Row, Tabular, csv_lines
from fusiform.spec import ModelSpec
from fusiform.tasks.classification import softmax
from fusiform.tasks.linear_head import fit_head, out_of_fold
from fusiform.tasks.picking import pick, strangeness
from fusiform.zoo.model import Model, open_model

STRANGE = 0.01
"""At most so many of the images that are as the labelled ones are taken for strangers, or one in their number."""
_TRIES = 5


@dataclass(frozen=True, repr=False)
class Suggestions(Tabular):
    """The images to label: a row for each, ``strangers`` apart, and ``figures`` about the pool.

    A row has the ``path``, the class that it is ``suggested`` for, the ``probability`` of that class and the
    ``margin`` to the next one; without a guess they are None.
    """

    figures: dict[str, Cell]
    rows: tuple[Row, ...]
    strangers: tuple[Row, ...]
    notes: tuple[str, ...]

    def report(self) -> Report:
        """All of it."""
        title = f"{len(self.rows):,} of {self.figures['images']:,} images to label"
        figures = {**self.figures, "notes": self.notes}
        return Report(title, self.rows, figures, {"strangers": self.strangers}, "fusiform.suggestions/1")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a contact sheet of the images, JPEG or PNG; OutputError where that cannot be done."""
        from fusiform.data.image import read_image
        from fusiform.drawing.grid import TILE, Tile, draw_grid, save_picture

        tiles = []
        for row in self.rows:
            name = str(row["path"])
            try:
                image = read_image(name, shorter_side=TILE)
            except (ImageError, OSError):
                image = None
            tiles.append(Tile(image, _caption(row), Path(name).name))
        save_picture(draw_grid(tiles), path)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write what they are labelled in, with the guesses to correct.

        ``FILE.csv`` is a list of paths and labels, which ``train`` reads; ``FILE.json`` tasks for Label Studio with the
        guesses as predictions; any other name is a folder that gets copies, in a folder for each guessed class, as
        ``train`` and YOLO's classifiers read them. Raises OutputError where that cannot be done.
        """
        place = Path(path)
        if place.suffix.lower() == ".csv":
            records = [[str(row["path"]), row["suggested"]] for row in self.rows]
            write_file(place, csv_lines([["path", "label"], *records], exact=True).encode())
        elif place.suffix.lower() == ".json":
            tasks = [_label_studio(row) for row in self.rows]
            write_file(place, (json.dumps(tasks, indent=2, ensure_ascii=False) + "\n").encode())
        else:
            _copy(self.rows, place)

    def __str__(self) -> str:
        return self.report().to_table()


def suggest(
    pool: Source | Iterable[Source],
    *,
    model: str | os.PathLike[str] | Model = "mobilenet_v2",
    count: int = 50,
    labelled: str | os.PathLike[str] | DataSet | None = None,
    diverse: bool = False,
    save: str | os.PathLike[str] | None = None,
    into: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    seed: int = 0,
    progress: bool | Tracker | None = None,
) -> Suggestions:
    """Pick the unlabelled images that are most worth labelling: uncertain ones that are unlike each other.

    Args:
        pool: Unlabelled images: files, folders, patterns, as ``predict`` takes them.
        model: The classifier whose features are used, and without ``labelled`` its answers.
        count: How many images to pick.
        labelled: The labelled images so far, as ``train`` reads them: a last layer that has learned them says what is
            uncertain, images of the pool that are among them are left out, and those unlike all of them are strangers.
        diverse: Pick typical images of all kinds, whatever the model is uncertain about: for the first labels.
        save: Where to write a contact sheet, JPEG or PNG.
        into: Where to write what to label in: a CSV file, a JSON file for Label Studio, or a folder.
        root: The folder that the paths in the list of labelled images begin in; None is the list's own.
        threads: Cores to use, all by default.
        seed: Of the clusters' first centres.
        progress: Whether to show on standard error how far it is; None where that is a terminal or a notebook.

    Returns:
        The suggestions: ``rows``, most uncertain first, and ``strangers``; near copies are there once.

    Raises:
        UsageError: For arguments that do not fit, and for a model without features.
        InputError: For a pool of which no image can be read.
        OutputError: For a file or folder that cannot be written.

    Example:
        >>> import fusiform
        >>> found = fusiform.suggest("examples", count=2, diverse=True, threads=1)
        >>> len(found.rows)
        2

    """
    if count < 1:
        raise UsageError(f"count must be at least 1, got {count}")
    if diverse and labelled is not None:
        raise UsageError("--diverse is for the first labels: leave it out where there is --labelled")
    opened = open_model(model)
    show = tracker(progress)
    pictures = list(find_pictures(pool))
    if not pictures:
        raise InputError("there are no images to choose from: name a folder with some")
    seen = see(opened, pictures, threads=threads, progress=show)
    free = np.arange(len(seen.numbers))
    notes = [f"{len(seen.errors):,} images could not be read"] if seen.errors else []
    strange, bound = np.ones(len(free)), STRANGE
    names: Sequence[str] = ()
    probabilities: NDArray[np.float64] | None = None
    if labelled is not None:
        dataset = (
            labelled if isinstance(labelled, DataSet) else open_dataset(labelled, task="classification", root=root)
        )
        names = dataset.classes
        samples = [sample for group in dataset.splits.values() for sample in group]
        known = see(opened, samples, threads=threads, progress=show)
        labels = np.array([samples[i].label for i in known.numbers], np.int64)
        there = {os.path.abspath(sample.file) for sample in samples if not sample.key}  # noqa: PTH100
        own = [os.path.abspath(pictures[i].path) not in there for i in seen.numbers]  # noqa: PTH100
        free = np.flatnonzero(own)
        if not len(free):
            raise InputError("all images of the pool are labelled: name a folder with others")
        with show(total=None, label="learn"):
            slope = out_of_fold(known.features, labels, len(names), seed=seed).slope
            head = fit_head(known.features, labels, len(names), slope=slope)
            probabilities = softmax(head(seen.features))
            strange = strangeness(seen.features, known.features)
            bound = max(STRANGE, 1 / (len(labels) + 1))
    elif not diverse:
        names = opened.spec.labels
        probabilities = _own(seen.values, opened.spec)
        notes.append("uncertain is what the model is uncertain of; strangers are told with --labelled alone")
    far = free[strange[free] <= bound]
    near = free[strange[free] > bound]
    margins = None if probabilities is None else _margins(probabilities)
    with show(total=None, label="choose"):
        picked = _unlike(pictures, seen.numbers, seen.features, margins, near, count, seed)
    rows = [_row(pictures, seen.numbers, i, names, probabilities) for i in picked]
    apart = [_row(pictures, seen.numbers, i, names, probabilities) for i in far[np.argsort(strange[far])]]
    figures: dict[str, Cell] = {
        "model": opened.path.name,
        "images": len(seen.numbers),
        "labelled_images": len(seen.numbers) - len(free) if labelled is not None else None,
        "strangers": len(far),
    }
    found = Suggestions(figures, tuple(rows), tuple(apart), tuple(notes))
    if save is not None:
        found.save(save)
    if into is not None:
        found.write(into)
    return found


def _own(values: NDArray[np.float32], spec: ModelSpec) -> NDArray[np.float64]:
    """The model's own probabilities."""
    wide = values.astype(np.float64)
    return softmax(wide / spec.temperature) if spec.output == "logits" else wide


def _margins(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """The likeliest class's probability less the next one's; 1 where there is but one class."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    first = np.partition(probabilities, -2, axis=1)
    found: NDArray[np.float64] = first[:, -1] - first[:, -2]
    return found


def _unlike(
    pictures: Sequence[Picture],
    numbers: Sequence[int],
    features: NDArray[np.float32],
    margins: NDArray[np.float64] | None,
    free: NDArray[np.int64],
    count: int,
    seed: int,
) -> list[int]:
    """Rows of images to label, of which no two are near copies: what a copy leaves free is filled up."""
    picked: list[int] = []
    prints: list[Fingerprint | None] = []
    for number in range(_TRIES):
        if len(picked) == count or not len(free):
            break
        some = None if margins is None else margins[free]
        new = free[pick(features[free], count - len(picked), margins=some, seed=seed + number)]
        free = np.setdiff1d(free, new)
        picked += new.tolist()
        prints += [_fingerprint(pictures[numbers[i]]) for i in new]
        copies = {i for group in find_groups(prints) for i in group.members[1:]}
        picked = [row for i, row in enumerate(picked) if i not in copies]
        prints = [known for i, known in enumerate(prints) if i not in copies]
    if margins is not None:
        picked.sort(key=lambda row: margins[row])
    return picked


def _fingerprint(picture: Picture) -> Fingerprint | None:
    try:
        return fingerprint(Path(picture.path).read_bytes(), name=picture.path)
    except (ImageError, OSError, ValueError):  # not a file: then nothing is known of its copies
        return None


def _row(
    pictures: Sequence[Picture],
    numbers: Sequence[int],
    row: int,
    names: Sequence[str],
    probabilities: NDArray[np.float64] | None,
) -> dict[str, Cell]:
    path = pictures[numbers[row]].path
    if probabilities is None:
        return {"path": path, "suggested": None, "probability": None, "margin": None}
    own = probabilities[row]
    margin = float(_margins(own[None])[0])
    best = int(own.argmax())
    return {
        "path": path,
        "suggested": names[best],
        "probability": float(f"{own[best]:.6g}"),
        "margin": float(f"{margin:.6g}"),
    }


def _caption(row: Row) -> str:
    probability = row["probability"]
    return f"{probability:.1%}  {row['suggested']}" if isinstance(probability, float) else ""


def _label_studio(row: Row) -> dict[str, Any]:
    """A task of Label Studio with the guess as its prediction; pictures are named as its local storage serves them."""
    from urllib.parse import quote

    path = Path(str(row["path"]))
    name = quote(str(path.absolute()).lstrip("/"), safe="/")
    task: dict[str, Any] = {"data": {"image": f"/data/local-files/?d={name}"}}
    if row["suggested"] is not None:
        choice = {"from_name": "choice", "to_name": "image", "type": "choices"}
        result = [{**choice, "value": {"choices": [row["suggested"]]}}]
        task["predictions"] = [{"model_version": "fusiform", "score": row["probability"], "result": result}]
    return task


def _copy(rows: Sequence[Row], place: Path) -> None:
    """Copies in folders by their guessed class; without a guess in one called unlabelled."""
    try:
        for row in rows:
            source = Path(str(row["path"]))
            name = str(row["suggested"] or "unlabelled").replace("/", "_")
            folder = place / name
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / source.name
            number = 1
            while target.exists():
                number += 1
                target = folder / f"{source.stem}-{number}{source.suffix}"
            shutil.copyfile(source, target)
    except OSError as error:
        raise OutputError(f"cannot write {place} ({error.strerror or error}): choose another place") from None
