"""Large pictures tile by tile, for objects that are too small to be seen in the whole picture made small.

As SAHI does (Akyol et al., Slicing Aided Hyper Inference, arXiv 2202.06934): overlapping tiles and the whole picture
are answered each, and what was found is merged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fusiform.data.image import to_rgb
from fusiform.data.limits import one_picture
from fusiform.engines import Engine
from fusiform.engines.native.resize import crop_pixels
from fusiform.errors import ImageError, UsageError
from fusiform.prediction.results import Prediction
from fusiform.prediction.sources import Picture
from fusiform.prediction.worker import Asked, Read, Worker
from fusiform.spec import ModelSpec
from fusiform.tasks.detection import IOU_THRESHOLD, MAX_BOXES, Box, Detections, nms

SMALLEST, MOST_OVERLAP = 64, 0.9
OVERLAP = 0.2
EDGE = 0.01
"""The share of a tile's side within which a box ends at the tile's edge."""
INSIDE = 0.7
"""A box that a tile's edge cuts is a part of another whose area has at least this share of its own."""

Region = tuple[int, int, int, int]
"""Left, top, right and bottom of a part of a picture, in pixels."""


class Tiles(NamedTuple):
    """How a picture is cut: the side of a tile in pixels, and the share of it that neighbours have in common."""

    side: int
    overlap: float


def check_tiles(spec: ModelSpec, side: int | None, overlap: float) -> Tiles | None:
    """The tiles that were asked for; UsageError for numbers out of range, or a model that finds no boxes."""
    if not 0 <= overlap <= MOST_OVERLAP:
        raise UsageError(f"overlap must be from 0 to {MOST_OVERLAP}, got {overlap:g}")
    if side is None:
        return None
    if side < SMALLEST:
        raise UsageError(f"tiles must be at least {SMALLEST} pixels, got {side}")
    if spec.task != "detection":
        raise UsageError(f"tiles is for detection, and the model ({spec.name}) is for {spec.task}: leave tiles out")
    return Tiles(side, overlap)


def regions(size: tuple[int, int], tiles: Tiles) -> list[Region]:
    """The whole picture, of ``size`` (width, height), and the tiles that cover it, row by row; a small one is whole."""
    width, height = size
    whole = (0, 0, width, height)
    if max(size) <= tiles.side:
        return [whole]
    across, down = (_starts(length, tiles) for length in size)
    return [
        whole,
        *((x, y, min(x + tiles.side, width), min(y + tiles.side, height)) for y in down for x in across),
    ]


def _starts(length: int, tiles: Tiles) -> list[int]:
    """Where tiles begin along a side: the last one ends with the picture, and overlaps the one before by more."""
    if length <= tiles.side:
        return [0]
    step = max(1, round(tiles.side * (1 - tiles.overlap)))
    return [*range(0, length - tiles.side, step), length - tiles.side]


def merge(
    found: Sequence[tuple[Region, Detections]], size: tuple[int, int], *, iou_threshold: float, limit: int
) -> Detections:
    """What was found in regions of a picture, the whole among them, as what was found in the picture.

    A box that ends at an edge between tiles shows a part of an object: it goes where a box that is not cut, of its
    class, has most of it. Of those that remain ``nms`` leaves the highest-scoring, as within one answer.
    """
    width, height = size
    boxes = [(box, region) for region, detections in found for box in detections.boxes]
    if not boxes:
        return Detections((), width, height)
    edges = np.array([_moved(box, region, size) for box, region in boxes])
    scores = np.array([box.score for box, _ in boxes])
    classes = np.array([box.index for box, _ in boxes])
    cut = np.array([_is_cut(box, region, size) for box, region in boxes])
    stays = ~cut
    for k in np.flatnonzero(cut):
        whole = np.flatnonzero(~cut & (classes == classes[k]))
        stays[k] = not (_shared(edges[k], edges[whole]) >= INSIDE).any()
    kept = np.flatnonzero(stays)
    kept = kept[nms(edges[kept], scores[kept], classes[kept], iou_threshold=iou_threshold, limit=limit)]
    merged = tuple(Box(boxes[k][0].index, boxes[k][0].name, boxes[k][0].score, *map(float, edges[k])) for k in kept)
    return Detections(merged, width, height)


def _moved(box: Box, region: Region, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A region's box in the picture, clipped to it of what the sums leave in the last digit."""
    left, top = region[:2]
    right, bottom = min(box.right + left, size[0]), min(box.bottom + top, size[1])
    return box.left + left, box.top + top, right, bottom


def _is_cut(box: Box, region: Region, size: tuple[int, int]) -> bool:
    """Whether a box ends at an edge of its region that is none of the picture."""
    left, top, right, bottom = region
    near_x, near_y = EDGE * (right - left), EDGE * (bottom - top)
    return (
        (left > 0 and box.left <= near_x)
        or (top > 0 and box.top <= near_y)
        or (right < size[0] and box.right >= right - left - near_x)
        or (bottom < size[1] and box.bottom >= bottom - top - near_y)
    )


def _shared(box: np.ndarray[Any, Any], others: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The share of a box's area that each of the others has."""
    first, last = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shares: np.ndarray[Any, Any] = np.clip(last - first, 0, None).prod(1) / (box[2:] - box[:2]).prod()
    return shares


class TiledWorker(Worker):
    """A worker that answers each picture tile by tile, ``batch`` of them at a time."""

    def __init__(
        self, engine: Engine, spec: ModelSpec, path: Path, tiles: Tiles, *, batch: int = 1, alone: bool = False
    ) -> None:
        super().__init__(engine, spec, path, batch=batch, alone=alone)
        self.tiles = tiles

    def answer(self, pictures: Sequence[Picture], asked: Asked) -> list[Prediction]:
        """See ``Worker.answer``."""
        return [self._tiled(picture, asked) for picture in pictures]

    def _tiled(self, picture: Picture, asked: Asked) -> Prediction:
        try:
            with one_picture():
                image = to_rgb(self.open(picture))
                parts = regions(image.size, self.tiles)
                found = [each for group in _groups(iter(parts), self.batch) for each in self._look(image, group, asked)]
                size = image.size  # the thumbnail may be the same picture, made smaller
                thumbnail = self.thumbnail(image) if picture.keep else None
        except ImageError as error:
            return Prediction(picture.path, error=str(error))
        except OSError as error:
            return Prediction(picture.path, error=f"{picture.path}: {error.strerror or error}")
        merged = merge(
            list(zip(parts, found, strict=True)),
            size,
            iou_threshold=IOU_THRESHOLD if asked.iou is None else asked.iou,
            limit=asked.limit or MAX_BOXES,
        )
        return Prediction(picture.path, detections=merged, thumbnail=thumbnail)

    def _look(self, image: Image.Image, group: Sequence[Region], asked: Asked) -> list[Detections]:
        """What is found in some regions of the picture, in their own pixels."""
        read = []
        for region in group:
            part = image if region[2:] == image.size and region[:2] == (0, 0) else image.crop(region)
            read.append(Read("", crop_pixels(part, self.spec.preprocess), part.size, None))
        answers = self.infer(read, asked)
        return [answer.detections for answer in answers if answer.detections is not None]


def _groups(parts: Iterator[Region], size: int) -> Iterator[list[Region]]:
    while group := list(islice(parts, size)):
        yield group
