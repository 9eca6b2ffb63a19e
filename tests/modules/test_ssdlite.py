"""SSDLite: the paper's sizes, the order of its outputs, and everything that compiles networks."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn
from torchvision.models.detection.ssdlite import SSDLiteHead

from fusiform.errors import UsageError
from fusiform.modules import MobileNetV2, ShuffleNetV2
from fusiform.modules.layers import LoneBatchNorm2d
from fusiform.modules.ssdlite import SSDLite
from fusiform.tables import SSD_PRIORS_PER_CELL, ssd_map_sizes

jit_is_deprecated = pytest.mark.filterwarnings("ignore:`torch.jit")
both_backbones = pytest.mark.parametrize("backbone", [MobileNetV2, ShuffleNetV2])


def count_multiply_adds(network: nn.Module, size: int) -> int:
    """Of all convolutions for one picture; the network is on the meta device, where nothing is computed."""
    total = 0

    def add(convolution: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output[0].numel() * convolution.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    network.eval()(torch.empty(1, 3, size, size, device="meta"))
    return total


def small(backbone: type[MobileNetV2] | type[ShuffleNetV2], padding: str = "symmetric") -> SSDLite:
    return SSDLite(backbone(0.5, 10, padding=padding), 5, width=0.5, padding=padding)


def pictures(batch: int = 2, height: int = 96, width: int = 96) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(5))


def test_parameters_and_multiply_adds_are_the_papers():
    with torch.device("meta"):
        network = SSDLite(MobileNetV2(), 81)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    multiply_adds = count_multiply_adds(network, 320)
    # Table 6: 4.3M and 0.8B; the documentation's own numbers are exact.
    assert parameters == pytest.approx(4.3e6, rel=0.03)
    assert multiply_adds == pytest.approx(0.8e9, rel=0.03)
    assert (parameters, multiply_adds) == (4_337_013, 788_830_144)


@pytest.mark.parametrize(
    ("backbone", "size", "priors"),
    [
        # 20^2 x 3 + (10^2 + 5^2 + 3^2 + 2^2 + 1^2) x 6
        (MobileNetV2, 320, 2034),
        (ShuffleNetV2, 320, 2034),
        # TensorFlow's own model, on 300 pixels, has this many: 19^2 x 3 + (10^2 + 5^2 + 3^2 + 2^2 + 1^2) x 6
        (MobileNetV2, 300, 1917),
    ],
)
def test_outputs_at_the_papers_sizes(backbone, size, priors):
    with torch.device("meta"):
        network = SSDLite(backbone(), 81).eval()
        logits, offsets = network(torch.empty(2, 3, size, size))
    assert logits.shape == (2, priors, 81)
    assert offsets.shape == (2, priors, 4)


@both_backbones
@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize(("height", "width"), [(33, 97), (512, 300)])
def test_any_size_has_the_priors_that_map_sizes_says(backbone, padding, height, width):
    with torch.device("meta"):
        logits, offsets = small(backbone, padding).eval()(torch.empty(1, 3, height, width))
    sizes = ssd_map_sizes(height, width)
    priors = sum(rows * columns * each for (rows, columns), each in zip(sizes, SSD_PRIORS_PER_CELL, strict=True))
    assert logits.shape[1] == offsets.shape[1] == priors


def test_map_sizes():
    assert ssd_map_sizes(320, 320) == [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]
    assert ssd_map_sizes(300, 640) == [(19, 40), (10, 20), (5, 10), (3, 5), (2, 3), (1, 2)]


@pytest.mark.parametrize("width", [0.35, 0.5, 1.4])
def test_extra_layers_follow_the_width(width):
    with torch.device("meta"):
        network = SSDLite(MobileNetV2(width), 21, width=width)
    channels = [layer[2][0].out_channels for layer in network.extras]
    expected = {0.35: [176, 88, 88, 48], 0.5: [256, 128, 128, 64], 1.4: [720, 360, 360, 176]}
    assert channels == expected[width]


def test_the_narrowest_layer_has_sixteen_channels():
    with torch.device("meta"):
        network = SSDLite(MobileNetV2(0.1), 2, width=0.1)
    assert min(layer[0][0].out_channels for layer in network.extras) == 16


@both_backbones
def test_the_first_map_is_the_widest_at_stride_16(backbone):
    network = small(backbone)
    expected = 288 if backbone is MobileNetV2 else 96
    assert network.classes[0][0][0].in_channels == network.boxes[0][0][0].in_channels == expected


def test_every_prediction_layer_is_depthwise_separable():
    for layer in [*small(MobileNetV2).classes, *small(MobileNetV2).boxes]:
        depthwise, predict = (module for module in layer.modules() if isinstance(module, nn.Conv2d))
        assert depthwise.groups == depthwise.in_channels == depthwise.out_channels
        assert predict.kernel_size == (1, 1)
        assert predict.bias is not None


def test_the_head_answers_as_torchvisions(lived_in):
    """The same weights in the same order of layers give torchvision's numbers, in torchvision's order of priors."""
    network = lived_in(small(MobileNetV2)).eval()
    channels = [layer[0][0].in_channels for layer in network.classes]
    theirs = SSDLiteHead(channels, list(SSD_PRIORS_PER_CELL), 5, nn.BatchNorm2d).eval()
    mine = [*network.classes.state_dict().values(), *network.boxes.state_dict().values()]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), mine, strict=True)))
    maps = []
    for layer in network.classes:
        layer.register_forward_pre_hook(lambda _, x: maps.append(x[0].clone()))
    with torch.inference_mode():
        logits, offsets = network(pictures())
        expected = theirs(maps)
    assert logits.std() > 0.05
    torch.testing.assert_close(logits, expected["cls_logits"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(offsets, expected["bbox_regression"], rtol=1e-5, atol=1e-5)


def test_a_prior_stands_where_its_cell_does():
    """Row by row, then from the left, then the priors of a cell, each with its classes side by side."""
    network = small(MobileNetV2).eval()
    with torch.no_grad():
        for i, layer in enumerate(network.classes):
            layer[1].weight.zero_()
            numbers = torch.arange(SSD_PRIORS_PER_CELL[i] * 5, dtype=torch.float32)
            layer[1].bias.copy_(1000 * i + numbers)
        network.boxes[0][1].bias.zero_()
        network.boxes[0] = nn.Sequential(*network.boxes[0], Position())
        logits, offsets = network(pictures(1, 64, 96))
    sizes = ssd_map_sizes(64, 96)
    assert sizes[0] == (4, 6)
    start = 0
    for i, (rows, columns) in enumerate(sizes):
        count = rows * columns * SSD_PRIORS_PER_CELL[i]
        cells = logits[0, start : start + count].reshape(rows * columns, -1)
        assert torch.equal(cells, cells[:1].expand_as(cells))
        assert torch.equal(cells[0], 1000.0 * i + torch.arange(SSD_PRIORS_PER_CELL[i] * 5))
        start += count
    first = offsets[0, : 4 * 6 * 3].reshape(4, 6, 3, 4)
    for row in range(4):
        for column in range(6):
            assert (first[row, column] == 10 * row + column).all()


class Position(nn.Module):
    """Every number of a map becomes 10 times its row plus its column."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 10.0 * torch.arange(x.shape[2])[:, None] + torch.arange(x.shape[3]) + torch.zeros_like(x)


