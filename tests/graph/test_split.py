"""Split graphs against the graphs they came from, in the runtimes, and against what their shape must be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusiform.engines.litert import LiteRTEngine
from fusiform.errors import UsageError
from fusiform.graph.build import build_graph
from fusiform.graph.count import count_multiply_adds
from fusiform.graph.ir import Add, Graph, Quantization, sources
from fusiform.graph.split import find_expansions, split_expansion
from fusiform.graph.tflite import to_tflite


@pytest.fixture(scope="module")
def graphs(small_spec, lived_in_state):
    """Graphs by architecture and padding, made once."""
    made = {}

    def graph(architecture, padding="symmetric"):
        if (architecture, padding) not in made:
            spec = small_spec(architecture, 0.35 if architecture == "mobilenet_v2" else 0.5, size=64, padding=padding)
            made[architecture, padding] = build_graph(spec, lived_in_state(spec))
        return made[architecture, padding]

    return graph


def pictures(graph, count=1):
    size = graph.spec.input_size
    return np.random.default_rng(3).normal(0, 1, (count, 3, size, size)).astype(np.float32)


def assert_equal(actual, expected):
    assert expected.std() > 0
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("slices", [2, 4, 5])
def test_litert_gives_the_same_answers(slices, padding, graphs):
    graph = graphs("mobilenet_v2", padding)
    split = split_expansion(graph, slices)
    plain, sliced = (LiteRTEngine(to_tflite(g), graph.spec).run(pictures(graph))["logits"] for g in (graph, split))
    assert_equal(sliced, plain)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_onnx_runtime_gives_the_same_answers(padding, graphs):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from fusiform.engines.onnxruntime import OnnxRuntimeEngine
    from fusiform.graph.onnx import to_onnx

    graph = graphs("mobilenet_v2", padding)
    split = split_expansion(graph, 3)
    plain, sliced = (
        OnnxRuntimeEngine(to_onnx(g), graph.spec).run(pictures(graph, 2))["logits"] for g in (graph, split)
    )
    assert_equal(sliced, plain)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_pytorch_gives_the_same_answers(padding, graphs):
    torch = pytest.importorskip("torch")
    from fusiform.exporting.targets.module import to_module

    graph = graphs("mobilenet_v2", padding)
    x = torch.from_numpy(pictures(graph, 2))
    with torch.inference_mode():
        plain, sliced = (to_module(g)(x).numpy() for g in (graph, split_expansion(graph, 4)))
    assert_equal(sliced, plain)


def test_the_stem_and_the_sixteen_bottlenecks_behind_it_are_found(graphs):
    found = find_expansions(graphs("mobilenet_v2"))
    assert len(found) == 17
    assert [conv.name for conv in found[0]] == ["features.0.0", "features.1.conv.0.0", "features.1.conv.1"]
    assert [conv.name for conv in found[16]] == [f"features.17.conv.{layer}" for layer in ("0.0", "1.0", "2")]


def test_shufflenet_has_nothing_to_split(graphs):
    graph = graphs("shufflenet_v2")
    assert find_expansions(graph) == ()
    assert [node.name for node in split_expansion(graph, 4).nodes] == [node.name for node in graph.nodes]


def test_one_slice_is_the_graph_itself(graphs):
    assert split_expansion(graphs("mobilenet_v2"), 1) is graphs("mobilenet_v2")


def test_the_order_lets_a_slice_go_before_the_next_one_comes(graphs):
    """The first bottleneck with a shortcut, features.3 (8 channels, 48 within), by hand."""
    names = [node.name for node in split_expansion(graphs("mobilenet_v2"), 3).nodes if "features.3" in node.name]
    expand, filtered, narrow = (f"features.3.conv.{layer}" for layer in ("0.0", "1.0", "2"))
    assert names == [
        f"{expand}/0",
        f"{filtered}/0",
        f"{narrow}/0",
        f"{expand}/1",
        f"{filtered}/1",
        f"{narrow}/1",
        f"{narrow}/sum/1",
        f"{expand}/2",
        f"{filtered}/2",
        f"{narrow}/2",
        narrow,
        "features.3",
    ]


@settings(max_examples=25, deadline=None)
@given(slices=st.integers(2, 200))
def test_every_channel_is_in_one_slice(slices, graphs):
    graph = graphs("mobilenet_v2")
    split = split_expansion(graph, slices)
    made = {node.name: node for node in split.nodes}
    assert split.shapes[split.nodes[-1].name] == graph.shapes[graph.nodes[-1].name]
    # The sums multiply nothing.
    assert count_multiply_adds(split) == count_multiply_adds(graph)
    for expansion in find_expansions(graph):
        channels = len(expansion.expand.bias)
        count = min(slices, channels)
        thin = [[made[f"{conv.name}/{k}"] for k in range(count)] for conv in expansion]
        assert f"{expansion.expand.name}/{count}" not in made
        widths = [len(conv.bias) for conv in thin[0]]
        assert sum(widths) == channels
        assert max(widths) - min(widths) <= 1
        for axis, whole, parts in zip((0, 0, 1), expansion, thin, strict=True):
            np.testing.assert_array_equal(np.concatenate([conv.weight for conv in parts], axis), whole.weight)
        np.testing.assert_array_equal(sum(conv.bias for conv in thin[2]), expansion.project.bias)


def test_every_tensor_is_there_before_it_is_read(graphs):
    there = {"image"}
    for node in split_expansion(graphs("mobilenet_v2"), 4).nodes:
        assert there.issuperset(sources(node))
        assert node.name not in there
        there.add(node.name)


def test_a_tensor_that_somebody_else_reads_stays_whole(graphs):
    """As where a detector reads the expansion of block 14."""
    graph = graphs("mobilenet_v2")
    at = next(k for k, node in enumerate(graph.nodes) if node.name == "features.14.conv.1.0")
    reader = Add("reader", "features.14.conv.0.0", "features.14.conv.0.0")
    watched = Graph(graph.spec, (*graph.nodes[:at], reader, *graph.nodes[at:]))
    split = {node.name for node in split_expansion(watched, 4).nodes}
    assert "features.14.conv.0.0" in split
    assert "features.14.conv.0.0/0" not in split
    assert "features.13.conv.0.0/0" in split


def test_refusals(graphs):
    graph = graphs("mobilenet_v2")
    with pytest.raises(UsageError, match="1 slice or more, not in 0"):
        split_expansion(graph, 0)
    with pytest.raises(UsageError, match="only float32"):
        split_expansion(Graph(graph.spec, graph.nodes, Quantization({}, {})), 2)
