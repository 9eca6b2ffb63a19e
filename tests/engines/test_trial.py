"""Files that may end the process run in another one first; what runtimes raise while they run is told of their file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as tfl

from fusiform.engines import Running, open_engine, trial
from fusiform.errors import UsageError, WeightsError
from fusiform.exporting.verification.foreign import ForeignEngine
from fusiform.graph.build import build_graph
from fusiform.graph.tflite import to_tflite
from fusiform.zoo.model import Model


@pytest.fixture(autouse=True)
def _untried(monkeypatch):
    monkeypatch.setattr(trial, "_tried", {})


@pytest.fixture
def spec(small_spec):
    return small_spec("mobilenet_v2", 0.1, classes=4)


@pytest.fixture
def write(spec, lived_in_state, tmp_path):
    """Writes a network's LiteRT file with a change made in its tables; its path."""

    def write_changed(change, name="x.tflite"):
        model = tfl.ModelT.InitFromPackedBuf(to_tflite(build_graph(spec, lived_in_state(spec))))
        change(model)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        (tmp_path / name).write_bytes(bytes(builder.Output()))
        return tmp_path / name

    return write_changed


def find(model, name):
    number = getattr(tfl.BuiltinOperator, name)
    return next(
        one for one in model.subgraphs[0].operators if model.operatorCodes[one.opcodeIndex].builtinCode == number
    )


def keeps(model):
    """A tensor is said to keep its values, which no file of fusiform's says and which changes nothing here."""
    model.subgraphs[0].tensors[find(model, "ADD").outputs[0]].isVariable = True


def lacks_bias(model):
    operator = find(model, "DEPTHWISE_CONV_2D")
    operator.inputs = operator.inputs[:2]


def pictures(count=1):
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)


def test_what_fusiform_writes_needs_no_trial(write, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    open_engine(write(lambda model: None)).run(pictures())


def test_a_file_that_ends_the_process(write):
    """LiteRT 2.3.0 falls over a depthwise convolution without a bias; where it no longer does, it refuses it."""
    path = write(lacks_bias)
    with pytest.raises(WeightsError) as raised:
        open_engine(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "so it was not run here" in message or "LiteRT cannot run it" in message
    assert message.endswith("export it again from its model, or fetch it again")


def test_what_is_only_unknown_runs_and_is_tried_once(write, monkeypatch):
    path = write(keeps)
    expected = open_engine(write(lambda model: None, "plain.tflite")).run(pictures())["logits"]
    np.testing.assert_array_equal(open_engine(path).run(pictures())["logits"], expected)
    monkeypatch.setattr(subprocess, "Popen", None)
    open_engine(path)
    path.write_bytes(path.read_bytes() + b"\0")  # another file
    with pytest.raises(TypeError):
        open_engine(path)


def test_another_tools_file_is_tried_too(write, spec):
    path = write(lacks_bias)
    with pytest.raises(WeightsError, match=rf"^{path}: .* again$"):
        ForeignEngine(Model(path, "tflite", spec, path.read_bytes()))
    path = write(keeps)
    assert ForeignEngine(Model(path, "tflite", spec, path.read_bytes())).run(pictures())["logits"].shape == (1, 4)


def test_a_child_that_takes_too_much(write, monkeypatch):
    path = write(keeps)
    monkeypatch.setattr(trial, "MOST_MEMORY", -1)
    with pytest.raises(WeightsError, match=r"x\.tflite: one picture takes LiteRT \d+ MB: export it again"):
        open_engine(path)
    monkeypatch.setattr(trial, "_tried", {})
    monkeypatch.setattr(trial, "_SECONDS", 0)
    with pytest.raises(WeightsError, match=r"x\.tflite: one picture takes LiteRT more than 60 s"):
        open_engine(path)


def test_a_child_that_cannot_start(write, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(WeightsError, match=r"x\.tflite: cannot be tried in a process of its own"):
        open_engine(write(keeps))


def test_a_process_that_may_end_tries_nothing(write, monkeypatch):
    """That of a benchmark: its parent tells of a death, and no trial counts as loading."""
    monkeypatch.setattr(trial._Here, "expendable", True)
    monkeypatch.setattr(subprocess, "Popen", None)
    open_engine(write(keeps)).run(pictures())


# While it runs


class Broken:
    """An engine whose runtime breaks off."""

    def __init__(self, spec, error):
        self.spec, self.error = spec, error

    def run(self, batch):
        raise self.error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("Input tensor 33 lacks data\nmore"), "(Input tensor 33 lacks data)"),
        (KeyError(), "(KeyError)"),
        (ValueError("x"), "(x)"),
    ],
)
def test_what_a_runtime_raises_is_an_error_of_its_file(error, words, spec):
    with pytest.raises(WeightsError) as raised:
        Running(Broken(spec, error), Path("x.onnx"), "onnxruntime").run(pictures())
    assert str(raised.value) == (
        f"x.onnx: onnxruntime broke off while it ran it {words}: export it again from its model, fetch it again, or "
        "try another engine"
    )


@pytest.mark.parametrize("error", [UsageError("a batch"), MemoryError("much")])
def test_other_errors_stay_what_they_are(error, spec):
    with pytest.raises(type(error)) as raised:
        Running(Broken(spec, error), Path("x.onnx"), "onnxruntime").run(pictures())
    assert raised.value is error
