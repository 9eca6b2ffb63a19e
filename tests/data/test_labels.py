"""What is nearly a dataset of labels: read with a word about what was left out, or refused with what to do."""

from __future__ import annotations

import json
import struct
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from fusiform.data.dataset import DataSet
from fusiform.data.folders import read_dataset
from fusiform.data.layouts import rows
from fusiform.data.layouts.matlab import read_numbers
from fusiform.data.layouts.metadata import has_labels
from fusiform.data.layouts.roots import ROOTS, find_root
from fusiform.data.open import open_dataset, recognise
from fusiform.errors import FusiformError, ImageError, MissingExtraError, UsageError


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def labelled(data: DataSet) -> dict[str, list[tuple[str, str]]]:
    return {
        split: [(data.locate(sample), data.classes[sample.label]) for sample in samples]
        for split, samples in data.splits.items()
    }


# Hugging Face's ImageFolder


def image_folder(root: Path, *lines: dict[str, Any], name: str = "metadata.jsonl") -> Path:
    make(root, "1.png", "2.png")
    (root / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return root


def test_numbers_names_and_other_spellings_of_columns(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "a", {"Label": 10, "file_name": "1.png"}, {"Label": 9.0, "file_name": "2.png"})
    assert labelled(open_dataset(root, task="classification")) == {"all": [("1.png", "10"), ("2.png", "9")]}
    root = image_folder(
        tmp_path / "b", {"image_file_name": "1.png", "class": "x"}, {"image_file_name": ".\\2.png", "class": "y"}
    )
    assert open_dataset(root, task="classification").classes == ("x", "y")
    # The number and the name of one class are one label.
    root = image_folder(
        tmp_path / "c",
        {"file_name": "1.png", "label": 0, "class_name": "cat"},
        {"file_name": "2.png", "label": 1, "class_name": "dog"},
    )
    assert open_dataset(root, task="classification").classes == ("cat", "dog")


def test_the_split_is_the_folder_of_the_path_or_a_column(tmp_path: Path) -> None:
    lines = [{"file_name": f"{split}/1.png", "label": "x"} for split in ("train", "validation", "test")]
    root = image_folder(make(tmp_path / "a", *(line["file_name"] for line in lines)), *lines)
    assert set(open_dataset(root, task="classification").splits) == {"train", "val", "test"}
    lines = [{"file_name": f"{i}.png", "label": "x", "split": split} for i, split in ((1, "train"), (2, "VALID"))]
    assert set(open_dataset(image_folder(tmp_path / "b", *lines), task="classification").splits) == {"train", "val"}


def test_what_no_line_names_and_what_has_no_label_is_counted(tmp_path: Path) -> None:
    root = image_folder(
        make(tmp_path, "3.png", "4.jxl"),
        {"file_name": "1.png", "label": "x"},
        {"file_name": "2.png", "label": None},
    )
    data = open_dataset(root, task="classification")
    assert labelled(data) == {"all": [("1.png", "x")]}
    assert data.notes == (
        "pictures without a label in metadata.jsonl, passed over: 1",
        f"2 pictures without a line in the metadata, such as {tmp_path / '2.png'}, passed over",
        "1 file ending in .jxl, such as 4.jxl: not read; save them as JPEG or PNG",
    )


def test_metadata_without_labels_leaves_the_folders_their_classes(tmp_path: Path) -> None:
    make(tmp_path, "train/cat/1.png", "train/dog/2.png")
    (tmp_path / "train/metadata.csv").write_text("file_name,text\ncat/1.png,a cat\n", encoding="utf-8")
    data = open_dataset(tmp_path, task="classification")
    assert data.classes == ("cat", "dog")
    assert data.notes == ("train/metadata.csv: has file_name, text, no labels: not read",)


def test_the_metadata_itself_and_other_lists_in_json(tmp_path: Path) -> None:
    root = image_folder(tmp_path, {"file_name": "1.png", "label": "x"}, {"file_name": "2.png", "label": "y"})
    assert open_dataset(root / "metadata.jsonl", task="classification").classes == ("x", "y")
    image_folder(root, {"path": "1.png", "label": "x"}, {"path": "2.png", "label": "y"}, name="other.jsonl")
    assert open_dataset(root / "other.jsonl", task="classification").classes == ("x", "y")
    (root / "metadata.csv").write_text("file_name,labels\n1.png,x\n2.png,y\n", encoding="utf-8")
    assert open_dataset(root / "metadata.csv", task="classification").classes == ("x", "y")
    with pytest.raises(UsageError, match=r"holds metadata\.jsonl and metadata\.csv, and the labels can be in one"):
        open_dataset(root, task="classification")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"file_name": "1.png", "label": "x", "category": "y"}, "several columns could be the label, label, category"),
        ({"file_name": "1.png", "label": ["x", "y"]}, 'label has several values, ["x", "y"], and a picture can have'),
        ({"file_name": "1.png", "label": {"x": 1}}, "label has several values"),
        ({"file_name": "1.png", "label": "x|y"}, "the label 'x|y' names several classes"),
        ({"file_name": "", "label": "x"}, "line 1: has no file_name"),
        ({"left_file_name": "1.png", "right_file_name": "2.png", "label": "x"}, "names several pictures in a line"),
        ({"file_name": "1.png", "label": "x", "split": "dev"}, "line 1: 'dev' is no split"),
        ({"file_name": "1.png", "label": -1}, "no picture has a label"),
        ({"file_name": "nowhere/1.png", "label": "x"}, "none of its 2 pictures is there"),
    ],
)
def test_metadata_that_is_ambiguous_is_refused(line: dict[str, Any], message: str, tmp_path: Path) -> None:
    other = {**line, "file_name": "nowhere/2.png"} if "nowhere" in str(line) else line
    if "category" in line:
        other = {"file_name": "2.png", "label": "x", "category": "z"}
    with pytest.raises(UsageError) as raised:
        open_dataset(image_folder(tmp_path, line, other), task="classification")
    assert message in str(raised.value)
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"file_name": "1.png", "label": "x"}\n{"file', "line 2: is not JSON"),
        ('[1, 2]\n{"file_name": "1.png", "label": "x"}', "line 1: is no JSON object"),
    ],
)
def test_damaged_metadata_names_the_line(text: str, message: str, tmp_path: Path) -> None:
    image_folder(tmp_path)
    (tmp_path / "metadata.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=rf"metadata\.jsonl, {message}"):
        open_dataset(tmp_path, task="classification")


def test_a_damaged_table_of_metadata_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    image_folder(tmp_path / "data")
    (tmp_path / "data/metadata.jsonl").unlink()
    (tmp_path / "data/metadata.parquet").write_bytes(b"PAR1" + bytes(50))
    for source in (tmp_path / "data", tmp_path / "data/metadata.parquet"):
        with pytest.raises(UsageError, match=r"metadata\.parquet: cannot be read \(damaged: .*\): write it again"):
            open_dataset(source, task="classification")


def test_metadata_with_boxes_are_for_a_detector_however_damaged(tmp_path: Path) -> None:
    image_folder(tmp_path, {"file_name": "1.png", "label": "x", "objects": {"bbox": [[1, 1, 2, 2]], "categories": [0]}})
    for damage in ("", "{"):
        with (tmp_path / "metadata.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(damage)
        for source in (tmp_path, tmp_path / "metadata.jsonl"):
            assert not has_labels(source)
    (tmp_path / "metadata.jsonl").write_text("{", encoding="utf-8")
    assert not has_labels(tmp_path)


def test_one_picture_of_a_split_and_one_of_none(tmp_path: Path) -> None:
    make(tmp_path, "train/3.png")
    lines = [{"file_name": "1.png", "label": "x"}, {"file_name": "train/3.png", "label": "x"}]
    with pytest.raises(UsageError, match=r"some pictures are of train, and others, such as .*1\.png, of no split"):
        open_dataset(image_folder(tmp_path, *lines), task="classification")


# Parquet and Arrow


def table(rows: list[dict[str, Any]], names: list[str] | None = None) -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    made = pyarrow.Table.from_pylist(rows)
    if names is None:
        return made
    kind = {"info": {"features": {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}}}
    return made.replace_schema_metadata({b"huggingface": json.dumps(kind).encode()})


def write(path: Path, rows: list[dict[str, Any]], names: list[str] | None = None, *, group: int = 2) -> Path:
    made = table(rows, names)
    from pyarrow.parquet import write_table

    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(made, path, row_group_size=group)
    return path


def picture(text: str) -> dict[str, Any]:
    return {"bytes": text.encode(), "path": None}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": picture("1"), "objects": {"bbox": [[1, 2, 3, 4]]}}, "has boxes, in the column objects"),
        ({"image": picture("1"), "label": ["a", "b"]}, "the column label has several values to a picture"),
        ({"image": picture("1"), "caption": "a cat"}, "has no column of labels"),
        ({"text": "a cat", "label": 1}, "has no column of encoded pictures"),
        ({"image": picture("1"), "img": b"2", "label": 1}, "has pictures in the columns image, img"),
        ({"image": picture("1"), "label": -1}, "no picture has a label"),
        ({"image": {"bytes": None, "path": "gone.png"}, "label": 1}, "has no column of encoded pictures"),
        ({"image": picture("1"), "label": 0.25}, "the labels are quantities, such as 0.25"),
    ],
)
def test_tables_that_say_no_label_are_refused(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        open_dataset(write(tmp_path / "train.parquet", [row, row]), task="classification")
    assert message in str(raised.value)
    assert "train.parquet" in str(raised.value)


def test_several_columns_several_sets_and_unknown_classes(tmp_path: Path) -> None:
    rows = [{"image": picture(str(i)), "label": i % 2, "category": i % 3} for i in range(6)]
    with pytest.raises(UsageError, match="several columns could be the label, label, category"):
        open_dataset(write(tmp_path / "a.parquet", rows), task="classification")
    for name in ("plain", "noisy"):
        write(tmp_path / "b" / name / "train-0.parquet", [{"image": picture("1"), "label": 1}])
    with pytest.raises(UsageError, match="holds several datasets, noisy, plain: give one of them"):
        open_dataset(tmp_path / "b", task="classification")
    assert set(open_dataset(tmp_path / "b" / "plain", task="classification").splits) == {"train"}
    data = [{"image": picture("1"), "label": label} for label in (0, 7)]
    unknown = write(tmp_path / "c.parquet", data, ["a", "b"])
    with pytest.raises(UsageError, match="row 1: has class 7, and there are 2 names"):
        open_dataset(unknown, task="classification")
    write(tmp_path / "d" / "train.parquet", [{"image": picture("1"), "label": 0}], ["a", "b"])
    write(tmp_path / "d" / "test.parquet", [{"image": picture("1"), "label": 0}], ["b", "a"])
    with pytest.raises(UsageError, match="do not have the same classes"):
        open_dataset(tmp_path / "d", task="classification")


def test_the_names_order_of_a_table_is_kept_and_what_lacks_a_label_counted(tmp_path: Path) -> None:
    rows = [{"image": picture(str(i)), "label": label} for i, label in enumerate((1, 0, -1, None))]
    data = open_dataset(write(tmp_path / "x.parquet", rows, ["zebra", "ape"]), task="classification")
    assert data.classes == ("zebra", "ape")
    assert labelled(data) == {"all": [("image/0", "ape"), ("image/1", "zebra")]}
    assert data.notes == ("pictures without a label, passed over: 2",)


def test_pictures_of_a_table_are_read_in_any_order_and_few_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = [bytes([i]) * 1000 for i in range(40)]
    file = write(
        tmp_path / "x.parquet", [{"image": {"bytes": one, "path": ""}, "label": i % 2} for i, one in enumerate(data)]
    )
    samples = open_dataset(file, task="classification").splits["all"]
    monkeypatch.setattr(rows, "KEPT_BYTES", 5000)
    order = [(7 * i) % 40 for i in range(40)]
    wrong: list[int] = []

    def read(part: list[int]) -> None:
        wrong.extend(i for i in part if samples[i].read_bytes() != data[i])

    threads = [threading.Thread(target=read, args=(order[k::4],)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    held = [chunk.nbytes for group in rows._groups.values() for chunk in group.chunks or ()]
    assert sum(held) <= 5000 + 2 * 1100  # those kept, and the one read last
    # A file that is written anew is not taken from what is kept.
    write(file, [{"image": {"bytes": b"new", "path": ""}, "label": 0}] * 40)
    assert samples[3].read_bytes() == b"new"
    file.write_bytes(b"PAR1 no longer")
    with pytest.raises(ImageError, match=r"x\.parquet/image/3: cannot be read"):
        samples[3].read_bytes()


def test_damaged_tables_and_compressed_arrow_are_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    for name in ("a.parquet", "b.arrow"):
        (tmp_path / name).write_bytes(b"PAR1" + bytes(100))
        with pytest.raises(UsageError, match=rf"{name}: is damaged or no such file"):
            open_dataset(tmp_path / name, task="classification")
    made = table([{"image": picture("x" * 5000), "label": 1}])
    options = pyarrow.ipc.IpcWriteOptions(compression="lz4")
    path = str(tmp_path / "c.arrow")
    with pyarrow.OSFile(path, "wb") as sink, pyarrow.ipc.new_stream(sink, made.schema, options=options) as writer:
        writer.write_table(made)
    with pytest.raises(UsageError, match=r"c\.arrow: is compressed, and pictures are read in place"):
        open_dataset(tmp_path / "c.arrow", task="classification")


def test_what_datasets_keeps_beside_its_tables_is_counted(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    write(tmp_path / "train.parquet", [{"image": picture("1"), "label": 1}])
    make(tmp_path, "cache-0123456789abcdef.arrow")
    (note,) = open_dataset(tmp_path, task="classification").notes
    assert note == "results that the library datasets kept, such as cache-0123456789abcdef.arrow, not read: 1"


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "train-00000-of-00001.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        MissingExtraError, match=r"needs pyarrow, which is not installed: pip install 'fusiform\[parquet\]'"
    ):
        open_dataset(tmp_path, task="classification")


def test_tables_beside_folders_of_classes_are_told(tmp_path: Path) -> None:
    make(tmp_path, "cat/1.png", "dog/2.png", "features.parquet")
    data = open_dataset(tmp_path, task="classification")
    assert data.classes == ("cat", "dog")
    assert data.notes == ("Parquet files beside the folders, not read: 1; give one of them to read it",)


# Published datasets


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"meta/train.txt": "apple\n", "images/": ""}, "line 1: is no class/picture"),
        ({"meta/train.txt": "\n", "images/": ""}, "the lists of food-101 name no pictures"),
        ({"annotations/list.txt": "cat_1 1 1 1\ndog_1 1 1 1\n", "images/": ""}, "line 2: dog_1 is not of class 1"),
        ({"annotations/list.txt": "cat_1 1\n", "images/": ""}, "line 1: has 2 of 4 fields"),
        (
            {"images.txt": "1 a/1.jpg\n", "image_class_labels.txt": "2 1\n", "classes.txt": "1 a\n", "images/": ""},
            "line 1: the lists give picture 1 no class or no split",
        ),
        ({"jpg/": "", "imagelabels.mat": "x", "setid.mat": "x"}, "is no MATLAB file of level 5"),
    ],
)
def test_damaged_lists_of_published_datasets(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        open_dataset(tmp_path, task="classification")
    assert message in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_class_folders_are_no_published_dataset(tmp_path: Path) -> None:
    make(tmp_path, "images/1.jpg", "jpg/2.jpg", "annotations/3.jpg", "meta/4.jpg")
    assert find_root(tmp_path) is None
    assert set(ROOTS) == {"food-101", "flowers-102", "Oxford-IIIT Pet", "CUB-200", "tiny-imagenet-200"}


@pytest.mark.parametrize("cut", [130, 140, 200])
def test_a_matlab_file_that_is_cut_short(cut: int, tmp_path: Path) -> None:
    content = struct.pack("<IIII", 6, 8, 6, 0) + struct.pack("<IIii", 5, 8, 1, 3)
    content += struct.pack("<I4s", 4 << 16 | 1, b"labl")  # the small form, with the name within
    content += struct.pack("<II", 2, 3) + bytes([1, 2, 3, 0, 0, 0, 0, 0])
    header = b"MATLAB".ljust(126) + b"IM"
    whole = header + (14).to_bytes(4, "little") + len(content).to_bytes(4, "little") + content
    path = tmp_path / "x.mat"
    path.write_bytes(whole)
    assert read_numbers(path) == {"labl": [1, 2, 3]}
    path.write_bytes(whole[: min(cut, len(whole) - 1)])
    if cut == 130:
        assert read_numbers(path) == {}
    else:
        with pytest.raises(UsageError, match=r"x\.mat: is damaged \(an element ends"):
            read_numbers(path)


# Folders within folders


def test_several_years_are_refused_with_their_names(tmp_path: Path) -> None:
    make(tmp_path, "VOCdevkit/VOC2007/JPEGImages/1.jpg", "VOCdevkit/VOC2012/JPEGImages/1.jpg", "VOCdevkit/VOCcode/a.m")
    for source in (tmp_path, tmp_path / "VOCdevkit"):
        with pytest.raises(UsageError, match=r"holds several datasets, VOC2007, VOC2012: give one of them"):
            recognise(source)


def test_one_year_is_found_within_its_development_kit(tmp_path: Path) -> None:
    make(tmp_path, "VOCdevkit/VOC2012/JPEGImages/1.jpg", "VOCdevkit/VOCcode/a.m", "VOCdevkit/results/VOC2012/x.txt")
    annotation = "<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax>"
    annotation += "<ymax>5</ymax></bndbox></object></annotation>"
    make(tmp_path, "VOCdevkit/VOC2012/Annotations/1.xml")
    (tmp_path / "VOCdevkit/VOC2012/Annotations/1.xml").write_text(annotation, encoding="utf-8")
    for source in (tmp_path, tmp_path / "VOCdevkit", tmp_path / "VOCdevkit/VOC2012"):
        assert recognise(source) == "detection"
        data = open_dataset(source, task="detection")
        assert data.source == tmp_path / "VOCdevkit/VOC2012"
        steps = [note for note in data.notes if "the dataset is the folder" in note]
        assert len(steps) == len(data.source.relative_to(source).parts)


def test_a_split_alone_and_a_class_alone_are_not_stepped_into(tmp_path: Path) -> None:
    make(tmp_path / "a", "train/cat/1.jpg", "train/dog/1.jpg")
    assert set(open_dataset(tmp_path / "a", task="classification").splits) == {"train"}
    make(tmp_path / "b", "cat/1.jpg", "cat/2.jpg")
    assert open_dataset(tmp_path / "b", task="classification").classes == ("cat",)


def test_unsorted_pictures_of_one_split_are_no_class(tmp_path: Path) -> None:
    make(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "val/cat/2.jpg", "test/images/3.jpg", "test/images/4.jpg")
    data = open_dataset(tmp_path, task="classification")
    assert data.classes == ("cat", "dog")
    assert "test/images: 2 pictures without classes, which train has, passed over" in data.notes
    # Where train has that folder, too, it is a class.
    make(tmp_path / "x", "train/images/1.jpg", "train/dog/1.jpg", "test/images/3.jpg")
    assert open_dataset(tmp_path / "x", task="classification").classes == ("dog", "images")


def test_folders_that_all_have_the_same_folders(tmp_path: Path) -> None:
    make(tmp_path / "a", *(f"my_{s}/{c}/1.jpg" for s in ("train", "validation") for c in ("cat", "dog")))
    assert set(open_dataset(tmp_path / "a", task="classification").splits) == {"train", "val"}
    make(tmp_path / "b", *(f"{c}/{place}/1.jpg" for c in ("cat", "dog") for place in ("inside", "outside")))
    data = open_dataset(tmp_path / "b", task="classification")
    assert data.classes == ("cat", "dog")
    assert data.notes[0].startswith("the classes are the folders cat, dog; those within them, inside, outside, count")


@pytest.mark.parametrize("name", ["data_batch_1", "train-images-idx3-ubyte", "t10k-labels.idx1-ubyte", "batches.meta"])
def test_files_of_pixels_are_named_as_such(name: str, tmp_path: Path) -> None:
    make(tmp_path / "x", name)
    with pytest.raises(UsageError, match="holds the pixels of pictures in a format of its own"):
        read_dataset(tmp_path / "x")


# Lists with their pictures elsewhere


def a_list(root: Path, *names: str, called: str = "list.csv") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / called).write_text("path,label\n" + "".join(f"{name},{name[0]}\n" for name in names), encoding="utf-8")
    return root / called


