from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import fusiform.cli
from fusiform import engines
from fusiform.graph.build import build_graph
from fusiform.graph.tflite import to_tflite
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.model import Model, open_model

COLORS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}
REFUSED = "on images that it is not fitted on, another temperature makes the calibration worse"
SPEC = ModelSpec("mobilenet_v2", 0.35, tuple(COLORS), input_size=32, preprocess=Preprocess(resize=32, crop=32))


class ColorEngine:
    """Right about the brightest channel, twice as sure in the model ``sharp``, which takes red for green."""

    def __init__(self, model: Model, *, features: bool = False, **_: object) -> None:
        self.spec = SPEC.replace(features=features)
        self.sharp = model.path.name.startswith("sharp")

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        logits = batch.mean(axis=(1, 2), dtype=np.float32) / 50
        if self.sharp:
            logits[:, 1] += logits[:, 0] * 2
        if not self.spec.features:
            return {"logits": logits}
        return {"logits": logits, "features": np.repeat(logits, 427, 1)[:, :1280]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lived_in_state: Callable[..., Any]) -> Path:
    """Two models, and three pictures of each colour but for one that is blue among the reds."""
    monkeypatch.setattr(engines, "open_engine", ColorEngine)
    for name in ("colors", "sharp"):
        (tmp_path / f"{name}.tflite").write_bytes(to_tflite(build_graph(SPEC, lived_in_state(SPEC))))
    for name in COLORS:
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(3):
            color = COLORS["blue" if (name, k) == ("red", 1) else name]
            Image.new("RGB", (40, 40), color).save(tmp_path / "data" / name / f"{k}.png")
    return tmp_path


def run(folder: Path, *arguments: str | Path) -> Result:
    words = ["evaluate", str(folder / "colors.tflite"), str(folder / "data"), *map(str, arguments)]
    result = CliRunner().invoke(fusiform.cli.commands, words, prog_name="fusiform")
    # Anything but an exit is a traceback on the user's screen.
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def test_table_for_people(folder: Path) -> None:
    result = run(folder)
    assert result.exit_code == 0
    # Wilson's interval of 8 of 9.
    assert "top-1                88.9 % (95 % interval 56.5 to 98.0)" in result.stdout
    assert "top-5                100.0 % (95 % interval 70.1 to 100.0)" in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["red", "3", "100.0", "66.7", "80.0"] in lines
    assert ["red", "blue", "1", "33.3"] in lines
    assert str(folder / "data" / "red" / "1.png") in result.stdout


def test_json_has_everything(folder: Path, valid: Callable[..., Any]) -> None:
    result = run(folder, "--format", "json", "--threads", "2", "--compare", folder / "sharp.tflite")
    content = valid(result.stdout)
    assert content["figures"]["top1"] == pytest.approx(8 / 9, abs=1e-6)
    columns = content["confusion"]["columns"]
    counts = zip(columns, content["confusion"]["counts"], strict=True)
    found = {(true, name): n for true, row in counts for name, n in zip(columns, row, strict=True) if n}
    assert found == {("red", "red"): 2, ("red", "blue"): 1, ("green", "green"): 3, ("blue", "blue"): 3}
    assert [each["path"] for each in content["mistakes"]] == [str(folder / "data" / "red" / "1.png")]
    compared = content["comparison"]
    assert (compared["both"], compared["only_model"], compared["only_other"], compared["neither"]) == (6, 2, 0, 1)
    assert compared["p_value"] == 0.5
    assert "cannot be told from chance" in compared["sentence"]


def test_csv_and_jsonl_have_a_record_for_each_class(folder: Path) -> None:
    result = run(folder, "--format", "csv")
    records = list(csv.DictReader(io.StringIO(result.stdout)))
    told = "fusiform: csv has no place for figures, confusion, most_confused, mistakes, curves: --format json has all\n"
    assert result.stderr.endswith(told)
    assert {record["class"]: float(record["recall"]) for record in records} == {
        "red": pytest.approx(2 / 3, abs=1e-6),
        "green": 1,
        "blue": 1,
    }
    lines = [json.loads(line) for line in run(folder, "--format", "jsonl").stdout.splitlines()]
    assert [line["class"] for line in lines] == [record["class"] for record in records]


