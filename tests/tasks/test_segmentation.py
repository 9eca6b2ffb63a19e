from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fusiform.data.preprocess import Placement
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tasks.segmentation import SegmentationMap, Share, decode
from fusiform.tasks.segmentation_metrics import class_counts, class_ious, mean_iou, pixel_accuracy, pixel_confusion

seeds = st.integers(0, 2**32 - 1)


def spec(classes: int, size: int = 513, *, align_corners: bool = True) -> ModelSpec:
    return ModelSpec(
        "mobilenet_v2",
        1.0,
        tuple(f"class {k}" for k in range(classes)),
        task="segmentation",
        input_size=size,
        output_stride=16,
        align_corners=align_corners,
        preprocess=Preprocess(resize=size, crop=size, fit="stretch"),
    )


def clear(*logits: np.ndarray) -> np.ndarray:
    """Whether the largest of the logits (H, W, classes) is so by more than rounding, in each way to compute them."""
    result = np.ones(logits[0].shape[:2], bool)
    for values in logits:
        ordered = np.sort(values, axis=-1)
        result &= ordered[..., -1] - ordered[..., -2] > 1e-4
    return result


# --- decoding ---


@settings(deadline=None, max_examples=40)
@given(seeds, st.booleans())
def test_logits_are_enlarged_as_pytorch_does(seed: int, align_corners: bool) -> None:
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(seed)
    h, w, height, width = (int(n) for n in random.integers([1, 1, 2, 2], [12, 12, 150, 150]))
    logits = random.normal(0, 3, (h, w, 5)).astype(np.float32)
    placement = Placement(width, height, 0, 0, width, height)
    found = decode(logits, spec(5, align_corners=align_corners), (width, height), placement=placement)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(logits).permute(2, 0, 1)[None], (height, width), mode="bilinear", align_corners=align_corners
    )[0].permute(1, 2, 0)
    sure = clear(expected.numpy())
    assert sure.mean() > 0.9
    assert (found.classes == expected.argmax(-1).numpy())[sure].all()


def test_the_border_between_two_classes_by_hand() -> None:
    # Three logits stand on pixels 0, 16 and 32; the second class leads from 16 + 16 / 2 on, and 24 is a draw.
    logits = np.array([[[1, -1], [1, -1], [-1, 1]]], np.float32).repeat(3, axis=0)
    found = decode(logits, spec(2, 33), (33, 33))
    assert found.classes.dtype == np.uint8
    assert (found.classes == (np.arange(33) > 24)).all()
    # In the middle of thirds they stand on 5, 16 and 27: the draw is at 21.5.
    found = decode(logits, spec(2, 33, align_corners=False), (33, 33))
    assert (found.classes == (np.arange(33) > 21.5)).all()


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (7, 400), (400, 7), (1000, 331)])
def test_photographs_of_any_size_and_aspect(size: tuple[int, int], align_corners: bool) -> None:
    # The right half is of class 1 and the lower half of class 2, wherever both are: class 3.
    y, x = np.mgrid[0:33, 0:33] - 16.0
    logits = np.stack([-x - y, x - y, y - x, x + y], axis=-1)
    found = decode(logits, spec(4, align_corners=align_corners), size)
    assert (found.width, found.height) == size
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    right, low = columns + 0.5 - size[0] / 2, rows + 0.5 - size[1] / 2
    expected = (right > 0) + 2 * (low > 0)
    assert (found.classes == expected)[(right != 0) & (low != 0)].all()


def test_only_the_photograph_and_not_its_padding_is_shown() -> None:
    # A photograph of 200 x 100 lies in the middle of a square of 65: its rows are 16 to 48, and the rest is padding.
    logits = np.zeros((5, 5, 3), np.float32)
    logits[[0, -1], :, 2] = 9  # padding's
    logits[1:4, :3, 0] = logits[1:4, 3:, 1] = 9
    found = decode(logits, spec(3, 65), (200, 100), placement=Placement(65, 65, 0, 16, 65, 33))
    assert not (found.classes == 2).any()
    border = 200 * 40.5 / 65  # between the logits on pixels 32 and 48
    assert (found.classes == (np.arange(200) + 0.5 > border)).all()


