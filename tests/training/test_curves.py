from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusiform.errors import MissingExtraError, OutputError, UsageError
from fusiform.training import curves
from fusiform.training.curves import draw_curves, draw_lr_finder, read_metrics


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The matplotlib figures that were drawn."""
    made: list[Any] = []
    make = curves._figure

    def remember(width: float, height: float) -> Any:
        made.append(make(width, height))
        return made[-1]

    monkeypatch.setattr(curves, "_figure", remember)
    return made


def points(axes: Any, line: int) -> list[tuple[float, float]]:
    xs, ys = axes.lines[line].get_data()
    return list(zip(map(float, xs), map(float, ys), strict=True))


def record(epoch: float, phase: str = "main", **values: float | None) -> dict[str, Any]:
    return {"epoch": epoch, "step": int(epoch * 100), "phase": phase, **values}


def test_each_panel_shows_its_numbers(tmp_path: Path, figures: list[Any]) -> None:
    records = [
        record(1, train_loss=2.0, val_loss=2.5, val_top1=0.5, lr=0.1, seconds=3.5),
        record(1.5, train_loss=1.5, lr=0.05),
        record(2, train_loss=math.nan, val_loss=1.5, val_top1=0.75, lr=0.01),
        record(3, train_loss=1.0, val_loss=None, val_top1=None, lr=0.0),
    ]
    draw_curves(records, tmp_path / "curves.png")
    loss, accuracy, rate = figures[0].axes
    training = points(loss, 0)
    assert [x for x, _ in training] == [1, 1.5, 2, 3]
    np.testing.assert_equal([y for _, y in training], [2.0, 1.5, math.nan, 1.0])
    assert points(loss, 1) == [(1, 2.5), (2, 1.5)]
    assert points(accuracy, 0) == [(1, 50), (2, 75)]
    assert points(rate, 0) == [(1, 0.1), (1.5, 0.05), (2, 0.01), (3, 0)]
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training", "validation"]
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG"
        assert image.size == (1440, 432)
        # Drawn indeed: the colours of both lines are in it.
        colors = {color for _, color in image.convert("RGB").getcolors(1 << 24) or []}
    assert {(0x44, 0x77, 0xAA), (0xCC, 0x66, 0x77)} <= colors
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_phases_follow_each_other(tmp_path: Path, figures: list[Any]) -> None:
    head = [record(epoch, "head", train_loss=1.0) for epoch in (1, 2, 3)]
    draw_curves([*head, *(record(epoch, "main", train_loss=0.5) for epoch in (1, 2))], tmp_path / "again.png")
    draw_curves([*head, *(record(epoch, "main", train_loss=0.5) for epoch in (4, 5))], tmp_path / "on.png")
    for figure in figures:
        loss = figure.axes[0]
        assert points(loss, 0) == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 0.5), (5, 0.5)]
        assert [list(line.get_xdata()) for line in loss.lines[2:]] == [[3, 3]]  # where the second begins


def test_an_epoch_that_a_resumed_run_wrote_again_counts_once(tmp_path: Path, figures: list[Any]) -> None:
    records = [record(1, lr=1.0), record(2, lr=0.9), record(3, lr=0.8), record(2, lr=0.5), record(3, lr=0.4)]
    draw_curves([*records, record(2, val_loss=7.0)], tmp_path / "curves.png")
    assert points(figures[0].axes[2], 0) == [(1, 1.0), (2, 0.5), (3, 0.4)]
    assert points(figures[0].axes[0], 1) == [(2, 7.0)]


def test_names_in_any_script_bring_no_warning(tmp_path: Path) -> None:
    draw_curves([record(1, "头部", train_loss=1.0), record(1, "\n$x", val_top1=0.0)], tmp_path / "青 $.png")
    assert (tmp_path / "青 $.png").exists()


def test_nothing_to_draw_and_nowhere_to_write_are_told(tmp_path: Path) -> None:
    for records in ([], [{"step": 1, "train_loss": 1.0}], [{"epoch": math.nan}]):
        with pytest.raises(UsageError, match="not finished an epoch"):
            draw_curves(records, tmp_path / "a.png")
    with pytest.raises(OutputError, match=r"absent/a\.png"):
        draw_curves([record(1)], tmp_path / "absent" / "a.png")
    for rates, losses in (([], []), ([1.0], [math.nan]), ([1.0], [1.0, 2.0])):
        with pytest.raises(UsageError, match="nothing to draw"):
            draw_lr_finder(rates, losses, None, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"fusiform\[train\]"):
        draw_curves([record(1)], tmp_path / "a.png")
    with pytest.raises(MissingExtraError, match=r"fusiform\[train\]"):
        draw_lr_finder([1.0], [1.0], None, tmp_path / "a.png")


def test_the_search_for_a_rate_shows_what_comes_before_the_divergence(tmp_path: Path, figures: list[Any]) -> None:
    rates = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    draw_lr_finder(rates, [2.0, 1.5, 1.0, 1e9, math.inf], 3e-3, tmp_path / "lr.png")
    (axes,) = figures[0].axes
    assert axes.get_xscale() == "log"
    shown = points(axes, 0)
    assert [x for x, _ in shown] == rates
    np.testing.assert_equal([y for _, y in shown], [2.0, 1.5, 1.0, 1e9, math.nan])
    assert axes.get_ylim() == pytest.approx((0.8, 5.0))
    assert list(axes.lines[1].get_xdata()) == [3e-3, 3e-3]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["suggested: 0.003"]
    with Image.open(tmp_path / "lr.png") as image:
        assert image.size == (720, 480)

    draw_lr_finder(rates[:3], [1.0, 1.0, 1.0], None, tmp_path / "flat.png")
    (axes,) = figures[1].axes
    assert axes.get_legend() is None
    assert axes.get_ylim()[0] < 1.0 < axes.get_ylim()[1]


def test_a_line_cut_short_anywhere_is_left_out(tmp_path: Path) -> None:
    records = [record(1, "头", train_loss=2.0), record(2, val_top1=0.5), record(3, lr=math.nan)]
    lines = [json.dumps(entry, ensure_ascii=False).encode() for entry in records]
    data = b"\n".join(lines) + b"\n"
    ends = [sum(map(len, lines[: k + 1])) + k for k in range(3)]
    path = tmp_path / "metrics.jsonl"
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends)
        if whole == 0 and cut:
            with pytest.raises(UsageError, match=r"metrics\.jsonl: holds no records"):
                read_metrics(path)
        else:
            np.testing.assert_equal(read_metrics(path), records[:whole])


def test_a_resumed_run_may_write_behind_what_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = io.BytesIO(b'{"epoch": 1}\n{"epoch": 2, "tr\n\n\0\0\0\n3\n"epoch"\n\xff\n{"epoch": 2}\r\n{"epoch": 3}')
    path.write_bytes(file.read())
    assert read_metrics(path) == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}]


def test_metrics_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.jsonl: no such file"):
        read_metrics(tmp_path / "absent.jsonl")
    with pytest.raises(UsageError, match="cannot be read"):
        read_metrics(tmp_path)
