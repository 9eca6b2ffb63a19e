"""Whether a model file gives the answers of the model that it was made from, whatever made the file.

The file is taken as its users will take it: in its own runtime, with the preprocessing, labels and padding that it
states itself. The reference is the network in PyTorch, with its own description.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.annotated import AnnotatedSample
from fusiform.data.dataset import Sample
from fusiform.data.image import find_images
from fusiform.data.labels import bind_classes
from fusiform.data.layouts import read_dataset
from fusiform.data.preprocess import crop_pixels
from fusiform.engines import Engine, open_engine, own_engine
from fusiform.errors import FusiformError, ImageError, SpecError, UsageError, WeightsError
from fusiform.evaluate.boxes import boxes_within
from fusiform.evaluate.masks import read_truth
from fusiform.export.decoded import Boxes, Masks, Truth
from fusiform.export.foreign import ForeignEngine, is_foreign, open_foreign
from fusiform.export.parity import (
    ANSWERS,
    MAX_DROP,
    MIN_AGREEMENT,
    TOGETHER,
    Comparison,
    Parity,
    find_failures,
)
from fusiform.export.pictures import HELD_OUT, read_pictures
from fusiform.export.stored import stored_precision
from fusiform.export.targets import TARGETS, TargetName
from fusiform.graph.build import build_graph
from fusiform.progress import Tracker, silent
from fusiform.report import printable
from fusiform.spec import ModelSpec
from fusiform.zoo.model import PROGRAMS, FileFormat, Model, open_model

MADE = 12
"""Smooth made pictures, and pictures of noise, beside the photographs."""
EXPLAINED = 1.5
"""How many times the error of a plain quantisation of the reference an int8 file may have."""
EXPLAINED_ELSEWHERE = 2.0
"""The same for a file that another tool quantised: with a scale a tensor, or ranges from extremes."""
MEASURED = 64
"""Pictures on which the reference is quantised to see what rounding explains."""

SHOWN_TOGETHER = 24
"""Photographs that are shown in such batches too."""

_GROUP = 4 * TOGETHER
_SMALLEST_PROBABILITY = 1e-6
_HALF_A_GREY = 0.5 / 255

Answers = Mapping[str, NDArray[np.float64]]
"""Answers (pictures, ...) by their names, in a form in which both sides' can be compared."""


def verify_file(
    file: str | os.PathLike[str],
    *,
    against: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    max_drop: float | None = None,
    tolerance: float | None = None,
    threads: int | None = None,
    progress: Tracker = silent,
) -> Parity:
    """Verify a model file of any origin against a model, a name or a file of weights.

    ``data`` is a data set that ``read_dataset`` knows, for a detector or a segmenter one in COCO's or Pascal VOC's
    layout, or any folder of pictures; its test split if it has one. ``tolerance`` bounds the largest error of a float
    file (by default its kind's own), or the error of an int8 one (by default what rounding explains); ``max_drop`` is
    by default the task's own. A LiteRT or ONNX file of another tool's borrows a classifier's labels and preprocessing.
    Raises what ``verify``, ``open_model`` and ``read_dataset`` raise, and UsageError for pictures that are not there.
    """
    for name, value in (("max_drop", max_drop), ("tolerance", tolerance)):
        if value is not None and not (np.isfinite(value) and value >= 0):
            raise UsageError(f"{name} must be a number, 0 or more, got {value}")
    reference = open_model(against)
    candidate = open_foreign(Path(file), reference.spec) or open_model(file)
    samples: Sequence[Sample | AnnotatedSample] = ()
    labelled = False
    notes: Sequence[str] = ()
    mask_labels: Sequence[int] | None = None
    if data is not None and reference.spec.task == "classification":
        samples, labelled, notes = _read_samples(data, reference.spec)
    elif data is not None:
        samples, labelled, notes, mask_labels = read_pictures(data, reference)
    precision = stored_precision(candidate)
    if precision != "int8" and tolerance is None:
        target = TARGETS[_TARGETS.get(candidate.format, "onnx")]
        tolerance = target.allowed(precision, reference.spec.task)
    parity = verify(
        candidate,
        reference,
        samples,
        labelled=labelled,
        mask_labels=mask_labels,
        tolerance=None if precision == "int8" else tolerance,
        max_drop=max_drop,
        max_error=tolerance if precision == "int8" else None,
        threads=threads,
        progress=progress,
    )
    return dataclasses.replace(parity, notes=(*notes, *parity.notes))


