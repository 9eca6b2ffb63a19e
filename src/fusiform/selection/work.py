"""The steps of a search that take time: training, exporting, verifying and measuring a network."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from fusiform.benchmarking.latency import measure_latency
from fusiform.data.dataset import Split
from fusiform.engines import open_engine
from fusiform.errors import InputError
from fusiform.evaluation.job import evaluate
from fusiform.exporting.job import export
from fusiform.exporting.targets.base import Precision, TargetName
from fusiform.progress import Tracker
from fusiform.report import Cell
from fusiform.selection.budget import Plan, Shipped, Training
from fusiform.selection.journal import RUNS
from fusiform.selection.latency import ChooseEngine, runtime_of
from fusiform.selection.search import Say
from fusiform.training.classification_job import read_list
from fusiform.training.curves import read_metrics
from fusiform.training.job import train
from fusiform.training.recipe import Recipe

CHECKS, CHECK_SECONDS = 5, 0.5
"""How often a finished file is measured; all but one have to hold the limit."""
_TARGETS: Mapping[ChooseEngine, TargetName] = {"litert": "litert", "onnxruntime": "onnx", "native": "litert"}


class Work:
    """The real steps: trainings in ``runs``, each with its exported files."""

    def __init__(
        self,
        folder: Path,
        data: Path,
        recipe: Recipe,
        *,
        root: str | os.PathLike[str] | None = None,
        distillation: Recipe,
        engine: ChooseEngine,
        threads: int,
        say: Say,
        progress: Tracker,
    ) -> None:
        self.folder, self.data, self.root, self.recipe = folder, data, root, recipe
        # All trainings hold the same pictures out, or their accuracies could not be compared.
        self.distillation = dataclasses.replace(distillation, val_fraction=recipe.val_fraction, seed=recipe.seed)
        self.engine, self.threads, self.say, self.progress = engine, threads, say, progress

    def train(self, plan: Plan, epochs: int, teacher: Training | None) -> Training:
        """See ``Steps``; a run that was interrupted goes on."""
        recipe = recipe_for(self.distillation if teacher else self.recipe, plan, epochs)
        name = f"{plan.network}_{plan.size}px_{epochs}_epochs" + ("_distilled" if teacher else "")
        run = self.folder / RUNS / name
        if not (run / "data.sha256").exists():  # the last thing that is written before a training begins
            (run / "run.json").unlink(missing_ok=True)
        if (run / "run.json").exists():
            report = train(None, run, resume=True, say=self.say, progress=self.progress)
        else:
            report = train(
                self.data,
                run,
                model=plan.network,
                recipe=recipe,
                teacher=teacher.run / "best.safetensors" if teacher else None,
                scratch=plan.start == "random",
                root=self.root,
                say=self.say,
                progress=self.progress,
            )
        records = read_metrics(run / "metrics.jsonl")
        best = [record for record in records if record.get("epoch") == report.figures["best_epoch"]]
        if not best or "val_top1" not in best[-1]:
            raise InputError(
                f"{self.data}: has no validation pictures, on which choose decides: add more pictures, a "
                "folder val, or --set val_fraction=0.2"
            )
        return Training(
            plan,
            epochs,
            teacher is not None,
            float(best[-1]["val_top1"]),
            float(best[-1]["val_loss"]),
            float(cast("float", report.figures["seconds"])),
            run,
        )

    def ship(self, training: Training, precision: Precision) -> Shipped:
        """See ``Steps``."""
        report = export(
            training.run / "best.safetensors",
            [_TARGETS[self.engine]],
            training.run / "export",
            precision=precision,
            say=self.say,
            progress=self.progress,
        )
        file = Path(str(report.rows[0]["file"]))
        opened = open_engine(file, engine=runtime_of(self.engine, precision), threads=self.threads)
        with self.progress(total=None, label="latency"):
            checks = tuple(measure_latency(opened, seconds=CHECK_SECONDS).median_ms for _ in range(CHECKS))
        answered = evaluate(file, read_list(training.run), split="val", progress=self.progress)
        return Shipped(training, precision, file, checks, file.stat().st_size / 1e6, cast("float", answered.value))

    def judge(self, file: Shipped) -> Mapping[str, Cell]:
        """``split``, ``images``, ``top1`` and its 95 % interval; on pictures without a part in the choice if any."""
        pictures = read_list(file.training.run)
        split: Split = "test" if pictures.splits.get("test") else "val"
        figures = evaluate(file.file, pictures, split=split, progress=self.progress).report().figures
        return {name: figures[name] for name in ("split", "images", "top1", "top1_low", "top1_high")}


def recipe_for(recipe: Recipe, plan: Plan, epochs: int) -> Recipe:
    """A recipe for another input size and number of epochs: what is counted in pixels or epochs changes in proportion.

    Training sizes are rounded to 16 pixels, 32 or more. Batch statistics of a network that is no longer, or never was,
    the pretrained one are learned anew.
    """

    def pixels(size: int) -> int:
        return max(32, 16 * round(size * plan.size / recipe.eval_size / 16))

    share = epochs / recipe.epochs if recipe.epochs else 1.0
    return dataclasses.replace(
        recipe,
        epochs=epochs,
        min_steps=0,
        max_steps=0,
        fit_size=False,
        give_up=0.0,
        size=pixels(recipe.size),
        sizes=tuple(map(pixels, recipe.sizes))[-max(epochs, 1) :],
        eval_size=plan.size,
        eval_resize=round(recipe.eval_resize * plan.size / recipe.eval_size),
        warmup_epochs=recipe.warmup_epochs * share,
        step_epochs=recipe.step_epochs * (share or 1.0),
        unfreeze_epochs=recipe.unfreeze_epochs * share,
        batch_norm=recipe.batch_norm if plan.start == "bundled" else "train",
    )
