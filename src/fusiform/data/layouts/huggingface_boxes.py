"""Reading boxes in Hugging Face's ImageFolder: https://huggingface.co/docs/datasets/image_dataset#object-detection."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusiform.data.annotated import AnnotatedSet, PassOver
from fusiform.data.coco_outlines import as_number
from fusiform.data.dataset import Split
from fusiform.data.faults import AnnotationFault
from fusiform.data.image import read_size
from fusiform.data.lookup import Finder, by_split, photographs, read_text, split_of_path
from fusiform.data.names import is_name, listed, nfc
from fusiform.data.objects import Object, Page, gather, tell_unmatched
from fusiform.errors import ImageError, InputError
from fusiform.fields import show
from fusiform.report import printable

LAYOUT = (
    "metadata.jsonl beside the pictures, or in each split's folder, with lines such as "
    '{"file_name": "1.jpg", "objects": {"bbox": [[x, y, width, height]], "categories": ["cat"]}}'
)
_FILES = ("metadata.jsonl", "metadata.csv")
_CATEGORIES = (
    "categories",
    "category",
    "labels",
    "label",
    "category_id",
    "category_ids",
    "classes",
    "class",
    "class_label",
)
_BOXES = ("bbox", "bboxes", "boxes")


def read_huggingface_boxes(
    source: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    faults: list[AnnotationFault] | None = None,
) -> AnnotatedSet:
    """Read a dataset's pictures and boxes from ``metadata.jsonl`` or ``.csv`` with a column ``objects``.

    ``source`` is such a file or a folder with one, or one in each split's folder. ``objects`` holds lists of the same
    length: ``bbox``, COCO's x, y, width and height in pixels, and ``categories`` (``category``, ``label``), names or
    numbers; or it is a list with one of both for each object. Numbers stand for the names in ``dataset_info.json`` or
    at the head of ``README.md``, else for themselves. A picture with empty lists is background. What is damaged is
    told, see ``gather``. Boxes that as corners, and not as sizes, fit their pictures are refused.

    Raises UsageError for a source that is missing, damaged, or ambiguous, and what ``gather`` raises.
    """
    path = Path(source)
    files = object_files(path)
    if not files:
        raise InputError(f"{path}: has no metadata with objects: give {LAYOUT}")
    root = path if path.is_dir() else path.parent
    numbered = _features(root)
    notes: list[str] = []
    pages: list[Page] = []
    missing: list[str] = []
    strangers: set[str] = set()
    count = 0
    for file in files:
        finder = Finder(file.parent, (file.parent,))
        for row, where in _rows(file):
            count += 1
            name = row.get("file_name") or row.get("image") or row.get("file_path")
            if not is_name(name):
                raise InputError(f"{where}: names no picture as file_name: write it there")
            picture = finder.find_exactly(name)
            if picture is None:
                missing.append(name)
                continue
            pages.append(_page(row, picture, file, where, numbered, strangers))
    if not pages:
        raise InputError(f"{files[0]}: none of its {count} pictures is there, such as {printable(missing[0])}")
    _check_corners(pages, files[0])
    given: list[Split | None] = [split_of_path(page.picture.relative_to(root).parts[:-1]) for page in pages]
    splits, note = by_split(given)
    notes += [note] if note else []
    pages = [page._replace(split=split) for page, split in zip(pages, splits, strict=True) if split is not None]
    if strangers:
        names = listed(sorted(strangers))
        notes.append(
            f"neither dataset_info.json nor README.md names the classes: they are called by their numbers {names}"
        )
    known = {page.picture for page in pages}
    unlisted = [file for file in photographs(root, unlisted=notes) if file not in known]
    tell_unmatched(files[0], files[0].parent, missing, unlisted, count, notes, faults)
    present = None
    if numbered:
        used = [nfc(thing.name) for page in pages for thing in page.objects]
        present = list(dict.fromkeys([*map(nfc, numbered), *used]))
    return gather(path, "detection", pages, notes, present=present, classes=classes, faults=faults)


def object_files(path: Path) -> list[Path]:
    """The metadata with objects: itself, or that of a folder and of the splits' folders in it."""
    if path.is_file():
        return [path] if path.name in _FILES and _has_objects(path) else []
    if not path.is_dir():
        return []
    for name in _FILES:
        found = [file for file in (path / name, *sorted(path.glob(f"*/{name}"))) if file.is_file()]
        if found and all(map(_has_objects, found)):
            return found
    return []


def _has_objects(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            head = stream.read(1 << 16)
    except OSError:
        return False
    if file.suffix == ".csv":
        columns = re.split(rb"[,;\t]", head.partition(b"\n")[0])
        return b"objects" in [column.strip(b'\r "\xef\xbb\xbf') for column in columns]
    return re.match(rb'\s*\{[^\n]*"objects"\s*:\s*[{\[]', head) is not None


def _rows(file: Path) -> Iterable[tuple[Mapping[str, Any], str]]:
    text = read_text(file)
    if file.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            for row in reader:
                yield row, f"{file}, line {reader.line_num}"
        except csv.Error as error:
            raise InputError(f"{file}, line {reader.line_num}: is no CSV ({error}): fix the line") from None
        return
    for i, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file}, line {i}: is no JSON ({error}): fix the line") from None
        if not isinstance(entry, dict):
            raise InputError(f"{file}, line {i}: must be an object, got {show(entry)}: fix the line")
        yield entry, f"{file}, line {i}"


