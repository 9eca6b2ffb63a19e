from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusiform.spec import ModelSpec, Preprocess, Scores
from fusiform.tables import SSD_PRIORS_PER_CELL, ssd_map_sizes
from fusiform.tasks.detection import (
    Box,
    Detections,
    decode,
    decode_boxes,
    encode_boxes,
    iou_matrix,
    make_targets,
    match_priors,
    nms,
    prior_boxes,
)

seeds = st.integers(0, 2**32 - 1)
PRIORS = prior_boxes(320)
BACKGROUND = 20.0
"""A logit that leaves nothing to the other classes."""


def spec(classes: int = 2, *, scores: Scores = "softmax") -> ModelSpec:
    return ModelSpec(
        "mobilenet_v2",
        1.0,
        tuple(f"class {k}" for k in range(classes)),
        task="detection",
        input_size=320,
        scores=scores,
        preprocess=Preprocess(resize=320, crop=320, fit="stretch"),
    )


def random_boxes(random: np.random.Generator, count: int, size: float = 1.0) -> np.ndarray:
    corners = random.uniform(0, size, (count, 2, 2))
    return np.concatenate([corners.min(1), corners.max(1)], axis=1)


def answers(classes: int = 2, pictures: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Background everywhere, and no prior moved."""
    values = np.zeros((pictures, len(PRIORS), classes + 1), np.float32)
    values[..., 0] = BACKGROUND
    return values, np.zeros((pictures, len(PRIORS), 4), np.float32)


# --- priors ---


def test_the_maps_of_320_pixels() -> None:
    assert PRIORS.shape == (20 * 20 * 3 + 6 * (100 + 25 + 9 + 4 + 1), 4) == (2034, 4)


def test_priors_come_in_the_order_of_the_networks_answers() -> None:
    sizes = ssd_map_sizes(320, 320)
    counts = [rows * columns * each for (rows, columns), each in zip(sizes, SSD_PRIORS_PER_CELL, strict=True)]
    assert sum(counts) == len(PRIORS)
    middles = (PRIORS[:, :2] + PRIORS[:, 2:]) / 2
    for (rows, columns), each, start, count in zip(
        sizes, SSD_PRIORS_PER_CELL, np.cumsum([0, *counts]), counts, strict=False
    ):
        expected = [((x + 0.5) / columns, (y + 0.5) / rows) for y in range(rows) for x in range(columns)]
        found = middles[start : start + count].reshape(rows * columns, each, 2)
        assert found == pytest.approx(np.repeat(np.array(expected)[:, None], each, axis=1))


def test_priors_by_hand() -> None:
    # The first cell's middle is at 1/40; its priors are a square of 0.1 and oblongs of 0.2 with areas of 0.2 squared.
    long, short = 0.2 * math.sqrt(2) / 2, 0.2 / math.sqrt(2) / 2
    middle = 0.5 / 20
    assert pytest.approx(PRIORS[:3]) == np.array(
        [
            [middle - 0.05, middle - 0.05, middle + 0.05, middle + 0.05],
            [middle - long, middle - short, middle + long, middle + short],
            [middle - short, middle - long, middle + short, middle + long],
        ]
    )
    # Then along the row, and on to the next.
    assert PRIORS[3] == pytest.approx(PRIORS[0] + [1 / 20, 0, 1 / 20, 0])
    assert PRIORS[60] == pytest.approx(PRIORS[0] + [0, 1 / 20, 0, 1 / 20])
    # The last cell is the whole picture: 0.95 in five ratios, and a square of sqrt(0.95 * 1).
    sizes = PRIORS[-6:, 2:] - PRIORS[-6:, :2]
    ratios = np.array([1, 2, 1 / 2, 3, 1 / 3, 1])
    scales = np.array([0.95] * 5 + [0.974679])
    assert sizes[:, 0] / sizes[:, 1] == pytest.approx(ratios)
    assert np.sqrt(sizes.prod(1)) == pytest.approx(scales, abs=1e-6)
    # The second map's scale is a fifth of the way from 0.2 to 0.95, its extra square half way to the third's.
    sizes = PRIORS[1200:1206, 2:] - PRIORS[1200:1206, :2]
    assert np.sqrt(sizes.prod(1)) == pytest.approx(np.array([0.35] * 5 + [math.sqrt(0.35 * 0.5)]))


def test_all_maps_but_the_first_are_torchvisions() -> None:
    torch = pytest.importorskip("torch")
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator

    generator = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95, clip=False)
    grids = [[rows, columns] for rows, columns in ssd_map_sizes(320, 320)]
    boxes = generator._grid_default_boxes(grids, [320, 320], dtype=torch.float64).numpy()
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
    # A cell's priors there: square, larger square, ratios 2, 1/2, 3, 1/3; the larger square comes last here.
    theirs = corners[20 * 20 * 6 :].reshape(-1, 6, 4)[:, [0, 2, 3, 4, 5, 1]]
    assert PRIORS[1200:].reshape(-1, 6, 4) == pytest.approx(theirs, abs=1e-6)


def test_the_shared_priors_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        prior_boxes(320)[0] = 0


# --- codes ---


def test_a_code_by_hand() -> None:
    # From a prior of 0.4 x 0.2 to a box of twice its width, half its height, moved by a quarter of each side.
    prior, box = np.array([[0.2, 0.4, 0.6, 0.6]]), np.array([[0.1, 0.5, 0.9, 0.6]])
    expected = [10 * 0.25, 10 * 0.25, 5 * math.log(2), 5 * math.log(0.5)]
    assert encode_boxes(box, prior)[0] == pytest.approx(expected)


@given(seeds)
def test_codes_lead_back_to_the_boxes(seed: int) -> None:
    random = np.random.default_rng(seed)
    boxes, priors = random_boxes(random, 20), PRIORS[random.integers(0, len(PRIORS), 20)]
    assert decode_boxes(encode_boxes(boxes, priors), priors) == pytest.approx(boxes)


@given(seeds)
def test_codes_are_torchvisions(seed: int) -> None:
    torch = pytest.importorskip("torch")
    from torchvision.models.detection._utils import BoxCoder

    random = np.random.default_rng(seed)
    coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    boxes, priors = random_boxes(random, 30), PRIORS[random.integers(0, len(PRIORS), 30)]
    encoded = coder.encode_single(torch.from_numpy(boxes), torch.from_numpy(priors))
    assert encode_boxes(boxes, priors) == pytest.approx(encoded.numpy(), abs=1e-5, rel=1e-5)
    codes = random.normal(0, 10, (30, 4))
    decoded = coder.decode_single(torch.from_numpy(codes), torch.from_numpy(priors))
    assert decode_boxes(codes, priors) == pytest.approx(decoded.numpy(), abs=1e-5, rel=1e-5)


def test_no_code_overflows() -> None:
    codes = np.full((1, 4), 1e30, np.float32)
    assert np.isfinite(decode_boxes(codes, PRIORS[:1])).all()


def test_a_box_without_an_area_has_no_code() -> None:
    with pytest.raises(ValueError, match="without an area"):
        encode_boxes(np.array([[0.1, 0.1, 0.1, 0.5]]), PRIORS[:1])


# --- intersection over union ---


def test_shared_areas_by_hand() -> None:
    boxes = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [2, 0, 4, 2], [0, 0, 2, 2], [1, 1, 1, 1]])
    expected = np.eye(5)
    expected[0, 1] = expected[1, 0] = 1 / 7
    expected[1, 2] = expected[2, 1] = 1 / 7
    expected[1, 3] = expected[3, 1] = 1 / 7
    expected[0, 3] = expected[3, 0] = 1
    expected[4, 4] = 0
    assert iou_matrix(boxes, boxes) == pytest.approx(expected)


@given(seeds)
def test_shared_areas_are_torchvisions(seed: int) -> None:
    torch = pytest.importorskip("torch")
    from torchvision.ops import box_iou

    random = np.random.default_rng(seed)
    first, second = random_boxes(random, 7), random_boxes(random, 11)
    expected = box_iou(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    assert iou_matrix(first, second) == pytest.approx(expected)


def test_no_boxes_share_nothing() -> None:
    assert iou_matrix(np.zeros((0, 4)), PRIORS).shape == (0, 2034)


# --- suppression ---


@settings(deadline=None)
@given(seeds, st.integers(0, 700), st.sampled_from([0.3, 0.45, 0.6]))
def test_the_boxes_that_remain_are_torchvisions(seed: int, count: int, threshold: float) -> None:
    torch = pytest.importorskip("torch")
    from torchvision.ops import batched_nms

    random = np.random.default_rng(seed)
    # Clusters, so that many are suppressed, also by boxes of an earlier block.
    middles = random.uniform(0, 300, (12, 2))[random.integers(0, 12, count)] + random.normal(0, 6, (count, 2))
    sides = random.uniform(20, 60, (count, 2))
    boxes = np.concatenate([middles - sides / 2, middles + sides / 2], axis=1)
    boxes -= boxes.min(initial=0)
    scores, classes = random.permutation(count) / 1000, random.integers(0, 3, count)
    expected = batched_nms(
        torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(classes), threshold
    ).numpy()
    assert nms(boxes, scores, classes, iou_threshold=threshold).tolist() == expected.tolist()
    limited = nms(boxes, scores, classes, iou_threshold=threshold, limit=10)
    assert limited.tolist() == expected[:10].tolist()


def test_suppression_by_hand() -> None:
    # The first covers the second, which would have covered the third; the fourth is of another class.
    boxes = np.array([[0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10], [0, 0, 10, 10]])
    scores, classes = np.array([0.9, 0.8, 0.7, 0.6]), np.array([0, 0, 0, 1])
    assert nms(boxes, scores, classes, iou_threshold=0.5).tolist() == [0, 2, 3]
    assert nms(boxes, scores, np.zeros(4), iou_threshold=0.5).tolist() == [0, 2]
    # Exactly as much as the threshold is not more.
    assert nms(boxes[:2], scores[:2], classes[:2], iou_threshold=70 / 130).tolist() == [0, 1]


def test_among_equally_sure_boxes_the_first_remains() -> None:
    boxes = np.tile([0.0, 0, 10, 10], (600, 1))
    assert nms(boxes, np.full(600, 0.5), np.zeros(600), iou_threshold=0.5).tolist() == [0]


def test_suppression_of_nothing_and_of_what_is_no_number() -> None:
    nothing = np.zeros((0, 4))
    assert nms(nothing, np.zeros(0), np.zeros(0), iou_threshold=0.5).tolist() == []
    with pytest.raises(ValueError, match="not finite"):
        nms(np.zeros((1, 4)), np.array([np.nan]), np.zeros(1), iou_threshold=0.5)
    with pytest.raises(ValueError, match="not finite"):
        nms(np.array([[0, 0, np.inf, 1]]), np.zeros(1), np.zeros(1), iou_threshold=0.5)


# --- matching ---


@given(seeds, st.integers(1, 12))
def test_matches_are_torchvisions_where_boxes_do_not_compete(seed: int, count: int) -> None:
    torch = pytest.importorskip("torch")
    from torchvision.models.detection._utils import SSDMatcher

    boxes = random_boxes(np.random.default_rng(seed), count)
    shared = iou_matrix(boxes, PRIORS)
    best = shared.argmax(1)
    if len(set(best)) < count:  # torchvision then forgets a box
        boxes, shared = boxes[:1], shared[:1]
    expected = SSDMatcher(0.5)(torch.from_numpy(shared)).numpy()
    assert match_priors(boxes, PRIORS).tolist() == np.maximum(expected, -1).tolist()


@given(seeds, st.integers(1, 12))
def test_every_box_gets_a_prior(seed: int, count: int) -> None:
    boxes = random_boxes(np.random.default_rng(seed), count)
    matches = match_priors(boxes, PRIORS)
    assert set(range(count)) <= set(matches.tolist())
    shared = iou_matrix(boxes, PRIORS)
    # Whoever shares half of a prior, that prior is not background.
    assert (matches[shared.max(0) >= 0.5] >= 0).all()


def test_two_boxes_that_want_one_prior() -> None:
    priors = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [8, 0, 18, 10], [50, 50, 60, 60]])
    boxes = np.array([[1, 0, 11, 10], [0, 0, 10, 10], [70, 70, 80, 80]])
    # Both are best with the first prior; the closer has it and the other takes the third. The last meets none.
    assert match_priors(boxes, priors).tolist() == [1, -1, 0, -1]
    assert match_priors(boxes[:2], priors[:1]).tolist() == [1]


def test_targets_by_hand() -> None:
    prior = PRIORS[1200 + 6 * 55]  # a square of 0.35 in the sixth row, sixth column of the second map
    box = np.add(prior, [0.01, 0, 0.01, 0])
    classes, codes = make_targets(box[None], np.array([4]), PRIORS)
    assert classes.dtype == np.int64
    assert codes.dtype == np.float32
    assert classes[1530] == 5
    assert codes[1530] == pytest.approx([10 * 0.01 / 0.35, 0, 0, 0], abs=1e-5)
    matched = classes > 0
    assert set(classes[matched].tolist()) == {5}
    assert (codes[~matched] == 0).all()
    assert decode_boxes(codes[matched], PRIORS[matched]) == pytest.approx(np.tile(box, (matched.sum(), 1)), abs=1e-5)


def test_pictures_without_objects_are_background() -> None:
    classes, codes = make_targets(np.zeros((0, 4)), np.zeros(0), PRIORS)
    assert not classes.any()
    assert not codes.any()


def test_degenerate_true_boxes() -> None:
    pixel = [160 / 320, 160 / 320, 161 / 320, 161 / 320]
    outside = [1.2, 0.5, 1.4, 0.6]
    empty = [0.3, 0.3, 0.3, 0.9]
    leaving = [-0.4, -0.4, 0.6, 0.6]
    classes, codes = make_targets(np.array([pixel, outside, empty, leaving]), np.array([0, 1, 2, 3]), PRIORS)
    # What has no pixel in the picture is nobody's target; a single pixel is one prior's, and finite.
    assert (classes == 1).sum() == 1
    assert set(classes.tolist()) == {0, 1, 4}
    assert np.isfinite(codes).all()
    clipped = decode_boxes(codes[classes == 4], PRIORS[classes == 4])
    assert clipped == pytest.approx(np.tile([0, 0, 0.6, 0.6], (len(clipped), 1)), abs=1e-5)


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [([[0, 0, np.nan, 1]], [0], "not finite"), ([[0, 0, 1, 1]], [0, 1], "one label for each")],
)
def test_targets_of_nonsense_are_refused(boxes: list[list[float]], labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_targets(np.array(boxes), np.array(labels), PRIORS)


# --- results ---


def test_decode_by_hand() -> None:
    values, codes = answers()
    at = 1200 + 6 * 55  # a square of 0.35 around (0.55, 0.55)
    values[0, at] = np.log([0.2, 0.1, 0.7])
    codes[0, at] = [10 * 0.1, 0, 5 * math.log(2), 0]  # middle at 0.55 + 0.035, 0.7 wide
    (found,) = decode(values, codes, spec(), sizes=[(1000, 500)])
    assert (found.width, found.height) == (1000, 500)
    (box,) = found.boxes
    assert (box.index, box.name) == (1, "class 1")
    assert box.score == pytest.approx(0.7)
    assert (box.left, box.top, box.right, box.bottom) == pytest.approx((235, 187.5, 935, 362.5), abs=1e-3)


def test_one_prior_may_show_two_classes() -> None:
    values, codes = answers()
    values[0, 1500] = np.log([0.2, 0.35, 0.45])
    (found,) = decode(values, codes, spec(), sizes=[(320, 320)])
    assert [(box.name, round(box.score, 4)) for box in found.boxes] == [("class 1", 0.45), ("class 0", 0.35)]


def test_scores_of_sigmoids() -> None:
    values, codes = answers()
    values[0, 1500] = [5, math.log(4), -900]
    (found,) = decode(values, codes, spec(scores="sigmoid"), sizes=[(320, 320)], score_threshold=0.6)
    assert [(box.index, round(box.score, 6)) for box in found.boxes] == [(0, 0.8)]


def test_boxes_are_clipped_and_those_outside_left_out() -> None:
    values, codes = answers()
    values[0, 0, 1] = values[0, 1500, 1] = 2 * BACKGROUND
    codes[0, 0] = [0, 0, 0, 0]  # the first prior, which leaves the picture to the left and above
    codes[0, 1500] = [100, 0, 0, 0]  # ten widths to the right of its prior
    (found,) = decode(values, codes, spec(), sizes=[(320, 320)])
    (box,) = found.boxes
    assert (box.left, box.top) == (0, 0)
    assert (box.right, box.bottom) == pytest.approx((24, 24))


def test_a_box_of_one_pixel_and_one_larger_than_the_picture() -> None:
    values, codes = answers()
    values[0, 1530, 1] = values[0, -1, 2] = 2 * BACKGROUND
    codes[0, 1530] = encode_boxes(np.array([[0.5, 0.5, 0.5 + 1 / 320, 0.5 + 1 / 320]]), PRIORS[1530:1531])[0]
    codes[0, -1] = [0, 0, 1e30, 1e30]
    (found,) = decode(values, codes, spec(), sizes=[(320, 320)])
    edges = {box.index: (box.left, box.top, box.right, box.bottom) for box in found.boxes}
    assert edges[0] == pytest.approx((160, 160, 161, 161), abs=1e-3)
    assert edges[1] == (0, 0, 320, 320)


def test_pictures_may_have_no_objects_or_a_hundred() -> None:
    values, codes = answers(pictures=2)
    values[1, 0:1200:3, 1] = 2 * BACKGROUND  # 400 small squares; neighbours share a third
    nothing, many = decode(values, codes, spec(), sizes=[(640, 480), (320, 320)])
    assert nothing == Detections((), 640, 480)
    assert len(many.boxes) == 100
    (more,) = decode(values[1:], codes[1:], spec(), sizes=[(320, 320)], limit=1000, iou_threshold=0.6)
    assert len(more.boxes) == 400
    assert decode(values[:0], codes[:0], spec(), sizes=[]) == []


def test_every_class_is_suppressed_by_itself() -> None:
    values, codes = answers(classes=2)
    values[0, 1500, 1:] = BACKGROUND + 3, BACKGROUND + 3
    values[0, 1505, 1] = BACKGROUND + 1  # the larger square of the same cell, at the edge: they share 0.73
    (found,) = decode(values, codes, spec(), sizes=[(320, 320)])
    assert [box.index for box in found.boxes] == [0, 1]
    (found,) = decode(values, codes, spec(), sizes=[(320, 320)], iou_threshold=0.75)
    assert [box.index for box in found.boxes] == [0, 0, 1]


@given(seeds)
@settings(deadline=None, max_examples=20)
def test_decoding_is_torchvisions_from_end_to_end(seed: int) -> None:
    torch = pytest.importorskip("torch")
    from torchvision.models.detection._utils import BoxCoder
    from torchvision.ops import batched_nms, clip_boxes_to_image

    random = np.random.default_rng(seed)
    values, codes = random.normal(0, 2, (1, 2034, 4)), random.normal(0, 2, (1, 2034, 4))
    (found,) = decode(values, codes, spec(3), sizes=[(500, 375)], score_threshold=0.8, iou_threshold=0.5)
    scores = torch.from_numpy(values[0]).softmax(-1)[:, 1:]
    boxes = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)).decode_single(
        torch.from_numpy(codes[0]), torch.from_numpy(PRIORS.copy())
    )
    boxes = clip_boxes_to_image(boxes * torch.tensor([500.0, 375, 500, 375]), (375, 500))
    # torchvision shows boxes that lie outside as lines on the picture's border.
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    rows, classes = torch.where((scores > 0.8) & inside[:, None])
    keep = batched_nms(boxes[rows], scores[rows, classes], classes, 0.5)[:100]
    assert [box.index for box in found.boxes] == classes[keep].tolist()
    edges = np.array([(box.left, box.top, box.right, box.bottom) for box in found.boxes]).reshape(-1, 4)
    assert edges == pytest.approx(boxes[rows[keep]].numpy(), abs=1e-5)
    assert [box.score for box in found.boxes] == pytest.approx(scores[rows, classes][keep].tolist(), abs=1e-5)


@pytest.mark.parametrize(("index", "value"), [(0, np.nan), (1, np.inf)])
def test_answers_that_are_no_answers_are_refused(index: int, value: float) -> None:
    pair = answers()
    pair[index][0, 7, 1] = value
    with pytest.raises(ValueError, match="not finite"):
        decode(*pair, spec(), sizes=[(320, 320)])


def test_answers_of_another_network_are_refused() -> None:
    values, codes = answers()
    for wrong in ((values[:, :-1], codes), (values, codes[..., :3]), (values[..., :2], codes), (values[0], codes[0])):
        with pytest.raises(ValueError, match="mobilenet_v2_x1_0: answers have shapes"):
            decode(*wrong, spec(), sizes=[(320, 320)])
    with pytest.raises(ValueError, match="answers have shapes"):
        decode(values, codes, spec(), sizes=[(320, 320), (320, 320)])


@pytest.mark.parametrize("edges", [(5, 0, 5, 1), (0, 3, 1, 2), (0, 0, math.nan, 1), (0, 0, 1, math.inf)])
def test_a_box_has_an_area(edges: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="left < right"):
        Box(0, "a", 0.5, *edges)


def test_results_are_validated() -> None:
    box = Box(0, "a", 0.5, 0, 0, 10, 10)
    with pytest.raises(ValueError, match="score in"):
        Box(0, "a", math.nan, 0, 0, 10, 10)
    with pytest.raises(ValueError, match="highest-scoring first"):
        Detections((box, Box(0, "a", 0.9, 0, 0, 10, 10)), 20, 20)
    with pytest.raises(ValueError, match="leaves the photograph"):
        Detections((box,), 9, 20)
    with pytest.raises(ValueError, match="at least one pixel"):
        Detections((), 0, 20)
