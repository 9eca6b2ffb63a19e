"""The moving average of a network's weights, which is better than the last of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fusiform.errors import UsageError


class MovingAverage:
    """Keeps an exponential moving average of a network's parameters and floating-point buffers.

    ``decay`` in [0, 1) is how much of the average stays at an update. The first updates keep less,
    (1 + n) / (10 + n) at the nth, so that the average soon forgets the untrained weights (TensorFlow's
    ``ExponentialMovingAverage`` with ``num_updates``). Batch normalisation's running statistics are averaged too;
    whole numbers, its counters, are copied. The average lies on the network's device.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise UsageError(f"the decay of a moving average must be 0 or more and below 1, got {decay}")
        self.decay = decay
        self.updates = 0
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Draw the average towards the network's weights; to be called after each optimiser step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        current = network.state_dict()
        floating = [name for name, value in self.average.items() if value.is_floating_point()]
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average([self.average[name] for name in floating], [current[name] for name in floating], None)
        for name in self.average.keys() - set(floating):
            self.average[name].copy_(current[name])

    @torch.no_grad()
    def copy_to(self, network: nn.Module) -> None:
        """Give the network the averaged weights, for good."""
        _fill(network, self.average)

    @contextmanager
    def swapped(self, network: nn.Module) -> Iterator[None]:
        """Within ``with``, the network has the averaged weights; after it, its own again."""
        own = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self.copy_to(network)
        try:
            yield
        finally:
            _fill(network, own)

    def state_dict(self) -> dict[str, Any]:
        """What ``load_state_dict`` takes to go on where this average is; its tensors are the average's own."""
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from another average of the same network; the decay stays this one's."""
        self.updates = int(state["updates"])
        for name, value in self.average.items():
            value.copy_(state["average"][name])


@torch.no_grad()
def _fill(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    # In place, so that an optimiser goes on with the same parameters.
    for name, value in network.state_dict().items():
        value.copy_(state[name])
