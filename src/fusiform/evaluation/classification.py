"""How often a model is right about labelled pictures, where it is wrong, and whether it knows when."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform import engines
from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.data.folders import read_dataset
from fusiform.data.open import bind_classes, choose_split
from fusiform.engines import Engine, EngineName
from fusiform.engines.crew import Crew, not_finite, read_pixels, readable
from fusiform.errors import UsageError
from fusiform.evaluation.calibration import Calibration
from fusiform.evaluation.figures import rounded
from fusiform.progress import Tracker, silent
from fusiform.report import Cell, Report, cell_text
from fusiform.spec import ModelSpec
from fusiform.tasks import classification_metrics as metrics
from fusiform.tasks.classification_metrics import Difference
from fusiform.zoo.model import Model, open_model

OTHER = "other"
"""The column of the confusion matrix for classes of the model that the data does not have."""
SIGNIFICANCE = 0.05
"""The p-value below which a difference is called real."""


class Answers(NamedTuple):
    """What a model says of pictures: ``values`` (pictures, classes), logits or probabilities as its spec says.

    The row of a picture that could not be read is NaN; ``errors`` says why, by the picture's index.
    """

    values: NDArray[np.float32]
    errors: Mapping[int, str]


@dataclass(frozen=True)
class Evaluation:
    """A model's answers to the pictures of a dataset, and what follows from them.

    ``outputs`` are the model's outputs that the data has classes for, in the order of the data's classes. ``samples``
    are the pictures that could be read, ``logits`` (pictures, all of the model's classes) what the model said of
    them, log-probabilities where its file ends in a softmax. ``skipped`` are the messages about the others.
    """

    model: str
    spec: ModelSpec
    engine: EngineName
    source: str
    split: Split
    outputs: tuple[int, ...]
    samples: tuple[Sample, ...]
    truth: NDArray[np.int64] = field(repr=False)
    logits: NDArray[np.float32] = field(repr=False)
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

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
        """The likeliest class of each picture."""
        return self._predictions[0]

    @property
    def confidence(self) -> NDArray[np.float64]:
        """The probability of each picture's likeliest class."""
        return self._predictions[1]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each picture's likeliest class is its true one."""
        right: NDArray[np.bool_] = self.predicted == self.truth
        return right

    @cached_property
    def probability(self) -> NDArray[np.float64]:
        """The probability of each picture's true class."""
        return np.exp(metrics.log_likelihoods(self.logits, self.truth, self.spec.temperature))

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Counts (data's classes, the same and one more): true by predicted; the last for all others of the model."""
        place = np.full(self.spec.num_classes, len(self.outputs))
        place[list(self.outputs)] = np.arange(len(self.outputs))
        columns = len(self.outputs) + 1
        return metrics.confusion_matrix(place[self.truth], place[self.predicted], len(self.outputs), columns=columns)

    @property
    def title(self) -> str:
        return f"{self.model} on {self.source} ({self.split})"


class Comparison(NamedTuple):
    """Two models on the same pictures: how often each is right, and the numbers of pictures by who is right."""

    model: str
    other: str
    pictures: int
    top1: float
    other_top1: float
    both: int
    only_model: int
    only_other: int
    neither: int
    p: float
    difference: Difference

    @property
    def sentence(self) -> str:
        """What the comparison says, in words."""
        value, low, high = self.difference
        verdict = "is real" if self.p < SIGNIFICANCE else "cannot be told from chance"
        chance = f"the difference {verdict} (p = {self.p:.2g})"
        if value == 0:
            return f"{self.model} and {self.other} are right equally often; {chance}"
        better, low, high = (self.model, low, high) if value > 0 else (self.other, -high, -low)
        return (
            f"{better} is right more often, by {100 * abs(value):.1f} percentage points (95 % interval "
            f"{100 * low:.1f} to {100 * high:.1f}); {chance}"
        )


def evaluate(
    model: str | os.PathLike[str],
    data: DataSet | str | os.PathLike[str],
    *,
    split: Split | None = None,
    engine: EngineName | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch: int = 1,
    progress: Tracker = silent,
) -> Evaluation:
    """Show a model the pictures of a dataset, a folder or another layout that ``read_dataset`` knows.

    ``split`` None is test if there is one, else val, else all, else train; ``all`` is every picture there is. The
    other arguments are those of ``answers``. Raises UsageError for a split that is not there or has no picture that
    can be read, and what ``read_dataset``, ``bind_classes`` and ``answers`` raise.
    """
    opened = open_model(model)
    spec = opened.spec
    if spec.task != "classification":
        raise UsageError(f"{os.fspath(model)}: is for {spec.task}; this is the evaluation of classifiers")
    engine = engine or engines.own_engine(opened)
    if not isinstance(data, DataSet):
        data = read_dataset(data)
    bound = bind_classes(data.classes, spec)
    chosen, samples = choose_split(data.source, data.splits, split)
    started = time.perf_counter()
    values, errors = answers(
        model, samples, engine=engine, device=device, threads=threads, batch=batch, progress=progress
    )
    seconds = time.perf_counter() - started
    read = readable(data.source, chosen, len(samples), errors)
    logits = values if not errors else values[read]
    if spec.output == "probabilities":
        logits = np.log(np.maximum(logits, np.finfo(np.float32).tiny))
    return Evaluation(
        model=os.fspath(model),
        spec=spec,
        engine=engine,
        source=str(data.source),
        split=chosen,
        outputs=bound,
        samples=tuple(samples[i] for i in read),
        truth=np.array([bound[samples[i].label] for i in read], np.int64),
        logits=logits,
        skipped=tuple(errors.values()),
        notes=data.notes,
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
    progress: Tracker = silent,
) -> Answers:
    """Show every picture to a model, with the exact preprocessing of its spec; no more than the answers is kept.

    ``model`` is a name, a file, or a model that was opened before. ``threads`` is the number of cores to use, all by
    default, with an engine for each; ``device`` is where the engine ``torch`` computes; ``batch`` is the number of
    pictures that go through the network together. A picture that cannot be read is in the answer's ``errors``. Raises
    UsageError for arguments that do not fit, WeightsError for a model that cannot be used or answers with values that
    are not finite, and what ``open_engine`` raises.
    """

    def start(cores: int) -> Engine:
        return engines.open_engine(model, engine=engine, threads=cores, device=device)

    crew = Crew(start, len(samples), threads=threads, batch=batch)
    values = np.full((len(samples), crew.spec.num_classes), np.nan, np.float32)
    errors: dict[int, str] = {}

    def answer(mine: Engine, group: range) -> None:
        """Fill in the rows of a group's pictures, or why there is none."""
        read, pixels = read_pixels([samples[i] for i in group], mine.spec, errors, first=group.start)
        for k in range(0, len(read), batch):
            rows = [i for i, _ in read[k : k + batch]]
            values[rows] = mine.run(np.stack(pixels[k : k + batch]))[mine.spec.output]

    crew.work(answer, progress)
    if np.isnan(values).any(axis=1).sum() > len(errors) or np.isinf(values).any():
        raise not_finite(model)
    return Answers(values, dict(sorted(errors.items())))


def report(evaluation: Evaluation) -> Report:
    """The figures about the whole, and a row for each of the data's classes; shares and probabilities are in [0, 1].

    ``temperature`` is the model's own, with which ``ece`` and ``nll`` (in nats) were computed; ``best_temperature``
    is the one that these pictures would give. The macro average and the balanced accuracy are over the classes that
    have pictures; a precision that divides by nothing is 0.
    """
    count = len(evaluation.samples)
    top5 = metrics.in_top(evaluation.logits, evaluation.truth, 5)
    figures: dict[str, Cell] = {
        "model": evaluation.model,
        "data": evaluation.source,
        "split": evaluation.split,
        "engine": evaluation.engine,
        "pictures": count,
        "skipped": len(evaluation.skipped),
        "classes": len(evaluation.outputs),
        "model_classes": evaluation.spec.num_classes,
    }
    for name, right in (("top1", evaluation.right), ("top5", top5)):
        low, high = metrics.wilson_interval(int(right.sum()), count)
        figures |= {name: rounded(right.mean()), f"{name}_low": rounded(low), f"{name}_high": rounded(high)}
    logits, truth, temperature = evaluation.logits, evaluation.truth, evaluation.spec.temperature
    figures |= {
        "macro_f1": rounded(metrics.macro_f1(evaluation.confusion)),
        "balanced_accuracy": rounded(metrics.balanced_accuracy(evaluation.confusion)),
        "ece": rounded(metrics.expected_calibration_error(evaluation.confidence, evaluation.right)),
        "nll": rounded(metrics.negative_log_likelihood(logits, truth, temperature)),
        "temperature": temperature,
        "best_temperature": rounded(metrics.fit_temperature(logits, truth)),
        "seconds": round(evaluation.seconds, 3),
    }
    rows: tuple[dict[str, Cell], ...] = tuple(
        {
            "class": evaluation.names[output],
            "pictures": score.support,
            "precision": rounded(score.precision),
            "recall": rounded(score.recall),
            "f1": rounded(score.f1),
        }
        for output, score in zip(evaluation.outputs, metrics.class_scores(evaluation.confusion), strict=True)
    )
    return Report(evaluation.title, rows, figures)


def most_confused(evaluation: Evaluation) -> list[dict[str, Cell]]:
    """The pairs of classes that are taken for each other, the commonest first; the model's other classes by name."""
    pairs = Counter(
        (int(true), int(predicted))
        for true, predicted in zip(evaluation.truth, evaluation.predicted, strict=True)
        if true != predicted
    )
    support = Counter(map(int, evaluation.truth))
    return [
        {
            "true": evaluation.names[true],
            "predicted": evaluation.names[predicted],
            "pictures": count,
            "share": rounded(count / support[true]),
        }
        for (true, predicted), count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    ]


def mistakes(evaluation: Evaluation) -> list[dict[str, Cell]]:
    """The pictures that are named wrongly, the most confident first."""
    return [_mistake(evaluation, i) for i in worst(evaluation)]


def worst(evaluation: Evaluation) -> list[int]:
    """The indices of the pictures that are named wrongly, the highest-scoring first."""
    wrong = np.flatnonzero(~evaluation.right)
    order: list[int] = wrong[np.argsort(-evaluation.confidence[wrong], kind="stable")].tolist()
    return order


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """Two models on the pictures that both could be shown; UsageError where there are none."""
    places = {sample: i for i, sample in enumerate(second.samples)}
    pairs = [(i, places[sample]) for i, sample in enumerate(first.samples) if sample in places]
    if not pairs:
        raise UsageError(f"{first.title} and {second.title} have no picture in common: evaluate both on the same data")
    one, two = (e.right[[pair[k] for pair in pairs]] for k, e in enumerate((first, second)))
    both, only_one, only_two = (int(x.sum()) for x in (one & two, one & ~two, ~one & two))
    neither = len(pairs) - both - only_one - only_two
    return Comparison(
        model=first.model,
        other=second.model,
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


def to_json(
    evaluation: Evaluation, *, comparison: Comparison | None = None, calibration: Calibration | None = None
) -> str:
    """All of it as one object: the report's title and figures, its rows as ``classes``, confusion and mistakes.

    ``confusion`` has a list of counts for each class, in the order of ``columns``.
    """
    made = report(evaluation)
    columns = [*(row["class"] for row in made.rows), *([OTHER] if has_others(evaluation) else [])]
    content = {
        "title": made.title,
        "figures": made.figures,
        "classes": made.rows,
        "confusion": {"columns": columns, "counts": evaluation.confusion[:, : len(columns)].tolist()},
        "most_confused": most_confused(evaluation),
        "mistakes": mistakes(evaluation),
        "skipped": evaluation.skipped,
        "notes": evaluation.notes,
        "compare": None if comparison is None else comparison_figures(comparison),
        "calibration": None if calibration is None else calibration._asdict(),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def headlines(made: Report) -> dict[str, str]:
    """The figures of a ``report`` in the words of people; shares in percent."""
    figures = made.figures

    def percent(name: str) -> float:
        value = figures[name]
        assert isinstance(value, float)
        return 100 * value

    def share(name: str) -> str:
        return f"{percent(name):.1f} % (95 % interval {percent(f'{name}_low'):.1f} to {percent(f'{name}_high'):.1f})"

    unread = f", {cell_text(figures['skipped'])} could not be read" if figures["skipped"] else ""
    all_classes = cell_text(figures["model_classes"])
    among = "" if figures["classes"] == figures["model_classes"] else f"; the model chooses among its {all_classes}"
    pairs = [
        ("pictures", f"{cell_text(figures['pictures'])}{unread}"),
        ("classes", f"{cell_text(figures['classes'])}{among}"),
        ("top-1", share("top1")),
        ("top-5", share("top5")),
        ("balanced accuracy", f"{percent('balanced_accuracy'):.1f} %"),
        ("macro F1", f"{percent('macro_f1'):.1f} %"),
        ("calibration error", f"{percent('ece'):.1f} %"),
        ("log likelihood loss", cell_text(figures["nll"])),
        ("temperature", f"{cell_text(figures['temperature'])}, best {cell_text(figures['best_temperature'])}"),
        ("engine", f"{figures['engine']}, {cell_text(figures['seconds'])} s"),
    ]
    return dict(pairs)


def comparison_figures(comparison: Comparison) -> dict[str, Cell]:
    """A comparison as a row of a report."""
    return {
        "model": comparison.model,
        "other": comparison.other,
        "pictures": comparison.pictures,
        "top1": rounded(comparison.top1),
        "other_top1": rounded(comparison.other_top1),
        "both": comparison.both,
        "only_model": comparison.only_model,
        "only_other": comparison.only_other,
        "neither": comparison.neither,
        "p": rounded(comparison.p),
        "difference": rounded(comparison.difference.value),
        "difference_low": rounded(comparison.difference.low),
        "difference_high": rounded(comparison.difference.high),
        "sentence": comparison.sentence,
    }


def has_others(evaluation: Evaluation) -> bool:
    """Whether the model knows classes that the data does not have."""
    return len(evaluation.outputs) < evaluation.spec.num_classes


def _mistake(evaluation: Evaluation, i: int) -> dict[str, Cell]:
    return {
        "predicted": evaluation.names[evaluation.predicted[i]],
        "confidence": rounded(evaluation.confidence[i]),
        "true": evaluation.names[evaluation.truth[i]],
        "probability": rounded(evaluation.probability[i]),
        "path": evaluation.samples[i].name,
    }
