"""``fusiform port``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("port")
@click.argument("foreign", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The file to write.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The names of the classes: UTF-8, one a line.",
)
def command(foreign: Path, out: Path, labels: Path | None) -> None:
    """Make a model file of fusiform's own from FOREIGN weights.

    FOREIGN is a .tflite, .onnx, .pth or .safetensors file of another framework; FILE ends in .tflite or .safetensors.
    """
    from fusiform.porting.port import port

    spec = port(foreign, out, labels=labels)
    click.echo(f"{out}: {spec.name}, {spec.num_classes} classes, {spec.input_size} pixels, {spec.padding} padding")
