"""A training from Python: ``fusiform.train`` and the run that it returns."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusiform.errors import MissingExtraError, UsageError
from fusiform.progress import Tracker, silent, tell, tracker
from fusiform.report import Cell, Report
from fusiform.spec import Task
from fusiform.zoo.model import Model, open_model

if TYPE_CHECKING:
    from fusiform.data.dataset import Split
    from fusiform.data.masks import Ignore
    from fusiform.evaluation.job import AnyEvaluation
    from fusiform.exporting.targets.base import Precision
    from fusiform.prediction.results import Predictions
    from fusiform.prediction.sources import Source
    from fusiform.training.recipe import Recipe
    from fusiform.training.run_folder import Say


_RENAMED = {"training pictures": "train_images", "best epoch": "best_epoch", "pictures": "images"}
"""Names in the report of a run of fusiform 0.1, and what they are called now."""


class Run(os.PathLike[str]):
    """The folder of a finished training, opened: the model, what it reached, and what to do with it next.

    A run stands for its folder wherever a model is asked for: ``fusiform.predict("photo.jpg", run)``.

    Args:
        folder: The folder that ``fusiform train --out`` or ``fusiform.train`` wrote.
        report: What it reached, where that is known; None reads it from the folder.

    Raises:
        UsageError: Where there is no finished training.

    Example:
        >>> import fusiform
        >>> run = fusiform.Run("runs/first")
        >>> run.model.spec.labels, 0 <= run.metrics["top1"] <= 1
        (('forest', 'sea'), True)

    """

    def __init__(self, folder: str | os.PathLike[str], *, report: Report | None = None) -> None:
        self.folder = Path(folder)
        if report is not None:  # of several processes on several machines, only one has the folder
            self.report = report
            return
        if not (self.folder / "best.safetensors").is_file() or not (self.folder / "report.json").is_file():
            raise UsageError(
                f"{self.folder}: holds no finished training: train into it, or go on with --resume where one was begun"
            )
        fields = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
        figures = {_RENAMED.get(name, name): value for name, value in fields["figures"].items()}
        self.report = Report(fields["title"], tuple(fields["rows"]), figures, schema="fusiform.training/1")

    @property
    def model(self) -> Model:
        """The weights of the best epoch with their description."""
        return open_model(self.folder / "best.safetensors")

    @property
    def metrics(self) -> dict[str, Cell]:
        """What the best weights reach on images that had no part in choosing them, and what it took.

        Accuracies, mAP and mean IoU are shares in [0, 1], with the ends of their 95 % intervals beside.
        """
        return dict(self.report.figures)

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The figures of each epoch, as in ``metrics.jsonl``."""
        from fusiform.training.curves import read_metrics

        return read_metrics(self.folder / "metrics.jsonl")

    def predict(
        self,
        sources: Source | Iterable[Source],
        *,
        top: int | None = None,
        score: float | None = None,
        threads: int | None = None,
        progress: bool | Tracker | None = None,
    ) -> Predictions:
        """``fusiform.predict`` with this run's model; ``fusiform.predict(sources, run, ...)`` has all the arguments."""
        from fusiform.prediction.predict import predict

        return predict(sources, self, top=top, score=score, threads=threads, progress=progress)

    def evaluate(
        self,
        data: str | os.PathLike[str] | None = None,
        *,
        split: Split | None = None,
        compare: str | os.PathLike[str] | Model | None = None,
        ignore: Ignore | None = None,
        root: str | os.PathLike[str] | None = None,
        html: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        progress: bool | Tracker | None = None,
    ) -> AnyEvaluation:
        """``fusiform.evaluate`` with this run's model; ``fusiform.evaluate(run, data, ...)`` has all the arguments.

        ``data`` None is the dataset that it was trained on, with its own splits.
        """
        from fusiform.evaluation.job import evaluate
        from fusiform.training.run_folder import read_settings

        if data is None:
            settings = read_settings(self.folder)
            data = settings["data"]
            ignore, root = ignore or settings.get("ignore"), root or settings.get("root")
        return evaluate(
            self,
            data,
            split=split,
            compare=compare,
            ignore=ignore,
            root=root,
            html=html,
            threads=threads,
            progress=progress,
        )

    def export(
        self,
        to: str | Sequence[str],
        out: str | os.PathLike[str] | None = None,
        *,
        precision: Precision = "float32",
        calibrate: str | os.PathLike[str] | None = None,
        data: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        progress: bool | Tracker | None = None,
    ) -> Report:
        """``fusiform.export`` of this run's model; ``fusiform.export(run, to, out, ...)`` has all the arguments.

        ``out`` None is the folder ``export`` within the run's.
        """
        from fusiform.exporting.job import export

        place = self.folder / "export" if out is None else out
        return export(
            self,
            to,
            place,
            precision=precision,
            calibrate=calibrate,
            data=data,
            threads=threads,
            progress=progress,
        )

    def to_dict(self) -> dict[str, Any]:
        """What it reached as plain values: the report's."""
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

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        figures = self.report.figures
        names = [name for name in ("top1", "map", "map50", "miou") if figures.get(name) is not None]
        reached = ", ".join(f"{name} {figures[name]}" for name in names)
        return f"<Run {self.folder}: {figures.get('network')}{f', {reached}' if reached else ''}>"

    def _repr_png_(self) -> bytes | None:
        curves = self.folder / "curves.png"
        return curves.read_bytes() if curves.is_file() else None


