from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fusiform.errors import UsageError
from fusiform.modules import build_network
from fusiform.spec import ModelSpec
from fusiform.training.batch_norm import is_folded, unfold
from fusiform.zoo.load import load_state

State = dict[str, NDArray[Any]]
ARCHITECTURES = ["mobilenet_v2", "shufflenet_v2"]


def fold(network: nn.Module, *, variance: float = 1 - 1e-5) -> None:
    """Multiply every batch normalisation into the convolution before it, by way of the order of the modules."""
    modules = list(network.modules())
    for conv, norm in itertools.pairwise(modules):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            with torch.no_grad():
                scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
                conv.weight *= scale[:, None, None, None]
                norm.bias -= norm.running_mean * scale
                norm.weight.fill_(1)
                norm.running_mean.zero_()
                norm.running_var.fill_(variance)


def folded_network(architecture: Any, small_spec: Any, lived_in_state: Any) -> nn.Module:
    spec = small_spec(architecture)
    network = build_network(spec, dropout=0.0)
    load_state(network, lived_in_state(spec), source="the test")
    fold(network)
    return network.eval()


def pictures(count: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def answers(network: nn.Module, batch: torch.Tensor, *, train: bool) -> torch.Tensor:
    network.train(train)
    saved = {name: value.clone() for name, value in network.state_dict().items()}
    logits: torch.Tensor = network(batch)
    network.load_state_dict(saved)
    network.eval()
    return logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_unfolding_changes_no_answer_and_lets_training_start_there(
    architecture: Any, small_spec: Callable[..., ModelSpec], lived_in_state: Callable[..., State]
) -> None:
    network = folded_network(architecture, small_spec, lived_in_state)
    batch = pictures()
    expected = answers(network, batch, train=False)
    spread = expected.std()
    assert (answers(network, batch, train=True) - expected).std() > 0.3 * spread  # what unfolding is for

    unfold(network, batch.split(20))
    other = pictures(seed=1)
    torch.testing.assert_close(answers(network, batch, train=False), expected, rtol=1e-4, atol=1e-4)
    assert (answers(network, batch, train=True) - expected).std() < 0.02 * spread
    assert not is_folded(network)
    fresh = answers(network, other, train=False)
    fold(network)
    torch.testing.assert_close(answers(network, other, train=False), fresh, rtol=1e-4, atol=1e-4)


def test_the_statistics_are_those_of_all_pictures() -> None:
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.bias.fill_(2)
    batch = (
        pictures(30) * torch.tensor([1.0, 5.0, 0.01])[:, None, None] + torch.tensor([100.0, -3.0, 0.5])[:, None, None]
    )
    unfold(norm, batch.split(7))
    values = batch.numpy().astype(np.float64)
    np.testing.assert_allclose(norm.running_mean.numpy(), values.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(norm.running_var.numpy(), values.var((0, 2, 3)), rtol=1e-4)
    # By hand: weight sqrt((v + eps) / (1 + eps)), bias 2 + m / sqrt(1 + eps).
    np.testing.assert_allclose(
        norm.weight.detach().numpy(), np.sqrt((values.var((0, 2, 3)) + 1e-5) / (1 + 1e-5)), rtol=1e-4
    )
    np.testing.assert_allclose(norm.bias.detach().numpy(), 2 + values.mean((0, 2, 3)) / np.sqrt(1 + 1e-5), rtol=1e-5)


def test_a_channel_that_never_varies_stays_what_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
    with torch.no_grad():
        network[0].weight[2] = 0
        network[1].bias.copy_(torch.tensor([0.5, -0.5, 0.25, 0.0]))
    network.eval()
    batch = pictures()
    expected = network(batch)
    unfold(network, [batch])
    for train in (False, True):
        answer = answers(network, batch, train=train)
        torch.testing.assert_close(answer, expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(answer[:, 2], torch.full_like(answer[:, 2], 0.25))
    network.train()
    network(batch).square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def test_every_module_keeps_its_mode_and_no_hook_stays() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    network.train()
    network[1].eval()
    unfold(network, [pictures(4)])
    assert [module.training for module in network.modules()] == [True, True, False, True]

    def broken() -> Any:
        yield pictures(4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unfold(network, broken())
    assert [module.training for module in network.modules()] == [True, True, False, True]
    assert not network[1]._forward_pre_hooks


def test_no_pictures_are_told() -> None:
    norm = nn.BatchNorm2d(3)
    with pytest.raises(UsageError, match="there are none"):
        unfold(norm, [])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("variance", [1.0, 1 - 1e-5])
def test_folded_weights_are_recognised(
    architecture: Any,
    variance: float,
    small_spec: Callable[..., ModelSpec],
    lived_in_state: Callable[..., State],
) -> None:
    spec = small_spec(architecture)
    network = build_network(spec)
    assert not is_folded(network)  # never trained
    state = lived_in_state(spec)
    load_state(network, state, source="the test")
    assert not is_folded(network)
    assert not is_folded(state)
    fold(network, variance=variance)
    assert is_folded(network)
    assert is_folded({name: value.numpy() for name, value in network.state_dict().items()})
    one = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    one.running_var[0] = 0.9
    assert not is_folded(network)


def test_a_network_without_batch_normalisation_is_not_folded() -> None:
    assert not is_folded(nn.Linear(2, 2))
    assert not is_folded({})
