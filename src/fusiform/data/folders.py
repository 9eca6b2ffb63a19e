"""Reading labelled datasets: folders of class folders, lists in CSV, tar shards."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fusiform.data import shards
from fusiform.data.dataset import SPLIT_NAMES, SPLIT_ORDER, DataSet, Entry, Sample, Split
from fusiform.data.image import find_images, is_of_system, natural_key, unread_note
from fusiform.data.layouts.rooted import refuse_root
from fusiform.data.names import listed, nfc
from fusiform.errors import InputError
from fusiform.report import printable

# The columns of a list, the first that is there counts: a name says more than a number.
PATH_COLUMNS = (
    *("path", "image_path", "filepath", "filename", "file_name", "file", "image"),
    *("image_name", "image_id", "img_path", "img_name", "img", "name"),
)
LABEL_COLUMNS = ("class_name", "class", "category", "label", "labels", "target")
SPLIT_COLUMNS = ("split", "set", "subset")
# fastai's: true for the pictures of the validation split.
VALIDATION_COLUMN = "is_valid"
_TRUTH: Mapping[str, Split] = {
    **dict.fromkeys(("true", "1", "1.0", "yes"), "val"),
    **dict.fromkeys(("false", "0", "0.0", "no"), "train"),
}
# What lists of boxes call their edges, whatever else stands in between.
_BOX_COLUMNS = (
    *({"xmin", "xmax"}, {"x_min", "x_max"}, {"x1", "x2"}, {"left", "right"}, {"x", "y", "width", "height"}),
    *({"x", "y", "w", "h"}, {"bbox"}, {"bboxes"}, {"box"}, {"boxes"}, {"bbox_x", "bbox_y"}, {"x_center", "y_center"}),
    *({"xmin", "width"}, {"region_shape_attributes"}),
)

# What the folder of a split is called within which pictures lie unsorted.
_UNSORTED = re.compile(r"(images?|imgs?|photos?|pictures|jpe?gs?|pngs?|data|unknown|test\d*|val\d*)", re.IGNORECASE)

_OF_PIXELS = re.compile(r"data_batch_\d|test_batch|.*-(images|labels)[-.]idx\d-ubyte|batches\.meta")

LAYOUTS = (
    "a folder with a folder of pictures for each class, or with train, val and test folders of such; a CSV file with "
    "the columns path and label; .tar shards; Parquet files"
)


def read_dataset(
    source: str | os.PathLike[str], *, classes: Sequence[str] | None = None, root: Path | None = None
) -> DataSet:
    """Read the list of a dataset's pictures, their classes and splits; no picture is opened.

    A folder has one folder for each class, with pictures in it or deeper, or such folders below ``train``
    (``training``), ``val`` (``valid``, ``validation``) and ``test`` (``testing``), in any case: two of them, ``train``
    alone, or one that is all there is. A ``.csv`` or ``.tsv`` file names a picture a line; its columns are found by
    their names (``PATH_COLUMNS``, ``LABEL_COLUMNS``, ``SPLIT_COLUMNS`` or ``VALIDATION_COLUMN``) or, without a first
    line of names, are path and label; paths count from the file's folder, and forward and backward slashes are the
    same. A ``.tar`` file, a folder of them, or a pattern such as ``shards/train-{0000..0009}.tar`` are shards; see
    ``shards.read_shards``.

    The classes are those that have a picture in any split, in natural order (1, 2, 10), bound by their names in
    Unicode's form NFC. ``classes``, the labels that a model has already, gives the names and their order instead.

    Raises UsageError for a source that is missing, damaged or of no such layout, for lists of boxes, of several classes
    or of numbers to a picture, and for classes not in ``classes``.
    """
    text = os.fspath(source)
    path = Path(text)
    if "{" in text and not path.exists():
        # What lies before the first brace and its folder: the same for all the shards.
        folder = Path(text[: text.index("{")] + "_").parent
        files = [Path(name) for name in shards.expand_braces(text)]
        if missing := [file for file in files if not file.is_file()]:
            raise InputError(f"{missing[0]}: no such shard ({len(missing)} of {len(files)} are missing): check {text}")
        return _from_shards(folder, files, classes)
    if not path.exists():
        raise InputError(f"{text}: no such file or folder: check the path")
    name = path.name.lower()
    if path.is_file() and name.endswith((".csv", ".tsv")):
        return bind(path, _read_list(path, root or path.parent), classes)
    if root is not None:
        raise refuse_root(path, root)
    if path.is_dir():
        return _read_folder(path, classes)
    if name.endswith((".tar", *shards.COMPRESSED)):
        return _from_shards(path.parent, [path], classes, source=path)
    raise InputError(f"{text}: is no dataset: give {LAYOUTS}")


class Found(NamedTuple):
    """Pictures before their class names have become labels; ``names`` is the order of the classes if one was given."""

    entries: list[Entry]
    notes: list[str]
    names: tuple[str, ...] | None = None


def _from_shards(
    folder: Path, files: Sequence[Path], classes: Sequence[str] | None, *, source: Path | None = None
) -> DataSet:
    listed = shards.read_shards(files, folder)
    return bind(source or folder, Found(listed.entries, listed.notes, listed.classes), classes)


def _read_folder(root: Path, classes: Sequence[str] | None) -> DataSet:
    notes: list[str] = []
    below: dict[str, list[tuple[str, ...]]] = {}
    loose = 0
    unread: list[Path] = []
    for picture in find_images(root, unlisted=notes, unread=unread, videos=True):
        parts = picture.relative_to(root).parts
        if len(parts) == 1:
            loose += 1
        else:
            below.setdefault(parts[0], []).append(parts[1:])
    notes += unread_note(unread)
    tars = [path for path in root.iterdir() if path.suffix.lower() == ".tar" and path.is_file()]
    if not below:
        if files := shards.find_shards(root):
            return _from_shards(root, files, classes)
        raise InputError(_nothing_in(root, loose, notes))
    if tars:
        notes.append(f"tar files beside the folders, not read: {len(tars)}; give one of them to read it")
    if tables := sum(path.suffix.lower() in (".parquet", ".arrow") for path in root.iterdir()):
        notes.append(f"Parquet files beside the folders, not read: {tables}; give one of them to read it")
    if loose:
        notes.append(f"{_pictures(loose)} beside the folders, in none of them, passed over")

    below = _without_doubles(below)
    splits = _find_splits(below)
    if not splits:
        nested = _nested(below)
        if (nested or any("/" in folder for folder in below)) and (named := _named_splits(below)):
            return _read_splits(root, below, named, notes, classes)
        if _are_splits(below):
            which = " and ".join(printable(folder) for folder in below)
            raise InputError(
                f"{root}: {which} are splits and no classes, and hold pictures without a folder for each class: put "
                "the pictures of each class into a folder of its name, in each of them; where the pictures' boxes or "
                f"classes lie elsewhere, give {LAYOUTS}{_list_hint(root)}"
            )
        if len(below) == 1:
            (only,) = below
            if any(len(parts) > 1 for parts in below[only]):
                # What lies around a dataset is no class: nobody trains on a single one.
                inner = _read_folder(root / only, classes)
                notes.append(f"{printable(only)}: the only folder with pictures, taken for the dataset itself")
                return replace(inner, notes=(*notes, *inner.notes))
            if hint := _list_hint(root):
                raise InputError(
                    f"{root}: has all its pictures in the folder {printable(only)}, which is one class{hint}"
                )
            notes.append(f"all pictures are of one class, {printable(only)}, and a classifier needs two or more")
        if nested:
            notes.append(
                f"the classes are the folders {listed(list(below))}; those within them, {listed(nested)}, count for "
                "nothing: if they are the classes, put them into folders called train, val and test"
            )
        entries = [Entry("all", folder, root.joinpath(folder, *parts)) for folder in below for parts in below[folder]]
        return bind(root, Found(entries, notes + _empty_folders(root, [root], entries)), classes)
    return _read_splits(root, below, splits, notes, classes)


def _are_splits(below: Iterable[str]) -> bool:
    """Whether folders are splits by their names: train and test, or cars_train and cars_test."""
    names = [folder.casefold() for folder in below]
    rests = {re.sub("|".join(sorted(SPLIT_NAMES, key=len, reverse=True)), "", name) for name in names}
    return len(names) > 1 and len(rests) == 1 and len(set(_named_splits(names).values())) > 1


def _without_doubles(below: dict[str, list[tuple[str, ...]]]) -> dict[str, list[tuple[str, ...]]]:
    """Folders called by splits that hold one folder each, as seg_train/seg_train and train/train do, joined with it."""
    inner = {folder: {parts[0] for parts in pictures} for folder, pictures in below.items()}
    doubled = all(len(names) == 1 for names in inner.values())
    deep = all(len(parts) > 2 for pictures in below.values() for parts in pictures)
    if not doubled or not deep or not _named_splits([*below, *(min(names) for names in inner.values())]):
        return below
    return {f"{folder}/{min(inner[folder])}": [parts[1:] for parts in below[folder]] for folder in below}


def _find_splits(below: Mapping[str, list[tuple[str, ...]]]) -> dict[str, Split]:
    """The folders that are splits: a class may be called train, and then its pictures lie in it and not below."""
    splits = {
        folder: SPLIT_NAMES[folder.casefold()]
        for folder, pictures in below.items()
        if folder.casefold() in SPLIT_NAMES and 2 * sum(len(parts) > 1 for parts in pictures) > len(pictures)
    }
    return {} if len(splits) == 1 and "train" not in splits.values() and len(below) > 1 else splits


def _nested(below: Mapping[str, list[tuple[str, ...]]]) -> list[str]:
    """The folders that all of several folders have, two or more, where no picture lies beside them; else none."""
    inner = [{parts[0] for parts in pictures if len(parts) > 1} for pictures in below.values()]
    alone = any(len(parts) == 1 for pictures in below.values() for parts in pictures)
    common = set.intersection(*inner) if inner else set()
    return sorted(common, key=natural_key) if len(below) > 1 and len(common) > 1 and not alone else []


def _named_splits(below: Iterable[str]) -> dict[str, Split]:
    """Folders such as seg_train and seg_test, each with a split's name for one of its words; else none."""
    splits: dict[str, Split] = {}
    for folder in below:
        words = {SPLIT_NAMES[word] for word in re.findall(r"[a-z]+", folder.casefold()) if word in SPLIT_NAMES}
        if len(words) != 1:
            return {}
        splits[folder] = words.pop()
    return splits


