"""Reading boxes in COCO's JSON: https://cocodataset.org/#format-data."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fusiform.data.annotated import (
    AnnotatedSample,
    AnnotatedSet,
    BoxCheck,
    BoxLabel,
    PassOver,
    bind_classes,
    missing_objects,
)
from fusiform.data.dataset import SPLIT_NAMES, SPLIT_ORDER, Split
from fusiform.data.faults import AnnotationFault, ReadingFault
from fusiform.data.names import listed, nfc
from fusiform.errors import UsageError
from fusiform.fields import show
from fusiform.report import printable

LAYOUT = (
    "annotations/instances_train2017.json and instances_val2017.json beside the folders train2017 and val2017, a "
    "folder for each split with its pictures and _annotations.coco.json, or one JSON file with its pictures beside it"
)


def read_coco(
    source: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    faults: list[AnnotationFault] | None = None,
) -> AnnotatedSet:
    """Read a dataset's pictures and boxes from COCO's JSON; no picture is opened.

    ``source`` is a JSON file or a folder with some; see ``coco_files``. A file's split is in its name, or in its
    folder's for ``_annotations.coco.json``; one file that names none is the split ``all``. Its pictures lie in a
    folder of the split's name, in ``images``, in ``JPEGImages``, or beside the file, in its folder or the one above.

    The classes are the categories in the order of their ids, whatever holes those have, bound by their names in
    Unicode's form NFC from file to file. ``classes``, the labels that a model has already, gives names and order
    instead. Boxes are clipped to their pictures; empty ones are left out. Pictures without boxes stay. What was
    passed over is told in the notes: boxes of unknown pictures or categories, pictures that are not there. A box's
    ``difficult`` that is 1 or true, which is not COCO's, is VOC's flag.

    Raises UsageError for a source that is missing, damaged or of no such layout, and for classes not in ``classes``.
    With a list of ``faults`` damaged entries are passed over and added to it instead, and so is, one by one, what the
    notes count otherwise; UsageError is then for what leaves nothing to read.
    """
    path = Path(source)
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder: check the path")
    files, notes = _split_files(path, [path] if path.is_file() else coco_files(path))
    documents = {split: _read_document(file, split, faults) for split, file in files.items()}

    ids: dict[str, int] = {}
    for split, document in documents.items():
        new = [name for name in document.categories.values() if name not in ids]
        if ids and new:
            notes.append(f"{split} names {len(new)} categories that the files before it do not: {listed(new)}")
        ids.update({name: number for number, name in document.categories.items() if name in new})
    used = {
        document.categories[box.category]
        for document in documents.values()
        for box in document.boxes
        if box.category in document.categories
    }
    names, labels = bind_classes(path, list(ids), used, classes=classes)

    splits = {}
    for split, document in documents.items():
        splits[split], more = _bind(split, document, labels, faults=faults)
        notes += more
    if faults is None:
        notes += missing_objects(names, splits)
    numbers = tuple(ids.get(nfc(name), -1) for name in names)
    return AnnotatedSet(path, "detection", names, splits, tuple(notes), numbers)


# What else COCO publishes beside its boxes, under the same keys.
_OTHER_COCO = ("captions_", "image_info_", "panoptic_", "person_keypoints_", "stuff_", ".")


def coco_files(path: Path) -> list[Path]:
    """The COCO JSON files of a dataset, by their names' and contents' look; none if it is no such dataset.

    A folder has ``instances_*.json`` in ``annotations`` or itself, ``_annotations.coco.json`` in each split's folder,
    or other JSON files in ``annotations`` or itself that look like COCO's.
    """
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" and looks_like_coco(path) else []
    folders = (path / "annotations", path)
    for folder in folders:
        if found := sorted(folder.glob("instances_*.json")):
            return found
    if found := sorted([*path.glob("_annotations.coco.json"), *path.glob("*/_annotations.coco.json")]):
        return found
    for folder in folders:
        names = sorted(file for file in folder.glob("*.json") if not file.name.startswith(_OTHER_COCO))
        if found := [file for file in names if looks_like_coco(file)]:
            return found
    return []


def looks_like_coco(file: Path) -> bool:
    """Whether a JSON file begins as COCO's do; False for what cannot be read."""
    # The whole of COCO's JSON is half a gigabyte; one of its lists begins near the start.
    try:
        with file.open("rb") as stream:
            head = stream.read(1 << 16)
    except OSError:
        return False
    return re.search(rb'"(images|annotations|categories)"\s*:\s*\[', head) is not None


class _Picture(NamedTuple):
    name: str
    size: tuple[int, int]


class _Box(NamedTuple):
    picture: int
    category: int
    edges: tuple[float, float, float, float]
    crowd: bool
    difficult: bool
    area: float | None