def verify(
    candidate: Model,
    reference: Model,
    samples: Sequence[Sample | AnnotatedSample],
    *,
    labelled: bool,
    mask_labels: Sequence[int] | None = None,
    tolerance: float | None,
    max_drop: float | None = None,
    min_agreement: float | None = None,
    max_error: float | None = None,
    pictures: int = 200,
    threads: int | None = None,
    progress: Tracker = silent,
) -> Parity:
    """Hold a model file's answers against those of the model that it was made from.

    Every picture goes through the candidate's own preprocessing into its own runtime, and through the reference's into
    PyTorch: up to ``pictures`` of ``samples``, taken evenly, whose labels are the reference's outputs if they are
    ``labelled``; smooth made pictures; and noise; each alone and three together. What the files say of themselves has
    to be the same too, as far as it has to do with use. ``samples`` are annotated ones for detectors and segmenters;
    ``mask_labels`` are the reference's outputs that the values of their masks stand for, by default the same.

    A float file, with a ``tolerance``, passes if no number that it answers with differs by more than that share of the
    picture's largest (logits and codes apart), and if what users see is the same: a classifier's likeliest class
    wherever the reference is surer than the tolerance; a detector's boxes scored above 0.3, each of which the other
    side has too with an intersection over union of 0.95, by the rules of ``decoded.Boxes``; a segmenter's masks, but
    for a share of the pixels as large as the tolerance.

    An int8 file, with None, passes if on the photographs (the made pictures, if there are none) its ``error`` is no
    more than ``max_error``, by default one and a half times what a plain quantisation of the reference makes (twice,
    if another tool made the file); if ``min_agreement`` (0.85) of what users see is the same: of the pictures'
    classes, of the boxes with an intersection over union of 0.5, of the pixels; and if, labelled, its top-1, mAP or
    mIoU is at most ``max_drop`` percentage points lower, by default 1, for detectors and segmenters 2. Of these two
    only the drop counts for detectors and segmenters where it is known. The drop itself decides, and its interval over
    the pictures says how far it might be off. Answers that are not finite fail.

    ``threads`` is that of each runtime, one by default: their pools wait for each other when they take turns.

    Raises UsageError for a reference without weights and where no sample can be read; WeightsError, SpecError and
    MissingExtraError as ``open_engine`` does, and WeightsError for a runtime that breaks off.
    """
    if reference.format in PROGRAMS:
        raise UsageError(
            f"{reference.path}: is a program for one runtime; hold the file against the weights it was made from"
        )
    task = reference.spec.task
    for model in (reference, candidate):
        if model.spec.task == "segmentation" and model.spec.preprocess.fit == "crop":
            raise SpecError(
                f"{model.path}: crops photographs, and masks are of whole ones: its fit must be pad or stretch"
            )
    int8 = tolerance is None
    if int8 and min_agreement is None:
        min_agreement = MIN_AGREEMENT
    limits: dict[str, float] = dict.fromkeys(ANSWERS[task], max_error) if int8 and max_error is not None else {}
    threads = threads or 1
    engine, engine_name = _open_candidate(candidate, threads)
    found = Parity(
        file=str(candidate.path),
        reference=str(reference.path),
        engine=engine_name,
        tolerance=tolerance,
        max_drop=MAX_DROP[task] if max_drop is None else max_drop,
        min_agreement=min_agreement if int8 else None,
        max_error=limits,
        pictures=0,
        task=task,
    )
    failures = _differences(candidate.spec, reference.spec, int8=int8)
    if not _comparable(candidate.spec, reference.spec):
        return dataclasses.replace(found, failures=tuple(failures))
    notes = []
    if is_foreign(candidate):
        notes.append("the file has no description: the reference's labels and preprocessing were taken")
    torch = importlib.util.find_spec("torch") is not None
    if not torch:
        notes.append("without PyTorch the reference ran in its own runtime")
        if int8 and max_error is None:
            seen = {"classification": "classes", "detection": "boxes", "segmentation": "masks"}[task]
            notes.append(f"without PyTorch there is no saying what rounding explains: only the {seen} were compared")
    reference_engine = open_engine(reference, engine="torch" if torch else own_engine(reference), threads=threads)
    sides = _Sides(engine, reference_engine, source=found.file, against=found.reference)

    classes = mask_labels or range(reference.spec.num_classes)

    def tally(kind: str, *, asked: int) -> _Tally:
        return _Tally(kind, sides, tolerance, asked=asked if int8 and torch else 0, classes=classes)

    kinds = []
    read = 0
    if samples:
        chosen = _evenly(samples, pictures)
        photographs = tally("photographs", asked=len(chosen))
        skipped = photographs.add_photographs(chosen, labels=classes if labelled else None, progress=progress)
        read = len(photographs.names)
        if not read:
            raise UsageError(f"none of the {len(samples)} pictures could be read: {skipped[0]}")
        if skipped:
            notes.append(f"{len(skipped)} pictures could not be read, the first: {skipped[0]}")
        kinds.append(photographs)
    else:
        notes.append("no photographs were given: made pictures only")
    for kind, make in (("made pictures", _smooth), ("noise", _noise)):
        made = tally(kind, asked=0 if kinds else MADE)
        made.add_made(make)
        kinds.append(made)
    wrong = sum(kind.wrong for kind in kinds)
    if wrong:
        failures.append(f"{wrong} answers hold values that are not finite")
        return dataclasses.replace(found, pictures=read, failures=tuple(failures), notes=tuple(notes))

    comparisons = tuple(comparison for kind in kinds for comparison in kind.comparisons())
    judged = kinds[0]
    measured = judged.seen.measured() if judged.seen is not None and labelled and samples else None
    if task != "classification" and labelled and samples and measured is None:
        notes.append("the labels have no object: the pictures served unlabelled")
    explained: dict[str, float] = {}
    if int8 and torch:
        explained = sides.explained_error(reference, judged)
        factor = EXPLAINED_ELSEWHERE if is_foreign(candidate) else EXPLAINED
        limits = limits or {answer: factor * error for answer, error in explained.items()}
    found = dataclasses.replace(
        found,
        pictures=read,
        comparisons=comparisons,
        batch_error=max(kind.batch_error for kind in kinds),
        explained_error=explained,
        max_error=limits,
        outcomes=judged.outcomes() if task == "classification" and labelled and samples else None,
        decoded=tuple(kind.seen.decoded(kind.kind) for kind in kinds if kind.seen is not None),
        measured=measured,
        notes=tuple(notes),
    )
    return dataclasses.replace(found, failures=(*failures, *find_failures(found)))


