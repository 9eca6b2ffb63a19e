from __future__ import annotations

import io
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from fusiform.data.masks import PALETTE
from fusiform.drawing.masks import MaskFolder, mask_png
from fusiform.drawing.overlay import COLORS, add_legend, color_of, draw_boxes, draw_mask
from fusiform.errors import OutputError, UsageError
from fusiform.tasks.detection import Box, Detections
from fusiform.tasks.segmentation import SegmentationMap


def is_color(pixels: NDArray[Any], color: tuple[int, int, int]) -> NDArray[np.bool_]:
    return (pixels == color).all(-1)


def box(left: float, top: float, right: float, bottom: float, *, index: int = 0, name: str = "dog") -> Box:
    return Box(index, name, 0.5, left, top, right, bottom)


@pytest.mark.parametrize("scale", [1, 2])
def test_a_box_lies_on_its_pixels_at_any_scale_of_the_picture(scale: int) -> None:
    detections = Detections(
        (box(100 * scale, 100 * scale, 300 * scale, 200 * scale, index=3),), 400 * scale, 300 * scale
    )
    given = Image.new("RGB", (400, 300), "white")
    drawn = np.asarray(draw_boxes(given, detections))
    colored = is_color(drawn, color_of(3))
    expected = np.zeros((300, 400), bool)
    expected[100:200, 100:300] = True
    expected[102:198, 102:298] = False
    assert (colored[100:] == expected[100:]).all()
    # Over it the plate, and the text within.
    plate = colored[:100]
    rows, columns = np.flatnonzero(plate.any(1)), np.flatnonzero(plate.any(0))
    assert (rows.max(), columns.min()) == (99, 100)
    plate = plate[rows.min() : 100, columns.min() : columns.max() + 1]
    assert all(side.all() for side in (plate[0], plate[-1], plate[:, 0], plate[:, -1]))
    assert 0.1 < 1 - plate.mean() < 0.5
    assert (drawn[: rows.min()] == 255).all()
    assert 50 < columns.size < 80  # pixels for "dog 50%"
    assert np.asarray(given).min() == 255


def test_plates_stay_in_the_picture_and_off_surer_ones() -> None:
    names = ["first", "second", "third"]
    same = tuple(box(0, 0, 399, 299, index=k, name=name) for k, name in enumerate(names))
    drawn = np.asarray(draw_boxes(Image.new("RGB", (400, 300), "white"), Detections(same, 400, 300)))
    one = [
        np.asarray(draw_boxes(Image.new("RGB", (400, 300), "white"), Detections((each,), 400, 300))) for each in same
    ]
    # What one box alone shows beside its outline is its plate: about as much of each colour is left.
    for k, alone in enumerate(one):
        inner = (slice(2, 297), slice(2, 397))
        wanted = is_color(alone[inner], color_of(k)).sum()
        assert wanted > 400
        assert is_color(drawn[inner], color_of(k)).sum() > 0.85 * wanted


def test_known_boxes_need_no_scores() -> None:
    detections = Detections((box(10, 100, 300, 200),), 400, 300)
    widths = []
    for scores in (True, False):
        drawn = np.asarray(draw_boxes(Image.new("RGB", (400, 300), "white"), detections, scores=scores))
        widths.append(np.flatnonzero((drawn[90:100] < 255).any((0, 2))).size)
    assert widths[1] < 0.6 * widths[0]


@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 500), st.integers(1, 500)),
    st.lists(st.tuples(*[st.floats(0, 1)] * 4, st.integers(0, 300)), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_boxes_of_any_size_are_drawn(
    size: tuple[int, int], photograph: tuple[int, int], edges: list[tuple[float, float, float, float, int]]
) -> None:
    width, height = photograph
    boxes = tuple(
        box(a * width, b * height, c * width, d * height, index=k)
        for a, b, c, d, k in edges
        if a * width < c * width and b * height < d * height
    )
    drawn = draw_boxes(Image.new("RGB", size, "white"), Detections(boxes, width, height))
    assert drawn.size == size
    assert (np.asarray(drawn) == 255).all() != bool(boxes)


def test_colours_are_far_from_each_other_as_an_independent_measure_says() -> None:
    """CIE's distance of 1976 through lcms; 2.3 is just noticeable."""
    colors = [color_of(k) for k in range(COLORS)]
    assert len(set(colors)) == COLORS
    assert color_of(COLORS + 5) == color_of(5)
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    row = Image.fromarray(np.array([colors], np.uint8))
    stored = np.asarray(ImageCms.applyTransform(row, to_lab))[0].astype(float)
    lab = np.stack([stored[:, 0] * 100 / 255, *(stored[:, 1:].astype(np.uint8).view(np.int8).astype(float).T)], 1)
    distances = {(a, b): float(np.linalg.norm(lab[a] - lab[b])) for a, b in combinations(range(80), 2)}
    assert min(distances.values()) > 8
    assert min(distance for (_, b), distance in distances.items() if b < 21) > 15


def halves(width: int, height: int, index: int, *, dtype: Any = np.uint8) -> SegmentationMap:
    """Background on the left, one class on the right."""
    classes = np.zeros((height, width), dtype)
    classes[:, width // 2 :] = index
    return SegmentationMap(classes, tuple(f"class {k}" for k in range(21)))


@pytest.mark.parametrize("scale", [1, 3])
def test_a_mask_tints_what_is_no_background_and_outlines_it(scale: int) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8))
    pixels, color = np.asarray(image), np.array(color_of(7))
    drawn = np.asarray(draw_mask(image, halves(40 * scale, 30 * scale, 7)))
    assert (drawn[:, :20] == pixels[:, :20]).all()
    assert (drawn[:, 20:22] == color).all()
    mixed = (pixels[:, 22:].astype(float) + color) / 2
    assert np.abs(drawn[:, 22:] - mixed).max() <= 0.5
    assert (np.asarray(draw_mask(image, halves(40, 30, 7), alpha=0))[:, 22:] == pixels[:, 22:]).all()


