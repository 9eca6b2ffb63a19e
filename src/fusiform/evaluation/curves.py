"""Each class against the rest: curves of precision and recall and ROC, with what a threshold of it would come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.drawing.curves import lines_diagram
from fusiform.drawing.page import Page, TableCell, percent_cell
from fusiform.evaluation.figures import interval_text, rounded
from fusiform.report import Cell
from fusiform.tasks import bootstrap
from fusiform.tasks.bootstrap import Interval
from fusiform.tasks.ranking_metrics import Curve, average_precisions, curve

THRESHOLDS = tuple(k / 20 for k in range(1, 20))
"""The thresholds that JSON has the curves at."""
MOST_CELLS = 1_000_000
"""Images times classes from which on there are no intervals: resampling them would take minutes."""
SHOWN_CURVES = 20
"""More classes than these make lines that nobody can tell apart; the drawing then has only their mean and the worst."""
_ROWS = 4096
_STEPS = 100


class ClassCurve(NamedTuple):
    """A class, by the model's ``output``, against the rest: its curve, average precision and area under the ROC curve.

    The latter two are in [0, 1] with 95 % intervals, None where the class or the rest has none of the ``images``.
    """

    output: int
    images: int
    curve: Curve
    average_precision: Interval
    auroc: Interval


class Curves(NamedTuple):
    """The curves of the data's classes, and the means over those that have images, with 95 % intervals."""

    classes: tuple[ClassCurve, ...]
    average_precision: Interval
    auroc: Interval


def measure_curves(
    logits: NDArray[np.float32], truth: NDArray[np.int64], outputs: Sequence[int], *, temperature: float = 1.0
) -> Curves:
    """The curves of the classes that ``outputs`` are, from logits (images, the model's classes).

    Intervals are by the bootstrap over the images; there are none above ``MOST_CELLS``.
    """
    total = _log_sums(logits, temperature)
    scores = [np.exp(logits[:, k].astype(np.float64) / temperature - total) for k in outputs]
    positive = [truth == k for k in outputs]

    def figure(weights: NDArray[np.int32]) -> NDArray[np.float64]:
        weights = np.asfortranarray(weights)
        pairs = [average_precisions(each, mine, weights) for each, mine in zip(scores, positive, strict=True)]
        found = np.array(pairs)  # (classes, 2, resamples)
        figures: NDArray[np.float64] = np.vstack([found[:, 0], found[:, 1], _mean(found[:, 0]), _mean(found[:, 1])])
        return np.asarray(figures.T)

    if len(truth) * len(outputs) <= MOST_CELLS:
        intervals = bootstrap.intervals(figure, len(truth))
    else:
        values = figure(np.ones((1, len(truth)), np.int32))[0].tolist()
        intervals = [Interval(None if np.isnan(value) else value, None, None) for value in values]
    count = len(outputs)
    classes = tuple(
        ClassCurve(output, int(mine.sum()), curve(each, mine), intervals[k], intervals[count + k])
        for k, (output, each, mine) in enumerate(zip(outputs, scores, positive, strict=True))
    )
    return Curves(classes, intervals[-2], intervals[-1])


