"""Detectors and segmenters exported and verified: what passes, and the faults that have to be found."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from fusiform.data.annotated import AnnotatedSample, AnnotatedSet, BoxLabel
from fusiform.data.open import read_pictures
from fusiform.data.preprocess import crop_pixels, placement
from fusiform.engines import open_engine
from fusiform.errors import SpecError, UsageError
from fusiform.evaluation.job import evaluate
from fusiform.exporting.job import ExportError, export
from fusiform.exporting.quantization.quantize import QuantizedNetwork
from fusiform.exporting.quantization.train_quantized import train_quantized
from fusiform.exporting.verification.answers import Boxes, Masks, Truth
from fusiform.exporting.verification.parity import Comparison, Decoded, Measured, Parity, find_failures
from fusiform.exporting.verification.verify import verify, verify_answers
from fusiform.graph.build import build_graph
from fusiform.graph.ir import Graph
from fusiform.graph.onnx import to_onnx
from fusiform.graph.shapes import state_shapes
from fusiform.graph.tflite import to_tflite
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tasks import bootstrap, detection, segmentation
from fusiform.tasks.classification_metrics import Difference
from fusiform.tasks.detection import encode_boxes, prior_boxes
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.model import Model, open_model

TOLERANCE = 1e-3
SIZE = (130, 90)
"""Of the photographs, in pixels: oblong, so that squeezing differs from padding."""
LABELS = ("background", "fox", "owl", "newt")


def make_spec(task: Any, **changes: Any) -> ModelSpec:
    size = 65
    preprocess = Preprocess(resize=size, crop=size, fit="stretch" if task == "detection" else "pad")
    stride = 16 if task == "segmentation" else 32
    labels = LABELS[1:] if task == "detection" else LABELS
    spec = ModelSpec(
        "mobilenet_v2", 0.35, labels, task=task, input_size=size, output_stride=stride, preprocess=preprocess
    )
    return spec.replace(**changes)


def lived_in(spec: ModelSpec) -> dict[str, Any]:
    """Weights whose statistics and biases are far from those that they were born with."""
    random = np.random.default_rng(5)
    state: dict[str, Any] = {}
    for name, shape in state_shapes(spec).items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(5)
            continue
        if name.endswith("running_mean"):
            values = random.uniform(-0.3, 0.3, shape)
        elif name.endswith("bias"):
            values = random.uniform(-0.3, 0.7, shape)
        elif len(shape) == 1:
            values = random.uniform(0.7, 1.3, shape)
        else:
            values = random.normal(0, np.sqrt(1.5 / np.prod(shape[1:])), shape)
        state[name] = values.astype(np.float32)
    return state


def soft_picture(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[AnnotatedSample]:
    folder = tmp_path_factory.mktemp("pictures")
    for k in range(16):
        soft_picture(k).save(folder / f"{k}.png")
    return [AnnotatedSample(folder / f"{k}.png") for k in range(16)]


class Healthy:
    """A network with its file."""

    def __init__(self, task: str, folder: Path) -> None:
        self.spec = make_spec(task)
        self.state = lived_in(self.spec)
        write_safetensors(folder / f"{task}.safetensors", self.state, self.spec)
        self.model = open_model(folder / f"{task}.safetensors")
        self.graph = build_graph(self.spec, self.state)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Healthy:
    return Healthy("detection", tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Healthy:
    return Healthy("segmentation", tmp_path_factory.mktemp("segmenter"))


@pytest.fixture(params=["detector", "segmenter"])
def healthy(request: pytest.FixtureRequest) -> Healthy:
    found: Healthy = request.getfixturevalue(request.param)
    return found


def write(folder: Path, graph: Graph, ending: str = "tflite") -> Model:
    path = folder / f"file.{ending}"
    path.write_bytes(to_onnx(graph) if ending == "onnx" else to_tflite(graph))
    return open_model(path)


def quantised(graph: Graph) -> Graph:
    network = QuantizedNetwork(graph)
    pictures = np.stack([crop_pixels(soft_picture(seed), graph.spec.preprocess) for seed in range(60, 76)])
    network.calibrate([torch.from_numpy(pictures.transpose(0, 3, 1, 2).astype(np.float32))])
    return network.freeze()


# Faults


def none(healthy: Healthy) -> Graph:
    return healthy.graph


def swapped_colors(healthy: Healthy) -> Graph:
    first = next(name for name in healthy.state if name.endswith("weight"))
    return build_graph(healthy.spec, {**healthy.state, first: healthy.state[first][:, ::-1]})


def wrong_mean(healthy: Healthy) -> Graph:
    preprocess = dataclasses.replace(healthy.spec.preprocess, mean=(0.0, 0.0, 0.0))
    return build_graph(healthy.spec.replace(preprocess=preprocess), healthy.state)


def other_fit(healthy: Healthy) -> Graph:
    fit = "pad" if healthy.spec.preprocess.fit == "stretch" else "stretch"
    preprocess = dataclasses.replace(healthy.spec.preprocess, fit=fit)
    return build_graph(healthy.spec.replace(preprocess=preprocess), healthy.state)


def shuffled_labels(healthy: Healthy) -> Graph:
    labels = (*healthy.spec.labels[1:], healthy.spec.labels[0])
    return build_graph(healthy.spec.replace(labels=labels), healthy.state)


def scaled_codes(healthy: Healthy) -> Graph:
    last = [f"boxes.{k}.1" for k in range(6)]
    nodes = tuple(
        dataclasses.replace(node, weight=node.weight * np.float32(1.1), bias=node.bias * np.float32(1.1))  # type: ignore[union-attr]
        if node.name in last
        else node
        for node in healthy.graph.nodes
    )
    return dataclasses.replace(healthy.graph, nodes=nodes)


def other_scores(healthy: Healthy) -> Graph:
    return build_graph(healthy.spec.replace(scores="sigmoid"), healthy.state)


def other_align_corners(healthy: Healthy) -> Graph:
    return build_graph(healthy.spec.replace(align_corners=False), healthy.state)


FAULTS = [
    *(("detector", fault) for fault in (swapped_colors, wrong_mean, other_fit, scaled_codes, other_scores)),
    *(("segmenter", fault) for fault in (swapped_colors, wrong_mean, other_fit, other_align_corners)),
]


@pytest.mark.parametrize("ending", ["onnx", "tflite"])
def test_the_same_network_passes(ending: str, healthy: Healthy, samples: list[AnnotatedSample], tmp_path: Path) -> None:
    candidate = write(tmp_path, healthy.graph, ending)
    parity = verify_answers(candidate, healthy.model, samples[:5], labelled=False, tolerance=TOLERANCE)
    assert parity.passed
    assert parity.failures == parity.notes == ()
    assert parity.largest_error is not None
    assert parity.largest_error < 1e-4
    detects = healthy.spec.task == "detection"
    answers = ("logits", "codes") if detects else ("logits",)
    kinds = ("photographs", "synthetic images", "noise")
    assert [(c.kind, c.batch, c.answer) for c in parity.comparisons] == [
        (kind, batch, answer) for kind in kinds for batch in (1, 3) for answer in answers
    ]
    assert [(d.kind, d.what, d.same) for d in parity.decoded] == [
        (kind, "boxes" if detects else "masks", 1.0) for kind in kinds
    ]
    report = parity.report()
    assert [row["compared"] for row in report.rows[:2]] == ["logits", "codes" if detects else "logits"]
    assert report.rows[-1]["compared"] == ("boxes" if detects else "masks")
    if detects:
        assert report.figures["boxes_same"] == 1
        assert report.figures["boxes"] == parity.decoded[0].number > 20
    else:
        assert report.figures["pixel_agreement"] == 1
        assert parity.decoded[0].number == 5 * SIZE[0] * SIZE[1]
    report.to_json()
    report.to_table()


@pytest.mark.parametrize(("which", "fault"), FAULTS)
def test_faults_show_in_what_users_see(
    which: str, fault: Any, request: pytest.FixtureRequest, samples: list[AnnotatedSample], tmp_path: Path
) -> None:
    healthy: Healthy = request.getfixturevalue(which)
    candidate = write(tmp_path, fault(healthy))
    parity = verify_answers(candidate, healthy.model, samples[:4], labelled=False, tolerance=TOLERANCE)
    seen = "are not on both sides (photographs" if which == "detector" else "are of another class (photographs"
    assert any(seen in failure for failure in parity.failures), parity.failures
    # What only the description says wrongly changes no number.
    numbers = any(" differs by " in failure for failure in parity.failures)
    assert numbers == (fault not in (other_scores, other_align_corners))
    assert parity.report().figures["passed"] is False


@pytest.mark.parametrize(
    ("which", "changes", "told"),
    [
        ("detector", {"scores": "sigmoid"}, "its scores is sigmoid, not softmax"),
        ("segmenter", {"align_corners": False}, "its align_corners is False, not True"),
        ("detector", {"padding": "same"}, "its padding is same, not symmetric"),
        ("segmenter", {"padding": "same"}, "its padding is same, not symmetric"),
    ],
)
def test_what_a_file_says_of_itself(
    which: str,
    changes: dict[str, Any],
    told: str,
    request: pytest.FixtureRequest,
    samples: list[AnnotatedSample],
    tmp_path: Path,
) -> None:
    healthy: Healthy = request.getfixturevalue(which)
    candidate = write(tmp_path, build_graph(healthy.spec.replace(**changes), healthy.state))
    parity = verify_answers(candidate, healthy.model, samples[:1], labelled=False, tolerance=TOLERANCE)
    assert told in parity.failures


def test_other_labels(healthy: Healthy, samples: list[AnnotatedSample], tmp_path: Path) -> None:
    candidate = write(tmp_path, shuffled_labels(healthy))
    parity = verify_answers(candidate, healthy.model, samples[:1], labelled=False, tolerance=TOLERANCE)
    (failure,) = parity.failures
    first, second = healthy.spec.labels[:2]
    assert f"of its labels are others: class 0 is {second!r}, not {first!r}" in failure


def test_answers_of_another_form_are_not_compared(
    segmenter: Healthy, detector: Healthy, samples: list[AnnotatedSample], tmp_path: Path
) -> None:
    smaller = make_spec("segmentation", input_size=49, preprocess=Preprocess(resize=49, crop=49, fit="pad"))
    parity = verify_answers(
        write(tmp_path, build_graph(smaller, segmenter.state)),
        segmenter.model,
        samples,
        labelled=False,
        tolerance=TOLERANCE,
    )
    assert "its input_size is 49, not 65" in parity.failures
    assert parity.comparisons == ()
    parity = verify_answers(
        write(tmp_path, detector.graph), segmenter.model, samples, labelled=False, tolerance=TOLERANCE
    )
    assert "its task is detection, not segmentation" in parity.failures
    assert parity.report().figures["passed"] is False


def test_a_segmenter_that_crops_photographs(segmenter: Healthy, samples: list[AnnotatedSample], tmp_path: Path) -> None:
    preprocess = dataclasses.replace(segmenter.spec.preprocess, fit="crop")
    candidate = write(tmp_path, build_graph(segmenter.spec.replace(preprocess=preprocess), segmenter.state))
    with pytest.raises(SpecError, match=r"file\.tflite: crops photographs"):
        verify_answers(candidate, segmenter.model, samples, labelled=False, tolerance=TOLERANCE)


def test_int8_passes_within_what_rounding_explains(
    healthy: Healthy, samples: list[AnnotatedSample], tmp_path: Path
) -> None:
    candidate = write(tmp_path, quantised(healthy.graph))
    parity = verify_answers(candidate, healthy.model, samples, labelled=False, tolerance=None)
    assert parity.failures == ()
    assert parity.max_drop == 2.0
    assert set(parity.max_error) == set(healthy.spec.answers)
    figures = parity.report().figures
    assert figures["max_error"] == pytest.approx(1.5 * parity.explained_error["logits"], rel=1e-4)
    assert ("max_error_codes" in figures) == (healthy.spec.task == "detection")
    assert figures["min_agreement"] == 0.85
    # The rounded network is not the float one.
    assert not verify_answers(candidate, healthy.model, samples[:2], labelled=False, tolerance=TOLERANCE).passed


@pytest.mark.parametrize(
    ("which", "fault"), [case for case in FAULTS if case[1] not in (other_scores, other_align_corners)]
)
def test_int8_faults_are_more_than_rounding(
    which: str, fault: Any, request: pytest.FixtureRequest, samples: list[AnnotatedSample], tmp_path: Path
) -> None:
    healthy: Healthy = request.getfixturevalue(which)
    candidate = write(tmp_path, quantised(fault(healthy)))
    parity = verify_answers(candidate, healthy.model, samples, labelled=False, tolerance=None)
    assert any("of the photographs are" in failure for failure in parity.failures), parity.failures


# What is compared, by hand

SPEC = make_spec("detection")
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
    spec = make_spec("segmentation", input_size=33, preprocess=Preprocess(resize=33, crop=33, fit="pad"))
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
    spec = make_spec("segmentation", input_size=33, preprocess=Preprocess(resize=33, crop=33, fit="pad"))
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


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory, detector: Healthy, samples: list[AnnotatedSample]) -> Path:
    """The photographs with what the detector itself finds in them for the truth, its categories in another order."""
    root = tmp_path_factory.mktemp("coco")
    engine = open_engine(detector.model, engine="torch")
    content: dict[str, list[Any]] = {"images": [], "annotations": []}
    content["categories"] = [{"id": 7 - k, "name": name} for k, name in enumerate(detector.spec.labels)]
    (root / "annotations").mkdir()
    (root / "val2017").mkdir()
    for k, sample in enumerate(samples):
        image = sample.read()
        image.save(root / "val2017" / f"{k}.png")
        content["images"].append({"id": k, "file_name": f"{k}.png", "width": SIZE[0], "height": SIZE[1]})
        found = engine.run(crop_pixels(image, detector.spec.preprocess)[None])
        for box in detection.decode(found["logits"], found["codes"], detector.spec, sizes=[SIZE])[0].boxes:
            width, height = box.right - box.left, box.bottom - box.top
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": k,
                    "category_id": 7 - box.index,
                    "bbox": [box.left, box.top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory, segmenter: Healthy, samples: list[AnnotatedSample]) -> Path:
    """The photographs with the segmenter's own masks for the truth, their values in another order."""
    root = tmp_path_factory.mktemp("voc")
    engine = open_engine(segmenter.model, engine="torch")
    for name in ("JPEGImages", "SegmentationClass"):
        (root / name).mkdir()
    labels = segmenter.spec.labels
    (root / "class_names.txt").write_text("\n".join((labels[0], *labels[:0:-1])))
    for k, sample in enumerate(samples):
        image = sample.read()
        image.save(root / "JPEGImages" / f"{k}.png")
        logits = engine.run(crop_pixels(image, segmenter.spec.preprocess)[None])["logits"][0]
        place = placement(SIZE, segmenter.spec.preprocess)
        classes = segmentation.decode(logits, segmenter.spec, SIZE, placement=place).classes
        values = np.array([0, *range(len(labels) - 1, 0, -1)], np.uint8)[classes]
        Image.fromarray(values).save(root / "SegmentationClass" / f"{k}.png")
    return root


