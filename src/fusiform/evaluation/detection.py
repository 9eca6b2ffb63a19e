"""How much of what is in labelled pictures a detector finds, and how often it is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform import engines
from fusiform.data.annotated import AnnotatedSample, AnnotatedSet, BoxLabel
from fusiform.data.dataset import Split
from fusiform.drawing.curves import precision_recall_diagram
from fusiform.drawing.overlay import draw_boxes
from fusiform.drawing.page import LARGE, Card, Headline, Page, percent_text
from fusiform.engines import Engine, EngineName
from fusiform.engines.crew import Crew, not_finite, read_pixels, readable
from fusiform.errors import ImageError, UsageError
from fusiform.evaluation import page_parts
from fusiform.evaluation.base import SCHEMA, AnnotationEvaluation, Rows
from fusiform.evaluation.figures import percent, rounded, share
from fusiform.evaluation.page_parts import FEW_IMAGES, text_size
from fusiform.evaluation.source import choose_boxes
from fusiform.progress import Tracker, silent
from fusiform.report import Cell, Report, cell_text
from fusiform.tasks import detection
from fusiform.tasks.bootstrap import RESAMPLES
from fusiform.tasks.detection import EVALUATED_SCORE, SCORE_THRESHOLD, Box, Detections
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
from fusiform.zoo.model import Model

Look = Callable[[int, tuple[int, int], Mapping[str, NDArray[np.float32]]], None]
"""Is shown a picture's number and size (width, height), and the network's answer to it as ``Engine.run`` gives it."""


CURVES = {"0.50": 0, "0.75": 5}
"""The intersections over union whose curves are shown, and their places among ``IOU_THRESHOLDS``."""
SHOWN_PICTURES = 12
SHOWN_CURVES = 20
"""More classes than these make lines that nobody can tell apart; the drawing then has only their mean."""


class FoundBoxes(NamedTuple):
    """What a detector finds in pictures, and what is there; nothing of both in a picture that could not be read.

    ``errors`` says why it could not, by the picture's index.
    """

    truth: tuple[tuple[BoxLabel, ...], ...]
    found: tuple[Detections | None, ...]
    errors: Mapping[int, str]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class DetectionEvaluation(AnnotationEvaluation):
    """A detector's boxes in the images of a dataset, and what follows from them.

    ``truth`` are the true boxes of ``samples``, ``found`` all found ones scored above ``EVALUATED_SCORE``; labels are
    the model's. ``score`` is the threshold for boxes that are shown to people.
    """

    names = ("map", "map50")
    main = "mAP 0.50:0.95"

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

    @property
    def metrics(self) -> dict[str, float | None]:
        """``map``, ``map50``, ``map75``, and ``precision`` and ``recall`` at ``score``, all in [0, 1]."""
        figures = self.report().figures
        names = ("map", "map50", "map75", "precision", "recall")
        return {name: value if isinstance(value := figures[name], float) else None for name in names}

    @cached_property
    def _report(self) -> Report:
        scores, counts = self.scores, self.counts
        with_objects = [each for each in self.matches if each.objects.any()]
        figures: dict[str, Cell] = {
            "model": self.model,
            "data": self.source,
            "split": self.split,
            "task": self.spec.task,
            "engine": self.engine,
            "images": len(self.samples),
            "skipped": len(self.skipped),
            "classes": len(with_objects),
            "model_classes": self.spec.num_classes,
            "objects": int(counts.objects.sum()),
        }
        for name, value in (("map", scores.ap), ("map50", scores.ap50)):
            interval = self.intervals[name]
            figures |= {name: share(value), f"{name}_low": share(interval.low), f"{name}_high": share(interval.high)}
        figures |= {
            "map75": share(scores.ap75),
            "map_small": share(scores.small),
            "map_medium": share(scores.medium),
            "map_large": share(scores.large),
            "resamples": RESAMPLES,
            "score": self.score,
            **_counted(counts),
            "seconds": round(self.seconds, 3),
        }
        rows: list[dict[str, Cell]] = []
        for k, name in enumerate(self.spec.labels):
            mine = self.class_counts[k]
            if mine.objects.any() or mine.wrong.any():
                precisions = {"ap": share(scores.classes[k]), "ap50": share(scores.classes50[k])}
                rows.append({"class": name, "objects": int(mine.objects.sum()), **precisions, **_counted(mine)})
        return Report(self.title, tuple(rows), figures, schema=SCHEMA)

    def report(self) -> Report:
        """The figures about the whole, and a row for each class that has objects or was found; shares are in [0, 1].

        ``map`` is COCO's mean over intersections over union of 0.50 to 0.95, None where there is no object that it
        could be about; intervals are bootstrapped over the images. ``found`` and ``wrong`` count boxes scored above
        ``score``: of the ``objects``, those found at an intersection over union of 0.5, and the boxes that found none.
        """
        return self._report

    def headlines(self) -> dict[str, str]:
        figures = self.report().figures
        unread = f", {cell_text(figures['skipped'])} could not be read" if figures["skipped"] else ""
        every = figures["model_classes"]
        among = "" if figures["classes"] == every else f"; the model knows {every}"
        found, wrong = int(self.counts.found.sum()), int(self.counts.wrong.sum())
        shown = f"boxes scored above {cell_text(figures['score'])}"
        return {
            "pictures": f"{cell_text(figures['images'])}{unread}",
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

    def worst(self) -> list[int]:
        """The indices of the images with a missed object or a wrong box at ``score``, the worst first.

        The worst has the lowest F1, 2 found / (objects + boxes), and among equals the most that is wrong.
        """
        objects, found, wrong = self.counts
        mistakes = objects - found + wrong
        f1 = 2 * found / np.maximum(objects + found + wrong, 1)
        order = np.lexsort((-mistakes, f1))
        return [int(i) for i in order if mistakes[i]]

    def pictures(self) -> list[dict[str, Cell]]:
        """What is found, missed and wrong in each image that is not all right, the worst first."""
        objects, found, wrong = self.counts
        return [
            {
                "path": self.samples[i].name,
                "objects": int(objects[i]),
                "found": int(found[i]),
                "missed": int(objects[i] - found[i]),
                "wrong": int(wrong[i]),
            }
            for i in self.worst()
        ]

    def mean_curve(self, threshold: int) -> list[float] | None:
        """The mean over the classes of ``precision_curve``, at 101 recalls; None where there are no objects."""
        curves = [precision_curve(each, threshold) for each in self.matches]
        known = [curve for curve in curves if curve is not None]
        return [rounded(value) for value in np.mean(known, axis=0)] if known else None

    def _details(self) -> dict[str, Any]:
        """``curves`` have the precisions at recalls of 0.00, 0.01 ... 1.00; ``worst_images`` are not all right."""
        curves = [{"iou": float(name), "precisions": self.mean_curve(k)} for name, k in CURVES.items()]
        return {"curves": curves, "worst_images": self.pictures()}

    def _tables(self) -> dict[str, Rows]:
        return {"Worst pictures": self.pictures()}

    def _fill(self, page: Page) -> None:
        _fill_page(self, page)


def evaluate(
    model: Model,
    data: AnnotatedSet,
    *,
    name: str,
    split: Split | None = None,
    score: float = SCORE_THRESHOLD,
    engine: EngineName | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch: int = 1,
    progress: Tracker = silent,
    answered: FoundBoxes | None = None,
) -> DetectionEvaluation:
    """Show a detector, called ``name``, the images of a dataset; see ``job.evaluate``.

    Where it has ``answered`` all of them already, none is shown again.

    ``score`` in [0, 1] is the threshold for precision and recall; average precision looks at every box. Raises
    UsageError for data whose classes are not the model's in their order, a split that is not there or has no picture
    that can be read, and what ``find_boxes`` and ``coco_scores`` raise.
    """
    spec = model.spec
    if not 0 <= score <= 1:
        raise UsageError(f"score must be in [0, 1], got {score}")
    chosen = choose_boxes(data, spec, split=split, model=name)
    samples = chosen.samples
    coco_scores((), (), spec.num_classes)  # a missing evaluator is told now, not when all the pictures were shown
    started = time.perf_counter()
    answers = answered or find_boxes(
        model, samples, engine=engine, device=device, threads=threads, batch=batch, progress=progress
    )
    seconds = time.perf_counter() - started
    read = readable(chosen.source, chosen.split, len(samples), answers.errors)
    return DetectionEvaluation(
        model=name,
        spec=spec,
        engine=engine or engines.default_engine(model),
        source=str(chosen.source),
        split=chosen.split,
        score=score,
        samples=tuple(samples[i] for i in read),
        truth=tuple(answers.truth[i] for i in read),
        found=tuple(each for each in answers.found if each is not None),
        skipped=tuple(answers.errors.values()),
        notes=chosen.notes,
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
    look: Look | None = None,
) -> FoundBoxes:
    """What a detector finds in each picture, down to ``EVALUATED_SCORE``, and the true boxes within the picture.

    ``threads`` is the number of cores to use, all by default, with an engine for each; ``device`` is where the engine
    ``torch`` computes; ``batch`` is the number of pictures that go through the network together. ``look`` is shown the
    network's answer to each picture that can be read, in several threads. Raises UsageError for arguments that do not
    fit, WeightsError for a model that cannot be used or answers with values that are not finite, and what
    ``open_engine`` raises.
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
            boxes = detection.detect(said, mine.spec, sizes=[size for _, size in some], score_threshold=EVALUATED_SCORE)
            for row, ((i, size), each) in enumerate(zip(some, boxes, strict=True)):
                truth[i], found[i] = boxes_within(samples[i], size), each
                if look is not None:
                    look(i, size, {name: values[row] for name, values in said.items()})

    crew.work(answer, progress)
    return FoundBoxes(tuple(truth), tuple(found), dict(sorted(errors.items())))


