"""Pictures side by side, each over its caption, drawn as one picture: to look at answers without a screen.

And the way any text gets into a picture here: in fonts that have its letters, cut where it would be too long.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from fusiform import files
from fusiform.drawing.text import _own_font, cut_text, draw_text, one_line
from fusiform.errors import OutputError, UsageError

TILE = 220
"""The side, in pixels, of the square that a picture is fitted into, unless another is given."""
GAP = 16
LINE = 20
MAX_COLUMNS = 8
FRAME = 3

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


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


def check_place(path: str | os.PathLike[str]) -> None:
    """Make sure, before any work is done, that a picture can be written there; an existing file will be replaced.

    Raises UsageError for a name that does not end in .png, .jpg or .jpeg, and OutputError where nothing can be written.
    """
    files.check_place(path, FORMATS, "drawings are saved as PNG or JPEG: let the name end in .png or .jpg")


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
    files.write_file(path, data.getvalue())


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
