"""Small pictures with the boxes in question, or with their masks over them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fusiform.data import limits
from fusiform.data.annotated import AnnotatedSample
from fusiform.data.image import identify, read_image, without_warnings
from fusiform.data.outlines import draw_labels
from fusiform.drawing.overlay import ALPHA, color_of, draw_boxes, draw_mask
from fusiform.drawing.page import THUMBNAIL
from fusiform.tasks.detection import Box, Detections
from fusiform.tasks.segmentation import SegmentationMap

NAMED = 2
"""Boxes that are drawn with their names; the names of more would hide them."""
SEEN = 6
"""Pixels of the thumbnail, the least that a box is wide and high there."""


class Mark(NamedTuple):
    """A box in question: its class, its left, top, right and bottom in pixels, which may lie anywhere."""

    label: int
    name: str
    edges: tuple[float, float, float, float]


def annotated_thumbnail(
    sample: AnnotatedSample, marks: Sequence[Mark], *, side: int = THUMBNAIL, masked: bool = True
) -> Image.Image:
    """A picture of at most ``side`` pixels, RGB, with the marks drawn on it, and if ``masked`` its mask, if it has one.

    Marks are drawn large enough to be seen, within the picture, and with their names where there are few. A mask that
    cannot be read is left out; ImageError where the picture itself cannot be read.
    """
    image = read_image(sample.file, shorter_side=side)
    # Drawn on when it is small, so that names can be read, also where it is shown at a third of its size.
    image.thumbnail((side, side))
    size = max(12, max(image.size) // 22)
    if masked:
        if sample.outlines is not None and sample.size is not None:
            image = _under(image, draw_labels(sample.outlines, sample.size))
        elif sample.mask_file is not None:
            image = _with_mask(image, sample.mask_file)
    if not marks:
        return image
    width, height = image.size if sample.size is None else sample.size
    boxes = tuple(_visible(mark, width, height, image.size) for mark in marks)
    if len(boxes) <= NAMED:
        return draw_boxes(image, Detections(boxes, *image.size), scores=False, size=size)
    draw = ImageDraw.Draw(image)
    for box in boxes:
        edges = (box.left, box.top, box.right - 1, box.bottom - 1)
        draw.rectangle(edges, outline=color_of(box.index), width=max(2, size // 7))
    return image


def _visible(mark: Mark, width: int, height: int, size: tuple[int, int]) -> Box:
    """The mark in a picture of ``width`` x ``height`` pixels as a box in its thumbnail of ``size``."""
    left, right = _within([edge * size[0] / width for edge in mark.edges[::2]], size[0])
    top, bottom = _within([edge * size[1] / height for edge in mark.edges[1::2]], size[1])
    return Box(mark.label, mark.name, 1.0, left, top, right, bottom)


def _within(edges: Sequence[float], length: int) -> tuple[float, float]:
    """Two edges in their order, within the picture and far enough apart to be seen."""
    least = min(SEEN, length)
    first = min(max(min(edges), 0), length - least)
    return first, min(max(*edges, first + least), length)


def _under(image: Image.Image, values: NDArray[np.uint8]) -> Image.Image:
    return draw_mask(image, SegmentationMap(values, tuple(map(str, range(256)))))


def _with_mask(image: Image.Image, file: Path) -> Image.Image:
    """The picture under its mask in the classes' colours, whatever the mask's size and values."""
    try:
        data = limits.read_file(file, file.name)
        with without_warnings(), identify(io.BytesIO(data), data[:32], file.name) as mask:
            limits.check_memory(mask, io.BytesIO(data), file.name)
            mask.load()
            if mask.format == "PNG" and mask.mode in ("P", "L", "1"):
                return _under(image, np.asarray(mask).astype(np.uint8))
            return Image.blend(image, mask.convert("RGB").resize(image.size), ALPHA)
    except Exception:  # what is wrong with it is told beside the picture
        return image
