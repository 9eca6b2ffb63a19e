"""Detectors on labelled pictures: figures against pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.annotated import AnnotatedSample, AnnotatedSet, BoxLabel
from fusiform.data.open import open_dataset
from fusiform.drawing.curves import precision_recall_diagram
from fusiform.errors import MissingExtraError, UsageError, WeightsError
from fusiform.evaluation import detection as detection_module
from fusiform.evaluation.comparison import comparison_figures
from fusiform.evaluation.detection import DetectionEvaluation, box_figures
from fusiform.evaluation.job import evaluate
from fusiform.tasks.detection import encode_boxes, make_targets, prior_boxes
from fusiform.zoo.model import Model, open_model

sys.path.insert(0, str(Path(__file__).parent))

from numbered_pictures import DETECTOR, PICTURES, SEGMENTER, size_of, write_model, write_pictures

sys.path.pop(0)


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


def test_curves_are_drawn_where_they_belong() -> None:
    drawn = precision_recall_diagram({"<mean>": [1.0, 0.5, 0.0]}, {"cat": [0.0, 0.0, 1.0]})
    assert 'points="60.0,20.0 210.0,170.0 360.0,320.0"' in drawn
    assert 'points="60.0,320.0 210.0,320.0 360.0,20.0"' in drawn
    assert "&lt;mean&gt;" in drawn
    assert "<mean>" not in drawn
