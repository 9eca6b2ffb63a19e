"""How much of labelled pictures a segmenter outlines right, and what it takes for what."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform import engines
from fusiform.data.annotated import AnnotatedSample, AnnotatedSet
from fusiform.data.dataset import Split
from fusiform.data.masks import IGNORE
from fusiform.data.preprocess import Placement, crop_pixels, placement
from fusiform.drawing import charts
from fusiform.drawing.overlay import color_of, draw_mask
from fusiform.drawing.page import LARGE, Card, Headline, Page, percent_text
from fusiform.engines import Engine, EngineName
from fusiform.engines.crew import Crew, not_finite, read_pixels, readable
from fusiform.errors import ImageError, UsageError
from fusiform.evaluation import page_parts
from fusiform.evaluation.base import SCHEMA, AnnotationEvaluation, Rows
from fusiform.evaluation.figures import OTHER, percent, percentages, rounded, share
from fusiform.evaluation.multi_scale import MultiScaleEngine
from fusiform.evaluation.source import choose_masks
from fusiform.machine import usable_cores
from fusiform.progress import Tracker, silent
from fusiform.report import Cell, Report, cell_text
from fusiform.tasks import segmentation
from fusiform.tasks.bootstrap import RESAMPLES
from fusiform.tasks.segmentation import SegmentationMap
from fusiform.tasks.segmentation_metrics import (
    class_counts,
    class_ious,
    mean_iou,
    pixel_accuracy,
    pixel_confusion,
)
from fusiform.zoo.model import Model

_NO_CLASS = -1
"""Stands for ``IGNORE`` in a true mask of the model's labels, of which there may be more than 255."""

Look = Callable[[int, NDArray[np.float32], NDArray[np.int32]], None]
"""Is shown a picture's number, the network's logits (h, w, classes) and the true mask (height, width) of the model's
labels, -1 where a pixel belongs to no class."""


SHOWN_PICTURES = 12
LARGEST_MATRIX = 50
"""More classes than these make a matrix that nobody can read."""
SMALL_SHARE = 0.01
"""A share of all pixels below which a class is easily overlooked."""


Again = Callable[[Sequence[int]], Iterator[tuple[Image.Image, SegmentationMap, SegmentationMap] | None]]
"""Shows images of these indices to the model once more: each with its true and its found mask, None for one that is
gone."""


