"""Predicted memory against sums by hand, the paper's figures, and what PyTorch and LiteRT really hold."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusiform.analysis import graph_of_zeros
from fusiform.errors import UsageError
from fusiform.graph.ir import Conv, Graph
from fusiform.graph.memory import arena_memory, formula_memory, held_by_resolution, live_memory, peak_memory
from fusiform.graph.receptive_field import receptive_fields
from fusiform.graph.split import split_expansion
from fusiform.spec import ModelSpec, Preprocess

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LABELS = tuple(f"class {k}" for k in range(1000))


def graph_of(architecture="mobilenet_v2", width=1.0, size=224, padding="symmetric"):
    preprocess = Preprocess(crop=size)
    return graph_of_zeros(
        ModelSpec(architecture, width, LABELS, input_size=size, padding=padding, preprocess=preprocess)
    )


@pytest.fixture(scope="module")
def mobilenet():
    return graph_of()


def test_the_papers_400_kilobytes(mobilenet):
    """Table 3: 16 channels of 112x112 at 16 bits; the layers of Table 2 at the other sizes."""
    rows = held_by_resolution(mobilenet)
    assert max(row.bytes for row in rows) == 112 * 112 * 16 * 2 == 401_408
    assert [(row.height, row.width, row.channels) for row in rows] == [
        (112, 112, 16),
        (56, 56, 24),
        (28, 28, 32),
        (14, 14, 96),
        (7, 7, 320),
        (1, 1, 1280),
    ]
    # The rows in which Table 3 has the same layers: 16/400, 320/32 and 1280/2.
    assert [round(rows[k].bytes / 1000) for k in (0, 4, 5)] == [401, 31, 3]


def test_shufflenet_holds_what_its_convolutions_make():
    """ShuffleNetV2 1.0: 24 channels behind conv1, and a map of a stage is whole; conv5 is only averaged."""
    rows = {row.height: row.channels for row in held_by_resolution(graph_of("shufflenet_v2"))}
    assert rows[112] == 24
    assert rows[28] == 116
    assert rows[14] == 232
    assert rows[7] == 464
    assert rows[1] == 1024


def test_the_peak_is_where_the_first_expansion_is_filtered(mobilenet):
    picture, wide, filtered = 3 * 224 * 224, 96 * 112 * 112, 96 * 56 * 56
    assert peak_memory(mobilenet) == (4 * (picture + wide + filtered), "features.2.conv.1.0")
    assert peak_memory(mobilenet, bytes_per_value=1).bytes == picture + wide + filtered
    narrow = 16 * 112 * 112
    assert peak_memory(mobilenet, separate_norms=True) == (4 * (picture + narrow + 2 * wide), "features.2.conv.0.0")


def test_the_peak_in_four_slices(mobilenet):
    """The second slice of the same place: the bottleneck's input, a quarter of the expansion, and the sum so far."""
    picture, narrow, quarter = 3 * 224 * 224, 16 * 112 * 112, 24 * 112 * 112
    filtered, total = 24 * 56 * 56, 24 * 56 * 56
    peak = peak_memory(split_expansion(mobilenet, 4))
    assert peak == (4 * (picture + narrow + quarter + filtered + total), "features.2.conv.1.0/1")


def test_a_shortcut_is_held_until_it_is_added(mobilenet):
    """features.3 at 56x56: 24 channels wait while 144 are filtered to 144."""
    live = live_memory(mobilenet, bytes_per_value=1)
    picture, pixels = 3 * 224 * 224, 56 * 56
    assert live["features.3.conv.1.0"] == picture + (24 + 144 + 144) * pixels
    assert live["features.3"] == picture + 3 * 24 * pixels
    assert live["features.4.conv.1.0"] == picture + 144 * pixels + 144 * 28 * 28


def test_the_papers_formula(mobilenet):
    """Section 5.1, at 16 bits: a layer's input and output; a bottleneck's ends and a slice of what is between."""
    assert formula_memory(mobilenet) == (2 * (96 * 112 * 112 + 96 * 56 * 56), "features.2.conv.1.0")
    ends = 16 * 112 * 112 + 24 * 56 * 56
    assert formula_memory(mobilenet, slices=4) == (2 * (ends + 24 * 112 * 112), "features.2.conv.2")
    # With one channel a slice the first operator, the picture with the stem, is the largest but for one.
    one_channel = formula_memory(mobilenet, slices=10_000)
    assert one_channel == (2 * (3 * 224 * 224 + 16 * 112 * 112 + 112 * 112), "features.1.conv.1")


def test_no_slices_are_refused(mobilenet):
    with pytest.raises(UsageError, match="1 slice or more, not in 0"):
        formula_memory(mobilenet, slices=0)


