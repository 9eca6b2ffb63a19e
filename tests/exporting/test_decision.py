"""Rules travel into exported files: as they are into float ones, made anew with an int8 file's own calibration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusiform import predict
from fusiform.calibration.conformal import make_table
from fusiform.certainty import Certainty, Decision, Sets, Threshold
from fusiform.exporting.job import export
from fusiform.spec import ModelSpec
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.model import open_model

LABELS = ("fox", "owl", "newt")
COSTS = Decision(costs=((0, 1, 2, 0.5), (1, 0, 2, 0.5), (1, 1, 0, 0.5)))


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, small_spec: Callable[..., Any], lived_in_state: Callable[..., Any]
) -> Path:
    """A model of three classes, and 36 photographs in folders named after what it sees."""
    folder = tmp_path_factory.mktemp("ruled")
    spec = small_spec("mobilenet_v2", size=32, classes=3).replace(labels=LABELS)
    write_safetensors(folder / "bare.safetensors", lived_in_state(spec), spec)
    random = np.random.default_rng(0)
    for k in range(36):
        pixels = random.integers(0, 256, (5, 5, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(folder / f"{k}.png")
    for k, answer in enumerate(predict([folder / f"{k}.png" for k in range(36)], model=folder / "bare.safetensors")):
        place = folder / "pictures" / answer.top[0].name
        place.mkdir(parents=True, exist_ok=True)
        (folder / f"{k}.png").rename(place / f"{k}.png")
    return folder


@pytest.fixture
def ruled(folder: Path, tmp_path: Path, lived_in_state: Callable[..., Any]) -> Callable[[Decision], Path]:
    def make(decision: Decision) -> Path:
        spec = open_model(folder / "bare.safetensors").spec
        sets = Sets("lac", make_table(np.linspace(0, 1, 30)), 0.9)
        certainty = Certainty(sets, None, 30, "photographs", decision=decision)
        path = tmp_path / "ruled.safetensors"
        write_safetensors(path, lived_in_state(spec), spec.replace(certainty=certainty))
        return path

    return make


def decision_of(spec: ModelSpec) -> Decision | None:
    return None if spec.certainty is None else spec.certainty.decision


def test_float_files_and_the_page_have_it(ruled: Callable[..., Path], folder: Path, tmp_path: Path) -> None:
    report = export(ruled(COSTS), ["litert", "onnx", "web"], tmp_path / "out", data=folder / "pictures")
    files = [Path(str(row["file"])) for row in report.rows]
    assert [decision_of(open_model(file).spec) for file in files] == [COSTS, COSTS, COSTS]


def int8(model: Path, folder: Path, out: Path, **data: Any) -> tuple[Decision | None, list[str]]:
    lines: list[str] = []
    export(
        model,
        ["litert"],
        out,
        precision="int8",
        calibrate=folder / "pictures",
        keep_float=2,
        max_drop=20,
        say=lines.append,
        **data,
    )
    (file,) = out.glob("*.tflite")
    return decision_of(open_model(file).spec), lines


def test_int8_has_it_anew(ruled: Callable[..., Path], folder: Path, tmp_path: Path) -> None:
    often = max(range(3), key=lambda k: len(list((folder / "pictures" / LABELS[k]).glob("*.png"))))
    other = (often + 1) % 3
    given = Decision((Threshold(other, 0.99), Threshold(often, 0.123456, 0.6)))
    found, lines = int8(ruled(given), folder, tmp_path / "out", data=folder / "pictures")
    assert found is not None, lines
    hand, chosen = found.thresholds
    assert hand == Threshold(other, 0.99)
    assert (chosen.index, chosen.precision) == (often, 0.6)
    assert chosen.value != 0.123456


def test_int8_says_what_it_cannot_keep(ruled: Callable[..., Path], folder: Path, tmp_path: Path) -> None:
    wanted = Decision((Threshold(1, 0.9, 0.99),))
    found, lines = int8(ruled(wanted), folder, tmp_path / "out", data=folder / "pictures")
    assert found is None
    assert any("owl: a precision of 0.99 takes 299 calibration images" in line for line in lines)
    assert any("until then int8 gives the likeliest class" in line for line in lines)
