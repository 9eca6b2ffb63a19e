"""``fusiform train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.models import complete_model
from fusiform.cli.output import print_report
from fusiform.report import Format

if TYPE_CHECKING:
    from fusiform.data.masks import Ignore
    from fusiform.spec import Task


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
    type=click.Choice(["classification", "detection", "segmentation"]),
    help="What to learn.  [default: what DATA is laid out for]",
)
@click.option(
    "--recipe",
    metavar="NAME",
    help="The preset of hyperparameters.  [default: finetune_small, ssdlite_small or deeplab_small]",
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Change a hyperparameter of the recipe.")
@click.option("--teacher", metavar="NAME|FILE", help="A trained model to learn from as well (distill=0.5 unless set).")
@click.option("--scratch", is_flag=True, help="Start from random weights.")
@options.ignore
@options.root
@click.option("--resume", is_flag=True, help="Go on with the run in RUN, with its own data, model and recipe.")
@click.option("--find-lr", is_flag=True, help="Only look for a learning rate: a suggestion, and a plot in RUN.")
@click.option("--show", is_flag=True, help="Only print the recipe as it would be used.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 or mps.")
@options.threads
@click.option(
    "--save-every",
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
    task: Task | None,
    recipe: str | None,
    settings: tuple[str, ...],
    teacher: str | None,
    scratch: bool,
    ignore: Ignore | None,
    root: Path | None,
    resume: bool,
    find_lr: bool,
    show: bool,
    device: str,
    threads: int | None,
    save_every: float,
    form: Format,
) -> None:
    """Train a model on DATA.

    A classifier: DATA is a folder with one folder a class (also within train, val and test), a CSV, or shards. A
    detector (SSDLite): boxes of COCO's JSON, YOLO's text, Pascal VOC's or other XML beside the images, LabelMe's JSON,
    CVAT's XML, a CSV list of boxes, or Hugging Face's metadata. A segmenter (DeepLabv3): Pascal VOC's masks, or with
    --task segmentation the outlines of COCO, YOLO, LabelMe or CVAT. A zip file of any of these is unpacked.

    Labels are also read from Hugging Face's ImageFolder, Parquet and Arrow files, and from food-101, flowers-102,
    Oxford-IIIT Pet, CUB-200 and tiny-imagenet-200 as they are downloaded. What was understood is printed first.

    Everything goes into the folder RUN; RUN/best.safetensors is the model. Ctrl-C loses nothing: --resume goes on.
    Under torchrun the same command trains in several processes.
    """
    from fusiform.errors import UsageError
    from fusiform.report import printable
    from fusiform.runs import need_training
    from fusiform.training import allocator

    allocator.keep_freed_memory()  # before PyTorch takes its first memory
    need_training("fusiform train")
    from fusiform.training.recipes import choose_recipe

    if resume and (task or recipe or settings or teacher or scratch or ignore or root or data):
        given = ctx.get_parameter_source
        named = [
            name
            for name, parameter in (
                ("DATA", "data"),
                ("--task", "task"),
                ("--recipe", "recipe"),
                ("--set", "settings"),
                ("--teacher", "teacher"),
                ("--scratch", "scratch"),
                ("--ignore", "ignore"),
                ("--root", "root"),
            )
            if given(parameter) is click.core.ParameterSource.COMMANDLINE
        ]
        raise UsageError(f"--resume goes on with the run's own settings: leave out {' and '.join(named)}")
    chosen = choose_recipe(data, task=task, recipe=recipe, settings=settings, teacher=teacher)
    if show:
        from fusiform.training.fitting import fit_to

        click.echo((chosen if data is None else fit_to(chosen, data, ignore=ignore, root=root)).to_json(indent=2))
        return

    def say(text: str) -> None:
        click.echo(printable(text), err=True)

    if find_lr:
        from fusiform.training.job import find_rate

        report = find_rate(
            data,
            out,
            model=model,
            recipe=chosen,
            teacher=teacher,
            scratch=scratch,
            ignore=ignore,
            root=root,
            device=device,
        )
    else:
        from fusiform.runs import train

        report = train(
            data,
            out,
            model=model,
            recipe=chosen,
            teacher=teacher,
            scratch=scratch,
            ignore=ignore,
            root=root,
            resume=resume,
            device=device,
            threads=threads,
            save_every=save_every,
            say=say,
        ).report
    if report.figures:  # of several processes the one that writes has them
        print_report(report, form)
