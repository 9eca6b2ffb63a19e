"""The one door to every layout: which reader a dataset needs, and what its labels are to a model."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar, overload

from PIL import Image

from fusiform.data.annotated import AnnotatedSample, AnnotatedSet, AnnotationTask
from fusiform.data.coco import coco_files, read_coco
from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.data.faults import AnnotationFault
from fusiform.data.foreign import LABELME, READ_BOXES, READ_MASKS, VOC, find_beside
from fusiform.data.image import find_images
from fusiform.data.layouts.csv_boxes import csv_box_files, names_folders, read_csv_boxes
from fusiform.data.layouts.cvat import cvat_files, read_cvat
from fusiform.data.layouts.huggingface_boxes import object_files, read_huggingface_boxes
from fusiform.data.layouts.inside import step_inside
from fusiform.data.layouts.labelme import read_labelme
from fusiform.data.layouts.metadata import has_labels
from fusiform.data.layouts.parquet import is_table
from fusiform.data.layouts.read import read_classes, read_image_folder, read_published, read_table_files
from fusiform.data.layouts.rooted import refuse_root
from fusiform.data.layouts.roots import find_root
from fusiform.data.masks import CLASS_NAMES_FILE, IGNORE, Ignore, find_areas
from fusiform.data.names import listed, nfc
from fusiform.data.voc import has_xml, read_voc, read_xml_beside, voc_folders
from fusiform.data.yolo import is_yolo, read_yolo
from fusiform.data.zips import unpacked
from fusiform.errors import InputError, UsageError
from fusiform.report import printable
from fusiform.spec import ModelSpec, Task

Source = str | os.PathLike[str]


class Reader(Protocol):
    """Reads a source, with the classes that a detector has already and a list for what is wrong with annotations."""

    def __call__(
        self, source: Source, *, classes: Sequence[str] | None, faults: list[AnnotationFault] | None
    ) -> DataSet | AnnotatedSet: ...


class Layout(NamedTuple):
    """One way in which a dataset lies on disk: the task it is for, how it is recognised, and what reads it.

    Where it is ``unsure`` it is read only when its task is asked for.
    """

    task: Task
    fits: Callable[[Path], bool]
    read: Reader
    unsure: Callable[[Path], bool] = lambda _: False
    anywhere: bool = False
    """Whether its files are found in whatever folders below, so that the folder around it fits as well."""
    read_rooted: Callable[[Path, Path], DataSet | AnnotatedSet] | None = None
    """What reads a list whose paths begin in another folder, see ``open_dataset``'s ``root``."""


def _of_labels(read: Callable[[Path], DataSet]) -> Reader:
    """A reader of labelled pictures, which have no annotations of their own."""
    return lambda source, **_: read(Path(source))


def _has_voc_boxes(path: Path) -> bool:
    return (path / "JPEGImages").is_dir() and has_xml(path)


def _has_beside(ending: str, kind: str) -> Callable[[Path], bool]:
    """Whether pictures have files of their names with boxes of this kind, apart from VOC's own folders."""

    def fits(path: Path) -> bool:
        if not path.is_dir() or (path / "JPEGImages").is_dir() or voc_folders(path):
            return False
        found = find_beside(path, ending)
        return found is not None and found.kind == kind

    return fits


def _names_folders(ending: str) -> Callable[[Path], bool]:
    """Whether the folders of such pictures may be classes all the same."""
    return lambda path: (found := find_beside(path, ending)) is None or found.is_unsure


def _has_coco_outlines(path: Path) -> bool:
    return bool(coco_files(path)) and not (path / "SegmentationClass").is_dir()


def _has_voc_masks(path: Path) -> bool:
    return (path / "JPEGImages").is_dir() and (path / "SegmentationClass").is_dir()


