"""What a calibrated classifier's promises come to: how many sets have the right name, and what is called unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.calibration.answer import Reader
from fusiform.calibration.conformal import measure_sets
from fusiform.calibration.unknown import auroc_interval
from fusiform.certainty import Certainty
from fusiform.data.dataset import Sample
from fusiform.drawing.page import LARGE, Card, Page
from fusiform.errors import ImageError
from fusiform.evaluation.figures import percent, rounded
from fusiform.report import Cell, cell_text
from fusiform.spec import ModelSpec
from fusiform.tasks.bootstrap import Interval
from fusiform.tasks.classification import softmax
from fusiform.tasks.classification_metrics import wilson_interval

SHOWN_CARDS = 12
_NORMAL_975 = 1.959963984540054


class Strangers(NamedTuple):
    """Images that show none of the classes, with their p-values, and the names that they would have got.

    ``caught`` is the share that is called unknown, ``auroc`` how often one of them scores above a known image, each
    with its 95 % interval.
    """

    samples: tuple[Sample, ...]
    p_known: NDArray[np.float64]
    predicted: NDArray[np.intp]
    caught: Interval
    auroc: Interval


class Promises(NamedTuple):
    """What a promise for a share of ``certain`` images came to on the evaluation's, with 95 % intervals.

    ``coverage`` is the share of sets that hold the true class, ``set_size`` their mean number of names, and
    ``false_unknown`` the share of the images that was called unknown, which is to be no more than 1 less ``certain``.
    The latter is of no value where nothing is told of the unknown.
    """

    certain: float
    coverage: Interval
    set_size: Interval
    false_unknown: Interval
    strangers: Strangers | None = None


class Seen(NamedTuple):
    """A classifier's answers to images: ``logits`` (images, classes), and ``features`` where it answers them."""

    samples: tuple[Sample, ...]
    logits: NDArray[np.float32]
    features: NDArray[np.float32] | None

    def part(self, rows: slice) -> Seen:
        """Some of the images."""
        return Seen(self.samples[rows], self.logits[rows], None if self.features is None else self.features[rows])


def measure_promises(spec: ModelSpec, seen: Seen, truth: NDArray[np.int64], strangers: Seen | None) -> Promises:
    """What the ``certainty`` and the temperature of a description promise, on images of its classes and on others."""
    certainty = spec.certainty
    assert certainty is not None
    certain, reader = certainty.sets.coverage, Reader(certainty)
    found = measure_sets(softmax(seen.logits / spec.temperature), truth, certainty.sets)
    sizes = found.sizes.astype(np.float64)
    half = _NORMAL_975 * float(sizes.std(ddof=1)) / np.sqrt(len(sizes)) if len(sizes) > 1 else 0.0
    mean = float(sizes.mean())
    size = Interval(mean, max(1.0, mean - half), min(float(spec.num_classes), mean + half))
    false = Interval(None, None, None)
    told = None
    if certainty.unknown is not None and seen.features is not None:
        rejected = _p_values(reader, seen.features) <= 1 - certain
        false = _share(int(rejected.sum()), len(rejected))
        if strangers is not None and strangers.features is not None:
            told = _strangers(certainty, reader, seen.features, strangers)
    return Promises(certain, _share(found.covered, found.images), size, false, told)


def _strangers(certainty: Certainty, reader: Reader, known: NDArray[np.float32], strangers: Seen) -> Strangers:
    assert strangers.features is not None
    p = _p_values(reader, strangers.features)
    caught = p <= 1 - certainty.sets.coverage
    area = Interval(*auroc_interval(reader.scores(known), reader.scores(strangers.features)))
    predicted = strangers.logits.argmax(1)
    return Strangers(strangers.samples, p, predicted, _share(int(caught.sum()), len(caught)), area)


