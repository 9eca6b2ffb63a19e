from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusiform.data.annotated import BoxLabel
from fusiform.errors import MissingExtraError
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tasks.detection import Box, Detections, decode, make_targets, prior_boxes
from fusiform.tasks.detection_metrics import (
    DetectionScores,
    average_precisions,
    coco_scores,
    count_boxes,
    match_boxes,
    mean_average_precisions,
    precision_curve,
)

CLASSES = 3
RECALLS = np.linspace(0, 1, 101)
THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = {"ap": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}


def detections(*boxes: Box, side: int = 300) -> Detections:
    return Detections(tuple(sorted(boxes, key=lambda box: -box.score)), side, side)


@pytest.fixture
def evaluator() -> None:
    pytest.importorskip("faster_coco_eval")


# --- a second implementation, as slow and plain as can be: one class, one threshold, one range of areas at a time ---


def area(box: BoxLabel | Box) -> float:
    if isinstance(box, BoxLabel) and box.area is not None:
        return box.area
    return (box.right - box.left) * (box.bottom - box.top)


def shared(found: Box, true: BoxLabel) -> float:
    width = min(found.right, true.right) - max(found.left, true.left)
    height = min(found.bottom, true.bottom) - max(found.top, true.top)
    if width <= 0 or height <= 0:
        return 0.0
    whole = (true.right - true.left) * (true.bottom - true.top)
    return width * height / (area(found) if true.crowd else area(found) + whole - width * height)


def plain_precision(
    truth: Sequence[Sequence[BoxLabel]],
    found: Sequence[Detections],
    label: int,
    threshold: float,
    limits: tuple[float, float],
) -> float | None:
    def forgiven(box: BoxLabel | Box) -> bool:
        return not limits[0] <= area(box) <= limits[1] or (isinstance(box, BoxLabel) and box.crowd)

    answers: list[tuple[float, bool]] = []  # score, and whether it is right; forgiven ones are not in it
    objects = 0
    for trues, picture in zip(truth, found, strict=True):
        mine = [box for box in trues if box.label == label]
        objects += sum(not forgiven(box) for box in mine)
        taken: set[int] = set()
        for box in picture.boxes[:100]:
            if box.index != label:
                continue
            # The best of the objects that count, or else the best of those that do not.
            candidates = [
                (not forgiven(true), shared(box, true), k)
                for k, true in enumerate(mine)
                if shared(box, true) >= threshold and (k not in taken or true.crowd)
            ]
            if candidates:
                counts, _, k = max(candidates)
                taken.add(k)
                if counts:
                    answers.append((box.score, True))
            elif not forgiven(box):
                answers.append((box.score, False))
    if not objects:
        return None
    answers.sort(key=lambda answer: -answer[0])
    points, right = [], 0
    for number, (_, is_right) in enumerate(answers, 1):
        right += is_right
        points.append((right / objects, right / number))
    return float(np.mean([max((p for r, p in points if r >= recall), default=0.0) for recall in RECALLS]))


