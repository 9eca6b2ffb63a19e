"""What a classifier's rule of decision comes to, beside its likeliest class: how often it is right, what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.calibration.decision import NO_CLASS, decide
from fusiform.certainty import Decision
from fusiform.drawing.page import Page, TableCell, percent_cell
from fusiform.evaluation.figures import interval_text, rounded
from fusiform.report import Cell, rows_table
from fusiform.spec import ModelSpec
from fusiform.tasks import bootstrap
from fusiform.tasks.bootstrap import Interval
from fusiform.tasks.classification import softmax
from fusiform.tasks.classification_metrics import wilson_interval

_NONE = Interval(None, None, None)


class Decisions(NamedTuple):
    """The ``answers`` (images,) of a rule, ``NO_CLASS`` for none, beside the ``likeliest`` classes and the ``truth``.

    ``decided`` is the share of the images that get a class, ``accuracy`` the share of those that is right, each with
    its 95 % interval. ``cost`` is the mean cost of a decision, ``top1_cost`` that of the likeliest class, ``saved`` the
    latter less the former; None but of a rule by costs.
    """

    decision: Decision
    answers: NDArray[np.intp]
    likeliest: NDArray[np.intp]
    truth: NDArray[np.int64]
    decided: Interval
    accuracy: Interval
    cost: Interval = _NONE
    top1_cost: Interval = _NONE
    saved: Interval = _NONE


def measure_decisions(spec: ModelSpec, logits: NDArray[np.float32], truth: NDArray[np.int64]) -> Decisions | None:
    """What the rule of a description decides for images; None where it has none."""
    if spec.certainty is None or spec.certainty.decision is None:
        return None
    decision = spec.certainty.decision
    answers, likeliest = decide(softmax(logits / spec.temperature), decision), logits.argmax(1)
    given = answers != NO_CLASS
    right = int((answers == truth)[given].sum())
    found = Decisions(
        decision, answers, likeliest, truth, _share(int(given.sum()), len(truth)), _share(right, int(given.sum()))
    )
    if not decision.costs:
        return found
    costs = np.array(decision.costs)
    paid = np.stack([costs[truth, answers], costs[truth, likeliest]])  # NO_CLASS is the last column
    paid = np.concatenate([paid, paid[1:] - paid[:1]])

    def figure(weights: NDArray[np.int32]) -> NDArray[np.float64]:
        drawn: NDArray[np.float64] = weights @ paid.T / weights.sum(1, keepdims=True)
        return drawn

    most = float(costs.max())
    cost, top1_cost, saved = bootstrap.intervals(figure, len(truth), least=-most, most=most)
    return found._replace(cost=cost, top1_cost=top1_cost, saved=saved)


def _share(count: int, images: int) -> Interval:
    return Interval(count / images, *wilson_interval(count, images)) if images else _NONE


def decision_rows(found: Decisions, names: Sequence[str], outputs: Sequence[int]) -> list[dict[str, Cell]]:
    """A row for each class of the data, and for each with a threshold: what is called so, and how often rightly."""
    thresholds = {each.index: each for each in found.decision.thresholds}
    rows: list[dict[str, Cell]] = []
    for index in sorted({*outputs, *thresholds}):
        mine, named = found.truth == index, found.answers == index
        right, count, images = int((mine & named).sum()), int(named.sum()), int(mine.sum())
        precision = _share(right, count)
        threshold = thresholds.get(index)
        rows.append(
            {
                "class": names[index],
                "threshold": None if threshold is None else threshold.value,
                "promised_precision": None if threshold is None else threshold.precision,
                "decided_images": count,
                **_spread("precision", precision),
                "recall": rounded(right / images) if images else None,
            }
        )
    return rows


def decision_figures(found: Decisions | None, names: Sequence[str], outputs: Sequence[int]) -> dict[str, Any] | None:
    """What the evaluation's JSON has of it."""
    if found is None:
        return None
    return {
        "rule": found.decision.rule,
        **_spread("decided_share", found.decided),
        **_spread("decided_top1", found.accuracy),
        **_spread("cost", found.cost),
        **_spread("top1_cost", found.top1_cost),
        **_spread("cost_saved", found.saved),
        "classes": decision_rows(found, names, outputs),
    }


def _spread(name: str, interval: Interval) -> dict[str, Cell]:
    ends = zip(("", "_low", "_high"), interval, strict=True)
    return {name + end: None if value is None else rounded(value) for end, value in ends}


def decision_text(found: Decisions) -> str:
    """It in a sentence or three."""
    right = float((found.likeliest == found.truth).mean())
    accuracy = "" if found.accuracy.value is None else f", and right for {interval_text(*found.accuracy)} of those"
    told = (
        f"Decided by {found.decision.rule}: a class is given to {interval_text(*found.decided)} of the images"
        f"{accuracy}; the likeliest class is right for {100 * right:.1f} % of all."
    )
    cost, top1_cost, saved = found.cost, found.top1_cost, found.saved
    if cost.value is None:
        return told
    return (
        f"{told} A decision costs {_money(cost)} on average, the likeliest class {_money(top1_cost)}: it saves "
        f"{_money(saved)}."
    )


def _money(interval: Interval) -> str:
    value, low, high = interval
    return f"{value:.4g} (95 % interval {low:.4g} to {high:.4g})"


def decision_table(found: Decisions | None, names: Sequence[str], outputs: Sequence[int]) -> str:
    """What follows the tables for people; nothing where there is no rule."""
    if found is None:
        return ""
    return f"\n{decision_text(found)}\n\n{rows_table(decision_rows(found, names, outputs))}\n"


def add_decisions(page: Page, found: Decisions | None, names: Sequence[str], outputs: Sequence[int]) -> None:
    """The page's part about it, if there is a rule."""
    if found is None:
        return
    page.add_heading("Decisions")
    page.add_text(decision_text(found))
    page.add_text(
        "The rule is the model's: predict, the server and the Python functions answer by it. The figures above are of "
        "the likeliest class."
    )
    page.add_table([_shown(row) for row in decision_rows(found, names, outputs)], first=20)


def _shown(row: Mapping[str, Cell]) -> dict[str, TableCell]:
    share = {name: value if isinstance(value, float) else None for name, value in row.items()}
    low, high = share["precision_low"], share["precision_high"]
    return {
        "class": row["class"],
        "threshold, %": percent_cell(share["threshold"]),
        "promised, %": percent_cell(share["promised_precision"]),
        "images": row["decided_images"],
        "precision, %": percent_cell(share["precision"]),
        "interval": None if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}",
        "recall, %": percent_cell(share["recall"]),
    }
