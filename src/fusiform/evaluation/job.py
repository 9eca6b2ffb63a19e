"""How good a model is on labelled images: what ``fusiform evaluate`` runs, for every task."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

from fusiform.calibration.decision import Rule
from fusiform.certainty import CERTAIN
from fusiform.data.annotated import AnnotatedSet
from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.data.image import find_images
from fusiform.data.masks import Ignore
from fusiform.engines import EngineName, place_of
from fusiform.errors import InputError, OutputError, UsageError, warn_renamed
from fusiform.evaluation import calibration, classification, detection, explanation, segmentation, uses
from fusiform.evaluation.answers import AnyAnswers, read_answers
from fusiform.evaluation.classification import ClassificationEvaluation
from fusiform.evaluation.decisions import measure_decisions
from fusiform.evaluation.detection import DetectionEvaluation
from fusiform.evaluation.promises import Seen, measure_promises
from fusiform.evaluation.rules import read_rule
from fusiform.evaluation.segmentation import SegmentationEvaluation
from fusiform.evaluation.source import read_data
from fusiform.evaluation.stress import stress as stress_with
from fusiform.evaluation.stress import stress_figures
from fusiform.progress import Tracker, tracker
from fusiform.spec import Colours, Fit, Task
from fusiform.tasks.classification import rename
from fusiform.tasks.detection import SCORE_THRESHOLD
from fusiform.zoo.model import PROGRAMS, Model, open_model
from fusiform.zoo.stated import assumption

AnyEvaluation = ClassificationEvaluation | DetectionEvaluation | SegmentationEvaluation

_MODELS: dict[Task, str] = {"classification": "classifier", "detection": "detector", "segmentation": "segmenter"}


def evaluate(
    model: str | os.PathLike[str] | Model,
    data: str | os.PathLike[str] | DataSet | AnnotatedSet,
    *,
    split: Split | None = None,
    compare: str | os.PathLike[str] | Model | None = None,
    engine: EngineName | None = None,
    device: str = "auto",
    threads: int | None = None,
    batch: int = 1,
    html: str | os.PathLike[str] | None = None,
    explain: Sequence[int | str | os.PathLike[str]] = (),
    calibrate: str | os.PathLike[str] | None = None,
    certain: float | None = None,
    per_class: bool = False,
    precision: Mapping[str, float] | None = None,
    threshold: Mapping[str, float] | None = None,
    costs: str | os.PathLike[str] | None = None,
    unknown: str | os.PathLike[str] | None = None,
    stress: bool = False,
    answers: str | os.PathLike[str] | None = None,
    score: float | None = None,
    multi_scale: bool = False,
    ignore: Ignore | None = None,
    root: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    mean: Colours | None = None,
    std: Colours | None = None,
    resize: int | None = None,
    crop: int | None = None,
    fit: Fit | None = None,
    say: Callable[[str], None] | None = None,
    progress: bool | Tracker | None = None,
    fit_temperature: str | os.PathLike[str] | None = None,
) -> ClassificationEvaluation | DetectionEvaluation | SegmentationEvaluation:
    """Measure how good a model is on the labelled images of a dataset, whatever its task.

    Every image is shown to the model with the preprocessing of its spec. Classes are bound by their names; a classifier
    chooses among all of its own, where the dataset has only some of them.

    Args:
        model: A name of ``list_models``, a model file, the folder of a training run, or a model that is open already.
        data: A folder with a folder for each class, or such folders within train, val and test, for a classifier;
            boxes for a detector, masks or outlines for a segmenter, in any layout that ``train`` reads; or a
            dataset that was read before.
        split: Which images: ``train``, ``val``, ``test``, or ``all``. None is test if there is one, else val, else all.
        compare: Another model for the same images: ``comparison`` says whether the difference is more than chance.
        engine: The runtime; None is the one that the file is for, or ``native`` where that is faster.
        device: Where the engine ``torch`` computes: ``auto`` (``cuda`` where it finds such a GPU, else ``cpu``),
            ``cpu``, ``cuda``, ``cuda:1`` or ``mps``. Other engines compute on the CPU.
        threads: Cores to use, all by default.
        batch: Images that go through the network together.
        html: Where to write a page with drawings and pictures, one file.
        explain: For a classifier: on the page, show with Grad-CAM what the network looks at in these images, given by
            their paths, or in so many of the dataset's. Needs PyTorch.
        calibrate: For a classifier: write a copy of the model there that states how sure its answers are. A temperature
            (kept only if it makes the calibration better), sets of names that hold the right one at a stated rate, and
            a detector of unknown images, all fitted on other images than the report's (val, else test, else half of
            them).
        certain: What ``calibrate`` promises: the share of images whose set holds the right name, and that are not
            called unknown if they show one of the classes (0.95).
        per_class: Let ``calibrate`` promise that to each class, where it has enough images.
        precision: Let the model that ``calibrate`` writes name these classes only from a threshold on with which so
            large a share of what is named so is right, with 95 % confidence: ``{"cat": 0.95}``.
        threshold: Let it name these classes where their probability reaches this, and nowhere else: ``{"dog": 0.3}``.
        costs: Let it give the answer of the least expected cost, by a CSV file: true classes are rows, answers columns,
            of which one may be ``unsure``.
        unknown: For a calibrated classifier: a folder of images that show none of its classes. The report tells how
            many of them are called unknown; with ``calibrate`` half of them help to choose the detector.
        stress: For a classifier: show it the images corrupted in 75 ways as well, by ImageNet-C's fifteen corruptions
            at five strengths.
        answers: A folder of ``evaluate_parts``, which has the model's answers to these images: they are not shown to it
            again, and the figures are the same.
        score: For a detector: boxes scored above it, in [0, 1], count for precision and recall; 0.3 by default.
        multi_scale: For a segmenter: show every image at six scales and mirrored (Sandler et al., arXiv 1801.04381,
            Section 6.3), which takes PyTorch.
        ignore: For a segmenter: what 255 is in the masks, see ``fusiform.train``.
        root: The folder that the paths in a list begin in; None is the list's own.
        labels: Other names for the model's classes, one for each, or a UTF-8 file with one a line.
        mean: What weights that were saved without fusiform do not say of their preprocessing; see
            ``fusiform.open_model``.
        std: See ``fusiform.open_model``.
        resize: See ``fusiform.open_model``.
        crop: See ``fusiform.open_model``.
        fit: See ``fusiform.open_model``.
        say: Gets a line where the file does not say how images are prepared, which tells what is assumed, and one
            where ``auto`` takes a GPU.
        progress: Whether to show on standard error how far it is; None where that is a terminal or a notebook.
        fit_temperature: What ``calibrate`` was called; taken with a FutureWarning until 0.3.

    Returns:
        The evaluation: ``metrics`` has the headline numbers, accuracies as shares in [0, 1]; ``report()`` all figures
        with their 95 % intervals and a row for each class; ``skipped`` the messages about images that could not be
        read, which do not count.

    Raises:
        UsageError: For arguments that do not go with the model's task, data that do not fit the model, a split that is
            not there, or no image that can be read.
        WeightsError: For a model that cannot be used, or answers with values that are not finite.
        SpecError: For a model that does not say how to use it.
        MissingExtraError: For a runtime that is not installed, or COCO's evaluator where a detector needs it.
        OutputError: For a file that cannot be written.

    Example:
        >>> import fusiform
        >>> result = fusiform.evaluate("mobilenet_v2", "photographs")
        >>> len(result.samples), result.metrics["top5"]
        (2, 1.0)

    """
    if fit_temperature is not None:
        warn_renamed("evaluate", "fit_temperature", "calibrate", calibrate)
        calibrate = fit_temperature
    stated = open_model(model, mean=mean, std=std, resize=resize, crop=crop, fit=fit)
    if stated.assumed and say is not None:
        say(assumption(_name(model), stated.spec.preprocess, stated.assumed))
    if labels is not None:
        stated = replace(stated, spec=rename(stated.spec, labels))
    _check_answers(answers, calibrate is not None, stress)
    models = [(stated, _name(model)), *([] if compare is None else [(open_model(compare), _name(compare))])]
    given = _Given(bool(explain), calibrate is not None, unknown is not None, score is not None, multi_scale, stress)
    _check_task(models, given, ignore is not None)
    # What cannot work at the end is told before the work.
    opened, _ = models[0]
    for path in (html, calibrate):
        _check_folder(path)
    if calibrate is not None:
        calibration.check_calibration(opened, calibrate)
    else:
        _check_alone(certain is not None or per_class, bool(precision or threshold or costs is not None))
    rule = read_rule(opened.spec, precision=precision, threshold=threshold, costs=costs)
    strangers = _strangers(opened, unknown, calibrate is not None)
    if certain is not None and not 0 < certain < 1:
        raise UsageError(f"certain must be between 0 and 1, got {certain:g}")
    network = explanation.open_network(opened) if explain else None
    asked = explanation.read_asked(explain)
    place = place_of(opened, "torch" if multi_scale else engine, device)
    if place != "cpu" and device == "auto" and say is not None:
        _tell_device(place, say)
    how = _How(split, engine, device, threads, batch, score, multi_scale, tracker(progress))
    with how.progress(total=None, label="read the dataset"):
        read = _read(models, data, ignore, root)
    divided = None
    if calibrate is not None:
        divided = calibration.divide(cast("DataSet", read[0][1]), split)
        read, how = [(each, divided.reported) for each, _ in read], how._replace(split=divided.reported_split)
    how = how._replace(features=_has_features(opened, calibrate is not None))
    (first, shown), *others = read
    result = _measure(*first, shown, how._replace(answers=answers))
    rivals = [_measure(*each, known, how) for each, known in others]
    if rivals:
        result = result.including(comparison=result.compare(rivals[0]))
    if isinstance(result, ClassificationEvaluation):
        seen = _see(opened, strangers, how) if strangers else None
        if calibrate is not None and divided is not None:
            wanted = _Wanted(calibrate, CERTAIN if certain is None else certain, per_class, rule)
            result, seen = _calibrated(result, models[0], divided, how, wanted, seen)
        result = _promising(result, seen)
        if stress:
            result = _stressed(result, opened, how)
        if network is not None:
            samples = explanation.asked_samples(result, asked)
            with how.progress(total=None, label="explain"):
                result = result.including(explained=tuple(explanation.explain(result, network, samples)))
    result, *_ = [_used(each, model) for each, (model, _) in zip([result, *rivals], models, strict=True)]
    if html is not None:
        result.write_page(html)
    return result


def _tell_device(place: str, say: Callable[[str], None]) -> None:
    from fusiform.engines.device import describe_device  # asks for PyTorch

    say(f"computing on {describe_device(place)}")


def _stressed(result: ClassificationEvaluation, model: Model, how: _How) -> ClassificationEvaluation:
    """The evaluation with what becomes of corrupted images."""
    found = stress_with(
        model,
        result.samples,
        result.truth,
        engine=how.engine,
        device=how.device,
        threads=how.threads,
        batch=how.batch,
        progress=how.progress,
    )
    return result.including(stress=found)


def _used(result: AnyEvaluation, model: Model) -> AnyEvaluation:
    """The evaluation with how often its images were used, noted in the folder of the model's run, if they are a test.

    Images that are in no split are a test if the run did not learn from that dataset.
    """
    run = uses.find_run(model.path) if result.split in ("test", "all") else None
    if run is None or (result.split == "all" and uses.learned_from(run, Path(result.source))):
        return result
    report = result.report()
    stress = result.stress if isinstance(result, ClassificationEvaluation) else None
    found = uses.note_use(
        run,
        model.path,
        result.samples,
        split=result.split,
        what=result.main,
        interval=result.interval,
        figures=report.figures,
        rows=report.rows,
        stress=None if stress is None else stress_figures(stress),
    )
    return result.including(test_use=found)


class _Wanted(NamedTuple):
    """What a calibration is to promise, and where its model is to be written; see ``evaluate``."""

    out: str | os.PathLike[str]
    certain: float
    per_class: bool
    rule: Rule | None


def _calibrated(
    result: ClassificationEvaluation,
    model: tuple[Model, str],
    divided: calibration.Division,
    how: _How,
    wanted: _Wanted,
    strangers: Seen | None,
) -> tuple[ClassificationEvaluation, Seen | None]:
    """The evaluation with what was calibrated on other pictures than its own, and the strangers left for its report."""
    answered = _measure(*model, divided.fitted, how._replace(split=divided.fitted_split))
    assert isinstance(answered, ClassificationEvaluation)
    helping = None
    if strangers is not None and strangers.features is not None:
        helping, strangers = strangers.features[::2], strangers.part(slice(1, None, 2))
    found, notes = calibration.calibrate(
        model[0],
        answered.seen,
        answered.truth,
        (result.logits, result.truth),
        wanted.out,
        source=result.source,
        fitted_on=divided.fitted_on,
        strangers=helping,
        certain=wanted.certain,
        per_class=wanted.per_class,
        rule=wanted.rule,
    )
    before = model[0].spec.certainty
    lost = (
        ("the model's rule of decision is not in the copy: ask for it again",)
        if before is not None and before.decision is not None and wanted.rule is None
        else ()
    )
    told = result.including(
        calibration=found,
        notes=(*result.notes, *divided.notes, *notes, *lost),
        skipped=(*result.skipped, *answered.skipped),
    )
    return told, strangers


def _promising(result: ClassificationEvaluation, strangers: Seen | None) -> ClassificationEvaluation:
    """The evaluation with what the model's promises and rule, or those of its calibration, come to."""
    spec = result.spec if result.calibration is None else result.calibration.spec
    if spec.certainty is None:
        return result
    return result.including(
        promises=measure_promises(spec, result.seen, result.truth, strangers),
        decisions=measure_decisions(spec, result.logits, result.truth),
    )