class Outlines(NamedTuple):
    """What a segmenter's masks have in common with the true ones; no mask is kept.

    ``counts`` (pictures, 3, classes) are ``class_counts`` of each picture, 0 for one that could not be read, for which
    ``errors`` says why, by its index. ``confusion`` is that of all pixels, true classes by found ones.
    """

    counts: NDArray[np.int64]
    confusion: NDArray[np.int64]
    errors: Mapping[int, str]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class SegmentationEvaluation(AnnotationEvaluation):
    """A segmenter's masks of the images of a dataset against the true ones, and what follows from them.

    ``outputs`` are the model's classes that the data knows, in the order of the data's, whose labels the masks' values
    are. ``counts`` (images, 3, model's classes) are the pixels of ``samples`` as ``class_counts`` counts them,
    ``confusion`` (model's classes, the same) those of all images. No mask is kept: a page shows the worst images to
    ``opened``, the model, once more, on ``threads`` cores, all by default.
    """

    names = ("miou", "pixel_accuracy")
    main = "mean IoU"

    opened: Model = field(repr=False)
    device: str
    threads: int | None
    multi_scale: bool
    outputs: tuple[int, ...]
    counts: NDArray[np.int64] = field(repr=False)
    confusion: NDArray[np.int64] = field(repr=False)

    def figure(self, weights: NDArray[np.int32]) -> NDArray[np.float64]:
        counts = self.counts.reshape(len(self.samples), -1).astype(np.float64)
        total = (weights @ counts).reshape(len(weights), *self.counts.shape[1:])
        return np.stack([mean_iou(total, self.outputs), pixel_accuracy(total)], axis=1)

    @property
    def metrics(self) -> dict[str, float | None]:
        """``miou`` and ``pixel_accuracy`` in [0, 1]."""
        return {name: share(interval.value) for name, interval in self.intervals.items()}

    @cached_property
    def _report(self) -> Report:
        total = self.counts.sum(0)
        right, true, found = total
        figures: dict[str, Cell] = {
            "model": self.model,
            "data": self.source,
            "split": self.split,
            "task": self.spec.task,
            "engine": self.engine,
            "multi_scale": self.multi_scale,
            "images": len(self.samples),
            "skipped": len(self.skipped),
            "classes": len(self.outputs),
            "model_classes": self.spec.num_classes,
            "pixels": int(true.sum()),
        }
        for name, (value, low, high) in self.intervals.items():
            figures |= {name: share(value), f"{name}_low": share(low), f"{name}_high": share(high)}
        figures |= {"resamples": RESAMPLES, "seconds": round(self.seconds, 3)}
        ious = class_ious(total)
        rows: tuple[dict[str, Cell], ...] = tuple(
            {
                "class": self.spec.labels[k],
                "pixels": int(true[k]),
                "iou": None if np.isnan(ious[k]) else rounded(ious[k]),
                "precision": rounded(right[k] / found[k]) if found[k] else None,
                "recall": rounded(right[k] / true[k]) if true[k] else None,
            }
            for k in self.outputs
        )
        return Report(self.title, rows, figures, schema=SCHEMA)

    def report(self) -> Report:
        """The figures about the whole, and a row for each of the data's classes; shares are in [0, 1].

        ``miou`` is the mean over the data's classes of true positives / (true positives + false positives + false
        negatives), counted over all pixels at once; a class that is neither true nor found anywhere is no part of it,
        and has no ``iou``. Intervals are bootstrapped over the images. ``pixels`` are those that belong to a class.
        """
        return self._report

    def headlines(self) -> dict[str, str]:
        figures = self.report().figures
        unread = f", {cell_text(figures['skipped'])} could not be read" if figures["skipped"] else ""
        all_classes = cell_text(figures["model_classes"])
        among = "" if len(self.outputs) == self.spec.num_classes else f"; the model chooses among its {all_classes}"
        scales = ", at six scales and mirrored" if self.multi_scale else ""
        return {
            "pictures": f"{cell_text(figures['images'])}{unread}",
            "classes": f"{cell_text(figures['classes'])}{among}",
            "mean IoU": percent(figures, "miou"),
            "pixel accuracy": f"{percent(figures, 'pixel_accuracy')}, of {cell_text(figures['pixels'])} pixels",
            "intervals": f"over {cell_text(figures['resamples'])} resamples of the pictures",
            "engine": f"{figures['engine']}{scales}, {cell_text(figures['seconds'])} s",
        }

    def confusion_columns(self) -> tuple[list[str], NDArray[np.int64]]:
        """The names of the columns, and pixels (data's classes, columns): true classes by found ones.

        The columns are the same classes, and one for all others of the model where it has others.
        """
        chosen = list(self.outputs)
        names = [self.spec.labels[k] for k in chosen]
        rows = self.confusion[chosen]
        if len(chosen) == self.spec.num_classes:
            return names, rows[:, chosen]
        others = rows.sum(1) - rows[:, chosen].sum(1)
        return [*names, OTHER], np.concatenate([rows[:, chosen], others[:, None]], axis=1)

    def worst(self) -> list[int]:
        """The indices of the images, the one with the lowest mean intersection over union first.

        Of each image over its own classes, those that are true or found in it; images without a pixel that counts are
        left out.
        """
        ious = mean_iou(self.counts, self.outputs)
        return [int(i) for i in np.argsort(ious, kind="stable") if not np.isnan(ious[i])]

    def pictures(self) -> list[dict[str, Cell]]:
        """The mean intersection over union and the share of right pixels of each image, the worst first."""
        ious, accuracies = mean_iou(self.counts, self.outputs), pixel_accuracy(self.counts)
        return [
            {
                "path": self.samples[i].name,
                "miou": rounded(ious[i]),
                "pixel_accuracy": None if np.isnan(accuracies[i]) else rounded(accuracies[i]),
            }
            for i in self.worst()
        ]

    def _details(self) -> dict[str, Any]:
        """``confusion`` has a list of pixels for each class, in the order of ``columns``."""
        columns, counts = self.confusion_columns()
        return {"confusion": {"columns": columns, "counts": counts.tolist()}, "worst_images": self.pictures()}

    def _tables(self) -> dict[str, Rows]:
        return {"Worst pictures": self.pictures()}

    def _fill(self, page: Page) -> None:
        _fill_page(self, page, lambda chosen: outline_again(self, chosen))