def _page(
    row: Mapping[str, Any],
    picture: Path,
    file: Path,
    where: str,
    numbered: Sequence[str],
    strangers: set[str],
) -> Page:
    objects: list[Object] = []
    damage = PassOver([], "damaged annotation", file=file, split=None)
    entries: list[tuple[Any, Any]] = []
    with damage:
        entries = _entries(row.get("objects"), where)
    for box, category in entries:
        with damage:
            objects.append(_object(box, category, where, numbered, strangers))
    width, height = (as_number(row.get(side)) for side in ("width", "height"))
    size = (int(width), int(height)) if width and height else None
    image_id = row.get("image_id")
    page = Page("all", picture, file, size, objects, damage.first)
    return page._replace(image_id=image_id) if type(image_id) is int else page


def _entries(found: Any, where: str) -> list[tuple[Any, Any]]:
    """The box and the category of each object."""
    if isinstance(found, str) and found.strip():  # a cell of CSV
        try:
            found = json.loads(found)
        except (ValueError, RecursionError):
            raise InputError(f"{where}: objects must be JSON, got {show(found)}: write it so") from None
    if found in (None, "", [], {}):
        return []
    if isinstance(found, list):
        each = [entry if isinstance(entry, dict) else {} for entry in found]
        return [(_value(entry, _BOXES, where), _value(entry, _CATEGORIES, where)) for entry in each]
    if not isinstance(found, dict):
        raise InputError(f"{where}: objects must be lists of boxes and categories, got {show(found)}: fix it")
    boxes, categories = _value(found, _BOXES, where), _value(found, _CATEGORIES, where)
    if not isinstance(boxes, list) or not isinstance(categories, list) or len(boxes) != len(categories):
        raise InputError(f"{where}: must have as many categories as boxes, got {show(boxes)} and {show(categories)}")
    return list(zip(boxes, categories, strict=True))


def _value(entry: Mapping[str, Any], names: Sequence[str], where: str) -> Any:
    found = next((name for name in names if name in entry), None)
    if found is None:
        raise InputError(f"{where}: its objects have no {names[0]}: write them there")
    return entry[found]


def _object(box: Any, category: Any, where: str, numbered: Sequence[str], strangers: set[str]) -> Object:
    numbers = [number for value in box if (number := as_number(value)) is not None] if isinstance(box, list) else []
    if len(numbers) != 4 or len(box) != 4:
        raise InputError(f"{where}: bbox must be x, y, width and height in pixels, got {show(box)}: fix it")
    if is_name(category):
        name = nfc(category.strip())
    elif type(category) is int and category >= 0:
        if numbered and category >= len(numbered):
            raise InputError(f"{where}: has the category {category}, and there are {len(numbered)} names: add its name")
        name = numbered[category] if numbered else str(category)
        if not numbered:
            strangers.add(name)
    else:
        raise InputError(f"{where}: a category must be a name or a number from 0 on, got {show(category)}: fix it")
    left, top, width, height = numbers
    return Object(name, (left, top, left + width, top + height))


def _check_corners(pages: Sequence[Page], file: Path) -> None:
    """Raise UsageError where boxes are probably from corner to corner: so most fit their pictures that else do not."""
    outside = inside = 0
    total = sum(len(page.objects) for page in pages)
    for page in pages:
        edges = [thing.edges for thing in page.objects if thing.edges is not None]
        try:
            size = page.size or read_size(page.picture)
        except ImageError:  # whoever looks at the picture says so
            continue
        for left, top, right, bottom in edges:
            if right > size[0] + 1 or bottom > size[1] + 1:
                outside += 1
                inside += left < right - left <= size[0] + 1 and top < bottom - top <= size[1] + 1
    if 4 * outside > total and inside == outside:
        raise InputError(
            f"{file}: {outside} of its {total} boxes reach out of their pictures as x, y, width and height, and fit as "
            "x1, y1, x2 and y2: write x, y, width and height"
        )


def _features(root: Path) -> list[str]:
    """The names of the objects' classes by their numbers, from the dataset's description, if there is one."""
    for file in (root / "dataset_info.json", root / "dataset_infos.json"):
        if file.is_file():
            try:
                content = json.loads(file.read_bytes())
            except (OSError, ValueError, RecursionError) as error:
                raise InputError(f"{file}: cannot be read ({error}): fix it, or take it away") from None
            return next((names for part in _parts(content, "objects") for names in _parts(part, "names")), [])
    readme = root / "README.md"
    if not readme.is_file():
        return []
    text = readme.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n")
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    objects = head[1].partition("name: objects\n")[2] if head else ""
    block = re.search(r"class_label:\n\s+names:\n((?:\s+'?\d+'?:.*(?:\n|$))+)", objects)
    pairs = re.findall(r"^\s+'?(\d+)'?:\s*(.*?)\s*$", block[1], re.MULTILINE) if block else []
    names = {int(number): name.strip("'\"") for number, name in pairs}
    return [names[number] for number in range(len(names))] if sorted(names) == list(range(len(names))) else []


def _parts(content: Any, key: str) -> Iterable[Any]:
    """What a key stands for, anywhere in JSON."""
    if isinstance(content, dict):
        if content.get(key):
            yield content[key]
        content = list(content.values())
    if isinstance(content, list):
        for value in content:
            yield from _parts(value, key)
