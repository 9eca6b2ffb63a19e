from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fusiform.data.annotated import AnnotatedSet, BoxLabel
from fusiform.data.faults import AnnotationFault
from fusiform.data.open import open_dataset, recognise
from fusiform.data.voc import read_xml_beside
from fusiform.doctor.job import diagnose

OBJECT = (
    "<object><name>{name}</name><bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>20</ymax></bndbox></object>"
)


def save(file: Path, shade: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (shade, 80, 9)).save(file)
    return file


def write(file: Path, *names: str, filename: str = "x.jpg") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    size = "<size><width>40</width><height>30</height></size>"
    objects = "".join(OBJECT.format(name=name) for name in names)
    file.write_text(f"<annotation><filename>{filename}</filename>{size}{objects}</annotation>")


@pytest.mark.parametrize(
    ("pictures", "files"),
    [
        ("{split}/{i}.jpg", "{split}/{i}.xml"),
        ("{split}/images/{i}.JPG", "{split}/labels/{i}.XML"),
        ("images/{split}/{i}.png", "annotations/{split}/{i}.xml"),
        ("pics/a/{split}/{i}.png", "xml/{split}/{i}.xml"),
        ("dataset/{split}/imgs/{i}.png", "dataset/{split}/xmls/{i}.xml"),
    ],
)
def test_any_names_of_folders(pictures: str, files: str, tmp_path: Path) -> None:
    # The same names in both splits, so that only the way to them tells which belong together.
    for split, label in (("train", "cat"), ("valid", "dog")):
        for i in range(3):
            save(tmp_path / pictures.format(split=split, i=i), 40 * i)
            write(tmp_path / files.format(split=split, i=i), label)
    assert recognise(tmp_path) == "detection"
    data = open_dataset(tmp_path)
    assert isinstance(data, AnnotatedSet)
    assert data.classes == ("cat", "dog")
    for split, label in (("train", 0), ("val", 1)):
        samples = data.splits[split]  # type: ignore[index]
        assert [sample.boxes for sample in samples] == [(BoxLabel(label, 10, 5, 30, 20),)] * 3
    # Only what a class of each would need is noted, and the folder around the dataset.
    told = ("has no objects of", "the dataset is the folder")
    assert [note for note in data.notes if not any(words in note for words in told)] == []


def test_masks_beside_are_no_pictures_and_what_is_without_annotation_is_left_out(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / "images" / f"{i}.jpg", 40 * i)
        Image.new("L", (40, 30), 1).save(save(tmp_path / "annotations/trimaps" / f"{i}.png"))
        if i < 2:
            write(tmp_path / "annotations/xmls" / f"{i}.xml", "cat", filename=f"{i}.jpg")
    write(tmp_path / "annotations/xmls" / "gone.xml", "cat")
    data = open_dataset(tmp_path, task="detection")
    assert [sample.file.name for sample in data.splits["all"]] == ["0.jpg", "1.jpg"]
    assert data.notes == (
        "2 pictures have no XML of their name, left out: 2.jpg, 3.jpg",
        "1 XML files have no picture, or several, left out: gone.xml",
    )
    faults: list[AnnotationFault] = []
    read_xml_beside(tmp_path, faults=faults)
    assert [(fault.kind, fault.file.name) for fault in faults] == [
        ("missing annotation", "2.jpg"),
        ("missing annotation", "3.jpg"),
        ("missing picture", "gone.xml"),
    ]


def test_a_picture_with_two_files_and_a_file_of_two_pictures_are_ambiguous(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "b.png", "c.jpg"):
        save(tmp_path / "images" / name)
    for name in ("one/a", "two/a", "one/b", "one/c"):
        write(tmp_path / f"{name}.xml", "cat")
    data = open_dataset(tmp_path, task="detection")
    assert [sample.file.name for sample in data.splits["all"]] == ["c.jpg"]
    assert "1 pictures have several XML files, left out: a.jpg" in data.notes
    assert "1 XML files have no picture, or several, left out: b.xml" in data.notes


def test_files_of_other_names_know_their_pictures(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / "train" / f"{i}.jpg", 40 * i)
        write(tmp_path / "train" / f"{i}.xml", "cat")
    save(tmp_path / "train" / "other.jpg", 150)
    write(tmp_path / "train" / "0007.xml", "dog", filename="C:\\pictures\\other.jpg")
    data = open_dataset(tmp_path, task="detection")
    assert [sample.file.name for sample in data.splits["train"]] == ["0.jpg", "1.jpg", "2.jpg", "other.jpg"]
    # Label Studio's names with the pictures as they were.
    (tmp_path / "train" / "0.xml").rename(tmp_path / "train" / "0a1b2c3d-0.xml")
    assert open_dataset(tmp_path, task="detection").splits == data.splits


def test_a_damaged_file_is_left_out_and_told(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / "train" / f"{i}.jpg", 40 * i)
        write(tmp_path / "train" / f"{i}.xml", "cat")
    (tmp_path / "train" / "1.xml").write_text("<annotation><object><name>cat</name></object></annotation>")
    (tmp_path / "train" / "2.xml").write_text("<annotation")
    data = open_dataset(tmp_path)
    assert [sample.file.name for sample in data.splits["train"]] == ["0.jpg"]
    assert "train: 2 of 3 annotations are damaged, left out" in data.notes[0]
    clean = diagnose(tmp_path, fix=tmp_path / "clean").clean
    assert [sample.file.name for sample in clean.splits["train"]] == ["0.jpg"]  # type: ignore[union-attr]


def test_vocs_own_folder_above_and_folders_of_classes_are_not_of_this_layout(tmp_path: Path) -> None:
    save(tmp_path / "kit/VOC2012/JPEGImages/1.jpg")
    write(tmp_path / "kit/VOC2012/Annotations/1.xml", "cat")
    kit = open_dataset(tmp_path / "kit")
    assert (kit.layout, kit.source) == ("Pascal VOC's boxes", tmp_path / "kit" / "VOC2012")
    for name in ("cat", "dog"):
        save(tmp_path / "classes" / name / f"{name}.jpg")
        write(tmp_path / "classes" / name / f"{name}.xml", name)
    assert recognise(tmp_path / "classes") is None
    assert open_dataset(tmp_path / "classes", task="classification").classes == ("cat", "dog")
    assert [len(s.boxes or ()) for s in open_dataset(tmp_path / "classes", task="detection").splits["all"]] == [1, 1]


def test_the_old_labelmes_files_are_read_without_what_was_taken_away(tmp_path: Path) -> None:
    save(tmp_path / "Images/train/a.jpg")
    corners = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((11, 6), (30, 6), (30, 20)))
    objects = "".join(
        f"<object><name>{name}</name><deleted>{deleted}</deleted><polygon>{corners}</polygon></object>"
        for name, deleted in (("cat", 0), ("dog", 1))
    )
    (tmp_path / "Annotations/train").mkdir(parents=True)
    (tmp_path / "Annotations/train/a.xml").write_text(
        "<annotation><filename>a.jpg</filename><imagesize><nrows>30</nrows><ncols>40</ncols></imagesize>"
        f"{objects}</annotation>"
    )
    data = open_dataset(tmp_path, task="detection")
    assert data.classes == ("cat",)
    (sample,) = data.splits["train"]
    assert (sample.size, sample.boxes) == ((40, 30), (BoxLabel(0, 10, 5, 30, 20),))
