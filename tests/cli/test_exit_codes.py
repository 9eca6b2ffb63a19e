"""Every command ends with the documented code: 0, 1, 2, 3, or 128 and a signal's number."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from fusiform.cli import COMMANDS, EXIT_CODES, commands, process
from fusiform.errors import (
    DownloadError,
    FusiformError,
    ImageError,
    InputError,
    MissingExtraError,
    OutputError,
    SpecError,
    UsageError,
    WeightsError,
)
from fusiform.graph.build import build_graph
from fusiform.graph.tflite import to_tflite
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.checkpoint import write_safetensors

SPEC = ModelSpec("mobilenet_v2", 0.35, ("green", "red"), input_size=32, preprocess=Preprocess(resize=32, crop=32))

LEAST = {
    "predict": ["a.jpg"],
    "watch": ["photos", "--out", "answers.jsonl"],
    "doctor": ["data"],
    "plan": ["data"],
    "embed": ["a.jpg", "--out", "a.npz"],
    "search": ["a.jpg", "a.npz"],
    "add-class": ["m.tflite", "blue", "--out", "more.safetensors"],
    "drift": ["m.tflite", "--reference", "data"],
    "suggest": ["data"],
    "train": ["data", "--out", "run"],
    "choose": ["data", "--out", "best"],
    "evaluate": ["m.tflite", "data"],
    "card": ["m.tflite"],
    "export": ["m.tflite", "--to", "onnx", "--out", "ship"],
    "verify": ["m.tflite", "--against", "mobilenet_v2"],
    "benchmark": ["m.tflite"],
    "demo": ["m.tflite"],
    "serve": ["m.tflite"],
    "models": [],
    "info": ["m.tflite"],
    "analyze": ["m.tflite"],
    "engines": [],
    "port": ["w.pth", "--out", "m.tflite"],
    "completion": ["bash"],
}
"""The shortest line that each command takes."""


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(commands, [str(word) for word in words], prog_name="fusiform")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lived_in_state: Callable[..., Any]) -> Path:
    """Where the tests work: two classes of images, two model files, and what is wrong in its own way."""
    monkeypatch.chdir(tmp_path)
    for name, color in (("green", (0, 200, 0)), ("red", (200, 0, 0))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(3):
            Image.new("RGB", (40, 40), (color[0], color[1], 40 * k)).save(tmp_path / "data" / name / f"{k}.png")
    shutil.copy("data/red/0.png", "photo.png")
    state = lived_in_state(SPEC)
    Path("small.tflite").write_bytes(to_tflite(build_graph(SPEC, state)))
    write_safetensors(Path("small.safetensors"), state, SPEC)
    for name in ("empty", "texts", "other/cat", "other/dog"):
        Path(name).mkdir(parents=True)
    for name in ("cat", "dog"):
        shutil.copy("photo.png", f"other/{name}/0.png")
    Path("texts/a.txt").write_text("no image")
    Path("broken.tflite").write_bytes(b"\0\0\0\0TFL3" + bytes(40))
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    shutil.copytree("data", "new")
    for k in range(20):
        for name in ("green", "red"):
            (tmp_path / "many" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (10 * k, 90, 5 * k)).save(tmp_path / "many" / name / f"{k}.png")
    shutil.copytree("data", "damaged")
    shutil.copy("broken.png", "damaged/red/0.png")
    Path("taken").mkdir()
    Path("taken/run.json").write_text("{}")
    Path("labels.txt").write_text("one\ntwo\nthree\n")
    return tmp_path


CASES: list[tuple[int, str]] = [
    # 0: done.
    (0, "--help"),
    (0, "--version"),
    (0, "predict photo.png --model small.tflite"),
    (0, "predict photo.png broken.png --model small.tflite"),
    (0, "doctor data"),
    (0, "doctor damaged"),
    (0, "doctor other --model small.tflite"),
    (0, "plan data --model small.tflite"),
    (0, "drift small.tflite new --reference many --sketch sketch.json"),
    (0, "suggest data --model small.tflite --count 2"),
    (0, "suggest new --model small.tflite --labelled data"),
    (0, "train --recipes"),
    (0, "train data --show"),
    (0, "evaluate small.tflite data"),
    (0, "evaluate small.tflite damaged"),
    (0, "evaluate small.tflite data --part 2 --out answers"),
    (0, "card small.tflite --data data --out card"),
    (0, "export small.safetensors --to onnx --out ship"),
    (0, "verify small.tflite --against small.safetensors"),
    (0, "benchmark small.tflite --seconds 0.01"),
    (0, "demo small.tflite --out page"),
    (0, "models"),
    (0, "info small.tflite"),
    (0, "analyze mobilenet_v2_x0_35"),
    (0, "engines"),
    (0, "completion bash"),
    # 1: what is named is missing, damaged, or does not fit, or the machine lacks something.
    (1, "predict nowhere.png --model small.tflite"),
    (1, "predict empty --model small.tflite"),
    (1, "predict --video nowhere.mp4 --model small.tflite"),
    (1, "watch nowhere --out answers.jsonl --model small.tflite"),
    (1, "watch empty --out nowhere/answers.jsonl --model small.tflite"),
    (1, "predict texts --model small.tflite"),
    (1, "predict broken.png --model small.tflite"),
    (1, "predict photo.png --model nope"),
    (1, "predict photo.png --model nowhere.tflite"),
    (1, "predict photo.png --model broken.tflite"),
    (1, "predict photo.png --model small.tflite --labels labels.txt"),
    (1, "predict photo.png --model small.tflite --labels nowhere.txt"),
    (1, "predict photo.png --model small.tflite --out nowhere/out.csv"),
    (1, "predict photo.png --model small.tflite --out empty"),
    (1, "predict photo.png --model small.safetensors --engine torch --device cuda:7"),
    (1, "doctor nowhere"),
    (1, "doctor empty"),
    (1, "doctor texts"),
    (1, "doctor data --model nope"),
    (0, "embed photo.png --model small.tflite --out index.npz"),
    (0, "embed photo.png --model small.tflite --part 2 --out index"),
    (0, "add-class small.safetensors many/green --name grass --out more.safetensors"),
    (1, "embed nowhere.png --model small.tflite --out index.npz"),
    (1, "embed photo.png --model nope --out index.npz"),
    (1, "search photo.png nowhere.npz"),
    (1, "search photo.png photo.png"),
    (1, "add-class nope many/green --out more.safetensors"),
    (1, "add-class small.tflite nowhere --out more.safetensors"),
    (2, "embed photo.png"),
    (2, "embed photo.png --model small.tflite --part 2 --out index.npz"),
    (2, "search photo.png"),
    (2, "search photo.png index.npz --top 0"),
    (2, "add-class small.tflite"),
    (2, "add-class small.safetensors data/green --out more.tflite"),
    (1, "plan nowhere"),
    (1, "drift small.tflite new --reference data"),
    (1, "drift nope new --reference data"),
    (1, "suggest nowhere"),
    (1, "suggest data --model small.tflite --labelled data"),
    (1, "plan data --model nope"),
    (1, "train nowhere --out run"),
    (1, "train empty --out run"),
    (1, "train data --out taken"),
    (1, "train data --out run --model nope"),
    (1, "train data --out run --device cuda:7"),
    (1, "train --resume --out run"),
    (1, "choose nowhere --out best"),
    (1, "choose empty --out best"),
    (1, "evaluate nope data"),
    (1, "evaluate small.tflite nowhere"),
    (1, "evaluate small.tflite empty"),
    (1, "evaluate small.tflite other"),
    (1, "evaluate small.tflite data --split test"),
    (1, "evaluate small.tflite data --compare nope"),
    (1, "evaluate small.tflite data --answers nowhere"),
    (1, "evaluate small.tflite data --part 2 --out photo.png"),
    (1, "evaluate small.tflite data --html page.html --explain nowhere.png"),
    (1, "evaluate small.safetensors data --engine torch --device cuda:7"),
    (1, "card nope"),
    (1, "card small.tflite --data nowhere"),
    (1, "card small.tflite --out nowhere/card"),
    (1, "export nope --to onnx --out ship"),
    (1, "export nowhere.tflite --to onnx --out ship"),
    (1, "export small.safetensors --to onnx --out photo.png"),
    (1, "export small.safetensors --to onnx --out ship --data empty"),
    (1, "verify nowhere.tflite --against small.safetensors"),
    (1, "verify small.tflite --against nope"),
    (1, "verify small.tflite --against mobilenet_v2"),
    (1, "verify small.tflite --against small.safetensors --data nowhere"),
    (1, "benchmark nope"),
    (1, "benchmark nowhere.tflite"),
    (1, "benchmark small.tflite --data nowhere --seconds 0.01"),
    (1, "demo nope --out page"),
    (1, "demo broken.tflite --out page"),
    (1, "demo small.tflite --out data"),
    (1, "demo small.tflite --host 192.0.2.1 --no-browser"),
    (1, "serve nope"),
    (1, "serve broken.tflite"),
    (1, "serve small.tflite --host 192.0.2.1"),
    (1, "serve small.tflite --token-file nowhere.txt"),
    (1, "info nope"),
    (1, "info broken.tflite"),
    (1, "info data"),
    (1, "info small.safetensors --snippet python"),
    (1, "analyze nope"),
    (1, "port nowhere.pth --out model.tflite"),
    (1, "port photo.png --out model.tflite"),
    # 2: what is wrong in the words themselves.
    (2, "predict"),
    (2, "predict photo.png --top 0"),
    (2, "predict photo.png --model small.tflite --score 0.5"),
    (2, "predict photo.png --model small.tflite --masks masks"),
    (2, "predict photo.png --model small.tflite --engine onnx"),
    (2, "predict photo.png --model small.tflite --device cuda"),
    (2, "predict photo.png --model small.tflite --save grid.bmp"),
    (2, "predict photo.png --model small.tflite --mean 0.5"),
    (2, "predict photo.png --model small.tflite --sketch seen.json"),
    (2, "doctor data --task classify"),
    (2, "doctor data --ignore 255"),
    (2, "doctor data --fix clean.txt"),
    (2, "plan data --more 0"),
    (2, "drift small.tflite new"),
    (2, "drift small.tflite --reference many"),
    (2, "suggest data --count 0"),
    (2, "suggest data --diverse --labelled data"),
    (2, "train data"),
    (2, "train data --out data/run"),
    (2, "train data --out run --recipe nope"),
    (2, "train data --out run --set lr=fast"),
    (2, "train data --out run --set nope=1"),
    (2, "train data --out run --task detection --recipe finetune_small"),
    (2, "train data --out run --resume"),
    (2, "train --out run"),
    (2, "choose data"),
    (2, "choose data --out best --max-ms -1"),
    (2, "choose data --out best --min-accuracy 0.9"),
    (2, "choose data --out best --min-accuracy 101"),
    (2, "choose data --out data/best"),
    (2, "evaluate small.tflite"),
    (2, "evaluate small.tflite data --explain 2"),
    (2, "evaluate small.tflite data --shard 0/2"),
    (2, "evaluate small.tflite data --part 2"),
    (2, "evaluate small.tflite data --score 0.5"),
    (2, "evaluate small.tflite data --calibrate copy.onnx"),
    (2, "card small.tflite --out card.pdf"),
    (2, "evaluate small.tflite data --threshold red=0.5"),
    (2, "evaluate small.tflite data --calibrate copy.tflite --precision red"),
    (2, "export small.safetensors --to nope --out ship"),
    (2, "export small.safetensors --to onnx"),
    (2, "export small.safetensors --to onnx --out ship --single-file"),
    (2, "demo small.tflite --port 70000"),
    (2, "demo small.tflite --out page --port 8000"),
    (2, "serve"),
    (2, "serve a=small.tflite a=small.safetensors"),
    (2, "serve small.tflite --port 70000"),
    (2, "serve small.tflite --max-bytes many"),
    (2, "serve small.tflite --queue-seconds -1"),
    (2, "export small.safetensors --to onnx --out ship --decoded"),
    (2, "export small.safetensors --to torchscript --precision int8 --out ship"),
    (2, "export small.safetensors --to onnx --precision int8 --out ship"),
    (2, "export small.safetensors --to onnx --out ship --root data"),
    (2, "verify small.tflite"),
    (2, "verify small.tflite --against small.safetensors --tolerance nan"),
    (2, "verify small.tflite --against small.safetensors --ignore 255"),
    (2, "benchmark"),
    (2, "benchmark small.tflite --engine nope"),
    (2, "benchmark small.tflite --seconds 0"),
    (2, "benchmark small.tflite --plot speed.jpg"),
    (2, "models --format xml"),
    (2, "engines --format xml"),
    (2, "info"),
    (2, "info small.tflite --snippet fortran"),
    (2, "analyze mobilenet_v2 --bits 4"),
    (2, "port small.tflite"),
    (2, "port small.tflite --out model.onnx"),
    (2, "completion tcsh"),
    (2, "nope"),
    (2, "predict photo.png --nope"),
    (2, "predict --video nowhere.mp4 --masks masks"),
    (2, "watch empty"),
    (2, "watch empty --out answers.jsonl --model small.tflite --score 0.5"),
    # 3: done, but --strict asked whether all was well.
    (3, "predict photo.png broken.png --model small.tflite --strict"),
    (3, "doctor damaged --strict"),
    (3, "evaluate small.tflite damaged --strict"),
]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("code", "line"), CASES, ids=[f"{code}: {line}" for code, line in CASES])
def test_the_code_is_the_documented_one(code: int, line: str) -> None:
    result = run(*line.split())
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code == code, result.output
    if code in (1, 2):
        assert result.stderr
        assert "Traceback" not in result.stderr


def test_every_command_has_cases_of_0_1_and_2() -> None:
    for name in COMMANDS:
        codes = {code for code, line in CASES if line.split()[0] == name}
        lacking = {
            "engines": {1},
            "models": {1},  # nothing that it needs can be missing
            "completion": {1},
            "choose": {0},  # minutes: tests/cli/test_choose.py
            "port": {0},  # tests/porting
            "search": {0},  # asks what embed wrote: tests/embedding
            "serve": {0},  # goes on until it is told to stop: tests/serving
            "watch": {0},  # goes on until it is interrupted: tests/prediction/streams/test_watch.py
        }
        assert codes >= {0, 1, 2} - lacking.get(name, set()), name


ENDS: list[tuple[Callable[[], BaseException], int]] = [
    (lambda: UsageError("x"), 2),
    (lambda: click.UsageError("x"), 2),
    *(
        (lambda kind=kind: kind("x"), 1)
        for kind in (
            FusiformError,
            InputError,
            SpecError,
            WeightsError,
            OutputError,
            DownloadError,
            ImageError,
            OSError,
        )
    ),
    (lambda: MissingExtraError("x", "torch", "y"), 1),
    (KeyboardInterrupt, 130),
    (lambda: process.Ended(15), 143),
    (lambda: process.Ended(1), 129),
]


@pytest.mark.parametrize("name", COMMANDS)
def test_however_a_command_ends_its_code_is_the_documented_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = commands.get_command(click.Context(commands), name)
    assert command is not None
    for make, code in ENDS:
        error = make()

        def fail(*_: object, error: BaseException = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(command, "callback", fail)
        result = run(name, *LEAST[name])
        assert result.exit_code == code, (error, result.output)
        assert "Traceback" not in result.output


def test_the_documented_codes_are_those_that_are_tested() -> None:
    documented = {int(code) for codes in EXIT_CODES for code in codes.split(", ")}
    assert documented == {code for code, _ in CASES} | {code for _, code in ENDS}
    shown = run("--help").stdout
    assert all(f"\n  {codes} " in shown for codes in EXIT_CODES)


def test_an_input_error_is_a_usage_error() -> None:
    """Programs that caught the one catch the other."""
    assert issubclass(InputError, UsageError)
    assert (UsageError("x").exit_code, InputError("x").exit_code) == (2, 1)


def test_a_missing_extra_is_1(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("torch", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    for engine in ("torch", "onnxruntime"):
        result = run("predict", folder / "photo.png", "--model", folder / "small.safetensors", "--engine", engine)
        assert result.exit_code == 1
        assert "which is not installed: pip install" in result.stderr
