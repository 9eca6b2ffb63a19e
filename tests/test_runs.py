"""A training from Python: what comes back, and what to do with it next."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

import fusiform
from fusiform import runs
from fusiform.errors import MissingExtraError, UsageError
from fusiform.training.recipe import Recipe

RECIPE = Recipe(name="quick", epochs=1, head_epochs=2, batch=8, size=48, eval_size=48, lr=1e-4, val_fraction=0.25)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, fusiform.Run]:
    """A dataset and a run on it."""
    folder = tmp_path_factory.mktemp("runs")
    random = np.random.default_rng(0)
    for name, color in (("red", (200, 40, 40)), ("blue", (50, 70, 210))):
        (folder / "data" / name).mkdir(parents=True)
        for k in range(12):
            noise = random.normal(0, 40, (5, 5, 3)).repeat(8, 0).repeat(8, 1)
            Image.fromarray(np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)).save(
                folder / "data" / name / f"{k}.png"
            )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fusiform.training.allocator.keep_freed_memory", lambda: False)
        run = fusiform.train(
            folder / "data", folder / "run", model="mobilenet_v2_x0_35", recipe=RECIPE, settings={"seed": 3}, threads=1
        )
    return folder, run


def test_a_run_has_what_came_of_it(made: tuple[Path, fusiform.Run]) -> None:
    folder, run = made
    assert run.model.spec.labels == ("blue", "red")
    assert run.model.path == folder / "run" / "best.safetensors"
    assert 0 <= float(str(run.metrics["top1"])) <= 1
    assert [epoch["epoch"] for epoch in run.epochs][-1] == 1
    assert json.loads((folder / "run" / "recipe.json").read_text(encoding="utf-8"))["seed"] == 3
    assert repr(run).startswith(f"<Run {folder / 'run'}: mobilenet_v2_x0_35, top1 ")
    assert run.to_dict()["figures"] == run.metrics
    assert json.loads(run.to_json()) == run.to_dict()
    png = run._repr_png_()
    assert png is not None
    assert png[:4] == b"\x89PNG"


def test_a_run_is_opened_again(made: tuple[Path, fusiform.Run]) -> None:
    folder, run = made
    again = fusiform.Run(folder / "run")
    assert again.metrics == run.metrics
    assert repr(again) == repr(run)
    with pytest.raises(UsageError, match=r"data: holds no finished training: train into it, or go on with --resume"):
        fusiform.Run(folder / "data")


def test_a_run_of_the_first_version_is_read(made: tuple[Path, fusiform.Run], tmp_path: Path) -> None:
    _, run = made
    old = tmp_path / "old"
    shutil.copytree(run.folder, old)
    names = {"train_images": "training pictures", "best_epoch": "best epoch", "images": "pictures"}
    figures = {names.get(name, name): value for name, value in run.metrics.items() if name != "task"}
    (old / "report.json").write_text(json.dumps({"title": "training", "figures": figures, "rows": []}))
    names = {"val_images": "val_pictures", "waited": "waited_for_pictures"}
    lines = [json.dumps({names.get(name, name): value for name, value in epoch.items()}) for epoch in run.epochs]
    (old / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    settings = json.loads((old / "run.json").read_text(encoding="utf-8"))
    del settings["schema"]
    (old / "run.json").write_text(json.dumps(settings))
    again = fusiform.Run(old)
    assert again.metrics == {name: value for name, value in run.metrics.items() if name != "task"}
    assert again.epochs == run.epochs
    assert run.epochs[-1]["val_images"] == 6
    resumed = fusiform.train(None, old, resume=True, threads=1)
    assert resumed.metrics["best_epoch"] == run.metrics["best_epoch"]
    assert resumed.report.schema == "fusiform.training/1"


def test_a_run_stands_for_its_model(made: tuple[Path, fusiform.Run]) -> None:
    folder, run = made
    picture = folder / "data" / "red" / "0.png"
    assert fusiform.open_model(run).path == run.model.path
    assert run.predict(picture, top=1) == fusiform.predict(picture, run, top=1)
    evaluation = run.evaluate(threads=1)
    assert (
        evaluation.to_dict()["figures"]["top1"] == fusiform.evaluate(run, folder / "data").to_dict()["figures"]["top1"]
    )
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    assert list(run.evaluate(threads=1).to_pandas()["class"]) == ["blue", "red"]
    assert len(fusiform.diagnose(folder / "data").to_pandas()) == len(fusiform.diagnose(folder / "data").report().rows)
    assert run.to_pandas().shape[0] == 1
    report = run.export("litert")
    file = Path(str(report.rows[0]["file"]))
    assert file.parent == folder / "run" / "export"
    parity = fusiform.verify(file, run, data=folder / "data")
    assert parity.passed
    assert parity.to_arrow().num_rows == len(parity.report().rows)


def test_what_does_not_go_together_is_refused(made: tuple[Path, fusiform.Run], tmp_path: Path) -> None:
    folder, _ = made
    with pytest.raises(UsageError, match="there is no recipe 'fast'; there are finetune_small"):
        fusiform.train(folder / "data", tmp_path / "run", recipe="fast")
    with pytest.raises(UsageError, match="recipe has no field 'speed'"):
        fusiform.train(folder / "data", tmp_path / "run", settings={"speed": 3})
    with pytest.raises(UsageError, match="--recipe ssdlite_small is for detection, not for --task classification"):
        fusiform.train(folder / "data", tmp_path / "run", recipe="ssdlite_small", task="classification")
    assert list(tmp_path.iterdir()) == []


def test_settings_are_written_as_python_writes_them() -> None:
    from fusiform.training.recipe import override
    from fusiform.training.recipes import choose_recipe

    settings = {"lr": 0.001, "flip": False, "sizes": (32, 64), "epochs": 4, "dropout": None}
    changed = override(RECIPE, settings)
    assert (changed.lr, changed.flip, changed.sizes, changed.epochs, changed.dropout) == (
        0.001,
        False,
        (32, 64),
        4,
        None,
    )
    assert changed == override(RECIPE, ["lr=0.001", "flip=false", "sizes=32,64", "epochs=4", "dropout=none"])
    assert choose_recipe(None, recipe=RECIPE, settings={"lr": 0.5}) == dataclasses.replace(RECIPE, lr=0.5)
    assert choose_recipe(None).name == "finetune_small"
    assert choose_recipe(None, teacher="m").distill == 0.5
    assert choose_recipe(None, teacher="m", settings={"distill": 0.2}).distill == 0.2


def test_without_the_extra_it_says_which_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "matplotlib" else object())
    with pytest.raises(MissingExtraError, match=r"training needs matplotlib.*fusiform\[train\]"):
        runs.need_training("training")
