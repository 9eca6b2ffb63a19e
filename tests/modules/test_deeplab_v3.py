"""DeepLabv3: the paper's sizes, its head against torchvision's, and everything that compiles networks."""

from __future__ import annotations

import io
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from fusiform.errors import UsageError
from fusiform.modules import MobileNetV2, ShuffleNetV2
from fusiform.modules.deeplab_v3 import SCALES, DeepLabV3, multi_scale_probabilities

jit_is_deprecated = pytest.mark.filterwarnings("ignore:`torch.jit")
both_backbones = pytest.mark.parametrize("backbone", [MobileNetV2, ShuffleNetV2])


def count_multiply_adds(network: nn.Module, size: int, *, cut_at_rates: bool = False) -> int:
    """Of all convolutions for one picture; the network is on the meta device, where nothing is computed.

    ``cut_at_rates`` counts as TensorFlow computes at a rate r: on r^2 maps cut out of one, all of the same size.
    """
    total = 0

    def add(convolution: nn.Conv2d, _: object, output: torch.Tensor) -> None:
        nonlocal total
        _, channels, *sides = output.shape
        if cut_at_rates:
            rate = convolution.dilation[0]
            sides = [math.ceil(side / rate) * rate for side in sides]
        total += channels * math.prod(sides) * convolution.weight[0].numel()

    hooks = [m.register_forward_hook(add) for m in network.modules() if isinstance(m, nn.Conv2d)]
    network.eval()(torch.empty(1, 3, size, size, device="meta"))
    for hook in hooks:
        hook.remove()
    return total


def small(
    backbone: type[MobileNetV2] | type[ShuffleNetV2],
    *,
    padding: str = "symmetric",
    output_stride: int = 16,
    aspp: bool = False,
) -> DeepLabV3:
    return DeepLabV3(
        backbone(0.5, 10, padding=padding, output_stride=output_stride), 5, output_stride=output_stride, aspp=aspp
    )


def pictures(batch: int = 2, height: int = 65, width: int = 65) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("output_stride", "aspp", "parameters", "multiply_adds"),
    [
        (16, False, 2_113_557, 2_740_709_056),
        (16, True, 4_523_541, 5_363_508_928),
        (8, True, 4_523_541, 19_001_546_432),
    ],
)
def test_parameters_and_multiply_adds(output_stride, aspp, parameters, multiply_adds):
    with torch.device("meta"):
        network = DeepLabV3(MobileNetV2(output_stride=output_stride), output_stride=output_stride, aspp=aspp)
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert counted == parameters
    assert counted == pytest.approx(4.52e6 if aspp else 2.11e6, rel=0.03)  # Table 7
    assert count_multiply_adds(network, 513) == multiply_adds


def test_multiply_adds_are_the_papers_where_tensorflow_computes_them():
    with torch.device("meta"):
        plain = DeepLabV3(MobileNetV2(output_stride=16))
        aspp = DeepLabV3(MobileNetV2(output_stride=16), aspp=True)
        dense = DeepLabV3(MobileNetV2(output_stride=8), output_stride=8, aspp=True)
    assert count_multiply_adds(plain, 513) == pytest.approx(2.75e9, rel=0.01)
    assert count_multiply_adds(plain, 513, cut_at_rates=True) == pytest.approx(2.75e9, rel=0.01)
    assert count_multiply_adds(aspp, 513, cut_at_rates=True) == pytest.approx(5.8e9, rel=0.01)
    sizes = [int(512 * scale) + 1 for scale in SCALES]
    multi_scale = 2 * sum(count_multiply_adds(dense, size, cut_at_rates=True) for size in sizes)
    assert multi_scale == pytest.approx(387e9, rel=0.01)


@both_backbones
@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize(("height", "width"), [(33, 97), (375, 500)])
def test_logits_have_the_size_of_the_picture(backbone, padding, output_stride, height, width):
    with torch.device("meta"):
        network = small(backbone, padding=padding, output_stride=output_stride).eval()
        picture = torch.empty(2, 3, height, width)
        assert network(picture).shape == (2, 5, height, width)
        rows, columns = math.ceil(height / output_stride), math.ceil(width / output_stride)
        assert network.forward_coarse(picture).shape == (2, 5, rows, columns)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_the_head_answers_as_torchvisions(output_stride, lived_in):
    """torchvision's ASPP has the same branches; it pools last, so its projection reads the branches in that order."""
    network = lived_in(small(MobileNetV2, output_stride=output_stride, aspp=True)).eval()
    rates = [6, 12, 18] if output_stride == 16 else [12, 24, 36]
    theirs = ASPP(160, rates).eval()
    state = theirs.state_dict()
    mine = [*network.branches.state_dict().values(), *network.pooling.state_dict().values()]
    mine += network.projection.state_dict().values()
    projection = network.projection[0].weight
    state = dict(zip(state, mine, strict=True))
    state["project.0.weight"] = torch.cat([projection[:, 256:], projection[:, :256]], dim=1)
    theirs.load_state_dict(state)
    with torch.inference_mode():
        features = network.backbone.forward_stages(pictures())["bottleneck_17"]
        expected = network.classifier(theirs(features))
        actual = network.forward_coarse(pictures())
    assert actual.std() > 0.05
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_aligned_corners_keep_the_places_that_the_weights_see():
    """At 16 k + 1 pixels each coarse place stands on one pixel, and resizing leaves its logits there."""
    network = small(MobileNetV2).eval()
    with torch.inference_mode():
        fine, coarse = network(pictures(1, 65, 97)), network.forward_coarse(pictures(1, 65, 97))
    torch.testing.assert_close(fine[:, :, ::16, ::16], coarse, rtol=1e-4, atol=1e-6)
    half = DeepLabV3(network.backbone, 5, align_corners=False).eval()
    half.load_state_dict(network.state_dict())
    with torch.inference_mode():
        expected = F.interpolate(coarse, (65, 97), mode="bilinear", align_corners=False)
        torch.testing.assert_close(half(pictures(1, 65, 97)), expected)
    assert not torch.equal(expected, fine)


