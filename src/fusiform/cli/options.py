"""Options that several commands have, so that they are called and explained alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

# Named again, because importing the engines takes longer than printing the help.
_ENGINES = ("litert", "onnxruntime", "torch", "openvino", "executorch")

engine = click.option("--engine", type=click.Choice(_ENGINES), help="The runtime.  [default: the one the file is for]")
device = click.option(
    "--device", default="cpu", show_default=True, help="Where the engine torch computes: cpu, cuda, cuda:1 or mps."
)
threads = click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Cores to use.  [default: all]")
batch = click.option(
    "--batch",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Images that go through the network together.",
)
form = click.option(
    "--format", "form", default="table", show_default=True, type=click.Choice(["table", "json", "jsonl", "csv"])
)
out = click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Write there instead of to standard output."
)
ignore = click.option(
    "--ignore",
    type=click.Choice(["255", "none"]),
    help="What 255 is in masks: pixels of no class, or with none the last class.  [default: 255, unless it "
    "seems to be a class]",
)
root = click.option(
    "--root",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The folder that the paths in a list begin in.  [default: the list's own]",
)
labels = click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Other names for the model's classes: UTF-8, one a line.",
)


def _colours(text: str) -> tuple[float, ...]:
    """A number for each of the three channels, with commas between them, or one for all."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a number, nor three with commas between them, such as 0.5 or 0.485,0.456,0.406"
        ) from None


_PREPROCESSING = (
    click.option(
        "--mean",
        type=_colours,
        metavar="R,G,B",
        help="For weights that do not say it: what is subtracted from values in [0, 1]; one number is for all channels."
        "  [default: ImageNet's, 0.485,0.456,0.406]",
    ),
    click.option(
        "--std",
        type=_colours,
        metavar="R,G,B",
        help="For weights that do not say it: what values are then divided by.  [default: 0.229,0.224,0.225]",
    ),
    click.option(
        "--resize",
        type=int,
        metavar="PIXELS",
        help="For weights that do not say it: the shorter side before the crop.  [default: 256, 8/7 of the crop]",
    ),
    click.option(
        "--crop",
        type=int,
        metavar="PIXELS",
        help="For weights that do not say it: the side of the square that the network sees.  [default: 224]",
    ),
    click.option(
        "--fit",
        type=click.Choice(["crop", "stretch", "pad"]),
        help="For weights that do not say it: how an image comes into the square: its middle is cut out, all of it is "
        "squeezed, or it is padded.  [default: crop]",
    ),
)


def preprocessing(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what weights of other programs were trained with, in their order."""
    for option in reversed(_PREPROCESSING):
        command = option(command)
    return command


strict = click.option("--strict", is_flag=True, help="Exit with 3 if any image could not be read.")

prediction_form = click.option(
    "--format",
    "-f",
    "form",
    default="table",
    show_default=True,
    type=click.Choice(["table", "json", "jsonl", "csv", "coco"]),
    help="How the result is written: a table for people, the others for programs; coco is a detector's boxes in COCO's "
    "result format.",
)
