"""How good the contenders are, measured on data or as their descriptions have it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fusiform.benchmarking.contenders import Contender
from fusiform.benchmarking.rows import MEASURES, rounded
from fusiform.engines import EngineName
from fusiform.errors import FusiformError
from fusiform.evaluation.job import evaluate
from fusiform.progress import Tracker
from fusiform.report import Cell


def measure_accuracy(contenders: Sequence[Contender], progress: Tracker) -> None:
    """Each model in each engine on the data; threads change nothing in the answers."""
    done: dict[tuple[str, EngineName], dict[str, Cell]] = {}
    for c in contenders:
        if c.failed:
            continue
        key = (c.name, c.engine)
        if key not in done:
            try:
                done[key] = _accuracy(c, progress)
            except FusiformError as error:
                done[key] = {"error": f"measured, but not its accuracy: {error}"}
        c.row |= done[key]


def _accuracy(c: Contender, progress: Tracker) -> dict[str, Cell]:
    """How good a contender is on its data."""
    assert c.data is not None
    result = evaluate(c.name, c.data, engine=c.engine, progress=progress)
    source = Path(result.source).resolve().name
    return {
        MEASURES[c.spec.task]: None if result.value is None else rounded(result.value),
        "measured_on": f"{len(result.samples)} images of {source} ({result.split})",
    }


def look_up_accuracy(contenders: Sequence[Contender]) -> None:
    """What the models say of themselves, on a dataset that all of them were measured on if there is one."""
    measured = [c for c in contenders if not c.failed and c.spec.task == "classification"]
    known = [{accuracy.dataset: accuracy.top1 for accuracy in c.spec.accuracy} for c in measured]
    common = [dataset for dataset in next(iter(known), ()) if all(dataset in each for each in known)]
    for c, accuracies in zip(measured, known, strict=True):
        if accuracies:
            dataset = common[0] if common else next(iter(accuracies))
            c.row |= {"top1": accuracies[dataset], "measured_on": dataset}