def _read_splits(
    root: Path,
    below: Mapping[str, list[tuple[str, ...]]],
    splits: Mapping[str, Split],
    notes: list[str],
    classes: Sequence[str] | None,
) -> DataSet:
    """Folders of class folders, each a split."""
    for split, count in Counter(splits.values()).items():
        if count > 1:
            same = " and ".join(printable(folder) for folder in splits if splits[folder] == split)
            raise InputError(f"{root}: {same} are both the split {split}: rename one, or put them together")
    learned = {parts[0] for folder in splits if splits[folder] == "train" for parts in below[folder] if len(parts) > 1}
    entries = []
    for folder, pictures in below.items():
        if folder in splits:
            inner = {parts[0] for parts in pictures if len(parts) > 1}
            if len(learned) > 1 and len(inner) == 1 and not inner & learned and _UNSORTED.fullmatch(min(inner)):
                only = f"{printable(folder)}/{printable(min(inner))}"
                notes.append(f"{only}: {_pictures(len(pictures))} without classes, which train has, passed over")
                continue
            entries += [
                Entry(splits[folder], parts[0], root.joinpath(folder, *parts)) for parts in pictures if len(parts) > 1
            ]
            outside = sum(len(parts) == 1 for parts in pictures)
        else:
            outside = len(pictures)
        if outside:
            notes.append(f"{printable(folder)}: {_pictures(outside)} in no class folder of a split, passed over")
    notes += [
        f"{printable(folder)}: no pictures"
        for folder in _folders(root)
        if folder not in below and folder.casefold() in SPLIT_NAMES
    ]
    notes += _empty_folders(root, [root / folder for folder in splits], entries)
    return bind(root, Found(entries, notes), classes)


