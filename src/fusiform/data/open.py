"""The one door to every layout: which reader a dataset needs."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from PIL import Image

from fusiform.data.annotated import AnnotatedSample, AnnotatedSet, AnnotationTask, coco_files
from fusiform.data.coco import read_coco
from fusiform.data.dataset import Split
from fusiform.data.image import find_images
from fusiform.data.masks import CLASS_NAMES_FILE
from fusiform.data.names import listed, nfc
from fusiform.data.voc import read_voc
from fusiform.errors import UsageError
from fusiform.report import printable
from fusiform.spec import ModelSpec


def recognise(source: str | os.PathLike[str]) -> AnnotationTask | None:
    """What a file or folder is a dataset for, by its layout; None for neither task, such as a folder of classes.

    COCO's layout, or Pascal VOC's with a folder ``Annotations`` of XML files, is for ``detection``; VOC's with
    ``SegmentationClass`` for ``segmentation``. A folder that has both, as VOC itself does, is for ``detection``.
    """
    path = Path(source)
    if coco_files(path):
        return "detection"
    if (path / "JPEGImages").is_dir():
        if any((path / "Annotations").rglob("*.xml")):
            return "detection"
        if (path / "SegmentationClass").is_dir():
            return "segmentation"
    return None


def read_boxes(source: str | os.PathLike[str], spec: ModelSpec, *, model: str) -> AnnotatedSet:
    """Read a dataset for a detector, in COCO's layout or Pascal VOC's; its labels are those of ``spec``.

    Raises UsageError, which calls the detector ``model``, for data of another kind, and what ``read_coco`` and
    ``read_voc`` raise.
    """
    path = Path(source)
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder: check the path")
    if coco_files(path):
        return read_coco(path, classes=spec.labels)
    if any((path / "Annotations").rglob("*.xml")):
        return read_voc(path, "detection", classes=spec.labels)
    has = "has masks and no boxes" if (path / "SegmentationClass").is_dir() else "is no dataset with boxes"
    raise UsageError(
        f"{path}: {has}, and {model} is a detector: give COCO's layout (annotations/instances_*.json beside "
        "its pictures) or Pascal VOC's (JPEGImages and Annotations)"
    )


def read_masks(source: str | os.PathLike[str], spec: ModelSpec, *, model: str) -> AnnotatedSet:
    """Read a dataset for a segmenter, in Pascal VOC's layout; ``bind_masks`` says what its labels are to the model.

    Raises UsageError, which calls the segmenter ``model``, for data of another kind or with classes that the model
    does not have, and what ``read_voc`` raises.
    """
    path = Path(source)
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder: check the path")
    if not ((path / "JPEGImages").is_dir() and (path / "SegmentationClass").is_dir()):
        raise UsageError(
            f"{path}: is no dataset with masks, and {model} is a segmenter: give Pascal VOC's layout (JPEGImages "
            "and SegmentationClass)"
        )
    data = read_voc(path, "segmentation")
    bind_masks(data, spec, model=model)
    return data


def bind_masks(data: AnnotatedSet, spec: ModelSpec, *, model: str) -> tuple[int, ...]:
    """The model's label for each of the data's classes, bound by name; UsageError for a class that it does not have."""
    labels = {nfc(name): k for k, name in enumerate(spec.labels)}
    if len(labels) < spec.num_classes:
        raise UsageError(f"{model}: more than one of its classes bears the same name: give them names of their own")
    if unknown := [name for name in data.classes if name not in labels]:
        raise UsageError(
            f"{data.source}: {len(unknown)} of its {len(data.classes)} classes are none of the {len(labels)} of "
            f"{model}: {listed(unknown)}: name the masks' classes in {data.source / CLASS_NAMES_FILE}, the background "
            "first, or train on them first"
        )
    return tuple(labels[name] for name in data.classes)


_PREFERRED: tuple[Split, ...] = ("test", "val", "all", "train")


AnySample = TypeVar("AnySample")


def choose_split(
    source: Path, splits: Mapping[Split, tuple[AnySample, ...]], split: Split | None
) -> tuple[Split, tuple[AnySample, ...]]:
    """The pictures of a split: None is test if there is one, else val, else all, else train; ``all`` every picture.

    Raises UsageError, which names the data's ``source``, for a split that is not there.
    """
    filled = [name for name in _PREFERRED if splits.get(name)]
    if not filled:
        raise UsageError(f"{source}: there are no pictures in it: check the path")
    if split is None:
        return filled[0], splits[filled[0]]
    if split == "all":
        return split, tuple(sample for samples in splits.values() for sample in samples)
    if split not in filled:
        raise UsageError(f"{source}: there are no pictures for --split {split}; there are {', '.join(filled)}")
    return split, splits[split]


def read_annotated(
    source: str | os.PathLike[str], task: AnnotationTask, *, classes: Sequence[str] | None = None
) -> AnnotatedSet:
    """The dataset that ``source`` is for detection or segmentation; see ``read_coco`` and ``read_voc``.

    Raises UsageError for what is neither layout, and for COCO's where masks are asked for.
    """
    coco = bool(coco_files(Path(source)))
    if task == "detection":
        return read_coco(source, classes=classes) if coco else read_voc(source, "detection", classes=classes)
    if coco and not (Path(source) / "SegmentationClass").is_dir():
        raise UsageError(
            f"{source}: is COCO's layout, which has outlines but no masks: save masks as Pascal VOC does, in a "
            "folder SegmentationClass beside JPEGImages"
        )
    return read_voc(source, "segmentation", classes=classes)


_SHOWN = 5


def bind_classes(classes: Sequence[str], spec: ModelSpec) -> tuple[int, ...]:
    """The index of the model's output for each class of a dataset, in the order of ``classes``.

    A class is looked up, in this order, as one of the model's class names, exactly; as one of them in other letters'
    case or with other spaces, underscores and hyphens; as one of ``spec.label_ids``, WordNet ids for ImageNet; as the
    index of an output ("0", "1", ...). Indices count only if all the classes that nothing else fits are indices, and
    no class of the model is itself called by a number: there a number is a name.

    Raises UsageError for classes that fit nothing, with the names that come close; for a name that several outputs
    bear ("crane" in ImageNet); and for two classes that come to the same output.
    """
    names = _indices([nfc(label) for label in spec.labels])
    loose = _indices([_loosely(label) for label in spec.labels])
    ids = _indices([label_id.casefold() for label_id in spec.label_ids])
    found: list[int | None] = []
    for name in classes:
        fits = names.get(nfc(name)) or loose.get(_loosely(name)) or ids.get(name.casefold(), [])
        if len(fits) > 1:
            how = "id or index" if spec.label_ids else "index"
            raise UsageError(
                f"class {printable(name)!r}: {len(fits)} outputs of {spec.name} bear that name "
                f"({', '.join(map(str, fits))}): call the class by its {how}"
            )
        found.append(fits[0] if fits else None)

    unknown = [name for name, index in zip(classes, found, strict=True) if index is None]
    if unknown:
        numbers = [_number(name) for name in unknown]
        if any(_number(label) is not None for label in spec.labels) or not all(
            number is not None and number < spec.num_classes for number in numbers
        ):
            raise UsageError(_no_fit(unknown, len(classes), spec))
        indices = iter(numbers)
        found = [next(indices) if index is None else index for index in found]

    outputs = tuple(index for index in found if index is not None)
    bound: dict[int, str] = {}
    for name, output in zip(classes, outputs, strict=True):
        if output in bound:
            raise UsageError(
                f"classes {printable(bound[output])!r} and {printable(name)!r} both come to output {output} of "
                f"{spec.name} ({printable(spec.labels[output])!r}): put their pictures into one class"
            )
        bound[output] = name
    return outputs


def _indices(names: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        found.setdefault(name, []).append(index)
    return found


def _loosely(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", nfc(name)).strip().casefold()


def _number(name: str) -> int | None:
    # No more digits than an index can have: int() refuses thousands of them.
    return int(name) if re.fullmatch(r"[0-9]{1,9}", name) else None


def _no_fit(unknown: Sequence[str], count: int, spec: ModelSpec) -> str:
    spellings = {_loosely(label): label for label in spec.labels}
    shown = []
    for name in unknown[:_SHOWN]:
        close = difflib.get_close_matches(_loosely(name), spellings, n=3)
        hint = f" (close: {', '.join(printable(spellings[spelling]) for spelling in close)})" if close else ""
        shown.append(f"{printable(name)!r}{hint}")
    more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
    ways = "the model's class names, their ids or indices" if spec.label_ids else "the model's class names or indices"
    return (
        f"{len(unknown)} of {count} classes fit no output of {spec.name}: {', '.join(shown)}{more}: "
        f"call them by {ways}, or train the model on them first"
    )


HELD_OUT: tuple[Split, ...] = ("test", "val", "all", "train")
"""Which pictures of a dataset to verify with, by preference."""


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


def read_pictures(
    source: str | os.PathLike[str], spec: ModelSpec, *, model: str, prefer: Sequence[Split] = HELD_OUT
) -> Pictures:
    """The pictures of a dataset in COCO's or Pascal VOC's layout, or of any folder, for a detector or a segmenter.

    The split is the first of ``prefer`` that is there. The labels are the model's, bound by their names; where the data
    set has other names, or the source is a folder of pictures, there are none, and a note says why. Raises UsageError
    where there are no pictures.
    """
    path = Path(source)
    labels = None
    try:
        if spec.task == "detection":
            found = read_boxes(path, spec, model=model)
        else:
            found = read_masks(path, spec, model=model)
            labels = bind_masks(found, spec, model=model)
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
