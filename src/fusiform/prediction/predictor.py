"""One engine and the way from pictures to answers through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fusiform.data.image import read_image, to_rgb
from fusiform.data.preprocess import crop_pixels, placement
from fusiform.engines import Engine
from fusiform.errors import ImageError, SpecError, UsageError
from fusiform.prediction.answer import DRAWN_THUMBNAIL, THUMBNAIL, TOP, Prediction
from fusiform.prediction.sources import Picture
from fusiform.spec import ModelSpec, Task
from fusiform.tasks.classification import Classification, decode, relabel

FAST_MARGIN = 2
"""How much larger than needed a picture may be decoded with ``fast``: at 1, twice as many first answers change."""


SINGLE_PICTURE_THREADS = 4
"""More runtime threads than these do not make one small picture faster."""


ALONE = 1600
"""The same for one to be drawn on that is the only one."""


class Wanted(NamedTuple):
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


class Worker:
    """One engine and the way from pictures to answers through it; serves one thread."""

    def __init__(self, engine: Engine, labels: Sequence[str] | None, wanted: Wanted) -> None:
        self.engine = engine
        self.wanted = wanted
        self.spec = engine.spec
        if labels is not None:
            self.spec = relabel(self.spec, tuple(labels))
            if self.spec.task == "detection":  # COCO's results go by the identifiers, whatever the classes are called
                self.spec = self.spec.replace(label_ids=engine.spec.label_ids)
        _check(self.spec, wanted)

    def answer(self, pictures: Sequence[Picture]) -> list[Prediction]:
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

    def _read(self, picture: Picture) -> _Read | Prediction:
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


def _check(spec: ModelSpec, wanted: Wanted) -> None:
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
