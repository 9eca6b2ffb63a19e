"""From photographs, in files, folders, at addresses or in memory, to what a model says of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import chain, islice
from queue import SimpleQueue
from typing import TYPE_CHECKING

from fusiform import engines
from fusiform.engines import EngineName
from fusiform.errors import UsageError
from fusiform.machine import usable_cores
from fusiform.prediction.answer import Prediction
from fusiform.prediction.predictor import SINGLE_PICTURE_THREADS, Wanted, Worker
from fusiform.prediction.sources import Picture, Source, find_pictures
from fusiform.spec import ModelSpec

if TYPE_CHECKING:
    pass


LOOK_AHEAD = 4
"""Groups a worker that may be read before their turn: enough to go on beside one slow picture, yet bounded."""
MASKS_AHEAD = 2
"""Batches of masks that may wait for their turn: each is as large as its photograph."""
GROUP = 8
"""Pictures that a worker takes through one stage after the other: enough to find its code in the cache again."""


def predict(
    sources: Source | Iterable[Source],
    *,
    model: str | os.PathLike[str] = "mobilenet_v2",
    top: int | None = None,
    score: float | None = None,
    iou: float | None = None,
    limit: int | None = None,
    engine: EngineName | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch: int = 1,
    fast: bool = False,
    labels: Sequence[str] | None = None,
    progress: bool = False,
) -> list[Prediction]:
    """Answer each picture, in the order of ``sources``, as the model's task is; an unreadable one stops no other.

    A source is a file, a folder (searched recursively), a glob pattern, ``-`` (a picture's bytes on standard input),
    an http(s) address, a picture's bytes, or a PIL image. ``model`` is a name from ``fusiform.list_models()`` or a
    model file. ``engine`` None is the runtime that the file is for. ``device`` is where the engine ``torch``
    computes: ``cpu``, ``cuda`` or ``mps``. ``threads`` is the number of cores to use, all by default; ``batch`` the
    number of pictures that go through the network together. ``fast`` lets JPEGs be decoded at a reduced size, which
    changes the pixels a little. ``labels`` replace the model's class names, one for each class. ``progress`` shows on
    standard error how far it is.

    A classifier gives the ``top`` likeliest names (5). A detector gives the boxes scored above ``score`` (0.3); of
    those of one class that share more than ``iou`` (0.6) only the highest-scoring one; and at most ``limit`` (100).
    Detectors and segmenters decode JPEGs whole, also with ``fast``, to answer in their own pixels. A mask is as large
    as its photograph: ``predict_iter`` gives those of many pictures one after the other.

    Raises UsageError for arguments that do not fit, also not the model's task, and other FusiformErrors for a model
    that cannot be opened; what is wrong with a picture is in its Prediction's ``error``.
    """
    return list(
        predict_iter(
            sources,
            model=model,
            top=top,
            score=score,
            iou=iou,
            limit=limit,
            engine=engine,
            device=device,
            threads=threads,
            batch=batch,
            fast=fast,
            labels=labels,
            progress=progress,
        )
    )


def predict_iter(
    sources: Source | Iterable[Source],
    *,
    model: str | os.PathLike[str] = "mobilenet_v2",
    top: int | None = None,
    score: float | None = None,
    iou: float | None = None,
    limit: int | None = None,
    engine: EngineName | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch: int = 1,
    fast: bool = False,
    labels: Sequence[str] | None = None,
    progress: bool = False,
    thumbnails: int = 0,
) -> Predictions:
    """Like ``predict``, but yields each answer as soon as its turn comes, in memory that does not grow.

    Sources are taken from their iterable a little ahead of the answers, or all at once with ``progress``, which has
    to count them. Arguments are checked and the model is opened before this returns. The first ``thumbnails`` answers
    bring their picture along, since an address or standard input can be read only once.
    """
    for name, count in (("top", top), ("limit", limit), ("batch", batch), ("threads", threads)):
        if count is not None and count < 1:
            raise UsageError(f"{name} must be at least 1, got {count}")
    for name, share in (("score", score), ("iou", iou)):
        if share is not None and not 0 <= share <= 1:
            raise UsageError(f"{name} must be from 0 to 1, got {share}")
    if engine is not None and engine not in engines.ENGINES:
        raise UsageError(f"there is no engine {engine!r}; there are {', '.join(engines.ENGINES)}")

    pictures: Iterable[Picture] = find_pictures(sources)
    total = 0
    if progress:
        pictures = list(pictures)
        total = len(pictures)

    cores = threads or usable_cores()
    pictures = (picture._replace(keep=k < thumbnails) for k, picture in enumerate(pictures))
    # Few pictures are shared among the workers rather than grouped.
    first = list(islice(pictures, cores * max(batch, GROUP)))
    size = max(batch, min(GROUP, -(-len(first) // cores)))
    batches = _batches(chain(first, pictures), size)
    head = list(islice(batches, cores))
    workers = max(1, len(head))
    engine_threads = cores // workers if workers > 1 else threads or min(cores, SINGLE_PICTURE_THREADS)

    wanted = Wanted(top, score, iou, limit, fast, batch, alone=len(first) == 1)

    def open_worker() -> Worker:
        opened = engines.open_engine(model, engine=engine, threads=engine_threads, device=device)
        return Worker(opened, labels, wanted)

    # The first is opened here: a wrong model or label file is told before any picture is read.
    worker = open_worker()
    batches, ahead = chain(head, batches), LOOK_AHEAD
    if worker.spec.task == "segmentation":
        batches, ahead = _batches(chain.from_iterable(batches), batch), MASKS_AHEAD
    if workers > 1:
        predictions = _in_parallel(batches, [lambda: worker, *[open_worker] * (workers - 1)], ahead)
    else:
        predictions = (prediction for pictures in batches for prediction in worker.answer(pictures))
    return Predictions(worker.spec, _tracked(predictions, total) if total > 1 else predictions)


class Predictions(Iterator[Prediction]):
    """Answers, each as soon as its turn comes; ``spec`` is the model's description, with the labels that were given."""

    def __init__(self, spec: ModelSpec, answers: Generator[Prediction, None, None]) -> None:
        self.spec = spec
        self._answers = answers

    def __next__(self) -> Prediction:
        return next(self._answers)

    def close(self) -> None:
        """Stop before the end, and the threads with it."""
        self._answers.close()


def _in_parallel(
    batches: Iterator[list[Picture]], open_workers: Sequence[Callable[[], Worker]], ahead: int
) -> Generator[Prediction, None, None]:
    """Answer batches in one thread a worker and yield the answers in the order of the batches.

    So many batches a worker may be read ``ahead`` of their turn. Pillow and the runtimes release the interpreter's
    lock, so threads use all cores.
    """
    todo: SimpleQueue[tuple[int, list[Picture]] | None] = SimpleQueue()
    done: SimpleQueue[tuple[int, list[Prediction]] | BaseException] = SimpleQueue()
    stopped = threading.Event()

    def work(open_worker: Callable[[], Worker]) -> None:
        try:
            worker = open_worker()
            while (job := todo.get()) is not None and not stopped.is_set():
                number, pictures = job
                done.put((number, worker.answer(pictures)))
        except BaseException as error:  # whatever it is, it belongs to the caller's thread
            done.put(error)

    # Daemons: a thread that hangs in a download must not keep an interrupted program alive.
    threads = [threading.Thread(target=work, args=(open_worker,), daemon=True) for open_worker in open_workers]
    for thread in threads:
        thread.start()
    try:
        answers: dict[int, list[Prediction]] = {}
        started = finished = 0
        while True:
            for pictures in islice(batches, ahead * len(threads) - (started - finished)):
                todo.put((started, pictures))
                started += 1
            if finished == started:
                return
            while finished not in answers:
                answer = done.get()
                if isinstance(answer, BaseException):
                    raise answer
                answers[answer[0]] = answer[1]
            yield from answers.pop(finished)
            finished += 1
    finally:
        stopped.set()
        for _ in threads:
            todo.put(None)
        for thread in threads:
            thread.join(timeout=0.5)


def _tracked(predictions: Iterator[Prediction], total: int) -> Generator[Prediction, None, None]:
    from fusiform.progress import track

    with track(total=total, label="predict", unit="pictures") as progress:
        for prediction in predictions:
            progress.advance(1)
            yield prediction


def _batches(pictures: Iterator[Picture], size: int) -> Iterator[list[Picture]]:
    while batch := list(islice(pictures, size)):
        yield batch
