from __future__ import annotations

import json

import pytest

from fusiform.errors import UsageError
from fusiform.spec import Accuracy
from fusiform.zoo.catalog import BUNDLED_FOLDER
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.info import describe


@pytest.mark.parametrize(
    ("model", "file", "parameters", "multiply_adds"),
    [
        ("mobilenet_v2", "mobilenet_v2_x1_0.tflite", 3504872, 300_774_272),
        ("shufflenet_v2_x1_0", "shufflenet_v2_x1_0.tflite", 2278604, 144_907_992),
    ],
)
def test_bundled_models(model, file, parameters, multiply_adds):
    report = describe(model)
    figures = report.figures
    assert figures["file"] == str(BUNDLED_FOLDER / file)
    assert (figures["format"], figures["precision"]) == ("tflite", "int8")
    assert figures["parameters"] == parameters
    assert figures["multiply_adds"] == multiply_adds
    assert figures["bytes"] == (BUNDLED_FOLDER / file).stat().st_size < 4e6
    assert (figures["classes"], figures["input_size"], figures["resize"], figures["crop"]) == (1000, 224, 256, 224)
    assert figures["labels"][:2] == ("tench", "goldfish")
    assert len(figures["labels"]) == len(figures["label_ids"]) == 1000
    assert "tench, goldfish, great white shark, tiger shark, hammerhead, ..." in report.to_table()
    assert figures["mean"] == (0.485, 0.456, 0.406)
    assert "Apache-2.0" in figures["license"]
    (accuracy,) = report.tables["accuracy"]
    assert accuracy["images"] == 500
    assert 0.6 < accuracy["top1"] < accuracy["top5"] < 1
    assert file in report.title
    json.loads(report.to_json())


def test_a_file_says_everything_of_itself(tmp_path, small_spec, lived_in_state):
    spec = small_spec("mobilenet_v2", 0.35, size=96, padding="same", classes=3).replace(
        provenance="trained on a Sunday",
        license="MIT",
        accuracy=(Accuracy("sundays", 0.5, 0.755, 4, "me"), Accuracy("mondays", 0.25, 0.5, 8, "you")),
    )
    path = tmp_path / "own.safetensors"
    write_safetensors(path, lived_in_state(spec), spec)
    report = describe(path)
    expected = {
        "network": "mobilenet_v2_x0_35",
        "task": "classification",
        "file": str(path),
        "format": "safetensors",
        "precision": "float32",
        "classes": 3,
        "labels": ("class 0", "class 1", "class 2"),
        "label_ids": None,
        "input_type": None,
        "scores": None,
        "input_size": 96,
        "padding": "same",
        "provenance": "trained on a Sunday",
        "license": "MIT",
    }
    assert {name: report.figures[name] for name in expected} == expected
    first, second = report.tables["accuracy"]
    assert first == {"measured_on": "sundays", "top1": 0.5, "top5": 0.755, "images": 4, "measured_by": "me"}
    assert second["measured_on"] == "mondays"
    assert list(report.tables["answers"]) == [{"answer": "logits", "shape": (3,)}]
    (line,) = map(json.loads, report.to_jsonl().splitlines())
    assert line == {
        **report.to_dict()["figures"],
        "answers": [{"answer": "logits", "shape": [3]}],
        "accuracy": [first, second],
    }
    assert report.left_out("jsonl") == ()
    assert report.left_out("csv") == ("answers", "accuracy")


def test_an_unknown_model():
    with pytest.raises(UsageError, match="no weights are called 'nothing'"):
        describe("nothing")


def test_a_program_is_counted_as_its_network(tmp_path, small_spec, lived_in_state) -> None:
    pytest.importorskip("torch")
    from fusiform.exporting.targets.torchscript import write
    from fusiform.graph.build import build_graph

    spec = small_spec("shufflenet_v2")
    state = lived_in_state(spec)
    write_safetensors(tmp_path / "weights.safetensors", state, spec)
    program = write(build_graph(spec, state), "float32", tmp_path)[0].path
    counted, expected = describe(program).figures, describe(tmp_path / "weights.safetensors").figures
    assert counted["format"] == "torchscript"
    for name in ("parameters", "multiply_adds", "precision", "classes", "input_size"):
        assert counted[name] == expected[name]
