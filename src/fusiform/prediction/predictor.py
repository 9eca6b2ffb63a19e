"""A model that is opened once and asked often: from images to answers."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fusiform import engines
from fusiform.data.image import read_image, to_rgb
from fusiform.data.limits import one_picture
from fusiform.data.preprocess import crop_pixels, placement
from fusiform.engines import Engine, EngineName
from fusiform.engines.crew import GROUP, LOOK_AHEAD, Engines, in_order
from fusiform.errors import ImageError, SpecError, UsageError, WeightsError
from fusiform.machine import usable_cores
from fusiform.prediction.answer import ALONE, DRAWN_THUMBNAIL, THUMBNAIL, TOP
from fusiform.prediction.results import Prediction, Predictions
from fusiform.prediction.sources import Picture, Source, find_pictures
from fusiform.progress import Tracker, tracker
from fusiform.spec import ModelSpec, Task
from fusiform.tasks.classification import Classification, decode, rename
from fusiform.zoo.model import Model, open_model

MASKS_AHEAD = 2
"""Batches of masks that may wait for their turn: each is as large as its photograph."""
FAST_MARGIN = 2
"""How much larger than needed a picture may be decoded with ``fast``: at 1, twice as many first answers change."""
SINGLE_PICTURE_THREADS = 4
"""More runtime threads than these do not make one small picture faster."""
KEPT = 64
"""Pictures from memory and from addresses that keep a thumbnail to be shown by: they cannot be read again."""


class Predictor:
    """A model that is opened once and asked often, from any thread.

    Args:
        model: A name from ``fusiform.list_models()``, a model file, the folder of a training run, or what
            ``fusiform.open_model`` has opened.
        engine: The runtime; None is the one that the file is for.
        device: Where the engine ``torch`` computes: ``auto`` (``cuda`` where it finds such a GPU, else ``cpu``),
            ``cpu``, ``cuda``, ``cuda:1`` or ``mps``. Other engines compute on the CPU.
        threads: The number of cores to use; None is all.
        batch: How many pictures go through the network together.
        fast: Decode large JPEGs at a reduced size: the pixels, and with them the answers, may differ a little.
            Detectors and segmenters decode whole pictures all the same, to answer in their own pixels.
        labels: Other names for the model's classes, one for each, or a UTF-8 file with one a line.

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
        _check_fit(self.spec, self._model.path)
        self._pools: dict[int, Engines] = {}
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
        progress: bool | Tracker | None = None,
    ) -> Predictions:
        """Answer each image, in the order of ``sources``; arguments and errors are those of ``fusiform.predict``."""
        answers = self.iter(sources, top=top, score=score, iou=iou, limit=limit, progress=progress)
        return Predictions(answers, self.spec)

    def iter(
        self,
        sources: Source | Iterable[Source],
        *,
        top: int | None = None,
        score: float | None = None,
        iou: float | None = None,
        limit: int | None = None,
        progress: bool | Tracker | None = False,
        thumbnails: int = 0,
    ) -> PredictionStream:
        """Yield each answer as soon as its turn comes; see ``fusiform.predict_iter``."""
        for name, count in (("top", top), ("limit", limit)):
            if count is not None and count < 1:
                raise UsageError(f"{name} must be at least 1, got {count}")
        for name, share in (("score", score), ("iou", iou)):
            if share is not None and not 0 <= share <= 1:
                raise UsageError(f"{name} must be from 0 to 1, got {share}")
        asked = _Asked(top, score, iou, limit)
        _check_options(self.spec, asked)

        pictures: Iterable[Picture] = find_pictures(sources)
        show, total = tracker(progress), 0
        if progress is not False:
            pictures = list(pictures)
            total = len(pictures)
        pictures = (
            picture._replace(keep=k < thumbnails or (picture.fleeting and k < KEPT))
            for k, picture in enumerate(pictures)
        )
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
        answer = partial(self._answer, asked=asked, threads=engine_threads, alone=len(first) == 1)
        if workers > 1:
            groups: Iterator[list[Prediction]] = in_order(batches, answer, workers=workers, ahead=ahead)
        else:
            groups = map(answer, batches)
        answers = _flat(groups)
        return PredictionStream(self.spec, _tracked(answers, total, show) if total > 1 else answers)

    def close(self) -> None:
        """Let go of the engines; the next question opens new ones."""
        with self._opening:
            self._pools = {}

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
                    engines.open_engine, self._model, engine=self._engine, threads=threads, device=self._device
                )
                self._pools[threads] = Engines(start, max(1, self._cores // threads))
            return self._pools[threads]

    def _answer(self, pictures: Sequence[Picture], *, asked: _Asked, threads: int, alone: bool) -> list[Prediction]:
        """The answers for a group, in its order; the network sees ``batch`` of its pictures at a time."""
        with self._opening:
            self._calls += 1
            # Questions that come at the same time, from several threads, share the cores rather than wait.
            threads = threads if self._calls == 1 or threads == 1 else max(1, self._cores // self._calls)
        try:
            with self._pool(threads).lend() as engine:
                path = self._model.path
                worker = _Worker(engine, self.spec, path, asked, fast=self._fast, batch=self._batch, alone=alone)
                return worker.answer(pictures)
        finally:
            with self._opening:
                self._calls -= 1


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


class _Asked(NamedTuple):
    """The options of one question."""

    top: int | None
    score: float | None
    iou: float | None
    limit: int | None


# The options of one task alone.
_TASKS: dict[str, Task] = {"top": "classification", "score": "detection", "iou": "detection", "limit": "detection"}


class _Read(NamedTuple):
    """A picture that was read: its pixels as the engine takes them, and its size (width, height) when upright."""

    path: str
    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    thumbnail: Image.Image | None


class _Worker:
    """One engine and the way from pictures to answers through it; serves one thread."""

    def __init__(
        self, engine: Engine, spec: ModelSpec, path: Path, asked: _Asked, *, fast: bool, batch: int, alone: bool
    ) -> None:
        self.engine, self.path, self.asked = engine, path, asked
        self.fast, self.batch, self.alone = fast, batch, alone
        # An engine that the file was not made for runs its weights, without a softmax at their end.
        output = engine.spec.output
        self.spec = spec if spec.output == output else spec.replace(output=output)

    def answer(self, pictures: Sequence[Picture]) -> list[Prediction]:
        """The answers for a group, in its order; the network sees ``batch`` of its pictures at a time."""
        results = [self._read(picture) for picture in pictures]
        read = [result for result in results if isinstance(result, _Read)]
        answers = iter(self._answer(read) if read else ())
        return [next(answers) if isinstance(result, _Read) else result for result in results]

    def _answer(self, read: Sequence[_Read]) -> list[Prediction]:
        size = self.batch
        runs = [
            self.engine.run(np.stack([one.pixels for one in read[i : i + size]])) for i in range(0, len(read), size)
        ]
        values = {name: np.concatenate([run[name] for run in runs]) for name in self.spec.answers}
        try:
            return self._decode(read, values)
        except ValueError as error:  # numbers that no network of this description answers with
            raise WeightsError(f"{self.path}: {error}: export or train it again") from None

    def _decode(self, read: Sequence[_Read], values: dict[str, NDArray[Any]]) -> list[Prediction]:
        if self.spec.task == "detection":
            return self._detections(read, values)
        if self.spec.task == "segmentation":
            return self._segmentations(read, values)
        guesses = decode(values[self.spec.output], self.spec, self.asked.top or TOP)
        return [
            Prediction(one.path, Classification(one.path, top), thumbnail=one.thumbnail)
            for one, top in zip(read, guesses, strict=True)
        ]

    def _detections(self, read: Sequence[_Read], values: dict[str, NDArray[Any]]) -> list[Prediction]:
        from fusiform.tasks import detection  # as below: naming a photograph is not to wait for it

        found = detection.detect(
            values,
            self.spec,
            sizes=[one.size for one in read],
            score_threshold=detection.SCORE_THRESHOLD if self.asked.score is None else self.asked.score,
            iou_threshold=detection.IOU_THRESHOLD if self.asked.iou is None else self.asked.iou,
            limit=self.asked.limit or detection.MAX_BOXES,
        )
        return [
            Prediction(one.path, detections=detections, thumbnail=one.thumbnail)
            for one, detections in zip(read, found, strict=True)
        ]

    def _segmentations(self, read: Sequence[_Read], values: dict[str, NDArray[Any]]) -> list[Prediction]:
        from fusiform.tasks import segmentation

        answers = []
        (of_pixels,) = values.values()
        for one, scores in zip(read, of_pixels, strict=True):
            place = placement(one.size, self.spec.preprocess)
            mask = segmentation.decode(scores, self.spec, one.size, placement=place)
            answers.append(Prediction(one.path, segmentation=mask, thumbnail=one.thumbnail))
        return answers

    def _read(self, picture: Picture) -> _Read | Prediction:
        """The picture, ready for the engine; or the Prediction that says why not."""
        try:
            with one_picture():
                return self._see(picture)
        except ImageError as error:
            return Prediction(picture.path, error=str(error))
        except OSError as error:
            return Prediction(picture.path, error=f"{picture.path}: {error.strerror or error}")

    def _see(self, picture: Picture) -> _Read:
        preprocess, fast = self.spec.preprocess, self.fast
        source = picture.fetch()
        if isinstance(source, Image.Image):
            image = ImageOps.exif_transpose(source)
        else:
            # Where things are is told in the picture's own pixels, which one decoded smaller does not know.
            smaller = fast and self.spec.task == "classification"
            shorter_side = FAST_MARGIN * preprocess.resize if smaller else None
            image = read_image(source, name=picture.path, shorter_side=shorter_side)
        size, pixels = image.size, crop_pixels(image, preprocess, fast=fast)
        return _Read(picture.path, pixels, size, _thumbnail(image, self._side()) if picture.keep else None)

    def _side(self) -> int:
        if self.spec.task == "classification":
            return THUMBNAIL
        return ALONE if self.alone else DRAWN_THUMBNAIL


def _check_options(spec: ModelSpec, asked: _Asked) -> None:
    """UsageError for an option of another task."""
    for name, task in _TASKS.items():
        if getattr(asked, name) is not None and task != spec.task:
            raise UsageError(f"{name} is for {task}, and the model ({spec.name}) is for {spec.task}: leave {name} out")
    if spec.task == "detection" and spec.decoded:
        _check_decoded(spec, asked)


def _check_decoded(spec: ModelSpec, asked: _Asked) -> None:
    """UsageError for what a file that suppresses boxes itself can no longer do otherwise."""
    from fusiform.tasks.detection import EVALUATED_SCORE, IOU_THRESHOLD, MAX_BOXES

    inside = f"the file of {spec.name} decodes its boxes itself"
    instead = "take the model that it was exported from for others"
    if asked.score is not None and asked.score < EVALUATED_SCORE:
        raise UsageError(f"{inside}, down to a score of {EVALUATED_SCORE}, and score is {asked.score:g}: {instead}")
    if asked.iou is not None and asked.iou != IOU_THRESHOLD:
        raise UsageError(f"{inside}, with an iou of {IOU_THRESHOLD}: leave iou out, or {instead}")
    if asked.limit is not None and asked.limit > MAX_BOXES:
        raise UsageError(f"{inside}, up to {MAX_BOXES} of them, and limit is {asked.limit}: {instead}")


def _check_fit(spec: ModelSpec, path: Path) -> None:
    """SpecError for a detector or a segmenter that does not see all of a photograph."""
    fits = {"classification": ("crop", "stretch", "pad"), "detection": ("stretch",), "segmentation": ("stretch", "pad")}
    if spec.preprocess.fit not in fits[spec.task]:
        raise SpecError(
            f"{path}: its description says fit={spec.preprocess.fit}, and for {spec.task} it must be "
            f"{' or '.join(fits[spec.task])}, so that the network sees all of a photograph: write its file again"
        )


def _thumbnail(image: Image.Image, side: int) -> Image.Image:
    """The picture made smaller, to ``side`` pixels at most; it may be the given one, changed."""
    image = to_rgb(image)
    image.thumbnail((side, side))
    return image


def _flat(groups: Iterator[list[Prediction]]) -> Generator[Prediction, None, None]:
    try:
        for group in groups:
            yield from group
    finally:
        if isinstance(groups, Generator):
            groups.close()


def _tracked(predictions: Iterator[Prediction], total: int, show: Tracker) -> Generator[Prediction, None, None]:
    with show(total=total, label="predict", unit="images") as progress:
        for prediction in predictions:
            progress.advance(1)
            yield prediction


def _batches(pictures: Iterator[Picture], size: int) -> Iterator[list[Picture]]:
    while batch := list(islice(pictures, size)):
        yield batch
