"""Reading boxes in CSV lists, a line for each box: TensorFlow's columns, keras-retinanet's, Open Images'."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fusiform.data.annotated import AnnotatedSet
from fusiform.data.dataset import SPLIT_NAMES, Split
from fusiform.data.faults import AnnotationFault
from fusiform.data.folders import LABEL_COLUMNS, PATH_COLUMNS, SPLIT_COLUMNS, holds_boxes
from fusiform.data.image import read_size
from fusiform.data.lookup import Finder, by_split, photographs, split_of_path
from fusiform.data.names import nfc
from fusiform.data.objects import Object, Page, gather, tell_unmatched
from fusiform.errors import ImageError, InputError, UsageError
from fusiform.fields import show
from fusiform.report import printable

LAYOUT = (
    "a CSV list with a line for each box and the columns filename, class, xmin, ymin, xmax and ymax, or without a "
    "first line of names path, x1, y1, x2, y2 and class"
)
_EDGES = (("xmin", "ymin", "xmax", "ymax"), ("x_min", "y_min", "x_max", "y_max"), ("x1", "y1", "x2", "y2"))
_MORE_EDGES = (("left", "top", "right", "bottom"),)
_NAMES = (*LABEL_COLUMNS, "classname", "label_name", "labelname", "name", "class name", "object")
_PATHS = (*PATH_COLUMNS, "imageid", "image_id", "image_name", "img", "img_path", "imagename", "image name")
_FOLDERS = ("images", "imgs", "JPEGImages", "img", "photos", "pictures")
_CLASSES = ("_classes.csv", "classes.csv", "class.csv", "class-descriptions-boxable.csv", "class-descriptions.csv")
"""Where the classes' names are beside a list: keras-retinanet's name,number and Open Images' id,name."""


def read_csv_boxes(
    source: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    faults: list[AnnotationFault] | None = None,
) -> AnnotatedSet:
    """Read a dataset's pictures and boxes from CSV lists with a line for each box, in pixels from corner to corner.

    ``source`` is a list, or a folder with a list for each split; see ``csv_box_files``. The columns are found by their
    names: a picture's path or name, ``xmin, ymin, xmax, ymax`` (``x1, ...``, ``left, top, right, bottom``), the class,
    perhaps ``width``, ``height`` and ``split``. Without names they are keras-retinanet's, whose lines with nothing but
    a path are pictures without objects, or with the picture's width and height at the end SKU-110K's. Open Images'
    edges are shares of the picture; those of others that are all below one are refused, as are an origin with a width,
    a centre, and boxes in one column. Pictures lie beside the list, in ``images`` or such, or below where one alone has
    that name. What is damaged is told, see ``gather``.

    Raises UsageError for a source that is missing, no such list, or ambiguous, and what ``gather`` raises.
    """
    path = Path(source)
    files = csv_box_files(path)
    if not files:
        raise InputError(f"{path}: is no list of boxes: give {LAYOUT}")
    root = path if path.is_dir() else path.parent
    notes: list[str] = []
    pages: list[Page] = []
    known: set[Path] = set()
    missing: list[str] = []
    count = 0
    for file in files:
        rows = _read_rows(file)
        names = _names(file)
        split = split_of_path([file.stem]) or split_of_path(file.relative_to(root).parts[:-1])
        folders = [base / name for base in (file.parent, root) for name in (".", *_FOLDERS, split or ".")]
        finder = Finder(root, [*dict.fromkeys(folders), *((root / f / split) for f in _FOLDERS if split)])
        found: dict[str, list[_Row]] = {}
        for row in rows:
            found.setdefault(row.name, []).append(row)
        count += len(found)
        for name, lines in found.items():
            picture = finder.find(name, split)
            if picture is None:
                missing.append(name)
                continue
            known.add(picture)
            page = _page(lines, picture, file, names)
            pages.append(page._replace(split=lines[0].split or split or "all"))
        notes += finder.notes(len(found))
    if not pages:
        raise InputError(
            f"{files[0]}: none of its {count} pictures is there, such as {printable(missing[0])}: put them beside the "
            f"list, or into {files[0].parent / _FOLDERS[0]}"
        )
    splits, note = by_split([None if page.split == "all" else page.split for page in pages])
    notes += [note] if note else []
    pages = [page._replace(split=split) for page, split in zip(pages, splits, strict=True) if split is not None]
    # A list of one split may lie beside the pictures of all.
    beside = {picture.parent for picture in known}
    unlisted = [file for file in photographs(root, unlisted=notes) if file not in known and file.parent in beside]
    tell_unmatched(files[0], files[0].parent, missing, unlisted, count, notes, faults)
    return gather(path, "detection", pages, notes, classes=classes, faults=faults)


