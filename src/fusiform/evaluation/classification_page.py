"""An evaluation as a page to look at, with what the network looks at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.dataset import Sample
from fusiform.data.preprocess import crop_pixels, normalize
from fusiform.drawing import charts
from fusiform.drawing.page import THUMBNAIL, Page
from fusiform.errors import ImageError, MissingExtraError, UsageError
from fusiform.evaluation.calibration import Calibration, calibration_text
from fusiform.evaluation.classification import (
    OTHER,
    Comparison,
    Evaluation,
    comparison_figures,
    has_others,
    headlines,
    most_confused,
    report,
    worst,
)
from fusiform.evaluation.figures import shortened
from fusiform.tasks import classification_metrics as metrics

if TYPE_CHECKING:
    from fusiform.nets.backbones import Backbone

SHOWN_PAIRS = 20
SHOWN_THUMBNAILS = 12
LARGEST_MATRIX = 50
"""More classes than these make a matrix that nobody can read; the page then has only the most confused pairs."""

# From black over purple and orange to yellow, brighter all the way.
_HEAT_COLORS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64)
_HEAT_OPACITY = 0.65


def write_page(
    evaluation: Evaluation,
    path: str | os.PathLike[str],
    *,
    comparison: Comparison | None = None,
    calibration: Calibration | None = None,
    explained: Sequence[tuple[Image.Image, str]] = (),
) -> None:
    """Write all of it as one HTML file with drawings and thumbnails; ``explained`` are pictures of ``explain``.

    Raises OutputError where the file cannot be written.
    """
    made = report(evaluation)
    page = Page(made.title)
    page.add_figures(headlines(made))
    for note in evaluation.notes:
        page.add_text(note)
    if comparison is not None:
        page.add_heading("Comparison")
        page.add_text(comparison.sentence + ".")
        page.add_figures(comparison_figures(comparison))
    page.add_heading("Does it know when it is right?")
    page.add_text(
        "Each circle holds the answers of one confidence, its size their number. On the dashed line the model is right "
        "as often as it says; below it, less often."
    )
    bins = metrics.reliability(evaluation.confidence, evaluation.right)
    page.add_svg(charts.reliability_diagram([(b.confidence, b.accuracy, b.pictures) for b in bins]))
    if calibration is not None:
        page.add_text(calibration_text(calibration))
    if len(evaluation.outputs) <= LARGEST_MATRIX:
        page.add_heading("Confusion")
        page.add_text("True classes are rows, predicted ones columns; the share of the row makes the colour.")
        names = [evaluation.names[output] for output in evaluation.outputs]
        columns = [*names, OTHER] if has_others(evaluation) else names
        page.add_svg(charts.heat_table(names, columns, evaluation.confusion[:, : len(columns)].tolist()))
    if pairs := most_confused(evaluation)[:SHOWN_PAIRS]:
        page.add_heading("Most confused")
        page.add_table(shortened(pairs))
    page.add_heading("Classes")
    page.add_table(shortened(made.rows))
    if explained:
        page.add_heading("What it looks at")
        page.add_text("Grad-CAM: the brighter a place, the more it speaks for the class named below the picture.")
        page.add_pictures(explained)
    if confident := worst(evaluation)[:SHOWN_THUMBNAILS]:
        page.add_heading("Most confident mistakes")
        page.add_pictures(_thumbnail(evaluation, i) for i in confident)
    page.add_heading("Least sure answers")
    unsure = np.argsort(evaluation.confidence, kind="stable")[:SHOWN_THUMBNAILS]
    page.add_pictures(_thumbnail(evaluation, int(i)) for i in unsure)
    if evaluation.skipped:
        page.add_heading("Not read")
        page.add_table([{"reason": message} for message in evaluation.skipped])
    page.write(path)


def examples(evaluation: Evaluation, count: int) -> list[Sample]:
    """Pictures worth explaining: half of them the most confident mistakes, the others right."""
    wrong = worst(evaluation)
    right = np.flatnonzero(evaluation.right)
    spread = min(len(right), max(count - len(wrong), count // 2))
    picked = right[np.linspace(0, len(right) - 1, spread).round().astype(int)] if spread else right[:0]
    return [evaluation.samples[i] for i in (*wrong[: count - spread], *picked.tolist())]


def open_network(model: str | os.PathLike[str]) -> Backbone:
    """The PyTorch network that ``explain`` needs; MissingExtraError without PyTorch, and what ``open_model`` raises."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingExtraError("PyTorch", "torch", "--explain") from None
    from fusiform.nets.backbones import Backbone
    from fusiform.zoo.load import load

    network = load(model)
    if not isinstance(network, Backbone):
        raise UsageError(f"{os.fspath(model)}: --explain is for classifiers")
    return network


