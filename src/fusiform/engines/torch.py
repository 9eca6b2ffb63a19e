"""PyTorch, eager: on the CPU, an NVIDIA GPU or Apple's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.engines.batch import Batch, as_normalized, check_batch
from fusiform.engines.device import find_device
from fusiform.errors import MissingExtraError
from fusiform.spec import ModelSpec


class TorchEngine:
    """Runs a network from its state dict in eval mode, a whole batch at once.

    ``device`` is as in ``find_device``, which says what it raises. ``threads`` holds for all of PyTorch in this
    process. Raises MissingExtraError without PyTorch.
    """

    def __init__(
        self, state: Mapping[str, NDArray[Any]], spec: ModelSpec, *, threads: int = 1, device: str = "cpu"
    ) -> None:
        try:
            import torch
        except ImportError:
            raise MissingExtraError("PyTorch", "torch", "the engine torch") from None
        from fusiform.modules import DeepLabV3, build_network
        from fusiform.modules.backbones import Backbone
        from fusiform.zoo.load import load_state

        self.spec = spec
        self._torch = torch
        torch.set_num_threads(threads)
        network = build_network(spec)
        load_state(network, state, source=spec.name)
        self._device = find_device(device)
        network.eval().to(self._device).to(memory_format=torch.channels_last)
        # Logits in the shape that other runtimes give them: not resized, channels last.
        self._coarse = isinstance(network, DeepLabV3)
        self._network: Callable[[Any], Any] = network.forward_coarse if isinstance(network, DeepLabV3) else network
        if spec.features and isinstance(network, Backbone):
            self._network = partial(_with_features, network)

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Answer a batch; see ``Engine.run``."""
        check_batch(batch, self.spec)
        pictures = as_normalized(batch, self.spec.preprocess)
        with self._torch.inference_mode():
            given = self._torch.from_numpy(pictures).to(self._device, memory_format=self._torch.channels_last)
            found = self._network(given)
            answers = found if isinstance(found, tuple) else (found.permute(0, 2, 3, 1) if self._coarse else found,)
            names = ("logits", *list(self.spec.network_answers)[1:])
            return {name: answer.float().cpu().numpy() for name, answer in zip(names, answers, strict=True)}


def _with_features(network: Any, pictures: Any) -> tuple[Any, Any]:
    """A classifier's logits, and what its last layer reads."""
    features = network.forward_head(network.forward_features(pictures), pre_logits=True)
    return network.get_classifier()(features), features
