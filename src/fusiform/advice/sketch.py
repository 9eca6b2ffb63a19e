"""What the images looked like that a model was judged on: some kilobytes that new ones are compared with."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.advice.seen import Seen
from fusiform.calibration.reference import (
    FEWEST,
    KEPT,
    Floats,
    Measure,
    Rows,
    make_reference,
    mark,
    measures_of,
    read_reference,
    rows_of,
    to_columns,
    to_rows,
)
from fusiform.calibration.unknown import Detector
from fusiform.certainty import Reference, Unknown
from fusiform.errors import InputError, SpecError
from fusiform.files import write_file
from fusiform.spec import ModelSpec
from fusiform.tasks.classification import softmax

DIRECTIONS = 96
"""Random directions that features are projected on, which a seed gives and no file has to hold."""
_SCHEMA = "fusiform.sketch/2"
_SEED = 20261129
_LARGEST = 1 << 20
"""Bytes that an array may have, whatever a file asks for."""


@dataclass(frozen=True)
class Sketch:
    """A ``reference`` of images, as a description holds it, and what it takes to compare others with it.

    ``model`` is what rows of two models have to have in common. Where a model has no detector of unknown images,
    ``mean`` and ``whitening`` make of an image's projected features how strange it is. A file has 16 to 28 kB.
    """

    reference: Reference
    model: str
    mean: NDArray[np.float16] | None = None
    whitening: NDArray[np.float16] | None = None

    def measures(self, spec: ModelSpec) -> tuple[Measure, ...]:
        """What is compared."""
        return measures_of(spec.num_classes, detector=self.mean is None)

    def columns(self, spec: ModelSpec) -> list[Floats]:
        """What the reference images have of each measure, see ``read_reference``; InputError for a damaged text."""
        try:
            return read_reference(self.reference, self.measures(spec))
        except ValueError as error:
            raise InputError(f"the reference images' sketch is damaged ({error}): make it again") from None

    def measure(self, seen: Seen, spec: ModelSpec) -> list[Floats]:
        """What other images have of each, in their order."""
        return to_columns(self._rows(seen, spec), self.measures(spec))

    def _rows(self, seen: Seen, spec: ModelSpec) -> Rows:
        if self.mean is None or self.whitening is None:
            return _detected(seen, spec, _unknown(spec))
        strange = np.square((_projected(seen.features) - self.mean) @ self.whitening.astype(np.float64)).sum(1)
        return to_rows(seen.looks, _probabilities(seen, spec), strange, None)

    def write(self, path: Path, labels: tuple[str, ...]) -> None:
        """Write it as JSON; OutputError where that cannot be done."""
        found = self.reference
        content: dict[str, Any] = {
            "schema": _SCHEMA,
            "model": self.model,
            "labels": labels,
            "images": found.images,
            "kept": found.kept,
            "classes": found.classes,
            "named": found.named,
            "together": found.together,
            "values": found.values,
        }
        if self.mean is not None and self.whitening is not None:
            content |= {"mean": _text(self.mean), "whitening": _text(self.whitening)}
        write_file(path, (json.dumps(content, ensure_ascii=False) + "\n").encode())


def read_sketch(path: Path, spec: ModelSpec) -> Sketch:
    """A sketch that was written for the model; InputError for any other file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != _SCHEMA:
            raise ValueError
        model = str(content["model"])
        counts = tuple(content["classes"]), tuple(content.get("named", ()))
        together = content.get("together", False)
        reference = Reference(content["images"], content["kept"], content["values"], *counts, together=together)
        mean = whitening = None
        if "mean" in content:
            mean = _array(content["mean"]).reshape(DIRECTIONS)
            whitening = _array(content["whitening"]).reshape(DIRECTIONS, DIRECTIONS)
        found = Sketch(reference, model, mean, whitening)
        if model == mark(spec):
            read_reference(reference, found.measures(spec))
    except (OSError, ValueError, KeyError, TypeError, zlib.error, SpecError):
        raise InputError(
            f"{path}: is no sketch: write one (fusiform drift MODEL --reference DATA --sketch {path.name})"
        ) from None
    if model != mark(spec):
        raise InputError(f"{path}: was made with another model: write one with this model")
    return found


