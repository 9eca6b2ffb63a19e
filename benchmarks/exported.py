"""What ``formats.py`` and ``tasks.py`` share: a network in every target and precision, timed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusiform.report import Cell

PACKAGES = ("fusiform", "torch", "ai-edge-litert", "onnxruntime", "openvino", "executorch", "coremltools")

Row = dict[str, Any]


def export_all(model: Path, out: Path, *, calibrate_on: Path | None = None, data: Path | None = None) -> list[Row]:
    """A row for each file of a model, as ``fusiform export`` tells it, those that did not pass too.

    ``calibrate_on`` and ``data`` None are what a training run was trained and validated on.
    """
    from fusiform.exporting.job import ExportError, export
    from fusiform.exporting.targets.base import Precision
    from fusiform.exporting.targets.targets import TARGETS

    exported: list[Row] = []
    precisions: tuple[Precision, ...] = ("float32", "float16", "int8")
    for precision in precisions:
        targets = [name for name, target in TARGETS.items() if precision in target.precisions and name != "web"]
        print(f"{model.name}: {precision}", file=sys.stderr, flush=True)
        try:
            made = export(
                model,
                targets,
                out,
                precision=precision,
                calibrate=calibrate_on,
                data=data,
                progress=False,
            )
        except ExportError as error:
            print(f"{model.name}: {error}", file=sys.stderr, flush=True)
            made = error.report
        about = {"quantised": made.figures["quantised"]}
        exported += [{key: value for key, value in {**row, **about}.items() if value is not None} for row in made.rows]
    return exported


def runs_here(row: Mapping[str, Any]) -> bool:
    """Whether there is a verified file that this machine has the runtime for; Core ML's is Apple's alone."""
    from fusiform.zoo.model import open_model

    return bool(row["passed"]) and open_model(row["file"]).format != "coreml"


def measure_times(
    model: Path, exported: Sequence[Row], rows: Sequence[dict[str, Cell]], *, data: Any, seconds: float
) -> None:
    """Give ``rows``, PyTorch's and those of ``exported``, what ``fusiform benchmark`` measures; files in turns."""
    from fusiform.benchmarking.job import benchmark

    kept = {"latency_ms": "median_ms", "decode_ms": "decode_ms", "load_ms": "load_ms"}
    times = benchmark([row["file"] for row in exported if runs_here(row)], data=data, seconds=seconds)
    by_file = {row["model"]: row for row in times.rows}
    (eager,) = benchmark([model], engine=["torch"], data=data, seconds=seconds).rows
    for row, timed in zip(rows, [eager, *(by_file.get(found.get("file")) for found in exported)], strict=True):
        if timed is not None:
            row |= {name: timed[key] for name, key in kept.items() if timed.get(key) is not None}
            if timed["memory_bytes"] is not None:
                row["memory_mb"] = round(timed["memory_bytes"] / 1e6, 1)


def label(row: Mapping[str, Any]) -> str:
    """The target, with the form of its file if it has several."""
    return f"{row['target']}, {row['form']}" if row.get("form") else str(row["target"])
