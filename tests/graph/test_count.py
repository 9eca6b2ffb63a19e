"""Parameters and multiply-adds against what was published, and against PyTorch's own modules."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusiform.graph.build import build_graph
from fusiform.graph.count import count_multiply_adds, count_parameters
from fusiform.graph.shapes import expected_shapes
from fusiform.spec import ModelSpec, Preprocess

# TensorFlow slim's table: million multiply-adds for each width at 224, 192, 160, 128 and 96 pixels, cut off.
SIZES = (224, 192, 160, 128, 96)
MILLIONS = {
    1.4: (582,),
    1.3: (509,),
    1.0: (300, 221, 154, 99, 56),
    0.75: (209, 153, 107, 69, 39),
    0.5: (97, 71, 50, 32, 18),
    0.35: (59, 43, 30, 20, 11),
}
CELLS = [(width, size, n) for width, row in MILLIONS.items() for size, n in zip(SIZES, row, strict=False)]


def graph_of_ones(architecture, width, size=224):
    labels = tuple(f"class {k}" for k in range(1000))
    spec = ModelSpec(architecture, width, labels, input_size=size, preprocess=Preprocess(resize=size, crop=size))
    shapes = expected_shapes(architecture, width)
    return build_graph(spec, {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()})


def test_the_table_is_whole():
    assert len(CELLS) == 22


@pytest.mark.parametrize(("width", "size", "millions"), CELLS)
def test_mobilenet_v2_at_every_width_and_resolution(width, size, millions):
    assert math.floor(count_multiply_adds(graph_of_ones("mobilenet_v2", width, size)) / 1e6) == millions


@pytest.mark.parametrize(
    ("architecture", "width", "parameters", "giga"),
    [
        ("mobilenet_v2", 1.0, 3504872, "0.301"),
        ("shufflenet_v2", 0.5, 1366792, "0.04"),
        ("shufflenet_v2", 1.0, 2278604, "0.145"),
        ("shufflenet_v2", 1.5, 3503624, "0.296"),
        ("shufflenet_v2", 2.0, 7393996, "0.583"),
    ],
)
def test_torchvisions_table(architecture, width, parameters, giga):
    graph = graph_of_ones(architecture, width)
    assert count_parameters(graph) == parameters
    assert f"{round(count_multiply_adds(graph) / 1e9, 3)}" == giga


def test_the_width_whose_published_parameters_are_wrong():
    # The paper's 6.9 million (Table 4) does not match its own architecture.
    assert count_parameters(graph_of_ones("mobilenet_v2", 1.4)) == 6_108_776


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize(
    ("architecture", "width", "size"),
    [("mobilenet_v2", 0.35, 97), ("mobilenet_v2", 1.3, 64), ("shufflenet_v2", 0.5, 97), ("shufflenet_v2", 1.5, 64)],
)
def test_pytorchs_modules_count_the_same(architecture, width, size, padding, small_spec, lived_in_state):
    torch = pytest.importorskip("torch")
    from fusiform.modules import build_network

    spec = small_spec(architecture, width, size=size, padding=padding)
    network = build_network(spec).eval()
    counted = []

    def count(module, _, output):
        window = module.weight[0].numel()  # multiplications for one output value
        counted.append(output.numel() * window)

    for module in network.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, 3, size, size))
    graph = build_graph(spec, lived_in_state(spec))
    assert count_multiply_adds(graph) == sum(counted)
    assert count_parameters(graph) == sum(parameter.numel() for parameter in network.parameters())
