"""An evaluation of a detector or a segmenter as a page to look at, with the pictures where it is worst."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform import charts
from fusiform.data.annotated import BoxLabel
from fusiform.draw import draw_boxes, draw_mask
from fusiform.errors import ImageError
from fusiform.evaluate import boxes, masks
from fusiform.evaluate.boxes import CURVES, BoxEvaluation
from fusiform.evaluate.compare import comparison_figures
from fusiform.evaluate.figures import shortened
from fusiform.evaluate.masks import MaskEvaluation
from fusiform.page import THUMBNAIL, Page
from fusiform.report import Cell, Report
from fusiform.tasks.bootstrap import Comparison
from fusiform.tasks.detection import Box, Detections
from fusiform.tasks.detection_metrics import precision_curve

SHOWN_PICTURES = 12
SHOWN_CURVES = 20
"""More classes than these make lines that nobody can tell apart; the drawing then has only their mean."""
LARGEST_MATRIX = 50
"""More classes than these make a matrix that nobody can read."""

_SIDE = 320
"""The side of a diagram in pixels, without its margins."""
_MEAN_COLORS = ("#2e7d32", "#1565c0")


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
        made = boxes.report(evaluation)
        _begin(page, boxes.headlines(made), evaluation.notes, comparison)
        _add_curves(page, evaluation)
        _add_classes(page, made)
        if worst := boxes.worst(evaluation)[:SHOWN_PICTURES]:
            page.add_heading("Worst pictures")
            page.add_text(
                f"Each with what was found, scored above {evaluation.score:g}, and then with what is there. "
                "Crowds and difficult objects are marked; who finds one is neither right nor wrong."
            )
            page.add_pictures(part for i in worst for part in _with_boxes(evaluation, i))
    else:
        made = masks.report(evaluation)
        _begin(page, masks.headlines(made), evaluation.notes, comparison)
        _add_confusion(page, evaluation)
        _add_classes(page, made)
        if chosen := masks.worst(evaluation)[:SHOWN_PICTURES]:
            page.add_heading("Worst pictures")
            page.add_text("Each with what was found, and then with what is there; a colour is always the same class.")
            page.add_pictures(_with_masks(evaluation, chosen, threads))
    if evaluation.skipped:
        page.add_heading("Not read")
        page.add_table([{"reason": message} for message in evaluation.skipped])
    page.write(path)


def precision_recall_diagram(curves: Mapping[str, Sequence[float]], thin: Mapping[str, Sequence[float]]) -> str:
    """Precision over recall as an SVG element: thick named ``curves``, at most two, over ``thin`` ones.

    Each is a list of precisions in [0, 1] at recalls from 0 to 1 in equal steps.
    """
    left, top = 50, 10
    parts = [
        f'<rect x="{left}" y="{top}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="currentColor" '
        'stroke-opacity=".4"/>'
    ]
    for percent in range(0, 101, 20):
        along = _SIDE * percent / 100
        parts.append(_label(left + along, top + _SIDE + 18, f"{percent}", "middle"))
        parts.append(_label(left - 6, top + _SIDE - along + 4, f"{percent}", "end"))
    parts.append(_label(left + _SIDE / 2, top + _SIDE + 38, "recall, %", "middle"))
    x, y = 14, top + _SIDE / 2
    parts.append(f'<g transform="rotate(-90 {x} {y:g})">{_label(x, y, "precision, %", "middle")}</g>')

    def line(name: str, values: Sequence[float], style: str) -> str:
        step = _SIDE / (len(values) - 1)
        points = " ".join(f"{left + step * k:.1f},{top + _SIDE * (1 - value):.1f}" for k, value in enumerate(values))
        return f'<polyline points="{points}" fill="none" {style}><title>{html.escape(name)}</title></polyline>'

    parts += [line(name, values, 'stroke="currentColor" stroke-opacity=".35"') for name, values in thin.items()]
    for k, ((name, values), color) in enumerate(zip(curves.items(), _MEAN_COLORS, strict=False)):
        parts.append(line(name, values, f'stroke="{color}" stroke-width="3"'))
        y = top + 20 + 22 * k
        parts.append(f'<rect x="{left + _SIDE + 16}" y="{y - 9}" width="14" height="4" fill="{color}"/>')
        parts.append(_label(left + _SIDE + 36, y, name, "start"))
    width, height = left + _SIDE + 250, top + _SIDE + 48
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img">{"".join(parts)}</svg>'
    )


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
        if (curve := boxes.mean_curve(evaluation, k)) is not None
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
        "From the surest boxes at the left to all of them: how many objects are found, and how many boxes are right."
        + (" Thin lines are single classes at an intersection over union of 0.50." if few else "")
    )
    page.add_svg(precision_recall_diagram(curves, found if few else {}))


def _add_confusion(page: Page, evaluation: MaskEvaluation) -> None:
    columns, counts = masks.confusion(evaluation)
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
    ious = {str(row["path"]): row["miou"] for row in masks.pictures(evaluation)}
    for i, shown in zip(chosen, masks.outline_again(evaluation, chosen, threads=threads), strict=True):
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


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" pointer-events="none">{html.escape(text)}</text>'
