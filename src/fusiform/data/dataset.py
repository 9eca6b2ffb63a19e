"""Labelled pictures, wherever they lie: what training, evaluation and the doctor read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from fusiform.data import limits
from fusiform.data.image import open_file, read_image
from fusiform.data.layouts.rows import read_picture
from fusiform.data.names import nfc
from fusiform.errors import ImageError

Split = Literal["train", "val", "test", "all"]

SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What a folder, a shard or a line of a list may call a split, in lower case."""

SPLIT_ORDER: tuple[Split, ...] = ("train", "val", "test", "all")
"""The order in which a dataset has its splits."""


@dataclass(frozen=True)
class Sample:
    """One picture: the file it lies in and the index of its class.

    ``offset`` and ``size`` (bytes) say where within the file, for a member of a tar shard; ``key`` is its name there.
    In an Arrow file they do, too, and ``key`` is column/row; in a Parquet file, which is compressed, ``offset`` is the
    row, and there is no ``size``.
    """

    file: Path
    label: int
    offset: int = 0
    size: int | None = None
    key: str = ""

    @property
    def name(self) -> str:
        """What to call it in front of users: its path, and its name inside a file that holds many."""
        return f"{self.file}/{self.key}" if self.key else str(self.file)

    def read_bytes(self) -> bytes:
        """The picture's encoded bytes; ImageError, which names it, where they cannot be had."""
        try:
            if self.key and self.size is None:
                return read_picture(self.file, self.key.rpartition("/")[0], self.offset)
            if not self.key:
                limits.check_kind(self.file, self.name)
            with self.file.open("rb") if self.key else open_file(self.file) as stream:
                stream.seek(self.offset)
                return limits.read_bounded(stream, self.name) if self.size is None else stream.read(self.size)
        except FileNotFoundError:
            raise ImageError(f"{self.name}: no such file: check the path") from None
        except OSError as error:
            raise ImageError(f"{self.name}: cannot be read ({error.strerror or error})") from None

    def read(self, *, shorter_side: int | None = None) -> Image.Image:
        """The picture, upright and RGB; see ``read_image``. Raises ImageError, which names it."""
        if not self.key:
            return read_image(self.file, shorter_side=shorter_side)
        return read_image(self.read_bytes(), name=self.name, shorter_side=shorter_side)


class Entry(NamedTuple):
    """A picture on the way into a dataset, under its class's name; the rest is as in ``Sample``."""

    split: Split
    class_name: str
    file: Path
    offset: int = 0
    size: int | None = None
    key: str = ""


@dataclass(frozen=True)
class DataSet:
    """Pictures with labels: ``classes`` are the names in the order of the labels, ``splits`` the pictures.

    ``splits`` has the keys that were found on disk, ``train``, ``val`` and ``test``, or only ``all``. ``notes`` are
    what a user should know of how the source was read: empty class folders, classes that a split lacks. ``layout`` is
    what to call how it lies: the name in ``open.LAYOUTS``, or what its reader knows better.
    """

    source: Path
    classes: tuple[str, ...]
    splits: Mapping[Split, tuple[Sample, ...]]
    notes: tuple[str, ...] = field(default=())
    layout: str = ""

    def locate(self, sample: Sample) -> str:
        """The picture's name within the dataset, NFC with forward slashes: the same wherever the data lies."""
        name = Path(sample.name)
        # A list or a shard names the pictures from the folder that it lies in.
        for root in (self.source, self.source.parent):
            if name.is_relative_to(root):
                name = name.relative_to(root)
                break
        return nfc(name.as_posix())

    def fingerprint(self) -> str:
        """The SHA-256 of the set of pictures, their labels and splits; where the data lies does not matter."""
        lines = [
            json.dumps([split, self.locate(sample), sample.label], ensure_ascii=False)
            for split, samples in self.splits.items()
            for sample in samples
        ]
        text = "\n".join([json.dumps(self.classes, ensure_ascii=False), *sorted(lines)])
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