def evaluate(
    model: Model,
    data: AnnotatedSet,
    *,
    name: str,
    split: Split | None = None,
    multi_scale: bool = False,
    engine: EngineName | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch: int = 1,
    progress: Tracker = silent,
    answered: Outlines | None = None,
) -> SegmentationEvaluation:
    """Show a segmenter, called ``name``, the images of a dataset; see ``job.evaluate``.

    Where it has ``answered`` all of them already, none is shown again.

    Raises UsageError for data with classes that the model does not have, a split that is not there or has no picture
    that can be read, and what ``outline`` raises.
    """
    chosen = choose_masks(data, model.spec, split=split, model=name)
    samples = chosen.samples
    started = time.perf_counter()
    outlines = answered or outline(
        model,
        samples,
        labels=chosen.outputs,
        multi_scale=multi_scale,
        engine=engine,
        device=device,
        threads=threads,
        batch=batch,
        progress=progress,
    )
    seconds = time.perf_counter() - started
    read = readable(chosen.source, chosen.split, len(samples), outlines.errors)
    return SegmentationEvaluation(
        model=name,
        spec=model.spec,
        engine="torch" if multi_scale else engine or engines.default_engine(model),
        opened=model,
        device=device,
        threads=threads,
        multi_scale=multi_scale,
        source=str(chosen.source),
        split=chosen.split,
        outputs=chosen.outputs,
        samples=tuple(samples[i] for i in read),
        counts=outlines.counts[read],
        confusion=outlines.confusion,
        skipped=tuple(outlines.errors.values()),
        notes=chosen.notes,
        seconds=seconds,
    )


def outline(
    model: Model,
    samples: Sequence[AnnotatedSample],
    *,
    labels: Sequence[int] | None = None,
    multi_scale: bool = False,
    engine: EngineName | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch: int = 1,
    progress: Tracker = silent,
    look: Look | None = None,
) -> Outlines:
    """Compare a segmenter's masks with the true ones, pixel by pixel at the photographs' own size.

    ``labels`` are the model's labels for the masks' values 0, 1 and so on; by default they are the same. A picture or
    mask that cannot be read is in the answer's ``errors``. ``multi_scale`` shows every picture at six scales and
    mirrored, at its own aspect (Sandler et al., arXiv 1801.04381, Section 6.3), which the engine ``torch`` does.
    ``threads`` is the number of cores to use, all by default, with an engine for each; ``device`` is where the engine
    ``torch`` computes; ``batch`` is the number of pictures that go through the network together. ``look`` is shown the
    network's answer to each picture that can be read, in several threads. Raises UsageError for arguments that do not
    fit, WeightsError for a model that cannot be used or answers with values that are not finite, and what
    ``open_engine`` raises.
    """
    start = _starter(model, multi_scale=multi_scale, engine=engine, device=device)
    crew = Crew(start, len(samples), threads=threads, batch=batch)
    classes = crew.spec.num_classes
    labels = range(classes) if labels is None else labels
    counts = np.zeros((len(samples), 3, classes), np.int64)
    confusion = np.zeros((classes, classes), np.int64)
    errors: dict[int, str] = {}
    adding = threading.Lock()

    def answer(mine: Engine, group: range) -> None:
        read, pixels = read_pixels([samples[i] for i in group], mine.spec, errors, first=group.start)
        for k in range(0, len(read), batch):
            some = read[k : k + batch]
            shown = _answers(mine, pixels[k : k + batch], [size for _, size in some])
            for (i, size), (values, place) in zip(some, shown, strict=True):
                if not np.isfinite(values).all():
                    raise not_finite(model)
                try:
                    truth = read_truth(samples[i], size, labels)
                except ImageError as error:
                    errors[i] = str(error)
                    continue
                found = pixel_confusion(
                    truth,
                    segmentation.decode(values, mine.spec, size, placement=place).classes,
                    classes,
                    ignore=_NO_CLASS,
                )
                counts[i] = class_counts(found)
                with adding:
                    confusion[:] += found
                if look is not None:
                    look(i, values, truth)

    crew.work(answer, progress)
    return Outlines(counts, confusion, dict(sorted(errors.items())))


def mask_figures(
    model: Model, samples: Sequence[AnnotatedSample], *, threads: int | None = None, progress: Tracker = silent
) -> dict[str, float]:
    """What training tells of its images at the end: ``miou``, ``pixel_accuracy`` in [0, 1], and ``images``.

    The masks' values are the model's labels. Pictures and masks that cannot be read are left out; where no pixel
    counts, both are 0.
    """
    found = outline(model, samples, threads=threads, progress=progress)
    return {**overlaps(found.counts.sum(0)), "images": len(samples) - len(found.errors)}


def overlaps(counts: NDArray[np.int64] | NDArray[np.float64]) -> dict[str, float]:
    """``miou`` and ``pixel_accuracy`` in [0, 1] of counts (3, classes) over all images; 0 where no pixel counts."""
    return {
        "miou": float(np.nan_to_num(mean_iou(counts, range(counts.shape[-1])))),
        "pixel_accuracy": float(np.nan_to_num(pixel_accuracy(counts))),
    }


