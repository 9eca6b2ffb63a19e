"""``fusiform drift``."""

from __future__ import annotations

from pathlib import Path

import click

from fusiform.cli import options
from fusiform.cli.output import open_output, tell_left_out
from fusiform.report import Format


@click.command(
    "drift",
    cls=options.Command,
    examples=(
        "fusiform drift runs/first new/",
        "fusiform drift runs/first seen.json --strict",
        "fusiform drift runs/first new/ --reference photos/",
        "fusiform drift runs/first --reference photos/ --sketch first.json",
        "fusiform drift runs/first new/ --reference first.json --strict",
    ),
)
@click.argument("model", metavar="MODEL", shell_complete=options.complete_model)
@click.argument("sources", metavar="[SOURCE]...", nargs=-1, type=click.Path())
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    metavar="DATA|FILE.json",
    help="The images that the model was judged on, as for fusiform evaluate, or a sketch of them.  [default: what a "
    "calibrated model has in it]",
)
@click.option(
    "--false-alarms",
    default=0.01,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="The chance of an alarm if nothing has changed.",
)
@click.option(
    "--sketch",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Also write the sketch of the reference images: some kilobytes that hold no image.",
)
@click.option(
    "--seed", default=0, show_default=True, metavar="N", help="For the reference images that count, and ties."
)
@options.form
@options.out
@options.root
@options.threads
@click.option("--strict", is_flag=True, help="Exit with code 3 if there is an alarm.")
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    sources: tuple[str, ...],
    reference: Path | None,
    false_alarms: float,
    sketch: Path | None,
    seed: int,
    form: Format,
    out: Path | None,
    root: Path | None,
    threads: int | None,
    strict: bool,
) -> None:
    """Say whether a model still sees what it was judged on.

    SOURCE is a file, a folder, or a pattern of the images that it sees now, taken one after the other; or the sketch
    that fusiform predict or serve (--sketch) or the model's web page kept of them. Compared with the reference are
    brightness, contrast, sharpness, colours and size, how sure the model is, how strange its features are, and which
    classes it names; the images of each name also by themselves. If nothing has changed, the chance of an alarm is at
    most --false-alarms, however many images there are, and however often a sketch that grows is looked at. What has
    changed is named, with the images that show it most.

    Without SOURCE, only the sketch is written. Nothing leaves this machine.
    """
    from fusiform.advice.drift import drift
    from fusiform.progress import track

    with open_output(out) as stream:
        found = drift(
            model,
            sources,
            reference=reference,
            false_alarms=false_alarms,
            sketch=sketch,
            root=root,
            threads=threads,
            seed=seed,
            progress=track,
        )
        report = found.report()
        stream.write(report.render(form))
    tell_left_out(report.left_out(form), form)
    if strict and found.alarm:
        ctx.exit(3)
