"""Writing a cleaned dataset for training: a list of pictures, or boxes in COCO's JSON. No picture is touched."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fusiform.data.annotated import AnnotatedSample, AnnotatedSet, AnnotationTask
from fusiform.data.coco import picture_folder
from fusiform.data.dataset import DataSet
from fusiform.data.folders import LABEL_COLUMNS, check_labels
from fusiform.doctor.findings import Diagnosis
from fusiform.errors import InputError, OutputError, UsageError
from fusiform.files import write_file
from fusiform.report import Cell, csv_lines


def check_listable(dataset: DataSet, path: str | os.PathLike[str]) -> None:
    """Raise UsageError if ``write_clean_list`` could not write a list of this dataset's pictures to ``path``."""
    within = {sample.file.suffix for samples in dataset.splits.values() for sample in samples if sample.key}
    if within:
        kind = "Parquet or Arrow files" if within <= {".parquet", ".arrow"} else "tar files"
        raise InputError(
            f"{dataset.source}: its pictures lie in {kind}, which a list cannot name: unpack them and examine the "
            "folder"
        )
    if Path(path).suffix.lower() != ".csv":
        raise UsageError(f"{path}: a list of pictures has a name that ends in .csv: call it so")
    if Path(path).resolve() == dataset.source.resolve():
        raise UsageError(f"{path}: is the dataset itself, which stays as it is: write the clean list elsewhere")


def write_clean_list(diagnosis: Diagnosis[DataSet], path: str | os.PathLike[str]) -> None:
    """Write ``diagnosis.clean`` as a list that ``open_dataset`` reads: CSV in UTF-8 with path, label and split.

    Paths are relative to the list's folder, or absolute where the pictures lie on another drive; data without splits
    have no column for them. No other file is touched. Raises UsageError as ``check_listable`` says, and OutputError
    where the list cannot be written.
    """
    check_listable(diagnosis.dataset, path)
    folder = Path(path).parent.resolve()
    clean = diagnosis.clean
    split_column = () if set(clean.splits) == {"all"} else ("split",)
    records: list[Sequence[Cell]] = [("path", _label_column(clean, path), *split_column)]
    for split, samples in clean.splits.items():
        for sample in samples:
            record = (_path_from(folder, sample.file), clean.classes[sample.label], split)
            if not (_is_listable(record[1]) and _is_listable(record[0]) and "\\" not in record[0]):
                raise OutputError(
                    f"{path}: cannot be written, because a list cannot hold the name of {sample.name!r}: it is not "
                    "Unicode text, begins or ends with a space, or has a backslash; rename it"
                )
            records.append(record[: 2 + len(split_column)])
    if len(records) == 1:
        raise OutputError(f"{path}: cannot be written, because no picture is left: fix the dataset first")
    write_file(path, csv_lines(records, exact=True).encode())


def _label_column(dataset: DataSet, path: str | os.PathLike[str]) -> str:
    """What to call the column of classes, so that odd names of them are read back as names."""
    try:
        check_labels(Path(path), dataset.classes)
    except UsageError:
        return LABEL_COLUMNS[0]
    return "label"


def _is_listable(cell: str) -> bool:
    """Whether a cell of a list is read back as it was: the reader takes UTF-8 and drops spaces around it."""
    return cell == cell.strip() and not any("\ud800" <= character <= "\udfff" for character in cell)


def _path_from(folder: Path, file: Path) -> str:
    try:
        return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:  # on another drive
        return file.absolute().as_posix()


def check_clean_folder(task: AnnotationTask, folder: str | os.PathLike[str]) -> None:
    """Raise UsageError if ``write_clean_boxes`` could not write a dataset for this task into ``folder``."""
    path = Path(folder)
    if task != "detection":
        raise UsageError(
            f"--fix {path}: writes lists of labelled pictures and boxes, and these are masks: leave it out, and fix "
            "the masks or outlines, or the lists in ImageSets"
        )
    if path.suffix.lower() in (".csv", ".json"):
        raise UsageError(f"--fix {path}: for boxes a folder is written, with a JSON file for each split: name a folder")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"--fix {path}: is there already: name a new or empty folder for the clean boxes")


def write_clean_boxes(diagnosis: Diagnosis[AnnotatedSet], folder: str | os.PathLike[str]) -> None:
    """Write the boxes of ``diagnosis.clean`` into a new folder, as COCO's JSON, a file for each split.

    ``open_dataset`` reads the folder; it names the pictures where they lie, relative to itself, and has no outlines.
    VOC's flag ``difficult`` is kept under that name. Raises UsageError as ``check_clean_folder`` says, and OutputError
    where the folder cannot be written, or a picture's name cannot be held.
    """
    folder = Path(folder)
    clean = diagnosis.clean
    check_clean_folder(clean.task, folder)
    ids = clean.category_ids
    if not ids or len(set(ids)) < len(ids):  # VOC has none, and two files may number their classes alike
        ids = tuple(range(1, len(clean.classes) + 1))
    files = {
        folder / f"instances_{split}.json": _coco_json(samples, clean.classes, ids, folder=folder)
        for split, samples in clean.splits.items()
        if samples
    }
    if not files:
        raise OutputError(f"{folder}: cannot be written, because no picture is left: fix the dataset first")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {folder} ({error.strerror or error}): choose another place") from None
    for file, content in files.items():
        names = [image["file_name"] for image in content["images"]]
        # The reader looks into some folders before it takes the names as they are.
        if picture_folder(file, names).resolve() != folder.resolve():
            raise OutputError(f"{folder}: lies among other pictures of the same names: choose another place")
    for file, content in files.items():
        write_file(file, json.dumps(content).encode())


def _coco_json(
    samples: Sequence[AnnotatedSample], classes: Sequence[str], ids: Sequence[int], *, folder: Path
) -> dict[str, list[dict[str, Any]]]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    numbers = [sample.image_id for sample in samples]
    if None in numbers:
        numbers = list(range(1, len(samples) + 1))
    for number, sample in zip(numbers, samples, strict=True):
        name = _path_from(folder.resolve(), sample.file)
        if "\\" in name or any("\ud800" <= character <= "\udfff" for character in name):
            raise OutputError(
                f"{folder}: cannot be written, because COCO's JSON cannot hold the name of {sample.name!r}: it is not "
                "Unicode text, or has a backslash; rename it"
            )
        assert sample.size is not None, "what is clean was measured"
        width, height = sample.size
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for box in sample.boxes or ():
            sides = box.right - box.left, box.bottom - box.top
            entry = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": ids[box.label],
                "bbox": [box.left, box.top, *sides],
                "area": sides[0] * sides[1] if box.area is None else box.area,
                "iscrowd": int(box.crowd),
            }
            annotations.append(entry | ({"difficult": 1} if box.difficult else {}))
    categories = [{"id": number, "name": name} for number, name in zip(ids, classes, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}
