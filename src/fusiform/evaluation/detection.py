"""How much of what is in labelled pictures a detector finds, and how often it is wrong."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform import engines
from fusiform.data.annotated import AnnotatedSample, AnnotatedSet, BoxLabel
from fusiform.data.dataset import Split
from fusiform.data.open import choose_split, read_boxes
from fusiform.engines import Engine, EngineName
from fusiform.engines.crew import Crew, not_finite, read_pixels, readable
from fusiform.errors import UsageError
from fusiform.evaluation.compare import TaskEvaluation, comparison_figures
from fusiform.evaluation.figures import percent, rounded, share
from fusiform.progress import Tracker, silent
from fusiform.report import Cell, Report, cell_text
from fusiform.tasks import detection
from fusiform.tasks.bootstrap import RESAMPLES, Comparison
from fusiform.tasks.detection import EVALUATED_SCORE, SCORE_THRESHOLD, Detections
from fusiform.tasks.detection_metrics import (
    ClassMatches,
    Counts,
    DetectionScores,
    coco_scores,
    count_boxes,
    match_boxes,
    mean_average_precisions,
    precision_curve,
)
from fusiform.zoo.model import Model, open_model

CURVES = {"0.50": 0, "0.75": 5}
"""The intersections over union whose curves are shown, and their places among ``IOU_THRESHOLDS``."""


class FoundBoxes(NamedTuple):
    """What a detector finds in pictures, and what is there; nothing of both in a picture that could not be read.

    ``errors`` says why it could not, by the picture's index.
    """

    truth: tuple[tuple[BoxLabel, ...], ...]
    found: tuple[Detections | None, ...]
    errors: Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class BoxEvaluation(TaskEvaluation):
    """A detector's boxes in the pictures of a dataset, and what follows from them.

    ``truth`` are the true boxes of ``samples``, ``found`` all found ones scored above ``EVALUATED_SCORE``; labels are
    the model's. ``score`` is the threshold for boxes that are shown to people.
    """

    names = ("map", "map50")
    what = "mAP 0.50:0.95"

    score: float
    truth: tuple[tuple[BoxLabel, ...], ...] = field(repr=False)
    found: tuple[Detections, ...] = field(repr=False)

    @cached_property
    def scores(self) -> DetectionScores:
        """COCO's figures, by its own evaluator."""
        return coco_scores(self.truth, self.found, self.spec.num_classes)

    @cached_property
    def matches(self) -> tuple[ClassMatches, ...]:
        """Which boxes are right, for each of the model's classes."""
        return match_boxes(self.truth, self.found, self.spec.num_classes)

    @cached_property
    def class_counts(self) -> tuple[Counts, ...]:
        """Objects, found ones and wrong boxes in each picture, for each of the model's classes, at ``score``."""
        return tuple(count_boxes(each, self.score) for each in self.matches)

    @cached_property
    def counts(self) -> Counts:
        """The same of all classes together."""
        return Counts(*(np.sum(values, axis=0) for values in zip(*self.class_counts, strict=True)))

    def figure(self, weights: NDArray[np.int32]) -> NDArray[np.float64]:
        values = mean_average_precisions(self.matches, weights)
        return np.stack([values.mean(1), values[:, 0]], axis=1)


def evaluate(
    model: str | os.PathLike[str],
    data: AnnotatedSet | str | os.PathLike[str],
    *,
    split: Split | None = None,
    score: float = SCORE_THRESHOLD,
    engine: EngineName | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch: int = 1,
    progress: Tracker = silent,
) -> BoxEvaluation:
    """Show a detector the pictures of a dataset, a folder or file that ``read_boxes`` knows or what it has read.

    ``split`` None is test if there is one, else val, else all, else train; ``all`` is every picture there is. ``score``
    in [0, 1] is the threshold for precision and recall; average precision looks at every box. The other arguments are
    those of ``find_boxes``. Raises UsageError for a model that is no detector, data whose classes are not its own in
    their order, a split that is not there or has no picture that can be read, and what ``read_boxes``,
    ``find_boxes`` and ``coco_scores`` raise.
    """
    opened, name = open_model(model), os.fspath(model)
    spec = opened.spec
    if spec.task != "detection":
        raise UsageError(f"{name}: is for {spec.task}; boxes are for a detector")
    if not 0 <= score <= 1:
        raise UsageError(f"score must be in [0, 1], got {score}")
    if not isinstance(data, AnnotatedSet):
        data = read_boxes(data, spec, model=name)
    if data.task != "detection" or data.classes != spec.labels:
        raise UsageError(f"{data.source}: was not read with the classes of {name}: give its path")
    chosen, samples = choose_split(data.source, data.splits, split)
    coco_scores((), (), spec.num_classes)  # a missing evaluator is told now, not when all the pictures were shown
    started = time.perf_counter()
    answers = find_boxes(opened, samples, engine=engine, device=device, threads=threads, batch=batch, progress=progress)
    seconds = time.perf_counter() - started
    read = readable(data.source, chosen, len(samples), answers.errors)
    return BoxEvaluation(
        model=name,
        spec=spec,
        engine=engine or engines.own_engine(opened),
        source=str(data.source),
        split=chosen,
        score=score,
        samples=tuple(samples[i] for i in read),
        truth=tuple(answers.truth[i] for i in read),
        found=tuple(each for each in answers.found if each is not None),
        skipped=tuple(answers.errors.values()),
        notes=data.notes,
        seconds=seconds,
    )