def _has_features(model: Model, calibrating: bool) -> bool:
    """Whether a model is to answer its features: where promises are made from them, and it can."""
    certainty = model.spec.certainty
    if model.spec.task != "classification" or not (calibrating or (certainty is not None and certainty.unknown)):
        return False
    return model.spec.features or model.format not in PROGRAMS


def _strangers(model: Model, unknown: str | os.PathLike[str] | None, calibrating: bool) -> tuple[Sample, ...]:
    """The images of a folder of unknown ones; UsageError for a folder without, and a model that does not tell them."""
    if unknown is None:
        return ()
    certainty = model.spec.certainty
    if not calibrating and (certainty is None or certainty.unknown is None):
        raise InputError(f"--unknown: {model.path} does not tell unknown images: calibrate it, with --calibrate FILE")
    files = find_images(Path(unknown))
    if not files:
        raise InputError(f"{unknown}: has no pictures: name a folder of images that show none of the classes")
    return tuple(Sample(path, 0) for path in files)


def _see(model: Model, samples: Sequence[Sample], how: _How) -> Seen:
    """A classifier's answers to images of which nothing is known."""
    found = classification.answers(
        model,
        samples,
        engine=how.engine,
        device=how.device,
        threads=how.threads,
        batch=how.batch,
        features=how.features,
        progress=how.progress,
    )
    read = [i for i in range(len(samples)) if i not in found.errors]
    if not read:
        raise InputError(
            f"{samples[0].file.parent}: none of the pictures can be read: {next(iter(found.errors.values()))}"
        )
    features = None if found.features is None else found.features[read]
    return Seen(tuple(samples[i] for i in read), found.values[read], features)


