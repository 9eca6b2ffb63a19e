from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch")
pytest.importorskip("onnx")

from fusiform.cli import commands
from fusiform.graph.build import build_graph
from fusiform.graph.onnx import to_onnx
from fusiform.zoo.checkpoint import write_safetensors


@pytest.fixture(scope="module")
def folder(small_spec, lived_in_state, tmp_path_factory):  # type: ignore[no-untyped-def]
    """A model, a faithful file and a harmed one."""
    made = tmp_path_factory.mktemp("verify")
    spec = small_spec("shufflenet_v2", size=32)
    state = lived_in_state(spec)
    write_safetensors(made / "model.safetensors", state, spec)
    (made / "same.onnx").write_bytes(to_onnx(build_graph(spec, state)))
    harmed = {**state, "fc.weight": state["fc.weight"] * np.float32(1.1)}
    (made / "harmed.onnx").write_bytes(to_onnx(build_graph(spec, harmed)))
    return made


def run(folder: Path, *arguments: str | Path) -> Result:
    return CliRunner().invoke(
        commands, ["verify", *map(str, arguments), "--against", str(folder / "model.safetensors")]
    )


def test_a_faithful_file(folder: Path) -> None:
    result = run(folder, folder / "same.onnx")
    assert result.exit_code == 0
    assert "the same answers" in result.stdout
    assert "no photographs were given: made pictures only" in result.stdout


def test_a_harmed_file_is_one_line_and_a_report(folder: Path) -> None:
    result = run(folder, folder / "harmed.onnx", "--format", "json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["figures"]["passed"] is False
    assert report["figures"]["largest_error"] > 0.01
    told = [line for line in result.stderr.splitlines() if line.startswith("fusiform: ")]
    assert len(told) == 1
    assert "harmed.onnx: does not give the answers of" in told[0]
    assert "a logit differs by" in told[0]


def test_a_wider_tolerance(folder: Path) -> None:
    assert run(folder, folder / "harmed.onnx", "--tolerance", "0.5").exit_code == 0


def test_the_report_goes_to_a_file_even_when_it_failed(folder: Path, tmp_path: Path) -> None:
    result = run(folder, folder / "harmed.onnx", "--out", tmp_path / "report.csv", "--format", "csv")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert (tmp_path / "report.csv").read_text(encoding="utf-8").startswith("kind,batch,pictures,largest_error")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["no_such_model"], 2, "no_such_model"),
        (["nowhere.onnx"], 1, "nowhere.onnx: no such model file"),
        (["same.onnx", "--data", "nowhere"], 2, "nowhere: no such file or folder"),
        (["same.onnx", "--max-drop", "-1"], 2, "--max-drop"),
        (["same.onnx", "--tolerance", "nan"], 2, "tolerance must be a number"),
    ],
)
def test_wrong_usage(folder: Path, arguments: list[str], code: int, message: str) -> None:
    named = [str(folder / name) if name == "same.onnx" else name for name in arguments]
    result = run(folder, *named)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""


def test_against_is_needed(folder: Path) -> None:
    result = CliRunner().invoke(commands, ["verify", str(folder / "same.onnx")])
    assert result.exit_code == 2
    assert "--against" in result.stderr
