"""What a card is put together from, whatever it is written as: sections of text, figures, tables and lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fusiform.report import Cell


@dataclass(frozen=True)
class Table:
    """Rows under the names of their columns; those after ``first`` are folded away where that can be."""

    rows: Sequence[Mapping[str, Cell]]
    caption: str = ""


@dataclass(frozen=True)
class Items:
    """Lines of a list."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Questions:
    """What only the author knows, as questions."""

    lines: Sequence[str]


Block = str | Mapping[str, Cell] | Table | Items | Questions
"""A paragraph, names with their values, a table, a list, or questions."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it; ``folded`` is only for those who ask for it."""

    title: str
    blocks: Sequence[Block]
    folded: bool = False


def percent(share: object) -> str:
    """A share in [0, 1] in percent; "" for what is none."""
    return f"{100 * share:.1f} %" if isinstance(share, (int, float)) and not isinstance(share, bool) else ""


def interval(low: object, high: object) -> str:
    """The ends of an interval in percent; "" without."""
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        return ""
    return f"{100 * low:.1f} to {100 * high:.1f}"


def plural(count: int, name: str) -> str:
    """A number and what it is of."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"
