from __future__ import annotations

from pathlib import Path

from fusiform.data.annotated import AnnotatedSample, AnnotatedSet, BoxLabel
from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.data.layouts.summary import headline, summary


def pictures(*labels: int) -> tuple[Sample, ...]:
    return tuple(Sample(Path(f"{i}.png"), label) for i, label in enumerate(labels))


def test_a_few_classes_are_all_shown_with_their_counts() -> None:
    splits: dict[Split, tuple[Sample, ...]] = {"train": pictures(0, 0, 1), "val": pictures(1), "test": pictures(0)}
    data = DataSet(Path("data"), ("cat", "dog"), splits, layout="a list")
    assert headline(data) == "classification, laid out as a list: 2 classes, 5 pictures: train 3, val 1, test 1"
    assert summary(data, held_out="train") == [
        headline(data),
        "splits: val was held out of train",
        "classes, pictures in train/val/test: cat 2/0/1, dog 1/1/0",
    ]
    assert summary(data)[1] == "splits: as the data has them"
    whole = DataSet(Path("data"), ("cat",), {"all": pictures(0)})
    assert summary(whole) == ["classification: 1 class, 1 picture", "classes, pictures: cat 1"]


def test_of_many_classes_the_largest_and_smallest_are_shown() -> None:
    labels = [label for label in range(1000) for _ in range(1000 - label)]
    data = DataSet(Path("data"), tuple(f"c{i}" for i in range(1000)), {"all": pictures(*labels)})
    lines = summary(data)
    assert lines[0] == "classification: 1,000 classes, 500,500 pictures"
    assert lines[1] == "largest classes, pictures: c0 1,000, c1 999, c2 998, c3 997, c4 996"
    assert lines[2] == "smallest classes: c995 5, c996 4, c997 3, c998 2, c999 1; 990 more between them"
    assert len(lines) == 3


def test_boxes_are_counted_and_masks_are_not_opened() -> None:
    box = BoxLabel(1, 0, 0, 1, 1)
    boxes = (AnnotatedSample(Path("1.png"), (box, box)), AnnotatedSample(Path("2.png"), ()))
    data = AnnotatedSet(Path("data"), "detection", ("cat", "dog"), {"train": boxes}, layout="COCO's boxes")
    assert summary(data) == [
        "detection, laid out as COCO's boxes: 2 classes, 2 pictures, 2 objects: train 2",
        "splits: as the data has them",
        "classes, objects in train: cat 0, dog 2",
    ]
    masks = (AnnotatedSample(Path("1.png"), mask_file=Path("nowhere.png")),)
    data = AnnotatedSet(Path("data"), "segmentation", tuple(f"c{i}" for i in range(12)), {"all": masks})
    assert summary(data) == [
        "segmentation: 12 classes, 1 picture",
        "classes: c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 and 2 more",
    ]


def test_names_cannot_write_on_the_terminal() -> None:
    data = DataSet(Path("data"), ("\x1b[31mred",), {"all": pictures(0)})
    assert "\x1b" not in "".join(summary(data))