def test_compare_speaks_plainly(folder: Path) -> None:
    result = run(folder, "--compare", folder / "sharp.tflite")
    assert "colors.tflite is right more often, by 22.2 percentage points" in result.stdout


def test_page_with_explanations(folder: Path) -> None:
    page = folder / "page.html"
    named = folder / "data" / "green" / "0.png"
    result = run(folder, "--html", page, "--explain", "2", "--explain", named, "--out", folder / "table.txt")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "top-1" in (folder / "table.txt").read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    assert "What it looks at" in text
    # The mistake for both its classes, a right one, and the named picture: each beside the plain one.
    assert text.count(">predicted: blue<") == 1
    assert text.count(">true: red<") == 1
    assert text.count(">right: ") == 2


def test_calibrate_writes_a_model(folder: Path, valid: Callable[..., Any]) -> None:
    out = folder / "calibrated.tflite"
    split(folder, "val", "test")
    result = run(folder, "--calibrate", out, "--format", "json")
    assert result.exit_code == 0
    calibration = valid(result.stdout)["calibration"]
    assert open_model(out).spec.temperature == pytest.approx(calibration["temperature"])
    assert (calibration["fitted_on"], calibration["images"], calibration["refused"]) == ("val", 9, REFUSED)
    assert calibration["nll_after"] == calibration["nll_before"]  # nine pictures tell no temperature
    certainty = open_model(out).spec.certainty
    assert certainty is not None
    assert certainty.images == 9
    told = run(folder, "--calibrate", out).stdout
    assert f"The temperature stays 1.000: {REFUSED}. Sets of names are made by lac, from 9 pictures" in told


def split(folder: Path, *splits: str) -> None:
    """The same pictures in each of the splits."""
    for name in splits:
        shutil.copytree(folder / "data", folder / "splits" / name)
    shutil.rmtree(folder / "data")
    (folder / "splits").rename(folder / "data")


def test_promises_are_told_of_the_report_s_images(folder: Path) -> None:
    out = folder / "calibrated.tflite"
    split(folder, "val", "test")
    for name in COLORS:  # of the test pictures, the model is right about all
        Image.new("RGB", (40, 40), COLORS[name]).save(folder / "data" / "test" / name / "1.png")
    result = run(folder, "--calibrate", out)
    assert result.exit_code == 0
    assert "top-1                                   100.0 %" in result.stdout
    assert "sets with the right name, 95% promised  100.0 %" in result.stdout
    assert open_model(out).spec.certainty is not None


def test_a_promise_that_takes_more_images_is_told(folder: Path) -> None:
    result = run(folder, "--calibrate", folder / "calibrated.tflite", "--certain", "150%")
    assert result.exit_code == 2
    assert "150% is no share: write 99% or 0.99" in result.stderr


