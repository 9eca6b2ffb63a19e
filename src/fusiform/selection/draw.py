"""Two drawings of a search: what was measured, and what was trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fusiform.drawing.pareto import Point, draw_pareto
from fusiform.selection.budget import Budget, Candidate, Plan, Shipped, epochs_in_words
from fusiform.selection.journal import Journal


def draw(
    folder: Path, candidates: Sequence[Candidate], journal: Journal, budget: Budget, *, chosen: Shipped | None = None
) -> None:
    """Draw ``candidates.png``, size over latency, and ``frontier.png``, accuracy over latency of what was trained.

    A training without a file stands at the latency of its fastest candidate.
    """
    draw_pareto(
        [Point(_short(one.plan, one.precision), one.ms, one.megabytes, one.plan.network) for one in candidates],
        folder / "candidates.png",
        x_label="latency (ms)",
        y_label="size (MB)",
        title="Every candidate, with random weights",
        smaller_y=True,
        x_limit=budget.max_ms,
        y_limit=budget.max_mb,
    )
    points = [
        Point(
            ("chosen: " if file is chosen else "") + _short(file.training.plan, file.precision),
            file.ms,
            100 * file.val_top1,
            file.training.plan.network,
        )
        for file in journal.shipped
    ]
    shipped = {file.training for file in journal.shipped}
    for done in journal.trainings:
        times = [candidate.ms for candidate in candidates if candidate.plan == done.plan]
        if times and done not in shipped:
            name = _short(done.plan, epochs_in_words(done.epochs))
            points.append(Point(name, min(times), 100 * done.val_top1, done.plan.network))
    if points:
        draw_pareto(
            points,
            folder / "frontier.png",
            x_label="latency (ms)",
            y_label="validation top-1 (%)",
            title="What was trained",
            x_limit=budget.max_ms,
            y_limit=budget.min_accuracy,
        )


def _short(plan: Plan, what: str) -> str:
    return f"{plan.size} px, {what}"
