"""How much of labelled pictures a segmenter outlines right, and what it takes for what."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform import engines
from fusiform.data.annotated import AnnotatedSample, AnnotatedSet
from fusiform.data.dataset import Split
from fusiform.data.masks import IGNORE, read_mask
from fusiform.data.open import bind_masks, choose_split, read_masks
from fusiform.data.preprocess import Placement, crop_pixels, placement
from fusiform.engines import Engine, EngineName
from fusiform.engines.crew import Crew, not_finite, read_pixels, readable
from fusiform.errors import ImageError, UsageError
from fusiform.evaluation.classification import OTHER
from fusiform.evaluation.compare import TaskEvaluation, comparison_figures
from fusiform.evaluation.figures import percent, rounded
from fusiform.evaluation.multi_scale import MultiScaleEngine
from fusiform.machine import usable_cores
from fusiform.progress import Tracker, silent
from fusiform.report import Cell, Report, cell_text
from fusiform.tasks import segmentation
from fusiform.tasks.bootstrap import RESAMPLES, Comparison
from fusiform.tasks.segmentation import SegmentationMap
from fusiform.tasks.segmentation_metrics import (
    class_counts,
    class_ious,
    mean_iou,
    pixel_accuracy,
    pixel_confusion,
)
from fusiform.zoo.model import Model, open_model

_NO_CLASS = -1
"""Stands for ``IGNORE`` in a true mask of the model's labels, of which there may be more than 255."""


class Outlines(NamedTuple):
    """What a segmenter's masks have in common with the true ones; no mask is kept.

    ``counts`` (pictures, 3, classes) are ``class_counts`` of each picture, 0 for one that could not be read, for which
    ``errors`` says why, by its index. ``confusion`` is that of all pixels, true classes by found ones.
    """

    counts: NDArray[np.int64]
    confusion: NDArray[np.int64]
    errors: Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class MaskEvaluation(TaskEvaluation):
    """A segmenter's masks of the pictures of a dataset against the true ones, and what follows from them.

    ``outputs`` are the model's classes that the data knows, in the order of the data's, whose labels the masks' values
    are. ``counts`` (pictures, 3, model's classes) are the pixels of ``samples`` as ``class_counts`` counts them,
    ``confusion`` (model's classes, the same) those of all pictures.
    """

    names = ("miou", "pixel_accuracy")
    what = "mean IoU"

    device: str
    multi_scale: bool
    outputs: tuple[int, ...]
    counts: NDArray[np.int64] = field(repr=False)
    confusion: NDArray[np.int64] = field(repr=False)

    def figure(self, weights: NDArray[np.int32]) -> NDArray[np.float64]:
        counts = self.counts.reshape(len(self.samples), -1).astype(np.float64)
        total = (weights @ counts).reshape(len(weights), *self.counts.shape[1:])
        return np.stack([mean_iou(total, self.outputs), pixel_accuracy(total)], axis=1)


