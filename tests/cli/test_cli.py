from __future__ import annotations

import csv
import io
import json
import os
import signal
import struct
import subprocess
import sys
import types
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import fusiform.cli
from fusiform import engines
from fusiform.engines import ENGINES
from fusiform.errors import MissingExtraError
from fusiform.report import Report
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.catalog import CATALOG
from fusiform.zoo.model import Model

NAMES = ("red", "green, or “verde”", "синий 青")
SPEC = ModelSpec("mobilenet_v2", 1.0, NAMES, input_size=32, preprocess=Preprocess(resize=32, crop=32))


class ColorEngine:
    """Answers which of the three channels is brightest."""

    spec = SPEC

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        return {"logits": batch.mean(axis=(1, 2), dtype=np.float32) / 32}


@pytest.fixture(autouse=True)
def color_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "open_engine", lambda *_, **__: ColorEngine(), raising=False)
    model = Model(Path("model.tflite"), "tflite", SPEC, b"")
    monkeypatch.setattr("fusiform.prediction.predictor.open_model", lambda _: model)


def picture(path: Path, channel: int) -> Path:
    Image.new("RGB", (40, 40), tuple(255 * (i == channel) for i in range(3))).save(path)
    return path


def run(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(fusiform.cli.commands, list(map(str, arguments)), input=stdin, prog_name="fusiform")
    # Anything but an exit is a traceback on the user's screen.
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def shell(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fusiform", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        check=False,
    )


def test_table_names_the_picture_then_its_classes(tmp_path: Path) -> None:
    path = picture(tmp_path / "a b ü.png", 1)
    result = run("predict", path)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == str(path)
    assert lines[1] == f"   99.9%  {'█' * 20}  green, or “verde”"
    assert [line.split()[0] for line in lines[2:]] == ["0.0%", "0.0%"]
    assert result.stderr == ""


def test_json_has_one_object_a_picture(tmp_path: Path, valid: Callable[..., Any]) -> None:
    good = picture(tmp_path / "good ü.png", 2)
    bad = tmp_path / 'bad "quoted".png'
    bad.write_bytes(b"")
    result = run("predict", good, bad, "--format", "json", "--top", "2")
    assert result.exit_code == 0
    content = valid(result.stdout)
    assert content.keys() == {"schema", "network", "task", "predictions"}
    answer, error = content["predictions"]
    assert answer["path"] == str(good)
    assert [(guess["index"], guess["name"]) for guess in answer["top"]] == [(2, "синий 青"), (0, "red")]
    assert answer["top"][0]["probability"] == pytest.approx(0.9993, abs=1e-4)
    assert set(answer["top"][0]) == {"index", "name", "probability"}
    assert set(answer) == {"path", "error", "top"}
    assert answer["error"] is None
    assert set(error) == {"path", "error"}
    assert error["path"] == str(bad)
    assert "is empty" in error["error"]
    lines = run("predict", good, bad, "--format", "jsonl", "--top", "2").stdout.splitlines()
    assert [valid(line, "prediction") for line in lines] == [answer, error]


def test_csv_quotes_what_it_must(tmp_path: Path) -> None:
    good = picture(tmp_path / 'a, "b"\nc.png', 1)
    result = run("predict", good, tmp_path / "absent.png", "--format", "csv", "--top", "1")
    rows = list(csv.DictReader(io.StringIO(result.stdout_bytes.decode(), newline="")))
    assert [row["path"] for row in rows] == [str(good), str(tmp_path / "absent.png")]
    assert (rows[0]["rank"], rows[0]["index"], rows[0]["name"], rows[0]["error"]) == ("1", "1", NAMES[1], "")
    assert float(rows[0]["probability"]) == pytest.approx(0.9993, abs=1e-4)
    assert rows[1]["name"] == ""
    assert "no such file" in rows[1]["error"]


def hostile_folder(folder: Path) -> None:
    """Five good pictures among twenty that are not."""
    folder.mkdir()
    for i in range(5):
        picture(folder / f"good {i}.png", i % 3)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = {}
    for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        file = io.BytesIO()
        Image.fromarray(noise).save(file, form)
        whole[form] = file.getvalue()
    png = bytearray(whole["PNG"])
    header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    bomb = bytes(png[:12]) + header + struct.pack(">I", zlib.crc32(header)) + bytes(png[33:])
    content = {
        "empty.jpg": b"",
        "one byte.jpg": b"\xff",
        "text.png": b"hello",
        "html.jpg": b"<!doctype html><p>404",
        "magic only.png": b"\x89PNG\r\n\x1a\n",
        "magic only.jpg": b"\xff\xd8\xff\xe0",
        "magic only.gif": b"GIF89a",
        "magic only.tif": b"II*\0",
        "zeros.jpg": bytes(5000),
        "random.jpg": noise.tobytes(),
        "bomb.png": bomb,
        "bad checksum.png": bytes(png[:60] + bytes(40) + png[100:]),
        "heic.jpg": b"\0\0\0\x18ftypheic" + bytes(100),
        "archive.jpg": b"PK\x03\x04" + bytes(100),
        **{f"cut {form}.{form.lower()}": data[: len(data) // 2] for form, data in whole.items() if form != "TIFF"},
    }
    assert len(content) == 19
    for name, data in content.items():
        (folder / name).write_bytes(data)
    (folder / "link to nowhere.jpg").symlink_to("absent.jpg")


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_hostile_folder_gives_five_answers_and_twenty_lines(tmp_path: Path, threads: str) -> None:
    folder = tmp_path / "photos"
    hostile_folder(folder)
    result = run("predict", folder, "--threads", threads, "--format", "json")
    assert result.exit_code == 0
    answers = json.loads(result.stdout)["predictions"]
    assert len(answers) == 25
    assert [answer["top"][0]["index"] for answer in answers if "top" in answer] == [0, 1, 2, 0, 1]
    header, *lines = result.stderr.splitlines()
    assert header == "fusiform: 20 of 25 pictures could not be read:"
    assert lines == [f"  {answer['error']}" for answer in answers if answer["error"]]
    assert all(str(folder) in line for line in lines)
    assert "Traceback" not in result.stderr

    strict = run("predict", folder, "--strict")
    assert strict.exit_code == 3
    assert strict.stdout.count("%") == 15
    assert run("predict", *folder.glob("good*"), "--strict").exit_code == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read as Linux tells it")
def test_a_hostile_folder_takes_little_memory(tmp_path: Path) -> None:
    """With the bundled model: a decoded bomb alone would be 7.5 GB."""
    hostile_folder(tmp_path / "photos")
    code = """
import sys
from fusiform.cli import main
sys.argv = ["fusiform", "predict", sys.argv[1], "--format", "json"]
try: main()
except SystemExit as exit: assert not exit.code
print(*[line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")], file=sys.stderr)
"""
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "photos"], capture_output=True, encoding="utf-8", check=True
    )
    assert len(json.loads(result.stdout)["predictions"]) == 25
    assert int(result.stderr.splitlines()[-1]) < 250_000  # kilobytes


def test_when_every_source_fails_the_command_fails(tmp_path: Path) -> None:
    for options in ([], ["--strict"]):
        result = run("predict", tmp_path / "absent.jpg", f"{tmp_path}/*.png", tmp_path, *options)
        assert result.exit_code == 1
        assert result.stdout == ""
        assert result.stderr == (
            "fusiform: 3 of 3 pictures could not be read:\n"
            f"  {tmp_path}/absent.jpg: no such file: check the path\n"
            f"  {tmp_path}/*.png: no file matches this pattern\n"
            f"  {tmp_path}: no pictures in this folder\n"
        )


def test_standard_input(tmp_path: Path) -> None:
    result = run("predict", "-", "--format", "json", stdin=picture(tmp_path / "a.png", 0).read_bytes())
    (answer,) = json.loads(result.stdout)["predictions"]
    assert answer["path"] == "-"
    assert answer["top"][0]["name"] == "red"
    assert run("predict", "-", stdin=b"").exit_code == 1


def test_labels_file(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 0)
    labels = tmp_path / "labels.txt"
    labels.write_text("rot\ngrün\nblau\n", encoding="utf-8")
    assert "rot" in run("predict", path, "--labels", labels).stdout
    labels.write_text("rot\ngrün\n", encoding="utf-8")
    result = run("predict", path, "--labels", labels)
    assert result.exit_code == 1
    assert result.stderr.startswith("fusiform: 2 labels for the 3 classes")


def test_out_is_written_whole(tmp_path: Path) -> None:
    good = picture(tmp_path / "a.png", 0)
    out = tmp_path / "answers.json"
    out.write_text("old")
    result = run("predict", good, "--format", "json", "--out", out)
    assert (result.exit_code, result.stdout) == (0, "")
    assert json.loads(out.read_text(encoding="utf-8"))["predictions"][0]["top"][0]["name"] == "red"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "answers.json"]


