"""Hugging Face's datasets as files: Parquet shards, and the Arrow files of ``save_to_disk`` and of its cache."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fusiform.data.dataset import SPLIT_NAMES, Entry, Split
from fusiform.data.folders import LABEL_COLUMNS, Found, check_labels
from fusiform.data.image import EXTENSIONS, is_of_system, natural_key
from fusiform.data.layouts.metadata import BOX_COLUMNS, is_of_metadata, label_column
from fusiform.data.layouts.rows import need_pyarrow, open_parquet
from fusiform.data.names import listed
from fusiform.errors import InputError
from fusiform.report import printable

ENDINGS = (".parquet", ".arrow")
PICTURE_COLUMNS = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "pixel_values")
LARGE_GROUP = 256 * 1024 * 1024
"""Bytes of pictures in one group of rows from which on reading one of them in any order is slow, which is told."""


def find_tables(folder: Path) -> list[Path]:
    """The Parquet and Arrow files in a folder and below it that hold a dataset, in natural order."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_of_system(name)]
        for name in files:
            path = Path(parent, name)
            if path.suffix.lower() in ENDINGS and not is_of_system(name) and not is_of_metadata(path):
                found.append(path)
    return sorted(found, key=lambda path: [natural_key(part) for part in path.relative_to(folder).parts])


def is_table(source: Path) -> bool:
    """Whether a file is such a table, or a folder holds some, and no picture outside them."""
    if source.is_file():
        return source.suffix.lower() in ENDINGS and not is_of_metadata(source)
    found = False
    for _, folders, files in os.walk(source):
        folders[:] = [name for name in folders if not is_of_system(name)]
        endings = {os.path.splitext(name)[1] for name in files if not is_of_system(name)}  # noqa: PTH122  # of many
        if any(map(EXTENSIONS.fullmatch, endings)):
            return False
        found = found or any(ending.lower() in ENDINGS for ending in endings)
    return found


def read_tables(source: Path) -> Found:
    """The pictures of Parquet or Arrow files, with their classes; none of the pictures is read.

    The column of pictures is the one of the feature ``Image``, or of ``PICTURE_COLUMNS``; it holds bytes, or a struct
    of ``bytes`` and ``path``. The label is the one of the feature ``ClassLabel``, whose names it has, or of
    ``LABEL_COLUMNS``. The split is the first word of a file's name, or of the folders that it lies in, that is one:
    ``data/train-00000-of-00001.parquet``, ``train/data-00000-of-00001.arrow``.

    Raises UsageError, which names the file, for one that is damaged or has no such columns, for boxes, and where
    several columns or configurations could be meant; MissingExtraError where pyarrow is missing.
    """
    files = [source] if source.is_file() else find_tables(source)
    notes: list[str] = []
    made = [path for path in files if path.name.startswith(("cache-", "tmp"))]
    if len(made) < len(files) and made:
        notes.append(
            f"results that the library datasets kept, such as {printable(made[0].name)}, not read: {len(made)}"
        )
        files = [path for path in files if path not in made]
    folder = source.parent if source.is_file() else source
    splits = [_split_of(path.relative_to(folder)) for path in files]
    _check_one_configuration(source, folder, files)
    if len({split is None for split in splits}) > 1:
        odd = files[splits.index(None)]
        raise InputError(f"{odd}: does not say its split, and others do: put train, val or test into its name")
    tables = [_open(path) for path in files]
    names = {table.names for table in tables}
    if len(names) > 1:
        raise InputError(f"{source}: its files do not have the same classes: put those of each dataset into a folder")
    entries: list[Entry] = []
    unlabelled = large = 0
    for split, table in zip(splits, tables, strict=True):
        for label, place in zip(table.labels, table.places, strict=True):
            if label is None:
                unlabelled += 1
            else:
                entries.append(Entry(split or "all", label, *place))
        large = max(large, table.largest_group)
    if not entries:
        raise InputError(f"{files[0]}: no picture has a label: take the files of a split that has them")
    if tables[0].may_be_many:
        check_labels(source, [entry.class_name for entry in entries])
    if unlabelled:
        notes.append(f"pictures without a label, passed over: {unlabelled:,}")
    if large > LARGE_GROUP:
        notes.append(
            f"groups of rows have up to {large / 1e6:,.0f} MB, which are read whole for each picture out of order: "
            "write the files again with groups of 100 rows (row_group_size) if training is slow"
        )
    return Found(entries, notes, next(iter(names)))


Place = tuple[Path, int, int | None, str]
"""Where a picture lies: file, offset, size and key of ``Sample``."""


