"""How often a classifier is right about labelled images, where it is wrong, and whether it knows when."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform import engines
from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.drawing.page import Page
from fusiform.engines import Engine, EngineName
from fusiform.engines.crew import Crew, not_finite, read_pixels, readable
from fusiform.evaluation.base import SCHEMA, Evaluation, Rows
from fusiform.evaluation.comparison import ClassificationComparison
from fusiform.evaluation.figures import OTHER, percent, rounded
from fusiform.evaluation.promises import Promises, Seen, promise_figures, slipped
from fusiform.evaluation.source import choose_classes
from fusiform.evaluation.stress import Stress, stress_figures, stress_rows, stress_text
from fusiform.progress import Tracker, silent
from fusiform.report import Cell, Report, cell_text, rows_table
from fusiform.spec import FEATURES
from fusiform.tasks import classification_metrics as metrics
from fusiform.tasks.bootstrap import Interval
from fusiform.tasks.classification import to_logits
from fusiform.zoo.model import Model


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
    ``promises`` is what a calibrated model's came to, or what those of this ``calibration`` would. ``explained`` are
    images with Grad-CAM's heat and captions, for the page; ``stress`` is what became of corrupted images, None where
    that was not asked for.
    """

    main = "top-1"

    samples: tuple[Sample, ...]
    outputs: tuple[int, ...]
    truth: NDArray[np.int64] = field(repr=False)
    logits: NDArray[np.float32] = field(repr=False)
    features: NDArray[np.float32] | None = field(default=None, repr=False)
    promises: Promises | None = None
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
            **promise_figures(self.promises),
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
            **promised(figures),
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
        }

    def slipped(self) -> list[dict[str, Cell]]:
        """The images of none of the classes that were not called unknown, the most alike to a known class first."""
        if self.promises is None or self.promises.strangers is None:
            return []
        return slipped(self.promises.strangers, self.spec, self.promises.certain)

    def _tables(self) -> dict[str, Rows]:
        return {
            "Most confused": self.most_confused(),
            "Most confident mistakes": self.mistakes(),
            "Unknown images that slipped through": self.slipped(),
        }

    def to_table(self) -> str:
        text = super().to_table()
        if self.stress is None:
            return text
        return f"{text}\n{stress_text(self.stress)}\n\n{rows_table(stress_rows(self.stress))}\n"

    def _keys(self) -> Sequence[Hashable]:
        return self.samples  # a list may have a picture twice, under two classes

    def _fill(self, page: Page) -> None:
        from fusiform.evaluation.classification_page import fill_page

        fill_page(self, page)


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
) -> ClassificationEvaluation:
    """Show a classifier, called ``name``, the images of a dataset; see ``job.evaluate``, and ``answers``.

    Raises UsageError for a split that is not there or has no picture that can be read, and what ``bind_classes`` and
    ``answers`` raise.
    """
    spec = model.spec
    engine = engine or engines.own_engine(model)
    chosen = choose_classes(data, spec, split=split)
    samples = chosen.samples
    started = time.perf_counter()
    values, errors, found = answers(
        model,
        samples,
        engine=engine,
        device=device,
        threads=threads,
        batch=batch,
        features=features,
        progress=progress,
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


def promised(figures: Mapping[str, Cell]) -> dict[str, str]:
    """The promises' figures in the words of people; nothing where there are none."""
    certain = figures["certain"]
    if not isinstance(certain, float):
        return {}
    found = {f"sets with the right name, {certain:.0%} promised": percent(figures, "coverage")}
    size, low, high = (figures[f"set_size{end}"] for end in ("", "_low", "_high"))
    found["names in a set"] = f"{size:.2f} (95 % interval {low:.2f} to {high:.2f})"
    if figures["false_unknown"] is not None:
        found[f"known, but called unknown, up to {1 - certain:.0%} promised"] = percent(figures, "false_unknown")
    if figures["caught"] is not None:
        found[f"unknown, and called so, of {cell_text(figures['unknown_images'])} images"] = percent(figures, "caught")
        area, low, high = (figures[f"auroc{end}"] for end in ("", "_low", "_high"))
        found["AUROC of unknown images"] = f"{area:.3f} (95 % interval {low:.3f} to {high:.3f})"
    return found