LAYOUTS: Mapping[str, Layout] = {
    # First: beside its pictures the pets' folder has boxes and outlines of a few.
    "a published dataset": Layout(
        "classification",
        lambda path: find_root(path) is not None,
        _of_labels(read_published),
    ),
    "Hugging Face's ImageFolder with labels": Layout(
        "classification",
        has_labels,
        _of_labels(read_image_folder),
        read_rooted=read_image_folder,
    ),
    "COCO's boxes": Layout(
        "detection",
        lambda path: bool(coco_files(path)),
        read_coco,
    ),
    "YOLO's boxes": Layout(
        "detection",
        is_yolo,
        read_yolo,
    ),
    "CVAT's boxes": Layout(
        "detection",
        lambda path: bool(cvat_files(path)),
        read_cvat,
    ),
    "LabelMe's boxes": Layout(
        "detection",
        _has_beside(".json", LABELME),
        read_labelme,
        _names_folders(".json"),
        anywhere=True,
    ),
    "Hugging Face's boxes": Layout(
        "detection",
        lambda path: bool(object_files(path)),
        read_huggingface_boxes,
    ),
    "boxes in CSV lists": Layout(
        "detection",
        lambda path: bool(csv_box_files(path)),
        read_csv_boxes,
        names_folders,
    ),
    "boxes in XML beside the pictures": Layout(
        "detection",
        _has_beside(".xml", VOC),
        read_xml_beside,
        _names_folders(".xml"),
        anywhere=True,
    ),
    "Pascal VOC's boxes": Layout(
        "detection",
        _has_voc_boxes,
        partial(read_voc, task="detection"),
    ),
    "COCO's outlines": Layout(
        "segmentation",
        _has_coco_outlines,
        partial(read_coco, task="segmentation"),
    ),
    "YOLO's outlines": Layout(
        "segmentation",
        is_yolo,
        partial(read_yolo, task="segmentation"),
    ),
    "CVAT's outlines": Layout(
        "segmentation",
        lambda path: bool(cvat_files(path)),
        partial(read_cvat, task="segmentation"),
    ),
    "LabelMe's outlines": Layout(
        "segmentation",
        _has_beside(".json", LABELME),
        partial(read_labelme, task="segmentation"),
        _names_folders(".json"),
        anywhere=True,
    ),
    "Pascal VOC's masks": Layout(
        "segmentation",
        _has_voc_masks,
        partial(read_voc, task="segmentation"),
    ),
    "Parquet and Arrow files": Layout(
        "classification",
        is_table,
        _of_labels(read_table_files),
    ),
    # A folder of classes and one of shards are told apart by what lies in them, which their reader looks at.
    "class folders, lists and shards": Layout(
        "classification",
        lambda _: True,
        _of_labels(read_classes),
        read_rooted=read_classes,
    ),
}
"""In the order in which they are tried: a folder with boxes and masks, as VOC's own is, is for detection.

What none of a task's layouts fits goes to the last of them, whose reader says what is missing.
"""


def recognise(source: Source) -> AnnotationTask | None:
    """What a file or folder is a dataset for, by its layout; None for neither task, such as a folder of classes."""
    path, _ = step_inside(unpacked(Path(source)), _is_dataset)
    task = next(layout.task for layout in LAYOUTS.values() if layout.fits(path) and not layout.unsure(path))
    return None if task == "classification" else task


def _is_dataset(path: Path) -> bool:
    """Whether a folder is laid out as a dataset by more than its folders, which could be classes or lie around one."""
    return any(
        layout.fits(path)
        for layout in LAYOUTS.values()
        if layout.read_rooted is not read_classes and not layout.anywhere
    )


@overload
def open_dataset(
    source: Source,
    *,
    task: Literal["classification"],
    spec: ModelSpec | None = None,
    model: str = "",
    root: Source | None = None,
) -> DataSet: ...


@overload
def open_dataset(
    source: Source,
    *,
    task: AnnotationTask,
    spec: ModelSpec | None = None,
    model: str = "",
    faults: list[AnnotationFault] | None = None,
    ignore: Ignore | None = None,
    root: Source | None = None,
) -> AnnotatedSet: ...