def test_out_is_left_alone_by_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [picture(tmp_path / f"{i}.png", i) for i in range(3)]
    out = tmp_path / "answers.csv"
    out.write_text("old")

    def interrupted(_: ColorEngine, batch: np.ndarray) -> dict[str, np.ndarray]:
        if batch[0, 0, 0, 2]:
            raise KeyboardInterrupt
        return {"logits": np.zeros((1, 3), np.float32)}

    monkeypatch.setattr(ColorEngine, "run", interrupted)
    result = run("predict", *paths, "--format", "csv", "--out", out, "--threads", "1")
    assert result.exit_code == 130
    assert out.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 4


def test_out_that_cannot_be_written_is_told_in_a_line(tmp_path: Path) -> None:
    good = picture(tmp_path / "a.png", 0)
    result = run("predict", good, "--out", tmp_path / "absent" / "x.csv")
    assert result.exit_code == 1
    assert result.stderr == f"fusiform: {tmp_path}/absent/x.csv: cannot be written: No such file or directory\n"
    assert "is a folder" in run("predict", good, "--out", tmp_path).stderr


def test_out_through_a_link_and_to_a_device(tmp_path: Path) -> None:
    good = picture(tmp_path / "a.png", 0)
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    run("predict", good, "--out", link)
    assert link.is_symlink()
    assert "red" in target.read_text(encoding="utf-8")
    assert run("predict", good, "--out", os.devnull).exit_code == 0
    assert not Path(os.devnull).is_file()


