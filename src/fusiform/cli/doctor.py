"""``fusiform doctor``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from fusiform.cli import options
from fusiform.cli.models import complete_model
from fusiform.cli.output import open_output
from fusiform.errors import UsageError
from fusiform.report import Format

if TYPE_CHECKING:
    from fusiform.data.annotated import AnnotatedSet, AnnotationTask
    from fusiform.data.dataset import DataSet
    from fusiform.doctor.findings import Diagnosis
    from fusiform.progress import Tracker

_ANNOTATIONS = {"detection": "boxes", "segmentation": "masks"}


@click.command("doctor")
@click.argument("data", metavar="DATA", type=click.Path())
@click.option(
    "--task",
    "asked",
    type=click.Choice(["classification", "detection", "segmentation"]),
    help="What DATA is for: labels, boxes or masks.  [default: what it is laid out for]",
)
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
    help="Also write a page that shows the pictures in question, and the boxes and masks on them.",
)
@click.option(
    "--fix",
    type=click.Path(path_type=Path),
    metavar="CLEAN.csv|FOLDER",
    help="Also write a list of the pictures to go on with, in place of DATA; for boxes a folder with COCO's JSON.  No "
    "picture is touched.",
)
@options.threads
@click.option("--strict", is_flag=True, help="Exit with 3 if errors or warnings were found.")
@click.pass_context
def command(
    ctx: click.Context,
    data: str,
    asked: Literal["classification", "detection", "segmentation"] | None,
    model: str | None,
    form: Format,
    out: Path | None,
    html: Path | None,
    fix: Path | None,
    threads: int | None,
    strict: bool,
) -> None:
    """Find what is wrong with a dataset.

    DATA is what a model is trained on. For a classifier: a folder with a folder for each class, within folders for
    train, val and test if it is split; a CSV file with paths and labels; or tar shards. For a detector: boxes in COCO's
    layout or Pascal VOC's. For a segmenter: masks in Pascal VOC's.

    Found are files that cannot be read or are unusual, pictures that are there twice, within or across splits, classes
    that are missing or too small, and, with --model, labels that are probably wrong. Of boxes also those without area,
    outside their pictures, drawn twice or too small to be seen, and damaged annotations; of masks those that are
    missing, of another size than their picture, or with labels that are none.

    The list that --fix writes leaves out what cannot be read, all copies of a picture but one (of those in several
    splits the one in test, or else in val, stays), and pictures with two labels. Labels that only look wrong stay. For
    boxes a new folder is written, which leaves out damaged and empty boxes and exact copies, too.

    Exit codes: 0 whatever was found (3 with --strict if that were errors or warnings), 1 if the data cannot be
    examined, 2 for wrong usage, 130 after Ctrl-C.
    """
    from fusiform.data.open import recognise

    task = asked or recognise(data) or "classification"
    diagnosis: Diagnosis[DataSet] | Diagnosis[AnnotatedSet]
    with open_output(out) as stream:
        if task == "classification":
            diagnosis = _examine_labels(data, model=model, fix=fix, threads=threads)
        elif model is None:
            diagnosis = _examine_annotations(data, task, fix=fix, threads=threads)
        else:
            raise UsageError(f"--model judges labels, and {data} has {_ANNOTATIONS[task]}: leave it out")
        if html is not None:
            diagnosis.page().write(html)
        stream.write(diagnosis.to_table() if form == "table" else diagnosis.report().render(form))
    if strict and diagnosis.count("error") + diagnosis.count("warning"):
        ctx.exit(3)


def _examine_labels(data: str, *, model: str | None, fix: Path | None, threads: int | None) -> Diagnosis[DataSet]:
    from fusiform.data.open import open_dataset
    from fusiform.doctor.classification import examine
    from fusiform.doctor.clean import check_listable, write_clean_list

    dataset = open_dataset(data, task="classification")
    if fix is not None:
        check_listable(dataset, fix)
    diagnosis = examine(dataset, model=model, threads=threads, progress=_progress())
    if fix is not None:
        write_clean_list(diagnosis, fix)
    return diagnosis


def _examine_annotations(
    data: str, task: AnnotationTask, *, fix: Path | None, threads: int | None
) -> Diagnosis[AnnotatedSet]:
    from fusiform.doctor.annotated import examine_annotated
    from fusiform.doctor.clean import check_clean_folder, write_clean_boxes

    if fix is not None:
        check_clean_folder(task, fix)
    diagnosis = examine_annotated(data, task, threads=threads, progress=_progress())
    if fix is not None:
        write_clean_boxes(diagnosis, fix)
    return diagnosis


def _progress() -> Tracker:
    from fusiform.progress import silent, track

    return track if sys.stderr.isatty() else silent