def test_a_model_that_is_calibrated_decides_by_the_rule(folder: Path, valid: Callable[..., Any]) -> None:
    """Of the colours' probabilities, all but one of the blue ones among the reds are above 0.9."""
    out = folder / "ruled.tflite"
    split(folder, "val", "test")
    result = run(folder, "--calibrate", out, "--threshold", "Red=99%", "--threshold", "blue=0.05", "--format", "json")
    assert result.exit_code == 0
    told = valid(result.stdout)["decision"]
    assert told["rule"] == "thresholds"
    assert [row["threshold"] for row in told["classes"]] == [0.99, None, 0.05]
    certainty = open_model(out).spec.certainty
    assert certainty is not None
    assert certainty.decision is not None
    assert {each.index: each.value for each in certainty.decision.thresholds} == {0: 0.99, 2: 0.05}

    matrix = folder / "costs.csv"
    matrix.write_text("true,red,green,blue,unsure\nred,0,1,1,.01\ngreen,1,0,1,.01\nblue,1,1,0,.01\n", encoding="utf-8")
    found = run(folder, "--calibrate", out, "--costs", matrix)
    assert found.exit_code == 0
    assert "Decided by costs: a class is given to 0.0 % (95 % interval 0.0 to 29.9) of the images;" in found.stdout
    assert "A decision costs 0.01 (95 % interval 0.01 to 0.01) on average" in found.stdout
    # The copy says the same, and loses the rule where it is calibrated without one.
    words = ["evaluate", str(out), str(folder / "data")]
    again = CliRunner().invoke(fusiform.cli.commands, words)
    assert "Decided by costs: a class is given to 0.0 %" in again.stdout
    more = CliRunner().invoke(fusiform.cli.commands, [*words, "--calibrate", str(folder / "bare.tflite")])
    assert "the model's rule of decision is not in the copy: ask for it again" in more.stdout
    assert "Decided by" not in more.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--precision", "red"], "red names no class: write CLASS=PERCENT, such as cat=95%"),
        (["--precision", "=95%"], "=95% names no class"),
        (["--precision", "red=95"], "95 is no share"),
        (["--threshold", "red=0.5", "--threshold", "red=0.6"], "red is there twice: give it once"),
        (["--threshold", "red=0.5", "--precision", "RED=0.6"], "red has --precision and --threshold"),
        (["--threshold", "wolf=0.5"], "--threshold: 1 of 1 classes fit no output"),
        (["--precision", "red=0.5", "--costs", "costs.csv"], "--costs decides by itself"),
        (["--costs", "none.csv"], "none.csv: cannot read the costs"),
        (["--precision", "red=95%"], "red: a precision of 0.95 takes 59 calibration images that are named so, all of"),
    ],
)
def test_a_rule_that_is_none_is_refused(folder: Path, words: list[str], message: str) -> None:
    split(folder, "val", "test")
    result = run(folder, "--calibrate", folder / "ruled.tflite", *words)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.stderr.split())
    assert not (folder / "ruled.tflite").exists()


def test_calibrate_halves_what_is_not_split(folder: Path) -> None:
    for k in range(3, 12):
        shutil.copy(folder / "data" / "red" / "1.png", folder / "data" / "red" / f"{k}.png")  # blue ones
        for name in ("green", "blue"):
            shutil.copy(folder / "data" / name / "0.png", folder / "data" / name / f"{k}.png")
    result = run(folder, "--calibrate", folder / "calibrated.tflite")
    assert result.exit_code == 0
    assert "fitted on 18 pictures (half of all)" in result.stdout
    assert (
        "18 of the 36 pictures (half, seed 0) are for the calibration: all figures are of the other 18" in result.stdout
    )


def test_unreadable_pictures(folder: Path) -> None:
    (folder / "data" / "red" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = run(folder)
    assert result.exit_code == 0
    assert "1 of 9 pictures could not be read" in result.stderr
    assert "8, 1 could not be read" in result.stdout
    assert run(folder, "--strict").exit_code == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--explain", "3"], "add --html FILE.html"),
        (["--explain", "nothing.jpg", "--html", "page.html"], "--explain nothing.jpg: no such picture"),
        (["--calibrate", "copy.onnx"], "end its name in .tflite"),
        (["--split", "test"], "test"),
        (["--compare", "no_such_model"], "no_such_model"),
    ],
)
def test_wrong_usage_is_one_line(folder: Path, arguments: list[str], message: str) -> None:
    result = run(folder, *arguments)
    assert result.exit_code in (1, 2)
    last = [line for line in result.stderr.splitlines() if line.startswith("fusiform: ")]
    assert len(last) == 1
    assert message in last[0]
    assert result.stdout == ""


def test_only_explain_needs_pytorch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    page = folder / "page.html"
    assert run(folder, "--html", page).exit_code == 0
    result = run(folder, "--html", page, "--explain", "2")
    assert result.exit_code == 1
    assert "--explain needs PyTorch, which is not installed: pip install 'fusiform[torch]'" in result.stderr


def test_help_is_listed() -> None:
    result = CliRunner().invoke(fusiform.cli.commands, ["--help"], prog_name="fusiform")
    assert "Measure a model's accuracy, mAP or mean IoU." in result.stdout
