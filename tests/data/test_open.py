from __future__ import annotations

import ast
import json
import shutil
import tarfile
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fusiform.data.open
from fusiform.data.annotated import AnnotatedSample, AnnotatedSet
from fusiform.data.dataset import DataSet, Sample
from fusiform.data.faults import AnnotationFault
from fusiform.data.open import (
    LAYOUTS,
    TRAINED_ON,
    Layout,
    bind_classes,
    choose_split,
    open_dataset,
    read_pictures,
    recognise,
)
from fusiform.errors import UsageError
from fusiform.spec import ModelSpec, Preprocess, Task

SmallSpec = Callable[..., ModelSpec]
LABELS = ("tench", "great white shark", "crane", "Egyptian cat", "crane")
IDS = ("n01440764", "n01484850", "n02012849", "n02124075", "n03126707")


@pytest.fixture
def spec(small_spec: SmallSpec) -> ModelSpec:
    return small_spec("mobilenet_v2").replace(labels=LABELS, label_ids=IDS)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (("Egyptian cat", "tench"), (3, 0)),
        (("egyptian_cat", "Great-White  Shark"), (3, 1)),
        (("n02124075", "N01440764"), (3, 0)),
        (("3", "0", "04"), (3, 0, 4)),
        (("tench", "n02012849", "1"), (0, 2, 1)),
        ((), ()),
    ],
)
def test_a_class_goes_by_name_then_id_then_index(
    spec: ModelSpec, classes: tuple[str, ...], expected: tuple[int, ...]
) -> None:
    assert bind_classes(classes, spec) == expected


def test_an_exact_name_comes_before_a_similar_one_and_unicode_forms_are_one(small_spec: SmallSpec) -> None:
    spec = small_spec("mobilenet_v2").replace(labels=("polish", "Polish", unicodedata.normalize("NFD", "고양이")))
    assert bind_classes(["Polish", "polish", unicodedata.normalize("NFC", "고양이")], spec) == (1, 0, 2)
    with pytest.raises(UsageError, match=r"2 outputs of mobilenet_v2_x0_5 bear that name \(0, 1\).*index"):
        bind_classes(["POLISH"], spec)


def test_the_digits_of_a_digit_model_are_names(small_spec: SmallSpec) -> None:
    spec = small_spec("mobilenet_v2").replace(labels=("1", "10", "2", "3"))
    assert bind_classes(["1", "2", "3", "10"], spec) == (0, 2, 3, 1)
    with pytest.raises(UsageError, match="1 of 2 classes fit no output"):
        bind_classes(["1", "0"], spec)


def test_what_fits_nothing_is_named_with_what_comes_close(spec: ModelSpec) -> None:
    with pytest.raises(UsageError, match=r"2 of 3 classes .*'tensh' \(close: tench\), '5'"):
        bind_classes(["tensh", "5", "n02124075"], spec)
    with pytest.raises(UsageError, match=r"6 of 6 .* and 1 more"):
        bind_classes([f"q{k}" for k in range(6)], spec)
    with pytest.raises(UsageError, match="fit no output"):
        bind_classes(["²", "9" * 5000], spec)


def test_a_name_of_two_outputs_and_two_names_of_one_output_are_refused(spec: ModelSpec) -> None:
    with pytest.raises(UsageError, match=r"'crane': 2 outputs .*\(2, 4\): call the class by its id or index"):
        bind_classes(["crane"], spec)
    with pytest.raises(UsageError, match="'tench' and 'n01440764' both come to output 0"):
        bind_classes(["tench", "n01440764"], spec)


# The one door


def save(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (9, 9, 9)).save(file, "PNG")
    return file


def class_folders(root: Path) -> Path:
    save(root / "cat/1.png")
    return save(root / "dog/2.png").parents[1]


def split_folders(root: Path) -> Path:
    class_folders(root / "train")
    save(root / "test/dog/3.png")
    return root


def csv_list(root: Path) -> Path:
    class_folders(root)
    (root / "list.csv").write_text("path,label\ncat/1.png,cat\ndog/2.png,dog\n", encoding="utf-8")
    return root / "list.csv"