def plain_scores(truth: Sequence[Sequence[BoxLabel]], found: Sequence[Detections]) -> DetectionScores:
    def mean(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    def over(labels: Sequence[int], thresholds: Sequence[float], name: str) -> float | None:
        return mean([plain_precision(truth, found, k, t, AREAS[name]) for k in labels for t in thresholds])

    every = range(CLASSES)
    return DetectionScores(
        ap=over(every, list(THRESHOLDS), "ap"),
        ap50=over(every, [0.5], "ap"),
        ap75=over(every, [0.75], "ap"),
        small=over(every, list(THRESHOLDS), "small"),
        medium=over(every, list(THRESHOLDS), "medium"),
        large=over(every, list(THRESHOLDS), "large"),
        classes=tuple(over([k], list(THRESHOLDS), "ap") for k in every),
        classes50=tuple(over([k], [0.5], "ap") for k in every),
    )


def random_case(seed: int) -> tuple[list[list[BoxLabel]], list[Detections]]:
    """Three pictures with objects, most of them found nearly, some twice, some under a wrong name, and inventions."""
    random = np.random.default_rng(seed)

    def edges(middle: Any, sides: Any) -> tuple[float, ...]:
        corners = np.concatenate([middle - sides / 2, middle + sides / 2])
        return tuple(np.clip(corners, [0, 0, 1, 1], [299, 299, 300, 300]).tolist())

    truth, found = [], []
    for _ in range(3):
        trues, boxes = [], []
        for _ in range(random.integers(0, 6)):
            middle, sides = random.uniform(0, 300, 2), np.exp(random.uniform(2, 5.5, 2))
            label = int(random.integers(0, CLASSES))
            left, top, right, bottom = edges(middle, sides)
            outline = float((right - left) * (bottom - top) * random.uniform(0.3, 1)) if random.random() < 0.5 else None
            crowd = bool(random.random() < 0.15)
            trues.append(BoxLabel(label, left, top, right, bottom, crowd=crowd, area=outline))
            for _ in range(random.integers(0, 3)):
                name = label if random.random() < 0.8 else int(random.integers(0, CLASSES))
                near = edges(middle + sides * random.normal(0, 0.07, 2), sides * np.exp(random.normal(0, 0.1, 2)))
                boxes.append(Box(name, "", round(random.random(), 1), *near))
        for _ in range(random.integers(0, 3)):
            other = edges(random.uniform(0, 300, 2), np.exp(random.uniform(2, 5.5, 2)))
            boxes.append(Box(int(random.integers(0, CLASSES)), "", round(random.random(), 1), *other))
        truth.append(trues)
        found.append(detections(*boxes))
    return truth, found


def values(scores: DetectionScores) -> list[float | None]:
    named = [scores.ap, scores.ap50, scores.ap75, scores.small, scores.medium, scores.large]
    return [*named, *scores.classes, *scores.classes50]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_precision_is_what_the_plain_count_says(seed: int) -> None:
    pytest.importorskip("faster_coco_eval")
    truth, found = random_case(seed)
    assert values(coco_scores(truth, found, CLASSES)) == pytest.approx(values(plain_scores(truth, found)), abs=1e-9)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_precision_is_what_pycocotools_says(seed: int) -> None:
    pytest.importorskip("faster_coco_eval")
    pytest.importorskip("pycocotools")
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = random_case(seed)
    rows = [
        {"image_id": k, "category_id": b.index, "bbox": [b.left, b.top, b.right - b.left, b.bottom - b.top]}
        | {"score": b.score}
        for k, picture in enumerate(found)
        for b in picture.boxes
    ]
    if not rows:
        return  # pycocotools cannot read that nothing was found
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = {
            "images": [{"id": k} for k in range(len(found))],
            "categories": [{"id": k} for k in range(CLASSES)],
            "annotations": [
                {"id": 10 * k + n + 1, "image_id": k, "category_id": b.label, "iscrowd": int(b.crowd)}
                | {"area": area(b), "bbox": [b.left, b.top, b.right - b.left, b.bottom - b.top]}
                for k, boxes in enumerate(truth)
                for n, b in enumerate(boxes)
            ],
        }
        data.createIndex()
        judge = COCOeval(data, data.loadRes(rows), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    expected = [None if value < 0 else float(value) for value in judge.stats[:6]]
    assert values(coco_scores(truth, found, CLASSES))[:6] == pytest.approx(expected, abs=1e-9)


def test_the_random_cases_are_worth_judging() -> None:
    """Many of them have a precision between none and all, and objects of every size."""
    scores = [plain_scores(*random_case(seed)) for seed in range(20)]
    assert sum(score.ap is not None and 0.05 < score.ap < 0.95 for score in scores) > 10
    assert all(any(getattr(score, size) for score in scores) for size in ("small", "medium", "large"))


@pytest.mark.usefixtures("evaluator")
def test_precision_by_hand() -> None:
    # 62 of 100 columns are found: right for 0.50, 0.55 and 0.60. The other class is never found.
    truth = [[BoxLabel(0, 0, 0, 100, 100), BoxLabel(2, 200, 200, 220, 220)]]
    scores = coco_scores(truth, [detections(Box(0, "a", 0.9, 0, 0, 62, 100))], CLASSES)
    assert scores.classes == (pytest.approx(0.3), None, 0)
    assert (scores.ap, scores.ap50, scores.ap75) == pytest.approx((0.15, 0.5, 0))
    assert (scores.small, scores.medium, scores.large) == (0, None, pytest.approx(0.3))
    # By the area of its outline the large one is of medium size.
    truth[0][0] = BoxLabel(0, 0, 0, 100, 100, area=5000)
    scores = coco_scores(truth, [detections(Box(0, "a", 0.9, 0, 0, 62, 100))], CLASSES)
    assert (scores.small, scores.medium, scores.large) == (0, pytest.approx(0.3), None)


@pytest.mark.usefixtures("evaluator")
def test_a_wrong_box_before_the_right_one_halves_the_precision() -> None:
    right, wrong = Box(0, "a", 0.5, 0, 0, 50, 50), Box(0, "a", 0.9, 100, 100, 150, 150)
    truth = [[BoxLabel(0, 0, 0, 50, 50)]]
    assert coco_scores(truth, [detections(right)], 1).ap == pytest.approx(1)
    assert coco_scores(truth, [detections(right, wrong)], 1).ap == pytest.approx(0.5)
    # The same where the wrong one stands in a picture without objects.
    assert coco_scores([*truth, []], [detections(right), detections(wrong)], 1).ap == pytest.approx(0.5)


@pytest.mark.usefixtures("evaluator")
@pytest.mark.parametrize("flag", ["crowd", "difficult"])
def test_who_finds_a_crowd_or_a_difficult_object_is_neither_right_nor_wrong(flag: str) -> None:
    truth = [[BoxLabel(0, 0, 0, 50, 50), BoxLabel(0, 100, 100, 200, 200, **{flag: True})]]
    right = Box(0, "a", 0.5, 0, 0, 50, 50)
    within = [Box(0, "a", 0.9, 110 + k, 110, 140 + k, 140) for k in range(3)]
    assert coco_scores(truth, [detections(right, *within)], 1).ap == pytest.approx(1)
    assert coco_scores(truth, [detections(right)], 1).ap == pytest.approx(1)


@pytest.mark.usefixtures("evaluator")
def test_nothing_found_and_nothing_to_find() -> None:
    nothing = [detections(), detections()]
    box = BoxLabel(1, 0, 0, 50, 50)
    scores = coco_scores([[box], []], nothing, 2)
    assert scores == DetectionScores(0, 0, 0, None, 0, None, (None, 0), (None, 0))
    none = DetectionScores(None, None, None, None, None, None, (None, None), (None, None))
    assert coco_scores([[], []], nothing, 2) == none
    assert coco_scores([[]], [detections(Box(0, "a", 0.5, 0, 0, 5, 5))], 2) == none
    assert coco_scores([], [], 2) == none


@pytest.mark.usefixtures("evaluator")
def test_a_network_that_says_what_training_wants_finds_coco(shared_data: Path) -> None:
    """Targets as answers: priors, matching, codes, suppression and precision belong together."""
    content = json.loads((shared_data / "coco" / "annotations" / "instances_val2017.json").read_text(encoding="utf-8"))
    labels = {category["id"]: k for k, category in enumerate(content["categories"])}
    spec = ModelSpec(
        "mobilenet_v2", 1.0, tuple(map(str, labels)), input_size=320, preprocess=Preprocess(resize=320, crop=320)
    )
    truth, found = [], []
    for picture in content["images"]:
        size = (picture["width"], picture["height"])
        boxes = [
            BoxLabel(labels[one["category_id"]], x, y, x + width, y + height, area=one["area"])
            for one in content["annotations"]
            for x, y, width, height in [one["bbox"]]
            if one["image_id"] == picture["id"] and not one["iscrowd"] and width > 0 and height > 0
        ]
        edges = np.array([(box.left, box.top, box.right, box.bottom) for box in boxes]).reshape(-1, 4)
        classes, codes = make_targets(edges / (*size, *size), np.array([box.label for box in boxes]), prior_boxes(320))
        values = 20 * np.eye(len(labels) + 1)[classes]
        found += decode(values[None], codes[None], spec, sizes=[size])
        truth.append(boxes)
    scores = coco_scores(truth, found, len(labels))
    assert scores.ap50 is not None
    # What is missing are objects of one class on top of each other, and those beyond a hundred.
    assert scores.ap50 > 0.97
    assert scores.ap is not None
    assert scores.ap > 0.95


@pytest.mark.usefixtures("evaluator")
def test_the_judge_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    coco_scores([[BoxLabel(0, 0, 0, 50, 50)]], [detections()], 1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("evaluator")
@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [
        ([[], []], [detections()], "2 pictures with true boxes, but 1"),
        ([[BoxLabel(3, 0, 0, 1, 1)]], [detections()], "picture 0: a true box has label 3, not 0 to 2"),
        ([[BoxLabel(0, 0, 0, float("nan"), 1)]], [detections()], "picture 0: a true box is not finite"),
        ([[]], [detections(Box(3, "d", 0.5, 0, 0, 1, 1))], "picture 0: a found box has class 3"),
    ],
)
def test_what_cannot_be_judged_is_refused(truth: Any, found: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        coco_scores(truth, found, CLASSES)


def test_without_the_evaluator_the_error_says_which_extra_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(MissingExtraError, match=r"faster-coco-eval.*fusiform\[detection\]"):
        coco_scores([], [], 1)


@pytest.mark.usefixtures("evaluator")
def test_better_boxes_score_higher() -> None:
    truth = [[BoxLabel(0, 50, 50, 150, 150)]]
    # 100, 93, 77 and 59 of 100 columns: right at 10, 9, 6 and 2 of the ten thresholds.
    found = [coco_scores(truth, [detections(Box(0, "a", 0.5, 50, 50, 150 - k, 150))], 1).ap for k in (0, 7, 23, 41)]
    assert found == pytest.approx([1, 0.9, 0.6, 0.2])


# --- kept matches: the same figures again, of any selection of the pictures ---


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_kept_matches_give_the_same_precision(seed: int) -> None:
    truth, found = random_case(seed)
    plain = plain_scores(truth, found)
    matches = match_boxes(truth, found, CLASSES)
    means = mean_average_precisions(matches)[0]
    assert known(means.mean()) == pytest.approx(plain.ap, abs=1e-9)
    assert known(means[0]) == pytest.approx(plain.ap50, abs=1e-9)
    assert known(means[5]) == pytest.approx(plain.ap75, abs=1e-9)
    each = [average_precisions(one)[0] for one in matches]
    assert [known(values.mean()) for values in each] == pytest.approx(list(plain.classes), abs=1e-9)
    assert [known(values[0]) for values in each] == pytest.approx(list(plain.classes50), abs=1e-9)
    for one, expected in zip(matches, plain.classes50, strict=True):
        curve = precision_curve(one)
        assert (None if curve is None else curve.mean()) == pytest.approx(expected, abs=1e-9)


def known(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_a_weight_is_as_many_copies_of_the_picture(seed: int, weights: list[int]) -> None:
    truth, found = random_case(seed)
    # Among boxes of one score the order would decide, and copies have another.
    random = np.random.default_rng(seed)
    found = [detections(*(dataclasses.replace(b, score=random.random()) for b in one.boxes)) for one in found]
    copies = [k for k, times in enumerate(weights) for _ in range(times)]
    copied = match_boxes([truth[k] for k in copies], [found[k] for k in copies], CLASSES)
    both = np.array([weights, [1, 1, 1]], np.int32)
    matches = match_boxes(truth, found, CLASSES)
    values = mean_average_precisions(matches, both)
    np.testing.assert_allclose(values[0], mean_average_precisions(copied)[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(values[1], mean_average_precisions(matches)[0], rtol=0, atol=1e-12)


def test_many_resamples_are_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    matches = match_boxes(*random_case(4), CLASSES)
    weights = np.random.default_rng(0).integers(0, 3, (20, 3)).astype(np.int32)
    whole = mean_average_precisions(matches, weights)
    monkeypatch.setattr("fusiform.tasks.detection_metrics._CELLS", 7)
    np.testing.assert_array_equal(mean_average_precisions(matches, weights), whole)


def test_counts_by_hand() -> None:
    truth = [
        [BoxLabel(0, 0, 0, 50, 50), BoxLabel(0, 100, 0, 150, 50), BoxLabel(0, 200, 200, 300, 300, crowd=True)],
        [BoxLabel(0, 0, 0, 50, 50, difficult=True), BoxLabel(1, 0, 0, 50, 50)],
    ]
    found = [
        detections(
            Box(0, "a", 0.9, 0, 0, 50, 50),
            Box(0, "a", 0.8, 1, 0, 50, 50),  # the same object again
            Box(0, "a", 0.7, 210, 210, 250, 250),  # in the crowd
            Box(0, "a", 0.2, 100, 0, 150, 50),
        ),
        detections(Box(0, "a", 0.9, 0, 0, 50, 50), Box(1, "b", 0.3, 0, 0, 50, 50)),
    ]
    first, second = match_boxes(truth, found, 2)
    assert [values.tolist() for values in count_boxes(first, 0.3)] == [[2, 0], [1, 0], [1, 0]]
    assert [values.tolist() for values in count_boxes(first, 0.1)] == [[2, 0], [2, 0], [1, 0]]
    # A box has to be scored above the threshold, as in decoding.
    assert [values.tolist() for values in count_boxes(second, 0.3)] == [[0, 1], [0, 0], [0, 0]]
    # Right, wrong, right: half of the objects at precision 1, the others at 2 of 3.
    curve = precision_curve(first)
    assert curve is not None
    assert curve.tolist() == pytest.approx([1.0] * 51 + [2 / 3] * 50)
    assert precision_curve(match_boxes([[]], [found[0]], 1)[0]) is None


def test_nothing_to_match() -> None:
    nothing = match_boxes([], [], 2)
    assert np.isnan(mean_average_precisions(nothing)).all()
    missed = match_boxes([[BoxLabel(0, 0, 0, 5, 5)]], [detections()], 1)
    assert mean_average_precisions(missed).tolist() == [[0.0] * 10]
    assert np.isnan(mean_average_precisions(missed, np.zeros((1, 1), np.int32))).all()
    with pytest.raises(ValueError, match="no classes"):
        mean_average_precisions([])
    with pytest.raises(ValueError, match="picture 0: a found box has class 3"):
        match_boxes([[]], [detections(Box(3, "d", 0.5, 0, 0, 1, 1))], CLASSES)
