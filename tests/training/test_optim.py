from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fusiform.errors import UsageError
from fusiform.modules import build_network
from fusiform.spec import ModelSpec
from fusiform.training.optim import CentredAdamW, RMSpropTF, make_optimizer
from fusiform.training.recipe import Recipe

PLAIN = Recipe("plain", 10, lr=0.5, weight_decay=0.01, backbone_lr=0.1)


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
def test_groups_of_a_real_network(architecture: Any, small_spec: Callable[..., ModelSpec]) -> None:
    network = build_network(small_spec(architecture))
    head = network.classifier if architecture == "mobilenet_v2" else network.fc
    for parameter in network.parameters():
        parameter.requires_grad_(False)  # what is frozen now may learn later
    optimizer = make_optimizer(network, PLAIN, head=head.parameters())

    group_of = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
    norms = {id(p) for module in network.modules() if isinstance(module, nn.BatchNorm2d) for p in module.parameters()}
    in_head = {id(parameter) for parameter in head.parameters()}
    for name, parameter in network.named_parameters():
        group = group_of[id(parameter)]
        assert group["lr_scale"] == (1.0 if id(parameter) in in_head else 0.1), name
        assert group["lr"] == 0.5 * group["lr_scale"], name
        decays = id(parameter) not in norms and not name.endswith("bias")
        assert group["weight_decay"] == (0.01 if decays else 0.0), name


def test_all_decays_where_the_recipe_says_so() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    optimizer = make_optimizer(network, dataclasses.replace(PLAIN, decay_norms_and_biases=True), head=[])
    (group,) = optimizer.param_groups
    assert (len(group["params"]), group["weight_decay"]) == (4, 0.01)


def test_each_optimizer_has_the_recipes_numbers() -> None:
    network = nn.Linear(2, 2)
    recipe = dataclasses.replace(PLAIN, momentum=0.8, eps=1e-3, rmsprop_decay=0.7, nesterov=True)

    def group(optimizer: Any) -> Any:
        made = make_optimizer(network, dataclasses.replace(recipe, optimizer=optimizer), head=[])
        return type(made), made.param_groups[0]

    kind, sgd = group("sgd")
    assert (kind, sgd["momentum"], sgd["nesterov"]) == (torch.optim.SGD, 0.8, True)
    kind, adamw = group("adamw")
    assert (kind, adamw["betas"], adamw["eps"]) == (torch.optim.AdamW, (0.8, 0.999), 1e-3)
    kind, rmsprop = group("rmsprop")
    assert (kind, rmsprop["momentum"], rmsprop["decay"], rmsprop["eps"]) == (RMSpropTF, 0.8, 0.7, 1e-3)


def tensorflow_rmsprop(
    weight: float, gradients: list[float], rates: list[float], *, decay: float, momentum: float, eps: float, l2: float
) -> list[float]:
    """The lines in the documentation of tf.compat.v1.train.RMSPropOptimizer, with an L2 term in the loss."""
    mean_square, mom = 1.0, 0.0
    weights = []
    for gradient, rate in zip(gradients, rates, strict=True):
        g = gradient + l2 * weight
        mean_square = decay * mean_square + (1 - decay) * g**2
        mom = momentum * mom + rate * g / np.sqrt(mean_square + eps)
        weight -= mom
        weights.append(weight)
    return weights


@pytest.mark.parametrize(("momentum", "eps", "l2"), [(0.9, 1.0, 0.0), (0.9, 1e-3, 0.1), (0.0, 1e-10, 0.0)])
def test_rmsprop_is_tensorflows(momentum: float, eps: float, l2: float) -> None:
    gradients, rates = [0.5, -2.0, 0.0, 3.0, 0.1], [0.1, 0.1, 0.05, 0.02, 0.02]
    weight = nn.Parameter(torch.tensor([0.7], dtype=torch.float64))
    optimizer = RMSpropTF([weight], 0.1, momentum=momentum, decay=0.9, eps=eps, weight_decay=l2)
    trace = []
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        trace.append(weight.item())
    expected = tensorflow_rmsprop(0.7, gradients, rates, decay=0.9, momentum=momentum, eps=eps, l2=l2)
    assert trace == pytest.approx(expected, rel=1e-12)


def test_the_first_step_of_rmsprop_by_hand() -> None:
    # Mean square 0.9 + 0.1 * 4 = 1.3, and 1.3 + 1.26 = 1.6 squared: 1 - 0.8 * 2 / 1.6 = 0.
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = RMSpropTF([weight], 0.8, decay=0.9, eps=1.26)
    assert optimizer.step(lambda: float((2 * weight).sum().backward() or 2.0)) == 2.0
    assert weight.item() == pytest.approx(0.0, abs=1e-12)


def test_a_parameter_without_gradient_stays() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = RMSpropTF([weight], 0.1, weight_decay=0.1)
    optimizer.step()
    assert weight.tolist() == [1, 1]


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
def test_a_restored_optimizer_goes_on_as_if_nothing_had_happened(name: Any, tmp_path: Any) -> None:
    def steps(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        for i in range(3):
            optimizer.zero_grad()
            x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed + i))
            network(x).square().sum().backward()
            optimizer.step()

    recipe = dataclasses.replace(PLAIN, optimizer=name, lr=0.01)
    torch.manual_seed(0)
    first = nn.Linear(3, 2)
    optimizer = make_optimizer(first, recipe, head=first.parameters())
    steps(first, optimizer, 0)
    torch.save({"network": first.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")

    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    second = nn.Linear(3, 2)
    second.load_state_dict(saved["network"])
    restored = make_optimizer(second, recipe, head=second.parameters())
    restored.load_state_dict(saved["optimizer"])
    steps(first, optimizer, 9)
    steps(second, restored, 9)
    torch.testing.assert_close(dict(second.state_dict()), dict(first.state_dict()), rtol=0, atol=0)
    assert [group["lr_scale"] for group in restored.param_groups] == [1.0, 1.0]


def test_centred_steps_leave_each_channels_sum_of_weights() -> None:
    torch.manual_seed(0)
    network = nn.ModuleList([nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Linear(4, 2)])
    plain = copy.deepcopy(network)
    recipe = dataclasses.replace(PLAIN, optimizer="adamw", lr=1e-3, backbone_lr=1.0, weight_decay=0.0)
    sums = network[0].weight.detach().sum((1, 2, 3))
    for one, made in ((network, dataclasses.replace(recipe, centre_steps=True)), (plain, recipe)):
        optimizer = make_optimizer(one, made, head=[])
        assert isinstance(optimizer, CentredAdamW) == made.centre_steps
        # Of positive inputs the gradient has one sign, and every weight moves by the whole rate.
        pointwise, depthwise, linear = one
        loss = pointwise(torch.rand(4, 8, 5, 5)).sum() + depthwise(torch.rand(4, 4, 5, 5)).sum()
        (loss + linear(torch.rand(4, 4)).sum()).backward()
        optimizer.step()
    torch.testing.assert_close(network[0].weight.sum((1, 2, 3)), sums)
    torch.testing.assert_close(plain[0].weight.sum((1, 2, 3)), sums - 8 * 0.001)
    for own, other in zip(list(network.parameters())[1:], list(plain.parameters())[1:], strict=True):
        torch.testing.assert_close(own, other)


def test_centred_steps_are_of_adamw_only() -> None:
    with pytest.raises(UsageError, match="centre_steps is for adamw, not for sgd"):
        dataclasses.replace(PLAIN, centre_steps=True)