def find_boxes(
    model: Model,
    samples: Sequence[AnnotatedSample],
    *,
    engine: EngineName | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch: int = 1,
    progress: Tracker = silent,
) -> FoundBoxes:
    """What a detector finds in each picture, down to ``EVALUATED_SCORE``, and the true boxes within the picture.

    ``threads`` is the number of cores to use, all by default, with an engine for each; ``device`` is where the engine
    ``torch`` computes; ``batch`` is the number of pictures that go through the network together. Raises UsageError for
    arguments that do not fit, WeightsError for a model that cannot be used or answers with values that are not finite,
    and what ``open_engine`` raises.
    """

    def start(cores: int) -> Engine:
        return engines.open_engine(model, engine=engine, threads=cores, device=device)

    crew = Crew(start, len(samples), threads=threads, batch=batch)
    truth: list[tuple[BoxLabel, ...]] = [()] * len(samples)
    found: list[Detections | None] = [None] * len(samples)
    errors: dict[int, str] = {}

    def answer(mine: Engine, group: range) -> None:
        read, pixels = read_pixels([samples[i] for i in group], mine.spec, errors, first=group.start)
        for k in range(0, len(read), batch):
            some = read[k : k + batch]
            said = mine.run(np.stack(pixels[k : k + batch]))
            if not all(np.isfinite(values).all() for values in said.values()):
                raise not_finite(model)
            boxes = detection.decode(
                said["logits"],
                said["codes"],
                mine.spec,
                sizes=[size for _, size in some],
                score_threshold=EVALUATED_SCORE,
            )
            for (i, size), each in zip(some, boxes, strict=True):
                truth[i], found[i] = boxes_within(samples[i], size), each

    crew.work(answer, progress)
    return FoundBoxes(tuple(truth), tuple(found), dict(sorted(errors.items())))


def box_figures(
    model: Model,
    samples: Sequence[AnnotatedSample],
    *,
    engine: EngineName | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch: int = 1,
    progress: Tracker = silent,
) -> dict[str, float]:
    """What training tells of its validation pictures: ``val_map`` and ``val_map50`` in [0, 1], and ``pictures``.

    Labels are the model's. Pictures that cannot be read are left out; where there is no object, both are 0. The
    arguments are those of ``find_boxes``.
    """
    answers = find_boxes(model, samples, engine=engine, device=device, threads=threads, batch=batch, progress=progress)
    truth = [boxes for boxes, each in zip(answers.truth, answers.found, strict=True) if each is not None]
    found = [each for each in answers.found if each is not None]
    values = np.nan_to_num(mean_average_precisions(match_boxes(truth, found, model.spec.num_classes))[0])
    return {"val_map": float(values.mean()), "val_map50": float(values[0]), "pictures": len(found)}


def boxes_within(sample: AnnotatedSample, size: tuple[int, int]) -> tuple[BoxLabel, ...]:
    """The true boxes within a picture of ``size``: where annotations do not say it, some may reach out of it."""
    if sample.boxes is None:
        raise ValueError(f"{sample.name}: its boxes were not read")
    if sample.size is not None:
        return sample.boxes
    width, height = size
    clipped = (replace(box, right=min(box.right, width), bottom=min(box.bottom, height)) for box in sample.boxes)
    return tuple(box for box in clipped if box.left < box.right and box.top < box.bottom)


def report(evaluation: BoxEvaluation) -> Report:
    """The figures about the whole, and a row for each class that has objects or was found; shares are in [0, 1].

    ``map`` is COCO's mean over intersections over union of 0.50 to 0.95, None where there is no object that it could
    be about; intervals are bootstrapped over the pictures. ``found`` and ``wrong`` count boxes scored above ``score``:
    of the ``objects``, those found at an intersection over union of 0.5, and the boxes that found none.
    """
    scores, counts = evaluation.scores, evaluation.counts
    with_objects = [each for each in evaluation.matches if each.objects.any()]
    figures: dict[str, Cell] = {
        "model": evaluation.model,
        "data": evaluation.source,
        "split": evaluation.split,
        "engine": evaluation.engine,
        "pictures": len(evaluation.samples),
        "skipped": len(evaluation.skipped),
        "classes": len(with_objects),
        "model_classes": evaluation.spec.num_classes,
        "objects": int(counts.objects.sum()),
    }
    for name, value in (("map", scores.ap), ("map50", scores.ap50)):
        interval = evaluation.intervals[name]
        figures |= {name: share(value), f"{name}_low": share(interval.low), f"{name}_high": share(interval.high)}
    figures |= {
        "map75": share(scores.ap75),
        "map_small": share(scores.small),
        "map_medium": share(scores.medium),
        "map_large": share(scores.large),
        "resamples": RESAMPLES,
        "score": evaluation.score,
        **_counted(counts),
        "seconds": round(evaluation.seconds, 3),
    }
    rows: list[dict[str, Cell]] = []
    for k, name in enumerate(evaluation.spec.labels):
        mine = evaluation.class_counts[k]
        if mine.objects.any() or mine.wrong.any():
            precisions = {"ap": share(scores.classes[k]), "ap50": share(scores.classes50[k])}
            rows.append({"class": name, "objects": int(mine.objects.sum()), **precisions, **_counted(mine)})
    return Report(evaluation.title, tuple(rows), figures)


