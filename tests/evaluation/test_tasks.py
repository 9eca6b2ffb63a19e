"""Detectors and segmenters on labelled pictures: figures against pycocotools and plain counts of pixels."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fusiform import engines
from fusiform.data.annotated import AnnotatedSample, AnnotatedSet, BoxLabel
from fusiform.data.open import open_dataset
from fusiform.data.preprocess import placement
from fusiform.drawing.curves import precision_recall_diagram
from fusiform.errors import MissingExtraError, UsageError, WeightsError
from fusiform.evaluation import detection as detection_module
from fusiform.evaluation.comparison import comparison_figures
from fusiform.evaluation.detection import DetectionEvaluation, box_figures
from fusiform.evaluation.figures import percentages
from fusiform.evaluation.job import evaluate
from fusiform.evaluation.segmentation import SegmentationEvaluation, mask_figures, outline, outline_again
from fusiform.graph.build import build_graph
from fusiform.graph.shapes import state_shapes
from fusiform.graph.tflite import to_tflite
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tasks import segmentation
from fusiform.tasks.detection import encode_boxes, make_targets, prior_boxes
from fusiform.zoo.model import Model, open_model

DETECTOR = ModelSpec(
    "mobilenet_v2",
    0.35,
    ("cat", "dog", "bird"),
    task="detection",
    input_size=64,
    preprocess=Preprocess(resize=64, crop=64, fit="stretch"),
)
SEGMENTER = ModelSpec(
    "mobilenet_v2",
    0.35,
    ("background", "cat", "dog", "bird"),
    task="segmentation",
    input_size=65,
    output_stride=16,
    preprocess=Preprocess(resize=65, crop=65, fit="pad"),
)
PICTURES = 6


def write_model(path: Path, spec: ModelSpec) -> Path:
    """A file with a network of the spec; what it answers does not matter."""
    random = np.random.default_rng(3)
    state = {
        name: np.array(5) if name.endswith("tracked") else random.uniform(0.1, 0.5, shape).astype(np.float32)
        for name, shape in state_shapes(spec).items()
    }
    path.write_bytes(to_tflite(build_graph(spec, state)))
    return path


def size_of(k: int) -> tuple[int, int]:
    """The pictures are wide, high, and of any size."""
    return (90 + 7 * k, 60) if k % 2 else (50, 80 + 11 * k)


class NumberedPictures:
    """An engine that knows a picture by its colour, which is its number; ``answers`` says what to answer."""

    def __init__(self, spec: ModelSpec, answers: list[dict[str, NDArray[np.float32]]]) -> None:
        self.spec, self.known = spec, answers

    def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        chosen = [self.known[int(pixels[0, 0, 0]) // 10] for pixels in batch]
        return {name: np.stack([one[name] for one in chosen]) for name in chosen[0]}


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have models answer from a list, by the name of the model's file where there are several."""
    known: dict[str, NumberedPictures] = {}

    def open_engine(model: Model, **_: object) -> NumberedPictures:
        return known.get(model.path.stem) or known[""]

    monkeypatch.setattr(engines, "open_engine", open_engine)

    def give(spec: ModelSpec, answers: list[dict[str, NDArray[np.float32]]], name: str = "") -> None:
        known[name] = NumberedPictures(spec, answers)

    return give


