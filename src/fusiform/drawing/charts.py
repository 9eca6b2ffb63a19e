"""Drawings for a page, as SVG elements; what is drawn are plain numbers."""

from __future__ import annotations

import html
from collections.abc import Sequence

_GOOD, _BAD = "#2e7d32", "#c0392b"
_SIDE = 320
"""The side of a diagram in pixels, without its margins."""
_CELL = 26
_NUMBERED = 25
"""The most columns of a heat table whose cells show their numbers."""
_LONGEST_NAME = 28


def reliability_diagram(points: Sequence[tuple[float, float, int]]) -> str:
    """Accuracy over confidence: each point is (confidence, accuracy, pictures), the first two in [0, 1].

    A circle's area grows with its pictures; a calibrated model's circles lie on the diagonal.
    """
    left, top = 50, 10
    largest = max((count for _, _, count in points), default=0)
    parts = [
        f'<rect x="{left}" y="{top}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="currentColor" '
        'stroke-opacity=".4"/>',
        f'<line x1="{left}" y1="{top + _SIDE}" x2="{left + _SIDE}" y2="{top}" stroke="currentColor" '
        'stroke-opacity=".4" stroke-dasharray="4 4"/>',
    ]
    for percent in range(0, 101, 20):
        along = _SIDE * percent / 100
        parts.append(_label(left + along, top + _SIDE + 18, f"{percent}", "middle"))
        parts.append(_label(left - 6, top + _SIDE - along + 4, f"{percent}", "end"))
    parts.append(_label(left + _SIDE / 2, top + _SIDE + 38, "confidence, %", "middle"))
    x, y = 14, top + _SIDE / 2
    parts.append(f'<g transform="rotate(-90 {x} {y:g})">{_label(x, y, "right, %", "middle")}</g>')
    for confidence, accuracy, count in points:
        if count:
            radius = 3 + 13 * (count / largest) ** 0.5
            title = f"{count} pictures: {confidence:.1%} sure, {accuracy:.1%} right"
            parts.append(
                f'<circle cx="{left + _SIDE * confidence:.1f}" cy="{top + _SIDE * (1 - accuracy):.1f}" '
                f'r="{radius:.1f}" fill="{_GOOD}" fill-opacity=".55" stroke="{_GOOD}"><title>{title}</title></circle>'
            )
    return _svg(left + _SIDE + 20, top + _SIDE + 48, "".join(parts))


def heat_table(rows: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """A confusion matrix: a cell is the darker, the larger its share of the row; the diagonal is green, the rest red.

    ``counts`` are whole numbers, a list for each of ``rows``, with as many as there are ``columns``. Up to 25
    columns cells show their numbers; all tell them under the mouse.
    """
    margin = 14 + 7 * max((min(len(name), _LONGEST_NAME) for name in (*rows, *columns)), default=0)
    cell = _CELL if len(columns) <= _NUMBERED else _CELL // 2
    height, width = margin + cell * len(rows), margin + cell * len(columns)
    parts = []
    for j, name in enumerate(columns):
        x = margin + cell * (j + 0.5) + 4
        parts.append(
            f'<g transform="rotate(-90 {x:g} {margin - 6})">{_label(x, margin - 6, _short(name), "start")}</g>'
        )
    for i, (name, row) in enumerate(zip(rows, counts, strict=True)):
        total = sum(row)
        parts.append(_label(margin - 6, margin + cell * (i + 0.5) + 4, _short(name), "end"))
        for j, (predicted, count) in enumerate(zip(columns, row, strict=True)):
            if count:
                x, y = margin + cell * j, margin + cell * i
                title = html.escape(f"{name}, taken for {predicted}: {count} of {total}")
                if i == j:
                    title = html.escape(f"{name}, recognised: {count} of {total}")
                parts.append(
                    f'<rect x="{x}" y="{y}" width="{cell}" height="{cell}" fill="{_GOOD if i == j else _BAD}" '
                    f'fill-opacity="{0.12 + 0.68 * count / total:.2f}"><title>{title}</title></rect>'
                )
                if len(columns) <= _NUMBERED:
                    parts.append(_label(x + cell / 2, y + cell / 2 + 4, str(count), "middle"))
    parts.append(
        f'<rect x="{margin}" y="{margin}" width="{width - margin}" height="{height - margin}" fill="none" '
        'stroke="currentColor" stroke-opacity=".4"/>'
    )
    return _svg(width + 4, height + 4, "".join(parts))


def _svg(width: float, height: float, content: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img">{content}</svg>'
    )


def _label(x: float, y: float, text: str, anchor: str) -> str:
    # The mouse is to reach the cell below, which tells its numbers.
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" pointer-events="none">{html.escape(text)}</text>'


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"
