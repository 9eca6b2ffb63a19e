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

from fusiform.advice.seen import LOOKS, Seen
from fusiform.errors import InputError
from fusiform.files import write_file
from fusiform.spec import ModelSpec
from fusiform.tasks.classification import softmax

DIRECTIONS = 96
"""Random directions that features are projected on, which a seed gives and no file has to hold."""
REFERENCE = 400
"""Images that new ones are ranked among; the others say what strange is."""
CLASSES = 20
"""With more classes than these, how often each is named is not looked at."""
_SCHEMA = "fusiform.sketch/1"
_SEED = 20261129
_LARGEST = 1 << 20
"""Bytes that an array may have, whatever a file asks for."""


@dataclass(frozen=True)
class Sketch:
    """``names`` of what is measured and ``values`` (images, names) of reference images, in random order.

    ``mean`` and ``whitening`` make of an image's projected features how strange it is; ``labels`` are the model's.
    A file of it has some 20 kB.
    """

    names: tuple[str, ...]
    values: NDArray[np.float16]
    mean: NDArray[np.float16]
    whitening: NDArray[np.float16]
    labels: tuple[str, ...]

    def measure(self, seen: Seen, spec: ModelSpec) -> NDArray[np.float64]:
        """What the sketch has of its own images, of others: (images, names)."""
        strange = np.square((_projected(seen.features) - self.mean) @ self.whitening.astype(np.float64)).sum(1)
        # Rounded as the reference is, or no number would ever tie with one of it.
        found: NDArray[np.float64] = _columns(seen, spec, strange).astype(np.float16).astype(np.float64)
        return found

    def write(self, path: Path) -> None:
        """Write it as JSON; OutputError where that cannot be done."""
        arrays = {name: _text(getattr(self, name)) for name in ("values", "mean", "whitening")}
        content: dict[str, Any] = {"schema": _SCHEMA, "names": self.names, "labels": self.labels, **arrays}
        write_file(path, (json.dumps(content, ensure_ascii=False) + "\n").encode())


def read_sketch(path: Path, spec: ModelSpec) -> Sketch:
    """A sketch that was written for the model; InputError for any other file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != _SCHEMA:
            raise ValueError
        names, labels = tuple(content["names"]), tuple(content["labels"])
        values, mean, whitening = (_array(content[name]) for name in ("values", "mean", "whitening"))
        columns = len(_names(len(labels)))
        shapes = values.reshape(-1, columns), mean.reshape(DIRECTIONS), whitening.reshape(DIRECTIONS, DIRECTIONS)
    except (OSError, ValueError, KeyError, TypeError, zlib.error):
        raise InputError(
            f"{path}: is no sketch: write one (fusiform drift MODEL --reference DATA --sketch {path.name})"
        ) from None
    if labels != spec.labels or names != _names(len(labels)):
        raise InputError(f"{path}: was made with another model: write one with this model")
    return Sketch(names, *shapes, labels)


def make_sketch(seen: Seen, spec: ModelSpec, *, seed: int = 0) -> Sketch:
    """A sketch of reference images, at least 40: half of them, at most ``REFERENCE``, to rank new ones among.

    The rest says what strange is, so that the ranked ones are as new to it as those that are to come.
    """
    count = len(seen.features)
    if count < 40:
        raise InputError(f"a sketch takes at least 40 reference images, and there are {count}: add more")
    order = np.random.default_rng(seed).permutation(count)
    ranked, rest = np.split(order, [min(REFERENCE, count // 2)])
    points = _projected(seen.features[rest])
    mean = points.mean(0)
    centred = points - mean
    covariance = centred.T @ centred / len(rest)
    share = DIRECTIONS / (DIRECTIONS + len(rest))
    covariance = (1 - share) * covariance + (share * np.trace(covariance) / DIRECTIONS + 1e-9) * np.eye(DIRECTIONS)
    # A triangle, half of which need not be kept; scaled so that the numbers are about 1, as half precision likes best.
    whitening = np.linalg.cholesky(np.linalg.inv(covariance * DIRECTIONS)).astype(np.float16)
    labels = spec.labels
    blank = Sketch(_names(len(labels)), np.zeros((0, 0), np.float16), mean.astype(np.float16), whitening, labels)
    chosen = Seen(tuple(range(len(ranked))), seen.features[ranked], seen.values[ranked], seen.looks[ranked], {})
    return Sketch(blank.names, blank.measure(chosen, spec).astype(np.float16), blank.mean, whitening, labels)


def _names(classes: int) -> tuple[str, ...]:
    named = tuple(f"class {k}" for k in range(classes)) if classes <= CLASSES else ()
    return (*LOOKS, "confidence", "strangeness", *named)


def _columns(seen: Seen, spec: ModelSpec, strange: NDArray[np.float64]) -> NDArray[np.float64]:
    wide = seen.values.astype(np.float64)
    probabilities = softmax(wide / spec.temperature) if spec.output == "logits" else wide
    columns = [seen.looks.astype(np.float64), probabilities.max(1)[:, None], strange[:, None]]
    if probabilities.shape[1] <= CLASSES:
        columns.append(probabilities.argmax(1)[:, None] == np.arange(probabilities.shape[1]))
    return np.hstack(columns)


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
