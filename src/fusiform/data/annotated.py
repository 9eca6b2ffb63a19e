"""Pictures with boxes or masks: what detection and segmentation are trained on."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.dataset import Split
from fusiform.data.faults import AnnotationFault, ReadingFault, Severity
from fusiform.data.image import read_image
from fusiform.data.masks import read_mask
from fusiform.data.names import listed, nfc
from fusiform.data.outlines import Outline, draw_labels, outlines_as_json
from fusiform.errors import ImageError, InputError, UsageError
from fusiform.report import printable

AnnotationTask = Literal["detection", "segmentation"]


@dataclass(frozen=True, slots=True)
class BoxLabel:
    """An object: the index of its class, and its box in pixels from the picture's upper left corner.

    The edges lie between pixels, 0 <= ``left`` < ``right`` <= width: the box of the single pixel (x, y) is
    x, y, x + 1, y + 1. ``crowd`` marks many objects under one box (COCO's ``iscrowd``), ``difficult`` one that is hard
    to recognise (VOC's flag): who finds either is neither right nor wrong. ``area`` is that of the object's outline in
    square pixels, by which COCO tells small objects from large ones; None where only the box is known.
    """

    label: int
    left: float
    top: float
    right: float
    bottom: float
    crowd: bool = False
    difficult: bool = False
    area: float | None = None


@dataclass(frozen=True)
class AnnotatedSample:
    """A picture with its boxes, its mask's file or objects' outlines; None is what was not read, no objects is ``()``.

    ``size`` is the width and height in pixels that the annotations count in, None where they do not say;
    ``image_id`` is COCO's number of the picture, which its results are written under. Without ``ignore`` the mask's
    value 255 is the last class. ``damaged`` says that it had annotations that cannot be used: it is neither to be
    learned from nor background.
    """

    file: Path
    boxes: tuple[BoxLabel, ...] | None = None
    mask_file: Path | None = None
    size: tuple[int, int] | None = None
    image_id: int | None = None
    ignore: bool = True
    damaged: bool = False
    outlines: tuple[Outline, ...] | None = None

    @property
    def has_mask(self) -> bool:
        """Whether ``read_labels`` has a mask to read or to draw."""
        return self.mask_file is not None or self.outlines is not None

    def read_labels(self, size: tuple[int, int], *, classes: int) -> NDArray[np.uint8]:
        """The mask: uint8 [height, width] with the label of each pixel, 255 where it belongs to none.

        ``size`` is the picture's width and height in pixels. Raises ImageError for a mask that cannot be used,
        and ValueError without one.
        """
        if self.outlines is not None:
            return draw_labels(self.outlines, size)
        if self.mask_file is None:
            raise ValueError(f"{self.name}: its mask was not read")
        return read_mask(self.mask_file, size, classes=classes, ignore=self.ignore)

    @property
    def name(self) -> str:
        """What to call it in front of users: its path."""
        return str(self.file)

    def read(self) -> Image.Image:
        """The picture, upright and RGB; ImageError, which names it, also where its size is not ``size``."""
        image = read_image(self.file)
        if (fault := self.size_fault(image.size)) is not None:
            raise ImageError(f"{printable(self.name)}: {fault}")
        return image

    def size_fault(self, size: tuple[int, int]) -> str | None:
        """What is wrong if the picture is of this width and height in pixels, or None where its annotations fit."""
        if self.size is None or self.size == size:
            return None
        turned = ", as if its EXIF orientation turned it" if size == self.size[::-1] else ""
        return (
            f"is {size[0]} x {size[1]} pixels and its annotations are for {self.size[0]} x {self.size[1]}{turned}: "
            "annotate it again, or save it as it was annotated"
        )


@dataclass(frozen=True)
class AnnotatedSet:
    """Pictures for one task: ``classes`` are the names in the order of the labels, ``splits`` the pictures.

    For ``segmentation`` the first class is the background and labels are the masks' values. ``splits`` has the keys
    that were found, ``train``, ``val`` and ``test``, or only ``all``. ``notes`` are what a user should know of how the
    source was read. ``category_ids`` are COCO's numbers of the classes, which its results are written under; -1 stands
    for a class that the source does not have, and there are none for a source that numbers nothing. ``layout`` is the
    name in ``open.LAYOUTS`` of how it lies.
    """

    source: Path
    task: AnnotationTask
    classes: tuple[str, ...]
    splits: Mapping[Split, tuple[AnnotatedSample, ...]]
    notes: tuple[str, ...] = field(default=())
    category_ids: tuple[int, ...] = field(default=())
    layout: str = ""

    def locate(self, sample: AnnotatedSample) -> str:
        """The picture's name within the dataset, NFC with forward slashes: the same wherever the data lies."""
        return self._locate(sample.file)

    def fingerprint(self) -> str:
        """The SHA-256 of the pictures' names, boxes, masks and splits; where the data lies does not matter."""
        lines = [
            json.dumps(
                [
                    split,
                    self.locate(sample),
                    None if sample.boxes is None else sorted(map(astuple, sample.boxes), key=repr),
                    None if sample.mask_file is None else self._locate(sample.mask_file),
                    *([] if sample.ignore else ["none is ignored"]),
                    *([] if sample.outlines is None else [outlines_as_json(sample.outlines)]),
                ],
                ensure_ascii=False,
            )
            for split, samples in self.splits.items()
            for sample in samples
        ]
        text = "\n".join([json.dumps([self.task, self.classes], ensure_ascii=False), *sorted(lines)])
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def _locate(self, file: Path) -> str:
        # A JSON file names pictures beside it, or beside the folder that it lies in.
        for root in (self.source, self.source.parent, self.source.parent.parent):
            if file.is_relative_to(root):
                return nfc(file.relative_to(root).as_posix())
        return nfc(file.as_posix())


class PassOver:
    """Entered around the reading of each part of ``file``: a UsageError is added to ``faults``, and reading goes on.

    Where nobody lists faults, it is raised. ``first`` is the first that was passed over.
    """

    def __init__(
        self, faults: list[AnnotationFault] | None, kind: ReadingFault, *, file: Path, split: Split | None
    ) -> None:
        self._faults, self._kind, self._file, self._split = faults, kind, file, split
        self.first: UsageError | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, traceback: object) -> bool:
        if self._faults is None or not isinstance(error, UsageError):
            return False
        message = str(error).removeprefix(str(self._file)).lstrip(",: ")
        self._faults.append(AnnotationFault(self._kind, "error", message, self._file, self._split))
        self.first = self.first or error
        return True


_COUNTED: Mapping[ReadingFault, str] = {
    "box reaching out": "reaching out of their pictures, clipped",
    "box of a pixel": "no more than a pixel wide or high, kept",
    "box of no area": "of no area, left out",
    "box outside": "wholly outside their pictures, left out",
}
"""What to call boxes with such faults, where they are counted."""


class BoxCheck:
    """Clips boxes to their pictures and counts what was wrong with them; or lists it in ``faults``, box by box."""

    def __init__(self, faults: list[AnnotationFault] | None = None, split: Split | None = None) -> None:
        self._counts: Counter[ReadingFault] = Counter()
        self._faults = faults
        self._split = split

    def clip(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        *,
        size: tuple[int, int] | None,
        file: Path = Path(),
        name: str = "",
    ) -> tuple[float, float, float, float] | None:
        """The part of a box that lies in a picture of ``size`` (width, height in pixels); None where there is none.

        Without a ``size`` only the left and upper edge are known. ``file`` and ``name`` are the picture and the class,
        for the list of faults.
        """

        def tell(kind: ReadingFault, severity: Severity, text: str) -> None:
            if self._faults is None:
                self._counts[kind] += 1
                return
            where = f"from ({left:g}, {top:g}) to ({right:g}, {bottom:g})"
            message = f"the box of {name} {where} {text}"
            edges = (left, top, right, bottom)
            self._faults.append(AnnotationFault(kind, severity, message, file, self._split, name, edges))

        if right <= left or bottom <= top:
            text = "has no area, and is left out: draw it again, or remove it"
            tell("box of no area", "error", text)
            return None
        width, height = size or (float("inf"), float("inf"))
        if right <= 0 or bottom <= 0 or left >= width or top >= height:
            text = f"is outside the picture of {width:g} x {height:g} pixels, and is left out: draw it again"
            tell("box outside", "error", text)
            return None
        clipped = max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)
        # Rounding puts many a box a fraction of a pixel outside, and others count pixels from 0 or 1.
        if left < -1 or top < -1 or right > width + 1 or bottom > height + 1:
            text = f"reaches out of the picture of {width:g} x {height:g} pixels, and is clipped: look at it"
            tell("box reaching out", "warning", text)
        if clipped[2] - clipped[0] <= 1 or clipped[3] - clipped[1] <= 1:
            text = "is no more than a pixel wide or high: remove it if it was drawn by accident"
            tell("box of a pixel", "warning", text)
        return clipped

    def notes(self, split: str) -> list[str]:
        """What to tell the user: each fault with the number of boxes."""
        counts = {_COUNTED[kind]: count for kind, count in self._counts.items()}
        return [f"{split}: boxes {fault}: {count}" for fault, count in sorted(counts.items())]