def worst(evaluation: BoxEvaluation) -> list[int]:
    """The indices of the pictures with a missed object or a wrong box at ``score``, the worst first.

    The worst has the lowest F1, 2 found / (objects + boxes), and among equals the most that is wrong.
    """
    objects, found, wrong = evaluation.counts
    mistakes = objects - found + wrong
    f1 = 2 * found / np.maximum(objects + found + wrong, 1)
    order = np.lexsort((-mistakes, f1))
    return [int(i) for i in order if mistakes[i]]


def pictures(evaluation: BoxEvaluation) -> list[dict[str, Cell]]:
    """What is found, missed and wrong in each picture that is not all right, the worst first."""
    objects, found, wrong = evaluation.counts
    return [
        {
            "path": evaluation.samples[i].name,
            "objects": int(objects[i]),
            "found": int(found[i]),
            "missed": int(objects[i] - found[i]),
            "wrong": int(wrong[i]),
        }
        for i in worst(evaluation)
    ]


def mean_curve(evaluation: BoxEvaluation, threshold: int) -> list[float] | None:
    """The mean over the classes of ``precision_curve``, at 101 recalls; None where there are no objects."""
    curves = [precision_curve(each, threshold) for each in evaluation.matches]
    known = [curve for curve in curves if curve is not None]
    return [rounded(value) for value in np.mean(known, axis=0)] if known else None


def to_json(evaluation: BoxEvaluation, *, comparison: Comparison | None = None) -> str:
    """All of it as one object: the report's title and figures, its rows as ``classes``, curves and pictures.

    ``curves`` have the classes' mean precision at recalls 0.00, 0.01 ... 1.00, by the intersection over union;
    ``pictures`` those that are not all right.
    """
    made = report(evaluation)
    content = {
        "title": made.title,
        "figures": made.figures,
        "classes": made.rows,
        "curves": {name: mean_curve(evaluation, k) for name, k in CURVES.items()},
        "pictures": pictures(evaluation),
        "skipped": evaluation.skipped,
        "notes": evaluation.notes,
        "compare": None if comparison is None else comparison_figures(comparison),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def headlines(made: Report) -> dict[str, str]:
    """The figures of a ``report`` in the words of people; shares in percent."""
    figures = made.figures
    unread = f", {cell_text(figures['skipped'])} could not be read" if figures["skipped"] else ""
    among = "" if figures["classes"] == figures["model_classes"] else f"; the model knows {figures['model_classes']}"
    found, wrong = figures["found"], figures["wrong"]
    assert isinstance(found, int)
    assert isinstance(wrong, int)
    shown = f"boxes scored above {cell_text(figures['score'])}"
    return {
        "pictures": f"{cell_text(figures['pictures'])}{unread}",
        "objects": f"{cell_text(figures['objects'])} of {cell_text(figures['classes'])} classes{among}",
        "mAP 0.50:0.95": percent(figures, "map"),
        "mAP 0.50": percent(figures, "map50"),
        "mAP 0.75": percent(figures, "map75"),
        "mAP small": f"{percent(figures, 'map_small')}, below 32 x 32 pixels",
        "mAP medium": percent(figures, "map_medium"),
        "mAP large": f"{percent(figures, 'map_large')}, above 96 x 96 pixels",
        "intervals": f"over {cell_text(figures['resamples'])} resamples of the pictures",
        "recall": f"{percent(figures, 'recall')}: {found:,} of the objects found by {shown}",
        "precision": f"{percent(figures, 'precision')}: {found:,} of {found + wrong:,} such boxes right",
        "engine": f"{figures['engine']}, {cell_text(figures['seconds'])} s",
    }


def _counted(counts: Counts) -> dict[str, Cell]:
    objects, found, wrong = (int(values.sum()) for values in counts)
    return {
        "found": found,
        "wrong": wrong,
        "precision": rounded(found / (found + wrong)) if found + wrong else None,
        "recall": rounded(found / objects) if objects else None,
    }