class _How(NamedTuple):
    """How images are chosen and shown to a model; see ``evaluate``."""

    split: Split | None
    engine: EngineName | None
    device: str
    threads: int | None
    batch: int
    score: float | None
    multi_scale: bool
    progress: Tracker
    features: bool = False
    answers: str | os.PathLike[str] | None = None


class _Given(NamedTuple):
    """Whether an option was given that is for models of one task."""

    explain: bool
    calibrate: bool
    unknown: bool
    score: bool
    multi_scale: bool
    stress: bool


def _name(model: str | os.PathLike[str] | Model) -> str:
    """What to call it."""
    return str(model.path) if isinstance(model, Model) else os.fspath(model)


def _check_task(models: Sequence[tuple[Model, str]], asked: _Given, ignore: bool) -> None:
    """UsageError for what was asked for and is for models of another task, a second model included."""
    opened, name = models[0]
    what = _MODELS[opened.spec.task]
    given: dict[str, tuple[bool, Task]] = {
        "--explain": (asked.explain, "classification"),
        "--calibrate": (asked.calibrate, "classification"),
        "--unknown": (asked.unknown, "classification"),
        "--stress": (asked.stress, "classification"),
        "--score": (asked.score, "detection"),
        "--multi-scale": (asked.multi_scale, "segmentation"),
        "--ignore": (ignore, "segmentation"),
    }
    for flag, (wanted, task) in given.items():
        if wanted and task != opened.spec.task:
            raise UsageError(f"{flag} is for a {_MODELS[task]}; {name} is a {what}: leave it out")
    for other, called in models[1:]:
        if other.spec.task != opened.spec.task:
            raise InputError(f"--compare {called}: is a {_MODELS[other.spec.task]}; {name} is a {what}: name another")


