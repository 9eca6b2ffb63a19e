"""``fusiform predict``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options, parts
from fusiform.cli import video as of_video
from fusiform.cli.output import open_output, open_told
from fusiform.errors import UsageError
from fusiform.report import printable

if TYPE_CHECKING:
    from fusiform.drawing.masks import MaskFolder
    from fusiform.engines import EngineName
    from fusiform.prediction.formats import PredictionFormat
    from fusiform.spec import Fit, ModelSpec


# Named again, because importing the contact sheet takes longer than printing the help.
SAVED = 64


@click.command(
    "predict",
    cls=options.Command,
    examples=(
        "fusiform predict photo.jpg",
        "fusiform predict photos/ --model runs/first --format csv --out answers.csv",
        "fusiform predict s3://bucket/photos/ --out answers/ --part 10000",
        "fusiform predict street.jpg --model detector.tflite --save boxes.png",
        "fusiform predict --video clip.mp4 --every 5 --save answered.mp4",
    ),
)
@click.argument("sources", metavar="SOURCE...", nargs=-1, type=click.Path())
@options.model("A name that fusiform models lists, a model file, or the folder of a run.", default="mobilenet_v2")
@options.prediction_form
@options.out
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"Draw the first {SAVED} images with their answers into a PNG or JPEG; a single detected or segmented image "
    "is drawn at its own size, up to 1600 pixels. With --video: draw the answered frames into an .mp4, .mov or .mkv.",
)
@click.option(
    "--masks",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Segmenters: write each image's mask to DIR/NAME.png, a palette PNG whose pixels are class indices.",
)
@options.top
@options.certain(options.CERTAIN)
@options.score
@options.iou
@options.limit
@options.tiles
@options.overlap
@options.labels
@click.option(
    "--sketch",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Calibrated classifiers: keep a sketch of what the model sees, for fusiform drift: some kilobytes without "
    "image or name. One that is there is gone on with.",
)
@options.fast
@options.batch
@options.threads
@options.device
@options.engine
@options.strict
@options.frames
@options.preprocessing
@parts.listed_part_options
@click.pass_context
def command(
    ctx: click.Context,
    sources: tuple[str, ...],
    model: str,
    top: int | None,
    certain: float | None,
    score: float | None,
    iou: float | None,
    limit: int | None,
    tiles: int | None,
    overlap: float,
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
    sketch: Path | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    resize: int | None,
    crop: int | None,
    fit: Fit | None,
    strict: bool,
    part: int | None,
    shard: tuple[int, int] | None,
    on: str | None,
    root: Path | None,
    column: str | None,
    video: str | None,
    every: int | None,
    fps: float | None,
    reconnect: float,
) -> None:
    """Classify images, detect objects in them, or segment them, whichever the model is for.

    SOURCE is an image, a folder (with its subfolders), a glob pattern, an http(s) address, or - for an image on
    standard input. Images that cannot be read are listed on standard error at the end.

    SOURCE may also be a list of paths or addresses (.txt, .csv, .tsv, .parquet), a Parquet file of images, a WebDataset
    shard (.tar, shards-{0000..0127}.tar), or an address such as s3://bucket/photo.jpg; one that ends in / is a folder.

    With --part the answers for very many images go into the folder that --out names, as files of so many rows each.
    Interrupted, the same command goes on; an image that cannot be read is a row with an error.

    A classifier gives the most probable classes. A calibrated one (fusiform evaluate --calibrate) says before them
    whether it is sure, unsure between some, or whether the image shows none of its classes.

    The grid of --save shows each image with its most probable class: in green or red where the image lies in a folder
    named after one of the model's classes, so that it is known to be right or wrong.

    A detector gives boxes: score, class, left, top, width and height in pixels. --format coco writes COCO's result
    format, with the class's name and the image's path added. image_id is the number in a file name like COCO's
    (000000000139.jpg, COCO_val2014_000000000139.jpg: up to 12 digits), otherwise the image's position among all, from
    1. category_id is the model's own identifier of the class where that is a number, otherwise the class's position,
    from 1.

    A segmenter gives each class's share of the image's pixels. The masks of --masks have the size of the upright image
    and Pascal VOC's colours; 0 is the model's first class, the background.

    --video answers the frames of a video file, a camera or a network stream, each with its number and time. Of a live
    source the newest frame is answered and those that came meanwhile are dropped and counted; Ctrl-C ends it.

    Exit codes: 0 if any image was answered, 1 if none was, 3 with --strict if any image could not be read.
    """
    of_parts = {"shard": shard, "on": on, "root": root, "column": column}
    if part is not None:
        parts.answer_in_parts(ctx, part, of_parts)
        return
    parts.refuse_without_part(ctx, form, of_parts)
    from fusiform.prediction.formats import ImageIds, write_predictions
    from fusiform.prediction.predict import predict_iter

    of_video.check(ctx)
    if save is not None and video is None:
        from fusiform.drawing.grid import check_place
        from fusiform.prediction.sheet import Drawing

        check_place(save)
    opened, device = open_told(model, engine, device, mean=mean, std=std, resize=resize, crop=crop, fit=fit)
    if video is not None:
        of_video.run(ctx, opened, device, every=every, fps=fps, reconnect=reconnect)
        return
    with open_output(out) as stream:
        predictions = predict_iter(
            sources,
            model=opened,
            top=top,
            certain=certain,
            score=score,
            iou=iou,
            limit=limit,
            tiles=tiles,
            overlap=overlap,
            engine=engine,
            device=device,
            threads=threads,
            batch=batch,
            fast=fast,
            labels=labels,
            sketch=sketch,
            # On a terminal that already shows the answers as they come, a bar would only get between them.
            progress=not (out is None and sys.stdout.isatty()),
            thumbnails=0 if save is None else SAVED,
        )
        folder = None if masks is None else _mask_folder(masks, predictions.spec)
        drawing = None if save is None else Drawing(predictions.spec)
        errors: list[str] = []
        image_ids, answered = ImageIds(), 0
        try:
            for prediction in write_predictions(predictions, predictions.spec, form, stream, folder, image_ids):
                if prediction.error is None:
                    answered += 1
                else:
                    errors.append(prediction.error)
                if drawing is not None:
                    drawing.add(prediction)
        except KeyboardInterrupt as interrupt:
            interrupt.args = (_kept(answered, out, masks),)
            raise
    notes = drawing.save(save, answered + len(errors)) if save is not None and drawing is not None else []
    _tell(notes, errors, answered, image_ids.shared)
    if not answered:
        ctx.exit(1)
    if errors and strict:
        ctx.exit(3)


def _kept(answered: int, out: Path | None, masks: Path | None) -> str:
    """What an interruption leaves."""
    kept = f"{answered:,} images were answered" if out is None else f"nothing was written to {out}"
    return kept if masks is None else f"{kept}; the masks of {answered:,} images are in {masks}"


def _tell(notes: Sequence[str], errors: list[str], answered: int, shared_ids: int) -> None:
    """Say on standard error what the answers do not say."""
    for note in notes:
        click.echo(f"fusiform: {printable(note)}", err=True)
    if shared_ids:
        click.echo(f"fusiform: {shared_ids} pictures have the image_id of another one: go by their paths", err=True)
    if errors:
        click.echo(f"fusiform: {len(errors)} of {len(errors) + answered} pictures could not be read:", err=True)
        for error in errors:
            click.echo(f"  {printable(error)}", err=True)


def _mask_folder(folder: Path, spec: ModelSpec) -> MaskFolder:
    if spec.task != "segmentation":
        raise UsageError(f"--masks is for segmentation, and the model ({spec.name}) is for {spec.task}: leave it out")
    from fusiform.drawing.masks import MaskFolder, check_palette

    check_palette(spec.num_classes)
    return MaskFolder(folder)
