"""How a classifier does on corrupted images: ImageNet-C's fifteen corruptions at five strengths, on any dataset."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform import engines
from fusiform.data.corruptions import CORRUPTIONS, FAMILIES, STRENGTHS, corrupt
from fusiform.data.dataset import Sample
from fusiform.drawing.page import Page
from fusiform.engines import Engine, EngineName
from fusiform.engines.crew import Crew, not_finite, read_pixels
from fusiform.evaluation import page_parts, remedies
from fusiform.evaluation.figures import rounded
from fusiform.progress import Tracker, silent
from fusiform.report import Cell, rows_table
from fusiform.tasks import bootstrap
from fusiform.tasks.bootstrap import Interval
from fusiform.zoo.model import Model

SEED = 0


@dataclass(frozen=True, eq=False, repr=False)
class Stress:
    """Whether each image is named rightly as it is (``clean``: images) and corrupted (``right``).

    ``right`` is (corruptions, strengths, images), in the order of ``CORRUPTIONS`` and ``STRENGTHS``.
    """

    right: NDArray[np.bool_]
    clean: NDArray[np.bool_]
    seconds: float

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """The mean accuracy over all corruptions and strengths (``all``), and over the strengths of each by its name.

        Shares in [0, 1] with 95 % intervals by the bootstrap over the images.
        """
        means = np.concatenate([self.right.mean((0, 1))[None], self.right.mean(1)])  # (1 + corruptions, images)

        def figure(weights: NDArray[np.int32]) -> NDArray[np.float64]:
            drawn: NDArray[np.float64] = weights @ means.T / weights.sum(1, keepdims=True)
            return drawn

        found = bootstrap.intervals(figure, means.shape[1])
        return dict(zip(("all", *CORRUPTIONS), found, strict=True))

    @property
    def families(self) -> dict[str, float]:
        """The mean accuracy over the corruptions and strengths of each of ``FAMILIES``."""
        means = dict(zip(CORRUPTIONS, self.right.mean((1, 2)).tolist(), strict=True))
        return {family: sum(means[name] for name in names) / len(names) for family, names in FAMILIES.items()}

    @property
    def retained(self) -> float | None:
        """The mean accuracy on corrupted images as a share of that on clean ones; None where that is 0."""
        clean = float(self.clean.mean())
        return None if clean == 0 else float(self.right.mean()) / clean


def stress(
    model: Model,
    samples: Sequence[Sample],
    truth: NDArray[np.int64],
    *,
    engine: EngineName | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch: int = 1,
    progress: Tracker = silent,
) -> Stress:
    """Show a classifier every image as it is and corrupted in 75 ways, after resizing and cropping.

    ``samples`` can be read, and ``truth`` (images,) are the model's classes of them. The same images are corrupted in
    the same way each time, whatever the threads.
    """

    def start(cores: int) -> Engine:
        return engines.open_engine(model, engine=engine, threads=cores, device=device)

    crew = Crew(start, len(samples), threads=threads, batch=batch)
    spec = crew.spec
    clean = np.zeros(len(samples), bool)
    right = np.zeros((len(CORRUPTIONS), len(STRENGTHS), len(samples)), bool)
    bgr = spec.preprocess.color_order == "bgr"

    def first_answers(mine: Engine, pixels: Sequence[NDArray[np.uint8]]) -> NDArray[np.intp]:
        values = [mine.run(np.stack(pixels[k : k + batch]))[spec.output] for k in range(0, len(pixels), batch)]
        if not all(np.isfinite(each).all() for each in values):
            raise not_finite(model)
        first: NDArray[np.intp] = np.concatenate(values).argmax(1)
        return first

    def answer(mine: Engine, group: range) -> None:
        read, pixels = read_pixels([samples[i] for i in group], spec, {}, first=group.start)
        rows = [i for i, _ in read]
        clean[rows] = first_answers(mine, pixels) == truth[rows]
        shown = [each[..., ::-1] for each in pixels] if bgr else pixels
        for c, name in enumerate(CORRUPTIONS):
            for s, strength in enumerate(STRENGTHS):
                bad = [corrupt(each, name, strength, seed=SEED + i) for i, each in zip(rows, shown, strict=True)]
                answers = first_answers(mine, [each[..., ::-1] for each in bad] if bgr else bad)
                right[c, s, rows] = answers == truth[rows]

    began = time.perf_counter()
    crew.work(answer, progress, label="corrupted images")
    return Stress(right, clean, time.perf_counter() - began)


def stress_rows(found: Stress) -> list[dict[str, Cell]]:
    """A row for each corruption: its accuracy at each strength, the mean of them and that one's interval."""
    rows: list[dict[str, Cell]] = []
    for name, each in zip(CORRUPTIONS, found.right, strict=True):
        mean = found.intervals[name]
        rows.append(
            {
                "corruption": name,
                **{f"strength_{k}": rounded(float(at.mean())) for k, at in zip(STRENGTHS, each, strict=True)},
                "top1": _rounded(mean.value),
                "top1_low": _rounded(mean.low),
                "top1_high": _rounded(mean.high),
            }
        )
    return rows


def stress_figures(found: Stress) -> dict[str, Any]:
    """What the evaluation's JSON has of it."""
    mean, corrupted = found.intervals["all"], float(found.right.mean())
    return {
        "images": len(found.clean),
        "clean_top1": rounded(float(found.clean.mean())),
        "corrupted_top1": rounded(corrupted),
        "corrupted_top1_low": _rounded(mean.low),
        "corrupted_top1_high": _rounded(mean.high),
        "mean_corruption_error": rounded(1 - corrupted),
        "retained": None if found.retained is None else rounded(found.retained),
        "corruptions": stress_rows(found),
        "seconds": round(found.seconds, 3),
    }


def stress_text(found: Stress) -> str:
    """It in a sentence."""
    figures = stress_figures(found)
    low, high = (100 * figures[f"corrupted_top1_{end}"] for end in ("low", "high"))
    kept = "" if found.retained is None else f", {100 * found.retained:.0f} % of what it has on clean ones"
    return (
        f"On corrupted images the first answer is right for {100 * figures['corrupted_top1']:.1f} % (95 % interval "
        f"{low:.1f} to {high:.1f}){kept}: the mean corruption error is {100 * figures['mean_corruption_error']:.1f} %, "
        "over 15 corruptions at 5 strengths, without dividing by another network's."
    )


def stress_table(found: Stress | None) -> str:
    """What follows the tables for people; nothing where it was not asked for."""
    if found is None:
        return ""
    told = "".join(f"\n{line}\n" for line in remedies.advice(found.families))
    return f"\n{stress_text(found)}\n\n{rows_table(stress_rows(found))}\n{told}"


def add_stress(page: Page, found: Stress | None) -> None:
    """The page's part about it, if it was asked for."""
    if found is not None:
        page.add_heading("Corrupted images")
        page.add_text(stress_text(found))
        rows = [{**row, "corruption": str(row["corruption"]).replace("_", " ")} for row in stress_rows(found)]
        page.add_table(page_parts.shares(rows))
        if told := remedies.advice(found.families):
            page.add_list(told, kind="advice")


def _rounded(value: float | None) -> float | None:
    return None if value is None else rounded(value)