def test_a_photograph_is_resized_as_its_picture_was() -> None:
    """A mask drawn at the input's size and a photograph four times as large agree on where things are."""
    photograph = Image.new("L", (260, 132))
    photograph.paste(255, (100, 40, 200, 100))
    small = np.asarray(photograph.resize((65, 33), Image.Resampling.BOX), np.float32)
    logits = np.stack([np.full_like(small, 127.5), small], axis=-1)
    found = decode(logits, spec(2), (260, 132), placement=Placement(65, 33, 0, 0, 65, 33))
    assert (found.classes != (np.asarray(photograph) > 0)).mean() < 0.01


def test_a_full_map_is_taken_as_it_is() -> None:
    logits = np.random.default_rng(3).normal(size=(65, 65, 4))
    for align_corners in (True, False):
        found = decode(logits, spec(4, 65, align_corners=align_corners), (65, 65))
        assert (found.classes == logits.argmax(-1))[clear(logits)].all()


def test_among_equals_the_lower_index_comes_first() -> None:
    logits = np.zeros((3, 3, 5), np.float32)
    logits[..., 2:] = 1
    assert (decode(logits, spec(5), (9, 9)).classes == 2).all()


@pytest.mark.parametrize(("classes", "dtype"), [(255, np.uint8), (256, np.uint16), (300, np.uint16)])
def test_many_classes(classes: int, dtype: type) -> None:
    """Up to 255 fit beside the ignored value."""
    logits = np.zeros((2, 2, classes), np.float32)
    logits[..., -1] = 1
    found = decode(logits, spec(classes), (4, 4))
    assert found.classes.dtype == dtype
    assert (found.classes == classes - 1).all()


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (np.zeros((3, 3, 4)), r"not \(h, w, 5 classes\)"),
        (np.zeros((1, 3, 3, 5)), r"shape \(1, 3, 3, 5\)"),
        (np.zeros((0, 3, 5)), r"shape \(0, 3, 5\)"),
        (np.full((3, 3, 5), np.nan), "not finite"),
    ],
)
def test_answers_that_do_not_fit_the_spec_are_refused(logits: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"mobilenet_v2_x1_0: .*{message}"):
        decode(logits, spec(5), (10, 10))


@pytest.mark.parametrize(
    ("placement", "size"),
    [
        ((65, 65, 0, 40, 65, 33), (9, 9)),
        ((65, 65, -1, 0, 9, 9), (9, 9)),
        ((65, 65, 0, 0, 0, 9), (9, 9)),
        ((65, 65, 0, 0, 65, 65), (0, 9)),
    ],
)
def test_photographs_lie_within_the_input(placement: tuple[int, ...], size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="cannot lie in the input"):
        decode(np.zeros((5, 5, 2)), spec(2), size, placement=Placement(*placement))


# --- the result ---


def test_a_map_is_validated_and_cannot_be_changed() -> None:
    classes = np.array([[0, 1], [1, 1]], np.uint8)
    found = SegmentationMap(classes, ("a", "b"))
    with pytest.raises(ValueError, match="read-only"):
        found.classes[0, 0] = 1
    classes[0, 0] = 0  # whose it is may
    with pytest.raises(ValueError, match="a pixel has class 1, but there are 1 names"):
        SegmentationMap(classes, ("a",))
    for wrong in (classes.astype(np.int64), classes[0], np.zeros((0, 3), np.uint8)):
        with pytest.raises(ValueError, match="uint8 or uint16"):
            SegmentationMap(wrong, ("a", "b"))


def test_shares_of_the_pixels() -> None:
    found = SegmentationMap(np.array([[3, 1, 1, 0], [1, 1, 1, 3]], np.uint16), ("a", "b", "c", "d"))
    assert found.shares() == (Share(1, "b", 5 / 8), Share(3, "d", 2 / 8), Share(0, "a", 1 / 8))


