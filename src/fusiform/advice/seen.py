"""What a classifier sees in images, once: its features and answers, kept in the cache until a file changes."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.dataset import Sample
from fusiform.data.image import read_image
from fusiform.data.limits import one_picture
from fusiform.data.looks import measure, rgb
from fusiform.data.preprocess import crop_pixels
from fusiform.engines import Engine, check_features, open_engine
from fusiform.engines.crew import Crew
from fusiform.errors import ImageError, InputError, OutputError
from fusiform.files import cache_dir, write_file
from fusiform.prediction.sources import Picture
from fusiform.progress import Tracker, silent
from fusiform.spec import FEATURES
from fusiform.zoo.model import PROGRAMS, Model

_FORM = 2
"""Of the files in the cache: a number for each change of what they hold."""


@dataclass(frozen=True)
class Seen:
    """What a classifier sees in images, a row for each that could be read.

    ``numbers`` are their places among all, ``features`` (N, D) what the last layer reads, ``values`` (N, classes) the
    file's answers, logits or probabilities, and ``looks`` (N, 7) what ``data.looks`` measures. ``errors`` are the
    messages about the others, by number.
    """

    numbers: tuple[int, ...]
    features: NDArray[np.float32]
    values: NDArray[np.float32]
    looks: NDArray[np.float32]
    errors: dict[int, str]


Item = Sample | Picture


def see(model: Model, items: Sequence[Item], *, threads: int | None = None, progress: Tracker = silent) -> Seen:
    """Show every image to the model, but those that it has seen before and that have not changed since.

    What it saw is kept in the cache folder (``FUSIFORM_CACHE``), a file for the model and the images' folder; a cache
    that cannot be written is done without. Raises UsageError for a model without features, and InputError where no
    image can be read.
    """
    check_features(model)
    keys = [_key(item) for item in items]
    store = _Store(model, items)
    known = store.read()
    rows: list[tuple[Any, ...] | None] = [known.get(key) if key else None for key in keys]
    missing = [i for i, row in enumerate(rows) if row is None]
    errors: dict[int, str] = {}
    if missing:
        crew = Crew(
            lambda cores: open_engine(model, threads=cores, features=True), len(missing), threads=threads, batch=1
        )
        lock = threading.Lock()

        def answer(engine: Engine, group: range) -> None:
            for place in group:
                number = missing[place]
                row = _look(engine, items[number])
                with lock:
                    if isinstance(row, str):
                        errors[number] = row
                    else:
                        rows[number] = row

        crew.work(answer, progress)
        store.write({key: row for key, row in zip(keys, rows, strict=True) if key and row is not None})
    read = tuple(i for i, row in enumerate(rows) if row is not None)
    if not read:
        first = next(iter(errors.values()), "there is none")
        raise InputError(f"none of {len(items)} images could be read: {first}")
    features, values, looks = (np.array([row[k] for row in rows if row is not None], np.float32) for k in range(3))
    return Seen(read, features, values, looks, errors)


def _look(engine: Engine, item: Item) -> tuple[NDArray[Any], ...] | str:
    try:
        with one_picture():
            image = _read(item)
            pixels = crop_pixels(image, engine.spec.preprocess)
    except ImageError as error:
        return str(error)
    except OSError as error:
        return f"{name_of(item)}: {error.strerror or error}"
    answers = engine.run(pixels[None])
    looks = measure(image, rgb(pixels, engine.spec.preprocess))
    return answers[FEATURES][0].astype(np.float16), answers[engine.spec.output][0], looks


def _read(item: Item) -> Image.Image:
    if isinstance(item, Sample):
        return item.read()
    content = item.fetch()
    return content if isinstance(content, Image.Image) else read_image(content, name=item.path)


def name_of(item: Item) -> str:
    """What to call an image in front of users."""
    return item.name if isinstance(item, Sample) else item.path


def _key(item: Item) -> bytes:
    """What an image in a file is known by: the file's name and state, and the place in it; empty for all others."""
    file = item.file if isinstance(item, Sample) else Path(item.path)
    place = (item.offset, item.size, item.key) if isinstance(item, Sample) else (0, None, "")
    if not isinstance(item, Sample) and (item.fleeting or item.far):
        return b""
    try:
        state = file.stat()
    except (OSError, ValueError):
        return b""
    text = repr((str(file.absolute()), state.st_size, state.st_mtime_ns, place))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:16]


class _Store:
    """The file in the cache for a model and the folder that images lie in."""

    def __init__(self, model: Model, items: Iterable[Item]) -> None:
        files = [str(item.file) if isinstance(item, Sample) else item.path for item in items]
        place = os.path.commonpath([os.path.abspath(file) for file in files]) if files else ""  # noqa: PTH100
        content = b"" if model.format in PROGRAMS or not model.path.is_file() else model.path.read_bytes()
        about = hashlib.sha256(content or model.data)
        about.update(f"{_FORM} {model.spec.to_json()} {place}".encode("utf-8", "surrogateescape"))
        # A program may be several files, whose state nobody here knows.
        self.path = None if model.format in PROGRAMS else cache_dir() / "features" / f"{about.hexdigest()[:32]}.npz"

    def read(self) -> dict[bytes, tuple[Any, ...]]:
        """What it holds; nothing where there is none or it is damaged."""
        if self.path is None:
            return {}
        try:
            with self.path.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
                keys, parts = kept["keys"], [kept[name] for name in ("features", "values", "looks")]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return {}
        return {key.tobytes(): tuple(row) for key, *row in zip(keys, *parts, strict=False)}

    def write(self, rows: dict[bytes, tuple[Any, ...]]) -> None:
        """Keep these, and no others: of images that have changed or gone nothing stays."""
        if self.path is None or not rows:
            return
        columns = [np.array([row[k] for row in rows.values()]) for k in range(3)]
        stream = io.BytesIO()
        keys = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 16)
        np.savez(stream, keys=keys, features=columns[0], values=columns[1], looks=columns[2])
        with suppress(OSError, OutputError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_file(self.path, stream.getvalue())
