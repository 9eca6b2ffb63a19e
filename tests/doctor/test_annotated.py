"""Boxes with planted faults: all of them are found, and nothing else."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fusiform.data.annotated import AnnotatedSample, BoxLabel
from fusiform.data.coco import read_coco
from fusiform.data.dataset import Split
from fusiform.doctor.annotated import examine_annotated
from fusiform.doctor.boxes import SAME, about_boxes, same_objects, same_pairs, without_copies
from fusiform.doctor.clean import write_clean_boxes
from fusiform.doctor.thumbnails import Mark, annotated_thumbnail
from fusiform.drawing.overlay import color_of
from fusiform.errors import UsageError
from fusiform.tasks.detection import iou_matrix

sys.path.insert(0, str(Path(__file__).parent))

from spoiled_pictures import HEIGHT, WIDTH, found, message, photograph, save

sys.path.pop(0)


# COCO's boxes

BOXES: dict[int, list[tuple[str, list[float]]]] = {
    1: [("cat", [10, 10, 60, 50]), ("dog", [80, 60, 100, 80])],
    2: [("cat", [20, 20, 0, 40])],
    3: [("dog", [300, 10, 50, 50])],
    4: [("cat", [150, 100, 100, 80])],
    # Twice the same, and once a pixel larger: 50 * 50 of 51 * 51 pixels are 96 %.
    5: [("cat", [10, 10, 50, 50]), ("cat", [10, 10, 50, 50]), ("dog", [100, 50, 50, 50]), ("dog", [100, 50, 51, 51])],
    6: [("cat", [10, 10, 50, 50]), ("dog", [10, 10, 50, 50])],
    # 3 of 200 pixels are 4.8 of 320, and 2 of them 3.2.
    7: [("dog", [30, 30, 3, 40]), ("dog", [60, 30, 2, 40])],
    8: [],
    9: [("cat", [10, 10, 60, 50])],
    10: [("cat", [10, 10, 90, 90])],
    11: [("cat", [10, 10, 90, 90])],
    12: [("cat", [10, 10, 90, 90])],
    20: [("cat", [10, 10, 60, 50]), ("dog", [80, 60, 100, 80])],
    21: [("bird", [10, 10, 60, 50]), ("dog", [80, 60, 100, 80]), ("cat", [80, 60, 100, 40])],
}
NAMES = {"cat": 3, "dog": 7, "bird": 9, "fish": 12}


def coco_json(numbers: range) -> dict[str, list[Any]]:
    listed = [n for n in numbers if n in BOXES]
    return {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": WIDTH, "height": HEIGHT} for n in listed],
        "annotations": [
            {"image_id": n, "category_id": NAMES[name], "bbox": bbox, "iscrowd": 0, "area": 0.5 * bbox[2] * bbox[3]}
            for n in listed
            for name, bbox in BOXES[n]
        ],
        "categories": [{"id": number, "name": name} for name, number in NAMES.items()],
    }


@pytest.fixture
def spoiled(tmp_path: Path) -> Path:
    """Boxes with a fault of every kind."""
    root = tmp_path / "boxes"
    for n in BOXES:
        save(root / ("train" if n < 20 else "val") / f"{n}.jpg", n)
    train = root / "train"
    shutil.copy(train / "1.jpg", root / "val/20.jpg")
    whole = (train / "10.jpg").read_bytes()
    (train / "10.jpg").write_bytes(whole[: len(whole) // 2])
    (train / "11.jpg").unlink()
    save(train / "12.jpg", 12, width=HEIGHT, height=WIDTH)
    content = coco_json(range(20))
    content["annotations"] += [
        {"image_id": 1, "category_id": 77, "bbox": [1, 2, 30, 40]},
        {"image_id": 999, "category_id": 3, "bbox": [1, 2, 30, 40]},
        {"image_id": 1, "category_id": 3},
    ]
    (root / "annotations").mkdir()
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    (root / "annotations/instances_val.json").write_text(json.dumps(coco_json(range(20, 30))))
    return root


def test_every_fault_of_boxes_is_found_and_nothing_else(spoiled: Path) -> None:
    diagnosis = examine_annotated(spoiled, "detection")
    listing = "annotations/instances_train.json"
    assert found(diagnosis) == {
        ("error", "damaged entry", listing),
        ("error", "unknown category", listing),
        ("error", "unknown picture", listing),
        ("error", "box of no area", "train/2.jpg"),
        ("error", "box outside", "train/3.jpg"),
        ("warning", "box reaching out", "train/4.jpg"),
        ("warning", "box twice", "train/5.jpg"),
        ("warning", "box of two classes", "train/6.jpg"),
        ("note", "small boxes", "train/7.jpg"),
        ("error", "truncated", "train/10.jpg"),
        ("error", "missing picture", "train/11.jpg"),
        ("error", "picture of another size", "train/12.jpg"),
        ("error", "leak between splits", "train/1.jpg"),
        ("warning", "class not learned", "bird"),
        ("warning", "empty class", "fish"),
        ("note", "nothing annotated", "train"),
    }
    assert [f.severity for f in diagnosis.findings] == sorted(
        (f.severity for f in diagnosis.findings), key=["error", "warning", "note"].index
    )
    assert message(diagnosis, "damaged entry") == "annotations[19]: has no bbox: write it there"
    assert message(diagnosis, "unknown category").startswith("does not list the categories 77, of which 1 of its 19")
    assert "box of cat from (150, 100) to (250, 180) reaches out of the picture of 200 x 150" in message(
        diagnosis, "box reaching out"
    )
    assert message(diagnosis, "small boxes").startswith("1 of its boxes is less than 4 pixels wide or high")
    assert "dog of 2 x 40" in message(diagnosis, "small boxes")
    twice = sorted(f.message for f in diagnosis.findings if f.kind == "box twice")
    assert twice == [
        "two boxes of cat at (10, 10) are the same: remove one (--fix does)",
        "two boxes of dog at (100, 50) cover each other by 96%: remove one",
    ]
    (leak,) = (f for f in diagnosis.findings if f.kind == "leak between splits")
    assert leak.message.startswith("is byte for byte the same as val/20.jpg in val, so that figures on val")
    (empty,) = (f for f in diagnosis.findings if f.kind == "nothing annotated")
    # Those whose only boxes could not be used show nothing now, too.
    assert [other.file.name for other in empty.others] == ["2.jpg", "3.jpg", "8.jpg"]
    assert empty.message.startswith("3 of 11 pictures in train show nothing")


def test_counts_and_report(spoiled: Path, valid: Callable[..., Any]) -> None:
    diagnosis = examine_annotated(spoiled, "detection")
    assert diagnosis.rows == (
        {"class": "cat", "objects": 10, "train_objects": 8, "val_objects": 2, "test_objects": None, "small": 0},
        {"class": "dog", "objects": 8, "train_objects": 6, "val_objects": 2, "test_objects": None, "small": 1},
        {"class": "bird", "objects": 1, "train_objects": 0, "val_objects": 1, "test_objects": None, "small": 0},
        {"class": "fish", "objects": 0, "train_objects": 0, "val_objects": 0, "test_objects": None, "small": 0},
    )
    content = valid(diagnosis.report().to_json())
    assert content["by_class"] == list(diagnosis.rows)
    assert sum(kind["findings"] for kind in content["kinds"]) == len(content["rows"])
    assert content["figures"]["images"] == 13
    assert content["figures"]["objects"] == 19
    row = next(row for row in content["rows"] if row["kind"] == "box outside")
    assert (row["class"], row["split"]) == ("dog", "train")
    assert [row[edge] for edge in ("left", "top", "right", "bottom")] == [300, 10, 350, 60]
    assert row["path"] == str(spoiled / "train/3.jpg")
    table = diagnosis.to_table()
    assert table.startswith(
        "detection, laid out as COCO's boxes: 4 classes, 13 pictures, 19 objects: train 11, val 2\n"
    )
    assert f"\n{spoiled}: 13 pictures, 19 objects, " in table
    assert re.search(r"^dog +6 +2 +1$", table, re.MULTILINE)
    assert "  train/2.jpg: the box of cat from (20, 20) to (20, 60) has no area" in table


def test_the_clean_boxes_are_what_the_faults_leave(spoiled: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in spoiled.rglob("*") if path.is_file()}
    write_clean_boxes(examine_annotated(spoiled, "detection"), tmp_path / "deeper/clean")
    clean = read_coco(tmp_path / "deeper/clean")
    assert clean.classes == ("cat", "dog", "bird", "fish")
    assert clean.category_ids == (3, 7, 9, 12)
    by_name = {(split, sample.file.resolve()): sample for split, samples in clean.splits.items() for sample in samples}
    assert {(split, file.relative_to(spoiled.resolve()).as_posix()) for split, file in by_name} == {
        # 1 is in val, 2 and 3 lost their only boxes, 10 and 12 cannot be used.
        *(("train", f"train/{n}.jpg") for n in (4, 5, 6, 7, 8, 9)),
        *(("val", f"val/{n}.jpg") for n in (20, 21)),
    }

    def boxes(split: Split, name: str) -> tuple[BoxLabel, ...] | None:
        return by_name[split, (spoiled / split / name).resolve()].boxes

    assert boxes("train", "4.jpg") == (BoxLabel(0, 150, 100, 200, 150, area=4000),)
    assert boxes("train", "5.jpg") == (
        BoxLabel(0, 10, 10, 60, 60, area=1250),
        BoxLabel(1, 100, 50, 150, 100, area=1250),
        BoxLabel(1, 100, 50, 151, 101, area=1300.5),
    )
    again = examine_annotated(tmp_path / "deeper/clean", "detection")
    assert again.count("error") == 0
    assert {path: path.read_bytes() for path in spoiled.rglob("*") if path.is_file()} == before


def test_the_page_shows_the_faulty_boxes(spoiled: Path) -> None:
    page = examine_annotated(spoiled, "detection").page().render()
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    (section,) = (part for part in page.split("<section")[1:] if ">box outside<" in part)
    assert "train/3.jpg" in section
    (data,) = re.findall(r'base64,([^"]+)"', section)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)
    assert shown.shape == (150, 200, 3)
    # The box is right of the picture, at a height of 10 to 60 of 150 pixels: it is drawn at the edge.
    dogs = np.abs(shown - color_of(1)).sum(2) < 90
    assert dogs[12:58, -1].mean() > 0.8
    assert not dogs[88:].any()


def test_what_is_healthy_has_no_findings(tmp_path: Path) -> None:
    labels = []
    for n in range(1, 13):
        save(tmp_path / "images" / f"{n}.jpg", 100 + n, width=400, height=330)
        labels += [{"image_id": n, "category_id": k, "bbox": [10 * k, 9 * n, 90, 70 + n]} for k in (1, 2)]
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 400, "height": 330} for n in range(1, 13)],
        "annotations": labels,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    diagnosis = examine_annotated(tmp_path / "boxes.json", "detection")
    assert diagnosis.findings == ()
    assert "Nothing was found." in diagnosis.to_table()
    assert [{k: v for k, v in row.items() if v is not None} for row in diagnosis.rows] == [
        {"class": "a", "objects": 12, "small": 0},
        {"class": "b", "objects": 12, "small": 0},
    ]
    assert diagnosis == examine_annotated(tmp_path / "boxes.json", "detection", threads=1)
    with pytest.raises(UsageError, match="threads"):
        examine_annotated(tmp_path / "boxes.json", "detection", threads=0)


def test_copies_of_pictures_with_the_same_and_with_other_boxes(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for n in (1, 4, 5, 7):
        save(root / f"{n}.jpg", 40 + n)
    shutil.copy(root / "1.jpg", root / "2.jpg")
    photograph(44).resize((150, 112)).save(root / "3.jpg", quality=70)
    photograph(47).resize((150, 112)).save(root / "8.jpg", quality=70)
    files = {1: "1", 2: "2", 3: "3", 4: "4", 5: "5", 6: "5", 7: "7", 8: "8"}
    sizes = {n: (150, 112) if n in (3, 8) else (WIDTH, HEIGHT) for n in files}
    labels = {
        1: [(1, [10, 10, 80, 80]), (2, [90, 10, 80, 80])],
        2: [(1, [10, 10, 80, 80])],  # byte for byte the same picture
        3: [(2, [15, 15, 75, 75])],
        4: [(2, [20, 20, 100, 100])],  # the same object four thirds as large
        5: [(1, [10, 10, 80, 80])],
        6: [(1, [10, 10, 80, 80])],  # the very same file
        7: [(1, [10, 10, 80, 80])],
        8: [(2, [10, 10, 80, 80])],  # nearly the same picture with another object
    }
    content = {
        "images": [{"id": n, "file_name": f"{files[n]}.jpg", "width": w, "height": h} for n, (w, h) in sizes.items()],
        "annotations": [{"image_id": n, "category_id": k, "bbox": bbox} for n in labels for k, bbox in labels[n]],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    (root / "a.json").write_text(json.dumps(content))
    diagnosis = examine_annotated(root / "a.json", "detection")
    told = {f.message.partition(":")[0]: (f.severity, f.kind) for f in diagnosis.findings if f.others and f.sample}
    assert told == {
        "is byte for byte the same as 2.jpg, and is annotated otherwise": ("warning", "contradictory annotations"),
        "is nearly the same picture as 4.jpg": ("note", "near duplicates"),
        "is there again": ("note", "exact duplicates"),
        "is nearly the same picture as 8.jpg, with other objects": ("note", "near duplicates"),
    }
    # Of 1 and 2 the one with more boxes, of 3 and 4 the larger, of 5 and 6 the first, and both 7 and 8.
    assert [sample.image_id for sample in diagnosis.clean.splits["all"]] == [1, 4, 5, 7, 8]


def test_turned_and_long_pictures(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down, which leaves the size as it is
    photograph(1).save(tmp_path / "1.jpg", exif=exif, quality=90)
    exif[0x0112] = 6
    photograph(2).save(tmp_path / "2.jpg", exif=exif, quality=90)
    save(tmp_path / "3.jpg", 3, width=1200, height=200)
    sizes = {1: (WIDTH, HEIGHT), 2: (WIDTH, HEIGHT), 3: (1200, 200)}
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": w, "height": h} for n, (w, h) in sizes.items()],
        "annotations": [{"image_id": n, "category_id": 1, "bbox": [10, 10, 90, 90]} for n in sizes],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    told = {(f.kind, Path(f.path).name): f for f in examine_annotated(tmp_path / "a.json", "detection").findings}
    assert told["orientation", "1.jpg"].severity == "warning"
    assert [m.edges for m in told["orientation", "1.jpg"].marks] == [(10, 10, 100, 100)]
    assert "is 150 x 200 pixels and its annotations are for 200 x 150, as if its EXIF orientation turned it" in (
        told["picture of another size", "2.jpg"].message
    )
    assert told["long and narrow", "3.jpg"].message.startswith("is 1200 x 200 pixels, and squeezed into a square")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"categories": [{"id": [], "name": "a"}]}, r"categories\[0\]: id must be a whole number or a name"),
        ({"images": [{"id": 1, "file_name": "1.jpg", "width": 0, "height": 0}]}, r"images\[0\]: is 0 x 0 pixels"),
        ({"images": []}, "lists no images"),
    ],
)
def test_what_leaves_nothing_to_examine(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": WIDTH, "height": HEIGHT}],
        "annotations": [],
        "categories": [{"id": 1, "name": "a"}],
    }
    save(tmp_path / "1.jpg", 1)
    (tmp_path / "a.json").write_text(json.dumps(content | change))
    with pytest.raises(UsageError, match=text):
        examine_annotated(tmp_path / "a.json", "detection")


def test_damaged_pictures_and_categories_are_listed_and_the_rest_is_examined(tmp_path: Path) -> None:
    for n in (1, 2):
        save(tmp_path / f"{n}.jpg", n)
    good = {"id": 1, "file_name": "1.jpg", "width": WIDTH, "height": HEIGHT}
    content = {
        "images": [good, good | {"file_name": "2.jpg"}, good | {"id": 3, "width": -1}, 5],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50]}, {"image_id": 1}, None],
        "categories": [{"id": 1, "name": "a"}, {"id": 2}, {"id": 3, "name": "a"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    diagnosis = examine_annotated(tmp_path / "a.json", "detection")
    assert [f.message.split(":")[0] for f in diagnosis.findings if f.severity == "error"] == [
        "categories[1]",
        "categories[2]",
        "images[1]",
        "images[2]",
        "images[3]",
        "annotations[1]",
        "annotations[2]",
    ]
    assert [sample.file.name for sample in diagnosis.dataset.splits["all"]] == ["1.jpg"]


# What the page shows

edge = st.floats(-1e6, 1e6) | st.integers(-3, 12).map(float)


@settings(deadline=None, max_examples=50)
@given(edges=st.tuples(edge, edge, edge, edge), size=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_a_mark_can_be_seen_wherever_it_lies(
    tmp_path_factory: pytest.TempPathFactory,
    edges: tuple[float, float, float, float],
    size: tuple[int, int],
) -> None:
    file = tmp_path_factory.getbasetemp() / "black.png"
    Image.new("RGB", (48, 48)).save(file)
    image = annotated_thumbnail(AnnotatedSample(file, (), size=size), [Mark(2, "i", edges)])
    colours = {tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()}
    assert color_of(2) in colours


@given(st.integers(0, 2**32 - 1), st.integers(0, 60))
def test_boxes_drawn_twice_are_those_that_every_pair_would_show(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    corners, sides = random.integers(0, 20, (count, 2)).astype(float), random.integers(1, 200, (count, 2))
    edges = np.concatenate([corners, corners + sides], 1)
    edges = edges[random.integers(0, max(count, 1), count)] + random.normal(0, 0.2, (count, 4)) * random.integers(0, 2)
    edges[:, 2:] = np.maximum(edges[:, 2:], edges[:, :2] + 0.01)
    shared = np.triu(iou_matrix(edges, edges), 1)
    expected = [(i, k, shared[i, k]) for i, k in np.argwhere(shared >= SAME).tolist()]
    assert same_pairs(edges) == (expected, False)


def test_many_boxes_of_one_picture_take_memory_by_their_number() -> None:
    random = np.random.default_rng(0)
    corners = random.uniform(0, 1000, (100_000, 2))
    edges = np.concatenate([corners, corners + random.uniform(1, 40, (100_000, 2))], 1)
    edges[7] = edges[99_000]
    tracemalloc.start()
    pairs, more = same_pairs(edges)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (7, 99_000, 1.0) in pairs
    assert not more
    assert peak < 300e6
    assert same_pairs(np.repeat(edges[:1], 50_000, 0)) == ([(0, k, 1.0) for k in range(1, 1001)], True)


def test_the_same_boxes_of_one_picture_are_told_as_far_as_they_can_be_read() -> None:
    sample = AnnotatedSample(Path("a.jpg"), (BoxLabel(0, 1, 1, 50, 50),) * 3000, size=(100, 100))
    findings = list(about_boxes(sample, "train", ["cat"]))
    assert findings[0].message.startswith("more than 1,000 pairs of its 3,000 boxes are the same")
    assert len(findings) == 1001
    assert without_copies(sample).boxes == (BoxLabel(0, 1, 1, 50, 50),)
    assert same_objects(sample, sample)