class _Shown(NamedTuple):
    """Both sides' answers to the same pictures, the candidate's by batch size; ``pixels`` are the reference's."""

    pixels: NDArray[np.uint8]
    candidate: dict[int, Answers]
    reference: Answers


class _Errors(NamedTuple):
    """What is kept of an answer to some pictures, a number for each.

    ``largest`` is the largest difference as a share of the largest number; ``squares`` and ``own`` are the sums of
    squares of the differences and of the reference's numbers. For a classifier ``first`` is the reference's likeliest
    class, ``other`` the file's, ``margin`` how much larger the reference has the one than the other.
    """

    largest: NDArray[np.float64]
    squares: NDArray[np.float64]
    own: NDArray[np.float64]
    first: NDArray[np.intp]
    other: NDArray[np.intp]
    margin: NDArray[np.float64]


class _Sides:
    """The two engines, each fed through its own description."""

    def __init__(self, candidate: Engine, reference: Engine, *, source: str, against: str) -> None:
        self.candidate, self.reference, self.source, self.against = candidate, reference, source, against
        self.step = candidate.step if isinstance(candidate, ForeignEngine) else 0.0
        self.probabilities = False

    def answers(self, images: Sequence[Image.Image], *, together: bool) -> _Shown:
        mine, theirs = (
            np.stack([crop_pixels(image, side.spec.preprocess) for image in images])
            for side in (self.candidate, self.reference)
        )
        expected = self.reference.run(theirs)
        if not all(np.isfinite(values).all() for values in expected.values()):
            raise WeightsError(f"{self.against}: answers with values that are not finite: hold the file against others")
        given = {batch: self.run(mine, batch) for batch in (1, TOGETHER) if batch == 1 or together}
        self.probabilities = "probabilities" in (*expected, *given[1])
        candidate = {batch: self.comparable(answers) for batch, answers in given.items()}
        return _Shown(theirs, candidate, self.comparable(expected))

    def comparable(self, answers: Mapping[str, NDArray[np.float32]]) -> Answers:
        """In float64: numbers as they are, the logarithms of probabilities if one of both sides gives probabilities."""
        values = {name: given.astype(np.float64) for name, given in answers.items()}
        if not self.probabilities:
            return values
        ((name, shares),) = values.items()
        if name == "logits":
            with np.errstate(invalid="ignore", over="ignore"):  # values that are not finite are told by the caller
                shares /= self.reference.spec.temperature
                shares = np.exp(shares - shares.max(1, keepdims=True))
                shares /= shares.sum(1, keepdims=True)
        # In 8 bits most probabilities are zeros; what is less than half a step is nothing.
        return {"logits": np.log(np.maximum(shares, max(_SMALLEST_PROBABILITY, self.step / 2)))}

    def centred(self, name: str) -> bool:
        """Whether the mean of each of an answer's rows says nothing: of logits, unless each makes a score by itself."""
        return name == "logits" and self.reference.spec.scores == "softmax"

    def explained_error(self, reference: Model, shown: _Tally) -> dict[str, float]:
        """The error of each answer of a plain quantisation of the reference, calibrated on the very pictures."""
        import torch

        from fusiform.export.calibrate import pictures_at_once
        from fusiform.export.quantize import QuantizedNetwork

        network = QuantizedNetwork(build_graph(reference.spec, reference.state()))
        pixels = torch.from_numpy(np.stack(shown.kept_pixels).transpose(0, 3, 1, 2).astype(np.float32))
        batches = torch.split(pixels, pictures_at_once(reference.spec, _GROUP))
        network.calibrate(batches)
        with torch.no_grad():
            parts = [network.answers(batch) for batch in batches]
        errors = {}
        for name, of_batches in zip(shown.kept[0], zip(*parts, strict=True), strict=True):
            rounded = np.concatenate([part.numpy() for part in of_batches])
            if rounded.ndim == 4:  # a map, channels second
                rounded = rounded.transpose(0, 2, 3, 1)
            rounded = self.comparable({name: rounded})[name]
            if self.step:  # as coarse as the file's own answers
                values = np.exp(rounded) if self.probabilities else rounded
                values = np.rint(values / self.step) * self.step
                rounded = (
                    self.comparable({"probabilities": values.astype(np.float32)})[name]
                    if self.probabilities
                    else values
                )
            expected = np.stack([answers[name] for answers in shown.kept])
            errors[name] = _error(_errors(rounded, expected, centred=self.centred(name)))
        return errors

    def run(self, pixels: NDArray[np.uint8], batch: int) -> dict[str, NDArray[np.float32]]:
        """The candidate's answers; the last pictures make up their batch with the first ones."""
        order = np.arange(-(-len(pixels) // batch) * batch) % len(pixels)
        try:
            parts = [self.candidate.run(pixels[order[k : k + batch]]) for k in range(0, len(order), batch)]
        except FusiformError:
            raise
        except Exception as error:  # the runtimes raise many kinds
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise WeightsError(
                f"{self.source}: its runtime broke off at {batch} pictures ({reason}): export it again"
            ) from None
        return {name: np.concatenate([part[name] for part in parts])[: len(pixels)] for name in parts[0]}


class _Tally:
    """What is kept of both sides' answers to pictures of a kind: a detector's own would fill gigabytes.

    The answers to up to ``MEASURED`` of the ``asked`` pictures, evenly spread, stay with their pixels, to see what
    rounding explains; none where ``asked`` is 0. ``classes`` are the outputs that masks' values stand for.
    """

    def __init__(
        self, kind: str, sides: _Sides, tolerance: float | None, *, asked: int, classes: Sequence[int]
    ) -> None:
        self.kind, self.sides, self.tolerance = kind, sides, tolerance
        self.names: list[str] = []
        self.labels: list[int] = []
        self.wrong = 0
        """Answers that are not finite."""
        self.batch_error = 0.0
        self.seen = _seen(sides.candidate.spec, sides.reference.spec, tolerance, classes)
        self.kept: list[Answers] = []
        self.kept_pixels: list[NDArray[np.uint8]] = []
        self._wanted = {*np.linspace(0, asked - 1, min(MEASURED, asked)).round().astype(int).tolist()}
        self._errors: dict[tuple[int, str], list[_Errors]] = {}

    def add_photographs(
        self, samples: Sequence[Sample | AnnotatedSample], *, labels: Sequence[int] | None, progress: Tracker
    ) -> list[str]:
        """Show photographs to both sides; the messages about those that could not be read.

        ``labels`` are the outputs that masks' values stand for; None is for samples without labels.
        """
        skipped: list[str] = []
        groups = 0
        with progress(total=len(samples), label="verify") as bar:
            for k in range(0, len(samples), _GROUP):
                images, truths, places = [], [], []
                for place, sample in enumerate(samples[k : k + _GROUP], k):
                    try:
                        image = sample.read()
                        truth = None if labels is None else _truth(sample, image.size, labels)
                    except ImageError as error:
                        skipped.append(str(error))
                        continue
                    images.append(image)
                    truths.append(truth)
                    places.append(place)
                    self.names.append(sample.name)
                    self.labels.append(sample.label if isinstance(sample, Sample) else 0)
                if images:
                    self._add(images, truths, places, together=groups * _GROUP < SHOWN_TOGETHER)
                    groups += 1
                bar.advance(len(samples[k : k + _GROUP]))
        return skipped

    def add_made(self, make: Callable[[np.random.Generator, tuple[int, int]], Image.Image]) -> None:
        """Show made pictures to both sides, oblong ones where the network sees whole photographs."""
        preprocess = self.sides.reference.spec.preprocess
        side = preprocess.resize
        size = (side, side) if preprocess.fit == "crop" else (side, max(1, 3 * side // 4))
        random = np.random.default_rng(0)
        images = [make(random, size) for _ in range(MADE)]
        self.names += [f"number {k}" for k in range(1, MADE + 1)]
        self._add(images, [None] * MADE, range(MADE), together=True)

    def _add(
        self, images: Sequence[Image.Image], truths: Sequence[Truth | None], places: Sequence[int], *, together: bool
    ) -> None:
        shown = self.sides.answers(images, together=together)
        wrong = {batch: _not_finite(answers) for batch, answers in shown.candidate.items()}
        self.wrong += sum(wrong.values())
        if self.wrong:
            return
        alone = shown.candidate[1]
        for batch, answers in shown.candidate.items():
            for name, mine in answers.items():
                found = _errors(mine, shown.reference[name], centred=self.sides.centred(name))
                self._errors.setdefault((batch, name), []).append(found)
                if batch != 1:
                    apart = _errors(mine, alone[name], centred=False).largest
                    self.batch_error = max(self.batch_error, float(apart.max()))
        for k, place in enumerate(places):
            if place in self._wanted or (self._wanted and not self.kept):
                self.kept.append({name: values[k] for name, values in shown.reference.items()})
                self.kept_pixels.append(shown.pixels[k])
        if self.seen is not None:
            for k, (image, truth) in enumerate(zip(images, truths, strict=True)):
                answer, expected = ({n: v[k] for n, v in side.items()} for side in (alone, shown.reference))
                self.seen.add(self.names[k - len(images)], image.size, answer, expected, truth)

    def comparisons(self) -> list[Comparison]:
        """A comparison for each batch and answer."""
        named = self.sides.reference.spec.task == "classification"
        return [
            _compare(self.kind, batch, self.names, _joined(errors), tolerance=self.tolerance, answer=name, named=named)
            for (batch, name), errors in self._errors.items()
        ]

    def outcomes(self) -> tuple[int, int, int, int]:
        """See ``Parity.outcomes``."""
        errors = _joined(self._errors[1, "logits"])
        mine, theirs = (values == np.array(self.labels) for values in (errors.other, errors.first))
        both, only_file, only_reference = (int(x.sum()) for x in (mine & theirs, mine & ~theirs, ~mine & theirs))
        return both, only_file, only_reference, len(self.labels) - both - only_file - only_reference


def _seen(
    spec: ModelSpec, reference: ModelSpec, tolerance: float | None, classes: Sequence[int]
) -> Boxes | Masks | None:
    if reference.task == "detection":
        return Boxes(spec, reference, tolerance=tolerance)
    return Masks(spec, reference, classes=classes) if reference.task == "segmentation" else None


def _truth(sample: Sample | AnnotatedSample, size: tuple[int, int], labels: Sequence[int]) -> Truth | None:
    """What a labelled picture of ``size`` shows; ImageError for a mask that cannot be read."""
    if isinstance(sample, Sample):
        return None
    mask = None if sample.mask_file is None else read_truth(sample, size, labels)
    return Truth(() if sample.boxes is None else boxes_within(sample, size), mask)


def _not_finite(answers: Answers) -> int:
    """The number of pictures with an answer that is not finite."""
    finite = [np.isfinite(values).reshape(len(values), -1).all(1) for values in answers.values()]
    return int((~np.all(finite, axis=0)).sum())


def _errors(mine: NDArray[np.float64], theirs: NDArray[np.float64], *, centred: bool) -> _Errors:
    """Of an answer (pictures, ..., numbers), without the mean of each row of numbers if it is ``centred``."""
    axes = tuple(range(1, theirs.ndim))
    own, difference = theirs, mine - theirs
    largest = np.abs(difference).max(axes) / _size(theirs)
    first, other = (values.reshape(len(theirs), -1).argmax(1) for values in (theirs, mine))
    rows, flat = np.arange(len(theirs)), theirs.reshape(len(theirs), -1)
    margin = (flat[rows, first] - flat[rows, other]) / _size(theirs)
    if centred:
        own = theirs - theirs.mean(-1, keepdims=True)
        difference = mine - mine.mean(-1, keepdims=True) - own
    return _Errors(largest, (difference**2).sum(axes), (own**2).sum(axes), first, other, margin)


def _joined(parts: Sequence[_Errors]) -> _Errors:
    return _Errors(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _compare(
    kind: str,
    batch: int,
    names: Sequence[str],
    errors: _Errors,
    *,
    tolerance: float | None,
    answer: str = "logits",
    named: bool = True,
) -> Comparison:
    """The comparison of an answer; ``named`` if it says which class the picture shows."""
    return Comparison(
        kind=kind,
        batch=batch,
        pictures=len(errors.largest),
        largest_error=float(errors.largest.max()),
        worst=names[int(errors.largest.argmax())],
        error=_error(errors),
        agreement=float((errors.first == errors.other).mean()) if named else None,
        others=int((errors.margin > (tolerance or 0.0)).sum()) if named else 0,
        answer=answer,
    )


def _size(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest absolute value of each picture."""
    axes = tuple(range(1, values.ndim))
    sizes: NDArray[np.float64] = np.maximum(np.abs(values).max(axes), np.finfo(np.float32).tiny)
    return sizes


def _error(errors: _Errors) -> float:
    """The root mean square of the differences as a share of the values' own."""
    return float(np.sqrt(errors.squares.sum() / max(errors.own.sum(), np.finfo(np.float32).tiny)))


def _open_candidate(model: Model, threads: int) -> tuple[Engine, str]:
    if is_foreign(model):
        return ForeignEngine(model, threads=threads), "litert" if model.format == "tflite" else "onnxruntime"
    if model.format == "coreml":
        from fusiform.export.coreml import open_package

        return open_package(model.path), "coreml, interpreted"
    name = own_engine(model)
    return open_engine(model, engine=name, threads=threads), name


def _comparable(spec: ModelSpec, reference: ModelSpec) -> bool:
    """Whether both answer in the same form; a classifier's logits and probabilities can be held against each other."""
    if spec.task != reference.task or spec.num_classes != reference.num_classes:
        return False
    return spec.task == "classification" or spec.answers == reference.answers


def _differences(spec: ModelSpec, reference: ModelSpec, *, int8: bool) -> list[str]:
    """What the file says of itself that is not so."""
    found = []
    if len(spec.labels) != len(reference.labels):
        found.append(f"it names {len(spec.labels)} classes, the reference {len(reference.labels)}")
    else:
        found += _other_names("labels", spec.labels, reference.labels)
        found += _other_names("label_ids", spec.label_ids, reference.label_ids)
    names = ["architecture", "width", "task", "input_size", "input_channels", "padding"]
    names += ["scores", "output_stride", "aspp", "align_corners"]
    pairs = [(name, getattr(spec, name), getattr(reference, name)) for name in names]
    # An int8 file may have been given a temperature of its own.
    pairs += [] if int8 else [("temperature", spec.temperature, reference.temperature)]
    for field in dataclasses.fields(reference.preprocess):
        mine, theirs = getattr(spec.preprocess, field.name), getattr(reference.preprocess, field.name)
        # Files of other tools have mean and std in roundings of their own.
        if field.name not in ("mean", "std") or np.abs(np.subtract(mine, theirs)).max() > _HALF_A_GREY:
            pairs.append((field.name, mine, theirs))
    found += [f"its {name} is {mine}, not {theirs}" for name, mine, theirs in pairs if mine != theirs]
    return found


def _other_names(what: str, mine: tuple[str, ...], theirs: tuple[str, ...]) -> list[str]:
    if mine == theirs:
        return []
    if not mine or not theirs:
        return [f"it has {'no' if theirs else 'extra'} {what}"]
    places = [k for k, (one, other) in enumerate(zip(mine, theirs, strict=True)) if one != other]
    k = places[0]
    return [
        f"{len(places)} of its {what} are others: class {k} is {printable(mine[k])!r}, not {printable(theirs[k])!r}"
    ]


def _smooth(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Soft blobs of colour: noise averages out to one grey deeper in a network."""
    coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3)).astype(np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def _noise(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(random.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8))


def _evenly(samples: Sequence[Sample | AnnotatedSample], count: int) -> Sequence[Sample | AnnotatedSample]:
    """Up to ``count`` samples from one end to the other: data sets are in order of their classes."""
    chosen = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [samples[k] for k in chosen]


def _read_samples(data: str | os.PathLike[str], spec: ModelSpec) -> tuple[Sequence[Sample], bool, list[str]]:
    """The pictures, whether they are labelled, and what there is to say of them."""
    try:
        found = read_dataset(data)
        bound = bind_classes(found.classes, spec)
    except UsageError as error:
        folder = Path(data)
        files = find_images(folder) if folder.is_dir() else []
        if not files:
            raise
        note = f"the pictures have no labels that the model knows: {error}"
        return [Sample(file, 0) for file in files], False, [note]
    split = next((name for name in HELD_OUT if found.splits.get(name)), None)
    if split is None:
        raise UsageError(f"{found.source}: there are no pictures in it: check the path")
    samples = [dataclasses.replace(sample, label=bound[sample.label]) for sample in found.splits[split]]
    return samples, True, list(found.notes)


_TARGETS: Mapping[FileFormat, TargetName] = {
    "tflite": "litert",
    "onnx": "onnx",
    "torchscript": "torchscript",
    "openvino": "openvino",
    "executorch": "executorch",
    "coreml": "coreml",
}