def test_labels_are_bound_by_name(detector: Healthy, segmenter: Healthy, coco: Path, voc: Path, tmp_path: Path) -> None:
    """The reference finds what it found: all of it."""
    boxes = verify(write(tmp_path, detector.graph).path, against=detector.model.path, data=coco)
    assert boxes.passed
    assert boxes.measured is not None
    assert boxes.measured.reference == pytest.approx(boxes.measured.value)
    assert boxes.measured.reference > 0.9
    figures = boxes.report().figures
    assert figures["map"] == figures["reference_map"] == pytest.approx(boxes.measured.value, rel=1e-5)
    assert figures["drop"] == figures["drop_low"] == figures["drop_high"] == 0
    masks = verify(write(tmp_path, segmenter.graph).path, against=segmenter.model.path, data=voc)
    assert masks.passed
    assert masks.measured == Measured(1.0, 1.0, Difference(0.0, 0.0, 0.0))
    assert masks.report().figures["reference_miou"] == 1


@pytest.fixture(scope="module")
def voc_of_three(tmp_path_factory: pytest.TempPathFactory, voc: Path) -> Path:
    """The same pictures in a dataset that does not know one of the segmenter's classes."""
    root = tmp_path_factory.mktemp("three")
    shutil.copytree(voc, root, dirs_exist_ok=True)
    names = (voc / "class_names.txt").read_text().split()
    (root / "class_names.txt").write_text("\n".join(names[:3]))
    for file in (root / "SegmentationClass").iterdir():
        values = np.array(Image.open(file))
        Image.fromarray(np.where(values == 3, 255, values).astype(np.uint8)).save(file)
    return root


