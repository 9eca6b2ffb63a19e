"""The networks are torchvision's: names, shapes, initial values, logits, losses, gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models

from fusiform.modules import MobileNetV2, ShuffleNetV2

TORCHVISION_SHUFFLENETS = {
    0.5: models.shufflenet_v2_x0_5,
    1.0: models.shufflenet_v2_x1_0,
    1.5: models.shufflenet_v2_x1_5,
    2.0: models.shufflenet_v2_x2_0,
}
MOBILENETS = [("mobilenet_v2", width) for width in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)]
SHUFFLENETS = [("shufflenet_v2", width) for width in TORCHVISION_SHUFFLENETS]
all_variants = pytest.mark.parametrize(("architecture", "width"), MOBILENETS + SHUFFLENETS)
both_networks = pytest.mark.parametrize(("architecture", "width"), [("mobilenet_v2", 1.0), ("shufflenet_v2", 1.0)])


def pair(architecture: str, width: float, num_classes: int = 1000) -> tuple[nn.Module, nn.Module]:
    """Our network and torchvision's, built from the same seed."""
    torch.manual_seed(1)
    if architecture == "mobilenet_v2":
        ours: nn.Module = MobileNetV2(width, num_classes)
        torch.manual_seed(1)
        return ours, models.mobilenet_v2(width_mult=width, num_classes=num_classes)
    ours = ShuffleNetV2(width, num_classes)
    torch.manual_seed(1)
    return ours, TORCHVISION_SHUFFLENETS[width](num_classes=num_classes)


@all_variants
def test_names_shapes_order_and_initial_values_are_equal(architecture, width):
    ours, theirs = pair(architecture, width)
    assert [(k, v.shape, v.dtype) for k, v in ours.state_dict().items()] == [
        (k, v.shape, v.dtype) for k, v in theirs.state_dict().items()
    ]
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert [k for k, _ in ours.named_parameters()] == [k for k, _ in theirs.named_parameters()]


@all_variants
def test_logits_are_equal(architecture, width, lived_in):
    ours, theirs = pair(architecture, width, num_classes=100)
    ours.load_state_dict(lived_in(theirs).state_dict())
    assert_equal_logits(ours, theirs, 2, 64, 64)


@both_networks
@pytest.mark.parametrize(("batch", "height", "width_px"), [(5, 32, 32), (2, 96, 96), (2, 224, 224), (2, 97, 161)])
def test_logits_are_equal_at_any_size(architecture, width, batch, height, width_px, lived_in):
    ours, theirs = pair(architecture, width)
    ours.load_state_dict(lived_in(theirs).state_dict())
    assert_equal_logits(ours, theirs, batch, height, width_px)


def assert_equal_logits(ours: nn.Module, theirs: nn.Module, batch: int, height: int, width: int) -> None:
    pictures = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = theirs.eval()(pictures)
        assert (expected[0] - expected[1]).std() > 0.02  # else the pictures would not matter
        torch.testing.assert_close(ours.eval()(pictures), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "width"), [("mobilenet_v2", 0.35), ("mobilenet_v2", 1.0), ("shufflenet_v2", 1.0)]
)
def test_losses_gradients_and_statistics_are_equal_in_training(architecture, width, lived_in):
    ours, theirs = pair(architecture, width, num_classes=10)
    ours.load_state_dict(lived_in(theirs).state_dict())
    pictures = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    answers = torch.tensor([1, 9, 4, 4])
    losses = []
    for network in (ours, theirs):
        network.train()
        torch.manual_seed(4)  # one mask of dropout for both
        loss = F.cross_entropy(network(pictures), answers)
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-6)
    for (name, mine), reference in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, reference.grad, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        # torchvision's documentation of its weights (num_params)
        (MobileNetV2(1.0), 3_504_872),
        (ShuffleNetV2(0.5), 1_366_792),
        (ShuffleNetV2(1.0), 2_278_604),
        (ShuffleNetV2(1.5), 3_503_624),
        (ShuffleNetV2(2.0), 7_393_996),
        # counted from Table 2 at width 1.4; the paper's own 6.9M does not match its architecture
        (MobileNetV2(1.4), 6_108_776),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_parameters_are_the_published_ones(network, parameters):
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@both_networks
def test_channels_last_gives_the_same_answer(architecture, width, lived_in):
    ours, _ = pair(architecture, width)
    pictures = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = lived_in(ours).eval()(pictures)
        ours.to(memory_format=torch.channels_last)
        actual = ours(pictures.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "file"),
    [("mobilenet_v2", "mobilenet_v2_1.0_224.safetensors"), ("shufflenet_v2", "shufflenet_v2_x1_0.safetensors")],
)
def test_real_weights_load_as_they_are_and_see_the_samoyed(architecture, file, shared_data):
    from PIL import Image
    from safetensors.torch import load_file
    from torchvision.transforms._presets import ImageClassification

    ours, theirs = pair(architecture, 1.0)
    weights = load_file(shared_data / "weights" / file)
    for network in (ours, theirs):
        missing = network.load_state_dict(weights, strict=False)
        assert not missing.unexpected_keys
        assert all(key.endswith("num_batches_tracked") for key in missing.missing_keys)
        network.eval()
    with Image.open(shared_data / "dog.jpg") as photograph, torch.inference_mode():
        picture = ImageClassification(crop_size=224)(photograph.convert("RGB")).unsqueeze(0)
        expected, actual = theirs(picture), ours(picture)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    assert actual.argmax().item() == 258  # Samoyed
