from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.annotated import AnnotatedSample, BoxLabel
from fusiform.data.image import read_image
from fusiform.data.masks import PALETTE, VOC_CLASSES, read_mask
from fusiform.data.open import recognise
from fusiform.data.voc import read_voc
from fusiform.errors import ImageError, UsageError

# As the development kit of VOC2012 has them, shortened.
XML = """<annotation>
    <folder>VOC2012</folder>
    <filename>2007_000027.jpg</filename>
    <size><width>486</width><height>500</height><depth>3</depth></size>
    <segmented>0</segmented>
    {}
</annotation>"""
PERSON = """<object>
    <name>person</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>
    <bndbox><xmin>174</xmin><ymin>101</ymin><xmax>349</xmax><ymax>351</ymax></bndbox>
    <part><name>head</name><bndbox><xmin>169</xmin><ymin>104</ymin><xmax>209</xmax><ymax>146</ymax></bndbox></part>
</object>"""


def thing(name: str, *edges: float, more: str = "") -> str:
    tags = "".join(f"<{tag}>{edge}</{tag}>" for tag, edge in zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{tags}</bndbox></object>"


def voc(root: Path, annotations: Mapping[str, str], **lists: str) -> Path:
    """Boxes in VOC's layout: for each picture's name the objects, for each list its lines."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, objects in annotations.items():
        (root / "JPEGImages" / f"{name}.jpg").touch()
        text = XML.format(objects) if "<annotation" not in objects else objects
        (root / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")
    for name, lines in lists.items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text(lines)
    return root


def masks(root: Path, *names: str, **lists: str) -> Path:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / "JPEGImages" / f"{name}.jpg").touch()
        (root / "SegmentationClass" / f"{name}.png").touch()
    for name, lines in lists.items():
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(lines)
    return root


# Boxes


def test_pixels_are_counted_from_one_and_parts_are_no_objects(tmp_path: Path) -> None:
    whole = thing("cat", 1, 1, 486, 500, more="<difficult>1</difficult>")
    voc(tmp_path, {"2007_000027": PERSON + whole, "b": ""}, train="2007_000027\nb\n")
    dataset = read_voc(tmp_path)
    assert (dataset.task, dataset.classes, recognise(tmp_path)) == ("detection", ("cat", "person"), "detection")
    pictures = tmp_path / "JPEGImages"
    assert dataset.splits == {
        "train": (
            AnnotatedSample(
                pictures / "2007_000027.jpg",
                (BoxLabel(1, 173, 100, 349, 351), BoxLabel(0, 0, 0, 486, 500, difficult=True)),
                size=(486, 500),
            ),
            AnnotatedSample(pictures / "b.jpg", (), size=(486, 500)),
        )
    }
    assert dataset.notes == ("train: 1 of 2 pictures have no objects, kept as background",)


def test_voc_s_own_classes_come_in_their_order(tmp_path: Path) -> None:
    voc(tmp_path, {"a": "".join(thing(name, 1, 1, 9, 9) for name in reversed(VOC_CLASSES[1:]))})
    dataset = read_voc(tmp_path)
    assert dataset.classes == VOC_CLASSES[1:]
    assert list(dataset.splits) == ["all"]


def test_bad_boxes_are_clipped_or_left_out_and_counted(tmp_path: Path) -> None:
    objects = [
        thing("a", 0, 0, 10, 10),  # counted from 0: not worth a word
        thing("a", -9, 401, 10.5, 700),
        thing("a", 20, 20, 19, 30),
        thing("a", 487, 1, 500, 10),
        thing("a", 7, 7, 7, 7),
    ]
    dataset = read_voc(voc(tmp_path, {"x": "".join(objects)}))
    assert dataset.splits["all"][0].boxes == (
        BoxLabel(0, 0, 0, 10, 10),
        BoxLabel(0, 0, 400, 10.5, 500),
        BoxLabel(0, 6, 6, 7, 7),
    )
    assert dataset.notes == (
        "all: boxes no more than a pixel wide or high, kept: 1",
        "all: boxes of no area, left out: 1",
        "all: boxes reaching out of their pictures, clipped: 1",
        "all: boxes wholly outside their pictures, left out: 1",
    )


def test_an_annotation_without_its_picture_s_size(tmp_path: Path) -> None:
    plain = f"<annotation><size><width>0</width><height>0</height></size>{thing('a', 1, 1, 9000, 10)}</annotation>"
    dataset = read_voc(voc(tmp_path, {"x": plain, "y": f"<annotation>{thing('a', 2, 2, 9, 9)}</annotation>"}))
    assert [sample.boxes for sample in dataset.splits["all"]] == [
        (BoxLabel(0, 0, 0, 9000, 10),),
        (BoxLabel(0, 1, 1, 9, 9),),
    ]
    assert dataset.splits["all"][0].size is None
    assert dataset.notes == ("all: annotations without their picture's size, boxes not checked against it: 2",)


def test_lists_and_what_they_name_in_vain(tmp_path: Path) -> None:
    one = thing("a", 1, 1, 9, 9)
    lists = {
        "train": "1\n\n2.jpg \nsub/3\ngone\n1\n",
        "val": "4 -1\nbare\n",
        "trainval": "1\n4\n",
        "cat_train": "1 1\n",
    }
    voc(tmp_path, {"1": one, "2": one, "4": one}, **lists)
    (tmp_path / "JPEGImages" / "bare.jpg").touch()
    for folder, name in (("JPEGImages", "3.PNG"), ("Annotations", "3.xml")):
        (tmp_path / folder / "sub").mkdir()
        (tmp_path / folder / "sub" / name).write_text(XML.format(one))
    dataset = read_voc(tmp_path)
    assert {split: [dataset.locate(sample) for sample in samples] for split, samples in dataset.splits.items()} == {
        "train": ["JPEGImages/1.jpg", "JPEGImages/2.jpg", "JPEGImages/sub/3.PNG"],
        "val": ["JPEGImages/4.jpg"],
    }
    assert dataset.notes == (
        "train: 1 of 4 pictures are not in JPEGImages: gone",
        "val: 1 of 2 annotations are not in Annotations: bare",
    )
    for name in ("train", "val"):
        (tmp_path / "ImageSets" / "Main" / f"{name}.txt").unlink()
    assert {split: len(samples) for split, samples in read_voc(tmp_path).splits.items()} == {"train": 2}


def test_class_names_in_a_file_or_of_a_model(tmp_path: Path) -> None:
    voc(tmp_path, {"x": thing("b", 1, 1, 9, 9)})
    (tmp_path / "class_names.txt").write_text("background\nb\na\n")
    dataset = read_voc(tmp_path)
    assert dataset.classes == ("b", "a")
    assert dataset.notes == ("1 of 2 classes have no objects: a",)
    dataset = read_voc(tmp_path, classes=["a", "c", "b"])
    assert dataset.splits["all"][0].boxes == (BoxLabel(2, 0, 0, 9, 9),)
    with pytest.raises(UsageError, match="1 of 1 classes are none of the 1 that are known: b"):
        read_voc(tmp_path, classes=["a"])
    (tmp_path / "class_names.txt").write_text("a\n")
    with pytest.raises(UsageError, match=r"has boxes of b, which class_names.txt does not name"):
        read_voc(tmp_path)


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><annotation>&b;</annotation>'
PARAMETER = '<!DOCTYPE a [<!ENTITY % b SYSTEM "http://127.0.0.1/x.dtd">%b;]><annotation></annotation>'


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (BOMB, "defines the entity b, which is refused"),
        (OUTSIDE, "defines the entity b, which is refused"),
        (PARAMETER, "defines the entity b, which is refused"),
        ("<annotation><object></annotation>", r"is no XML \(mismatched tag: line 1"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', r"is no XML \("),
        ("<annotation>&unknown;</annotation>", r"is no XML \(undefined entity"),
        ("<html><annotation/></html>", "begins with <html> in place of <annotation>"),
        (XML.format("<object><name> </name></object>"), "object 1: has no name"),
        (XML.format(PERSON + "<object><name>a</name></object>"), "object 2: bndbox/xmin must be a number, got ''"),
        (XML.format(thing("a", 1, 2, float("nan"), 4)), "object 1: bndbox/xmax must be a number, got 'nan'"),
        ("<annotation><size><width>wide</width></size></annotation>", "size/width must be a number, got 'wide'"),
    ],
)
def test_a_damaged_annotation_is_named(tmp_path: Path, xml: str, message: str) -> None:
    voc(tmp_path, {"bad": xml + "<!-- <annotation> -->"})
    with pytest.raises(UsageError, match=rf"bad\.xml.*{message}"):
        read_voc(tmp_path)


def test_an_empty_annotation_is_no_xml(tmp_path: Path) -> None:
    voc(tmp_path, {"x": ""})
    (tmp_path / "Annotations" / "x.xml").write_bytes(b"")
    with pytest.raises(UsageError, match=r"x.xml: is no XML \(no element found"):
        read_voc(tmp_path)


def test_no_such_layout(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no folder JPEGImages, so it is not VOC's layout: give a folder with"):
        read_voc(tmp_path)
    voc(tmp_path / "VOCdevkit" / "VOC2012", {"x": PERSON})
    with pytest.raises(UsageError, match=r"has no folder JPEGImages, so it is not VOC's layout: give .*VOC2012$"):
        read_voc(tmp_path)
    assert recognise(tmp_path) == "detection"  # which the one door finds
    with pytest.raises(UsageError, match="has no folder SegmentationClass"):
        read_voc(tmp_path / "VOCdevkit" / "VOC2012", "segmentation")
    voc(tmp_path / "none", {"x": ""})
    with pytest.raises(UsageError, match="none of its 1 annotations has an object"):
        read_voc(tmp_path / "none")
    (tmp_path / "none" / "Annotations" / "x.xml").unlink()
    with pytest.raises(UsageError, match="no picture of JPEGImages has its annotation in Annotations"):
        read_voc(tmp_path / "none", "detection")


# Masks


def test_masks_are_listed_and_voc_s_classes_assumed(tmp_path: Path) -> None:
    masks(tmp_path, "1", "2", "3", train="1\nnone\n", val="2\n")
    dataset = read_voc(tmp_path)
    assert (dataset.task, recognise(tmp_path)) == ("segmentation", "segmentation")
    assert dataset.classes == VOC_CLASSES
    assert dataset.splits["train"] == (
        AnnotatedSample(tmp_path / "JPEGImages" / "1.jpg", mask_file=tmp_path / "SegmentationClass" / "1.png"),
    )
    assert dataset.notes == (
        "train: 1 of 2 pictures are not in JPEGImages: none",
        "there is no class_names.txt, so the masks' values are taken as Pascal VOC's 21 classes",
    )


def test_masks_of_other_classes(tmp_path: Path) -> None:
    masks(tmp_path, "1")
    (tmp_path / "class_names.txt").write_text("__ignore__\n_background_\ncat\n")
    assert read_voc(tmp_path).classes == ("_background_", "cat")
    assert read_voc(tmp_path, classes=["_background_", "cat"]).notes == ()
    with pytest.raises(
        UsageError, match="its masks are of 2 classes, _background_, cat, and others are asked for, cat"
    ):
        read_voc(tmp_path, classes=["cat"])
    (tmp_path / "class_names.txt").write_text("a\nb\na\n")
    with pytest.raises(UsageError, match=r"class_names.txt: must name the background and each class once"):
        read_voc(tmp_path)


def test_a_set_with_boxes_and_masks_is_for_boxes_unless_asked(tmp_path: Path) -> None:
    masks(voc(tmp_path, {"1": PERSON}), "1")
    assert recognise(tmp_path) == read_voc(tmp_path).task == "detection"
    assert read_voc(tmp_path, "segmentation").splits["all"][0].mask_file == tmp_path / "SegmentationClass" / "1.png"


def test_the_palette_is_voc_s() -> None:
    # VOC2012's development kit prints some of them.
    known = {0: (0, 0, 0), 1: (128, 0, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {value: tuple(PALETTE[value]) for value in known} == known


def save(file: Path, labels: NDArray[np.uint8], mode: str) -> Path:
    picture = Image.fromarray(labels)
    if mode != "L":
        picture.putpalette(PALETTE.tobytes())
        picture = picture.convert(mode)  # Pillow looks the colours up
    picture.save(file)
    return file


@settings(deadline=None, max_examples=40)
@given(
    labels=arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))),
    mode=st.sampled_from(["P", "RGB", "RGBA", "L"]),
)
def test_every_form_gives_the_labels(
    tmp_path_factory: pytest.TempPathFactory, labels: NDArray[np.uint8], mode: str
) -> None:
    file = save(tmp_path_factory.getbasetemp() / "mask.png", labels, mode)
    read = read_mask(file, labels.shape[::-1])
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, labels)


def png(depth: int, rows: list[bytes], width: int) -> bytes:
    """A grey PNG of a few bits a pixel, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, len(rows), depth, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("depth", "row", "labels"),
    [(1, b"\xa0", [1, 0, 1, 0]), (2, b"\x1b", [0, 1, 2, 3]), (4, b"\x0f\x72", [0, 15, 7, 2]), (8, b"\0\1\2\xff", None)],
)
def test_grey_of_few_bits_keeps_its_values(tmp_path: Path, depth: int, row: bytes, labels: list[int] | None) -> None:
    (tmp_path / "mask.png").write_bytes(png(depth, [row, row], 4))
    assert read_mask(tmp_path / "mask.png", (4, 2)).tolist() == [labels or [0, 1, 2, 255]] * 2