def read_truth(sample: AnnotatedSample, size: tuple[int, int], labels: Sequence[int]) -> NDArray[np.int32]:
    """The true mask of a photograph of ``size`` in the model's ``labels``, -1 where it says nothing; ImageError."""
    table = np.full(IGNORE + 1, _NO_CLASS, np.int32)
    known = min(len(labels), IGNORE)
    table[:known] = labels[:known]
    return table[sample.read_labels(size, classes=len(labels))]


def outline_again(
    evaluation: SegmentationEvaluation, chosen: Sequence[int]
) -> Iterator[tuple[Image.Image, SegmentationMap, SegmentationMap] | None]:
    """Some pictures with their true and found masks, to look at; None for one that can no longer be read.

    Masks are as large as the pictures. In the true one the background stands for pixels that belong to no class.
    """
    spec = evaluation.spec
    start = _starter(
        evaluation.opened, multi_scale=evaluation.multi_scale, engine=evaluation.engine, device=evaluation.device
    )
    engine = start(evaluation.threads or usable_cores())
    for i in chosen:
        sample = evaluation.samples[i]
        try:
            image = sample.read()
            truth = read_truth(sample, image.size, evaluation.outputs)
        except ImageError:  # it was there a moment ago
            yield None
            continue
        ((said, place),) = _answers(engine, [crop_pixels(image, spec.preprocess)], [image.size])
        kind = np.uint8 if spec.num_classes <= IGNORE else np.uint16
        true = SegmentationMap(np.maximum(truth, 0).astype(kind), spec.labels)
        yield image, true, segmentation.decode(said, spec, image.size, placement=place)


def _starter(model: Model, *, multi_scale: bool, engine: EngineName | None, device: str) -> Callable[[int], Engine]:
    """What opens an engine with a number of threads."""
    if multi_scale and engine not in (None, "torch"):
        raise UsageError(f"several scales are for the engine torch, not {engine}: its networks take any size")

    def start(cores: int) -> Engine:
        if multi_scale:
            return MultiScaleEngine(model, threads=cores, device=device)
        return engines.open_engine(model, engine=engine, threads=cores, device=device)

    return start


def _answers(
    engine: Engine, pixels: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, int]]
) -> Iterator[tuple[NDArray[np.float32], Placement]]:
    """The logits of pictures of ``sizes``, brought into the network's square, and where in them each picture lies.

    A decoded file's probabilities stand for its logits.
    """
    places = [placement(size, engine.spec.preprocess) for size in sizes]
    if not isinstance(engine, MultiScaleEngine):
        (answer,) = engine.run(np.stack(pixels)).values()
        yield from zip(answer, places, strict=True)
        return
    for picture, p in zip(pixels, places, strict=True):
        # Without the padding, which would be a part of what image pooling sees: here networks take any size.
        alone = np.ascontiguousarray(picture[p.top : p.top + p.height, p.left : p.left + p.width])
        yield engine.run(alone[None])["logits"][0], Placement(p.width, p.height, 0, 0, p.width, p.height)


# --- the page ---


def _fill_page(evaluation: SegmentationEvaluation, page: Page, again: Again) -> None:
    """Add all of it to a page that has begun; no mask was kept, so that those to be shown are made ``again``."""
    e = evaluation
    _add_figures(e, page)
    page.add_notes(e.notes)
    page_parts.add_comparison(page, e.comparison)
    if worst := e.worst():
        page.add_heading("Worst images", count=len(worst))
        page.add_text("What was found beside the ground truth. A colour is always the same class.")
        cards, seen = _cards(e, worst[:SHOWN_PICTURES], again)
        page.add_legend([(e.spec.labels[k], color_of(k)) for k in seen])
        page.add_cards(cards)
    if rows := e.report().rows:
        page.add_heading("Classes", wide=False, count=len(rows))
        page.add_table(page_parts.shares(rows), first=20)
    page_parts.add_advice(page, _advice(e))
    _add_confusion(e, page)
    scales = "six scales, and mirrored" if e.multi_scale else "one"
    e._add_end(
        page,
        [
            (
                "mean IoU",
                "over all pixels",
                "Of each class its right pixels, of all that are its own or were taken for it.",
            ),
            ("scales", scales, "How often each image is seen; several, as in the papers' best figures, take longer."),
            ("intervals", f"{RESAMPLES:,} resamples", "What comes out for as many images drawn from these at random."),
        ],
    )