@both_backbones
def test_the_head_reads_the_second_last_map_and_nothing_else_is_kept(backbone):
    whole = backbone(0.5, 10, output_stride=16)
    last = {name for name in whole.state_dict() if name.startswith(("features.18.", "classifier.", "conv5.", "fc."))}
    kept = set(whole.state_dict()) - last
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    with torch.inference_mode():
        expected = whole.eval().forward_stages(pictures())["stride_32"]
        network = DeepLabV3(whole, 5).eval()
        features = network.backbone.forward_stages(pictures())
    assert torch.equal(features["stride_32"], expected)
    state = network.state_dict()
    assert {name.removeprefix("backbone.") for name in state if name.startswith("backbone.")} == kept
    assert all(torch.equal(state[f"backbone.{name}"], before[name]) for name in kept)
    channels = {name: value.shape[1] for name, value in features.items()}
    assert channels == network.backbone.feature_channels


@both_backbones
@pytest.mark.parametrize("batch", [1, 2])
def test_every_parameter_learns_from_a_batch_of_one_too(backbone, batch):
    network = small(backbone, aspp=True).train()
    network(pictures(batch)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert all(torch.isfinite(buffer).all() for buffer in network.buffers())


def test_multi_scale_at_one_scale_is_the_plain_answer(lived_in):
    network = lived_in(small(ShuffleNetV2, output_stride=8)).eval()
    with torch.inference_mode():
        expected = network(pictures()).softmax(1)
    actual = multi_scale_probabilities(network, pictures(), [1.0], flip=False)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_multi_scale_takes_a_mirrored_picture_for_the_mirrored_answer(lived_in):
    network = lived_in(small(MobileNetV2, output_stride=8)).eval()
    scales = [0.75, 1.25]
    straight = multi_scale_probabilities(network, pictures(1, 65, 81), scales)
    mirrored = multi_scale_probabilities(network, pictures(1, 65, 81).flip(3), scales)
    assert straight.shape == (1, 5, 65, 81)
    torch.testing.assert_close(mirrored.flip(3), straight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(straight.sum(1), torch.ones(1, 65, 81))
    alone = [multi_scale_probabilities(network, pictures(1, 65, 81), [scale]) for scale in scales]
    torch.testing.assert_close((alone[0] + alone[1]) / 2, straight, rtol=1e-5, atol=1e-6)


def test_multi_scale_refuses_what_it_cannot_do():
    network = small(MobileNetV2)
    with pytest.raises(UsageError, match="call eval"):
        multi_scale_probabilities(network.train(), pictures())
    for scales in ([], [1.0, 0.0]):
        with pytest.raises(UsageError, match="positive numbers"):
            multi_scale_probabilities(network.eval(), pictures(), scales)


@jit_is_deprecated
@both_backbones
def test_script_and_trace(backbone, lived_in):
    network = lived_in(small(backbone, padding="same", aspp=True)).eval()
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(network), file)
    file.seek(0)
    scripted = torch.jit.load(file)
    traced = torch.jit.trace(network, pictures())
    # The optimiser's seconds would be spent on these few runs alone.
    with torch.inference_mode(), torch.jit.optimized_execution(False):
        for picture in (pictures(), pictures(1, 65, 98)):
            expected = network(picture)
            torch.testing.assert_close(scripted(picture), expected, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(traced(picture), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            scripted.forward_coarse(pictures()), network.forward_coarse(pictures()), rtol=1e-4, atol=1e-4
        )


@jit_is_deprecated
def test_script_trains_on_one_picture():
    scripted = torch.jit.script(small(MobileNetV2).train())
    scripted(pictures(1)).sum().backward()
    assert all(parameter.grad is not None for parameter in scripted.parameters())


@both_backbones
def test_export(backbone, lived_in):
    network = lived_in(small(backbone)).eval()
    dynamic = ({0: torch.export.Dim.AUTO},)
    exported = torch.export.export(network, (pictures(),), dynamic_shapes=dynamic).module()
    with torch.inference_mode():
        torch.testing.assert_close(exported(pictures(3)), network(pictures(3)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeepLabV3(MobileNetV2(0.35), 5), "has output stride 32; build it with output_stride=16"),
        (lambda: DeepLabV3(ShuffleNetV2(0.5, output_stride=16), 5, output_stride=8), "has output stride 16"),
        (lambda: DeepLabV3(MobileNetV2(0.35), 5, output_stride=32), "must be 8 or 16"),
        (lambda: DeepLabV3(MobileNetV2(0.35, output_stride=16), 0), "num_classes must be a whole number"),
        (lambda: DeepLabV3(MobileNetV2(0.35, output_stride=16), 5, dropout=1.0), "dropout is a probability"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(UsageError, match=message), torch.device("meta"):
        make()
