"""Whether a model file gives the answers of the model that it was made from, whatever made the file.

The file is taken as its users will take it: in its own runtime, with the preprocessing, labels and padding that it
states itself. The reference is the network in PyTorch, with its own description.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.dataset import Sample, Split
from fusiform.data.image import find_images
from fusiform.data.labels import bind_classes
from fusiform.data.layouts import read_dataset
from fusiform.data.preprocess import crop_pixels
from fusiform.engines import Engine, open_engine, own_engine
from fusiform.errors import FusiformError, ImageError, MissingExtraError, UsageError, WeightsError
from fusiform.export.foreign import ForeignEngine, is_foreign, open_foreign
from fusiform.export.targets import TARGETS, Precision, TargetName
from fusiform.graph.build import build_graph
from fusiform.progress import Tracker, silent
from fusiform.report import Cell, Report, printable
from fusiform.spec import ModelSpec
from fusiform.tasks import metrics
from fusiform.zoo.checkpoint import state_shapes
from fusiform.zoo.model import PROGRAMS, FileFormat, Model, open_model

TOGETHER = 3
"""The batch beside 1: a file made for one picture, or that mixes pictures up, shows."""
MADE = 12
"""Smooth made pictures, and pictures of noise, beside the photographs."""
MIN_AGREEMENT = 0.85
"""How often an int8 file must name the reference's class: published int8 forms of these networks do so nine times in
ten on ImageNet's thousand classes, and more often on fewer."""
FEW = 50
"""Photographs below which the agreement counts only where its interval excludes the floor."""
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
_PREFERRED: tuple[Split, ...] = ("test", "val", "all", "train")


class Comparison(NamedTuple):
    """A file's answers to some ``pictures`` of a kind, shown ``batch`` at a time, beside the reference's.

    ``largest_error`` is the largest difference of a logit as a share of the largest logit of the same picture,
    ``worst`` the picture it occurred on. ``error`` is the root mean square of the differences as a share of the
    logits' own, both without each picture's mean, which no probability depends on. ``agreement`` is the share of
    pictures with the same likeliest class, ``others`` the number with another one although the reference's margin is
    larger than the tolerance.
    """

    kind: str
    batch: int
    pictures: int
    largest_error: float
    worst: str
    error: float
    agreement: float
    others: int


@dataclass(frozen=True)
class Parity:
    """What a verification found; it passed if there are no ``failures``.

    ``tolerance`` bounds ``Comparison.largest_error`` of a float file and is None for int8, where ``max_error`` bounds
    ``Comparison.error``; ``explained_error`` is that of a plain quantisation of the reference. ``batch_error`` is the
    largest difference between a picture's answers alone and together with others, as a share of its largest logit.
    ``outcomes`` counts the labelled photographs that both name right, only the file, only the reference, and neither.
    ``max_drop`` is in percentage points of top-1.
    """

    file: str
    reference: str
    engine: str
    tolerance: float | None
    max_drop: float
    min_agreement: float | None
    max_error: float | None
    pictures: int
    comparisons: tuple[Comparison, ...] = ()
    batch_error: float | None = None
    explained_error: float | None = None
    outcomes: tuple[int, int, int, int] | None = None
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def int8(self) -> bool:
        return self.tolerance is None

    @property
    def agreement(self) -> float | None:
        """The share of the photographs that the file and the reference name alike; None without photographs."""
        return next((c.agreement for c in self.comparisons if c.kind == "photographs"), None)

    @property
    def largest_error(self) -> float | None:
        """The largest difference of a logit of any picture, as a share of the picture's largest logit."""
        return max((c.largest_error for c in self.comparisons), default=None)

    @property
    def drop(self) -> metrics.Difference | None:
        """How much more often the reference is right, in [-1, 1], with its paired 95 % interval; None unlabelled."""
        if self.outcomes is None:
            return None
        both, only_file, only_reference, neither = self.outcomes
        return metrics.paired_difference(both, only_reference, only_file, neither)

    def report(self) -> Report:
        """The figures of the whole, and a row for each kind of picture and batch; shares are in [0, 1]."""
        figures: dict[str, Cell] = {
            "file": self.file,
            "reference": self.reference,
            "engine": self.engine,
            "precision": "int8" if self.int8 else "float",
            "passed": self.passed,
        }
        figures |= {f"failure {k}": text for k, text in enumerate(self.failures, 1)}
        figures |= {"pictures": self.pictures}
        if self.int8:
            figures |= {"explained_error": _rounded(self.explained_error), "max_error": _rounded(self.max_error)}
        else:
            figures |= {"tolerance": self.tolerance}
        figures |= {"largest_error": _rounded(self.largest_error), "batch_error": _rounded(self.batch_error)}
        if self.agreement is not None:
            low, high = metrics.wilson_interval(round(self.agreement * self.pictures), self.pictures)
            figures |= {"agreement": _rounded(self.agreement)}
            figures |= {"agreement_low": _rounded(low), "agreement_high": _rounded(high)}
            figures |= {"min_agreement": self.min_agreement} if self.int8 else {}
        if self.outcomes is not None and self.drop is not None:
            both, only_file, only_reference, _ = self.outcomes
            for name, right in (("top1", both + only_file), ("reference_top1", both + only_reference)):
                low, high = metrics.wilson_interval(right, self.pictures)
                figures |= {name: _rounded(right / self.pictures)}
                figures |= {f"{name}_low": _rounded(low), f"{name}_high": _rounded(high)}
            points = {"drop": self.drop.value, "drop_low": self.drop.low, "drop_high": self.drop.high}
            figures |= {f"{name}_points": _rounded(100 * value) for name, value in points.items()}
            figures |= {"p": _rounded(metrics.mcnemar(only_file, only_reference))}
            figures |= {"max_drop_points": self.max_drop} if self.int8 else {}
        figures |= {f"note {k}": text for k, text in enumerate(self.notes, 1)}
        rows: tuple[Mapping[str, Cell], ...] = tuple(
            {
                "kind": c.kind,
                "batch": c.batch,
                "pictures": c.pictures,
                "largest_error": _rounded(c.largest_error),
                "error": _rounded(c.error),
                "agreement": _rounded(c.agreement),
                "other_class": c.others,
            }
            for c in self.comparisons
        )
        verdict = "the same answers" if self.passed else "NOT the same answers"
        return Report(f"{self.file} against {self.reference}: {verdict}", rows, figures)


