"""``fusiform doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusiform.cli import options
from fusiform.cli.output import open_output, suggest, tell_left_out
from fusiform.report import Format

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusiform.data.masks import Ignore
    from fusiform.doctor.findings import Diagnosis
    from fusiform.spec import Task


@click.command(
    "doctor",
    cls=options.Command,
    examples=(
        "fusiform doctor photos/",
        "fusiform doctor photos/ --html report.html --fix clean.csv",
        "fusiform doctor photos/ --model mobilenet_v2",
    ),
)
@click.argument("data", metavar="DATA", type=click.Path())
@options.task
@options.model(
    "Also look for wrong labels, best with a model that was not trained on DATA: for labels any classifier, such as "
    "mobilenet_v2; for boxes a detector, for masks a segmenter of their classes."
)
@options.html("Also write a page that shows the images in question, with their boxes and masks.")
@click.option(
    "--fix",
    type=click.Path(path_type=Path),
    metavar="FILE.csv|DIR",
    help="Also write a clean copy of the list to train on: a CSV file, or for boxes a folder with COCO's JSON. No "
    "image is changed.",
)
@options.form
@options.out
@options.root
@options.ignore
@options.threads
@click.option("--strict", is_flag=True, help="Exit with code 3 if there are errors or warnings.")
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
    """Check a dataset: find what is wrong with its images and labels.

    DATA is what fusiform train reads. For a classifier: a folder with one folder per class, within train, val and test
    if it is split; a CSV file of paths and labels; or tar shards. For a detector: boxes in COCO's JSON, YOLO's text,
    Pascal VOC's or other XML beside the images, LabelMe's JSON, CVAT's XML, a CSV list of boxes, or Hugging Face's
    metadata. For a segmenter: masks in Pascal VOC's layout, or outlines of COCO, YOLO, LabelMe or CVAT. A zip file of
    any of these is unpacked.

    The first line says how DATA was understood: its task, layout, classes and splits.

    Reported are files that cannot be read or are unusual; duplicate images, within and across splits; missing and small
    classes; and with --model labels that are probably wrong. Of boxes also those without area, outside their image,
    drawn twice or too small to see, and damaged annotations; of masks those that are missing, of another size than
    their image, or with invalid labels; and with --model objects that have no box, boxes that are shifted, of a wrong
    class or of nothing, and regions of a mask that look like another class.

    What --fix writes leaves out unreadable images, all copies of an image but one (across splits the one in test stays,
    otherwise the one in val), and images with two labels. Labels that only look wrong stay. For boxes, damaged and
    empty boxes and exact copies are left out too.

    Exit codes: 0 whatever was found, 1 if DATA cannot be read at all, 3 with --strict if there are errors or warnings.
    """
    from fusiform.doctor.job import diagnose
    from fusiform.progress import track

    with open_output(out) as stream:
        diagnosis = diagnose(
            data,
            task=task,
            ignore=ignore,
            root=root,
            model=model,
            html=html,
            fix=fix,
            threads=threads,
            progress=track,
        )
        report = diagnosis.report()
        stream.write(diagnosis.to_table() if form == "table" else report.render(form))
    tell_left_out(report.left_out(form), form)
    suggest(form, *_next(diagnosis, data, root, ignore, fix))
    if strict and diagnosis.count("error") + diagnosis.count("warning"):
        ctx.exit(3)


def _next(
    diagnosis: Diagnosis[Any], data: str, root: Path | None, ignore: Ignore | None, fix: Path | None
) -> Iterator[list[str]]:
    """The commands that may follow: what is wrong is left out, if a list can do that, and then comes the training."""
    from fusiform.data.annotated import AnnotatedSet

    dataset = diagnosis.dataset
    task = dataset.task if isinstance(dataset, AnnotatedSet) else "classification"
    given = [word for name, value in (("--root", root), ("--ignore", ignore)) if value for word in (name, str(value))]
    if fix is not None:
        yield ["train", str(fix), "--task", task, "--out", "runs/first"]
        return
    inside = task == "classification" and any(sample.key for samples in dataset.splits.values() for sample in samples)
    if diagnosis.count("error") and task != "segmentation" and not inside:
        yield ["doctor", data, "--task", task, *given, "--fix", "clean.csv" if task == "classification" else "clean"]
    yield ["train", data, "--task", task, *given, "--out", "runs/first"]
