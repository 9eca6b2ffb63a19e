"""A whole search, from the data to the chosen file and its report: what ``fusiform choose`` runs."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from fusiform.data.open import open_dataset, recognise
from fusiform.drawing.pareto import check_place
from fusiform.errors import UsageError
from fusiform.files import write_file
from fusiform.progress import Tracker, silent
from fusiform.report import Cell, Report
from fusiform.selection.advice import advice
from fusiform.selection.budget import Budget, Shipped
from fusiform.selection.draw import draw
from fusiform.selection.journal import RUNS, Journal, read_trainings, write_journal
from fusiform.selection.latency import PRECISIONS, SIZES, ChooseEngine, measure, noise, plans
from fusiform.selection.search import TRIALS, Say, search
from fusiform.selection.work import Work
from fusiform.training.recipe import Recipe
from fusiform.training.recipes import distill_small, finetune_small
from fusiform.training.run_folder import make_folder


@dataclass(frozen=True)
class Choice:
    """The model's file, a report, and in words what is short of the accuracy asked for ("" if nothing)."""

    file: Path
    report: Report
    shortfall: str


def choose(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    budget: Budget,
    threads: int = 1,
    engine: ChooseEngine = "litert",
    sizes: Sequence[int] = SIZES,
    trials: int = TRIALS,
    scratch: bool = False,
    minutes: float | None = None,
    recipe: Recipe = finetune_small,
    distillation: Recipe = distill_small,
    resume: bool = False,
    say: Say = lambda _: None,
    progress: Tracker = silent,
) -> Choice:
    """Find the most accurate model of the pictures of ``data`` within ``budget``, and leave it in the folder ``out``.

    Latency is the runtime's median for a picture on this machine with ``threads`` cores; training takes all cores.
    Networks without weights to start from take part with ``scratch``. No training starts that would probably end
    later than ``minutes`` from now; what there is then is exported. ``recipe`` is for its own ``eval_size``; for other
    input sizes its training sizes change in proportion. ``distillation`` is for a network that was cut from a wider
    one or starts from random weights, if it gets as far as the last rung. ``resume`` takes over what an earlier search
    in ``out`` trained, also under another budget; ``say`` gets a line now and then.

    ``out`` then holds ``model.tflite`` (or .onnx), ``choose.json`` with everything that was measured, two drawings of
    it (``candidates.png``, ``frontier.png``), and the trainings in ``runs``. The model is chosen on validation
    pictures; the accuracy in the report is that of the finished file, on the test pictures if the data has any.

    Raises UsageError for data or arguments that cannot be used, and FusiformError, before any training, for a budget
    that nothing fits, with what would be possible.
    """
    began = time.monotonic()
    folder = Path(out)
    if folder.absolute().is_relative_to(Path(data).absolute()):
        raise UsageError(f"{folder}: lies within the data, where it would be taken for a class: choose another --out")
    if recipe.distill or recipe.distill_features:
        raise UsageError(f"recipe {recipe.name}: learns from a teacher; choose takes one where it helps: leave it out")
    if not sizes or min(sizes) < 32:
        raise UsageError("--size must be 32 pixels or more")
    if trials < 1:
        raise UsageError(f"--trials must be at least 1, got {trials}")
    if recipe.task != "classification" or recognise(data) is not None:
        raise UsageError(
            f"{data}: choose is for classifiers; fusiform train takes boxes and masks, and benchmark times it"
        )
    dataset = open_dataset(data, task="classification")
    if len(dataset.classes) < 2:
        raise UsageError(f"{data}: has one class, and a classifier needs two or more")
    settings = {
        "data": str(Path(data).absolute()),
        "classes": list(dataset.classes),
        "recipe": dataclasses.asdict(recipe),
        "distillation": dataclasses.asdict(distillation),
    }
    journal = Journal(read_trainings(folder, settings) if resume else [])
    if not resume and (folder / RUNS).exists():
        raise UsageError(f"{folder}: holds a search already: add --resume to go on with it, or choose another --out")
    make_folder(folder)
    check_place(folder / "frontier.png")

    say(f"measuring {len(plans(sizes, scratch=scratch)) * len(PRECISIONS)} candidates, {_cores(threads)}")
    candidates = measure(plans(sizes, scratch=scratch), dataset.classes, engine=engine, threads=threads)
    margin = noise(candidates)
    about = {**settings, "budget": dataclasses.asdict(budget), "engine": engine, "threads": threads, "noise": margin}

    def keep(chosen: Mapping[str, Cell] | None = None) -> None:
        write_journal(folder, about, candidates, journal=journal, chosen=chosen or {})

    journal.keep = keep
    keep()
    work = Work(
        folder,
        Path(data),
        recipe,
        distillation=distillation,
        engine=engine,
        threads=threads,
        say=say,
        progress=progress,
    )
    try:
        best = search(
            candidates,
            budget,
            work,
            margin=margin,
            epochs=(recipe.epochs, distillation.epochs),
            trials=trials,
            until=math.inf if minutes is None else began + 60 * minutes,
            journal=journal,
            say=say,
        )
    except KeyboardInterrupt:
        count = len(journal.trainings)
        kept = "1 finished training is" if count == 1 else f"{count} finished trainings are"
        say(f"interrupted: {kept} kept in {folder}; --resume goes on from there")
        raise
    finally:
        draw(folder, candidates, journal, budget)

    file = folder / f"model{best.file.suffix}"
    write_file(file, best.file.read_bytes())
    figures = {"model": str(file), **_figures(best, work.judge(best)), "engine": engine, "threads": threads}
    keep(figures)
    draw(folder, candidates, journal, budget, chosen=best)
    shortfall = ""
    if budget.min_accuracy is not None and 100 * cast("float", figures["top1"]) < budget.min_accuracy:
        shortfall = (
            f"{100 * cast('float', figures['top1']):.4g} % is the best that was reached, and {budget.min_accuracy:g} % "
            f"was asked for: {advice(candidates, budget, margin, best.training.plan)}"
        )
    return Choice(file, Report("Chosen", _rows(journal), figures), shortfall)


def _figures(file: Shipped, accuracy: Mapping[str, Cell]) -> dict[str, Cell]:
    return {
        "network": file.training.plan.network,
        "input size": file.training.plan.size,
        "precision": file.precision,
        "ms": round(file.ms, 4),
        "slowest ms": round(max(file.checks), 4),
        "MB": round(file.megabytes, 4),
        **accuracy,
        "run": str(file.training.run),
    }


def _rows(journal: Journal) -> tuple[dict[str, Cell], ...]:
    """The files, then the trainings of which there is none."""
    rows: list[dict[str, Cell]] = [
        {
            "network": file.training.plan.network,
            "px": file.training.plan.size,
            "epochs": file.training.epochs,
            "val_top1": round(file.val_top1, 4),
            "precision": file.precision,
            "ms": round(file.ms, 3),
            "MB": round(file.megabytes, 3),
        }
        for file in journal.shipped
    ]
    shipped = {file.training for file in journal.shipped}
    rows += [
        {
            "network": done.plan.network,
            "px": done.plan.size,
            "epochs": done.epochs,
            "val_top1": round(done.val_top1, 4),
        }
        for done in journal.trainings
        if done not in shipped
    ]
    return tuple(rows)


def _cores(threads: int) -> str:
    return "one core" if threads == 1 else f"{threads} cores"
