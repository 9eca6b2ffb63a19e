"""Whether a model file gives the answers of the model that it was made from, whatever made the file.

The file is taken as its users will take it: in its own runtime, with the preprocessing, labels and padding that it
states itself. The reference is the network in PyTorch, with its own description.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from fusiform.data.annotated import AnnotatedSample
from fusiform.data.dataset import Sample
from fusiform.data.masks import Ignore
from fusiform.data.open import check_named, read_pictures
from fusiform.engines import Engine, open_engine, own_engine
from fusiform.errors import InputError, SpecError, UsageError
from fusiform.exporting.targets.base import TargetName
from fusiform.exporting.targets.targets import TARGETS
from fusiform.exporting.verification.comparison import MADE, Tally
from fusiform.exporting.verification.foreign import ForeignEngine, is_foreign, open_foreign
from fusiform.exporting.verification.pair import Sides
from fusiform.exporting.verification.parity import ANSWERS, MAX_DROP, MIN_AGREEMENT, Parity, find_failures
from fusiform.exporting.verification.precision import stored_precision
from fusiform.progress import Tracker, silent, tracker
from fusiform.report import printable
from fusiform.spec import ModelSpec
from fusiform.zoo.model import PROGRAMS, FileFormat, Model, open_model

EXPLAINED = 1.5
"""How many times the error of a plain quantisation of the reference an int8 file may have."""
EXPLAINED_ELSEWHERE = 2.0
"""The same for a file that another tool quantised: with a scale a tensor, or ranges from extremes."""
_HALF_A_GREY = 0.5 / 255


def verify(
    file: str | os.PathLike[str] | Model,
    against: str | os.PathLike[str] | Model,
    *,
    data: str | os.PathLike[str] | None = None,
    ignore: Ignore | None = None,
    root: str | os.PathLike[str] | None = None,
    max_drop: float | None = None,
    tolerance: float | None = None,
    threads: int | None = None,
    progress: bool | Tracker | None = None,
) -> Parity:
    """Find out whether a model file of any kind and origin gives the answers of the model that it was made from.

    The file runs in its own runtime, with its own preprocessing, on photographs, synthetic images and noise, one at a
    time and three together; the model it is held against runs in PyTorch. ``verify_answers`` has the rules.

    Args:
        file: The model file. A LiteRT or ONNX file of another tool's borrows a classifier's labels and preprocessing.
        against: The model whose answers it has to give: a name, a file of weights, a run's folder, or an opened model.
        data: Photographs: a labelled dataset, of which the test split if it has one, or any folder of images; None is
            synthetic images only.
        ignore: For a segmenter: what 255 is in the masks, see ``fusiform.train``.
        root: The folder that the paths in a list begin in; None is the list's own.
        max_drop: What an int8 file may lose, in percentage points of top-1, mAP or mIoU; None is 1 for a classifier,
            else 2.
        tolerance: The largest error of a number in the answer of a float file, as a share of the image's largest; of
            an int8 file the error on average. None is that of the kind of file, or what rounding explains.
        threads: The number of threads of each runtime; None is one.
        progress: Whether to show how far it is; None does on a terminal and in a notebook.

    Returns:
        What was found: ``passed``, the ``failures`` in words, and all figures in ``report()``.

    Raises:
        UsageError: For arguments that do not fit and images that are not there.
        FusiformError: For a file or a model that cannot be used.

    Example:
        >>> import fusiform
        >>> parity = fusiform.verify("ship/shufflenet_v2_x1_0_float32.onnx", "shufflenet_v2_x1_0")
        >>> parity.passed
        True

    """
    for name, value in (("max_drop", max_drop), ("tolerance", tolerance)):
        if value is not None and not (np.isfinite(value) and value >= 0):
            raise UsageError(f"{name} must be a number, 0 or more, got {value}")
    check_named(data, ignore=ignore, root=root)
    reference = open_model(against)
    candidate = _candidate(file, reference)
    samples: Sequence[Sample | AnnotatedSample] = ()
    labelled = False
    notes: Sequence[str] = ()
    mask_labels: Sequence[int] | None = None
    if data is not None:
        samples, labelled, notes, mask_labels = read_pictures(
            data, reference.spec, model=str(reference.path), ignore=ignore, root=root
        )
    precision = stored_precision(candidate)
    if precision != "int8" and tolerance is None:
        target = TARGETS[_TARGETS.get(candidate.format, "onnx")]
        tolerance = target.allowed(precision, reference.spec.task)
    parity = verify_answers(
        candidate,
        reference,
        samples,
        labelled=labelled,
        mask_labels=mask_labels,
        tolerance=None if precision == "int8" else tolerance,
        max_drop=max_drop,
        max_error=tolerance if precision == "int8" else None,
        threads=threads,
        progress=tracker(progress),
    )
    return dataclasses.replace(parity, notes=(*notes, *parity.notes))


def _candidate(file: str | os.PathLike[str] | Model, reference: Model) -> Model:
    if isinstance(file, Model):
        return file
    return open_foreign(Path(file), reference.spec) or open_model(file)


def verify_answers(
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
    ``labelled``; smooth synthetic images; and noise; each alone and three together. What the files say of themselves
    has to be the same too, as far as it has to do with use. ``samples`` are annotated ones for detectors and
    segmenters; ``mask_labels`` are the reference's outputs that the values of their masks stand for, by default the
    same.

    A classifier's features, where the file answers them, are held against the reference's: a float file's like all its
    numbers, an int8 file's by their error, of which a plain quantisation says as much as of the logits', and by their
    cosine similarity to the reference's, on average at least ``parity.MIN_COSINE``.

    A float file, with a ``tolerance``, passes if no number that it answers with differs by more than that share of the
    picture's largest (logits and codes apart), and if what users see is the same: a classifier's likeliest class
    wherever the reference is more certain than the tolerance; a detector's boxes scored above 0.3, each of which the
    other side has too with an intersection over union of 0.95, by the rules of ``answers.Boxes``; a segmenter's masks,
    but for a share of the pixels as large as the tolerance.

    An int8 file, with None, passes if on the photographs (the synthetic images, if there are none) its ``error`` is no
    more than ``max_error``, by default one and a half times what a plain quantisation of the reference makes (twice,
    if another tool made the file); if ``min_agreement`` (0.85) of what users see is the same: of the pictures'
    classes, of the boxes with an intersection over union of 0.5, of the pixels; and if, labelled, its top-1, mAP or
    mIoU is at most ``max_drop`` percentage points lower, by default 1, for detectors and segmenters 2. Of these two
    only the drop counts for detectors and segmenters where it is known. The drop itself decides, and its interval over
    the pictures says how far it might be off. Answers that are not finite fail.

    Of a file that is ``decoded`` what users see is all that is compared, by the rules of ``decoded.DecodedBoxes`` and
    ``decoded.DecodedMasks``.

    ``threads`` is that of each runtime, one by default: their pools wait for each other when they take turns.

    Raises UsageError for a reference without weights and where no sample can be read; WeightsError, SpecError and
    MissingExtraError as ``open_engine`` does, and WeightsError for a runtime that breaks off.
    """
    if reference.format in PROGRAMS:
        raise InputError(
            f"{reference.path}: is a program for one runtime; hold the file against the weights it was made from"
        )
    if reference.spec.decoded:
        raise InputError(f"{reference.path}: decodes its answers itself; hold the file against what it was made from")
    task = reference.spec.task
    for model in (reference, candidate):
        if model.spec.task == "segmentation" and model.spec.preprocess.fit == "crop":
            raise SpecError(
                f"{model.path}: crops photographs, and masks are of whole ones: its fit must be pad or stretch"
            )
    int8 = tolerance is None
    if int8 and min_agreement is None:
        min_agreement = MIN_AGREEMENT
    limits: dict[str, float] = {}
    if int8 and max_error is not None and not candidate.spec.decoded:
        limits = dict.fromkeys(ANSWERS[task], max_error)
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
    if candidate.spec.decoded:
        notes.append("the file decodes its answers itself: what users see was compared, not the network's numbers")
    torch = importlib.util.find_spec("torch") is not None
    if not torch:
        notes.append("without PyTorch the reference ran in its own runtime")
        if int8 and max_error is None and not candidate.spec.decoded:
            seen = {"classification": "classes", "detection": "boxes", "segmentation": "masks"}[task]
            notes.append(f"without PyTorch there is no saying what rounding explains: only the {seen} were compared")
    runtime, features = "torch" if torch else own_engine(reference), candidate.spec.features
    reference_engine = open_engine(reference, engine=runtime, threads=threads, features=features)
    sides = Sides(engine, reference_engine, source=found.file, against=found.reference)

    classes = mask_labels or range(reference.spec.num_classes)

    tally = partial(Tally, sides=sides, tolerance=tolerance, classes=classes)
    chosen = evenly(samples, pictures)
    explain = int8 and torch and not candidate.spec.decoded
    kinds, told = _show(chosen, tally, labels=classes if labelled else None, asked=explain, progress=progress)
    notes += told
    read = len(kinds[0].names) if chosen else 0
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
    if explain:
        with progress(total=None, label="what rounding explains"):
            explained = sides.explained_error(reference, judged.kept_pixels, judged.kept)
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


