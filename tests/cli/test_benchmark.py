from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner, Result

import fusiform.cli
from fusiform.benchmarking.rows import COLUMNS
from fusiform.cli.benchmark import _ENGINES, _table
from fusiform.engines import EngineName
from fusiform.graph.build import build_graph
from fusiform.graph.tflite import to_tflite
from fusiform.report import Report
from fusiform.spec import ModelSpec, Preprocess

SPEC = ModelSpec("mobilenet_v2", 0.35, ("red", "green"), input_size=32, preprocess=Preprocess(resize=32, crop=32))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, lived_in_state: Callable[..., Any]) -> Path:
    path = tmp_path_factory.mktemp("models") / "small.tflite"
    path.write_bytes(to_tflite(build_graph(SPEC, lived_in_state(SPEC))))
    return path


def run(*arguments: str | Path) -> Result:
    words = ["benchmark", "--seconds", "0.02", *map(str, arguments)]
    result = CliRunner().invoke(fusiform.cli.commands, words, prog_name="fusiform")
    # Anything but an exit is a traceback on the user's screen.
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def test_choices_are_those_there_are() -> None:
    assert get_args(EngineName) == _ENGINES


def test_table_for_people(model: Path) -> None:
    result = run(model, "--threads", "1", "--threads", "2")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    heading = next(line for line in lines if "median ms" in line)
    assert heading.split("  ")[0] == "model"
    assert "top-1 %" not in heading  # nobody has one
    rows = [line.split() for line in lines if line.startswith(str(model))]
    assert [row[1:4] for row in rows] == [["litert", "float32", "1"], ["litert", "float32", "2"]]
    assert [row[-1] for row in rows] == [f"{model.stat().st_size / 1e6:.2f}"] * 2


def test_table_of_detectors() -> None:
    """A column for decoding and one for what they are measured by, and none that nobody has a value in."""
    shared = {
        "engine": "litert",
        "precision": "int8",
        "threads": 1,
        "median_ms": 12.5,
        "measured_on": "2 images of x",
    }
    rows = [{**dict.fromkeys(COLUMNS), **shared, "model": name, "decode_ms": 0.25, "map": 0.2137} for name in "ab"]
    lines = _table(Report("Benchmark", tuple(rows), {"cores": 2}, schema="fusiform.benchmark/1")).splitlines()
    assert "measured on  2 images of x" in lines
    heading = next(line for line in lines if line.startswith("model"))
    assert heading.split("  ") == ["model", "engine", "precision", "threads", "median ms", "decode ms", "mAP %"]
    assert lines[-1].split() == ["b", "litert", "int8", "1", "12.50", "0.250", "21.4"]


def test_json_csv_and_the_plot_with_a_model_that_is_not_there(
    model: Path, tmp_path: Path, valid: Callable[..., Any]
) -> None:
    pytest.importorskip("matplotlib")
    plot, out = tmp_path / "plot.png", tmp_path / "out.json"
    result = run(model, tmp_path / "none.tflite", "--format", "json", "--plot", plot, "--out", out)
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "1 of 2 could not be measured" in result.stderr
    assert f"none.tflite: {tmp_path / 'none.tflite'}: no such model file" in result.stderr
    content = valid(out.read_text(encoding="utf-8"))
    assert [tuple(row) for row in content["rows"]] == [COLUMNS, COLUMNS]
    assert content["rows"][0]["error"] is None
    assert "no such model file" in content["rows"][1]["error"]
    assert content["figures"]["timed_seconds"] == 0.02
    assert plot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"

    records = list(csv.DictReader(io.StringIO(run(model, "--format", "csv").stdout)))
    assert tuple(records[0]) == COLUMNS
    assert float(records[0]["p95_ms"]) >= float(records[0]["median_ms"]) > 0


def test_exit_codes(model: Path, tmp_path: Path) -> None:
    assert run().exit_code == 2
    assert run(model, "--engine", "abacus").exit_code == 2
    assert run(model, "--seconds", "0").exit_code == 2
    assert run("no_such_model").exit_code == 2
    assert run(tmp_path / "none.tflite").exit_code == 1
    # Before anything is measured.
    result = run(model, "--plot", tmp_path / "plot.jpg")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "end in .png" in result.stderr
    # The model is fine, its engine is not.
    result = run(model, "--engine", "executorch")
    assert result.exit_code == 1
    assert "small.tflite in executorch, 1 thread: " in result.stderr


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups here")
def test_ctrl_c_ends_it_and_all_its_processes(model: Path) -> None:
    command = [sys.executable, "-m", "fusiform", "benchmark", model, "--seconds", "300", "--format", "json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True
    )
    assert process.stderr is not None
    try:
        # Past the start, within the rounds.
        assert "first answers: 100 %" in process.stderr.readline()
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: everybody hears it
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert stdout == ""
    assert "Traceback" not in stderr
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
