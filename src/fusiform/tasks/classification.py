"""What a classifier answers: class names with probabilities."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fusiform.errors import InputError
from fusiform.spec import ModelSpec

if TYPE_CHECKING:  # a photograph is named in a fraction of the time that numpy's import takes
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Guess:
    """One class: its ``index`` among the outputs, its ``name``, and a ``probability`` in [0, 1]."""

    index: int
    name: str
    probability: float

    def __post_init__(self) -> None:
        if self.index < 0 or not 0 <= self.probability <= 1:
            raise ValueError(f"a guess needs index >= 0 and probability in [0, 1], got {self}")


@dataclass(frozen=True)
class Classification:
    """What the picture at ``path`` shows: the likeliest classes, likeliest first; ValueError if not in that order.

    A calibrated model also gives ``names``, a set of classes, likeliest first, that holds the right one with a
    probability of ``certain``; and ``p_known``, a p-value of the picture's showing any of the classes, None where that
    is not told.

    Of a model that decides by a ``rule``, ``decided`` is the class that this gives, which is then the first of ``top``
    even where another is likelier; None where it gives none.
    """

    path: str
    top: tuple[Guess, ...]
    names: tuple[Guess, ...] | None = None
    p_known: float | None = None
    certain: float | None = None
    rule: Literal["thresholds", "costs"] | None = None
    decided: Guess | None = None

    @property
    def known(self) -> bool | None:
        """Whether the picture shows one of the classes; None where that is not told.

        Of pictures that do, this is wrong for at most a share of 1 less ``certain``.
        """
        if self.p_known is None or self.certain is None:
            return None
        return self.p_known > 1 - self.certain

    def __post_init__(self) -> None:
        if self.decided is not None and self.top[:1] != (self.decided,):
            raise ValueError(f"{self.path}: the class that was decided for must be the first, got {self.top}")
        probabilities = [guess.probability for guess in self.top[self.decided is not None :]]
        if not self.top or probabilities != sorted(probabilities, reverse=True):
            raise ValueError(f"{self.path}: guesses must be one or more, likeliest first, got {self.top}")


def decode(values: NDArray[Any], spec: ModelSpec, top: int = 5) -> list[tuple[Guess, ...]]:
    """The ``top`` likeliest classes of each picture, likeliest first and the lower index first among equals.

    ``values`` are (N, classes), logits or probabilities as ``spec.output`` says; ``top`` is at least 1, and clipped
    to the number of classes. Values of another shape, or not finite, or probabilities outside [0, 1] raise
    ValueError: the engine and the spec do not belong together.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    probabilities = to_probabilities(values, spec)
    return [guesses(row, spec, _largest(of, top)) for of, row in zip(values, probabilities, strict=True)]


def guesses(probabilities: NDArray[np.float64], spec: ModelSpec, indices: Iterable[int]) -> tuple[Guess, ...]:
    """The classes of these ``indices`` with their ``probabilities`` (classes,)."""
    return tuple(Guess(int(i), spec.labels[i], float(probabilities[i])) for i in indices)


def likeliest(probabilities: Sequence[float], spec: ModelSpec, top: int = 5) -> tuple[Guess, ...]:
    """What ``decode`` makes of one picture's probabilities (classes,), given as plain numbers; raises what it does."""
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    if len(probabilities) != spec.num_classes:
        raise ValueError(f"{spec.name}: answer has {len(probabilities)} values, not {spec.num_classes} classes")
    if not math.isfinite(sum(probabilities)):
        raise ValueError(f"{spec.name}: the answer holds values that are not finite")
    # Those that lead so far, the last of them first; of equal ones the higher index is the earlier.
    leading = [(value, -i) for i, value in enumerate(probabilities[:top])]
    heapify(leading)
    last = leading[0][0]
    for i, value in enumerate(probabilities):
        if value > last and i >= top:
            heapreplace(leading, (value, -i))
            last = leading[0][0]
    leading.sort(reverse=True)
    _check_range(min(probabilities), leading[0][0], spec)
    return tuple(Guess(-i, spec.labels[-i], min(value, 1.0)) for value, i in leading)


