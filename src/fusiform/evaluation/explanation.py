"""What a classifier looks at in a picture, for an evaluation's page: Grad-CAM (Selvaraju et al., arXiv 1610.02391)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.dataset import Sample
from fusiform.data.preprocess import crop_pixels, normalize
from fusiform.errors import InputError, MissingExtraError
from fusiform.evaluation.classification import ClassificationEvaluation
from fusiform.zoo.model import Model

if TYPE_CHECKING:
    from fusiform.modules.backbones import Backbone

# From black over purple and orange to yellow, brighter all the way.
_HEAT_COLORS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64)
_HEAT_OPACITY = 0.65


def read_asked(asked: Sequence[int | str | os.PathLike[str]]) -> list[int | Path]:
    """How many ``examples`` to explain for each number, and the pictures; UsageError for one that is not there."""
    found: list[int | Path] = []
    for one in asked:
        if isinstance(one, int) or (isinstance(one, str) and one.isdecimal()):
            found.append(int(one))
        elif Path(one).is_file():
            found.append(Path(one))
        else:
            raise InputError(f"--explain {os.fspath(one)}: no such picture; give a number or a picture's path")
    return found


def asked_samples(evaluation: ClassificationEvaluation, asked: Sequence[int | Path]) -> list[Sample]:
    """The pictures that ``read_asked`` found, those of a number from the evaluation."""
    samples: list[Sample] = []
    for one in asked:
        samples += examples(evaluation, one) if isinstance(one, int) else [Sample(one, label=0)]
    return samples


def examples(evaluation: ClassificationEvaluation, count: int) -> list[Sample]:
    """Pictures worth explaining: half of them the most confident mistakes, the others right."""
    wrong = evaluation.worst()
    right = np.flatnonzero(evaluation.right)
    spread = min(len(right), max(count - len(wrong), count // 2))
    picked = right[np.linspace(0, len(right) - 1, spread).round().astype(int)] if spread else right[:0]
    return [evaluation.samples[i] for i in (*wrong[: count - spread], *picked.tolist())]


def open_network(model: Model) -> Backbone:
    """The PyTorch network of a classifier, which ``explain`` needs; MissingExtraError without PyTorch."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingExtraError("PyTorch", "torch", "--explain") from None
    from fusiform.modules import build_network
    from fusiform.zoo.load import load_state

    network = cast("Backbone", build_network(model.spec))
    load_state(network, model.state(), source=str(model.path))
    return network.eval()


def explain(
    evaluation: ClassificationEvaluation, network: Backbone, samples: Sequence[Sample]
) -> list[tuple[Image.Image, str]]:
    """What in each picture speaks for the answer, and for a mistake also what speaks for the true class.

    ``network`` is ``open_network`` of the same model; ``samples`` may be from elsewhere, their label is then not
    used. The answer holds pictures as the network sees them, plain and with Grad-CAM's heat over them, with captions
    for ``Page.add_pictures``. Raises ImageError for a picture that cannot be read.
    """
    import torch

    from fusiform.modules.gradcam import grad_cam

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
