"""From a spec to a network, and what a wrong argument is told."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fusiform.errors import UsageError
from fusiform.modules import ARCHITECTURES, MobileNetV2, ShuffleNetV2, build_backbone, build_network
from fusiform.modules.layers import SameConv2d
from fusiform.spec import ModelSpec

both_networks = pytest.mark.parametrize("network", [MobileNetV2, ShuffleNetV2])


def dropout_of(network: nn.Module) -> float:
    (dropout,) = (module for module in network.modules() if isinstance(module, nn.Dropout))
    return dropout.p


@pytest.mark.parametrize(
    ("architecture", "network", "dropout"), [("mobilenet_v2", MobileNetV2, 0.2), ("shufflenet_v2", ShuffleNetV2, 0.0)]
)
def test_the_spec_decides(architecture, network, dropout):
    assert ARCHITECTURES[architecture] is network
    spec = ModelSpec(architecture, 0.5, labels=("cat", "dog", "hen"), input_channels=4, padding="same")
    built = build_network(spec)
    assert type(built) is network
    assert built.training
    assert built.state_dict().keys() == network(0.5).state_dict().keys()
    assert built.feature_channels == network(0.5).feature_channels
    assert any(isinstance(module, SameConv2d) for module in built.modules())
    assert dropout_of(built) == dropout
    pictures = torch.randn(2, 4, 64, 64)
    assert built.eval()(pictures).shape == (2, 3)

    other = build_backbone(spec.replace(padding="symmetric"), 3, dropout=0.5, output_stride=8)
    assert not any(isinstance(module, SameConv2d) for module in other.modules())
    assert dropout_of(other) == 0.5
    assert other.eval().forward_stages(pictures)["last"].shape[2:] == (8, 8)


@both_networks
def test_dropout_acts_only_in_training(network):
    torch.manual_seed(0)
    built = network(0.5, 10, dropout=0.5)
    pictures = torch.randn(4, 3, 64, 64)
    assert not torch.equal(built(pictures), built(pictures))
    built.eval()
    assert torch.equal(built(pictures), built(pictures))


@both_networks
@pytest.mark.parametrize("width", [0, -1.0, math.nan, math.inf, "1.0", None])
def test_wrong_width(network, width):
    with pytest.raises(UsageError, match=rf"{network.__name__}: width must be .*got {width!r}"):
        network(width)


def test_unknown_shufflenet_width_is_told_the_known_ones():
    with pytest.raises(UsageError, match=r"one of 0\.5, 1\.0, 1\.5, 2\.0 .*got 0\.75"):
        ShuffleNetV2(0.75)


def test_any_positive_width_of_mobilenet():
    assert MobileNetV2(1, 10).feature_channels == MobileNetV2(1.0, 10).feature_channels
    assert MobileNetV2(0.9, 10).feature_channels["last"] == 1280
    assert set(MobileNetV2(0.01, 10).feature_channels.values()) == {8, 48, 1280}


@both_networks
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_classes": -1}, "num_classes must be a whole number, 0 or more, got -1"),
        ({"num_classes": 10.0}, "num_classes must be a whole number, 0 or more, got 10.0"),
        ({"num_classes": True}, "num_classes must be a whole number, 0 or more, got True"),
        ({"in_channels": -3}, "in_channels must be a whole number, 1 or more, got -3"),
        ({"padding": "SAME"}, "padding must be 'symmetric' .* or 'same' .*, got 'SAME'"),
        ({"dropout": 1.0}, "dropout is a probability, 0 or more and below 1, got 1.0"),
        ({"dropout": -0.1}, "dropout is a probability, 0 or more and below 1, got -0.1"),
        ({"dropout": math.nan}, "dropout is a probability, 0 or more and below 1, got nan"),
        ({"dropout": "0.2"}, "dropout is a probability, 0 or more and below 1, got '0.2'"),
        ({"output_stride": 4}, "output_stride must be 8, 16 or 32, got 4"),
        ({"output_stride": None}, "output_stride must be 8, 16 or 32, got None"),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_wrong_arguments(network, wrong, message):
    with pytest.raises(UsageError, match=f"^{network.__name__}: {message}$"):
        network(**wrong)


def test_build_network_passes_wrong_arguments_on():
    spec = ModelSpec("mobilenet_v2", 1.0, labels=("cat",))
    with pytest.raises(UsageError, match="output_stride must be 8, 16 or 32, got 64"):
        build_backbone(spec, output_stride=64)
    with pytest.raises(UsageError, match="dropout is a probability"):
        build_network(spec, dropout=2.0)
