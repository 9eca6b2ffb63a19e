"""A training from its data to its report: what ``fusiform train`` runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from fusiform.data.masks import Ignore
from fusiform.engines.device import describe_device
from fusiform.errors import UsageError
from fusiform.progress import Tracker, silent
from fusiform.report import Cell, Report
from fusiform.training.annotation_job import AnnotatedJob
from fusiform.training.base import Job, open_base, read_text
from fusiform.training.classification_job import ClassificationJob
from fusiform.training.curves import draw_lr_finder
from fusiform.training.distributed import World, join
from fusiform.training.lr_finder import suggest, sweep
from fusiform.training.recipe import Recipe
from fusiform.training.recipes import finetune_small
from fusiform.training.run_folder import RunFolder, Say, make_folder, read_settings
from fusiform.zoo.model import open_model


def train(
    data: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] = "mobilenet_v2",
    recipe: Recipe = finetune_small,
    teacher: str | os.PathLike[str] | None = None,
    scratch: bool = False,
    ignore: Ignore | None = None,
    root: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str = "auto",
    threads: int | None = None,
    save_minutes: float = 5.0,
    say: Say = lambda _: None,
    progress: Tracker = silent,
) -> Report:
    """Train a model on ``data``, for the recipe's task, and keep everything in ``out``, a ``RunFolder``.

    ``data`` is what ``open_dataset`` reads for the recipe's task; without a validation
    split, part of the training pictures is kept for it, near-duplicates always on one side. ``model`` is a name or file
    with weights to start from, or a network's name (``mobilenet_v2_x0_35``), which starts from the most important
    channels of a wider one: the teacher, or else the bundled weights; ``scratch`` starts from random weights.
    ``ignore`` says what 255 is in masks, and ``root`` where a list's paths begin, see ``open_dataset``.
    ``teacher`` is a model to learn from as well (``recipe.distill``). ``resume`` goes on with the run in ``out``, with
    its own data, model and recipe, and on its kind of device with its number of threads, unless others are named: with
    these its sums are rounded as before. ``device`` is as in ``find_device``; ``threads`` is the number of cores, all
    by default. ``say`` gets a line now and then. What an interruption left is said by its KeyboardInterrupt.

    The report's figures are those of ``best.safetensors``, on the test pictures if there are any. Raises UsageError
    for data, arguments or a recipe that cannot be used, and OutputError for a folder that cannot be written.
    """
    folder = Path(out)
    settings: dict[str, Any] = read_settings(folder) if resume else {}
    if resume and device == "auto":
        device = str(settings.get("device", "cpu"))  # not known of runs that a version before 0.3 began
    asked = threads or settings.get("threads")
    threads = asked if isinstance(asked, int) else torch.get_num_threads()
    torch.set_num_threads(threads)
    with join(device) as world:
        run = RunFolder(folder, say) if world.writes else None
        try:
            if resume:
                recipe = Recipe.from_json(read_text(folder / "recipe.json"), source=str(folder / "recipe.json"))
                teacher, model, scratch = settings["teacher"], settings["model"], settings["scratch"]
            elif data is None:
                raise UsageError("name the data to train on, or add --resume to go on with a run")
            elif folder.absolute().is_relative_to(Path(data).absolute()):
                raise UsageError(
                    f"{folder}: lies within the data, where the next training would take it for a class: "
                    "choose another folder for --out"
                )
            learns = recipe.distill or recipe.distill_features
            if learns and teacher is None:
                raise UsageError("recipe: distill is above 0 but there is no teacher: name one with --teacher")
            if teacher is not None and not learns:
                raise UsageError("a teacher needs a share of the loss: add --set distill=0.5, or leave out --teacher")
            if recipe.deterministic:
                torch.use_deterministic_algorithms(True)
            job = _job(world, run, recipe, threads, save_minutes, progress, ignore, root)
            job.asked_threads = asked
            return job.go(Path(data) if data is not None else None, os.fspath(model), teacher, scratch, resume)
        except KeyboardInterrupt as interrupt:
            interrupt.args = (run.interrupted(processes=world.size) if run else "",)
            raise
        finally:
            if recipe.deterministic:
                torch.use_deterministic_algorithms(False)
            if run:
                run.close()


def find_rate(
    data: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] = "mobilenet_v2",
    recipe: Recipe = finetune_small,
    teacher: str | os.PathLike[str] | None = None,
    scratch: bool = False,
    ignore: Ignore | None = None,
    root: str | os.PathLike[str] | None = None,
    device: str = "auto",
    threads: int | None = None,
    say: Say = lambda _: None,
    progress: Tracker = silent,
) -> Report:
    """Look for a learning rate for ``train`` with the same arguments, and draw ``lr_finder.png`` in ``out``.

    Up to 100 steps at rising rates (``lr_finder.sweep``); the report's figures hold the suggested ``lr``. Raises what
    ``train`` raises.
    """
    if data is None:
        raise UsageError("name the data to look for a learning rate on")
    threads = threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    with join(device) as world:
        if world.size > 1:
            raise UsageError("--find-lr runs in a single process: start it without torchrun")
        if world.device.type != "cpu":
            say(f"computing on {describe_device(str(world.device))}")
        taught_by = open_model(teacher) if teacher is not None else None
        base = open_base(os.fspath(model), taught_by, scratch=scratch)
        job = _job(world, None, recipe, threads, 0, progress, ignore, root)
        dataset = job.prepare(Path(data))
        job.fit(dataset)
        task = job.make_task(job.adapt(base, dataset, os.fspath(model)), dataset, taught_by, None)
        rates, losses = sweep(task, job.recipe, world, progress)
    suggested = suggest(rates, losses)
    picture = Path(out) / "lr_finder.png"
    make_folder(picture.parent)
    draw_lr_finder(rates, losses, suggested, picture)
    figures: dict[str, Cell] = {"lr": float(f"{suggested:.2g}"), "steps": len(rates), "plot": str(picture)}
    return Report("learning rate", (), figures, schema="fusiform.learning_rate/1")


def _job(
    world: World,
    run: RunFolder | None,
    recipe: Recipe,
    threads: int,
    save_minutes: float,
    progress: Tracker,
    ignore: Ignore | None,
    root: str | os.PathLike[str] | None,
) -> Job[Any]:
    if ignore is not None and recipe.task != "segmentation":
        raise UsageError(f"--ignore is for masks, and recipe {recipe.name} is for {recipe.task}: leave it out")
    kind = ClassificationJob if recipe.task == "classification" else AnnotatedJob
    job = kind(world, run, recipe, threads, save_minutes, progress)
    job.ignore, job.root = ignore, root
    return job
