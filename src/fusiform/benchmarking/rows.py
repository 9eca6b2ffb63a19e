"""What a report's rows have in them."""

from __future__ import annotations

from collections.abc import Mapping

from fusiform.spec import Task

COLUMNS = (
    "model",
    "engine",
    "precision",
    "threads",
    "median_ms",
    "p95_ms",
    "best_ms",
    "runs",
    "decode_ms",
    "images_per_second",
    "workers",
    "load_ms",
    "memory_bytes",
    "process_bytes",
    "bytes",
    "top1",
    "map",
    "miou",
    "measured_on",
    "error",
)
"""The columns of a report's rows, all of them in every row."""

MEASURES: Mapping[Task, str] = {"classification": "top1", "detection": "map", "segmentation": "miou"}
"""The column that tells how good a model is."""


def rounded(value: float | None) -> float | None:
    """Six significant digits: more than any clock is good for."""
    return None if value is None else float(f"{value:.6g}")
