"""A benchmark's report as a plot."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fusiform.benchmarking.rows import MEASURES
from fusiform.drawing.pareto import Point, draw_pareto
from fusiform.report import Cell, Report

_MEASURE_NAMES = {"top1": "top-1 %", "map": "mAP %", "miou": "mIoU %"}


def draw_benchmark(report: Report, path: str | os.PathLike[str]) -> None:
    """Draw a benchmark's latency against accuracy into a PNG, or against size where accuracies cannot be compared.

    They can if every contender that was measured has one, on the same pictures. Raises what ``draw_pareto`` raises.
    """
    rows = [row for row in report.rows if row["median_ms"] is not None]
    names = _short_names([str(row["model"]) for row in rows])
    several = len({row["threads"] for row in rows}) > 1
    told = [name for name in MEASURES.values() if all(row[name] is not None for row in rows)]
    accurate = len({row["measured_on"] for row in rows}) == 1 and bool(told)
    points = [
        Point(
            f"{name}, {row['threads']} thread{'' if row['threads'] == 1 else 's'}" if several else name,
            _number(row["median_ms"]),
            100 * _number(row[told[0]]) if accurate else _number(row["bytes"]) / 1e6,
            f"{row['engine']} {row['precision'] or ''}".strip(),
        )
        for name, row in zip(names, rows, strict=True)
    ]
    draw_pareto(
        points,
        path,
        x_label="median latency of one picture, ms",
        y_label=f"{_MEASURE_NAMES[told[0]]}, {rows[0]['measured_on']}" if accurate else "size of the file, MB",
        title="Latency and accuracy" if accurate else "Latency and size",
        smaller_y=not accurate,
    )


def _short_names(models: Sequence[str]) -> list[str]:
    """The last part of each path, without the ending, or with it, or the path, whatever tells the models apart."""
    # What training wrote is known by its run's folder.
    paths = [path.parent if path.name == "best.safetensors" else path for path in map(Path, models)]
    for short in ([path.stem for path in paths], [path.name for path in paths]):
        if all(short) and len(set(short)) == len(set(models)):
            return short
    return list(models)


def _number(value: Cell) -> float:
    assert isinstance(value, (int, float))
    return float(value)
