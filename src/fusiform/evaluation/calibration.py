"""Calibration: the temperature that makes a classifier's probabilities as honest as they can be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.data.dataset import Split
from fusiform.errors import UsageError
from fusiform.files import write_file
from fusiform.report import printable
from fusiform.tasks import classification_metrics as metrics
from fusiform.zoo.model import Model
from fusiform.zoo.restamp import restamp


class Calibration(NamedTuple):
    """A temperature fitted on an evaluation's pictures, and the expected calibration error before and after.

    ``ece_after`` is over the same pictures that the temperature was fitted on; ``ece_held_out`` over all of them
    too, but each half with the temperature that the other half gave.
    """

    temperature: float
    ece_before: float
    ece_after: float
    ece_held_out: float


def check_calibration(model: Model, out: str | os.PathLike[str]) -> None:
    """Raise UsageError where no temperature can be written into a copy of the model at ``out``."""
    if model.format != "pth" and Path(out).suffix != f".{model.format}":
        raise UsageError(f"{out}: the copy is a file of the same kind as the model: end its name in .{model.format}")
    restamp(model, model.spec)


def calibrate(
    model: Model,
    logits: NDArray[np.float32],
    truth: NDArray[np.int64],
    out: str | os.PathLike[str],
    *,
    source: str,
    split: Split,
) -> Calibration:
    """Fit a temperature on a model's answers and write a copy of the model whose probabilities use it.

    ``logits`` (images, classes) are the model's answers to a split of the dataset at ``source``, ``truth`` (images,)
    the true classes. The copy's answers come in the same order, with the confidence that their accuracy deserves (Guo
    et al., arXiv 1706.04599, Section 4.2). Raises UsageError where no temperature fits, or the model cannot hold one.
    """
    check_calibration(model, out)
    predicted, before = metrics.predictions(logits, model.spec.temperature)
    right: NDArray[np.bool_] = predicted == truth
    temperature = metrics.fit_temperature(logits, truth)
    if temperature in metrics.TEMPERATURES:
        raise UsageError(
            f"{source}: no temperature fits {len(right)} pictures of which {int(right.sum())} are named "
            "right: calibrate on more pictures, or on ones that the model was not trained on"
        )

    def ece(confidence: NDArray[np.float64]) -> float:
        return metrics.expected_calibration_error(confidence, right)

    # Pictures come class by class: every second one is a half that has the same classes.
    held_out = np.empty(len(right))
    for half in (0, 1):
        other = metrics.fit_temperature(logits[1 - half :: 2], truth[1 - half :: 2])
        held_out[half::2] = metrics.predictions(logits[half::2], other)[1]
    after = metrics.predictions(logits, temperature)[1]
    name = printable(Path(source).resolve().name)  # any name, in a file that must be Unicode
    origin = f"temperature fitted on {len(right)} pictures of {name} ({split})"
    provenance = "; ".join(filter(None, (model.spec.provenance, origin)))
    write_file(out, restamp(model, model.spec.replace(temperature=temperature, provenance=provenance)))
    return Calibration(temperature, ece(before), ece(after), ece(held_out))


def calibration_text(calibration: Calibration) -> str:
    """What calibration did, in a sentence or two."""
    return (
        f"Temperature {calibration.temperature:.3f}: the calibration error goes from {calibration.ece_before:.1%} to "
        f"{calibration.ece_after:.1%} on the pictures it was fitted on, and to {calibration.ece_held_out:.1%} where "
        "each half has the temperature of the other half."
    )
