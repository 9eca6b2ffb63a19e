"""Features computed in shares, one a thread, against the plain network."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusiform.modules import MobileNetV2, ShuffleNetV2
from fusiform.training.fused import fuse
from fusiform.training.shares import _applies, share

NETWORKS: dict[str, Callable[[], MobileNetV2 | ShuffleNetV2]] = {
    "mobilenet_v2": lambda: MobileNetV2(0.35, 10, dropout=0.0),
    "shufflenet_v2": lambda: ShuffleNetV2(0.5, 10),
}


@pytest.fixture
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    made = NETWORKS[request.param]()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.uniform_(-0.5, 1.0)
            module.eval()
    return made


def step(network: nn.Module, x: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
    network.zero_grad()
    logits = network(x)
    F.cross_entropy(logits, labels).backward()
    return logits.detach(), {name: p.grad for name, p in network.named_parameters()}


@pytest.mark.parametrize("network", NETWORKS, indirect=True)
@pytest.mark.parametrize("count", [2, 5, 8])
@pytest.mark.parametrize("quick", [False, True])
def test_outputs_and_gradients_are_the_plain_networks(network: nn.Module, count: int, quick: bool) -> None:
    plain = network.double()
    shared = share(copy.deepcopy(plain), 3)  # 2 images in 3 threads, and shares that are not equal
    if quick:
        fuse(shared)
    x, labels = torch.randn(count, 3, 64, 64, dtype=torch.float64), torch.arange(count)
    assert _applies(shared, x)
    expected, gradients = step(plain, x, labels)
    logits, found = step(shared, x, labels)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found, gradients, rtol=1e-7, atol=1e-10)
    assert [*shared.state_dict()] == [*plain.state_dict()]


@pytest.mark.parametrize("network", NETWORKS, indirect=True)
def test_a_step_is_repeated_to_the_bit_also_in_bfloat16(network: nn.Module) -> None:
    shared = share(fuse(network), 4)
    x, labels = torch.randn(8, 3, 64, 64), torch.arange(8)
    with torch.autocast("cpu", torch.bfloat16):
        first, second = step(shared, x, labels), step(copy.deepcopy(shared), x, labels)
        assert shared.forward_features(x).dtype is torch.bfloat16  # the threads have the mode of the one that asks
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("network", ["mobilenet_v2"], indirect=True)
def test_frozen_stages_get_no_gradient(network: nn.Module) -> None:
    shared = share(network, 2)
    for stage in shared.stages()[:4]:
        stage.requires_grad_(False)
    _, gradients = step(shared, torch.randn(4, 3, 64, 64), torch.arange(4))
    without = {name for name, gradient in gradients.items() if gradient is None}
    assert without == {name for name, p in shared.named_parameters() if not p.requires_grad} != set()


@pytest.mark.parametrize("network", ["mobilenet_v2"], indirect=True)
def test_the_plain_network_runs_where_shares_would_change_the_answer(network: nn.Module) -> None:
    shared, x = share(network, 2), torch.randn(2, 3, 64, 64)
    assert _applies(shared, x)
    assert not _applies(shared, x[:1])
    with torch.no_grad():
        assert not _applies(shared, x)
    assert not _applies(copy.deepcopy(shared).eval(), x)
    shared.train()  # each batch normalisation takes the statistics of the whole batch
    assert not _applies(shared, x)
    assert type(share(MobileNetV2(0.35), 1)) is MobileNetV2
    assert type(share(nn.Sequential(), 4)) is nn.Sequential


@pytest.mark.parametrize("network", ["shufflenet_v2"], indirect=True)
def test_what_fails_in_a_thread_fails_the_step(network: nn.Module) -> None:
    with pytest.raises(RuntimeError, match="channels"):
        share(network, 2)(torch.randn(4, 5, 64, 64))


@pytest.mark.parametrize("network", ["mobilenet_v2"], indirect=True)
def test_the_threads_of_others_stay_as_many(network: nn.Module) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        step(share(network, 2), torch.randn(4, 3, 64, 64), torch.arange(4))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("set_before", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_waiting_threads_are_set_before_pytorch_is_loaded(set_before: dict[str, str], expected: str) -> None:
    program = """
import json, os, sys
for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
    os.environ.pop(name, None)
os.environ.update(json.loads(sys.argv[1]))
before = os.environ.copy()
import fusiform
assert os.environ == before  # importing the package changes nothing for other programs
import fusiform.training.loop
print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)
"""
    command = [sys.executable, "-c", program, json.dumps(set_before)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == [expected, "True"]
