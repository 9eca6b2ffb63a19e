"""Drawings and tables of networks for the site, from what ``fusiform analyze`` says of them."""

from __future__ import annotations

import html
from functools import cache
from typing import TYPE_CHECKING

import result_tables

if TYPE_CHECKING:
    from fusiform.report import Report

_COLOURS = {"conv": "#00897b", "depthwise conv": "#fb8c00", "other": "#8e8e8e"}
_NAMES = {"conv": "convolution (1 x 1 but for the first)", "depthwise conv": "depthwise convolution", "other": "other"}


@cache
def _analysis(model: str, size: int | None = None) -> Report:
    from fusiform.analysis import analyze

    return analyze(model, size=size)


def framed(svg: str) -> str:
    """An SVG as a block of its own, on one line so that no Markdown is looked for in it."""
    return f'<div class="drawing">{" ".join(svg.split())}</div>'


def channels(model: str) -> str:
    """The channels of every layer's output, a bar each: narrow, wide, narrow again in every block."""
    rows = [row for row in _analysis(model).rows if str(row["operator"]) in ("conv", "depthwise conv")]
    counts = [row["output_shape"][-1] for row in rows]
    left, top, height, step = 44, 26, 170, 13
    tallest = max(counts)
    parts = []
    for k, (row, count) in enumerate(zip(rows, counts, strict=True)):
        length = height * (count / tallest) ** 0.5
        title = html.escape(f"{row['layer']}: {row['operator']}, {'x'.join(map(str, row['output_shape']))}")
        parts.append(
            f'<rect x="{left + step * k}" y="{top + (height - length) / 2:.1f}" width="{step - 3}" '
            f'height="{length:.1f}" fill="{_COLOURS[str(row["operator"])]}"><title>{title}</title></rect>'
        )
    width = left + step * len(rows) + 4
    for k, kind in enumerate(("conv", "depthwise conv")):
        x = left + 270 * k
        parts.append(f'<rect x="{x}" y="4" width="10" height="10" fill="{_COLOURS[kind]}"/>')
        parts.append(f'<text x="{x + 16}" y="14">{_NAMES[kind]}</text>')
    parts.append(f'<text x="{left}" y="{top + height + 22}">input</text>')
    parts.append(f'<text x="{width - 4}" y="{top + height + 22}" text-anchor="end">classifier</text>')
    parts.append(
        f'<g transform="rotate(-90 14 {top + height / 2})"><text x="14" y="{top + height / 2}" text-anchor="middle">'
        f"channels, 0 to {tallest:,}</text></g>"
    )
    label = f"Channels of each convolution of {model}, from the input to the classifier"
    return framed(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top + height + 30}" width="{width}" '
        f'height="{top + height + 30}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )


def costs(models: str) -> str:
    """Where the multiply-adds and the parameters of networks are, by kind of layer."""
    lines = []
    for model in models.split():
        kinds = {kind: [0, 0] for kind in _NAMES}
        for row in _analysis(model).rows:
            kind = str(row["operator"]) if str(row["operator"]) in _COLOURS else "other"
            kinds[kind][0] += int(row["multiply_adds"] or 0)
            kinds[kind][1] += int(row["parameters"] or 0)
        for kind, (operations, parameters) in kinds.items():
            totals = [sum(of[k] for of in kinds.values()) for k in (0, 1)]
            name = "other: the classifier" if kind == "other" else _NAMES[kind]
            lines.append(
                [
                    f"`{model}`",
                    name,
                    f"{operations / 1e6:.1f} M ({100 * operations / totals[0]:.0f} %)",
                    f"{parameters:,} ({100 * parameters / totals[1]:.0f} %)",
                ]
            )
    return result_tables.markdown(["network", "layers", "multiply-adds", "parameters"], lines)


def widths(models: str) -> str:
    """Parameters and multiply-adds of networks, each a name or a name@size."""
    lines = []
    for asked in models.split():
        model, _, size = asked.partition("@")
        report = _analysis(model, int(size) if size else None)
        parameters, operations = (int(report.figures[key] or 0) for key in ("parameters", "multiply_adds"))
        peak = int(report.figures["peak_bytes"] or 0)
        side = "x".join([str(report.figures["input_size"])] * 2)
        lines.append([f"`{model}`", side, f"{parameters:,}", f"{operations / 1e6:.0f} M", f"{peak / 1e6:.2f}"])
    return result_tables.markdown(["network", "image", "parameters", "multiply-adds", "peak of activations, MB"], lines)
