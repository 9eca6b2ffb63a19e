"""``fusiform doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.models import complete_model
from fusiform.cli.output import open_output, tell_left_out
from fusiform.report import Format

if TYPE_CHECKING:
    from fusiform.data.masks import Ignore
    from fusiform.spec import Task


@click.command("doctor")
@click.argument("data", metavar="DATA", type=click.Path())
@click.option(
    "--task",
    type=click.Choice(["classification", "detection", "segmentation"]),
    help="What DATA is for: labels, boxes or masks.  [default: what it is laid out for]",
)
@options.ignore
@options.root
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
    help="Also write a page that shows the images in question, and the boxes and masks on them.",
)
@click.option(
    "--fix",
    type=click.Path(path_type=Path),
    metavar="CLEAN.csv|FOLDER",
    help="Also write a list of the images to go on with, in place of DATA; for boxes a folder with COCO's JSON.  No "
    "image is touched.",
)
@options.threads
@click.option("--strict", is_flag=True, help="Exit with 3 if errors or warnings were found.")
@click.pass_context
def command(
    ctx: click.Context,
    data: str,
    task: Task | None,
    ignore: Ignore | None,
    root: Path | None,
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
    train, val and test if it is split; a CSV file with paths and labels; or tar shards. For a detector: boxes of COCO's
    JSON, YOLO's text, Pascal VOC's or other XML beside the images, LabelMe's JSON, CVAT's XML, a CSV list of boxes, or
    Hugging Face's metadata. For a segmenter: masks in Pascal VOC's layout, or the outlines of COCO, YOLO, LabelMe or
    CVAT. A zip file of any of these is unpacked.

    The first line says what DATA is taken for: task, layout, classes and splits. What fusiform train reads is read.

    Found are files that cannot be read or are unusual, duplicate images, within or across splits, classes
    that are missing or too small, and, with --model, labels that are probably wrong. Of boxes also those without area,
    outside their images, drawn twice or too small to be seen, and damaged annotations; of masks those that are
    missing, of another size than their image, or with invalid labels.

    The list that --fix writes leaves out what cannot be read, all copies of an image but one (of those in several
    splits the one in test, or else in val, stays), and images with two labels. Labels that only look wrong stay. For
    boxes a new folder is written, which leaves out damaged and empty boxes and exact copies, too.

    Exit codes: 0 whatever was found (3 with --strict if that were errors or warnings), 1 if the data cannot be
    examined, 2 for wrong usage, 130 after Ctrl-C.
    """
    from fusiform.doctor.job import diagnose

    with open_output(out) as stream:
        diagnosis = diagnose(
            data, task=task, ignore=ignore, root=root, model=model, html=html, fix=fix, threads=threads
        )
        report = diagnosis.report()
        stream.write(diagnosis.to_table() if form == "table" else report.render(form))
    tell_left_out(report.left_out(form), form)
    if strict and diagnosis.count("error") + diagnosis.count("warning"):
        ctx.exit(3)
