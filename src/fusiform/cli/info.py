"""``fusiform info``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.output import print_report
from fusiform.report import Format

if TYPE_CHECKING:
    from fusiform.zoo.snippets import Language

# Named again, because importing what writes them takes longer than printing the help.
LANGUAGES = ("python", "js", "kotlin", "swift", "cpp")


@click.command(
    "info",
    cls=options.Command,
    examples=(
        "fusiform info mobilenet_v2",
        "fusiform info ship/model.tflite --snippet python",
    ),
)
@click.argument("model", type=click.Path(), shell_complete=options.complete_model)
@click.option(
    "--snippet",
    type=click.Choice(LANGUAGES),
    help="Print a program in this language that runs the file without fusiform.",
)
@options.form
def command(model: str, snippet: Language | None, form: Format) -> None:
    """Show what MODEL, a name or a file, is: its network, classes, preprocessing, accuracy, size and licence.

    With --snippet print a program instead, with the file's preprocessing, labels and output, for the runtime that the
    file is for.
    """
    if snippet is not None:
        from fusiform.zoo.snippets import write_snippet

        click.echo(write_snippet(model, snippet), nl=False)
        return
    from fusiform.zoo.info import describe

    print_report(describe(model), form)