def _list_hint(root: Path) -> str:
    """What to tell of a list that lies beside pictures without classes."""
    lists = [path for path in root.iterdir() if path.suffix.lower() in (".csv", ".tsv") and path.stem != "metadata"]
    if not lists:
        return ""
    return f" (there is a list, {printable(str(min(lists)))}: give that, with --root where its paths begin elsewhere)"


def _nothing_in(root: Path, loose: int, notes: Sequence[str]) -> str:
    hint = _list_hint(root)
    if pixels := [path.name for path in root.iterdir() if _OF_PIXELS.match(path.name)]:
        return (
            f"{root}: {printable(min(pixels))} holds the pixels of pictures in a format of its own (CIFAR's, MNIST's): "
            "save them as PNG files, in a folder for each class"
        )
    if loose:
        return (
            f"{root}: {_pictures(loose)} but no class folders: put the pictures of each class into a folder of its "
            f"name{hint}"
        )
    said = f" ({'; '.join(notes)})" if notes else ""
    return f"{root}: no pictures in it{said}{hint}: give {LAYOUTS}"


def _folders(parent: Path) -> list[str]:
    """The folders in a folder that could be classes, in natural order."""
    try:
        names = [entry.name for entry in os.scandir(parent) if entry.is_dir()]
    except OSError:  # find_images has told it
        return []
    return sorted((name for name in names if not is_of_system(name)), key=natural_key)