def csv_box_files(path: Path) -> list[Path]:
    """The lists of boxes: itself, or those in a folder, in its ``annotations`` or ``data``, or one in each split's.

    Roboflow's is ``_annotations.csv``. Of several lists each names a split: ``train_labels.csv``.
    """
    if path.is_file():
        return [path] if path.suffix.lower() in (".csv", ".tsv") and _is_list_of_boxes(path) else []
    if not path.is_dir():
        return []
    if found := [file for file in sorted(path.glob("*/_annotations.csv")) if _is_list_of_boxes(file)]:
        return found
    for folder in (path, path / "annotations", path / "data"):
        found = [
            file for file in sorted(folder.glob("*.csv")) if not file.name.startswith(".") and _is_list_of_boxes(file)
        ]
        if len(found) > 1 and len({split_of_path([file.stem]) for file in found} - {None}) < len(found):
            names = ", ".join(printable(file.name) for file in found)
            raise InputError(f"{folder}: has several lists of boxes, {names}, that name no splits: give one of them")
        if found:
            return found
    return []


def names_folders(path: Path) -> bool:
    """Whether all the classes of the lists in a folder are folders there: those may be the classes all the same."""
    if not path.is_dir():
        return False
    try:
        labels = {row.label for file in csv_box_files(path) for row in _read_rows(file)}
    except UsageError:  # told where it is read
        return False
    folders = {folder.name for base in (path, path / "train") for folder in base.glob("*") if folder.is_dir()}
    return labels <= folders


def _is_list_of_boxes(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            head = stream.read(1 << 14).decode("utf-8-sig", "replace")
    except OSError:
        return False
    lines = [line for line in head.splitlines()[:20] if line.strip()]
    delimiter = _delimiter(file, head)
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    except csv.Error:
        return False
    # Pictures without a box may be the first of keras-retinanet's.
    only_pictures = all(len(row) == len(_RETINANET_ROW) and not any(row[1:]) for row in rows)
    return bool(rows) and (only_pictures or any(holds_boxes(row, named=i == 0) for i, row in enumerate(rows)))


def _delimiter(file: Path, text: str) -> str:
    first = text.partition("\n")[0]
    return "\t" if file.suffix.lower() == ".tsv" else max(",;\t", key=first.count)


class _Row(NamedTuple):
    """A line: a picture with the texts of a box and its class, which are empty where there is none."""

    where: str
    name: str
    split: Split | None
    size: tuple[str, str] | None
    edges: tuple[str, ...]
    label: str
    crowd: bool
    shares: bool


class _Columns(NamedTuple):
    path: int
    edges: tuple[int, ...]
    label: int
    size: tuple[int, int] | None
    split: int | None
    group: int | None
    width: int
    shares: bool = False


_RETINANET_ROW = ("path", "x1", "y1", "x2", "y2", "class")
_RETINANET = _Columns(0, (1, 2, 3, 4), 5, None, None, None, len(_RETINANET_ROW))
_SKU = _RETINANET._replace(size=(6, 7), width=8)


def _read_rows(file: Path) -> list[_Row]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{file}: is not UTF-8 text: save it as CSV in UTF-8") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}): check its permissions") from None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(file, text), strict=True)
    rows: list[_Row] = []
    columns: _Columns | None = None
    try:
        for cells in reader:
            row = [cell.strip() for cell in cells]
            if not any(row):
                continue
            if "\0" in "".join(row):
                raise InputError(f"{file}, line {reader.line_num}: holds a zero byte: save the list again")
            if columns is None:
                columns = _columns(row, file)
                if columns not in (_RETINANET, _SKU):
                    continue
            rows.append(_row(row, columns, f"{file}, line {reader.line_num}"))
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: is no CSV ({error}): fix the line") from None
    if not rows:
        raise InputError(f"{file}: lists no boxes: write a line for each")
    edges = [number for row in rows for text in row.edges if (number := _number(text)) is not None]
    if edges and max(edges) <= 1 and not rows[0].shares:
        raise InputError(
            f"{file}: its edges are all between 0 and 1, and it does not say whether those are pixels or shares of the "
            "picture: write pixels"
        )
    return rows


