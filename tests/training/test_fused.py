"""The quick training step against PyTorch's own operators on the same network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fusiform.modules import MobileNetV2, ShuffleNetV2
from fusiform.modules.layers import conv3x3
from fusiform.spec import Padding
from fusiform.training import fused
from fusiform.training.fused import fuse

NETWORKS: dict[str, Callable[..., MobileNetV2 | ShuffleNetV2]] = {
    "mobilenet_v2": lambda **more: MobileNetV2(0.35, 10, dropout=0.0, **more),
    "shufflenet_v2": lambda **more: ShuffleNetV2(0.5, 10, **more),
}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small enough that even these small batches are cut."""
    monkeypatch.setattr(fused, "_PIECE", 2**14)
    torch.manual_seed(0)


def lived_in(network: nn.Module) -> nn.Module:
    """Weights such that the picture does not fade on its way."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight.normal_(0, math.sqrt(1.2 / module.weight[0].numel()))
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.7, 1.5)
                module.bias.uniform_(-0.5, 1.0)
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 1.5)
    return network


def freeze_norms(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def step(network: nn.Module, x: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    network.zero_grad()
    loss = F.cross_entropy(network(x), labels)
    loss.backward()
    return loss.detach(), [None if p.grad is None else p.grad.clone() for p in network.parameters()]


def distance(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach(), expected.detach()
    return float((found.double() - expected.double()).norm() / (expected.double().norm() + 1e-12))


def used(network: nn.Module) -> int:
    return sum(isinstance(module, fused._FusedSequential) for module in network.modules())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_float64_shows_the_same_mathematics(name: str, frozen: bool, padding: Padding) -> None:
    # In float64, because ReLU6 flips at its corners where float32 rounds, and such a flip is not an error.
    plain = lived_in(NETWORKS[name](padding=padding)).double()
    quick = fuse(copy.deepcopy(plain))
    x, labels = torch.randn(6, 3, 65, 64, dtype=torch.float64), torch.randint(0, 10, (6,))
    if frozen:
        freeze_norms(plain)
        freeze_norms(quick)
    loss, gradients = step(plain, x, labels)
    quick_loss, quick_gradients = step(quick, x, labels)
    torch.testing.assert_close(quick_loss, loss, rtol=1e-10, atol=0)
    for found, expected in zip(quick_gradients, gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    for (key, found), expected in zip(quick.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10, msg=key)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["expand", "project", "depthwise", "dense"]),
    stride=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 2]),
    padding=st.sampled_from(["symmetric", "same"]),
    activation=st.sampled_from([None, nn.ReLU, nn.ReLU6]),
    frozen=st.booleans(),
    size=st.tuples(st.integers(2, 5), st.integers(4, 11), st.integers(4, 11)),
    seed=st.integers(0, 999),
)
def test_a_layer_in_float32(
    kind: str,
    stride: int,
    dilation: int,
    padding: Padding,
    activation: type[nn.Module] | None,
    frozen: bool,
    size: tuple[int, int, int],
    seed: int,
) -> None:
    torch.manual_seed(seed)
    inputs, outputs = {"expand": (8, 48), "project": (24, 8), "depthwise": (16, 16), "dense": (3, 8)}[kind]
    if kind in ("expand", "project"):
        conv: nn.Conv2d = nn.Conv2d(inputs, outputs, 1, bias=False)
    else:
        # Strides and dilation do not come together in these networks.
        dilation = 1 if stride == 2 else dilation
        groups = inputs if kind == "depthwise" else 1
        conv = conv3x3(inputs, outputs, stride, padding=padding, dilation=dilation, groups=groups)
    plain = nn.Sequential(nn.Sequential(conv, nn.BatchNorm2d(outputs), *([activation()] if activation else [])))
    lived_in(plain)
    quick = fuse(copy.deepcopy(plain))
    assert used(quick) == 1
    if frozen:
        freeze_norms(plain)
        freeze_norms(quick)
    x = torch.randn(size[0], inputs, *size[1:])
    given_plain, given_quick = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, found = plain(given_plain), quick(given_quick)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
    # A value that rounds to the other side of a corner of ReLU6 has another gradient: those places take no part.
    weight = torch.randn_like(expected) * ((expected - 0).abs() > 1e-4) * ((expected - 6).abs() > 1e-4)
    expected.backward(weight)
    found.backward(weight)
    pairs = [(given_quick, given_plain), *zip(quick.parameters(), plain.parameters(), strict=True)]
    for one, other in pairs:
        assert distance(one.grad, other.grad) < 1e-4
    for one, other in zip(quick.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("frozen", [False, True])
def test_bfloat16_is_as_near_to_float32_as_the_plain_network(name: str, frozen: bool) -> None:
    plain = lived_in(NETWORKS[name]())
    x, labels = torch.randn(16, 3, 64, 64), torch.randint(0, 10, (16,))
    networks = {"exact": plain, "plain": copy.deepcopy(plain), "quick": fuse(copy.deepcopy(plain))}
    outputs, statistics = {}, {}
    for key, network in networks.items():
        if frozen:
            freeze_norms(network)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=key != "exact"):
            outputs[key] = network(x)
        F.cross_entropy(outputs[key].float(), labels).backward()
        statistics[key] = torch.cat([buffer.flatten().double() for buffer in network.buffers()])
        assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
    assert outputs["quick"].dtype == torch.bfloat16
    for found in (outputs, statistics):
        assert distance(found["quick"], found["exact"]) <= 1.5 * distance(found["plain"], found["exact"]) + 1e-6


def test_bfloat16_relu6_clamps_every_number() -> None:
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    x = x[~x.isnan()]
    assert torch.equal(fused._clamp_(x.clone(), 6.0), F.relu6(x))
    assert torch.equal(fused._clamp_(x.clone(), math.inf), F.relu(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_twenty_steps_lose_alike(name: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        plain = lived_in(NETWORKS[name]())
        x, labels = torch.randn(48, 3, 32, 32), torch.randint(0, 10, (48,))
    finally:
        torch.set_default_dtype(torch.float32)
    curves = []
    for network in (plain, fuse(copy.deepcopy(plain))):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9)
        losses = []
        for i in range(20):
            part = slice(i % 3 * 16, i % 3 * 16 + 16)
            losses.append(step(network, x[part], labels[part])[0])
            optimizer.step()
        curves.append(torch.stack(losses))
    torch.testing.assert_close(curves[1], curves[0], rtol=1e-5, atol=1e-7)
    assert curves[0][-5:].mean() < curves[0][:5].mean()


@pytest.mark.parametrize("name", NETWORKS)
def test_nobody_else_notices(name: str) -> None:
    plain = lived_in(NETWORKS[name]())
    quick = copy.deepcopy(plain)
    parameters = {key: id(parameter) for key, parameter in quick.named_parameters()}
    assert fuse(quick) is quick
    assert used(quick) > 10
    assert used(copy.deepcopy(quick)) == used(quick)
    assert {key: id(parameter) for key, parameter in quick.named_parameters()} == parameters
    assert list(quick.state_dict()) == list(plain.state_dict())
    quick.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(quick.eval()(x), plain.eval()(x))
    for key, expected in plain.forward_stages(x).items():
        assert torch.equal(quick.forward_stages(x)[key], expected)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("frozen", [False, True])
def test_stages_that_do_not_learn(name: str, frozen: bool) -> None:
    plain = lived_in(NETWORKS[name]()).double()
    parameters = list(plain.parameters())
    for parameter in parameters[: len(parameters) // 2]:
        parameter.requires_grad_(False)
    quick = fuse(copy.deepcopy(plain))
    if frozen:
        freeze_norms(plain)
        freeze_norms(quick)
    x, labels = torch.randn(4, 3, 64, 64, dtype=torch.float64), torch.randint(0, 10, (4,))
    gradients, quick_gradients = step(plain, x, labels)[1], step(quick, x, labels)[1]
    assert gradients[0] is None
    for found, expected in zip(quick_gradients, gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_distributed(tmp_path: Path) -> None:
    plain = lived_in(NETWORKS["mobilenet_v2"]()).double()
    quick = fuse(copy.deepcopy(plain))
    x, labels = torch.randn(4, 3, 64, 64, dtype=torch.float64), torch.randint(0, 10, (4,))
    expected = step(plain, x, labels)[1]
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        found = step(nn.parallel.DistributedDataParallel(quick), x, labels)[1]
    finally:
        dist.destroy_process_group()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def test_one_value_a_channel_is_refused_as_by_pytorch() -> None:
    for inputs, outputs in ((8, 16), (16, 8)):
        network = nn.Sequential(nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)))
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            fuse(network)(torch.randn(1, inputs, 1, 1))


def test_what_is_not_its_business_stays_plain() -> None:
    biased = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    averaged = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8, momentum=None))
    reflected = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect", bias=False), nn.BatchNorm2d(8))
    assert used(fuse(nn.Sequential(biased, averaged, reflected))) == 0


@pytest.mark.parametrize("network", [MobileNetV2, ShuffleNetV2])
def test_no_convolution_of_the_networks_is_left_out(network: type[MobileNetV2] | type[ShuffleNetV2]) -> None:
    quick = fuse(network())
    parents = {module: parent for parent in quick.modules() for module in parent.children()}
    convolutions = [module for module in quick.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) >= 50
    assert all(isinstance(parents[module], fused._FusedSequential) for module in convolutions)
