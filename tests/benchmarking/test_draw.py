"""What of a report goes into the plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fusiform.benchmarking import draw as module
from fusiform.benchmarking.draw import draw_benchmark
from fusiform.benchmarking.rows import COLUMNS
from fusiform.report import Report


def row(model: str, **values: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys(COLUMNS),
        "model": model,
        "engine": "litert",
        "threads": 1,
        "median_ms": 1.0,
        "bytes": 2_500_000,
        **values,
    }


def test_plot_takes_what_the_task_is_measured_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(module, "draw_pareto", lambda points, path, **more: drawn.append((points, more)))
    detectors = [row("a.tflite", map=0.2, measured_on="x"), row("b.tflite", map=0.3, measured_on="x")]
    draw_benchmark(Report("", tuple(detectors)), tmp_path / "a.png")
    points, more = drawn.pop()
    assert [point.y for point in points] == [20.0, 30.0]
    assert more["y_label"] == "mAP %, x"
    # Two measures have no common axis.
    draw_benchmark(Report("", (detectors[0], row("c.tflite", miou=0.5, measured_on="x"))), tmp_path / "a.png")
    points, more = drawn.pop()
    assert more["smaller_y"]


def test_plot_takes_accuracy_if_it_can_be_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(module, "draw_pareto", lambda points, path, **more: drawn.append((points, more)))
    accurate = [row("runs/a.tflite", top1=0.9, measured_on="x"), row("runs/b.tflite", top1=0.8, measured_on="x")]
    failed = row("c", median_ms=None, error="no")
    draw_benchmark(Report("", (*accurate, failed)), tmp_path / "a.png")
    points, more = drawn.pop()
    assert [(point.name, point.x, point.y, point.group) for point in points] == [
        ("a", 1.0, 90.0, "litert"),
        ("b", 1.0, 80.0, "litert"),
    ]
    assert not more["smaller_y"]
    other = row("else/a.tflite", top1=0.8, measured_on="y", threads=2)
    draw_benchmark(Report("", (accurate[0], other)), tmp_path / "a.png")
    points, more = drawn.pop()
    assert [(point.name, point.y) for point in points] == [
        ("runs/a.tflite, 1 thread", 2.5),
        ("else/a.tflite, 2 threads", 2.5),
    ]
    assert more["smaller_y"]
    runs = [row("runs/a/best.safetensors"), row("runs/b/best.safetensors")]
    draw_benchmark(Report("", tuple(runs)), tmp_path / "a.png")
    assert [point.name for point in drawn.pop()[0]] == ["a", "b"]