def own_sketch(spec: ModelSpec) -> Sketch | None:
    """The sketch that a calibrated model has in its description; None for others."""
    certainty = spec.certainty
    if certainty is None or certainty.reference is None or certainty.unknown is None:
        return None
    return Sketch(certainty.reference, mark(spec))


def make_sketch(seen: Seen, spec: ModelSpec, *, seed: int = 0) -> Sketch:
    """A sketch of reference images, at least 40.

    A model that tells unknown images says how strange each is. For others half of the images say what strange is, and
    only the other half is kept, so that these are as new to it as those that are to come.
    """
    count = len(seen.features)
    if count < FEWEST:
        raise InputError(f"a sketch takes at least {FEWEST} reference images, and there are {count}: add more")
    order = np.random.default_rng(seed).permutation(count)
    if spec.certainty is not None and spec.certainty.unknown is not None:
        rows = _detected(seen, spec, spec.certainty.unknown)[order]
        return Sketch(_reference(rows, spec), mark(spec))
    ranked, rest = np.split(order, [min(KEPT, count // 2)])
    points = _projected(seen.features[rest])
    mean = points.mean(0)
    centred = points - mean
    covariance = centred.T @ centred / len(rest)
    share = DIRECTIONS / (DIRECTIONS + len(rest))
    covariance = (1 - share) * covariance + (share * np.trace(covariance) / DIRECTIONS + 1e-9) * np.eye(DIRECTIONS)
    # A triangle, half of which need not be kept; scaled so that the numbers are about 1, as half precision likes best.
    whitening = np.linalg.cholesky(np.linalg.inv(covariance * DIRECTIONS)).astype(np.float16)
    mean = mean.astype(np.float16)
    chosen = Seen(tuple(range(len(ranked))), seen.features[ranked], seen.values[ranked], seen.looks[ranked], {})
    strange = np.square((_projected(chosen.features) - mean) @ whitening.astype(np.float64)).sum(1)
    rows = to_rows(chosen.looks, _probabilities(chosen, spec), strange, None)
    return Sketch(_reference(rows, spec), mark(spec), mean, whitening)


def _reference(rows: Rows, spec: ModelSpec) -> Reference:
    found = make_reference(rows, spec.num_classes, fewest=1)
    assert found is not None
    return found


def _unknown(spec: ModelSpec) -> Unknown:
    assert spec.certainty is not None
    assert spec.certainty.unknown is not None
    return spec.certainty.unknown


def _probabilities(seen: Seen, spec: ModelSpec) -> Floats:
    wide = seen.values.astype(np.float64)
    return softmax(wide / spec.temperature) if spec.output == "logits" else wide


def _detected(seen: Seen, spec: ModelSpec, unknown: Unknown) -> Rows:
    return rows_of(seen.looks, _probabilities(seen, spec), seen.features, Detector.of(unknown))


def _projected(features: NDArray[Any]) -> NDArray[np.float64]:
    """Features by their directions from 0, on random axes."""
    wide = features.astype(np.float64)
    wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    found: NDArray[np.float64] = wide @ np.random.default_rng(_SEED).normal(size=(features.shape[1], DIRECTIONS))
    return found


def _text(array: NDArray[np.float16]) -> str:
    return base64.b64encode(zlib.compress(array.astype("<f2").tobytes(), 9)).decode()


def _array(text: str) -> NDArray[np.float16]:
    reader = zlib.decompressobj()
    content = reader.decompress(base64.b64decode(text, validate=True), _LARGEST)
    return np.frombuffer(content, "<f2").astype(np.float16)
