"""``fusiform export``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.models import complete_model
from fusiform.cli.output import print_report
from fusiform.report import Cell, Format, Report

if TYPE_CHECKING:
    from fusiform.data.masks import Ignore
    from fusiform.exporting.targets.base import Precision
    from fusiform.spec import Fit, Output

# Named again, because importing the export takes longer than printing the help.
TARGETS = ("litert", "onnx", "torchscript", "openvino", "executorch", "coreml", "web")


@click.command("export")
@click.argument("model", type=click.Path(), shell_complete=complete_model)
@click.option("--to", required=True, metavar="TARGET,...", help=f"What to write: {', '.join(TARGETS)}, or all.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The folder to write into.")
@click.option("--precision", default="float32", show_default=True, type=click.Choice(["float32", "float16", "int8"]))
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Photographs to quantise with.  [default: those that the model was trained on]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Photographs to verify with; labels count in class folders, for detectors and segmenters in COCO's or Pascal "
    "VOC's layout.  [default: those the run held out]",
)
@options.ignore
@options.root
@click.option(
    "--max-drop",
    type=click.FloatRange(min=0),
    metavar="POINTS",
    help="What int8 may lose in percentage points of top-1, mAP or mIoU.  [default: 1; detectors, segmenters: 2]",
)
@click.option(
    "--keep-float",
    type=click.IntRange(min=0),
    metavar="N",
    help="Leave the N layers that suffer most in float.  [default: as few as the budget asks for, up to 8]",
)
@click.option(
    "--train-epochs",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="Train the int8 network for N epochs to answer as the float one does.",
)
@click.option(
    "--pixels/--no-pixels",
    default=None,
    help="Let float files read uint8 pixels, or normalised pictures; int8 files always read pixels.  [default: pixels "
    "in LiteRT files of models that normalise each colour in its own way, pictures elsewhere]",
)
@click.option(
    "--output",
    type=click.Choice(["probabilities", "logits"]),
    help="What a classifier's LiteRT file answers with; the other targets' files answer with logits.  [default: "
    "probabilities]",
)
@click.option(
    "--decoded",
    is_flag=True,
    help="Let the file decode and suppress a detector's boxes itself, or give a segmenter's probabilities at the size "
    "of its input: for litert, onnx, openvino.",
)
@click.option(
    "--slices",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Compute MobileNetV2's expansions in N pieces, in less memory.",
)
@options.threads
@options.labels
@options.preprocessing
@options.form
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    to: str,
    out: Path,
    precision: Precision,
    calibrate: Path | None,
    data: Path | None,
    ignore: Ignore | None,
    root: Path | None,
    max_drop: float | None,
    keep_float: int | None,
    train_epochs: int,
    pixels: bool | None,
    output: Output | None,
    decoded: bool,
    slices: int,
    threads: int | None,
    labels: Path | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    resize: int | None,
    crop: int | None,
    fit: Fit | None,
    form: Format,
) -> None:
    """Write MODEL, a name, a file or a run's folder, for other runtimes, and prove that it still answers the same.

    Each file is opened again in its own runtime and held against the model in PyTorch: on photographs, on synthetic
    images and on noise, by its numbers and by the classes, boxes or masks they stand for. What does not pass is not
    written. int8 is calibrated on photographs in four ways, of which the best is taken; DIR/NAME_int8_layers.csv says
    how much error the rounding of each layer causes, DIR/NAME_export.json what passed. The last lines say how to run
    what was written.

    Exit codes: 0 if everything was written and passed, 1 if anything failed (the rest is written), 2 for wrong usage.
    """
    from fusiform.runs import need_training
    from fusiform.training import allocator

    allocator.keep_freed_memory()  # before PyTorch allocates anything
    need_training("fusiform export")
    from fusiform.exporting.job import ExportError, export
    from fusiform.progress import track

    try:
        report = export(
            model,
            to,
            out,
            precision=precision,
            calibrate=calibrate,
            data=data,
            ignore=ignore,
            root=root,
            max_drop=max_drop,
            keep_float=keep_float,
            train_epochs=train_epochs,
            pixels=pixels,
            output=output,
            decoded=decoded,
            slices=slices,
            threads=threads,
            labels=labels,
            mean=mean,
            std=std,
            resize=resize,
            crop=crop,
            fit=fit,
            say=lambda line: click.echo(line, err=True),
            progress=track,
        )
    except ExportError as error:
        _print(error.report, form)
        click.echo(f"fusiform: {error}", err=True)
        ctx.exit(1)
    _print(report, form)


def _print(report: Report, form: Format) -> None:
    """The report, and for people a line that runs each file."""
    print_report(report, form)
    lines = [_how_to_run(row["target"], str(row["file"])) for row in report.rows if row["passed"]]
    if form == "table" and lines:
        click.echo("\n" + "\n".join(lines))


def _how_to_run(target: Cell, file: str) -> str:
    from fusiform.zoo.snippets import languages_for

    place = shlex.quote(file)
    if target == "web":
        return f"python -m http.server --directory {place}  # then open http://localhost:8000"
    languages = languages_for(file)
    code = f"fusiform info {place} --snippet {'|'.join(languages)}"
    if target == "coreml":
        return f"{code}  # code for a Mac or an iPhone; it runs there alone"
    line = f"fusiform predict PHOTO --model {place}"
    return f"{line}  # code for your own program: {code}" if languages else line
