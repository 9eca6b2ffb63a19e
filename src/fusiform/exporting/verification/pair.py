"""A model file and what it is held against, both shown the same pictures, and how far apart their answers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.preprocess import crop_pixels
from fusiform.engines import Engine
from fusiform.errors import FusiformError, WeightsError
from fusiform.exporting.verification.foreign import ForeignEngine
from fusiform.exporting.verification.parity import TOGETHER
from fusiform.graph.build import build_graph
from fusiform.spec import FEATURES, ModelSpec
from fusiform.zoo.model import Model

GROUP = 4 * TOGETHER
_SMALLEST_PROBABILITY = 1e-6
_SUM_TOLERANCE = 1e-3

Answers = Mapping[str, NDArray[np.float64]]
"""Answers (pictures, ...) by their names, in a form in which both sides' can be compared."""


class Shown(NamedTuple):
    """Both sides' answers to the same pictures, the candidate's by batch size; ``pixels`` are the reference's."""

    pixels: NDArray[np.uint8]
    candidate: dict[int, Answers]
    reference: Answers


class Errors(NamedTuple):
    """What is kept of an answer to some pictures, a number for each.

    ``largest`` is the largest difference as a share of the largest number; ``squares`` and ``own`` are the sums of
    squares of the differences and of the reference's numbers, ``cosine`` the similarity of both. For a classifier
    ``first`` is the reference's likeliest class, ``other`` the file's, ``margin`` how much larger the reference has the
    one than the other.
    """

    largest: NDArray[np.float64]
    squares: NDArray[np.float64]
    own: NDArray[np.float64]
    first: NDArray[np.intp]
    other: NDArray[np.intp]
    margin: NDArray[np.float64]
    cosine: NDArray[np.float64]


