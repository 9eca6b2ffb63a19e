"""``fusiform suggest``."""

from __future__ import annotations

from pathlib import Path

import click

from fusiform.cli import options
from fusiform.cli.output import open_output, tell_left_out
from fusiform.report import Format


@click.command(
    "suggest",
    cls=options.Command,
    examples=(
        "fusiform suggest new/ --diverse --count 60 --into to_label/",
        "fusiform suggest new/ --labelled photos/ --save sheet.jpg",
        "fusiform suggest new/ --model runs/first --count 100 --into tasks.json",
    ),
)
@click.argument("pool", metavar="SOURCE...", nargs=-1, required=True, type=click.Path())
@options.model("The classifier whose features are used, and without --labelled its answers.", default="mobilenet_v2")
@click.option("--count", default=50, show_default=True, type=click.IntRange(min=1), metavar="N", help="Images to pick.")
@click.option(
    "--labelled",
    type=click.Path(path_type=Path),
    metavar="DATA",
    help="The labelled images so far: what has learned them says what is uncertain, and what is a stranger.",
)
@click.option("--diverse", is_flag=True, help="Pick typical images of all kinds, for the first labels.")
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    metavar="FILE.csv|FILE.json|DIR",
    help="Also write what to label in: a list, tasks for Label Studio, or copies in a folder for each guessed class.",
)
@click.option("--save", type=click.Path(path_type=Path), metavar="FILE", help="Also write a contact sheet.")
@click.option("--seed", default=0, show_default=True, metavar="N", help="For the clusters' first centres.")
@options.form
@options.out
@options.root
@options.threads
def command(
    pool: tuple[str, ...],
    model: str,
    count: int,
    labelled: Path | None,
    diverse: bool,
    into: Path | None,
    save: Path | None,
    seed: int,
    form: Format,
    out: Path | None,
    root: Path | None,
    threads: int | None,
) -> None:
    """Pick the unlabelled images that are most worth labelling.

    SOURCE is a file, a folder, or a pattern of images without labels. Of the images that are most uncertain, some are
    picked that are unlike each other; near copies are there once. With --labelled, images that are unlike all labelled
    ones are listed apart: strangers, of no class, or of one that is missing.

    Each image has a guess to correct, which --into writes for the program that labels.
    """
    from fusiform.advice.suggest import suggest
    from fusiform.progress import track

    with open_output(out) as stream:
        found = suggest(
            pool,
            model=model,
            count=count,
            labelled=labelled,
            diverse=diverse,
            into=into,
            save=save,
            root=root,
            threads=threads,
            seed=seed,
            progress=track,
        )
        report = found.report()
        stream.write(report.render(form))
    tell_left_out(report.left_out(form), form)
