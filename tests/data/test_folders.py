from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path

import pytest

from fusiform.data.dataset import DataSet
from fusiform.data.folders import read_dataset
from fusiform.errors import UsageError


def make(root: Path, *names: str) -> Path:
    """Files that are called pictures: listing a dataset opens none. A name that ends in / is an empty folder."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    return root


def listed(dataset: DataSet) -> dict[str, list[tuple[str, str]]]:
    return {
        split: [(dataset.locate(sample), dataset.classes[sample.label]) for sample in samples]
        for split, samples in dataset.splits.items()
    }


# Folders


def test_class_folders_in_natural_order_with_pictures_at_any_depth(tmp_path: Path) -> None:
    make(tmp_path, "10/a.jpg", "2/deep/er/b.PNG", "1/c.webp", ".ipynb_checkpoints/x.jpg", "__MACOSX/1/y.jpg", "1/z.txt")
    dataset = read_dataset(tmp_path)
    assert dataset.classes == ("1", "2", "10")
    assert listed(dataset) == {"all": [("1/c.webp", "1"), ("2/deep/er/b.PNG", "2"), ("10/a.jpg", "10")]}
    assert dataset.notes == ()
    assert read_dataset(str(tmp_path)).fingerprint() == dataset.fingerprint()


def test_classes_are_bound_by_name_whatever_a_split_lacks(tmp_path: Path) -> None:
    make(tmp_path, "Train/a/1.jpg", "Train/b/2.jpg", "Train/c/3.jpg", "Train/empty/", "Train/.hidden/")
    make(tmp_path, "VALIDATION/c/4.jpg", "VALIDATION/b/", "testing/a/5.jpg", "testing/d/6.jpg")
    dataset = read_dataset(tmp_path)
    assert dataset.classes == ("a", "b", "c", "d")
    assert listed(dataset) == {
        "train": [("Train/a/1.jpg", "a"), ("Train/b/2.jpg", "b"), ("Train/c/3.jpg", "c")],
        "val": [("VALIDATION/c/4.jpg", "c")],
        "test": [("testing/a/5.jpg", "a"), ("testing/d/6.jpg", "d")],
    }
    assert dataset.notes == (
        "Train/empty: an empty folder, no class",
        "train has no pictures of 1 of 4 classes: d",
        "val has no pictures of 3 of 4 classes: a, b, d",
        "test has no pictures of 2 of 4 classes: b, c",
    )


def test_both_unicode_spellings_of_a_class_meet(tmp_path: Path) -> None:
    name = "고양이 é"
    nfc, nfd = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    make(tmp_path, f"train/{nfd}/1.jpg", f"val/{nfc}/2.jpg")
    dataset = read_dataset(tmp_path)
    assert dataset.classes == (nfc,)
    assert dataset.notes == ()
    # A model's own spelling stays as it is.
    assert read_dataset(tmp_path, classes=[nfd]).classes == (nfd,)


def test_pictures_in_no_class_folder_are_counted(tmp_path: Path) -> None:
    make(tmp_path, "1.jpg", "2.jpg", "train/a/3.jpg", "train/a/7.jpg", "train/4.jpg", "val/", "x.tar")
    make(tmp_path, "test/5.jpg", "extra/6.jpg")
    dataset = read_dataset(tmp_path)
    assert listed(dataset) == {"train": [("train/a/3.jpg", "a"), ("train/a/7.jpg", "a")]}
    assert dataset.notes == (
        "tar files beside the folders, not read: 1; give one of them to read it",
        "2 pictures beside the folders, in none of them, passed over",
        "extra: 1 picture in no class folder of a split, passed over",
        "test: 1 picture in no class folder of a split, passed over",
        "train: 1 picture in no class folder of a split, passed over",
        "val: no pictures",
    )


def test_train_may_be_a_class(tmp_path: Path) -> None:
    make(tmp_path, "train/1.jpg", "car/2.jpg", "bus/3.jpg")
    assert read_dataset(tmp_path).classes == ("bus", "car", "train")


def test_one_split_alone_is_a_split(tmp_path: Path) -> None:
    assert set(read_dataset(make(tmp_path / "a", "train/x/1.jpg")).splits) == {"train"}
    assert set(read_dataset(make(tmp_path / "b", "test/x/1.jpg")).splits) == {"test"}
    # A class that is called test, beside another.
    assert set(read_dataset(make(tmp_path / "c", "test/x/1.jpg", "other/1.jpg")).splits) == {"all"}


def test_the_folder_around_the_data_set_is_seen_through(tmp_path: Path) -> None:
    make(tmp_path, "data/train/a/1.jpg", "data/val/a/1.jpg", "notes.txt")
    dataset = read_dataset(tmp_path)
    assert listed(dataset) == {"train": [("train/a/1.jpg", "a")], "val": [("val/a/1.jpg", "a")]}
    assert dataset.notes == ("data: the only folder with pictures, taken for the dataset itself",)
    make(tmp_path / "x", "Images/a/1.jpg", "Images/b/1.jpg", "Annotation/a/1", "lists/train.mat")
    assert listed(read_dataset(tmp_path / "x")) == {"all": [("a/1.jpg", "a"), ("b/1.jpg", "b")]}
    make(tmp_path / "deep", "y/z/a/1.jpg", "y/z/b/1.jpg", "y/z/2.jpg")
    deep = read_dataset(tmp_path / "deep")
    assert deep.classes == ("a", "b")
    assert "1 picture beside the folders, in none of them, passed over" in deep.notes
    # A class alone stays one, which is told.
    one = read_dataset(make(tmp_path / "one", "cat/1.jpg", "cat/2.jpg"))
    assert one.classes == ("cat",)
    assert one.notes == ("all pictures are of one class, cat, and a classifier needs two or more",)
    make(tmp_path / "one", "labels.csv")
    with pytest.raises(UsageError, match=r"folder cat, which is one class \(there is a list, .*labels\.csv: give"):
        read_dataset(tmp_path / "one")


def test_two_names_of_one_split_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "train/a/1.jpg", "val/a/1.jpg", "validation/a/2.jpg")
    with pytest.raises(UsageError, match="val and validation are both the split val"):
        read_dataset(tmp_path)


def test_a_model_gives_the_names_and_their_order(tmp_path: Path) -> None:
    make(tmp_path, "cat/1.jpg", "ape/2.jpg")
    dataset = read_dataset(tmp_path, classes=["dog", "cat", "ape"])
    assert [sample.label for sample in dataset.splits["all"]] == [2, 1]
    assert dataset.classes == ("dog", "cat", "ape")
    assert dataset.notes == ("1 of 3 classes have no pictures: dog",)
    with pytest.raises(UsageError, match="1 of 2 classes are none of the 2 that are known: ape"):
        read_dataset(tmp_path, classes=["dog", "cat"])
    with pytest.raises(UsageError, match="more than one of the known classes bears the name cat"):
        read_dataset(tmp_path, classes=["cat", "ape", "cat"])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' file names are always Unicode and may fold case")
def test_names_in_another_encoding_or_case_are_told(tmp_path: Path) -> None:
    make(tmp_path, "a/Cat/1.jpg", "a/cat/2.jpg")
    assert read_dataset(tmp_path / "a").notes == ("the classes Cat and cat differ in nothing but case",)
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b/\xc4pfel"))
    odd.mkdir(parents=True)
    make(odd, "1.jpg")
    with pytest.raises(UsageError, match=r"not Unicode text, \\udcc4pfel: rename its folder"):
        read_dataset(tmp_path / "b")


def test_what_is_no_data_set_is_told_what_would_be_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        read_dataset(tmp_path / "none")
    with pytest.raises(UsageError, match=r"is no dataset: give a folder with .*CSV.*tar"):
        read_dataset(make(tmp_path, "x.zip") / "x.zip")
    with pytest.raises(UsageError, match="no pictures in it: give a folder with"):
        read_dataset(make(tmp_path / "empty", "a/", "b/"))
    make(tmp_path / "flat", "1.jpg", "2.jpg")
    with pytest.raises(UsageError, match="2 pictures but no class folders"):
        read_dataset(tmp_path / "flat")
    make(tmp_path / "flat", "train.csv")
    with pytest.raises(UsageError, match=r"there is a list, .*train\.csv: give that, with --root"):
        read_dataset(tmp_path / "flat")


# Lists


def read_list(tmp_path: Path, content: str | bytes, name: str = "list.csv") -> DataSet:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return read_dataset(tmp_path / name)


def test_columns_are_found_by_their_names(tmp_path: Path) -> None:
    dataset = read_list(
        tmp_path,
        "\ufeffid,Label,Class_Name, FileName ,subset\r\n"
        '1,10,고양이,"a, b/1.jpg",Train\r\n'
        "\r\n"
        "2,2,dog,dir\\2.jpg,valid\r\n"
        "3,2,dog,/abs/3.jpg,test,,\r\n",
    )
    assert dataset.classes == ("dog", "고양이")
    assert listed(dataset) == {
        "train": [("a, b/1.jpg", "고양이")],
        "val": [("dir/2.jpg", "dog")],
        "test": [("/abs/3.jpg", "dog")],
    }
    assert dataset.splits["train"][0].file == tmp_path / "a, b" / "1.jpg"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "1.jpg,cat\n2.jpg,dog"),
        ("a.csv", "file;label\n1.jpg;cat\n2.jpg;dog"),
        ("a.TSV", "1.jpg\tcat\n2.jpg\tdog"),
    ],
)
def test_without_names_path_comes_first_and_label_second(tmp_path: Path, name: str, content: str) -> None:
    assert listed(read_list(tmp_path, content, name)) == {"all": [("1.jpg", "cat"), ("2.jpg", "dog")]}


def test_numbers_as_labels_are_names_in_natural_order(tmp_path: Path) -> None:
    assert read_list(tmp_path, "path,label\na.jpg,10\nb.jpg,9\n").classes == ("9", "10")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\na.jpg,cat\nb.jpg\n", "line 3: has 1 fields and line 1 has 2"),
        ("path,label\na.jpg,cat\nb,c.jpg,dog\n", "line 3: has 3 fields"),
        ("path,label\na.jpg,\n", "line 2: has no label"),
        ("path,label\n,cat\n", "line 2: has no path"),
        ("path,label,split\na.jpg,cat,dev\n", "line 2: 'dev' is no split"),
        ('path,label\n"a.jpg,cat\n', "line 2: is no CSV"),
        ("path,label\na\0.jpg,cat\n", "line 2: "),
        ("id,breed\n1,cat\n", "line 1: names no column"),
        ("path,breed\n1.jpg,cat\n", "line 1: names no column"),
        ("1.jpg\n", "line 1: names no column"),
        ("path,label\n", "lists no pictures"),
        ("", "lists no pictures"),
        ("path,label\na.jpg,caf\u00e9\n".encode("latin-1"), "is not UTF-8 text"),
        ("path,label\na.jpg,cat\n".encode("utf-16"), "is not UTF-8 text"),
    ],
)
def test_a_list_that_cannot_be_read_names_the_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(UsageError, match=rf"list\.csv.*{message}"):
        read_list(tmp_path, content)


# What is no list of classes, and no folder of them


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,9,9,cat,1,1,5,5\n", "line 1: is a list of boxes"),
        ("ImageID,Source,Label,XMin,XMax,YMin,YMax\na.jpg,x,cat,.1,.2,.1,.2\n", "line 1: is a list of boxes"),
        ("image;bbox;label\na.jpg;[1, 2, 3, 4];cat\n", "line 1: is a list of boxes"),
        ("a.jpg,1,2,30,40,cat\nb.jpg,1,2,30,40,dog\n", "line 1: is a list of boxes"),
        ("a.jpg,,,,,\nb.jpg,1,2,30,40,dog\n", "line 1: is a list of boxes"),
        ("path,label\na.jpg,cat|dog\nb.jpg,cat\n", "label 'cat|dog' names several classes"),
        ('path,label\na.jpg,"cat,dog"\nb.jpg,cat\nc.jpg,dog\n', "label 'cat,dog' names several classes"),
        ("path,label\na.jpg,['cat'; 'dog']\nb.jpg,['cat']\n", "names several classes"),
        ("filename,cat,dog\na.jpg,1,0\nb.jpg,0,1\n", "write one column label with the class's name"),
        ("a.jpg,1,0\nb.jpg,0,1\n", "line 1: has 2 numbers to a picture"),
        ("path,label\na.jpg,0.1 0.2 0.3\nb.jpg,0.3 0.1 0.2\n", "is a row of numbers and no class"),
        ("path,label\na.jpg,0.731\nb.jpg,12.5\n", "the labels are quantities, such as 0.731"),
    ],
)
def test_a_list_of_something_else_is_refused_with_what_to_do(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UsageError) as raised:
        read_dataset(tmp_path / "list.csv")
    assert message in str(raised.value)
    assert "list.csv" in str(raised.value)


@pytest.mark.parametrize("labels", [("tench, Tinca tinca", "goldfish"), ("0", "17"), ("1.0", "2.0"), ("v1.5", "v2")])
def test_odd_names_are_classes_still(tmp_path: Path, labels: tuple[str, str]) -> None:
    (tmp_path / "list.csv").write_text(f'path,label\na.jpg,"{labels[0]}"\nb.jpg,{labels[1]}\n')
    assert set(read_dataset(tmp_path / "list.csv").classes) == set(labels)


@pytest.mark.parametrize(("true", "false"), [("True", "False"), ("1", "0"), ("yes", "no")])
def test_is_valid_is_the_split(tmp_path: Path, true: str, false: str) -> None:
    (tmp_path / "list.csv").write_text(f"file_name,label,is_valid\na.jpg,cat,{false}\nb.jpg,dog,{true}\n")
    assert listed(read_dataset(tmp_path / "list.csv")) == {"train": [("a.jpg", "cat")], "val": [("b.jpg", "dog")]}


def test_is_valid_must_be_true_or_false_and_a_split_says_more(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("path,label,is_valid\na.jpg,cat,perhaps\n")
    with pytest.raises(UsageError, match=r"line 2: 'perhaps' is no is_valid: write True or False"):
        read_dataset(file)
    file.write_text("path,label,is_valid,split\na.jpg,cat,0,test\nb.jpg,cat,1,train\n")
    assert set(read_dataset(file).splits) == {"train", "test"}


@pytest.mark.parametrize(
    "names",
    [("train", "val"), ("Training", "Validation", "test"), ("train", "valid", "testing"), ("cars_train", "cars_test")],
)
def test_splits_without_class_folders_are_no_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    make(tmp_path, *(f"{name}/{i}.jpg" for name in names for i in range(3)))
    with pytest.raises(UsageError, match=r"are splits and no classes, and hold pictures without a folder for each"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    "made", ["@eaDir/1.jpg/T.jpg", "#recycle/1.jpg", "$RECYCLE.BIN/S-1/1.jpg", "cat/@eaDir/1.jpg/T.jpg"]
)
def test_what_systems_make_is_no_class_and_no_picture(tmp_path: Path, made: str) -> None:
    make(tmp_path, "cat/1.jpg", "dog/2.jpg", made)
    dataset = read_dataset(tmp_path)
    assert listed(dataset) == {"all": [("cat/1.jpg", "cat"), ("dog/2.jpg", "dog")]}
    assert dataset.notes == ()


def test_videos_and_drawings_are_counted_and_heic_is_a_picture(tmp_path: Path) -> None:
    make(tmp_path, "cat/1.HEIC", "cat/2.bmp", "cat/3.svg", "dog/4.MOV", "dog/5.mp4", "dog/6.mp4", "dog/7.txt")
    dataset = read_dataset(tmp_path)
    assert listed(dataset) == {"all": [("cat/1.HEIC", "cat"), ("cat/2.bmp", "cat")]}
    assert dataset.notes == (
        "1 file ending in .mov, such as 4.MOV: not read; save frames of them as JPEG or PNG",
        "2 files ending in .mp4, such as 5.mp4: not read; save frames of them as JPEG or PNG",
        "1 file ending in .svg, such as 3.svg: not read; save them as JPEG or PNG",
        "all pictures are of one class, cat, and a classifier needs two or more",
        "dog: an empty folder, no class",
    )


def test_classes_that_are_called_nearly_as_splits_are_classes(tmp_path: Path) -> None:
    for i, names in enumerate((("freight train", "passenger train"), ("train", "test tube"), ("training", "bus"))):
        make(tmp_path / str(i), *(f"{name}/1.jpg" for name in names))
        assert set(read_dataset(tmp_path / str(i)).classes) == set(names)


@pytest.mark.parametrize("column", ["image_id", "image_name", "img_path", "name", "Image"])
def test_more_names_of_the_column_of_paths(column: str, tmp_path: Path) -> None:
    assert listed(read_list(tmp_path, f"{column},label\na.jpg,cat\n")) == {"all": [("a.jpg", "cat")]}


def test_pictures_of_other_kinds_are_counted(tmp_path: Path) -> None:
    make(tmp_path, "cat/1.jpg", "cat/2.nef", "dog/2.jpg", "dog/3.NEF", "dog/4.CR2", "dog/read me.txt")
    assert read_dataset(tmp_path).notes == (
        "1 file ending in .cr2, such as 4.CR2: not read; save them as JPEG or PNG",
        "2 files ending in .nef, such as 2.nef: not read; save them as JPEG or PNG",
    )
    make(tmp_path / "only", "cat/1.nef", "dog/2.nef")
    with pytest.raises(UsageError, match=r"no pictures in it \(2 files ending in \.nef, such as 1\.nef: not read"):
        read_dataset(tmp_path / "only")
