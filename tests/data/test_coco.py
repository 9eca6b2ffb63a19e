from __future__ import annotations

import copy
import json
import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fusiform.data.annotated import AnnotatedSample, AnnotatedSet, BoxCheck, BoxLabel
from fusiform.data.coco import read_coco
from fusiform.data.faults import AnnotationFault
from fusiform.data.open import recognise
from fusiform.errors import ImageError, UsageError


def image(number: int, *, width: int = 100, height: int = 80) -> dict[str, Any]:
    return {"id": number, "file_name": f"{number:04d}.jpg", "width": width, "height": height}


def box(picture: int, category: int, *bbox: float, **more: object) -> dict[str, Any]:
    return {"image_id": picture, "category_id": category, "bbox": list(bbox), **more}


def document(images: list[Any], annotations: list[Any], names: dict[int, str]) -> dict[str, Any]:
    categories = [{"id": number, "name": name} for number, name in names.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def write(file: Path, content: object, *, pictures: Path | None = None) -> Path:
    """A JSON file and, in the folder ``pictures``, the files that it names; reading boxes opens none of them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    if pictures is not None:
        assert isinstance(content, dict)
        for entry in content["images"]:
            (pictures / entry["file_name"]).parent.mkdir(parents=True, exist_ok=True)
            (pictures / entry["file_name"]).touch()
    return file


def coco(root: Path, train: dict[str, Any], val: dict[str, Any] | None = None) -> Path:
    for split, content in (("train2017", train), ("val2017", val)):
        if content is not None:
            write(root / "annotations" / f"instances_{split}.json", content, pictures=root / split)
    return root


def test_categories_in_the_order_of_their_ids_whatever_holes_those_have(tmp_path: Path) -> None:
    names = {90: "toothbrush", 1: "person", 13: "stop sign"}
    boxes = [
        box(7, 90, 1, 2, 30, 40, area=600.5, segmentation=[[1, 2, 3]]),
        box(7, 1, 0, 0, 5.5, 5, iscrowd=1),
        box(8, 13, 50, 60, 10, 10),
    ]
    coco(tmp_path, document([image(7), image(8)], boxes, names))
    dataset = read_coco(tmp_path)
    assert (dataset.task, dataset.source) == ("detection", tmp_path)
    assert dataset.classes == ("person", "stop sign", "toothbrush")
    assert dataset.category_ids == (1, 13, 90)
    folder = tmp_path / "train2017"
    assert dataset.splits == {
        "train": (
            AnnotatedSample(
                folder / "0007.jpg",
                (BoxLabel(2, 1, 2, 31, 42, area=600.5), BoxLabel(0, 0, 0, 5.5, 5, crowd=True)),
                size=(100, 80),
                image_id=7,
            ),
            AnnotatedSample(folder / "0008.jpg", (BoxLabel(1, 50, 60, 60, 70),), size=(100, 80), image_id=8),
        )
    }
    assert dataset.notes == ()
    assert pickle.loads(pickle.dumps(dataset)) == dataset


def test_bad_boxes_are_clipped_or_left_out_and_counted(tmp_path: Path) -> None:
    boxes = [
        box(1, 1, -10, -5, 30, 25),
        box(1, 1, 90, 70, 10.4, 10.4),  # rounding: not worth a word
        box(1, 1, 5, 5, 0, 10),
        box(1, 1, 5, 5, 10, -3),
        box(1, 1, 100, 0, 10, 10),
        box(1, 1, -20, 0, 20, 10),
        box(1, 1, 40, 40, 1, 1),
        box(1, 1, 0, 0, 1000, 1000),
    ]
    dataset = read_coco(coco(tmp_path, document([image(1)], boxes, {1: "a"})))
    (sample,) = dataset.splits["train"]
    assert sample.boxes == (
        BoxLabel(0, 0, 0, 20, 20),
        BoxLabel(0, 90, 70, 100, 80),
        BoxLabel(0, 40, 40, 41, 41),
        BoxLabel(0, 0, 0, 100, 80),
    )
    assert dataset.notes == (
        "train: boxes no more than a pixel wide or high, kept: 1",
        "train: boxes of no area, left out: 2",
        "train: boxes reaching out of their pictures, clipped: 2",
        "train: boxes wholly outside their pictures, left out: 2",
    )


@given(*[st.integers(-6, 12)] * 4)
def test_a_clipped_box_covers_the_picture_s_pixels_that_the_box_does(x0: int, y0: int, x1: int, y1: int) -> None:
    covered = {(x, y) for x in range(x0, x1) for y in range(y0, y1)}
    inside = {(x, y) for x, y in covered if 0 <= x < 6 and 0 <= y < 4}
    clipped = BoxCheck().clip(x0, y0, x1, y1, size=(6, 4))
    if clipped is None:
        assert not inside
    else:
        left, top, right, bottom = map(int, clipped)
        assert {(x, y) for x in range(left, right) for y in range(top, bottom)} == inside != set()


def test_what_is_not_known_is_passed_over_and_told(tmp_path: Path) -> None:
    names = {1: "a", 2: "b"}
    boxes = [box(1, 1, 0, 0, 9, 9), box(99, 1, 0, 0, 9, 9), box(99, 2, 0, 0, 9, 9), box(1, 77, 0, 0, 9, 9)]
    coco(tmp_path, document([image(1), image(2), image(3)], boxes, names))
    (tmp_path / "train2017" / "0003.jpg").unlink()
    dataset = read_coco(tmp_path)
    # What is left of the first picture's boxes would teach that the lost one is background.
    (second,) = dataset.splits["train"]
    assert (second.file.name, second.boxes) == ("0002.jpg", ())
    assert dataset.notes == (
        "train: 2 annotations of pictures that the file does not list, passed over: 99",
        "train: 1 annotations of categories that the file does not list, passed over: 77",
        "train: 1 of 3 pictures lost annotations to damage, left out",
        "train: 1 of 3 pictures are not there: 0003.jpg",
        "2 of 2 classes have no objects: a, b",
        "train: 1 of 1 pictures have no objects, kept as background",
    )


def test_a_name_that_no_system_takes_is_a_picture_that_is_not_there(tmp_path: Path) -> None:
    content = document([image(1), image(2)], [box(1, 1, 1, 1, 9, 9), box(2, 1, 1, 1, 9, 9)], {1: "cat"})
    root = coco(tmp_path, content)
    content["images"][1]["file_name"] = "n" * 300 + ".jpg"
    next(root.rglob("*.json")).write_text(json.dumps(content), encoding="utf-8")
    found = read_coco(root)
    assert len(found.splits["train"]) == 1
    assert found.notes[0].startswith("train: 1 of 2 pictures are not there: nnn")


def test_files_that_number_their_categories_differently_are_bound_by_name(tmp_path: Path) -> None:
    train = document([image(1)], [box(1, 1, 0, 0, 9, 9), box(1, 2, 0, 0, 9, 9)], {1: "cafe\u0301", 2: "b"})
    val = document([image(1)], [box(1, 2, 0, 0, 9, 9), box(1, 5, 0, 0, 9, 9)], {2: "caf\u00e9", 5: "new"})
    dataset = read_coco(coco(tmp_path, train, val))
    assert dataset.classes == ("caf\u00e9", "b", "new")
    assert dataset.category_ids == (1, 2, 5)
    assert [[b.label for b in samples[0].boxes or ()] for samples in dataset.splits.values()] == [[0, 1], [0, 2]]
    assert dataset.notes == (
        "val names 1 categories that the files before it do not: new",
        "train has no objects of 1 of 3 classes: new",
        "val has no objects of 1 of 3 classes: b",
    )


def test_a_model_gives_the_names_and_their_order(tmp_path: Path) -> None:
    # Some tools write a category for all of them together, which no box bears.
    names = {0: "things", 1: "cat", 2: "ape"}
    coco(tmp_path, document([image(1)], [box(1, 1, 0, 0, 9, 9), box(1, 2, 0, 0, 9, 9)], names))
    dataset = read_coco(tmp_path, classes=["ape", "dog", "cat"])
    assert dataset.classes == ("ape", "dog", "cat")
    assert dataset.category_ids == (2, -1, 1)
    assert [b.label for b in dataset.splits["train"][0].boxes or ()] == [2, 0]
    with pytest.raises(UsageError, match="1 of 2 classes are none of the 2 that are known: ape: rename"):
        read_coco(tmp_path, classes=["cat", "dog"])
    with pytest.raises(UsageError, match="more than one of the classes bears the name cat"):
        read_coco(tmp_path, classes=["cat", "ape", "cat"])


# Layouts

PLAIN = document([image(1)], [box(1, 1, 0, 0, 9, 9)], {1: "a"})


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (
            {"annotations/instances_train.json": "images/train", "annotations/instances_val.json": "images/val"},
            "train val",
        ),
        ({"annotations/instances_val2014.json": "val2014"}, "val"),
        ({"annotations/instances_default.json": "images"}, "all"),
        ({"train/_annotations.coco.json": "train", "valid/_annotations.coco.json": "valid"}, "train val"),
        ({"_annotations.coco.json": "."}, "all"),
        ({"boxes.json": "."}, "all"),
        ({"boxes.json": "images"}, "all"),
        ({"boxes_test.json": "JPEGImages"}, "test"),
        ({"annotations/train.json": "train", "annotations/valid.json": "valid"}, "train val"),
    ],
)
def test_layouts(tmp_path: Path, files: dict[str, str], splits: str) -> None:
    for file, pictures in files.items():
        write(tmp_path / "set" / file, PLAIN, pictures=tmp_path / "set" / pictures)
    # Beside the boxes COCO has captions, which have the same look.
    write(tmp_path / "set" / "annotations" / "captions_train.json", PLAIN)
    dataset = read_coco(tmp_path / "set")
    assert list(dataset.splits) == splits.split()
    for (sample,), pictures in zip(dataset.splits.values(), files.values(), strict=True):
        assert sample.file == tmp_path / "set" / pictures / "0001.jpg"
    assert dataset.notes == ()
    assert recognise(tmp_path / "set") == "detection"


def test_a_single_file_of_several(tmp_path: Path) -> None:
    coco(tmp_path, PLAIN, PLAIN)
    file = tmp_path / "annotations" / "instances_val2017.json"
    dataset = read_coco(str(file))
    assert list(dataset.splits) == ["val"]
    assert dataset.locate(dataset.splits["val"][0]) == "val2017/0001.jpg"
    assert recognise(file) == "detection"


def test_files_of_the_same_split_or_of_none(tmp_path: Path) -> None:
    coco(tmp_path, PLAIN)
    write(tmp_path / "annotations" / "instances_odd.json", PLAIN)
    assert read_coco(tmp_path).notes == ("annotations/instances_odd.json: names no split, not read",)
    write(tmp_path / "annotations" / "instances_training.json", PLAIN)
    with pytest.raises(UsageError, match=r"instances_training.json: is the split train, and so is .*train2017.json"):
        read_coco(tmp_path)
    for name in ("a", "b"):
        write(tmp_path / "other" / f"{name}.json", PLAIN)
    with pytest.raises(UsageError, match="has 2 JSON files, and none has train, val or test in its name"):
        read_coco(tmp_path / "other")


def test_no_such_layout(tmp_path: Path) -> None:
    for name in ("cat/1.jpg", "dog/2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "package.json").write_text('{"name": "images"}')
    assert recognise(tmp_path) is None
    assert recognise(tmp_path / "package.json") is None
    assert recognise(tmp_path / "absent") is None
    with pytest.raises(UsageError, match=r"no boxes in COCO's JSON in it: give annotations/instances_train2017.json"):
        read_coco(tmp_path)
    with pytest.raises(UsageError, match="no such file or folder"):
        read_coco(tmp_path / "absent")
    file = write(tmp_path / "boxes.json", PLAIN)
    with pytest.raises(
        UsageError, match=r"boxes.json: none of its 1 pictures is there, such as 0001.jpg: put them into"
    ):
        read_coco(file)


# Damaged files


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((), [], "holds no object, so it is not COCO's JSON"),
        (("images",), None, "has no images, so it is not COCO's JSON for boxes"),
        (("categories",), None, "has no categories"),
        (("annotations",), {}, "annotations must be a list, got {}"),
        (("annotations", 1), 5, r"annotations\[1\]: must be an object, got 5"),
        (("images",), [], "lists no images"),
        (("categories",), [], "lists no categories"),
        (("images", 0, "id"), None, r"images\[0\]: has no id"),
        (("images", 0, "id"), True, r"images\[0\]: id must be a whole number or a name, got True"),
        (("images", 0, "id"), 1.5, r"images\[0\]: id must be a whole number or a name, got 1.5"),
        (("images", 1, "id"), 1, r"images\[1\]: the id 1 is there twice"),
        (("images", 0, "width"), 0, r"images\[0\]: is 0 x 80 pixels"),
        (("images", 0, "file_name"), "", r"images\[0\]: file_name must be a name"),
        (("images", 0, "file_name"), "a\0b", r"images\[0\]: file_name must be a name"),
        (("categories", 0, "name"), "\ud800", r"categories\[0\]: name must be a name"),
        (("categories", 0, "name"), ["a"], r"categories\[0\]: name must be a name, got \['a'\]"),
        (("categories", 0, "name"), "b", r"categories\[1\]: the id 2 or the name b is there twice"),
        (("annotations", 0, "image_id"), None, r"annotations\[0\]: has no image_id"),
        (("annotations", 0, "category_id"), None, r"annotations\[0\]: has no category_id"),
        (("annotations", 1, "bbox"), None, r"annotations\[1\]: has no bbox"),
        (("annotations", 1, "bbox"), [1, 2, 3], r"annotations\[1\]: bbox must be x, y, width and height in pixels"),
        (("annotations", 1, "bbox"), [1, 2, 3, "four"], r"annotations\[1\]: bbox must be"),
        (("annotations", 1, "bbox"), [1, 2, 3, math.nan], r"annotations\[1\]: bbox must be"),
        (("annotations", 1, "bbox"), [1, 2, 3, 10**400], r"annotations\[1\]: bbox must be"),
        (("annotations", 1, "iscrowd"), "no", r"annotations\[1\]: iscrowd must be 0 or 1, got 'no'"),
        (("annotations", 1, "area"), -1, r"annotations\[1\]: area must be a number of square pixels, got -1"),
    ],
)
def test_a_damaged_entry_is_named(tmp_path: Path, path: tuple[str | int, ...], value: Any, message: str) -> None:
    content: Any = document([image(1), image(2)], [box(1, 1, 0, 0, 9, 9), box(2, 2, 0, 0, 9, 9)], {1: "a", 2: "b"})
    file = write(tmp_path / "boxes.json", content, pictures=tmp_path)
    read_coco(file)
    place = content
    for step in path[:-1]:
        place = place[step]
    if not path:
        content = value
    elif value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    write(file, content)
    if path[1:] and path[0] != "categories" and path != ("images", 1, "id"):  # of two with one id, none is left
        # One bad entry is left out and told, and no picture that lost its box is background.
        dataset = read_coco(file)
        assert re.match(rf"all: 1 damaged entries, left out: {message}", dataset.notes[0])
        assert all(sample.boxes for sample in dataset.splits["all"] if "image_id" not in path and value != 5)
        return
    with pytest.raises(UsageError, match=rf"boxes\.json.*{message}"):
        read_coco(file)


@pytest.mark.parametrize("data", [b"", b'{"images": [', b"\xff\xfe\xff", b"[" * 100_000, b"nonsense"])
def test_what_is_no_json(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "boxes.json").write_bytes(data)
    with pytest.raises(UsageError, match=r"boxes\.json: is no JSON \("):
        read_coco(tmp_path / "boxes.json")


def test_faults_are_listed_in_place_of_errors_and_notes(tmp_path: Path) -> None:
    boxes = [
        box(1, 1, 5, 5, 20, 20, difficult=1),
        box(1, 1, 90, 70, 30, 5),
        box(1, 1, 5, 5, 20, -1),
        box(2, 1, 5, 5, 10, 0.5),
        box(2, 9, 5, 5, 10, 10),
        box(1, 1, 5, 5, 20),
    ]
    file = write(tmp_path / "boxes.json", document([image(1), image(2), image(3)], boxes, {1: "a", 2: "b"}))
    for n in (1, 2):
        (tmp_path / f"{n:04d}.jpg").touch()
    faults: list[AnnotationFault] = []
    dataset = read_coco(file, faults=faults)
    first, second = dataset.splits["all"]
    assert first.boxes == (BoxLabel(0, 5, 5, 25, 25, difficult=True), BoxLabel(0, 90, 70, 100, 75))
    assert second.boxes == (BoxLabel(0, 5, 5, 15, 5.5),)
    assert dataset.notes == ()
    assert [(f.kind, f.severity, f.file.name, f.edges) for f in faults] == [
        ("damaged entry", "error", "boxes.json", None),
        ("box reaching out", "warning", "0001.jpg", (90, 70, 120, 75)),
        ("box of no area", "error", "0001.jpg", (5, 5, 25, 4)),
        ("box of a pixel", "warning", "0002.jpg", (5, 5, 15, 5.5)),
        ("unknown category", "error", "boxes.json", None),
        ("missing picture", "error", "0003.jpg", None),
    ]
    assert faults[0].message.startswith("annotations[5]: bbox must be x, y, width and height in pixels, got [5, 5, 20]")
    assert (first.damaged, second.damaged) == (True, True)
    with pytest.raises(UsageError, match=r"boxes\.json: none of its pictures can be used"):
        read_coco(file)


def test_without_faults_the_list_changes_nothing(shared_data: Path) -> None:
    faults: list[AnnotationFault] = []
    listed, plain = read_coco(shared_data / "coco", faults=faults), read_coco(shared_data / "coco")
    assert faults == []
    assert listed.fingerprint() == plain.fingerprint()
    assert listed.category_ids == plain.category_ids


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
FIELDS = [
    ("images", "id"),
    ("images", "width"),
    ("images", "file_name"),
    ("categories", "id"),
    ("categories", "name"),
    ("annotations", "image_id"),
    ("annotations", "bbox"),
    ("annotations", "iscrowd"),
    ("annotations", "area"),
]


@settings(deadline=None, max_examples=60)
@given(field=st.sampled_from(FIELDS), value=JSON, listing=st.booleans())
def test_whatever_a_field_holds_ends_in_boxes_or_an_error_for_users(
    tmp_path_factory: pytest.TempPathFactory, field: tuple[str, str], value: object, listing: bool
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    content = copy.deepcopy(PLAIN)
    write(folder / "boxes.json", content, pictures=folder)
    content[field[0]][0][field[1]] = value
    write(folder / "boxes.json", content)
    try:
        dataset = read_coco(folder / "boxes.json", faults=[] if listing else None)
    except UsageError:
        return
    for sample in dataset.splits["all"]:
        assert sample.size is not None
        for b in sample.boxes or ():
            assert 0 <= b.left < b.right <= sample.size[0]
            assert 0 <= b.top < b.bottom <= sample.size[1]
    assert len(dataset.fingerprint()) == 64


# The shared types


def test_the_fingerprint_knows_the_boxes_but_not_the_place(tmp_path: Path) -> None:
    first = read_coco(coco(tmp_path / "first", PLAIN))
    moved = read_coco(coco(tmp_path / "second" / "deeper", PLAIN))
    assert first.fingerprint() == moved.fingerprint()
    assert first.fingerprint() == read_coco(tmp_path / "first/annotations/instances_train2017.json").fingerprint()
    for change in (box(1, 1, 0, 0, 9, 9.5), box(1, 1, 0, 0, 9, 9, iscrowd=1)):
        other = read_coco(coco(tmp_path / "third", {**PLAIN, "annotations": [change]}))
        assert other.fingerprint() != first.fingerprint()
    # The order in which a file lists its entries says nothing.
    two = document([image(1), image(2)], [box(1, 1, 0, 0, 9, 9), box(1, 1, 1, 1, 9, 9)], {1: "a"})
    turned = {key: value[::-1] for key, value in two.items()}
    one, other = (read_coco(coco(tmp_path / name, content)) for name, content in (("a", two), ("b", turned)))
    assert one.fingerprint() == other.fingerprint()


def test_a_picture_of_another_size_than_its_annotations(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20), "red").save(file, exif=exif)
    assert AnnotatedSample(file, ()).read().size == (20, 30)
    assert AnnotatedSample(file, (), size=(20, 30)).read().getpixel((3, 3)) == (255, 0, 0)
    with pytest.raises(
        ImageError, match=r"picture.png: is 20 x 30 pixels .* are for 30 x 20, as if its EXIF orientation turned"
    ):
        AnnotatedSample(file, (), size=(30, 20)).read()
    with pytest.raises(ImageError, match=r"are for 64 x 48: annotate it again"):
        AnnotatedSample(file, (), size=(64, 48)).read()


def test_boxes_of_real_photographs(shared_data: Path) -> None:
    dataset = read_coco(shared_data / "coco")
    assert recognise(shared_data / "coco") == "detection"
    assert {split: len(samples) for split, samples in dataset.splits.items()} == {"train": 128, "val": 48}
    assert len(dataset.classes) == 80
    assert (dataset.classes[0], dataset.classes[-1]) == ("person", "toothbrush")
    assert (dataset.category_ids[0], dataset.category_ids[11], dataset.category_ids[-1]) == (1, 13, 90)
    raw = json.loads((shared_data / "coco" / "annotations" / "instances_val2017.json").read_bytes())
    names = {category["id"]: category["name"] for category in raw["categories"]}
    listed = sorted((entry["image_id"], names[entry["category_id"]], *entry["bbox"]) for entry in raw["annotations"])
    read = sorted(
        (sample.image_id, dataset.classes[b.label], b.left, b.top, b.right - b.left, b.bottom - b.top)
        for sample in dataset.splits["val"]
        for b in sample.boxes or ()
    )
    assert [entry[:2] for entry in read] == [entry[:2] for entry in listed]
    assert np.allclose([entry[2:] for entry in read], [entry[2:] for entry in listed], atol=0.02)
    for sample in dataset.splits["val"][:3]:
        assert sample.read().size == sample.size


def test_a_set_of_masks_locates_them_too(tmp_path: Path) -> None:
    sample = AnnotatedSample(tmp_path / "JPEGImages" / "1.jpg", mask_file=tmp_path / "SegmentationClass" / "1.png")
    sets = [
        AnnotatedSet(tmp_path, "segmentation", ("background", "a"), {"train": (changed,)})
        for changed in (sample, AnnotatedSample(sample.file, mask_file=tmp_path / "Other" / "1.png"))
    ]
    assert sets[0].locate(sample) == "JPEGImages/1.jpg"
    assert sets[0].fingerprint() != sets[1].fingerprint()


# What other tools write


def plain() -> dict[str, Any]:
    """Two pictures with a box each, and one without."""
    content = document(
        [image(1), image(2), image(3)], [box(1, 1, 5, 6, 20, 30), box(2, 2, 0, 0, 9, 9)], {1: "a", 2: "b"}
    )
    for entry, outline in zip(
        content["annotations"], ([[5, 6, 25, 6, 25, 36]], [[0, 0, 9, 0, 9, 9, 0, 9]]), strict=True
    ):
        entry["segmentation"] = outline
    return content


def with_text_ids(content: dict[str, Any]) -> None:
    for entry in content["images"]:
        entry["id"] = f"{entry['id']}"
    for entry in content["annotations"]:
        entry["category_id"] = f"{entry['category_id']}"


def with_names_for_ids(content: dict[str, Any]) -> None:
    for entry in content["images"]:
        entry["id"] = f"picture {entry['id']}"
    for entry in content["annotations"]:
        entry["image_id"] = f"picture {entry['image_id']}"


def in_annotations(**changes: Any) -> Any:
    def change(content: dict[str, Any]) -> None:
        for entry in content["annotations"]:
            entry |= changes

    return change


def with_text(content: dict[str, Any]) -> None:
    for entry in content["annotations"]:
        entry |= {"bbox": [str(value) for value in entry["bbox"]], "iscrowd": "0", "area": None}
    for entry in content["images"]:
        entry |= {"width": str(entry["width"]), "height": f"{entry['height']}.0"}


def without_sizes(content: dict[str, Any]) -> None:
    for entry in content["images"]:
        del entry["width"]
        entry["height"] = None


def renamed(form: str) -> Any:
    def change(content: dict[str, Any]) -> None:
        for entry in content["images"]:
            entry["file_name"] = form.format(entry["file_name"])

    return change


def with_root(name: str, number: int) -> Any:
    def change(content: dict[str, Any]) -> None:
        content["categories"] = [
            {"id": number, "name": name, "supercategory": "none"},
            *({**entry, "supercategory": name} for entry in content["categories"]),
        ]

    return change


@pytest.mark.parametrize(
    "change",
    [
        with_text_ids,
        with_names_for_ids,
        in_annotations(iscrowd=None, area=None),
        in_annotations(bbox=[]),
        in_annotations(bbox=None),
        with_text,
        without_sizes,
        renamed("C:\\data\\set\\{}"),
        renamed("/home/somebody/{}"),
        renamed("images/train/{}"),
        renamed("%30%30{}"),
        with_root("things", 0),
        with_root("a", 0),
        with_root("b", 77),
    ],
)
def test_what_other_tools_write_is_read_alike(tmp_path: Path, change: Any) -> None:
    content = plain()
    for entry in content["images"]:
        entry["file_name"] = entry["file_name"].replace("0001", "1").replace("000", "00")
    for entry in content["images"]:
        name = entry["file_name"]
        for file in (tmp_path / name, tmp_path / f"00{name}"):
            Image.new("RGB", (100, 80)).save(file)
    change(content)
    dataset = read_coco(write(tmp_path / "boxes.json", content))
    assert dataset.classes == ("a", "b")
    assert [sample.boxes for sample in dataset.splits["all"]] == [
        (BoxLabel(0, 5, 6, 25, 36),),
        (BoxLabel(1, 0, 0, 9, 9),),
        (),
    ]
    assert [sample.size for sample in dataset.splits["all"]] == [(100, 80)] * 3


@pytest.mark.parametrize(
    "change",
    [{"bbox": [1, 2, 3], "segmentation": None}, {"bbox": [5, 5, 0, 0]}, {"bbox": [500, 5, 9, 9]}, {"category_id": 9}],
)
def test_a_picture_that_lost_its_boxes_is_no_background(tmp_path: Path, change: dict[str, Any]) -> None:
    content = plain()
    content["annotations"][0] |= change
    file = write(tmp_path / "boxes.json", content, pictures=tmp_path)
    dataset = read_coco(file)
    assert [sample.file.name for sample in dataset.splits["all"]] == ["0002.jpg", "0003.jpg"]
    assert "all: 1 of 3 pictures lost annotations to damage, left out" in dataset.notes
    assert [sample.damaged for sample in read_coco(file, faults=[]).splits["all"]] == [True, False, False]
