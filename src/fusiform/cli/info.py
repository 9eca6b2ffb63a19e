"""``fusiform info``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.models import complete_model
from fusiform.cli.output import print_report
from fusiform.report import Format

if TYPE_CHECKING:
    from fusiform.zoo.snippets import Language

# Named again, because importing what writes them takes longer than printing the help.
LANGUAGES = ("python", "js", "kotlin", "swift", "cpp")


@click.command("info")
@click.argument("model", type=click.Path(), shell_complete=complete_model)
@click.option(
    "--snippet",
    type=click.Choice(LANGUAGES),
    help="Print code that runs this very file without fusiform, in the language.",
)
@options.form
def command(model: str, snippet: Language | None, form: Format) -> None:
    """Print everything MODEL, a name or a file, says of itself, its parameters, multiply-adds and size.

    With --snippet print a program instead, for classifiers: with the file's preprocessing, labels and output, in the
    runtime that the file is for.
    """
    if snippet is not None:
        from fusiform.zoo.snippets import write_snippet

        click.echo(write_snippet(model, snippet), nl=False)
        return
    from fusiform.zoo.info import describe

    print_report(describe(model), form)
