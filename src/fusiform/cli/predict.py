"""``fusiform predict``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.models import complete_model
from fusiform.cli.output import open_output
from fusiform.errors import UsageError
from fusiform.report import printable

if TYPE_CHECKING:
    from fusiform.drawing.masks import MaskFolder
    from fusiform.engines import EngineName
    from fusiform.prediction.formats import PredictionFormat
    from fusiform.spec import Fit, ModelSpec


# Named again, because importing the contact sheet takes longer than printing the help.
SAVED = 64


@click.command("predict")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--model",
    default="mobilenet_v2",
    show_default=True,
    metavar="NAME|FILE",
    shell_complete=complete_model,
    help='A name from "fusiform models", or a model file.',
)
@click.option(
    "--top", type=click.IntRange(min=1), metavar="N", help="Classifiers: classes for each image.  [default: 5]"
)
@click.option(
    "--score",
    type=click.FloatRange(0, 1),
    metavar="SCORE",
    help="Detectors: leave out boxes below this confidence score, from 0 to 1.  [default: 0.3]",
)
@click.option(
    "--iou",
    type=click.FloatRange(0, 1),
    metavar="IOU",
    help="Detectors: of boxes of one class whose intersection over union is above this, keep the highest-scoring."
    "  [default: 0.6]",
)
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Detectors: the most boxes per image.  [default: 100]"
)
@click.option(
    "--masks",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Segmenters: write each image's mask there as NAME.png, a palette PNG whose pixels are class indices.",
)
@options.prediction_form
@options.out
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"Draw the first {SAVED} images with their answers there, as PNG or JPEG; boxes and masks of a single one"
    " at its own size, up to 1600 pixels.",
)
@options.threads
@options.engine
@options.device
@options.batch
@click.option("--fast", is_flag=True, help="Decode large JPEGs at a reduced size; the answers may differ a little.")
@options.labels
@options.preprocessing
@options.strict
@click.pass_context
def command(
    ctx: click.Context,
    sources: tuple[str, ...],
    model: str,
    top: int | None,
    score: float | None,
    iou: float | None,
    limit: int | None,
    masks: Path | None,
    form: PredictionFormat,
    out: Path | None,
    save: Path | None,
    threads: int | None,
    engine: EngineName | None,
    device: str,
    batch: int,
    fast: bool,
    labels: Path | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    resize: int | None,
    crop: int | None,
    fit: Fit | None,
    strict: bool,
) -> None:
    """Classify images, detect objects in them or segment them, as the model's task is.

    SOURCE is an image, a folder (searched with its subfolders), a glob pattern, an http(s) address, or - for an
    image on standard input. Images that cannot be read are listed on standard error at the end.

    A classifier gives the most probable classes. The grid of --save shows each image's most probable one: in green or
    red where the image lies in a folder named after one of the model's classes, and thus is known to be right or wrong.

    A detector gives boxes: score, name, left, top, width and height in pixels. --format coco writes them in COCO's
    result format and for its tools, with name and path beside. The image_id is the number that a file is named by as
    in COCO (000000000139.jpg, COCO_val2014_000000000139.jpg: up to 12 digits), else the image's place among all, from
    1. The category_id is the identifier that the model has for the class where it is a number, else the class's place
    among the model's classes, from 1.

    A segmenter gives the share of the pixels that each class has. The masks of --masks are of the upright image's
    size and in Pascal VOC's colours; 0 is the model's first class, the background.

    Exit codes: 0 if any image was answered (3 with --strict if another could not be read), 1 if none was or the model
    cannot be used, 2 for wrong usage, 130 after Ctrl-C.
    """
    from fusiform.prediction.formats import ImageIds, write_predictions
    from fusiform.prediction.predict import predict_iter
    from fusiform.zoo.model import open_model

    if save is not None:
        from fusiform.drawing.grid import check_place
        from fusiform.prediction.sheet import Drawing

        check_place(save)
    opened = open_model(model, mean=mean, std=std, resize=resize, crop=crop, fit=fit)
    if opened.assumed:
        from fusiform.zoo.stated import assumption

        click.echo(f"fusiform: {printable(assumption(model, opened.spec.preprocess, opened.assumed))}", err=True)
    with open_output(out) as stream:
        predictions = predict_iter(
            sources,
            model=opened,
            top=top,
            score=score,
            iou=iou,
            limit=limit,
            engine=engine,
            device=device,
            threads=threads,
            batch=batch,
            fast=fast,
            labels=labels,
            # On a terminal that already shows the answers as they come, a bar would only get between them.
            progress=sys.stderr.isatty() and not (out is None and sys.stdout.isatty()),
            thumbnails=0 if save is None else SAVED,
        )
        folder = None if masks is None else _mask_folder(masks, predictions.spec)
        drawing = None if save is None else Drawing(predictions.spec)
        image_ids = ImageIds()
        errors: list[str] = []
        answered = 0
        for prediction in write_predictions(predictions, predictions.spec, form, stream, folder, image_ids):
            if prediction.error is None:
                answered += 1
            else:
                errors.append(prediction.error)
            if drawing is not None:
                drawing.add(prediction)
    if save is not None and drawing is not None:
        for note in drawing.save(save, answered + len(errors)):
            click.echo(f"fusiform: {printable(note)}", err=True)
    if image_ids.shared:
        note = f"fusiform: {image_ids.shared} pictures have the image_id of another one: go by their paths"
        click.echo(note, err=True)
    if errors:
        click.echo(f"fusiform: {len(errors)} of {len(errors) + answered} pictures could not be read:", err=True)
        for error in errors:
            click.echo(f"  {printable(error)}", err=True)
    if not answered:
        ctx.exit(1)
    if errors and strict:
        ctx.exit(3)


def _mask_folder(folder: Path, spec: ModelSpec) -> MaskFolder:
    if spec.task != "segmentation":
        raise UsageError(f"--masks is for segmentation, and the model ({spec.name}) is for {spec.task}: leave it out")
    from fusiform.drawing.masks import MaskFolder, check_palette

    check_palette(spec.num_classes)
    return MaskFolder(folder)
