from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fusiform.data.annotated import AnnotatedSet
from fusiform.data.dataset import DataSet
from fusiform.data.faults import AnnotationFault
from fusiform.data.layouts.huggingface_boxes import read_huggingface_boxes
from fusiform.data.open import open_dataset, recognise
from fusiform.doctor.job import diagnose
from fusiform.errors import UsageError

GOOD = {"bbox": [[2, 3, 10, 10], [0, 0, 40, 30]], "categories": ["cat", "dog"]}


def folder(root: Path, **lines: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(lines):
        Image.new("RGB", (40, 30), (i * 40, 80, 9)).save(root / f"{name}.png")
    text = "".join(json.dumps({"file_name": f"{name}.png", "objects": found}) + "\n" for name, found in lines.items())
    (root / "metadata.jsonl").write_text(text)
    return root


def edges(data: DataSet | AnnotatedSet) -> dict[str, list[tuple[str, float, float, float, float]]]:
    assert isinstance(data, AnnotatedSet)
    return {
        sample.file.stem: [
            (data.classes[box.label], box.left, box.top, box.right, box.bottom) for box in sample.boxes or ()
        ]
        for samples in data.splits.values()
        for sample in samples
    }


BOTH = [("cat", 2, 3, 12, 13), ("dog", 0, 0, 40, 30)]


@pytest.mark.parametrize(
    "objects",
    [
        GOOD,
        {"bbox": [[2.0, 3, 10, 10], [0, 0, 40, 30]], "category": ["cat", "dog"], "area": [100, 1200], "id": [1, 2]},
        {"boxes": GOOD["bbox"], "labels": GOOD["categories"]},
        [{"bbox": [2, 3, 10, 10], "label": "cat"}, {"bbox": [0, 0, 40, 30], "label": "dog"}],
    ],
)
def test_every_form_is_read_and_empty_lists_are_background(objects: Any, tmp_path: Path) -> None:
    root = folder(tmp_path / "data", a=objects, b={"bbox": [], "categories": []}, c=None)
    assert recognise(root) == "detection"
    data = open_dataset(root)
    assert edges(data) == {"a": BOTH, "b": [], "c": []}
    assert edges(open_dataset(root / "metadata.jsonl")) == edges(data)


def test_numbers_without_names_are_their_own(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", a={"bbox": [[2, 3, 10, 10]], "categories": [7]})
    data = open_dataset(root)
    assert data.classes == ("7",)
    assert data.notes == (
        "neither dataset_info.json nor README.md names the classes: they are called by their numbers 7",
    )
    (root / "dataset_info.json").write_text(json.dumps({"features": {"objects": {"category": {"names": ["x"]}}}}))
    with pytest.raises(UsageError, match="has the category 7, and there are 1 names"):
        open_dataset(root)


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ({"bbox": [[2, 3, 10]], "categories": ["cat"]}, "bbox must be x, y, width and height"),
        ({"bbox": [[2, 3, 10, None]], "categories": ["cat"]}, "bbox must be x, y, width and height"),
        ({"bbox": [[2, 3, 10, 10], [1, 1, 5, 5]], "categories": ["cat"]}, "as many categories as boxes"),
        ({"bbox": [[2, 3, 10, 10]], "categories": [None]}, "a category must be a name or a number"),
        ({"bbox": [[2, 3, 10, 10]]}, "its objects have no categories"),
        ([7], "its objects have no bbox"),
    ],
)
def test_a_damaged_picture_is_left_out_and_never_background(objects: Any, message: str, tmp_path: Path) -> None:
    root = folder(tmp_path / "data", a=GOOD, b=objects)
    data = open_dataset(root)
    assert edges(data) == {"a": BOTH}
    assert [note for note in data.notes if message in note and "1 of 2 pictures" in note]
    diagnosis = diagnose(root, fix=tmp_path / "clean")
    assert [finding.kind for finding in diagnosis.findings if finding.severity == "error"] == ["damaged annotation"]
    assert edges(open_dataset(tmp_path / "clean")) == {"a": BOTH}


def test_corners_for_sizes_are_refused(tmp_path: Path) -> None:
    corners = {"bbox": [[10, 10, 38, 28], [20, 5, 39, 29]], "categories": ["cat", "cat"]}
    with pytest.raises(UsageError, match="2 of its 2 boxes reach out of their pictures as x, y, width and height"):
        open_dataset(folder(tmp_path / "data", a=corners))
    # One of many is a box that reaches out, and is clipped.
    many = {"bbox": [[10, 10, 38, 28], *([[1, 1, 5, 5]] * 9)], "categories": ["cat"] * 10}
    assert edges(open_dataset(folder(tmp_path / "many", a=many)))["a"][0] == ("cat", 10, 10, 40, 30)


def test_pictures_not_there_and_not_listed(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", a=GOOD, b=GOOD)
    (root / "b.png").rename(root / "c.png")
    assert "1 pictures are not in metadata.jsonl, left out: c.png" in open_dataset(root).notes
    assert "1 of 2 pictures are not there: b.png" in open_dataset(root).notes
    faults: list[AnnotationFault] = []
    read_huggingface_boxes(root, faults=faults)
    assert [(fault.kind, fault.file.name) for fault in faults] == [
        ("pictures not used", "metadata.jsonl"),
        ("missing picture", "b.png"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: is no JSON"),
        ("[1]", "line 2: must be an object"),
        ('{"objects": {}}', "line 2: names no picture"),
    ],
)
def test_damaged_lines_are_refused(line: str, message: str, tmp_path: Path) -> None:
    root = folder(tmp_path / "data", a=GOOD)
    with (root / "metadata.jsonl").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(UsageError, match=message):
        open_dataset(root)


def test_metadata_of_classes_is_not_of_boxes(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", a=GOOD)
    (root / "metadata.jsonl").write_text('{"file_name": "a.png", "label": "cat"}\n')
    assert recognise(root) is None
