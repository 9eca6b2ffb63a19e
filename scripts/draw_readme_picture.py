"""Put what the command really prints into the README: as text, and as docs/output.png beside the photograph.

    python scripts/draw_readme_picture.py

Run it again when the bundled models or the form of the output change. Needs DejaVu Sans Mono (Debian's
fonts-dejavu-core), or another monospaced font with block characters in ``--font``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parents[1]
COMMAND = ("fusiform", "predict", "examples/cat.jpg")

BACKGROUND, TITLE_BAR = "#16181d", "#23262e"
TEXT, DIM, PROMPT, BAR = "#d7dae0", "#8b909c", "#7fd0a3", "#e3a857"
BUTTONS = ("#ec6a5e", "#f4bf4f", "#61c454")
# Pixels; twice the size at which the README shows them.
FONT_SIZE, LINE, MARGIN, TITLE, RADIUS = 26, 42, 40, 56, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--font", default="DejaVuSansMono.ttf", help="a font's name or file")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "output.png")
    arguments = parser.parse_args()
    font = ImageFont.truetype(arguments.font, FONT_SIZE)
    printed = subprocess.run(
        [sys.executable, "-m", *COMMAND], cwd=ROOT, check=True, capture_output=True, encoding="utf-8"
    ).stdout
    readme = ROOT / "README.md"
    shown = re.compile(rf"(?<=```text\n){re.escape(COMMAND[-1])}\n.*?(?=```)", re.DOTALL)
    readme.write_text(shown.sub(lambda _: printed, readme.read_text(encoding="utf-8")), encoding="utf-8")
    with Image.open(ROOT / COMMAND[-1]) as photograph:
        picture = draw(photograph.convert("RGB"), printed.splitlines(), font)
    arguments.out.parent.mkdir(exist_ok=True)
    picture.save(arguments.out, optimize=True)


def draw(photograph: Image.Image, lines: list[str], font: ImageFont.FreeTypeFont) -> Image.Image:
    """A window of a terminal with the photograph on its left and the lines of the command's output on its right."""
    cell = font.getlength("m")
    height = TITLE + 2 * MARGIN + LINE * (len(lines) + 2)
    photo_height = height - TITLE - 2 * MARGIN
    photo_width = round(photograph.width * photo_height / photograph.height)
    text_left = 2 * MARGIN + photo_width
    columns = max(len(" ".join(COMMAND)) + 2, *map(len, lines))
    width = round(text_left + columns * cell + MARGIN)

    picture = Image.new("RGBA", (width, height))  # transparent behind the round corners
    pen = ImageDraw.Draw(picture)
    pen.rounded_rectangle((0, 0, width - 1, height - 1), RADIUS, BACKGROUND)
    pen.rounded_rectangle((0, 0, width - 1, TITLE), RADIUS, TITLE_BAR, corners=(True, True, False, False))
    for k, color in enumerate(BUTTONS):
        pen.circle((MARGIN + 36 * k, TITLE / 2), 10, color)

    photograph = photograph.resize((photo_width, photo_height), Image.Resampling.LANCZOS)
    rounded = Image.new("L", photograph.size)
    ImageDraw.Draw(rounded).rounded_rectangle((0, 0, photo_width - 1, photo_height - 1), RADIUS // 2, 255)
    picture.paste(photograph, (MARGIN, TITLE + MARGIN), rounded)

    def write(row: int, column: float, text: str, color: str) -> None:
        pen.text((text_left + column * cell, TITLE + MARGIN + LINE * row + LINE / 2), text, color, font, "lm")

    write(0, 0, "$", PROMPT)
    write(0, 2, " ".join(COMMAND), TEXT)
    for row, line in enumerate(lines, 1):
        if not line.startswith(" "):
            write(row, 0, line, DIM)
            continue
        for column, character in enumerate(line):
            if character in "\N{FULL BLOCK}\N{LEFT HALF BLOCK}":  # drawn, so that no seams show between them
                left, top = text_left + column * cell, TITLE + MARGIN + LINE * row + 8
                part = 1.0 if character == "\N{FULL BLOCK}" else 0.5
                pen.rectangle((round(left), top, round(left + part * cell) - 1, top + LINE - 16), BAR)
            else:
                write(row, column, character, TEXT)
    write(len(lines) + 1, 0, "$", PROMPT)
    return picture


if __name__ == "__main__":
    main()
