"""Whole searches, on pictures of shapes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from fusiform.errors import FusiformError, UsageError
from fusiform.selection.budget import Budget, Plan
from fusiform.selection.job import choose
from fusiform.selection.journal import Journal, read_trainings, write_journal
from fusiform.selection.work import Work
from fusiform.training.recipe import Recipe
from fusiform.training.recipes import distill_small, finetune_small
from fusiform.zoo.checkpoint import read_safetensors
from fusiform.zoo.model import open_model

pytestmark = pytest.mark.usefixtures("hasty_latencies", "unrendered_curves")

SHAPES = ("circle", "cross", "square")


def make_shapes(folder: Path, count: int, *, seed: int) -> None:
    """Shapes of three kinds and colours on grey, a folder a class."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:40, :40]
    for k, name in enumerate(SHAPES):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            u, v = x - random.uniform(14, 26), y - random.uniform(14, 26)
            inside = [u**2 + v**2 < 100, (abs(u) < 4) | (abs(v) < 4), (abs(u) < 10) & (abs(v) < 10)][k]
            pixels = random.normal(110, 25, (5, 5, 3)).repeat(8, 0).repeat(8, 1)
            pixels[inside] = random.normal(40, 10, 3)
            pixels[inside, k] += 160
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_shapes(tmp_path / "data" / "train", 30, seed=1)
    make_shapes(tmp_path / "data" / "test", 12, seed=2)
    return tmp_path / "data"


@pytest.fixture
def quick() -> Recipe:
    return dataclasses.replace(
        finetune_small,
        epochs=1,
        min_steps=0,
        batch=16,
        size=32,
        eval_size=32,
        head_epochs=30,
        val_fraction=0.3,
        precision="float32",
    )


