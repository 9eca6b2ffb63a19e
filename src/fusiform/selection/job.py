"""A whole search, from the data to the chosen file and its report: what ``fusiform choose`` runs."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from fusiform.data.dataset import DataSet
from fusiform.data.open import open_dataset, recognise
from fusiform.drawing.pareto import check_place
from fusiform.errors import InputError, UsageError
from fusiform.files import write_file
from fusiform.progress import Tracker, silent, tell, tracker
from fusiform.report import Cell, Report, Row, value_text
from fusiform.selection.advice import advice
from fusiform.selection.budget import Budget, Shipped, Training
from fusiform.selection.draw import draw
from fusiform.selection.journal import RUNS, Journal, in_bytes, read_trainings, write_journal
from fusiform.selection.latency import PRECISIONS, SIZES, ChooseEngine, measure, noise, plans
from fusiform.selection.search import TRIALS, Say, search
from fusiform.selection.work import Work
from fusiform.training.fitting import fit_recipe
from fusiform.training.recipe import Recipe, override
from fusiform.training.recipes import distill_small, find_recipe
from fusiform.training.run_folder import make_folder


@dataclass(frozen=True, repr=False)
class Choice:
    """The model's file, a report, and in words what is short of the accuracy asked for ("" if nothing)."""

    file: Path
    report: Report
    shortfall: str

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return self.report.to_dict()

    def to_json(self) -> str:
        """The same as JSON text."""
        return self.report.to_json()

    def to_pandas(self) -> Any:
        """The report's rows as a pandas.DataFrame; raises UsageError where pandas is not installed."""
        return self.report.to_pandas()

    def to_arrow(self) -> Any:
        """The report's rows as a pyarrow.Table; raises UsageError where pyarrow is not installed."""
        return self.report.to_arrow()

    def __repr__(self) -> str:
        figures = self.report.figures
        what = f"{figures['network']} at {figures['input_size']} px, {figures['precision']}"
        took = (value_text(name, figures[name]) for name in ("median_ms", "bytes"))
        return f"<Choice {self.file}: {what}, {', '.join(took)}>"

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


