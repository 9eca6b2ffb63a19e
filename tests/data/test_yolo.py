from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fusiform.data.annotated import AnnotatedSet
from fusiform.data.faults import AnnotationFault
from fusiform.data.open import open_dataset, recognise
from fusiform.data.yolo import read_yaml, read_yolo
from fusiform.doctor.job import diagnose
from fusiform.errors import UsageError

SIZE = (80, 40)
LABELS = ["0 0.5 0.5 0.5 0.5\n", "1 0.25 0.25 0.25 0.5\n0 0.1 0.1 0.2 0.1 0.2 0.4 0.1 0.4\n", ""]
BOXES = [
    [("cat", 20.0, 10.0, 60.0, 30.0)],
    [("dog", 10.0, 0.0, 30.0, 20.0), ("cat", 8.0, 4.0, 16.0, 16.0)],
    [],
]
YAML = "train: {train}\nval: {val}\nnc: 2\nnames: [cat, dog]\n"


def make(root: Path, form: str = "images/{split}", yaml: str | None = None, texts: list[str] = LABELS) -> Path:
    for split in ("train", "val"):
        for i, text in enumerate(texts):
            picture = root / form.format(split=split) / f"{i}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", SIZE).save(picture)
            label = Path(str(picture.parent.relative_to(root)).replace("images", "labels"))
            (root / label).mkdir(parents=True, exist_ok=True)
            (root / label / f"{i}.txt").write_text(text)
    if yaml is not None:
        (root / "data.yaml").write_text(yaml)
    return root


def boxes(data: AnnotatedSet, split: str = "train") -> list[list[tuple[str, float, float, float, float]]]:
    return [
        [
            (data.classes[box.label], *(round(edge, 4) for edge in (box.left, box.top, box.right, box.bottom)))  # type: ignore[misc]
            for box in sample.boxes or ()
        ]
        for sample in data.splits[split]  # type: ignore[index]
    ]


@pytest.mark.parametrize(
    ("form", "yaml"),
    [
        ("images/{split}", YAML.format(train="images/train", val="images/val")),
        ("{split}/images", YAML.format(train="../train/images", val="../val/images")),  # Roboflow's
        ("{split}/images", "path: .\n" + YAML.format(train="train/images  # comment", val="'val/images'")),
        ("images/{split}", "names:\n  0: cat\n  1: dog\ntrain: images/train\nval: images/val\n"),
        ("images/{split}", "names:\n- cat\n- 'dog'\ntrain:\n- images/train\nval: [images/val]\n"),
        ("images/{split}", 'names: {0: cat, 1: "dog"}\nnc: 2\n'),
        ("images/{split}", "names: [\n  cat,\n  dog,\n]\nnc: 2\nroboflow:\n  license: x\n  more:\n    y: z\n"),
        ("set/images/{split}", YAML.format(train="set/images/train", val="set/images/val")),
        ("{split}", YAML.format(train="train", val="val")),  # darknet's labels beside the pictures
    ],
)
def test_every_form_gives_the_same_boxes(form: str, yaml: str, tmp_path: Path) -> None:
    root = make(tmp_path / "data", form, yaml)
    data = open_dataset(root)
    assert isinstance(data, AnnotatedSet)
    assert (data.task, data.classes) == ("detection", ("cat", "dog"))
    assert boxes(data) == boxes(data, "val") == BOXES
    assert data.notes == tuple(
        f"{split}: 1 of 3 pictures have no objects, kept as background" for split in ("train", "val")
    )
    assert all(sample.size == SIZE for sample in data.splits["train"])
    assert boxes(read_yolo(root / "data.yaml")) == BOXES


@pytest.mark.parametrize("form", ["images/{split}", "{split}/images"])
def test_without_yaml_the_folders_say_it(form: str, tmp_path: Path) -> None:
    root = make(tmp_path / "data", form)
    assert recognise(root) == "detection"
    data = read_yolo(root)
    assert data.classes == ("0", "1")
    assert "they are called by their numbers" in data.notes[0]
    (root / "classes.txt").write_text("cat\ndog\n")
    assert boxes(read_yolo(root)) == BOXES


def test_lists_of_pictures_and_a_models_classes(tmp_path: Path) -> None:
    root = make(tmp_path / "data", yaml="train: train.txt\nval: images/val\ntest: nowhere\nnames: [cat, dog]\n")
    (root / "train.txt").write_text("./images/train/1.png\n./images/train/0.png\n")
    data = read_yolo(root, classes=["dog", "bird", "cat"])
    assert data.classes == ("dog", "bird", "cat")
    assert boxes(data) == [BOXES[1], BOXES[0]]
    with pytest.raises(UsageError, match="1 of 2 classes are none of the 1 that are known: dog"):
        read_yolo(root, classes=["cat"])


