"""The images that are most similar to one: what ``fusiform search`` runs.

All features are compared, by matrix multiplication in parts: a million images take about a second a query on two cores,
most of it to read them. An approximate index (usearch, faiss) would be built in minutes for what is asked once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusiform.embedding.index import Embeddings, Origin, chunks
from fusiform.embedding.job import embed
from fusiform.engines import EngineName
from fusiform.errors import ImageError, InputError, UsageError
from fusiform.prediction.sources import Source
from fusiform.report import Cell, Report, Row, Tabular
from fusiform.zoo.model import Model, open_model

if TYPE_CHECKING:
    from PIL import Image

TOP = 10
_LEAST = 1e-12


@dataclass(frozen=True, repr=False)
class Matches(Tabular):
    """The most similar images for each query, most similar first: ``indices`` and ``similarities`` (queries, top).

    Similarities are the cosine of the angle between features, at most 1.

    Example:
        >>> import fusiform
        >>> found = fusiform.search("examples/cat.jpg", fusiform.embed("examples"))
        >>> [found.paths[k] for k in found.indices[0]]
        ['examples/cat.jpg', 'examples/coffee.jpg']

    """

    queries: tuple[str, ...]
    paths: tuple[str, ...]
    indices: NDArray[np.intp]
    similarities: NDArray[np.float32]
    errors: tuple[str, ...] = ()

    def report(self) -> Report:
        """A row for each match."""
        rows: list[Row] = [
            {"query": query, "rank": rank, "path": self.paths[index], "similarity": round(float(similarity), 6)}
            for query, found, values in zip(self.queries, self.indices, self.similarities, strict=True)
            for rank, (index, similarity) in enumerate(zip(found, values, strict=True), 1)
        ]
        figures: dict[str, Cell] = {"images": len(self.paths), "unread": len(self.errors)}
        return Report(f"similar among {len(self.paths):,} images", tuple(rows), figures, schema="fusiform.matches/1")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Draw each query and its matches in a line of a PNG or JPEG; UsageError and OutputError as ``predict``'s."""
        from fusiform.drawing.grid import Tile, draw_grid, save_picture

        tiles: list[Tile] = []
        for query, found, values in zip(self.queries, self.indices, self.similarities, strict=True):
            tiles.append(Tile(_thumbnail(query), Path(query).name, "query", "#1b4f9c"))
            for index, similarity in zip(found, values, strict=True):
                match = self.paths[index]
                tiles.append(Tile(_thumbnail(match), f"{similarity:.3f}", Path(match).name))
        save_picture(draw_grid(tiles, 1 + self.indices.shape[1]), path)

    def __repr__(self) -> str:
        return f"<matches of {len(self.queries)} queries among {len(self.paths)} images>"


def search(
    query: Source | Iterable[Source],
    index: str | os.PathLike[str] | Embeddings,
    *,
    top: int = TOP,
    model: str | os.PathLike[str] | Model | None = None,
    engine: EngineName | None = None,
    threads: int | None = None,
) -> Matches:
    """Find the images whose features are most similar to those of a query, by the cosine of the angle between them.

    Args:
        query: An image or several, as for ``fusiform.predict``.
        index: A file of ``fusiform.embed``, what it returned, or a folder of ``fusiform.embed_parts``.
        top: How many images to find.
        model: The model that the index was made with; None takes it from where the index says.
        engine: See ``fusiform.predict``.
        threads: See ``fusiform.predict``.

    Returns:
        For each query the images of the index, most similar first. An image finds itself where it is in the index.

    Raises:
        UsageError: For arguments that do not fit.
        InputError: For a file that holds no features, another model than the index's, and queries of which none can
            be read.

    Example:
        >>> import fusiform
        >>> index = fusiform.embed("examples")
        >>> fusiform.search("examples/cat.jpg", index, top=1).report().rows[0]["path"]
        'examples/cat.jpg'

    """
    if top < 1:
        raise UsageError(f"top must be at least 1, got {top}")
    known = index if isinstance(index, Embeddings) else Embeddings.load(index)
    opened = open_model(known.model if model is None else model)
    mine = Origin.of(opened, known.model)
    if mine != known.origin:
        where = known.file or "the index"
        raise InputError(
            f"{where}: has features of {known.model} ({known.sha256[:12]}), and {opened.path} is another model "
            f"({mine.sha256[:12]}): name that one with --model, or embed the images again with this one"
        )
    asked = embed(query, opened, engine=engine, threads=threads, progress=False)
    indices, similarities = nearest(asked.features, known.features, top)
    return Matches(asked.paths, known.paths, indices, similarities, asked.errors)


def nearest(
    queries: NDArray[np.float32], features: NDArray[np.float32], top: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The rows of ``features`` with the largest cosine to each query, largest first, and those cosines."""
    queries = unit(queries)
    best = np.full((len(queries), 0), -np.inf, np.float32)
    places = np.zeros((len(queries), 0), np.intp)
    for start, part in chunks(features):
        cosines = queries @ unit(part).T
        best = np.concatenate([best, cosines], axis=1)
        numbers = np.broadcast_to(np.arange(start, start + len(part)), cosines.shape)
        places = np.concatenate([places, numbers], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :top]
        best, places = np.take_along_axis(best, order, 1), np.take_along_axis(places, order, 1)
    return places, best


def unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The features of each image divided by their length."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = features / np.maximum(lengths, _LEAST)
    return scaled


def _thumbnail(path: str) -> Image.Image | None:
    """The picture, smaller; None where it cannot be read again, as what came from memory."""
    from fusiform.data.image import read_image
    from fusiform.drawing.grid import TILE

    try:
        image = read_image(Path(path), name=path, shorter_side=TILE)
    except (ImageError, OSError):
        return None
    image.thumbnail((TILE, TILE))
    return image
