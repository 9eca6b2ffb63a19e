"""What comes of two models on the same images."""

from __future__ import annotations

from typing import NamedTuple

from fusiform.evaluation.figures import rounded, share
from fusiform.report import Cell
from fusiform.tasks.bootstrap import RESAMPLES, Comparison
from fusiform.tasks.classification_metrics import Difference

SIGNIFICANCE = 0.05
"""The p-value below which a difference is called real."""


class ClassificationComparison(NamedTuple):
    """Two classifiers on the same images: how often each is right, and the numbers of images by who is right.

    ``p`` is that of McNemar's test.
    """

    model: str
    other: str
    pictures: int
    top1: float
    other_top1: float
    both: int
    only_model: int
    only_other: int
    neither: int
    p: float
    difference: Difference

    @property
    def sentence(self) -> str:
        """What the comparison says, in words."""
        value, low, high = self.difference
        verdict = "is real" if self.p < SIGNIFICANCE else "cannot be told from chance"
        chance = f"the difference {verdict} (p = {self.p:.2g})"
        if value == 0:
            return f"{self.model} and {self.other} are right equally often; {chance}"
        better, low, high = (self.model, low, high) if value > 0 else (self.other, -high, -low)
        return (
            f"{better} is right more often, by {100 * abs(value):.1f} percentage points (95 % interval "
            f"{100 * low:.1f} to {100 * high:.1f}); {chance}"
        )


def comparison_figures(comparison: ClassificationComparison | Comparison) -> dict[str, Cell]:
    """A comparison as a row of a report."""
    if isinstance(comparison, ClassificationComparison):
        return _of_classifiers(comparison)
    figures: dict[str, Cell] = {
        "model": comparison.model,
        "other": comparison.other,
        "images": comparison.pictures,
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


def _of_classifiers(comparison: ClassificationComparison) -> dict[str, Cell]:
    return {
        "model": comparison.model,
        "other": comparison.other,
        "images": comparison.pictures,
        "top1": rounded(comparison.top1),
        "other_top1": rounded(comparison.other_top1),
        "both": comparison.both,
        "only_model": comparison.only_model,
        "only_other": comparison.only_other,
        "neither": comparison.neither,
        "p_value": rounded(comparison.p),
        "top1_difference": rounded(comparison.difference.value),
        "top1_difference_low": rounded(comparison.difference.low),
        "top1_difference_high": rounded(comparison.difference.high),
        "sentence": comparison.sentence,
    }