def test_labels_fit_the_upright_picture(tmp_path: Path) -> None:
    root = make(tmp_path / "data", yaml=YAML.format(train="images/train", val="images/val"), texts=LABELS[:1])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE).save(root / "images/train/0.png", exif=exif)
    (sample,) = read_yolo(root).splits["train"]
    assert sample.size == SIZE[::-1] == sample.read().size
    assert boxes(read_yolo(root)) == [[("cat", 10.0, 20.0, 30.0, 60.0)]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.5", "line 2: is not a class's number with x, y, width and height"),
        ("0 40 20 40 20", "as shares of the picture"),
        ("cat 0.5 0.5 0.5 0.5", "line 2: is not a class's number"),
        ("0 nan 0.5 0.5 0.5", "line 2: is not a class's number"),
        ("7 0.5 0.5 0.5 0.5", "line 2: has class 7, and there are 2 names"),
    ],
)
def test_a_picture_with_a_damaged_line_is_left_out_and_told(line: str, message: str, tmp_path: Path) -> None:
    root = make(tmp_path / "data", yaml=YAML.format(train="images/train", val="images/val"))
    (root / "labels/train/0.txt").write_text(f"{LABELS[0]}{line}\n")
    data = read_yolo(root)
    assert boxes(data) == BOXES[1:]
    assert [note for note in data.notes if message in note and "1 of 3 pictures have damaged labels" in note]
    faults: list[AnnotationFault] = []
    assert boxes(read_yolo(root, faults=faults)) == BOXES[1:]
    assert [(fault.kind, fault.file.name) for fault in faults] == [("damaged annotation", "0.png")]
    assert message in faults[0].message


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: [cat, dog]\ntrain: nowhere\n", "train names nowhere, which is not there"),
        ("names: [cat, cat]\ntrain: images/train\n", "must name each class once"),
        ("names: {1: cat, 2: dog}\ntrain: images/train\n", "names must be numbered 0, 1, 2"),
        ("names: [cat\ntrain: images/train\n", "opens a bracket that nothing closes"),
        ("names: [cat, dog]\ntrain: images/train\n!what\n", "line 3: is no line of YAML"),
    ],
)
def test_what_cannot_be_read_is_refused(yaml: str, message: str, tmp_path: Path) -> None:
    root = make(tmp_path / "data", yaml=yaml)
    with pytest.raises(UsageError) as raised:
        read_yolo(root)
    assert message in str(raised.value)
    assert "data.yaml" in str(raised.value)


def test_pictures_without_any_labels_are_refused(tmp_path: Path) -> None:
    root = make(tmp_path / "data", yaml=YAML.format(train="images/train", val="images/val"))
    for file in root.rglob("*.txt"):
        file.unlink()
    with pytest.raises(UsageError, match="none of its 6 pictures has labels"):
        read_yolo(root)


def test_this_yaml_is_the_one_that_a_library_reads(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    text = """# A dataset
path: ../set # relative
train: images/train
names:
  0: "cat: the # one"
  1: it's
  2: person walking
other: {a: b, 'c': "d, e"}
flow: [x, "y, z", w]
"""
    (tmp_path / "data.yaml").write_text(text)
    read = yaml.safe_load(text)
    read["names"] = {str(key): value for key, value in read["names"].items()}
    assert read_yaml(tmp_path / "data.yaml") == read


def test_the_doctor_cleans_it(tmp_path: Path) -> None:
    root = make(tmp_path / "data", yaml=YAML.format(train="images/train", val="images/val"))
    (root / "labels/train/0.txt").write_text("nonsense\n")
    (root / "images/train/2.png").write_bytes(b"broken")
    diagnosis = diagnose(root, fix=tmp_path / "clean")
    assert {"damaged annotation", "not a picture"} <= {finding.kind for finding in diagnosis.findings}
    kept = open_dataset(tmp_path / "clean")
    assert "0.png" not in {sample.file.name for sample in kept.splits.get("train", ())}


DARKNET = "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/\n"


def test_darknets_description_and_lists_are_read(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        folder = tmp_path / f"obj_{split}_data"
        folder.mkdir()
        for i, text in enumerate(LABELS):
            Image.new("RGB", SIZE).save(folder / f"{i}.png")
            (folder / f"{i}.txt").write_text(text)
        # As if darknet were started two folders above.
        names = "".join(f"data/obj_{split}_data/{i}.png\n" for i in range(len(LABELS)))
        (tmp_path / f"{split}.txt").write_text(names)
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    (tmp_path / "obj.data").write_text(DARKNET)
    (tmp_path / "weights.data").write_bytes(b"\xff\xfe\x00")
    for source in (tmp_path, tmp_path / "obj.data"):
        assert recognise(source) == "detection"
        data = open_dataset(source)
        assert isinstance(data, AnnotatedSet)
        assert data.classes == ("cat", "dog")
        assert boxes(data) == boxes(data, "val") == BOXES


def test_outlines_become_masks_and_a_picture_with_a_box_is_left_out(tmp_path: Path) -> None:
    outline = "1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n"
    root = make(
        tmp_path / "data", yaml=YAML.format(train="images/train", val="images/val"), texts=[outline, LABELS[0], ""]
    )
    data = open_dataset(root, task="segmentation")
    assert data.classes == ("background", "cat", "dog")
    assert [sample.file.name for sample in data.splits["train"]] == ["0.png", "2.png"]
    assert "train: 1 of 3 pictures have annotations that cannot be used, left out" in data.notes
    mask = data.splits["train"][0].read_labels(SIZE, classes=3)
    assert mask[10:30, 20:60].min() == mask.max() == 2
    assert (mask > 0).sum() == 20 * 40
    assert not data.splits["train"][1].read_labels(SIZE, classes=3).any()
    # Where all that shows something is left out, nothing but background would be learned.
    both = make(
        tmp_path / "both", yaml=YAML.format(train="images/train", val="images/val"), texts=[outline + LABELS[0], ""]
    )
    with pytest.raises(UsageError, match="none of its pictures can be used"):
        open_dataset(both, task="segmentation")


def test_label_studios_notes_beside_the_labels_are_not_cocos(tmp_path: Path) -> None:
    root = make(tmp_path / "data", form="images/{split}")
    (root / "classes.txt").write_text("cat\ndog\n")
    (root / "notes.json").write_text('{"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}], "info": {}}')
    data = open_dataset(root)
    assert isinstance(data, AnnotatedSet)
    assert boxes(data) == BOXES
