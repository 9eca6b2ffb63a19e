"""One engine and the way from pictures to answers through it: what prediction, a server and others do alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from PIL import Image

from fusiform.data.image import read_image, to_rgb
from fusiform.data.limits import one_picture
from fusiform.data.preprocess import placement
from fusiform.engines import Engine
from fusiform.engines.native.resize import crop_pixels
from fusiform.errors import ImageError, SpecError, UsageError, WeightsError
from fusiform.prediction.answer import ALONE, DRAWN_THUMBNAIL, THUMBNAIL, TOP
from fusiform.prediction.results import Prediction
from fusiform.prediction.sources import Picture
from fusiform.spec import FEATURES, ModelSpec, Task
from fusiform.tasks.classification import Classification, Guess, decode, guesses, to_probabilities

if TYPE_CHECKING:  # a photograph is named in a fraction of the time that numpy's import takes
    import numpy as np
    from numpy.typing import NDArray

    from fusiform.prediction.kept import Keeper

FAST_MARGIN = 2
"""How much larger than needed a picture may be decoded with ``fast``: at 1, twice as many first answers change."""


class Asked(NamedTuple):
    """The options of one question; None is the usual value of each, see ``fusiform.predict``."""

    top: int | None = None
    score: float | None = None
    iou: float | None = None
    limit: int | None = None
    certain: float | None = None


# The options of one task alone.
_TASKS: dict[str, Task] = {
    "top": "classification",
    "certain": "classification",
    "score": "detection",
    "iou": "detection",
    "limit": "detection",
}


class Read(NamedTuple):
    """A picture that was read: its pixels as the engine takes them, and its size (width, height) when upright.

    Those are in bytes for a worker that asks its engine in plain numbers. ``looks`` are measured where a sketch is to
    keep the picture's.
    """

    path: str
    pixels: NDArray[np.uint8] | bytearray
    size: tuple[int, int]
    thumbnail: Image.Image | None
    looks: NDArray[np.float32] | None = None


class Worker:
    """One engine and the way from pictures to answers through it; serves one thread.

    ``path`` is the model's file, for messages; the network sees ``batch`` pictures at a time; ``alone`` says that
    thumbnails are of a picture beside no other. A picture of more than ``max_pixels`` is not decoded. With
    ``features`` the answers bring a classifier's features along, which the engine has to answer. A ``keeper`` is asked
    of which pictures the answers are to bring a row for its sketch.
    """

    keeper: Keeper | None = None

    def __init__(
        self,
        engine: Engine,
        spec: ModelSpec,
        path: Path,
        *,
        fast: bool = False,
        batch: int = 1,
        alone: bool = False,
        max_pixels: int | None = None,
        features: bool = False,
    ) -> None:
        self.engine, self.path = engine, path
        self.fast, self.batch, self.alone, self.max_pixels = fast, batch, alone, max_pixels
        # An engine that the file was not made for runs its weights, without a softmax at their end.
        output = engine.spec.output
        self.spec = spec if spec.output == output else spec.replace(output=output)
        # Those that the engine answers are taken; what tells unknown images needs them, whoever asked for them.
        self.features = features
        if self.spec.features != engine.spec.features:
            self.spec = self.spec.replace(features=engine.spec.features)
        self._reader = None
        if spec.certainty is not None:
            from fusiform.calibration.answer import Reader  # only what is calibrated is to wait for it

            self._reader = Reader(spec.certainty)

    def answer(self, pictures: Sequence[Picture], asked: Asked) -> list[Prediction]:
        """The answers for a group, in its order, each with what is wrong with its picture, if anything is.

        Raises WeightsError where the model breaks off or answers with what no network of its description does.
        """
        return self.infer([self.read(picture) for picture in pictures], asked)

    def read(self, picture: Picture) -> Read | Prediction:
        """The picture, ready for the engine; or the Prediction that says why not."""
        try:
            with one_picture():
                return self._see(picture)
        except ImageError as error:
            return Prediction(picture.path, error=str(error))
        except OSError as error:
            return Prediction(picture.path, error=f"{picture.path}: {error.strerror or error}")

    def infer(self, results: Sequence[Read | Prediction], asked: Asked) -> list[Prediction]:
        """The answers for what ``read`` gave of several pictures, in their order; raises what ``answer`` does."""
        read = [result for result in results if isinstance(result, Read)]
        answers = iter(self._answer(read, asked) if read else ())
        return [next(answers) if isinstance(result, Read) else result for result in results]

    def _answer(self, read: Sequence[Read], asked: Asked) -> list[Prediction]:
        import numpy as np

        size = self.batch
        runs = [
            self.engine.run(np.stack([one.pixels for one in read[i : i + size]])) for i in range(0, len(read), size)
        ]
        values = {name: np.concatenate([run[name] for run in runs]) for name in self.spec.answers}
        try:
            return self._decode(read, values, asked)
        except ValueError as error:  # numbers that no network of this description answers with
            raise WeightsError(f"{self.path}: {error}: export or train it again") from None

    def _decode(self, read: Sequence[Read], values: dict[str, NDArray[Any]], asked: Asked) -> list[Prediction]:
        if self.spec.task == "detection":
            return self._detections(read, values, asked)
        if self.spec.task == "segmentation":
            return self._segmentations(read, values)
        named = self._named(values, asked)
        features = values[FEATURES] if self.features else [None] * len(read)
        answers = [
            Prediction(one.path, replace(found, path=one.path), thumbnail=one.thumbnail, features=row)
            for one, found, row in zip(read, named, features, strict=True)
        ]
        if self.keeper is None or self._reader is None:
            return answers
        measured = [k for k, one in enumerate(read) if one.looks is not None]
        if measured:
            import numpy as np

            probabilities = to_probabilities(values[self.spec.output][measured], self.spec)
            looks = np.array([read[k].looks for k in measured])
            rows = self._reader.rows(looks, probabilities, values[FEATURES][measured])
            for k, row in zip(measured, rows, strict=True):
                answers[k] = replace(answers[k], row=row)
        return answers

    def _named(self, values: dict[str, NDArray[Any]], asked: Asked) -> list[Classification]:
        """A classifier's answers; a calibrated one's with a set of names, and with what is told of the unknown."""
        tops = decode(values[self.spec.output], self.spec, asked.top or TOP)
        if self._reader is None:
            return [Classification("", top) for top in tops]
        probabilities = to_probabilities(values[self.spec.output], self.spec)
        certain = self._reader.certainty.check_share(asked.certain)
        said = self._reader.read(probabilities, values.get(FEATURES), certain)
        found = [
            Classification("", top, guesses(row, self.spec, inside), p_known, certain)
            for top, row, inside, p_known in zip(tops, probabilities, said.sets, said.p_known, strict=True)
        ]
        decision = self._reader.certainty.decision
        if decision is None:
            return found
        decided = self._reader.decided(probabilities)
        return [
            _ruled(each, decision.rule, guesses(row, self.spec, index))
            for each, row, index in zip(found, probabilities, decided, strict=True)
        ]

    def _detections(self, read: Sequence[Read], values: dict[str, NDArray[Any]], asked: Asked) -> list[Prediction]:
        from fusiform.tasks import detection  # as below: naming a photograph is not to wait for it

        found = detection.detect(
            values,
            self.spec,
            sizes=[one.size for one in read],
            score_threshold=detection.SCORE_THRESHOLD if asked.score is None else asked.score,
            iou_threshold=detection.IOU_THRESHOLD if asked.iou is None else asked.iou,
            limit=asked.limit or detection.MAX_BOXES,
        )
        return [
            Prediction(one.path, detections=detections, thumbnail=one.thumbnail)
            for one, detections in zip(read, found, strict=True)
        ]

    def _segmentations(self, read: Sequence[Read], values: dict[str, NDArray[Any]]) -> list[Prediction]:
        from fusiform.tasks import segmentation

        answers = []
        (of_pixels,) = values.values()
        for one, scores in zip(read, of_pixels, strict=True):
            place = placement(one.size, self.spec.preprocess)
            mask = segmentation.decode(scores, self.spec, one.size, placement=place)
            answers.append(Prediction(one.path, segmentation=mask, thumbnail=one.thumbnail))
        return answers

    def open(self, picture: Picture) -> Image.Image:
        """The picture, upright, decoded smaller where the model does not need more; raises ImageError."""
        source = picture.fetch()
        if isinstance(source, Image.Image):
            from PIL import ImageOps  # only what was opened before is to wait for it

            return ImageOps.exif_transpose(source)
        # Where things are is told in the picture's own pixels, which one decoded smaller does not know.
        smaller = self.fast and self.spec.task == "classification"
        shorter_side = FAST_MARGIN * self.spec.preprocess.resize if smaller else None
        return read_image(source, name=picture.path, shorter_side=shorter_side, max_pixels=self.max_pixels)

    def thumbnail(self, image: Image.Image) -> Image.Image:
        """The picture to show with the answer; it may be the given one, changed."""
        return _thumbnail(image, self._side())

    def _see(self, picture: Picture) -> Read:
        image = self.open(picture)
        size, pixels = image.size, crop_pixels(image, self.spec.preprocess, fast=self.fast)
        looks = None
        if self.keeper is not None and self.keeper.wants():
            from fusiform.data.looks import measure, rgb  # only what is kept is to wait for it

            looks = measure(image, rgb(pixels, self.spec.preprocess))
        return Read(picture.path, pixels, size, self.thumbnail(image) if picture.keep else None, looks)

    def _side(self) -> int:
        if self.spec.task == "classification":
            return THUMBNAIL
        return ALONE if self.alone else DRAWN_THUMBNAIL


def _ruled(found: Classification, rule: Literal["thresholds", "costs"], given: Sequence[Guess]) -> Classification:
    """The answer of a model that decides by a rule: the class that was given, if one was, is the first of all."""
    if not given:
        return replace(found, rule=rule)
    (decided,) = given
    others = [guess for guess in found.top if guess.index != decided.index]
    return replace(found, top=(decided, *others)[: len(found.top)], rule=rule, decided=decided)


def check_asked(spec: ModelSpec, asked: Asked) -> None:
    """UsageError for an option that is out of range, or of another task than the model's."""
    for name, count in (("top", asked.top), ("limit", asked.limit)):
        if count is not None and count < 1:
            raise UsageError(f"{name} must be at least 1, got {count}")
    for name, share in (("score", asked.score), ("iou", asked.iou)):
        if share is not None and not 0 <= share <= 1:
            raise UsageError(f"{name} must be from 0 to 1, got {share}")
    for name, task in _TASKS.items():
        if getattr(asked, name) is not None and task != spec.task:
            raise UsageError(f"{name} is for {task}, and the model ({spec.name}) is for {spec.task}: leave {name} out")
    if asked.certain is not None:
        if spec.certainty is None:
            raise UsageError(
                f"certain is for calibrated models, and this one ({spec.name}) is none: fusiform evaluate MODEL DATA "
                "--calibrate FILE writes one"
            )
        try:
            spec.certainty.check_share(asked.certain)
        except ValueError as error:
            raise UsageError(str(error)) from None
    if spec.task == "detection" and spec.decoded:
        _check_decoded(spec, asked)


def _check_decoded(spec: ModelSpec, asked: Asked) -> None:
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


def check_fit(spec: ModelSpec, path: Path) -> None:
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
