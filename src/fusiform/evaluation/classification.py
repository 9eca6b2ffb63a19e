"""How often a classifier is right about labelled images, where it is wrong, and whether it knows when."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform import engines
from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.drawing import charts
from fusiform.drawing.page import Card, Headline, Page, percent_text
from fusiform.engines import Engine, EngineName
from fusiform.engines.crew import Crew, not_finite, read_pixels, readable
from fusiform.evaluation import page_parts
from fusiform.evaluation import promises as of_promises
from fusiform.evaluation.base import SCHEMA, Evaluation, Rows
from fusiform.evaluation.comparison import ClassificationComparison
from fusiform.evaluation.curves import Curves, add_curves, curve_details, curve_figures, curve_headlines, measure_curves
from fusiform.evaluation.decisions import Decisions, add_decisions, decision_figures, decision_table
from fusiform.evaluation.figures import OTHER, percent, rounded
from fusiform.evaluation.page_parts import FEW_IMAGES
from fusiform.evaluation.promises import SHOWN_CARDS, Promises, Seen, picture_of
from fusiform.evaluation.reliability import add_reliability
from fusiform.evaluation.source import choose_classes
from fusiform.evaluation.stress import Stress, add_stress, stress_figures, stress_table
from fusiform.progress import Tracker, silent
from fusiform.report import Cell, Report, cell_text
from fusiform.spec import FEATURES
from fusiform.tasks import classification_metrics as metrics
from fusiform.tasks.bootstrap import Interval
from fusiform.tasks.classification import to_logits
from fusiform.zoo.model import Model

LARGEST_MATRIX = 50
"""More classes than these make a matrix that nobody can read; the page then has only the most confused pairs."""
NARROW_MATRIX = 11
"""Classes up to which the matrix has room beside another section."""
SURE = 0.9
"""A confidence from which a mistake is worth a look at its label."""
MISCALIBRATED = 0.05
"""A calibration error from which a temperature is worth fitting."""
OFTEN = 3
"""Mistakes of one kind that are no accident."""
_EXPLAINS = ("right: ", "predicted: ", "true: ")
"""What the captions of ``explain`` begin with, but for that of the photograph itself."""


class Answers(NamedTuple):
    """What a model says of pictures: ``values`` (pictures, classes), logits also where its file gives probabilities.

    The row of a picture that could not be read is NaN; ``errors`` says why, by the picture's index. ``features``
    (pictures, features) are there where they were asked for.
    """

    values: NDArray[np.float32]
    errors: Mapping[int, str]
    features: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class ClassificationEvaluation(Evaluation):
    """A classifier's answers to the images of a dataset, and what follows from them.

    ``outputs`` are the model's outputs that the data has classes for, in the order of the data's classes. ``truth``
    (images,) are the true ones, ``logits`` (images, all of the model's classes) what the model said, up to a constant
    in each row where its file ends in a softmax; ``features`` (images, features) are kept where promises take them.
    ``promises`` is what a calibrated model's came to, or what those of this ``calibration`` would, and ``decisions``
    those of its rule, if it has one. ``explained`` are images with Grad-CAM's heat and captions, for the page;
    ``stress`` is what became of corrupted images, None where that was not asked for.
    """

    main = "top-1"

    samples: tuple[Sample, ...]
    outputs: tuple[int, ...]
    truth: NDArray[np.int64] = field(repr=False)
    logits: NDArray[np.float32] = field(repr=False)
    features: NDArray[np.float32] | None = field(default=None, repr=False)
    promises: Promises | None = None
    decisions: Decisions | None = None
    explained: tuple[tuple[Image.Image, str], ...] = field(default=(), repr=False)
    stress: Stress | None = field(default=None, repr=False)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """A name for each of the model's classes, told apart by its identifier or number where two have the same."""
        labels, count = self.spec.labels, Counter(self.spec.labels)
        apart = self.spec.label_ids or tuple(map(str, range(len(labels))))
        return tuple(f"{n} ({k})" if count[n] > 1 else n for n, k in zip(labels, apart, strict=True))

    @cached_property
    def _predictions(self) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        return metrics.predictions(self.logits, self.spec.temperature)

    @property
    def predicted(self) -> NDArray[np.intp]:
        """The likeliest class of each image."""
        return self._predictions[0]

    @property
    def confidence(self) -> NDArray[np.float64]:
        """The probability of each image's likeliest class."""
        return self._predictions[1]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each image's likeliest class is its true one."""
        right: NDArray[np.bool_] = self.predicted == self.truth
        return right

    @cached_property
    def probability(self) -> NDArray[np.float64]:
        """The probability of each image's true class."""
        return np.exp(metrics.log_likelihoods(self.logits, self.truth, self.spec.temperature))

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Counts (data's classes, the same and one more): true by predicted; the last for all others of the model."""
        place = np.full(self.spec.num_classes, len(self.outputs))
        place[list(self.outputs)] = np.arange(len(self.outputs))
        columns = len(self.outputs) + 1
        return metrics.confusion_matrix(place[self.truth], place[self.predicted], len(self.outputs), columns=columns)

    @cached_property
    def curves(self) -> Curves:
        """Each of the data's classes against the rest: precision, recall and ROC at every threshold."""
        return measure_curves(self.logits, self.truth, self.outputs, temperature=self.spec.temperature)

    @property
    def seen(self) -> Seen:
        """The answers alone."""
        return Seen(self.samples, self.logits, self.features)

    @property
    def has_others(self) -> bool:
        """Whether the model knows classes that the data does not have."""
        return len(self.outputs) < self.spec.num_classes

    @property
    def value(self) -> float:
        """The share of the images whose likeliest class is the true one."""
        return float(self.right.mean())

    @property
    def interval(self) -> Interval:
        return Interval(*accuracies(self.logits, self.truth)["top1"])

    @property
    def metrics(self) -> dict[str, float | None]:
        """``top1``, ``top5``, ``balanced_accuracy``, ``macro_f1`` and ``ece`` in [0, 1], ``nll`` in nats."""
        figures = self.report().figures
        names = ("top1", "top5", "balanced_accuracy", "macro_f1", "ece", "nll")
        return {name: float(value) for name in names if isinstance(value := figures[name], float)}

    @cached_property
    def _report(self) -> Report:
        figures: dict[str, Cell] = {
            "model": self.model,
            "data": self.source,
            "split": self.split,
            "task": self.spec.task,
            "engine": self.engine,
            "images": len(self.samples),
            "skipped": len(self.skipped),
            "classes": len(self.outputs),
            "model_classes": self.spec.num_classes,
        }
        for name, (value, low, high) in accuracies(self.logits, self.truth).items():
            figures |= {name: rounded(value), f"{name}_low": rounded(low), f"{name}_high": rounded(high)}
        logits, truth, temperature = self.logits, self.truth, self.spec.temperature
        figures |= {
            "macro_f1": rounded(metrics.macro_f1(self.confusion)),
            "balanced_accuracy": rounded(metrics.balanced_accuracy(self.confusion)),
            "ece": rounded(metrics.expected_calibration_error(self.confidence, self.right)),
            "nll": rounded(metrics.negative_log_likelihood(logits, truth, temperature)),
            "temperature": temperature,
            "best_temperature": rounded(metrics.fit_temperature(logits, truth)),
            **curve_figures(self.curves),
            **of_promises.promise_figures(self.promises),
            "seconds": round(self.seconds, 3),
        }
        rows: tuple[dict[str, Cell], ...] = tuple(
            {
                "class": self.names[output],
                "images": score.support,
                "precision": rounded(score.precision),
                "recall": rounded(score.recall),
                "f1": rounded(score.f1),
            }
            for output, score in zip(self.outputs, metrics.class_scores(self.confusion), strict=True)
        )
        return Report(self.title, rows, figures, schema=SCHEMA)

    def report(self) -> Report:
        """The figures about the whole, and a row for each of the data's classes; shares, probabilities in [0, 1].

        ``temperature`` is the model's own, with which ``ece`` and ``nll`` (in nats) were computed; ``best_temperature``
        is the one that these images would give. The macro average and the balanced accuracy are over the classes that
        have images; a precision that divides by nothing is 0.
        """
        return self._report

    def headlines(self) -> dict[str, str]:
        figures = self.report().figures
        unread = f", {cell_text(figures['skipped'])} could not be read" if figures["skipped"] else ""
        all_classes = cell_text(figures["model_classes"])
        among = f"; the model chooses among its {all_classes}" if self.has_others else ""
        return {
            "pictures": f"{cell_text(figures['images'])}{unread}",
            "classes": f"{cell_text(figures['classes'])}{among}",
            "top-1": percent(figures, "top1"),
            "top-5": percent(figures, "top5"),
            "balanced accuracy": percent(figures, "balanced_accuracy"),
            "macro F1": percent(figures, "macro_f1"),
            "calibration error": percent(figures, "ece"),
            "log likelihood loss": cell_text(figures["nll"]),
            "temperature": f"{cell_text(figures['temperature'])}, best {cell_text(figures['best_temperature'])}",
            **curve_headlines(self.curves),
            **of_promises.promised(figures),
            "engine": f"{figures['engine']}, {cell_text(figures['seconds'])} s",
        }

    def most_confused(self) -> list[dict[str, Cell]]:
        """The pairs of classes that are taken for each other, the commonest first; the model's others by name."""
        pairs = Counter(
            (int(true), int(predicted))
            for true, predicted in zip(self.truth, self.predicted, strict=True)
            if true != predicted
        )
        support = Counter(map(int, self.truth))
        return [
            {
                "true": self.names[true],
                "predicted": self.names[predicted],
                "images": count,
                "share": rounded(count / support[true]),
            }
            for (true, predicted), count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
        ]

    def mistakes(self) -> list[dict[str, Cell]]:
        """The images that are named wrongly, the most confident first."""
        return [
            {
                "predicted": self.names[self.predicted[i]],
                "confidence": rounded(self.confidence[i]),
                "true": self.names[self.truth[i]],
                "probability": rounded(self.probability[i]),
                "path": self.samples[i].name,
            }
            for i in self.worst()
        ]

    def worst(self) -> list[int]:
        """The indices of the images that are named wrongly, the highest-scoring first."""
        wrong = np.flatnonzero(~self.right)
        order: list[int] = wrong[np.argsort(-self.confidence[wrong], kind="stable")].tolist()
        return order

    def compare(self, other: Evaluation) -> ClassificationComparison:
        """See ``Evaluation.compare``; by McNemar's test."""
        other = self._same_task(other)
        pairs = self._common(other)
        one, two = (e.right[[pair[k] for pair in pairs]] for k, e in enumerate((self, other)))
        both, only_one, only_two = (int(x.sum()) for x in (one & two, one & ~two, ~one & two))
        neither = len(pairs) - both - only_one - only_two
        return ClassificationComparison(
            model=self.model,
            other=other.model,
            pictures=len(pairs),
            top1=float(one.mean()),
            other_top1=float(two.mean()),
            both=both,
            only_model=only_one,
            only_other=only_two,
            neither=neither,
            p=metrics.mcnemar(only_one, only_two),
            difference=metrics.paired_difference(both, only_one, only_two, neither),
        )

    def _details(self) -> dict[str, Any]:
        """``confusion`` has a list of counts for each class, in the order of ``columns``."""
        columns = [row["class"] for row in self.report().rows] + ([OTHER] if self.has_others else [])
        return {
            "confusion": {"columns": columns, "counts": self.confusion[:, : len(columns)].tolist()},
            "most_confused": self.most_confused(),
            "mistakes": self.mistakes(),
            "stress": None if self.stress is None else stress_figures(self.stress),
            "slipped": self.slipped(),
            "curves": curve_details(self.curves, self.names),
            "decision": decision_figures(self.decisions, self.names, self.outputs),
        }

    def slipped(self) -> list[dict[str, Cell]]:
        """The images of none of the classes that were not called unknown, the most alike to a known class first."""
        if self.promises is None or self.promises.strangers is None:
            return []
        return of_promises.slipped(self.promises.strangers, self.spec, self.promises.certain)

    def _tables(self) -> dict[str, Rows]:
        return {
            "Most confused": self.most_confused(),
            "Most confident mistakes": self.mistakes(),
            "Unknown images that slipped through": self.slipped(),
        }

    def to_table(self) -> str:
        decided = decision_table(self.decisions, self.names, self.outputs)
        return super().to_table() + decided + stress_table(self.stress)

    def _keys(self) -> Sequence[Hashable]:
        return self.samples  # a list may have a picture twice, under two classes

    def _fill(self, page: Page) -> None:
        _fill_page(self, page)


def evaluate(
    model: Model,
    data: DataSet,
    *,
    name: str,
    split: Split | None = None,
    engine: EngineName | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch: int = 1,
    features: bool = False,
    progress: Tracker = silent,
    answered: Answers | None = None,
) -> ClassificationEvaluation:
    """Show a classifier, called ``name``, the images of a dataset; see ``job.evaluate``, and ``answers``.

    Where it has ``answered`` all of them already, none is shown again.

    Raises UsageError for a split that is not there or has no picture that can be read, and what ``bind_classes`` and
    ``answers`` raise.
    """
    spec = model.spec
    engine = engine or engines.default_engine(model)
    chosen = choose_classes(data, spec, split=split)
    samples = chosen.samples
    started = time.perf_counter()
    values, errors, found = answered or answers(
        model, samples, engine=engine, device=device, threads=threads, batch=batch, features=features, progress=progress
    )
    seconds = time.perf_counter() - started
    read = readable(chosen.source, chosen.split, len(samples), errors)
    logits = values if not errors else values[read]
    return ClassificationEvaluation(
        model=name,
        spec=spec,
        engine=engine,
        source=str(chosen.source),
        split=chosen.split,
        outputs=chosen.outputs,
        samples=tuple(samples[i] for i in read),
        truth=np.array([chosen.outputs[samples[i].label] for i in read], np.int64),
        logits=logits,
        features=None if found is None else found[read],
        skipped=tuple(errors.values()),
        notes=chosen.notes,
        seconds=seconds,
    )


def answers(
    model: str | os.PathLike[str] | Model,
    samples: Sequence[Sample],
    *,
    engine: EngineName | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch: int = 1,
    features: bool = False,
    progress: Tracker = silent,
) -> Answers:
    """Show every picture to a model, with the exact preprocessing of its spec; no more than the answers is kept.

    ``model`` is a name, a file, or a model that was opened before. ``threads`` is the number of cores to use, all by
    default, with an engine for each; ``device`` is where the engine ``torch`` computes; ``batch`` is the number of
    pictures that go through the network together; ``features`` asks for them too. A picture that cannot be read is in
    the answer's ``errors``. Raises UsageError for arguments that do not fit, WeightsError for a model that cannot be
    used or answers with values that are not finite, and what ``open_engine`` raises.
    """

    def start(cores: int) -> Engine:
        return engines.open_engine(model, engine=engine, threads=cores, device=device, features=features)

    crew = Crew(start, len(samples), threads=threads, batch=batch)
    values = np.full((len(samples), crew.spec.num_classes), np.nan, np.float32)
    found = np.full((len(samples), crew.spec.num_features), np.nan, np.float32) if features else None
    errors: dict[int, str] = {}

    def answer(mine: Engine, group: range) -> None:
        """Fill in the rows of a group's pictures, or why there is none."""
        read, pixels = read_pixels([samples[i] for i in group], mine.spec, errors, first=group.start)
        for k in range(0, len(read), batch):
            rows = [i for i, _ in read[k : k + batch]]
            answered = mine.run(np.stack(pixels[k : k + batch]))
            values[rows] = to_logits(answered[mine.spec.output], mine.spec)
            if found is not None:
                found[rows] = answered[FEATURES]

    crew.work(answer, progress)
    if np.isnan(values).any(axis=1).sum() > len(errors) or np.isinf(values).any():
        raise not_finite(model)
    return Answers(values, dict(sorted(errors.items())), found)


def accuracies(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> dict[str, tuple[float, float, float]]:
    """``top1`` and ``top5`` in [0, 1], each before Wilson's 95 % interval; there must be images."""
    found = {}
    for name, k in (("top1", 1), ("top5", 5)):
        right = metrics.in_top(logits, truth, k)
        found[name] = (float(right.mean()), *metrics.wilson_interval(int(right.sum()), len(truth)))
    return found


def _fill_page(evaluation: ClassificationEvaluation, page: Page) -> None:
    """Add all of it to a page that has begun."""
    e = evaluation
    _add_figures(e, page)
    page.add_notes(e.notes)
    page_parts.add_comparison(page, e.comparison)
    worst = e.worst()
    if worst:
        page.add_heading("Most confident mistakes", count=len(worst))
        page.add_cards(_card(e, i) for i in worst[:SHOWN_CARDS])
    if e.explained:
        page.add_heading("What it looks at")
        page.add_text(
            "Grad-CAM: the brighter a place, the more it speaks for the class that is named. Where hardly anything is "
            "bright, nothing in the image speaks for that class."
        )
        page.add_cards(_explained(e))
    if pairs := e.most_confused():
        page.add_heading("Most confused", wide=False, count=len(pairs))
        page.add_table(page_parts.shares(pairs), first=10)
    page_parts.add_advice(page, _advice(e))
    rows = e.report().rows
    few = len(rows) <= NARROW_MATRIX
    page.add_heading("Classes", wide=not few, count=len(rows))
    page.add_table(page_parts.shares(rows), first=20)
    if len(e.outputs) <= LARGEST_MATRIX:
        page.add_heading("Confusion matrix", wide=not few)
        page.add_text("True classes are rows, predicted ones columns; the share of the row makes the colour.")
        names, columns, counts = _matrix(e)
        page.add_svg(charts.heat_table(names, columns, counts), keeps_size=not few)
    add_curves(page, e.curves, e.names)
    add_reliability(page, e.confidence, e.right, e.calibration)
    add_decisions(page, e.decisions, e.names, e.outputs)
    add_stress(page, e.stress)
    if e.promises is not None:
        of_promises.add_promises(page, e.promises, e.names, e.report().figures, e.slipped())
    page.add_heading("Least certain answers")
    page.add_text("The images with the lowest confidence. Where to look first when more are to be labelled.")
    unsure = np.argsort(e.confidence, kind="stable")[:SHOWN_CARDS]
    page.add_cards(_card(e, int(i)) for i in unsure)
    e._add_end(page, _terms(e))


def _add_figures(e: ClassificationEvaluation, page: Page) -> None:
    figures = e.report().figures
    share = {name: float(value) for name, value in figures.items() if isinstance(value, (int, float))}
    count, classes = len(e.samples), len(e.outputs)
    top5 = page_parts.figure(share["top5"], "top-5", "the true class is among five")
    others = [
        *([top5] if e.spec.num_classes > 5 else []),
        page_parts.figure(share["balanced_accuracy"], "balanced accuracy", "mean recall of the classes"),
        page_parts.figure(share["macro_f1"], "macro F1", "mean F1 of the classes"),
        page_parts.figure(share["ece"], "calibration error", "between confidence and accuracy"),
        Headline(f"{count:,}", "images", note=f"{len(e.skipped):,} could not be read" if e.skipped else ""),
        Headline(f"{classes:,}", "classes", note=f"of the model's {e.spec.num_classes:,}" if e.has_others else ""),
    ]
    page.add_headlines([page_parts.deciding(e.interval, "top-1 accuracy", f"{count:,} images")], others)
    wrong = int((~e.right).sum())
    sure = int((~e.right & (e.confidence >= SURE)).sum())
    mistakes = "no image is named wrongly" if not wrong else f"{wrong:,} are mistakes"
    confident = f", {sure:,} of them made with a confidence of {percent_text(SURE, 0)} or more" if sure else ""
    page.add_lead(f"The first answer is right for {count - wrong:,} of {count:,} images; {mistakes}{confident}.")


def _matrix(e: ClassificationEvaluation) -> tuple[list[str], list[str], list[list[int]]]:
    names = [e.names[output] for output in e.outputs]
    columns = [*names, OTHER] if e.has_others else names
    counts: list[list[int]] = e.confusion[:, : len(columns)].tolist()
    return names, columns, counts


def _card(e: ClassificationEvaluation, i: int) -> Card:
    sample, right = e.samples[i], bool(e.right[i])
    said = f"{e.names[e.predicted[i]]} {percent_text(e.confidence[i])}"
    lines = [] if right else [f"true: {e.names[e.truth[i]]} {percent_text(e.probability[i])}"]
    return Card([(picture_of(sample), "")], said, lines, Path(sample.name).name, "right" if right else "wrong")


def _explained(e: ClassificationEvaluation) -> Iterator[Card]:
    """A card for each photograph with the heat maps that follow it."""
    pictures: list[tuple[Image.Image | None, str]] = []
    name = ""
    for image, caption in e.explained:
        if caption.startswith(_EXPLAINS):
            pictures.append((image, caption))
            continue
        if pictures:
            yield Card(pictures, name=name)
        pictures, name = [(image, "")], caption
    yield Card(pictures, name=name)


def _advice(e: ClassificationEvaluation) -> Iterator[str]:
    """What would make the model better, as far as these answers show it."""
    wrong = ~e.right
    if e.has_others:
        known = np.isin(e.predicted, list(e.outputs))
        if (strange := float((~known).mean())) >= MISCALIBRATED:
            yield (
                f"{percent_text(strange, 0)} of the answers are classes that this data does not have. A model of these "
                "classes alone, from fusiform train, does not make such mistakes."
            )
    if sure := int((wrong & (e.confidence >= SURE)).sum()):
        yield (
            f"{sure:,} mistakes were made with a confidence of {percent_text(SURE, 0)} or more. Look whether their "
            "labels are right: fusiform doctor DATA --model MODEL lists such images of a whole dataset."
        )
    confusion = e.confusion.copy()
    support = confusion.sum(1)
    np.fill_diagonal(confusion, 0)
    names = [e.names[output] for output in e.outputs]
    among = confusion[:, : len(names)]
    true, said = (int(k) for k in np.unravel_index(int(among.argmax()), among.shape))
    if confusion[true, said] >= OFTEN:
        yield (
            f"{names[true]} is taken for {names[said]} in {confusion[true, said]} images, more often than any other. "
            "Add training images in which the two are hard to tell apart, or join the classes if nobody needs the "
            "difference."
        )
    scored = np.flatnonzero(support >= FEW_IMAGES)
    if len(scored) > 1 and wrong.any():
        recalls = 1 - confusion.sum(1)[scored] / support[scored]
        yield (
            f"{names[scored[recalls.argmin()]]} has the lowest recall, {percent_text(recalls.min(), 0)}. More images "
            "of it in training help more than more of the others."
        )
    if few := len(support) - len(scored):
        yield (
            f"{few:,} of {len(support):,} classes have fewer than {FEW_IMAGES} images here. Their own figures say "
            "little."
        )
    yield from page_parts.interval_advice(e.interval, len(e.samples))
    ece = float(str(e.report().figures["ece"]))
    if e.calibration is None and ece >= MISCALIBRATED:
        too = "more" if float(e.confidence.mean()) > e.value else "less"
        yield (
            f"The model is {too} confident than it is right. --calibrate FILE writes a copy whose confidence is "
            "closer to its accuracy; the answers stay the same."
        )
    if not wrong.any():
        yield "Nothing is wrong on these images. Harder ones, from where the model will be used, would tell more."


def _terms(e: ClassificationEvaluation) -> list[tuple[str, str, str]]:
    figures = e.report().figures
    nll, temperature, best = (float(str(figures[key])) for key in ("nll", "temperature", "best_temperature"))
    return [
        (
            "mean log loss",
            f"{nll:.3f}",
            "In nats: 0 if every true class got all the confidence. It is what training reduces.",
        ),
        (
            "temperature",
            f"{temperature:.2f}, best {best:.2f}",
            "What the logits are divided by before they become confidence. Above 1 makes it lower. The best one fits "
            "these images; --calibrate finds one on others.",
        ),
    ]
