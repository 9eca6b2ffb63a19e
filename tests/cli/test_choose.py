"""``fusiform choose`` as a user types it; the search itself is tested in tests/choose."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

pytest.importorskip("torch")

from fusiform.cli import commands

pytestmark = pytest.mark.usefixtures("hasty_latencies", "unrendered_curves")

QUICK = "epochs=1 head_epochs=20 batch=8 size=32 eval_size=32 val_fraction=0.3 precision=float32"
SET = [part for setting in QUICK.split() for part in ("--set", setting)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes that are easy to tell apart: bright pictures and dark ones."""
    drawn = np.random.default_rng(0)
    for name, level in (("bright", 190), ("dark", 60)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(24):
            pixels = drawn.normal(level, 30, (5, 5, 3)).repeat(8, 0).repeat(8, 1)
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(tmp_path / "data" / name / f"{i}.png")
    return tmp_path / "data"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(commands, ["choose", *map(str, arguments)])


@pytest.mark.slow
def test_an_impossible_budget_is_told_before_any_training(
    data: Path, tmp_path: Path, valid: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    result = run(data, "--out", out, "--size", "32", "--max-ms", "0.0001", "--max-mb", "0.1")
    assert result.exit_code == 1
    assert "nothing is below 0.0001 ms and 0.1 MB here" in result.stderr
    assert "the fastest is" in result.stderr
    assert "the smallest is mobilenet_v2_x0_35" in result.stderr
    assert result.stdout == ""
    journal = valid((out / "choose.json").read_text(encoding="utf-8"))
    assert journal["budget"] == {"median_ms": 0.0001, "bytes": 100_000, "top1": None}
    assert len(journal["candidates"]) == 10  # five networks in two precisions
    assert journal["trainings"] == []
    assert {path.name for path in out.iterdir()} == {"choose.json", "candidates.png"}


@pytest.mark.slow
def test_an_accuracy_out_of_reach_gives_the_best_model_and_a_one(
    data: Path, tmp_path: Path, valid: Callable[..., Any]
) -> None:
    (data / "train").mkdir()
    for name in ("bright", "dark"):
        (data / name).rename(data / "train" / name)
    for name in ("bright", "dark"):  # the same picture under both names: half of them right at most
        (data / "test" / name).mkdir(parents=True)
        shutil.copy(data / "train" / "dark" / "0.png", data / "test" / name)
    out = tmp_path / "out"
    wanted = ["--size", "32", "--trials", "1", "--max-ms", "100", "--max-mb", "8", "--min-accuracy", "99"]
    result = run(data, "--out", out, *wanted, *SET, "--format", "json")
    assert result.exit_code == 1, result.output
    assert "99 % was asked for" in result.stderr
    figures = valid(result.stdout)["figures"]
    assert valid((out / "choose.json").read_text(encoding="utf-8"))["budget"]["top1"] == 0.99
    assert figures["shortfall"]
    assert figures["model"] == str(out / "model.tflite")
    assert (figures["split"], figures["images"]) == ("test", 2)
    assert figures["top1"] <= 0.5
    assert (out / "model.tflite").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-ms", "-1"], "max-ms"),
        (["--min-accuracy", "0.9e3"], "percent"),
        (["--recipe", "unknown"], "finetune_small"),
        (["--recipe", "distill_small"], "teacher"),
        (["--set", "epoch=1"], "did you mean epochs"),
    ],
)
def test_wrong_requests_are_refused_in_a_line(data: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = run(data, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_the_data_itself_is_no_place_for_the_search(data: Path, tmp_path: Path) -> None:
    result = run(data, "--out", data / "out")
    assert result.exit_code == 2
    assert "taken for a class" in result.stderr
    result = run(tmp_path / "nothing", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "no such file or folder" in result.stderr


@pytest.mark.slow
def test_control_c_keeps_the_finished_trainings_for_resume(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [data, "--out", out, "--size", "32", "--trials", "2", "--max-mb", "8", *SET]
    process = subprocess.Popen(
        [sys.executable, "-m", "fusiform", "choose", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    second = out / "runs" / "shufflenet_v2_x1_0_32px_1_epochs"
    while process.poll() is None and not (second / "run.json").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "1 finished training is kept" in errors
    assert "Traceback" not in errors
    (kept,) = json.loads((out / "choose.json").read_text(encoding="utf-8"))["trainings"]
    assert kept["network"] == "mobilenet_v2_x1_0"
    assert (out / "frontier.png").is_file()

    first = out / "runs" / "mobilenet_v2_x1_0_32px_1_epochs" / "best.safetensors"
    before = first.stat().st_mtime_ns
    result = run(*arguments, "--resume")
    assert result.exit_code == 0, result.output
    assert first.stat().st_mtime_ns == before
    assert (second / "best.safetensors").is_file()
    assert (out / "model.tflite").is_file()