def box_figures(
    model: Model, samples: Sequence[AnnotatedSample], *, threads: int | None = None, progress: Tracker = silent
) -> dict[str, float]:
    """What training tells of its images at the end: ``map`` and ``map50`` in [0, 1], and ``images``.

    Labels are the model's. Pictures that cannot be read are left out; where there is no object, both are 0.
    """
    answers = find_boxes(model, samples, threads=threads, progress=progress)
    pairs = zip(answers.truth, answers.found, strict=True)
    seen = [(boxes, each) for boxes, each in pairs if each is not None]
    return {**precisions(seen, model.spec.num_classes), "images": len(seen)}


def precisions(seen: Sequence[tuple[Sequence[BoxLabel], Detections]], classes: int) -> dict[str, float]:
    """``map`` and ``map50`` in [0, 1] of what is there and what was found in each image; 0 where there is no object."""
    truth, found = [boxes for boxes, _ in seen], [each for _, each in seen]
    values = np.nan_to_num(mean_average_precisions(match_boxes(truth, found, classes))[0])
    return {"map": float(values.mean()), "map50": float(values[0])}


def boxes_within(sample: AnnotatedSample, size: tuple[int, int]) -> tuple[BoxLabel, ...]:
    """The true boxes within a picture of ``size``: where annotations do not say it, some may reach out of it."""
    if sample.boxes is None:
        raise ValueError(f"{sample.name}: its boxes were not read")
    if sample.size is not None:
        return sample.boxes
    width, height = size
    clipped = (replace(box, right=min(box.right, width), bottom=min(box.bottom, height)) for box in sample.boxes)
    return tuple(box for box in clipped if box.left < box.right and box.top < box.bottom)