def check_shown(model: Model, name: str, *, multi_scale: bool, ignore: bool) -> None:
    """UsageError for what changes a model's answers and is for models of another task."""
    nothing = _Given(*(False for _ in _Given._fields))
    _check_task([(model, name)], nothing._replace(multi_scale=multi_scale), ignore)


def check_report(
    model: Model,
    name: str,
    *,
    compare: str | os.PathLike[str] | Model | None,
    html: str | os.PathLike[str] | None,
    explain: Sequence[int | str | os.PathLike[str]],
    unknown: str | os.PathLike[str] | None,
    score: float | None,
) -> None:
    """Raise before the work what ``evaluate`` would of a report of kept answers, once all of them are there."""
    nothing = _Given(*(False for _ in _Given._fields))
    given = nothing._replace(explain=bool(explain), unknown=unknown is not None, score=score is not None)
    models = [(model, name), *([] if compare is None else [(open_model(compare), _name(compare))])]
    _check_task(models, given, False)
    _check_folder(html)
    _strangers(model, unknown, False)
    if explain:
        explanation.open_network(model)
        explanation.read_asked(explain)


def _check_answers(answers: str | os.PathLike[str] | None, calibrate: bool, stress: bool) -> None:
    """UsageError for what takes answers to other images than those of a folder of parts."""
    if answers is None:
        return
    for flag, given in (("--calibrate", calibrate), ("--stress", stress)):
        if given:
            raise UsageError(f"{flag} shows the model other images than --answers has: leave out one of the two")


