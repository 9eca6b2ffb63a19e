"""Calibration: the temperature that makes a classifier's probabilities honest, and what else it can promise."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.calibration import fit
from fusiform.calibration.decision import Rule
from fusiform.calibration.fit import Calibrated, LastLayer
from fusiform.calibration.reference import KEPT, make_reference, to_rows
from fusiform.calibration.unknown import SIZE
from fusiform.certainty import CERTAIN, MAX_REFERENCE, Reference
from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.data.limits import one_picture
from fusiform.data.looks import look
from fusiform.data.open import choose_split
from fusiform.errors import ImageError, InputError, UsageError
from fusiform.evaluation.promises import Seen
from fusiform.files import write_file
from fusiform.report import Cell, printable
from fusiform.spec import ModelSpec
from fusiform.tables import TRAITS
from fusiform.tasks import classification_metrics as metrics
from fusiform.tasks.classification import softmax
from fusiform.zoo.model import Model
from fusiform.zoo.restamp import restamp

SEED = 0
"""What halves a split with, where there is no other one to fit on; and what is drawn for the reference."""
REFERENCE = 0.2
"""The share that the reference may take of what a calibration may, ``SIZE`` of the model; the detector has the rest."""


class Calibration(NamedTuple):
    """What a calibration found, and what its temperature does to pictures that it was not fitted on.

    ``fitted_on`` names the ``pictures`` that all of it was fitted on; the expected calibration error and the mean loss
    (nats) are of the evaluation's, of which none is among them. ``refused`` says why the model's own temperature stays,
    or is empty. ``set_score`` is what sets are made by, ``detected_by`` what tells unknown images, None where nothing
    does; ``detector_auroc`` is how well that told classes which were left out of its fit. ``spec`` is the written
    copy's description.
    """

    temperature: float
    fitted_on: str
    pictures: int
    ece_before: float
    ece_after: float
    nll_before: float
    nll_after: float
    refused: str
    set_score: str
    detected_by: str | None
    detector_auroc: float | None
    spec: ModelSpec


class Division(NamedTuple):
    """Which pictures a calibration is fitted on (``split`` of ``fitted``), and which the report is about."""

    fitted: DataSet
    fitted_split: Split
    reported: DataSet
    reported_split: Split
    fitted_on: str
    notes: tuple[str, ...] = ()


def divide(data: DataSet, split: Split | None) -> Division:
    """Keep the pictures apart that a calibration is fitted on and that the report on ``split`` is about.

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
        raise InputError(f"{data.source}: has one picture, and calibration needs others to be judged on: add pictures")
    note = (
        f"{len(fitted)} of the {len(samples)} pictures (half, seed {SEED}) are for the calibration: all figures are of "
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
    """Raise UsageError where no calibration can be written into a copy of the model at ``out``."""
    if model.format != "pth" and Path(out).suffix != f".{model.format}":
        raise UsageError(f"{out}: the copy is a file of the same kind as the model: end its name in .{model.format}")
    restamp(model, model.spec)


def calibrate(
    model: Model,
    fitted: Seen,
    truth: NDArray[np.int64],
    reported: tuple[NDArray[np.float32], NDArray[np.int64]],
    out: str | os.PathLike[str],
    *,
    source: str,
    fitted_on: str,
    strangers: NDArray[np.float32] | None = None,
    certain: float = CERTAIN,
    per_class: bool = False,
    rule: Rule | None = None,
) -> tuple[Calibration, tuple[str, ...]]:
    """Fit temperature, sets and detector on a model's answers, and write a copy of the model that has them.

    ``fitted`` are the model's answers to pictures of the dataset at ``source`` with their true classes, ``reported``
    logits and true classes of other pictures, to tell what the temperature does (Guo et al., arXiv 1706.04599,
    Section 4.2). ``strangers`` are features of pictures of no class; see ``calibration.fit.calibrate`` for the others.
    Returns notes as well. Raises UsageError where the model cannot hold a calibration, or no threshold reaches what a
    ``rule`` wants.
    """
    check_calibration(model, out)
    name = printable(Path(source).resolve().name)  # any name, in a file that must be Unicode
    found = fit_calibration(
        model,
        fitted,
        truth,
        strangers=strangers,
        certain=certain,
        per_class=per_class,
        rule=rule,
        source=f"{name} ({fitted_on})",
    )
    spec = calibrated_spec(model.spec, found)
    before, after = (_figures(*reported, each) for each in (model.spec.temperature, spec.temperature))
    write_file(out, restamp(model, spec))
    return _told(found, spec, fitted_on, before, after), found.notes


def fit_calibration(
    model: Model,
    fitted: Seen,
    truth: NDArray[np.int64],
    *,
    source: str,
    strangers: NDArray[np.float32] | None = None,
    certain: float = CERTAIN,
    per_class: bool = False,
    rule: Rule | None = None,
) -> Calibrated:
    """What ``calibration.fit.calibrate`` finds for a model, whose own weights and size set the detector's."""
    last, bound = None, float("inf")
    if fitted.features is not None:
        state = model.state()
        name = TRAITS[model.spec.architecture].classifier
        last = LastLayer(state[f"{name}.weight"], state[f"{name}.bias"])
        bound = SIZE * sum(value.size for value in state.values())
    found = fit.calibrate(
        fitted.logits,
        truth,
        temperature=model.spec.temperature,
        features=fitted.features,
        last=last,
        strangers=strangers,
        most_bytes=bound * (1 - REFERENCE),
        coverage=certain,
        per_class=per_class,
        rule=rule,
        source=source,
    )
    reference = _reference(model.spec, fitted, found, bound * REFERENCE)
    return found._replace(certainty=replace(found.certainty, reference=reference))


def _reference(spec: ModelSpec, fitted: Seen, found: Calibrated, most_bytes: float) -> Reference | None:
    """What the images of a calibration looked like; None where nothing tells unknown ones, or for few images."""
    detector = found.detector
    if detector is None:
        return None
    probabilities = softmax(fitted.logits[detector.rows] / found.temperature.value)
    chosen = np.random.default_rng(SEED).permutation(len(detector.rows))[:KEPT]
    read: list[int] = []
    looks: list[NDArray[np.float32]] = []
    for number in chosen:
        with suppress(ImageError, OSError), one_picture():  # one that has gone meanwhile
            looks.append(look(fitted.samples[detector.rows[number]].read(), spec.preprocess))
            read.append(int(number))
    if not read:
        return None
    rows = to_rows(np.array(looks), probabilities[read], detector.scores[read], detector.residual[read])
    named = probabilities.argmax(1)
    return make_reference(rows, spec.num_classes, named=named, most_bytes=min(most_bytes, MAX_REFERENCE))


def calibrated_spec(spec: ModelSpec, found: Calibrated) -> ModelSpec:
    """The description with a calibration in it, and a word of where it comes from."""
    certainty = found.certainty
    what = "promises" if found.temperature.refused else "temperature and promises"
    origin = f"{what} fitted on {certainty.images} pictures of {certainty.source}"
    provenance = "; ".join(filter(None, (spec.provenance, origin)))
    return spec.replace(temperature=found.temperature.value, certainty=certainty, provenance=provenance)


def _told(
    found: Calibrated, spec: ModelSpec, fitted_on: str, before: tuple[float, float], after: tuple[float, float]
) -> Calibration:
    unknown = found.certainty.unknown
    return Calibration(
        found.temperature.value,
        fitted_on,
        found.certainty.images,
        before[0],
        after[0],
        before[1],
        after[1],
        found.temperature.refused,
        found.certainty.sets.score,
        None if unknown is None else " + ".join(part.evidence for part in unknown.parts),
        None if unknown is None else unknown.auroc,
        spec,
    )


def _figures(logits: NDArray[np.float32], truth: NDArray[np.int64], temperature: float) -> tuple[float, float]:
    """The expected calibration error, and the mean loss in nats, rounded to what the arithmetic can tell apart."""
    predicted, confidence = metrics.predictions(logits, temperature)
    ece = metrics.expected_calibration_error(confidence, predicted == truth)
    return round(ece, 9), round(metrics.negative_log_likelihood(logits, truth, temperature), 9)


def calibration_figures(calibration: Calibration) -> dict[str, Cell]:
    """A calibration as a row of a report."""
    fields = calibration._asdict()
    del fields["spec"]
    return {"images" if name == "pictures" else name: value for name, value in fields.items()}


def calibration_text(calibration: Calibration) -> str:
    """What calibration did, in some sentences."""
    found = calibration
    if found.refused:
        first = f"The temperature stays {found.temperature:.3f}: {found.refused}."
    else:
        first = (
            f"Temperature {found.temperature:.3f}, fitted on {found.pictures:,} pictures ({found.fitted_on}): on the "
            "pictures of this report, none of which it was fitted on, the calibration error goes from "
            f"{found.ece_before:.1%} to {found.ece_after:.1%} and the loss from {found.nll_before:.4f} to "
            f"{found.nll_after:.4f}."
        )
    certainty = found.spec.certainty
    assert certainty is not None
    sets = (
        f" Sets of names are made by {found.set_score}, from {certainty.sets.table.count:,} pictures; they can promise "
        f"up to {certainty.sets.most:.1%}, and the first name alone keeps {certainty.sets.kept(0):.1%}."
    )
    if found.detected_by is None:
        return first + sets
    told = f", which tells classes that it has not seen with an AUROC of {found.detector_auroc:.3f}"
    return f"{first}{sets} Unknown pictures are told by {found.detected_by}{told if found.detector_auroc else ''}."