def explain(evaluation: Evaluation, network: Backbone, samples: Sequence[Sample]) -> list[tuple[Image.Image, str]]:
    """What in each picture speaks for the answer, and for a mistake also what speaks for the true class.

    ``network`` is ``open_network`` of the same model; ``samples`` may be from elsewhere, their label is then not
    used. The answer holds pictures as the network sees them, plain and with Grad-CAM's heat over them, with captions
    for ``Page.add_pictures``. Raises ImageError for a picture that cannot be read.
    """
    import torch

    from fusiform.nets.gradcam import grad_cam

    known = {sample.name: i for i, sample in enumerate(evaluation.samples)}
    preprocess = evaluation.spec.preprocess
    shown = []
    for sample in samples:
        pixels = crop_pixels(sample.read(), preprocess)
        given = torch.from_numpy(normalize(pixels[None], preprocess))
        if (i := known.get(sample.name)) is not None:
            asked = {"predicted": int(evaluation.predicted[i]), "true": int(evaluation.truth[i])}
        else:
            with torch.no_grad():
                asked = {"predicted": int(network(given).argmax())}
        if asked.get("true") == asked["predicted"]:
            asked = {"right": asked["predicted"]}
        rgb = pixels[..., ::-1] if preprocess.color_order == "bgr" else pixels
        shown.append((Image.fromarray(np.ascontiguousarray(rgb)), Path(sample.name).name))
        heats = grad_cam(network, given.repeat(len(asked), 1, 1, 1), list(asked.values())).numpy()
        for (what, output), heat in zip(asked.items(), heats, strict=True):
            shown.append((overlay(rgb, heat), f"{what}: {evaluation.names[output]}"))
    return shown


def overlay(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> Image.Image:
    """A picture (H, W, 3) with a heat map (h, w) in [0, 1] laid over it, smoothly enlarged; the hottest is yellow."""
    height, width = pixels.shape[:2]
    enlarged = Image.fromarray(heat.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    warmth = np.clip(np.asarray(enlarged, np.float64), 0, 1)
    steps = np.linspace(0, 1, len(_HEAT_COLORS))
    colors = np.stack([np.interp(warmth, steps, channel) for channel in _HEAT_COLORS.T], axis=-1)
    opacity = _HEAT_OPACITY * warmth[..., None]
    return Image.fromarray(np.rint(pixels * (1 - opacity) + colors * opacity).astype(np.uint8))


def _thumbnail(evaluation: Evaluation, i: int) -> tuple[Image.Image | None, str]:
    names, sample = evaluation.names, evaluation.samples[i]
    said = f"{names[evaluation.predicted[i]]} {evaluation.confidence[i]:.1%}"
    truth = "right" if evaluation.right[i] else f"is {names[evaluation.truth[i]]} {evaluation.probability[i]:.1%}"
    try:
        image = sample.read(shorter_side=2 * THUMBNAIL)
    except ImageError:  # it was there a moment ago
        image = None
    return image, f"{said}\n{truth}\n{Path(sample.name).name}"
