"""What the evaluations of detectors and of segmenters share: figures over pictures, intervals, and a comparison."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fusiform.data.annotated import AnnotatedSample
from fusiform.data.dataset import Split
from fusiform.engines import EngineName
from fusiform.errors import UsageError
from fusiform.evaluation.figures import share
from fusiform.report import Cell
from fusiform.spec import ModelSpec
from fusiform.tasks import bootstrap
from fusiform.tasks.bootstrap import RESAMPLES, Comparison, Interval


@dataclass(frozen=True, kw_only=True)
class TaskEvaluation(ABC):
    """A detector's or a segmenter's answers to the pictures of a dataset.

    ``samples`` are the pictures that could be read, ``skipped`` the messages about the others. Whatever ``names`` name
    can be computed for any selection of the pictures: an interval comes from that, and a comparison.
    """

    names: ClassVar[tuple[str, ...]]
    """What has an interval, and is compared; the first decides."""
    what: ClassVar[str]
    """What people call the first of ``names``."""

    model: str
    spec: ModelSpec
    engine: EngineName
    source: str
    split: Split
    samples: tuple[AnnotatedSample, ...]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def title(self) -> str:
        return f"{self.model} on {self.source} ({self.split})"

    @abstractmethod
    def figure(self, weights: NDArray[np.int32]) -> NDArray[np.float64]:
        """What ``names`` name, for resamples of the pictures: from (resamples, pictures) to (resamples, figures)."""

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Each of ``names`` with its interval over the pictures."""
        found = bootstrap.intervals(self.figure, len(self.samples))
        return dict(zip(self.names, found, strict=True))


def compare(first: TaskEvaluation, second: TaskEvaluation) -> Comparison:
    """Two models on the pictures that both could be shown; UsageError where there are none."""
    places = {sample.file: i for i, sample in enumerate(second.samples)}
    pairs = [(i, places[sample.file]) for i, sample in enumerate(first.samples) if sample.file in places]
    if not pairs:
        raise UsageError(f"{first.title} and {second.title} have no picture in common: evaluate both on the same data")
    count = len(first.samples), len(second.samples)
    compared = bootstrap.compare(first.names, first.figure, second.figure, pairs=pairs, pictures=count)
    return Comparison(first.model, second.model, len(pairs), first.what, compared)


def comparison_figures(comparison: Comparison) -> dict[str, Cell]:
    """A comparison as a row of a report."""
    figures: dict[str, Cell] = {
        "model": comparison.model,
        "other": comparison.other,
        "pictures": comparison.pictures,
        "resamples": RESAMPLES,
    }
    for name, value, other, difference in comparison.compared:
        figures |= {
            name: share(value),
            f"other_{name}": share(other),
            f"{name}_difference": share(difference.value),
            f"{name}_difference_low": share(difference.low),
            f"{name}_difference_high": share(difference.high),
            f"{name}_excludes_zero": difference.excludes_zero,
        }
    return {**figures, "sentence": comparison.sentence}
