"""What ``formats.py`` and ``tasks.py`` share: a network in every target and precision, timed; a table in the docs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusiform.report import Cell

PACKAGES = ("fusiform", "torch", "ai-edge-litert", "onnxruntime", "openvino", "executorch", "coremltools")
MARK = "<!-- table -->"

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
        about = {key: made.figures[key] for key in ("quantised",) if key in made.figures}
        exported += [{**row, **about} for row in made.rows]
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

    kept = {"latency_ms": "median_ms", "decode_ms": "decode_ms", "load_ms": "load_ms", "memory_mb": "memory_mb"}
    times = benchmark([row["file"] for row in exported if runs_here(row)], data=data, seconds=seconds)
    by_file = {row["model"]: row for row in times.rows}
    (eager,) = benchmark([model], engine=["torch"], data=data, seconds=seconds).rows
    for row, timed in zip(rows, [eager, *(by_file.get(found.get("file")) for found in exported)], strict=True):
        if timed is not None:
            row |= {name: timed[key] for name, key in kept.items() if timed.get(key) is not None}


def label(row: Mapping[str, Any]) -> str:
    """The target, with the form of its file if it has several."""
    return f"{row['target']}, {row['form']}" if row.get("form") else str(row["target"])


def write_tables(
    docs: Path,
    result: Mapping[str, Any],
    *,
    title: Callable[[Row], str],
    columns: Callable[[Row], Sequence[str]],
    cells: Callable[[Row], Sequence[str]],
) -> None:
    """Put a result's rows between the marks of a document, a table for each ``title``.

    ``cells`` are those after target, precision and megabytes, under ``columns``.
    """
    networks: dict[str, list[Row]] = {}
    for row in result["rows"]:
        networks.setdefault(title(row), []).append(row)
    parts = []
    for name, rows in networks.items():
        header = ["target", "precision", "MB", *columns(rows[0])]
        lines = [f"### {name}", "", f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
        for row in rows:
            if row.get("passed") is False:
                values = ["", "did not pass verification", *[""] * (len(header) - 4)]
            else:
                values = [f"{row['bytes'] / 1e6:.2f}", *cells(row)]
            lines.append(f"| {' | '.join([row['target'], row['precision'], *values])} |")
        parts.append("\n".join(lines))
    about = result["about"]
    machine = f"{about['processor']}, {about['cores']} cores; " + ", ".join(
        f"{name} {about[name]}" for name in PACKAGES if name not in ("fusiform", "coremltools")
    )
    before, _, rest = docs.read_text(encoding="utf-8").partition(MARK)
    after = rest.partition(MARK)[2]
    text = f"{before}{MARK}\n\nMeasured on {machine}.\n\n" + "\n\n".join(parts) + f"\n\n{MARK}{after}"
    docs.write_text(text, encoding="utf-8")


def interval(row: Row, name: str, *, percent: bool = False) -> str:
    """A figure with its 95 % interval; nothing where it was not measured."""
    if row.get(name) is None:
        return ""
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    if percent:
        return f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def number(row: Row, name: str, decimals: int) -> str:
    """A figure; nothing where it was not measured."""
    return "" if row.get(name) is None else f"{row[name]:.{decimals}f}"