@pytest.mark.parametrize(
    ("which", "source"), [("detector", "coco"), ("segmenter", "voc"), ("segmenter", "voc_of_three")]
)
def test_the_drop_is_what_evaluate_compares(
    which: str, source: str, request: pytest.FixtureRequest, tmp_path: Path, valid: Callable[..., Any]
) -> None:
    healthy: Healthy = request.getfixturevalue(which)
    data: Path = request.getfixturevalue(source)
    candidate = write(tmp_path, quantised(healthy.graph))
    parity = verify(candidate.path, against=healthy.model.path, data=data)
    reference: Any = evaluate(healthy.model.path, data, engine="torch", threads=1)
    file = evaluate(candidate.path, data, threads=1)
    (name, value, other, difference), *_ = reference.compare(file).compared
    measured = parity.measured
    assert measured is not None
    assert (measured.reference, measured.value) == pytest.approx((value, other), abs=1e-9)
    assert measured.drop == pytest.approx(difference, abs=1e-9)
    assert measured.drop.low < measured.drop.value < measured.drop.high
    report = parity.report()
    valid(report.to_json())
    points = {f"drop{end}": x for end, x in zip(("", "_low", "_high"), measured.drop, strict=True)}
    assert {key: report.figures[key] for key in points} == pytest.approx(points, rel=1e-5)
    assert report.figures["resamples"] == 1000
    assert {key: report.rows[-1][key] for key in points} == pytest.approx(points, rel=1e-5)
    assert (report.rows[-1]["compared"], report.rows[-1][f"reference_{name}"]) == (
        name,
        report.figures[f"reference_{name}"],
    )