class Sides:
    """The two engines, each fed through its own description."""

    def __init__(self, candidate: Engine, reference: Engine, *, source: str, against: str) -> None:
        self.candidate, self.reference, self.source, self.against = candidate, reference, source, against
        self.step = candidate.step if isinstance(candidate, ForeignEngine) else 0.0
        self.probabilities = False

    def answers(self, images: Sequence[Image.Image], *, together: bool) -> Shown:
        mine, theirs = (
            np.stack([crop_pixels(image, side.spec.preprocess) for image in images])
            for side in (self.candidate, self.reference)
        )
        expected = self.reference.run(theirs)
        if not all(np.isfinite(values).all() for values in expected.values()):
            raise WeightsError(f"{self.against}: answers with values that are not finite: hold the file against others")
        given = {batch: self.run(mine, batch) for batch in (1, TOGETHER) if batch == 1 or together}
        classifies = self.reference.spec.task == "classification"
        self.probabilities = classifies and "probabilities" in (*expected, *given[1])
        candidate = {batch: self.comparable(answers, self.candidate.spec) for batch, answers in given.items()}
        return Shown(theirs, candidate, self.comparable(expected, self.reference.spec))

    def comparable(self, answers: Mapping[str, NDArray[np.float32]], spec: ModelSpec) -> Answers:
        """In float64: numbers as they are, or one form for both if one of both sides gives probabilities.

        It is logits less their mean, which are as exact as those of two sides that give logits; for a file of another
        tool, whose probabilities may be coarse, the logarithms of probabilities. Raises WeightsError for probabilities
        that do not add up to 1.
        """
        values = {name: given.astype(np.float64) for name, given in answers.items()}
        if not self.probabilities:
            return values
        features = {name: values.pop(name) for name in (FEATURES,) if name in values}
        ((name, shares),) = values.items()
        foreign = isinstance(self.candidate, ForeignEngine)
        temperature = self.reference.spec.temperature if foreign else spec.temperature
        if name == "logits":
            with np.errstate(invalid="ignore", over="ignore"):  # values that are not finite are told by the caller
                shares /= temperature
                shares = np.exp(shares - shares.max(1, keepdims=True))
                shares /= shares.sum(1, keepdims=True)
        elif not foreign and np.abs(shares.sum(1) - 1).max() > _SUM_TOLERANCE:  # False of what is not finite
            worst = shares[np.abs(shares.sum(1) - 1).argmax()].sum()
            raise WeightsError(f"{self.source}: its probabilities add up to {worst:.4g}, not to 1: export it again")
        if not foreign:  # below float32's smallest, there are none
            logits = temperature * np.log(np.maximum(shares, np.finfo(np.float32).tiny))
            return {"logits": logits - logits.mean(1, keepdims=True), **features}
        # In 8 bits most probabilities are zeros; what is less than half a step is nothing.
        return {"logits": np.log(np.maximum(shares, max(_SMALLEST_PROBABILITY, self.step / 2)))}

    def centred(self, name: str) -> bool:
        """Whether the mean of each of an answer's rows says nothing: of logits, unless each makes a score by itself."""
        return name == "logits" and self.reference.spec.scores == "softmax"

    def explained_error(
        self, reference: Model, pictures: Sequence[NDArray[np.uint8]], expected: Sequence[Answers]
    ) -> dict[str, float]:
        """The error of each answer of a plain quantisation of the reference, calibrated on the very ``pictures``.

        ``expected`` are the reference's answers to them.
        """
        import torch

        from fusiform.exporting.quantization.calibrate import pictures_at_once
        from fusiform.exporting.quantization.quantize import QuantizedNetwork

        spec = reference.spec.replace(features=FEATURES in expected[0])
        network = QuantizedNetwork(build_graph(spec, reference.state()))
        pixels = torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32))
        batches = torch.split(pixels, pictures_at_once(reference.spec, GROUP))
        network.calibrate(batches)
        with torch.no_grad():
            parts = [network.answers(batch) for batch in batches]
        errors = {}
        for name, of_batches in zip(expected[0], zip(*parts, strict=True), strict=True):
            rounded = np.concatenate([part.numpy() for part in of_batches])
            if rounded.ndim == 4:  # a map, channels second
                rounded = rounded.transpose(0, 2, 3, 1)
            if name != FEATURES:
                rounded = self.comparable({name: rounded}, reference.spec)[name]
            if self.step:  # as coarse as the file's own answers
                values = np.exp(rounded) if self.probabilities else rounded
                values = np.rint(values / self.step) * self.step
                rounded = (
                    self.comparable({"probabilities": values.astype(np.float32)}, reference.spec)[name]
                    if self.probabilities
                    else values
                )
            own = np.stack([answers[name] for answers in expected])
            errors[name] = relative_error(find_errors(rounded, own, centred=self.centred(name)))
        return errors

    def run(self, pixels: NDArray[np.uint8], batch: int) -> dict[str, NDArray[np.float32]]:
        """The candidate's answers; the last pictures make up their batch with the first ones."""
        order = np.arange(-(-len(pixels) // batch) * batch) % len(pixels)
        try:
            parts = [self.candidate.run(pixels[order[k : k + batch]]) for k in range(0, len(order), batch)]
        except FusiformError:
            raise
        except Exception as error:  # the runtimes raise many kinds
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise WeightsError(
                f"{self.source}: its runtime broke off at {batch} pictures ({reason}): export it again"
            ) from None
        return {name: np.concatenate([part[name] for part in parts])[: len(pixels)] for name in parts[0]}


def find_errors(mine: NDArray[np.float64], theirs: NDArray[np.float64], *, centred: bool) -> Errors:
    """Of an answer (pictures, ..., numbers), without the mean of each row of numbers if it is ``centred``."""
    axes = tuple(range(1, theirs.ndim))
    own, difference = theirs, mine - theirs
    largest = np.abs(difference).max(axes) / _size(theirs)
    first, other = (values.reshape(len(theirs), -1).argmax(1) for values in (theirs, mine))
    rows, flat = np.arange(len(theirs)), theirs.reshape(len(theirs), -1)
    margin = (flat[rows, first] - flat[rows, other]) / _size(theirs)
    sizes = np.sqrt((mine**2).sum(axes) * (theirs**2).sum(axes))
    cosine = (mine * theirs).sum(axes) / np.maximum(sizes, np.finfo(np.float32).tiny)
    if centred:
        own = theirs - theirs.mean(-1, keepdims=True)
        difference = mine - mine.mean(-1, keepdims=True) - own
    return Errors(largest, (difference**2).sum(axes), (own**2).sum(axes), first, other, margin, cosine)


def join_errors(parts: Sequence[Errors]) -> Errors:
    """Those of several groups of pictures as one."""
    return Errors(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _size(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest absolute value of each picture."""
    axes = tuple(range(1, values.ndim))
    sizes: NDArray[np.float64] = np.maximum(np.abs(values).max(axes), np.finfo(np.float32).tiny)
    return sizes


def relative_error(errors: Errors) -> float:
    """The root mean square of the differences as a share of the values' own."""
    return float(np.sqrt(errors.squares.sum() / max(errors.own.sum(), np.finfo(np.float32).tiny)))
