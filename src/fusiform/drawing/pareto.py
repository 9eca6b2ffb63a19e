"""What no other beats: the points of a frontier, and a picture of it."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from fusiform import files
from fusiform.errors import MissingExtraError, UsageError

# Colours that people who do not see all of them tell apart (Paul Tol), with a shape each.
_LOOKS = (
    ("#4477aa", "o"),
    ("#ee6677", "s"),
    ("#228833", "^"),
    ("#ccbb44", "D"),
    ("#66ccee", "v"),
    ("#aa3377", "P"),
    ("#777777", "X"),
)
_FRONT, _LIMIT = "#222222", "#cc3311"
_MARKER = 9.0
"""The size of a marker, and what a label keeps clear of, in points of 1/72 inch."""
_COVERED = 0.02
"""The share of a name that may cover something else."""
_ALL_NAMED = 12
"""Points up to which all are named where there is room; of more only the frontier's."""


@dataclass(frozen=True)
class Point:
    """Something measured: its name, where it stands, and the group whose colour and shape it has ("" for none)."""

    name: str
    x: float
    y: float
    group: str = ""


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The indices of the points that no other beats, in order of x, where smaller x and larger y are better.

    A point beats another if it is at least as good in both and better in one: of equal points all stay. Points with a
    coordinate that is not a number are left out.
    """
    known = [i for i, point in enumerate(points) if not any(map(math.isnan, point))]
    front: list[int] = []
    best: tuple[float, float] | None = None  # the last point of the front
    for i in sorted(known, key=lambda i: (points[i][0], -points[i][1])):
        if best is None or points[i][1] > best[1] or tuple(points[i]) == best:
            front.append(i)
            best = points[i][0], points[i][1]
    return front


def check_place(path: str | os.PathLike[str]) -> None:
    """Make sure, before any work is done, that a plot can be drawn and written there; a file will be replaced.

    Raises UsageError for a name that does not end in .png, OutputError where nothing can be written, and
    MissingExtraError without matplotlib.
    """
    files.check_place(path, (".png",), "the plot is a PNG: let the name end in .png")
    _figure()


def draw_pareto(
    points: Sequence[Point],
    path: str | os.PathLike[str],
    *,
    x_label: str,
    y_label: str,
    title: str,
    smaller_y: bool = False,
    x_limit: float | None = None,
    y_limit: float | None = None,
) -> None:
    """Draw points with their names and the frontier as a line of steps into a PNG, written whole or not at all.

    Smaller x and larger y are better, or with ``smaller_y`` smaller y. The frontier's points are filled, the others
    hollow, which the legend says. The x axis is logarithmic where the points are more than ten times apart, else it
    begins at 0, as the y axis does with ``smaller_y``. ``x_limit`` and ``y_limit`` are budgets, drawn as dashed lines.
    No name covers another or a point: the frontier's are moved away until there is room, the others, of which up to
    twelve points are named in all, are left out where there is none.

    Raises UsageError where no point has finite coordinates (others are left out), MissingExtraError without
    matplotlib, and OutputError where the file cannot be written.
    """
    points = [point for point in points if math.isfinite(point.x) and math.isfinite(point.y)]
    if not points:
        raise UsageError(f"{os.fspath(path)}: there is nothing to draw: nothing was measured")
    front = pareto_front([(point.x, -point.y if smaller_y else point.y) for point in points])
    figure = _figure()
    axes = figure.subplots()
    lowest, highest = min(point.x for point in points), max(point.x for point in points)
    if lowest > 0 and highest > 10 * lowest:
        axes.set_xscale("log")
    axes.margins(0.14)
    # Between two of its points the best to be had is what the one before gives.
    axes.plot(
        [points[i].x for i in front],
        [points[i].y for i in front],
        drawstyle="steps-post",
        color=_FRONT,
        linewidth=1.2,
        zorder=1,
    )
    # For the legend alone: a line only where there is one.
    axes.plot(
        [],
        [],
        color=_FRONT,
        linewidth=1.2 if len(front) > 1 else 0,
        marker="o",
        markersize=_MARKER * 0.7,
        label="filled: no other is better in both",
    )
    for number, group in enumerate(dict.fromkeys(point.group for point in points)):
        color, shape = _LOOKS[number % len(_LOOKS)]
        members = [i for i, point in enumerate(points) if point.group == group]
        axes.scatter(
            [points[i].x for i in members],
            [points[i].y for i in members],
            s=(_MARKER * 0.8) ** 2,
            marker=shape,
            facecolors=[color if i in front else "white" for i in members],
            edgecolors=color,
            zorder=3,
            # Matplotlib keeps labels that begin with an underscore out of the legend.
            label=f"\N{ZERO WIDTH SPACE}{_line(group)}" if group.startswith("_") else _line(group),
        )
    if x_limit is not None:
        axes.axvline(x_limit, color=_LIMIT, linestyle="--", linewidth=1, label="limit")
    if y_limit is not None:
        axes.axhline(y_limit, color=_LIMIT, linestyle="--", linewidth=1, label=None if x_limit is not None else "limit")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(_line(title), parse_math=False)
    axes.grid(alpha=0.3, which="major")
    if axes.get_xscale() == "linear" and lowest >= 0:
        axes.set_xlim(left=0)
    if smaller_y and min(point.y for point in points) >= 0:
        axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        _plain_numbers(axis)
    # Below the axes: within them it would lie on points.
    legend = figure.legend(loc="outside lower center", frameon=False, ncols=4)
    for text in legend.get_texts():
        text.set_parse_math(False)
    data = io.BytesIO()
    with warnings.catch_warnings():
        # A name in letters that matplotlib's font lacks is drawn as boxes; the picture is worth having all the same.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        _label(figure, axes, points, front)
        figure.canvas.print_png(data)
    files.write_file(path, data.getvalue())


def _figure() -> Any:
    """An empty matplotlib figure, without pyplot, which looks for a screen."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "plot", "drawing a plot") from None
    figure = Figure(figsize=(9, 6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _line(text: str) -> str:
    """The text on one line, the undecodable bytes of a file name escaped: matplotlib cannot draw those."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode("utf-8").split())


def _plain_numbers(axis: Any) -> None:
    """Numbers as people write them, 0.5 and 20, on logarithmic axes too, and between the powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if axis.get_scale() == "log":
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_formatter(NullFormatter())


class _Box(NamedTuple):
    """A rectangle of the picture, in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def shared(self, other: _Box) -> float:
        """The area of what lies in both."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)


def _label(figure: Any, axes: Any, points: Sequence[Point], front: Sequence[int]) -> None:
    """Write each name where it covers nothing, the frontier's first; one off it that has no such place is left out.

    Nothing in matplotlib keeps labels off each other.
    """
    from matplotlib.patheffects import withStroke

    figure.draw_without_rendering()
    # The places below are right for this layout and these limits.
    figure.set_layout_engine("none")
    axes.autoscale(False)
    pixel = figure.dpi / 72
    window = axes.get_window_extent()
    inside = _Box(window.x0, window.y0, window.x1, window.y1)
    centres = [tuple(axes.transData.transform((point.x, point.y))) for point in points]
    half = _MARKER / 2 * pixel
    taken = [_Box(x - half, y - half, x + half, y + half) for x, y in centres]
    taken += _along_steps([centres[i] for i in front], 2 * pixel)
    renderer = figure.canvas.get_renderer()
    others = [i for i in range(len(points)) if i not in front] if len(points) <= _ALL_NAMED else []
    for i in [*front, *others]:
        text = axes.annotate(
            _line(points[i].name),
            (points[i].x, points[i].y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8,
            fontweight="bold" if i in front else "normal",
            parse_math=False,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            zorder=4,
        )
        size = text.get_window_extent(renderer)
        x, y = centres[i]
        width, height = size.width + 4 * pixel, size.height + 2 * pixel  # with the white around it
        area = width * height
        # How much a place covers of what is there and lies outside, as a share of itself, and how far away it is.
        places = [
            ((sum(place.shared(other) for other in taken) + 2 * (area - place.shared(inside))) / area, order, place)
            for order, place in enumerate(_places(x, y, width, height, pixel, far=i in front))
        ]
        covered, _, place = min(places, key=lambda each: each[0] + 0.01 * each[1])
        if covered > _COVERED and i not in front:
            text.remove()
            continue
        taken.append(place)
        text.set_position(((place.left - x) / pixel + 2, (place.bottom - y) / pixel + 1))
        if _distance(place, x, y) > 1.2 * _MARKER * pixel:
            near = (min(max(x, place.left), place.right), min(max(y, place.bottom), place.top))
            ends = axes.transData.inverted().transform([(x, y), near])
            axes.plot(ends[:, 0], ends[:, 1], color="#999999", linewidth=0.6, zorder=2)


def _places(x: float, y: float, width: float, height: float, pixel: float, *, far: bool) -> Iterator[_Box]:
    """Where a label might stand, the nearest to its point first."""
    for distance in (0.8, 2.2, 4, 6, 9, 12) if far else (0.8, 2.2):
        gap = distance * _MARKER * pixel
        for across, up in ((1, 0), (-1, 0), (0, 1), (0, -1), (0.7, 0.7), (-0.7, 0.7), (0.7, -0.7), (-0.7, -0.7)):
            left = x + gap * across - width * (0.5 - across / 2 if abs(across) != 0.7 else float(across < 0))
            bottom = y + gap * up - height * (0.5 - up / 2 if abs(up) != 0.7 else float(up < 0))
            yield _Box(left, bottom, left + width, bottom + height)


def _distance(box: _Box, x: float, y: float) -> float:
    return math.hypot(max(box.left - x, 0, x - box.right), max(box.bottom - y, 0, y - box.top))


def _along_steps(corners: Sequence[tuple[float, ...]], half: float) -> Iterator[_Box]:
    """The line between the points of a frontier as boxes: across at the height of the one before, then up or down."""
    for (x0, y0), (x1, y1) in pairwise(corners):
        yield _Box(x0, y0 - half, x1, y0 + half)
        yield _Box(x1 - half, min(y0, y1), x1 + half, max(y0, y1))
