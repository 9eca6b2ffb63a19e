"""OpenVINO's Model API reads exported classifiers: its answers are the network's on the same pixels."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
model_api = pytest.importorskip("model_api.models")

from model_api.adapters import OpenvinoAdapter

from fusiform.engines import open_engine
from fusiform.engines.openvino import open_core
from fusiform.exporting.targets.onnx import write as write_onnx
from fusiform.exporting.targets.openvino import write as write_openvino
from fusiform.graph.inputs import read_pixels
from fusiform.graph.numbers import to_float
from fusiform.spec import Preprocess
from fusiform.tasks.classification import softmax
from fusiform.zoo.model import open_model

WRITERS = {"onnx": write_onnx, "openvino": write_openvino}


def smooth_pixels(size, seed):
    """A picture (size, size, 3) of soft blobs, in RGB."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3)).astype(np.uint8)
    return np.kron(coarse, np.ones((size // 7, size // 7, 1), np.uint8))


def wrap(path, best):
    """A file as Model API opens it, but that nothing is computed in bfloat16, which it leaves to the processor."""
    adapter = OpenvinoAdapter(
        open_core("tests"), str(path), device="CPU", plugin_config={"INFERENCE_PRECISION_HINT": "f32"}
    )
    return model_api.Model.create_model(adapter, configuration={"topk": best})


def in_bgr(pixels):
    return np.ascontiguousarray(pixels[..., ::-1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x1_0"])
@pytest.mark.parametrize("form", ["float32", "float16", "int8", "pixels"])
@pytest.mark.parametrize("target", list(WRITERS))
def test_it_names_what_we_name(target, form, name, tmp_path):
    graph = open_model(name).graph()
    graph = graph if form == "int8" else to_float(graph)
    graph = read_pixels(graph) if form == "pixels" else graph
    (written,) = WRITERS[target](graph, "float32" if form == "pixels" else form, tmp_path)
    wrapper = wrap(written.path, 5)
    assert isinstance(wrapper, model_api.ClassificationModel)
    engine = open_engine(written.path, engine="openvino")
    for seed in range(3):
        # A square of the network's size: Model API has no margin around its crop.
        pixels = smooth_pixels(graph.spec.input_size, seed)
        expected = softmax(engine.run(pixels[None])["logits"])[0]
        found = wrapper(in_bgr(pixels)).top_labels
        best = np.argsort(-expected)[:5]
        assert [label.id for label in found] == best.tolist()
        assert [label.name for label in found] == ["_".join(graph.spec.labels[k].split()) for k in best]
        np.testing.assert_allclose([label.confidence for label in found], expected[best], rtol=0, atol=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("fit", "order"), [("stretch", "bgr"), ("crop", "bgr"), ("stretch", "rgb")])
def test_other_preprocessing(fit, order, tmp_path, small_spec, lived_in_state):
    from fusiform.graph.build import build_graph

    preprocess = Preprocess(70, 70, mean=(0.1, 0.4, 0.6), std=(0.2, 0.3, 0.4), color_order=order, fit=fit)
    spec = small_spec("shufflenet_v2", size=70).replace(preprocess=preprocess)
    (written,) = write_onnx(build_graph(spec, lived_in_state(spec)), "float32", tmp_path)
    wrapper = wrap(written.path, 10)
    pixels = smooth_pixels(70, 1)
    ours = pixels if order == "rgb" else in_bgr(pixels)  # engines take the order that the network wants
    expected = softmax(open_engine(written.path, engine="openvino").run(ours[None])["logits"])[0]
    found = {label.id: label.confidence for label in wrapper(in_bgr(pixels)).top_labels}
    np.testing.assert_allclose([found[k] for k in range(10)], expected, rtol=0, atol=1e-3)
    assert json.loads(spec.to_json())["preprocess"]["color_order"] == order
