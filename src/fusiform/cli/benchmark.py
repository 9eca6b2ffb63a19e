"""``fusiform benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.models import complete_model
from fusiform.cli.output import open_output
from fusiform.report import Format, align, cell_text, printable, rows_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusiform.data.masks import Ignore
    from fusiform.report import Cell, Report

# Named again, because importing the engines takes longer than printing the help.
_ENGINES = ("litert", "onnxruntime", "torch", "openvino", "executorch")

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


@click.command("benchmark")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(), shell_complete=complete_model)
@click.option(
    "--engine",
    multiple=True,
    type=click.Choice([*_ENGINES, "all"]),
    help="A runtime; may be repeated. all: every one that can run the model.  [default: the one the file is for]",
)
@click.option(
    "--threads",
    multiple=True,
    default=(1,),
    type=click.IntRange(min=1),
    metavar="N",
    help="Threads inside the runtime; may be repeated.  [default: 1]",
)
@click.option(
    "--seconds",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="How long each is timed at latency, and again at throughput.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DATA",
    help="Labelled images to measure the accuracy on.  [default: what the models' descriptions say]",
)
@options.ignore
@options.root
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Draw latency against accuracy, or against size where there is none for all, with the frontier.",
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
    """Measure on this machine how fast each MODEL, a name or a file, is in each engine with each number of threads.

    Latency is that of one image, from its pixels to the answer, warm. images/s is what as many engines at once as
    there are cores for come to. load ms is from a fresh Python process to the first answer, and memory MB what this
    adds to the process at its peak. decode ms is what making boxes or a mask of an answer takes, which is no part of
    the other times: with --data on photographs of it. A model is measured as its file is: for another precision,
    export it first. All take turns in short rounds, each in a process of its own. What cannot be measured is listed on
    standard error, and in json, jsonl and csv with its reason.

    Exit codes: 0 if anything was measured, 1 if nothing could be, 2 for wrong usage, 130 after Ctrl-C.
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
