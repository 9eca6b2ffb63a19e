"""What the evaluations of detectors and of segmenters have in common: figures over pictures, and their comparison."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fusiform.data.annotated import AnnotatedSample
from fusiform.errors import UsageError
from fusiform.evaluate.figures import share
from fusiform.report import Cell
from fusiform.tasks import bootstrap
from fusiform.tasks.bootstrap import RESAMPLES, Comparison


class TaskEvaluation(Protocol):
    """An evaluation whose figures can be computed for any selection of its pictures."""

    @property
    def model(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def samples(self) -> tuple[AnnotatedSample, ...]: ...

    @property
    def names(self) -> tuple[str, ...]:
        """What the figures are called, the one that decides first."""
        ...

    @property
    def what(self) -> str:
        """What people call the first."""
        ...

    def figure(self, weights: NDArray[np.int32]) -> NDArray[np.float64]:
        """The figures for resamples of the pictures: from (resamples, pictures) to (resamples, figures)."""
        ...


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
