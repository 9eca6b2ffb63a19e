"""``fusiform train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusiform.cli import options
from fusiform.cli.output import open_output, print_report, suggest
from fusiform.errors import UsageError
from fusiform.report import Format, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusiform.data.masks import Ignore
    from fusiform.spec import Task


def _explain(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print every recipe and hyperparameter, and end: none of the other options are needed for that."""
    if wanted and not ctx.resilient_parsing:
        from fusiform.training.glossary import explain

        with open_output(None) as stream:
            stream.write(explain())
        ctx.exit()


@click.command(
    "train",
    cls=options.Command,
    examples=(
        "fusiform train photos/ --out runs/first",
        "fusiform train photos/ --out runs/longer --set epochs=12 --set lr=0.0001",
        "fusiform train --resume --out runs/first",
    ),
)
@click.argument("data", required=False, type=click.Path(path_type=Path))
@options.out_folder("The folder of the run; DIR/best.safetensors is the model.  [required]", required=False)
@options.model(
    "What to start from: a trained model, or a network such as mobilenet_v2_x0_35, cut from a wider one.",
    default="mobilenet_v2",
)
@options.task
@options.recipe(None, ("classification", "detection", "segmentation"), "  [default: the first of DATA's task]")
@options.settings
@click.option(
    "--recipes",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_explain,
    help="Explain every recipe and hyperparameter, and exit.",
)
@click.option("--show", is_flag=True, help="Print the hyperparameters that would be used, and exit.")
@click.option(
    "--find-lr", is_flag=True, help="Only search for a learning rate: print a suggestion and draw a plot in DIR."
)
@click.option("--resume", is_flag=True, help="Continue the run in DIR, with its own data, model and recipe.")
@click.option(
    "--teacher",
    metavar="NAME|FILE",
    shell_complete=options.complete_model,
    help="A trained model to distill as well (with distill=0.5 unless set).",
)
@click.option("--scratch", is_flag=True, help="Start from random weights.")
@options.root
@options.ignore
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="DEVICE",
    help="auto (a CUDA GPU if there is one), cpu, cuda, cuda:1 or mps. A resumed run keeps its own.",
)
@options.threads
@click.option(
    "--save-every",
    default=5.0,
    show_default=True,
    type=click.FloatRange(min=0),
    metavar="MINUTES",
    help="How often a checkpoint is saved within an epoch.",
)
@options.form
@click.pass_context
def command(
    ctx: click.Context,
    data: Path | None,
    out: Path | None,
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
    """Train a model on the images in DATA.

    A classifier: DATA is a folder with one folder per class (also within train, val and test), a CSV list, or tar
    shards. A detector (SSDLite): boxes in COCO's JSON, YOLO's text, Pascal VOC's or other XML beside the images,
    LabelMe's JSON, CVAT's XML, a CSV list of boxes, or Hugging Face's metadata. A segmenter (DeepLabv3): Pascal VOC's
    masks, or with --task segmentation the outlines of COCO, YOLO, LabelMe or CVAT. A zip file of any of these is
    unpacked.

    Labels are also read from Hugging Face's ImageFolder, Parquet and Arrow files, and from food-101, flowers-102,
    Oxford-IIIT Pet, CUB-200 and tiny-imagenet-200 as downloaded. How DATA was understood is printed first.

    Ctrl-C loses nothing: the step under way is finished and saved, and --resume continues after it. A second Ctrl-C
    ends at once, with what was saved last. Under torchrun the same command trains in several processes.

    Exit codes: 0 if the training is complete, 1 if it could not be, 130 after Ctrl-C.
    """
    from fusiform.progress import track
    from fusiform.runs import need_training
    from fusiform.training import allocator

    allocator.keep_freed_memory()  # before PyTorch takes its first memory
    need_training("fusiform train")
    from fusiform.training.recipes import choose_recipe

    if resume:
        _check_resume(ctx)
    chosen = choose_recipe(data, task=task, recipe=recipe, settings=settings, teacher=teacher)
    if show:
        from fusiform.training.fitting import fit_to

        click.echo((chosen if data is None else fit_to(chosen, data, ignore=ignore, root=root)).to_json(indent=2))
        return
    if out is None:
        raise UsageError("there is no folder for the run: name a new one with --out DIR")

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
            threads=threads,
            say=say,
            progress=track,
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
            progress=track,
        ).report
    if not report.figures:  # of several processes the one that writes has them
        return
    print_report(report, form)
    if find_lr:
        rate = ["--set", f"lr={report.figures['suggested']}"]
        suggest(form, ["train", str(data), "--out", str(out), *_given(model, task, recipe, settings), *rate])
    else:
        suggest(form, *_next(out, data))


def _check_resume(ctx: click.Context) -> None:
    """Raise UsageError where a run that goes on is told anew what it is."""
    words = {
        "DATA": "data",
        "--task": "task",
        "--recipe": "recipe",
        "--set": "settings",
        "--teacher": "teacher",
        "--scratch": "scratch",
        "--ignore": "ignore",
        "--root": "root",
    }
    named = [
        word
        for word, parameter in words.items()
        if ctx.get_parameter_source(parameter) is click.core.ParameterSource.COMMANDLINE
    ]
    if named:
        raise UsageError(f"--resume goes on with the run's own settings: leave out {' and '.join(named)}")


def _next(out: Path, data: Path | None) -> Iterator[list[str]]:
    """The commands that may follow a training."""
    from fusiform.training.run_folder import read_settings

    run = read_settings(out)
    where = ["--root", run["root"]] if run.get("root") else []
    if run.get("ignore"):
        where += ["--ignore", run["ignore"]]
    page = ["--html", str(out / "evaluation.html")]
    yield ["evaluate", str(out), run["data"] if data is None else str(data), *where, *page]
    yield ["export", str(out), "--to", "litert", "--out", str(out / "export")]


def _given(model: str, task: str | None, recipe: str | None, settings: tuple[str, ...]) -> list[str]:
    """The options that say what is trained, as they were given."""
    options = [("--model", None if model == "mobilenet_v2" else model), ("--task", task), ("--recipe", recipe)]
    given = [word for name, value in options if value is not None for word in (name, value)]
    return given + [word for setting in settings for word in ("--set", setting)]