def shard(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    folders = class_folders(root.with_name(f"{root.name} unpacked"))
    with tarfile.open(root / "x-0.tar", "w") as tar:
        for name in ("cat/1.png", "dog/2.png"):
            tar.add(folders / name, name)
    return root / "x-0.tar"


def coco(root: Path) -> Path:
    save(root / "train/1.png")
    document = {
        "images": [{"id": 1, "file_name": "1.png", "width": 8, "height": 6}],
        "categories": [{"id": 3, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 4, 4]}],
    }
    (root / "annotations").mkdir()
    (root / "annotations/instances_train.json").write_text(json.dumps(document), encoding="utf-8")
    return root


def coco_beside_pictures(root: Path) -> Path:
    coco(root)
    (root / "annotations/instances_train.json").rename(root / "train/_annotations.coco.json")
    return root


def voc(root: Path, *, boxes: bool = True, masks: bool = True) -> Path:
    save(root / "JPEGImages/1.png")
    (root / "class_names.txt").write_text("background\ncat\ndog\n", encoding="utf-8")
    if boxes:
        box = "<xmin>2</xmin><ymin>2</ymin><xmax>5</xmax><ymax>5</ymax>"
        (root / "Annotations").mkdir()
        (root / "Annotations/1.xml").write_text(
            "<annotation><size><width>8</width><height>6</height></size>"
            f"<object><name>dog</name><bndbox>{box}</bndbox></object></annotation>",
            encoding="utf-8",
        )
    if masks:
        (root / "SegmentationClass").mkdir()
        Image.fromarray(np.full((6, 8), 2, np.uint8)).save(root / "SegmentationClass/1.png")
    return root


def yolo(root: Path) -> Path:
    save(root / "images/train/1.png")
    (root / "labels/train").mkdir(parents=True)
    (root / "labels/train/1.txt").write_text("1 0.5 0.5 0.25 0.5\n", encoding="utf-8")
    (root / "data.yaml").write_text("train: images/train\nnames: [cat, dog]\n", encoding="utf-8")
    return root


def food(root: Path) -> Path:
    save(root / "images/cat/1.jpg")
    save(root / "images/dog/2.jpg")
    (root / "meta").mkdir()
    (root / "meta/train.txt").write_text("cat/1\ndog/2\n", encoding="utf-8")
    return root


def image_folder(root: Path) -> Path:
    class_folders(root)
    (root / "metadata.csv").write_text("file_name,label\ncat/1.png,cat\ndog/2.png,dog\n", encoding="utf-8")
    return root