def _check_alone(promising: bool, deciding: bool) -> None:
    """UsageError for what says how to calibrate, where nothing is to be calibrated."""
    if promising:
        raise UsageError("--certain and --per-class are for --calibrate FILE: add it, or leave them out")
    if deciding:
        raise UsageError("--precision, --threshold and --costs are for --calibrate FILE: add it, or leave them out")


def _check_folder(path: str | os.PathLike[str] | None) -> None:
    """OutputError for a file that is to be written where there is no folder."""
    if path is not None and not Path(path).absolute().parent.is_dir():
        raise OutputError(f"cannot write {path} (there is no such folder): choose another place")


def _read(
    models: Sequence[tuple[Model, str]],
    data: str | os.PathLike[str] | DataSet | AnnotatedSet,
    ignore: Ignore | None,
    root: str | os.PathLike[str] | None,
) -> list[tuple[tuple[Model, str], DataSet | AnnotatedSet]]:
    """The dataset as each of the models needs it: boxes have the labels of the model that they are read for."""
    found = []
    for model, name in models:
        labelled = read_data(data, model.spec, model=name, ignore=ignore, root=root)
        if isinstance(labelled, DataSet):
            data = labelled  # once is enough for all classifiers
        found.append(((model, name), labelled))
    return found


def _measure(model: Model, name: str, data: DataSet | AnnotatedSet, how: _How) -> AnyEvaluation:
    """Show a model the images, whatever its task, or take its answers from where they are kept."""
    if how.answers is None:
        return _show(model, name, data, how, None)
    kept = read_answers(
        how.answers,
        model,
        name,
        data,
        split=how.split,
        engine=how.engine,
        multi_scale=how.multi_scale,
        progress=how.progress,
    )
    return _show(model, name, data, how, kept.answers).including(seconds=kept.seconds)


def _show(
    model: Model, name: str, data: DataSet | AnnotatedSet, how: _How, answered: AnyAnswers | None
) -> AnyEvaluation:
    if isinstance(data, DataSet):
        return classification.evaluate(
            model,
            data,
            name=name,
            split=how.split,
            engine=how.engine,
            device=how.device,
            threads=how.threads,
            batch=how.batch,
            features=how.features and _has_features(model, True),
            progress=how.progress,
            answered=cast("classification.Answers | None", answered),
        )
    if model.spec.task == "detection":
        return detection.evaluate(
            model,
            data,
            name=name,
            split=how.split,
            score=SCORE_THRESHOLD if how.score is None else how.score,
            engine=how.engine,
            device=how.device,
            threads=how.threads,
            batch=how.batch,
            progress=how.progress,
            answered=cast("detection.FoundBoxes | None", answered),
        )
    return segmentation.evaluate(
        model,
        data,
        name=name,
        split=how.split,
        multi_scale=how.multi_scale,
        engine=how.engine,
        device=how.device,
        threads=how.threads,
        batch=how.batch,
        progress=how.progress,
        answered=cast("segmentation.Outlines | None", answered),
    )
