"""Reading boxes in COCO's JSON: https://cocodataset.org/#format-data."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from fusiform.data.annotated import (
    AnnotatedSample,
    AnnotatedSet,
    AnnotationTask,
    BoxCheck,
    BoxLabel,
    PassOver,
    bind_classes,
    missing_objects,
)
from fusiform.data.coco_outlines import as_number, read_counts, with_outline, without_outline
from fusiform.data.dataset import SPLIT_NAMES, SPLIT_ORDER, Split
from fusiform.data.faults import AnnotationFault, ReadingFault
from fusiform.data.image import natural_key, read_size
from fusiform.data.lookup import Finder, last_part, without_hash
from fusiform.data.names import is_file, is_name, listed, nfc
from fusiform.data.objects import Object, Page, gather
from fusiform.errors import ImageError, InputError, UsageError
from fusiform.fields import show
from fusiform.report import printable

LAYOUT = (
    "annotations/instances_train2017.json and instances_val2017.json beside the folders train2017 and val2017, a "
    "folder for each split with its pictures and _annotations.coco.json, or one JSON file with its pictures beside it"
)


def read_coco(
    source: str | os.PathLike[str],
    task: AnnotationTask = "detection",
    *,
    classes: Sequence[str] | None = None,
    faults: list[AnnotationFault] | None = None,
) -> AnnotatedSet:
    """Read a dataset's pictures and boxes, or outlines, from COCO's JSON; no picture is opened whose size is there.

    ``source`` is a JSON file or a folder with some; see ``coco_files``. A file's split is in its name, or in its
    folder's for ``_annotations.coco.json``; one file that names none is the split ``all``. Its pictures lie in a
    folder of the split's name, in ``images``, in ``JPEGImages``, or beside the file, in its folder or the one above;
    what is not there is looked for by the last part of its name, see ``Finder``, as Label Studio writes addresses.

    The classes are the categories in the order of their ids, whatever holes those have, bound by their names in
    Unicode's form NFC from file to file. ``classes``, the labels that a model has already, gives names and order
    instead. Ids may be numbers or names, null is what is missing, sizes that are missing are read from the pictures,
    and boxes from their outlines. Boxes are clipped to their pictures; empty ones are left out. Pictures without boxes
    stay; those that lost annotations to damage, or all of their boxes, do not. What was passed over is told in the
    notes: damaged entries, boxes of unknown pictures or categories, pictures that are not there. A box's
    ``difficult`` that is 1 or true, which is not COCO's, is VOC's flag.

    For ``segmentation`` the classes are the background and the categories, and the masks are drawn from polygons and
    run lengths, compressed or not, see ``draw_labels``; a picture with an object without one is left out, see
    ``gather``.

    Raises UsageError for a source that is missing, damaged or of no such layout, and for classes not in ``classes``.
    With a list of ``faults`` what is damaged is added to it, one by one, and the pictures stay, marked as ``damaged``;
    UsageError is then for what leaves nothing to read.
    """
    path = Path(source)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder: check the path")
    files, notes = _split_files(path, [path] if path.is_file() else coco_files(path))
    documents = {split: _read_document(file, split, task, faults) for split, file in files.items()}
    notes += [note for document in documents.values() for note in document.notes]

    ids: dict[str, _Id] = {}
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
    if task == "segmentation":
        pages = [page for split, document in documents.items() for page in _pages(split, document, notes, faults)]
        return gather(path, task, pages, notes, present=list(ids), classes=classes, faults=faults)
    names, labels = bind_classes(path, list(ids), used, classes=classes)

    splits = {}
    for split, document in documents.items():
        splits[split], more = _bind(split, document, labels, faults=faults)
        notes += more
    if not any(splits.values()):
        raise InputError(f"{path}: none of its pictures can be used ({'; '.join(notes)}): run fusiform doctor on it")
    if faults is None:
        notes += missing_objects(names, splits)
    numbers = [ids.get(nfc(name), -1) for name in names]
    category_ids = tuple(number for number in numbers if isinstance(number, int))
    if len(category_ids) < len(numbers):
        category_ids = ()
    return AnnotatedSet(path, "detection", names, splits, tuple(notes), category_ids)


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
        if not file.is_file():  # a pipe would be waited for
            return False
        with file.open("rb") as stream:
            head = stream.read(1 << 16)
    except OSError:
        return False
    if not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):  # CreateML's is a list
        return False
    # Label Studio's notes.json, beside YOLO's labels, has categories alone.
    keys = rb"images|annotations|categories" if len(head) == 1 << 16 else rb"images|annotations"
    return re.search(rb'"(%s)"\s*:\s*\[' % keys, head) is not None


_Id = int | str
"""What other tools number with: COCO's are whole numbers; a number in quotes is that number."""


