"""A folder that images keep coming into, and what a model says of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusiform.engines import EngineName
from fusiform.errors import InputError
from fusiform.prediction.predictor import Predictor
from fusiform.prediction.results import Prediction
from fusiform.prediction.streams.answers_file import AnswersFile, State
from fusiform.prediction.streams.arrivals import Arrival, Arrivals
from fusiform.prediction.worker import Asked, check_asked
from fusiform.spec import Colours, Fit
from fusiform.zoo.model import Model, open_model


@dataclass(frozen=True, repr=False)
class FilePrediction(Prediction):
    """The answer for a file, and its state: ``bytes``, its length, and ``modified``, when it was changed, in UTC."""

    bytes: int = 0
    modified: str = ""

    def place(self) -> dict[str, Any]:
        """What says in which state the file was answered."""
        return {"bytes": self.bytes, "modified": self.modified}


def watch(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    model: str | os.PathLike[str] | Model = "mobilenet_v2",
    *,
    recursive: bool = False,
    poll: bool = False,
    top: int | None = None,
    score: float | None = None,
    iou: float | None = None,
    limit: int | None = None,
    certain: float | None = None,
    engine: EngineName | None = None,
    device: str = "auto",
    threads: int | None = None,
    batch: int = 1,
    fast: bool = False,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    tiles: int | None = None,
    overlap: float = 0.2,
    mean: Colours | None = None,
    std: Colours | None = None,
    resize: int | None = None,
    crop: int | None = None,
    fit: Fit | None = None,
    say: Callable[[str], None] | None = None,
) -> Generator[FilePrediction, None, None]:
    """Answer the images in a folder, and each that comes into it, as soon as it is complete; it goes on for ever.

    A file is complete when it was moved in, or was not changed for half a second and, as far as the system tells, is
    not open to be written. One that is replaced is answered again. What was answered is known from ``out`` at the next
    start: paths, lengths and times of change.

    Args:
        folder: The folder; its files are named by their absolute paths.
        out: A file that each answer is appended to, a JSON line each. None keeps nothing.
        model: As for ``predict``, like all arguments below that are not described.
        recursive: Whether folders within count, those that come later too.
        poll: Look at the folder every second, in place of being told by the system: for folders that other machines
            write to (NFS, SMB). Without the extra ``watch`` it is always done so.
        top: See ``predict``.
        score: See ``predict``.
        iou: See ``predict``.
        limit: See ``predict``.
        certain: See ``predict``.
        engine: See ``predict``.
        device: See ``predict``.
        threads: See ``predict``.
        batch: See ``predict``.
        fast: See ``predict``.
        labels: See ``predict``.
        tiles: See ``predict``.
        overlap: See ``predict``.
        mean: See ``fusiform.open_model``.
        std: See ``fusiform.open_model``.
        resize: See ``fusiform.open_model``.
        crop: See ``fusiform.open_model``.
        fit: See ``fusiform.open_model``.
        say: Called with what there is to tell beside the answers, in words.

    Returns:
        An iterator of answers, as ``predict``'s with ``bytes`` and ``modified`` beside them, each written before it is
        given. ``close`` ends it.

    Raises:
        UsageError: For arguments that do not fit, at once.
        FusiformError: For a model that cannot be opened, a folder that is not there, or an ``out`` that cannot be
            written or is another program's, at once; later where the folder goes or the disk is full.

    Example:
        >>> import fusiform
        >>> answers = fusiform.watch("examples", top=1)
        >>> print(next(answers).top[0].name, "and", next(answers).top[0].name)
        Egyptian cat and espresso
        >>> answers.close()

    """
    opened = open_model(model, mean=mean, std=std, resize=resize, crop=crop, fit=fit)
    predictor = Predictor(
        opened,
        engine=engine,
        device=device,
        threads=threads,
        batch=batch,
        fast=fast,
        labels=labels,
        tiles=tiles,
        overlap=overlap,
    )
    asked = Asked(top, score, iou, limit, certain)
    check_asked(predictor.spec, asked)
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder: check the path")
    return _watch(predictor, asked, Path(folder), None if out is None else AnswersFile(Path(out)), recursive, poll, say)


def _watch(
    predictor: Predictor,
    asked: Asked,
    folder: Path,
    file: AnswersFile | None,
    recursive: bool,
    poll: bool,
    say: Callable[[str], None] | None,
) -> Generator[FilePrediction, None, None]:
    answered: dict[str, State] = {} if file is None else file.answered

    def known(path: str, state: State) -> bool:
        return answered.get(path) == state

    arrivals = Arrivals(folder, known, recursive=recursive, poll=poll)
    groups = iter(arrivals)
    try:
        for note in [*(file.notes if file else ()), *arrivals.notes]:
            if say is not None:
                say(note)
        for group in groups:
            for prediction in _answer(predictor, asked, arrivals, group):
                answered[prediction.path] = State(prediction.bytes, prediction.modified)
                if file is not None:
                    file.append(prediction.to_dict())
                yield prediction
    finally:
        if isinstance(groups, Generator):
            groups.close()
        if file is not None:
            file.close()


def _answer(
    predictor: Predictor, asked: Asked, arrivals: Arrivals, group: Sequence[Arrival]
) -> Iterator[FilePrediction]:
    """The answers for files that stayed as they were found while they were read."""
    paths = [arrival.path for arrival in group]
    answers = predictor.iter(paths, **asked._asdict())
    for arrival, answer in zip(group, answers, strict=True):
        still = arrivals.still(arrival)
        if still is None:  # gone before it was read, or since: there is nothing to say of it
            continue
        if not still:
            arrivals.again(arrival)
            continue
        yield FilePrediction(
            arrival.path,
            answer.classification,
            answer.error,
            None,
            answer.detections,
            answer.segmentation,
            bytes=arrival.state.bytes,
            modified=arrival.state.modified,
        )
