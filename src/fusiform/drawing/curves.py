"""Precision against recall, as a drawing for a page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from fusiform.drawing.charts import GOOD, SIDE, label, square, square_size, svg

_MEANS = (GOOD, "var(--other, #1565c0)")


def precision_recall_diagram(curves: Mapping[str, Sequence[float]], thin: Mapping[str, Sequence[float]]) -> str:
    """Precision over recall as an SVG element: thick named ``curves``, at most two, over ``thin`` ones.

    Each is a list of precisions in [0, 1] at recalls from 0 to 1 in equal steps. The names stand below.
    """
    parts, (left, top) = square("recall, %", "precision, %")
    _, height = square_size()

    def line(name: str, values: Sequence[float], style: str) -> str:
        step = SIDE / (len(values) - 1)
        points = " ".join(f"{left + step * k:.1f},{top + SIDE * (1 - value):.1f}" for k, value in enumerate(values))
        return f'<polyline points="{points}" fill="none" {style}><title>{html.escape(name)}</title></polyline>'

    parts += [line(name, values, 'stroke="currentColor" stroke-opacity=".3"') for name, values in thin.items()]
    for k, ((name, values), color) in enumerate(zip(curves.items(), _MEANS, strict=False)):
        parts.append(line(name, values, f'stroke="{color}" stroke-width="3" stroke-linejoin="round"'))
        y = height + 22 * k + 12
        parts.append(f'<rect x="{left}" y="{y - 7}" width="18" height="4" rx="2" fill="{color}"/>')
        parts.append(label(left + 26, y, name, "start"))
    told = "Precision over recall: " + ", ".join(curves)
    return svg(*square_size(below=22 * len(curves)), "".join(parts), label=told)