def _add_figures(e: SegmentationEvaluation, page: Page) -> None:
    value, low, high = e.intervals["pixel_accuracy"]
    note = "" if low is None or high is None else f"95 % interval {100 * low:.1f} to {100 * high:.1f}"
    others = "" if len(e.outputs) == e.spec.num_classes else f"of the model's {e.spec.num_classes:,}"
    unread = f"{len(e.skipped):,} could not be read" if e.skipped else ""
    images = f"{len(e.samples):,} images"
    pixels = int(e.counts.sum(0)[1].sum())
    page.add_headlines(
        [page_parts.deciding(e.interval, "mean IoU", images)],
        [
            page_parts.figure(value, "pixel accuracy", note),
            Headline(f"{len(e.samples):,}", "images", note=unread),
            Headline(f"{len(e.outputs):,}", "classes", note=others),
            Headline(f"{pixels / 1e6:,.1f}", "million pixels", note="that belong to a class"),
        ],
    )
    if value is not None:
        page.add_lead(
            f"{percent_text(value)} of the pixels get the right class. Mean IoU counts every class alike, however "
            "small."
        )


def _add_confusion(e: SegmentationEvaluation, page: Page) -> None:
    columns, counts = e.confusion_columns()
    rows = [int(k) for k in np.flatnonzero(counts.sum(1))]
    # The diagonal is green where rows and columns are in one order: classes that are only found come last.
    seen = [*rows, *(int(k) for k in np.flatnonzero(counts.sum(0)) if k not in rows)]
    if not rows or len(seen) > LARGEST_MATRIX:
        return
    page.add_heading("Confusion matrix")
    page.add_text(
        "True classes are rows, found ones columns; percent of the true class's pixels. Classes that are neither true "
        "nor found anywhere are left out."
    )
    names = [columns[k] for k in seen]
    table = charts.heat_table(names[: len(rows)], names, percentages(counts[np.ix_(rows, seen)]), unit=" %")
    page.add_svg(table, keeps_size=True)


def _cards(e: SegmentationEvaluation, chosen: Sequence[int], again: Again) -> tuple[list[Card], list[int]]:
    """Images with the masks that were found, beside the same with the true ones; and the classes that they show."""
    ious = np.nan_to_num(mean_iou(e.counts, e.outputs))
    cards, seen = [], set()
    for i, shown in zip(chosen, again(chosen), strict=True):
        name = e.samples[i].name
        said = f"mean IoU {percent_text(float(ious[i]))}"
        if shown is None:
            cards.append(Card([(None, "")], said, name=Path(name).name))
            continue
        image, true, found = shown
        image.thumbnail((LARGE, LARGE))
        told = []
        for what, mask in (("found", found), ("true", true)):
            parts = [part for part in mask.shares() if part.index]
            seen |= {part.index for part in parts}
            told.append(f"{what}: {', '.join(part.name for part in parts) or 'nothing'}")
        pictures = [(draw_mask(image, found), "found"), (draw_mask(image, true), "ground truth")]
        cards.append(Card(pictures, said, told, Path(name).name))
    return cards, sorted(seen)


def _advice(e: SegmentationEvaluation) -> Iterator[str]:
    """What would make the segmenter better, as far as these masks show it."""
    rows = [row for row in e.report().rows if row["iou"] is not None and int(str(row["pixels"]))]
    if len(rows) > 1:
        weakest = min(rows, key=lambda row: float(str(row["iou"])))
        yield (
            f"{weakest['class']} has the lowest IoU, {percent_text(float(str(weakest['iou'])), 0)}. Look at its masks "
            "with fusiform doctor, and add images of it."
        )
    columns, counts = e.confusion_columns()
    wrong = counts.astype(np.float64)
    np.fill_diagonal(wrong, 0)
    if wrong.any():
        true, said = np.unravel_index(int(wrong.argmax()), wrong.shape)
        share = wrong[true, said] / counts[true].sum()
        yield (
            f"Most wrong pixels are {columns[true]} taken for {columns[said]}: {percent_text(share)} of all that is "
            f"{columns[true]}."
        )
    total = sum(int(str(row["pixels"])) for row in rows)
    small = [str(row["class"]) for row in rows if int(str(row["pixels"])) < SMALL_SHARE * total]
    if small:
        named = ", ".join(small[:5]) + (f" and {len(small) - 5} more" if len(small) > 5 else "")
        yield (
            f"Less than {percent_text(SMALL_SHARE, 0)} of the pixels each are {named}. A larger input, or more images, "
            "show more of them."
        )
    if not e.multi_scale:
        yield "--multi-scale shows how much several scales would bring, at several times the cost."
    yield from page_parts.interval_advice(e.interval, len(e.samples))