@settings(max_examples=15, deadline=None)
@given(width=st.sampled_from([0.35, 0.5, 0.75, 1.0, 1.3, 1.4]), size=st.integers(32, 256), slices=st.integers(2, 8))
def test_slices_never_take_more(width, size, slices):
    graph = graph_of(width=width, size=size)
    plain, split = peak_memory(graph).bytes, peak_memory(split_expansion(graph, slices)).bytes
    assert max(graph_bytes(graph)) <= plain
    assert split < plain
    assert formula_memory(graph, slices=slices).bytes < formula_memory(graph).bytes


def graph_bytes(graph):
    return [4 * height * width * channels for height, width, channels in graph.shapes.values()]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import peak_memory as module

    yield module
    for name in ("peak_memory", "common"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("width", "slices"), [(0.35, 4), (1.0, 3)])
def test_pytorchs_allocator_confirms_the_prediction(width, slices, benchmark):
    torch = pytest.importorskip("torch")
    from fusiform.modules import MobileNetV2

    graph = graph_of(width=width, size=96)
    network = MobileNetV2(width).eval().to(memory_format=torch.channels_last)
    picture = torch.zeros(1, 3, 96, 96).to(memory_format=torch.channels_last)
    plain = benchmark.torch_peak(network, picture)
    assert plain == pytest.approx(peak_memory(graph, separate_norms=True).bytes, rel=0.02)
    sliced = benchmark.torch_peak(network.split_expansion(slices), picture)
    assert sliced == pytest.approx(peak_memory(split_expansion(graph, slices)).bytes, rel=0.02)
    assert sliced < plain / 2


@pytest.mark.parametrize("size", [96, 224])
@pytest.mark.parametrize(("width", "slices"), [(0.35, 4), (0.5, 1), (1.0, 5), (1.4, 3)])
def test_litert_plans_an_arena_of_the_predicted_size(width, slices, size, benchmark):
    """To the byte: the plan follows from the sizes and lifetimes of the tensors alone."""
    from fusiform.graph.tflite import to_tflite

    graph = split_expansion(graph_of(width=width, size=size, padding="same"), slices)
    assert benchmark.litert_arena(to_tflite(graph)) == arena_memory(graph)


def test_an_arena_with_a_gap():
    """MobileNetV2 0.5 at 224 by hand: the peak and, behind it, 200,704 bytes that fit in no gap while they live.

    The picture, the expansion of features.2 (48 channels at 112x112), and behind it what is filtered from that (48 at
    56x56), are the peak. What features.2 makes (16 at 56x56) lives beside the last of these and, as a shortcut, beside
    the two tensors of 96 channels at 56x56 in features.3, which together lie where the expansion was.
    """
    assert peak_memory(graph_of(width=0.5)).bytes == 602_112 + 2_408_448 + 602_112
    assert arena_memory(graph_of(width=0.5, padding="same")) == 602_112 + 2_408_448 + 602_112 + 200_704


def test_receptive_fields_by_hand():
    """MobileNetV2: 3x3 at steps 1, 2, 2, 4, 4, ...; the last bottleneck sees 491 pixels."""
    fields = receptive_fields(graph_of())
    assert fields["features.0.0"] == 3
    assert fields["features.1.conv.1"] == 3 + 2 * 2
    assert fields["features.2.conv.2"] == 7 + 2 * 2
    assert fields["features.3"] == 11 + 2 * 4
    # Each 3x3 adds twice the step before it: 1 at 8 pixels less, 3 at 8, 7 at 16, 3 at 32 and those that halve.
    assert fields["features.17.conv.2"] == 19 + 2 * 4 + 2 * (2 * 8) + 2 * 8 + 6 * (2 * 16) + 2 * 16 + 3 * (2 * 32)
    assert fields["features.17.conv.2"] == 491
    assert fields["pool"] == 491 + 6 * 32


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
def test_gradients_reach_as_far_as_the_receptive_field(architecture, small_spec):
    """PyTorch's gradient of one value in the middle: where it is not zero is what the value depends on."""
    torch = pytest.importorskip("torch")
    import torch.nn.functional as F

    from fusiform.exporting.targets.module import to_module

    whole = graph_of_zeros(small_spec(architecture, 0.5, size=160))
    # Halves of averages: nothing grows to 6 at the additions, where ReLU6 would stop the gradient.
    nodes = tuple(
        dataclasses.replace(node, weight=np.full_like(node.weight, 0.5 / node.weight[0].size))
        if isinstance(node, Conv)
        else node
        for node in whole.nodes
    )
    fields = receptive_fields(whole)
    near = [k for k, node in enumerate(nodes) if fields[node.name] <= 100]
    assert len(near) > 15
    for k in near:
        module = to_module(Graph(whole.spec, nodes[: k + 1])).double()
        for node in module.graph.nodes:
            if node.target is F.max_pool2d:  # whose gradient goes to the largest alone
                node.target = F.avg_pool2d
        module.recompile()
        x = torch.ones((1, 3, 160, 160), dtype=torch.float64, requires_grad=True)
        y = module(x)
        y[0, :, y.shape[2] // 2, y.shape[3] // 2].sum().backward()
        rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
        assert int(rows.max() - rows.min()) + 1 == fields[nodes[k].name], nodes[k].name
