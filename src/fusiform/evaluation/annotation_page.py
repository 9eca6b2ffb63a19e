"""An evaluation of a detector or a segmenter as a page to look at, with the pictures where it is worst."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.annotated import BoxLabel
from fusiform.drawing import charts
from fusiform.drawing.curves import precision_recall_diagram
from fusiform.drawing.overlay import draw_boxes, draw_mask
from fusiform.drawing.page import THUMBNAIL, Page
from fusiform.errors import ImageError
from fusiform.evaluation import detection, segmentation
from fusiform.evaluation.compare import comparison_figures
from fusiform.evaluation.detection import CURVES, BoxEvaluation
from fusiform.evaluation.figures import shortened
from fusiform.evaluation.segmentation import MaskEvaluation
from fusiform.report import Cell, Report
from fusiform.tasks.bootstrap import Comparison
from fusiform.tasks.detection import Box, Detections
from fusiform.tasks.detection_metrics import precision_curve

SHOWN_PICTURES = 12
SHOWN_CURVES = 20
"""More classes than these make lines that nobody can tell apart; the drawing then has only their mean."""
LARGEST_MATRIX = 50
"""More classes than these make a matrix that nobody can read."""


def write_page(
    evaluation: BoxEvaluation | MaskEvaluation,
    path: str | os.PathLike[str],
    *,
    comparison: Comparison | None = None,
    threads: int | None = None,
) -> None:
    """Write all of it as one HTML file with drawings and pictures; OutputError where it cannot be written.

    A segmenter is shown its worst pictures again, on so many ``threads``: an evaluation keeps no masks.
    """
    page = Page(evaluation.title)
    if isinstance(evaluation, BoxEvaluation):
        made = detection.report(evaluation)
        _begin(page, detection.headlines(made), evaluation.notes, comparison)
        _add_curves(page, evaluation)
        _add_classes(page, made)
        if worst := detection.worst(evaluation)[:SHOWN_PICTURES]:
            page.add_heading("Worst pictures")
            page.add_text(
                f"Each with what was found, scored above {evaluation.score:g}, and then with what is there. "
                "Crowds and difficult objects are marked; who finds one is neither right nor wrong."
            )
            page.add_pictures(part for i in worst for part in _with_boxes(evaluation, i))
    else:
        made = segmentation.report(evaluation)
        _begin(page, segmentation.headlines(made), evaluation.notes, comparison)
        _add_confusion(page, evaluation)
        _add_classes(page, made)
        if chosen := segmentation.worst(evaluation)[:SHOWN_PICTURES]:
            page.add_heading("Worst pictures")
            page.add_text("Each with what was found, and then with what is there; a colour is always the same class.")
            page.add_pictures(_with_masks(evaluation, chosen, threads))
    if evaluation.skipped:
        page.add_heading("Not read")
        page.add_table([{"reason": message} for message in evaluation.skipped])
    page.write(path)


def percentages(counts: NDArray[np.int64]) -> list[list[int]]:
    """Each row of a confusion matrix in whole percent that add up to 100; a row of nothing stays so."""
    totals = np.maximum(counts.sum(1, keepdims=True), 1)
    ends = np.rint(100 * np.cumsum(counts, axis=1) / totals).astype(int)
    rows: list[list[int]] = np.diff(ends, axis=1, prepend=0).tolist()
    return rows


def _begin(page: Page, figures: Mapping[str, Cell], notes: Sequence[str], comparison: Comparison | None) -> None:
    page.add_figures(figures)
    for note in notes:
        page.add_text(note)
    if comparison is not None:
        page.add_heading("Comparison")
        page.add_text(comparison.sentence + ".")
        figures = comparison_figures(comparison)
        page.add_figures({name: value for name, value in figures.items() if name != "sentence"})


def _add_classes(page: Page, made: Report) -> None:
    if made.rows:
        page.add_heading("Classes")
        page.add_table(shortened(made.rows))


def _add_curves(page: Page, evaluation: BoxEvaluation) -> None:
    curves = {
        f"mean of the classes, IoU {name}": curve
        for name, k in CURVES.items()
        if (curve := detection.mean_curve(evaluation, k)) is not None
    }
    if not curves:
        return
    found = {
        name: values.tolist()
        for name, matches in zip(evaluation.spec.labels, evaluation.matches, strict=True)
        if (values := precision_curve(matches)) is not None
    }
    few = len(found) <= SHOWN_CURVES
    page.add_heading("Precision and recall")
    page.add_text(
        "Left the highest-scoring boxes alone, right all of them: how many objects are found, how many boxes are right."
        + (" Thin lines are single classes at an intersection over union of 0.50." if few else "")
    )
    page.add_svg(precision_recall_diagram(curves, found if few else {}))


def _add_confusion(page: Page, evaluation: MaskEvaluation) -> None:
    columns, counts = segmentation.confusion(evaluation)
    rows = [int(k) for k in np.flatnonzero(counts.sum(1))]
    # The diagonal is green where rows and columns are in one order: classes that are only found come last.
    seen = [*rows, *(int(k) for k in np.flatnonzero(counts.sum(0)) if k not in rows)]
    if not rows or len(seen) > LARGEST_MATRIX:
        return
    page.add_heading("Confusion")
    page.add_text(
        "True classes are rows, found ones columns; percent of the true class's pixels. Classes that are neither true "
        "nor found anywhere are left out."
    )
    names = [columns[k] for k in seen]
    page.add_svg(charts.heat_table(names[: len(rows)], names, percentages(counts[np.ix_(rows, seen)])))


def _with_boxes(evaluation: BoxEvaluation, i: int) -> Iterator[tuple[Image.Image | None, str]]:
    sample, found, truth = evaluation.samples[i], evaluation.found[i], evaluation.truth[i]
    name = Path(sample.name).name
    objects, right, wrong = (int(values[i]) for values in evaluation.counts)
    try:
        image = sample.read()
    except ImageError:  # it was there a moment ago
        yield None, name
        return
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    shown = Detections(tuple(box for box in found.boxes if box.score > evaluation.score), found.width, found.height)
    yield draw_boxes(image, shown), f"{name}\nfound: {right} right, {wrong} wrong, {objects - right} missed"
    known = tuple(_known(box, evaluation.spec.labels) for box in truth)
    yield draw_boxes(image, Detections(known, found.width, found.height), scores=False), f"there are: {objects}"


def _known(box: BoxLabel, labels: Sequence[str]) -> Box:
    mark = " (crowd)" if box.crowd else " (difficult)" if box.difficult else ""
    return Box(box.label, labels[box.label] + mark, 1.0, box.left, box.top, box.right, box.bottom)


def _with_masks(
    evaluation: MaskEvaluation, chosen: Sequence[int], threads: int | None
) -> Iterator[tuple[Image.Image | None, str]]:
    ious = {str(row["path"]): row["miou"] for row in segmentation.pictures(evaluation)}
    for i, shown in zip(chosen, segmentation.outline_again(evaluation, chosen, threads=threads), strict=True):
        name = evaluation.samples[i].name
        caption = f"{Path(name).name}\nmean IoU {float(ious[name] or 0):.1%}"
        if shown is None:
            yield None, caption
            continue
        image, true, found = shown
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        for what, mask in ((f"{caption}\nfound", found), ("there", true)):
            classes = ", ".join(share.name for share in mask.shares() if share.index)
            yield draw_mask(image, mask), f"{what}: {classes or 'nothing'}"
