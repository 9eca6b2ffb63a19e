"""TensorFlow's SAME padding: by hand, by TensorFlow's formula, and by another runtime's implementation."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from fusiform.modules import MobileNetV2, ShuffleNetV2
from fusiform.modules.layers import SameConv2d, SameMaxPool2d, conv3x3, max_pool3x3, pad_same

SIZES = [(4, 4), (5, 5), (4, 7), (7, 4), (32, 33), (1, 2)]


def tensorflow_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Before and after, as https://www.tensorflow.org/api_docs/python/tf/nn (Notes on padding) defines SAME."""
    effective = (kernel - 1) * dilation + 1
    total = max(effective - stride, 0) if size % stride == 0 else max(effective - size % stride, 0)
    return total // 2, total - total // 2


def pad_by_formula(x: Tensor, kernel: int, stride: int, dilation: int = 1, value: float = 0.0) -> Tensor:
    top, bottom = tensorflow_padding(x.shape[2], kernel, stride, dilation)
    left, right = tensorflow_padding(x.shape[3], kernel, stride, dilation)
    return F.pad(x, [left, right, top, bottom], value=value)


def test_even_side_by_hand():
    conv = SameConv2d(1, 1, 3, 2, bias=False)
    nn.init.ones_(conv.weight)
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    # Windows start at rows and columns 0 and 2; the zeros lie at the bottom and right only.
    expected = [
        [0 + 1 + 2 + 4 + 5 + 6 + 8 + 9 + 10, 2 + 3 + 6 + 7 + 10 + 11],
        [8 + 9 + 10 + 12 + 13 + 14, 10 + 11 + 14 + 15],
    ]
    assert conv(x)[0, 0].tolist() == expected


def test_odd_side_by_hand():
    conv = SameConv2d(1, 1, 3, 2, bias=False)
    nn.init.ones_(conv.weight)
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    # Windows start at -1 and 1: one zero on every side.
    assert conv(x)[0, 0].tolist() == [[0 + 1 + 3 + 4, 1 + 2 + 4 + 5], [3 + 4 + 6 + 7, 4 + 5 + 7 + 8]]


def test_padding_never_wins_the_max():
    x = -torch.arange(1.0, 17.0).reshape(1, 1, 4, 4)
    assert SameMaxPool2d()(x)[0, 0].tolist() == [[-1, -3], [-9, -11]]


@pytest.mark.parametrize("size", range(1, 40))
def test_pad_is_tensorflows_at_stride_2(size):
    x = torch.randn(1, 2, size, size + 1)
    assert torch.equal(pad_same(x, -3.0), pad_by_formula(x, 3, 2, value=-3.0))


@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("size", [4, 7])
def test_stride_1_is_one_rule(size, dilation):
    x = torch.randn(1, 2, size, size)
    conv = conv3x3(2, 3, 1, padding="same", dilation=dilation)
    expected = F.conv2d(pad_by_formula(x, 3, 1, dilation), conv.weight, dilation=dilation)
    torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("groups", [1, 4])
def test_convolution_is_onnxruntimes_same_upper(height, width, groups):
    conv = conv3x3(4, 8, 2, padding="same", groups=groups)
    x = torch.randn(2, 4, height, width)
    expected = run_onnx("Conv", x, conv.weight.detach(), group=groups)
    torch.testing.assert_close(conv(x).detach(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_max_pool_is_onnxruntimes_same_upper(height, width):
    x = torch.randn(2, 4, height, width) - 5
    torch.testing.assert_close(max_pool3x3(padding="same")(x), run_onnx("MaxPool", x))


def run_onnx(operator: str, x: Tensor, *weights: Tensor, **attributes: int) -> Tensor:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    names = ["x", "w"][: 1 + len(weights)]
    node = onnx.helper.make_node(
        operator, names, ["y"], auto_pad="SAME_UPPER", kernel_shape=[3, 3], strides=[2, 2], **attributes
    )
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(value.shape))
        for name, value in zip(names, (x, *weights), strict=True)
    ]
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * 4)
    graph = onnx.helper.make_graph([node], "same", inputs, [output])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {name: value.numpy() for name, value in zip(names, (x, *weights), strict=True)}
    return torch.from_numpy(session.run(None, feed)[0])


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 33), (75, 98)])
@pytest.mark.parametrize(
    ("network", "reference"),
    [
        (lambda: MobileNetV2(0.35, 10, padding="same"), lambda: models.mobilenet_v2(width_mult=0.35, num_classes=10)),
        (lambda: ShuffleNetV2(0.5, 10, padding="same"), lambda: models.shufflenet_v2_x0_5(num_classes=10)),
    ],
    ids=["mobilenet_v2", "shufflenet_v2"],
)
def test_whole_network_is_torchvisions_with_every_window_padded_by_the_formula(
    network, reference, height, width, lived_in
):
    ours, theirs = network().eval(), lived_in(reference()).eval()
    ours.load_state_dict(theirs.state_dict())
    pictures = torch.randn(2, 3, height, width)
    symmetric = theirs(pictures).detach()
    for module in theirs.modules():
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d)) and module.kernel_size in (3, (3, 3)):
            stride = module.stride if isinstance(module.stride, int) else module.stride[0]
            value = -math.inf if isinstance(module, nn.MaxPool2d) else 0.0
            module.padding = 0 if isinstance(module, nn.MaxPool2d) else (0, 0)
            module.register_forward_pre_hook(lambda _, x, s=stride, v=value: pad_by_formula(x[0], 3, s, value=v))
    with torch.inference_mode():
        expected, actual = theirs(pictures), ours(pictures)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    if height % 32 == 0:
        assert (actual - symmetric).abs().max() > 1e-2  # the two rules are different networks


@pytest.mark.parametrize("network", [MobileNetV2, ShuffleNetV2])
def test_padding_changes_no_names(network):
    same, symmetric = network(0.5, padding="same").state_dict(), network(0.5).state_dict()
    assert [(k, v.shape) for k, v in same.items()] == [(k, v.shape) for k, v in symmetric.items()]
