"""Files that answer with features too: every target, what verification finds, and what goes with them."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from fusiform.errors import UsageError
from fusiform.exporting.golden import golden_folder
from fusiform.exporting.job import export
from fusiform.exporting.verification import parity as parities
from fusiform.exporting.verification.verify import verify
from fusiform.graph.build import build_graph
from fusiform.graph.onnx import to_onnx
from fusiform.graph.tflite import to_tflite
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.model import open_model
from fusiform.zoo.snippets import languages_for, write_snippet
from tests.exporting.networks import lively_state, small_spec


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    spec = small_spec("classification")
    write_safetensors(path, lively_state(spec), spec)
    return path


@pytest.mark.parametrize(
    ("target", "needs"),
    [
        ("litert", "ai_edge_litert"),
        ("onnx", "onnxruntime"),
        ("torchscript", "torch"),
        ("openvino", "openvino"),
        ("executorch", "executorch"),
        ("coreml", "coremltools"),
        ("web", "ai_edge_litert"),
    ],
)
def test_every_target_answers_verified_features(model, tmp_path, target, needs):
    pytest.importorskip(needs)
    report = export(model, target, tmp_path, features=True, golden=1)
    for row in report.rows:
        assert row["passed"]
        assert "_features" in row["file"]
        assert row["features_cosine"] == pytest.approx(1, abs=1e-5)
        written = open_model(row["file"])
        assert written.spec.features
        golden = json.loads((golden_folder(tmp_path / row["file"]) / "golden.json").read_text())
        assert [output["name"] for output in golden["outputs"]] == list(written.spec.answers)
        for language in languages_for(written) if target != "web" else ():
            assert "1280" in write_snippet(written, language)


def test_int8_files_are_held_to_the_error_and_the_cosine(model, tmp_path, monkeypatch):
    # Features of an untrained network are hard to round, so that only what is measured is looked at.
    graph = open_model(model).graph()
    file = tmp_path / "model.onnx"
    file.write_bytes(to_onnx(graph.__class__(graph.spec.replace(features=True), graph.nodes)))
    found = verify(file, model)
    assert found.passed
    assert found.report().figures["features_cosine"] > 0.999
    half = found.__class__(**{**vars(found), "tolerance": None, "min_agreement": None})
    assert parities.find_failures(half) == []
    monkeypatch.setattr(parities, "MIN_COSINE", 1.1)
    assert "cosine similarity" in parities.find_failures(half)[0]


def test_features_of_other_weights_are_seen(model, tmp_path):
    spec = small_spec("classification").replace(features=True)
    state = lively_state(spec)
    # The same answers of other features: those of one channel doubled, and what the last layer makes of them halved.
    norm = "features.18.1"
    state[f"{norm}.weight"][0] *= 0.5
    state[f"{norm}.bias"][0] *= 0.5
    graph = build_graph(spec, state)
    last = graph.nodes[-1]
    last.weight[:, 0] *= 2
    file = tmp_path / "model.tflite"
    file.write_bytes(to_tflite(graph))
    found = verify(file, model)
    assert any(failure.startswith("a feature differs by") for failure in found.failures)


def test_a_file_without_features_is_verified_as_ever(model, tmp_path):
    file = tmp_path / "model.tflite"
    file.write_bytes(open_model(model).tflite())
    found = verify(file, model)
    assert found.passed
    figures = found.report().figures
    assert figures["features_cosine"] is figures["features_error"] is None


def test_a_file_with_features_is_exported_without_them_unless_asked(model, tmp_path):
    (row,) = export(model, "onnx", tmp_path, features=True).rows
    (again,) = export(row["file"], "onnx", tmp_path).rows
    (plain,) = export(model, "onnx", tmp_path / "plain").rows
    assert not open_model(again["file"]).spec.features
    assert (tmp_path / "plain" / "mobilenet_v2_x0_5_float32.onnx").read_bytes() == open_model(again["file"]).data
    assert plain["bytes"] == again["bytes"]
    # The answer costs a name and a shape.
    assert row["bytes"] - plain["bytes"] < 200


def test_features_are_a_classifiers(tmp_path):
    path = tmp_path / "detector.safetensors"
    spec = small_spec("detection")
    write_safetensors(path, lively_state(spec), spec)
    with pytest.raises(UsageError, match="--features is for classifiers"):
        export(path, "onnx", tmp_path, features=True)


def test_lists_of_answers_are_in_one_order(model):
    spec = open_model(model).spec.replace(features=True)
    assert list(spec.answers) == ["logits", "features"]
    assert list(spec.replace(output="probabilities").answers) == ["probabilities", "features"]
    assert np.prod(spec.answers["features"]) == spec.num_features