def test_data_of_other_classes_and_folders_serve_unlabelled(
    segmenter: Healthy, detector: Healthy, voc: Path, coco: Path, tmp_path: Path
) -> None:
    pictures = read_pictures(
        voc, detector.model.spec, model=str(detector.model.path)
    )  # masks are no boxes, and no photographs either
    assert (len(pictures.samples), pictures.labelled) == (16, False)
    assert "is a detector" in pictures.notes[0]
    pictures = read_pictures(coco / "val2017", segmenter.model.spec, model=str(segmenter.model.path))
    assert (len(pictures.samples), pictures.labelled) == (16, False)
    parity = verify(write(tmp_path, segmenter.graph).path, against=segmenter.model.path, data=coco / "val2017")
    assert parity.passed
    assert parity.measured is None
    assert parity.notes[0].startswith("the pictures have no labels that the model knows: ")
    with pytest.raises(UsageError, match="no such file or folder"):
        read_pictures(coco / "nowhere", detector.model.spec, model=str(detector.model.path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="is no dataset with masks"):
        read_pictures(tmp_path / "empty", segmenter.model.spec, model=str(segmenter.model.path))


def test_pictures_without_objects_and_masks_that_cannot_be_read(
    detector: Healthy, segmenter: Healthy, samples: list[AnnotatedSample], tmp_path: Path
) -> None:
    empty = [dataclasses.replace(sample, boxes=()) for sample in samples[:3]]
    candidate = write(tmp_path, detector.graph)
    parity = verify_answers(candidate, detector.model, empty, labelled=True, tolerance=TOLERANCE)
    assert parity.passed
    assert parity.measured is None
    assert "the labels have no object: the pictures served unlabelled" in parity.notes
    Image.new("L", (9, 9)).save(tmp_path / "small.png")
    Image.new("L", SIZE).save(tmp_path / "right.png")
    masked = [
        dataclasses.replace(sample, mask_file=tmp_path / name)
        for sample, name in zip(samples, ("small.png", "right.png", "none.png"), strict=False)
    ]
    candidate = write(tmp_path, segmenter.graph)
    parity = verify_answers(candidate, segmenter.model, masked, labelled=True, tolerance=TOLERANCE)
    assert parity.pictures == 1
    assert parity.notes[0].startswith("2 pictures could not be read, the first: ")
    assert "the mask is 9 x 9 pixels" in parity.notes[0]
    assert parity.measured is not None


def test_exports_of_both_tasks_in_float_and_int8(
    detector: Healthy, segmenter: Healthy, coco: Path, voc: Path, tmp_path: Path
) -> None:
    for healthy, data, measure in ((detector, coco, "map"), (segmenter, voc, "miou")):
        report = export(healthy.model.path, ["litert", "onnx"], tmp_path, data=data)
        assert [row["passed"] for row in report.rows] == [True, True]
        assert report.figures["verified_on"] == str(data)
        assert all(row[measure] == pytest.approx(row[f"reference_{measure}"]) for row in report.rows)
        # Random weights are as hard to quantise as weights can be: what these lose is beside the point.
        report = export(
            healthy.model.path,
            ["litert"],
            tmp_path,
            precision="int8",
            calibrate=data,
            data=data,
            max_drop=100,
            keep_float=1,
        )
        (row,) = report.rows
        assert row["layers_in_float"] == 1
        assert row[measure] < row[f"reference_{measure}"]
        assert row["drop"] == pytest.approx(row[f"reference_{measure}"] - row[measure], abs=1e-5)
        assert (tmp_path / f"{healthy.spec.name}_int8.tflite").is_file()


def test_a_drop_beyond_the_default_leaves_no_file(detector: Healthy, coco: Path, tmp_path: Path) -> None:
    """The truth is what the float network finds, so that all that rounding moves is lost."""
    with pytest.raises(ExportError, match=r"its map is 0\.\d+, \d+\.\d points below") as caught:
        export(
            detector.model.path,
            ["litert"],
            tmp_path,
            precision="int8",
            calibrate=coco,
            data=coco,
            keep_float=0,
        )
    assert caught.value.report.rows[0]["passed"] is False
    assert not list(tmp_path.glob("*.tflite"))


def test_a_runs_own_pictures(
    detector: Healthy, samples: list[AnnotatedSample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verified on what the run held out to choose by, and not on the test pictures."""
    from fusiform.training import annotation_job

    run, labelled = tmp_path / "run", [dataclasses.replace(s, boxes=(BoxLabel(0, 1, 1, 9, 9),)) for s in samples]
    run.mkdir()
    write_safetensors(run / "best.safetensors", detector.state, detector.spec)
    for name in ("run.json", "data.json"):
        (run / name).write_text("{}")
    splits = {"train": tuple(labelled[:9]), "val": tuple(labelled[9:12]), "test": tuple(labelled[12:])}
    data = AnnotatedSet(tmp_path, "detection", detector.spec.labels, splits)  # type: ignore[arg-type]
    monkeypatch.setattr(annotation_job, "read_annotated_list", {run: data}.__getitem__)
    report = export(run, ["litert"], tmp_path / "out")
    assert report.figures["verified_on"] == "the run's val pictures"
    assert report.rows[0]["images"] == 3
    assert report.rows[0]["map"] == report.rows[0]["reference_map"]


def test_pixels_and_slices(healthy: Healthy, tmp_path: Path) -> None:
    report = export(healthy.model.path, ["onnx"], tmp_path, pixels=True, slices=2)
    assert report.rows[0]["largest_error"] < 1e-4


def test_half_precision(healthy: Healthy, tmp_path: Path) -> None:
    """Rounded weights move boxes and borders a little, and the tolerance knows it."""
    report = export(healthy.model.path, ["litert"], tmp_path, precision="float16")
    assert 1e-5 < report.rows[0]["largest_error"] < 3e-2


def test_what_is_for_classifiers_alone(healthy: Healthy, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--train-epochs is for classifiers"):
        export(healthy.model.path, ["litert"], tmp_path, precision="int8", train_epochs=1)
    with pytest.raises(UsageError, match="training with quantisation is for classifiers"):
        train_quantized(QuantizedNetwork(healthy.graph), healthy.graph, [])
    import onnx

    proto = onnx.load_from_string(to_onnx(healthy.graph))
    del proto.metadata_props[:]
    (tmp_path / "foreign.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(UsageError, match=r"foreign\.onnx: has no description of fusiform's"):
        verify(tmp_path / "foreign.onnx", against=healthy.model.path)