@both_backbones
def test_every_parameter_learns(backbone):
    network = small(backbone).train()
    logits, offsets = network(pictures())
    (logits.square().mean() + offsets.square().mean()).backward()
    untouched = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not untouched


@both_backbones
def test_a_batch_of_one_trains(backbone):
    network = small(backbone).train()
    logits, offsets = network(pictures(1))
    (logits.square().mean() + offsets.square().mean()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
    assert all(torch.isfinite(buffer).all() for buffer in network.buffers())


def test_the_norm_is_pytorchs_but_for_one_value():
    torch.manual_seed(3)
    ours, theirs = LoneBatchNorm2d(4), nn.BatchNorm2d(4)
    for norm in (ours, theirs):
        nn.init.constant_(norm.weight, 1.5)
        nn.init.constant_(norm.bias, 0.25)
    x = torch.randn(3, 4, 2, 1)
    assert torch.equal(ours(x), theirs(x))
    assert all(torch.equal(mine, other) for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True))
    before = [buffer.clone() for buffer in ours.buffers()]
    alone = x[:1, :, :1]
    assert torch.equal(ours(alone), theirs.eval()(alone))
    assert all(torch.equal(now, then) for now, then in zip(ours.buffers(), before, strict=True))
    with pytest.raises(ValueError, match="more than 1 value"):
        theirs.train()(alone)


def test_the_backbone_keeps_its_weights_and_loses_its_classifier():
    backbone = MobileNetV2(0.5, 10)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    state = SSDLite(backbone, 5, width=0.5).state_dict()
    for name, value in before.items():
        if name.startswith("features."):
            assert torch.equal(state[f"backbone.{name}"], value)
        else:
            assert f"backbone.{name}" not in state


@jit_is_deprecated
@both_backbones
def test_script_and_trace(backbone, lived_in):
    network = lived_in(small(backbone, "same")).eval()
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


@jit_is_deprecated
def test_script_trains():
    scripted = torch.jit.script(small(MobileNetV2).train())
    logits, offsets = scripted(pictures(1))
    (logits.sum() + offsets.sum()).backward()
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
        (lambda: SSDLite(MobileNetV2(0.35), 1), "num_classes must be a whole number, 2 or more"),
        (lambda: SSDLite(MobileNetV2(0.35), True), "num_classes"),
        (lambda: SSDLite(MobileNetV2(0.35), 5, width=0), "width must be a positive number"),
        (lambda: SSDLite(MobileNetV2(0.35, output_stride=16), 5), "has output stride 16; build it with"),
        (lambda: SSDLite(ShuffleNetV2(0.5, output_stride=8), 5), "has output stride 8; build it with"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(UsageError, match=message), torch.device("meta"):
        make()
