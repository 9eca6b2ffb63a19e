"""``fusiform models``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.output import print_report, suggest
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
    rows = tuple(_row(weights, short.get(name), detailed=form != "table") for name, weights in CATALOG.items())
    print_report(Report("Models", rows, schema="fusiform.models/1"), form)
    suggest(
        form,
        ["predict", "PHOTO", "--model", "mobilenet_v2"],
        ["train", "DATA", "--model", "mobilenet_v2", "--out", "runs/first"],
    )


def _row(weights: Weights, short: str | None, *, detailed: bool) -> dict[str, Cell]:
    accuracy = weights.accuracy[0] if weights.accuracy else None
    row: dict[str, Cell] = {
        "name": weights.name,
        "short": short,
        "precision": weights.kind,
        "bytes": weights.bytes,
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
            "url": weights.url or None,
            "sha256": weights.sha256 or None,
            "sha256_prefix": weights.sha256_prefix or None,
            "source": weights.source,
            "unloadable": weights.unloadable or None,
        }
    return row
