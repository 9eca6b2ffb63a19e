"""``fusiform models``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.output import print_report
from fusiform.report import Cell, Format, Report

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from fusiform.zoo.catalog import Weights


@click.command("models")
@options.form
def command(form: Format) -> None:
    """List the models that can be used by name, with their published accuracy on ImageNet-1k.

    Those that are bundled need no download. The table leaves out the columns that do not fit; json and csv have them.
    """
    from fusiform.zoo.catalog import ALIASES, CATALOG

    short = {name: alias for alias, name in reversed(ALIASES.items())}
    rows = tuple(_row(weights, short.get(name), detailed=form != "table") for name, weights in CATALOG.items())
    print_report(Report("Models", rows, schema="fusiform.models/1"), form)


def complete_model(_ctx: click.Context, _param: click.Parameter, start: str) -> list[CompletionItem]:
    """Shell completion for a model: the names that begin like it, or else files."""
    from click.shell_completion import CompletionItem

    import fusiform

    names = [CompletionItem(name) for name in fusiform.list_models() if name.startswith(start)]
    return names or [CompletionItem(start, type="file")]


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
