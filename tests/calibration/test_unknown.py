"""What tells unknown images: evidence by hand, the promise, the choice, and pytorch-ood's where it is installed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from fusiform.calibration.unknown import (
    CANDIDATES,
    EVIDENCE,
    FEWEST,
    Detector,
    Fitted,
    _choose,
    auroc,
    auroc_interval,
    fit_unknown,
)
from fusiform.certainty import Part
from fusiform.errors import SpecError

FEATURES, CLASSES = 64, 4


def clusters(images: int, *, seed: int, classes: int = CLASSES) -> tuple[NDArray, NDArray]:
    """Images of classes that lie apart in features that are never negative, and their classes."""
    means = 3 * np.random.default_rng(99).random((classes + 1, FEATURES)).astype(np.float32)
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, images)
    return np.maximum(means[truth] + random.standard_normal((images, FEATURES)), 0).astype(np.float32), truth


def strangers(images: int, *, seed: int) -> NDArray:
    """Images of one class more, which lies apart from the others."""
    features, truth = clusters(8 * images, seed=seed, classes=CLASSES + 1)
    # The means are drawn for one class more than there are: the last one is nobody's.
    return features[truth == CLASSES][:images]


def layer(classes: int = CLASSES) -> tuple[NDArray, NDArray]:
    means = np.stack([clusters(400, seed=7)[0][clusters(400, seed=7)[1] == k].mean(0) for k in range(classes)])
    return means.astype(np.float32), (-0.5 * (means**2).sum(1)).astype(np.float32)


def fitted(images: int = 400, *, known: NDArray | None = None, most_bytes: float = float("inf")) -> Fitted:
    found = fit_unknown(*clusters(images, seed=1), *layer(), strangers=known, most_bytes=most_bytes)
    assert found is not None
    return found


def detector_by_hand(*parts: Part) -> Detector:
    """Three features, of which two are kept; two classes at (1, 0) and (0, 1)."""
    return Detector(
        parts,
        centre=np.zeros(3, np.float32),
        projection=np.eye(3, 2, dtype=np.float32),
        means=np.array([[1, 0], [0, 1]], np.float32),
        whitening=np.diag([2, 1]).astype(np.float32),
        head=np.array([[1, 0, 0], [0, 1, 0.5]], np.float32),
        points=np.array([[1, 0], [0, 1]], np.float32),
    )


def test_evidence_by_hand() -> None:
    detector = detector_by_hand(Part("residual", 1.0))
    place = detector.place(np.array([[2, 0, 3]]))
    assert place.inside.tolist() == [[2, 0]]
    found = {kind: float(of(detector, place)[0]) for kind, of in EVIDENCE.items()}
    assert found["residual"] == pytest.approx(3)
    assert found["energy"] == pytest.approx(-np.log(np.exp(2) + np.exp(0.5)))
    # The logarithm of one over the likeliest class's probability.
    assert found["softmax"] == pytest.approx(np.log(np.exp(2) + np.exp(0.5)) - 2)
    assert found["mahalanobis"] == pytest.approx(2)  # one off in the first dimension, which counts twice
    assert found["knn"] == pytest.approx(0)  # the same direction
    both = detector_by_hand(Part("residual", 2.0), Part("mahalanobis", 0.5))
    assert both.scores(np.array([[2, 0, 3]])) == pytest.approx([7])


def test_strangers_are_caught_and_known_images_are_kept() -> None:
    found = fitted()
    detector, table = Detector.of(found.unknown), found.unknown.table
    known, _ = clusters(2000, seed=2)
    here = np.array([table.p_value(float(score)) for score in detector.scores(known)])
    there = np.array([table.p_value(float(score)) for score in detector.scores(strangers(200, seed=3))])
    # 400 images' table: theory has 0.05 +- 0.011 for its own draw, 0.005 for that of the 2,000.
    assert 0.02 < (here <= 0.05).mean() < 0.08
    assert (there <= 0.05).mean() > 0.95
    assert (here <= 0.5).mean() == pytest.approx(0.5, abs=0.1)


def test_a_detector_is_the_same_again() -> None:
    first, again = fitted().unknown, fitted().unknown
    assert first == again
    assert dataclasses.replace(first) == first  # checked anew


def test_scores_do_not_know_their_own_image() -> None:
    """Scores of images that the final detector has learnt from are smaller than the cross-fitted ones of the table."""
    found = fitted(60)
    features, _ = clusters(60, seed=1)
    assert Detector.of(found.unknown).scores(features).mean() < found.scores.mean()


def test_too_few_images_or_bytes_make_no_detector() -> None:
    features, truth = clusters(400, seed=1)
    few = (truth != 3) | (np.cumsum(truth == 3) < FEWEST)
    assert fit_unknown(features[few], truth[few], *layer()) is None
    assert fit_unknown(features, truth, *layer(), most_bytes=300) is None


def test_a_detector_keeps_within_its_bytes() -> None:
    whole = fitted().unknown
    small = fitted(most_bytes=3000).unknown
    assert 2 <= small.dimensions < whole.dimensions
    fields = (small.centre, small.projection, small.scales, small.means, small.whitening, small.head, small.points)
    assert sum(map(len, fields)) <= 3000


def test_the_choice_needs_more_than_chance() -> None:
    names = list(CANDIDATES)
    close = {name: [0.9, 0.8, 0.7, 0.6] for name in names}
    assert _choose(close) == names[0]
    assert _choose(close | {"knn": [0.95, 0.78, 0.75, 0.6]}) == names[0]
    assert _choose(close | {"knn": [0.95, 0.85, 0.76, 0.66]}) == "knn"
    assert _choose({name: [] for name in names}) == names[0]


def test_strangers_help_to_choose() -> None:
    """What only the residual tells makes the choice fall on what looks at it."""
    features, truth = clusters(400, seed=1)
    alike = features[:200].copy()
    random = np.random.default_rng(5)
    detector = Detector.of(fitted().unknown)
    beside = random.standard_normal((200, FEATURES)).astype(np.float32)
    beside -= beside @ detector.projection @ detector.projection.T
    found = fit_unknown(features, truth, *layer(), strangers=alike + 0.7 * beside)
    assert found is not None
    assert found.aurocs["vim"] > fitted().aurocs["vim"] - 0.2
    assert found.aurocs != fitted().aurocs


def test_two_classes_have_a_detector_without_a_choice() -> None:
    features, truth = clusters(200, seed=1, classes=2)
    weight, bias = layer(2)
    found = fit_unknown(features, truth, weight, bias)
    assert found is not None
    assert (found.aurocs, found.unknown.auroc) == ({}, 0.0)


@pytest.mark.parametrize("array", ["centre", "projection", "head"])
def test_damaged_arrays_are_refused_by_name(array: str) -> None:
    whole = fitted().unknown
    text = getattr(whole, array)
    damaged = dataclasses.replace(whole, **{array: "!" + text[1:]})
    with pytest.raises(SpecError, match=f"{array} is not base64"):
        Detector.of(damaged)
    if array != "projection":  # which cannot hold any
        nan = dataclasses.replace(whole, **{array: "AH4A" + text[4:]})  # a float16 that is none
        with pytest.raises(SpecError, match="not finite"):
            Detector.of(nan)


def test_the_area_under_the_curve_by_hand() -> None:
    assert auroc(np.array([1, 2]), np.array([3])) == 1
    assert auroc(np.array([1, 2, 3, 4]), np.array([2, 5])) == pytest.approx((1.5 + 4) / 8)
    area, low, high = auroc_interval(np.arange(100.0), np.arange(50.0) + 50)
    assert low < area < high
    assert auroc_interval(np.array([0.0, 1]), np.array([5.0])) == (1, 0, 1)


def test_no_post_hoc_detector_of_pytorch_ood_is_much_better() -> None:
    ood = pytest.importorskip("pytorch_ood.detector", reason="pytorch-ood is not installed")
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    features, truth = clusters(400, seed=1)
    known, strange = clusters(500, seed=2)[0], strangers(200, seed=3)
    own = Detector.of(fitted().unknown)
    mine = auroc(own.scores(known), own.scores(strange))
    weight, bias = (torch.tensor(each) for each in layer())
    for other in (ood.Mahalanobis(None), ood.ViM(None, 16, weight, bias), ood.KNN(None, k=10)):
        other.fit_features(torch.tensor(features), torch.tensor(truth))
        scores = [np.asarray(other.predict_features(torch.tensor(part))) for part in (known, strange)]
        assert mine > auroc(*scores) - 0.01
