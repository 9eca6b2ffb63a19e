"""``fusiform benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.models import complete_model
from fusiform.cli.output import open_output, tell_left_out
from fusiform.report import Format, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusiform.data.masks import Ignore
    from fusiform.report import Cell, Report

# Named again, because importing the engines takes longer than printing the help.
_ENGINES = ("litert", "onnxruntime", "torch", "openvino", "executorch")


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
    tell_left_out(report.left_out(form), form)
    measured = [row for row in report.rows if row["median_ms"] is not None]
    failed = [row for row in report.rows if row["error"] is not None]
    if failed:
        click.echo(f"fusiform: {len(failed)} of {len(report.rows)} could not be measured in full:", err=True)
        for row in failed:
            click.echo(f"  {printable(_who(row))}: {printable(str(row['error']))}", err=True)
    if not measured:
        ctx.exit(1)


def _table(report: Report) -> str:
    """For people: what was measured, and once what it was measured on where that is the same for all."""
    import dataclasses

    measured = [row for row in report.rows if row["median_ms"] is not None]
    hidden = {"runs", "workers", "process_bytes", "error"}
    figures = dict(report.figures)
    if len({row["measured_on"] for row in measured}) == 1:
        figures["measured_on"] = measured[0]["measured_on"]
        hidden.add("measured_on")
    rows = tuple({name: value for name, value in row.items() if name not in hidden} for row in measured)
    return dataclasses.replace(report, rows=rows, figures=figures).to_table()


def _who(row: Mapping[str, Cell]) -> str:
    """The contender that a row is about."""
    if row["engine"] is None:
        return str(row["model"])
    return f"{row['model']} in {row['engine']}, {row['threads']} thread{'' if row['threads'] == 1 else 's'}"
