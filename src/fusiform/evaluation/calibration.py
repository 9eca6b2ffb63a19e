"""Calibration: the temperature that makes a classifier's probabilities as honest as they can be."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.data.open import choose_split
from fusiform.errors import UsageError
from fusiform.files import write_file
from fusiform.report import Cell, printable
from fusiform.tasks import classification_metrics as metrics
from fusiform.zoo.model import Model
from fusiform.zoo.restamp import restamp

SEED = 0
"""What halves a split with, where there is no other one to fit on."""


class Calibration(NamedTuple):
    """A temperature, and what it does to pictures that it was not fitted on.

    ``fitted_on`` names the ``pictures`` that it was fitted on; the expected calibration error and the mean loss (nats)
    are of the evaluation's, of which none is among them. Where either got worse, no model was ``written``.
    """

    temperature: float
    fitted_on: str
    pictures: int
    ece_before: float
    ece_after: float
    nll_before: float
    nll_after: float
    written: bool


class Division(NamedTuple):
    """Which pictures a temperature is fitted on (``split`` of ``fitted``), and which the report is about."""

    fitted: DataSet
    fitted_split: Split
    reported: DataSet
    reported_split: Split
    fitted_on: str
    notes: tuple[str, ...] = ()


def divide(data: DataSet, split: Split | None) -> Division:
    """Keep the pictures apart that a temperature is fitted on and that the report on ``split`` is about.

    The former are those of val or else of test, whichever is not the report's, and never those of train, about which
    a model is too confident. Where there is no such split, each class's pictures are halved, by ``SEED``. Raises
    UsageError for a split that is not there, or for a single picture.
    """
    reported, samples = choose_split(data.source, data.splits, split)
    others: tuple[Split, ...] = () if reported == "all" else ("val", "test")
    other = next((name for name in others if name != reported and data.splits.get(name)), None)
    if other is not None:
        return Division(data, other, data, reported, other)
    halves: tuple[list[Sample], list[Sample]] = ([], [])
    random = np.random.default_rng(SEED)
    for label in sorted({sample.label for sample in samples}):
        for index in random.permutation([i for i, sample in enumerate(samples) if sample.label == label]):
            smaller = min(halves, key=len)
            smaller.append(samples[index])
    fitted, kept = halves
    if not fitted or not kept:
        raise UsageError(f"{data.source}: has one picture, and calibration needs others to be judged on: add pictures")
    note = (
        f"{len(fitted)} of the {len(samples)} pictures (half, seed {SEED}) are for the temperature: all figures are of "
        f"the other {len(kept)}"
    )
    return Division(
        replace(data, splits={reported: tuple(fitted)}),
        reported,
        replace(data, splits={reported: tuple(kept)}),
        reported,
        f"half of {reported}",
        (note,),
    )


def check_calibration(model: Model, out: str | os.PathLike[str]) -> None:
    """Raise UsageError where no temperature can be written into a copy of the model at ``out``."""
    if model.format != "pth" and Path(out).suffix != f".{model.format}":
        raise UsageError(f"{out}: the copy is a file of the same kind as the model: end its name in .{model.format}")
    restamp(model, model.spec)


def calibrate(
    model: Model,
    fitted: tuple[NDArray[np.float32], NDArray[np.int64]],
    reported: tuple[NDArray[np.float32], NDArray[np.int64]],
    out: str | os.PathLike[str],
    *,
    source: str,
    fitted_on: str,
) -> Calibration:
    """Fit a temperature on a model's answers and write a copy of the model whose probabilities use it.

    ``fitted`` and ``reported`` are each the model's answers (images, classes) and the true classes (images,) of
    pictures of the dataset at ``source``, to fit on and to judge by. The copy's answers come in the same order, with
    the confidence that their accuracy deserves (Guo et al., arXiv 1706.04599, Section 4.2). Nothing is written where
    the calibration error or the loss of ``reported`` gets worse. Raises UsageError where no temperature fits, or the
    model cannot hold one.
    """
    check_calibration(model, out)
    logits, truth = fitted
    temperature = metrics.fit_temperature(logits, truth)
    if temperature in metrics.TEMPERATURES:
        right = int((metrics.predictions(logits)[0] == truth).sum())
        raise UsageError(
            f"{source}: no temperature fits {len(truth)} pictures of which {right} are named "
            "right: calibrate on more pictures, or on ones that the model was not trained on"
        )
    (ece_before, nll_before), (ece_after, nll_after) = (
        _figures(*reported, each) for each in (model.spec.temperature, temperature)
    )
    written = ece_after <= ece_before and nll_after <= nll_before
    if written:
        name = printable(Path(source).resolve().name)  # any name, in a file that must be Unicode
        origin = f"temperature fitted on {len(truth)} pictures of {name} ({fitted_on})"
        provenance = "; ".join(filter(None, (model.spec.provenance, origin)))
        write_file(out, restamp(model, model.spec.replace(temperature=temperature, provenance=provenance)))
    return Calibration(temperature, fitted_on, len(truth), ece_before, ece_after, nll_before, nll_after, written)


def _figures(logits: NDArray[np.float32], truth: NDArray[np.int64], temperature: float) -> tuple[float, float]:
    """The expected calibration error, and the mean loss in nats, rounded to what the arithmetic can tell apart."""
    predicted, confidence = metrics.predictions(logits, temperature)
    ece = metrics.expected_calibration_error(confidence, predicted == truth)
    return round(ece, 9), round(metrics.negative_log_likelihood(logits, truth, temperature), 9)


def calibration_figures(calibration: Calibration) -> dict[str, Cell]:
    """A calibration as a row of a report."""
    fields = calibration._asdict()
    return {"images" if name == "pictures" else name: value for name, value in fields.items()}


def calibration_text(calibration: Calibration) -> str:
    """What calibration did, in a sentence or two."""
    found = calibration
    change = (
        f"the calibration error goes from {found.ece_before:.1%} to {found.ece_after:.1%} and the loss from "
        f"{found.nll_before:.4f} to {found.nll_after:.4f}"
    )
    return (
        f"Temperature {found.temperature:.3f}, fitted on {found.pictures:,} pictures ({found.fitted_on}): on the "
        f"pictures of this report, none of which it was fitted on, {change}."
        + ("" if found.written else f" {NOTHING_WRITTEN}.")
    )


NOTHING_WRITTEN = "That is worse, so that no model was written: calibrate on more pictures, or leave the model as it is"
"""What is told of a temperature that does not hold on other pictures."""
