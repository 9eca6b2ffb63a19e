"""``fusiform models``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.output import print_report
from fusiform.report import Cell, Format, Report

if TYPE_CHECKING:
    from fusiform.zoo.catalog import Weights


@click.command(
    "models",
    cls=options.Command,
    examples=("fusiform models", "fusiform models --format csv"),
)
@options.form
def command(form: Format) -> None:
    """List the models that can be used by name, with their published accuracy on ImageNet-1k.

    Bundled models need no download. The table shows the columns that fit; json and csv have all of them.
    """
    from fusiform.zoo.catalog import ALIASES, CATALOG

    short = {name: alias for alias, name in reversed(ALIASES.items())}
    rows = tuple(_row(weights, short.get(name, ""), detailed=form != "table") for name, weights in CATALOG.items())
    print_report(Report("Models", rows), form)


def _row(weights: Weights, short: str, *, detailed: bool) -> dict[str, Cell]:
    accuracy = weights.accuracy[0] if weights.accuracy else None
    row: dict[str, Cell] = {
        "name": weights.name,
        "short": short,
        "kind": weights.kind,
        "MB": weights.size_mb,
        "top1": accuracy.top1 if accuracy else None,
        "top5": accuracy.top5 if accuracy else None,
        "bundled": weights.bundled,
        "usable": not weights.unloadable,
        "license": weights.license,
    }
    if detailed:
        row |= {
            "architecture": weights.architecture,
            "width": weights.width,
            "measured_on": accuracy.dataset if accuracy else None,
            "url": weights.url,
            "sha256": weights.sha256 or weights.sha256_prefix,
            "source": weights.source,
            "unloadable": weights.unloadable,
        }
    return row