def evaluate(
    model: str | os.PathLike[str],
    data: AnnotatedSet | str | os.PathLike[str],
    *,
    split: Split | None = None,
    multi_scale: bool = False,
    engine: EngineName | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch: int = 1,
    progress: Tracker = silent,
) -> MaskEvaluation:
    """Show a segmenter the pictures of a dataset, a folder that ``read_masks`` knows or what it has read.

    ``split`` None is test if there is one, else val, else all, else train; ``all`` is every picture there is. The other
    arguments are those of ``outline``. Raises UsageError for a model that is no segmenter, a split that is not there or
    has no picture that can be read, and what ``read_masks`` and ``outline`` raise.
    """
    opened, name = open_model(model), os.fspath(model)
    spec = opened.spec
    if spec.task != "segmentation":
        raise UsageError(f"{name}: is for {spec.task}; masks are for a segmenter")
    if not isinstance(data, AnnotatedSet):
        data = read_masks(data, spec, model=name)
    bound = bind_masks(data, spec, model=name)
    chosen, samples = choose_split(data.source, data.splits, split)
    started = time.perf_counter()
    outlines = outline(
        opened,
        samples,
        labels=bound,
        multi_scale=multi_scale,
        engine=engine,
        device=device,
        threads=threads,
        batch=batch,
        progress=progress,
    )
    seconds = time.perf_counter() - started
    read = readable(data.source, chosen, len(samples), outlines.errors)
    return MaskEvaluation(
        model=name,
        spec=spec,
        engine="torch" if multi_scale else engine or engines.own_engine(opened),
        device=device,
        multi_scale=multi_scale,
        source=str(data.source),
        split=chosen,
        outputs=bound,
        samples=tuple(samples[i] for i in read),
        counts=outlines.counts[read],
        confusion=outlines.confusion,
        skipped=tuple(outlines.errors.values()),
        notes=data.notes,
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
) -> Outlines:
    """Compare a segmenter's masks with the true ones, pixel by pixel at the photographs' own size.

    ``labels`` are the model's labels for the masks' values 0, 1 and so on; by default they are the same. A picture or
    mask that cannot be read is in the answer's ``errors``. ``multi_scale`` shows every picture at six scales and
    mirrored, at its own aspect (Sandler et al., arXiv 1801.04381, Section 6.3), which the engine ``torch`` does.
    ``threads`` is the number of cores to use, all by default, with an engine for each; ``device`` is where the engine
    ``torch`` computes; ``batch`` is the number of pictures that go through the network together. Raises UsageError for
    arguments that do not fit, WeightsError for a model that cannot be used or answers with values that are not finite,
    and what ``open_engine`` raises.
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

    crew.work(answer, progress)
    return Outlines(counts, confusion, dict(sorted(errors.items())))


def mask_figures(
    model: Model,
    samples: Sequence[AnnotatedSample],
    *,
    engine: EngineName | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch: int = 1,
    progress: Tracker = silent,
) -> dict[str, float]:
    """What training tells of its validation pictures: ``val_miou``, ``val_pixel_accuracy`` in [0, 1], ``pictures``.

    The masks' values are the model's labels. Pictures and masks that cannot be read are left out; where no pixel
    counts, both are 0. The arguments are those of ``outline``.
    """
    found = outline(model, samples, engine=engine, device=device, threads=threads, batch=batch, progress=progress)
    total = found.counts.sum(0)
    return {
        "val_miou": float(np.nan_to_num(mean_iou(total, range(model.spec.num_classes)))),
        "val_pixel_accuracy": float(np.nan_to_num(pixel_accuracy(total))),
        "pictures": len(samples) - len(found.errors),
    }


def read_truth(sample: AnnotatedSample, size: tuple[int, int], labels: Sequence[int]) -> NDArray[np.int32]:
    """The true mask of a photograph of ``size`` in the model's ``labels``, -1 where it says nothing; ImageError."""
    if sample.mask_file is None:
        raise ValueError(f"{sample.name}: its mask was not read")
    table = np.full(IGNORE + 1, _NO_CLASS, np.int32)
    known = min(len(labels), IGNORE)
    table[:known] = labels[:known]
    return table[read_mask(sample.mask_file, size, classes=len(labels))]


def outline_again(
    evaluation: MaskEvaluation, chosen: Sequence[int], *, threads: int | None = None
) -> Iterator[tuple[Image.Image, SegmentationMap, SegmentationMap] | None]:
    """Some pictures with their true and found masks, to look at; None for one that can no longer be read.

    Masks are as large as the pictures. In the true one the background stands for pixels that belong to no class.
    """
    spec = evaluation.spec
    start = _starter(
        open_model(evaluation.model),
        multi_scale=evaluation.multi_scale,
        engine=evaluation.engine,
        device=evaluation.device,
    )
    engine = start(threads or usable_cores())
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


def report(evaluation: MaskEvaluation) -> Report:
    """The figures about the whole, and a row for each of the data's classes; shares are in [0, 1].

    ``miou`` is the mean over the data's classes of true positives / (true positives + false positives + false
    negatives), counted over all pixels at once; a class that is neither true nor found anywhere is no part of it, and
    has no ``iou``. Intervals are bootstrapped over the pictures. ``pixels`` are those that belong to a class.
    """
    total = evaluation.counts.sum(0)
    right, true, found = total
    figures: dict[str, Cell] = {
        "model": evaluation.model,
        "data": evaluation.source,
        "split": evaluation.split,
        "engine": evaluation.engine,
        "multi_scale": evaluation.multi_scale,
        "pictures": len(evaluation.samples),
        "skipped": len(evaluation.skipped),
        "classes": len(evaluation.outputs),
        "model_classes": evaluation.spec.num_classes,
        "pixels": int(true.sum()),
    }
    for name, interval in evaluation.intervals.items():
        value, low, high = (None if each is None else rounded(each) for each in interval)
        figures |= {name: value, f"{name}_low": low, f"{name}_high": high}
    figures |= {"resamples": RESAMPLES, "seconds": round(evaluation.seconds, 3)}
    ious = class_ious(total)
    rows: tuple[dict[str, Cell], ...] = tuple(
        {
            "class": evaluation.spec.labels[k],
            "pixels": int(true[k]),
            "iou": None if np.isnan(ious[k]) else rounded(ious[k]),
            "precision": rounded(right[k] / found[k]) if found[k] else None,
            "recall": rounded(right[k] / true[k]) if true[k] else None,
        }
        for k in evaluation.outputs
    )
    return Report(evaluation.title, rows, figures)


