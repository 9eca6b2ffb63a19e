"""``fusiform benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.output import open_output, suggest, tell_left_out
from fusiform.report import Format, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusiform.data.masks import Ignore
    from fusiform.report import Cell, Report


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
    f"The runtimes, of {', '.join(options.ENGINES)}, or all that can run the model.  [default: the one that predict "
    "takes]",
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
    tell_left_out(report.left_out(form), form)
    measured = [row for row in report.rows if row["median_ms"] is not None]
    failed = [row for row in report.rows if row["error"] is not None]
    if failed:
        click.echo(f"fusiform: {len(failed)} of {len(report.rows)} could not be measured in full:", err=True)
        for row in failed:
            click.echo(f"  {printable(_who(row))}: {printable(str(row['error']))}", err=True)
    if not measured:
        ctx.exit(1)
    if data is None:  # the accuracies, if any, are those that the descriptions state
        able = dict.fromkeys(str(row["model"]) for row in measured)
        suggest(form, ["benchmark", *able, "--data", "DATA"])


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
