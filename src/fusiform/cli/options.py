"""Options that several commands have, so that they are called and explained alike."""

from __future__ import annotations

from pathlib import Path

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
strict = click.option("--strict", is_flag=True, help="Exit with 3 if any image could not be read.")
