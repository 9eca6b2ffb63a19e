"""A segmenter at several scales and mirrored, as in the papers' best figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from fusiform.engines.batch import Batch, as_normalized
from fusiform.engines.device import find_device
from fusiform.errors import InputError, MissingExtraError
from fusiform.zoo.model import PROGRAMS, Model

if TYPE_CHECKING:
    from fusiform.modules import DeepLabV3


class MultiScaleEngine:
    """PyTorch at six scales and mirrored: answers with probabilities of every pixel of the input, as ``logits``.

    Who is likeliest there is what the mean over scales says. Pictures may have any sides. Raises UsageError for a file
    whose weights cannot be read back, and for a device that is not there; MissingExtraError without PyTorch.
    """

    def __init__(self, model: Model, *, threads: int = 1, device: str = "cpu") -> None:
        if model.spec.decoded:
            raise InputError(f"{model.path}: decodes its answers itself, at one scale; give the model it was made from")
        if model.format in PROGRAMS:
            raise InputError(
                f"{model.path}: is a program for one runtime ({model.format}), at one scale; give the model that it "
                "was exported from"
            )
        try:
            import torch
        except ImportError:
            raise MissingExtraError("PyTorch", "torch", "multi-scale evaluation") from None
        from fusiform.modules import build_network
        from fusiform.zoo.load import load_state

        self.spec = model.spec
        self._torch = torch
        torch.set_num_threads(threads)
        network = build_network(model.spec)
        load_state(network, model.state(), source=str(model.path))
        self._device = find_device(device)
        network.eval().to(self._device)
        self._network = cast("DeepLabV3", network)

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Answer uint8 pixels (N, height, width, 3) with (N, height, width, classes); see ``Engine.run``."""
        from fusiform.modules.deeplab_v3 import multi_scale_probabilities

        pictures = self._torch.from_numpy(as_normalized(batch, self.spec.preprocess)).to(self._device)
        found = multi_scale_probabilities(self._network, pictures)
        return {"logits": found.permute(0, 2, 3, 1).float().cpu().numpy()}
