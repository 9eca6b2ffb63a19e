"""Precision against recall, as a drawing for a page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

_SIDE = 320
"""The side of a diagram in pixels, without its margins."""


_MEAN_COLORS = ("#2e7d32", "#1565c0")


def precision_recall_diagram(curves: Mapping[str, Sequence[float]], thin: Mapping[str, Sequence[float]]) -> str:
    """Precision over recall as an SVG element: thick named ``curves``, at most two, over ``thin`` ones.

    Each is a list of precisions in [0, 1] at recalls from 0 to 1 in equal steps.
    """
    left, top = 50, 10
    parts = [
        f'<rect x="{left}" y="{top}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="currentColor" '
        'stroke-opacity=".4"/>'
    ]
    for percent in range(0, 101, 20):
        along = _SIDE * percent / 100
        parts.append(_label(left + along, top + _SIDE + 18, f"{percent}", "middle"))
        parts.append(_label(left - 6, top + _SIDE - along + 4, f"{percent}", "end"))
    parts.append(_label(left + _SIDE / 2, top + _SIDE + 38, "recall, %", "middle"))
    x, y = 14, top + _SIDE / 2
    parts.append(f'<g transform="rotate(-90 {x} {y:g})">{_label(x, y, "precision, %", "middle")}</g>')

    def line(name: str, values: Sequence[float], style: str) -> str:
        step = _SIDE / (len(values) - 1)
        points = " ".join(f"{left + step * k:.1f},{top + _SIDE * (1 - value):.1f}" for k, value in enumerate(values))
        return f'<polyline points="{points}" fill="none" {style}><title>{html.escape(name)}</title></polyline>'

    parts += [line(name, values, 'stroke="currentColor" stroke-opacity=".35"') for name, values in thin.items()]
    for k, ((name, values), color) in enumerate(zip(curves.items(), _MEAN_COLORS, strict=False)):
        parts.append(line(name, values, f'stroke="{color}" stroke-width="3"'))
        y = top + 20 + 22 * k
        parts.append(f'<rect x="{left + _SIDE + 16}" y="{y - 9}" width="14" height="4" fill="{color}"/>')
        parts.append(_label(left + _SIDE + 36, y, name, "start"))
    width, height = left + _SIDE + 250, top + _SIDE + 48
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img">{"".join(parts)}</svg>'
    )


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" pointer-events="none">{html.escape(text)}</text>'