class _Document(NamedTuple):
    """A file's content, checked: pictures by id, categories' names in NFC by id in the order of ids, boxes."""

    file: Path
    pictures: dict[int, _Picture]
    categories: dict[int, str]
    boxes: list[_Box]


def _split_files(path: Path, files: Sequence[Path]) -> tuple[dict[Split, Path], list[str]]:
    if not files:
        raise UsageError(f"{path}: no boxes in COCO's JSON in it: give {LAYOUT}")
    if len(files) == 1:
        return {_split_of(files[0]) or "all": files[0]}, []
    splits: dict[Split, Path] = {}
    notes = []
    for file in files:
        split = _split_of(file)
        if split is None:
            notes.append(f"{printable(file.relative_to(path).as_posix())}: names no split, not read")
        elif split in splits:
            raise UsageError(f"{file}: is the split {split}, and so is {splits[split]}: take one away, or give one")
        else:
            splits[split] = file
    if not splits:
        raise UsageError(f"{path}: has {len(files)} JSON files, and none has train, val or test in its name: give one")
    return {split: splits[split] for split in SPLIT_ORDER if split in splits}, notes


def _split_of(file: Path) -> Split | None:
    name = file.parent.name if file.name == "_annotations.coco.json" else file.stem
    found = {SPLIT_NAMES[word] for word in re.findall(r"[^\W\d_]+", name.casefold()) if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


def _without_outline(entry: dict[str, Any]) -> dict[str, Any]:
    # The outlines are most of the file, and gigabytes once they are Python's lists.
    entry.pop("segmentation", None)
    return entry


def _read_document(file: Path, split: Split, faults: list[AnnotationFault] | None) -> _Document:
    try:
        content = json.loads(file.read_bytes(), object_hook=_without_outline)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror}): check its permissions") from None
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, numbers of thousands of digits
        raise UsageError(f"{file}: is no JSON ({error}): copy or download it again") from None
    if not isinstance(content, dict):
        raise UsageError(f"{file}: holds no object, so it is not COCO's JSON: give {LAYOUT}")
    images, annotations, categories = (_list_of(content, key, file) for key in ("images", "annotations", "categories"))

    def read_all(key: str, entries: Sequence[Any], read: Callable[[Mapping[str, Any], str], None]) -> UsageError | None:
        """Read the entries of a list; the first error among those that were passed over."""
        damage = PassOver(faults, "damaged entry", file=file, split=split)
        for i, entry in enumerate(entries):
            where = f"{file}, {key}[{i}]"
            with damage:
                if not isinstance(entry, dict):
                    raise UsageError(f"{where}: must be an object, got {show(entry)}: fix it")
                read(entry, where)
        return damage.first

    names: dict[int, str] = {}
    pictures: dict[int, _Picture] = {}
    boxes: list[_Box] = []

    def read_category(entry: Mapping[str, Any], where: str) -> None:
        number, name = _whole(entry, "id", where), nfc(_text(entry, "name", where))
        if number in names or name in names.values():
            raise UsageError(f"{where}: the id {number} or the name {printable(name)} is there twice: remove one")
        names[number] = name

    def read_picture(entry: Mapping[str, Any], where: str) -> None:
        number = _whole(entry, "id", where)
        if number in pictures:
            raise UsageError(f"{where}: the id {number} is there twice: give every picture its own")
        width, height = _whole(entry, "width", where), _whole(entry, "height", where)
        if width < 1 or height < 1:
            raise UsageError(f"{where}: is {width} x {height} pixels: write the picture's width and height")
        pictures[number] = _Picture(_text(entry, "file_name", where).replace("\\", "/"), (width, height))

    damage = read_all("categories", categories, read_category)
    if not names:
        raise damage or UsageError(f"{file}: lists no categories: write the names of the classes there")
    damage = read_all("images", images, read_picture)
    if not pictures:
        raise damage or UsageError(f"{file}: lists no images: write the pictures there")
    read_all("annotations", annotations, lambda entry, where: boxes.append(_read_box(entry, where)))
    return _Document(file, pictures, {number: names[number] for number in sorted(names)}, boxes)


def _read_box(entry: Mapping[str, Any], where: str) -> _Box:
    picture, category = _whole(entry, "image_id", where), _whole(entry, "category_id", where)
    box = _field(entry, "bbox", where)
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise UsageError(f"{where}: bbox must be x, y, width and height in pixels, got {show(box)}: fix it")
    left, top, width, height = map(float, box)
    crowd, area = entry.get("iscrowd", 0), entry.get("area")
    if crowd not in (0, 1):
        raise UsageError(f"{where}: iscrowd must be 0 or 1, got {show(crowd)}: fix it")
    if area is not None and not (_is_number(area) and area >= 0):
        raise UsageError(f"{where}: area must be a number of square pixels, got {show(area)}: fix it")
    edges = left, top, left + width, top + height
    difficult = entry.get("difficult") == 1
    return _Box(picture, category, edges, bool(crowd), difficult, None if area is None else float(area))


