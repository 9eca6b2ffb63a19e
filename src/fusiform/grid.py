"""Pictures side by side, each over its caption, drawn as one picture: to look at answers without a screen.

And the way any text gets into a picture here: in fonts that have its letters, cut where it would be too long.
"""

from __future__ import annotations

import io
import math
import os
import tempfile
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from fusiform.errors import OutputError, UsageError
from fusiform.files import write_file

TILE = 220
"""The side, in pixels, of the square that a picture is fitted into, unless another is given."""
GAP = 16
TEXT_SIZE = 15
LINE = 20
MAX_COLUMNS = 8
FRAME = 3

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}

# Pillow finds them by their name wherever the system keeps fonts. Those for many scripts come first; where there is
# a choice, the ones whose Latin letters look like the others'.
SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "segoeui.ttf",
    "Arial Unicode.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    # Chinese, Japanese, Korean
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansCJK-VF.otf.ttc",
    "SourceHanSans.ttc",
    "msyh.ttc",
    "YuGothM.ttc",
    "malgun.ttf",
    "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "NanumGothic.ttf",
    "msgothic.ttc",
    "simsun.ttc",
    # Arabic, Hebrew, the scripts of India, Thai
    "NotoSansArabic-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansBengali-Regular.ttf",
    "NotoSansTamil-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "Nirmala.ttc",
    "Nirmala.ttf",
    "LeelawUI.ttf",
    "Kohinoor.ttc",
    "Thonburi.ttc",
)

_NO_CHARACTER = "\uffff"  # never assigned, so that every font draws its sign for a missing glyph


@dataclass(frozen=True)
class Tile:
    """A picture (None where it cannot be read), two lines under it, and their colour by its CSS name or #rrggbb.

    Any colour but black frames the picture, too. ``second_line`` may be empty.
    """

    image: Image.Image | None
    caption: str
    second_line: str = ""
    color: str = "black"


