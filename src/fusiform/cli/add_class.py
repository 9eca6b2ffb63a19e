"""``fusiform add-class``."""

from __future__ import annotations

from pathlib import Path

import click

from fusiform.cli import options
from fusiform.cli.output import print_report, suggest
from fusiform.report import Format

FEW_FOUND = 0.8
"""The share of a new class's images below which something is said of it: one of five that is missed is not."""


@click.command(
    "add-class",
    cls=options.Command,
    examples=(
        "fusiform add-class runs/first photos/heron --out birds.safetensors",
        "fusiform add-class runs/first photos/new --name heron --out birds.safetensors",
        "fusiform add-class birds.onnx stork/ crane/ --data birds --out more.safetensors",
    ),
)
@click.argument("model", type=click.Path(), shell_complete=options.complete_model)
@click.argument("images", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The model to write, a .safetensors file.",
)
@click.option("--name", metavar="NAME", help="What the class of a single DIR is called.  [default: DIR's name]")
@options.data("Images of the old classes.  [default: those that the run was trained on, where MODEL is its folder]")
@options.root
@options.threads
@options.form
def command(
    model: str,
    images: tuple[Path, ...],
    out: Path,
    name: str | None,
    data: Path | None,
    root: Path | None,
    threads: int | None,
    form: Format,
) -> None:
    """Add a class to a classifier for each DIR of images, called as DIR is; five images may be enough.

    The old classes' part of the model stays as it is. The new ones are set apart from them with the images of --data:
    a new class takes up to 0.5 % of those from the old ones, and up to 1 % where it would else miss many of its own.
    The accuracy on them is told before and after.
    """
    from fusiform.embedding.classes import add_class
    from fusiform.progress import track

    report = add_class(model, images, out, name=name, data=data, root=root, threads=threads, progress=track)
    print_report(report, form)
    if report.figures["data"] is None:
        click.echo(
            "fusiform: no image of the old classes was at hand, so that the new class may take some of theirs: name "
            "them with --data",
            err=True,
        )
    for row in report.rows:
        if isinstance(row["recall"], float) and row["recall"] < FEW_FOUND:
            click.echo(
                f"fusiform: {row['class']}: of its images only {row['recall']:.0%} are named so by what the others "
                "make of it, for it looks like an old class: give 20 images of it or more",
                err=True,
            )
    suggest(form, ("predict", "PHOTO", "--model", str(out)))