class _Picture(NamedTuple):
    name: str
    size: tuple[int, int] | None


class _Box(NamedTuple):
    picture: _Id
    category: _Id
    edges: tuple[float, float, float, float]
    crowd: bool
    difficult: bool
    area: float | None
    polygons: tuple[Sequence[float], ...] = ()
    counts: str = ""
    size: tuple[int, int] | None = None
    """What run lengths say that the picture is."""


class _Document(NamedTuple):
    """A file's content, checked: pictures by id, categories' names in NFC by id in the order of ids, boxes.

    ``damaged`` are the pictures with an annotation that could not be read.
    """

    file: Path
    pictures: dict[_Id, _Picture]
    categories: dict[_Id, str]
    boxes: list[_Box]
    damaged: set[_Id]
    notes: list[str]


def _split_files(path: Path, files: Sequence[Path]) -> tuple[dict[Split, Path], list[str]]:
    if not files:
        raise InputError(f"{path}: no boxes in COCO's JSON in it: give {LAYOUT}")
    if len(files) == 1:
        return {_split_of(files[0]) or "all": files[0]}, []
    splits: dict[Split, Path] = {}
    notes = []
    for file in files:
        split = _split_of(file)
        if split is None:
            notes.append(f"{printable(file.relative_to(path).as_posix())}: names no split, not read")
        elif split in splits:
            raise InputError(f"{file}: is the split {split}, and so is {splits[split]}: take one away, or give one")
        else:
            splits[split] = file
    if not splits:
        raise InputError(f"{path}: has {len(files)} JSON files, and none has train, val or test in its name: give one")
    return {split: splits[split] for split in SPLIT_ORDER if split in splits}, notes


