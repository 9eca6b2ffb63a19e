"""ONNX files: they answer as LiteRT's do, are read back byte for byte, and refused when damaged."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fusiform.engines import open_engine
from fusiform.engines.litert import LiteRTEngine
from fusiform.errors import FusiformError, SpecError, WeightsError
from fusiform.graph.build import build_graph
from fusiform.graph.ir import Conv
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


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x1_0"])
def test_int8_answers_do_not_depend_on_the_rest_of_the_batch(name):
    model = open_model(name)
    size = model.spec.input_size
    coarse = np.random.default_rng(1).integers(0, 256, (3, 7, 7, 3)).astype(np.uint8)
    batch = coarse.repeat(size // 7, axis=1).repeat(size // 7, axis=2)
    batch[1] //= 8  # much darker, and so with smaller features
    engine = OnnxRuntimeEngine(model.onnx(), model.spec.with_logits())
    alone = np.concatenate([engine.run(batch[k : k + 1])["logits"] for k in range(3)])
    np.testing.assert_allclose(engine.run(batch)["logits"], alone, rtol=0, atol=1e-5)


def test_features_of_nothing(small_spec, lived_in_state):
    """A picture whose features are all zero is named by the biases alone."""
    from fusiform.exporting.quantization.quantize import QuantizedNetwork

    torch = pytest.importorskip("torch")
    spec = small_spec("mobilenet_v2")
    quantised = QuantizedNetwork(build_graph(spec, lived_in_state(spec)))
    quantised.calibrate([torch.rand(4, 3, 32, 32) * 255])
    int8 = quantised.freeze()
    nodes = list(int8.nodes)
    last = max(k for k, node in enumerate(nodes) if isinstance(node, Conv))
    nodes[last] = dataclasses.replace(nodes[last], weight=nodes[last].weight * 0, bias=nodes[last].bias * 0 - 1)
    engine = OnnxRuntimeEngine(to_onnx(dataclasses.replace(int8, nodes=tuple(nodes))), spec)
    answers = engine.run(np.full((1, 32, 32, 3), 200, np.uint8))["logits"]
    np.testing.assert_allclose(answers[0], nodes[-1].bias, rtol=0, atol=1e-6)


def as_written_earlier(file: bytes) -> bytes:
    """An int8 file of a classifier as it was written before: zero point in the pixels, features rounded batch by batch.

    Made by taking back what the writer does today.
    """
    model = onnx.load_from_string(file)
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}

    def value(name: str):
        return onnx.numpy_helper.to_array(arrays[name])

    stem = next(node for node in model.graph.node if node.op_type == "Conv").name.removesuffix("/conv")
    zero = int(value("image/zero_point"))
    bias = value(f"{stem}.bias") + zero * value(f"{stem}.weight").sum((1, 2, 3), dtype=np.int32)
    arrays[f"{stem}.bias"].CopyFrom(onnx.numpy_helper.from_array(bias, f"{stem}.bias"))
    top, left, bottom, right = value("image/pads")[[1, 2, 5, 6]]
    pads = next(attribute for attribute in nodes[f"{stem}/conv"].attribute if attribute.name == "pads")
    pads.ints[:] = [top, left, bottom, right]
    nodes[f"{stem}/conv"].input[0] = "image/real"
    linear = next(name for name in nodes if name.endswith("/divisor")).removesuffix("/divisor")
    features, weight = f"{linear}/features", f"{linear}.weight"
    quantised = [features, f"{features}/scale", f"{features}/zero_point"]
    source = nodes[f"{linear}/largest"].input[0]
    gone = [name for name in nodes if name.startswith(("image/", f"{linear}/", f"{weight}/"))] + ["logits"]
    kept = [node for name, node in nodes.items() if name not in gone]
    make = onnx.helper.make_node
    before = [
        make("Transpose", ["pixels"], ["image"], perm=[0, 3, 1, 2]),
        make("DequantizeLinear", ["image", "image/scale", "image/zero_point"], ["image/real"]),
    ]
    after = [
        make("DynamicQuantizeLinear", [source], quantised),
        make("MatMulInteger", [features, weight, f"{features}/zero_point", f"{weight}/zero_point"], ["product"]),
        make("Cast", ["product"], ["product/real"], to=onnx.TensorProto.FLOAT),
        make("Mul", [f"{features}/scale", f"{weight}/scale"], ["step"]),
        make("Mul", ["product/real", "step"], ["answer"]),
        make("Add", ["answer", f"{linear}.bias"], ["logits"]),
    ]
    used = {name for node in (*before, *kept, *after) for name in node.input}
    constants = [tensor for name, tensor in arrays.items() if name in used]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend([*before, *kept, *after])
    model.graph.initializer.extend(constants)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x1_0"])
def test_int8_files_of_earlier_versions(name, tmp_path):
    model = open_model(name)
    earlier = tmp_path / "earlier.onnx"
    earlier.write_bytes(as_written_earlier(model.onnx()))
    opened = open_model(earlier)
    assert to_tflite(opened.graph()) == to_tflite(model.graph())
    assert to_onnx(opened.graph()) == model.onnx()
    size = model.spec.input_size
    coarse = np.random.default_rng(2).integers(0, 256, (1, 7, 7, 3)).astype(np.uint8)
    pixels = coarse.repeat(size // 7, axis=1).repeat(size // 7, axis=2)
    then, now = (open_engine(file).run(pixels)["logits"] for file in (opened, open_model(written(model, tmp_path))))
    # The pixels and all convolutions are the same to the bit: what is padded with, too.
    np.testing.assert_allclose(then, now, rtol=0, atol=0.01 * np.abs(then).max())


def written(model, folder):
    path = folder / "now.onnx"
    path.write_bytes(model.onnx())
    return path


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
