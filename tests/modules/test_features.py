"""Named intermediate maps, and the output strides that make them denser."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fusiform.modules import MobileNetV2, ShuffleNetV2
from fusiform.tables import trade_strides

STRIDES = {
    MobileNetV2: {
        "stride_4": 4,
        "stride_8": 8,
        "stride_16": 16,
        "expansion_13": 16,
        "stride_32": 32,
        "bottleneck_17": 32,
        "last": 32,
    },
    ShuffleNetV2: {"stride_4": 4, "stride_8": 8, "stride_16": 16, "stride_32": 32, "last": 32},
}
both_networks = pytest.mark.parametrize("network", [MobileNetV2, ShuffleNetV2])


def features_of(network: nn.Module, height: int = 64, width: int = 64) -> dict[str, torch.Tensor]:
    pictures = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        return network.eval().forward_stages(pictures)


def test_channels_are_the_papers():
    assert MobileNetV2().feature_channels == {
        "stride_4": 24,
        "stride_8": 32,
        "stride_16": 96,
        "expansion_13": 576,
        "stride_32": 320,
        "bottleneck_17": 320,
        "last": 1280,
    }
    assert ShuffleNetV2().feature_channels == {
        "stride_4": 24,
        "stride_8": 116,
        "stride_16": 232,
        "stride_32": 464,
        "last": 1024,
    }


@both_networks
@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (33, 97)])
def test_names_channels_and_sides(network, padding, output_stride, height, width):
    backbone = network(0.5, 10, padding=padding, output_stride=output_stride)
    features = features_of(backbone, height, width)
    assert list(features) == list(STRIDES[network]) == list(backbone.feature_channels)
    for name, stride in STRIDES[network].items():
        seen = min(stride, output_stride)
        sides = (math.ceil(height / seen), math.ceil(width / seen))
        assert features[name].shape == (2, backbone.feature_channels[name], *sides), name


@both_networks
@pytest.mark.parametrize("width", [0.5, 2.0])
def test_channels_follow_the_width(network, width):
    backbone = network(width, 10)
    assert {k: v.shape[1] for k, v in features_of(backbone, 32, 32).items()} == backbone.feature_channels


def test_mobilenet_features_are_the_layers_they_name(lived_in):
    network = lived_in(MobileNetV2(0.5, 10))
    seen = {}
    layers = {
        "stride_4": network.features[3],
        "stride_8": network.features[6],
        "stride_16": network.features[13],
        "expansion_13": network.features[14].conv[0],
        "stride_32": network.features[17],
        "bottleneck_17": network.features[17],
        "last": network.features[18],
    }
    for name, layer in layers.items():
        layer.register_forward_hook(lambda _, x, y, name=name: seen.__setitem__(name, y.clone()))
    pictures = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        logits = network.eval()(pictures)
        from_forward = dict(seen)
        features = network.forward_stages(pictures)
        for name in layers:
            assert torch.equal(features[name], from_forward[name]), name
        assert torch.equal(network.classifier(features["last"].mean([2, 3])), logits)
    assert features["expansion_13"].min() == 0
    assert features["expansion_13"].max() == 6
    assert features["bottleneck_17"].min() < 0


def test_shufflenet_features_are_the_layers_they_name(lived_in):
    network = lived_in(ShuffleNetV2(0.5, 10))
    features = features_of(network)
    seen = {}
    layers = {
        "stride_4": network.maxpool,
        "stride_8": network.stage2,
        "stride_16": network.stage3,
        "stride_32": network.stage4,
        "last": network.conv5,
    }
    for name, layer in layers.items():
        layer.register_forward_hook(lambda _, x, y, name=name: seen.__setitem__(name, y.clone()))
    features_of(network)
    for name in layers:
        assert torch.equal(features[name], seen[name]), name


@both_networks
def test_gradients_reach_the_stem_from_every_feature(network):
    backbone = network(0.5, 10).train()
    features = backbone.forward_stages(torch.randn(2, 3, 64, 64))
    stem = next(backbone.parameters())
    for name, feature in features.items():
        (gradient,) = torch.autograd.grad(feature.square().mean(), stem, retain_graph=True)
        assert gradient.abs().max() > 0, name


def test_trade_strides():
    strides = [2, 1, 2, 1, 2, 1]
    assert trade_strides(strides, 4, 32) == [(2, 1), (1, 1), (2, 1), (1, 1), (2, 1), (1, 1)]
    assert trade_strides(strides, 4, 16) == [(2, 1), (1, 1), (2, 1), (1, 1), (1, 1), (1, 2)]
    assert trade_strides(strides, 4, 8) == [(2, 1), (1, 1), (1, 1), (1, 2), (1, 2), (1, 4)]


# Width 0.1 makes every row of MobileNetV2 eight channels wide, where a block that gave up its stride could wrongly
# gain a shortcut.
@pytest.mark.parametrize(("network", "width"), [(MobileNetV2, 0.1), (MobileNetV2, 0.5), (ShuffleNetV2, 0.5)])
@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize(
    ("padding", "side", "aligned"),
    [("symmetric", 128, False), ("symmetric", 129, False), ("same", 128, True), ("same", 129, False)],
)
def test_dense_features_hold_the_sparse_ones(network, width, output_stride, padding, side, aligned, lived_in):
    """The same weights at a smaller output stride give the old map, and new places in between."""
    sparse = lived_in(network(width, 10, padding=padding))
    dense = network(width, 10, padding=padding, output_stride=output_stride)
    dense.load_state_dict(sparse.state_dict())
    old, new = features_of(sparse, side, side), features_of(dense, side, side)
    for name, stride in STRIDES[network].items():
        step = max(stride // output_stride, 1)
        # SAME pads an even side at its end only, so there the first old place is the last of the new ones.
        start = step - 1 if aligned else 0
        torch.testing.assert_close(new[name][:, :, start::step, start::step], old[name], rtol=1e-4, atol=1e-4)


@both_networks
@pytest.mark.parametrize("output_stride", [8, 16])
def test_output_stride_changes_no_names(network, output_stride):
    dense, sparse = network(0.5, output_stride=output_stride).state_dict(), network(0.5).state_dict()
    assert [(k, v.shape) for k, v in dense.items()] == [(k, v.shape) for k, v in sparse.items()]