def test_grey_of_16_bits_and_with_transparency(tmp_path: Path) -> None:
    file = tmp_path / "mask.png"
    values = np.array([[0, 3, 255]], np.uint16)
    Image.fromarray(values).save(file)
    assert read_mask(file, (3, 1)).tolist() == [[0, 3, 255]]
    Image.fromarray(values + 1).save(file)
    with pytest.raises(ImageError, match="has the label 256, and no more than 255"):
        read_mask(file, (3, 1))
    Image.fromarray(np.array([[[5, 0], [6, 255]]], np.uint8)).save(file)
    assert file.read_bytes()[25] == 4  # grey with alpha
    assert read_mask(file, (2, 1)).tolist() == [[5, 6]]


def test_a_palette_of_other_colours_has_its_indices_read(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    picture.putpalette([9, 9, 9, 1, 2, 3, 200, 0, 0])
    picture.save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", (3, 1), classes=3).tolist() == [[0, 1, 2]]


def test_masks_that_do_not_fit_are_named(tmp_path: Path) -> None:
    file = save(tmp_path / "mask.png", np.array([[0, 1, 2, 255], [0, 2, 2, 3]], np.uint8), "P")
    with pytest.raises(ImageError, match=r"mask.png: the mask is 4 x 2 pixels and its picture 2 x 4: draw it again"):
        read_mask(file, (2, 4))
    with pytest.raises(ImageError, match=r"mask.png: 4 pixels have labels beyond the 2 classes, most of them 2"):
        read_mask(file, (4, 2), classes=2)
    assert read_mask(file, (4, 2), classes=4).max() == 255
    colours = np.zeros((2, 4, 3), np.uint8)
    colours[1, 2:] = 128, 0, 1
    Image.fromarray(colours).save(file)
    with pytest.raises(
        ImageError, match=r"2 pixels have colours that are none of VOC's, \(128, 0, 1\) at column 2, row 1: save"
    ):
        read_mask(file, (4, 2))


def test_files_that_are_no_masks(tmp_path: Path) -> None:
    file = tmp_path / "mask.png"
    with pytest.raises(ImageError, match=r"mask.png: no such mask"):
        read_mask(file, (4, 4))
    with pytest.raises(ImageError, match="the mask cannot be read"):
        read_mask(tmp_path, (4, 4))
    Image.new("L", (4, 4)).save(file, "JPEG")
    with pytest.raises(ImageError, match=r"mask.png: is no PNG"):
        read_mask(file, (4, 4))
    Image.fromarray(np.arange(2500, dtype=np.uint8).reshape(50, 50)).save(file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ImageError, match=r"mask.png: the mask is damaged \("):
        read_mask(file, (50, 50))


def test_masks_of_real_photographs(shared_data: Path) -> None:
    dataset = read_voc(shared_data / "voc_from_coco")
    assert recognise(shared_data / "voc_from_coco") == "segmentation"
    assert {split: len(samples) for split, samples in dataset.splits.items()} == {"train": 100, "val": 48}
    for sample in dataset.splits["val"][:8]:
        assert sample.mask_file is not None
        # The same photograph lies in COCO's folder; a copy of the data may hold links here that lead nowhere.
        photograph = read_image(shared_data / "coco" / "val2017" / sample.file.name)
        labels = read_mask(sample.mask_file, photograph.size, classes=21)
        with Image.open(sample.mask_file) as mask:
            colours = np.asarray(mask.convert("RGB"))
        # The file's own palette gives its classes VOC's colours.
        classes = labels != 255
        np.testing.assert_array_equal(colours[classes], PALETTE[labels[classes]])


# What other tools write


@pytest.mark.parametrize(
    "objects",
    [
        thing("a", 40, 50, 11, 21),
        thing("a", 40, 21, 11, 50),
        thing("a", 11, 21, 40, 50, more="<difficult></difficult>"),
        thing("a", 11, 21, 40, 50, more="<difficult>Unspecified</difficult>"),
        "<object><name>a</name><polygon><x1>11</x1><y1>21</y1><x2>40</x2><y2>30</y2><x3>20</x3><y3>50</y3></polygon></object>",
        "<object><name>a</name><polygon><pt><x>11</x><y>50</y></pt><pt><x>40</x><y>30</y></pt><pt><x>20</x><y>21</y></pt>"
        "</polygon></object>",
    ],
)
def test_what_other_tools_write_is_read_alike(tmp_path: Path, objects: str) -> None:
    data = read_voc(voc(tmp_path, {"x": objects}))
    assert data.splits["all"][0].boxes == (BoxLabel(0, 10, 20, 40, 50),)


@pytest.mark.parametrize("value", ["1", "true", " 1 "])
def test_difficult_objects(tmp_path: Path, value: str) -> None:
    data = read_voc(voc(tmp_path, {"x": thing("a", 11, 21, 40, 50, more=f"<difficult>{value}</difficult>")}))
    assert data.splits["all"][0].boxes == (BoxLabel(0, 10, 20, 40, 50, difficult=True),)


@pytest.mark.parametrize(
    "line",
    [
        "JPEGImages/{}.jpg",
        "C:\\d\\JPEGImages\\{}.jpg",
        "/home/somebody/VOC2012/JPEGImages/{}.jpg",
        "./{}.jpg",
        "JPEGImages/{}.jpg Annotations/{}.xml",
        "/JPEGImages/{}.jpg /Annotations/{}.xml",
    ],
)
def test_lists_with_paths(tmp_path: Path, line: str) -> None:
    objects = dict.fromkeys(("a.1", "b"), PERSON)
    data = read_voc(voc(tmp_path, objects, train=line.format("a.1", "a.1") + "\n", val=line.format("b", "b") + "\n"))
    assert {split: [s.file.name for s in samples] for split, samples in data.splits.items()} == {
        "train": ["a.1.jpg"],
        "val": ["b.jpg"],
    }
    assert data.notes == ()


def test_endings_in_upper_case_and_what_has_no_annotation(tmp_path: Path) -> None:
    root = voc(tmp_path, dict.fromkeys("abc", PERSON))
    (root / "Annotations/a.xml").rename(root / "Annotations/a.XML")
    (root / "JPEGImages/b.jpg").rename(root / "JPEGImages/b.JPG")
    (root / "Annotations/c.xml").unlink()
    assert recognise(root) == "detection"
    data = read_voc(root)
    assert [sample.file.name for sample in data.splits["all"]] == ["a.jpg", "b.JPG"]
    assert "1 of 3 pictures have no .xml of their name in Annotations, left out: c" in data.notes
    (root / "Annotations/b.xml").unlink()
    assert recognise(root) == "detection"


@pytest.mark.parametrize(
    "objects",
    [
        PERSON + "<object><name>person</name><polygon><x1>1</x1><y1>1</y1></polygon></object>",
        PERSON + "<object><name></name></object>",
        "<annotation><object>",
        thing("person", 600, 600, 700, 700),
    ],
)
def test_a_picture_that_lost_objects_is_left_out_and_told(tmp_path: Path, objects: str) -> None:
    root = voc(tmp_path, {"bad": objects, "empty": "", "good": PERSON})
    data = read_voc(root)
    assert [sample.file.stem for sample in data.splits["all"]] == ["empty", "good"]
    assert any("left out" in note and note.startswith("all: 1 of 3") for note in data.notes)
    marked = {sample.file.stem: sample.damaged for sample in read_voc(root, faults=[]).splits["all"]}
    assert not marked["empty"]
    assert not marked["good"]
    assert marked.get("bad", True)
