from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fusiform.data.annotated import AnnotatedSet
from fusiform.data.faults import AnnotationFault
from fusiform.data.layouts.cvat import read_cvat
from fusiform.data.open import open_dataset, recognise
from fusiform.doctor.job import diagnose
from fusiform.errors import UsageError

BOX = '<box label="cat" occluded="0" xtl="2.00" ytl="3.00" xbr="12.00" ybr="13.00" z_order="0"></box>'


def export(root: Path, images: dict[str, str], labels: str = "", pictures: tuple[str, ...] | None = None) -> Path:
    for i, name in enumerate(images if pictures is None else pictures):
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (i * 40, 80, 9)).save(root / "images" / name)
    entries = "".join(
        f'<image id="{i}" name="{name}" width="40" height="30">{shapes}</image>'
        for i, (name, shapes) in enumerate(images.items())
    )
    head = f"<meta><job><labels>{labels}</labels></job></meta>"
    root.mkdir(exist_ok=True)
    (root / "annotations.xml").write_text(f"<annotations><version>1.1</version>{head}{entries}</annotations>")
    return root


def edges(data: AnnotatedSet) -> dict[str, list[tuple[str, float, float, float, float]]]:
    return {
        sample.file.name: [
            (data.classes[box.label], *(round(v, 3) for v in (box.left, box.top, box.right, box.bottom)))  # type: ignore[misc]
            for box in sample.boxes or ()
        ]
        for samples in data.splits.values()
        for sample in samples
    }


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        (BOX, (2, 3, 12, 13)),
        (BOX.replace('z_order="0"', 'rotation="90.00"'), (2, 3, 12, 13)),
        ('<box label="cat" xtl="10" ytl="10" xbr="20" ybr="14" rotation="90"/>', (13, 7, 17, 17)),
        ('<box label="cat" xtl="12" ytl="13" xbr="2" ybr="3"/>', (2, 3, 12, 13)),
        ('<polygon label="cat" points="2.00,3.00;12.00,4.00;5.00,13.00"/>', (2, 3, 12, 13)),
        ('<ellipse label="cat" cx="10" cy="10" rx="5" ry="4"/>', (5, 6, 15, 14)),
        ('<mask label="cat" rle="0, 2, 1, 3" left="4" top="5" width="3" height="2"/>', (4, 5, 7, 7)),
    ],
)
def test_every_shape_has_its_box(shape: str, box: tuple[float, ...], tmp_path: Path) -> None:
    data = read_cvat(export(tmp_path / "data", {"a.png": shape}))
    assert edges(data) == {"a.png": [("cat", *box)]}


def test_labels_keep_their_order_and_pictures_without_shapes_are_background(tmp_path: Path) -> None:
    labels = "".join(f"<label><name>{name}</name><type>any</type></label>" for name in ("dog", "cat"))
    labels += "<label><name>pose</name><type>skeleton</type></label><label><name>n</name><parent>pose</parent></label>"
    points, tag = '<points label="pose" points="1,2"/>', '<tag label="{}"/>'
    images = {"a.png": BOX + points + tag.format("cat"), "sub/b.png": "", "c.png": tag.format("cat")}
    root = export(tmp_path / "data", images, labels)
    Image.new("RGB", (40, 30)).save(root / "images" / "not_in_it.png")
    assert recognise(root) == recognise(root / "annotations.xml") == "detection"
    data = open_dataset(root)
    assert isinstance(data, AnnotatedSet)
    assert data.classes == ("dog", "cat")
    assert edges(data) == {"a.png": [("cat", 2, 3, 12, 13)], "b.png": []}
    assert "1 pictures are not in annotations.xml, left out: not_in_it.png" in data.notes
    assert "1 objects are points, which have no area, not read" in data.notes
    # A tag says that there is a cat, and not where.
    assert "2 objects are tags, which have no area, not read" in data.notes
    assert [note for note in data.notes if "1 of 3 pictures have annotations that cannot be used" in note]
    assert edges(read_cvat(root / "annotations.xml")) == edges(data)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (BOX.replace('xtl="2.00"', ""), "xtl must be a number, got None"),
        (BOX.replace("12.00", "NaN"), "xbr must be a number, got 'NaN'"),
        (BOX.replace('label="cat" ', ""), "a box has no label"),
        ('<polygon label="cat" points="1,2;3,4"/>', "points must be three pairs of numbers"),
        ('<polygon label="cat" points="1,2;3,4;5"/>', "points must be three pairs of numbers"),
        ('<mask label="cat" rle="1, 2" left="4" top="5" width="3" height="2"/>', "do not fill its 3 x 2 pixels"),
        ('<mask label="cat" rle="0, 6" left="39" top="5" width="3" height="2"/>', "outside of the picture"),
        ('<blob label="cat"/>', "is a shape that is not read"),
    ],
)
def test_a_damaged_picture_is_left_out_and_never_background(shape: str, message: str, tmp_path: Path) -> None:
    root = export(tmp_path / "data", {"a.png": BOX, "b.png": BOX + shape})
    data = read_cvat(root)
    assert set(edges(data)) == {"a.png"}
    assert [note for note in data.notes if message in note and "1 of 2 pictures" in note]
    faults: list[AnnotationFault] = []
    assert [sample.damaged for sample in read_cvat(root, faults=faults).splits["all"]] == [False, True]
    assert message in faults[0].message
    diagnosis = diagnose(root)
    assert [finding.kind for finding in diagnosis.findings if finding.severity == "error"] == ["damaged annotation"]


def test_what_is_not_there_or_there_twice(tmp_path: Path) -> None:
    root = export(tmp_path / "data", {"a.png": BOX, "gone.png": BOX}, pictures=("a.png",))
    assert "1 of 2 pictures are not there: gone.png" in read_cvat(root).notes
    faults: list[AnnotationFault] = []
    read_cvat(root, faults=faults)
    assert [(fault.kind, fault.file.name) for fault in faults] == [("missing picture", "gone.png")]
    # Of two that it could be, neither.
    both = export(tmp_path / "both", {"a.png": BOX, "b.png": BOX}, pictures=("x/a.png", "y/a.png", "z/b.png"))
    data = read_cvat(both)
    assert set(edges(data)) == {"b.png"}
    assert "1 of 2 pictures are not there: a.png" in data.notes
    with pytest.raises(UsageError, match=r"none of its 1 pictures is there, such as a\.png"):
        read_cvat(export(tmp_path / "none", {"a.png": BOX}, pictures=()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('<annotations><track id="0" label="cat"><box frame="0"/></track></annotations>', "is CVAT's XML for video"),
        ("<annotations></annotations>", "lists no images"),
        ('<annotations><image name="a.png"', "is no XML"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><annotations>&a;</annotations>', "defines the entity a, which is refused"),
    ],
)
def test_what_is_not_for_images_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "annotations.xml").write_text(content)
    with pytest.raises(UsageError, match=message):
        open_dataset(tmp_path)


def test_only_tags_are_no_boxes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="have nothing but tags, which are not read"):
        open_dataset(export(tmp_path / "data", {"a.png": '<tag label="cat"/>'}))