def _empty_folders(root: Path, parents: Iterable[Path], entries: Sequence[Entry]) -> list[str]:
    used = {nfc(entry.class_name) for entry in entries}
    return [
        f"{printable((parent / name).relative_to(root).as_posix())}: an empty folder, no class"
        for parent in parents
        for name in _folders(parent)
        if nfc(name) not in used
    ]


def _read_list(path: Path, root: Path) -> Found:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text: save it as CSV in UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): check its permissions") from None
    first = text.partition("\n")[0]
    # Spreadsheets write semicolons where the comma is the decimal point.
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    entries: list[Entry] = []
    columns: _Columns | None = None
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            row = [cell.strip() for cell in row]
            if not any(row):
                continue
            if "\0" in "".join(row):
                raise InputError(f"{where}: holds a zero byte: save the list again")
            if columns is None:
                columns = _find_columns(row, path)
                if columns.named:
                    continue
            entries.append(_list_entry(row, columns, root, where))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: is no CSV ({error}): fix the line") from None
    if not entries:
        raise InputError(f"{path}: lists no pictures: write lines of path and label")
    if columns is not None and columns.may_be_many:
        check_labels(path, [entry.class_name for entry in entries])
    return Found(entries, [])


def check_labels(path: Path, labels: Sequence[str]) -> None:
    """Raise UsageError for a column that names several classes at once, or holds quantities.

    One called ``class_name`` says that they are names, and is not looked at.
    """
    known = set(labels)
    for label in known:
        parts = [part.strip() for part in re.split(r"[|;,]", label)]
        # A comma may be part of a name, as in ImageNet's; not where its parts are names themselves.
        if (
            ("|" in label and len(parts) > 1 and all(parts))
            or (len(parts) > 1 and known.issuperset(parts))
            or re.fullmatch(r"\[.*\]", label)
        ):
            raise InputError(
                f"{path}: the label {printable(label)!r} names several classes, and a picture can have one: write the "
                f"one that matters into the column, or call the column {LABEL_COLUMNS[0]} if it is one name"
            )
        if len(re.findall(_NUMBER, label)) > 1 and re.fullmatch(rf"({_NUMBER}[\s;,]*)+", label):
            raise InputError(
                f"{path}: the label {printable(label)!r} is a row of numbers and no class: write the name of the "
                f"picture's class into the column, or call the column {LABEL_COLUMNS[0]} if it is one name"
            )
    numbers = [float(label) for label in known if re.fullmatch(_NUMBER, label)]
    if len(numbers) == len(known) and (odd := [number for number in numbers if number != int(number)]):
        raise InputError(
            f"{path}: the labels are quantities, such as {min(odd):g}, and no classes, of which a picture has one: "
            f"write names for ranges of them, or call the column {LABEL_COLUMNS[0]} if they are names"
        )


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?"


def holds_boxes(row: Sequence[str], *, named: bool) -> bool:
    """Whether a line is of a list of boxes: by its columns' names if it may be ``named``, else by what is in them."""
    numbers = [re.fullmatch(_NUMBER, cell) is not None for cell in row]
    # keras-retinanet's lines are path, x1, y1, x2, y2, class, and SKU-110K's have the picture's width and height too.
    if len(row) in (6, 8) and all(numbers[1:5]) and all(numbers[6:]) and "." in row[0]:
        return True
    names = {cell.casefold() for cell in row}
    return named and any(columns.issubset(names) for columns in _BOX_COLUMNS)


class _Columns(NamedTuple):
    path: int
    label: int
    split: int | None
    split_names: Mapping[str, Split]
    width: int
    named: bool
    may_be_many: bool = True


def _find_columns(row: Sequence[str], path: Path) -> _Columns:
    names = [cell.casefold() for cell in row]
    file, label, split = (
        next((names.index(name) for name in known if name in names), None)
        for known in (PATH_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS)
    )
    split_names = SPLIT_NAMES
    if split is None and VALIDATION_COLUMN in names:
        split, split_names = names.index(VALIDATION_COLUMN), _TRUTH
    numbers = [re.fullmatch(_NUMBER, cell) is not None for cell in row]
    if holds_boxes(row, named=True) or (len(row) == 6 and not any(row[1:])):
        raise InputError(
            f"{path}, line 1: is a list of boxes and no list of classes: for a detector give it without --task "
            "classification, for a classifier keep a line and the columns path and label for each picture"
        )
    if file is not None and label is not None:
        return _Columns(file, label, split, split_names, len(row), True, names[label] != LABEL_COLUMNS[0])
    if file is not None and len(row) > 2 and label is None:
        raise InputError(
            f"{path}, line 1: names no column of classes ({', '.join(LABEL_COLUMNS)}): if each class has a column of "
            "its own, with 1 for the pictures that show it, write one column label with the class's name instead"
        )
    if len(row) > 2 and all(numbers[1:]):
        raise InputError(
            f"{path}, line 1: has {len(row) - 1} numbers to a picture, and a class is one: write lines of path and "
            "label, with the name of the one class that the picture shows"
        )
    if "." not in row[0] or len(row) < 2:
        raise InputError(
            f"{path}, line 1: names no column of pictures ({', '.join(PATH_COLUMNS)}) and one of classes "
            f"({', '.join(LABEL_COLUMNS)}), and is no path and label itself: name the columns"
        )
    return _Columns(0, 1, None, SPLIT_NAMES, len(row), False)