def _counted(counts: Counts) -> dict[str, Cell]:
    objects, found, wrong = (int(values.sum()) for values in counts)
    return {
        "found": found,
        "wrong": wrong,
        "precision": rounded(found / (found + wrong)) if found + wrong else None,
        "recall": rounded(found / objects) if objects else None,
    }


# --- the page ---


def _fill_page(evaluation: DetectionEvaluation, page: Page) -> None:
    """Add all of it to a page that has begun."""
    e = evaluation
    _add_figures(e, page)
    page.add_notes(e.notes)
    page_parts.add_comparison(page, e.comparison)
    if worst := e.worst():
        page.add_heading("Worst images", count=len(worst))
        page.add_text(
            f"What was found with a confidence score above {e.score:g}, beside the ground truth. Crowds and difficult "
            "objects are marked; who finds one is neither right nor wrong."
        )
        page.add_cards(_card(e, i) for i in worst[:SHOWN_PICTURES])
    _add_curves(e, page)
    page_parts.add_advice(page, _advice(e))
    if rows := e.report().rows:
        page.add_heading("Classes", count=len(rows))
        page.add_table(page_parts.shares(rows), first=20)
    e._add_end(
        page,
        [
            (
                "mean average precision",
                "COCO's",
                "The area below the curve of precision and recall, mean over the classes and over the intersections "
                "over union of 0.50, 0.55 to 0.95.",
            ),
            ("intervals", f"{RESAMPLES:,} resamples", "What comes out for as many images drawn from these at random."),
        ],
    )


