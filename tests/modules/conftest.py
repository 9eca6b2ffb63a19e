"""What the tests of the networks share."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn


def lived_in_network(network: nn.Module) -> nn.Module:
    """Fill a network so that a difference anywhere reaches the logits.

    The networks' own initial values let the picture fade to nothing on its way; here every convolution nearly keeps the
    variance, and every BatchNorm has statistics and parameters far from the zeros and ones it was born with.
    """
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, math.sqrt(1.2 / fan_in), generator=generator)
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.7, 1.5, generator=generator)
                module.bias.uniform_(-0.5, 1.0, generator=generator)
                module.running_mean.uniform_(-0.3, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network


@pytest.fixture(scope="session")
def lived_in() -> Callable[[nn.Module], nn.Module]:
    return lived_in_network
