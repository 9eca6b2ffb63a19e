"""PyTorch, eager: on the CPU, an NVIDIA GPU or Apple's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.engines.batch import Batch, as_normalized, check_batch
from fusiform.errors import InputError, MissingExtraError
from fusiform.spec import ModelSpec


class TorchEngine:
    """Runs a network from its state dict in eval mode, a whole batch at once.

    ``device`` is ``cpu``, ``cuda``, ``cuda:1`` or ``mps``. ``threads`` holds for all of PyTorch in this process.
    Raises MissingExtraError without PyTorch and UsageError for a device that is not there.
    """

    def __init__(
        self, state: Mapping[str, NDArray[Any]], spec: ModelSpec, *, threads: int = 1, device: str = "cpu"
    ) -> None:
        try:
            import torch
        except ImportError:
            raise MissingExtraError("PyTorch", "torch", "the engine torch") from None
        from fusiform.modules import DeepLabV3, build_network
        from fusiform.zoo.load import load_state

        self.spec = spec
        self._torch = torch
        torch.set_num_threads(threads)
        network = build_network(spec)
        load_state(network, state, source=spec.name)
        try:
            self._device = torch.device(device)
            network.eval().to(self._device).to(memory_format=torch.channels_last)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"PyTorch has no device {device} here: {str(error).splitlines()[0]}") from None
        # Logits in the shape that other runtimes give them: not resized, channels last.
        self._coarse = isinstance(network, DeepLabV3)
        self._network: Callable[[Any], Any] = network.forward_coarse if isinstance(network, DeepLabV3) else network

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Answer a batch; see ``Engine.run``."""
        check_batch(batch, self.spec)
        pictures = as_normalized(batch, self.spec.preprocess)
        with self._torch.inference_mode():
            given = self._torch.from_numpy(pictures).to(self._device, memory_format=self._torch.channels_last)
            found = self._network(given)
            answers = found if isinstance(found, tuple) else (found.permute(0, 2, 3, 1) if self._coarse else found,)
            names = ("logits", "codes")[: len(answers)]
            return {name: answer.float().cpu().numpy() for name, answer in zip(names, answers, strict=True)}
