"""From photographs, in files, folders, at addresses or in memory, to the names, boxes or masks of what they show.

The module is callable: ``fusiform.predict(...)`` is this module's ``predict``, whether or not the module was imported
under the same name before.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import threading
import types
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fusiform import engines
from fusiform.data.image import find_images, natural_key, read_image, to_rgb
from fusiform.data.preprocess import crop_pixels, placement
from fusiform.engines import Engine, EngineName
from fusiform.errors import ImageError, SpecError, UsageError
from fusiform.machine import usable_cores
from fusiform.spec import ModelSpec, Task
from fusiform.tasks.classification import Classification, Guess, decode, relabel

if TYPE_CHECKING:
    from fusiform.tasks.detection import Detections
    from fusiform.tasks.segmentation import SegmentationMap

Source = str | os.PathLike[str] | bytes | Image.Image

DOWNLOAD_LIMIT = 64 * 2**20
"""Bytes; an address that sends more is no photograph."""
DOWNLOAD_SECONDS = 60
STALL_SECONDS = 15
"""How long a download may take as a whole, and how long the server may send nothing."""
LOOK_AHEAD = 4
"""Groups a worker that may be read before their turn: enough to go on beside one slow picture, yet bounded."""
MASKS_AHEAD = 2
"""Batches of masks that may wait for their turn: each is as large as its photograph."""
GROUP = 8
"""Pictures that a worker takes through one stage after the other: enough to find its code in the cache again."""
FAST_MARGIN = 2
"""How much larger than needed a picture may be decoded with ``fast``: at 1, twice as many first answers change."""
SINGLE_PICTURE_THREADS = 4
"""More runtime threads than these do not make one small picture faster."""
TOP = 5
"""How many names a classifier gives if nothing else is asked for."""
THUMBNAIL = 220
"""The longer side, in pixels, above which a thumbnail is made smaller."""
DRAWN_THUMBNAIL = 400
"""The same for a picture that boxes or a mask are to be drawn on."""
ALONE = 1600
"""The same for one to be drawn on that is the only one."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one picture: its ``path`` and what the model's task is to say of it, or an ``error`` to show.

    Exactly one is there of ``classification``, ``detections``, ``segmentation`` and ``error``. Boxes and masks are in
    pixels of the upright picture. ``thumbnail`` is the picture itself, RGB, upright and at most ``THUMBNAIL`` pixels a
    side, where it was asked for; to draw boxes or masks on ``DRAWN_THUMBNAIL``, or ``ALONE`` where there is no other.
    """

    path: str
    classification: Classification | None = None
    error: str | None = None
    thumbnail: Image.Image | None = field(default=None, repr=False, compare=False)
    detections: Detections | None = None
    segmentation: SegmentationMap | None = None

    def __post_init__(self) -> None:
        if [self.classification, self.detections, self.segmentation, self.error].count(None) != 3:
            raise ValueError(f"{self.path}: a prediction is either an answer of one task or an error")

    @property
    def top(self) -> tuple[Guess, ...]:
        """A classifier's likeliest classes, likeliest first; empty where the picture could not be read."""
        return self.classification.top if self.classification else ()


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
    those of one class that share more than ``iou`` (0.6) only the surest; and at most ``limit`` (100). Detectors and
    segmenters decode JPEGs whole, also with ``fast``, to answer in their own pixels. A mask is as large as its
    photograph: ``predict_iter`` gives those of many pictures one after the other.

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

    pictures: Iterable[_Picture] = _find_pictures(sources)
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

    wanted = _Wanted(top, score, iou, limit, fast, batch, alone=len(first) == 1)

    def open_worker() -> _Worker:
        opened = engines.open_engine(model, engine=engine, threads=engine_threads, device=device)
        return _Worker(opened, labels, wanted)

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


class _Picture(NamedTuple):
    """A picture not yet read: the name to show for it, and what gives its file, bytes or image, or raises.

    ``keep`` asks for a thumbnail with the answer.
    """

    path: str
    fetch: Callable[[], Source]
    keep: bool = False


def stem_of(path: str) -> str:
    """What a file about the picture may be called, from its file or address, without an ending; never empty."""
    name = path
    if name.lower().startswith(("http://", "https://")):
        from urllib.parse import unquote, urlsplit

        try:
            name = unquote(urlsplit(name).path)
        except ValueError:  # an address of no known form
            name = ""
    # What some file system or other does not take, and the ends that Windows drops.
    stem = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", Path(name).stem).rstrip(" .")
    return "picture" if stem in ("", "-") else stem