@overload
def open_dataset(
    source: Source,
    *,
    task: Task | None = None,
    spec: ModelSpec | None = None,
    model: str = "",
    ignore: Ignore | None = None,
    root: Source | None = None,
) -> DataSet | AnnotatedSet: ...


def open_dataset(
    source: Source,
    *,
    task: Task | None = None,
    spec: ModelSpec | None = None,
    model: str = "",
    faults: list[AnnotationFault] | None = None,
    ignore: Ignore | None = None,
    root: Source | None = None,
) -> DataSet | AnnotatedSet:
    """Read the list of a dataset's pictures with their labels, boxes or masks, in whichever of ``LAYOUTS`` it lies.

    ``task`` is by default the one of ``spec``, or else what the source is laid out for. With a ``spec``, the labels of
    a classifier's or detector's data are the model's; masks keep their values, which ``bind_masks`` translates. Damaged
    annotations are added to ``faults`` and passed over, or raised without such a list. ``ignore`` says what 255 is in
    masks; without it some masks are opened, and refused where 255 stands for a class. ``root`` is the folder that the
    paths in a list begin in, by default the list's own. A zip file is unpacked first, see ``unpacked``.

    Raises UsageError, which calls the model ``model``, for data of another kind and for classes that the model does not
    have; and what ``read_dataset``, ``read_coco``, ``read_voc`` and ``read_yolo`` raise.
    """
    given = Path(source)
    path = unpacked(given)
    notes = [] if path == given else [f"{printable(given.name)} is unpacked, into {path}"]
    path, steps = step_inside(path, _is_dataset)
    notes += steps
    source = path if notes else source
    model = model or (spec.name if spec is not None else "")
    if task is None:
        task = spec.task if spec is not None else recognise(path) or "classification"
    if spec is not None and spec.task != task:
        raise InputError(f"{model}: is for {spec.task} and not for {task}: take another model")
    if ignore is not None and task != "segmentation":
        raise UsageError(f"--ignore is for masks, and {model or path} is for {task}: leave it out")
    layouts = [layout for layout in LAYOUTS.values() if layout.task == task]
    layout = next((layout for layout in layouts if layout.fits(path)), None)
    if layout is None:
        _refuse(path, task, None if spec is None else model)
        layout = layouts[-1]
    if root is None:
        classes = spec.labels if spec is not None and task == "detection" else None
        data = layout.read(source, classes=classes, faults=faults)
    elif layout.read_rooted is None:
        raise refuse_root(path, root)
    else:
        data = layout.read_rooted(path, Path(root))
    if others := _others(path, layout):
        notes.append(f"there is more than one layout in it: {listed(others)} not read")
    name = next(name for name, known in LAYOUTS.items() if known is layout)
    data = replace(data, layout=data.layout or name, notes=(*notes, *data.notes))
    if isinstance(data, AnnotatedSet) and task == "segmentation":
        data = _with_ignored(data, ignore)
    if spec is None or task == "detection":
        return data
    if isinstance(data, DataSet):
        return _with_outputs(data, spec)
    bind_masks(data, spec, model=model)
    return data


def _others(path: Path, chosen: Layout) -> list[str]:
    """The names of other layouts of boxes or outlines that the data lies in as well."""
    if chosen.task == "classification" or path.is_file():
        return []
    return [
        name
        for name, layout in LAYOUTS.items()
        if layout is not chosen and layout.task == chosen.task and layout.fits(path) and not layout.unsure(path)
    ]


