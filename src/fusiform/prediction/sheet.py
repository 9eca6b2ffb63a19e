"""The contact sheet: pictures with their answers drawn on or under them."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from fusiform.prediction.formats import NOTHING, OF_PICTURE, percent

if TYPE_CHECKING:
    from PIL import Image

    from fusiform.drawing.grid import Tile
    from fusiform.prediction.answer import Answer
    from fusiform.spec import ModelSpec
    from fusiform.tasks.segmentation import Share


SAVED = 64
"""More pictures than these make no grid that anyone looks at."""


GREEN, RED, GREY = "#1b7a2f", "#c0281c", "#666666"


def _class_folders(spec: ModelSpec) -> dict[str, dict[int, str]]:
    """What a folder of pictures of a class may be called, and for each the classes, by index and name, it may mean."""
    folders: dict[str, dict[int, str]] = {}
    for names in (spec.labels, spec.label_ids):
        for index, name in enumerate(names):
            # Two classes of ImageNet are called crane.
            folders.setdefault(_folder_key(name), {})[index] = spec.labels[index]
    return folders


def _folder_key(name: str) -> str:
    from fusiform.data.names import nfc

    return " ".join(nfc(name).casefold().replace("_", " ").split())


class Drawing:
    """The first pictures with their answers, each drawn as it comes; one alone is drawn large, several as a grid."""

    def __init__(self, spec: ModelSpec) -> None:
        self.task = spec.task
        self.classes = _class_folders(spec) if spec.task == "classification" else {}
        self.tiles: list[Tile] = []
        self.letters: set[str] = set()
        self.shares: list[Share] = []

    def add(self, prediction: Answer) -> None:
        if len(self.tiles) == SAVED:
            return
        if self.task == "classification":
            self.tiles.append(_tile(prediction, self.classes))
        else:
            self.tiles.append(self._drawn(prediction))

    def save(self, path: Path, pictures: int) -> list[str]:
        """Write the picture of the first of ``pictures`` answers; returns what to tell the user about it."""
        from fusiform.drawing.grid import save_picture
        from fusiform.drawing.text import missing_letters

        save_picture(self.picture(pictures), path)
        notes: list[str] = []
        if len(self.tiles) < pictures:
            notes.append(f"{path}: shows the first {len(self.tiles)} of {pictures} pictures")
        if missing := missing_letters(self._texts(pictures)):
            shown = missing if len(missing) <= 10 else f"{missing[:10]}..."
            notes.append(f"{path}: no font here has {shown}: boxes stand for them; install one, such as Noto Sans CJK")
        return notes

    def picture(self, pictures: int) -> Image.Image:
        """The answers as one picture, RGB: as a grid, or the only one of ``pictures`` large; with a mask's legend."""
        from fusiform.drawing.grid import GAP, TILE, draw_grid
        from fusiform.drawing.overlay import add_legend
        from fusiform.drawing.text import TEXT_SIZE
        from fusiform.prediction.answer import DRAWN_THUMBNAIL

        alone = self._alone(pictures)
        if alone is not None:
            return add_legend(alone, [(share.index, _with_share(share) + OF_PICTURE) for share in self.shares])
        side = TILE if self.task == "classification" else DRAWN_THUMBNAIL
        names = sorted({(share.index, share.name) for share in self.shares})
        return add_legend(draw_grid(self.tiles, side=side), names, size=TEXT_SIZE, left=GAP)

    def _alone(self, pictures: int) -> Image.Image | None:
        return self.tiles[0].image if pictures == 1 and self.task != "classification" else None

    def _texts(self, pictures: int) -> list[str]:
        captions = [line for tile in self.tiles for line in (tile.caption, tile.second_line)]
        return ["".join(self.letters), *(captions if self._alone(pictures) is None else [])]

    def _drawn(self, prediction: Answer) -> Tile:
        from fusiform.drawing.grid import Tile
        from fusiform.drawing.overlay import draw_boxes, draw_mask

        name = os.path.basename(prediction.path) or prediction.path  # noqa: PTH119  # also of an address
        image = prediction.thumbnail
        if prediction.error is not None or image is None:
            return Tile(None, name, color=GREY)
        if prediction.detections is not None:
            found = Counter(box.name for box in prediction.detections.boxes)
            self.letters.update(*found)
            summary = ", ".join(name if count == 1 else f"{name} ({count})" for name, count in found.items())
            return Tile(draw_boxes(image, prediction.detections), summary or NOTHING, name)
        assert prediction.segmentation is not None
        shares = [share for share in prediction.segmentation.shares() if share.index]
        self.shares += shares
        self.letters.update(*(share.name for share in shares))
        summary = ", ".join(map(_with_share, shares)) + OF_PICTURE if shares else NOTHING
        return Tile(draw_mask(image, prediction.segmentation), summary, name)


def _tile(prediction: Answer, classes: dict[str, dict[int, str]]) -> Tile:
    from fusiform.drawing.grid import Tile

    path = prediction.path
    if prediction.error is not None:
        return Tile(None, os.path.basename(path) or path, color=GREY)  # noqa: PTH119  # also of an address
    best = prediction.top[0]
    caption = f"{prediction.prefix}{best.probability:.1%}  {best.name}"
    truth: dict[int, str] = {}
    if os.path.exists(path):  # noqa: PTH110  # not an address, nor standard input
        # Not resolved: a link to a folder counts by its own name.
        folder = Path(os.path.abspath(path)).parent.name  # noqa: PTH100
        truth = classes.get(_folder_key(folder), {})
    if not truth or prediction.prefix:
        return Tile(prediction.thumbnail, caption)
    if best.index in truth:
        return Tile(prediction.thumbnail, caption, color=GREEN)
    return Tile(prediction.thumbnail, caption, f"true: {next(iter(truth.values()))}", RED)


def _with_share(share: Share) -> str:
    return f"{share.name} {percent(share.share).strip()}"