def test_a_list_begins_in_its_root(tmp_path: Path) -> None:
    file = a_list(tmp_path / "lists", "a.jpg", "b/c.jpg")
    make(tmp_path / "pictures", "a.jpg", "b/c.jpg")
    data = open_dataset(file, task="classification", root=tmp_path / "pictures")
    assert [sample.file for sample in data.splits["all"]] == [
        tmp_path / "pictures/a.jpg",
        tmp_path / "pictures/b/c.jpg",
    ]
    line = {"file_name": "a.jpg", "label": "x"}
    image_folder(tmp_path / "json", line, {**line, "file_name": "b/c.jpg"}, name="list.jsonl")
    rooted = open_dataset(tmp_path / "json/list.jsonl", task="classification", root=tmp_path / "pictures")
    assert [sample.file for sample in rooted.splits["all"]] == [sample.file for sample in data.splits["all"]]
    with pytest.raises(UsageError, match=r"--root .*: says where the pictures of a list lie, and .* is no list"):
        open_dataset(make(tmp_path / "folders", "cat/1.jpg", "dog/1.jpg"), task="classification", root=tmp_path)


@pytest.mark.parametrize(
    ("names", "there", "message"),
    [
        (
            ["a.jpg", "b.jpg"],
            [],
            r"none of its 2 pictures is there, such as .*a\.jpg: name the folder .* with --root DIR$",
        ),
        (["a.jpg", "b.jpg"], ["x/y/b.jpg"], r"they lie in .*x/y: add --root .*x/y$"),
        (["t/a.jpg", "t/b.jpg"], ["x/t/a.jpg"], r"they lie in .*/x: add --root .*/x$"),
        (["t/a.jpg", "t/b.jpg"], ["b.jpg"], r"b\.jpg is: change the paths in the list, or move the pictures$"),
        (["a.x", "b.x"], ["p/a.x.jpg"], r"a\.x\.jpg is: write the names in the list with their endings$"),
        (["a.jpg"], [], "its only picture is not there"),
    ],
)
def test_where_all_pictures_are_missing_one_line_says_where_they_are(
    names: list[str], there: list[str], message: str, tmp_path: Path
) -> None:
    file = a_list(tmp_path, *names)
    make(tmp_path, *there)
    with pytest.raises(UsageError, match=message) as raised:
        open_dataset(file, task="classification")
    assert "\n" not in str(raised.value)
    if "--root" in message and there:
        root = str(raised.value).rpartition("--root ")[2]
        assert any(
            sample.file.is_file() for sample in open_dataset(file, task="classification", root=root).splits["all"]
        )


def test_a_root_in_which_no_path_begins(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label\na.jpg,cat\nb.jpg,dog\n")
    for root in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError, match=r"the list's paths do not begin in --root .*: name another$"):
            open_dataset(tmp_path / "list.csv", root=root)


def test_a_list_with_one_picture_there_is_read(tmp_path: Path) -> None:
    file = a_list(tmp_path, *(f"{i}.jpg" for i in range(200)))
    make(tmp_path, "133.jpg")
    assert len(open_dataset(file, task="classification").splits["all"]) == 200


def test_no_layout_gives_a_traceback(tmp_path: Path) -> None:
    make(tmp_path, "metadata.jsonl", "images.txt", "images/1.jpg", "classes.txt", "image_class_labels.txt")
    with pytest.raises(FusiformError):
        open_dataset(tmp_path, task="classification")
