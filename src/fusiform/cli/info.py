"""``fusiform info``."""

from __future__ import annotations

import click

from fusiform.cli import options
from fusiform.cli.models import complete_model
from fusiform.cli.output import print_report
from fusiform.report import Format


@click.command("info")
@click.argument("model", type=click.Path(), shell_complete=complete_model)
@options.form
def command(model: str, form: Format) -> None:
    """Print everything MODEL, a name or a file, says of itself, its parameters, multiply-adds and size."""
    from fusiform.zoo.info import describe

    print_report(describe(model), form)
