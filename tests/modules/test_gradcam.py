from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fusiform.errors import UsageError
from fusiform.modules import build_network
from fusiform.modules.gradcam import grad_cam
from fusiform.zoo.load import load_state


@pytest.fixture(params=["mobilenet_v2", "shufflenet_v2"])
def network(request: pytest.FixtureRequest, small_spec: Callable[..., Any], lived_in_state: Callable[..., Any]) -> Any:
    spec = small_spec(request.param, size=96)
    network = build_network(spec)
    load_state(network, lived_in_state(spec), source="test")
    return network.eval()


def by_gradients(network: Any, pictures: torch.Tensor, classes: list[int]) -> torch.Tensor:
    """Equations 1 and 2 of the paper, with the gradients that PyTorch computes."""
    kept: list[torch.Tensor] = []
    last = network.features[-1] if hasattr(network, "features") else network.conv5
    with_map = last.register_forward_hook(lambda _module, _given, made: kept.append(made))
    logits = network(pictures)
    with_map.remove()
    (gradient,) = torch.autograd.grad(logits[range(len(classes)), classes].sum(), kept[0])
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (weights * kept[0]).sum(1).relu().detach()


def test_equal_to_the_papers_gradients(network: Any) -> None:
    pictures = torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(3))
    classes = [0, 7, 3]
    heat, expected = grad_cam(network, pictures, classes), by_gradients(network, pictures, classes)
    assert heat.shape == (3, 3, 3)
    hottest = expected.amax(dim=(1, 2), keepdim=True)
    assert (hottest > 0).any()  # else the comparison would be of zeros
    torch.testing.assert_close(heat, expected / hottest.clamp(min=1e-30), rtol=1e-4, atol=1e-5)


def test_nothing_speaks_for_a_class_that_only_has_negative_weights(network: Any) -> None:
    linear = network.classifier[-1] if hasattr(network, "classifier") else network.fc
    with torch.no_grad():
        linear.weight[4] = -1
    heat = grad_cam(network, torch.ones(1, 3, 96, 96), [4])
    assert heat.eq(0).all()


def test_wrong_use_is_refused(network: Any) -> None:
    with pytest.raises(UsageError, match="2 classes for 1 pictures"):
        grad_cam(network, torch.zeros(1, 3, 96, 96), [0, 1])
    with pytest.raises(UsageError, match="training mode"):
        grad_cam(network.train(), torch.zeros(1, 3, 96, 96), [0])
