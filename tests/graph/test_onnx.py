"""ONNX files: they answer as LiteRT's do, are read back byte for byte, and refused when damaged."""

from __future__ import annotations

import numpy as np
import pytest

from fusiform.engines.litert import LiteRTEngine
from fusiform.errors import FusiformError, SpecError, WeightsError
from fusiform.graph.build import build_graph
from fusiform.graph.tflite import to_tflite
from fusiform.spec import METADATA_KEY
from fusiform.zoo.model import open_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from fusiform.engines.onnxruntime import OnnxRuntimeEngine
from fusiform.graph.onnx import from_onnx, read_spec, to_onnx


@pytest.fixture(params=["mobilenet_v2", "shufflenet_v2"])
def graph(request, small_spec, lived_in_state):
    spec = small_spec(request.param)
    spec = spec.replace(labels=("Zürich", "\N{CAT FACE}", *spec.labels[2:]))
    return build_graph(spec, lived_in_state(spec))


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("size", [32, 97, 224])
def test_both_runtimes_answer_alike(architecture, padding, size, small_spec, lived_in_state):
    spec = small_spec(architecture, size=size, padding=padding)
    graph = build_graph(spec, lived_in_state(spec))
    batch = np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32)
    expected = LiteRTEngine(to_tflite(graph), spec).run(batch)["logits"]
    actual = OnnxRuntimeEngine(to_onnx(graph), spec).run(batch)["logits"]
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


def test_float_graphs_come_back(graph):
    file = to_onnx(graph)
    assert read_spec(file, source="x") == graph.spec
    back = from_onnx(file)
    assert to_onnx(back) == file
    assert to_tflite(back) == to_tflite(graph)


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x1_0"])
def test_int8_graphs_come_back(name):
    model = open_model(name)
    file = to_onnx(model.graph())
    assert to_tflite(from_onnx(file)) == to_tflite(model.graph())
    assert to_onnx(from_onnx(file)) == file


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x1_0"])
def test_int8_answers_are_litert_s_to_a_few_roundings(name):
    model = open_model(name)
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (2, 7, 7, 3)).astype(np.uint8)
    batch = coarse.repeat(32, axis=1).repeat(32, axis=2)
    graph = model.graph()
    expected = LiteRTEngine(to_tflite(graph), graph.spec).run(batch)["logits"]
    actual = OnnxRuntimeEngine(model.onnx(), graph.spec).run(batch)["logits"]
    assert np.corrcoef(actual.ravel(), expected.ravel())[0, 1] > 0.995
    assert np.abs(actual - expected).mean() < 0.1 * expected.std()


def test_a_file_cut_anywhere_is_damaged(graph):
    file = to_onnx(graph)
    for length in (0, 1, 8, 100, len(file) // 2, len(file) - 1):
        with pytest.raises(WeightsError, match=r"a\.onnx: not an ONNX file"):
            from_onnx(file[:length], source="a.onnx")


def test_without_a_description(graph):
    model = onnx.load_from_string(to_onnx(graph))
    del model.metadata_props[:]
    with pytest.raises(SpecError, match=r"b\.onnx: carries no description .* fusiform port b\.onnx --out FILE"):
        from_onnx(model.SerializeToString(), source="b.onnx")


def test_a_description_of_another_network(graph):
    model = onnx.load_from_string(to_onnx(graph))
    spec = graph.spec.replace(width=1.0)
    onnx.helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    with pytest.raises(WeightsError, match=r"c\.onnx: .* another network"):
        from_onnx(model.SerializeToString(), source="c.onnx")


def test_random_damage_never_ends_in_a_traceback(graph):
    file = to_onnx(graph)
    random = np.random.default_rng(0)
    outcomes = set()
    for k in range(40):
        damaged = bytearray(file)
        # The nodes lie before the weights; the description behind them.
        at = int(random.integers(0, 20_000)) if k % 2 else len(file) - 1 - int(random.integers(0, 3000))
        damaged[at] ^= 1 << int(random.integers(8))
        try:
            from_onnx(bytes(damaged), source="d.onnx")
        except FusiformError as error:
            outcomes.add(str(error)[:8])
    assert outcomes == {"d.onnx: "}
