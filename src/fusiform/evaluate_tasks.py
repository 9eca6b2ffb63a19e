"""How good a detector or a segmenter is on its validation pictures, in two figures: for training to tell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fusiform.data.annotated import AnnotatedSample
from fusiform.engines import EngineName
from fusiform.evaluate_boxes import find_boxes
from fusiform.evaluate_masks import outline
from fusiform.progress import Tracker, silent
from fusiform.tasks.detection_metrics import match_boxes, mean_average_precisions
from fusiform.tasks.segmentation_metrics import mean_iou, pixel_accuracy
from fusiform.zoo.model import Model


def box_figures(
    model: Model,
    samples: Sequence[AnnotatedSample],
    *,
    engine: EngineName | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch: int = 1,
    progress: Tracker = silent,
) -> dict[str, float]:
    """What training tells of its validation pictures: ``val_map`` and ``val_map50`` in [0, 1], and ``pictures``.

    Labels are the model's. Pictures that cannot be read are left out; where there is no object, both are 0. The
    arguments are those of ``find_boxes``.
    """
    answers = find_boxes(model, samples, engine=engine, device=device, threads=threads, batch=batch, progress=progress)
    truth = [boxes for boxes, each in zip(answers.truth, answers.found, strict=True) if each is not None]
    found = [each for each in answers.found if each is not None]
    values = np.nan_to_num(mean_average_precisions(match_boxes(truth, found, model.spec.num_classes))[0])
    return {"val_map": float(values.mean()), "val_map50": float(values[0]), "pictures": len(found)}


def mask_figures(
    model: Model,
    samples: Sequence[AnnotatedSample],
    *,
    engine: EngineName | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch: int = 1,
    progress: Tracker = silent,
) -> dict[str, float]:
    """What training tells of its validation pictures: ``val_miou``, ``val_pixel_accuracy`` in [0, 1], ``pictures``.

    The masks' values are the model's labels. Pictures and masks that cannot be read are left out; where no pixel
    counts, both are 0. The arguments are those of ``outline``.
    """
    found = outline(model, samples, engine=engine, device=device, threads=threads, batch=batch, progress=progress)
    total = found.counts.sum(0)
    return {
        "val_miou": float(np.nan_to_num(mean_iou(total, range(model.spec.num_classes)))),
        "val_pixel_accuracy": float(np.nan_to_num(pixel_accuracy(total))),
        "pictures": len(samples) - len(found.errors),
    }
