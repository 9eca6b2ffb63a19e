"""Text in pictures, in every script that a font of this machine has."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import cache, lru_cache

from PIL import ImageDraw, ImageFont

TEXT_SIZE = 15


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


def missing_letters(texts: Iterable[str]) -> str:
    """The letters that no font on this machine has, each once and in order; boxes are drawn for them."""
    letters = sorted({letter for text in texts for letter in one_line(text) if not _joins(letter)})
    return "".join(letter for letter in letters if _font_with(letter) is None)


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
