"""How often test images were used: counted beside the runs, by content, and what it makes of an interval."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

import fusiform
from fusiform.data.dataset import Sample
from fusiform.evaluation.uses import USES, count_uses, find_run, hash_images, read_uses, widen
from fusiform.schemas import json_schema
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tasks.bootstrap import Interval
from fusiform.tasks.classification_metrics import wilson_interval
from fusiform.zoo.checkpoint import write_safetensors

SPEC = ModelSpec("mobilenet_v2", 0.35, ("green", "red"), input_size=32, preprocess=Preprocess(resize=32, crop=32))


@pytest.fixture
def runs(tmp_path: Path, lived_in_state: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs beside each other, on data with a test split, and an exported file of the first."""
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 2), ("test", 3)):
        for name, color in (("green", (0, 200, 0)), ("red", (200, 0, 0))):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for k in range(count):
                Image.new("RGB", (40, 40), (color[0], color[1], 40 * k)).save(
                    tmp_path / "data" / split / name / f"{k}.png"
                )
    state = lived_in_state(SPEC)
    for name in ("first", "second"):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        write_safetensors(run / "best.safetensors", state, SPEC)
        (run / "run.json").write_text(json.dumps({"data": str(tmp_path / "data")}))
    (tmp_path / "runs" / "first" / "export").mkdir()
    shutil.copy("runs/first/best.safetensors", "runs/first/export/same.safetensors")
    return tmp_path / "runs"


def times(model: str, data: str) -> int:
    used = fusiform.evaluate(model, data).test_use
    assert used is not None
    return used.times


def test_every_use_of_the_test_images_is_counted_for_all_runs_beside_each_other(runs: Path) -> None:
    once = fusiform.evaluate("runs/first", "data")
    assert once.test_use is not None
    assert once.test_use.to_dict() | {"widened_low": 0, "widened_high": 0} == {
        "uses": 1,
        "runs_compared": 1,
        "level": 0.95,
        "widened_low": 0,
        "widened_high": 0,
        "recorded": True,
    }
    assert "The test images have been used once by this run.\n" in once.to_table()
    again = fusiform.evaluate("runs/first/export/same.safetensors", "data", split="test")
    assert again.test_use is not None
    assert (again.test_use.times, again.test_use.runs) == (2, 1)
    other = fusiform.evaluate("runs/second", "data")
    used = other.test_use
    assert used is not None
    assert (used.times, used.runs, used.level) == (3, 2, 0.975)
    right = round(other.metrics["top1"] * 6) if other.metrics["top1"] is not None else 0
    assert used.widened[1:] == wilson_interval(right, 6, level=0.975)
    assert f"used 3 times by 2 runs in {runs}." in used.sentence
    assert "by 2 runs in this folder." in replace(used, folder=Path()).sentence
    assert "holds for all 2 together for 95 %" in other.to_table()
    assert used.sentence.split(". ")[0] in other.page().render()
    assert json.loads(other.to_json())["test_use"]["runs_compared"] == 2
    lines = read_uses(runs / "first")
    assert [(line["file"], line["split"]) for line in lines] == [
        ("best.safetensors", "test"),
        ("export/same.safetensors", "test"),
    ]
    for line in lines:
        Draft202012Validator(json_schema("use")).validate(line)


def test_what_is_no_test_is_not_counted(runs: Path) -> None:
    for split in ("train", "all"):
        seen = fusiform.evaluate("runs/first", "data/train" if split == "all" else "data", split=split)
        if split == "train":
            assert seen.test_use is None
    fusiform.evaluate("runs/first/best.safetensors", "data/test")  # images that the run did not learn from
    assert [line["split"] for line in read_uses(runs / "first")] == ["all", "all"]
    (runs / "first" / "run.json").write_text(json.dumps({"data": str(runs.parent / "data" / "test")}))
    assert fusiform.evaluate("runs/first", "data/test").test_use is None
    shutil.copy("runs/first/best.safetensors", "alone.safetensors")
    alone = fusiform.evaluate("alone.safetensors", "data")
    assert alone.test_use is None
    assert json.loads(alone.to_json())["test_use"] is None
    assert not Path(USES).exists()


