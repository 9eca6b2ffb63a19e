"""Scripted, traced, exported and compiled, the networks answer as they do eagerly."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from fusiform.modules import MobileNetV2, ShuffleNetV2

# Newer PyTorch deprecates torch.jit; the hub pages promise scriptable networks all the same.
jit_is_deprecated = pytest.mark.filterwarnings("ignore:`torch.jit")
SIZES = [(2, 64, 64), (1, 65, 98)]


@pytest.fixture(
    scope="module",
    params=[(n, p) for n in (MobileNetV2, ShuffleNetV2) for p in ("symmetric", "same")],
    ids=lambda param: f"{param[0].__name__}-{param[1]}",
)
def network(request, lived_in) -> nn.Module:
    architecture, padding = request.param
    return lived_in(architecture(0.5, 10, padding=padding)).eval()


def assert_agrees(compiled, network: nn.Module, *sizes: tuple[int, int, int], atol: float = 1e-5) -> None:
    with torch.inference_mode():
        for batch, height, width in sizes:
            pictures = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(6))
            torch.testing.assert_close(compiled(pictures), network(pictures), rtol=0, atol=atol)


@jit_is_deprecated
def test_script(network):
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(network), file)
    file.seek(0)
    scripted = torch.jit.load(file)
    assert_agrees(scripted, network, *SIZES)
    pictures = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected, actual = network.forward_stages(pictures), scripted.forward_stages(pictures)
    assert set(actual) == set(expected)
    for name, feature in expected.items():
        torch.testing.assert_close(actual[name], feature, rtol=0, atol=1e-4)


@jit_is_deprecated
def test_script_trains(network):
    scripted = torch.jit.script(type(network)(0.5, 10, dropout=0.0).train())
    scripted(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(parameter.grad is not None for parameter in scripted.parameters())


@jit_is_deprecated
def test_trace_holds_for_other_sizes(network):
    traced = torch.jit.trace(network, torch.randn(2, 3, 64, 64))
    assert_agrees(traced, network, *SIZES)


# Under the same rule both axes at once take the exporter's symbolic arithmetic several seconds.
@pytest.mark.parametrize("axes", [(0, 2), pytest.param((0, 2, 3), marks=pytest.mark.slow)], ids=["height", "both"])
def test_export(network, axes):
    example = torch.randn(2, 3, 96, 98)
    dynamic = dict.fromkeys(axes, torch.export.Dim.AUTO)
    exported = torch.export.export(network, (example,), dynamic_shapes=(dynamic,))
    sizes = [(1, 65, 98), (3, 128, 98)] if axes == (0, 2) else [(1, 65, 98), (3, 128, 33)]
    assert_agrees(exported.module(), network, *sizes)


def test_compile(network):
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True, dynamic=False)
    assert_agrees(compiled, network, SIZES[1])


def test_compile_features(lived_in):
    """MobileNetV2 alone: ShuffleNetV2's forward is made of its forward_stages."""
    network = lived_in(MobileNetV2(0.5, 10, padding="same")).eval()
    torch._dynamo.reset()
    compiled = torch.compile(network.forward_stages, backend="eager", fullgraph=True, dynamic=False)
    pictures = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected, actual = network.forward_stages(pictures), compiled(pictures)
    assert list(actual) == list(expected)
    for name, feature in expected.items():
        torch.testing.assert_close(actual[name], feature, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_compile_with_inductor(network):
    torch._dynamo.reset()
    assert_agrees(torch.compile(network, fullgraph=True), network, SIZES[0], atol=1e-4)


@jit_is_deprecated
@pytest.mark.parametrize("architecture", [MobileNetV2, ShuffleNetV2])
def test_script_dilated(architecture, lived_in):
    network = lived_in(architecture(0.5, 10, output_stride=8)).eval()
    assert_agrees(torch.jit.script(network), network, SIZES[0])