def _add_figures(e: DetectionEvaluation, page: Page) -> None:
    scores, counts = e.scores, e.counts
    objects, found, wrong = (int(values.sum()) for values in counts)
    images = f"{len(e.samples):,} images"
    fifty = e.intervals["map50"]
    interval = "" if fifty.low is None or fifty.high is None else f"{100 * fifty.low:.1f} to {100 * fifty.high:.1f}"
    shown = f"at a score above {e.score:g}"
    figures = [
        page_parts.figure(scores.ap50, "mAP 0.50", interval and f"95 % interval {interval}"),
        page_parts.figure(scores.ap75, "mAP 0.75"),
        page_parts.figure(found / (found + wrong) if found + wrong else None, "precision", shown),
        page_parts.figure(found / objects if objects else None, "recall", shown),
        page_parts.figure(scores.small, "mAP small", "below 32 x 32 pixels"),
        page_parts.figure(scores.medium, "mAP medium"),
        page_parts.figure(scores.large, "mAP large", "above 96 x 96 pixels"),
        Headline(f"{objects:,}", "objects", note=f"in {images}"),
    ]
    page.add_headlines([page_parts.deciding(e.interval, "mAP 0.50:0.95", images)], figures)
    page.add_lead(
        f"At a confidence score above {e.score:g} it finds {found:,} of {objects:,} objects, and {wrong:,} of its "
        f"{found + wrong:,} boxes are wrong."
    )


def _add_curves(e: DetectionEvaluation, page: Page) -> None:
    curves = {
        f"mean of the classes, IoU {name}": curve
        for name, k in CURVES.items()
        if (curve := e.mean_curve(k)) is not None
    }
    if not curves:
        return
    found = {
        name: values.tolist()
        for name, matches in zip(e.spec.labels, e.matches, strict=True)
        if (values := precision_curve(matches)) is not None
    }
    few = len(found) <= SHOWN_CURVES
    page.add_heading("Precision and recall", wide=False)
    page.add_text(
        "From the highest-scoring boxes alone, left, to all of them: the share of the objects that is found, and of "
        "the boxes that are right." + (" Thin lines are single classes at an IoU of 0.50." if few else "")
    )
    page.add_svg(precision_recall_diagram(curves, found if few else {}))


def _card(e: DetectionEvaluation, i: int) -> Card:
    """An image with the boxes that were found, beside the same with the true ones."""
    sample, found = e.samples[i], e.found[i]
    objects, right, wrong = (int(values[i]) for values in e.counts)
    said = f"{right} found, {objects - right} missed, {wrong} wrong"
    name = Path(sample.name).name
    try:
        image = sample.read()
    except ImageError:  # it was there a moment ago
        return Card([(None, "")], said, name=name)
    image.thumbnail((LARGE, LARGE))
    size = text_size(image)
    shown = Detections(tuple(box for box in found.boxes if box.score > e.score), found.width, found.height)
    known = Detections(tuple(_known(box, e.spec.labels) for box in e.truth[i]), found.width, found.height)
    pictures = [
        (draw_boxes(image, shown, size=size), "found"),
        (draw_boxes(image, known, scores=False, size=size), f"ground truth: {objects}"),
    ]
    return Card(pictures, said, name=name)


def _advice(e: DetectionEvaluation) -> Iterator[str]:
    """What would make the detector better, as far as these boxes show it."""
    scores = e.scores
    objects, found, wrong = (int(values.sum()) for values in e.counts)
    missed = objects - found
    if missed > 2 * wrong and e.score > 0.1:
        yield f"Most mistakes are missed objects. A lower --score than {e.score:g} finds more, with more wrong boxes."
    elif wrong > 2 * missed:
        yield f"Most mistakes are wrong boxes. A higher --score than {e.score:g} leaves more of them out."
    if scores.small is not None and scores.large is not None and scores.small < scores.large / 2:
        yield (
            "Small objects are found far less well than large ones. Train with a larger input (--set size=320), or cut "
            "large images into tiles."
        )
    rows = [row for row in e.report().rows if row["ap"] is not None and int(str(row["objects"])) >= FEW_IMAGES]
    if len(rows) > 1:
        weakest = min(rows, key=lambda row: float(str(row["ap"])))
        yield (
            f"{weakest['class']} has the lowest average precision, {percent_text(float(str(weakest['ap'])), 0)}. Look "
            "at its boxes with fusiform doctor, and add images of it."
        )
    few = [row for row in e.report().rows if int(str(row["objects"])) < FEW_IMAGES]
    if few:
        yield (
            f"{len(few):,} of {len(e.report().rows):,} classes have fewer than {FEW_IMAGES} objects here. Their own "
            "figures say little."
        )
    yield from page_parts.interval_advice(e.interval, len(e.samples))
    if not missed + wrong:
        yield "Nothing is wrong on these images. Harder ones, from where the model will be used, would tell more."


def _known(box: BoxLabel, labels: Sequence[str]) -> Box:
    """A true box to be drawn, under its class's name; crowds and difficult objects are marked."""
    mark = " (crowd)" if box.crowd else " (difficult)" if box.difficult else ""
    return Box(box.label, labels[box.label] + mark, 1.0, box.left, box.top, box.right, box.bottom)
