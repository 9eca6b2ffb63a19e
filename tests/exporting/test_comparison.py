"""What two files' boxes and masks are compared by, worked by hand: same ones, drops and what int8 may lose."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from fusiform.data.annotated import BoxLabel
from fusiform.data.preprocess import placement
from fusiform.exporting.verification.answers import Boxes, Masks, Truth
from fusiform.exporting.verification.parity import Comparison, Decoded, Measured, Parity, find_failures
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tasks import bootstrap
from fusiform.tasks.classification_metrics import Difference
from fusiform.tasks.detection import encode_boxes, prior_boxes

SPEC = ModelSpec(
    "mobilenet_v2",
    0.35,
    ("fox", "owl", "newt"),
    task="detection",
    input_size=65,
    preprocess=Preprocess(resize=65, crop=65, fit="stretch"),
)
SEGMENTER = ModelSpec(
    "mobilenet_v2",
    0.35,
    ("background", "fox", "owl", "newt"),
    task="segmentation",
    input_size=33,
    output_stride=16,
    preprocess=Preprocess(resize=33, crop=33, fit="pad"),
)
PRIORS = prior_boxes(SPEC.input_size)


def answer(boxes: dict[int, tuple[tuple[float, float, float, float], int, float]]) -> dict[str, Any]:
    """An answer that shows at some priors a box, in units of the picture, of a class, with a logit; else background."""
    logits = np.zeros((len(PRIORS), 1 + SPEC.num_classes), np.float32)
    logits[:, 0] = 10
    codes = np.zeros((len(PRIORS), 4), np.float32)
    for prior, (box, label, logit) in boxes.items():
        logits[prior, 0] = 0
        logits[prior, 1:] = -10
        logits[prior, 1 + label] = logit
        codes[prior] = encode_boxes(np.array([box]), PRIORS[prior : prior + 1])[0]
    return {"logits": logits, "codes": codes}


LARGE, SHIFTED, OVERLAPPING = (0.2, 0.2, 0.8, 0.8), (0.21, 0.2, 0.81, 0.8), (0.25, 0.2, 0.85, 0.8)


@pytest.mark.parametrize(
    ("mine", "theirs", "tolerance", "expected"),
    [
        # Moved by a sixtieth of its width: 0.59 / 0.61 = 0.967. By a twelfth: 0.55 / 0.65 = 0.846.
        ({9: (SHIFTED, 1, 3.0)}, {9: (LARGE, 1, 3.0)}, 1e-3, (2, 2, 2)),
        ({9: (OVERLAPPING, 1, 3.0)}, {9: (LARGE, 1, 3.0)}, 1e-3, (2, 0, 2)),
        # Of another class, and one that is missing.
        ({9: (LARGE, 2, 3.0)}, {9: (LARGE, 1, 3.0)}, 1e-3, (2, 0, 0)),
        ({}, {9: (LARGE, 1, 3.0)}, 1e-3, (1, 0, 0)),
        # Scores of 0.2994 and 0.3015 beside the threshold of 0.3: a logit may differ by 0.01 of 10, a score by 0.005.
        ({9: (LARGE, 1, -0.85)}, {9: (LARGE, 1, -0.84)}, 1e-3, (1, 1, 1)),
        # 0.27 is too far away, but not for int8.
        ({9: (LARGE, 1, -1.0)}, {9: (LARGE, 1, -0.84)}, 1e-3, (1, 0, 0)),
        ({9: (LARGE, 1, -1.0)}, {9: (LARGE, 1, -0.84)}, None, (1, 1, 1)),
        # Either of two boxes that cover each other remains, whichever is a trace higher.
        (
            {9: (LARGE, 1, 3.0), 11: (OVERLAPPING, 1, 3.001)},
            {9: (LARGE, 1, 3.001), 11: (OVERLAPPING, 1, 3.0)},
            1e-3,
            (2, 2, 2),
        ),
        # Nothing anywhere, and a sliver of 0.05 pixels that clipping leaves.
        ({}, {}, 1e-3, (0, 0, 0)),
        ({}, {9: ((-0.5, 0.2, 0.0005, 0.8), 1, 3.0)}, 1e-3, (0, 0, 0)),
    ],
)
def test_boxes_by_hand(mine: Any, theirs: Any, tolerance: float | None, expected: tuple[int, int, int]) -> None:
    boxes = Boxes(SPEC, SPEC, tolerance=tolerance)
    boxes.add("x.png", (100, 100), answer(mine), answer(theirs), None)
    number, same, near = expected
    shares = (same / number, near / number) if number else (1.0, 1.0)
    assert boxes.decoded("photographs") == Decoded("photographs", "boxes", 1, number, *shares, "x.png")


def test_average_precision_of_both_sides() -> None:
    """Two objects: the file finds one exactly, the reference both: 51 of COCO's 101 recalls, and all."""
    boxes = Boxes(SPEC, SPEC, tolerance=None)
    truth = Truth((BoxLabel(1, 20, 20, 80, 80), BoxLabel(1, 0, 0, 10, 10)))
    second = ((0.0, 0.0, 0.1, 0.1), 1, 3.0)
    one, both = answer({9: (LARGE, 1, 3.0)}), answer({9: (LARGE, 1, 3.0), 1: second})
    boxes.add("x.png", (100, 100), one, both, truth)
    measured = boxes.measured()
    assert measured is not None
    assert measured.value == pytest.approx(51 / 101)
    assert measured.reference == pytest.approx(1.0)
    # Every resample of one picture is that picture.
    assert measured.drop == pytest.approx((50 / 101,) * 3)
    empty = Boxes(SPEC, SPEC, tolerance=None)
    empty.add("x.png", (100, 100), one, both, Truth())
    assert empty.measured() is None