def to_probabilities(values: NDArray[Any], spec: ModelSpec) -> NDArray[np.float64]:
    """The probabilities (N, classes) in an engine's answers; ValueError as ``decode`` raises it."""
    import numpy as np

    if values.ndim != 2 or values.shape[1] != spec.num_classes:
        raise ValueError(f"{spec.name}: answer has shape {values.shape}, not (pictures, {spec.num_classes} classes)")
    if not np.isfinite(values).all():
        raise ValueError(f"{spec.name}: the answer holds values that are not finite")
    if spec.output == "logits":
        with np.errstate(all="ignore"):
            tempered = values / spec.temperature
        if not np.isfinite(tempered).all():
            raise ValueError(f"{spec.name}: divided by its temperature, {spec.temperature:g}, the answer is not finite")
        return softmax(tempered)
    if values.size:
        _check_range(values.min(), values.max(), spec)
    return np.minimum(values.astype(np.float64), 1.0)


def _check_range(least: float, most: float, spec: ModelSpec) -> None:
    # A quantised softmax may step over 1 by a rounding error; anything more is no probability.
    if least < 0 or most > 1.01:
        raise ValueError(f"{spec.name}: probabilities reach from {least} to {most}")


def to_logits(values: NDArray[Any], spec: ModelSpec) -> NDArray[Any]:
    """The logits (N, classes) in an engine's answers, whose softmax, divided by the temperature, are the probabilities.

    Where the answers are probabilities they are those that the file's softmax was given, up to a constant in each row;
    what is below the smallest float32 counts as that.
    """
    import numpy as np

    if spec.output == "logits":
        return values
    return np.asarray(spec.temperature * np.log(np.maximum(values, np.finfo(np.float32).tiny)), values.dtype)


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Probabilities along the last axis, in float64; any finite logits, however large."""
    import numpy as np

    logits = logits.astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def read_labels(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Class names from a UTF-8 text file, one a line in the order of the outputs.

    Spaces around a name and blank lines at the end are dropped; a blank line between names, or a file that cannot be
    read as UTF-8 text, raises UsageError.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").rstrip().split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: the labels are not UTF-8 text ({error}): save the file as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read the labels: {error.strerror or error}") from None
    labels = tuple(line.strip() for line in lines)
    for number, label in enumerate(labels, 1):
        if not label:
            raise InputError(f"{path}: line {number} is empty; give one class name a line")
    return labels


def rename(spec: ModelSpec, labels: str | os.PathLike[str] | Sequence[str]) -> ModelSpec:
    """The spec with the names in a sequence, or in a file as of ``read_labels``, for the same classes.

    A detector keeps its identifiers: COCO's results go by them, whatever the classes are called. Raises UsageError as
    ``read_labels`` and ``relabel`` do.
    """
    names = read_labels(labels) if isinstance(labels, (str, os.PathLike)) else tuple(labels)
    ids = spec.label_ids if spec.task == "detection" else ()
    return relabel(spec, names).replace(label_ids=ids)


def relabel(spec: ModelSpec, labels: tuple[str, ...]) -> ModelSpec:
    """The spec with other names for the same classes; UsageError unless there is one name for each class."""
    if len(labels) != spec.num_classes:
        raise InputError(
            f"{len(labels)} labels for the {spec.num_classes} classes of {spec.name}: give one for each, in order"
        )
    return spec.replace(labels=labels, label_ids=())


def _largest(values: NDArray[Any], count: int) -> NDArray[np.intp]:
    """Indices of the ``count`` largest values, largest first; equal values in order of their index."""
    import numpy as np

    if count < values.size:
        # Sorting only the candidates takes a fraction of sorting a thousand classes; all that equal the last one are
        # candidates, so that the order among equals does not depend on the partition.
        candidates = np.flatnonzero(values >= np.partition(values, -count)[-count])
    else:
        candidates = np.arange(values.size)
    return candidates[np.argsort(-values[candidates].astype(np.float64), kind="stable")][:count]