@pytest.mark.slow
def test_a_whole_search_leaves_a_model_that_holds_the_budget_and_is_measured_on_test_pictures(
    data: Path, tmp_path: Path, quick: Recipe
) -> None:
    out = tmp_path / "out"
    budget = {"max_ms": 100, "max_mb": 8.9, "min_accuracy": 40}
    said: list[str] = []
    choice = choose(data, out, **budget, size=(32,), trials=2, recipe=quick, say=said.append)
    assert choice.shortfall == ""
    assert choice.file == out / "model.tflite"
    assert choice.file.stat().st_size <= 8.9e6
    spec = open_model(choice.file).spec
    assert (spec.labels, spec.input_size) == (SHAPES, 32)
    figures = choice.report.figures
    assert (figures["split"], figures["images"]) == ("test", 36)
    assert 0.4 <= figures["top1_low"] <= figures["top1"] <= figures["top1_high"] <= 1  # type: ignore[operator]
    assert {path.name for path in out.iterdir()} == {
        "model.tflite",
        "choose.json",
        "candidates.png",
        "frontier.png",
        "runs",
    }
    journal = json.loads((out / "choose.json").read_text(encoding="utf-8"))
    assert len(journal["candidates"]) == 10
    assert all(c["fits"] == (c["bytes"] * 1.01 <= 8.9e6) for c in journal["candidates"])
    assert {t["network"] for t in journal["trainings"]} == {"mobilenet_v2_x1_0", "shufflenet_v2_x1_0"}
    assert journal["chosen"]["top1"] == figures["top1"]
    held = [file for file in journal["files"] if file["holds"]]
    assert max(file["val_top1"] for file in held) - 0.005 < next(
        file["val_top1"] for file in held if file["median_ms"] == pytest.approx(figures["median_ms"], abs=1e-4)
    )
    # Of MobileNetV2 only int8 is small enough.
    assert {(file["network"], file["precision"]) for file in journal["files"]} == {
        ("mobilenet_v2_x1_0", "int8"),
        ("shufflenet_v2_x1_0", "float32"),
        ("shufflenet_v2_x1_0", "int8"),
    }

    with pytest.raises(UsageError, match="--resume"):
        choose(data, out, **budget, size=(32,), trials=2, recipe=quick)
    with pytest.raises(UsageError, match="other recipe"):
        choose(data, out, **budget, size=(32,), recipe=dataclasses.replace(quick, lr=1e-5), resume=True)
    # Under another budget nothing is trained that was trained before, and an accuracy out of reach is told.
    times = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/last.safetensors")}
    asked = {"max_ms": 99, "max_mb": 8.9, "min_accuracy": 100}
    again = choose(data, out, **asked, size=(32,), trials=1, recipe=quick, resume=True)
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/*/last.safetensors")} == times
    assert again.report.figures["network"] == "mobilenet_v2_x1_0"
    assert bool(again.shortfall) == (again.report.figures["top1"] < 1)  # type: ignore[operator]


def test_few_pictures_are_shown_as_often_as_train_shows_them(
    data: Path, tmp_path: Path, quick: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[tuple[int, int], Recipe]] = []

    def search(_: Any, __: Any, work: Work, *, epochs: tuple[int, int], **___: Any) -> None:
        asked.append((epochs, work.recipe))
        raise KeyboardInterrupt

    monkeypatch.setattr("fusiform.selection.job.search", search)
    recipe = dataclasses.replace(quick, min_steps=100)
    with pytest.raises(KeyboardInterrupt):
        choose(data, tmp_path / "best", size=(32,), recipe=recipe)
    # 63 of 90 pictures are 3 steps of 16: 34 passes, 3 in each of 12 epochs.
    ((epochs, used),) = asked
    assert (epochs[0], used.epochs, used.repeats, used.fit_size) == (12, 12, 3, False)


def test_a_search_of_the_first_version_is_read(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    (run / "best.safetensors").touch()
    training = {"network": "mobilenet_v2_x1_0", "architecture": "mobilenet_v2", "width": 1.0, "size": 96, "epochs": 2}
    training |= {"distilled": False, "val_top1": 0.9, "val_loss": 0.3, "seconds": 4.0, "run": "one"}
    training |= {"plan": "mobilenet_v2_x1_0 at 96 px"}
    (tmp_path / "choose.json").write_text(json.dumps({"data": "d", "trainings": [training]}), encoding="utf-8")
    (found,) = read_trainings(tmp_path, {"data": "d"})
    assert (found.plan, found.epochs, found.run) == (Plan("mobilenet_v2", 1.0, 96), 2, run)
    write_journal(tmp_path, {"data": "d"}, [], Budget(), 0.1, journal=Journal([found]), chosen=None)
    assert read_trainings(tmp_path, {"data": "d"}) == [found]


@pytest.mark.slow
def test_a_network_that_is_cut_learns_from_a_teacher(data: Path, tmp_path: Path, quick: Recipe) -> None:
    distillation = dataclasses.replace(
        distill_small, epochs=2, warmup_epochs=0.5, batch=16, size=32, sizes=(), eval_size=32, precision="float32"
    )
    out = tmp_path / "out"
    budget = {"max_mb": 0.8}
    with contextlib.suppress(FusiformError):  # hardly trained, it may lose more to int8 than a file may
        choose(data, out, **budget, size=(32,), trials=1, recipe=quick, distillation=distillation)
    assert {run.name for run in (out / "runs").iterdir()} == {
        "mobilenet_v2_x1_0_32px_1_epochs",
        "mobilenet_v2_x0_35_32px_2_epochs_distilled",
    }
    settings = json.loads((out / "runs" / "mobilenet_v2_x0_35_32px_2_epochs_distilled" / "run.json").read_text())
    assert settings["teacher"].endswith("mobilenet_v2_x1_0_32px_1_epochs/best.safetensors")
    journal = json.loads((out / "choose.json").read_text(encoding="utf-8"))
    assert [(done["width"], done["distilled"]) for done in journal["trainings"]] == [(1.0, False), (0.35, True)]
    spec, _ = read_safetensors(out / "runs" / journal["trainings"][1]["run"] / "best.safetensors")
    assert spec is not None
    assert spec.width == 0.35