def _list_entry(row: list[str], columns: _Columns, folder: Path, where: str) -> Entry:
    while len(row) > columns.width and not row[-1]:
        row.pop()
    if len(row) != columns.width:
        raise InputError(f"{where}: has {len(row)} fields and line 1 has {columns.width}: fix it (quote commas)")
    file, label = row[columns.path], row[columns.label]
    if not file or not label:
        raise InputError(f"{where}: has no {'path' if not file else 'label'}: fill it in or remove the line")
    split: Split = "all"
    if columns.split is not None:
        name = row[columns.split]
        if name.casefold() not in columns.split_names:
            what = "split: write train, val or test"
            if columns.split_names is _TRUTH:
                what = f"{VALIDATION_COLUMN}: write True or False"
            raise InputError(f"{where}: {printable(name)!r} is no {what}")
        split = columns.split_names[name.casefold()]
    return Entry(split, label, folder / file.replace("\\", "/"))


def bind(source: Path, found: Found, classes: Sequence[str] | None = None) -> DataSet:
    """Turn class names into labels, and say which splits lack which classes."""
    labels_of = {name: nfc(name) for name in dict.fromkeys(entry.class_name for entry in found.entries)}
    if not labels_of:
        if found.notes:
            raise InputError(f"{source}: no pictures in it ({'; '.join(found.notes)}): give {LAYOUTS}")
        raise InputError(f"{source}: no pictures in it: give {LAYOUTS}")
    # Python stands surrogates in for the bytes of a name in another encoding.
    if odd := [name for name in labels_of if any("\ud800" <= character <= "\udfff" for character in name)]:
        raise InputError(f"{source}: a class name is not Unicode text, {listed(odd)}: rename its folder")
    present = sorted(set(labels_of.values()), key=natural_key)
    names = tuple(classes) if classes is not None else found.names or tuple(present)
    labels: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        labels.setdefault(nfc(name), []).append(index)
    if unknown := [name for name in present if name not in labels]:
        raise InputError(
            f"{source}: {len(unknown)} of {len(present)} classes are none of the {len(names)} that are known: "
            f"{listed(unknown)}: rename them, or train on them first"
        )
    if several := [name for name in present if len(labels[name]) > 1]:
        raise InputError(f"{source}: more than one of the known classes bears the name {listed(several)}: rename them")

    samples: dict[Split, list[Sample]] = {split: [] for split in SPLIT_ORDER}
    for entry in found.entries:
        label = labels[labels_of[entry.class_name]][0]
        samples[entry.split].append(Sample(entry.file, label, entry.offset, entry.size, entry.key))
    splits: dict[Split, tuple[Sample, ...]] = {split: tuple(listed) for split, listed in samples.items() if listed}
    notes = [*found.notes, *_missing_classes(names, splits), *_same_but_case(present)]
    return DataSet(source, names, splits, tuple(notes))


def _missing_classes(names: Sequence[str], splits: Mapping[Split, Sequence[Sample]]) -> list[str]:
    has = {split: {sample.label for sample in samples} for split, samples in splits.items()}
    anywhere = set().union(*has.values())
    notes = []
    if absent := [name for label, name in enumerate(names) if label not in anywhere]:
        notes.append(f"{len(absent)} of {len(names)} classes have no pictures: {listed(absent)}")
    for split, labels in has.items():
        if lacking := [names[label] for label in sorted(anywhere - labels)]:
            notes.append(f"{split} has no pictures of {len(lacking)} of {len(anywhere)} classes: {listed(lacking)}")
    return notes


def _same_but_case(names: Sequence[str]) -> list[str]:
    first: dict[str, str] = {}
    return [
        f"the classes {printable(before)} and {printable(name)} differ in nothing but case"
        for name in names
        if (before := first.setdefault(name.casefold(), name)) != name
    ]


def _pictures(count: int) -> str:
    return f"{count} picture" if count == 1 else f"{count} pictures"
