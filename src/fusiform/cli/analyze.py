"""``fusiform analyze``."""

from __future__ import annotations

import click

from fusiform.cli import options
from fusiform.cli.output import print_report
from fusiform.report import Format


@click.command(
    "analyze",
    cls=options.Command,
    examples=(
        "fusiform analyze mobilenet_v2",
        "fusiform analyze mobilenet_v2_x0_35 --size 96 --classes 10 --bits 8",
    ),
)
@click.argument("model", type=click.Path(), shell_complete=options.complete_model)
@click.option(
    "--size", type=click.IntRange(min=32), metavar="PIXELS", help="The side of the input.  [default: the model's own]"
)
@click.option(
    "--classes",
    type=click.IntRange(min=1),
    metavar="N",
    help="The number of classes, for a detector without the background.  [default: the model's own]",
)
@click.option(
    "--output-stride",
    type=click.Choice(["8", "16"]),
    help="A segmenter's output stride.  [default: its own, 16 for a name]",
)
@click.option("--aspp", is_flag=True, help="Give a segmenter atrous spatial pyramid pooling.")
@click.option(
    "--bits",
    default="32",
    show_default=True,
    type=click.Choice(["8", "16", "32"]),
    help="Bits per activation value.",
)
@options.slices(4, 'For the column "sliced": compute each expansion in N slices.')
@options.form
def command(
    model: str,
    size: int | None,
    classes: int | None,
    output_stride: str | None,
    aspp: bool,
    slices: int,
    bits: str,
    form: Format,
) -> None:
    """Show the layers of MODEL, what each costs in computation and memory, and the peak of memory.

    MODEL is a file, a name, or a network at any width, such as mobilenet_v2_x0_35, ssdlite_mobilenet_v2_x1_0 (80
    classes at 320 pixels) or deeplab_v3_mobilenet_v2_x1_0 (21 classes at 513): no weights are needed, and nothing is
    downloaded. multiply_adds_tensorflow counts dilated convolutions as TensorFlow computes them, and as the paper does.
    Memory: "peak" is for a runtime that keeps each tensor until its last use, "arena" for LiteRT with its own
    kernels, "formula" as in MobileNetV2's paper; "sliced" with the inverted residuals in slices of their expansion,
    "held" is the paper's Table 3 (with --bits 16).
    """
    from fusiform.analysis import analyze

    stride = None if output_stride is None else int(output_stride)
    report = analyze(model, size=size, classes=classes, output_stride=stride, aspp=aspp, slices=slices, bits=int(bits))
    print_report(report, form)
