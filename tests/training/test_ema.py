from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fusiform.errors import UsageError
from fusiform.training.ema import MovingAverage


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def shake(network: nn.Module) -> None:
    with torch.no_grad():
        for value in network.parameters():
            value.add_(torch.randn_like(value))
    network(torch.randn(8, 3, 2, 2))


def test_the_average_of_a_number_by_hand() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    average = MovingAverage(network, 0.2)
    nn.init.ones_(network.weight)
    # Decays 1/10, 2/11, then 0.2 because 3/12 is more.
    expected = 0.0
    for decay in (1 / 10, 2 / 11, 0.2, 0.2):
        average.update(network)
        expected = decay * expected + (1 - decay)
        assert average.average["weight"].item() == pytest.approx(expected)


def test_once_warm_it_is_pytorchs_with_buffers() -> None:
    network = small()
    average = MovingAverage(network, 0.9)
    average.updates = 10_000  # (1 + n) / (10 + n) is above 0.9 from here on
    reference = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    reference.update_parameters(network)  # its first call copies
    for _ in range(5):
        shake(network)
        average.update(network)
        reference.update_parameters(network)
    for name, value in reference.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(average.average[name], value)
    assert average.average["1.num_batches_tracked"] == network[1].num_batches_tracked == 5


def test_within_swapped_the_network_has_the_average_and_its_own_weights_after() -> None:
    network = small()
    parameters = list(network.parameters())
    average = MovingAverage(network, 0.5)
    shake(network)
    own = {name: value.clone() for name, value in network.state_dict().items()}
    averaged = {name: value.clone() for name, value in average.average.items()}
    with average.swapped(network):
        torch.testing.assert_close(dict(network.state_dict()), averaged)
    torch.testing.assert_close(dict(network.state_dict()), own)
    assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))

    with pytest.raises(KeyboardInterrupt), average.swapped(network):
        raise KeyboardInterrupt
    torch.testing.assert_close(dict(network.state_dict()), own)

    average.copy_to(network)
    torch.testing.assert_close(dict(network.state_dict()), averaged)
    shake(network)  # what was copied is not shared
    torch.testing.assert_close(average.average, averaged)


def test_a_restored_average_goes_on_as_if_nothing_had_happened(tmp_path: object) -> None:
    network = small()
    first = MovingAverage(network, 0.9)
    for _ in range(3):
        shake(network)
        first.update(network)
    torch.save(first.state_dict(), f"{tmp_path}/ema.pt")
    second = MovingAverage(small(), 0.9)
    second.load_state_dict(torch.load(f"{tmp_path}/ema.pt", weights_only=True))
    shake(network)
    first.update(network)
    second.update(network)
    assert second.updates == first.updates == 4
    torch.testing.assert_close(second.average, first.average, rtol=0, atol=0)


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_decay_that_averages_nothing_is_refused(decay: float) -> None:
    with pytest.raises(UsageError, match="0 or more and below 1"):
        MovingAverage(small(), decay)