def parquet(root: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    class_folders(root)
    rows = [{"bytes": None, "path": name} for name in ("cat/1.png", "dog/2.png")]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    write_table(pyarrow.table({"image": pyarrow.array(rows, kind), "label": ["cat", "dog"]}), root / "all.parquet")
    return root / "all.parquet"


LABELS_ENTRY = "class folders, lists and shards"
# Where a dataset lies, what it is for by itself, and the entry of LAYOUTS that reads it.
CASES: dict[str, tuple[Callable[[Path], str | Path], Task, str]] = {
    "class folders": (class_folders, "classification", LABELS_ENTRY),
    "split folders": (split_folders, "classification", LABELS_ENTRY),
    "list": (csv_list, "classification", LABELS_ENTRY),
    "shard": (shard, "classification", LABELS_ENTRY),
    "folder of shards": (lambda root: shard(root).parent, "classification", LABELS_ENTRY),
    "pattern of shards": (
        lambda root: f"{shard(root).parent}/x-{{0..0}}.tar",
        "classification",
        LABELS_ENTRY,
    ),
    "food-101": (food, "classification", "a published dataset"),
    "image folder": (image_folder, "classification", "Hugging Face's ImageFolder with labels"),
    "parquet": (parquet, "classification", "Parquet and Arrow files"),
    "coco": (coco, "detection", "COCO's boxes"),
    "coco beside pictures": (coco_beside_pictures, "detection", "COCO's boxes"),
    "coco file": (lambda root: coco(root) / "annotations/instances_train.json", "detection", "COCO's boxes"),
    "yolo": (yolo, "detection", "YOLO's boxes"),
    "yolo file": (lambda root: yolo(root) / "data.yaml", "detection", "YOLO's boxes"),
    "voc": (voc, "detection", "Pascal VOC's boxes"),
    "voc boxes": (lambda root: voc(root, masks=False), "detection", "Pascal VOC's boxes"),
    "voc masks": (lambda root: voc(root, boxes=False), "segmentation", "Pascal VOC's masks"),
}


def spec_for(task: Task, labels: tuple[str, ...]) -> ModelSpec:
    if task == "classification":
        return ModelSpec("mobilenet_v2", 1.0, labels)
    preprocess = Preprocess(resize=224, crop=224, fit="stretch")
    stride = 16 if task == "segmentation" else 32
    return ModelSpec("mobilenet_v2", 1.0, labels, preprocess=preprocess, task=task, output_stride=stride)


def labels_of(data: DataSet | AnnotatedSet) -> list[tuple[str, int]]:
    """The class and the label of each of the training or of all pictures, or of each of their boxes."""
    samples: Any = data.splits["train" if "train" in data.splits else "all"]
    if isinstance(data, DataSet):
        return [(sample.name.split("/")[-2], sample.label) for sample in samples]
    return [(data.classes[box.label], box.label) for sample in samples for box in sample.boxes or ()]


@pytest.mark.parametrize("case", CASES)
def test_every_layout_is_read_through_the_one_door(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, task, name = CASES[case]
    source = make(tmp_path / "data")
    assert recognise(source) == (None if task == "classification" else task)
    read = open_dataset(source)
    assert read == open_dataset(source, task=task)
    assert isinstance(read, DataSet) == (task == "classification")
    labels = {
        "classification": [("cat", 0), ("dog", 1)],
        "detection": [("dog", 1)],
        "segmentation": [],
    }
    assert labels_of(read) == labels[task]
    assert read.classes == (("background", "cat", "dog") if task == "segmentation" else ("cat", "dog"))
    called: list[str] = []

    def watched(name: str, layout: Layout) -> Layout:
        return layout._replace(read=lambda source, **given: (called.append(name), layout.read(source, **given))[1])

    monkeypatch.setattr(fusiform.data.open, "LAYOUTS", {name: watched(name, one) for name, one in LAYOUTS.items()})
    assert open_dataset(source) == read
    assert called == [name]


def test_the_cases_are_of_every_layout() -> None:
    # The others, which recognise takes for another task or which are many, are in test_every_layout.py.
    named = {name for name, layout in LAYOUTS.items() if layout.task == "classification" or " VOC's " in name}
    assert {name for _, _, name in CASES.values()} == named | {"COCO's boxes", "YOLO's boxes"}


def test_a_folder_with_boxes_and_masks_serves_both_tasks(tmp_path: Path) -> None:
    root = voc(tmp_path / "voc")
    boxes, masks = open_dataset(root, task="detection"), open_dataset(root, task="segmentation")
    assert (boxes.task, masks.task) == ("detection", "segmentation")
    assert masks.splits["all"][0].mask_file == root / "SegmentationClass/1.png"
    # COCO's boxes beside VOC's masks.
    coco(root)
    assert open_dataset(root, task="detection").category_ids == (2, 3)
    assert open_dataset(root, task="segmentation") == masks
    # Its folders are no classes, even if somebody asks for them.
    with pytest.raises(UsageError, match=r"no dataset of classes: its pictures have masks, such as .*png: for a segm"):
        open_dataset(root, task="classification")


@pytest.mark.parametrize("case", CASES)
def test_labels_are_bound_to_a_model(case: str, tmp_path: Path) -> None:
    make, task, _ = CASES[case]
    source = make(tmp_path / "data")
    labels = ("background", "dog", "bird", "cat")
    data = open_dataset(source, spec=spec_for(task, labels))
    if task == "segmentation":  # masks keep their values
        assert data.classes == ("background", "cat", "dog")
        assert read_pictures(source, spec_for(task, labels), model="m").mask_labels == (0, 3, 1)
    else:
        assert data.classes == labels
        assert set(labels_of(data)) == ({("cat", 3), ("dog", 1)} if task == "classification" else {("dog", 1)})
        assert open_dataset(source, task=task, spec=spec_for(task, labels)) == data
    with pytest.raises(UsageError, match="dog"):
        open_dataset(source, spec=spec_for(task, ("background", "bird", "cat")))


def test_two_outputs_for_the_same_name_are_told_apart_by_index(tmp_path: Path) -> None:
    for name in ("0", "2"):
        save(tmp_path / "data" / name / "1.png")
    spec = spec_for("classification", ("crane", "x", "crane"))
    data = open_dataset(tmp_path / "data", task="classification", spec=spec)
    assert [sample.label for sample in data.splits["all"]] == [0, 2]


@pytest.mark.parametrize(
    ("case", "task", "message"),
    [
        ("nowhere", "classification", "nowhere: no such file or folder: check the path"),
        ("nowhere", "detection", "nowhere: has no folder JPEGImages, so it is not VOC's layout: give a folder with"),
        ("nowhere", "segmentation", "nowhere: has no folder JPEGImages, so it is not VOC's layout: give a folder with"),
        ("class folders", "detection", "data: has no folder JPEGImages, so it is not VOC's layout: give a folder with"),
        ("class folders", "segmentation", "data: has no folder JPEGImages, so it is not VOC's layout"),
        ("voc masks", "detection", "data: has no folder Annotations: give a folder with JPEGImages"),
        ("voc boxes", "segmentation", "data: has no folder SegmentationClass: give a folder with JPEGImages"),
        (
            "coco",
            "segmentation",
            "data: has boxes and no outlines, and a segmenter learns from outlines: draw polygons",
        ),
        ("coco file", "segmentation", "instances_train.json: has boxes and no outlines"),
        ("coco file", "classification", "instances_train.json: is no dataset: give a folder with a folder of pictures"),
    ],
)
def test_what_is_no_dataset_for_a_task(case: str, task: Task, message: str, tmp_path: Path) -> None:
    source = tmp_path / "nowhere" if case == "nowhere" else CASES[case][0](tmp_path / "data")
    with pytest.raises(UsageError, match=message):
        open_dataset(source, task=task)


@pytest.mark.parametrize(
    ("case", "task", "message"),
    [
        ("nowhere", "classification", "nowhere: no such file or folder: check the path"),
        ("nowhere", "detection", "nowhere: no such file or folder: check the path"),
        ("nowhere", "segmentation", "nowhere: no such file or folder: check the path"),
        ("class folders", "detection", "data: is no dataset with boxes, and mine is a detector: give COCO's layout"),
        ("voc masks", "detection", "data: has masks and no boxes, and mine is a detector: give COCO's layout"),
        ("pictureless", "detection", "data: has no folder JPEGImages, so it is not VOC's layout"),
        ("class folders", "segmentation", "data: is no dataset with masks, and mine is a segmenter: give Pascal VOC's"),
        (
            "coco",
            "segmentation",
            "data: has boxes and no outlines, and a segmenter learns from outlines: draw polygons",
        ),
        ("voc boxes", "segmentation", "data: is no dataset with masks, and mine is a segmenter: give Pascal VOC's"),
        ("coco file", "classification", "instances_train.json: is no dataset: give a folder with a folder of pictures"),
    ],
)
def test_what_is_no_dataset_for_a_model(case: str, task: Task, message: str, tmp_path: Path) -> None:
    source: str | Path = tmp_path / "nowhere"
    if case == "pictureless":
        source = voc(tmp_path / "data")
        shutil.rmtree(source / "JPEGImages")
    elif case != "nowhere":
        source = CASES[case][0](tmp_path / "data")
    with pytest.raises(UsageError, match=message):
        open_dataset(source, spec=spec_for(task, ("background", "cat", "dog")), model="mine")


def test_a_model_of_another_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mine: is for segmentation and not for detection"):
        open_dataset(coco(tmp_path / "data"), task="detection", spec=spec_for("segmentation", ("a", "b")), model="mine")


def test_faults_are_listed_or_told(tmp_path: Path) -> None:
    root = voc(tmp_path / "voc")
    save(root / "JPEGImages/2.png")
    (root / "Annotations/2.xml").write_text("<annotation>", encoding="utf-8")
    faults: list[AnnotationFault] = []
    listed = open_dataset(root, task="detection", faults=faults)
    assert len(listed.splits["all"]) == 1
    assert [fault.kind for fault in faults] == ["damaged annotation"]
    told = open_dataset(root, task="detection")
    assert told.splits == listed.splits
    assert "2.xml: is no XML" in told.notes[0]
    (root / "Annotations/1.xml").write_text("<annotation>", encoding="utf-8")
    with pytest.raises(UsageError, match=r"1\.xml: is no XML"):
        open_dataset(root, task="detection")


def test_a_new_layout_is_a_reader_and_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = class_folders(tmp_path / "data")
    (root / "centres.txt").touch()
    there = AnnotatedSet(root, "detection", ("cat",), {"all": (AnnotatedSample(root / "cat/1.png", ()),)})
    entry = Layout("detection", lambda path: (path / "centres.txt").is_file(), lambda source, **_: there)
    assert recognise(root) is None
    monkeypatch.setattr(fusiform.data.open, "LAYOUTS", {"centres": entry, **LAYOUTS})
    assert recognise(root) == "detection"
    assert open_dataset(root) == replace(there, layout="centres")
    assert open_dataset(root, spec=spec_for("detection", ("cat",))) == replace(there, layout="centres")
    assert read_pictures(root, spec_for("detection", ("cat",)), model="m").samples == there.splits["all"]
    assert open_dataset(root, task="classification").classes == ("cat", "dog")


def test_the_pictures_for_a_model(tmp_path: Path) -> None:
    spec = spec_for("classification", ("dog", "cat"))
    root = split_folders(tmp_path / "data")
    held_out = read_pictures(root, spec, model="m")
    assert held_out.labelled
    assert held_out.samples == (Sample(root / "test/dog/3.png", 0),)
    trained_on = read_pictures(root, spec, model="m", prefer=TRAINED_ON)
    assert trained_on.samples == (Sample(root / "train/cat/1.png", 1), Sample(root / "train/dog/2.png", 0))
    other = read_pictures(root, spec_for("classification", ("bird", "horse")), model="m")
    assert not other.labelled
    assert [sample.name for sample in other.samples] == [
        str(root / name) for name in ("test/dog/3.png", "train/cat/1.png", "train/dog/2.png")
    ]
    assert other.notes[0].startswith("the pictures have no labels that the model knows: 2 of 2 classes fit no output")


def test_the_split_that_is_taken() -> None:
    splits: Any = {"train": (1,), "val": (2,), "test": ()}
    assert choose_split(Path("data"), splits, None) == ("val", (2,))
    assert choose_split(Path("data"), splits, None, prefer=TRAINED_ON) == ("train", (1,))
    assert choose_split(Path("data"), splits, "all") == ("all", (1, 2))
    with pytest.raises(UsageError, match="data: there are no pictures for --split test; there are val, train"):
        choose_split(Path("data"), splits, "test")
    with pytest.raises(UsageError, match="data: there are no pictures in it: check the path"):
        choose_split(Path("data"), {}, None)


READERS = {"read_dataset", "read_coco", "read_voc", "read_shards", "coco_files", "find_shards"}


def readers_in(source: str) -> set[str]:
    """The layouts' readers that a module imports, anywhere in it."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return {alias.name.rpartition(".")[2] for node in nodes for alias in node.names} & (READERS | {"shards", "folders"})


def test_nobody_else_reads_a_layout() -> None:
    package = Path(fusiform.data.open.__file__).parents[1]
    modules = {file.relative_to(package).as_posix(): file.read_text(encoding="utf-8") for file in package.rglob("*.py")}
    assert readers_in(modules["data/open.py"]) == {"read_coco", "read_voc", "coco_files"}
    assert readers_in(modules["data/layouts/read.py"]) == {"read_dataset"}
    found = {name: readers for name, text in modules.items() if (readers := readers_in(text))}
    outside = {name for name in found if not name.startswith("data/")}
    assert outside == set()
