"""A model that is opened once and asked often: from images to answers."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from types import TracebackType
from typing import TYPE_CHECKING

from fusiform import engines
from fusiform.engines import Engine, EngineName
from fusiform.engines.crew import GROUP, LOOK_AHEAD, Engines, in_order
from fusiform.errors import UsageError
from fusiform.machine import usable_cores
from fusiform.prediction.plain import PlainWorker, names_plainly
from fusiform.prediction.results import Prediction, Predictions
from fusiform.prediction.sources import Picture, Source, find_pictures
from fusiform.prediction.worker import Asked, Worker, check_asked, check_fit
from fusiform.progress import Tracker, tracker
from fusiform.spec import ModelSpec
from fusiform.tasks.classification import rename
from fusiform.zoo.model import Model, open_model

if TYPE_CHECKING:
    from fusiform.prediction.kept import Keeper

MASKS_AHEAD = 2
"""Batches of masks that may wait for their turn: each is as large as its photograph."""
SINGLE_PICTURE_THREADS = 4
"""More runtime threads than these do not make one small picture faster."""
KEPT = 64
"""Pictures from memory and from addresses that keep a thumbnail to be shown by: they cannot be read again."""


class Predictor:
    """A model that is opened once and asked often, from any thread.

    Args:
        model: A name from ``fusiform.list_models()``, a model file, the folder of a training run, or what
            ``fusiform.open_model`` has opened.
        engine: The runtime; None is the one that the file is for, or ``native`` where that is faster.
        device: Where the engine ``torch`` computes: ``auto`` (``cuda`` where it finds such a GPU, else ``cpu``),
            ``cpu``, ``cuda``, ``cuda:1`` or ``mps``. Other engines compute on the CPU.
        threads: The number of cores to use; None is all.
        batch: How many pictures go through the network together.
        fast: Decode large JPEGs at a reduced size: the pixels, and with them the answers, may differ a little.
            Detectors and segmenters decode whole pictures all the same, to answer in their own pixels.
        labels: Other names for the model's classes, one for each, or a UTF-8 file with one a line.
        tiles: For small objects in large pictures: the side of the tiles, in pixels, that a detector is shown one by
            one, beside the whole picture. None shows it the whole picture alone.
        overlap: The share of a tile's side that neighbours have in common, up to 0.9.
        features: Let each answer of a classifier have its ``features``: what the last layer reads, as a vector of
            float32. Files that do not answer them are made to, but for programs (TorchScript, OpenVINO, ExecuTorch).
        sketch: A .json file in which to keep a sketch of what a calibrated classifier sees, for ``fusiform.drift``; one
            that is there is gone on with.

    Raises:
        UsageError: For arguments that do not fit.
        FusiformError: For a model that cannot be opened.

    Example:
        >>> import fusiform
        >>> with fusiform.Predictor("mobilenet_v2", threads=1) as predictor:
        ...     first = predictor("examples/cat.jpg")[0]
        ...     again = predictor("examples/cat.jpg", top=1)[0]
        >>> first.top[0].name, len(first.top), len(again.top)
        ('Egyptian cat', 5, 1)

    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Model = "mobilenet_v2",
        *,
        engine: EngineName | None = None,
        device: str = "auto",
        threads: int | None = None,
        batch: int = 1,
        fast: bool = False,
        labels: str | os.PathLike[str] | Sequence[str] | None = None,
        tiles: int | None = None,
        overlap: float = 0.2,
        features: bool = False,
        sketch: str | os.PathLike[str] | None = None,
    ) -> None:
        for name, count in (("batch", batch), ("threads", threads)):
            if count is not None and count < 1:
                raise UsageError(f"{name} must be at least 1, got {count}")
        if engine is not None and engine not in engines.ENGINES:
            raise UsageError(f"there is no engine {engine!r}; there are {', '.join(engines.ENGINES)}")
        self._model = open_model(model)
        self._engine, self._device, self._threads, self._batch, self._fast = engine, device, threads, batch, fast
        self._cores = threads or usable_cores()
        self.spec = self._model.spec
        """The model's description, with the labels that were given."""
        if labels is not None:
            self.spec = rename(self.spec, labels)
        check_fit(self.spec, self._model.path)
        if features:
            engines.check_features(self._model)
        self._features = features
        self._answers_features = features or engines.tells_unknown(self._model)
        self._tiles = None
        if tiles is not None or overlap != 0.2:
            from fusiform.prediction.tiles import check_tiles  # naming a photograph is not to wait for it

            self._tiles = check_tiles(self.spec, tiles, overlap)
        self._keeper = None
        if sketch is not None:
            from fusiform.prediction.kept import Keeper  # only what is kept is to wait for it

            if fast:
                raise UsageError("a sketch needs images as they are, and fast decodes them smaller: leave out either")
            self._keeper = Keeper(sketch, self._model)
        self._pools: dict[int, Engines] = {}
        self._workers: dict[Engine, Worker] = {}
        self._opening = threading.Lock()
        self._calls = 0

    def __call__(
        self,
        sources: Source | Iterable[Source],
        *,
        top: int | None = None,
        score: float | None = None,
        iou: float | None = None,
        limit: int | None = None,
        certain: float | None = None,
        progress: bool | Tracker | None = None,
    ) -> Predictions:
        """Answer each image, in the order of ``sources``; arguments and errors are those of ``fusiform.predict``."""
        answers = self.iter(sources, top=top, score=score, iou=iou, limit=limit, certain=certain, progress=progress)
        return Predictions(answers, self.spec)

    def iter(
        self,
        sources: Source | Iterable[Source],
        *,
        top: int | None = None,
        score: float | None = None,
        iou: float | None = None,
        limit: int | None = None,
        certain: float | None = None,
        progress: bool | Tracker | None = False,
        thumbnails: int = 0,
    ) -> PredictionStream:
        """Yield each answer as soon as its turn comes; see ``fusiform.predict_iter``."""
        asked = Asked(top, score, iou, limit, certain)
        check_asked(self.spec, asked)

        pictures: Iterable[Picture] = find_pictures(sources)
        show, total = tracker(progress), 0
        if progress is not False:
            pictures = list(pictures)
            total = len(pictures)
        pictures = (
            picture._replace(keep=k < thumbnails or (picture.fleeting and k < KEPT))
            for k, picture in enumerate(pictures)
        )
        answers = self._stream(pictures, asked)
        return PredictionStream(self.spec, _tracked(answers, total, show) if total > 1 else answers)

    def answers(self, pictures: Iterable[Picture], asked: Asked) -> PredictionStream:
        """The answers for pictures that are found already, in their order, each as soon as its turn comes."""
        check_asked(self.spec, asked)
        return PredictionStream(self.spec, self._stream(iter(pictures), asked))

    def _stream(self, pictures: Iterator[Picture], asked: Asked) -> Generator[Prediction, None, None]:
        """Answers by the workers that the pictures are worth; the first engine is opened before any is read."""
        pictures = _read_ahead(pictures, self._cores)
        # Few pictures are shared among the workers rather than grouped.
        first = list(islice(pictures, self._cores * max(self._batch, GROUP)))
        size = max(self._batch, min(GROUP, -(-len(first) // self._cores)))
        batches = _batches(chain(first, pictures), size)
        head = list(islice(batches, self._cores))
        workers, ahead = max(1, len(head)), LOOK_AHEAD
        if workers > 1:
            engine_threads = max(1, self._cores // workers)
        else:
            engine_threads = self._threads or min(self._cores, SINGLE_PICTURE_THREADS)
        batches = chain(head, batches)
        if self.spec.task == "segmentation":
            batches, ahead = _batches(chain.from_iterable(batches), self._batch), MASKS_AHEAD

        # The first engine is opened here: a wrong model or device is told before any picture is read.
        pool = self._pool(engine_threads)
        pool.warm()
        answer = partial(self.answer, asked=asked, threads=engine_threads, alone=len(first) == 1)
        if workers > 1:
            groups: Iterator[list[Prediction]] = in_order(batches, answer, workers=workers, ahead=ahead)
        else:
            groups = map(answer, batches)
        return _flat(groups) if self._keeper is None else _kept(_flat(groups), self._keeper)

    def close(self) -> None:
        """Let go of the engines; the next question opens new ones."""
        with self._opening:
            self._pools, self._workers = {}, {}

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Predictor of {self.spec.summary()}, {self._cores} core{'' if self._cores == 1 else 's'}>"

    def _pool(self, threads: int) -> Engines:
        """The engines that have so many threads inside the runtime: as many as there are cores for."""
        with self._opening:
            if threads not in self._pools:
                start = partial(
                    engines.open_engine,
                    self._model,
                    engine=self._engine,
                    threads=threads,
                    device=self._device,
                    features=self._answers_features,
                )
                self._pools[threads] = Engines(start, max(1, self._cores // threads))
            return self._pools[threads]

    def answer(
        self, pictures: Sequence[Picture], *, asked: Asked, threads: int, alone: bool = False
    ) -> list[Prediction]:
        """The answers for a group, in its order, by an engine of so many threads; ``batch`` go through it together.

        For what asks by itself, from a thread for each core or from one: videos do. ``asked`` has to fit the model.
        """
        with self._opening:
            self._calls += 1
            # Questions that come at the same time, from several threads, share the cores rather than wait.
            threads = threads if self._calls == 1 or threads == 1 else max(1, self._cores // self._calls)
        try:
            with self._pool(threads).lend() as engine:
                return self._worker(engine, alone).answer(pictures, asked)
        finally:
            with self._opening:
                self._calls -= 1

    def _worker(self, engine: Engine, alone: bool) -> Worker:
        """What answers with a lent engine: made once, since it takes the time of some pictures."""
        worker = self._workers.get(engine) or self._workers.setdefault(engine, self._new_worker(engine))
        worker.alone = alone
        return worker

    def _new_worker(self, engine: Engine) -> Worker:
        if self._tiles is None:
            if not self._features and self._keeper is None and names_plainly(engine, self.spec):
                return PlainWorker(engine, self.spec, self._model.path, fast=self._fast)
            worker = Worker(
                engine, self.spec, self._model.path, fast=self._fast, batch=self._batch, features=self._features
            )
            worker.keeper = self._keeper
            return worker
        from fusiform.prediction.tiles import TiledWorker

        return TiledWorker(engine, self.spec, self._model.path, self._tiles, batch=self._batch)


class PredictionStream(Iterator[Prediction]):
    """Answers, each as soon as its turn comes; ``spec`` is the model's description, with the labels that were given."""

    def __init__(self, spec: ModelSpec, answers: Generator[Prediction, None, None]) -> None:
        self.spec = spec
        self._answers = answers

    def __next__(self) -> Prediction:
        return next(self._answers)

    def close(self) -> None:
        """Stop before the end, and the threads with it."""
        self._answers.close()


def _read_ahead(pictures: Iterator[Picture], cores: int) -> Iterator[Picture]:
    """The pictures, those on other machines being fetched before their turn comes."""
    for picture in pictures:
        if picture.far:
            from fusiform.prediction.ahead import READS, READS_A_CORE, read_ahead  # only where a machine is waited for

            yield from read_ahead(chain([picture], pictures), reads=max(READS, READS_A_CORE * cores))
            return
        yield picture


def _flat(groups: Iterator[list[Prediction]]) -> Generator[Prediction, None, None]:
    try:
        for group in groups:
            yield from group
    finally:
        if isinstance(groups, Generator):
            groups.close()


def _kept(predictions: Generator[Prediction, None, None], keeper: Keeper) -> Generator[Prediction, None, None]:
    """The answers, kept in their order; the sketch is written at the end, whichever that is."""
    try:
        for prediction in predictions:
            keeper.add([prediction])
            yield prediction
    finally:
        predictions.close()
        keeper.write()


def _tracked(predictions: Iterator[Prediction], total: int, show: Tracker) -> Generator[Prediction, None, None]:
    with show(total=total, label="predict", unit="images") as progress:
        for prediction in predictions:
            progress.advance(1)
            yield prediction


def _batches(pictures: Iterator[Picture], size: int) -> Iterator[list[Picture]]:
    while batch := list(islice(pictures, size)):
        yield batch
