"""MobileNetV2 in slices of its expansions gives the answers of MobileNetV2."""

from __future__ import annotations

import io

import pytest
import torch

from fusiform.errors import UsageError
from fusiform.modules import MobileNetV2
from fusiform.modules.split import Layer, in_slices

jit_is_deprecated = pytest.mark.filterwarnings("ignore:`torch.jit")


def pictures(batch=2, height=64, width=64):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(6))


def assert_equal(actual, expected):
    assert expected.std() > 0
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.fixture(scope="module", params=["symmetric", "same"])
def network(request, lived_in):
    return lived_in(MobileNetV2(0.5, 10, padding=request.param)).eval()


@pytest.fixture(autouse=True)
def plain_again(network):
    yield
    network.split_expansion(1).eval()


@pytest.mark.parametrize("slices", [2, 4, 7, 1000])
@pytest.mark.parametrize("size", [(2, 64, 64), (1, 65, 98)])
def test_same_answers(slices, size, network):
    x = pictures(*size)
    with torch.inference_mode():
        assert_equal(network.split_expansion(slices)(x), network.split_expansion(1)(x))


def test_denser_maps(lived_in):
    dense = lived_in(MobileNetV2(0.35, 10, output_stride=8)).eval()
    with torch.inference_mode():
        plain = dense(pictures())
        assert_equal(dense.split_expansion(3)(pictures()), plain)


def test_one_slice_is_the_plain_way_bit_for_bit(network):
    with torch.inference_mode():
        plain = network.classifier(network.features(pictures()).mean((2, 3)))
        assert torch.allclose(network.split_expansion(4).split_expansion(1)(pictures()), plain, rtol=0, atol=1e-6)


def test_the_slices_are_computed(network, monkeypatch):
    """Not the plain way under another name: 17 times, in 3 slices."""
    seen = []

    def counted(x, expand, depthwise, project, slices):
        seen.append(slices)
        return in_slices(x, expand, depthwise, project, slices)

    monkeypatch.setattr("fusiform.modules.mobilenet_v2.in_slices", counted)
    with torch.inference_mode():
        network(pictures())
        assert seen == []
        network.split_expansion(3)(pictures())
    assert seen == [3] * 17


def test_names_and_shapes_of_the_weights_stay(network):
    plain = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in network.split_expansion(4).state_dict().items()} == plain


def test_training_goes_the_plain_way(network):
    """The normalisation sees its batch, and its running statistics move."""
    trained = MobileNetV2(0.35, 10).split_expansion(4).train()
    before = trained.features[2].conv[1][1].running_mean.clone()
    trained(pictures()).sum().backward()
    assert not torch.equal(trained.features[2].conv[1][1].running_mean, before)
    assert all(parameter.grad is not None for parameter in trained.parameters())


def test_gradients_with_frozen_statistics(network):
    gradients = []
    for slices in (1, 4):
        network.split_expansion(slices).zero_grad()
        x = pictures().requires_grad_()
        network(x).square().sum().backward()
        parts = (network.features[2].conv[0][0].weight, network.features[5].conv[1][1].weight)
        gradients.append([x.grad, *(part.grad.clone() for part in parts)])
    for plain, sliced in zip(*gradients, strict=True):
        assert plain.abs().max() > 0
        torch.testing.assert_close(sliced, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))


@jit_is_deprecated
def test_script(network):
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(network.split_expansion(4)), file)
    file.seek(0)
    scripted = torch.jit.load(file)
    assert scripted.expansion_slices == 4
    with torch.inference_mode():
        for size in ((2, 64, 64), (1, 65, 98)):
            assert_equal(scripted(pictures(*size)), network.split_expansion(1)(pictures(*size)))


@jit_is_deprecated
def test_trace(network):
    traced = torch.jit.trace(network.split_expansion(4), pictures())
    with torch.inference_mode():
        assert_equal(traced(pictures(1, 65, 98)), network.split_expansion(1)(pictures(1, 65, 98)))


def test_export(network):
    exported = torch.export.export(network.split_expansion(3), (pictures(),)).module()
    with torch.inference_mode():
        assert_equal(exported(pictures()), network.split_expansion(1)(pictures()))


def test_a_block_by_hand():
    """Two channels of ones and twos, a depthwise window with a 1 in the middle, and their sum, clipped at 6."""
    ones = torch.ones(2)

    def layer(weight, shift, padding):
        return Layer(torch.as_tensor(weight), ones[: len(shift)], torch.as_tensor(shift), len(shift), 1, padding, 1)

    middle = torch.zeros(2, 1, 3, 3)
    middle[:, 0, 1, 1] = 1
    expand = layer([[[[1.0]]], [[[2.0]]]], [0.0, 0.5], 0)
    project = layer([[[[1.0]], [[1.0]]]], [0.25], 0)
    x = torch.full((1, 1, 3, 3), 4.0)
    for slices in (1, 2):  # 4 and 8.5, which becomes 6
        y = in_slices(x, expand, layer(middle, [0.0, 0.0], 1), project, slices)
        torch.testing.assert_close(y, torch.full((1, 1, 3, 3), 4 + 6 + 0.25))


@pytest.mark.parametrize("slices", [0, -1, 2.0, True, "4"])
def test_wrong_slices(slices, network):
    with pytest.raises(UsageError, match="slices must be a whole number, 1 or more"):
        network.split_expansion(slices)
