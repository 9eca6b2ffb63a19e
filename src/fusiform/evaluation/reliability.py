"""How often a classifier is right for how confident it is, as a page shows it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.drawing import charts
from fusiform.drawing.page import Page, percent_cell
from fusiform.evaluation.calibration import Calibration, calibration_text
from fusiform.tasks import classification_metrics as metrics


def add_reliability(
    page: Page, confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_], calibration: Calibration | None
) -> None:
    """The reliability diagram of answers with their ``confidence`` (images,), and what a calibration did."""
    page.add_heading("Calibration")
    page.add_text(
        "Does it know when it is right? Each circle holds the answers of one confidence, its area their number. On the "
        "dashed line the model is right as often as it says; below it, less often."
    )
    bins = [each for each in metrics.reliability(confidence, right) if each.pictures]
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
    if calibration is not None:
        page.add_text(calibration_text(calibration))