def test_masks_by_hand() -> None:
    """Logits of three by three cells over a padded square; half of the photograph's pixels change their class."""
    spec = SEGMENTER
    size = (33, 16)
    assert placement(size, spec.preprocess)[:6] == (33, 33, 0, 0, 33, 16)
    mine, theirs = (np.zeros((3, 3, 4), np.float32) for _ in range(2))
    theirs[..., 2] = 1
    mine[..., 2] = 1
    mine[:, 1:, 3] = 3  # from the middle column on; between 0 and 1 its weight passes 1/3
    masks = Masks(spec, spec)
    mask = np.full((16, 33), 2, np.int32)
    mask[:4] = -1
    masks.add("x.png", size, {"logits": mine}, {"logits": theirs}, Truth(mask=mask))
    columns = sum(3 * min(1.0, x / 16) <= 1 for x in range(33))  # logits stand on pixels 0, 16 and 32
    found = masks.decoded("photographs")
    assert (found.what, found.number, found.worst) == ("masks", 33 * 16, "x.png")
    assert found.same == pytest.approx(columns / 33)
    # Class 3 was found and is nowhere: 0; the mean is over it and class 2.
    assert masks.measured() == Measured(pytest.approx(columns / 33 / 2), 1.0, pytest.approx((1 - columns / 66,) * 3))


def interval_of_two(drops: tuple[float, float, float]) -> Difference:
    """The interval of two pictures, from the drops on the first alone, on both, and on the second alone.

    A quarter of the resamples has either alone, so that the middle 95 % reach from the least drop to the largest.
    """
    weights = np.concatenate(list(bootstrap.resamples(2)))
    mean = np.mean([drops[second] for second in weights[:, 1]])
    low, high = (end + drops[1] - mean for end in (min(drops), max(drops)))
    return Difference(drops[1], low, min(high, 1.0))


def test_the_interval_of_two_pictures_of_which_the_file_misses_one() -> None:
    """Of one object in each it finds the first; of both, it is half of the recalls: 51 of 101."""
    boxes = Boxes(SPEC, SPEC, tolerance=None)
    truth = Truth((BoxLabel(1, 20, 20, 80, 80),))
    one, nothing = answer({9: (LARGE, 1, 3.0)}), answer({})
    boxes.add("seen.png", (100, 100), one, one, truth)
    boxes.add("missed.png", (100, 100), nothing, one, truth)
    measured = boxes.measured()
    assert measured is not None
    assert measured.drop == pytest.approx(interval_of_two((0.0, 50 / 101, 1.0)))
    assert measured.drop.low < 0.05 < 0.95 < measured.drop.high
    assert boxes.measured() == measured  # chance is that of one seed
    # Where both sides see the same, no resample tells them apart.
    same = Boxes(SPEC, SPEC, tolerance=None)
    for name, seen in (("seen.png", one), ("missed.png", nothing)):
        same.add(name, (100, 100), seen, seen, truth)
    assert same.measured() == Measured(pytest.approx(51 / 101), pytest.approx(51 / 101), Difference(0.0, 0.0, 0.0))


