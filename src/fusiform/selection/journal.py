"""What a search has found so far, kept in ``choose.json`` after every step and read again by ``--resume``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fusiform.errors import UsageError
from fusiform.files import write_file
from fusiform.report import Cell
from fusiform.selection.budget import Budget, Candidate, Plan, Shipped, Training, fitting

RUNS = "runs"
_JOURNAL = "choose.json"


@dataclass
class Journal:
    """What is known so far; ``keep`` writes it after every step."""

    trainings: list[Training] = field(default_factory=list)
    shipped: list[Shipped] = field(default_factory=list)
    keep: Callable[[], None] = lambda: None


def read_trainings(folder: Path, settings: Mapping[str, object]) -> list[Training]:
    """The finished trainings of an earlier search with the same data and recipe; of fusiform 0.1, too."""
    path = folder / _JOURNAL
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []  # it ended before it had measured anything
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}): choose another --out") from None
    try:
        content = json.loads(text)
        changed = [name for name, value in settings.items() if content[name] != json.loads(json.dumps(value))]
        trainings = [
            Training(
                Plan(row["architecture"], row["width"], row["input_size"] if "input_size" in row else row["size"]),
                row["epochs"],
                row["distilled"],
                row["val_top1"],
                row["val_loss"],
                row["seconds"],
                folder / RUNS / row["run"],
            )
            for row in content["trainings"]
        ]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: is not what a search wrote: choose another --out") from None
    if changed:
        raise UsageError(f"{folder}: was begun with other {' and '.join(changed)}: choose another --out")
    return [training for training in trainings if (training.run / "best.safetensors").is_file()]


def in_bytes(megabytes: float) -> int:
    """Whole bytes of a size in 10^6 bytes that was made of some."""
    return round(megabytes * 1e6)


def write_journal(
    folder: Path,
    about: Mapping[str, object],
    candidates: Sequence[Candidate],
    budget: Budget,
    margin: float,
    *,
    journal: Journal,
    chosen: Mapping[str, Cell] | None,
) -> None:
    """Write ``choose.json``: the search's settings ``about``, all that was measured, and the chosen file's figures.

    Raises OutputError where that cannot be done.
    """
    fits = fitting(candidates, budget, margin)

    def of_plan(plan: Plan) -> dict[str, object]:
        named = {"network": plan.network, "architecture": plan.architecture, "width": plan.width}
        return {**named, "input_size": plan.size}

    content = {
        "schema": "fusiform.search/1",
        **about,
        "budget": {
            "median_ms": budget.max_ms,
            "bytes": None if budget.max_mb is None else in_bytes(budget.max_mb),
            "top1": None if budget.min_accuracy is None else budget.min_accuracy / 100,
        },
        "candidates": [
            {
                **of_plan(candidate.plan),
                "precision": candidate.precision,
                "median_ms": candidate.ms,
                "passes_ms": candidate.passes,
                "bytes": in_bytes(candidate.megabytes),
                "multiply_adds": candidate.multiply_adds,
                "fits": candidate in fits,
            }
            for candidate in candidates
        ],
        "trainings": [
            {
                **of_plan(done.plan),
                "epochs": done.epochs,
                "distilled": done.distilled,
                "val_top1": done.val_top1,
                "val_loss": done.val_loss,
                "seconds": done.seconds,
                "run": done.run.name,
            }
            for done in journal.trainings
        ],
        "files": [
            {
                **of_plan(file.training.plan),
                "precision": file.precision,
                "file": file.file.relative_to(folder).as_posix(),
                "median_ms": file.ms,
                "checks_ms": file.checks,
                "bytes": in_bytes(file.megabytes),
                "val_top1": file.val_top1,
                "holds": file.holds(budget),
            }
            for file in journal.shipped
        ],
        "chosen": None if chosen is None else dict(chosen),
    }
    write_file(folder / _JOURNAL, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
