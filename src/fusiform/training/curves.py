"""A run's numbers, read back and drawn: losses, accuracy and learning rate, and the search for a learning rate."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusiform.errors import MissingExtraError, UsageError
from fusiform.files import write_file

Record = Mapping[str, float | int | str | None]

SCORES = {"val_top1": "top-1", "val_map50": "mAP@0.5", "val_miou": "mIoU"}
"""How a task's score on the validation pictures is called, by its name in the records."""

TRAIN, VAL, MARK = "#4477aa", "#cc6677", "#888888"  # told apart by people who do not see all colours (Paul Tol)


_RENAMED: Mapping[Any, Any] = {"val_pictures": "val_images", "waited_for_pictures": "waited"}
"""Names in the records of fusiform 0.1, and what they are called now."""


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a run's metrics.jsonl, a dictionary a line, in the order they were written.

    A line that is no whole record, because the process was killed while it wrote, is left out. Raises UsageError for
    a file that cannot be read or holds lines but no record.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file: name the metrics.jsonl of a run") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error}): check the path") from None
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append({_RENAMED.get(name, name): value for name, value in record.items()})
    if lines and not records:
        raise UsageError(f"{path}: holds no records of a run: name its metrics.jsonl")
    return records


def draw_curves(records: Sequence[Record], path: str | os.PathLike[str]) -> None:
    """Draw a run's losses, accuracy and learning rate over its epochs into a PNG, written whole or not at all.

    Each record may hold ``epoch`` (those without are left out), ``phase``, ``train_loss``, ``val_loss``, one of
    ``SCORES`` (0 to 1) and ``lr``; None and numbers that are not finite leave a gap. Where a resumed run wrote an epoch
    again, the later record counts. A dotted line stands where a phase begins after another.

    Raises UsageError where no record has an epoch, MissingExtraError without matplotlib, OutputError where the file
    cannot be written.
    """
    placed, starts = _place(records)
    if not placed:
        raise UsageError(f"{os.fspath(path)}: there is nothing to draw: the run has not finished an epoch yet")
    figure = _figure(12, 3.6)
    losses, accuracy, rate = figure.subplots(1, 3, sharex=True)
    _line(losses, placed, "train_loss", TRAIN, label="training")
    _line(losses, placed, "val_loss", VAL, label="validation")
    score = next((name for name in SCORES if any(name in record for record in records)), "val_top1")
    _line(accuracy, placed, score, VAL, scale=100)
    _line(rate, placed, "lr", TRAIN)
    losses.set_title("loss")
    losses.legend(frameon=False)
    accuracy.set_title(f"validation {SCORES[score]} (%)")
    rate.set_title("learning rate")
    rate.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # no 1e-4 in a corner that belongs to all numbers
    for axes in (losses, accuracy, rate):
        axes.set_xlabel("epoch")
        for start in starts[1:]:
            if start > 0:  # before the first epoch there is nothing to be told apart
                axes.axvline(start, color=MARK, linestyle=":", linewidth=1)
                axes.annotate(
                    "next phase",
                    (start, 1),
                    xycoords=("data", "axes fraction"),
                    xytext=(3, -9),
                    textcoords="offset points",
                    color=MARK,
                    fontsize=7,
                )
    _write(figure, path)


def draw_lr_finder(
    rates: Sequence[float], losses: Sequence[float], suggested: float | None, path: str | os.PathLike[str]
) -> None:
    """Draw the losses of a search over learning rates, with the one it suggests if any, into a PNG.

    Rates are positive; losses that are not finite leave a gap, and what rises to more than four times the range that
    the losses began with and fell to is cut off, so that the part before the divergence can be seen.

    Raises UsageError for rates and losses that do not match or hold nothing finite, MissingExtraError without
    matplotlib, OutputError where the file cannot be written.
    """
    if len(rates) != len(losses) or not any(map(math.isfinite, losses)):
        raise UsageError(f"{os.fspath(path)}: there is nothing to draw: {len(rates)} rates, {len(losses)} losses")
    figure = _figure(6, 4)
    axes = figure.subplots()
    axes.plot(rates, [loss if math.isfinite(loss) else math.nan for loss in losses], color=TRAIN)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_title("loss")
    finite = [loss for loss in losses if math.isfinite(loss)]
    low, range_ = min(finite), finite[0] - min(finite)
    if range_ > 0 and max(finite) > low + 4 * range_:
        axes.set_ylim(low - 0.2 * range_, low + 4 * range_)
    if suggested is not None:
        axes.axvline(suggested, color=VAL, linestyle="--", linewidth=1, label=f"suggested: {suggested:.2g}")
        axes.legend(frameon=False)
    _write(figure, path)


def _place(records: Iterable[Record]) -> tuple[list[tuple[float, Record]], list[float]]:
    """The records with their places on one axis of epochs, and where each phase begins on it.

    A phase whose epochs are counted from the start again is moved behind the one before it.
    """
    phases: dict[object, dict[float, Record]] = {}
    for record in records:
        epoch = record.get("epoch")
        if isinstance(epoch, (int, float)) and math.isfinite(epoch):
            phase = phases.setdefault(record.get("phase"), {})
            phase[epoch] = {**phase.get(epoch, {}), **record}
    placed: list[tuple[float, Record]] = []
    starts: list[float] = []
    end = 0.0
    for phase in phases.values():
        shift = end if min(phase) < end else 0.0
        starts.append(end)
        placed += [(epoch + shift, phase[epoch]) for epoch in sorted(phase)]
        end = placed[-1][0]
    return placed, starts


def _line(
    axes: Any, placed: Iterable[tuple[float, Record]], name: str, color: str, *, label: str = "", scale: float = 1
) -> None:
    # Absent is not the same as broken: epochs without a validation are bridged, a loss that is no number leaves a gap.
    points = [(x, value) for x, record in placed if isinstance(value := record.get(name), (int, float))]
    axes.plot(
        [x for x, _ in points],
        [value * scale if math.isfinite(value) else math.nan for _, value in points],
        color=color,
        label=label,
        marker="o" if len(points) <= 30 else None,  # a single point has no line to be seen by
        markersize=3,
    )


def _figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of so many inches, without pyplot, which looks for a screen."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "train", "drawing curves") from None
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _write(figure: Any, path: str | os.PathLike[str]) -> None:
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    data = io.BytesIO()
    figure.canvas.print_png(data)
    write_file(path, data.getvalue())
