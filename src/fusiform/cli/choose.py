"""``fusiform choose``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.output import print_report
from fusiform.report import Format

if TYPE_CHECKING:
    from fusiform.selection.latency import ChooseEngine


@click.command("choose")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The folder for all of it.")
@options.root
@click.option("--max-ms", type=float, metavar="MS", help="Largest latency per image.  [default: no limit]")
@click.option("--max-mb", type=float, metavar="MB", help="Largest file, in 10^6 bytes.  [default: no limit]")
@click.option("--min-accuracy", type=float, metavar="PERCENT", help="Smallest top-1.  [default: none]")
@click.option(
    "--threads",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Cores that the model has when it answers; training takes all.",
)
@click.option(
    "--engine",
    default="litert",
    show_default=True,
    type=click.Choice(["litert", "onnxruntime"]),
    help="The runtime that the model is for.",
)
@click.option(
    "--size",
    multiple=True,
    type=click.IntRange(min=32),
    metavar="PIXELS",
    help="An input size to search; may be repeated.  [default: 96 128 160 192 224]",
)
@click.option(
    "--trials",
    default=4,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="How many of the networks that fit are trained at all.",
)
@click.option("--scratch", is_flag=True, help="Also search networks that have no weights to start from.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0),
    metavar="N",
    help="Start no training that would end later than this.  [default: no limit]",
)
@click.option(
    "--recipe", default="finetune_small", show_default=True, metavar="NAME", help="The preset of hyperparameters."
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Change a hyperparameter of the recipe.")
@click.option("--resume", is_flag=True, help="Use what an earlier search in DIR trained, under this budget.")
@options.form
@click.pass_context
def command(
    ctx: click.Context,
    data: Path,
    out: Path,
    root: Path | None,
    max_ms: float | None,
    max_mb: float | None,
    min_accuracy: float | None,
    threads: int,
    engine: ChooseEngine,
    size: tuple[int, ...],
    trials: int,
    scratch: bool,
    minutes: float | None,
    recipe: str,
    settings: tuple[str, ...],
    resume: bool,
    form: Format,
) -> None:
    """Find the most accurate model for the images in DATA that is fast and small enough, and train it.

    Every network, input size and precision is measured first, with random weights; what cannot fit is dropped. Of the
    rest the promising ones are trained for a while, the better ones in full, and the best file that holds the budget
    when measured again is DIR/model.tflite. DATA is what fusiform train reads. Ctrl-C loses no finished training:
    --resume goes on.

    Exit codes: 0 if the model is as accurate as asked for, 1 if it is not (the best one is written all the same) or
    nothing fits the budget, 2 for wrong usage, 130 after Ctrl-C.
    """
    import dataclasses

    from fusiform.report import printable
    from fusiform.runs import need_training
    from fusiform.training import allocator

    allocator.keep_freed_memory()  # before PyTorch takes its first memory
    need_training("fusiform choose")
    from fusiform.selection.job import choose
    from fusiform.selection.latency import SIZES

    def say(text: str) -> None:
        click.echo(printable(text), err=True)

    choice = choose(
        data,
        out,
        root=root,
        max_ms=max_ms,
        max_mb=max_mb,
        min_accuracy=min_accuracy,
        threads=threads,
        engine=engine,
        size=size or SIZES,
        trials=trials,
        scratch=scratch,
        minutes=minutes,
        recipe=recipe,
        settings=settings,
        resume=resume,
        say=say,
    )
    report = choice.report
    if form == "table":  # people are told below
        report = dataclasses.replace(report, figures={**report.figures, "shortfall": None})
    print_report(report, form)
    if choice.shortfall:
        click.echo(f"fusiform: {printable(choice.shortfall)}", err=True)
        ctx.exit(1)
