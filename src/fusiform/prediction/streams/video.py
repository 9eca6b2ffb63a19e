"""From a video, a camera or a stream to what a model says of its frames."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from fusiform.data.image import to_rgb
from fusiform.engines import EngineName
from fusiform.engines.crew import in_order
from fusiform.errors import ImageError, UsageError
from fusiform.machine import usable_cores
from fusiform.prediction.predictor import SINGLE_PICTURE_THREADS, Predictor
from fusiform.prediction.results import Prediction
from fusiform.prediction.sources import Content, Picture
from fusiform.prediction.streams.frames import Frame, FramePrediction, Pick
from fusiform.prediction.streams.saving import VideoFile, check_place, drawn
from fusiform.prediction.streams.sources import Opened, open_source
from fusiform.prediction.worker import Asked, check_asked
from fusiform.spec import Colours, Fit, ModelSpec
from fusiform.zoo.model import Model, open_model

RECONNECT_SECONDS = 60.0
AHEAD = 2
"""Groups of frames a thread that may be worked on before their turn."""
HELD_BYTES = 512 * 2**20
"""Of frames that are worked on at the same time; large ones get fewer threads."""


def predict_video(
    source: str | os.PathLike[str],
    model: str | os.PathLike[str] | Model = "mobilenet_v2",
    *,
    every: int | None = None,
    fps: float | None = None,
    reconnect: float = RECONNECT_SECONDS,
    save: str | os.PathLike[str] | None = None,
    top: int | None = None,
    score: float | None = None,
    iou: float | None = None,
    limit: int | None = None,
    certain: float | None = None,
    engine: EngineName | None = None,
    device: str = "auto",
    threads: int | None = None,
    batch: int = 1,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    tiles: int | None = None,
    overlap: float = 0.2,
    mean: Colours | None = None,
    std: Colours | None = None,
    resize: int | None = None,
    crop: int | None = None,
    fit: Fit | None = None,
) -> FrameStream:
    """Classify, detect in or segment the frames of a video, a camera or a network stream, each as its turn comes.

    Of a file every frame is answered, in order. A live source (a camera, a network stream, a pipe) does not wait: when
    an answer is there the newest frame is taken next, and those that came between are dropped and counted, so that
    answers never lag behind. Frames are upright, whatever rotation the file asks for. Needs the extra ``video``, but
    for JPEG pictures on standard input and over http.

    Args:
        source: A video file, a device of Linux such as ``/dev/video0``, an address (rtsp, http, https, rtmp, srt, udp,
            rtp, tcp), or ``-`` for JPEG pictures one after the other on standard input.
        model: As for ``predict``, like all arguments below that are not described.
        every: Answer each so many-th frame, from the first on.
        fps: Answer so many frames a second of the video, at most all.
        reconnect: How many seconds to try to connect again to a live source that was lost; 0 gives it up.
        save: Draw the answered frames into this video (.mp4, .mov, .mkv), at their own times and without sound. It is
            complete when the iterator ends or is closed.
        top: See ``predict``.
        score: See ``predict``.
        iou: See ``predict``.
        limit: See ``predict``.
        certain: See ``predict``.
        engine: See ``predict``.
        device: See ``predict``.
        threads: See ``predict``.
        batch: See ``predict``; of a live source frames go through the network one by one.
        labels: See ``predict``.
        tiles: See ``predict``.
        overlap: See ``predict``.
        mean: See ``fusiform.open_model``.
        std: See ``fusiform.open_model``.
        resize: See ``fusiform.open_model``.
        crop: See ``fusiform.open_model``.
        fit: See ``fusiform.open_model``.

    Returns:
        An iterator of answers, as ``predict``'s with ``frame``, ``seconds``, ``dropped`` and ``age_ms`` beside
        them; ``thumbnail`` is the frame itself. What is damaged in a file, or a connection that was lost, is an answer
        with an ``error``. ``close`` ends it before its end.

    Raises:
        UsageError: For arguments that do not fit.
        FusiformError: For a model that cannot be opened, or a source that is not there; with the first answer for one
            that is no video.

    Example:
        >>> import fusiform
        >>> for answer in fusiform.predict_video("examples/cat.jpg", top=1):  # a video of one frame
        ...     print(answer.frame, answer.seconds, answer.top[0].name)
        0 0.0 Egyptian cat

    """
    pick = Pick(every, fps)
    if not (reconnect >= 0 and math.isfinite(reconnect)):
        raise UsageError(f"reconnect must be 0 seconds or more, got {reconnect:g}")
    if save is not None:
        check_place(save)
    opened = open_model(model, mean=mean, std=std, resize=resize, crop=crop, fit=fit)
    predictor = Predictor(
        opened, engine=engine, device=device, threads=threads, batch=batch, labels=labels, tiles=tiles, overlap=overlap
    )
    asked = Asked(top, score, iou, limit, certain)
    check_asked(predictor.spec, asked)
    frames = open_source(source, pick, reconnect=reconnect)
    work = _Work(predictor, asked, frames.shown, cores=threads or usable_cores(), batch=batch, draw=save is not None)
    return FrameStream(work, frames, None if save is None else Path(save))


class FrameStream(Iterator[FramePrediction]):
    """The answers for the frames of a video; ``spec`` is the model's description, with the labels that were given.

    ``dropped`` is how many frames of a live source were not answered so far, ``lost`` how often it was lost, and
    ``notes`` what there is to say of the video that was saved.
    """

    def __init__(self, work: _Work, source: Opened, save: Path | None) -> None:
        self.spec: ModelSpec = work.predictor.spec
        self.notes: list[str] = []
        self.live = source.newest is not None
        """Whether frames come by themselves, so that those that nobody has time for are dropped."""
        self._newest = source.newest
        self._answers = self._saved(work.answers(source), save)

    @property
    def dropped(self) -> int:
        return self._newest.dropped if self._newest else 0

    @property
    def lost(self) -> int:
        return self._newest.lost if self._newest else 0

    def __next__(self) -> FramePrediction:
        return next(self._answers)

    def close(self) -> None:
        """Stop before the end, and complete the video that is saved."""
        self._answers.close()

    def _saved(
        self, answers: Generator[_Answered, None, None], save: Path | None
    ) -> Generator[FramePrediction, None, None]:
        file = None if save is None else VideoFile(save)
        try:
            for answered in answers:
                if file is not None and answered.drawn is not None:
                    file.add(answered.drawn, answered.prediction.seconds or 0.0)
                yield answered.prediction
        finally:
            answers.close()
            if file is not None:
                self.notes += file.close()


class _Answered(NamedTuple):
    """An answer, and its frame with it drawn on where it is to be saved."""

    prediction: FramePrediction
    drawn: Image.Image | None = None


class _Work:
    """How frames are answered: several at a time where they wait, one after the other where they do not."""

    def __init__(self, predictor: Predictor, asked: Asked, shown: str, *, cores: int, batch: int, draw: bool) -> None:
        self.predictor, self.asked, self.shown = predictor, asked, shown
        self.cores, self.batch, self.draw = cores, batch, draw

    def answers(self, source: Opened) -> Generator[_Answered, None, None]:
        """The answers in the frames' order."""
        if source.newest is not None:
            one = partial(self.answer, threads=min(self.cores, SINGLE_PICTURE_THREADS))
            for frame in source.frames:
                yield from one([frame])
            return
        frames = iter(source.frames)
        first = list(islice(frames, 1))
        workers = max(1, min(self.cores, HELD_BYTES // (AHEAD * self.batch * _bytes_of(first))))
        groups = _groups(chain(first, frames), self.batch)
        each = partial(self.answer, threads=max(1, self.cores // workers))
        done = in_order(groups, each, workers=workers, ahead=AHEAD)
        try:
            for group in done:
                yield from group
        finally:
            done.close()

    def answer(self, frames: Sequence[Frame], *, threads: int) -> list[_Answered]:
        """The answers for a group, in its order, those with errors among them."""
        pictures = [_picture_of(frame) for frame in frames]
        read = [Picture(self.shown, partial(_same, picture)) for picture in pictures if not isinstance(picture, str)]
        given = iter(self.predictor.answer(read, asked=self.asked, threads=threads, alone=True) if read else ())
        return [
            _Answered(_placed(frame, self.shown, error=picture))
            if isinstance(picture, str)
            else self._answered(frame, picture, next(given))
            for frame, picture in zip(frames, pictures, strict=True)
        ]

    def _answered(self, frame: Frame, picture: Image.Image, answer: Prediction) -> _Answered:
        prediction = _placed(frame, self.shown, answer=answer, picture=picture)
        if self.draw and answer.error is None:
            return _Answered(prediction, drawn(picture, answer))
        return _Answered(prediction)


def _placed(
    frame: Frame,
    shown: str,
    *,
    answer: Prediction | None = None,
    picture: Image.Image | None = None,
    error: str | None = None,
) -> FramePrediction:
    age_ms = None if frame.arrived is None else 1000 * (time.monotonic() - frame.arrived)
    return FramePrediction(
        shown,
        answer.classification if answer else None,
        answer.error if answer else error,
        picture,
        answer.detections if answer else None,
        answer.segmentation if answer else None,
        frame=frame.number,
        seconds=frame.seconds,
        dropped=frame.dropped,
        age_ms=age_ms,
    )


def _picture_of(frame: Frame) -> Image.Image | str:
    """The frame's picture, or what is wrong with it."""
    if frame.read is None:
        return frame.error or ""
    try:
        return to_rgb(frame.read())
    except ImageError as error:
        return str(error)


def _same(picture: Image.Image) -> Content:
    return picture


def _bytes_of(first: Sequence[Frame]) -> int:
    """What a frame takes as RGB, of the first one; a megapixel where that cannot be read."""
    picture = _picture_of(first[0]) if first else ""
    return 3 * 2**20 if isinstance(picture, str) else 3 * picture.width * picture.height


def _groups(frames: Iterator[Frame], size: int) -> Iterator[list[Frame]]:
    while group := list(islice(frames, size)):
        yield group
