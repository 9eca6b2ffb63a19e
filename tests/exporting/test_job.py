"""From a model to files that passed: what is written, what is not, and what is said."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from fusiform.engines.litert import LiteRTEngine
from fusiform.errors import UsageError
from fusiform.exporting import job
from fusiform.exporting.job import ExportError, export
from fusiform.exporting.targets.targets import TARGETS, Target
from fusiform.graph.tflite import input_type
from fusiform.prediction.predict import predict
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.info import describe
from fusiform.zoo.model import open_model
from fusiform.zoo.restamp import restamp


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_spec, lived_in_state):
    """A model of three classes and 36 photographs in folders named after them, as the model sees them."""
    folder = tmp_path_factory.mktemp("model")
    spec = small_spec("mobilenet_v2", size=32, classes=3).replace(labels=("red fox", "owl", "newt"))
    write_safetensors(folder / "model.safetensors", lived_in_state(spec), spec)
    random = np.random.default_rng(0)
    pictures = [
        Image.fromarray(random.integers(0, 256, (5, 5, 3)).astype(np.uint8)).resize((32, 32)) for _ in range(36)
    ]
    for k, picture in enumerate(pictures):
        picture.save(folder / f"{k}.png")
    answers = predict([folder / f"{k}.png" for k in range(36)], model=folder / "model.safetensors")
    for k, answer in enumerate(answers):
        place = folder / "pictures" / answer.top[0].name
        place.mkdir(parents=True, exist_ok=True)
        (folder / f"{k}.png").rename(place / f"{k}.png")
    return folder


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_float_files_pass_and_are_byte_identical(folder, tmp_path, valid):
    reports = [export(folder / "model.safetensors", ["litert", "onnx"], tmp_path / name) for name in ("a", "b")]
    names = ["mobilenet_v2_x0_5_float32.onnx", "mobilenet_v2_x0_5_float32.tflite"]
    assert files(tmp_path / "a") == sorted([*names, "mobilenet_v2_x0_5_float32_export.json"])
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert open_model(tmp_path / "a" / name).spec.labels == ("red fox", "owl", "newt")
    rows = reports[0].rows
    assert [(row["target"], row["passed"]) for row in rows] == [("litert", True), ("onnx", True)]
    assert all(row["largest_error"] < 1e-4 for row in rows)
    assert rows[0]["bytes"] == (tmp_path / "a" / names[1]).stat().st_size
    written = json.loads((tmp_path / "a" / "mobilenet_v2_x0_5_float32_export.json").read_text())
    assert written == reports[0].to_dict()
    valid(reports[0].to_json())


def test_int8_from_photographs(folder, tmp_path):
    lines = []
    report = export(
        folder / "model.safetensors",
        ["litert", "onnx"],
        tmp_path,
        precision="int8",
        calibrate=folder / "pictures",
        data=folder / "pictures",
        max_drop=20,
        keep_float=2,
        say=lines.append,
    )
    for row in report.rows:
        assert row["layers_in_float"] == 2
        assert row["reference_top1"] == 1.0
        assert row["top1"] >= 0.8
    graph = open_model(tmp_path / "mobilenet_v2_x0_5_int8.tflite").graph()
    assert len(graph.quantization.in_float) == 2
    with (tmp_path / "mobilenet_v2_x0_5_int8_layers.csv").open(newline="") as stream:
        layers = list(csv.DictReader(stream))
    # The worst two are those that were left out.
    assert {row["layer"] for row in layers[:2]} == graph.quantization.in_float
    assert any("taken: " in line for line in lines)


def test_a_broken_writer_leaves_no_file_and_the_others_go_on(folder, tmp_path, monkeypatch):
    """Weights harmed on the way: the file is refused, the one already there stays, the other target is written."""

    def harmed(graph, precision, place):
        from fusiform.exporting.targets.litert import write

        nodes = list(graph.nodes)
        nodes[3] = job.dataclasses.replace(nodes[3], weight=nodes[3].weight * np.float32(1.3))
        return write(job.dataclasses.replace(graph, nodes=tuple(nodes)), precision, place)

    good = TARGETS["litert"]
    bad = Target("litert", good.precisions, good.tolerance, lambda: harmed)
    monkeypatch.setattr(job, "TARGETS", {**TARGETS, "litert": bad})
    (tmp_path / "mobilenet_v2_x0_5_float32.tflite").write_bytes(b"from before")
    with pytest.raises(ExportError, match=r"litert: .*float32\.tflite: does not give the answers of") as caught:
        export(folder / "model.safetensors", ["litert", "onnx"], tmp_path)
    assert [(row["target"], row["passed"]) for row in caught.value.report.rows] == [("litert", False), ("onnx", True)]
    assert (tmp_path / "mobilenet_v2_x0_5_float32.tflite").read_bytes() == b"from before"
    assert files(tmp_path) == [
        "mobilenet_v2_x0_5_float32.onnx",
        "mobilenet_v2_x0_5_float32.tflite",
        "mobilenet_v2_x0_5_float32_export.json",
    ]
    assert ".export-" not in str(caught.value)


def test_more_layers_stay_in_float_until_the_budget_holds(folder, tmp_path, monkeypatch):
    """A verification that passes from four layers on, whatever they are."""
    tried = []
    real = job.verify_answers

    def strict(candidate, reference, samples, **arguments):
        parity = real(candidate, reference, samples, **arguments)
        kept = len(candidate.graph().quantization.in_float)
        tried.append((candidate.format, kept))
        return job.dataclasses.replace(parity, failures=() if kept >= 4 else ("too far",))

    monkeypatch.setattr(job, "verify_answers", strict)
    report = export(
        folder / "model.safetensors",
        ["litert", "onnx"],
        tmp_path,
        precision="int8",
        calibrate=folder / "pictures",
    )
    assert tried == [("tflite", 0), ("tflite", 1), ("tflite", 2), ("tflite", 4), ("onnx", 4)]
    assert [row["layers_in_float"] for row in report.rows] == [4, 4]


def test_pixels_and_slices(folder, tmp_path):
    report = export(folder / "model.safetensors", ["onnx"], tmp_path, pixels=True, slices=4)
    assert report.rows[0]["largest_error"] < 1e-4
    import onnx

    model = onnx.load(str(tmp_path / "mobilenet_v2_x0_5_float32.onnx"))
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert sum(node.op_type == "Conv" for node in model.graph.node) > 150


@pytest.mark.parametrize(
    ("arguments", "reads", "output"),
    [
        ({}, "pixels (uint8)", "probabilities"),
        ({"slices": 2}, "pixels (uint8)", "probabilities"),
        ({"precision": "float16", "output": "logits"}, "pixels (uint8)", "logits"),
        ({"pixels": False}, "normalised images (float32)", "probabilities"),
        ({"pixels": False, "output": "logits"}, "normalised images (float32)", "logits"),
    ],
)
def test_what_litert_files_read_and_answer(arguments, reads, output, folder, tmp_path):
    export(folder / "model.safetensors", ["litert"], tmp_path, **arguments)
    (path,) = tmp_path.glob("*.tflite")
    model = open_model(path)
    assert model.spec.output == output
    code = input_type(model.data)
    assert code == ("uint8" if "uint8" in reads else "float32")
    if "slices" not in arguments:  # whose weights are not read back
        assert describe(path).figures["input_type"] == code
        assert reads in describe(path).to_table()


def test_one_mean_for_all_colours_leaves_normalising_to_the_program(folder, tmp_path):
    model = open_model(folder / "model.safetensors")
    preprocess = dataclasses.replace(model.spec.preprocess, mean=(0.5,) * 3, std=(0.25,) * 3)
    write_safetensors(tmp_path / "grey.safetensors", model.state(), model.spec.replace(preprocess=preprocess))
    for pixels, kind in ((None, "float32"), (True, "uint8")):
        export(tmp_path / "grey.safetensors", ["litert"], tmp_path / kind, pixels=pixels)
        (path,) = (tmp_path / kind).glob("*.tflite")
        assert input_type(path.read_bytes()) == kind


def test_a_temperature_is_inside_and_a_new_one_can_be_written(folder, tmp_path):
    model = open_model(folder / "model.safetensors")
    write_safetensors(tmp_path / "warm.safetensors", model.state(), model.spec.replace(temperature=1.7))
    assert export(tmp_path / "warm.safetensors", ["litert", "onnx"], tmp_path).rows[0]["largest_error"] < 1e-4
    (path,) = tmp_path.glob("*.tflite")
    photographs = sorted((folder / "pictures").rglob("*.png"))[:4]

    def probabilities(file):
        return [guess.probability for answer in predict(photographs, model=file) for guess in answer.top]

    np.testing.assert_allclose(probabilities(path), probabilities(tmp_path / "warm.safetensors"), rtol=1e-4)
    for temperature in (1.0, 3.0):
        spec = open_model(path).spec.replace(temperature=temperature)
        (tmp_path / "again.tflite").write_bytes(restamp(open_model(path), spec))
        write_safetensors(tmp_path / "other.safetensors", model.state(), model.spec.replace(temperature=temperature))
        expected = probabilities(tmp_path / "other.safetensors")
        np.testing.assert_allclose(probabilities(tmp_path / "again.tflite"), expected, rtol=1e-4)
    # In another runtime it is the weights that answer, and the spec's temperature that divides.
    np.testing.assert_allclose(
        [g.probability for a in predict(photographs, model=path, engine="onnxruntime") for g in a.top],
        probabilities(path),
        rtol=1e-4,
    )


def test_probabilities_that_do_not_add_up_do_not_pass(folder, tmp_path, monkeypatch):
    run = LiteRTEngine.run

    def twice(self, batch):
        return {name: values * (2 if name == "probabilities" else 1) for name, values in run(self, batch).items()}

    monkeypatch.setattr(LiteRTEngine, "run", twice)
    with pytest.raises(ExportError, match="its probabilities add up to 2, not to 1"):
        export(folder / "model.safetensors", ["litert"], tmp_path)


def test_what_the_files_were_verified_on_is_said(folder, tmp_path):
    def verified_on(**arguments):
        report = export(folder / "model.safetensors", ["onnx"], tmp_path, **arguments)
        return report.figures["verified_on"]

    assert verified_on() == "synthetic images and noise alone"
    assert verified_on(data=folder / "pictures") == str(folder / "pictures")
    one_class = next(place for place in (folder / "pictures").iterdir() if len(list(place.iterdir())) > 1)
    assert verified_on(data=one_class) == f"{one_class}, unlabelled"
    assert verified_on(calibrate=folder / "pictures") == "the pictures of the calibration"


def test_an_int8_model_is_exported_as_it_is(tmp_path):
    model = open_model("shufflenet_v2_x1_0")
    export("shufflenet_v2_x1_0", ["litert"], tmp_path, precision="int8")
    back = open_model(tmp_path / "shufflenet_v2_x1_0_int8.tflite")
    for node, original in zip(back.graph().nodes, model.graph().nodes, strict=True):
        if hasattr(node, "weight"):
            np.testing.assert_array_equal(node.weight, original.weight)


def test_an_int8_model_is_not_quantised_again(tmp_path):
    with pytest.raises(UsageError, match="is int8 already: take the float32 model"):
        export("mobilenet_v2", ["litert"], tmp_path, precision="int8", keep_float=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to": []}, "name a target: litert, onnx"),
        ({"to": ["litert"], "precision": "int8"}, "needs photographs like those it will see: add --calibrate"),
        ({"to": ["torchscript"], "precision": "int8"}, "torchscript has no int8 here, only float32"),
        ({"to": ["torchscript"], "pixels": True}, "torchscript files read normalised pictures"),
        ({"to": ["litert"], "precision": "int8", "pixels": False}, "--no-pixels: int8 files read pixels"),
        ({"to": ["litert", "onnx"], "output": "probabilities"}, "onnx files answer with logits"),
        ({"to": ["litert"], "output": "softmax"}, "logits or probabilities, not 'softmax'"),
        ({"to": ["litert"], "slices": 0}, "slices must be at least 1"),
        ({"to": ["litert"], "precision": "int8", "slices": 2}, "--slices is for float32"),
        ({"to": ["litert"], "keep_float": -1}, "keep-float must be at least 0"),
        ({"to": ["litert"], "data": "no-such-folder"}, "no-such-folder"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(arguments, message, folder, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=message):
        export(**{"model": folder / "model.safetensors", "out": out, **arguments})
    assert not out.exists() or not list(out.iterdir())
