"""``fusiform export`` as it is called."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from fusiform.cli import commands
from fusiform.cli.export import TARGETS
from fusiform.exporting.targets import targets
from fusiform.graph.shapes import state_shapes
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.checkpoint import write_safetensors


@pytest.fixture
def model(tmp_path, small_spec, lived_in_state):
    spec = small_spec("shufflenet_v2", size=32)
    write_safetensors(tmp_path / "model.safetensors", lived_in_state(spec), spec)
    return str(tmp_path / "model.safetensors")


def run(*arguments):
    return CliRunner().invoke(commands, ["export", *arguments])


def test_two_targets_at_once(model, tmp_path, valid):
    result = run(model, "--to", "litert, onnx,litert", "--out", str(tmp_path / "out"), "--format", "json")
    assert result.exit_code == 0, result.output
    report = valid(result.stdout)
    assert [row["target"] for row in report["rows"]] == ["litert", "onnx"]
    assert all((tmp_path / "out" / row["file"].rpartition("/")[2]).is_file() for row in report["rows"])


def test_the_last_lines_run_what_was_written(model, tmp_path):
    out = tmp_path / "my out"
    result = run(model, "--to", "litert,onnx,web", "--out", str(out))
    assert result.exit_code == 0, result.output
    litert, onnx, web = result.stdout.splitlines()[-3:]
    for line, name, languages in (
        (litert, "shufflenet_v2_x0_5_float32.tflite", "python|js|kotlin|swift|cpp"),
        (onnx, "shufflenet_v2_x0_5_float32.onnx", "python|js|kotlin|cpp"),
    ):
        predict, code = (shlex.split(part) for part in line.split("  # code for your own program: "))
        assert predict == ["fusiform", "predict", "PHOTO", "--model", str(out / name)]
        assert code == ["fusiform", "info", str(out / name), "--snippet", languages]
        for language in languages.split("|"):
            assert CliRunner().invoke(commands, [*code[1:-1], language]).exit_code == 0
    assert shlex.split(web, comments=True)[-1] == str(out / "shufflenet_v2_x0_5_float32_web")
    photo = str(Path(__file__).parents[2] / "examples" / "cat.jpg")
    predict[2] = photo
    assert CliRunner().invoke(commands, predict[1:]).exit_code == 0


def test_a_detector_is_verified_by_its_boxes(tmp_path, valid):
    spec, state = small_detector()
    write_safetensors(tmp_path / "detector.safetensors", state, spec)
    result = run(
        str(tmp_path / "detector.safetensors"), "--to", "litert", "--out", str(tmp_path / "out"), "--format", "json"
    )
    assert result.exit_code == 0, result.output
    (row,) = valid(result.stdout)["rows"]
    assert row["file"].endswith("ssdlite_mobilenet_v2_x0_35_float32.tflite")
    assert row["boxes_same"] == 1


def small_detector():
    preprocess = Preprocess(resize=64, crop=64, fit="stretch")
    spec = ModelSpec("mobilenet_v2", 0.35, ("fox", "owl"), task="detection", input_size=64, preprocess=preprocess)
    random = np.random.default_rng(0)
    state = {
        name: np.array(5)
        if not shape
        else random.uniform(0.8, 1.2, shape).astype(np.float32)
        if name.endswith("running_var")
        else random.normal(0, (1.5 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        for name, shape in state_shapes(spec).items()
    }
    return spec, state


def test_int8_without_photographs(model, tmp_path):
    result = run(model, "--to", "litert", "--precision", "int8", "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "add --calibrate FOLDER" in result.output
    assert "Traceback" not in result.output


def test_an_unknown_target(model, tmp_path):
    result = run(model, "--to", "litert,tpu", "--out", str(tmp_path))
    assert result.exit_code == 2
    assert "there is no target 'tpu'; there are litert, onnx, torchscript" in result.output


def test_the_help_names_every_target():
    assert tuple(targets.TARGETS) == TARGETS
    result = run("--help")
    assert all(name in result.output for name in TARGETS)