def _split_of(file: Path) -> Split | None:
    name = file.parent.name if file.name == "_annotations.coco.json" else file.stem
    found = {SPLIT_NAMES[word] for word in re.findall(r"[^\W\d_]+", name.casefold()) if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


def _read_document(file: Path, split: Split, task: AnnotationTask, faults: list[AnnotationFault] | None) -> _Document:
    outlines = task == "segmentation"
    try:
        content = json.loads(file.read_bytes(), object_hook=with_outline if outlines else without_outline)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}): check its permissions") from None
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, numbers of thousands of digits
        raise InputError(f"{file}: is no JSON ({error}): copy or download it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds no object, so it is not COCO's JSON: give {LAYOUT}")
    images, annotations, categories = (_list_of(content, key, file) for key in ("images", "annotations", "categories"))

    passed_over: list[AnnotationFault] = []

    def read_all(key: str, entries: Sequence[Any], read: Callable[[Mapping[str, Any], str], None]) -> UsageError | None:
        """Read the entries of a list; the first error among those that were passed over."""
        damage = PassOver(passed_over, "damaged entry", file=file, split=split)
        for i, entry in enumerate(entries):
            where = f"{file}, {key}[{i}]"
            with damage:
                if not isinstance(entry, dict):
                    raise InputError(f"{where}: must be an object, got {show(entry)}: fix it")
                # Null is how some tools write what they do not know.
                read({name: value for name, value in entry.items() if value is not None}, where)
        return damage.first

    names: dict[_Id, str] = {}
    pictures: dict[_Id, _Picture] = {}
    boxes: list[_Box] = []
    damaged: set[_Id] = set()
    notes: list[str] = []
    used = {_as_id(entry.get("category_id")) for entry in annotations if isinstance(entry, dict)}
    above = {entry.get("supercategory") for entry in categories if isinstance(entry, dict)}

    def read_category(entry: Mapping[str, Any], where: str) -> None:
        number, name = _id(entry, "id", where), nfc(_text(entry, "name", where))
        # Roboflow writes the name of the project as a category above the others, which no annotation is of.
        if number not in used and entry.get("supercategory", "none") == "none" and entry["name"] in above:
            notes.append(
                f"{split}: the category {printable(name)} stands above the others and has no objects, left out"
            )
            return
        if number in names or name in names.values():
            raise InputError(f"{where}: the id {number} or the name {printable(name)} is there twice: remove one")
        names[number] = name

    def read_picture(entry: Mapping[str, Any], where: str) -> None:
        number = _id(entry, "id", where)
        if number in pictures:
            damaged.add(number)  # whose the annotations are cannot be known
            raise InputError(f"{where}: the id {number} is there twice: give every picture its own")
        size = None
        if "width" in entry or "height" in entry:
            width, height = _whole(entry, "width", where), _whole(entry, "height", where)
            if width < 1 or height < 1:
                raise InputError(f"{where}: is {width} x {height} pixels: write the picture's width and height")
            size = width, height
        pictures[number] = _Picture(_text(entry, "file_name", where).replace("\\", "/"), size)

    def read_annotation(entry: Mapping[str, Any], where: str) -> None:
        try:
            boxes.append(_read_outline(entry, where) if outlines else _read_box(entry, where))
        except UsageError:
            if (picture := _as_id(entry.get("image_id"))) is not None:
                damaged.add(picture)
            raise

    damage = read_all("categories", categories, read_category)
    if not names:
        raise damage or InputError(f"{file}: lists no categories: write the names of the classes there")
    if damage is not None and faults is None:  # without a class, all of its objects would be background
        raise damage
    damage = read_all("images", images, read_picture)
    if not pictures:
        raise damage or InputError(f"{file}: lists no images: write the pictures there")
    damage = read_all("annotations", annotations, read_annotation)
    if damage is not None and not boxes and faults is None:
        raise damage
    if faults is not None:
        faults += passed_over
    elif passed_over:
        notes.append(f"{split}: {len(passed_over)} damaged entries, left out: {passed_over[0].message}")
    ordered = sorted(names, key=lambda number: (isinstance(number, str), natural_key(str(number))))
    return _Document(file, pictures, {number: names[number] for number in ordered}, boxes, damaged, notes)


def _read_box(entry: Mapping[str, Any], where: str) -> _Box:
    picture, category = _id(entry, "image_id", where), _id(entry, "category_id", where)
    box = _field(entry, "bbox", where)
    numbers = [number for value in box if (number := as_number(value)) is not None] if isinstance(box, list) else []
    if len(numbers) != 4 or len(box) != 4:
        raise InputError(f"{where}: bbox must be x, y, width and height in pixels, got {show(box)}: fix it")
    left, top, width, height = numbers
    crowd, area = entry.get("iscrowd", 0), entry.get("area")
    crowd = crowd if isinstance(crowd, bool) else as_number(crowd)
    if crowd not in (0, 1):
        raise InputError(f"{where}: iscrowd must be 0 or 1, got {show(entry['iscrowd'])}: fix it")
    size = None if area is None else as_number(area)
    if area is not None and (size is None or size < 0):
        raise InputError(f"{where}: area must be a number of square pixels, got {show(area)}: fix it")
    edges = left, top, left + width, top + height
    difficult = entry.get("difficult") == 1
    return _Box(picture, category, edges, bool(crowd), difficult, size)


def _read_outline(entry: Mapping[str, Any], where: str) -> _Box:
    """An annotation with its outline, if it has one; its box is not looked at."""
    outline = entry.get("segmentation")
    box = _read_box({"bbox": [0, 0, 1, 1], **entry}, where)
    if isinstance(outline, tuple):
        return box._replace(polygons=outline)
    if isinstance(outline, dict):
        counts, size = read_counts(outline, where)
        return box._replace(counts=counts, size=size)
    if outline:
        raise InputError(
            f"{where}: segmentation must be polygons of three corners or more, got {show(outline)}: fix it"
        )
    return box


