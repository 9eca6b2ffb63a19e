"""What images look like to a calibrated classifier: a row of numbers for each, and the reference for later ones.

A row has the seven looks, the confidence, and two numbers of the detector of the unknown: its score (``strangeness``)
and what its projection leaves out of the features (``residual``), for each finds strangers that the other misses. The
class that was named comes last. Numbers are rounded to half precision.

Where there are few classes a reference keeps its rows whole: a new class that takes a known one's name is seen among
the images of that name, where all numbers together tell it, and nowhere else.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import zlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.calibration.unknown import Detector
from fusiform.certainty import MAX_KEPT, MAX_REFERENCE, Reference
from fusiform.data.looks import LOOKS
from fusiform.spec import ModelSpec

MEASURES = (*LOOKS, "confidence", "strangeness", "residual")
"""The numbers of a row, before the class."""
CLASSES = 20
"""With more classes than these, how often each is named is not looked at."""
KEPT = 800
"""Images whose numbers a reference keeps, at most; how often a class was named is counted over all."""
FEWEST = 40
"""Images that a reference takes, at least."""
_BYTES = MAX_KEPT * (len(MEASURES) + 1) * 2
_LARGEST = 65000.0

Rows = NDArray[np.float16]
Floats = NDArray[np.float64]


class Measure(NamedTuple):
    """What is compared: one of ``MEASURES``, or "class", how often ``label`` is named."""

    name: str
    label: int | None = None


def rows_of(looks: NDArray[Any], probabilities: NDArray[Any], features: NDArray[Any], detector: Detector) -> Rows:
    """The rows of images, (images, measures + 1), from what a model answers for them."""
    return to_rows(looks, probabilities, detector.scores(features), detector.place(features).beside)


def to_rows(
    looks: NDArray[Any], probabilities: NDArray[Any], strangeness: NDArray[Any], residual: NDArray[Any] | None
) -> Rows:
    """The same from the detector's two numbers, of which models without one have but the first."""
    named = probabilities.argmax(1) if probabilities.shape[1] <= CLASSES else np.zeros(len(probabilities))
    detected = (strangeness,) if residual is None else (strangeness, residual)
    columns = [*np.asarray(looks).T, probabilities.max(1), *detected, named]
    found: Rows = np.column_stack(columns).clip(-_LARGEST, _LARGEST).astype(np.float16)
    return found


def measures_of(classes: int, *, detector: bool) -> tuple[Measure, ...]:
    """What is compared: the measures, and each class where there are few."""
    labels = range(classes if classes <= CLASSES else 0)
    return (*map(Measure, MEASURES if detector else MEASURES[:-1]), *(Measure("class", k) for k in labels))


def to_columns(rows: Rows, measures: tuple[Measure, ...]) -> list[Floats]:
    """What images have of each measure: of a class 1 where it was named, and 0."""
    wide = rows.astype(np.float64)
    return [
        np.asarray(wide[:, -1] == measure.label, np.float64)
        if measure.name == "class"
        else wide[:, MEASURES.index(measure.name)]
        for measure in measures
    ]


def make_reference(
    rows: Rows,
    classes: int,
    *,
    named: NDArray[Any] | None = None,
    most_bytes: float = MAX_REFERENCE,
    fewest: int = FEWEST,
) -> Reference | None:
    """The reference of images in random order, whose text takes ``most_bytes`` at most; None for fewer than
    ``fewest`` images, or too few bytes for them.

    The first ``KEPT`` rows are kept, in the order of their classes; with too many classes each measure apart, sorted.
    ``named`` is the class of each image where there are more images than rows.
    """
    named = rows[:, -1] if named is None else named
    if len(rows) < fewest:
        return None
    kept, few = min(KEPT, len(rows)), classes if classes <= CLASSES else 0
    while len(values := pack(_ordered(rows[:kept], whole=few > 0))) > most_bytes:
        if (kept := kept * 3 // 4) < fewest:
            return None
    counts, of_kept = (
        tuple(np.bincount(labels.astype(np.int64), minlength=few).tolist()) if few else ()
        for labels in (named, rows[:kept, -1])
    )
    return Reference(len(named), kept, values, counts, of_kept, together=few > 0)


def _ordered(rows: Rows, *, whole: bool) -> Rows:
    if not whole:
        return np.sort(rows[:, :-1], axis=0)
    # Of the orders in which the classes follow each other, one in which a column is sorted takes a few bytes less.
    return rows[np.lexsort((rows[:, MEASURES.index("strangeness")], rows[:, -1])), :-1]


def read_reference(reference: Reference, measures: tuple[Measure, ...]) -> list[Floats]:
    """The columns of a reference, those of the measures in the order of their images where it keeps these ``together``,
    else in none; ValueError where it holds others than these.
    """
    classes = sum(measure.name == "class" for measure in measures)
    if len(reference.classes) != classes:
        raise ValueError(f"it counts {len(reference.classes)} classes, not {classes}")
    columns = sum(measure.label is None for measure in measures)
    wide = unpack(reference.values, reference.kept, columns).astype(np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("a reference holds values that are not finite")
    return [
        np.repeat([0.0, 1.0], (reference.images - (count := reference.classes[measure.label or 0]), count))
        if measure.name == "class"
        else wide[:, MEASURES.index(measure.name)]
        for measure in measures
    ]


def mark(spec: ModelSpec) -> str:
    """What is the same for two models if and only if their rows can be compared."""
    certainty = spec.certainty
    unknown = None if certainty is None or certainty.unknown is None else dataclasses.asdict(certainty.unknown)
    text = json.dumps([spec.labels, spec.temperature, dataclasses.asdict(spec.preprocess), unknown])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def pack(rows: Rows) -> str:
    """Half precision numbers (rows, columns) as text: each column's steps, low bytes apart, compressed.

    Numbers become integers of the same order; where a column is sorted its steps are small, and take a byte each.
    """
    bits = rows.astype(np.float16).view(np.uint16)
    ordered = np.where(bits & 0x8000, ~bits, bits | 0x8000).astype(np.uint16)
    steps = np.diff(ordered, axis=0, prepend=np.zeros((1, rows.shape[1]), np.uint16))
    pairs = np.ascontiguousarray(steps.T).astype("<u2").view(np.uint8).reshape(-1, 2)
    return base64.b64encode(zlib.compress(pairs.T.tobytes(), 9)).decode("ascii")


def unpack(text: str, rows: int, columns: int) -> Rows:
    """What was packed; ValueError for a text of another size."""
    try:
        reader = zlib.decompressobj()
        content = reader.decompress(base64.b64decode(text, validate=True), _BYTES + 1)
        whole = reader.eof
    except (zlib.error, ValueError):
        content, whole = b"", False
    if not whole or len(content) != 2 * rows * columns or not content:
        raise ValueError(f"the text does not hold {rows} x {columns} numbers")
    pairs = np.frombuffer(content, np.uint8).reshape(2, -1).T
    steps = np.ascontiguousarray(pairs).view("<u2").reshape(columns, rows).T
    ordered = np.cumsum(steps, axis=0, dtype=np.uint16)
    bits = np.where(ordered & 0x8000, ordered & 0x7FFF, ~ordered).astype(np.uint16)
    found: Rows = bits.view(np.float16)
    return found
