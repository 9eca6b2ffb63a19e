"""An evaluation in parts: for datasets that one machine, or one run, is not enough for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO

from fusiform.data.annotated import AnnotatedSet
from fusiform.data.dataset import DataSet, Split
from fusiform.data.masks import Ignore
from fusiform.engines import EngineName, place_of, tells_unknown
from fusiform.evaluation import classification, detection, segmentation
from fusiform.evaluation.answers import AnyAnswers, choose, count_answers, describe, true_outputs, write_answers
from fusiform.evaluation.job import check_shown
from fusiform.evaluation.source import Chosen, read_data
from fusiform.progress import Progress, Tracker, Unit, silent, tracker
from fusiform.scaling.folder import Done, PartsFolder
from fusiform.scaling.plan import Slices
from fusiform.scaling.run import PART, Parts, check_parts, folder_of, run_parts
from fusiform.scaling.work import AnswerPart
from fusiform.spec import Colours, Fit
from fusiform.tasks.classification import rename
from fusiform.zoo.model import Model, open_model
from fusiform.zoo.stated import assumption


def evaluate_parts(
    model: str | os.PathLike[str] | Model,
    data: str | os.PathLike[str] | DataSet | AnnotatedSet,
    out: str | os.PathLike[str],
    *,
    part: int = PART,
    shard: tuple[int, int] | None = None,
    on: str | None = None,
    split: Split | None = None,
    multi_scale: bool = False,
    engine: EngineName | None = None,
    device: str = "auto",
    threads: int | None = None,
    batch: int = 1,
    ignore: Ignore | None = None,
    root: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    mean: Colours | None = None,
    std: Colours | None = None,
    resize: int | None = None,
    crop: int | None = None,
    fit: Fit | None = None,
    say: Callable[[str], None] | None = None,
    progress: bool | Tracker | None = None,
) -> Parts:
    """Show a model the images of a dataset in parts, and keep of its answers what the figures need.

    Each file is written whole or not at all. Run again after whatever ended it, it goes on: a part that is there is not
    made again. Which images a part holds depends on the dataset and ``part`` alone, so that several machines can write
    into one folder, or each into its own, put together afterwards. When all parts are there,
    ``evaluate(model, data, answers=out)`` gives what ``evaluate(model, data)`` does. A part has of each image, for a
    classifier its truth and the logits in float32, for a detector the boxes that were found and the true ones, for a
    segmenter the pixels of each class that are right, true and found.

    Args:
        model: This and the arguments that are not explained here are those of ``evaluate``.
        data: See ``evaluate``.
        out: The folder to write to: ``part-00000.npz`` and so on, ``parts.json`` and a file for each shard that says
            what is done.
        part: The number of images in a file.
        shard: ``(3, 64)`` answers every 64th part from part 3 on, so that 64 machines do all; None answers all.
        on: ``ray`` or ``ray://HOST:PORT`` hands the parts to the workers of a Ray cluster; they need the images and
            the model under the same names, and this machine alone writes.
        split: See ``evaluate``.
        multi_scale: See ``evaluate``.
        engine: See ``evaluate``.
        device: See ``evaluate``.
        threads: See ``evaluate``.
        batch: See ``evaluate``.
        ignore: See ``evaluate``.
        root: See ``evaluate``.
        labels: See ``evaluate``.
        mean: See ``evaluate``.
        std: See ``evaluate``.
        resize: See ``evaluate``.
        crop: See ``evaluate``.
        fit: See ``evaluate``.
        say: Gets a line where the file does not say how images are prepared, which tells what is assumed, and one
            where ``auto`` takes a GPU.
        progress: See ``evaluate``.

    Returns:
        How many images the parts hold, and how many of them could not be read.

    Raises:
        UsageError: For arguments that do not fit, data that do not fit the model, and for a folder that was begun with
            another model, other images or other options, or that another process is writing these parts to.
        FusiformError: For a model that cannot be used.

    Example:
        >>> import fusiform, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> fusiform.evaluate_parts("mobilenet_v2", "photographs", folder, part=1, shard=(0, 2)).images
        1
        >>> fusiform.evaluate_parts("mobilenet_v2", "photographs", folder, part=1, shard=(1, 2)).images
        1
        >>> fusiform.evaluate("mobilenet_v2", "photographs", answers=folder).metrics["top5"]
        1.0

    """
    ours, folder = check_parts(part, shard), folder_of(out)
    opened = open_model(model, mean=mean, std=std, resize=resize, crop=crop, fit=fit)
    name = str(opened.path) if isinstance(model, Model) else os.fspath(model)
    if opened.assumed and say is not None:
        say(assumption(name, opened.spec.preprocess, opened.assumed))
    if labels is not None:
        opened = replace(opened, spec=rename(opened.spec, labels))
    check_shown(opened, name, multi_scale=multi_scale, ignore=ignore is not None)
    if on is None and device == "auto" and say is not None:
        place = place_of(opened, "torch" if multi_scale else engine, device)
        if place != "cpu":
            from fusiform.engines.device import describe_device

            say(f"computing on {describe_device(place)}")
    show = tracker(progress)
    with show(total=None, label="read the dataset"):
        known = read_data(data, opened.spec, model=name, ignore=ignore, root=root)
        chosen = choose(opened, name, known, split)
        settings = describe(opened, name, known, chosen, engine=engine, multi_scale=multi_scale)
    plan = Slices(chosen.samples, part)
    settings |= {"images_per_part": part, "parts": len(plan)}
    # Workers are sent what they need of the dataset with each part.
    job = Showing(opened, settings, replace(chosen, samples=()), engine, device, threads, batch, multi_scale)
    if on is None:
        job.check()
    with closing(PartsFolder(folder, settings, ours, count_answers)) as target:

        def answer(waiting: Sequence[int], advance: Callable[[int], None]) -> Iterator[tuple[int, Done]]:
            if on is None:
                return _on_this_machine(job, plan, waiting, target, advance)
            from fusiform.scaling.ray import on_ray

            return on_ray(on, job, plan, waiting, target, advance)

        return run_parts(plan, target, ours, answer, show=show, label="evaluate")


@dataclass(frozen=True)
class Showing:
    """The job of showing a model the images of parts, and of writing what the figures need of its answers."""

    model: Model
    settings: Mapping[str, Any]
    chosen: Chosen[Any]
    engine: EngineName | None
    device: str
    threads: int | None
    batch: int
    multi_scale: bool

    def check(self) -> None:
        """Raise what a model, an engine or a number that cannot be used raises, before a folder is begun with it."""
        self._answers((), self.threads, silent)

    def open(self, cores: int) -> AnswerPart:
        return partial(self.answer, cores)

    def answer(
        self, cores: int | None, number: int, samples: Sequence[Any], file: BinaryIO, progress: Tracker = silent
    ) -> Done:
        """Show the model a part's images, on so many cores, and write the answers into a file."""
        started = time.perf_counter()
        found = self._answers(samples, cores, progress)
        seconds = time.perf_counter() - started
        truth = true_outputs(self.chosen, samples) if isinstance(found, classification.Answers) else None
        write_answers(file, number, self.settings, found, truth)
        return Done(len(samples), len(found.errors), seconds)

    def _answers(self, samples: Sequence[Any], cores: int | None, progress: Tracker) -> AnyAnswers:
        model, task = self.model, self.model.spec.task
        if task == "classification":
            return classification.answers(
                model,
                samples,
                engine=self.engine,
                device=self.device,
                threads=cores,
                batch=self.batch,
                features=tells_unknown(model),
                progress=progress,
            )
        if task == "detection":
            return detection.find_boxes(
                model,
                samples,
                engine=self.engine,
                device=self.device,
                threads=cores,
                batch=self.batch,
                progress=progress,
            )
        return segmentation.outline(
            model,
            samples,
            labels=self.chosen.outputs,
            multi_scale=self.multi_scale,
            engine=self.engine,
            device=self.device,
            threads=cores,
            batch=self.batch,
            progress=progress,
        )


def _on_this_machine(
    job: Showing, plan: Slices[Any], waiting: Sequence[int], target: PartsFolder, advance: Callable[[int], None]
) -> Iterator[tuple[int, Done]]:
    """Answer parts one after the other, and give the number of each and what it holds once it is in its place."""
    for number in waiting:
        with target.writing(number) as file:
            done = job.answer(job.threads, number, plan.items(number), file, _telling(advance))
        yield number, done


class _Told:
    """The progress of a part as that of the whole."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance

    def advance(self, amount: int = 1, note: str = "") -> None:  # noqa: ARG002  # the parts are the note
        self._advance(amount)


def _telling(advance: Callable[[int], None]) -> Tracker:
    @contextmanager
    def told(*, total: int | None, label: str, unit: Unit = "images") -> Iterator[Progress]:  # noqa: ARG001
        yield _Told(advance)

    return told