def draw_grid(tiles: Sequence[Tile], columns: int | None = None, *, side: int = TILE) -> Image.Image:
    """Draw the tiles on white, row by row: an RGB picture of 236 x 284 pixels a tile and a margin.

    Pictures are fitted whole into ``side`` pixels a side, and the tiles are larger as it is; lines that are too long
    end in an ellipsis. A letter that no font on this machine has is drawn as an empty box; ``missing_letters`` tells
    which. By default there are as many ``columns`` as rows, and no more than ``MAX_COLUMNS``. Raises UsageError where
    there is nothing to draw.
    """
    if not tiles:
        raise UsageError("there are no pictures to draw: name at least one")
    if columns is not None and columns < 1:
        raise UsageError(f"columns must be at least 1, got {columns}")
    columns = columns or min(MAX_COLUMNS, math.ceil(math.sqrt(len(tiles))))
    columns = min(columns, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    across, down = side + GAP, side + 2 * LINE + 8 + GAP
    grid = Image.new("RGB", (GAP + columns * across, GAP + rows * down), "white")
    draw = ImageDraw.Draw(grid)
    for k, tile in enumerate(tiles):
        left, top = GAP + k % columns * across, GAP + k // columns * down
        _draw_picture(grid, draw, tile, left, top, side)
        for number, text in enumerate((tile.caption, tile.second_line), 1):
            draw_text(draw, cut_text(one_line(text), side), left, top + side + number * LINE, tile.color)
    return grid


def missing_letters(texts: Iterable[str]) -> str:
    """The letters that no font on this machine has, each once and in order; boxes are drawn for them."""
    letters = sorted({letter for text in texts for letter in one_line(text) if not _joins(letter)})
    return "".join(letter for letter in letters if _font_with(letter) is None)


def check_place(path: str | os.PathLike[str]) -> None:
    """Make sure, before any work is done, that a picture can be written there; an existing file will be replaced.

    Raises UsageError for a name that does not end in .png, .jpg or .jpeg, and OutputError where nothing can be written.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: drawings are saved as PNG or JPEG: let the name end in .png or .jpg")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder: name a file")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror or error}): choose another place") from None


def save_picture(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write the picture, whole or not at all, as PNG or JPEG by the name's ending.

    Raises what ``check_place`` raises, and OutputError for a JPEG larger than 65,500 pixels a side, the most it can be.
    """
    check_place(path)
    path = Path(path)
    form = FORMATS[path.suffix.lower()]
    data = io.BytesIO()
    try:
        # JPEG's usual halving of the colours' resolution would smear red and green letters.
        image.save(data, form, quality=90, subsampling=0)
    except OSError as error:
        size = f"{image.width} x {image.height} pixels"
        raise OutputError(f"cannot write {path}: {size} do not fit into a {form} ({error}): save a PNG") from None
    write_file(path, data.getvalue())


def _draw_picture(grid: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int, side: int) -> None:
    if tile.image is None:
        draw.rectangle((left, top, left + side - 1, top + side - 1), fill="#dddddd")
        draw.text((left + side / 2, top + side / 2), "cannot be read", fill="#555555", font=_own_font(), anchor="mm")
        return
    image = tile.image.convert("RGB")
    # A picture of 1 x 1000 pixels would become 0 pixels wide.
    width, height = (max(1, round(length * side / max(image.size))) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    # A wide picture stands on its caption rather than floating above it.
    x, y = left + (side - width) // 2, top + side - height
    grid.paste(image, (x, y))
    if tile.color != "black":
        box = (x - FRAME, y - FRAME, x + width + FRAME - 1, y + height + FRAME - 1)
        draw.rectangle(box, outline=tile.color, width=FRAME)


def draw_text(
    draw: ImageDraw.ImageDraw, text: str, x: float, baseline: float, color: str, *, size: int = TEXT_SIZE
) -> None:
    """Write one line from ``x`` on, in pixels, over ``baseline``; ``size`` is the font's, in pixels."""
    for font, part in _runs(text):
        font = _sized(font, size)
        draw.text((x, baseline), part, fill=color, font=font, anchor="ls")  # all fonts on one baseline
        x += font.getlength(part)


def cut_text(text: str, width: float, *, size: int = TEXT_SIZE) -> str:
    """The text, or as much of its beginning as fits before an ellipsis; ``width`` in pixels."""
    if text_width(text, size=size) <= width:
        return text
    # No letter in 300 is narrow enough; a mark is never parted from its letter.
    for end in range(min(len(text) - 1, 300), 0, -1):
        if not _joins(text[end]) or text[end] == " ":
            shorter = text[:end].rstrip() + "…"
            if text_width(shorter, size=size) <= width:
                return shorter
    return "…"


def text_width(text: str, *, size: int = TEXT_SIZE) -> float:
    """How long ``draw_text`` makes a line, in pixels."""
    return sum(_sized(font, size).getlength(part) for font, part in _runs(text))


def one_line(text: str) -> str:
    """Composed, on one line, and without what is no letter: control characters, bytes that are no text."""
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    return "".join("?" if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in text)


@lru_cache(maxsize=1024)
def _runs(text: str) -> tuple[tuple[ImageFont.FreeTypeFont, str], ...]:
    """The text in parts, each with a font that has its letters: one part wherever one font has them all."""
    letters = {letter for letter in text if not _joins(letter)}
    for name in ("", *SYSTEM_FONTS):
        font = _font(name)
        if font is not None and all(_has(font, letter) for letter in letters):
            return ((font, text),)
    runs: list[tuple[ImageFont.FreeTypeFont, str]] = []
    for letter in text:
        if runs and (_joins(letter) or _has(runs[-1][0], letter)):
            font = runs[-1][0]
        else:
            font = _font_with(letter) or _own_font()
        if runs and font is runs[-1][0]:
            runs[-1] = (font, runs[-1][1] + letter)
        else:
            runs.append((font, letter))
    return tuple(runs)


def _joins(letter: str) -> bool:
    """Whether it is drawn with what stands before it: marks, joiners, spaces."""
    return letter.isspace() or unicodedata.category(letter) in ("Mn", "Mc", "Me", "Cf")


@cache
def _font_with(letter: str) -> ImageFont.FreeTypeFont | None:
    """The first font that has the letter, None if there is none."""
    if _joins(letter):
        return _own_font()
    fonts = (_font(name) for name in ("", *SYSTEM_FONTS))
    return next((font for font in fonts if font is not None and _has(font, letter)), None)


@cache
def _has(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    return _drawn(font, letter) != _drawn(font, _NO_CHARACTER)


def _drawn(font: ImageFont.FreeTypeFont, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


@cache
def _font(name: str) -> ImageFont.FreeTypeFont | None:
    """A font of this system by its file's name, "" for the one that Pillow brings; None where it is absent."""
    if not name:
        return _own_font()
    try:
        return ImageFont.truetype(name, TEXT_SIZE)
    except OSError:
        return None


@lru_cache(maxsize=256)
def _sized(font: ImageFont.FreeTypeFont, size: int) -> ImageFont.FreeTypeFont:
    """The same font in another size."""
    return font if size == TEXT_SIZE else font.font_variant(size=size)


@cache
def _own_font() -> ImageFont.FreeTypeFont:
    """The font that Pillow brings: the same everywhere, but little more than ASCII."""
    font = ImageFont.load_default(TEXT_SIZE)
    assert isinstance(font, ImageFont.FreeTypeFont)  # given a size, it is never the bitmap font
    return font
