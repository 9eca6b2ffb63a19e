"""Precision against recall, and other curves in a square of percent, as drawings for a page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from fusiform.drawing.charts import GOOD, SIDE, label, square, square_size, svg

_MEANS = (GOOD, "var(--other, #1565c0)")


def precision_recall_diagram(curves: Mapping[str, Sequence[float]], thin: Mapping[str, Sequence[float]]) -> str:
    """Precision over recall as an SVG element: thick named ``curves``, at most two, over ``thin`` ones.

    Each is a list of precisions in [0, 1] at recalls from 0 to 1 in equal steps. The names stand below.
    """

    def points(values: Sequence[float]) -> list[tuple[float, float]]:
        return [(k / (len(values) - 1), value) for k, value in enumerate(values)]

    thick_points, thin_points = ({name: points(values) for name, values in each.items()} for each in (curves, thin))
    return lines_diagram(thick_points, thin_points, x_label="recall, %", y_label="precision, %")


def lines_diagram(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    thin: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_label: str,
    y_label: str,
) -> str:
    """Lines as an SVG element: thick named ``curves``, at most two, over ``thin`` ones.

    Each goes through points in [0, 1] x [0, 1]. The names stand below; ``x_label`` and ``y_label`` are the axes', such
    as "recall, %".
    """
    parts, (left, top) = square(x_label, y_label)
    _, height = square_size()

    def line(name: str, values: Sequence[tuple[float, float]], style: str) -> str:
        points = " ".join(f"{left + SIDE * x:.1f},{top + SIDE * (1 - y):.1f}" for x, y in values)
        return f'<polyline points="{points}" fill="none" {style}><title>{html.escape(name)}</title></polyline>'

    parts += [line(name, values, 'stroke="currentColor" stroke-opacity=".3"') for name, values in thin.items()]
    for k, ((name, values), color) in enumerate(zip(curves.items(), _MEANS, strict=False)):
        parts.append(line(name, values, f'stroke="{color}" stroke-width="3" stroke-linejoin="round"'))
        y = height + 22 * k + 12
        parts.append(f'<rect x="{left}" y="{y - 7}" width="18" height="4" rx="2" fill="{color}"/>')
        parts.append(label(left + 26, y, name, "start"))
    what, over = (text.removesuffix(", %") for text in (y_label, x_label))
    told = f"{what.capitalize()} over {over}: " + ", ".join(curves)
    return svg(*square_size(below=22 * len(curves)), "".join(parts), label=told)
