"""``fusiform search``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.output import print_report
from fusiform.report import Format, printable

if TYPE_CHECKING:
    from fusiform.engines import EngineName


@click.command(
    "search",
    cls=options.Command,
    examples=(
        "fusiform search photo.jpg photos.npz",
        "fusiform search photo.jpg photos.npz --top 20 --save similar.png",
    ),
)
@click.argument("query", metavar="QUERY", type=click.Path())
@click.argument("index", metavar="INDEX", type=click.Path(path_type=Path))
@click.option(
    "--top", default=10, show_default=True, type=click.IntRange(min=1), metavar="N", help="How many images to find."
)
@options.model("The model that INDEX was made with, where it lies elsewhere now.  [default: where INDEX says]")
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw each query with the images that were found, a line each, into a PNG or JPEG.",
)
@options.threads
@options.engine
@options.form
def command(
    query: str,
    index: Path,
    top: int,
    model: str | None,
    save: Path | None,
    threads: int | None,
    engine: EngineName | None,
    form: Format,
) -> None:
    """Find the images of INDEX that are most similar to QUERY: an image, or a folder of them.

    INDEX is a file of fusiform embed, or its folder of parts. Similarity is the cosine of the angle between features:
    1 for the same image. The query's features are computed with the model of the index; another one is refused.
    """
    from fusiform.embedding.search import search

    if save is not None:
        from fusiform.drawing.grid import check_place

        check_place(save)
    found = search(query, index, top=top, model=model, engine=engine, threads=threads)
    if save is not None:
        found.save(save)
    print_report(found.report(), form)
    for error in found.errors:
        click.echo(f"fusiform: {printable(error)}", err=True)
