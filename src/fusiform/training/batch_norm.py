"""Batch normalisation that was folded into the convolutions, given back its statistics.

Files for inference hold weights into which each batch normalisation was multiplied; what remains of it is an identity
with a bias. Training from there with the statistics of batches would normalise away what the weights have learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fusiform.errors import InputError


def is_folded(weights: nn.Module | Mapping[str, Any]) -> bool:
    """Whether a network, or a state under its names, has its batch normalisations folded into the convolutions.

    True where every running mean is 0 and every running variance 1 (to a thousandth, since the epsilon may have been
    taken off), but some bias is not 0: a network that was never trained has zeros there. False without any
    batch normalisation.
    """
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    norms = [name.removesuffix(".running_mean") for name in state if name.endswith(".running_mean")]
    return (
        bool(norms)
        and all(float(abs(state[f"{norm}.running_mean"]).max()) < 1e-6 for norm in norms)
        and all(float(abs(state[f"{norm}.running_var"] - 1).max()) < 1e-3 for norm in norms)
        and any(float(abs(state[f"{norm}.bias"]).max()) > 0 for norm in norms)
    )


@torch.no_grad()
def unfold(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give each batch normalisation the statistics of its input on real pictures, without changing the answers.

    ``batches`` are network inputs (N, C, H, W), normalised, on the network's device; some hundreds of pictures do.
    With mean m and variance v of a channel's input, its weight becomes w * sqrt(v + eps) and its bias b + w * m (for
    w and b as they act on the input now), so that in eval mode the network computes what it did before, and in
    training mode nearly so. Since no answer changes, one pass in eval mode sees the input of all of them. A channel
    that hardly varies gets a small weight, and stays as it is in both modes.

    The network is changed in place and its modules keep their modes. Raises UsageError where there are no batches.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    gathered = {norm: _Statistics(norm.num_features) for norm in norms}

    def gather(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        gathered[norm].add(inputs[0])  # type: ignore[index]  # the hook is only on these

    modes = {module: module.training for module in network.modules()}
    hooks = [norm.register_forward_pre_hook(gather) for norm in norms]
    network.eval()
    seen = 0
    try:
        for batch in batches:
            seen += len(batch)
            network(batch)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    if seen == 0:
        raise InputError("batch normalisation needs pictures to take its statistics from, and there are none")

    for norm, statistics in gathered.items():
        mean, variance = statistics.result()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        # On the CPU, because not every device computes in double precision.
        weight, bias, old_mean, old_variance = (
            tensor.cpu().double() for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        )
        scale = weight / torch.sqrt(old_variance + norm.eps)
        norm.bias.copy_(bias + scale * (mean - old_mean))
        norm.weight.copy_(scale * torch.sqrt(variance + norm.eps))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


class _Statistics:
    """The mean and variance of each channel over all that was added, in double precision."""

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._mean = torch.zeros(channels, dtype=torch.float64)
        self._squares = torch.zeros(channels, dtype=torch.float64)  # of the differences from the mean

    def add(self, x: Tensor) -> None:
        count = x.numel() // x.shape[1]
        variance, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
        mean, squares = mean.double().cpu(), variance.double().cpu() * count
        # Chan, Golub and LeVeque's way to join two parts: a plain sum of squares loses small variances.
        difference = mean - self._mean
        total = self._count + count
        self._mean += difference * (count / total)
        self._squares += squares + difference**2 * (self._count * count / total)
        self._count = total

    def result(self) -> tuple[Tensor, Tensor]:
        return self._mean, self._squares / self._count
