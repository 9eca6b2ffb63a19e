"""Draw the icons of web pages: the spindle of docs/logo.svg, in src/fusiform/exporting/targets/web_page/icons/.

    python scripts/draw_page_icons.py

The spindle lies within the inner four fifths, which systems leave of an icon when they cut it to their own shape.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

ICONS = Path(__file__).parents[1] / "src" / "fusiform" / "exporting" / "targets" / "web_page" / "icons"
BACKGROUND, SPINDLE = "#1f1b15", "#ffb74d"
# Left, top, right and bottom of each bar, in a square of 24: the path of the page's own mark.
BARS = ((2, 10.75, 4.5, 13.25), (6, 8, 8.5, 16), (10, 3.5, 14, 20.5), (15.5, 8, 18, 16), (19.5, 10.75, 22, 13.25))
SIDES = {32: 1.0, 180: 0.72, 192: 0.62, 512: 0.62}
"""Pixels of each icon, and the share of it that the square of the spindle takes."""
FINER = 4
"""So many times as large drawn, then made smaller: smooth edges."""


def draw(side: int, share: float) -> Image.Image:
    """An icon with the bars in its middle, 16 colours: edges need no more, and it is a third of the size."""
    large = side * FINER
    icon = Image.new("RGB", (large, large), BACKGROUND)
    pen = ImageDraw.Draw(icon)
    scale, margin = large * share / 24, large * (1 - share) / 2
    for bar in BARS:
        left, top, right, bottom = (round(margin + scale * edge) for edge in bar)
        pen.rounded_rectangle((left, top, right - 1, bottom - 1), radius=scale * 0.6, fill=SPINDLE)
    return icon.resize((side, side), Image.Resampling.LANCZOS).quantize(16)


def main() -> None:
    ICONS.mkdir(exist_ok=True)
    for side, share in SIDES.items():
        draw(side, share).save(ICONS / f"{side}.png", optimize=True)


if __name__ == "__main__":
    main()
