"""``fusiform export``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.output import print_report, tell_next
from fusiform.report import Cell, Format, Report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusiform.data.masks import Ignore
    from fusiform.exporting.targets.base import Precision
    from fusiform.spec import Fit, Output

# Named again, because importing the export takes longer than printing the help.
TARGETS = ("litert", "onnx", "torchscript", "openvino", "executorch", "coreml", "web")


@click.command(
    "export",
    cls=options.Command,
    extra="--data",
    examples=(
        "fusiform export runs/first --to litert --out ship/",
        "fusiform export runs/first --to litert,onnx --precision int8 --out ship/",
        "fusiform export runs/first --to web --out page/",
    ),
)
@click.argument("model", type=click.Path(), shell_complete=options.complete_model)
@click.option("--to", required=True, metavar="TARGET,...", help=f"What to write: {', '.join(TARGETS)}, or all.")
@options.out_folder("The folder to write into.")
@click.option(
    "--precision",
    default="float32",
    show_default=True,
    type=click.Choice(["float32", "float16", "int8"]),
    help="What the weights are stored as; int8 also computes in integers.",
)
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path),
    metavar="DATA",
    help="Images to calibrate int8 with.  [default: those that the model was trained on]",
)
@options.data("Images to verify with; their labels are used if they have any.  [default: those that the run held out]")
@options.root
@options.ignore
@options.max_drop
@click.option(
    "--keep-float",
    type=click.IntRange(min=0),
    metavar="N",
    help="Keep the N layers that lose most in float.  [default: as few as --max-drop needs, up to 8]",
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
    help="Whether float files take uint8 pixels or normalised values; int8 files always take pixels.  [default: pixels "
    "for LiteRT files of models that normalise each colour in its own way, otherwise normalised values]",
)
@click.option(
    "--output",
    type=click.Choice(["probabilities", "logits"]),
    help="What a classifier's LiteRT file answers with; files for other targets give logits.  [default: probabilities]",
)
@click.option(
    "--decoded",
    is_flag=True,
    help="Put the decoding into the file: a detector's final boxes, or a segmenter's probabilities at its input's size "
    "(litert, onnx, openvino).",
)
@click.option(
    "--features",
    is_flag=True,
    help="Let a classifier's files answer with its features too, beside its logits or probabilities. MediaPipe shows a "
    "second answer as a second list of classes: leave it out for MediaPipe.",
)
@click.option(
    "--single-file",
    is_flag=True,
    help="Write the web page as one .html file with everything inside, which is opened from a disk (web).",
)
@click.option(
    "--golden",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="Write N inputs with the expected answers into NAME_golden beside each file, for your program's own tests; "
    "for a page's self-test into its folder, where they are published with it.",
)
@click.option(
    "--samples",
    type=click.Path(path_type=Path),
    metavar="IMAGES",
    help="An image, or a folder of which up to six are published with the page, for visitors to try (web).  [default: "
    "two of the package, if the model knows what they show]",
)
@options.slices(1, "Compute MobileNetV2's expansions in N slices, in less memory.")
@options.labels
@options.threads
@options.form
@options.preprocessing
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
    features: bool,
    single_file: bool,
    golden: int,
    samples: Path | None,
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
    """Write MODEL, a name, a file or the folder of a run, for other runtimes, and verify what was written.

    Every file is opened again in its own runtime and compared with the model in PyTorch, on photographs, synthetic
    images and noise: its numbers, and the classes, boxes or masks they stand for. A file that does not pass is not
    kept. int8 is calibrated in four ways, and the best is taken; DIR/NAME_int8_layers.csv lists the quantisation error
    of each layer, DIR/NAME_export.json what passed. The last lines say how to run what was written.

    Exit codes: 0 if every file was written and passed, 1 if any did not (the others are written).
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
            features=features,
            single_file=single_file,
            golden=golden,
            samples=samples,
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
    """The report, and for people the commands that run each file."""
    print_report(report, form)
    for row in report.rows:
        if row["passed"]:
            tell_next(form, *_how_to_run(row["target"], str(row["file"])))


def _how_to_run(target: Cell, file: str) -> Iterator[str]:
    from fusiform.zoo.snippets import languages_for

    place = shlex.quote(file)
    if target == "web":
        if file.endswith(".html"):
            yield f"fusiform predict PHOTO --model {place}  # or open it in a browser: double-click"
        else:
            yield f"fusiform demo {place}  # opens it in a browser"
        return
    if target != "coreml":
        yield f"fusiform predict PHOTO --model {place}"
    if languages := languages_for(file):
        first, *others = languages
        alone = "on a Mac or an iPhone, where alone it runs" if target == "coreml" else "in your own program"
        also = f" (or {', '.join(others)})" if others else ""
        yield f"fusiform info {place} --snippet {first}  # code that runs it {alone}{also}"