def _bind(
    split: Split, document: _Document, labels: Mapping[str, int], *, faults: list[AnnotationFault] | None
) -> tuple[tuple[AnnotatedSample, ...], list[str]]:
    folder = picture_folder(document.file, [picture.name for picture in document.pictures.values()])
    check = BoxCheck(faults, split)
    boxes: dict[int, list[BoxLabel]] = {number: [] for number in document.pictures}
    no_picture: dict[int, int] = {}
    no_category: dict[int, int] = {}
    for box in document.boxes:
        if box.picture not in boxes:
            no_picture[box.picture] = no_picture.get(box.picture, 0) + 1
        elif box.category not in document.categories:
            no_category[box.category] = no_category.get(box.category, 0) + 1
        else:
            picture, name = document.pictures[box.picture], document.categories[box.category]
            if edges := check.clip(*box.edges, size=picture.size, file=folder / picture.name, name=name):
                label = BoxLabel(labels[name], *edges, crowd=box.crowd, difficult=box.difficult, area=box.area)
                boxes[box.picture].append(label)
    notes = []
    passed_over: tuple[tuple[str, ReadingFault, dict[int, int]], ...] = (
        ("pictures", "unknown picture", no_picture),
        ("categories", "unknown category", no_category),
    )
    for what, kind, unknown in passed_over:
        numbers = listed([str(number) for number in unknown])
        if unknown and faults is None:
            notes.append(
                f"{split}: {sum(unknown.values())} annotations of {what} that the file does not list, passed over: "
                f"{numbers}"
            )
        elif unknown and faults is not None:
            message = (
                f"does not list the {what} {numbers}, of which {sum(unknown.values())} of its {len(document.boxes)} "
                "annotations are: list them, or remove the annotations"
            )
            faults.append(AnnotationFault(kind, "error", message, document.file, split))
    notes += check.notes(split)

    samples = []
    missing = []
    for number, picture in document.pictures.items():
        file = folder / picture.name
        if file.is_file():
            samples.append(AnnotatedSample(file, tuple(boxes[number]), size=picture.size, image_id=number))
        else:
            missing.append(picture.name)
    if missing and faults is None:
        notes.append(f"{split}: {len(missing)} of {len(document.pictures)} pictures are not there: {listed(missing)}")
    elif faults is not None:
        text = f"is not there: put it there, or take it out of {printable(document.file.name)}"
        faults += [AnnotationFault("missing picture", "error", text, folder / name, split) for name in missing]
    return tuple(samples), notes


def picture_folder(file: Path, names: Sequence[str]) -> Path:
    """The folder from which a JSON file names its pictures: the first in which there is one of them.

    ``names`` are the pictures', at least one. Raises UsageError where none of them is there.
    """
    split = file.stem.removeprefix("instances_")
    inner = (split, f"images/{split}", "images", "JPEGImages", ".")
    folders = [base / name for base in (file.parent, file.parent.parent) for name in inner]
    for folder in folders:
        if folder.is_dir() and any((folder / name).is_file() for name in names):
            return folder
    raise UsageError(
        f"{file}: none of its {len(names)} pictures is there, such as {printable(names[0])}: "
        f"put them into {folders[-len(inner)]} or {folders[len(inner) - 1]}"
    )


def _list_of(content: Mapping[str, Any], key: str, file: Path) -> list[Any]:
    if key not in content:
        raise UsageError(f"{file}: has no {key}, so it is not COCO's JSON for boxes: give {LAYOUT}")
    entries = content[key]
    if not isinstance(entries, list):
        raise UsageError(f"{file}: {key} must be a list, got {show(entries)}: fix it")
    return entries


def _field(entry: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in entry:
        raise UsageError(f"{where}: has no {key}: write it there")
    return entry[key]


def _whole(entry: Mapping[str, Any], key: str, where: str) -> int:
    value = _field(entry, key, where)
    # Some tools write 640.0.
    if not _is_number(value) or value != int(value):
        raise UsageError(f"{where}: {key} must be a whole number, got {show(value)}: fix it")
    return int(value)


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = _field(entry, key, where)
    # A lone surrogate, which JSON can spell, is no character: no file and no terminal can bear the name.
    if not isinstance(value, str) or not value.strip() or re.search("[\0\ud800-\udfff]", value):
        raise UsageError(f"{where}: {key} must be a name, got {show(value)}: fix it")
    return value


def _is_number(value: object) -> bool:
    """Whether a value of JSON is a number that a float holds; Python reads NaN and Infinity too."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
