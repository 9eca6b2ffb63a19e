"""The bundled models through the installed command, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def predict(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fusiform", "predict", *arguments, "--format", "json"]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=True)


@pytest.mark.parametrize("model", ["mobilenet_v2", "shufflenet_v2_x1_0"])
@pytest.mark.parametrize("options", [[], ["--fast"]])
def test_the_dog_is_a_samoyed(shared_data: Path, model: str, options: list[str]) -> None:
    result = predict(shared_data / "dog.jpg", "--model", model, *options)
    (answer,) = json.loads(result.stdout)["predictions"]
    assert (answer["top"][0]["index"], answer["top"][0]["name"]) == (258, "Samoyed")
    assert result.stderr == ""


def test_threads_and_batches_change_no_answer(shared_data: Path) -> None:
    folder = shared_data / "imagenet_val" / "n02086240"
    answers = [
        json.loads(predict(folder, *options).stdout)["predictions"]
        for options in (["--threads", "1"], ["--threads", "2"], ["--threads", "2", "--batch", "4"])
    ]
    assert len(answers[0]) == len(list(folder.iterdir()))
    assert answers[0] == answers[1] == answers[2]


def test_the_first_answer_loads_no_pytorch(shared_data: Path) -> None:
    code = """
import sys
from fusiform.cli import main
sys.argv = ["fusiform", "predict", sys.argv[1]]
try: main()
except SystemExit as exit: assert not exit.code
print(sorted({"torch", "onnxruntime", "asyncio", "multiprocessing", "urllib.request"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code, shared_data / "dog.jpg"]
    shown = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    assert "Samoyed" in shown
    assert shown.endswith("[]\n")