def test_a_mask_of_one_pixel_or_of_many_classes_is_drawn() -> None:
    one = SegmentationMap(np.ones((1, 1), np.uint8), ("background", "all"))
    tint = np.array(draw_mask(Image.new("L", (1, 1), 0), one))[0, 0]
    assert np.abs(tint - np.array(color_of(1)) / 2).max() <= 0.5
    many = SegmentationMap(np.full((2, 2), 299, np.uint16), tuple(map(str, range(300))))
    assert draw_mask(Image.new("RGB", (9, 9)), many).size == (9, 9)


def test_the_legend_names_colours_under_the_picture() -> None:
    picture = Image.new("RGB", (300, 100), "red")
    assert add_legend(picture, []) is picture
    entries = [(k, f"a class called {k}") for k in (4, 2, 9)]
    drawn = np.asarray(add_legend(picture, entries))
    assert drawn.shape[1] == 300
    assert is_color(drawn[:100], (255, 0, 0)).all()
    first_rows = [np.flatnonzero(is_color(drawn[100:], color_of(k)).any(1)).min() for k, _ in entries]
    first_columns = [np.flatnonzero(is_color(drawn[100:], color_of(k)).any(0)).min() for k, _ in entries]
    # Two fit beside each other, the third begins a line.
    assert first_rows[0] == first_rows[1] < first_rows[2]
    assert first_columns[0] == first_columns[2] < first_columns[1]
    narrow = add_legend(Image.new("RGB", (10, 10)), [(0, "x" * 300)])
    assert np.asarray(narrow)[:, -4:].min() == 255


def test_a_mask_is_a_palette_picture_in_vocs_colours() -> None:
    with Image.open(io.BytesIO(mask_png(halves(40, 30, 20)))) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "P", (40, 30))
        assert (np.asarray(image)[:, :20] == 0).all()
        assert (np.asarray(image)[:, 20:] == 20).all()
        palette = image.getpalette()
        # The development kit's colours of aeroplane, bicycle and tvmonitor.
        assert palette is not None
        assert [palette[3 * k : 3 * k + 3] for k in (1, 2, 20)] == [[128, 0, 0], [0, 128, 0], [0, 64, 128]]
        assert (np.array(palette).reshape(-1, 3) == PALETTE).all()


def test_a_palette_has_room_for_256_classes() -> None:
    classes = np.arange(256, dtype=np.uint16).reshape(16, 16)
    with Image.open(io.BytesIO(mask_png(SegmentationMap(classes, tuple(map(str, range(256))))))) as image:
        assert (np.asarray(image) == classes).all()
    with pytest.raises(UsageError, match="256 classes apart, and the model has 257"):
        mask_png(SegmentationMap(classes, tuple(map(str, range(257)))))


def test_masks_of_one_name_are_numbered(tmp_path: Path) -> None:
    folder = MaskFolder(tmp_path / "new" / "masks")
    stems = ["a", "b", "a", "A", "a-2", "a", "b-2", "b"]
    names = [folder.write(stem, halves(4, 4, k), path=f"{stem}.jpg").name for k, stem in enumerate(stems)]
    assert len(set(map(str.casefold, names))) == len(names)
    assert names[:4] == ["a.png", "b.png", "a-2.png", "A-3.png"]
    assert sorted(path.name for path in (tmp_path / "new" / "masks").iterdir()) == sorted(names)
    for k, name in enumerate(names):
        with Image.open(tmp_path / "new" / "masks" / name) as image:
            assert np.asarray(image).max() == k
    # Another run replaces them.
    again = MaskFolder(tmp_path / "new" / "masks").write("a", halves(4, 4, 9), path="a.jpg")
    with Image.open(again) as image:
        assert np.asarray(image).max() == 9


def test_no_photograph_is_lost_to_a_mask(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    Image.new("P", (4, 4)).save(tmp_path / "drawing.png")
    (tmp_path / "other.png").write_bytes(b"")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    folder = MaskFolder(tmp_path)
    with pytest.raises(OutputError, match=r"photo\.png: is there already, and is no mask"):
        folder.write("photo", halves(4, 4, 1), path="elsewhere/photo.jpg")
    with pytest.raises(OutputError, match=r"other\.png: is there already"):
        folder.write("other", halves(4, 4, 1), path="-")
    with pytest.raises(OutputError, match=r"is the folder of .*drawing\.png: choose another"):
        folder.write("drawing", halves(4, 4, 1), path=str(tmp_path / "drawing.png"))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "masks"):
        with pytest.raises(OutputError, match="cannot write masks into"):
            MaskFolder(place)