def train(
    data: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] = "mobilenet_v2",
    task: Task | None = None,
    recipe: str | Recipe | None = None,
    settings: Mapping[str, object] | Sequence[str] = (),
    teacher: str | os.PathLike[str] | None = None,
    scratch: bool = False,
    ignore: Ignore | None = None,
    root: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str = "cpu",
    threads: int | None = None,
    save_every: float = 5.0,
    say: Say | None = None,
    progress: bool | Tracker | None = None,
) -> Run:
    """Train a classifier, a detector (SSDLite) or a segmenter (DeepLabv3) on your own images.

    An interruption loses nothing: the same call with ``resume`` goes on, to the same weights. On Linux the process's
    malloc keeps freed memory from then on, which makes training on a CPU faster; FUSIFORM_MALLOC=0 leaves it alone.

    Args:
        data: A folder with one folder a class (also within train, val and test), a CSV or tar shards; for detection
            boxes of COCO, YOLO, Pascal VOC, LabelMe, CVAT, a CSV list or Hugging Face's metadata; for segmentation
            Pascal VOC's masks, or the outlines of COCO, YOLO, LabelMe or CVAT; or a zip file of these. None with
            ``resume``.
        out: The folder for everything about the run; ``best.safetensors`` in it is the model.
        model: What to start from: a trained model, or a network such as ``mobilenet_v2_x0_35``, cut from a wider one.
        task: ``classification``, ``detection`` or ``segmentation``; None is what ``data`` is laid out for.
        recipe: The preset of hyperparameters, by name or itself; None is ``finetune_small``, ``ssdlite_small`` or
            ``deeplab_small``.
        settings: Hyperparameters to change, as ``{"lr": 0.001, "epochs": 10}`` or ``["lr=0.001"]``.
        teacher: A trained model to learn from as well (``distill`` is 0.5 unless set).
        scratch: Start from random weights.
        ignore: Of masks: ``"255"`` takes that value as pixels of no class, ``"none"`` as the last class; None is 255
            unless it seems to be a class, which is refused.
        root: The folder that the paths in a list begin in; None is the list's own.
        resume: Go on with the run in ``out``, with its own data, model and recipe.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        threads: The number of cores to use; None is all.
        save_every: Minutes between checkpoints within an epoch.
        say: Gets a line now and then; None prints on standard error where progress is shown.
        progress: Whether to show how far it is; None does on a terminal and in a notebook.

    Returns:
        The run: ``model``, ``metrics``, ``predict``, ``evaluate``, ``export``.

    Raises:
        UsageError: For data, arguments or a recipe that cannot be used.
        OutputError: For a folder that cannot be written.
        MissingExtraError: Where PyTorch is not installed.

    Example:
        >>> import fusiform
        >>> run = fusiform.train("photos", "runs/first", settings={"epochs": 2})
        >>> run.predict("new").errors
        []

    """
    from fusiform.training import allocator

    allocator.keep_freed_memory()  # before PyTorch takes its first memory
    need_training("training")
    from fusiform.training import job
    from fusiform.training.recipes import choose_recipe

    tracked = tracker(progress)
    if say is None:
        say = tell if tracked is not silent else lambda _: None
    report = job.train(
        data,
        out,
        model=model,
        recipe=choose_recipe(data, task=task, recipe=recipe, settings=settings, teacher=teacher),
        teacher=teacher,
        scratch=scratch,
        ignore=ignore,
        root=root,
        resume=resume,
        device=device,
        threads=threads,
        save_minutes=save_every,
        say=say,
        progress=tracked,
    )
    return Run(out, report=report)


def need_training(purpose: str) -> None:
    """Raise MissingExtraError, which says what for, unless the libraries of the extra ``train`` are installed."""
    from importlib.util import find_spec

    for package in ("torch", "torchvision", "matplotlib", "tensorboard"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "train", purpose)
