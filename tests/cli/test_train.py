"""``fusiform train`` as a user types it."""

from __future__ import annotations

import functools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from fusiform.cli import commands
from fusiform.zoo.checkpoint import read_safetensors

QUICK = (
    "epochs=2 head_epochs=5 batch=8 size=32 eval_size=32 lr=1e-4 ema=0.5 val_fraction=0.25 sizes=none precision=float32"
)
SET = [part for setting in QUICK.split() for part in ("--set", setting)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    drawn = np.random.default_rng(0)
    for name in ("one", "two"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(12):
            pixels = drawn.integers(0, 256, (5, 5, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    return tmp_path / "data"


def fusiform(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fusiform", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def test_training_prints_a_report_and_leaves_a_run(data: Path, tmp_path: Path, valid: Callable[..., Any]) -> None:
    out = tmp_path / "run"
    done = fusiform("train", data, "--out", out, "--model", "mobilenet_v2_x0_35", *SET, "--format", "json")
    assert done.returncode == 0, done.stderr
    figures = valid(done.stdout)["figures"]
    assert (out / "report.json").read_text(encoding="utf-8") == done.stdout
    valid((out / "run.json").read_text(encoding="utf-8"))
    valid((out / "environment.json").read_text(encoding="utf-8"))
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [valid(line, "epoch")["phase"] for line in lines] == ["start", "network", "network"]
    spec, _ = read_safetensors(out / "best.safetensors")
    assert spec is not None
    assert valid(spec.to_json(), "spec")["accuracy"][0]["top1"] == figures["top1"]
    assert figures["model"] == str(out / "best.safetensors")
    assert 0 <= figures["top1_low"] <= figures["top1"] <= figures["top1_high"] <= 1
    assert "epoch 2/2" in done.stderr
    assert "next: " not in done.stderr
    again = fusiform("train", data, "--out", out)
    assert (again.returncode, again.stdout) == (1, "")
    assert "--resume" in again.stderr
    assert "Traceback" not in again.stderr
    more = fusiform("train", "--out", out, "--resume", "--set", "lr=1")
    assert more.returncode == 2
    assert "--set" in more.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "lr=fast"], "lr must be a number"),
        (["--set", "learning_rate=1"], "no field"),
        (["--set", "epoch=1"], "did you mean epochs"),
        (["--recipe", "unknown"], "finetune_small"),
        (["--set", "distill=0.5"], "--teacher"),
        (["--model", "no_such_model"], "no_such_model"),
    ],
)
def test_wrong_requests_are_refused_in_a_line(data: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(commands, ["train", str(data), "--out", str(tmp_path / "run"), *arguments])
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert len(result.output.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_no_data_no_pictures_and_no_folder_to_write(data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "nothing", tmp_path / "empty"):
        result = CliRunner().invoke(commands, ["train", str(source), "--out", str(tmp_path / "run")])
        assert result.exit_code == 1
        assert str(source) in result.output
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(commands, ["train", str(data), "--out", str(tmp_path / "file" / "run"), *SET])
    assert result.exit_code == 1
    assert "choose another place" in result.output


def test_a_list_with_bare_names_and_one_epoch(data: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    file = tmp_path / "lists" / "list.csv"
    lines = [f"{path.relative_to(data).as_posix()},{path.parent.name}" for path in sorted(data.rglob("*.png"))]
    file.write_text("path,label\n" + "\n".join(lines) + "\n")
    arguments = ["train", str(file), "--model", "mobilenet_v2_x0_35", *SET, "--set", "epochs=1"]
    result = CliRunner().invoke(commands, [*arguments, "--out", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert "none of its 24 pictures is there" in result.output
    assert len(result.output.splitlines()) == 1
    with_root = [*arguments, "--root", str(data), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(commands, with_root)
    assert result.exit_code == 0, result.output
    out = tmp_path / "run"
    assert re.search(r"^top-1 +\d+\.\d % \(95 % interval \d+\.\d to \d+\.\d\)$", result.stdout, re.MULTILINE)
    assert "top-5" not in result.stdout  # of two classes
    assert [line for line in result.stderr.splitlines() if line.startswith("next: ")] == [
        f"next: fusiform evaluate {out} {file} --root {data} --html {out}/evaluation.html",
        f"next: fusiform export {out} --to litert --out {out}/export",
    ]
    lines = result.stderr.splitlines()
    assert "classification, laid out as a list: 2 classes, 24 pictures: train 18, val 6" in lines
    assert "splits: val was held out of all pictures" in lines
    assert "classes, pictures in train/val: one 9/3, two 9/3" in lines
    assert json.loads((tmp_path / "run/run.json").read_text())["root"] == str(data)
    for command in (["doctor", file, "--root", data], ["evaluate", tmp_path / "run", file, "--root", data]):
        assert CliRunner().invoke(commands, [str(word) for word in command]).exit_code == 0


def test_the_recipe_can_be_looked_at_first(tmp_path: Path) -> None:
    result = CliRunner().invoke(commands, ["train", "--out", str(tmp_path), "--show", "--set", "lr=0.125"])
    assert result.exit_code == 0
    assert json.loads(result.output)["lr"] == 0.125


def test_the_recipe_is_shown_as_it_would_be_used_for_the_data(data: Path, tmp_path: Path) -> None:
    arguments = ["train", str(data), "--model", "mobilenet_v2_x0_35", "--out", str(tmp_path / "run")]
    changes = ["--set", "min_steps=30", "--set", "batch=8", *SET]
    shown = CliRunner().invoke(commands, [*arguments, *changes, "--show"])
    assert shown.exit_code == 0, shown.output
    assert not (tmp_path / "run").exists()
    result = CliRunner().invoke(commands, [*arguments, *changes])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "recipe.json").read_text() == shown.output
    recipe = json.loads(shown.output)
    # 24 pictures, a quarter of them held out, are 2 steps of 8: 15 passes, in at most 12 epochs.
    assert (recipe["epochs"], recipe["repeats"]) == (8, 2)
    assert "fitted to the pictures: 8 epochs of 2 passes over the pictures" in result.output


def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        [sys.executable, "-m", "fusiform", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=heard,  # also where the tests run in the background, which ignores it
    )


def assert_same_models(first: Path, second: Path) -> None:
    for name in ("last.safetensors", "best.safetensors"):
        one, other = (read_safetensors(run / name)[1] for run in (first, second))
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def test_control_c_and_kill_lose_nothing(data: Path, tmp_path: Path) -> None:
    # Epochs enough for the signal to come before the end: the rest of them take seconds.
    arguments = ["train", data, "--model", "mobilenet_v2_x0_35", *SET, "--set", "epochs=8", "--save-every", "0"]
    whole = fusiform(*arguments, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "run"
    state = out / "state.pt"
    for sent in (signal.SIGINT, signal.SIGKILL):
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = start(*(["train", "--resume"] if before else arguments), "--out", out)
        while process.poll() is None and (not state.exists() or state.stat().st_mtime_ns == before):
            time.sleep(0.005)
        process.send_signal(sent)
        _, errors = process.communicate(timeout=60)
        assert b"Traceback" not in errors
        assert process.returncode in (130, -signal.SIGKILL)
        if sent is signal.SIGINT:
            last = errors.decode().splitlines()[-1]
            assert last.startswith("fusiform: interrupted: saved ")
            assert last.endswith(f"; go on with: fusiform train --resume --out {out}")
            assert "done again" not in last
    done = fusiform("train", "--resume", "--out", out)
    assert done.returncode == 0, done.stderr
    assert_same_models(tmp_path / "whole", out)


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(data: Path, tmp_path: Path) -> None:
    arguments = ["train", data, "--model", "mobilenet_v2_x0_35", *SET, "--set", "epochs=40", "--save-every", "0.002"]
    began = time.monotonic()
    whole = fusiform(*arguments, "--out", tmp_path / "whole")
    seconds = time.monotonic() - began
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "run"
    moments = random.Random(7)
    reached = []
    for _ in range(8):  # twenty of them: tests/fuzz/test_interruptions.py --count 20
        process = start(*(["train", "--resume"] if (out / "run.json").exists() else arguments), "--out", out)
        time.sleep(moments.uniform(0, seconds / 2))  # from before the imports on; in all, past the end
        process.kill()
        _, errors = process.communicate(timeout=60)
        assert b"Traceback" not in errors
        assert process.returncode in (0, -signal.SIGKILL), errors
        if (out / "state.pt").exists():
            state = torch.load(out / "state.pt", weights_only=True)
            reached.append((state["epoch"], state["step"]))
        for model in out.glob("*.safetensors"):
            assert read_safetensors(model)[0] is not None
    assert reached == sorted(reached)
    done = fusiform("train", "--resume", "--out", out)
    assert done.returncode == 0, done.stderr
    assert_same_models(tmp_path / "whole", out)