def write_pictures(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    paths = []
    for k in range(PICTURES):
        Image.new("RGB", size_of(k), (10 * k, 99, 99)).save(folder / f"{k}.png")
        paths.append(folder / f"{k}.png")
    return paths


# --- boxes ---


def random_boxes(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Boxes in units of the picture, of all sizes."""
    corners = np.sort(random.uniform(0, 1, (count, 2, 2)), axis=1)
    corners[:, 1] = np.maximum(corners[:, 1], corners[:, 0] + 0.05)
    return np.clip(corners.reshape(count, 4), 0, 1)


def coco_folder(folder: Path, random: np.random.Generator) -> tuple[Path, list[tuple[NDArray[Any], NDArray[Any]]]]:
    """A dataset in COCO's layout, its categories in another order than the model's labels; and its boxes."""
    paths = write_pictures(folder / "val2017")
    names = {7: "bird", 20: "dog", 31: "cat"}
    ids = {0: 31, 1: 20, 2: 7}
    content: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in names.items()],
    }
    truth = []
    for k, path in enumerate(paths):
        width, height = size_of(k)
        content["images"].append({"id": 100 + k, "file_name": path.name, "width": width, "height": height})
        boxes, labels = random_boxes(random, 4), random.integers(0, 3, 4)
        truth.append((boxes, labels))
        for box, label in zip(boxes * (width, height, width, height), labels, strict=True):
            left, top, right, bottom = map(float, box)
            crowd = bool(random.random() < 0.15)
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": 100 + k,
                    "category_id": ids[int(label)],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top) * 0.8,
                    "iscrowd": int(crowd),
                }
            )
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content), encoding="utf-8")
    return folder, truth


def detector_answers(
    truth: list[tuple[NDArray[Any], NDArray[Any]]], random: np.random.Generator, *, noise: float
) -> list[dict[str, NDArray[np.float32]]]:
    """Nearly right boxes, with scores of any height, among weak noise."""
    priors = prior_boxes(DETECTOR.input_size)
    answers = []
    for boxes, labels in truth:
        near = np.clip(boxes + random.normal(0, noise, boxes.shape), 0, 1)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 0.02)
        targets = make_targets(near, labels, priors)
        logits = random.normal(0, 1, (len(priors), 4))
        logits[:, 0] += 3
        matched = targets.classes > 0
        logits[matched, targets.classes[matched]] += random.uniform(0, 8, matched.sum())
        codes = random.normal(0, 1, (len(priors), 4))
        codes[matched] = targets.codes[matched]
        answers.append({"logits": logits.astype(np.float32), "codes": codes.astype(np.float32)})
    return answers


@pytest.fixture
def boxes(tmp_path: Path, answer: Any) -> DetectionEvaluation:
    pytest.importorskip("faster_coco_eval")
    random = np.random.default_rng(1)
    data, truth = coco_folder(tmp_path / "coco", random)
    answer(DETECTOR, detector_answers(truth, random, noise=0.03))
    result = evaluate(write_model(tmp_path / "near.tflite", DETECTOR), data, threads=2)
    assert isinstance(result, DetectionEvaluation)
    return result


def test_figures_are_pycocotools_own(boxes: DetectionEvaluation) -> None:
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    numbers = {0: 31, 1: 20, 2: 7}
    rows = [
        {
            "image_id": 100 + int(sample.file.stem),
            "category_id": numbers[box.index],
            "bbox": [box.left, box.top, box.right - box.left, box.bottom - box.top],
            "score": box.score,
        }
        for sample, found in zip(boxes.samples, boxes.found, strict=True)
        for box in found.boxes
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO(str(Path(boxes.source) / "annotations" / "instances_val2017.json"))
        judge = COCOeval(data, data.loadRes(rows), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    made = boxes.report()
    names = ("map", "map50", "map75", "map_small", "map_medium", "map_large")
    found = [made.figures[name] for name in names]
    assert found == pytest.approx([None if v < 0 else v for v in judge.stats[:6].tolist()], abs=1e-5)
    assert 0.1 < judge.stats[0] < 0.9
    precision = judge.eval["precision"][:, :, :, 0, -1]  # categories by their numbers: bird, dog, cat
    per_class = {row["class"]: (row["ap"], row["ap50"]) for row in made.rows}
    for k, name in enumerate(("bird", "dog", "cat")):
        expected = (precision[:, :, k].mean(), precision[0, :, k].mean())
        assert per_class[name] == pytest.approx(expected, abs=1e-5)
    # What is resampled are the same figures.
    values = boxes.figure(np.ones((1, PICTURES), np.int32))[0]
    assert values.tolist() == pytest.approx(found[:2], abs=1e-5)


def test_intervals_hold_the_figures(boxes: DetectionEvaluation) -> None:
    figures = boxes.report().figures
    for name in ("map", "map50"):
        low, value, high = (float(figures[key] or 0) for key in (f"{name}_low", name, f"{name}_high"))
        assert 0 <= low < value < high <= 1
    assert figures["resamples"] == 1000
    again = boxes.report().figures
    assert dict(again) == dict(figures)


def test_counts_at_the_score(boxes: DetectionEvaluation) -> None:
    """Of the objects that are no crowd, those that a box scored above 0.3 shares half with; by plain counting."""
    objects = found = shown = 0
    for trues, detections in zip(boxes.truth, boxes.found, strict=True):
        taken: set[int] = set()
        for box in detections.boxes:
            if box.score <= 0.3:
                continue
            shares = {k: plain_iou(box, true) for k, true in enumerate(trues) if true.label == box.index}
            free = {k: v for k, v in shares.items() if k not in taken and v >= 0.5 and not trues[k].crowd}
            in_crowd = any(trues[k].crowd and plain_iou(box, trues[k], crowd=True) >= 0.5 for k in shares)
            if free:
                taken.add(max(free, key=lambda k: free[k]))
            shown += bool(free) or not in_crowd
        objects += sum(not true.crowd for true in trues)
        found += len(taken)
    figures = boxes.report().figures
    assert (figures["objects"], figures["found"], figures["wrong"]) == (objects, found, shown - found)
    assert figures["precision"] == pytest.approx(found / shown, abs=1e-6)
    assert figures["recall"] == pytest.approx(found / objects, abs=1e-6)
    assert 0 < found < objects
    assert found < shown
    pictures = boxes.pictures()
    assert sum(int(row["wrong"] or 0) for row in pictures) == shown - found
    f1 = [2 * int(row["found"]) / (2 * int(row["found"]) + int(row["missed"]) + int(row["wrong"])) for row in pictures]  # type: ignore[arg-type]
    assert f1 == sorted(f1)


def plain_iou(box: Any, true: BoxLabel, *, crowd: bool = False) -> float:
    width = min(box.right, true.right) - max(box.left, true.left)
    height = min(box.bottom, true.bottom) - max(box.top, true.top)
    if width <= 0 or height <= 0:
        return 0.0
    first = (box.right - box.left) * (box.bottom - box.top)
    second = (true.right - true.left) * (true.bottom - true.top)
    return float(width * height / (first if crowd else first + second - width * height))


def test_the_score_and_batches_do_not_change_the_precision(boxes: DetectionEvaluation) -> None:
    again = evaluate(boxes.model, boxes.source, score=0.9, batch=4, threads=1, engine="litert")
    first, second = boxes.report().figures, again.report().figures
    assert second["map"] == first["map"]
    assert int(second["found"] or 0) < int(first["found"] or 0)


def test_training_is_told_the_same(boxes: DetectionEvaluation, tmp_path: Path) -> None:
    model = open_model(boxes.model)
    in_memory = Model(Path("in training"), "tflite", model.spec, model.data)
    figures = boxes.report().figures
    found = box_figures(in_memory, boxes.samples, threads=2)
    assert found == {
        "map": pytest.approx(figures["map"], abs=1e-5),
        "map50": pytest.approx(figures["map50"], abs=1e-5),
        "images": PICTURES,
    }
    (tmp_path / "cut.png").write_bytes(boxes.samples[0].file.read_bytes()[:60])
    unread = AnnotatedSample(tmp_path / "cut.png", ())
    assert box_figures(in_memory, [unread, *boxes.samples]) == found
    assert box_figures(in_memory, [unread]) == {"map": 0, "map50": 0, "images": 0}


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(boxes: DetectionEvaluation) -> None:
    folder = Path(boxes.source)
    (folder / "val2017" / "1.png").write_bytes(b"no picture")
    Image.new("RGB", (10, 10)).save(folder / "val2017" / "2.png")
    result = evaluate(boxes.model, folder)
    assert len(result.samples) == PICTURES - 2
    assert ["1.png" in result.skipped[0], "annotations are for 50 x 102" in result.skipped[1]] == [True, True]
    assert result.report().figures["skipped"] == 2
    for k in range(PICTURES):
        (folder / "val2017" / f"{k}.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match="none of the 6 pictures of val could be read"):
        evaluate(boxes.model, folder)


def test_the_better_detector_is_named(boxes: DetectionEvaluation, tmp_path: Path, answer: Any) -> None:
    truth = [
        (
            np.array([(b.left, b.top, b.right, b.bottom) for b in trues]) / (*size_of(k), *size_of(k)),
            [b.label for b in trues],
        )
        for k, trues in enumerate(boxes.truth)
    ]
    answer(DETECTOR, detector_answers(truth, np.random.default_rng(2), noise=0.3), "far")  # type: ignore[arg-type]
    far = evaluate(write_model(tmp_path / "far.tflite", DETECTOR), boxes.source)
    comparison = far.compare(boxes)
    figures = comparison_figures(comparison)
    assert figures["images"] == PICTURES
    assert figures["map_difference"] == pytest.approx(figures["map"] - figures["other_map"], abs=1e-5)  # type: ignore[operator]
    assert figures["map_excludes_zero"] is True
    assert float(figures["map_difference_high"] or 0) < 0
    assert "near.tflite has the higher mAP 0.50:0.95" in comparison.sentence
    same = comparison_figures(boxes.compare(boxes))
    assert (same["map_difference_low"], same["map_difference_high"], same["map_excludes_zero"]) == (0, 0, False)
    # On the pictures that both were shown.
    some = evaluate(
        boxes.model, AnnotatedSet(Path(boxes.source), "detection", DETECTOR.labels, {"val": boxes.samples[3:]})
    )
    assert comparison_figures(some.compare(boxes))["map_difference"] == 0
    none = evaluate(
        boxes.model, AnnotatedSet(Path(boxes.source), "detection", DETECTOR.labels, {"val": boxes.samples[:3]})
    )
    with pytest.raises(UsageError, match="no picture in common"):
        some.compare(none)


def test_pictures_without_objects_and_boxes_that_reach_out(tmp_path: Path, answer: Any) -> None:
    """VOC's annotations need not say how large the picture is."""
    pytest.importorskip("faster_coco_eval")
    paths = write_pictures(tmp_path / "pictures")
    priors = prior_boxes(DETECTOR.input_size)
    nothing = {
        "logits": np.tile(np.float32([9, -9, -9, -9]), (len(priors), 1)),
        "codes": np.zeros((len(priors), 4), np.float32),
    }
    whole = {name: values.copy() for name, values in nothing.items()}
    whole["logits"][3] = [-9, 9, -9, -9]
    whole["codes"][3] = encode_boxes(np.array([[0.5, 0, 1, 1]]), priors[3:4])[0]
    answer(DETECTOR, [nothing, whole, nothing, nothing, nothing, nothing])
    width, height = size_of(1)
    samples = (
        AnnotatedSample(paths[0], ()),
        AnnotatedSample(paths[1], (BoxLabel(0, width / 2, 0, 9999, 9999), BoxLabel(1, 5000, 0, 9999, 9))),
    )
    data = AnnotatedSet(tmp_path, "detection", DETECTOR.labels, {"all": samples})
    model = write_model(tmp_path / "model.tflite", DETECTOR)
    result = evaluate(model, data)
    made = result.report()
    assert (made.figures["map"], made.figures["precision"], made.figures["objects"]) == (1, 1, 1)
    assert result.worst() == []
    assert result.truth[1] == (BoxLabel(0, width / 2, 0, width, height),)
    empty = evaluate(model, AnnotatedSet(tmp_path, "detection", DETECTOR.labels, {"all": samples[:1]}))
    figures = empty.report().figures
    assert [figures[name] for name in ("map", "map_low", "map50", "map75", "precision", "recall")] == [None] * 6
    json.loads(empty.to_json())
    empty.write_page(tmp_path / "page.html")
    assert "none" in empty.headlines()["mAP 0.50:0.95"]
    assert "cannot be compared" in empty.compare(empty).sentence


def test_a_page_of_boxes(boxes: DetectionEvaluation, tmp_path: Path) -> None:
    boxes.including(comparison=boxes.compare(boxes)).write_page(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    headings = re.findall(r"<h2 id=[^>]*>([^<]+)", text)
    assert headings[:3] == ["Comparison", "Worst images", "Precision and recall"]
    assert headings[-2:] == ["Classes", "Details"]
    shown = boxes.worst()
    assert text.count("data:image/jpeg") == 2 * len(shown)
    assert text.count("<polyline") == 2 + 3


def test_json_of_boxes(boxes: DetectionEvaluation) -> None:
    content = json.loads(boxes.including(comparison=boxes.compare(boxes)).to_json())
    assert content["figures"]["map"] == boxes.report().figures["map"]
    assert [row["class"] for row in content["rows"]] == ["cat", "dog", "bird"]
    curves = {curve["iou"]: curve["precisions"] for curve in content["curves"]}
    assert len(curves[0.5]) == 101
    # The mean of the curve is the average precision.
    assert np.mean(curves[0.5]) == pytest.approx(content["figures"]["map50"], abs=1e-5)
    assert np.mean(curves[0.75]) == pytest.approx(content["figures"]["map75"], abs=1e-5)
    assert content["comparison"]["other"] == boxes.model


def test_a_detector_that_answers_nan_is_told(boxes: DetectionEvaluation, answer: Any) -> None:
    wrong = {
        "logits": np.full((len(prior_boxes(64)), 4), np.nan, np.float32),
        "codes": np.zeros((len(prior_boxes(64)), 4), np.float32),
    }
    answer(DETECTOR, [wrong] * PICTURES)
    with pytest.raises(WeightsError, match=r"near\.tflite: answers with values that are not finite"):
        evaluate(boxes.model, boxes.source)


def test_what_a_detector_cannot_use_is_refused(boxes: DetectionEvaluation, tmp_path: Path) -> None:
    (tmp_path / "classes" / "cat").mkdir(parents=True)
    voc = tmp_path / "voc"
    for name in ("JPEGImages", "SegmentationClass"):
        (voc / name).mkdir(parents=True)
    cases: list[tuple[Path, str]] = [
        (tmp_path / "nowhere", "no such file or folder"),
        (tmp_path / "classes", r"no dataset with boxes, and near is a detector: give COCO's layout"),
        (voc, "has masks and no boxes"),
    ]
    for path, message in cases:
        with pytest.raises(UsageError, match=message):
            open_dataset(path, task="detection", spec=DETECTOR, model="near")
    segmenter = write_model(tmp_path / "segmenter.tflite", SEGMENTER)
    with pytest.raises(UsageError, match="has boxes and no outlines, and a segmenter learns from outlines"):
        evaluate(segmenter, boxes.source)
    with pytest.raises(UsageError, match="no pictures for --split test; there are val"):
        evaluate(boxes.model, boxes.source, split="test")
    with pytest.raises(UsageError, match=r"score must be in \[0, 1\]"):
        evaluate(boxes.model, boxes.source, score=1.5)
    with pytest.raises(UsageError, match="was not read with the classes of"):
        evaluate(boxes.model, AnnotatedSet(tmp_path, "detection", ("dog", "cat", "bird"), {"val": boxes.samples}))
    with pytest.raises(ValueError, match="its boxes were not read"):
        box_figures(open_model(boxes.model), [AnnotatedSample(boxes.samples[0].file)])


def test_a_missing_evaluator_is_told_before_the_work(
    boxes: DetectionEvaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    monkeypatch.setattr(detection_module, "find_boxes", None)
    with pytest.raises(MissingExtraError, match=r"fusiform\[detection\]"):
        evaluate(boxes.model, boxes.source)


def test_voc_boxes_are_read(boxes: DetectionEvaluation, tmp_path: Path) -> None:
    folder = tmp_path / "voc"
    (folder / "Annotations").mkdir(parents=True)
    write_pictures(folder / "JPEGImages")
    for k, trues in enumerate(boxes.truth):
        objects = "".join(
            f"<object><name>{DETECTOR.labels[b.label]}</name><difficult>{int(b.crowd)}</difficult><bndbox>"
            f"<xmin>{b.left + 1}</xmin><ymin>{b.top + 1}</ymin><xmax>{b.right}</xmax><ymax>{b.bottom}</ymax>"
            "</bndbox></object>"
            for b in trues
        )
        size = f"<size><width>{size_of(k)[0]}</width><height>{size_of(k)[1]}</height></size>"
        (folder / "Annotations" / f"{k}.xml").write_text(f"<annotation>{size}{objects}</annotation>", encoding="utf-8")
    result = evaluate(boxes.model, folder)
    assert result.split == "all"
    first, second = boxes.report().figures, result.report().figures
    for name in ("map", "map50", "objects", "found", "wrong"):
        assert second[name] == pytest.approx(first[name], abs=1e-5)


# --- masks ---


def voc_folder(folder: Path, random: np.random.Generator, names: tuple[str, ...] | None = SEGMENTER.labels) -> Path:
    """Masks of classes in the data's own order, with pixels to ignore."""
    write_pictures(folder / "JPEGImages")
    (folder / "SegmentationClass").mkdir()
    if names is not None:
        (folder / "class_names.txt").write_text("\n".join(names), encoding="utf-8")
    for k in range(PICTURES):
        width, height = size_of(k)
        blocks = random.choice(np.array([0, 0, 1, 2, 255], np.uint8), (height // 10 + 1, width // 10 + 1))
        mask = blocks.repeat(10, 0).repeat(10, 1)[:height, :width]
        Image.fromarray(mask).save(folder / "SegmentationClass" / f"{k}.png")
    return folder


def segmenter_answers(random: np.random.Generator) -> list[dict[str, NDArray[np.float32]]]:
    return [{"logits": random.normal(0, 1, (5, 5, 4)).astype(np.float32)} for _ in range(PICTURES)]


@pytest.fixture
def masks(tmp_path: Path, answer: Any) -> SegmentationEvaluation:
    random = np.random.default_rng(4)
    answer(SEGMENTER, segmenter_answers(random))
    data = voc_folder(tmp_path / "voc", random)
    result = evaluate(write_model(tmp_path / "masks.tflite", SEGMENTER), data, ignore="255", threads=2)
    assert isinstance(result, SegmentationEvaluation)
    return result


def found_masks(folder: Path, seed: int = 4) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """What is true and what the fixture's engine says, at the photographs' own size."""
    for k, said in enumerate(segmenter_answers(np.random.default_rng(seed))):
        place = placement(size_of(k), SEGMENTER.preprocess)
        found = segmentation.decode(said["logits"], SEGMENTER, size_of(k), placement=place).classes
        yield np.array(Image.open(folder / "SegmentationClass" / f"{k}.png")), found


def plain_figures(pairs: list[tuple[NDArray[Any], NDArray[Any]]], labels: list[int]) -> tuple[float, float, list[Any]]:
    """The mean intersection over union and the share of right pixels, pixel by pixel."""
    seen = [
        (labels[t], int(p)) for true, found in pairs for t, p in zip(true.flat, found.flat, strict=True) if t != 255
    ]
    ious = []
    for k in labels:
        both = sum(t == k and p == k for t, p in seen)
        either = sum(k in pair for pair in seen)
        ious.append(both / either if either else None)
    known = [value for value in ious if value is not None]
    return sum(known) / len(known), sum(t == p for t, p in seen) / len(seen), ious


def test_figures_are_what_counting_pixels_says(masks: SegmentationEvaluation) -> None:
    pairs = list(found_masks(Path(masks.source)))
    miou, accuracy, ious = plain_figures(pairs, [0, 1, 2, 3])
    made = masks.report()
    figures = made.figures
    assert figures["miou"] == pytest.approx(miou, abs=1e-6)
    assert figures["pixel_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert [row["iou"] for row in made.rows] == pytest.approx(ious, abs=1e-6)
    assert figures["pixels"] == sum(int((true != 255).sum()) for true, _ in pairs)
    for k, row in enumerate(made.rows[:3]):
        true = sum(int((t == k).sum()) for t, _ in pairs)
        found = sum(int(((f == k) & (t != 255)).sum()) for t, f in pairs)
        right = sum(int(((f == k) & (t == k)).sum()) for t, f in pairs)
        assert (row["class"], row["pixels"]) == (SEGMENTER.labels[k], true)
        assert (row["precision"], row["recall"]) == pytest.approx((right / found, right / true), abs=1e-6)
    assert made.rows[3] == {"class": "bird", "pixels": 0, "iou": 0.0, "precision": 0.0, "recall": None}
    for name in ("miou", "pixel_accuracy"):
        low, value, high = (float(figures[key] or 0) for key in (f"{name}_low", name, f"{name}_high"))
        assert 0 < low < value < high < 1
    # And each picture's own.
    rows = {Path(str(row["path"])).stem: row for row in masks.pictures()}
    for k, pair in enumerate(pairs):
        expected = plain_figures([pair], [0, 1, 2, 3])
        assert (rows[str(k)]["miou"], rows[str(k)]["pixel_accuracy"]) == pytest.approx(expected[:2], abs=1e-6)
    assert [row["miou"] for row in rows.values()] == sorted(float(row["miou"] or 0) for row in rows.values())


def test_masks_are_bound_by_the_names_of_their_classes(tmp_path: Path, answer: Any) -> None:
    """The data's order is another one, and it has no birds: to take something for one is wrong, but no class's mean."""
    random = np.random.default_rng(4)
    answer(SEGMENTER, segmenter_answers(random))
    data = voc_folder(tmp_path / "voc", random, ("background", "dog", "cat"))
    result = evaluate(write_model(tmp_path / "masks.tflite", SEGMENTER), data, ignore="255", batch=4)
    assert result.outputs == (0, 2, 1)
    miou, accuracy, ious = plain_figures(list(found_masks(data)), [0, 2, 1])
    made = result.report()
    assert made.figures["miou"] == pytest.approx(miou, abs=1e-6)
    assert made.figures["pixel_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert [row["class"] for row in made.rows] == ["background", "dog", "cat"]
    assert [row["iou"] for row in made.rows] == pytest.approx(ious, abs=1e-6)
    columns, counts = result.confusion_columns()
    assert columns == ["background", "dog", "cat", "other"]
    assert counts.sum() == made.figures["pixels"]
    assert counts[:, 3].sum() == sum(int(((f == 3) & (t != 255)).sum()) for t, f in found_masks(data))
    assert [row["precision"] for row in made.rows] == pytest.approx(
        [counts[k, k] / result.confusion[:, label].sum() for k, label in enumerate((0, 2, 1))], abs=1e-6
    )
    headlines = result.headlines()
    assert headlines["classes"] == "3; the model chooses among its 4"


def test_training_is_told_the_same_of_masks(masks: SegmentationEvaluation) -> None:
    model = open_model(masks.model)
    in_memory = Model(Path("in training"), "tflite", model.spec, model.data)
    figures = masks.report().figures
    found = mask_figures(in_memory, masks.samples, threads=2)
    assert found == {
        "miou": pytest.approx(figures["miou"], abs=1e-6),
        "pixel_accuracy": pytest.approx(figures["pixel_accuracy"], abs=1e-6),
        "images": PICTURES,
    }
    no_mask = AnnotatedSample(masks.samples[0].file, mask_file=Path("nowhere.png"))
    assert mask_figures(in_memory, [*masks.samples, no_mask]) == found
    assert mask_figures(in_memory, [no_mask]) == {"miou": 0, "pixel_accuracy": 0, "images": 0}
    with pytest.raises(ValueError, match="its mask was not read"):
        mask_figures(in_memory, [AnnotatedSample(masks.samples[0].file)])


def test_masks_that_do_not_fit_are_told_and_the_rest_goes_on(masks: SegmentationEvaluation) -> None:
    folder = Path(masks.source)
    Image.new("L", (3, 3)).save(folder / "SegmentationClass" / "0.png")
    Image.new("L", size_of(1), 9).save(folder / "SegmentationClass" / "1.png")
    (folder / "JPEGImages" / "2.png").write_bytes(b"no picture")
    result = evaluate(masks.model, folder, ignore="255")
    assert [Path(sample.name).stem for sample in result.samples] == ["3", "4", "5"]
    for message, words in zip(
        result.skipped, ("mask is 3 x 3 pixels", "labels beyond the 4 classes", "2.png"), strict=True
    ):
        assert words in message
    miou, _, _ = plain_figures(list(found_masks_of(folder, (3, 4, 5))), [0, 1, 2, 3])
    assert result.report().figures["miou"] == pytest.approx(miou, abs=1e-6)
    # The same pictures, as far as both were shown them.
    compared = comparison_figures(result.compare(masks))
    assert (compared["images"], compared["miou_difference"], compared["miou_excludes_zero"]) == (3, 0, False)
    for file in (folder / "SegmentationClass").iterdir():
        file.write_bytes(b"no mask")
    with pytest.raises(UsageError, match=r"none of the 6 pictures of all could be read: .*0\.png: is no PNG"):
        evaluate(masks.model, folder, ignore="255")


def found_masks_of(folder: Path, chosen: tuple[int, ...]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    for k, said in enumerate(segmenter_answers(np.random.default_rng(4))):
        if k in chosen:
            place = placement(size_of(k), SEGMENTER.preprocess)
            found = segmentation.decode(said["logits"], SEGMENTER, size_of(k), placement=place).classes
            yield np.array(Image.open(folder / "SegmentationClass" / f"{k}.png")), found


def test_a_page_of_masks(masks: SegmentationEvaluation, tmp_path: Path) -> None:
    masks.including(comparison=masks.compare(masks)).write_page(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    headings = re.findall(r"<h2 id=[^>]*>([^<]+)", text)
    assert headings[:3] == ["Comparison", "Worst images", "Classes"]
    assert headings[-2:] == ["Confusion matrix", "Details"]
    assert text.count("data:image/jpeg") == 2 * PICTURES
    # What is shown again is what was counted.
    for (true, found), again in zip(
        found_masks(Path(masks.source)), outline_again(masks, range(PICTURES)), strict=True
    ):
        assert again is not None
        np.testing.assert_array_equal(again[2].classes, found)
        np.testing.assert_array_equal(again[1].classes, np.where(true == 255, 0, true))
    masks.samples[0].file.unlink()
    assert next(outline_again(masks, [0])) is None
    masks.write_page(tmp_path / "page.html")


def test_json_of_masks(masks: SegmentationEvaluation) -> None:
    content = json.loads(masks.to_json())
    assert content["confusion"]["columns"] == list(SEGMENTER.labels)
    counts = np.array(content["confusion"]["counts"])
    assert counts.sum() == content["figures"]["pixels"]
    assert np.diag(counts).sum() / counts.sum() == pytest.approx(content["figures"]["pixel_accuracy"], abs=1e-6)
    assert content["comparison"] is None


def test_what_a_segmenter_cannot_use_is_refused(masks: SegmentationEvaluation, tmp_path: Path) -> None:
    (tmp_path / "classes" / "cat").mkdir(parents=True)
    with pytest.raises(UsageError, match="no such file or folder"):
        open_dataset(tmp_path / "nowhere", task="segmentation", spec=SEGMENTER, model="masks")
    with pytest.raises(UsageError, match="no dataset with masks, and masks is a segmenter: give Pascal VOC's layout"):
        open_dataset(tmp_path / "classes", task="segmentation", spec=SEGMENTER, model="masks")
    (Path(masks.source) / "class_names.txt").write_text("background\ncat\nhorse", encoding="utf-8")
    with pytest.raises(
        UsageError, match=r"1 of its 3 classes are none of the 4 of .*: horse: name the masks' classes in"
    ):
        evaluate(masks.model, masks.source, ignore="255")
    twice = SEGMENTER.replace(labels=("background", "cat", "cat", "bird"))
    with pytest.raises(UsageError, match="more than one of its classes bears the same name"):
        open_dataset(masks.source, task="segmentation", spec=twice, model="masks")
    detector = write_model(tmp_path / "detector.tflite", DETECTOR)
    with pytest.raises(UsageError, match=r"has masks and no boxes, and .*detector\.tflite is a detector"):
        evaluate(detector, masks.source)
    with pytest.raises(UsageError, match="several scales are for the engine torch, not litert"):
        outline(open_model(masks.model), masks.samples, multi_scale=True, engine="litert")


def test_a_segmenter_that_answers_nan_is_told(masks: SegmentationEvaluation, answer: Any) -> None:
    answer(SEGMENTER, [{"logits": np.full((5, 5, 4), np.inf, np.float32)}] * PICTURES)
    with pytest.raises(WeightsError, match=r"masks\.tflite: answers with values that are not finite"):
        evaluate(masks.model, masks.source, ignore="255")


@pytest.mark.parametrize("height", [65, 49])
def test_several_scales_are_those_of_the_network(tmp_path: Path, height: int) -> None:
    """The mean of the network's own probabilities at six scales, mirrored or not, of a picture without padding."""
    torch = pytest.importorskip("torch")
    from fusiform.modules.deeplab_v3 import multi_scale_probabilities
    from fusiform.zoo.load import load

    noise = np.random.default_rng(0).integers(0, 256, (height, 65, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "picture.png")
    Image.fromarray(np.zeros((height, 65), np.uint8)).save(tmp_path / "mask.png")
    model = write_real_segmenter(tmp_path / "real.safetensors")
    network = load(model)
    normalised = (noise / np.float32(255) - np.float32(SEGMENTER.preprocess.mean)) / np.float32(
        SEGMENTER.preprocess.std
    )
    given = torch.from_numpy(normalised.astype(np.float32).transpose(2, 0, 1)[None].copy())
    wanted = multi_scale_probabilities(network, given).argmax(1)[0].numpy()  # type: ignore[arg-type]
    sample = AnnotatedSample(tmp_path / "picture.png", mask_file=tmp_path / "mask.png")
    found = outline(open_model(model), [sample], multi_scale=True)
    assert found.confusion[0].tolist() == np.bincount(wanted.ravel(), minlength=4).tolist()
    assert np.count_nonzero(found.confusion[0]) > 1
    plain = outline(open_model(model), [sample], engine="torch")
    assert plain.confusion.tolist() != found.confusion.tolist()


def write_real_segmenter(path: Path) -> Path:
    """Random weights that answer differently from place to place."""
    from fusiform.zoo.checkpoint import write_safetensors

    random = np.random.default_rng(3)
    state: dict[str, NDArray[Any]] = {}
    for name, shape in state_shapes(SEGMENTER).items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(5)
        elif len(shape) == 1:
            low, high = (-0.3, 0.3) if name.endswith(("mean", "bias")) else (0.7, 1.3)
            state[name] = random.uniform(low, high, shape).astype(np.float32)
        else:
            state[name] = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
    write_safetensors(path, state, SEGMENTER)
    return path


# --- the drawings ---


def test_percentages_add_up() -> None:
    counts = np.array([[1, 1, 1], [0, 0, 0], [999, 1, 0]])
    assert [sum(row) for row in percentages(counts)] == [100, 0, 100]
    assert percentages(counts)[2] == [100, 0, 0]
    assert sorted(percentages(counts)[0]) == [33, 33, 34]


def test_curves_are_drawn_where_they_belong() -> None:
    drawn = precision_recall_diagram({"<mean>": [1.0, 0.5, 0.0]}, {"cat": [0.0, 0.0, 1.0]})
    assert 'points="60.0,20.0 210.0,170.0 360.0,320.0"' in drawn
    assert 'points="60.0,320.0 210.0,320.0 360.0,20.0"' in drawn
    assert "&lt;mean&gt;" in drawn
    assert "<mean>" not in drawn


# --- real weights ---


@pytest.mark.slow
def test_real_weights_on_real_photographs(shared_data: Path, tmp_path: Path) -> None:
    """TensorFlow's DeepLabv3 on the 48 validation photographs."""
    from fusiform.porting.port import port

    pictures, data = tmp_path / "voc" / "JPEGImages", shared_data / "voc_from_coco"
    pictures.mkdir(parents=True)
    for folder in ("ImageSets", "SegmentationClass"):
        (tmp_path / "voc" / folder).symlink_to(data / folder)
    for file in (shared_data / "coco" / "val2017").glob("*.jpg"):
        (pictures / file.name).symlink_to(file)
    port(shared_data / "weights" / "deeplab_v3_mobilenet_v2_voc_tf.safetensors", tmp_path / "model.safetensors")
    figures = evaluate(tmp_path / "model.safetensors", tmp_path / "voc", split="val").report().figures
    assert figures["images"] == 48
    assert float(figures["pixel_accuracy"] or 0) > 0.85
    assert float(figures["miou"] or 0) > 0.40
