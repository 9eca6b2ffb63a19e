"""Photographs that visitors of a page can try it with: those that were named, or the package's own.

Nobody's photographs are published without being named: those that a model was trained or verified on are not taken.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from fusiform.data.image import find_images, read_image
from fusiform.errors import InputError, UsageError
from fusiform.exporting.targets.base import TargetName
from fusiform.spec import ModelSpec

MOST = 6
"""Samples of a page; of more photographs so many, evenly from the first to the last."""
LONGEST = 640
"""Pixels of a sample's longer side."""
LARGEST = 60_000
"""Bytes of a sample."""
_QUALITIES = (85, 75, 65, 50, 35, 20)

_OWN = Path(__file__).with_name("web_photographs")
# What the package's own photographs show, by the names that ImageNet and COCO have for it.
_SHOWN = {"cat.jpg": ("Egyptian cat", "cat"), "coffee.jpg": ("espresso", "cup")}


class PageSample(NamedTuple):
    """A sample: the file's name, which visitors see, and the JPEG."""

    name: str
    data: bytes


def own_samples(spec: ModelSpec) -> list[PageSample]:
    """The package's own photographs (CC0) that show something that the model has a class for; none for most models."""
    return [
        PageSample(name, (_OWN / name).read_bytes())
        for name, shown in _SHOWN.items()
        if not set(shown).isdisjoint(spec.labels)
    ]


def read_samples(source: str | os.PathLike[str] | None, targets: Sequence[TargetName]) -> list[PageSample] | None:
    """Samples of a photograph, or of those in a folder: smaller, upright, without what else is in their files.

    None where none are named. Raises UsageError where no page is among the ``targets``, InputError where there are no
    photographs, ImageError for one that cannot be read.
    """
    if source is None:
        return None
    if "web" not in targets:
        raise UsageError("--samples: are for the page of --to web; leave it out")
    path = Path(source)
    if path.is_dir():
        files: Sequence[Path] = find_images(path)
        if not files:
            raise InputError(f"{path}: has no pictures: name a folder of pictures, or a picture")
    else:
        files = [path]
    last = len(files) - 1
    places = dict.fromkeys(round(k * last / (MOST - 1)) for k in range(MOST))
    return [PageSample(f"{files[k].stem}.jpg", make_sample(read_image(files[k]))) for k in places]


def make_sample(image: Image.Image) -> bytes:
    """A JPEG of at most ``LONGEST`` pixels a side and ``LARGEST`` bytes; of noise that cannot be, a smaller one."""
    small = image.copy()
    small.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    while True:
        for quality in _QUALITIES:
            file = io.BytesIO()
            small.save(file, "JPEG", quality=quality, optimize=True, progressive=True)
            if file.tell() <= LARGEST:
                return file.getvalue()
        small = small.resize((max(1, small.width // 2), max(1, small.height // 2)), Image.Resampling.LANCZOS)