def _columns(row: Sequence[str], file: Path) -> _Columns:
    names = [cell.casefold() for cell in row]
    if not holds_boxes(row, named=True) or len(set(names)) < len(names) or "." in row[0]:
        # The file holds boxes, and its first line is no line of names.
        return _SKU if len(row) == _SKU.width else _RETINANET
    picture = next((names.index(name) for name in _PATHS if name in names), None)
    label = next((names.index(name) for name in _NAMES if name in names), None)
    edges = next((each for each in (*_EDGES, *_MORE_EDGES) if set(each) <= set(names)), None)
    if picture is None or label is None or edges is None:
        lacking = "a picture" if picture is None else "a class" if label is None else "xmin, ymin, xmax and ymax"
        raise InputError(
            f"{file}, line 1: is a list of boxes, and names no column of {lacking}: give {LAYOUT}; other kinds of "
            "boxes, such as an origin with a width or all in one column, are not read"
        )
    # Open Images' flags are beside its shares.
    shares = {"imageid", "isgroupof"} <= set(names)
    return _Columns(
        picture,
        tuple(names.index(edge) for edge in edges),
        label,
        (names.index("width"), names.index("height")) if {"width", "height"} <= set(names) else None,
        next((names.index(name) for name in SPLIT_COLUMNS if name in names), None),
        names.index("isgroupof") if shares else None,
        len(row),
        shares,
    )


def _row(row: Sequence[str], columns: _Columns, where: str) -> _Row:
    # keras-retinanet's pictures without objects may lack the commas.
    row = [*row, *[""] * (columns.width - len(row))] if len(row) == 1 else row
    if len(row) != columns.width:
        raise InputError(f"{where}: has {len(row)} columns and the first line {columns.width}: fix the line")
    name = row[columns.path]
    if not name:
        raise InputError(f"{where}: names no picture: write its path, or remove the line")
    split: Split | None = None
    if columns.split is not None and row[columns.split]:
        if row[columns.split].casefold() not in SPLIT_NAMES:
            raise InputError(f"{where}: {printable(row[columns.split])!r} is no split: write train, val or test")
        split = SPLIT_NAMES[row[columns.split].casefold()]
    size = None if columns.size is None else (row[columns.size[0]], row[columns.size[1]])
    crowd = columns.group is not None and row[columns.group] == "1"
    edges = tuple(row[i] for i in columns.edges)
    return _Row(where, name, split, size, edges, row[columns.label], crowd, columns.shares)


def _page(lines: Sequence[_Row], picture: Path, file: Path, names: Mapping[str, str]) -> Page:
    """A picture with the boxes of its lines; an empty line says that it has none."""
    size: tuple[int, int] | None = None
    objects: list[Object] = []
    damage: UsageError | None = None
    if lines[0].shares:
        try:
            size = read_size(picture)
        except ImageError:  # whoever looks at the picture says so
            return Page("all", picture, file, None, ())
    for line in lines:
        sides = [_number(text) for text in line.size or ()]
        if all(sides) and len(sides) == 2:
            here = int(sides[0] or 0), int(sides[1] or 0)
            if size not in (None, here):
                damage = damage or InputError(
                    f"{line.where}: gives the picture another size than a line before: fix it"
                )
            size = here
        if not any((*line.edges, line.label)):
            continue
        numbers = [number for text in line.edges if (number := _number(text)) is not None]
        if len(numbers) < 4 or not line.label:
            text = f"{line.where}: must have four numbers and a class, got {show(', '.join((*line.edges, line.label)))}"
            damage = damage or InputError(f"{text}: fix it")
            continue
        left, top, right, bottom = numbers
        if line.shares and size is not None:
            left, top, right, bottom = left * size[0], top * size[1], right * size[0], bottom * size[1]
        edges = min(left, right), min(top, bottom), max(left, right), max(top, bottom)
        label = nfc(names.get(line.label, line.label))
        objects.append(Object(label, edges, crowd=line.crowd))
    if len({line.split for line in lines}) > 1:
        damage = damage or InputError(f"{lines[0].where}: puts the picture into two splits: decide on one")
    return Page("all", picture, file, size, objects, damage)


def _names(file: Path) -> dict[str, str]:
    """Names of classes for what the list calls them, from the file beside it; none where there is no such file."""
    found = next((file.parent / name for name in _CLASSES if (file.parent / name).is_file()), None)
    if found is None or found == file:
        return {}
    try:
        rows = list(csv.reader(io.StringIO(found.read_bytes().decode("utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{found}: cannot be read ({error}): save it again") from None
    pairs = [(row[0].strip(), row[1].strip()) for row in rows if len(row) == 2]
    # keras-retinanet's are name,number; a list with names needs them not.
    return {first: second for first, second in pairs if first and re.search(r"[^\d\s]", second)}


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