def bind_classes(
    source: Path, present: Sequence[str], used: set[str], *, classes: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The names of the classes, and the label of each in NFC.

    ``present`` are the source's names in NFC and in its order, ``used`` those that an object bears; ``classes``, which
    a model has already, gives names and order instead. Raises UsageError for a used name not among them.
    """
    names = tuple(present if classes is None else classes)
    labels: dict[str, int] = {}
    for label, name in enumerate(names):
        if labels.setdefault(nfc(name), label) != label:
            raise InputError(f"{source}: more than one of the classes bears the name {printable(name)}: rename one")
    if unknown := [name for name in present if name in used and name not in labels]:
        raise InputError(
            f"{source}: {len(unknown)} of {len(used)} classes are none of the {len(names)} that are known: "
            f"{listed(unknown)}: rename them, or train on them first"
        )
    return names, labels


def missing_objects(names: Sequence[str], splits: Mapping[Split, Sequence[AnnotatedSample]]) -> list[str]:
    """What to tell the user of classes that have no box, and pictures that have none."""
    has = {split: {box.label for sample in samples for box in sample.boxes or ()} for split, samples in splits.items()}
    anywhere = set().union(*has.values())
    notes = []
    if absent := [name for label, name in enumerate(names) if label not in anywhere]:
        notes.append(f"{len(absent)} of {len(names)} classes have no objects: {listed(absent)}")
    for split, labels in has.items():
        if lacking := [names[label] for label in sorted(anywhere - labels)]:
            notes.append(f"{split} has no objects of {len(lacking)} of {len(anywhere)} classes: {listed(lacking)}")
    for split, samples in splits.items():
        if empty := sum(not sample.boxes for sample in samples):
            notes.append(f"{split}: {empty} of {len(samples)} pictures have no objects, kept as background")
    return notes
