from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.typing import NDArray

from fusiform.data.outlines import (
    Outline,
    box_of,
    check_counts,
    counts_of,
    decode_counts,
    draw_labels,
    ellipse,
    encode_counts,
    fill_counts,
    fill_polygon,
    outlines_as_json,
    outlines_from_json,
    pack,
    turned,
)


def reference(corners: NDArray[np.float64], size: tuple[int, int]) -> tuple[NDArray[np.bool_], str]:
    """The pixels and COCO's string, by COCO's own tool."""
    mask = pytest.importorskip("pycocotools.mask")
    encoded = mask.frPyObjects([corners.tolist()], size[1], size[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its own, of NumPy 2
        return mask.decode(encoded)[:, :, 0].astype(bool), encoded[0]["counts"].decode()


@pytest.mark.parametrize("kind", ["fractions", "whole", "doubled", "fifths", "narrow"])
def test_polygons_are_cocos_to_the_pixel(kind: str) -> None:
    random = np.random.default_rng(len(kind))
    for _ in range(200):
        size = tuple(random.integers(1, 70, 2).tolist())
        corners = random.uniform(-12, 80, (int(random.integers(3, 12)), 2))
        if kind == "whole":
            corners = np.round(corners)
        elif kind == "doubled":
            corners = corners.repeat(2, 0)
        elif kind == "fifths":
            corners = np.round(corners * 5) / 5 + random.choice([0.0, 0.1, 0.5])
        elif kind == "narrow":
            corners[:, 0] = corners[0, 0] + random.uniform(0, 1, len(corners))
        expected, counts = reference(corners.ravel(), size)
        filled = fill_polygon(corners.ravel(), size)
        assert (filled == expected).all()
        assert encode_counts(counts_of(filled)) == counts
        assert (fill_counts(decode_counts(counts), size) == expected).all()


def test_run_lengths_go_down_the_columns_and_begin_outside() -> None:
    pixels = np.zeros((3, 4), bool)
    pixels[1:, 1] = pixels[0, 2] = True
    assert counts_of(pixels) == [4, 3, 5]
    assert (fill_counts([4, 3, 5], (4, 3)) == pixels).all()
    assert counts_of(np.ones((2, 2), bool)) == [0, 4]
    assert box_of(pixels) == (1, 0, 3, 3)
    assert box_of(np.zeros((2, 2), bool)) is None


@pytest.mark.parametrize("counts", ["\x20", "~~", "P"])
def test_a_string_of_something_else_is_refused(counts: str) -> None:
    with pytest.raises(ValueError, match=r"character|within a number"):
        decode_counts(counts)


def test_run_lengths_have_to_fill_the_picture() -> None:
    check_counts([4, 3, 5], (4, 3))
    for numbers in ([4, 3], [4, 3, 6], [13, -1], []):
        with pytest.raises(ValueError, match="does not fill its 4 x 3 pixels"):
            check_counts(numbers, (4, 3))


def square(left: float, top: float, right: float, bottom: float) -> bytes:
    return pack([left, top, right, top, right, bottom, left, bottom])


def test_small_objects_lie_over_large_ones_and_crowds_below_all() -> None:
    outlines = [
        Outline(1, (square(1, 1, 3, 3),)),
        Outline(2, (square(0, 0, 4, 4),)),
        Outline(3, (square(0, 0, 1, 8), square(5, 5, 6, 6)), crowd=True),
    ]
    expected = np.zeros((8, 8), np.uint8)
    expected[:, 0] = expected[5, 5] = 255
    expected[:4, :4] = 2
    expected[1:3, 1:3] = 1
    assert (draw_labels(outlines, (8, 8)) == expected).all()
    # Of two as large the later one.
    same = [Outline(1, (square(0, 0, 2, 2),)), Outline(2, (square(1, 0, 3, 2),))]
    assert draw_labels(same, (3, 2)).tolist() == [[1, 2, 2], [1, 2, 2]]
    assert draw_labels([Outline(4, counts=encode_counts([1, 2, 3]))], (3, 2)).tolist() == [[0, 4, 0], [4, 0, 0]]
    assert not draw_labels([], (3, 2)).any()


def test_outlines_survive_json() -> None:
    outlines = (Outline(1, (pack([0.1, 2, 1 / 3, 4, 5, 6]),)), Outline(2, counts="0203", crowd=True))
    assert outlines_from_json(outlines_as_json(outlines)) == outlines


def test_ellipses_and_turned_boxes() -> None:
    corners = np.array(ellipse(20, 10, 8, 4))
    assert (corners[::2].min(), corners[::2].max()) == pytest.approx((12, 28))
    assert (corners[1::2].min(), corners[1::2].max()) == pytest.approx((6, 14))
    assert fill_polygon(corners, (40, 20)).sum() == pytest.approx(np.pi * 32, rel=0.05)
    # Clockwise as it is seen, y downwards: what lies to the right comes below.
    assert turned([3, 0, 0, -3], 90, 0, 0) == pytest.approx([0, 3, 3, 0])
