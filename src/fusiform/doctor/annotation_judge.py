"""A judge of boxes and masks: a detector or a segmenter that looks at the pictures, and what it sees otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fusiform.data.annotated import AnnotatedSample, AnnotatedSet, AnnotationTask, BoxLabel
from fusiform.data.dataset import Split
from fusiform.data.open import bind_classes, bind_masks
from fusiform.data.preprocess import placement
from fusiform.doctor.findings import Finding, Kind
from fusiform.doctor.thumbnails import Mark
from fusiform.errors import InputError
from fusiform.evaluation.detection import find_boxes
from fusiform.evaluation.segmentation import outline
from fusiform.progress import Tracker, silent
from fusiform.tasks.box_noise import FEW, BoxDoubt, BoxFault, BoxNorms, box_norms, doubted_boxes
from fusiform.tasks.detection import Box
from fusiform.tasks.mask_noise import (
    LARGEST_SIDE,
    MaskLook,
    Region,
    confident_regions,
    doubted_regions,
    look_at_mask,
)
from fusiform.tasks.segmentation import class_probabilities
from fusiform.zoo.model import Model, open_model

Entry = tuple[Split, AnnotatedSample]

_KINDS: dict[BoxFault, Kind] = {
    "missed": "missed object",
    "shifted": "shifted box",
    "swapped": "wrong class",
    "spurious": "box of nothing",
}
_JUDGED_BY = {"detection": "a detector", "segmentation": "a segmenter"}


class AnnotationJudge:
    """A detector for boxes or a segmenter for masks, whose classes include the dataset's by name."""

    def __init__(self, model: str | os.PathLike[str] | Model, task: AnnotationTask) -> None:
        # Opened here, so that a model that cannot be used is told before any picture is read.
        self._model = model if isinstance(model, Model) else open_model(model)
        if self._model.spec.task != task:
            what = {"detection": "boxes", "segmentation": "masks"}[task]
            raise InputError(
                f"{self._model.path}: is for {self._model.spec.task}; {what} are judged with {_JUDGED_BY[task]} of "
                "their classes: train one (fusiform train), best on other images"
            )

    def bind(self, dataset: AnnotatedSet) -> tuple[int, ...]:
        """The model's label of each of the dataset's classes; InputError for one that it does not know."""
        if dataset.task == "segmentation":
            return bind_masks(dataset, self._model.spec, model=str(self._model.path))
        return bind_classes(dataset.classes, self._model.spec)

    def findings(
        self, dataset: AnnotatedSet, entries: Sequence[Entry], *, threads: int | None = None, progress: Tracker = silent
    ) -> tuple[list[Finding], dict[str, float]]:
        """The boxes or regions of ``entries`` that are probably wrong, those first whose correction gains most.

        Every split is judged by what is usual in it, for on what a model has learned it is surer than elsewhere. The
        second value has the quality of each mask, by its picture's name; see ``mask_noise``. There is a note on what
        the judgement can be trusted with.
        """
        outputs = self.bind(dataset)
        found: list[Finding] = []
        quality: dict[str, float] = {}
        splits = list(dict.fromkeys(split for split, _ in entries))
        for split in splits:
            samples = [sample for of, sample in entries if of == split]
            if dataset.task == "detection":
                found += self._boxes(dataset, split, samples, outputs, threads, progress)
            else:
                found += self._masks(dataset, split, samples, outputs, quality, threads, progress)
        found.sort(key=lambda finding: -(finding.gain or 0))
        if splits:
            message = (
                f"the annotations were judged by {self._model.spec.name}: on images that it has learned from it has "
                "learned their faults, too, and names fewer of them; train it on one part of the images and judge the "
                "others"
            )
            found.append(Finding("judged by a model", "note", message))
        return found, quality

    def _boxes(
        self,
        dataset: AnnotatedSet,
        split: Split,
        samples: Sequence[AnnotatedSample],
        outputs: Sequence[int],
        threads: int | None,
        progress: Tracker,
    ) -> Iterator[Finding]:
        own = {output: label for label, output in enumerate(outputs)}
        bound = [
            replace(sample, boxes=tuple(replace(box, label=outputs[box.label]) for box in sample.boxes or ()))
            for sample in samples
        ]
        answers = find_boxes(self._model, bound, threads=threads, progress=progress)
        norms = box_norms(answers.truth, answers.found, self._model.spec.num_classes)
        for doubt in doubted_boxes(answers.truth, answers.found, norms):
            yield about_doubt(doubt, samples[doubt.picture], split, dataset.classes, own)
        yield from _not_judged(dataset, split, samples, outputs, norms)

    def _masks(
        self,
        dataset: AnnotatedSet,
        split: Split,
        samples: Sequence[AnnotatedSample],
        outputs: Sequence[int],
        quality: dict[str, float],
        threads: int | None,
        progress: Tracker,
    ) -> Iterator[Finding]:
        spec = self._model.spec
        own = {output: label for label, output in enumerate(outputs)}
        looks: dict[int, MaskLook] = {}
        sizes: dict[int, tuple[int, int]] = {}

        def look(i: int, answer: NDArray[np.float32], truth: NDArray[np.int32]) -> None:
            height, width = truth.shape
            scale = min(1.0, LARGEST_SIDE / max(width, height))
            size = max(1, round(width * scale)), max(1, round(height * scale))
            place = placement((width, height), spec.preprocess)
            seen = class_probabilities(answer, spec, size, placement=place)
            rows = ((np.arange(size[1]) + 0.5) * height / size[1]).astype(int)
            columns = ((np.arange(size[0]) + 0.5) * width / size[0]).astype(int)
            sizes[i] = width, height
            looks[i] = look_at_mask(seen, truth[rows[:, None], columns], known=outputs)

        outline(self._model, samples, labels=outputs, threads=threads, progress=progress, look=look)
        looks = dict(sorted(looks.items()))  # in whichever order the threads came to them
        for i, each in looks.items():
            if each.quality is not None:
                quality[samples[i].name] = each.quality
        confident = confident_regions(looks.values(), spec.num_classes)
        for i, region in doubted_regions(looks, confident):
            yield _about_region(region, samples[i], sizes[i], looks[i].size, split, dataset.classes, own)


