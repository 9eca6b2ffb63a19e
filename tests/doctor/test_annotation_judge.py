"""Boxes and masks that a model doubts, with answers that are made up."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.annotated import AnnotatedSample
from fusiform.data.preprocess import Preprocess
from fusiform.doctor import annotation_judge
from fusiform.doctor.annotated import examine_annotated
from fusiform.errors import InputError
from fusiform.evaluation.detection import FoundBoxes, boxes_within
from fusiform.evaluation.segmentation import Outlines
from fusiform.spec import ModelSpec
from fusiform.tasks.detection import Box, Detections
from fusiform.zoo.model import Model

WIDTH, HEIGHT = 200, 150
COUNT = 24
# The model has the classes in another order, and one more.
DETECTOR = ModelSpec(
    "mobilenet_v2",
    0.35,
    ("bird", "dog", "cat"),
    task="detection",
    input_size=64,
    preprocess=Preprocess(resize=64, crop=64, fit="stretch"),
)
SEGMENTER = ModelSpec(
    "mobilenet_v2",
    0.35,
    ("background", "dog", "cat"),
    task="segmentation",
    input_size=65,
    output_stride=16,
    preprocess=Preprocess(resize=65, crop=65, fit="stretch"),
)


def model_of(spec: ModelSpec) -> Model:
    return Model(Path("judge.tflite"), "tflite", spec, b"")


def photograph(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(file, quality=90)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A cat at (10, 10) and a dog at (100, 60) in every picture, but for three faults."""
    root = tmp_path / "coco"
    images, annotations = [], []
    for number in range(COUNT):
        photograph(root / f"val/{number}.jpg", number)
        images.append({"id": number, "file_name": f"{number}.jpg", "width": WIDTH, "height": HEIGHT})
        boxes: list[tuple[int, list[int]]] = [(1, [10, 10, 50, 40]), (2, [100, 60, 60, 60])]
        if number == 3:
            boxes[0] = (2, [10, 10, 50, 40])
        elif number == 5:
            boxes[1] = (2, [130, 60, 60, 60])
        elif number == 8:
            del boxes[1]
        elif number == 9:
            boxes.append((1, [10, 100, 40, 40]))
        for category, edges in boxes:
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": category, "bbox": edges, "iscrowd": 0}
            )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (root / "annotations").mkdir()
    (root / "annotations/instances_val.json").write_text(json.dumps(content), encoding="utf-8")
    return root


@pytest.fixture
def finding_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """The detector finds the cat and the dog where they are, whatever is labelled."""

    def find(model: Model, samples: Sequence[AnnotatedSample], **options: Any) -> FoundBoxes:
        assert model.spec == DETECTOR
        found = Detections((Box(2, "cat", 0.9, 10, 10, 60, 50), Box(1, "dog", 0.8, 100, 60, 160, 120)), WIDTH, HEIGHT)
        truth = tuple(boxes_within(sample, (WIDTH, HEIGHT)) for sample in samples)
        return FoundBoxes(truth, (found,) * len(samples), {})

    monkeypatch.setattr(annotation_judge, "find_boxes", find)


def test_boxes_that_the_detector_doubts(coco: Path, finding_both: None, valid: Callable[..., Any]) -> None:
    diagnosis = examine_annotated(coco, "detection", model=model_of(DETECTOR))
    told = {f.kind: f for f in diagnosis.findings if f.gain is not None}
    names = {kind: Path(f.path).stem for kind, f in told.items()}
    assert names == {"wrong class": "3", "shifted box": "5", "missed object": "8", "box of nothing": "9"}
    assert sum(f.gain is not None for f in diagnosis.findings) == 4
    content = valid(diagnosis.report().to_json())
    rows = {row["kind"]: row for row in content["rows"]}
    missed, wrong, shifted = rows["missed object"], rows["wrong class"], rows["shifted box"]
    assert (missed["class"], missed["suggested"], missed["gain"], missed["left"]) == (None, "dog", 0.8, 100)
    assert (wrong["class"], wrong["suggested"], wrong["gain"]) == ("dog", "cat", 0.9)
    # 30 of 60 pixels aside: a third of the union is common.
    assert (shifted["class"], shifted["suggested"]) == ("dog", None)
    assert shifted["gain"] == pytest.approx(0.8 * 2 / 3, abs=1e-5)
    assert (shifted["left"], shifted["found_left"], shifted["found_bottom"]) == (130, 100, 120)
    assert rows["box of nothing"]["gain"] == pytest.approx(0.9)
    first = content["by_image"][0]
    assert (Path(first["path"]).stem, first["split"], first["doubts"], first["gains"]) == ("3", "val", 1, 0.9)
    assert [Path(row["path"]).stem for row in content["by_image"]] == ["3", "9", "8", "5"]
    (note,) = (f.message for f in diagnosis.findings if f.kind == "judged by a model")
    assert "train it on one part of the images and judge the others" in note
    page = diagnosis.page().render()
    assert "Images to look at first" in page
    assert "the box of dog at (10, 10) looks like cat to the model (90.0%)" in page
    # Nothing of it is without a model.
    plain = examine_annotated(coco, "detection")
    assert plain.doubtful_images() == []
    assert [f for f in diagnosis.findings if f in plain.findings] == list(plain.findings)