class _Table(NamedTuple):
    """A file's labels, by name, None where a picture has none; and where each picture lies."""

    labels: list[str | None]
    places: Sequence[Place]
    names: tuple[str, ...] | None
    largest_group: int
    may_be_many: bool


def _open(path: Path) -> _Table:
    pyarrow = need_pyarrow(path)
    try:
        return _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_arrow(path)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: is damaged or no such file ({reason}): copy or download it again") from None


def _read_parquet(path: Path) -> _Table:
    with open_parquet(path) as file:
        schema = file.schema_arrow
        features = _features(schema)
        picture, candidates = _picture_column(path, schema, features), _label_columns(path, schema, features)
        table = file.read(columns=candidates)
        label, names = _choose_label(path, table, candidates, features)
        is_struct = _is_struct(schema, picture)
        column = f"{picture}.bytes" if is_struct else picture
        largest, empty = _group_sizes(file.metadata, column)
        rows = file.metadata.num_rows
        if empty and is_struct:
            places = _outside(path, file.read(columns=[f"{picture}.path"]).column(picture), picture, empty == rows)
        else:
            places = [(path, row, None, f"{picture}/{row}") for row in range(rows)]
    labels = _label_names(path, table.column(label).to_pylist(), names)
    return _Table(labels, places, names, largest, _may_be_many(label, names))


def _read_arrow(path: Path) -> _Table:
    """The labels of an Arrow file, which lies open in memory; its pictures are whole bytes of the file."""
    import pyarrow

    whole = pyarrow.memory_map(str(path)).read_buffer()
    try:
        table = pyarrow.ipc.open_stream(whole).read_all()
    except pyarrow.ArrowInvalid:
        table = pyarrow.ipc.open_file(whole).read_all()
    features = _features(table.schema)
    picture = _picture_column(path, table.schema, features)
    candidates = _label_columns(path, table.schema, features)
    label, names = _choose_label(path, table, candidates, features)
    is_struct = _is_struct(table.schema, picture)
    spans: list[tuple[int, int] | None] = []
    for chunk in table.column(picture).chunks:
        spans += _spans(path, chunk.field("bytes") if is_struct else chunk, whole)
    if missing := sum(span is None for span in spans):
        if not is_struct:
            raise InputError(f"{path}: {missing} rows hold no picture: leave them out")
        places = _outside(path, table.column(picture), picture, missing == len(spans))
    else:
        places = [(path, *span, f"{picture}/{row}") for row, span in enumerate(spans) if span is not None]
    labels = _label_names(path, table.column(label).to_pylist(), names)
    return _Table(labels, places, names, 0, _may_be_many(label, names))


def _spans(path: Path, values: Any, whole: Any) -> list[tuple[int, int] | None]:
    """Where in the file each value of a binary array lies: its first byte and their number."""
    import numpy as np
    import pyarrow

    kind = np.int64 if pyarrow.types.is_large_binary(values.type) else np.int32
    _, offsets, data = values.buffers()
    if len(values) == values.null_count or data is None:
        return [None] * len(values)
    ends = np.frombuffer(offsets, kind)[values.offset : values.offset + len(values) + 1]
    start = data.address - whole.address
    if not 0 <= start <= start + int(ends[-1]) <= whole.size:
        raise InputError(f"{path}: is compressed, and pictures are read in place: write it without compression")
    valid = values.is_valid().to_pylist()
    return [
        (start + int(first), int(last - first)) if there else None
        for first, last, there in zip(ends[:-1], ends[1:], valid, strict=True)
    ]


def _outside(path: Path, column: Any, name: str, whole: bool) -> list[Place]:
    """Where the pictures lie that a file only names; UsageError where they are not there, or only some are outside."""
    if not whole:
        raise InputError(f"{path}: some rows of {name} hold a picture and others only its path: write it again")
    named = [value.get("path") if isinstance(value, dict) else None for value in column.to_pylist()]
    files = [path.parent / name for name in named if name]
    missing = [str(file) for file in files if not file.exists()] + ["no path at all"] * (len(named) - len(files))
    if missing:
        raise InputError(
            f"{path}: has {len(missing):,} pictures neither within nor beside it, such as {printable(missing[0])}: "
            "write it with its pictures (push_to_hub and save_to_disk embed them)"
        )
    return [(file, 0, None, "") for file in files]