class ParityError(FusiformError):
    """A file does not give the answers of the model it was made from; ``parity`` has the figures."""

    def __init__(self, parity: Parity) -> None:
        self.parity = parity
        super().__init__(
            f"{printable(parity.file)}: does not give the answers of {printable(parity.reference)}: "
            f"{'; '.join(parity.failures)}: do not use it; export it again, or allow more if that is meant"
        )


def verify_file(
    file: str | os.PathLike[str],
    *,
    against: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    max_drop: float = 1.0,
    tolerance: float | None = None,
    threads: int | None = None,
    progress: Tracker = silent,
) -> Parity:
    """Verify a model file of any origin against a model, a name or a file of weights.

    ``data`` is a data set that ``read_dataset`` knows, or any folder of pictures; its test split if it has one.
    ``tolerance`` bounds the largest error of a float file (by default its kind's own), or the error of an int8 one (by
    default what rounding explains). A LiteRT or ONNX file of another tool's borrows the model's labels and
    preprocessing. Raises what ``verify``, ``open_model`` and ``read_dataset`` raise, and UsageError for pictures that
    are not there.
    """
    for name, value in (("max_drop", max_drop), ("tolerance", tolerance)):
        if value is not None and not (np.isfinite(value) and value >= 0):
            raise UsageError(f"{name} must be a number, 0 or more, got {value}")
    reference = open_model(against)
    candidate = open_foreign(Path(file), reference.spec) or open_model(file)
    samples: Sequence[Sample] = ()
    labelled = False
    notes: list[str] = []
    if data is not None:
        samples, labelled, notes = _read_samples(data, reference.spec)
    precision = stored_precision(candidate)
    if precision != "int8" and tolerance is None:
        tolerances = TARGETS[_TARGETS.get(candidate.format, "onnx")].tolerance
        tolerance = tolerances.get(precision, tolerances["float32"])
    parity = verify(
        candidate,
        reference,
        samples,
        labelled=labelled,
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
    samples: Sequence[Sample],
    *,
    labelled: bool,
    tolerance: float | None,
    max_drop: float = 1.0,
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
    to be the same too, as far as it has to do with use.

    A float file, with a ``tolerance``, passes if no logit of any picture differs by more than that share of the
    picture's largest logit and the likeliest class is the same wherever the reference is surer than that. An int8
    file, with None, passes if on the photographs (the made pictures, if there are none) its ``error`` is no more than
    ``max_error``, by default one and a half times what a plain quantisation of the reference makes (twice, if another
    tool made the file); if it names the same class for ``min_agreement`` of them (0.85); and if, labelled, it is
    right at most ``max_drop`` percentage points less often. Answers that are not finite fail.

    ``threads`` is that of each runtime, one by default: their pools wait for each other when they take turns.

    Raises UsageError for a reference without weights and where no sample can be read; WeightsError, SpecError and
    MissingExtraError as ``open_engine`` does, and WeightsError for a runtime that breaks off.
    """
    if reference.format in PROGRAMS:
        raise UsageError(
            f"{reference.path}: is a program for one runtime; hold the file against the weights it was made from"
        )
    int8 = tolerance is None
    if int8 and min_agreement is None:
        min_agreement = MIN_AGREEMENT
    threads = threads or 1
    engine, engine_name = _open_candidate(candidate, threads)
    found = Parity(
        file=str(candidate.path),
        reference=str(reference.path),
        engine=engine_name,
        tolerance=tolerance,
        max_drop=max_drop,
        min_agreement=min_agreement if int8 else None,
        max_error=max_error if int8 else None,
        pictures=0,
    )
    failures = _differences(candidate.spec, reference.spec, int8=int8)
    if candidate.spec.num_classes != reference.spec.num_classes:
        return dataclasses.replace(found, failures=tuple(failures))
    notes = []
    if is_foreign(candidate):
        notes.append("the file has no description: the reference's labels and preprocessing were taken")
    torch = importlib.util.find_spec("torch") is not None
    if not torch:
        notes.append("without PyTorch the reference ran in its own runtime")
        if int8 and max_error is None:
            notes.append("without PyTorch there is no saying what rounding explains: only the classes were compared")
    reference_engine = open_engine(reference, engine="torch" if torch else own_engine(reference), threads=threads)
    sides = _Sides(engine, reference_engine, source=found.file, against=found.reference)

    photographs, skipped = sides.photographs(_evenly(samples, pictures), progress)
    if samples and not photographs.names:
        raise UsageError(f"none of the {len(samples)} pictures could be read: {skipped[0]}")
    if skipped:
        notes.append(f"{len(skipped)} pictures could not be read, the first: {skipped[0]}")
    if not samples:
        notes.append("no photographs were given: made pictures only")
    kinds = {"photographs": photographs} if samples else {}
    kinds |= {"made pictures": sides.made(_smooth), "noise": sides.made(_noise)}
    wrong = sum(int((~np.isfinite(values).all(1)).sum()) for a in kinds.values() for values in a.candidate.values())
    if wrong:
        failures.append(f"{wrong} answers hold values that are not finite")
        return dataclasses.replace(found, pictures=len(photographs.names), failures=tuple(failures), notes=tuple(notes))

    comparisons = tuple(_compare(kind, batch, a, tolerance) for kind, a in kinds.items() for batch in (1, TOGETHER))
    batch_error = max(
        float(_largest(a.candidate[TOGETHER], a.candidate[1][: len(a.candidate[TOGETHER])]).max())
        for a in kinds.values()
    )
    judged = next(iter(kinds.values()))
    outcomes = _outcomes(judged) if labelled and samples else None
    explained: float | None = None
    if int8 and torch:
        explained = sides.explained_error(reference, judged)
        if max_error is None:
            max_error = explained * (EXPLAINED_ELSEWHERE if is_foreign(candidate) else EXPLAINED)
    found = dataclasses.replace(
        found,
        pictures=len(photographs.names),
        comparisons=comparisons,
        batch_error=batch_error,
        explained_error=explained,
        max_error=max_error if int8 else None,
        outcomes=outcomes,
        notes=tuple(notes),
    )
    failures += _failures_of_int8(found) if int8 else _failures_of_float(found)
    return dataclasses.replace(found, failures=tuple(failures))


class _Answers(NamedTuple):
    """Comparable answers (pictures, classes) of both sides to the same pictures; the candidate's by batch size.

    ``pixels`` are those that the reference saw, ``names`` and ``labels`` the pictures'.
    """

    names: list[str]
    labels: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    candidate: dict[int, NDArray[np.float64]]
    reference: NDArray[np.float64]


class _Sides:
    """The two engines, each fed through its own description."""

    def __init__(self, candidate: Engine, reference: Engine, *, source: str, against: str) -> None:
        self.candidate, self.reference, self.source, self.against = candidate, reference, source, against
        self.step = candidate.step if isinstance(candidate, ForeignEngine) else 0.0
        self.probabilities = False

    def photographs(self, samples: Sequence[Sample], progress: Tracker) -> tuple[_Answers, list[str]]:
        parts: list[_Answers] = []
        skipped: list[str] = []
        with progress(total=len(samples), label="verify") as bar:
            for k in range(0, len(samples), _GROUP):
                images, read = [], []
                for sample in samples[k : k + _GROUP]:
                    found = _read(sample)
                    if isinstance(found, str):
                        skipped.append(found)
                    else:
                        images.append(found)
                        read.append(sample)
                if images:
                    names, labels = [sample.name for sample in read], [sample.label for sample in read]
                    parts.append(self.answers(images, names, labels, together=len(parts) * _GROUP < SHOWN_TOGETHER))
                bar.advance(len(samples[k : k + _GROUP]))
        return _joined(parts), skipped

    def made(self, make: Callable[[np.random.Generator, int], Image.Image]) -> _Answers:
        size = self.reference.spec.preprocess.resize
        random = np.random.default_rng(0)
        images = [make(random, size) for _ in range(MADE)]
        return self.answers(images, [f"number {k}" for k in range(1, MADE + 1)], [0] * MADE, together=True)

    def answers(self, images: list[Image.Image], names: list[str], labels: list[int], *, together: bool) -> _Answers:
        mine, theirs = (
            np.stack([crop_pixels(image, side.spec.preprocess) for image in images])
            for side in (self.candidate, self.reference)
        )
        expected = self.reference.run(theirs)
        if not all(np.isfinite(values).all() for values in expected.values()):
            raise WeightsError(f"{self.against}: answers with values that are not finite: hold the file against others")
        given = {batch: self.run(mine, batch) for batch in (1, TOGETHER) if batch == 1 or together}
        self.probabilities = "probabilities" in (*expected, *given[1])
        return _Answers(
            names,
            np.array(labels, np.int64),
            theirs,
            {batch: self.scores(answers) for batch, answers in given.items()},
            self.scores(expected),
        )

    def scores(self, answers: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
        """Logits as they are; the logarithms of probabilities, in float64, if one of both sides gives probabilities."""
        ((name, given),) = answers.items()
        values = given.astype(np.float64)
        if not self.probabilities:
            return values
        if name == "logits":
            with np.errstate(invalid="ignore", over="ignore"):  # values that are not finite are told by the caller
                values /= self.reference.spec.temperature
                values = np.exp(values - values.max(1, keepdims=True))
                values /= values.sum(1, keepdims=True)
        # In 8 bits most probabilities are zeros; what is less than half a step is nothing.
        return np.log(np.maximum(values, max(_SMALLEST_PROBABILITY, self.step / 2)))

    def explained_error(self, reference: Model, shown: _Answers) -> float:
        """The error of a plain quantisation of the reference, calibrated on the very pictures."""
        import torch

        from fusiform.export.quantize import QuantizedNetwork

        chosen = np.linspace(0, len(shown.pixels) - 1, min(MEASURED, len(shown.pixels))).round().astype(int)
        network = QuantizedNetwork(build_graph(reference.spec, reference.state()))
        pixels = torch.from_numpy(shown.pixels[chosen].transpose(0, 3, 1, 2).astype(np.float32))
        batches = torch.split(pixels, _GROUP)
        network.calibrate(batches)
        with torch.no_grad():
            logits = np.concatenate([network(batch).numpy() for batch in batches])
        rounded = self.scores({"logits": logits})
        if self.step:  # as coarse as the file's own answers
            values = np.exp(rounded) if self.probabilities else rounded
            values = np.rint(values / self.step) * self.step
            rounded = self.scores({"probabilities": values.astype(np.float32)}) if self.probabilities else values
        return _error(rounded, shown.reference[chosen])

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


def _read(sample: Sample) -> Image.Image | str:
    """The picture, or the message that says why there is none."""
    try:
        return sample.read()
    except ImageError as error:
        return str(error)


def _joined(parts: list[_Answers]) -> _Answers:
    if not parts:
        return _Answers([], np.empty(0, np.int64), np.empty((0, 0, 0, 3), np.uint8), {}, np.empty((0, 0)))
    return _Answers(
        [name for part in parts for name in part.names],
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.pixels for part in parts]),
        {
            batch: np.concatenate([part.candidate[batch] for part in parts if batch in part.candidate])
            for batch in parts[0].candidate
        },
        np.concatenate([part.reference for part in parts]),
    )


def _open_candidate(model: Model, threads: int) -> tuple[Engine, str]:
    if is_foreign(model):
        return ForeignEngine(model, threads=threads), "litert" if model.format == "tflite" else "onnxruntime"
    if model.format == "coreml":
        from fusiform.export.coreml import open_package

        return open_package(model.path), "coreml, interpreted"
    name = own_engine(model)
    return open_engine(model, engine=name, threads=threads), name


def _differences(spec: ModelSpec, reference: ModelSpec, *, int8: bool) -> list[str]:
    """What the file says of itself that is not so."""
    found = []
    if len(spec.labels) != len(reference.labels):
        found.append(f"it names {len(spec.labels)} classes, the reference {len(reference.labels)}")
    else:
        found += _other_names("labels", spec.labels, reference.labels)
        found += _other_names("label_ids", spec.label_ids, reference.label_ids)
    names = ["architecture", "width", "task", "input_size", "input_channels", "padding"]
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


def _failures_of_float(found: Parity) -> list[str]:
    assert found.tolerance is not None
    failures = []
    for kind in dict.fromkeys(c.kind for c in found.comparisons):
        worst = max((c for c in found.comparisons if c.kind == kind), key=lambda c: c.largest_error)
        if worst.largest_error > found.tolerance:
            failures.append(
                f"a logit differs by {worst.largest_error:.2g} of the largest, more than {found.tolerance:g} "
                f"({kind}, batch {worst.batch}: {printable(worst.worst)})"
            )
        others = max(c.others for c in found.comparisons if c.kind == kind)
        if others:
            failures.append(f"another class is the likeliest for {others} of {worst.pictures} {kind}")
    if found.batch_error is not None and found.batch_error > found.tolerance:
        failures.append(f"alone and in a batch of {TOGETHER} the answers differ by {found.batch_error:.2g}")
    return failures


def _failures_of_int8(found: Parity) -> list[str]:
    failures = []
    judged = found.comparisons[:2]
    kind, count = judged[0].kind, judged[0].pictures
    error = max(c.error for c in judged)
    if found.max_error is not None and error > found.max_error:
        failures.append(
            f"the answers to the {kind} are {error:.2g} off, more than {found.max_error:.2g}"
            + (f" (rounding explains {found.explained_error:.2g})" if found.explained_error is not None else "")
        )
    if found.agreement is not None and found.min_agreement is not None:
        reached = found.agreement
        if count < FEW:
            reached = metrics.wilson_interval(round(reached * count), count)[1]
        if reached < found.min_agreement:
            failures.append(
                f"it names the same class for {found.agreement:.1%} of {count} {kind}, less than "
                f"{found.min_agreement:.0%}"
            )
    if found.drop is not None and 100 * found.drop.value > found.max_drop + 1e-9:  # 100 * 0.07 is more than 7
        low, high = 100 * found.drop.low, 100 * found.drop.high
        failures.append(
            f"it is right {100 * found.drop.value:.1f} points less often (95 % interval {low:.1f} to {high:.1f}), more "
            f"than the {found.max_drop:g} allowed"
        )
    return failures


def _compare(kind: str, batch: int, answers: _Answers, tolerance: float | None) -> Comparison:
    mine = answers.candidate[batch]
    theirs = answers.reference[: len(mine)]
    largest = _largest(mine, theirs)
    first, other = theirs.argmax(1), mine.argmax(1)
    rows = np.arange(len(theirs))
    margin = (theirs[rows, first] - theirs[rows, other]) / _size(theirs)
    return Comparison(
        kind=kind,
        batch=batch,
        pictures=len(theirs),
        largest_error=float(largest.max()),
        worst=answers.names[int(largest.argmax())],
        error=_error(mine, theirs),
        agreement=float((first == other).mean()),
        others=int((margin > (tolerance or 0.0)).sum()),
    )


def _size(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest absolute value of each row."""
    sizes: NDArray[np.float64] = np.maximum(np.abs(values).max(1), np.finfo(np.float32).tiny)
    return sizes


def _largest(values: NDArray[np.float64], expected: NDArray[np.float64]) -> NDArray[np.float64]:
    largest: NDArray[np.float64] = np.abs(values - expected).max(1) / _size(expected)
    return largest


def _error(values: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """The root mean square of the differences as a share of the values' own, without each row's mean."""
    own = expected - expected.mean(1, keepdims=True)
    difference = values - values.mean(1, keepdims=True) - own
    return float(np.sqrt((difference**2).sum() / max((own**2).sum(), np.finfo(np.float32).tiny)))


def _outcomes(answers: _Answers) -> tuple[int, int, int, int]:
    mine, theirs = (values.argmax(1) == answers.labels for values in (answers.candidate[1], answers.reference))
    both, only_file, only_reference = (int(x.sum()) for x in (mine & theirs, mine & ~theirs, ~mine & theirs))
    return both, only_file, only_reference, len(answers.labels) - both - only_file - only_reference


def _smooth(random: np.random.Generator, size: int) -> Image.Image:
    """Soft blobs of colour: noise averages out to one grey deeper in a network."""
    coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3)).astype(np.uint8))
    return coarse.resize((size, size), Image.Resampling.BICUBIC)


