"""Masks as palette PNGs in Pascal VOC's colours."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from fusiform.data.masks import PALETTE
from fusiform.data.names import nfc
from fusiform.errors import OutputError, UsageError
from fusiform.files import write_file
from fusiform.tasks.segmentation import SegmentationMap


def mask_png(segmentation: SegmentationMap) -> bytes:
    """The mask as a PNG file in VOC's manner: a palette picture of the photograph's size, a pixel's value its class.

    UsageError for more than 256 classes, which a palette cannot tell apart.
    """
    check_palette(len(segmentation.names))
    image = Image.fromarray(segmentation.classes.astype(np.uint8))
    image.putpalette(PALETTE.tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def check_palette(classes: int) -> None:
    """UsageError unless a palette has a colour for each of so many classes."""
    if classes > len(PALETTE):
        raise UsageError(f"a PNG mask tells {len(PALETTE)} classes apart, and the model has {classes}: leave masks out")


class MaskFolder:
    """A folder of masks, one for each photograph, under the photograph's name and ending in .png.

    A second photograph of a name gets NAME-2.png, and so on, also where the names differ in upper and lower case alone.
    The folder is made if it is not there; OutputError where it cannot be made or written into.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._names: dict[str, int] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise OutputError(
                f"cannot write masks into {folder} ({error.strerror or error}): choose another folder"
            ) from None

    def write(self, stem: str, segmentation: SegmentationMap, *, path: str) -> Path:
        """Write the mask of the photograph at ``path``, called ``stem``, whole or not at all, and say where it lies.

        A mask that is there already is replaced. OutputError for the photographs' own folder, or where another file is
        in the way, so that no photograph is ever lost.
        """
        data = mask_png(segmentation)
        where = Path(path)
        if where.is_file() and where.parent.samefile(self.folder):
            raise OutputError(f"{self.folder}: is the folder of {path}: choose another one for the masks")
        target = self.folder / f"{self._free_name(stem)}.png"
        if target.exists() and not _is_mask(target):
            raise OutputError(f"{target}: is there already, and is no mask: choose another folder for the masks")
        write_file(target, data)
        return target

    def _free_name(self, stem: str) -> str:
        name, number = stem, self._names.get(_key(stem), 1)
        while _key(name) in self._names:
            number += 1
            name = f"{stem}-{number}"
        self._names[_key(stem)] = number
        self._names.setdefault(_key(name), 1)
        return name


def _key(name: str) -> str:
    """The same for names that some file system takes as one."""
    return nfc(name).casefold()


def _is_mask(path: Path) -> bool:
    """Whether a file is a PNG with a palette, by its header (PNG, 11.2.2: colour type 3)."""
    try:
        with path.open("rb") as stream:
            head = stream.read(26)
    except OSError:
        return False
    return head[:8] == b"\x89PNG\r\n\x1a\n" and head[25:] == b"\x03"
