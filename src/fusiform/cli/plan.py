"""``fusiform plan``."""

from __future__ import annotations

from pathlib import Path

import click

from fusiform.cli import options
from fusiform.cli.output import open_output, suggest, tell_left_out
from fusiform.report import Format


@click.command(
    "plan",
    cls=options.Command,
    examples=(
        "fusiform plan photos/",
        "fusiform plan photos/ --more 50 --more 1000",
        "fusiform plan photos/ --format json --out plan.json",
    ),
)
@click.argument("data", metavar="DATA", type=click.Path())
@options.model(
    "The classifier whose features are used; best is one that was not trained on DATA.", default="mobilenet_v2"
)
@click.option(
    "--more",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="N",
    default=(100, 500),
    show_default=True,
    help="Foretell the accuracy with so many more images of each class; may be given several times.",
)
@click.option("--seed", default=0, show_default=True, metavar="N", help="For the orders that images are taken in.")
@options.form
@options.out
@options.root
@options.threads
def command(
    data: str,
    model: str,
    more: tuple[int, ...],
    seed: int,
    form: Format,
    out: Path | None,
    root: Path | None,
    threads: int | None,
) -> None:
    """Say whether there are enough images.

    DATA is what fusiform train reads for a classifier. Every image is shown to the model once; what it saw is kept in
    the cache folder, so that the next plan takes seconds.

    Reported are the accuracy and each class's recall with their exact 95 % intervals; how many test images it takes to
    tell an accuracy from one that is a point better, and two models on the same images; the accuracy that is expected
    with more images of each class, with its 90 % interval, from the learning curve of a last layer on the model's
    features; and for each class whether wrong labels or missing images are what it lacks.
    """
    from fusiform.advice.plan import plan
    from fusiform.progress import track

    with open_output(out) as stream:
        found = plan(data, model=model, more=more, root=root, threads=threads, seed=seed, progress=track)
        report = found.report()
        stream.write(report.render(form))
    tell_left_out(report.left_out(form), form)
    if any(row["limit"] == "labels" for row in found.rows):
        suggest(form, ["doctor", data, *([] if root is None else ["--root", str(root)]), "--model", model])
