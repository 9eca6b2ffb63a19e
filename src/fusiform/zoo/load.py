"""Trained networks for PyTorch users."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import InputError, MissingExtraError, WeightsError
from fusiform.tables import TRAITS
from fusiform.zoo.model import Model, open_model

if TYPE_CHECKING:
    from torch import nn

    from fusiform.modules import DeepLabV3, SSDLite
    from fusiform.modules.backbones import Backbone


def load(
    model: str | os.PathLike[str] = "mobilenet_v2",
    *,
    weights: str | None = None,
    num_classes: int | None = None,
    dropout: float | None = None,
    output_stride: int | None = None,
) -> Backbone | SSDLite | DeepLabV3:
    """Load a PyTorch network with trained weights, in eval mode.

    Args:
        model: A name from ``fusiform.list_models()`` or a model file of any kind. The bundled weights are int8 on disk
            and come dequantised, with no download.
        weights: One of a network's trainings (``torchvision_v2`` or torchvision's ``IMAGENET1K_V2``).
        num_classes: Put a fresh classifier with so many classes on the trained backbone; with 0 the network has none,
            and answers with the average of its last feature map.
        dropout: The network's own unless given, in [0, 1).
        output_stride: 8, 16 or 32; a segmenter's weights serve 8 and 16.

    Returns:
        The network. It reads float32 NCHW images normalised as ``fusiform.open_model(model).spec.preprocess`` says,
        and gives logits; a detector codes of boxes too.

    Raises:
        MissingExtraError: Without PyTorch.
        FusiformError: For a model that cannot be opened.

    Example:
        >>> import fusiform
        >>> network = fusiform.load("shufflenet_v2_x1_0", num_classes=6)
        >>> network.fc.out_features
        6

    """
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingExtraError("PyTorch", "torch", "fusiform.load") from None
    from fusiform.modules import build_backbone, build_network

    opened = _open(model, weights)
    spec = opened.spec
    classes = spec.num_classes if num_classes is None else num_classes
    state, fresh = with_classes(opened, classes)
    network: Backbone | SSDLite | DeepLabV3
    if spec.task == "classification":
        network = build_backbone(spec, classes, dropout=dropout, output_stride=output_stride or 32)
    else:
        if output_stride is not None:
            spec = spec.replace(output_stride=output_stride)
        network = build_network(spec, dropout=dropout)
    load_state(network, state, source=str(opened.path), fresh=fresh)
    return network.eval()


def with_classes(model: Model, num_classes: int) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """A model's weights for a network of so many classes, and the names of those that stay as the network has them.

    Those are none where the model has as many classes; else its classifier is left out. With 0 classes a network has
    no classifier. Raises UsageError for another number of classes of a model that is no classifier.
    """
    state, spec = dict(model.state()), model.spec
    if num_classes == spec.num_classes:
        return state, []
    if spec.task != "classification":
        raise InputError(f"{model.path}: a fresh head is for classifiers; train this {spec.task} model instead")
    head = TRAITS[spec.architecture].classifier
    fresh = [f"{head}.weight", f"{head}.bias"]
    for name in fresh:
        state.pop(name, None)
    return state, fresh


def load_state(
    network: nn.Module, state: Mapping[str, NDArray[Any]], *, source: str, fresh: list[str] | None = None
) -> None:
    """Put a numpy state into a network; all of it must fit, but for the entries in ``fresh``, which keep their values.

    ``num_batches_tracked`` may be missing. Raises WeightsError, which names ``source``.
    """
    import torch

    tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    try:
        missing, unexpected = network.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"{source}: does not fit the network: {str(error).splitlines()[-1].strip()}") from None
    missing = [name for name in missing if name not in (fresh or ()) and not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise WeightsError(f"{source}: does not fit the network: missing {missing[:3]}, unexpected {unexpected[:3]}")


def _open(model: str | os.PathLike[str], weights: str | None) -> Model:
    if weights is None:
        return open_model(model)
    from fusiform.zoo.catalog import find_weights

    return open_model(find_weights(os.fspath(model), weights).name)
