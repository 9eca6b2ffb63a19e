"""Masks from the outlines in COCO's JSON, and pictures under the odd names of other tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusiform.data.annotated import AnnotatedSet
from fusiform.data.coco import read_coco
from fusiform.data.faults import AnnotationFault
from fusiform.data.open import open_dataset
from fusiform.doctor.job import diagnose
from fusiform.errors import UsageError

SQUARE = [[2, 2, 8, 2, 8, 6, 2, 6]]
COUNTS = {"size": [12, 20], "counts": [26, 4, 8, 4, 198]}
"""Of the fourth and fifth column's rows 2 to 5... whose picture is 20 wide and 12 high."""


def document(*segmentations: Any, **more: Any) -> dict[str, Any]:
    """A picture for each outline, with one object."""
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 20, "height": 12} for i in range(1, len(segmentations) + 1)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 7, "bbox": [1, 1, 5, 5], "segmentation": outline, **more}
            for i, outline in enumerate(segmentations, 1)
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 7, "name": "cat"}],
    }


def save(root: Path, content: dict[str, Any]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for entry in content["images"]:
        Image.new("RGB", (20, 12), (0, entry["id"] * 20, 9)).save(root / entry["file_name"])
    (root / "outlines.json").write_text(json.dumps(content))
    return root


def labels(data: AnnotatedSet, i: int = 0) -> Any:
    return data.splits["all"][i].read_labels((20, 12), classes=len(data.classes))


def test_polygons_and_run_lengths_become_labels_by_category(tmp_path: Path) -> None:
    two_parts = [[0, 0, 2, 0, 2, 2, 0, 2], [10, 4, 14, 4, 14, 8, 10, 8]]
    content = document(SQUARE, two_parts, COUNTS, ["2", 2, 8, 2, 8, 6, 2, 6])
    content["annotations"][1]["category_id"] = 9
    data = open_dataset(save(tmp_path / "data", content), task="segmentation")
    assert data.classes == ("background", "cat", "dog")
    expected = np.zeros((12, 20), np.uint8)
    expected[2:6, 2:8] = 1
    assert (labels(data) == expected).all()
    assert (labels(data, 3) == expected).all()
    parts = np.zeros((12, 20), np.uint8)
    parts[:2, :2] = parts[4:8, 10:14] = 2
    assert (labels(data, 1) == parts).all()
    runs = np.zeros((12, 20), np.uint8)
    runs[2:6, 2:4] = 1
    assert (labels(data, 2) == runs).all()


def test_crowds_are_of_no_class_and_lie_below_objects(tmp_path: Path) -> None:
    content = document(SQUARE)
    content["annotations"].append(
        {"id": 5, "image_id": 1, "category_id": 9, "bbox": [0, 0, 20, 12], "segmentation": COUNTS, "iscrowd": 1}
    )
    content["annotations"][1]["segmentation"] = {"size": [12, 20], "counts": [0, 120, 120]}
    data = open_dataset(save(tmp_path / "data", content), task="segmentation")
    expected = np.zeros((12, 20), np.uint8)
    expected[:, :10] = 255
    expected[2:6, 2:8] = 1
    assert (labels(data) == expected).all()
    with pytest.raises(UsageError, match="--ignore none is for masks, and here are outlines"):
        open_dataset(tmp_path / "data", task="segmentation", ignore="none")


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ({"size": [12, 20], "counts": [26, 4, 8, 4]}, "its run lengths cannot be read"),
        ({"size": [12, 20], "counts": "~~"}, "its run lengths cannot be read"),
        ({"size": [12, 20], "counts": [26, 4, 8, 4.5]}, "its run lengths cannot be read"),
        ({"size": [10, 10], "counts": [50, 50]}, "is of another size"),
        ({"counts": [50, 50]}, "size must be height and width"),
        ([[2, 2, 8, 2, 8]], "segmentation must be polygons"),
        ([[2, 2, None, 2, 8, 6]], "segmentation must be polygons"),
        ("here", "segmentation must be polygons"),
        ([], ""),
        (None, ""),
    ],
)
def test_a_picture_with_a_damaged_outline_or_none_is_left_out(outline: Any, message: str, tmp_path: Path) -> None:
    root = save(tmp_path / "data", document(SQUARE, outline))
    data = open_dataset(root, task="segmentation")
    assert [sample.file.name for sample in data.splits["all"]] == ["1.png"]
    assert "1 of 2 pictures have annotations that cannot be used, left out" in " ".join(data.notes)
    assert message in " ".join(data.notes)
    faults: list[AnnotationFault] = []
    marked = read_coco(root, "segmentation", faults=faults)
    assert [sample.damaged for sample in marked.splits["all"]] == [False, True]
    assert [fault for fault in faults if message in fault.message]
    diagnosis = diagnose(root, task="segmentation")
    assert diagnosis.count("error") >= 1
    assert [sample.file.name for sample in diagnosis.clean.splits["all"]] == ["1.png"]  # type: ignore[union-attr]


def test_a_set_of_boxes_alone_is_refused_for_segmentation(tmp_path: Path) -> None:
    root = save(tmp_path / "data", document(None, []))
    with pytest.raises(UsageError, match="has boxes and no outlines, and a segmenter learns from outlines"):
        open_dataset(root, task="segmentation")
    with pytest.raises(UsageError, match=r"--fix .*these are masks"):
        diagnose(save(tmp_path / "more", document(SQUARE)), task="segmentation", fix=tmp_path / "clean")


