"""The page of a classifier's evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from fusiform.data.dataset import Sample
from fusiform.drawing import charts
from fusiform.drawing.page import LARGE, Card, Headline, Page, percent_cell, percent_text
from fusiform.errors import ImageError
from fusiform.evaluation import page_parts
from fusiform.evaluation.calibration import calibration_text
from fusiform.evaluation.classification import ClassificationEvaluation, promised
from fusiform.evaluation.figures import OTHER
from fusiform.evaluation.page_parts import FEW_IMAGES
from fusiform.evaluation.stress import stress_rows, stress_text
from fusiform.tasks import classification_metrics as metrics

SHOWN_CARDS = 12
LARGEST_MATRIX = 50
"""More classes than these make a matrix that nobody can read; the page then has only the most confused pairs."""
NARROW_MATRIX = 11
"""Classes up to which the matrix has room beside another section."""
SURE = 0.9
"""A confidence from which a mistake is worth a look at its label."""
MISCALIBRATED = 0.05
"""A calibration error from which a temperature is worth fitting."""
OFTEN = 3
"""Mistakes of one kind that are no accident."""
_EXPLAINS = ("right: ", "predicted: ", "true: ")
"""What the captions of ``explain`` begin with, but for that of the photograph itself."""


def fill_page(evaluation: ClassificationEvaluation, page: Page) -> None:
    """Add all of it to a page that has begun."""
    e = evaluation
    _add_figures(e, page)
    page.add_notes(e.notes)
    page_parts.add_comparison(page, e.comparison)
    worst = e.worst()
    if worst:
        page.add_heading("Most confident mistakes", count=len(worst))
        page.add_cards(_card(e, i) for i in worst[:SHOWN_CARDS])
    if e.explained:
        page.add_heading("What it looks at")
        page.add_text(
            "Grad-CAM: the brighter a place, the more it speaks for the class that is named. Where hardly anything is "
            "bright, nothing in the image speaks for that class."
        )
        page.add_cards(_explained(e))
    if pairs := e.most_confused():
        page.add_heading("Most confused", wide=False, count=len(pairs))
        page.add_table(page_parts.shares(pairs), first=10)
    page_parts.add_advice(page, _advice(e))
    rows = e.report().rows
    few = len(rows) <= NARROW_MATRIX
    page.add_heading("Classes", wide=not few, count=len(rows))
    page.add_table(page_parts.shares(rows), first=20)
    if len(e.outputs) <= LARGEST_MATRIX:
        page.add_heading("Confusion matrix", wide=not few)
        page.add_text("True classes are rows, predicted ones columns; the share of the row makes the colour.")
        names, columns, counts = _matrix(e)
        page.add_svg(charts.heat_table(names, columns, counts), keeps_size=not few)
    _add_calibration(e, page)
    _add_stress(e, page)
    _add_promises(e, page)
    page.add_heading("Least certain answers")
    page.add_text("The images with the lowest confidence. Where to look first when more are to be labelled.")
    unsure = np.argsort(e.confidence, kind="stable")[:SHOWN_CARDS]
    page.add_cards(_card(e, int(i)) for i in unsure)
    e._add_end(page, _terms(e))


def _add_figures(e: ClassificationEvaluation, page: Page) -> None:
    figures = e.report().figures
    share = {name: float(value) for name, value in figures.items() if isinstance(value, (int, float))}
    count, classes = len(e.samples), len(e.outputs)
    top5 = page_parts.figure(share["top5"], "top-5", "the true class is among five")
    others = [
        *([top5] if e.spec.num_classes > 5 else []),
        page_parts.figure(share["balanced_accuracy"], "balanced accuracy", "mean recall of the classes"),
        page_parts.figure(share["macro_f1"], "macro F1", "mean F1 of the classes"),
        page_parts.figure(share["ece"], "calibration error", "between confidence and accuracy"),
        Headline(f"{count:,}", "images", note=f"{len(e.skipped):,} could not be read" if e.skipped else ""),
        Headline(f"{classes:,}", "classes", note=f"of the model's {e.spec.num_classes:,}" if e.has_others else ""),
    ]
    page.add_headlines([page_parts.deciding(e.interval, "top-1 accuracy", f"{count:,} images")], others)
    wrong = int((~e.right).sum())
    sure = int((~e.right & (e.confidence >= SURE)).sum())
    mistakes = "no image is named wrongly" if not wrong else f"{wrong:,} are mistakes"
    confident = f", {sure:,} of them made with a confidence of {percent_text(SURE, 0)} or more" if sure else ""
    page.add_lead(f"The first answer is right for {count - wrong:,} of {count:,} images; {mistakes}{confident}.")


def _add_calibration(e: ClassificationEvaluation, page: Page) -> None:
    page.add_heading("Calibration")
    page.add_text(
        "Does it know when it is right? Each circle holds the answers of one confidence, its area their number. On the "
        "dashed line the model is right as often as it says; below it, less often."
    )
    bins = [each for each in metrics.reliability(e.confidence, e.right) if each.pictures]
    page.add_drawing_with_table(
        charts.reliability_diagram([(b.confidence, b.accuracy, b.pictures) for b in bins]),
        [
            {
                "mean confidence, %": percent_cell(b.confidence),
                "right, %": percent_cell(b.accuracy),
                "images": b.pictures,
            }
            for b in bins
        ],
        caption="The circles, from the lowest confidence to the highest",
    )
    if e.calibration is not None:
        page.add_text(calibration_text(e.calibration))


def _add_promises(e: ClassificationEvaluation, page: Page) -> None:
    if e.promises is None:
        return
    page.add_heading("Promises")
    page.add_text(
        "A calibrated model gives a set of names that is to hold the right one for a stated share of images, and says "
        "of an image that it shows none of the classes, wrongly so for no more than the rest."
    )
    page.add_figures(promised(e.report().figures))
    strangers, rows = e.promises.strangers, e.slipped()
    if strangers is None:
        return
    page.add_heading("Unknown images that slipped through", count=len(rows))
    page.add_table(rows, first=10)
    order = [int(i) for i in np.argsort(-strangers.p_known, kind="stable")[: min(SHOWN_CARDS, len(rows))]]
    page.add_cards(
        Card(
            [(_picture(strangers.samples[i]), "")],
            e.names[strangers.predicted[i]],
            [f"p-value {strangers.p_known[i]:.3f}"],
            Path(strangers.samples[i].name).name,
            "wrong",
        )
        for i in order
    )


def _picture(sample: Sample) -> Image.Image | None:
    try:
        return sample.read(shorter_side=LARGE)
    except ImageError:  # it was there a moment ago
        return None


def _add_stress(e: ClassificationEvaluation, page: Page) -> None:
    if e.stress is None:
        return
    page.add_heading("Corrupted images", count=len(e.stress.right))
    page.add_text(stress_text(e.stress))
    page.add_table(page_parts.shares(stress_rows(e.stress)))


def _matrix(e: ClassificationEvaluation) -> tuple[list[str], list[str], list[list[int]]]:
    names = [e.names[output] for output in e.outputs]
    columns = [*names, OTHER] if e.has_others else names
    counts: list[list[int]] = e.confusion[:, : len(columns)].tolist()
    return names, columns, counts


def _card(e: ClassificationEvaluation, i: int) -> Card:
    sample, right = e.samples[i], bool(e.right[i])
    said = f"{e.names[e.predicted[i]]} {percent_text(e.confidence[i])}"
    lines = [] if right else [f"true: {e.names[e.truth[i]]} {percent_text(e.probability[i])}"]
    return Card([(_picture(sample), "")], said, lines, Path(sample.name).name, "right" if right else "wrong")


def _explained(e: ClassificationEvaluation) -> Iterator[Card]:
    """A card for each photograph with the heat maps that follow it."""
    pictures: list[tuple[Image.Image | None, str]] = []
    name = ""
    for image, caption in e.explained:
        if caption.startswith(_EXPLAINS):
            pictures.append((image, caption))
            continue
        if pictures:
            yield Card(pictures, name=name)
        pictures, name = [(image, "")], caption
    yield Card(pictures, name=name)


def _advice(e: ClassificationEvaluation) -> Iterator[str]:
    """What would make the model better, as far as these answers show it."""
    wrong = ~e.right
    if e.has_others:
        known = np.isin(e.predicted, list(e.outputs))
        if (strange := float((~known).mean())) >= MISCALIBRATED:
            yield (
                f"{percent_text(strange, 0)} of the answers are classes that this data does not have. A model of these "
                "classes alone, from fusiform train, does not make such mistakes."
            )
    if sure := int((wrong & (e.confidence >= SURE)).sum()):
        yield (
            f"{sure:,} mistakes were made with a confidence of {percent_text(SURE, 0)} or more. Look whether their "
            "labels are right: fusiform doctor DATA --model MODEL lists such images of a whole dataset."
        )
    confusion = e.confusion.copy()
    support = confusion.sum(1)
    np.fill_diagonal(confusion, 0)
    names = [e.names[output] for output in e.outputs]
    among = confusion[:, : len(names)]
    true, said = (int(k) for k in np.unravel_index(int(among.argmax()), among.shape))
    if confusion[true, said] >= OFTEN:
        yield (
            f"{names[true]} is taken for {names[said]} in {confusion[true, said]} images, more often than any other. "
            "Add training images in which the two are hard to tell apart, or join the classes if nobody needs the "
            "difference."
        )
    scored = np.flatnonzero(support >= FEW_IMAGES)
    if len(scored) > 1 and wrong.any():
        recalls = 1 - confusion.sum(1)[scored] / support[scored]
        yield (
            f"{names[scored[recalls.argmin()]]} has the lowest recall, {percent_text(recalls.min(), 0)}. More images "
            "of it in training help more than more of the others."
        )
    if few := len(support) - len(scored):
        yield (
            f"{few:,} of {len(support):,} classes have fewer than {FEW_IMAGES} images here. Their own figures say "
            "little."
        )
    yield from page_parts.interval_advice(e.interval, len(e.samples))
    ece = float(str(e.report().figures["ece"]))
    if e.calibration is None and ece >= MISCALIBRATED:
        too = "more" if float(e.confidence.mean()) > e.value else "less"
        yield (
            f"The model is {too} confident than it is right. --calibrate FILE writes a copy whose confidence is "
            "closer to its accuracy; the answers stay the same."
        )
    if not wrong.any():
        yield "Nothing is wrong on these images. Harder ones, from where the model will be used, would tell more."


def _terms(e: ClassificationEvaluation) -> list[tuple[str, str, str]]:
    figures = e.report().figures
    nll, temperature, best = (float(str(figures[key])) for key in ("nll", "temperature", "best_temperature"))
    return [
        (
            "mean log loss",
            f"{nll:.3f}",
            "In nats: 0 if every true class got all the confidence. It is what training reduces.",
        ),
        (
            "temperature",
            f"{temperature:.2f}, best {best:.2f}",
            "What the logits are divided by before they become confidence. Above 1 makes it lower. The best one fits "
            "these images; --calibrate finds one on others.",
        ),
    ]
