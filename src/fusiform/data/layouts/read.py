"""Datasets of labelled pictures in every layout but boxes and masks: which reader each needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fusiform.data.dataset import DataSet
from fusiform.data.folders import bind, read_dataset
from fusiform.data.foreign import check_unannotated
from fusiform.data.layouts.metadata import read_metadata, unlabelled_note
from fusiform.data.layouts.parquet import read_tables
from fusiform.data.layouts.rooted import check_there
from fusiform.data.layouts.roots import find_root, read_root


def read_published(source: Path) -> DataSet:
    """One of ``roots.ROOTS``; raises what its reader raises."""
    found = read_root(source)
    return replace(bind(source, found), layout=find_root(source) or "")


def read_image_folder(source: Path, root: Path | None = None) -> DataSet:
    """Hugging Face's ImageFolder with labels, see ``read_metadata``; ``root`` is where the paths begin."""
    found = read_metadata(source, root)
    check_there(source, [entry.file for entry in found.entries], root)
    return bind(source, found)


def read_table_files(source: Path) -> DataSet:
    """Parquet and Arrow files with their pictures, see ``read_tables``."""
    return bind(source, read_tables(source))


def read_classes(source: Path, root: Path | None = None) -> DataSet:
    """Class folders, CSV lists and tar shards, see ``read_dataset``; UsageError where they are for another task."""
    notes: list[str] = []
    if source.is_dir():
        notes = check_unannotated(source) + unlabelled_note(source)
    data = read_dataset(source, root=root)
    samples = [sample for samples in data.splits.values() for sample in samples]
    layout = "tar shards" if any(sample.key for sample in samples) else "class folders"
    if source.is_file() and source.suffix.lower() in (".csv", ".tsv"):
        check_there(source, [sample.file for sample in samples], root)
        layout = "a list"
    return replace(data, notes=(*data.notes, *notes), layout=layout)