def test_images_are_the_same_wherever_they_lie_and_whatever_they_are_called(runs: Path) -> None:
    fusiform.evaluate("runs/first", "data")
    shutil.copytree("data/test", "moved/one")
    shutil.move("moved/one/red/0.png", "moved/one/red/other.png")
    assert times("runs/second", "moved/one") == 2
    Image.new("RGB", (40, 40), (1, 2, 3)).save("moved/one/red/other.png")
    assert times("runs/second", "moved/one") == 1
    samples = [Sample(Path("a.tar"), 0, 512, 100, key) for key in ("x.png", "y.png")]
    assert hash_images(samples) == hash_images(samples[::-1]) != hash_images(samples[:1])
    assert hash_images([Sample(Path("gone.png"), 0)]) != hash_images([Sample(Path("gone too.png"), 0)])


def test_a_folder_that_cannot_be_written_to_ends_nothing(runs: Path) -> None:
    (runs / "first" / USES).mkdir()  # as good as read-only, also for root
    used = fusiform.evaluate("runs/first", "data").test_use
    assert used is not None
    assert (used.times, used.runs, used.recorded) == (1, 1, False)
    assert used.sentence.endswith("This time is not recorded: the run's folder cannot be written to.")
    (runs / "second" / USES).write_bytes(b"\xff\xfe\n{}\n[]\nnull\n" + b'{"date": 1}\n')
    used = fusiform.evaluate("runs/second", "data").test_use
    assert used is not None
    assert (used.times, used.recorded) == (1, True)


def test_the_run_of_a_file_is_found(runs: Path) -> None:
    assert find_run(runs / "first" / "export" / "web" / "model.tflite") == runs / "first"
    assert find_run(runs.parent / "model.tflite") is None
    chosen = runs.parent / "best"
    shutil.copytree(runs, chosen / "runs")
    (chosen / "choose.json").write_text(json.dumps({"chosen": {"run": "best/runs/second"}}))
    assert find_run(chosen / "model.tflite") == chosen / "runs" / "second"
    (chosen / "choose.json").write_text(json.dumps({"chosen": None}))
    assert find_run(chosen / "model.tflite") is None


def test_a_widened_interval_is_of_the_level_that_all_hold_at_together() -> None:
    low, high = wilson_interval(90, 100)
    assert widen(Interval(0.9, low, high), 1, 100) == (0.9, low, high)
    wide = widen(Interval(0.9, low, high), 5, 100)
    z = 2.5758293035489004  # the 99.5 % quantile, as printed tables have it
    centre, half = 0.9 + z**2 / 200, z * math.sqrt(0.9 * 0.1 / 100 + z**2 / 40000)
    assert wide[1:] == pytest.approx([(centre - half) / (1 + z**2 / 100), (centre + half) / (1 + z**2 / 100)])
    stretched = widen(Interval(0.5, 0.4, 0.58), 5, 100)
    ratio = z / 1.959963984540054
    assert stretched[1:] == pytest.approx([0.5 - ratio * 0.1, 0.5 + ratio * 0.08])
    assert widen(Interval(0.9, 0.5, 0.99), 1000, 100)[2] == 1
    assert widen(Interval(None, None, None), 3, 0) == (None, None, None)


def test_of_the_best_of_many_the_widened_interval_holds_and_the_usual_one_does_not() -> None:
    luck, models, images, truth = np.random.default_rng(0), 20, 500, 0.9
    best = luck.binomial(images, truth, (2000, models)).max(1)

    def held(level: float) -> float:
        ends = {int(right): wilson_interval(int(right), images, level=level) for right in np.unique(best)}
        return float(np.mean([ends[int(right)][0] <= truth <= ends[int(right)][1] for right in best]))

    assert held(0.95) < 0.75
    assert held(1 - 0.05 / models) >= 0.95


def test_counting_beside_a_run_without_others(tmp_path: Path) -> None:
    assert count_uses(tmp_path / "none", "0" * 64) == (0, 0)