def test_few_boxes_are_not_judged(coco: Path, finding_both: None) -> None:
    file = coco / "annotations/instances_val.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["images"] = content["images"][:9]
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] < 9]
    file.write_text(json.dumps(content), encoding="utf-8")
    diagnosis = examine_annotated(coco, "detection", model=model_of(DETECTOR))
    assert not diagnosis.doubtful_images()
    notes = [f.message for f in diagnosis.findings if f.kind == "class not judged"]
    assert notes == [
        f"fewer than 10 boxes of {name} in val are found by the model, so they were not judged"
        for name in ("cat", "dog")
    ]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (SEGMENTER, "is for segmentation; boxes are judged with a detector of their classes: train one"),
        (replace(DETECTOR, labels=("cow", "cat")), "dog"),
    ],
)
def test_models_that_cannot_judge(coco: Path, spec: ModelSpec, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusiform.doctor.annotated.look_at", pytest.fail)
    with pytest.raises(InputError, match=message):
        examine_annotated(coco, "detection", model=model_of(spec))


def test_regions_that_the_segmenter_doubts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, valid: Callable[..., Any]
) -> None:
    """A cat in the left half of every picture, where the third's mask has a dog."""
    root = tmp_path / "masks"
    (root / "SegmentationClass").mkdir(parents=True)
    (root / "class_names.txt").write_text("background\ncat\ndog\n", encoding="utf-8")
    for number in range(6):
        photograph(root / f"JPEGImages/{number}.jpg", number)
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[:, :100] = 2 if number == 2 else 1
        labels[:, 180:] = 2
        Image.fromarray(labels).save(root / f"SegmentationClass/{number}.png")

    def outline(model: Model, samples: Sequence[AnnotatedSample], **options: Any) -> Outlines:
        logits: NDArray[np.float32] = np.zeros((75, 100, 3), np.float32)
        logits[:, :50, 2], logits[:, 50:90, 0], logits[:, 90:, 1] = 6, 6, 6
        for i, sample in enumerate(samples):
            truth = np.array(options["labels"], np.int32)[sample.read_labels((WIDTH, HEIGHT), classes=3)]
            options["look"](i, logits, truth)
        return Outlines(np.zeros((6, 3, 3), np.int64), np.zeros((3, 3), np.int64), {})

    monkeypatch.setattr(annotation_judge, "outline", outline)
    diagnosis = examine_annotated(root, "segmentation", model=model_of(SEGMENTER))
    (finding,) = (f for f in diagnosis.findings if f.kind == "wrong region")
    assert (Path(finding.path).stem, finding.class_name, finding.suggested) == ("2", "dog", "cat")
    # Half the picture less 4 pixels along the one border, nearly all of which is sure: e^6 / (e^6 + 2) less 1 / that.
    assert finding.gain == pytest.approx(96 / 200 * (np.e**6 - 1) / (np.e**6 + 2), abs=0.002)
    assert finding.marks[0].edges == (0, 0, 96, 150)
    content = valid(diagnosis.report().to_json())
    (row,) = content["by_image"]
    assert row["quality"] < 0.1
    assert len(diagnosis.quality) == 6
    assert min(value for name, value in diagnosis.quality.items() if name != finding.path) > 0.5
    assert "mask quality" in diagnosis.page().render()
