from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch

import fusiform
from fusiform.training import environment
from fusiform.training.environment import describe_environment


def test_it_tells_what_the_libraries_tell() -> None:
    told = describe_environment()
    assert json.loads(json.dumps(told)) == told
    assert told["fusiform"] == fusiform.__version__
    assert told["python"] == f"{platform.python_implementation()} {platform.python_version()}"
    packages = told["packages"]
    assert isinstance(packages, dict)
    assert packages["numpy"] == np.__version__
    assert packages["pillow"] == PIL.__version__
    assert packages["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert told["threads"] == torch.get_num_threads()
    devices = told["devices"]
    assert isinstance(devices, list)
    cuda = [device for device in devices if device["device"].startswith("cuda")]
    assert len(cuda) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    started = datetime.fromisoformat(str(told["started"]))
    assert timedelta(0) <= datetime.now(timezone.utc) - started < timedelta(minutes=1)


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="the memory is read as Linux tells it")
def test_memory_is_no_more_than_the_machine_has() -> None:
    kilobytes = int(Path("/proc/meminfo").read_text().split()[1])
    memory = describe_environment()["memory_bytes"]
    assert isinstance(memory, int)
    assert 0 < memory <= kilobytes * 1024 + 1e8
    if not Path("/sys/fs/cgroup/memory.max").exists():
        assert memory == pytest.approx(kilobytes * 1024, abs=1e8)


def test_secrets_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["fusiform", "train", "https://me:hunter2@host/a@b", "caf\udce9"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter3")
    monkeypatch.setenv("FUSIFORM_MIRROR", "https://me:hunter4@host")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("RANK", raising=False)
    told = describe_environment()
    assert "hunter" not in json.dumps(told)
    assert told["command"] == ["fusiform", "train", "https://host/a@b", "caf\\udce9"]
    variables = told["variables"]
    assert isinstance(variables, dict)
    assert variables["OMP_NUM_THREADS"] == "3"
    assert variables["MALLOC_ARENA_MAX"] == "2"
    assert variables["WORLD_SIZE"] == "4"
    assert "RANK" not in variables
    assert list(variables) == sorted(variables)


def test_without_pytorch_it_still_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    told = describe_environment()
    assert (told["threads"], told["devices"]) == (None, [])


@pytest.mark.skipif(shutil.which("git") is None, reason="git makes the checkouts that are read")
def test_the_commit_is_the_one_that_git_names(tmp_path: Path) -> None:
    root, linked = tmp_path / "checkout", tmp_path / "linked"
    identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    outside = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str | Path, cwd: Path = root) -> str:
        command = ["git", *map(str, arguments)]
        env = {**outside, **identity, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        return subprocess.run(command, cwd=cwd, env=env, check=True, capture_output=True, text=True).stdout.strip()

    assert environment._commit(root) is None
    root.mkdir()
    git("init", "--quiet")
    assert environment._commit(root) is None  # nothing is committed yet
    git("checkout", "--quiet", "-b", "topic/name")
    commits = []
    for message in ("first", "second"):
        git("commit", "--quiet", "--allow-empty", "-m", message)
        commits.append(git("rev-parse", "HEAD"))
        assert environment._commit(root) == commits[-1]
    git("worktree", "add", "--quiet", linked, "-b", "other", commits[0])
    assert environment._commit(linked) == commits[0]
    git("pack-refs", "--all")
    assert environment._commit(root) == commits[1]
    assert environment._commit(linked) == commits[0]
    git("checkout", "--quiet", commits[0])
    assert environment._commit(root) == commits[0]
