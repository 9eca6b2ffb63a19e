"""VOC's boxes with planted faults: all of them are found, nothing else is, and what is left is written."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from fusiform.data.annotated import AnnotatedSample, AnnotatedSet, BoxLabel
from fusiform.data.coco import read_coco
from fusiform.doctor.annotated import examine_annotated
from fusiform.doctor.clean import write_clean_boxes
from fusiform.doctor.findings import Diagnosis
from fusiform.errors import OutputError, UsageError

sys.path.insert(0, str(Path(__file__).parent))

from spoiled_pictures import HEIGHT, WIDTH, found, message, save

sys.path.pop(0)


def xml(objects: str = "", size: str = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>") -> str:
    return f"<annotation>{size}{objects}</annotation>"


def thing(name: str, *edges: int, more: str = "") -> str:
    tags = "".join(f"<{tag}>{edge}</{tag}>" for tag, edge in zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{tags}</bndbox></object>"


def voc(root: Path, annotations: Mapping[str, str]) -> Path:
    (root / "Annotations").mkdir(parents=True)
    for seed, (name, text) in enumerate(annotations.items()):
        save(root / "JPEGImages" / f"{name}.jpg", 60 + seed)
        (root / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")
    return root


def test_every_fault_of_voc_s_boxes_is_found_and_nothing_else(tmp_path: Path) -> None:
    root = voc(
        tmp_path / "voc",
        {
            "good": xml(thing("cat", 11, 11, 60, 60, more="<difficult>1</difficult>") + thing("dog", 70, 11, 120, 60)),
            "cut": "<annotation><object>",
            "nameless": xml(thing(" ", 11, 11, 60, 60) + thing("cat", 21, 21, 90, 90)),
            "unknown": xml(thing("cow", 11, 11, 60, 60) + thing("cow", 1, 1, 90, 90) + thing("cat", 9, 9, 30, 30)),
            "empty": xml(thing("dog", 60, 60, 59, 70) + thing("dog", 11, 11, 60, 60)),
            "unsized": xml(thing("dog", 101, 51, 250, 100) + thing("dog", 1, 1, 50, 50), size=""),
            "bare": "",
            "orphan": xml(),
            "spare": xml(),
        },
    )
    (root / "Annotations/bare.xml").unlink()
    (root / "JPEGImages/orphan.jpg").unlink()
    (root / "class_names.txt").write_text("background\ncat\ndog\n")
    (root / "ImageSets/Main").mkdir(parents=True)
    lists = {"train": "good\ncut\nnameless\nunknown\nempty\nunsized\nbare\ngone\n", "val": "good\nempty\n"}
    for name, lines in lists.items():
        (root / "ImageSets/Main" / f"{name}.txt").write_text(lines)
    diagnosis = examine_annotated(root, "detection")
    assert found(diagnosis) == {
        ("error", "damaged annotation", "Annotations/cut.xml"),
        ("error", "damaged annotation", "Annotations/nameless.xml"),
        ("error", "unknown class", "class_names.txt"),
        ("error", "box of no area", "JPEGImages/empty.jpg"),
        ("warning", "box reaching out", "JPEGImages/unsized.jpg"),
        ("error", "missing annotation", "JPEGImages/bare.jpg"),
        ("error", "missing picture", "JPEGImages/gone"),
        ("warning", "missing picture", "Annotations/orphan.xml"),
        ("note", "pictures not used", "JPEGImages"),
        ("error", "leak between splits", "JPEGImages/good.jpg"),
        ("error", "leak between splits", "JPEGImages/empty.jpg"),
    }
    assert message(diagnosis, "unknown class").startswith("does not name cow, of which there are 2 boxes")
    assert message(diagnosis, "pictures not used").endswith(
        "1 of 8 pictures are in no list, or have no annotation: spare"
    )
    assert "is there again in val" in next(f.message for f in diagnosis.findings if f.kind == "leak between splits")

    write_clean_boxes(diagnosis, tmp_path / "clean")
    clean = read_coco(tmp_path / "clean")
    assert (clean.classes, clean.category_ids) == (("cat", "dog"), (1, 2))
    boxes = {(split, s.file.stem): s.boxes for split, samples in clean.splits.items() for s in samples}
    # In COCO's way of counting, from 0 and without the last. Areas are the boxes'.
    assert boxes == {
        # Not nameless and unknown, whose lost objects would be background.
        ("train", "unsized"): (BoxLabel(1, 100, 50, 200, 100, area=5000), BoxLabel(1, 0, 0, 50, 50, area=2500)),
        ("val", "good"): (
            BoxLabel(0, 10, 10, 60, 60, difficult=True, area=2500),
            BoxLabel(1, 69, 10, 120, 60, area=2550),
        ),
        ("val", "empty"): (BoxLabel(1, 10, 10, 60, 60, area=2500),),
    }


def test_only_damaged_annotations(tmp_path: Path) -> None:
    root = voc(tmp_path, {"cut": "<annotation><object>"})
    with pytest.raises(UsageError, match=r"cut\.xml: is no XML"):
        examine_annotated(root, "detection")
    # Then a mask without its list of classes, which is another layout.
    with pytest.raises(UsageError, match="has no folder SegmentationClass"):
        examine_annotated(root, "segmentation")


def test_the_clean_folder(tmp_path: Path) -> None:
    root = voc(tmp_path / "voc", {"one": xml(thing("cat", 11, 11, 60, 60))})
    diagnosis = examine_annotated(root, "detection")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    for name, text in (("full", "is there already"), ("a.csv", "name a folder"), ("a.json", "name a folder")):
        with pytest.raises(UsageError, match=text):
            write_clean_boxes(diagnosis, tmp_path / name)
    with pytest.raises(OutputError, match="cannot make"):
        write_clean_boxes(diagnosis, tmp_path / "full/file/new")
    shutil.copytree(root, tmp_path / "clean/voc")
    (tmp_path / "clean/voc/JPEGImages/one.jpg").write_bytes(b"")
    with pytest.raises(OutputError, match="no picture is left"):
        write_clean_boxes(examine_annotated(tmp_path / "clean/voc", "detection"), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    # Read from here, voc/JPEGImages/one.jpg would be found within images first.
    (tmp_path / "images").mkdir()
    shutil.copytree(root, tmp_path / "images/voc")
    (tmp_path / "target").mkdir()
    with pytest.raises(OutputError, match="lies among other pictures of the same names"):
        write_clean_boxes(_renamed(diagnosis, tmp_path / "target/voc/JPEGImages/one.jpg"), tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []


def _renamed(diagnosis: Diagnosis[AnnotatedSet], file: Path) -> Diagnosis[AnnotatedSet]:
    (sample,) = diagnosis.clean.splits["all"]
    moved = AnnotatedSample(file, sample.boxes, size=sample.size)
    clean = AnnotatedSet(diagnosis.clean.source, "detection", diagnosis.clean.classes, {"all": (moved,)})
    return Diagnosis(diagnosis.dataset, (), clean)
