"""Figures of an evaluation, as they are written and as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fusiform.report import Cell


def rounded(value: float) -> float:
    """Six significant digits: more than float32 networks agree on between two machines."""
    return float(f"{value:.6g}")


def share(value: float | None) -> float | None:
    """A share, rounded, or None where there is none."""
    return None if value is None else rounded(value)


def percent(figures: Mapping[str, Cell], name: str) -> str:
    """A share as people read it, with its interval if there is one."""
    values = [figures.get(key) for key in (name, f"{name}_low", f"{name}_high")]
    share, low, high = (100 * value if isinstance(value, (int, float)) else None for value in values)
    if share is None:
        return "none"
    interval = "" if low is None or high is None else f" (95 % interval {low:.1f} to {high:.1f})"
    return f"{share:.1f} %{interval}"


def shortened(rows: Sequence[Mapping[str, Cell]]) -> list[dict[str, Cell]]:
    """Rows for people: no more than three decimals of a number."""
    return [{k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