def _pages(split: Split, document: _Document, notes: list[str], faults: list[AnnotationFault] | None) -> list[Page]:
    """The pictures of a file with their outlines."""
    files, more, missing = _locate(split, document)
    notes += more
    _tell_missing(split, document, missing, notes, faults)
    objects: dict[_Id, list[Object]] = {number: [] for number in document.pictures}
    damage = {number: InputError(f"{document.file}: has damaged annotations of it") for number in document.damaged}
    # Run lengths say how large their picture is, and cannot be drawn on another.
    sizes = {number: picture.size for number, picture in document.pictures.items() if picture.size is not None}
    strange = 0
    for box in document.boxes:
        if box.picture not in objects:
            strange += 1
            continue
        picture = document.pictures[box.picture]
        if box.category not in document.categories:
            damage[box.picture] = InputError(f"{document.file}: does not list the category {box.category}: add it")
            continue
        if box.size is not None and sizes.setdefault(box.picture, box.size) != box.size:
            damage[box.picture] = InputError(
                f"{document.file}: has run lengths for {box.size[0]} x {box.size[1]} pixels, and "
                f"{printable(picture.name)} is of another size: draw it again"
            )
        name = document.categories[box.category]
        objects[box.picture].append(Object(name, box.edges, box.polygons, box.counts, box.crowd, box.difficult))
    if strange:
        notes.append(f"{split}: {strange} annotations of pictures that the file does not list, passed over")
    return [
        Page(split, files[number], document.file, sizes.get(number), objects[number], damage.get(number))
        for number in document.pictures
        if is_file(files[number])
    ]


def _locate(split: Split, document: _Document) -> tuple[dict[_Id, Path], list[str], list[tuple[str, Path]]]:
    """The file of each picture, which need not be there, what to tell of where they are, and which are not there."""
    names = [picture.name for picture in document.pictures.values()]
    base = document.file.parent
    root = base.parent if base.name.casefold() in ("annotations", "labels", "coco") else base
    finder = Finder(root, ())
    try:
        folder = picture_folder(document.file, names)
    except UsageError:
        folder = base
        if not any(finder.find(name, split) for name in names):
            raise
        finder.loosely.clear()
    # Of two pictures that one file could be, it is neither.
    ends = Counter(without_hash(last_part(name)) for name in names)
    files: dict[_Id, Path] = {}
    missing: list[tuple[str, Path]] = []
    for number, picture in document.pictures.items():
        is_only = ends[without_hash(last_part(picture.name))] == 1
        file = _file_of(folder, picture.name, unique=is_only)
        if not is_file(file):
            found = finder.find(picture.name, split) if is_only else None
            if found is None:
                missing.append((picture.name, file))
            file = found or file
        elif file not in (folder / picture.name, folder / unquote(picture.name)):
            finder.loosely.append(picture.name)
        files[number] = file
    return files, [f"{split}: {note}" for note in finder.notes(len(names))], missing


def _tell_missing(
    split: Split,
    document: _Document,
    missing: Sequence[tuple[str, Path]],
    notes: list[str],
    faults: list[AnnotationFault] | None,
) -> None:
    if missing and faults is None:
        names = listed([name for name, _ in missing])
        notes.append(f"{split}: {len(missing)} of {len(document.pictures)} pictures are not there: {names}")
    elif faults is not None:
        text = f"is not there: put it there, or take it out of {printable(document.file.name)}"
        faults += [AnnotationFault("missing picture", "error", text, file, split) for _, file in missing]


