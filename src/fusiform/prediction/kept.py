"""A sketch of what a classifier sees while it is in use: rows of numbers in their order, no image and no name.

Up to ``ROWS`` rows are kept. When they are full every second one goes, and from then on an image's row is taken with
half the chance as before, so that a file stays small however many images come, and most images cost nothing. Which rows
are kept never depends on what they hold: if images come in random order from one source, so do the rows.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.calibration.reference import MEASURES, Rows, mark, pack, unpack
from fusiform.engines import tells_unknown
from fusiform.errors import InputError, OutputError, UsageError
from fusiform.files import check_place, write_file
from fusiform.prediction.answer import Answer
from fusiform.zoo.model import Model

ROWS = 512
"""Rows that are kept, at most: some 10 kB."""
SECONDS = 60.0
"""How long rows may lie in memory alone."""
_SCHEMA = "fusiform.seen/1"
_COLUMNS = len(MEASURES) + 1


class Kept(NamedTuple):
    """Of ``images`` that were seen the ``rows`` (rows, measures + 1) of about one in ``every``, a power of two."""

    images: int
    every: int
    rows: Rows


def is_kept(path: Path) -> bool:
    """Whether a file is such a sketch, of whatever model."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("schema") == _SCHEMA


def read_kept(path: Path, model: Model) -> Kept:
    """The sketch in a file that the model kept; InputError for any other file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != _SCHEMA:
            raise ValueError
        images, every, count = (int(content[name]) for name in ("images", "every", "rows"))
        if not 0 <= count <= ROWS or count > images or every < 1 or every & (every - 1):
            raise ValueError
        rows = unpack(content["values"], count, _COLUMNS) if count else np.empty((0, _COLUMNS), np.float16)
        of = content["model"]
        if not np.isfinite(rows).all():
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{path}: is no sketch that fusiform predict, serve or a model's page kept: name one, or images"
        ) from None
    if of != mark(model.spec):
        raise InputError(f"{path}: was kept with another model than {model.path}: name that one, or another file")
    return Kept(images, every, rows)


def check_keeps(model: Model) -> None:
    """UsageError for a model whose sketches nothing could be told from."""
    if not tells_unknown(model):
        raise UsageError(
            f"{model.path}: a sketch is kept of a classifier that is calibrated and tells unknown images, and this is "
            "none: fusiform evaluate MODEL DATA --calibrate FILE writes one"
        )


class Thinned:
    """Rows of the images that come, thinned; see above."""

    def __init__(self, kept: Kept | None = None, *, seed: int | None = None) -> None:
        """Go on with what was kept before, if anything was; ``seed`` None is another one each time."""
        self.images, self.every = (0, 1) if kept is None else (kept.images, kept.every)
        self._rows: list[NDArray[np.float16]] = [] if kept is None else list(kept.rows)
        self._random = random.Random(seed)

    def __len__(self) -> int:
        return len(self._rows)

    def wants(self) -> bool:
        """Count an image, and say whether its row is to be taken."""
        self.images += 1
        return self.every == 1 or self._random.random() * self.every < 1

    def add(self, row: NDArray[np.float16]) -> None:
        """Take the row of an image that was wanted."""
        self._rows.append(row)
        if len(self._rows) > ROWS:
            self._rows, self.every = self._rows[::2], 2 * self.every

    def kept(self) -> Kept:
        """What there is now."""
        return Kept(self.images, self.every, np.array(self._rows, np.float16).reshape(-1, _COLUMNS))


class Keeper:
    """Keeps the sketch of what a model sees in a file; from any thread.

    A file that is there is gone on with, if it is the same model's. It is written at the beginning, every ``SECONDS``
    while rows come, and by ``write``.
    """

    def __init__(self, path: str | os.PathLike[str], model: Model) -> None:
        """Raises UsageError for a model or a name that does not fit, InputError for another file, and OutputError."""
        check_keeps(model)
        self.path = Path(path)
        check_place(self.path, (".json",), "a sketch is a file that ends in .json")
        self._mark = mark(model.spec)
        self._thinned = Thinned(read_kept(self.path, model) if self.path.exists() else None)
        self._written = 0.0
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self.write()

    def wants(self) -> bool:
        """Count an image that was read, and say whether its row is to be taken."""
        with self._lock:
            return self._thinned.wants()

    def add(self, answers: Iterable[Answer]) -> None:
        """Keep the rows of those answers that have one. A file that cannot be written now is written later."""
        with self._lock:
            for answer in answers:
                if answer.row is not None:
                    self._thinned.add(answer.row)
            due = time.monotonic() - self._written > SECONDS
        if due:
            try:
                self.write()
            except OutputError:
                self._written = time.monotonic()

    def write(self) -> None:
        """Write the file now; OutputError where that cannot be done."""
        with self._writing:
            with self._lock:
                kept, self._written = self._thinned.kept(), time.monotonic()
            content = {
                "schema": _SCHEMA,
                "model": self._mark,
                "images": kept.images,
                "every": kept.every,
                "rows": len(kept.rows),
                "values": pack(kept.rows) if len(kept.rows) else "",
            }
            write_file(self.path, (json.dumps(content) + "\n").encode())