def choose(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    max_ms: float | None = None,
    max_mb: float | None = None,
    min_accuracy: float | None = None,
    threads: int = 1,
    engine: ChooseEngine = "litert",
    size: Sequence[int] = SIZES,
    trials: int = TRIALS,
    scratch: bool = False,
    minutes: float | None = None,
    recipe: str | Recipe = "finetune_small",
    settings: Mapping[str, object] | Sequence[str] = (),
    resume: bool = False,
    distillation: Recipe = distill_small,
    say: Say | None = None,
    progress: bool | Tracker | None = None,
) -> Choice:
    """Find the most accurate classifier of a dataset that is fast and small enough, train it and export it.

    Every network, input size and precision is measured first, with random weights; of those that fit the promising
    ones are trained, the better half in full, and the best file that holds the budget when measured again is chosen.
    No training starts that would probably end later than ``minutes`` from now; what there is then is exported.

    Args:
        data: A dataset with classes, as for ``fusiform.train``.
        out: The folder for all of it: ``model.tflite`` (or .onnx), ``choose.json`` with everything that was measured,
            two drawings of it (``candidates.png``, ``frontier.png``), and the trainings in ``runs``.
        root: The folder that the paths in a list begin in; None is the list's own.
        max_ms: The longest time for an image, in milliseconds: the runtime's median on this machine.
        max_mb: The largest file, in 10^6 bytes.
        min_accuracy: The smallest top-1 accuracy, in percent.
        threads: The number of cores that the model has when it answers; training takes all.
        engine: The runtime that the model is for, ``litert``, ``onnxruntime`` or ``native``.
        size: The input sizes to search, in pixels.
        trials: How many of the networks that fit are trained at all.
        scratch: Also search networks that have no weights to start from.
        minutes: Start no training that would end later than this.
        recipe: The preset of hyperparameters, by name or itself; it is for its own ``eval_size``, and for other input
            sizes its training sizes change in proportion.
        settings: Hyperparameters to change, as ``{"lr": 0.001}`` or ``["lr=0.001"]``.
        resume: Use what an earlier search in ``out`` trained, also under another budget.
        distillation: The preset for a network that was cut from a wider one or starts from random weights, if it gets
            as far as the last rung.
        say: Gets a line now and then; None prints on standard error where progress is shown.
        progress: Whether to show how far it is; None does on a terminal and in a notebook.

    Returns:
        The model's ``file``, a ``report``, and in words what is short of the accuracy asked for. The model is chosen
        on validation images; the accuracy in the report is that of the finished file, on the test split if there is
        one.

    Raises:
        UsageError: For data or arguments that cannot be used.
        FusiformError: Before any training, for a budget that nothing fits, with what would be possible.

    Example:
        >>> import fusiform
        >>> choice = fusiform.choose("photos", "best", max_mb=8, size=[96], trials=1)
        >>> choice.file.name
        'model.tflite'

    """
    tracked = tracker(progress)
    if say is None:
        say = tell if tracked is not silent else lambda _: None
    budget = Budget(max_ms, max_mb, min_accuracy)
    recipe = override(find_recipe(recipe), settings)
    began = time.monotonic()
    folder = Path(out)
    dataset = _check(data, root, folder, recipe, size, trials)
    # As many epochs as train would take; the sizes are those that are searched.
    recipe = fit_recipe(dataclasses.replace(recipe, fit_size=False), dataset, held_out="val" not in dataset.splits)
    settings = {
        "data": str(Path(data).absolute()),
        "classes": list(dataset.classes),
        "recipe": dataclasses.asdict(recipe),
        "distillation": dataclasses.asdict(distillation),
    }
    journal = Journal(read_trainings(folder, settings) if resume else [])
    if not resume and (folder / RUNS).exists():
        raise InputError(f"{folder}: holds a search already: add --resume to go on with it, or choose another --out")
    make_folder(folder)
    check_place(folder / "frontier.png")

    say(f"measuring {len(plans(size, scratch=scratch)) * len(PRECISIONS)} candidates, {_cores(threads)}")
    candidates = measure(
        plans(size, scratch=scratch), dataset.classes, engine=engine, threads=threads, progress=tracked
    )
    margin = noise(candidates)
    about = {**settings, "engine": engine, "threads": threads, "noise": margin}

    def keep(chosen: Mapping[str, Cell] | None = None) -> None:
        write_journal(folder, about, candidates, budget, margin, journal=journal, chosen=chosen)

    journal.keep = keep
    keep()
    work = Work(
        folder,
        Path(data),
        recipe,
        root=root,
        distillation=distillation,
        engine=engine,
        threads=threads,
        say=say,
        progress=tracked,
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
    except KeyboardInterrupt as interrupt:
        count = len(journal.trainings)
        kept = "1 finished training is" if count == 1 else f"{count} finished trainings are"
        interrupt.args = (f"{kept} kept in {folder}, and the one under way as far as it was saved",)
        raise
    finally:
        draw(folder, candidates, journal, budget)

    file = folder / f"model{best.file.suffix}"
    write_file(file, best.file.read_bytes())
    figures: dict[str, Cell] = {"model": str(file), **_figures(best, work.judge(best))}
    figures |= {"engine": engine, "threads": threads}
    shortfall = ""
    if budget.min_accuracy is not None and 100 * cast("float", figures["top1"]) < budget.min_accuracy:
        shortfall = (
            f"{100 * cast('float', figures['top1']):.4g} % is the best that was reached, and {budget.min_accuracy:g} % "
            f"was asked for: {advice(candidates, budget, margin, best.training.plan)}"
        )
    figures["shortfall"] = shortfall or None
    keep(figures)
    draw(folder, candidates, journal, budget, chosen=best)
    return Choice(file, Report("Chosen", _rows(journal), figures, schema="fusiform.choice/1"), shortfall)


def _check(
    data: str | os.PathLike[str],
    root: str | os.PathLike[str] | None,
    folder: Path,
    recipe: Recipe,
    size: Sequence[int],
    trials: int,
) -> DataSet:
    """The dataset, once nothing is wrong with what was asked for; see ``choose`` for the errors."""
    if folder.absolute().is_relative_to(Path(data).absolute()):
        raise UsageError(f"{folder}: lies within the data, where it would be taken for a class: choose another --out")
    if recipe.distill or recipe.distill_features:
        raise UsageError(f"recipe {recipe.name}: learns from a teacher; choose takes one where it helps: leave it out")
    if not size or min(size) < 32:
        raise UsageError("--size must be 32 pixels or more")
    if trials < 1:
        raise UsageError(f"--trials must be at least 1, got {trials}")
    if recipe.task != "classification" or recognise(data) is not None:
        raise InputError(
            f"{data}: choose is for classifiers; fusiform train takes boxes and masks, and benchmark times it"
        )
    dataset = open_dataset(data, task="classification", root=root)
    if len(dataset.classes) < 2:
        raise InputError(f"{data}: has one class, and a classifier needs two or more")
    return dataset


def _figures(file: Shipped, accuracy: Mapping[str, Cell]) -> dict[str, Cell]:
    return {
        "network": file.training.plan.network,
        "input_size": file.training.plan.size,
        "precision": file.precision,
        "median_ms": round(file.ms, 4),
        "slowest_ms": round(max(file.checks), 4),
        "bytes": in_bytes(file.megabytes),
        **accuracy,
        "run": str(file.training.run),
    }


def _rows(journal: Journal) -> tuple[Row, ...]:
    """The files, then the trainings of which there is none."""

    def row(training: Training, val_top1: float, file: Shipped | None = None) -> Row:
        return {
            "network": training.plan.network,
            "input_size": training.plan.size,
            "epochs": training.epochs,
            "val_top1": round(val_top1, 4),
            "precision": None if file is None else file.precision,
            "median_ms": None if file is None else round(file.ms, 3),
            "bytes": None if file is None else in_bytes(file.megabytes),
            "run": str(training.run),
        }

    shipped = {file.training for file in journal.shipped}
    rows = [row(file.training, file.val_top1, file) for file in journal.shipped]
    return (*rows, *(row(done, done.val_top1) for done in journal.trainings if done not in shipped))


def _cores(threads: int) -> str:
    return "one core" if threads == 1 else f"{threads} cores"
