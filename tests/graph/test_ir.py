from __future__ import annotations

import pytest

from fusiform.graph.build import build_graph
from fusiform.graph.ir import pads


@pytest.mark.parametrize("size", range(1, 30))
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_is_tensorflows_formula(size, kernel, stride):
    # https://www.tensorflow.org/api_docs/python/tf/nn (Notes on padding)
    total = max(kernel - stride, 0) if size % stride == 0 else max(kernel - size % stride, 0)
    assert pads(size, kernel, stride, "same") == (total // 2, total - total // 2)


def test_symmetric_is_half_the_window():
    assert pads(224, 3, 2, "symmetric") == (1, 1)
    assert pads(7, 1, 1, "symmetric") == (0, 0)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
@pytest.mark.parametrize(
    ("size", "sides"), [(32, (16, 8, 4, 2, 1)), (97, (49, 25, 13, 7, 4)), (224, (112, 56, 28, 14, 7))]
)
def test_every_side_is_halved_and_rounded_up(architecture, padding, size, sides, small_spec, lived_in_state):
    spec = small_spec(architecture, size=size, padding=padding)
    shapes = build_graph(spec, lived_in_state(spec)).shapes
    assert {height for height, _, _ in shapes.values()} == {size, *sides, 1}
    assert all(height == width for height, width, _ in shapes.values())
    assert shapes["pool"] == (1, 1, 1280 if architecture == "mobilenet_v2" else 1024)