def _show(
    samples: Sequence[Sample | AnnotatedSample],
    tally: Callable[..., Tally],
    *,
    labels: Sequence[int] | None,
    asked: bool,
    progress: Tracker,
) -> tuple[list[Tally], list[str]]:
    """Show both sides photographs, synthetic images and noise; what each kind came to, and what to tell of it.

    Of the first kind answers are kept where that is ``asked``. UsageError where there are photographs and none of them
    can be read.
    """
    kinds: list[Tally] = []
    notes = []
    if samples:
        photographs = tally("photographs", asked=len(samples) if asked else 0)
        skipped = photographs.add_photographs(samples, labels=labels, progress=progress)
        if not photographs.names:
            raise InputError(f"none of the {len(samples)} pictures could be read: {skipped[0]}")
        if skipped:
            notes.append(f"{len(skipped)} pictures could not be read, the first: {skipped[0]}")
        kinds.append(photographs)
    else:
        notes.append("no photographs were given: synthetic images only")
    for kind, make in (("synthetic images", smooth_image), ("noise", _noise)):
        made = tally(kind, asked=MADE if asked and not kinds else 0)
        with progress(total=None, label=f"verify on {kind}"):
            made.add_made(make)
        kinds.append(made)
    return kinds, notes


def _open_candidate(model: Model, threads: int) -> tuple[Engine, str]:
    if is_foreign(model):
        return ForeignEngine(model, threads=threads), "litert" if model.format == "tflite" else "onnxruntime"
    if model.format == "coreml":
        from fusiform.exporting.targets.coreml import open_package

        return open_package(model.path), "coreml, interpreted"
    name = own_engine(model)
    return open_engine(model, engine=name, threads=threads), name


def _comparable(spec: ModelSpec, reference: ModelSpec) -> bool:
    """Whether both answer in the same form; a classifier's logits and probabilities can be held against each other."""
    if spec.task != reference.task or spec.num_classes != reference.num_classes:
        return False
    return spec.task == "classification" or spec.network_answers == reference.network_answers


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


def smooth_image(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Soft blobs of colour: noise averages out to one grey deeper in a network."""
    coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3)).astype(np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def _noise(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(random.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8))


def evenly(samples: Sequence[Sample | AnnotatedSample], count: int) -> Sequence[Sample | AnnotatedSample]:
    """Up to ``count`` samples from one end to the other: datasets are in order of their classes."""
    chosen = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [samples[k] for k in chosen]


_TARGETS: Mapping[FileFormat, TargetName] = {
    "tflite": "litert",
    "onnx": "onnx",
    "torchscript": "torchscript",
    "openvino": "openvino",
    "executorch": "executorch",
    "coreml": "coreml",
}
