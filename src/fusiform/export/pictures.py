"""Where the pictures of detectors and segmenters come from: to verify with, labelled or not, and to calibrate with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image

from fusiform.data.annotated import AnnotatedSample
from fusiform.data.dataset import Split
from fusiform.data.image import find_images
from fusiform.errors import UsageError
from fusiform.evaluate.boxes import read_boxes
from fusiform.evaluate.masks import bind_masks, read_masks
from fusiform.zoo.model import Model

HELD_OUT: tuple[Split, ...] = ("test", "val", "all", "train")
"""Which pictures of a data set to verify with, by preference."""
TRAINED_ON: tuple[Split, ...] = ("train", "all", "val", "test")
"""Which to calibrate with."""


class Picture(Protocol):
    """A picture that can be read: ``Sample`` and ``AnnotatedSample``."""

    @property
    def name(self) -> str: ...

    def read(self) -> Image.Image: ...


class Pictures(NamedTuple):
    """Pictures for a detector or a segmenter; ``mask_labels`` are the model's classes that masks' values stand for."""

    samples: Sequence[AnnotatedSample]
    labelled: bool
    notes: Sequence[str]
    mask_labels: Sequence[int] | None = None


def read_pictures(source: str | os.PathLike[str], model: Model, *, prefer: Sequence[Split] = HELD_OUT) -> Pictures:
    """The pictures of a data set in COCO's or Pascal VOC's layout, or of any folder, for a detector or a segmenter.

    The split is the first of ``prefer`` that is there. The labels are the model's, bound by their names; where the data
    set has other names, or the source is a folder of pictures, there are none, and a note says why. Raises UsageError
    where there are no pictures.
    """
    path, spec = Path(source), model.spec
    labels = None
    try:
        if spec.task == "detection":
            found = read_boxes(path, spec, model=str(model.path))
        else:
            found = read_masks(path, spec, model=str(model.path))
            labels = bind_masks(found, spec, model=str(model.path))
    except UsageError as error:
        # Beside Pascal VOC's photographs lie masks, which are pictures too.
        folder = path / "JPEGImages" if (path / "JPEGImages").is_dir() else path
        files = find_images(folder) if folder.is_dir() else []
        if not files:
            raise
        note = f"the pictures have no labels that the model knows: {error}"
        return Pictures([AnnotatedSample(file) for file in files], False, [note])
    samples = next(found.splits[split] for split in prefer if found.splits.get(split))
    return Pictures(samples, True, found.notes, labels)
