from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("onnx")

from fusiform.cli import commands
from fusiform.graph.build import build_graph
from fusiform.graph.onnx import to_onnx
from fusiform.graph.shapes import state_shapes
from fusiform.spec import ModelSpec, Preprocess
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
    assert "no photographs were given: synthetic images only" in result.stdout


def test_a_harmed_file_is_one_line_and_a_report(folder: Path, valid: Callable[..., Any]) -> None:
    result = run(folder, folder / "harmed.onnx", "--format", "json")
    assert result.exit_code == 1
    report = valid(result.stdout)
    assert report["figures"]["passed"] is False
    assert all("a logit differs by" in failure for failure in report["figures"]["failures"])
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
    assert (tmp_path / "report.csv").read_text(encoding="utf-8").startswith("kind,batch,images,largest_error")
    assert "csv has no place for figures: --format json has all" in result.stderr


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


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):  # type: ignore[no-untyped-def]
    """A segmenter, a harmed file of it, and photographs with masks of which the model finds a part by chance."""
    made = tmp_path_factory.mktemp("segmenter")
    preprocess = Preprocess(resize=33, crop=33, fit="pad")
    fields = {"task": "segmentation", "input_size": 33, "output_stride": 16, "preprocess": preprocess}
    spec = ModelSpec("mobilenet_v2", 0.35, ("background", "fox", "owl"), **fields)
    random = np.random.default_rng(2)
    state = {}
    for name, shape in state_shapes(spec).items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(5)
        elif len(shape) == 1:
            low, high = (-0.3, 0.3) if name.endswith(("mean", "bias")) else (0.7, 1.3)
            state[name] = random.uniform(low, high, shape).astype(np.float32)
        else:
            state[name] = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
    write_safetensors(made / "model.safetensors", state, spec)
    harmed = {**state, "classifier.weight": -state["classifier.weight"]}
    (made / "harmed.onnx").write_bytes(to_onnx(build_graph(spec, harmed)))
    for name in ("JPEGImages", "SegmentationClass"):
        (made / "voc" / name).mkdir(parents=True)
    (made / "voc" / "class_names.txt").write_text("background\nfox\nowl\n", encoding="utf-8")
    for k in range(5):
        coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3)).astype(np.uint8))
        coarse.resize((40, 30), Image.Resampling.BICUBIC).save(made / "voc" / "JPEGImages" / f"{k}.png")
        mask = random.integers(0, 3, (3, 4)).repeat(10, 0).repeat(10, 1).astype(np.uint8)
        Image.fromarray(mask).save(made / "voc" / "SegmentationClass" / f"{k}.png")
    return made


def test_the_drop_of_a_segmenter_has_its_interval_in_every_format(segmenter: Path, valid: Callable[..., Any]) -> None:
    def told(form: str) -> str:
        result = run(segmenter, segmenter / "harmed.onnx", "--data", segmenter / "voc", "--format", form)
        assert result.exit_code == 1
        return result.stdout

    figures = valid(told("json"))["figures"]
    drop, low, high = (figures[f"drop{end}"] for end in ("", "_low", "_high"))
    assert low < drop < high
    assert drop == pytest.approx(figures["reference_miou"] - figures["miou"], abs=1e-5)
    *_, row = csv.DictReader(io.StringIO(told("csv")))
    assert row["compared"] == "miou"
    assert [float(row[f"drop{end}"]) for end in ("", "_low", "_high")] == [drop, low, high]
    lines = told("table").splitlines()
    (line,) = [line for line in lines if line.startswith("drop ")]
    interval = f"(95 % interval {100 * low:.1f} to {100 * high:.1f})"
    assert line.split(maxsplit=1)[1] == f"{100 * drop:.1f} points {interval}"
    (heading,) = [line for line in lines if line.startswith("kind")]
    assert "drop" not in heading


def test_against_is_needed(folder: Path) -> None:
    result = CliRunner().invoke(commands, ["verify", str(folder / "same.onnx")])
    assert result.exit_code == 2
    assert "--against" in result.stderr