def _features(schema: Any) -> Mapping[str, Any]:
    """Hugging Face's description of the columns; empty where the file has none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _kind(features: Mapping[str, Any], name: str) -> str:
    feature = features.get(name)
    return str(feature.get("_type")) if isinstance(feature, dict) else ""


def _is_struct(schema: Any, name: str) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_struct(schema.field(name).type))


def _picture_column(path: Path, schema: Any, features: Mapping[str, Any]) -> str:
    import pyarrow

    boxes = [name for name in schema.names if name.casefold() in BOX_COLUMNS]
    if boxes:
        raise InputError(
            f"{path}: has boxes, in the column {printable(boxes[0])}, which are not read out of such files: write the "
            "pictures and a metadata.jsonl with the boxes (Hugging Face's ImageFolder), or COCO's JSON"
        )

    def holds_pictures(name: str) -> bool:
        kind = schema.field(name).type
        if pyarrow.types.is_struct(kind):
            fields = [kind.field(i) for i in range(kind.num_fields)]
            return any(field.name == "bytes" and _is_binary(field.type) for field in fields)
        return _is_binary(kind)

    found: list[str] = [name for name in schema.names if holds_pictures(name)]
    known = [name for name in found if _kind(features, name) == "Image"]
    known = known or [name for name in found if name.casefold() in PICTURE_COLUMNS] or found
    if len(known) > 1:
        raise InputError(f"{path}: has pictures in the columns {listed(known)}: leave one of them (remove_columns)")
    if not known:
        raise InputError(
            f"{path}: has no column of encoded pictures (bytes, or bytes and path), and has {listed(schema.names)}: "
            "cast it to datasets.Image"
        )
    return known[0]


def _is_binary(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _label_columns(path: Path, schema: Any, features: Mapping[str, Any]) -> list[str]:
    """The columns that could be the label."""
    found = [name for name in schema.names if _kind(features, name) == "ClassLabel"]
    found = found or [name for name in schema.names if name.casefold() in LABEL_COLUMNS]
    if not found:
        raise InputError(
            f"{path}: has no column of labels (of the kind ClassLabel, or {', '.join(LABEL_COLUMNS)}), and has "
            f"{listed(schema.names)}: call one of them label"
        )
    return found


def _choose_label(
    path: Path, table: Any, candidates: Sequence[str], features: Mapping[str, Any]
) -> tuple[str, tuple[str, ...] | None]:
    """The column with the label, and its names if it has any."""
    import pyarrow

    for name in candidates:
        kind = table.column(name).type
        if pyarrow.types.is_nested(kind):
            raise InputError(
                f"{path}: the column {printable(name)} has several values to a picture, which can have one label: "
                "write the one that matters"
            )
    label = label_column(path, {name: table.column(name).to_pylist() for name in candidates})
    feature = features.get(label)
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return label, None
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: two classes are called {printable(twice)!r}: give each a name of its own")
    return label, tuple(names)


def _label_names(path: Path, values: Sequence[Any], names: tuple[str, ...] | None) -> list[str | None]:
    found: list[str | None] = []
    for row, value in enumerate(values):
        # -1 is what datasets gives the pictures of a test split whose classes are kept secret.
        if value is None or value in (-1, ""):
            found.append(None)
        elif names is None:
            whole = isinstance(value, float) and value.is_integer()
            found.append(str(int(value)) if whole else str(value).strip() or None)
        elif isinstance(value, int) and 0 <= value < len(names):
            found.append(names[value])
        elif isinstance(value, str) and value in names:
            found.append(value)
        else:
            raise InputError(f"{path}, row {row}: has class {value}, and there are {len(names)} names: write it again")
    return found


def _may_be_many(label: str, names: tuple[str, ...] | None) -> bool:
    return names is None and label.casefold() != LABEL_COLUMNS[0]


def _group_sizes(metadata: Any, column: str) -> tuple[int, int]:
    """The bytes of the largest group of rows, and how many rows hold no bytes."""
    largest = empty = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for index in range(group.num_columns):
            chunk = group.column(index)
            if chunk.path_in_schema == column:
                largest = max(largest, chunk.total_uncompressed_size)
                empty += (chunk.statistics.null_count or 0) if chunk.statistics is not None else 0
    return largest, empty


def _split_of(path: Path) -> Split | None:
    """The first split that a file's name, or else a folder around it, has among its words."""
    for part in (path.stem, *reversed(path.parts[:-1])):
        for word in re.findall(r"[a-z]+", part.casefold()):
            if word in SPLIT_NAMES:
                return SPLIT_NAMES[word]
    return None


def _check_one_configuration(source: Path, folder: Path, files: Sequence[Path]) -> None:
    """UsageError where files lie in folders that are neither splits nor called data: each is a dataset of its own."""
    parents = [path.relative_to(folder).parts[:-1] for path in files]
    places = {"/".join(part for part in parts if part.casefold() not in {*SPLIT_NAMES, "data"}) for parts in parents}
    if len(places) > 1:
        which = listed(sorted(place or "the folder itself" for place in places))
        raise InputError(f"{source}: holds several datasets, {which}: give one of them")