@pytest.mark.parametrize("classes", [None, (0, 2), (1, 3)])
def test_the_interval_of_masks_and_the_classes_it_is_about(classes: tuple[int, ...] | None) -> None:
    """Two photographs of class 2 alone; the file takes a part of the second for class 3."""
    spec = SEGMENTER
    right, wrong = (np.zeros((3, 3, 4), np.float32) for _ in range(2))
    right[..., 2] = wrong[..., 2] = 1
    wrong[:, 1:, 3] = 3
    share = sum(3 * min(1.0, x / 16) <= 1 for x in range(33)) / 33
    masks = Masks(spec, spec, classes=classes)
    for name, mine in (("a.png", right), ("b.png", wrong)):
        masks.add(name, (33, 33), {"logits": mine}, {"logits": right}, Truth(mask=np.full((33, 33), 2, np.int32)))
    measured = masks.measured()
    if classes == (1, 3):  # which the reference finds nowhere, and the file in vain
        assert measured is None
        return
    assert measured is not None
    # The mean is over class 3 too where it was found, but not where the data does not know it.
    count = 1 if classes else 2
    drops = (0.0, 1 - (1 + share) / 2 / count, 1 - share / count)
    assert measured == Measured(pytest.approx(1 - drops[1]), 1.0, pytest.approx(interval_of_two(drops)))


def parity_of(task: Any, decoded: Decoded, *, measured: Measured | None = None, **changes: Any) -> Parity:
    answers = ("logits", "codes") if task == "detection" else ("logits",)
    shown = [Comparison("photographs", batch, 60, 0.2, "x", 0.1, answer=name) for batch in (1, 3) for name in answers]
    return dataclasses.replace(
        Parity("f", "r", "litert", None, 2.0, 0.85, dict.fromkeys(answers, 0.15), 60, tuple(shown), 0.0, task=task),
        decoded=(decoded,),
        measured=measured,
        **changes,
    )


# Intervals say how sure a drop is, and decide nothing.
LOST_TWO = Measured(0.43, 0.45, Difference(0.45 - 0.43, 0.019, 0.31))
LOST_THREE = Measured(0.42, 0.45, Difference(0.45 - 0.42, -0.01, 0.065))


@pytest.mark.parametrize(
    ("parity", "told"),
    [
        (parity_of("detection", Decoded("photographs", "boxes", 60, 200, 0.2, 0.86, "x")), []),
        (
            parity_of("detection", Decoded("photographs", "boxes", 60, 200, 0.2, 0.84, "x")),
            ["only 84.0% of 200 boxes are on both sides, less than 85%"],
        ),
        # 8 of 10: Wilson's interval ends at 0.943.
        (parity_of("detection", Decoded("photographs", "boxes", 60, 10, 0.2, 0.8, "x")), []),
        (parity_of("detection", Decoded("photographs", "boxes", 60, 0, 1.0, 1.0, "")), []),
        (
            parity_of("segmentation", Decoded("photographs", "masks", 60, 10**6, 0.84, 0.84, "x")),
            ["only 84.0% of the pixels are on both sides, less than 85%"],
        ),
        # Labelled: what counts is the drop, of exactly two points and of more.
        (
            parity_of("detection", Decoded("photographs", "boxes", 60, 200, 0.2, 0.5, "x"), measured=LOST_TWO),
            [],
        ),
        (
            parity_of("segmentation", Decoded("photographs", "masks", 60, 9, 0.9, 0.9, "x"), measured=LOST_THREE),
            [
                "its miou is 0.4200, 3.0 points below the reference's 0.4500 (95 % interval -1.0 to 6.5), more than "
                "the 2 allowed"
            ],
        ),
        (
            parity_of(
                "segmentation",
                Decoded("photographs", "masks", 60, 9, 0.9, 0.9, "x"),
                measured=LOST_THREE,
                max_drop=3.0,
            ),
            [],
        ),
        (
            parity_of(
                "detection",
                Decoded("photographs", "boxes", 60, 200, 0.9, 0.9, "x"),
                max_error={"logits": 0.15, "codes": 0.09},
                explained_error={"codes": 0.06},
            ),
            ["the codes of the photographs are 0.1 off, more than 0.09 (rounding explains 0.06)"],
        ),
    ],
)
def test_what_int8_may_lose(parity: Parity, told: list[str]) -> None:
    failures = find_failures(parity)
    assert len(failures) == len(told), failures
    assert all(text in failure for text, failure in zip(told, failures, strict=True))


# From datasets to verified files
