"""``fusiform train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.models import complete_model
from fusiform.cli.output import print_report
from fusiform.report import Format

if TYPE_CHECKING:
    from fusiform.spec import Task


TASKS: dict[str, Task] = {"classification": "classification", "detection": "detection", "segmentation": "segmentation"}


@click.command("train")
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="RUN", help="The folder of the run.")
@click.option(
    "--model",
    default="mobilenet_v2",
    show_default=True,
    metavar="NAME|FILE",
    shell_complete=complete_model,
    help="What to start from: a trained model, or a network such as mobilenet_v2_x0_35, cut from a wider one.",
)
@click.option(
    "--task",
    "asked",
    type=click.Choice(["classification", "detection", "segmentation"]),
    help="What to learn.  [default: what DATA is laid out for]",
)
@click.option(
    "--recipe",
    metavar="NAME",
    help="The preset of hyperparameters.  [default: finetune_small, ssdlite_small or deeplab_small]",
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Change a number of the recipe.")
@click.option("--teacher", metavar="NAME|FILE", help="A trained model to learn from as well (distill=0.5 unless set).")
@click.option("--scratch", is_flag=True, help="Start from random weights.")
@click.option("--resume", is_flag=True, help="Go on with the run in RUN, with its own data, model and recipe.")
@click.option("--find-lr", is_flag=True, help="Only look for a learning rate: a suggestion, and a plot in RUN.")
@click.option("--show", is_flag=True, help="Only print the recipe as it would be used.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 or mps.")
@options.threads
@click.option(
    "--save-every",
    "save_minutes",
    default=5.0,
    show_default=True,
    type=click.FloatRange(min=0),
    metavar="MINUTES",
    help="Checkpoints within an epoch.",
)
@options.form
@click.pass_context
def command(
    ctx: click.Context,
    data: Path | None,
    out: Path,
    model: str,
    asked: str | None,
    recipe: str | None,
    settings: tuple[str, ...],
    teacher: str | None,
    scratch: bool,
    resume: bool,
    find_lr: bool,
    show: bool,
    device: str,
    threads: int | None,
    save_minutes: float,
    form: Format,
) -> None:
    """Train a model on DATA.

    A classifier: DATA is a folder with one folder a class (also within train, val and test), a CSV, or shards. A
    detector (SSDLite): COCO's layout or Pascal VOC's with boxes. A segmenter (DeepLabv3): Pascal VOC's with masks.

    Everything goes into the folder RUN; RUN/best.safetensors is the model. Ctrl-C loses nothing: --resume goes on.
    Under torchrun the same command trains in several processes.
    """
    import os
    from importlib.util import find_spec

    from fusiform.errors import MissingExtraError, UsageError
    from fusiform.progress import silent, track
    from fusiform.report import printable
    from fusiform.training.allocator import keep_freed_memory

    keep_freed_memory()  # before PyTorch takes its first memory
    for package in ("torch", "torchvision", "matplotlib", "tensorboard"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "train", "fusiform train")
    from fusiform.training.recipe import override
    from fusiform.training.recipes import DEFAULTS, RECIPES

    if resume and (asked or recipe or settings or teacher or scratch or data):
        given = ctx.get_parameter_source
        named = [
            name
            for name, parameter in (
                ("DATA", "data"),
                ("--task", "asked"),
                ("--recipe", "recipe"),
                ("--set", "settings"),
                ("--teacher", "teacher"),
                ("--scratch", "scratch"),
            )
            if given(parameter) is click.core.ParameterSource.COMMANDLINE
        ]
        raise UsageError(f"--resume goes on with the run's own settings: leave out {' and '.join(named)}")
    if recipe is not None and recipe not in RECIPES:
        raise UsageError(f"there is no recipe {recipe!r}; there are {', '.join(RECIPES)}")
    chosen = RECIPES[recipe] if recipe is not None else RECIPES[DEFAULTS[_task(asked, data)]]
    if asked is not None and chosen.task != TASKS[asked]:
        raise UsageError(f"--recipe {chosen.name} is for {chosen.task}, not for --task {asked}: leave out one of them")
    if teacher and not (chosen.distill or chosen.distill_features):
        settings = ("distill=0.5", *settings)
    chosen = override(chosen, settings)
    if show:
        click.echo(chosen.to_json(indent=2))
        return

    writes = os.environ.get("RANK", "0") == "0"

    def say(text: str) -> None:
        click.echo(printable(text), err=True)

    progress = track if writes and sys.stderr.isatty() else silent
    if find_lr:
        from fusiform.training.job import find_rate

        report = find_rate(data, out, model=model, recipe=chosen, teacher=teacher, scratch=scratch, device=device)
    else:
        from fusiform.training.job import train

        report = train(
            data,
            out,
            model=model,
            recipe=chosen,
            teacher=teacher,
            scratch=scratch,
            resume=resume,
            device=device,
            threads=threads,
            save_minutes=save_minutes,
            say=say,
            progress=progress,
        )
    if writes:
        print_report(report, form)


def _task(asked: str | None, data: Path | None) -> Task:
    """The task that was asked for, or the one that the data is laid out for."""
    from fusiform.data.open import recognise

    if asked is None:
        found = None if data is None else recognise(data)
        asked = "classification" if found is None else found
    return TASKS[asked]
