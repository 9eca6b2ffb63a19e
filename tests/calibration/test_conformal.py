"""Sets of names: scores by hand, the promise over many draws, and MAPIE's sets where it is installed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from fusiform.calibration.conformal import choose_score, fit_sets, in_sets, make_table, measure_sets, set_scores
from fusiform.certainty import SetScore

SCORES: tuple[SetScore, ...] = ("lac", "aps", "raps")


def drawn(images: int, *, seed: int, classes: int = 6, sharpness: float = 2.0) -> tuple[NDArray, NDArray]:
    """Probabilities that are right about themselves, and true classes drawn from them."""
    random = np.random.default_rng(seed)
    logits = sharpness * random.standard_normal((images, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (probabilities.cumsum(1) < random.random((images, 1))).sum(1)
    return probabilities, np.minimum(truth, classes - 1)


def test_scores_by_hand() -> None:
    probabilities = np.array([[0.2, 0.5, 0.3]])
    assert set_scores(probabilities, "lac") == pytest.approx(np.array([[0.8, 0.0, 0.7]]))
    assert set_scores(probabilities, "lac", empty=True) == pytest.approx(np.array([[0.8, 0.5, 0.7]]))
    # What is likelier: 0.5 before the second, 0.8 before the third.
    assert set_scores(probabilities, "aps") == pytest.approx(np.array([[0.8, 0.0, 0.5]]))
    raps = set_scores(probabilities, "raps", penalty=0.1, free=1)
    assert raps == pytest.approx(np.array([[0.8 + 0.2, 0.0, 0.5 + 0.1]]))


def test_sets_by_hand() -> None:
    probabilities = np.array([[0.6, 0.3, 0.1]] * 9)
    truth = np.array([0] * 7 + [1] + [2])
    sets = fit_sets(probabilities, truth, coverage=0.8)
    # Scores: 0 seven times, then 0.7 and 0.9; the eighth of nine is the threshold for 80 %.
    assert sets.table.values == pytest.approx((0.0,) * 7 + (0.7, 0.9), abs=2e-6)
    assert sets.table.threshold(0.8) == pytest.approx(0.7)
    assert in_sets(probabilities[:1], sets).tolist() == [[True, True, False]]
    assert in_sets(probabilities[:1], sets, 0.7).tolist() == [[True, False, False]]
    assert in_sets(probabilities[:1], sets, 0.9).tolist() == [[True, True, True]]
    assert in_sets(probabilities[:1], sets, 0.99).tolist() == [[True, True, True]]  # takes more images: all
    # Seven of nine are right by their first name: it keeps seven of ten, whatever less is asked for.
    assert (sets.kept(0.1), sets.kept(0.7), sets.kept(0.8)) == (0.7, 0.7, 0.8)
    assert fit_sets(probabilities[:9], np.array([1] * 9)).kept(0.1) == 0.1
    found = measure_sets(probabilities, truth, sets)
    assert (found.images, found.covered, found.sizes.tolist()) == (9, 8, [2] * 9)


@pytest.mark.parametrize("score", SCORES)
def test_no_set_is_empty_and_each_is_the_likeliest_classes(score: SetScore) -> None:
    probabilities, truth = drawn(300, seed=1)
    sets = fit_sets(probabilities, truth, score=score)
    for share in (0.1, 0.5, 0.95):
        inside = in_sets(probabilities, sets, share)
        assert inside.any(1).all()
        least = np.where(inside, probabilities, 2).min(1)
        most = np.where(inside, -1, probabilities).max(1)
        assert (least >= most).all()


def test_what_the_first_name_keeps_is_kept() -> None:
    """The share that is right by the first name alone, mean over draws: no less than what is promised, and no more."""
    more = []
    for seed in range(200):
        probabilities, truth = drawn(300, seed=seed)
        sets = fit_sets(probabilities[:150], truth[:150])
        promised = sets.kept(0.01)
        inside = in_sets(probabilities[150:], sets, 0.01)
        more.append(inside[np.arange(150), truth[150:]].mean() - promised)
        assert (inside == in_sets(probabilities[150:], sets, promised)).all()
    chance = 3 * np.std(more) / len(more) ** 0.5
    assert -chance <= np.mean(more) <= 0.02 + chance


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("share", [0.9, 0.95, 0.99])
def test_the_promise_is_kept_as_theory_says(score: SetScore, share: float) -> None:
    """Of 300 draws of 199 and 200 images; the accuracy, some 60 %, is below every promise."""
    kept = []
    for seed in range(300):
        probabilities, truth = drawn(399, seed=seed)
        sets = fit_sets(probabilities[:199], truth[:199], score=score)
        found = measure_sets(probabilities[199:], truth[199:], sets, share)
        kept.append(found.covered / found.images)
    a = math.ceil(200 * share - 1e-9)
    mean = a / 200
    deviation = math.sqrt(a * (200 - a) * 400 / (200 * 200**2 * 201))
    assert abs(np.mean(kept) - mean) < 3 * deviation / math.sqrt(300)
    assert np.std(kept) == pytest.approx(deviation, rel=0.15)


def test_each_class_has_a_promise_of_its_own() -> None:
    """A class that is hard is short-changed by one table for all, and not by its own."""
    random = np.random.default_rng(0)
    truth = np.repeat([0, 1], 4000)
    sharpness = np.where(truth == 0, 0.98, 0.55)
    own = np.clip(sharpness + 0.2 * random.standard_normal(8000), 0.01, 0.99)
    probabilities = np.where(np.eye(2, dtype=bool)[truth], own[:, None], 1 - own[:, None])
    half = random.permutation(8000) % 2 == 0
    for per_class, least in ((False, 0.0), (True, 0.88)):
        sets = fit_sets(probabilities[half], truth[half], score="lac", coverage=0.9, per_class=per_class)
        inside = in_sets(probabilities[~half], sets)[np.arange(int((~half).sum())), truth[~half]]
        hard = inside[truth[~half] == 1].mean()
        assert (hard >= least) if per_class else (hard < 0.85)


def test_a_class_with_few_images_has_the_table_of_all() -> None:
    probabilities, truth = drawn(200, seed=3, classes=3)
    truth[truth == 2] = 0
    truth[:5] = 2
    sets = fit_sets(probabilities, truth, coverage=0.9, per_class=True)
    assert [table.count for table in sets.classes] == [int((truth == 0).sum()), int((truth == 1).sum()), 200]


def test_the_smallest_sets_are_chosen_on_images_that_the_table_leaves_out() -> None:
    probabilities, truth = drawn(2000, seed=4, classes=20)
    assert choose_score(probabilities, truth) == "lac"  # right probabilities: theory says so
    assert fit_sets(probabilities, truth).table.count == 1600
    assert fit_sets(probabilities[:999], truth[:999]).table.count == 999
    # Probabilities that are wrong about themselves: another score has smaller sets.
    sizes = {}
    for score in SCORES:
        sets = fit_sets(probabilities, truth, score=score)
        sizes[score] = measure_sets(probabilities, truth, sets).sizes.mean()
    assert min(sizes, key=lambda score: sizes[score]) == "lac"


def test_tables_round_up() -> None:
    values = np.array([0.123456789, 0.5, 0.99999999])
    table = make_table(values)
    assert all(kept >= value for kept, value in zip(table.values, values, strict=True))
    assert table.values == pytest.approx(values, rel=2e-5)


def test_mapie_has_the_same_sets() -> None:
    classification = pytest.importorskip("mapie.classification", reason="mapie is not installed")
    base = pytest.importorskip("sklearn.base", reason="scikit-learn is not installed")
    probabilities, truth = drawn(600, seed=5)

    class Known(base.ClassifierMixin, base.BaseEstimator):  # type: ignore[misc]  # of a library without types
        classes_ = np.arange(6)

        def fit(self, *_: NDArray) -> object:
            return self

        def predict_proba(self, x: NDArray) -> NDArray:
            return probabilities[x[:, 0].astype(int)]

        def predict(self, x: NDArray) -> NDArray:
            return self.predict_proba(x).argmax(1)

        def __sklearn_is_fitted__(self) -> bool:
            return True

    places = np.arange(600)[:, None]
    for share in (0.9, 0.95):
        theirs = classification.SplitConformalClassifier(Known(), confidence_level=share, prefit=True)
        theirs.conformalize(places[:300], truth[:300])
        _, sets = theirs.predict_set(places[300:])
        scores = set_scores(probabilities, "lac", empty=True)
        threshold = make_table(scores[:300][np.arange(300), truth[:300]]).threshold(share)
        assert ((scores[300:] <= threshold) == sets[:, :, 0]).mean() > 0.999