def about_doubt(
    doubt: BoxDoubt, sample: AnnotatedSample, split: Split, classes: Sequence[str], own: dict[int, int]
) -> Finding:
    """A doubted box as a finding; ``own`` are the dataset's labels of the model's."""
    label, found = doubt.label, doubt.found
    name = "" if label is None else classes[own[label.label]]
    other = "" if found is None else classes[own[found.index]]
    place = _place(label if label is not None else found)
    marks = []
    if label is not None:
        edges = (label.left, label.top, label.right, label.bottom)
        marks.append(Mark(own[label.label], name if found is None else f"labelled {name}", edges))
    if found is not None:
        left, top, right, bottom = (round(edge, 2) for edge in (found.left, found.top, found.right, found.bottom))
        edges = (left, top, right, bottom)
        marks.append(Mark(own[found.index], f"found {other}", edges))
    score = 0.0 if found is None else found.score
    message = {
        "missed": f"the model finds {other} {place} ({score:.1%}), and no box is there: draw one if it is right",
        "shifted": f"the box of {name} {place} lies beside what the model finds ({score:.1%}): look whether to move it",
        "swapped": f"the box of {name} {place} looks like {other} to the model ({score:.1%}): look at it, and correct "
        "the class",
        "spurious": f"the model finds nothing at all in the box of {name} {place}: look whether there is one",
    }[doubt.fault]
    return Finding(
        _KINDS[doubt.fault],
        "warning",
        f"{message} (--fix does not)",
        sample.name,
        sample,
        split,
        name or None,
        marks=tuple(marks),
        suggested=other if doubt.fault in ("missed", "swapped") else None,
        gain=doubt.gain,
    )


def _place(box: BoxLabel | Box | None) -> str:
    return "" if box is None else f"at ({box.left:.0f}, {box.top:.0f})"


def _not_judged(
    dataset: AnnotatedSet, split: Split, samples: Sequence[AnnotatedSample], outputs: Sequence[int], norms: BoxNorms
) -> Iterator[Finding]:
    """The classes that are labelled in a split and found there too seldom to say what is usual of them."""
    there = {box.label for sample in samples for box in sample.boxes or ()}
    where = "" if split == "all" else f" in {split}"
    for label in sorted(there):
        if not norms.judged[outputs[label]]:
            name = dataset.classes[label]
            message = f"fewer than {FEW} boxes of {name}{where} are found by the model, so they were not judged"
            yield Finding("class not judged", "note", message, split=split, class_name=name)


def _about_region(
    region: Region,
    sample: AnnotatedSample,
    size: tuple[int, int],
    judged: tuple[int, int],
    split: Split,
    classes: Sequence[str],
    own: dict[int, int],
) -> Finding:
    """A region of a picture of ``size`` as a finding; its edges count in the pixels that were ``judged``."""
    name, other = classes[own[region.label]], classes[own[region.other]]
    share = region.pixels / (judged[0] * judged[1])
    message = (
        f"{share:.1%} of the picture is labelled {name} and looks like {other} to the model "
        f"({region.probability:.1%}): look at it, and correct the mask"
    )
    left, top, right, bottom = region.edges
    across, down = size[0] / judged[0], size[1] / judged[1]
    edges = (round(left * across), round(top * down), round(right * across), round(bottom * down))
    mark = Mark(own[region.other], other, edges)
    return Finding(
        "wrong region",
        "warning",
        message,
        sample.name,
        sample,
        split,
        name,
        marks=(mark,),
        suggested=other,
        gain=region.gain,
    )