def confusion(evaluation: MaskEvaluation) -> tuple[list[str], NDArray[np.int64]]:
    """The names of the columns, and pixels (data's classes, columns): true classes by found ones.

    The columns are the same classes, and one for all others of the model where it has others.
    """
    chosen = list(evaluation.outputs)
    names = [evaluation.spec.labels[k] for k in chosen]
    rows = evaluation.confusion[chosen]
    if len(chosen) == evaluation.spec.num_classes:
        return names, rows[:, chosen]
    others = rows.sum(1) - rows[:, chosen].sum(1)
    return [*names, OTHER], np.concatenate([rows[:, chosen], others[:, None]], axis=1)


def worst(evaluation: MaskEvaluation) -> list[int]:
    """The indices of the pictures, the one with the lowest mean intersection over union first.

    Of each picture over its own classes, those that are true or found in it; pictures without a pixel that counts are
    left out.
    """
    ious = mean_iou(evaluation.counts, evaluation.outputs)
    return [int(i) for i in np.argsort(ious, kind="stable") if not np.isnan(ious[i])]


def pictures(evaluation: MaskEvaluation) -> list[dict[str, Cell]]:
    """The mean intersection over union and the share of right pixels of each picture, the worst first."""
    ious, accuracies = mean_iou(evaluation.counts, evaluation.outputs), pixel_accuracy(evaluation.counts)
    return [
        {
            "path": evaluation.samples[i].name,
            "miou": rounded(ious[i]),
            "pixel_accuracy": None if np.isnan(accuracies[i]) else rounded(accuracies[i]),
        }
        for i in worst(evaluation)
    ]


def to_json(evaluation: MaskEvaluation, *, comparison: Comparison | None = None) -> str:
    """All of it as one object: the report's title and figures, its rows as ``classes``, confusion and pictures.

    ``confusion`` has a list of pixels for each class, in the order of ``columns``.
    """
    made = report(evaluation)
    columns, counts = confusion(evaluation)
    content = {
        "title": made.title,
        "figures": made.figures,
        "classes": made.rows,
        "confusion": {"columns": columns, "counts": counts.tolist()},
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
    all_classes = cell_text(figures["model_classes"])
    among = "" if figures["classes"] == figures["model_classes"] else f"; the model chooses among its {all_classes}"
    scales = ", at six scales and mirrored" if figures["multi_scale"] else ""
    return {
        "pictures": f"{cell_text(figures['pictures'])}{unread}",
        "classes": f"{cell_text(figures['classes'])}{among}",
        "mean IoU": percent(figures, "miou"),
        "pixel accuracy": f"{percent(figures, 'pixel_accuracy')}, of {cell_text(figures['pixels'])} pixels",
        "intervals": f"over {cell_text(figures['resamples'])} resamples of the pictures",
        "engine": f"{figures['engine']}{scales}, {cell_text(figures['seconds'])} s",
    }


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
    """The logits of pictures of ``sizes``, brought into the network's square, and where in them each picture lies."""
    places = [placement(size, engine.spec.preprocess) for size in sizes]
    if not isinstance(engine, MultiScaleEngine):
        yield from zip(engine.run(np.stack(pixels))["logits"], places, strict=True)
        return
    for picture, p in zip(pixels, places, strict=True):
        # Without the padding, which would be a part of what image pooling sees: here networks take any size.
        alone = np.ascontiguousarray(picture[p.top : p.top + p.height, p.left : p.left + p.width])
        yield engine.run(alone[None])["logits"][0], Placement(p.width, p.height, 0, 0, p.width, p.height)
