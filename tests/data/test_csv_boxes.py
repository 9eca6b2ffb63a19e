from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fusiform.data.annotated import AnnotatedSet
from fusiform.data.dataset import DataSet
from fusiform.data.faults import AnnotationFault
from fusiform.data.layouts.csv_boxes import read_csv_boxes
from fusiform.data.open import open_dataset, recognise
from fusiform.doctor.job import diagnose
from fusiform.errors import UsageError

TENSORFLOW = "filename,width,height,class,xmin,ymin,xmax,ymax\n"


def listing(root: Path, text: str, *pictures: str, name: str = "boxes.csv") -> Path:
    for i, picture in enumerate(pictures or ("a.jpg", "b.jpg")):
        (root / picture).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (i * 40, 80, 9)).save(root / picture)
    (root / name).write_text(text, encoding="utf-8")
    return root / name


def edges(data: DataSet | AnnotatedSet) -> dict[str, list[tuple[str, float, float, float, float]]]:
    assert isinstance(data, AnnotatedSet)
    return {
        sample.file.name: [
            (data.classes[box.label], box.left, box.top, box.right, box.bottom) for box in sample.boxes or ()
        ]
        for samples in data.splits.values()
        for sample in samples
    }


BOTH = {"a.jpg": [("cat", 2, 3, 12, 13), ("dog", 1, 1, 30, 20)], "b.jpg": [("cat", 5, 5, 9, 9)]}


@pytest.mark.parametrize(
    "text",
    [
        TENSORFLOW + "a.jpg,40,30,cat,2,3,12,13\na.jpg,40,30,dog,1,1,30,20\nb.jpg,40,30,cat,5,5,9,9\n",
        "image_path;x1;y1;x2;y2;label\na.jpg;2;3;12;13;cat\na.jpg;1;1;30;20;dog\nb.jpg;5;5;9;9;cat\n",
        "label\tfile\tx_min\tx_max\ty_min\ty_max\ncat\ta.jpg\t2\t12\t3\t13\ndog\ta.jpg\t1\t30\t1\t20\ncat\tb.jpg\t5\t9\t5\t9\n",
        "a.jpg,2,3,12,13,cat\na.jpg,1,1,30,20,dog\nb.jpg,5,5,9,9,cat\n",
        "/home/me/a.jpg,2,3,12,13,cat\n/home/me/a.jpg,30,20,1,1,dog\n/home/me/b.jpg,5.0,5.0,9.0,9.0,cat\n",
        "a.jpg,2,3,12,13,cat,40,30\na.jpg,1,1,30,20,dog,40,30\nb.jpg,5,5,9,9,cat,40,30\n",  # SKU-110K's
        "\ufeffImage,Left,Top,Right,Bottom,Class\r\na.jpg,2,3,12,13,cat\r\na.jpg,1,1,30,20,dog\r\nb.jpg,5,5,9,9,cat\r\n",
    ],
)
def test_lists_in_pixels_are_read(text: str, tmp_path: Path) -> None:
    file = listing(tmp_path, text)
    assert recognise(file) == recognise(tmp_path) == "detection"
    assert edges(open_dataset(file)) == edges(open_dataset(tmp_path)) == BOTH


def test_empty_lines_of_keras_retinanet_are_background(tmp_path: Path) -> None:
    file = listing(tmp_path, "b.jpg,,,,,\nc.jpg\na.jpg,2,3,12,13,cat\n", "a.jpg", "b.jpg", "c.jpg")
    data = open_dataset(file)
    assert edges(data) == {"b.jpg": [], "c.jpg": [], "a.jpg": [("cat", 2, 3, 12, 13)]}
    assert "all: 2 of 3 pictures have no objects, kept as background" in data.notes


