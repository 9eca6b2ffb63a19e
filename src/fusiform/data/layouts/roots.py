"""Published datasets as they are downloaded: the folder that holds pictures and lists side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from fusiform.data.dataset import Entry, Split
from fusiform.data.folders import Found
from fusiform.data.image import find_images
from fusiform.data.layouts.matlab import read_numbers
from fusiform.errors import InputError
from fusiform.report import printable


class Root(NamedTuple):
    """A dataset by the files that its folder has, and what reads it."""

    has: tuple[str, ...]
    read: Callable[[Path], Found]


def find_root(folder: Path) -> str | None:
    """The name in ``ROOTS`` of the dataset whose own folder this is, or None."""
    if not folder.is_dir():
        return None
    return next((name for name, root in ROOTS.items() if all((folder / part).exists() for part in root.has)), None)


def read_root(folder: Path) -> Found:
    """The pictures, classes and splits of one of ``ROOTS``; UsageError, with the line, for lists that are damaged."""
    name = find_root(folder)
    assert name is not None
    found = ROOTS[name].read(folder)
    if not found.entries:
        raise InputError(f"{folder}: the lists of {name} name no pictures: download it again")
    return found


def _lines(file: Path, fields: int) -> Iterator[tuple[str, list[str]]]:
    """The lines of a list of words with where they stand; a last field may hold spaces."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error}): download it again") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split(None, fields - 1)
        where = f"{file}, line {number}"
        if len(words) < fields:
            raise InputError(f"{where}: has {len(words)} of {fields} fields: download the list again")
        yield where, words


def _food(folder: Path) -> Found:
    """food-101: ``meta/train.txt`` and ``test.txt`` with lines such as apple_pie/1005649."""
    splits: dict[Split, str] = {"train": "train.txt", "test": "test.txt"}
    entries = []
    for split, name in splits.items():
        if not (folder / "meta" / name).is_file():
            continue
        for where, (line,) in _lines(folder / "meta" / name, 1):
            class_name, slash, _ = line.partition("/")
            if not slash:
                raise InputError(f"{where}: is no class/picture: download the list again")
            entries.append(Entry(split, class_name, folder / "images" / f"{line.strip()}.jpg"))
    return Found(entries, _not_listed(folder / "images", entries))


def _flowers(folder: Path) -> Found:
    """flowers-102: classes and splits of ``jpg/image_00001.jpg`` and so on in two MATLAB files."""
    labels = read_numbers(folder / "imagelabels.mat").get("labels", [])
    parts = read_numbers(folder / "setid.mat")
    splits: dict[str, Split] = {"trnid": "train", "valid": "val", "tstid": "test"}
    if not labels or not any(parts.get(name) for name in splits):
        raise InputError(f"{folder}: imagelabels.mat and setid.mat lack labels, trnid, valid and tstid: download again")
    names = _flower_names(folder)
    entries = []
    for name, split in splits.items():
        for number in parts.get(name, []):
            if not 1 <= number <= len(labels):
                raise InputError(f"{folder / 'setid.mat'}: names picture {number} of {len(labels)}: download it again")
            label = str(labels[number - 1])
            entries.append(Entry(split, names.get(label, label), folder / "jpg" / f"image_{number:05d}.jpg"))
    notes = [] if names else ["its classes have numbers and no names: put cat_to_name.json beside jpg for names"]
    return Found(entries, notes + _not_listed(folder / "jpg", entries))


def _flower_names(folder: Path) -> Mapping[str, str]:
    """The names that a file spread with the dataset, ``cat_to_name.json``, gives the numbers."""
    file = folder / "cat_to_name.json"
    if not file.is_file():
        return {}
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: is not JSON ({error}): download it again, or remove it") from None
    if not isinstance(names, dict) or len(set(map(str, names.values()))) < len(names):
        raise InputError(f"{file}: does not give each number a name of its own: download it again, or remove it")
    return {str(number): str(name) for number, name in names.items()}