def _noise(random: np.random.Generator, size: int) -> Image.Image:
    return Image.fromarray(random.integers(0, 256, (size, size, 3)).astype(np.uint8))


def _evenly(samples: Sequence[Sample], count: int) -> list[Sample]:
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
    split = next((name for name in _PREFERRED if found.splits.get(name)), None)
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


def stored_precision(model: Model) -> Precision:
    """The precision of a file's weights, whoever wrote it: read from its content, or told by its size."""
    if model.format == "tflite":
        return _narrowest(_tflite_types(model))
    if model.format == "onnx":
        return _narrowest(_onnx_types(model))
    if model.format == "openvino":
        constants = re.findall(rb'<layer [^>]*type="Const"[^>]*>\s*<data [^>]*element_type="(\w+)"', model.data)
        types = {"i8": "int8", "u8": "int8", "f16": "float16"}
        return _narrowest({types.get(name.decode(), "float32") for name in constants})
    if model.format in ("safetensors", "pth"):
        return "float32"  # read as such
    # Between a byte and four for each weight a file may also be float16, or int8 with some layers in float.
    per_weight = _size_on_disk(model.path) / _weights(model.spec)
    if per_weight < 1.6:
        return "int8"
    if per_weight > 3.5:
        return "float32"
    return "int8" if "int8" in model.path.name else "float16"


