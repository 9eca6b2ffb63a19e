"""``fusiform card``."""

from __future__ import annotations

from pathlib import Path

import click

from fusiform.cli import options
from fusiform.cli.output import open_output


@click.command(
    "card",
    cls=options.Command,
    examples=(
        "fusiform card runs/first",
        "fusiform card runs/first --out runs/first/card",
        "fusiform card runs/first --out card.html --data moved/photos",
    ),
)
@click.argument("model", type=click.Path(), shell_complete=options.complete_model)
@click.option(
    "--data",
    type=click.Path(),
    metavar="DATA",
    help="The dataset, where it lies elsewhere than it did while training, or of a model without a run.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.md|FILE.html|DIR",
    help="Write there, into a folder both kinds of files.  [default: Markdown on standard output]",
)
@options.root
def command(model: str, data: str | None, out: Path | None, root: Path | None) -> None:
    """Write a model card and a data sheet from a run.

    MODEL is the folder of a training run, a model file within it, or any other model, of which less is known.

    The card has what the run's folder says: the data with their hash, the recipe, the figures of the last evaluation
    with intervals, the limits that were found, exported files, licences of weights and packages. The images, if they
    are still there, are searched for EXIF, XMP and IPTC that say something of people: GPS positions, places, names,
    serial numbers, faces. Whether the dataset has changed since is said. What only the author knows stands there
    as questions.

    Markdown begins with the metadata that Hugging Face's model cards have. The same run and images give the same card.
    """
    from fusiform.advice.cards.job import card, check_out
    from fusiform.progress import track

    if out is not None:
        check_out(out)
    made = card(model, data=data, root=root, progress=track)
    if out is None:
        with open_output(None) as stream:
            stream.write(made.to_markdown())
        return
    for path in made.write(out):
        click.echo(str(path))
