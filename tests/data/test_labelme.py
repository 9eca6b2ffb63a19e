from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fusiform.data.annotated import AnnotatedSet
from fusiform.data.faults import AnnotationFault
from fusiform.data.layouts.labelme import read_labelme
from fusiform.data.open import open_dataset, recognise
from fusiform.doctor.job import diagnose
from fusiform.errors import UsageError

RECTANGLE = {"label": "cat", "points": [[2, 3], [12, 13]], "shape_type": "rectangle", "flags": {}}


def annotate(root: Path, name: str, shapes: Any, picture: bool = True, **more: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    if picture:
        Image.new("RGB", (40, 30), (len(name) * 9 % 250, 80, 9)).save(root / f"{name}.jpg")
    content = {"imagePath": f"{name}.jpg", "imageData": None, "imageWidth": 40, "imageHeight": 30, "shapes": shapes}
    (root / f"{name}.json").write_text(json.dumps(content | more))
    return root


def edges(data: AnnotatedSet) -> dict[str, list[tuple[str, float, float, float, float]]]:
    return {
        sample.file.stem: [
            (data.classes[box.label], *(round(v, 3) for v in (box.left, box.top, box.right, box.bottom)))  # type: ignore[misc]
            for box in sample.boxes or ()
        ]
        for samples in data.splits.values()
        for sample in samples
    }


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        (RECTANGLE, (2, 3, 12, 13)),
        (RECTANGLE | {"points": [[12, 3], [2, 13]]}, (2, 3, 12, 13)),
        (RECTANGLE | {"points": [[-5, 3], [12.5, 50]]}, (0, 3, 12.5, 30)),
        ({"label": "cat", "points": [[2, 3], [12, 4], [5, 13]]}, (2, 3, 12, 13)),  # the first versions' polygons
        (
            {"label": "cat", "points": [[2, 3], [12, 4], [5, 13]], "shape_type": "polygon", "group_id": 1},
            (2, 3, 12, 13),
        ),
        ({"label": "cat", "points": [[10, 10], [13, 14]], "shape_type": "circle"}, (5, 5, 15, 15)),
        (
            {"label": "cat", "points": [[5, 2], [9, 6], [6, 9], [2, 5]], "shape_type": "oriented_rectangle"},
            (2, 2, 9, 9),
        ),
    ],
)
def test_every_shape_has_its_box(shape: dict[str, Any], box: tuple[float, ...], tmp_path: Path) -> None:
    data = read_labelme(annotate(tmp_path / "data", "a", [shape]))
    assert edges(data) == {"a": [("cat", *box)]}
    assert not data.splits["all"][0].damaged


def test_points_and_lines_are_told_and_are_no_background_of_their_class(tmp_path: Path) -> None:
    root = annotate(tmp_path / "data", "a", [RECTANGLE])
    annotate(root, "bb", [RECTANGLE, {"label": "nose", "points": [[1, 2]], "shape_type": "point"}])
    annotate(root, "ccc", [{"label": "cat", "points": [[1, 2], [3, 4]], "shape_type": "line"}])
    data = read_labelme(root)
    assert set(edges(data)) == {"a", "bb"}
    assert data.classes == ("cat",)
    assert "1 objects are points, which have no area, not read" in data.notes
    assert "1 objects are lines, which have no area, not read" in data.notes
    assert [note for note in data.notes if "1 of 3 pictures have annotations that cannot be used" in note]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([RECTANGLE, {"points": [[1, 2], [3, 4]], "shape_type": "rectangle"}], "label must be the name of a class"),
        ([RECTANGLE | {"points": [[1, 2]]}], "a rectangle has 2 points or more, got 1"),
        ([RECTANGLE | {"points": [[1, None], [3, 4]]}], "points must be pairs of numbers"),
        ([RECTANGLE | {"points": "1 2 3 4"}], "points must be pairs of numbers"),
        ([RECTANGLE | {"shape_type": "cuboid"}], "is a 'cuboid', which is not read"),
        ([RECTANGLE | {"shape_type": "mask", "mask": "AAAA"}], "its mask cannot be read"),
        ([RECTANGLE | {"label": "\ud800"}], "label must be the name of a class"),
        ([7], "must be an object, got 7"),
        ({"a": 1}, "shapes must be a list"),
    ],
)
def test_a_damaged_picture_is_left_out_and_never_background(shapes: Any, message: str, tmp_path: Path) -> None:
    root = annotate(annotate(tmp_path / "data", "a", [RECTANGLE]), "bb", shapes)
    data = read_labelme(root)
    assert set(edges(data)) == {"a"}
    assert [note for note in data.notes if message in note and "1 of 2 pictures" in note]
    faults: list[AnnotationFault] = []
    marked = read_labelme(root, faults=faults)
    assert [sample.damaged for sample in marked.splits["all"]] == [False, True]
    assert [fault.kind for fault in faults] == ["damaged annotation"]
    assert message in faults[0].message
    clean = diagnose(root, fix=tmp_path / "clean").clean
    assert [sample.file.stem for sample in clean.splits["all"]] == ["a"]  # type: ignore[union-attr]
    assert set(edges(open_dataset(tmp_path / "clean", task="detection"))) == {"a"}


