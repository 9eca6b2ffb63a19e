"""A dataset one or more folders further down than the one that was named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from fusiform.data.dataset import SPLIT_NAMES
from fusiform.data.image import EXTENSIONS, is_of_system, natural_key
from fusiform.data.names import listed
from fusiform.errors import InputError
from fusiform.report import printable

_DEEPEST = 5
# What a dataset may have in its own folder beside folders; texts and archives lie anywhere.
_OF_DATASETS = frozenset((".csv", ".tsv", ".jsonl", ".json", ".yaml", ".yml", ".xml", ".tar", ".parquet", ".arrow"))


def step_inside(path: Path, is_dataset: Callable[[Path], bool]) -> tuple[Path, list[str]]:
    """The folder that is the dataset where ``path`` only lies around it, and notes that tell of each step.

    A folder is stepped into where it is all that there is and is a dataset, by ``is_dataset``, or holds folders itself;
    and where it is Pascal VOC's, of one year. A class with its pictures is not, nor is a split. Raises UsageError for
    several years.
    """
    start = path
    notes: list[str] = []
    while path.is_dir() and len(path.parts) - len(start.parts) < _DEEPEST:
        inner = _only_folder(path, is_dataset) or _only_year(path)
        if inner is None or is_dataset(path):
            break
        notes.append(f"{printable(path.name)}: the dataset is the folder {printable(inner.name)} within it")
        path = inner
    return path, notes


def _only_folder(path: Path, is_dataset: Callable[[Path], bool]) -> Path | None:
    folders, own = _content(path)
    if len(folders) != 1 or own:
        return None
    (inner,) = folders
    if inner.name.casefold() in SPLIT_NAMES:
        return None
    further, own = _content(inner)
    return inner if further or is_dataset(inner) or _has_tables(own) else None


def _only_year(path: Path) -> Path | None:
    """The one folder of Pascal VOC's within its development kit, beside code and results."""
    folders, _ = _content(path)
    years = [folder for folder in folders if (folder / "JPEGImages").is_dir()]
    if len(years) > 1:
        names = listed([year.name for year in years])
        raise InputError(
            f"{path}: holds several datasets, {names}: give one of them, such as {printable(str(years[-1]))}"
        )
    return years[0] if years and not any(_has_pictures(folder) for folder in folders if folder not in years) else None


def _content(path: Path) -> tuple[list[Path], list[str]]:
    """The folders in a folder, and the names of files that a dataset could have there."""
    folders: list[Path] = []
    own: list[str] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if is_of_system(entry.name):
                    continue
                ending = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122  # a Path for each takes seconds
                if entry.is_dir():
                    folders.append(path / entry.name)
                elif EXTENSIONS.fullmatch(ending) or ending in _OF_DATASETS:
                    own.append(entry.name)
    except OSError:  # who reads the dataset tells it
        return [], []
    return sorted(folders, key=lambda folder: natural_key(folder.name)), own


def _has_tables(names: list[str]) -> bool:
    return any(name.lower().endswith((".parquet", ".arrow")) for name in names)


def _has_pictures(folder: Path) -> bool:
    return any(EXTENSIONS.fullmatch(Path(name).suffix) for _, _, names in os.walk(folder) for name in names)