# --- metrics ---


def plain_scores(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int) -> tuple[list[float | None], float | None]:
    """Intersections over union and the share of right pixels, pixel by pixel."""
    seen = [
        (int(t), int(p)) for true, found in pairs for t, p in zip(true.ravel(), found.ravel(), strict=True) if t != 255
    ]
    values: list[float | None] = []
    for k in range(classes):
        both = sum(t == k and p == k for t, p in seen)
        either = sum(k in (t, p) for t, p in seen)
        values.append(both / either if either else None)
    return values, sum(t == p for t, p in seen) / len(seen) if seen else None


@given(seeds)
def test_scores_are_what_the_plain_count_says(seed: int) -> None:
    random = np.random.default_rng(seed)
    pairs = []
    for _ in range(3):  # of different sizes; some classes appear nowhere, some are only found
        size = tuple(random.integers(1, 9, 2))
        truth = random.choice(np.array([0, 1, 3, 255], np.uint8), size)
        pairs.append((truth, random.integers(0, 5, size).astype(np.uint8)))
    confusion = sum(pixel_confusion(true, found, 7) for true, found in pairs)
    assert isinstance(confusion, np.ndarray)
    counts = class_counts(confusion)
    classes, accuracy = plain_scores(pairs, 7)
    nan = np.nan
    assert class_ious(counts) == pytest.approx([nan if value is None else value for value in classes], nan_ok=True)
    assert float(pixel_accuracy(counts)) == pytest.approx(nan if accuracy is None else accuracy, nan_ok=True)
    known = [value for value in classes if value is not None]
    assert float(mean_iou(counts, range(7))) == pytest.approx(sum(known) / len(known) if known else nan, nan_ok=True)
    assert confusion.sum() == sum(int((true != 255).sum()) for true, _ in pairs)


def test_scores_by_hand() -> None:
    truth = np.array([[0, 0, 1, 255], [0, 0, 1, 255]], np.uint8)
    found = np.array([[0, 0, 1, 2], [0, 3, 0, 3]], np.uint8)
    confusion = pixel_confusion(truth, found, 5)
    assert confusion.tolist() == [[3, 0, 0, 1, 0], [1, 1, 0, 0, 0], [0] * 5, [0] * 5, [0] * 5]
    # Class 2 was found only where nobody is asked, class 4 nowhere; class 3, found where it is not, counts as 0.
    counts = class_counts(confusion)
    assert class_ious(counts) == pytest.approx([3 / 5, 1 / 2, np.nan, 0, np.nan], nan_ok=True)
    assert float(mean_iou(counts, range(5))) == pytest.approx((3 / 5 + 1 / 2 + 0) / 3)
    assert float(pixel_accuracy(counts)) == pytest.approx(4 / 6)
    assert confusion.sum() == 6


def test_masks_without_a_pixel_that_counts() -> None:
    nothing = pixel_confusion(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8), 2)
    counts = class_counts(nothing)
    assert not nothing.any()
    for score in (class_ious(counts), mean_iou(counts, range(2)), pixel_accuracy(counts)):
        assert np.isnan(score).all()


def test_every_value_may_be_a_class() -> None:
    mask = np.array([[255, 254]], np.uint8)
    assert pixel_confusion(mask, mask, 256, ignore=None).sum() == 2


@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [
        (np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), r"shape \(2, 3\), the predicted one \(3, 2\)"),
        (np.full((2, 2), 4, np.uint8), np.zeros((2, 2), np.uint8), "the true mask reaches from 4 to 4, but has 3"),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), 3, np.uint8), "the predicted mask reaches from 3 to 3"),
        (np.full((2, 2), -1, np.int8), np.zeros((2, 2), np.uint8), "reaches from -1"),
    ],
)
def test_masks_that_cannot_be_compared_are_refused(truth: np.ndarray, found: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pixel_confusion(truth, found, 3)