def test_bare_names_are_looked_up_beside_the_list_and_below(tmp_path: Path) -> None:
    text = TENSORFLOW + "a.jpg,40,30,cat,2,3,12,13\nb.jpg,40,30,cat,2,3,12,13\nc.jpg,40,30,cat,2,3,12,13\n"
    file = listing(tmp_path, text, "images/a.jpg", "deep/er/b.jpg", "x/c.jpg", "y/c.jpg")
    data = open_dataset(file)
    assert set(edges(data)) == {"a.jpg", "b.jpg"}
    assert "1 of 3 pictures are not where they are said to be, such as 'b.jpg': found by the last part" in data.notes[0]
    assert "1 of 3 pictures are not there: c.jpg" in data.notes
    faults: list[AnnotationFault] = []
    read_csv_boxes(file, faults=faults)
    assert ("missing picture", "c.jpg") in [(fault.kind, fault.file.name) for fault in faults]
    with pytest.raises(UsageError, match=r"none of its 1 pictures is there, such as d\.jpg: put them beside the list"):
        open_dataset(listing(tmp_path / "none", "d.jpg,1,2,3,4,cat\n"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b.jpg,40,30,cat,2,3,x,13", "must have four numbers and a class, got '2, 3, x, 13, cat'"),
        ("b.jpg,40,30,,2,3,12,13", "must have four numbers and a class"),
        ("b.jpg,40,30,cat,2,3,,", "must have four numbers and a class"),
        ("b.jpg,40,30,cat,2,3,nan,13", "must have four numbers and a class"),
        ("b.jpg,40,30,cat,2,3,12,13\nb.jpg,50,30,cat,2,3,12,13", "gives the picture another size"),
    ],
)
def test_a_damaged_picture_is_left_out_and_never_background(line: str, message: str, tmp_path: Path) -> None:
    file = listing(tmp_path, f"{TENSORFLOW}a.jpg,40,30,cat,2,3,12,13\n{line}\n")
    data = open_dataset(file)
    assert set(edges(data)) == {"a.jpg"}
    assert [note for note in data.notes if message in note and "1 of 2 pictures" in note]
    diagnosis = diagnose(file, fix=tmp_path / "clean")
    assert "damaged annotation" in [finding.kind for finding in diagnosis.findings if finding.severity == "error"]
    assert edges(open_dataset(tmp_path / "clean")) == {"a.jpg": [("cat", 2, 3, 12, 13)]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,0.1,0.1,0.5,0.5\n", "all between 0 and 1, and it does not say"),
        ("a.jpg,0,0,1,1,cat\nb.jpg,0.5,0,1,1,cat\n", "all between 0 and 1, and it does not say"),
        ("filename,x,y,width,height,class\na.jpg,1,2,3,4,cat\n", "names no column of xmin, ymin, xmax and ymax"),
        ("filename,x_center,y_center,w,h,class\na.jpg,1,2,3,4,cat\n", "names no column of xmin, ymin, xmax and ymax"),
        ('image_id,width,height,bbox,class\na,40,30,"[1, 2, 3, 4]",cat\n', "names no column of xmin, ymin, xmax and"),
        ("filename,xmin,ymin,xmax,ymax\na.jpg,1,2,3,4\n", "names no column of a class"),
        ("class,xmin,ymin,xmax,ymax\ncat,1,2,3,4\n", "names no column of a picture"),
        ("filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,1,2,3\n", "line 2: has 5 columns and the first line 6"),
        ("filename,class,xmin,ymin,xmax,ymax\n,cat,1,2,3,4\n", "line 2: names no picture"),
        ("filename,class,xmin,ymin,xmax,ymax,split\na.jpg,cat,1,2,3,4,extra\n", "'extra' is no split"),
        ("filename,class,xmin,ymin,xmax,ymax\n", "lists no boxes"),
    ],
)
def test_what_is_ambiguous_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = listing(tmp_path, text)
    with pytest.raises(UsageError) as raised:
        open_dataset(file)
    assert message in str(raised.value)


def test_open_images_groups_are_crowds_and_its_shares_are_of_the_picture(tmp_path: Path) -> None:
    text = (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
        "a,xclick,/m/01,1,0.25,0.5,0.1,0.5,0,0,0,0,0\na,xclick,/m/02,1,0,1,0,1,0,0,1,0,0\n"
    )
    file = listing(tmp_path, text)
    (tmp_path / "class-descriptions-boxable.csv").write_text("/m/01,Cat\n/m/02,Dog\n")
    data = open_dataset(file)
    assert edges(data) == {"a.jpg": [("Cat", 10, 3, 20, 15), ("Dog", 0, 0, 40, 30)]}
    assert isinstance(data, AnnotatedSet)
    assert [box.crowd for box in data.splits["all"][0].boxes or ()] == [False, True]


def test_splits_are_columns_or_names_and_a_picture_is_in_one(tmp_path: Path) -> None:
    head = "filename,class,xmin,ymin,xmax,ymax,split\n"
    file = listing(tmp_path / "a", head + "a.jpg,cat,1,2,30,4,train\nb.jpg,cat,1,2,30,4,valid\n")
    assert list(open_dataset(file).splits) == ["train", "val"]
    twice = listing(tmp_path / "b", head + "a.jpg,cat,1,2,30,4,train\na.jpg,cat,1,2,30,9,val\nb.jpg,cat,1,2,30,4,val\n")
    assert set(edges(open_dataset(twice))) == {"b.jpg"}
    listing(tmp_path / "c", "a.jpg,1,2,30,4,cat\n", name="one.csv")
    listing(tmp_path / "c", "b.jpg,1,2,30,4,cat\n", name="two.csv")
    with pytest.raises(UsageError, match=r"several lists of boxes, one\.csv, two\.csv, that name no splits"):
        open_dataset(tmp_path / "c")


def test_class_folders_beside_a_list_of_their_boxes_are_classes(tmp_path: Path) -> None:
    listing(tmp_path, "cat/a.jpg,1,2,30,4,cat\ndog/b.jpg,1,2,30,4,dog\n", "cat/a.jpg", "dog/b.jpg")
    assert recognise(tmp_path) is None
    assert open_dataset(tmp_path, task="classification").classes == ("cat", "dog")
    assert edges(open_dataset(tmp_path, task="detection"))["b.jpg"] == [("dog", 1, 2, 30, 4)]
    assert recognise(tmp_path / "boxes.csv") == "detection"
