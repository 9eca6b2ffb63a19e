"""A classifier's calibration: temperature, sets of names and what is unknown, from images that it has not learnt from.

Where images are few, all of them serve for everything: what is fitted is cross-fitted, so that no score comes from what
has seen its image.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.calibration.conformal import fit_sets
from fusiform.calibration.decision import Rule, fit_decision
from fusiform.calibration.unknown import FEWEST, Fitted, Floats, fit_unknown
from fusiform.certainty import CERTAIN, Certainty, SetScore
from fusiform.tasks import classification_metrics as metrics
from fusiform.tasks.classification import softmax

FOLDS = 5
SEED = 0


class Temperature(NamedTuple):
    """A temperature, and the calibration error and mean loss (nats) without and with it, cross-fitted.

    ``refused`` says why the model's own temperature stays; it is empty where another one is better.
    """

    value: float
    ece_before: float
    ece_after: float
    nll_before: float
    nll_after: float
    refused: str = ""


class Calibrated(NamedTuple):
    """What a calibration found, and what there is to say about it; ``detector`` is how unknown images are told."""

    temperature: Temperature
    certainty: Certainty
    aurocs: dict[str, float]
    notes: tuple[str, ...] = ()
    detector: Fitted | None = None


class LastLayer(NamedTuple):
    """The weights (classes, features) and biases (classes,) of a classifier's last layer."""

    weight: Floats
    bias: Floats


def calibrate(
    logits: NDArray[Any],
    truth: NDArray[np.integer[Any]],
    *,
    temperature: float = 1.0,
    features: Floats | None = None,
    last: LastLayer | None = None,
    strangers: Floats | None = None,
    most_bytes: float = float("inf"),
    score: SetScore | None = None,
    coverage: float = CERTAIN,
    per_class: bool = False,
    rule: Rule | None = None,
    source: str = "",
) -> Calibrated:
    """Calibrate on a classifier's ``logits`` (images, classes) and ``features`` (images, features) of some images.

    ``temperature`` is the model's own, which stays where another one is no better. Without ``features`` and the
    ``last`` layer, and where some class has fewer than five images, there is no detector of the unknown. ``strangers``
    are features of images that show none of the classes; see ``fit_unknown``, ``fit_sets`` and ``fit_decision`` for the
    others, and for what the last one raises.
    """
    notes: list[str] = []
    found, per_image = fit_temperature(logits, truth, temperature)
    probabilities = softmax(logits / per_image[:, None])
    decision = None if rule is None else fit_decision(probabilities, truth, rule)
    sets = fit_sets(probabilities, truth, score=score, coverage=coverage, per_class=per_class)
    fitted = None
    if features is not None and last is not None:
        fitted = fit_unknown(
            features, truth, last.weight, last.bias, strangers=strangers, most_bytes=most_bytes, seed=SEED
        )
        if fitted is None:
            fewest = int(np.bincount(truth, minlength=logits.shape[1]).min())
            notes.append(
                f"unknown images are not told: that takes {FEWEST} images of every class, and one has {fewest}"
                if fewest < FEWEST
                else "unknown images are not told: a detector would take more than a twentieth of the model"
            )
    certainty = Certainty(sets, fitted.unknown if fitted else None, len(truth), source, decision=decision)
    return Calibrated(found, certainty, fitted.aurocs if fitted else {}, tuple(notes), fitted)


def fit_temperature(
    logits: NDArray[Any], truth: NDArray[np.integer[Any]], own: float = 1.0
) -> tuple[Temperature, NDArray[np.float64]]:
    """A temperature, judged by cross-fitting against the model's ``own``; and the one for each image's scores.

    The latter are those of the other images, so that a score does not know its image's truth.
    """
    folds = np.random.default_rng(SEED).permutation(len(truth)) % FOLDS
    value = metrics.fit_temperature(logits, truth)
    stays = np.full(len(truth), own)
    right = int((logits.argmax(1) == truth).sum())
    if value in metrics.TEMPERATURES or right == len(truth) or len(truth) < FOLDS:
        ece, nll = _figures(logits / own, truth)
        why = f"no temperature fits {len(truth)} images of which {right} are named right"
        return Temperature(own, ece, ece, nll, nll, why), stays
    crossed = np.array([metrics.fit_temperature(logits[folds != k], truth[folds != k]) for k in range(FOLDS)])[folds]
    (ece, nll), (ece_after, nll_after) = _figures(logits / own, truth), _figures(logits / crossed[:, None], truth)
    if ece_after > ece or nll_after > nll:
        why = "on images that it is not fitted on, another temperature makes the calibration worse"
        return Temperature(own, ece, ece_after, nll, nll_after, why), stays
    return Temperature(value, ece, ece_after, nll, nll_after), crossed


def _figures(logits: NDArray[Any], truth: NDArray[np.integer[Any]]) -> tuple[float, float]:
    """The expected calibration error, and the mean loss in nats, rounded to what the arithmetic can tell apart."""
    predicted, confidence = metrics.predictions(logits)
    ece = metrics.expected_calibration_error(confidence, predicted == truth)
    return round(ece, 9), round(metrics.negative_log_likelihood(logits, truth), 9)