def test_errors_for_the_user_are_one_line_and_an_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MissingExtraError("onnxruntime", "onnx", "the engine onnxruntime")

    monkeypatch.setattr(engines, "open_engine", fail)
    result = run("predict", "a.jpg", "--engine", "onnxruntime")
    assert result.exit_code == 1
    assert result.stderr == (
        "fusiform: the engine onnxruntime needs onnxruntime, which is not installed: pip install 'fusiform[onnx]'\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [[], ["predict"], ["predict", "a.jpg", "--top", "0"], ["predict", "a.jpg", "--engine", "caffe"], ["prdict"]],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_engines_are_those_of_the_library() -> None:
    command = fusiform.cli.commands.get_command(None, "predict")  # type: ignore[arg-type]
    (option,) = [parameter for parameter in command.params if parameter.name == "engine"]  # type: ignore[union-attr]
    assert tuple(option.type.choices) == ENGINES  # type: ignore[attr-defined]


def test_models_lists_the_catalogue(valid: Callable[..., Any]) -> None:
    rows = valid(run("models", "--format", "json").stdout)["rows"]
    assert [row["name"] for row in rows] == list(CATALOG)
    by_short = {row["short"]: row for row in rows if row["short"]}
    bundled = by_short["mobilenet_v2"]
    assert bundled["bundled"]
    assert bundled["bytes"] == valid(run("info", "mobilenet_v2", "--format", "json").stdout)["figures"]["bytes"]
    assert run("info", "mobilenet_v2", "--format", "jsonl").stderr == ""
    assert all(0 < row["top1"] < row["top5"] < 1 for row in rows if row["top1"] is not None)
    table = run("models").stdout
    assert all(name in table for name in CATALOG)
    assert max(map(len, table.splitlines())) < 160
    records = list(csv.DictReader(io.StringIO(run("models", "--format", "csv").stdout, newline="")))
    assert [record["url"] for record in records] == [weights.url for weights in CATALOG.values()]


def test_engines_says_what_is_there_and_how_to_get_the_rest(
    valid: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fusiform.engines import default_engine, installed
    from fusiform.zoo.model import open_model

    def told() -> tuple[dict[str, Any], dict[str, Any]]:
        report = valid(run("engines", "--format", "json").stdout)
        return report["figures"], {row["engine"]: row for row in report["rows"]}

    monkeypatch.delenv("FUSIFORM_ENGINE", raising=False)
    figures, rows = told()
    assert tuple(rows) == ENGINES
    assert all((row["version"] is None) != (row["install"] is None) for row in rows.values())
    assert figures["int8_engine"] == default_engine(open_model("mobilenet_v2"))
    assert figures["float_engine"] == "litert"
    monkeypatch.setattr(installed, "installed_version", lambda _="fusiform": None)
    monkeypatch.setattr(installed, "usable_kernels", dict)
    monkeypatch.setattr(installed, "fast_kernels", lambda: None)
    figures, rows = told()
    assert figures["int8_engine"] == "litert"
    assert figures["why"].startswith("the native engine ")
    assert rows["onnxruntime"]["install"] == 'pip install "fusiform[onnx]"'
    assert rows["litert"]["install"] == "pip install ai-edge-litert"
    assert "C compiler" in rows["native"]["install"]
    monkeypatch.setattr(installed, "usable_kernels", lambda: {"portable": 2})
    assert "the processor has no instructions with which" in told()[0]["why"]
    monkeypatch.setattr(installed, "usable_kernels", lambda: {"neon-dotprod": 1, "portable": 2})
    figures, _ = told()
    assert figures["int8_engine"] == "litert"
    assert figures["why"] == (
        "how fast the native engine is with neon-dotprod was never measured; FUSIFORM_ENGINE=native takes it"
    )
    monkeypatch.setenv("FUSIFORM_ENGINE", "native")
    figures, _ = told()
    assert (figures["int8_engine"], figures["float_engine"]) == ("native", "litert")
    assert figures["why"] == "FUSIFORM_ENGINE=native in the environment asks for it"
    monkeypatch.setenv("FUSIFORM_ENGINE", "torch")
    figures, _ = told()
    assert (figures["int8_engine"], figures["float_engine"]) == ("torch", "torch")
    assert figures["why"] == "FUSIFORM_ENGINE=torch in the environment asks for it"
    monkeypatch.setenv("FUSIFORM_ENGINE", "fastest")
    result = run("engines")
    assert (result.exit_code, "there is no such engine" in result.stderr) == (2, True)


def test_info_prints_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def describe(model: str) -> Report:
        asked.append(model)
        return Report(model, figures={"parameters": 3_504_872})

    monkeypatch.setitem(sys.modules, "fusiform.zoo.info", types.SimpleNamespace(describe=describe))
    assert run("info", "mobilenet_v2").stdout == "mobilenet_v2\n\nparameters  3,504,872\n"
    assert json.loads(run("info", "m.tflite", "--format", "json").stdout)["figures"] == {"parameters": 3_504_872}
    assert asked == ["mobilenet_v2", "m.tflite"]


def test_port_passes_the_labels_and_says_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def port(foreign: Path, out: Path, *, labels: Path | None = None, **stated: Any) -> ModelSpec:
        calls.append((foreign, out, labels))
        assert set(stated) == {"mean", "std", "resize", "crop", "fit", "say"}
        stated.pop("say")("FILE: assumed")
        if labels is not None:
            assert set(stated.values()) == {None}
        else:
            assert stated == {"mean": (0.5,), "std": (0.5, 0.4, 0.3), "resize": 250, "crop": 200, "fit": "crop"}
        return SPEC

    monkeypatch.setitem(sys.modules, "fusiform.porting.port", types.SimpleNamespace(port=port))
    labels = tmp_path / "labels.txt"
    result = run("port", "foreign.onnx", "--out", "own.safetensors", "--labels", labels)
    assert result.stdout == "own.safetensors: mobilenet_v2_x1_0, 3 classes, 32 pixels, symmetric padding\n"
    assert result.stderr.splitlines() == [
        "fusiform: FILE: assumed",
        "next: fusiform info own.safetensors",
        "next: fusiform predict PHOTO --model own.safetensors",
    ]
    stated = ["--mean", "0.5", "--std", "0.5,0.4,0.3", "--resize", "250", "--crop", "200", "--fit", "crop"]
    run("port", "foreign.onnx", "--out", "own.safetensors", *stated)
    for wrong in ("", "a", "0.5;0.5", "1,2,"):
        result = run("port", "foreign.onnx", "--out", "own.safetensors", "--mean", wrong)
        assert result.exit_code == 2
        assert "is not a number, nor three with commas between them" in " ".join(result.stderr.split())
    assert calls == [
        (Path("foreign.onnx"), Path("own.safetensors"), labels),
        (Path("foreign.onnx"), Path("own.safetensors"), None),
    ]
    assert run("port", "foreign.onnx").exit_code == 2


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion_scripts_ask_fusiform(name: str) -> None:
    assert f"_FUSIFORM_COMPLETE={name}_complete" in run("completion", name).stdout


def test_completion_knows_commands_options_and_models() -> None:
    def complete(words: str) -> str:
        count = str(len(words.split(" ")) - 1)
        return shell(_FUSIFORM_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=count).stdout

    assert set(complete("fusiform ").split()) == {f"plain,{name}" for name in fusiform.cli.COMMANDS}
    assert "plain,--format" in complete("fusiform predict --for")
    assert "plain,mobilenet_v2\n" in complete("fusiform predict --model mob")
    assert complete("fusiform predict --model ./m") == "file,./m\n"


def test_help_imports_no_numbers_and_no_runtime() -> None:
    code = """
import sys
from fusiform.cli import main
sys.argv = ["fusiform", *sys.argv[1:]]
try: main()
except SystemExit as exit: assert not exit.code
heavy = {"numpy", "torch", "PIL", "ai_edge_litert", "onnxruntime", "fusiform.spec", "importlib.metadata"}
print("heavy:", sorted(heavy & set(sys.modules)))
"""
    for arguments in (["--help"], ["predict", "--help"], ["completion", "--help"]):
        shown = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert "Usage: fusiform" in shown.stdout
        assert shown.stdout.endswith("heavy: []\n")
    assert all(name in run("--help").stdout for name in fusiform.cli.COMMANDS)


def test_each_command_says_the_same_of_itself_and_has_help() -> None:
    for name in fusiform.cli.COMMANDS:
        result = run(name, "--help")
        assert result.exit_code == 0
        assert f"fusiform {name}" in result.stdout


def test_version_and_module_form() -> None:
    result = shell("--version")
    assert (result.returncode, result.stdout) == (0, f"fusiform {fusiform.__version__}\n")


HANGING = """
import signal, sys, time
from fusiform import engines
from fusiform.cli import main
class Engine:
    spec = None
    def run(self, batch): ...
def hang(*_, **__):
    print("opened", flush=True)
    time.sleep(60)
from fusiform.spec import ModelSpec, Preprocess
Spec = ModelSpec("mobilenet_v2", 1.0, ("a", "b"), input_size=32, preprocess=Preprocess(resize=32, crop=32))
Engine.spec, Engine.run = Spec, hang
engines.open_engine = lambda *_, **__: Engine()
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background, it is ignored
sys.argv = ["fusiform", "predict", "--threads", sys.argv[1], *sys.argv[2:]]
main()
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_ctrl_c_stops_at_once_and_says_what_is_left(tmp_path: Path, threads: str) -> None:
    paths = [picture(tmp_path / f"{i}.png", 0) for i in range(4)]
    out = tmp_path / "out.txt"
    command = [sys.executable, "-c", HANGING, threads, *paths, "--out", out]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("opened")  # two threads may write in one line
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == f"fusiform: interrupted: nothing was written to {out}\n"
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_told_in_a_line() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        command = [sys.executable, "-m", "fusiform", "models"]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == "fusiform: standard output cannot be written: No space left on device\n"


def test_a_closed_standard_input_is_an_empty_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", None)
        (prediction,) = fusiform.predict("-")
    assert "is empty" in str(prediction.error)


def test_a_closed_pipe_is_no_error() -> None:
    """The reader takes one line and goes away; the command must end without a word."""
    code = "import fusiform.cli, sys; sys.argv = ['fusiform', 'models', '--format', 'json']; fusiform.cli.main()"
    pipe = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert pipe.stdout is not None
    assert pipe.stderr is not None
    pipe.stdout.close()
    assert pipe.stderr.read() == b""
    pipe.stderr.close()
    assert pipe.wait() == 1
