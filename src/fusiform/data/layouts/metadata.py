"""Hugging Face's ImageFolder with labels: pictures, and beside them a metadata file with a line for each."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fusiform.data.dataset import SPLIT_NAMES, SPLIT_ORDER, Entry, Split
from fusiform.data.folders import LABEL_COLUMNS, PATH_COLUMNS, SPLIT_COLUMNS, Found, check_labels
from fusiform.data.image import find_images, is_of_system, unread_note
from fusiform.data.layouts.rows import read_rows
from fusiform.data.lookup import read_text
from fusiform.data.names import listed
from fusiform.errors import InputError, UsageError
from fusiform.report import printable

FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
BOX_COLUMNS = ("objects", "bbox", "bboxes", "boxes", "annotations")
"""Columns whose values are boxes: such data is for a detector."""

_FIRST_LINES = 20


def metadata_files(root: Path) -> list[Path]:
    """The metadata files of an ImageFolder: in its folder, or in those of its splits (also below a folder ``data``)."""
    places = [root]
    for folder in (root, root / "data"):
        if folder.is_dir():
            places += sorted(path for path in folder.iterdir() if path.is_dir() and path.name.casefold() in SPLIT_NAMES)
    found = []
    for place in places:
        here = [place / name for name in FILES if (place / name).is_file()]
        if len(here) > 1:
            names = " and ".join(path.name for path in here)
            raise InputError(f"{place}: holds {names}, and the labels can be in one: remove the other")
        found += here
    return found


def has_labels(source: Path) -> bool:
    """Whether a folder is an ImageFolder with a column of labels, or a file is the metadata of one.

    Metadata without such a column leaves the folders their classes, and with boxes they are for a detector.
    """
    if source.is_file():
        files = [source] if source.name.lower() in FILES or source.suffix.lower() == ".jsonl" else []
    else:
        files = metadata_files(source) if source.is_dir() else []
    for file in files:
        rows = _first_rows(file, damaged=True)
        if not rows and source.is_file():
            return True  # damaged from the first line on, which the reader says
        names = {name.casefold() for row in rows for name in row}
        if names & set(BOX_COLUMNS):
            return False
        if names & set(LABEL_COLUMNS) and any(_is_path_column(name) for name in names):
            return True
    return False


def read_metadata(source: Path, root: Path | None) -> Found:
    """The pictures and classes of an ImageFolder, or of one metadata file; paths count from the file or ``root``.

    A column ``file_name``, or one that ends so, has the path, and one of ``LABEL_COLUMNS`` the class. The split is the
    folder that the metadata file lies in, a column of ``SPLIT_COLUMNS``, or the first folder of the path. Raises
    UsageError for several columns that could be the label, for several labels to a picture, and for lines that cannot
    be read.
    """
    files = metadata_files(source) if source.is_dir() else [source]
    entries: list[Entry] = []
    unlabelled = 0
    for file in files:
        rows = list(_read(file))
        if not rows:
            raise InputError(f"{file}: lists no pictures: write a line with file_name and label for each")
        columns = _find_columns(file, rows)
        here = SPLIT_NAMES.get(file.parent.name.casefold()) if source.is_dir() and file.parent != source else None
        for where, row in rows:
            name, label = row.get(columns.path), row.get(columns.label)
            if not isinstance(name, str) or not name.strip():
                raise InputError(f"{where}: has no {columns.path}: fill it in or remove the line")
            if label is None or label == "" or label == -1:
                unlabelled += 1
                continue
            path = Path(name.strip().replace("\\", "/"))
            split = here or _split(row, columns, path, where)
            entries.append(Entry(split, _text(label, columns.label, where), (root or file.parent) / path))
        if columns.label.casefold() != LABEL_COLUMNS[0]:
            check_labels(file, [entry.class_name for entry in entries])
    if not entries:
        raise InputError(f"{files[0]}: no picture has a label: fill in the column, or take the split that has them")
    notes = []
    if unlabelled:
        notes.append(f"pictures without a label in {_names(files)}, passed over: {unlabelled:,}")
    if source.is_dir():
        notes += _not_listed(source, entries)
    return Found(_with_one_kind_of_split(entries, files[0]), notes)


class _Columns(NamedTuple):
    path: str
    label: str
    split: str | None


def _first_rows(file: Path, *, damaged: bool = False) -> list[Mapping[str, Any]]:
    """The first lines, of a file that may be ``damaged`` those before the damage."""
    rows: list[Mapping[str, Any]] = []
    try:
        for _, row in _read(file):
            rows.append(row)
            if len(rows) == _FIRST_LINES:
                break
    except UsageError:
        if not damaged:
            raise
    return rows


def _read(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The lines of a metadata file with where they stand."""
    if file.suffix.lower() == ".parquet":
        try:
            rows = read_rows(file)
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error}): write it again") from None
        yield from ((f"{file}, row {number}", row) for number, row in enumerate(rows))
        return
    text = read_text(file)
    if file.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(f"{file}, line {reader.line_num}: has more or fewer fields than line 1: fix it")
                yield f"{file}, line {reader.line_num}", row
        except csv.Error as error:
            raise InputError(f"{file}, line {reader.line_num}: is no CSV ({error}): fix the line") from None
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: is not JSON ({error}): fix the line") from None
        if not isinstance(row, dict):
            raise InputError(f'{where}: is no JSON object: write {{"file_name": "1.jpg", "label": "cat"}}')
        yield where, row


