from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from fusiform.drawing import text
from fusiform.drawing.grid import GAP, TILE, Tile, check_place, draw_grid, save_picture
from fusiform.drawing.text import _font, _font_with, _has, _runs, cut_text, missing_letters, one_line, text_width
from fusiform.errors import OutputError, UsageError

ACROSS, DOWN = 236, 284
RED, WHITE = (255, 0, 0), (255, 255, 255)


def forget_fonts() -> None:
    for function in (_runs, _font_with, _has, _font):
        function.cache_clear()


@pytest.fixture
def only_pillows_font(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without fonts of its own."""
    monkeypatch.setattr(text, "SYSTEM_FONTS", ())
    forget_fonts()
    yield
    forget_fonts()


def cell(image: Image.Image, column: int, row: int) -> Image.Image:
    left, top = GAP + column * ACROSS, GAP + row * DOWN
    return image.crop((left, top, left + ACROSS, top + DOWN))


def square(color: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (50, 50), color)


@pytest.mark.parametrize(
    ("tiles", "columns", "expected"),
    [(1, None, (1, 1)), (5, None, (3, 2)), (64, None, (8, 8)), (65, None, (8, 9)), (5, 2, (2, 3)), (2, 10, (2, 1))],
)
def test_tiles_stand_in_rows(tiles: int, columns: int | None, expected: tuple[int, int]) -> None:
    image = draw_grid([Tile(None, "a")] * tiles, columns)
    assert image.mode == "RGB"
    assert image.size == (GAP + ACROSS * expected[0], GAP + DOWN * expected[1])


def test_pictures_fill_their_squares_in_order() -> None:
    colors = [RED, (0, 255, 0), (0, 0, 255)]
    image = draw_grid([Tile(square(color), "") for color in colors], 2)
    for k, color in enumerate(colors):
        drawn = np.asarray(cell(image, k % 2, k // 2))
        assert (drawn[:TILE, :TILE] == color).all()
        assert (drawn[TILE:] == 255).all()
    assert np.asarray(cell(image, 1, 1)).min() == 255


@pytest.mark.parametrize(
    ("size", "box"),
    [((400, 200), (0, 110, 220, 220)), ((20, 40), (55, 0, 165, 220)), ((5000, 1), (0, 219, 220, 220))],
)
def test_pictures_are_fitted_whole(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    drawn = cell(draw_grid([Tile(Image.new("L", size, 0), "")]), 0, 0)
    dark = drawn.convert("L").point(lambda level: 255 * (level < 128))
    assert dark.getbbox() == box


def test_a_colour_frames_the_picture_and_black_does_not() -> None:
    framed = np.asarray(draw_grid([Tile(square(WHITE), "", color="#ff0000")]))
    assert (framed[GAP - 3 : GAP, GAP - 3 : GAP + TILE + 3] == RED).all()
    assert (framed[GAP : GAP + TILE, GAP : GAP + TILE] == 255).all()
    assert np.asarray(draw_grid([Tile(square(WHITE), "")])).min() == 255


def test_lines_are_written_in_their_colour_under_the_picture() -> None:
    drawn = np.asarray(cell(draw_grid([Tile(square(WHITE), "HHH", "HHHHHH", "#ff0000")]), 0, 0))
    first, second = drawn[TILE + 4 : TILE + 22], drawn[TILE + 24 : TILE + 44]
    for line in (first, second):
        assert (line[..., 0] == 255).all()
        assert line[..., 1].min() == 0
    widths = [np.flatnonzero(line[..., 1].min(0) < 128).max() for line in (first, second)]
    assert 1.8 < widths[1] / widths[0] < 2.2


def test_an_unreadable_picture_is_a_grey_tile_with_a_word() -> None:
    drawn = np.asarray(cell(draw_grid([Tile(None, "broken.jpg")]), 0, 0).convert("L"))[:TILE, :TILE]
    assert set(drawn[:90].flat) == {0xDD}
    assert drawn[95:125].min() < 0x80


@given(st.lists(st.tuples(*[st.text(st.characters(), max_size=60)] * 2), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_any_text_is_drawn_within_its_tile(texts: list[tuple[str, str]]) -> None:
    image = np.asarray(draw_grid([Tile(square(WHITE), *lines) for lines in texts], 1).convert("L"))
    # Italics, swashes and marks may reach a little over the width that is theirs.
    assert image[:, : GAP // 2].min() == 255
    assert image[:, GAP + TILE + GAP // 2 :].min() == 255
    missing_letters([line for lines in texts for line in lines])


@given(st.text(st.characters(codec="utf-8"), max_size=500), st.integers(20, 300))
@settings(max_examples=50, deadline=None)
def test_a_cut_text_fits_and_is_as_long_as_it_can_be(text: str, width: int) -> None:
    text = one_line(text)
    short = cut_text(text, width)
    assert text_width(short) <= width
    if short != text:
        assert short.endswith("…")
        kept = short[:-1]
        assert text.startswith(kept)
        assert text_width(text) > width
        # Never between a letter and its marks.
        assert not unicodedata.category(text[len(kept)]).startswith("M")


@pytest.mark.parametrize("width", range(40, 80))
def test_a_letter_keeps_its_mark(width: int) -> None:
    short = cut_text("x\N{COMBINING CIRCUMFLEX ACCENT}" * 40, width)  # Unicode has no composed form of it
    assert short.count("x") == short.count("\N{COMBINING CIRCUMFLEX ACCENT}") > 0


def test_what_fits_to_the_pixel_is_not_cut() -> None:
    font = ImageFont.load_default(15)
    text = "a name that fits"
    width = font.getlength(text)
    assert cut_text(text, width) == text
    assert cut_text(text, width - 1) == "a name that fi…"
    # One letter more would not fit.
    assert font.getlength("a name that fit…") > width - 1 >= font.getlength("a name that fi…")


def test_decomposed_names_as_macos_keeps_them_look_like_others(only_pillows_font: None) -> None:
    composed, decomposed = ([Tile(None, unicodedata.normalize(form, "café ÖÉ"))] for form in ("NFC", "NFD"))
    assert draw_grid(composed).tobytes() == draw_grid(decomposed).tobytes()


def blocks(path: Path, letters: str, *, height: int) -> Path:
    """A font whose letters are full blocks, a square each."""
    glyphs = {".notdef": 0, **dict.fromkeys((f"u{ord(letter):x}" for letter in letters), height)}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(list(glyphs))
    builder.setupCharacterMap({ord(letter): f"u{ord(letter):x}" for letter in letters})
    outlines = {}
    for name, top in glyphs.items():
        pen = TTGlyphPen(None)
        if top:
            pen.moveTo((0, 0))
            for point in ((0, top), (1000, top), (1000, 0)):
                pen.lineTo(point)
            pen.closePath()
        outlines[name] = pen.glyph()
    builder.setupGlyf(outlines)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "Blocks", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


def test_a_letter_is_taken_from_the_font_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only_pillows_font: None
) -> None:
    texts = ["99.9% 青森", "青 b"]
    assert missing_letters(texts) == "森青"
    names = [blocks(tmp_path / f"{k}.ttf", letters, height=1000) for k, letters in enumerate(["x", "青", "森"])]
    monkeypatch.setattr(text, "SYSTEM_FONTS", ("there is no such font.ttf", *map(str, names[:2])))
    forget_fonts()
    assert missing_letters(texts) == "森"
    monkeypatch.setattr(text, "SYSTEM_FONTS", tuple(map(str, names)))
    forget_fonts()
    assert missing_letters(texts) == ""

    drawn = np.asarray(cell(draw_grid([Tile(None, "H 青森")]), 0, 0).convert("L"))
    start = round(ImageFont.load_default(15).getlength("H "))
    # Two full blocks of 15 pixels on the baseline, after the letter of Pillow's own font.
    block = drawn[TILE + 20 - 15 : TILE + 20, start + 1 : start + 29]
    assert (block == 0).all()
    assert drawn[TILE + 20 - 9, :12].min() < 128
    assert drawn[TILE + 4 :, start + 32 :].min() == 255


def test_a_text_stays_in_one_font_where_one_has_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only_pillows_font: None
) -> None:
    monkeypatch.setattr(text, "SYSTEM_FONTS", (str(blocks(tmp_path / "all.ttf", "Lwe", height=500)),))
    forget_fonts()
    assert [part for _, part in _runs("Lwe")] == ["Lwe"]
    monkeypatch.setattr(text, "SYSTEM_FONTS", (str(blocks(tmp_path / "more.ttf", "Löwe", height=500)),))
    forget_fonts()
    # Pillow's font lacks the ö alone; a word in two fonts would be ugly.
    ((font, part),) = _runs("Löwe")
    assert (part, font.getname()[0]) == ("Löwe", "Blocks")


@pytest.mark.parametrize(("name", "form"), [("a.png", "PNG"), ("b.JPG", "JPEG"), ("ü.jpeg", "JPEG")])
def test_the_ending_says_the_format(tmp_path: Path, name: str, form: str) -> None:
    image = draw_grid([Tile(square(RED), "red")])
    (tmp_path / name).write_bytes(b"old")
    save_picture(image, tmp_path / name)
    with Image.open(tmp_path / name) as saved:
        assert saved.format == form
        difference = np.abs(np.asarray(saved, np.int16) - np.asarray(image, np.int16))
    assert difference.max() <= (0 if form == "PNG" else 40)
    assert difference.mean() <= (0 if form == "PNG" else 1)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("a.gif", UsageError, "let the name end in .png or .jpg"),
        ("grid", UsageError, "let the name end in"),
        ("absent/a.png", OutputError, "No such file or directory"),
        ("folder.png", OutputError, "is a folder"),
        ("file.txt/a.png", OutputError, "Not a directory"),
    ],
)
def test_a_place_that_will_not_do_is_refused_beforehand(
    tmp_path: Path, name: str, error: type[Exception], words: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    for attempt in (check_place, lambda path: save_picture(square(RED), path)):
        with pytest.raises(error, match=words) as caught:
            attempt(tmp_path / name)
        assert name in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_checking_a_place_leaves_it_alone(tmp_path: Path) -> None:
    (tmp_path / "old.png").write_bytes(b"old")
    check_place(tmp_path / "old.png")
    check_place(tmp_path / "new.png")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("old.png", b"old")]


def test_a_picture_too_large_for_jpeg_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="70000 x 1 pixels do not fit into a JPEG"):
        save_picture(Image.new("L", (70_000, 1)), tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(UsageError, match="no pictures"):
        draw_grid([])
    with pytest.raises(UsageError, match="columns must be at least 1"):
        draw_grid([Tile(None, "")], 0)
