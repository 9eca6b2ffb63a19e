"""``fusiform export`` as it is called."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from fusiform.cli import commands
from fusiform.cli.export import TARGETS
from fusiform.export import targets
from fusiform.zoo.checkpoint import write_safetensors


@pytest.fixture
def model(tmp_path, small_spec, lived_in_state):
    spec = small_spec("shufflenet_v2", size=32)
    write_safetensors(tmp_path / "model.safetensors", lived_in_state(spec), spec)
    return str(tmp_path / "model.safetensors")


def run(*arguments):
    return CliRunner().invoke(commands, ["export", *arguments])


def test_two_targets_at_once(model, tmp_path):
    result = run(model, "--to", "litert, onnx,litert", "--out", str(tmp_path / "out"), "--format", "json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [row["target"] for row in report["rows"]] == ["litert", "onnx"]
    assert all((tmp_path / "out" / row["file"].rpartition("/")[2]).is_file() for row in report["rows"])


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