class _Wanted(NamedTuple):
    """What is asked of every worker; ``alone`` says that there is one picture and no more."""

    top: int | None
    score: float | None
    iou: float | None
    limit: int | None
    fast: bool
    batch: int
    alone: bool


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

    def __init__(self, engine: Engine, labels: Sequence[str] | None, wanted: _Wanted) -> None:
        self.engine = engine
        self.wanted = wanted
        self.spec = engine.spec
        if labels is not None:
            self.spec = relabel(self.spec, tuple(labels))
            if self.spec.task == "detection":  # COCO's results go by the identifiers, whatever the classes are called
                self.spec = self.spec.replace(label_ids=engine.spec.label_ids)
        _check(self.spec, wanted)

    def answer(self, pictures: Sequence[_Picture]) -> list[Prediction]:
        """The answers for a group, in its order; the network sees ``batch`` of its pictures at a time."""
        results = [self._read(picture) for picture in pictures]
        read = [result for result in results if isinstance(result, _Read)]
        answers = iter(self._answer(read) if read else ())
        return [next(answers) if isinstance(result, _Read) else result for result in results]

    def _answer(self, read: Sequence[_Read]) -> list[Prediction]:
        size = self.wanted.batch
        runs = [
            self.engine.run(np.stack([one.pixels for one in read[i : i + size]])) for i in range(0, len(read), size)
        ]
        values = {name: np.concatenate([run[name] for run in runs]) for name in self.spec.answers}
        if self.spec.task == "detection":
            return self._detections(read, values)
        if self.spec.task == "segmentation":
            return self._segmentations(read, values)
        guesses = decode(values[self.spec.output], self.spec, self.wanted.top or TOP)
        return [
            Prediction(one.path, Classification(one.path, top), thumbnail=one.thumbnail)
            for one, top in zip(read, guesses, strict=True)
        ]

    def _detections(self, read: Sequence[_Read], values: dict[str, NDArray[Any]]) -> list[Prediction]:
        from fusiform.tasks import detection  # as below: naming a photograph is not to wait for it

        found = detection.decode(
            values["logits"],
            values["codes"],
            self.spec,
            sizes=[one.size for one in read],
            score_threshold=detection.SCORE_THRESHOLD if self.wanted.score is None else self.wanted.score,
            iou_threshold=detection.IOU_THRESHOLD if self.wanted.iou is None else self.wanted.iou,
            limit=self.wanted.limit or detection.MAX_BOXES,
        )
        return [
            Prediction(one.path, detections=detections, thumbnail=one.thumbnail)
            for one, detections in zip(read, found, strict=True)
        ]

    def _segmentations(self, read: Sequence[_Read], values: dict[str, NDArray[Any]]) -> list[Prediction]:
        from fusiform.tasks import segmentation

        answers = []
        for one, logits in zip(read, values["logits"], strict=True):
            place = placement(one.size, self.spec.preprocess)
            mask = segmentation.decode(logits, self.spec, one.size, placement=place)
            answers.append(Prediction(one.path, segmentation=mask, thumbnail=one.thumbnail))
        return answers

    def _read(self, picture: _Picture) -> _Read | Prediction:
        """The picture, ready for the engine; or the Prediction that says why not."""
        preprocess, fast = self.spec.preprocess, self.wanted.fast
        try:
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
        except ImageError as error:
            return Prediction(picture.path, error=str(error))
        except OSError as error:
            return Prediction(picture.path, error=f"{picture.path}: {error.strerror or error}")

    def _side(self) -> int:
        if self.spec.task == "classification":
            return THUMBNAIL
        return ALONE if self.wanted.alone else DRAWN_THUMBNAIL


def _check(spec: ModelSpec, wanted: _Wanted) -> None:
    """UsageError for an option of another task, SpecError for a model that does not see all of a photograph."""
    for name, task in _TASKS.items():
        if getattr(wanted, name) is not None and task != spec.task:
            raise UsageError(f"{name} is for {task}, and the model ({spec.name}) is for {spec.task}: leave {name} out")
    fits = {"classification": ("crop", "stretch", "pad"), "detection": ("stretch",), "segmentation": ("stretch", "pad")}
    if spec.preprocess.fit not in fits[spec.task]:
        raise SpecError(
            f"{spec.name}: its description says fit={spec.preprocess.fit}, and for {spec.task} it must be "
            f"{' or '.join(fits[spec.task])}, so that the network sees all of a photograph: write its file again"
        )


def _thumbnail(image: Image.Image, side: int) -> Image.Image:
    """The picture made smaller, to ``side`` pixels at most; it may be the given one, changed."""
    image = to_rgb(image)
    image.thumbnail((side, side))
    return image


def _in_parallel(
    batches: Iterator[list[_Picture]], open_workers: Sequence[Callable[[], _Worker]], ahead: int
) -> Generator[Prediction, None, None]:
    """Answer batches in one thread a worker and yield the answers in the order of the batches.

    So many batches a worker may be read ``ahead`` of their turn. Pillow and the runtimes release the interpreter's
    lock, so threads use all cores.
    """
    todo: SimpleQueue[tuple[int, list[_Picture]] | None] = SimpleQueue()
    done: SimpleQueue[tuple[int, list[Prediction]] | BaseException] = SimpleQueue()
    stopped = threading.Event()

    def work(open_worker: Callable[[], _Worker]) -> None:
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


