"""Drawings for a page, as SVG elements; what is drawn are plain numbers.

Colours are the page's (``--good``, ``--bad``), and where there is none those that stand here.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

GOOD, BAD = "var(--good, #00796b)", "var(--bad, #c2410c)"
SIDE = 300
"""The side of a square diagram in pixels, without its margins."""
_ROOM = 20
"""Pixels around a diagram, so that a circle at its very edge is whole."""
_CELLS = (26, 52)
"""The least and the most pixels of a heat table's cell."""
_TABLE_WIDTH = 420
"""Pixels that a heat table of few classes fills."""
_NUMBERED = 25
"""The most columns of a heat table whose cells show their numbers."""
_LONGEST_NAME = 28


def reliability_diagram(points: Sequence[tuple[float, float, int]]) -> str:
    """Accuracy over confidence: each point is (confidence, accuracy, pictures), the first two in [0, 1].

    A circle's area grows with its pictures; a calibrated model's circles lie on the diagonal.
    """
    largest = max((count for _, _, count in points), default=0)
    frame, (left, top) = square("confidence, %", "right, %")
    parts = [
        *frame,
        f'<line x1="{left}" y1="{top + SIDE}" x2="{left + SIDE}" y2="{top}" stroke="currentColor" '
        'stroke-opacity=".7" stroke-width="1.5" stroke-dasharray="5 4"/>',
    ]
    for confidence, accuracy, count in points:
        if count:
            radius = 3 + 13 * (count / largest) ** 0.5
            title = f"{count} pictures: {100 * confidence:.1f} % sure, {100 * accuracy:.1f} % right"
            parts.append(
                f'<circle cx="{left + SIDE * confidence:.1f}" cy="{top + SIDE * (1 - accuracy):.1f}" '
                f'r="{radius:.1f}" fill="{GOOD}" fill-opacity=".5" stroke="{GOOD}" stroke-width="1.5">'
                f"<title>{title}</title></circle>"
            )
    told = "; ".join(
        f"{100 * confidence:.0f} % sure, {100 * accuracy:.0f} % right"
        for confidence, accuracy, count in points
        if count
    )
    return svg(*square_size(), "".join(parts), label=f"Accuracy over confidence: {told}")


def square(x_label: str, y_label: str) -> tuple[list[str], tuple[int, int]]:
    """The frame of a diagram whose axes are percent from 0 to 100, and the left and top of its inside in pixels."""
    left, top = 40 + _ROOM, _ROOM
    parts = []
    for percent in range(0, 101, 20):
        along = SIDE * percent / 100
        if 0 < percent < 100:
            parts.append(
                f'<path d="M{left + along:g} {top}v{SIDE}M{left} {top + along:g}h{SIDE}" stroke="currentColor" '
                'stroke-opacity=".12"/>'
            )
        parts.append(label(left + along, top + SIDE + _ROOM + 14, f"{percent}", "middle"))
        parts.append(label(left - _ROOM, top + SIDE - along + 4, f"{percent}", "end"))
    parts.append(
        f'<rect x="{left}" y="{top}" width="{SIDE}" height="{SIDE}" fill="none" stroke="currentColor" '
        'stroke-opacity=".4"/>'
    )
    parts.append(label(left + SIDE / 2, top + SIDE + _ROOM + 36, x_label, "middle"))
    x, y = 12, top + SIDE / 2
    parts.append(f'<g transform="rotate(-90 {x} {y:g})">{label(x, y, y_label, "middle")}</g>')
    return parts, (left, top)


def square_size(below: int = 0) -> tuple[int, int]:
    """The width and height in pixels of a drawing with one ``square`` and so much room below it."""
    return 40 + SIDE + 2 * _ROOM, SIDE + 2 * _ROOM + 44 + below


def heat_table(rows: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]], *, unit: str = "") -> str:
    """A confusion matrix: a cell is the darker, the larger its share of the row; the diagonal has another colour.

    ``counts`` are whole numbers of ``unit``, a list for each of ``rows``, with as many as there are ``columns``. Up to
    25 columns cells show their numbers; all tell them under the mouse.
    """
    margin = 14 + 7 * max((min(len(name), _LONGEST_NAME) for name in (*rows, *columns)), default=0)
    cell = min(max(_TABLE_WIDTH // max(1, len(columns)), _CELLS[0]), _CELLS[1])
    if len(columns) > _NUMBERED:
        cell = _CELLS[0] // 2
    height, width = margin + cell * len(rows), margin + cell * len(columns)
    parts = []
    for j, name in enumerate(columns):
        x = margin + cell * (j + 0.5) + 4
        parts.append(f'<g transform="rotate(-90 {x:g} {margin - 6})">{label(x, margin - 6, _short(name), "start")}</g>')
    for i, (name, row) in enumerate(zip(rows, counts, strict=True)):
        total = sum(row)
        parts.append(label(margin - 6, margin + cell * (i + 0.5) + 4, _short(name), "end"))
        for j, (predicted, count) in enumerate(zip(columns, row, strict=True)):
            if count:
                x, y = margin + cell * j, margin + cell * i
                title = html.escape(f"{name}, taken for {predicted}: {count} of {total}{unit}")
                if i == j:
                    title = html.escape(f"{name}, recognised: {count} of {total}{unit}")
                parts.append(
                    f'<rect x="{x}" y="{y}" width="{cell}" height="{cell}" fill="{GOOD if i == j else BAD}" '
                    f'fill-opacity="{0.08 + 0.37 * count / total:.2f}"><title>{title}</title></rect>'
                )
                if len(columns) <= _NUMBERED:
                    parts.append(label(x + cell / 2, y + cell / 2 + 4, str(count), "middle"))
    parts.append(
        f'<rect x="{margin}" y="{margin}" width="{width - margin}" height="{height - margin}" fill="none" '
        'stroke="currentColor" stroke-opacity=".4"/>'
    )
    told = f"Confusion matrix of {len(rows)} true classes by {len(columns)} predicted ones"
    return svg(width + 4, height + 4, "".join(parts), label=told)


def svg(width: float, height: float, content: str, *, label: str) -> str:
    """An element of so many pixels with ``content``, which must be escaped; ``label`` says what it shows."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{html.escape(label)}">{content}</svg>'
    )


def label(x: float, y: float, text: str, anchor: str) -> str:
    """A line of text at a place in pixels; ``anchor`` is start, middle or end."""
    # The mouse is to reach the cell below, which tells its numbers.
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="currentColor" pointer-events="none">'
        f"{html.escape(text)}</text>"
    )


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"
