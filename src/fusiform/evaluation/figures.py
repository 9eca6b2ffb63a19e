"""Figures of an evaluation, as they are written and as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fusiform.report import Cell

OTHER = "other"
"""The column of a confusion matrix for classes of the model that the data does not have."""


def rounded(value: float) -> float:
    """Six significant digits: more than float32 networks agree on between two machines."""
    return float(f"{value:.6g}")


def share(value: float | None) -> float | None:
    """A share, rounded, or None where there is none."""
    return None if value is None else rounded(value)


def percent(figures: Mapping[str, Cell], name: str) -> str:
    """A share as people read it, with its interval if there is one."""
    found = (figures.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    values = [value if isinstance(value, (int, float)) else None for value in found]
    return interval_text(*values)


def interval_text(value: float | None, low: float | None, high: float | None) -> str:
    """A share and its 95 % interval in percent."""
    if value is None:
        return "none"
    interval = "" if low is None or high is None else f" (95 % interval {100 * low:.1f} to {100 * high:.1f})"
    return f"{100 * value:.1f} %{interval}"


def shortened(rows: Sequence[Mapping[str, Cell]]) -> list[dict[str, Cell]]:
    """Rows for people: no more than three decimals of a number."""
    return [{k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()} for row in rows]


def percentages(counts: NDArray[np.int64]) -> list[list[int]]:
    """Each row of a confusion matrix in whole percent that add up to 100; a row of nothing stays so."""
    totals = np.maximum(counts.sum(1, keepdims=True), 1)
    ends = np.rint(100 * np.cumsum(counts, axis=1) / totals).astype(int)
    rows: list[list[int]] = np.diff(ends, axis=1, prepend=0).tolist()
    return rows