def _batches(pictures: Iterator[_Picture], size: int) -> Iterator[list[_Picture]]:
    while batch := list(islice(pictures, size)):
        yield batch


def _find_pictures(sources: Source | Iterable[Source]) -> Iterator[_Picture]:
    if isinstance(sources, (str, os.PathLike, bytes, Image.Image)):
        sources = (sources,)
    for source in sources:
        if isinstance(source, bytes):
            yield _Picture("<bytes>", partial(_same, source))
        elif isinstance(source, Image.Image):
            yield _Picture(str(getattr(source, "filename", "")) or "<image>", partial(_same, source))
        else:
            yield from _find_named(os.fspath(source))


def _find_named(name: str) -> Iterator[_Picture]:
    if name == "-":
        # Here and not in a worker, so that Ctrl-C can interrupt the wait for input; closed, it is None.
        yield _Picture(name, partial(_same, sys.stdin.buffer.read() if sys.stdin else b""))
    elif name.lower().startswith(("http://", "https://")):
        yield _Picture(name, partial(_download, name))
    elif os.path.isdir(name):  # noqa: PTH112  # Path("./a") would not show the name as it was given
        yield from _find_in_folder(name)
    elif os.path.exists(name) or not any(c in name for c in "*?["):  # noqa: PTH110  # as above
        yield _Picture(name, partial(_same, name))
    else:
        yield from _find_matches(name)


def _find_in_folder(folder: str) -> Iterator[_Picture]:
    unlisted: list[str] = []
    try:
        files = find_images(Path(folder), unlisted=unlisted)
    except OSError as error:
        yield _Picture(folder, partial(_fail, str(error)))
        return
    for message in unlisted:
        yield _Picture(folder, partial(_fail, message))
    if not files and not unlisted:
        yield _Picture(folder, partial(_fail, f"{folder}: no pictures in this folder"))
    for path in files:
        yield _Picture(str(path), partial(_same, path))


def _find_matches(pattern: str) -> Iterator[_Picture]:
    import glob

    matches = sorted(glob.glob(pattern, recursive=True), key=natural_key)  # noqa: PTH207  # the pattern may be absolute
    if not matches:
        yield _Picture(pattern, partial(_fail, f"{pattern}: no file matches this pattern"))
    for match in matches:
        if os.path.isdir(match):  # noqa: PTH112
            yield from _find_in_folder(match)
        else:
            yield _Picture(match, partial(_same, match))


def _same(source: Source) -> Source:
    return source


def _fail(message: str) -> Source:
    raise ImageError(message)


def _download(address: str) -> bytes:
    """The bytes at an http(s) address; whatever goes wrong on the way is an ImageError that names the address."""
    # Imported only for addresses: it takes longer than naming a picture.
    import time
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.parse import quote, urlsplit, urlunsplit
    from urllib.request import Request, urlopen

    if os.environ.get("FUSIFORM_OFFLINE", "0") not in ("", "0"):
        raise ImageError(f"{address}: not fetched, because FUSIFORM_OFFLINE is set")
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    received = bytearray()
    try:
        parts = urlsplit(address)
        # Addresses are often pasted with the spaces and letters that a browser shows.
        path, query = (quote(part, safe="/%:@!$&'()*+,;=?~") for part in (parts.path, parts.query))
        encoded = urlunsplit((parts.scheme, parts.netloc, path, query, ""))
        with urlopen(Request(encoded, headers={"User-Agent": "fusiform"}), timeout=STALL_SECONDS) as response:
            while piece := response.read1(2**16):
                received += piece
                if len(received) > DOWNLOAD_LIMIT:
                    raise ImageError(f"{address}: larger than {DOWNLOAD_LIMIT >> 20} MiB; download and shrink it first")
                if time.monotonic() > deadline:
                    raise ImageError(f"{address}: not complete after {DOWNLOAD_SECONDS} seconds; try again later")
            expected = response.headers.get("Content-Length")
    except HTTPError as error:
        with error:
            raise ImageError(f"{address}: the server answered {error.code} {error.reason}: check the address") from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ImageError(f"{address}: cannot be fetched: {reason or type(error).__name__}") from None
    if expected is not None and expected.isdecimal() and len(received) < int(expected):
        raise ImageError(f"{address}: broke off after {len(received)} of {expected} bytes; try again")
    return bytes(received)


class _CallableModule(types.ModuleType):
    __call__ = staticmethod(predict)
    __signature__ = inspect.signature(predict)


# Importing this module binds it as ``fusiform.predict``, over any function of that name: so the module is the function.
sys.modules[__name__].__class__ = _CallableModule