def _p_values(reader: Reader, features: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.array(reader.p_known(features, len(features)), np.float64)


def _share(count: int, images: int) -> Interval:
    return Interval(count / images, *wilson_interval(count, images))


def promise_figures(promises: Promises | None) -> dict[str, Cell]:
    """The promises as figures of a report; None where there are none."""
    intervals: dict[str, Interval] = dict.fromkeys(
        ("coverage", "set_size", "false_unknown", "auroc", "caught"), Interval(None, None, None)
    )
    if promises is not None:
        intervals |= {name: getattr(promises, name) for name in ("coverage", "set_size", "false_unknown")}
    strangers = promises.strangers if promises is not None else None
    if strangers is not None:
        intervals |= {"auroc": strangers.auroc, "caught": strangers.caught}
    figures: dict[str, Cell] = {
        "certain": None if promises is None else promises.certain,
        "unknown_images": None if strangers is None else len(strangers.samples),
    }
    for name, interval in intervals.items():
        for end, value in zip(("", "_low", "_high"), interval, strict=True):
            figures[name + end] = None if value is None else rounded(value)
    return figures


def slipped(strangers: Strangers, spec: ModelSpec, certain: float) -> list[dict[str, Cell]]:
    """The images that were not called unknown, those that look most like a known class first."""
    order = np.argsort(-strangers.p_known, kind="stable")
    return [
        {
            "predicted": spec.labels[strangers.predicted[i]],
            "p_known": rounded(float(strangers.p_known[i])),
            "path": strangers.samples[i].name,
        }
        for i in order
        if strangers.p_known[i] > 1 - certain
    ]


def promised(figures: Mapping[str, Cell]) -> dict[str, str]:
    """The promises' figures in the words of people; nothing where there are none."""
    certain = figures["certain"]
    if not isinstance(certain, float):
        return {}
    found = {f"sets with the right name, {certain:.0%} promised": percent(figures, "coverage")}
    size, low, high = (figures[f"set_size{end}"] for end in ("", "_low", "_high"))
    found["names in a set"] = f"{size:.2f} (95 % interval {low:.2f} to {high:.2f})"
    if figures["false_unknown"] is not None:
        found[f"known, but called unknown, up to {1 - certain:.0%} promised"] = percent(figures, "false_unknown")
    if figures["caught"] is not None:
        found[f"unknown, and called so, of {cell_text(figures['unknown_images'])} images"] = percent(figures, "caught")
        area, low, high = (figures[f"auroc{end}"] for end in ("", "_low", "_high"))
        found["AUROC of unknown images"] = f"{area:.3f} (95 % interval {low:.3f} to {high:.3f})"
    return found


def add_promises(
    page: Page,
    promises: Promises,
    names: Sequence[str],
    figures: Mapping[str, Cell],
    rows: Sequence[Mapping[str, Cell]],
) -> None:
    """Tell on a page what promises came to, with ``rows`` of what slipped through; ``names`` are the classes'."""
    page.add_heading("Promises")
    page.add_text(
        "A calibrated model gives a set of names that is to hold the right one for a stated share of images, and says "
        "of an image that it shows none of the classes, wrongly so for no more than the rest."
    )
    page.add_figures(promised(figures))
    strangers = promises.strangers
    if strangers is None:
        return
    page.add_heading("Unknown images that slipped through", count=len(rows))
    page.add_table(rows, first=10)
    order = [int(i) for i in np.argsort(-strangers.p_known, kind="stable")[: min(SHOWN_CARDS, len(rows))]]
    page.add_cards(
        Card(
            [(picture_of(strangers.samples[i]), "")],
            names[strangers.predicted[i]],
            [f"p-value {strangers.p_known[i]:.3f}"],
            Path(strangers.samples[i].name).name,
            "wrong",
        )
        for i in order
    )


def picture_of(sample: Sample) -> Image.Image | None:
    """The image as it is shown on a page; None where it can no longer be read."""
    try:
        return sample.read(shorter_side=LARGE)
    except ImageError:  # it was there a moment ago
        return None