def _narrowest(types: set[str]) -> Precision:
    return "int8" if "int8" in types else "float16" if "float16" in types else "float32"


def _tflite_types(model: Model) -> set[str]:
    """The types of the constants that have more than one dimension: weights."""
    from ai_edge_litert import schema_py_generated as tfl

    names = {tfl.TensorType.INT8: "int8", tfl.TensorType.UINT8: "int8", tfl.TensorType.FLOAT16: "float16"}
    try:
        file = tfl.ModelT.InitFromPackedBuf(model.data, 0)
        buffers = file.buffers
        return {
            names.get(tensor.type, "float32")
            for tensor in file.subgraphs[0].tensors
            if tensor.shape is not None and len(tensor.shape) > 1 and buffers[tensor.buffer].data is not None
        }
    except Exception as error:  # the generated code raises many kinds for damaged files
        raise WeightsError(f"{model.path}: damaged ({type(error).__name__}); fetch or write it again") from None


def _onnx_types(model: Model) -> set[str]:
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("onnx", "onnx", f"reading {model.path.name}") from None
    types = onnx.TensorProto
    names = {types.INT8: "int8", types.UINT8: "int8", types.FLOAT16: "float16"}
    try:
        graph = onnx.load_from_string(model.data).graph
    except Exception:  # protobuf's DecodeError is not ours to import
        raise WeightsError(f"{model.path}: not an ONNX file, or a damaged one") from None
    found = {names.get(tensor.data_type, "float32") for tensor in graph.initializer if len(tensor.dims) > 1}
    # Weights may also be kept in float and rounded when the file is opened.
    return found | {"int8" for node in graph.node if node.op_type == "QuantizeLinear"}


def _size_on_disk(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size


def _weights(spec: ModelSpec) -> int:
    shapes = state_shapes(spec)
    return sum(math.prod(shape) for shape in shapes.values())


def _rounded(value: float | None) -> float | None:
    """Six significant digits: more than float32 networks agree on between two machines."""
    return None if value is None else float(f"{value:.6g}")
