"""``fusiform doctor``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fusiform.cli import options
from fusiform.cli.models import complete_model
from fusiform.cli.output import open_output
from fusiform.report import Format


@click.command("doctor")
@click.argument("data", metavar="DATA", type=click.Path())
@click.option(
    "--model",
    metavar="NAME|FILE",
    shell_complete=complete_model,
    help="Also look for wrong labels, with this model; its class names must be those of the data.",
)
@options.form
@options.out
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="PAGE.html",
    help="Also write a page that shows the pictures in question.",
)
@click.option(
    "--fix",
    type=click.Path(path_type=Path),
    metavar="CLEAN.csv",
    help="Also write a list of the pictures to go on with, in place of DATA.  No picture is touched.",
)
@options.threads
@click.option("--strict", is_flag=True, help="Exit with 3 if errors or warnings were found.")
@click.pass_context
def command(
    ctx: click.Context,
    data: str,
    model: str | None,
    form: Format,
    out: Path | None,
    html: Path | None,
    fix: Path | None,
    threads: int | None,
    strict: bool,
) -> None:
    """Find what is wrong with a data set.

    DATA is a labelled data set as for training: a folder with a folder for each class, within folders for train, val
    and test if it is split; a CSV file with paths and labels; or tar shards. Found are files that cannot be read or
    are unusual, pictures that are there twice, within or across splits, classes that are missing or too small, and,
    with --model, labels that are probably wrong.

    The list that --fix writes leaves out what cannot be read, all copies of a picture but one (of those in several
    splits the one in test, or else in val, stays), and pictures with two labels. Labels that only look wrong stay.

    Exit codes: 0 whatever was found (3 with --strict if that were errors or warnings), 1 if the data cannot be
    examined, 2 for wrong usage, 130 after Ctrl-C.
    """
    from fusiform.data.layouts import read_dataset
    from fusiform.doctor import check_listable, examine, write_clean_list
    from fusiform.progress import silent, track

    dataset = read_dataset(data)
    if fix is not None:
        check_listable(dataset, fix)
    with open_output(out) as stream:
        diagnosis = examine(dataset, model=model, threads=threads, progress=track if sys.stderr.isatty() else silent)
        if fix is not None:
            write_clean_list(diagnosis, fix)
        if html is not None:
            diagnosis.page().write(html)
        stream.write(diagnosis.to_table() if form == "table" else diagnosis.report().render(form))
    if strict and diagnosis.count("error") + diagnosis.count("warning"):
        ctx.exit(3)