def _log_sums(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """The logarithm of each image's summed exponentials, some rows at a time."""
    found = np.empty(len(logits))
    for start in range(0, len(logits), _ROWS):
        values = logits[start : start + _ROWS].astype(np.float64) / temperature
        largest = values.max(1)
        found[start : start + _ROWS] = largest + np.log(np.exp(values - largest[:, None]).sum(1))
    return found


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the classes, (resamples,), of those that have a value; NaN where none has."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = np.where(known, values, 0).sum(0) / known.sum(0)
    return found


def curve_figures(curves: Curves) -> dict[str, Cell]:
    """The means as figures of a report."""
    return _spread("macro_average_precision", curves.average_precision) | _spread("macro_auroc", curves.auroc)


def curve_details(curves: Curves, names: Sequence[str]) -> dict[str, Any]:
    """What the evaluation's JSON has of the curves; ``names`` are those of the model's classes."""
    classes = []
    for each in curves.classes:
        points = [each.curve.at(threshold) for threshold in THRESHOLDS]
        classes.append(
            {
                **_row(each, names),
                "precisions": [_known(point[0]) for point in points],
                "recalls": [_known(point[1]) for point in points],
                "false_positive_rates": [_known(point[2]) for point in points],
            }
        )
    return {"thresholds": list(THRESHOLDS), "classes": classes}


def _row(each: ClassCurve, names: Sequence[str]) -> dict[str, Cell]:
    row: dict[str, Cell] = {"class": names[each.output], "images": each.images}
    return row | _spread("average_precision", each.average_precision) | _spread("auroc", each.auroc)


def _spread(name: str, interval: Interval) -> dict[str, Cell]:
    ends = zip(("", "_low", "_high"), interval, strict=True)
    return {name + end: None if value is None else rounded(value) for end, value in ends}


def _known(value: float) -> float | None:
    return None if np.isnan(value) else rounded(value)


def curve_headlines(curves: Curves) -> dict[str, str]:
    """The means in the words of people, for whom a mean over the classes goes without saying."""
    return {
        "average precision": interval_text(*curves.average_precision),
        "AUROC": interval_text(*curves.auroc),
    }


def add_curves(page: Page, curves: Curves, names: Sequence[str]) -> None:
    """The page's parts: both drawings, and the areas below the curves."""
    known = [each for each in curves.classes if each.auroc.value is not None]
    if not known:
        return
    thin = " Thin lines are single classes." if len(known) <= SHOWN_CURVES else ""
    page.add_heading("Precision and recall", wide=False)
    page.add_text(
        "Each class against the rest, from the highest probability of it, left, to all images: the share of its images "
        f"that is found, and of those named so that is right.{thin}"
    )
    page.add_svg(_diagram(known, names, _precisions, "recall, %", "precision, %"))
    page.add_heading("ROC", wide=False)
    page.add_text("The same by the share of the other images that is named so: the false positives.")
    page.add_svg(_diagram(known, names, _recalls, "false positives, %", "recall, %"))
    page.add_heading("Each class against the rest", count=len(curves.classes))
    page.add_text(
        "The areas below the curves, the first of which is average precision (AP), with 95 % intervals. --threshold "
        "and --precision give a model thresholds of classes, with --calibrate FILE."
    )
    page.add_table([_shown(each, names) for each in curves.classes], first=20)


def _diagram(
    known: Sequence[ClassCurve],
    names: Sequence[str],
    draw: Callable[[Curve, NDArray[np.float64]], NDArray[np.float64]],
    x_label: str,
    y_label: str,
) -> str:
    """The mean of the classes and the worst of them, over all where those are few."""
    along = np.linspace(0, 1, _STEPS + 1)
    worst = min(known, key=lambda each: each.average_precision.value or 0.0)
    of_all = [draw(each.curve, along) for each in known]
    mean = {"mean of the classes": np.mean(of_all, axis=0)} if len(known) > 1 else {}
    thick = {**mean, names[worst.output]: draw(worst.curve, along)}
    thin = [(names[each.output], values) for each, values in zip(known, of_all, strict=True)]

    def points(values: NDArray[np.float64]) -> list[tuple[float, float]]:
        return list(zip(along.tolist(), values.tolist(), strict=True))

    return lines_diagram(
        {name: points(values) for name, values in thick.items()},
        {name: points(values) for name, values in thin} if len(known) <= SHOWN_CURVES else {},
        x_label=x_label,
        y_label=y_label,
    )


def _shown(each: ClassCurve, names: Sequence[str]) -> dict[str, TableCell]:
    row: dict[str, TableCell] = {"class": names[each.output], "images": each.images}
    for name, (value, low, high) in (("AP", each.average_precision), ("AUROC", each.auroc)):
        row[f"{name}, %"] = percent_cell(value)
        told = None if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"
        row[f"{name} interval"] = told
    return row


def _precisions(found: Curve, recalls: NDArray[np.float64]) -> NDArray[np.float64]:
    """The precision at each recall: that of the first threshold which reaches it."""
    places = np.searchsorted(found.recall, recalls - 1e-12)
    return found.precision[np.minimum(places, len(found.recall) - 1)]


def _recalls(found: Curve, rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """The recall at each rate of false positives, on straight lines between the thresholds."""
    return np.asarray(np.interp(rates, np.append(0.0, found.false_positive_rate), np.append(0.0, found.recall)))
