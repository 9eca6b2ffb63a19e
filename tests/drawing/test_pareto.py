"""The frontier against its definition, and the picture of it by its pixels."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fusiform.drawing.pareto import Point, check_place, draw_pareto, pareto_front
from fusiform.errors import MissingExtraError, OutputError, UsageError

# Few different values, so that ties are common.
COORDINATE = st.one_of(st.integers(0, 5).map(float), st.floats(allow_nan=False))
POINTS = st.lists(st.tuples(COORDINATE, COORDINATE), max_size=25)


def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[0] and a[1] >= b[1] and (a[0] < b[0] or a[1] > b[1])


def test_by_hand() -> None:
    # Milliseconds and percent: the third is slower and worse than the first, the last slower and no better.
    points = [(2.0, 70.0), (1.0, 60.0), (3.0, 65.0), (5.0, 75.0), (6.0, 75.0)]
    assert pareto_front(points) == [1, 0, 3]
    assert pareto_front([]) == []
    assert pareto_front([(1, 1), (2, 2), (1, 1)]) == [0, 2, 1]
    assert pareto_front([(math.nan, 5), (1, math.nan), (2, 2)]) == [2]


@given(POINTS)
def test_the_front_is_what_no_other_beats_in_order_of_x(points: list[tuple[float, float]]) -> None:
    front = pareto_front(points)
    assert sorted(front) == [i for i, p in enumerate(points) if not any(beats(other, p) for other in points)]
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)
    assert [points[i][1] for i in front] == sorted(points[i][1] for i in front)


@given(POINTS, st.randoms())
def test_the_order_of_the_points_does_not_matter(points: list[tuple[float, float]], random) -> None:
    shuffled = random.sample(points, len(points))
    assert [points[i] for i in pareto_front(points)] == [shuffled[i] for i in pareto_front(shuffled)]


def draw(points: list[Point], path: Path, **more: object) -> np.ndarray:
    draw_pareto(points, path, x_label="ms", y_label="top-1 %", title="a & b $x$", **more)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def count(picture: np.ndarray, color: str) -> int:
    return int((np.abs(picture - [int(color[k : k + 2], 16) for k in (1, 3, 5)]).max(axis=2) < 12).sum())


BLUE, PINK = "#4477aa", "#ee6677"


def red(picture: np.ndarray) -> int:
    """The pixels of dashed limits, which are thin enough to be mixed with the white beside them."""
    red, green, blue = np.moveaxis(picture, 2, 0)
    return int(((red - green > 60) & (green - blue < 40) & (green >= blue)).sum())


def test_points_of_the_front_are_filled_and_others_hollow(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    # One of each group on either place: the second is beaten, and with smaller y better it is the first.
    points = [Point("good", 1, 70, "litert"), Point("beaten", 2, 60, "torch")]
    larger = draw(points, tmp_path / "a.png")
    smaller = draw(points, tmp_path / "b.png", smaller_y=True)
    # Hollow where beaten, on the plot; both are on the front where smaller is better.
    assert count(larger, PINK) < 0.75 * count(smaller, PINK)
    assert count(larger, BLUE) == pytest.approx(count(smaller, BLUE), rel=0.1)
    assert red(larger) < 20


def test_limits_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    points = [Point("a", 1, 70), Point("b", 30, 80)]
    one = red(draw(points, tmp_path / "a.png", x_limit=5))
    two = red(draw(points, tmp_path / "b.png", x_limit=5, y_limit=75))
    assert 100 < one < two


def test_names_of_any_kind_and_number(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    names = ["_hidden", "$broken", "모델", "line\nbreak", "x" * 60, "\udce4"]
    few = [Point(name, k, k, name) for k, name in enumerate(names)]
    assert count(draw(few, tmp_path / "few.png"), BLUE) > 0
    many = [Point(f"model {k}", 1 + k % 7, 50 + k % 11, f"group {k % 9}") for k in range(60)]
    draw(many, tmp_path / "many.png")
    # Drawn twice, the same bytes.
    draw(many, tmp_path / "again.png")
    assert (tmp_path / "many.png").read_bytes() == (tmp_path / "again.png").read_bytes()


def test_nothing_to_draw_and_nowhere_to_write(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(UsageError, match="nothing to draw"):
        draw([Point("a", math.nan, 1), Point("b", 1, math.inf)], tmp_path / "a.png")
    with pytest.raises(OutputError, match="cannot write"):
        draw([Point("a", 1, 1)], tmp_path / "none" / "a.png")
    check_place(tmp_path / "a.PNG")
    with pytest.raises(UsageError, match=r"end in \.png"):
        check_place(tmp_path / "a.jpg")
    with pytest.raises(OutputError, match="cannot write"):
        check_place(tmp_path / "none" / "a.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        check_place(tmp_path / "folder.png")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(MissingExtraError, match=r"fusiform\[plot\]"):
        check_place(tmp_path / "a.png")
    with pytest.raises(MissingExtraError, match=r"fusiform\[plot\]"):
        draw_pareto([Point("a", 1, 1)], tmp_path / "a.png", x_label="x", y_label="y", title="t")
    assert list(tmp_path.iterdir()) == []
