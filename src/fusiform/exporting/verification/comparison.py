"""What is kept of two sides' answers to pictures of a kind, and what that says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.annotated import AnnotatedSample
from fusiform.data.dataset import Sample
from fusiform.errors import ImageError
from fusiform.evaluation.detection import boxes_within
from fusiform.evaluation.segmentation import read_truth
from fusiform.exporting.verification.answers import Boxes, Masks, Truth
from fusiform.exporting.verification.decoded import DecodedBoxes, DecodedMasks
from fusiform.exporting.verification.pair import GROUP, Answers, Errors, Sides, find_errors, join_errors, relative_error
from fusiform.exporting.verification.parity import Comparison
from fusiform.progress import Tracker
from fusiform.spec import FEATURES, ModelSpec

MADE = 12
"""Smooth synthetic images, and pictures of noise, beside the photographs."""
MEASURED = 64
"""Pictures on which the reference is quantised to see what rounding explains."""
SHOWN_TOGETHER = 24
"""Photographs that are shown in such batches too."""
_UNORDERED = ("boxes", "labels")
"""Of a decoded detector: two boxes of nearly the same score may change places."""


class Tally:
    """What is kept of both sides' answers to pictures of a kind: a detector's own would fill gigabytes.

    The answers to up to ``MEASURED`` of the ``asked`` pictures, evenly spread, stay with their pixels, to see what
    rounding explains; none where ``asked`` is 0. ``classes`` are the outputs that masks' values stand for.
    """

    def __init__(self, kind: str, sides: Sides, tolerance: float | None, *, asked: int, classes: Sequence[int]) -> None:
        self.kind, self.sides, self.tolerance = kind, sides, tolerance
        self.names: list[str] = []
        self.labels: list[int] = []
        self.wrong = 0
        """Answers that are not finite."""
        self.batch_error = 0.0
        self.seen = _seen(sides.candidate.spec, sides.reference.spec, tolerance, classes)
        self.kept: list[Answers] = []
        self.kept_pixels: list[NDArray[np.uint8]] = []
        self._wanted = {*np.linspace(0, asked - 1, min(MEASURED, asked)).round().astype(int).tolist()}
        self._errors: dict[tuple[int, str], list[Errors]] = {}

    def add_photographs(
        self, samples: Sequence[Sample | AnnotatedSample], *, labels: Sequence[int] | None, progress: Tracker
    ) -> list[str]:
        """Show photographs to both sides; the messages about those that could not be read.

        ``labels`` are the outputs that masks' values stand for; None is for samples without labels.
        """
        skipped: list[str] = []
        groups = 0
        with progress(total=len(samples), label="verify") as bar:
            for k in range(0, len(samples), GROUP):
                images, truths, places = [], [], []
                for place, sample in enumerate(samples[k : k + GROUP], k):
                    try:
                        image = sample.read()
                        truth = None if labels is None else _truth(sample, image.size, labels)
                    except ImageError as error:
                        skipped.append(str(error))
                        continue
                    images.append(image)
                    truths.append(truth)
                    places.append(place)
                    self.names.append(sample.name)
                    self.labels.append(sample.label if isinstance(sample, Sample) else 0)
                if images:
                    self._add(images, truths, places, together=groups * GROUP < SHOWN_TOGETHER)
                    groups += 1
                bar.advance(len(samples[k : k + GROUP]))
        return skipped

    def add_made(self, make: Callable[[np.random.Generator, tuple[int, int]], Image.Image]) -> None:
        """Show synthetic images to both sides, oblong ones where the network sees whole photographs."""
        preprocess = self.sides.reference.spec.preprocess
        side = preprocess.resize
        size = (side, side) if preprocess.fit == "crop" else (side, max(1, 3 * side // 4))
        random = np.random.default_rng(0)
        images = [make(random, size) for _ in range(MADE)]
        self.names += [f"number {k}" for k in range(1, MADE + 1)]
        self._add(images, [None] * MADE, range(MADE), together=True)

    def _add(
        self, images: Sequence[Image.Image], truths: Sequence[Truth | None], places: Sequence[int], *, together: bool
    ) -> None:
        shown = self.sides.answers(images, together=together)
        wrong = {batch: _not_finite(answers) for batch, answers in shown.candidate.items()}
        self.wrong += sum(wrong.values())
        if self.wrong:
            return
        alone = shown.candidate[1]
        for batch, answers in shown.candidate.items():
            for name, mine in answers.items():
                if name in shown.reference:  # a decoded file does not say what its network says
                    found = find_errors(mine, shown.reference[name], centred=self.sides.centred(name))
                    self._errors.setdefault((batch, name), []).append(found)
                if batch != 1 and name not in _UNORDERED:
                    apart = find_errors(mine, alone[name], centred=False).largest
                    self.batch_error = max(self.batch_error, float(apart.max()))
        for k, place in enumerate(places):
            if place in self._wanted or (self._wanted and not self.kept):
                self.kept.append({name: values[k] for name, values in shown.reference.items()})
                self.kept_pixels.append(shown.pixels[k])
        if self.seen is not None:
            for k, (image, truth) in enumerate(zip(images, truths, strict=True)):
                answer, expected = ({n: v[k] for n, v in side.items()} for side in (alone, shown.reference))
                self.seen.add(self.names[k - len(images)], image.size, answer, expected, truth)

    def comparisons(self) -> list[Comparison]:
        """A comparison for each batch and answer."""
        named = self.sides.reference.spec.task == "classification"
        joined = {key: join_errors(errors) for key, errors in self._errors.items()}
        return [
            compare(
                self.kind,
                batch,
                self.names,
                errors,
                tolerance=self.tolerance,
                answer=name,
                named=named and name != FEATURES,
            )
            for (batch, name), errors in joined.items()
        ]

    def outcomes(self) -> tuple[int, int, int, int]:
        """See ``Parity.outcomes``."""
        errors = join_errors(self._errors[1, "logits"])
        mine, theirs = (values == np.array(self.labels) for values in (errors.other, errors.first))
        both, only_file, only_reference = (int(x.sum()) for x in (mine & theirs, mine & ~theirs, ~mine & theirs))
        return both, only_file, only_reference, len(self.labels) - both - only_file - only_reference


def _seen(
    spec: ModelSpec, reference: ModelSpec, tolerance: float | None, classes: Sequence[int]
) -> Boxes | Masks | None:
    if reference.task == "detection":
        return (DecodedBoxes if spec.decoded else Boxes)(spec, reference, tolerance=tolerance)
    if spec.decoded:
        return DecodedMasks(spec, reference, classes=classes)
    return Masks(spec, reference, classes=classes) if reference.task == "segmentation" else None


def _truth(sample: Sample | AnnotatedSample, size: tuple[int, int], labels: Sequence[int]) -> Truth | None:
    """What a labelled picture of ``size`` shows; ImageError for a mask that cannot be read."""
    if isinstance(sample, Sample):
        return None
    mask = read_truth(sample, size, labels) if sample.has_mask else None
    return Truth(() if sample.boxes is None else boxes_within(sample, size), mask)


def _not_finite(answers: Answers) -> int:
    """The number of pictures with an answer that is not finite."""
    finite = [np.isfinite(values).reshape(len(values), -1).all(1) for values in answers.values()]
    return int((~np.all(finite, axis=0)).sum())


def compare(
    kind: str,
    batch: int,
    names: Sequence[str],
    errors: Errors,
    *,
    tolerance: float | None,
    answer: str = "logits",
    named: bool = True,
) -> Comparison:
    """The comparison of an answer; ``named`` if it says which class the picture shows."""
    return Comparison(
        kind=kind,
        batch=batch,
        pictures=len(errors.largest),
        largest_error=float(errors.largest.max()),
        worst=names[int(errors.largest.argmax())],
        error=relative_error(errors),
        agreement=float((errors.first == errors.other).mean()) if named else None,
        others=int((errors.margin > (tolerance or 0.0)).sum()) if named else 0,
        answer=answer,
        cosine=float(errors.cosine.mean()),
    )