def _pets(folder: Path) -> Found:
    """Oxford-IIIT Pet: lists of picture, class, species and breed; the class's name begins the picture's."""
    lists: dict[str, Split] = {"trainval.txt": "train", "test.txt": "test"}
    if not any((folder / "annotations" / name).is_file() for name in lists):
        lists = {"list.txt": "all"}
    entries = []
    names: dict[str, str] = {}
    for list_name, split in lists.items():
        if not (folder / "annotations" / list_name).is_file():
            continue
        for where, (picture, number, *_) in _lines(folder / "annotations" / list_name, 4):
            class_name = picture.rpartition("_")[0]
            if not class_name or names.setdefault(number, class_name) != class_name:
                raise InputError(f"{where}: {printable(picture)} is not of class {number}: download the list again")
            entries.append(Entry(split, class_name, folder / "images" / f"{picture}.jpg"))
    return Found(entries, _not_listed(folder / "images", entries))


def _cub(folder: Path) -> Found:
    """CUB-200: numbered pictures in ``images.txt``, their classes and splits in lists of those numbers."""
    names = {number: name.strip() for _, (number, name) in _lines(folder / "classes.txt", 2)}
    classes = {number: label for _, (number, label) in _lines(folder / "image_class_labels.txt", 2)}
    training: dict[str, str] = {}
    if (folder / "train_test_split.txt").is_file():
        training = {number: flag.strip() for _, (number, flag) in _lines(folder / "train_test_split.txt", 2)}
    entries = []
    for where, (number, path) in _lines(folder / "images.txt", 2):
        name = names.get(classes.get(number, "").strip())
        flag = training.get(number)
        if name is None or (training and flag not in ("0", "1")):
            raise InputError(f"{where}: the lists give picture {number} no class or no split: download them again")
        split: Split = "all" if not training else "train" if flag == "1" else "test"
        entries.append(Entry(split, name, folder / "images" / path.strip()))
    return Found(entries, _not_listed(folder / "images", entries))


def _tiny_imagenet(folder: Path) -> Found:
    """tiny-imagenet-200: class folders in train, and in val one folder with a list."""
    train = folder / "train"
    entries = [Entry("train", path.relative_to(train).parts[0], path) for path in find_images(train)]
    for _, (picture, class_name, *_) in _lines(folder / "val" / "val_annotations.txt", 3):
        entries.append(Entry("val", class_name, folder / "val" / "images" / picture))
    notes = _not_listed(folder / "val", entries)
    if (folder / "test").is_dir() and (unknown := len(find_images(folder / "test"))):
        notes.append(f"test: {unknown:,} pictures without classes, passed over")
    return Found(entries, notes)


def _not_listed(folder: Path, entries: Iterable[Entry]) -> list[str]:
    """What to tell of pictures that no list names, and of lists that name what is not there."""
    named = {entry.file for entry in entries if entry.file.is_relative_to(folder)}
    if not folder.is_dir():
        return []
    there = set(find_images(folder))
    notes = []
    if others := len(there - named):
        notes.append(f"{printable(folder.name)}: pictures that no list names, passed over: {others:,}")
    if missing := len(named - there):
        notes.append(f"{printable(folder.name)}: pictures that the lists name and that are not there: {missing:,}")
    return notes


ROOTS: Mapping[str, Root] = {
    "food-101": Root(("images", "meta/train.txt"), _food),
    "flowers-102": Root(("jpg", "imagelabels.mat", "setid.mat"), _flowers),
    "Oxford-IIIT Pet": Root(("images", "annotations/list.txt"), _pets),
    "CUB-200": Root(("images", "images.txt", "image_class_labels.txt", "classes.txt"), _cub),
    "tiny-imagenet-200": Root(("train", "val/val_annotations.txt"), _tiny_imagenet),
}
"""By name; the first whose files are all there is the one."""