def _bind(
    split: Split, document: _Document, labels: Mapping[str, int], *, faults: list[AnnotationFault] | None
) -> tuple[tuple[AnnotatedSample, ...], list[str]]:
    files, notes, missing = _locate(split, document)
    sizes = {number: picture.size or _size_of(files[number]) for number, picture in document.pictures.items()}
    check = BoxCheck(faults, split)
    boxes: dict[_Id, list[BoxLabel]] = {number: [] for number in document.pictures}
    no_picture: dict[_Id, int] = {}
    no_category: dict[_Id, int] = {}
    damaged, emptied = set(document.damaged), set[_Id]()
    for box in document.boxes:
        if box.picture not in boxes:
            no_picture[box.picture] = no_picture.get(box.picture, 0) + 1
        elif box.category not in document.categories:
            no_category[box.category] = no_category.get(box.category, 0) + 1
            damaged.add(box.picture)
        else:
            name = document.categories[box.category]
            if edges := check.clip(*box.edges, size=sizes[box.picture], file=files[box.picture], name=name):
                label = BoxLabel(labels[name], *edges, crowd=box.crowd, difficult=box.difficult, area=box.area)
                boxes[box.picture].append(label)
            else:
                emptied.add(box.picture)
    passed_over: tuple[tuple[str, ReadingFault, dict[_Id, int]], ...] = (
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

    damaged |= {number for number in emptied if not boxes[number]}
    samples = []
    for number, file in files.items():
        if number in damaged and faults is None:
            continue  # what is left of its boxes would teach that the others are background
        if is_file(file):
            image_id = number if isinstance(number, int) else None
            sample = AnnotatedSample(file, tuple(boxes[number]), size=sizes[number], image_id=image_id)
            samples.append(replace(sample, damaged=number in damaged))
    if (lost := len(damaged & set(document.pictures))) and faults is None:
        notes.append(f"{split}: {lost} of {len(document.pictures)} pictures lost annotations to damage, left out")
    _tell_missing(split, document, missing, notes, faults)
    return tuple(samples), notes


def picture_folder(file: Path, names: Sequence[str]) -> Path:
    """The folder from which a JSON file names its pictures: the first in which there is one of them.

    ``names`` are the pictures', at least one. Raises UsageError where none of them is there.
    """
    split = file.stem.removeprefix("instances_")
    inner = (split, f"images/{split}", "images", "JPEGImages", ".")
    folders = [base / name for base in (file.parent, file.parent.parent) for name in inner]
    for folder in folders:
        if folder.is_dir() and any(is_file(_file_of(folder, name, unique=True)) for name in names):
            return folder
    raise InputError(
        f"{file}: none of its {len(names)} pictures is there, such as {printable(names[0])}: "
        f"put them into {folders[-len(inner)]} or {folders[len(inner) - 1]}"
    )


def _file_of(folder: Path, name: str, *, unique: bool) -> Path:
    """The file of a picture's name, perhaps percent-encoded, or by its last part alone where that is ``unique``."""
    spellings = [name, unquote(name), *([last_part(name)] if unique else [])]
    return next((folder / spelling for spelling in spellings if is_file(folder / spelling)), folder / name)


def _size_of(file: Path) -> tuple[int, int] | None:
    try:
        return read_size(file)
    except ImageError:  # whoever looks at the picture says so
        return None


def _list_of(content: Mapping[str, Any], key: str, file: Path) -> list[Any]:
    if key not in content:
        raise InputError(f"{file}: has no {key}, so it is not COCO's JSON for boxes: give {LAYOUT}")
    entries = content[key]
    if not isinstance(entries, list):
        raise InputError(f"{file}: {key} must be a list, got {show(entries)}: fix it")
    return entries


def _field(entry: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in entry:
        raise InputError(f"{where}: has no {key}: write it there")
    return entry[key]


def _whole(entry: Mapping[str, Any], key: str, where: str) -> int:
    value = _as_id(_field(entry, key, where))
    if not isinstance(value, int):
        raise InputError(f"{where}: {key} must be a whole number, got {show(entry[key])}: fix it")
    return value


def _id(entry: Mapping[str, Any], key: str, where: str) -> _Id:
    value = _as_id(_field(entry, key, where))
    if value is None:
        raise InputError(f"{where}: {key} must be a whole number or a name, got {show(entry[key])}: fix it")
    return value


def _as_id(value: object) -> _Id | None:
    """A number or name that entries know each other by; some tools write 640.0, and some "640"."""
    number = as_number(value)
    if number is not None and number == int(number):
        return int(number)
    return value if isinstance(value, str) and value.strip() else None


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = _field(entry, key, where)
    if not is_name(value):
        raise InputError(f"{where}: {key} must be a name, got {show(value)}: fix it")
    return value
