"""Other forms of the same network as a file: half the bytes, raw pixels, some layers of an int8 network in float."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from fusiform.data.preprocess import normalize
from fusiform.engines.litert import LiteRTEngine
from fusiform.engines.onnxruntime import OnnxRuntimeEngine
from fusiform.graph.build import build_graph
from fusiform.graph.inputs import read_normalized, read_pixels
from fusiform.graph.ir import INPUT, Conv, Linear
from fusiform.graph.numbers import to_float, to_state
from fusiform.graph.onnx import from_onnx, to_onnx
from fusiform.graph.tflite import from_tflite, to_tflite
from fusiform.zoo.model import open_model

FORMATS = {"tflite": (to_tflite, from_tflite, LiteRTEngine), "onnx": (to_onnx, from_onnx, OnnxRuntimeEngine)}


@pytest.fixture(params=["mobilenet_v2", "shufflenet_v2"])
def graph(request, small_spec, lived_in_state):
    spec = small_spec(request.param, size=64)
    return build_graph(spec, lived_in_state(spec))


def answers(kind, graph, pixels, **options):
    write, _, engine = FORMATS[kind]
    return engine(write(graph, **options), graph.spec).run(pixels)["logits"]


@pytest.fixture(scope="module")
def pixels():
    random = np.random.default_rng(3)
    return random.integers(0, 256, (2, 8, 8, 3)).astype(np.uint8).repeat(8, axis=1).repeat(8, axis=2)


@pytest.mark.parametrize("kind", FORMATS)
def test_half_precision_halves_the_file_and_keeps_the_answers(kind, graph, pixels):
    write, read, _ = FORMATS[kind]
    whole, half = write(graph), write(graph, half=True)
    weights = sum(node.weight.nbytes + node.bias.nbytes for node in graph.nodes if isinstance(node, Conv | Linear))
    assert len(whole) - len(half) > 0.8 * weights / 2
    expected = answers(kind, graph, pixels)
    actual = answers(kind, graph, pixels, half=True)
    assert 0 < np.abs(actual - expected).max() <= 5e-3 * np.abs(expected).max()
    back = read(half)
    for node, original in zip(back.nodes, graph.nodes, strict=True):
        if isinstance(node, Conv | Linear):
            np.testing.assert_array_equal(node.weight, original.weight.astype(np.float16).astype(np.float32))
    assert write(back, half=True) == half


@pytest.mark.parametrize("kind", FORMATS)
def test_raw_pixels_give_the_answers_of_normalised_pictures(kind, graph, pixels):
    write, read, engine = FORMATS[kind]
    spec = graph.spec.replace(preprocess=dataclasses.replace(graph.spec.preprocess, std=(0.1, 0.4, 0.25)))
    graph = dataclasses.replace(graph, spec=spec)
    expected = engine(write(graph), spec).run(normalize(pixels, spec.preprocess))["logits"]
    file = write(read_pixels(graph))
    assert np.abs(engine(file, spec).run(pixels)["logits"] - expected).max() <= 1e-4 * np.abs(expected).max()
    back = read(file)
    assert back.nodes[0].source == INPUT
    np.testing.assert_allclose(back.nodes[0].weight, graph.nodes[0].weight, rtol=1e-6)
    for node, original in zip(back.nodes[1:], graph.nodes[1:], strict=True):
        if isinstance(node, Conv | Linear):
            np.testing.assert_array_equal(node.weight, original.weight)


def test_reading_pixels_can_be_undone(graph):
    back = to_float(read_pixels(graph))
    assert [node.name for node in back.nodes] == [node.name for node in graph.nodes]
    np.testing.assert_allclose(back.nodes[0].weight, graph.nodes[0].weight, rtol=1e-6)
    assert read_normalized(read_pixels(graph)).nodes[0].source == INPUT


def in_float(graph, names):
    """The int8 graph with these nodes in float, their weights those that int8 stands for."""
    quantization = graph.quantization
    nodes = []
    for node in graph.nodes:
        if node.name in names and isinstance(node, Conv | Linear):
            scales = quantization.weights[node.name]
            weight = (node.weight * scales.reshape(-1, *(1,) * (node.weight.ndim - 1))).astype(np.float32)
            bias = node.bias
            if isinstance(node, Conv):
                bias = (bias * (scales.astype(float) * quantization.activations[node.source].scale)).astype(np.float32)
            node = dataclasses.replace(node, weight=weight, bias=bias)
        nodes.append(node)
    return dataclasses.replace(
        graph, nodes=tuple(nodes), quantization=dataclasses.replace(quantization, in_float=frozenset(names))
    )


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("mobilenet_v2", ["features.0.0"]),
        ("mobilenet_v2", ["features.3.conv.2", "features.3", "features.4.conv.0.0"]),
        ("mobilenet_v2", ["features.3"]),
        ("mobilenet_v2", ["features.18.0", "classifier.1"]),
        ("shufflenet_v2_x1_0", ["conv1.0"]),
        ("shufflenet_v2_x1_0", ["stage2.0.branch1.0", "stage2.1.branch2.5", "conv5.0", "fc"]),
    ],
)
def test_layers_in_float_answer_alike_and_come_back(kind, model, names):
    """The same weights with less rounding in between: nearly the int8 answers."""
    write, read, engine = FORMATS[kind]
    opened = open_model(model)
    whole = opened.graph()
    mixed = in_float(whole, names)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (2, 7, 7, 3)).astype(np.uint8).repeat(32, axis=1).repeat(32, axis=2)
    file = write(mixed)
    expected = engine(write(whole), whole.spec).run(pixels)["logits"]
    actual = engine(file, whole.spec).run(pixels)["logits"]
    assert np.corrcoef(actual.ravel(), expected.ravel())[0, 1] > 0.99
    back = read(file)
    assert back.quantization.in_float == frozenset(names)
    assert write(back) == file
    state = opened.state()
    for name, array in to_state(back).items():
        np.testing.assert_allclose(array, state[name], rtol=1e-4, atol=1e-5)