def _is_path_column(name: str) -> bool:
    name = name.casefold()
    return name in PATH_COLUMNS or name.endswith("_file_name")


def _find_columns(file: Path, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> _Columns:
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    by_name = {name.casefold(): name for name in names}
    if boxes := [name for name in names if name.casefold() in BOX_COLUMNS]:
        raise InputError(
            f"{file}: has boxes, in the column {printable(boxes[0])}, and is for a detector: for a classifier leave it "
            "out, and write one label for each picture"
        )
    paths = [by_name["file_name"]] if "file_name" in by_name else [name for name in names if _is_path_column(name)]
    if not paths:
        raise InputError(f"{file}: has no column file_name, and has {listed(names)}: write each picture's path into it")
    if len(paths) > 1:
        raise InputError(
            f"{file}: names several pictures in a line, in the columns {listed(paths)}: leave file_name for the one "
            "that the label is about"
        )
    labels = [name for name in names if name.casefold() in LABEL_COLUMNS]
    if not labels:
        raise InputError(
            f"{file}: has no column of labels ({', '.join(LABEL_COLUMNS)}), and has {listed(names)}: call one of them "
            "label"
        )
    split = next((by_name[name] for name in SPLIT_COLUMNS if name in by_name), None)
    return _Columns(paths[0], label_column(file, {name: [row.get(name) for _, row in rows] for name in labels}), split)


def label_column(file: Path, columns: Mapping[str, Sequence[Any]]) -> str:
    """Which of several columns has the label: of those that say the same, the one that says it in words.

    Raises UsageError, with their names, for columns that say different things.
    """
    first, *others = columns
    for other in others:
        pairs = {(repr(a), repr(b)) for a, b in zip(columns[first], columns[other], strict=True)}
        if not len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs):
            raise InputError(
                f"{file}: several columns could be the label, {listed(list(columns))}: leave the one that is, and call "
                "the others by other names"
            )

    def in_words(name: str) -> bool:
        return any(isinstance(value, str) and not value.strip().isdecimal() for value in columns[name])

    return min(columns, key=lambda name: not in_words(name))


def _text(label: object, column: str, where: str) -> str:
    if isinstance(label, (list, tuple, dict)):
        raise InputError(
            f"{where}: {column} has several values, {printable(json.dumps(label)[:60])}, and a picture can have one "
            "label: write the one that matters"
        )
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    text = str(label).strip()
    if not text:
        raise InputError(f"{where}: has no {column}: fill it in or remove the line")
    return text


def _split(row: Mapping[str, Any], columns: _Columns, path: Path, where: str) -> Split:
    if columns.split is not None:
        name = str(row.get(columns.split) or "")
        if name.casefold() not in SPLIT_NAMES:
            raise InputError(f"{where}: {printable(name)!r} is no split: write train, val or test")
        return SPLIT_NAMES[name.casefold()]
    # Also data/train/1.jpg.
    parts = [part.casefold() for part in path.parts[:-1] if part not in (".", "data")]
    return SPLIT_NAMES.get(parts[0], "all") if parts else "all"


def _with_one_kind_of_split(entries: list[Entry], file: Path) -> list[Entry]:
    """UsageError where some pictures have a split and others have none."""
    splits = {entry.split for entry in entries}
    if "all" in splits and len(splits) > 1:
        known = ", ".join(split for split in SPLIT_ORDER if split in splits - {"all"})
        odd = next(entry.file for entry in entries if entry.split == "all")
        raise InputError(
            f"{file}: some pictures are of {known}, and others, such as {printable(str(odd))}, of no split: put them "
            "into folders train, val and test, or write a column split"
        )
    return entries


def _not_listed(root: Path, entries: Sequence[Entry]) -> list[str]:
    """What to tell of pictures below the folder that no line names, and of other files."""
    named = {str(entry.file) for entry in entries}
    unread: list[Path] = []
    notes: list[str] = []
    others = [path for path in find_images(root, unlisted=notes, unread=unread, videos=True) if str(path) not in named]
    if others:
        some = f"{len(others):,} pictures" if len(others) > 1 else "1 picture"
        notes.append(f"{some} without a line in the metadata, such as {printable(str(others[0]))}, passed over")
    return notes + unread_note(unread)


def _names(files: Sequence[Path]) -> str:
    return " and ".join(dict.fromkeys(file.name for file in files))


def unlabelled_note(root: Path) -> list[str]:
    """What to tell of a metadata file that has no labels, beside folders that are classes."""
    notes = []
    for file in metadata_files(root):
        names = list(dict.fromkeys(name for row in _first_rows(file) for name in row))
        notes.append(f"{printable(file.relative_to(root).as_posix())}: has {listed(names)}, no labels: not read")
    return notes


def is_of_metadata(path: Path) -> bool:
    """Whether a Parquet file is an ImageFolder's metadata, and none of a dataset's own."""
    return path.name.lower() in FILES and not is_of_system(path.name)