def test_pictures_without_a_file_and_files_without_a_picture(tmp_path: Path) -> None:
    root = annotate(tmp_path / "data", "a", [RECTANGLE])
    annotate(root, "empty", [])
    annotate(root, "gone", [RECTANGLE], picture=False)
    Image.new("RGB", (40, 30)).save(root / "nobody.jpg")
    (root / "settings.json").write_text('{"color": 1}')
    data = read_labelme(root)
    assert edges(data) == {"a": [("cat", 2, 3, 12, 13)], "empty": []}
    assert "1 of 3 pictures have no JSON of their name, left out: nobody.jpg" in data.notes
    assert "1 files of LabelMe's have no picture, passed over: gone.json" in data.notes
    assert "1 JSON files are not LabelMe's, passed over: settings.json" in data.notes
    faults: list[AnnotationFault] = []
    read_labelme(root, faults=faults)
    assert {(fault.kind, fault.file.name) for fault in faults} == {
        ("missing annotation", "nobody.jpg"),
        ("missing picture", "gone.json"),
    }


def test_pictures_within_the_files_alone_are_refused(tmp_path: Path) -> None:
    root = annotate(tmp_path / "data", "a", [RECTANGLE], picture=False, imageData="aGVsbG8=")
    with pytest.raises(UsageError, match="export the pictures that are within the files"):
        read_labelme(root)


def test_two_files_about_one_picture_are_ambiguous(tmp_path: Path) -> None:
    root = annotate(annotate(tmp_path / "data", "a", [RECTANGLE]), "bb", [RECTANGLE])
    annotate(root, "copy", [RECTANGLE], picture=False, imagePath="a.jpg")
    data = read_labelme(root)
    assert set(edges(data)) == {"bb"}
    assert [note for note in data.notes if "is about a.jpg, as" in note]


def test_the_files_of_one_split_never_meet_the_pictures_of_another(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for split in ("train", "val"):
        annotate(root / split, "a", [RECTANGLE], imagePath="../elsewhere/a.jpg")
    (root / "val" / "a.jpg").unlink()
    data = read_labelme(root)
    assert list(data.splits) == ["train"]
    assert "1 files of LabelMe's have no picture, passed over: a.json" in data.notes


def test_few_annotations_are_read_when_the_task_is_named(tmp_path: Path) -> None:
    root = annotate(tmp_path / "data", "a", [RECTANGLE])
    for i in range(9):
        Image.new("RGB", (40, 30), (i, 0, 0)).save(root / f"more{i}.jpg")
    assert recognise(root) is None
    data = open_dataset(root, task="detection")
    assert set(edges(data)) == {"a"}
    assert "9 of 10 pictures have no JSON of their name" in data.notes[0]
