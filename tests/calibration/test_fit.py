"""All of a calibration: a temperature that is judged where it was not fitted, and what is said with it."""

from __future__ import annotations

import numpy as np
import pytest

from fusiform.calibration.answer import Reader
from fusiform.calibration.fit import LastLayer, calibrate, fit_temperature
from fusiform.certainty import CERTAIN
from fusiform.tasks.classification import softmax


def drawn(images: int, *, seed: int = 0, factor: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are ``factor`` times too large, and true classes."""
    random = np.random.default_rng(seed)
    logits = 1.5 * random.standard_normal((images, 4))
    truth = (softmax(logits).cumsum(1) < random.random((images, 1))).sum(1)
    return factor * logits, np.minimum(truth, 3)


def test_a_temperature_that_helps_is_taken() -> None:
    logits, truth = drawn(800)
    found, per_image = fit_temperature(logits, truth)
    assert found.value == pytest.approx(3, rel=0.1)
    assert not found.refused
    assert found.nll_after < found.nll_before
    assert found.ece_after < found.ece_before
    assert len(set(per_image)) == 5  # each fold's own, of the other images
    assert per_image == pytest.approx(found.value, rel=0.15)


def test_a_temperature_that_makes_it_worse_is_refused() -> None:
    """On images that are few, another temperature is an accident, which cross-fitting shows."""
    refused = 0
    for seed in range(20):
        logits, truth = drawn(40, seed=seed, factor=1.0)
        found, per_image = fit_temperature(logits, truth)
        if found.refused:
            refused += 1
            assert found.value == 1.0
            assert set(per_image) == {1.0}
            assert "makes the calibration worse" in found.refused
    assert refused >= 10


def test_no_temperature_fits_perfect_answers() -> None:
    logits = np.array([[5.0, 0, 0, 0]] * 30)
    found, _ = fit_temperature(logits, np.zeros(30, int), 1.5)
    assert (found.value, found.refused) == (1.5, "no temperature fits 30 images of which 30 are named right")


def test_without_features_there_are_sets_alone() -> None:
    logits, truth = drawn(400)
    found = calibrate(logits, truth, source="photos")
    assert found.certainty.unknown is None
    assert (found.certainty.images, found.certainty.source, found.notes) == (400, "photos", ())
    said = Reader(found.certainty).read(softmax(logits[:3] / found.temperature.value), None, CERTAIN)
    assert said.p_known == [None] * 3
    assert [names[0] for names in said.sets] == logits[:3].argmax(1).tolist()


def test_what_is_missing_for_a_detector_is_said() -> None:
    logits, truth = drawn(400)
    features = np.random.default_rng(0).random((400, 20)).astype(np.float32)
    last = LastLayer(np.zeros((4, 20), np.float32), np.zeros(4, np.float32))
    truth[truth == 2] = 1
    found = calibrate(logits, truth, features=features, last=last)
    assert found.notes == ("unknown images are not told: that takes 5 images of every class, and one has 0",)
    small = calibrate(*drawn(400), features=features, last=last, most_bytes=10)
    assert "more than a twentieth of the model" in small.notes[0]


def test_the_whole_keeps_its_promise() -> None:
    """Temperature and sets from the same images, over 100 draws."""
    kept = []
    for seed in range(100):
        logits, truth = drawn(600, seed=seed)
        found = calibrate(logits[:300], truth[:300])
        said = Reader(found.certainty).read(softmax(logits[300:] / found.temperature.value), None, 0.9)
        kept.append(np.mean([label in names for label, names in zip(truth[300:], said.sets, strict=True)]))
    assert 0.898 < np.mean(kept) < 0.908
