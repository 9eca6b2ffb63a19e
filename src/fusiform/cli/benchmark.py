"""``fusiform benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.output import open_output, suggest
from fusiform.report import Format, align, cell_text, printable, rows_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusiform.data.masks import Ignore
    from fusiform.report import Cell, Report

# Column of the report -> its heading for people, and the decimals of its numbers.
_SHOWN = {
    "model": ("model", 0),
    "engine": ("engine", 0),
    "precision": ("precision", 0),
    "threads": ("threads", 0),
    "median_ms": ("median ms", 3),
    "p95_ms": ("p95 ms", 3),
    "best_ms": ("best ms", 3),
    "decode_ms": ("decode ms", 3),
    "pictures_per_second": ("images/s", 1),
    "load_ms": ("load ms", 0),
    "memory_mb": ("memory MB", 1),
    "bytes": ("file MB", 2),
    "top1": ("top-1 %", 1),
    "map": ("mAP %", 1),
    "miou": ("mIoU %", 1),
    "measured_on": ("top-1 of", 0),
}


@click.command(
    "benchmark",
    cls=options.Command,
    examples=(
        "fusiform benchmark mobilenet_v2 shufflenet_v2_x1_0",
        "fusiform benchmark ship/*.tflite --threads 1,4",
        "fusiform benchmark runs/first ship/model.tflite --data photos/ --plot speed.png",
    ),
)
@click.argument(
    "models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(), shell_complete=options.complete_model
)
@options.several(
    "--engine",
    click.Choice([*options.ENGINES, "all"]).convert,
    "ENGINE,...",
    f"The runtimes, of {', '.join(options.ENGINES)}, or all that can run the model.  [default: the one that the file "
    "is for]",
)
@options.several(
    "--threads",
    click.IntRange(min=1).convert,
    "N,...",
    "Threads of the runtime, one number or several.  [default: 1, as latencies are published]",
    default=(1,),
)
@click.option(
    "--seconds",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="How long to measure latency, and again throughput, of each.",
)
@options.data("Labelled images to measure accuracy on.  [default: the accuracy that the models' descriptions state]")
@options.root
@options.ignore
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Draw accuracy, or size where not all have one, over latency, and mark the best trade-offs.",
)
@options.form
@options.out
@click.pass_context
def command(
    ctx: click.Context,
    models: tuple[str, ...],
    engine: tuple[str, ...],
    threads: tuple[int, ...],
    seconds: float,
    data: Path | None,
    ignore: Ignore | None,
    root: Path | None,
    plot: Path | None,
    form: Format,
    out: Path | None,
) -> None:
    """Measure how fast each MODEL, a name or a file, is on this machine.

    Each is measured in each engine with each number of threads, in a process of its own; they take turns in short
    rounds. Latency is that of one image, from its pixels to the answer, after a warm-up. images/s is the throughput
    with as many engines at once as there are cores for. load ms is from a fresh Python process to the first answer, and
    memory MB what this adds to the process at its peak. decode ms is what turning an answer into boxes or a mask takes,
    and is not part of the other times; with --data it is measured on photographs. A model is measured in the precision
    that its file has: to measure another, export it first. What cannot be measured is listed on standard error, and in
    json, jsonl and csv with the reason.

    Exit codes: 0 if anything was measured, 1 if nothing could be.
    """
    from fusiform.benchmarking.job import benchmark
    from fusiform.progress import track

    with open_output(out) as stream:
        report = benchmark(
            models,
            engine=engine,
            threads=threads,
            seconds=seconds,
            data=data,
            ignore=ignore,
            root=root,
            plot=plot,
            progress=track,
        )
        stream.write(_table(report) if form == "table" else report.render(form))
    measured = [row for row in report.rows if row["median_ms"] is not None]
    failed = [row for row in report.rows if row["error"] is not None]
    if failed:
        click.echo(f"fusiform: {len(failed)} of {len(report.rows)} could not be measured in full:", err=True)
        for row in failed:
            click.echo(f"  {printable(_who(row))}: {printable(str(row['error']))}", err=True)
    if not measured:
        ctx.exit(1)
    if data is None:  # the accuracies, if any, are those that the descriptions state
        suggest(form, ["benchmark", *models, "--data", "DATA"])


def _table(report: Report) -> str:
    """For people: what was measured, in the columns that fit a screen."""
    measured = [row for row in report.rows if row["median_ms"] is not None]
    columns = [name for name in _SHOWN if any(row[name] is not None for row in measured)]
    headings = {name: _SHOWN[name][0] for name in columns}
    if "map" in columns or "miou" in columns:
        headings["measured_on"] = "measured on"
    figures = dict(report.figures)
    if len({row["measured_on"] for row in measured}) == 1 and "measured_on" in columns:
        figures[headings["measured_on"]] = measured[0]["measured_on"]
        columns.remove("measured_on")
    rows = [{headings[name]: _cell(name, row[name]) for name in columns} for row in measured]
    lines = align([[name, cell_text(value)] for name, value in figures.items()], "<<")
    return "\n\n".join([report.title, lines, *([rows_table(rows)] if rows else [])]) + "\n"


def _cell(column: str, value: Cell) -> Cell:
    """A value as the table shows it."""
    if column == "bytes" and isinstance(value, int):
        value = value / 1e6
    return round(value, _SHOWN[column][1]) if isinstance(value, float) else value


def _who(row: Mapping[str, Cell]) -> str:
    """The contender that a row is about."""
    if row["engine"] is None:
        return str(row["model"])
    return f"{row['model']} in {row['engine']}, {row['threads']} thread{'' if row['threads'] == 1 else 's'}"
