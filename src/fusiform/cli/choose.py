"""``fusiform choose``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.output import print_report, suggest
from fusiform.report import Format

if TYPE_CHECKING:
    from fusiform.selection.latency import ChooseEngine


@click.command(
    "choose",
    cls=options.Command,
    examples=(
        "fusiform choose photos/ --max-ms 10 --max-mb 8 --out best/",
        "fusiform choose photos/ --max-ms 10 --minutes 60 --out best/",
    ),
)
@click.argument("data", type=click.Path(path_type=Path))
@options.out_folder("The folder for everything; DIR/model.tflite is the model.")
@click.option("--max-ms", type=float, metavar="MS", help="The highest latency per image.  [default: no limit]")
@click.option("--max-mb", type=float, metavar="MB", help="The largest file, in 10^6 bytes.  [default: no limit]")
@click.option(
    "--min-accuracy", type=float, metavar="PERCENT", help="The lowest top-1 accuracy, as in 90.  [default: none]"
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0),
    metavar="N",
    help="Start no training that would end later than N minutes from now.  [default: no limit]",
)
@options.measured_threads(
    "Threads of the runtime whose latency is measured; training uses all cores.  [default: 1, as latencies are "
    "published]",
    default=1,
)
@click.option(
    "--engine",
    default="litert",
    show_default=True,
    type=click.Choice(["litert", "onnxruntime", "native"]),
    help="The runtime that the model is for.",
)
@options.several(
    "--size", click.IntRange(min=32).convert, "PIXELS,...", "The input sizes to search.  [default: 96,128,160,192,224]"
)
@click.option(
    "--trials",
    default=4,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="How many of the candidates that fit are trained at all.",
)
@click.option("--scratch", is_flag=True, help="Also search networks that would start from random weights.")
@options.recipe("finetune_small", ("classification",))
@options.settings
@click.option("--resume", is_flag=True, help="Continue the search in DIR, also with other limits.")
@options.root
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
    """Find and train the most accurate classifier for DATA that is fast and small enough.

    First every network, input size and precision is measured with random weights, and what is too slow or too large is
    dropped. The most promising of the rest are trained for a while, the better ones in full, and the best file that
    keeps within the limits when measured again becomes DIR/model.tflite. DATA is what fusiform train reads. Ctrl-C
    loses no finished training: --resume continues.

    Exit codes: 0 if there is a model as accurate as asked for, 1 if it is less accurate (the best one is written all
    the same) or nothing keeps within the limits, 130 after Ctrl-C.
    """
    import dataclasses

    from fusiform.cli.process import command_line
    from fusiform.progress import track
    from fusiform.report import printable
    from fusiform.runs import need_training
    from fusiform.training import allocator

    allocator.keep_freed_memory()  # before PyTorch takes its first memory
    need_training("fusiform choose")
    from fusiform.selection.job import choose
    from fusiform.selection.latency import SIZES

    def say(text: str) -> None:
        click.echo(printable(text), err=True)

    try:
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
            progress=track,
        )
    except KeyboardInterrupt as interrupt:
        if interrupt.args:
            interrupt.args = (f"{interrupt.args[0]}; go on with: {command_line('--resume')}",)
        raise
    report = choice.report
    if form == "table":  # people are told below
        report = dataclasses.replace(report, figures={**report.figures, "shortfall": None})
    print_report(report, form)
    if choice.shortfall:
        click.echo(f"fusiform: {printable(choice.shortfall)}", err=True)
        ctx.exit(1)
    suggest(form, ["predict", "PHOTO", "--model", str(choice.file)])
