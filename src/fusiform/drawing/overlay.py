"""What was found, drawn onto the photograph: boxes under their names, masks over what they outline, a legend.

Drawing is done on the photograph at any scale: boxes and masks are brought to the size of the picture given. Masks are
also written as they are, as palette PNGs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fusiform.data.image import to_rgb
from fusiform.drawing.text import cut_text, draw_text, one_line, text_width
from fusiform.tasks.detection import Detections
from fusiform.tasks.segmentation import SegmentationMap

Color = tuple[int, int, int]

COLORS = 128
"""Classes that have colours of their own; the next one begins again."""
ALPHA = 0.5
"""How much of a mask's colour covers the photograph."""
LEGEND_WIDTH = 240
"""The least, in pixels: under a narrower picture the legend has white to its side."""

# What a mask or a line has to be to be seen on a photograph: neither dark nor pale, and no grey (OKLab).
_LIGHTNESS = (0.5, 0.9)
_CHROMA = 0.12


def draw_boxes(
    image: Image.Image, detections: Detections, *, scores: bool = True, size: int | None = None
) -> Image.Image:
    """A copy of the photograph, RGB, with each box in its class's colour and its name, and score, on a plate.

    Plates stand over their boxes, or where else no higher-scoring one stands already. ``scores`` False leaves the
    scores out, for boxes that are known. ``size`` is the text's in pixels; lines grow with it.
    """
    image = to_rgb(image).copy()
    draw = ImageDraw.Draw(image)
    x, y = image.width / detections.width, image.height / detections.height
    thickness = _thickness(image) if size is None else max(2, round(size / 7))
    size = _text_size(image) if size is None else size
    boxes = [
        (box, _pixels(box.left * x, box.right * x, image.width), _pixels(box.top * y, box.bottom * y, image.height))
        for box in detections.boxes
    ]
    # The highest-scoring last, so that it lies on top.
    for box, (left, right), (top, bottom) in reversed(boxes):
        draw.rectangle((left, top, right, bottom), outline=color_of(box.index), width=thickness)
    plates: list[tuple[str, Color, tuple[int, int, int, int]]] = []
    for box, (left, right), (top, bottom) in boxes:
        text = one_line(f"{box.name} {box.score:.0%}" if scores else box.name)
        text = cut_text(text, image.width - size, size=size)
        width, height = round(text_width(text, size=size)) + size // 2, round(1.45 * size)
        places = [
            (max(0, min(at_x, image.width - width)), max(0, min(at_y, image.height - height)))
            for at_y in (top - height, top, bottom + 1, bottom + 1 - height)
            for at_x in (left, right + 1 - width)
        ]
        rectangles = [(at_x, at_y, at_x + width, at_y + height) for at_x, at_y in places]
        free = [place for place in rectangles if not any(_overlap(place, taken) for _, _, taken in plates)]
        plates.append((text, color_of(box.index), (free or rectangles)[0]))
    for text, color, (left, top, right, bottom) in reversed(plates):
        draw.rectangle((left, top, right - 1, bottom - 1), fill=color)
        draw_text(draw, text, left + size // 4, top + round(1.08 * size), _readable_on(color), size=size)
    return image


def draw_mask(image: Image.Image, segmentation: SegmentationMap, *, alpha: float = ALPHA) -> Image.Image:
    """A copy of the photograph, RGB, tinted by what it shows; classes are outlined in their full colours.

    The first class, the background, is left as it is. ``alpha`` in [0, 1] is the share of the colour.
    """
    pixels = np.array(to_rgb(image))
    classes = _at_size(segmentation.classes, image.size)
    colors = np.array([color_of(index) for index in range(len(segmentation.names))], np.uint8)
    inside = classes > 0
    tinted = (1 - alpha) * pixels[inside] + alpha * colors[classes[inside]]
    pixels[inside] = np.rint(tinted).astype(np.uint8)
    border = inside & _borders(classes, _thickness(image))
    pixels[border] = colors[classes[border]]
    return Image.fromarray(pixels)


def draw_names(image: Image.Image, names: Sequence[tuple[int, str]]) -> Image.Image:
    """A copy of the photograph, RGB, with names in its upper left corner, one below the other in their colours.

    ``names`` are the indices of classes and what to call them. As many are drawn as fit into the picture.
    """
    image = to_rgb(image).copy()
    draw = ImageDraw.Draw(image)
    size = _text_size(image)
    height = round(1.45 * size)
    for row, (index, name) in enumerate(names[: max(1, image.height // height)]):
        text = cut_text(one_line(name), image.width - size, size=size)
        width, top = round(text_width(text, size=size)) + size // 2, row * height
        draw.rectangle((0, top, width - 1, top + height - 1), fill=color_of(index))
        draw_text(draw, text, size // 4, top + round(1.08 * size), _readable_on(color_of(index)), size=size)
    return image


def add_legend(
    image: Image.Image, entries: Sequence[tuple[int, str]], *, size: int | None = None, left: int | None = None
) -> Image.Image:
    """The picture over lines that name colours, on white; ``entries`` are the indices of classes and what to call them.

    ``size`` is the text's in pixels, by default as large as on boxes; ``left`` is where the lines begin. Without
    entries the picture itself.
    """
    if not entries:
        return image
    size = _text_size(image) if size is None else size
    gap, line = size // 2, round(1.6 * size)
    left = gap if left is None else left
    width = max(image.width, LEGEND_WIDTH)
    placed: list[tuple[int, int, int, str]] = []
    x, row = left, 0
    for index, name in entries:
        text = cut_text(one_line(name), width - left - size - 2 * gap, size=size)
        length = size + gap + round(text_width(text, size=size))
        if x > left and x + length + gap > width:
            x, row = left, row + 1
        placed.append((index, x, row, text))
        x += length + 3 * gap
    whole = Image.new("RGB", (width, image.height + (row + 1) * line + 2 * gap), "white")
    whole.paste(image, (0, 0))
    draw = ImageDraw.Draw(whole)
    for index, x, row, text in placed:
        top = image.height + gap + row * line + (line - size) // 2
        draw.rectangle((x, top, x + size - 1, top + size - 1), fill=color_of(index))
        draw_text(draw, text, x + size + gap, top + round(0.86 * size), "black", size=size)
    return whole


def color_of(index: int) -> Color:
    """The colour of the class at ``index``, the same in every picture and far from those of other low indices."""
    return _colors()[index % COLORS]


@cache
def _colors() -> tuple[Color, ...]:
    """Colours each of which is as far from those before it as it can be, as the eye sees it."""
    levels = np.arange(0, 256, 15)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    places = _oklab(candidates)
    light, chroma = places[:, 0], np.hypot(places[:, 1], places[:, 2])
    seen = (light >= _LIGHTNESS[0]) & (light <= _LIGHTNESS[1]) & (chroma >= _CHROMA)
    candidates, places = candidates[seen], places[seen]
    # An orange first, which is rare in photographs.
    chosen = [int(((candidates - (255, 90, 0)) ** 2).sum(1).argmin())]
    distances = np.full(len(places), np.inf)
    while len(chosen) < COLORS:
        distances = np.minimum(distances, ((places - places[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(distances.argmax()))
    return tuple((int(red), int(green), int(blue)) for red, green, blue in candidates[chosen])


def _oklab(rgb: NDArray[np.int64]) -> NDArray[np.float64]:
    """Colours (N, 3) of sRGB, 0 to 255, in OKLab (Ottosson, 2020), where distances are about those that people see."""
    values = rgb / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    lab: NDArray[np.float64] = np.cbrt(cones) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )
    return lab


def _readable_on(color: Color) -> str:
    """Black or white, whichever stands out more."""
    return "black" if _oklab(np.array([color]))[0, 0] > 0.65 else "white"


def _thickness(image: Image.Image) -> int:
    return min(4, max(2, round(max(image.size) / 320)))


def _text_size(image: Image.Image) -> int:
    return min(32, max(12, round(max(image.size) / 45)))


def _pixels(first: float, last: float, length: int) -> tuple[int, int]:
    """The first and the last pixel, within the picture, between two edges: always one at least."""
    start = min(round(first), length - 1)
    return start, max(start, round(last) - 1)


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _at_size(classes: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """The mask at another size (width, height): each pixel has the class of the pixel that its middle lies in."""
    width, height = size
    rows = ((np.arange(height) + 0.5) * classes.shape[0] / height).astype(np.intp)
    columns = ((np.arange(width) + 0.5) * classes.shape[1] / width).astype(np.intp)
    resized: NDArray[Any] = classes[rows[:, None], columns]
    return resized


def _borders(classes: NDArray[Any], thickness: int) -> NDArray[np.bool_]:
    """The pixels that have another class within ``thickness`` pixels beside, over or under them."""
    border = np.zeros(classes.shape, bool)
    for step in range(1, thickness + 1):
        if step < len(classes):
            differs = classes[step:] != classes[:-step]
            border[step:] |= differs
            border[:-step] |= differs
        if step < classes.shape[1]:
            differs = classes[:, step:] != classes[:, :-step]
            border[:, step:] |= differs
            border[:, :-step] |= differs
    return border
