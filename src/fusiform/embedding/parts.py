"""Features of very many images, in parts."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from fusiform.embedding.index import PARTS_SCHEMA, SCHEMA, Growing, Origin, write_part
from fusiform.engines import EngineName
from fusiform.prediction.predictor import Predictor
from fusiform.prediction.worker import Asked
from fusiform.progress import Tracker
from fusiform.scaling.parts import answer_sources, form_of, names_of
from fusiform.scaling.run import PART, Parts, check_parts, folder_of
from fusiform.scaling.work import Answering, Setup
from fusiform.spec import Colours, Fit
from fusiform.zoo.model import Model, open_model

if TYPE_CHECKING:
    from fusiform.prediction.answer import Answer

FeatureFormat = Literal["npz", "parquet"]


def embed_parts(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    model: str | os.PathLike[str] | Model = "mobilenet_v2",
    *,
    part: int = PART,
    shard: tuple[int, int] | None = None,
    on: str | None = None,
    format: FeatureFormat | None = None,  # noqa: A002  # as of predict_parts
    root: str | os.PathLike[str] | None = None,
    column: str | None = None,
    engine: EngineName | None = None,
    device: str = "auto",
    threads: int | None = None,
    batch: int = 1,
    fast: bool = False,
    mean: Colours | None = None,
    std: Colours | None = None,
    resize: int | None = None,
    crop: int | None = None,
    fit: Fit | None = None,
    progress: bool | Tracker | None = None,
) -> Parts:
    """Compute the features of very many images into a folder of files, each of ``part`` images and written whole.

    Run again after whatever ended it, it goes on, and several machines can write into one folder, as with
    ``predict_parts``. Each file is one of ``Embeddings.load``, with the ``errors`` of the images that could not be
    read; the folder, when all parts are there, is an index for ``search``.

    Args:
        sources: See ``predict_parts``.
        out: The folder to write to: ``part-00000.parquet`` or ``.npz`` and so on, ``parts.json`` and a file for each
            shard that says what is done.
        model: See ``embed``.
        part: See ``predict_parts``.
        shard: See ``predict_parts``.
        on: See ``predict_parts``.
        format: ``parquet`` or ``npz``; None is that of a folder that was begun, else Parquet where pyarrow is
            installed.
        root: See ``predict_parts``.
        column: See ``predict_parts``.
        engine: See ``predict``.
        device: See ``predict``.
        threads: See ``predict``.
        batch: See ``predict``.
        fast: See ``predict``.
        mean: See ``open_model``.
        std: See ``open_model``.
        resize: See ``open_model``.
        crop: See ``open_model``.
        fit: See ``open_model``.
        progress: See ``predict``.

    Returns:
        How many images the parts hold, and how many of them could not be read.

    Raises:
        UsageError: For arguments that do not fit, a model without features, and for a folder that was begun with
            another model, other images or other options, or that another process is writing these parts to.
        FusiformError: For a model that cannot be opened.

    Example:
        >>> import fusiform, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> fusiform.embed_parts("examples", folder, part=1).parts
        2
        >>> fusiform.search("examples/cat.jpg", folder, top=1).report().rows[0]["path"]
        'examples/cat.jpg'

    """
    ours, names, folder = check_parts(part, shard), names_of(sources), folder_of(out)
    form = form_of(folder, format, "npz")
    opened = open_model(model, mean=mean, std=std, resize=resize, crop=crop, fit=fit)
    setup = Setup(opened, Asked(top=1), engine, device, threads, batch, fast, None, None, 0.2, features=True)
    predictor = setup.predictor()
    origin = Origin.of(opened, str(opened.path) if isinstance(model, Model) else os.fspath(model))
    settings: dict[str, Any] = {
        "schema": PARTS_SCHEMA,
        "fusiform": version("fusiform"),
        "model": origin.model,
        "sources": names,
        "images_per_part": part,
        "format": form,
        "engine": engine,
        "fast": fast,
        "model_sha256": origin.sha256,
        "description_sha256": sha256(predictor.spec.to_json().encode()).hexdigest(),
    }
    job = Embedding(setup, form, origin, opened.spec.num_features)
    return answer_sources(
        names, folder, settings, job, predictor, ours, on=on, root=root, column=column, label="embed", progress=progress
    )


@dataclass(frozen=True)
class Embedding(Answering):
    """The job of computing features into parts; ``size`` is how many an image has."""

    origin: Origin
    size: int

    def rows(self, _predictor: Predictor, file: BinaryIO) -> FeatureRows:
        return FeatureRows(file, self.form, self.origin, self.size)

    def count(self, file: BinaryIO) -> tuple[int, int]:
        return count_features(file, self.form)


class FeatureRows:
    """Writes the features of a part to an open file when all are there; until then they are in a temporary one."""

    def __init__(self, file: BinaryIO, form: str, origin: Origin, size: int) -> None:
        self.file, self.form, self.origin = file, form, origin
        self.paths: list[str] = []
        self.errors: list[str] = []
        self.growing = Growing(size)

    def add(self, answer: Answer) -> None:
        """The next image."""
        if answer.features is None:
            self.errors.append(answer.error or answer.path)
        else:
            self.growing.add(answer.features)
            self.paths.append(answer.path)

    def close(self) -> None:
        """Write all; the file itself stays open."""
        with self.growing:
            write_part(self.paths, self.growing.rows(), self.origin, self.errors, self.form, self.file)


def count_features(file: BinaryIO, form: str) -> tuple[int, int]:
    """How many images a part holds, and how many of them could not be read; ValueError where it is no part."""
    try:
        if form == "parquet":
            import pyarrow
            from pyarrow import parquet

            try:
                found = parquet.ParquetFile(file)
            except pyarrow.ArrowException as error:
                raise ValueError(str(error)) from None
            images, text = found.metadata.num_rows, found.schema_arrow.metadata[SCHEMA.encode()]
        else:
            with np.load(file, allow_pickle=False) as arrays:
                images, text = len(arrays["paths"]), str(arrays["description"])
        errors = len(json.loads(text)["errors"])
    except (zipfile.BadZipFile, zlib.error, EOFError, LookupError, TypeError) as error:
        raise ValueError(str(error)) from None
    return images + errors, errors