def test_boxes_come_from_run_lengths_where_there_are_none(tmp_path: Path) -> None:
    root = save(tmp_path / "data", document(COUNTS, bbox=None))
    data = open_dataset(root, task="detection")
    (box,) = data.splits["all"][0].boxes or ()
    assert (box.left, box.top, box.right, box.bottom) == (2, 2, 4, 6)


def test_a_background_among_the_categories_is_the_background(tmp_path: Path) -> None:
    content = document(SQUARE, SQUARE)
    content["categories"].insert(0, {"id": 0, "name": "Background"})
    content["annotations"][1]["category_id"] = 0
    data = open_dataset(save(tmp_path / "data", content), task="segmentation")
    assert data.classes == ("background", "cat", "dog")
    assert labels(data, 0).any()
    assert not labels(data, 1).any()


def test_more_classes_than_a_mask_has_values_are_refused(tmp_path: Path) -> None:
    content = document(SQUARE)
    content["categories"] += [{"id": i, "name": f"c{i}"} for i in range(100, 360)]
    with pytest.raises(UsageError, match="has 263 classes, and a mask holds 255 with the background"):
        open_dataset(save(tmp_path / "data", content), task="segmentation")


def test_the_fingerprint_knows_the_outlines(tmp_path: Path) -> None:
    one, other = (
        open_dataset(save(tmp_path / name / "data", document(outline)), task="segmentation")
        for name, outline in (("a", SQUARE), ("b", COUNTS))
    )
    again = open_dataset(save(tmp_path / "c" / "data", document(SQUARE)), task="segmentation")
    assert one.fingerprint() == again.fingerprint() != other.fingerprint()


@pytest.mark.parametrize(
    "form",
    [
        "/label-studio/data/media/upload/3/0a1b2c3d-{}",
        "/data/local-files/?d=photos/{}",
        "/data/local-files/?d=photos%2F{}&x=1",
        "..\\..\\upload\\{}",
        "s3://bucket/some where/{}",
        "https://example.org/{}?token=a/b",
        "images/DEADBEEF-{}",
    ],
)
def test_names_of_other_tools_are_tried_by_their_last_part_and_told(form: str, tmp_path: Path) -> None:
    content = document(SQUARE, SQUARE)
    root = save(tmp_path / "data" / "images", content).parent
    (root / "images" / "outlines.json").unlink()
    for entry in content["images"]:
        entry["file_name"] = form.format(entry["file_name"])
    (root / "result.json").write_text(json.dumps(content))
    data = open_dataset(root)
    assert isinstance(data, AnnotatedSet)
    assert [sample.file.name for sample in data.splits["all"]] == ["1.png", "2.png"]
    assert "all: 2 of 2 pictures are not where they are said to be, such as" in data.notes[0]
    # Two pictures of the same last part in two folders: neither can be told from the other.
    for name in ("other/1.png", "other/01234567-1.png"):
        content["images"][1]["file_name"] = name
        (root / "result.json").write_text(json.dumps(content))
        with pytest.raises(UsageError, match=r"2 of 2 pictures are not there|none of its 2 pictures is there"):
            open_dataset(root)


def test_a_picture_of_another_split_is_never_taken(tmp_path: Path) -> None:
    content = document(SQUARE, SQUARE)
    save(tmp_path / "data" / "val", content)
    (tmp_path / "data" / "val" / "outlines.json").unlink()
    save(tmp_path / "data" / "train", document(SQUARE))
    (tmp_path / "data" / "train" / "outlines.json").unlink()
    (tmp_path / "data" / "annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / "data" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    data = open_dataset(tmp_path / "data")
    assert [len(samples) for samples in data.splits.values()] == [1, 2]
    assert "train: 1 of 2 pictures are not there: 2.png" in data.notes


@pytest.mark.parametrize(
    "outline",
    [
        {"size": [10**6, 10**6], "counts": [10**12]},
        {"size": [10**6, 10**6], "counts": [0, 10**12]},
        [[2, 2, 1e9, 2, 8, 6, 2, 6]],
        [[2, 2, 1e300, 2, 8, 6]],
    ],
)
def test_outlines_for_giants_cost_nothing(outline: Any, tmp_path: Path) -> None:
    root = save(tmp_path / "data", document(SQUARE, outline, bbox=None))
    for task in ("detection", "segmentation"):
        data = open_dataset(root, task=task)  # type: ignore[call-overload]
        assert "1.png" in [sample.file.name for sample in data.splits["all"]]
    assert [sample.file.name for sample in open_dataset(root, task="segmentation").splits["all"]] == ["1.png"]


def test_a_name_too_long_for_a_file_is_not_there(tmp_path: Path) -> None:
    content = document(SQUARE, SQUARE)
    root = save(tmp_path / "data", content)
    content["images"][1]["file_name"] = "9" * 5000
    (root / "outlines.json").write_text(json.dumps(content))
    data = open_dataset(root)
    assert [sample.file.name for sample in data.splits["all"]] == ["1.png"]
