"""What a search is about: the limits, the networks that may hold them, and what becomes of these."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fusiform.errors import UsageError
from fusiform.exporting.targets.base import Precision
from fusiform.spec import Architecture, network_name
from fusiform.zoo.catalog import ALIASES, CATALOG

SIZE_MARGIN = 1.01
"""Metadata that an exported file has and a candidate's does not."""


@dataclass(frozen=True)
class Budget:
    """What the model may take: milliseconds a picture, megabytes (10^6 bytes), and the top-1 it must reach in percent.

    None is no limit. UsageError for what is not above 0, for more than 100 %, and for 1 % or less, which is a share.
    """

    max_ms: float | None = None
    max_mb: float | None = None
    min_accuracy: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("max-ms", self.max_ms), ("max-mb", self.max_mb), ("min-accuracy", self.min_accuracy)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"--{name} must be above 0, got {value:g}")
        if self.min_accuracy is not None and self.min_accuracy > 100:
            raise UsageError(f"--min-accuracy is in percent, up to 100, got {self.min_accuracy:g}")
        if self.min_accuracy is not None and self.min_accuracy <= 1:
            meant = 100 * self.min_accuracy
            raise UsageError(f"--min-accuracy is in percent: write {meant:g}, not {self.min_accuracy:g}")

    def excess(self, ms: float, megabytes: float) -> float:
        """How many times the limit it takes, of the limit that it breaks more; at most 1 is within both."""
        return max(
            0.0 if self.max_ms is None else ms / self.max_ms, 0.0 if self.max_mb is None else megabytes / self.max_mb
        )

    def limits(self) -> str:
        """The limits in words."""
        parts = [f"{value:g} {unit}" for value, unit in ((self.max_ms, "ms"), (self.max_mb, "MB")) if value is not None]
        return " and ".join(parts)


@dataclass(frozen=True)
class Plan:
    """A network at an input size in pixels."""

    architecture: Architecture
    width: float
    size: int

    @property
    def network(self) -> str:
        return network_name(self.architecture, self.width)

    @property
    def name(self) -> str:
        return f"{self.network} at {self.size} px"

    @property
    def start(self) -> Literal["bundled", "cut", "random"]:
        """What a training begins with: weights that come along, a part of such weights, or none.

        A search downloads nothing: a network whose own weights would have to be fetched begins with none.
        """
        own, wide = (CATALOG[ALIASES[name]] if name in ALIASES else None for name in (self.network, self.architecture))
        if own is not None:
            return "bundled" if own.bundled else "random"
        return "cut" if wide is not None and wide.bundled and wide.width >= self.width else "random"


@dataclass(frozen=True)
class Candidate:
    """A plan in a precision, measured with random weights: median milliseconds of each pass, and megabytes."""

    plan: Plan
    precision: Precision
    passes: tuple[float, ...]
    megabytes: float
    multiply_adds: int

    @property
    def ms(self) -> float:
        return float(np.median(self.passes))

    @property
    def text(self) -> str:
        return f"{self.plan.name} in {self.precision} ({self.ms:.2g} ms, {self.megabytes:.2g} MB)"


@dataclass(frozen=True)
class Training:
    """A finished training: the validation pictures' loss and share of right answers, and the run's folder."""

    plan: Plan
    epochs: int
    distilled: bool
    val_top1: float
    val_loss: float
    seconds: float
    run: Path


@dataclass(frozen=True)
class Shipped:
    """An exported and verified file: milliseconds of each measurement, megabytes, validation pictures' share right."""

    training: Training
    precision: Precision
    file: Path
    checks: tuple[float, ...]
    megabytes: float
    val_top1: float

    @property
    def ms(self) -> float:
        return float(np.median(self.checks))

    def holds(self, budget: Budget) -> bool:
        """Whether it is within the budget, in all measurements but one: another program may get in the way once."""
        return budget.excess(sorted(self.checks)[-2:][0], self.megabytes) <= 1


def fitting(candidates: Iterable[Candidate], budget: Budget, margin: float) -> list[Candidate]:
    """The candidates within the budget, with a margin for what measuring again may give."""
    return [
        candidate
        for candidate in candidates
        if budget.excess(candidate.ms * (1 + margin), candidate.megabytes * SIZE_MARGIN) <= 1
    ]


def epochs_in_words(count: int) -> str:
    """How long a training is, in words."""
    return "1 epoch" if count == 1 else f"{count} epochs"