def _with_ignored(data: AnnotatedSet, ignore: Ignore | None) -> AnnotatedSet:
    """The dataset with the meaning of 255 in its masks, see ``open_dataset``."""
    names = data.source / CLASS_NAMES_FILE
    drawn = any(sample.outlines is not None for samples in data.splits.values() for sample in samples)
    if drawn and ignore == "none":
        raise UsageError(
            f"{data.source}: --ignore none is for masks, and here are outlines, of which none is {IGNORE} but crowds: "
            "leave it out"
        )
    if ignore == "none":
        if not names.is_file():
            raise InputError(
                f"{data.source}: --ignore none takes {IGNORE} as the last class, and there is no {CLASS_NAMES_FILE} "
                f"that says which: write it, the background first, a line for each class"
            )
        splits: dict[Split, tuple[AnnotatedSample, ...]] = {
            split: tuple(replace(sample, ignore=False) for sample in samples) for split, samples in data.splits.items()
        }
        return replace(data, splits=splits)
    if ignore is None:
        masks = [sample.mask_file for samples in data.splits.values() for sample in samples if sample.mask_file]
        areas = find_areas(masks, len(data.classes))
        if areas is not None and not areas.instead_of_class:
            share = f"{100 * areas.share:.0f} % of the masks' pixels"
            note = f"{share} are areas of {IGNORE}, of no class: nothing is learned there"
            return replace(data, notes=(*data.notes, note))
        if areas is not None:
            write = "" if names.is_file() else f" (name the classes in {names}, the background first)"
            raise InputError(
                f'{areas.example}: has areas of {IGNORE}, which means "ignore": pixels of no class, from which nothing '
                f"is learned. If they are objects, add --ignore none, which takes {IGNORE} as the last class{write}; "
                "if nothing is to be learned from them, --ignore 255"
            )
    return data


def _refuse(path: Path, task: Task, model: str | None) -> None:
    """Raise UsageError where more is known of data that fits no layout than the task's reader would say."""
    if model is None:
        if task == "segmentation" and not (path / "JPEGImages").is_dir() and recognise(path) == "detection":
            raise InputError(f"{path}: has boxes, and a segmenter learns from masks or outlines: give {READ_MASKS}")
        return
    if not path.exists():
        raise InputError(f"{path}: no such file or folder: check the path")
    if task == "detection":
        if has_xml(path):  # boxes without their pictures: the reader knows where those might be
            return
        has_masks = (path / "SegmentationClass").is_dir()
        has = "has masks and no boxes" if has_masks else "is no dataset with boxes"
        raise InputError(f"{path}: {has}, and {model} is a detector: give {READ_BOXES}")
    raise InputError(f"{path}: is no dataset with masks, and {model} is a segmenter: give {READ_MASKS}")


def _with_outputs(data: DataSet, spec: ModelSpec) -> DataSet:
    """The dataset with the model's outputs for labels."""
    outputs = bind_classes(data.classes, spec)
    splits: dict[Split, tuple[Sample, ...]] = {
        split: tuple(replace(sample, label=outputs[sample.label]) for sample in samples)
        for split, samples in data.splits.items()
    }
    return replace(data, classes=spec.labels, splits=splits)


def bind_masks(data: AnnotatedSet, spec: ModelSpec, *, model: str) -> tuple[int, ...]:
    """The model's label for each of the data's classes, bound by name; UsageError for a class that it does not have."""
    labels = {nfc(name): k for k, name in enumerate(spec.labels)}
    if len(labels) < spec.num_classes:
        raise InputError(f"{model}: more than one of its classes bears the same name: give them names of their own")
    if unknown := [name for name in data.classes if name not in labels]:
        raise InputError(
            f"{data.source}: {len(unknown)} of its {len(data.classes)} classes are none of the {len(labels)} of "
            f"{model}: {listed(unknown)}: name the masks' classes in {data.source / CLASS_NAMES_FILE}, the background "
            "first, or train on them first"
        )
    return tuple(labels[name] for name in data.classes)


HELD_OUT: tuple[Split, ...] = ("test", "val", "all", "train")
"""Which pictures of a dataset to evaluate and verify with, by preference."""

