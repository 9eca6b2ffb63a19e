"""``fusiform engines``."""

from __future__ import annotations

import click

from fusiform.cli import options
from fusiform.cli.output import print_report, suggest
from fusiform.report import Format


@click.command(
    "engines",
    cls=options.Command,
    examples=("fusiform engines", "fusiform engines --format json"),
)
@options.form
def command(form: Format) -> None:
    """Show the engines that this machine has, and which one models run in here.

    An engine is a runtime that a network is computed in. The table has the version of each that is installed and how to
    install the others; above it stand the instructions of the processor that make networks fast, and what int8
    classifiers and all other files run in, and why.
    """
    from fusiform.engines.installed import describe

    print_report(describe(), form)
    suggest(form, ["benchmark", "mobilenet_v2", "--engine", "all"])
