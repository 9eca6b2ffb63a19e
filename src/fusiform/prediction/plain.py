"""Photographs named without numpy, whose import takes longer than the answer: of int8 classifiers in the engine native.

All else goes the way of ``Worker``, whose answers are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard, cast

from fusiform.engines import Engine, RunningPlain
from fusiform.engines.native.resize import crop_bytes
from fusiform.errors import WeightsError
from fusiform.prediction.answer import TOP
from fusiform.prediction.results import Prediction
from fusiform.prediction.sources import Picture
from fusiform.prediction.worker import Asked, Read, Worker
from fusiform.spec import ModelSpec
from fusiform.tasks.classification import Classification, likeliest


def names_plainly(engine: Engine, spec: ModelSpec) -> TypeGuard[RunningPlain]:
    """Whether an engine answers with nothing but the probabilities of an uncalibrated classifier, in plain numbers."""
    return isinstance(engine, RunningPlain) and engine.spec.output == "probabilities" and spec.certainty is None


class PlainWorker(Worker):
    """A worker whose engine takes pixels in bytes and answers probabilities in plain numbers, picture by picture."""

    def __init__(self, engine: RunningPlain, spec: ModelSpec, path: Path, *, fast: bool = False) -> None:
        super().__init__(engine, spec, path, fast=fast)
        self._plain = engine

    def _see(self, picture: Picture) -> Read:
        image = self.open(picture)
        size, pixels = image.size, crop_bytes(image, self.spec.preprocess, fast=self.fast)
        return Read(picture.path, pixels, size, self.thumbnail(image) if picture.keep else None)

    def _answer(self, read: Sequence[Read], asked: Asked) -> list[Prediction]:
        rows = self._plain.rows([cast("bytearray", one.pixels) for one in read])
        try:
            tops = [likeliest(row, self.spec, asked.top or TOP) for row in rows]
        except ValueError as error:  # numbers that no network of this description answers with
            raise WeightsError(f"{self.path}: {error}: export or train it again") from None
        return [
            Prediction(one.path, Classification(one.path, top), thumbnail=one.thumbnail)
            for one, top in zip(read, tops, strict=True)
        ]
