"""``fusiform port``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.output import suggest
from fusiform.report import printable

if TYPE_CHECKING:
    from fusiform.spec import Fit


@click.command(
    "port",
    cls=options.Command,
    examples=(
        "fusiform port weights.pth --out model.safetensors --labels classes.txt",
        "fusiform port mobilenet_v2.tflite --out model.tflite",
    ),
)
@click.argument("foreign", type=click.Path(path_type=Path))
@click.option(
    "--out",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The model file to write, .safetensors or .tflite.",
)
@options.labels
@options.preprocessing
def command(
    foreign: Path,
    out: Path,
    labels: Path | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    resize: int | None,
    crop: int | None,
    fit: Fit | None,
) -> None:
    """Turn the weights in FOREIGN, of another program, into a model file of fusiform's.

    FOREIGN is a .tflite, .onnx, .pth or .safetensors file of a MobileNetV2 or ShuffleNetV2, SSDLite or DeepLabv3.
    """
    from fusiform.porting.port import port
    from fusiform.progress import track

    said: list[str] = []
    with track(total=None, label="port"):
        spec = port(
            foreign,
            out,
            labels=labels,
            mean=mean,
            std=std,
            resize=resize,
            crop=crop,
            fit=fit,
            say=said.append,
        )
    for line in said:
        click.echo(f"fusiform: {printable(line)}", err=True)
    click.echo(f"{out}: {spec.name}, {spec.num_classes} classes, {spec.input_size} pixels, {spec.padding} padding")
    suggest("table", ["info", str(out)], ["predict", "PHOTO", "--model", str(out)])
