"""A classifier's features from every engine and every kind of file, and what has none."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fusiform
from fusiform.data.preprocess import crop_pixels
from fusiform.engines import open_engine
from fusiform.errors import SpecError, UsageError, WeightsError
from fusiform.graph.build import build_graph
from fusiform.graph.tflite import from_tflite, to_tflite
from fusiform.graph.tflite_checks import check_tflite
from fusiform.graph.tflite_features import add_features
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.model import open_model

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {"litert": "ai_edge_litert", "onnxruntime": "onnx", "torch": "torch", "openvino": "openvino"}
# Of networks of any width: the last map grows with it above 1 alone.
SIZES = {("mobilenet_v2", 0.35): 1280, ("mobilenet_v2", 1.4): 1792, ("shufflenet_v2", 0.5): 1024}


def pixels(spec, count=3):
    coarse = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3)).astype(np.uint8)
    size = (spec.input_size, spec.input_size)
    return np.stack([np.array(Image.fromarray(each).resize(size, Image.Resampling.BICUBIC)) for each in coarse])


def cosine(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module", params=["mobilenet_v2", "shufflenet_v2"])
def weights(request, small_spec, lived_in_state, tmp_path_factory):
    spec = small_spec(request.param, size=64)
    path = tmp_path_factory.mktemp("features") / f"{spec.name}.safetensors"
    write_safetensors(path, lived_in_state(spec), spec)
    return path


@pytest.mark.parametrize("engine", NEEDS)
def test_every_engine_answers_what_the_last_layer_reads(weights, engine):
    pytest.importorskip(NEEDS[engine])
    given = pixels(open_model(weights).spec)
    running = open_engine(weights, engine=engine, features=True)
    found, plain = running.run(given), open_engine(weights, engine=engine).run(given)
    assert list(found) == list(running.spec.answers) == ["logits", "features"]
    assert list(plain) == ["logits"]
    assert np.allclose(found["logits"], plain["logits"], atol=1e-4 * np.abs(plain["logits"]).max())
    assert found["features"].dtype == np.float32
    assert found["features"].shape == (3, running.spec.num_features)
    # The last layer itself says whether these are its features.
    last = build_graph(running.spec, open_model(weights).state()).nodes[-1]
    made = found["features"] @ last.weight.T + last.bias
    assert np.allclose(made, found["logits"], atol=1e-3 * np.abs(found["logits"]).max())


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x1_0"])
def test_bundled_int8_files_answer_features_near_those_of_their_float_network(name):
    spec = open_model(name).spec
    photographs = [Image.open(EXAMPLES / f"{one}.jpg").convert("RGB") for one in ("cat", "coffee")]
    given = np.stack([crop_pixels(photograph, spec.preprocess) for photograph in photographs])
    found = open_engine(name, features=True).run(given)
    pytest.importorskip("torch")
    expected = open_engine(name, engine="torch", features=True).run(given)["features"]
    assert cosine(found["features"], expected).min() > 0.99
    assert np.array_equal(found["probabilities"], open_engine(name).run(given)["probabilities"])


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_files_are_given_the_answer_in_memory_and_stay_as_they_are(weights, tmp_path, kind):
    pytest.importorskip("onnx")
    model = open_model(weights)
    path = tmp_path / f"model.{kind}"
    path.write_bytes(model.tflite() if kind == "tflite" else model.onnx())
    before = path.read_bytes()
    given = pixels(model.spec)
    found = open_engine(path, features=True).run(given)["features"]
    assert np.allclose(found, open_engine(weights, features=True).run(given)["features"], rtol=1e-4, atol=1e-5)
    assert path.read_bytes() == before
    assert "features" not in open_engine(path).run(given)


def test_a_file_that_was_given_the_answer_is_still_sound(small_spec, lived_in_state):
    spec = small_spec("shufflenet_v2", size=32)
    data = to_tflite(build_graph(spec, lived_in_state(spec)))
    for padding in range(4):  # the list stands at a multiple of four, wherever the file ends
        longer = add_features(data + bytes(padding), spec, source="file")
        assert check_tflite(longer, source="file", described=True) is None


def test_an_int8_file_of_version_0_1_answers_features():
    data = gzip.decompress((Path(__file__).parents[1] / "graph" / "int8_of_version_0_1.tflite.gz").read_bytes())
    graph = from_tflite(data)
    from fusiform.engines.litert import LiteRTEngine

    spec = graph.spec.replace(features=True)
    given = pixels(spec, 2)
    found = LiteRTEngine(add_features(data, spec, source="file"), spec).run(given)["features"]
    assert found.shape == (2, spec.num_features)
    assert (found > 0).any()


@pytest.mark.parametrize(("network", "size"), SIZES.items())
def test_the_number_of_features(network, size):
    spec = ModelSpec(*network, ("a", "b"), features=True)
    assert spec.num_features == size
    assert spec.answers == {"logits": (2,), "features": (size,)}


def test_a_description_without_features_does_not_mention_them():
    spec = ModelSpec("mobilenet_v2", 1.0, ("a", "b"))
    assert "features" not in spec.to_dict()
    assert ModelSpec.from_json(spec.replace(features=True).to_json()).features


def test_only_classifiers_have_features():
    with pytest.raises(SpecError, match="features is for classification"):
        ModelSpec(
            "mobilenet_v2", 1.0, ("a",), "detection", preprocess=Preprocess(224, 224, fit="stretch"), features=True
        )


def test_a_detector_has_none_to_answer(small_spec, lived_in_state, tmp_path):
    spec = small_spec("mobilenet_v2", size=96).replace(task="detection", preprocess=Preprocess(96, 96, fit="stretch"))
    path = tmp_path / "detector.safetensors"
    write_safetensors(path, lived_in_state(spec), spec)
    with pytest.raises(UsageError, match="is for detection, and features are a classifier's"):
        fusiform.Predictor(path, features=True)


def test_a_program_without_them_names_the_flag(weights, tmp_path):
    pytest.importorskip("torch")
    from fusiform.exporting.targets.torchscript import write

    model = open_model(weights)
    path = write(model.graph(), "float32", tmp_path)[0].path
    with pytest.raises(UsageError, match=r"export it again from its model with --features .* --to torchscript"):
        open_engine(path, features=True)


def test_a_file_whose_last_layer_reads_other_numbers_is_refused(small_spec, lived_in_state):
    spec = small_spec("shufflenet_v2", size=32)
    data = to_tflite(build_graph(spec, lived_in_state(spec)))
    with pytest.raises(WeightsError, match="does not read 1280 features"):
        add_features(data, ModelSpec("mobilenet_v2", 1.0, spec.labels), source="file")
    with pytest.raises(WeightsError, match="file: damaged"):
        add_features(data[:64] + bytes(64), spec, source="file")


def test_a_predictor_gives_them_where_asked_alone():
    sources = [EXAMPLES / "cat.jpg", EXAMPLES / "missing.jpg"]
    with fusiform.Predictor("shufflenet_v2_x1_0", features=True) as predictor:
        cat, missing = predictor(sources)
    assert cat.features.shape == (1024,)
    assert cat.features.dtype == np.float32
    assert missing.features is None
    plain = fusiform.predict(sources, "shufflenet_v2_x1_0")[0]
    assert plain.features is None
    assert plain == cat


def test_a_file_that_answers_features_is_predicted_with_like_any_other(tmp_path):
    model = open_model("shufflenet_v2_x1_0")
    graph = model.graph()
    path = tmp_path / "model.tflite"
    path.write_bytes(to_tflite(graph.__class__(graph.spec.replace(features=True), graph.nodes, graph.quantization)))
    answer = fusiform.predict(EXAMPLES / "cat.jpg", path)[0]
    assert answer.features is None
    assert answer.top[0].name == fusiform.predict(EXAMPLES / "cat.jpg", model)[0].top[0].name