TRAINED_ON: tuple[Split, ...] = ("train", "all", "val", "test")
"""Which to calibrate with."""

AnySample = TypeVar("AnySample")


def check_named(data: object, *, ignore: Ignore | None, root: Source | None) -> None:
    """Raise UsageError for ``ignore`` or ``root`` where no ``data`` are named that they could be about."""
    given = [name for name, value in (("--ignore", ignore), ("--root", root)) if value is not None]
    if data is None and given:
        raise UsageError(f"{given[0]} is about a dataset, and none is named: name one, or leave it out")


def choose_split(
    source: Path,
    splits: Mapping[Split, tuple[AnySample, ...]],
    split: Split | None,
    *,
    prefer: Sequence[Split] = HELD_OUT,
) -> tuple[Split, tuple[AnySample, ...]]:
    """The pictures of a split: None is the first of ``prefer`` that is there; ``all`` every picture.

    Raises UsageError, which names the data's ``source``, for a split that is not there.
    """
    filled = [name for name in prefer if splits.get(name)]
    if not filled:
        raise InputError(f"{source}: there are no pictures in it: check the path")
    if split is None:
        return filled[0], splits[filled[0]]
    if split == "all":
        return split, tuple(sample for samples in splits.values() for sample in samples)
    if split not in filled:
        raise InputError(f"{source}: there are no pictures for --split {split}; there are {', '.join(filled)}")
    return split, splits[split]


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
            raise InputError(
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
            raise InputError(_no_fit(unknown, len(classes), spec))
        indices = iter(numbers)
        found = [next(indices) if index is None else index for index in found]

    outputs = tuple(index for index in found if index is not None)
    bound: dict[int, str] = {}
    for name, output in zip(classes, outputs, strict=True):
        if output in bound:
            raise InputError(
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


class Picture(Protocol):
    """A picture that can be read: ``Sample`` and ``AnnotatedSample``."""

    @property
    def name(self) -> str: ...

    def read(self) -> Image.Image: ...


class Pictures(NamedTuple):
    """Pictures for a model; ``mask_labels`` are its classes that the values of a segmenter's masks stand for."""

    samples: Sequence[Sample | AnnotatedSample]
    labelled: bool
    notes: Sequence[str]
    mask_labels: Sequence[int] | None = None


def read_pictures(
    source: Source,
    spec: ModelSpec,
    *,
    model: str,
    prefer: Sequence[Split] = HELD_OUT,
    ignore: Ignore | None = None,
    root: Source | None = None,
) -> Pictures:
    """The pictures of a dataset for a model of its task, or of any folder.

    The split is the first of ``prefer`` that is there. The labels are the model's, bound by their names; where the data
    set has other names, or the source is a folder of pictures, there are none, and a note says why. ``ignore`` and
    ``root`` are as in ``open_dataset``. Raises UsageError where there are no pictures.
    """
    try:
        found = open_dataset(source, spec=spec, model=model, ignore=ignore, root=root)
    except UsageError as error:
        if root is not None:  # a list, whose own folder says nothing
            raise
        path = unpacked(Path(source))
        # Beside Pascal VOC's photographs lie masks, which are pictures too.
        folder = path / "JPEGImages" if (path / "JPEGImages").is_dir() else path
        files = find_images(folder) if folder.is_dir() else []
        if not files:
            raise
        note = f"the pictures have no labels that the model knows: {error}"
        labelless = [Sample(file, 0) if spec.task == "classification" else AnnotatedSample(file) for file in files]
        return Pictures(labelless, False, [note])
    splits: Mapping[Split, tuple[Sample | AnnotatedSample, ...]] = found.splits
    _, samples = choose_split(found.source, splits, None, prefer=prefer)
    mask_labels = None
    if isinstance(found, AnnotatedSet) and found.task == "segmentation":
        mask_labels = bind_masks(found, spec, model=model)
    return Pictures(samples, True, found.notes, mask_labels)
