"""Trainings that are stopped, interrupted or damaged: how they are taken up again, and end as if they had not been."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusiform.errors import FusiformError, OutputError, UsageError
from fusiform.training import loop
from fusiform.training.curves import read_metrics
from fusiform.training.job import train
from fusiform.training.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parent))

from small_runs import NETWORK, assert_equal, weights

sys.path.pop(0)

pytestmark = pytest.mark.usefixtures("unrendered_curves")


class Stop(Exception):
    """What stands in for a process's end."""


@contextmanager
def stopped_at(step: int) -> Iterator[None]:
    """A training within ``with`` ends, as if it were killed, in place of this step (0, 1, ...)."""
    taken = 0
    one_step = loop._Fit._step

    def stop(self: Any, batches: Any) -> None:
        nonlocal taken
        if taken == step:
            raise Stop
        taken += 1
        one_step(self, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Fit, "_step", stop)
        yield


@pytest.fixture(scope="module")
def by_chance(data: Path, tmp_path_factory: pytest.TempPathFactory, quick: Recipe) -> tuple[Recipe, Path]:
    """A recipe with chance in all its places, and its run from beginning to end."""
    recipe = dataclasses.replace(quick, dropout=0.3, mixup=0.2)
    run = tmp_path_factory.mktemp("by_chance") / "whole"
    train(data, run, model=NETWORK, recipe=recipe, threads=1)
    return recipe, run


@pytest.mark.parametrize("step", [0, 1, 3, 4, 5])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    data: Path, tmp_path: Path, by_chance: tuple[Recipe, Path], step: int
) -> None:
    recipe, whole = by_chance
    with stopped_at(step), pytest.raises(Stop):
        train(data, tmp_path / "run", model=NETWORK, recipe=recipe, threads=1, save_minutes=0)
    said: list[str] = []
    train(None, tmp_path / "run", resume=True, threads=1, say=said.append)
    place = ("before the first step", "in epoch 1, after step 1 of 3", "", "after epoch 1")[step] if step < 4 else None
    assert f"going on: {place or f'in epoch 2, after step {step - 3} of 3'}" in said
    assert_equal(whole, tmp_path / "run")
    assert_equal(whole, tmp_path / "run", "best.safetensors")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [0, 1, 2]


def break_off(monkeypatch: pytest.MonkeyPatch, place: str, step: int, times: int = 1) -> None:
    """Send Ctrl-C ``times`` from within a step (1, 2, ...), or from the first validation after it."""
    signals = 0
    taken = 0
    one_step, measure = loop._Fit._step, loop._Fit._measure

    def send() -> None:
        nonlocal signals
        while signals < times:
            signals += 1
            signal.raise_signal(signal.SIGINT)

    def in_step(self: Any, batches: Any) -> None:
        nonlocal taken
        taken += 1
        if place == "step" and taken == step:
            send()
        one_step(self, batches)

    def in_validation(self: Any) -> dict[str, float]:
        if place == "validation" and taken >= step:
            send()
        return measure(self)

    monkeypatch.setattr(loop._Fit, "_step", in_step)
    monkeypatch.setattr(loop._Fit, "_measure", in_validation)


@pytest.mark.parametrize(
    ("place", "step", "kept"),
    [
        ("validation", 0, "no step of the training was saved; begin it again"),
        ("step", 1, "saved in epoch 1, after step 1 of 3; go on"),
        ("step", 3, "saved after epoch 1, before its validation; go on"),
        ("validation", 3, "saved after epoch 1, before its validation; go on"),
        ("step", 5, "saved in epoch 2, after step 2 of 3; go on"),
        ("validation", 6, "saved after epoch 2, before its validation; go on"),
    ],
)
def test_ctrl_c_saves_the_step_under_way_and_nothing_is_repeated(
    data: Path,
    tmp_path: Path,
    by_chance: tuple[Recipe, Path],
    place: str,
    step: int,
    kept: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, whole = by_chance
    run = tmp_path / "the run"
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        break_off(patch, place, step)
        with pytest.raises(KeyboardInterrupt) as raised:
            train(data, run, model=NETWORK, recipe=recipe, threads=1)
    assert signal.getsignal(signal.SIGINT) is handler
    (text,) = raised.value.args
    assert text == f"{kept} with: fusiform train --resume --out '{run}'"
    taken: list[int] = []
    one_step = loop._Fit._step
    with monkeypatch.context() as patch:
        patch.setattr(loop._Fit, "_step", lambda self, batches: taken.append(self.step) or one_step(self, batches))
        train(None, run, resume=True, threads=1)
    assert len(taken) == 6 - step
    for name in ("last.safetensors", "best.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    records = read_metrics(run / "metrics.jsonl")
    assert [record["epoch"] for record in records] == [0, 1, 2]


def test_a_second_ctrl_c_ends_at_once_and_leaves_what_was_saved(
    data: Path, tmp_path: Path, by_chance: tuple[Recipe, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, whole = by_chance
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        break_off(patch, "step", 2, times=2)
        with pytest.raises(KeyboardInterrupt) as raised:
            train(data, run, model=NETWORK, recipe=recipe, threads=1)
    (text,) = raised.value.args
    assert text.startswith("saved before the first step, and what came later is done again; go on with: fusiform train")
    train(None, run, resume=True, threads=1)
    assert (run / "last.safetensors").read_bytes() == (whole / "last.safetensors").read_bytes()


def test_what_an_interruption_before_the_run_left(data: Path, tmp_path: Path, quick: Recipe, monkeypatch: Any) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fusiform.training.classification_job.open_dataset", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"^nothing was written$"):
        train(data, tmp_path / "run", model=NETWORK, recipe=quick, threads=1)
    assert not (tmp_path / "run").exists()


def test_the_log_has_the_progress_and_a_run_goes_on_as_it_was_begun(
    data: Path, tmp_path: Path, quick: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusiform.progress.GAP_SECONDS", 0.0)
    run = tmp_path / "run"
    train(data, run, model=NETWORK, recipe=quick, threads=1)
    log = (run / "train.log").read_text()
    for line in (
        r"decode: 100 % 27/27 images, ",
        r"features: 100 % 27/27 images, ",
        r"head: 100 % 30/30 epochs, ",
        r"validate: 100 % 9/9 images, ",
        r"epoch 1/2:  33 % 8/24 images, \S+ images/s, \d:\d\d left, loss \d\.\d{3}, \d:\d\d left of the run\n",
        r"epoch 2/2: 100 % 24/24 images, \S+ images/s, \d:\d\d in all, loss \d\.\d{3}, ",
    ):
        assert re.search(line, log), line
    settings = json.loads((run / "run.json").read_text())
    assert (settings["device"], settings["threads"]) == ("cpu", 1)
    asked: list[str] = []

    def join(device: str) -> Any:
        asked.append(device)
        raise Stop

    monkeypatch.setattr("fusiform.training.job.join", join)
    (run / "run.json").write_text(json.dumps(settings | {"device": "cuda"}))
    for device in ("auto", "cpu"):
        with pytest.raises(Stop):
            train(None, run, resume=True, device=device)
    assert asked == ["cuda", "cpu"]


def test_an_epoch_of_several_passes_is_taken_up_within(data: Path, tmp_path: Path, quick: Recipe) -> None:
    recipe = dataclasses.replace(quick, epochs=1, min_steps=26, batch=16)
    said: list[str] = []
    train(data, tmp_path / "whole", model=NETWORK, recipe=recipe, threads=1, say=said.append)
    # 27 pictures are one step of 16: 26 passes, 13 in each of... at most 12 epochs of 3, hence 9.
    assert any(line.startswith("fitted to the pictures: 9 epochs of 3 passes over the pictures") for line in said)
    records = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert [record["step"] for record in records] == [5 * epoch for epoch in range(10)]  # 3 x 27 // 16
    with stopped_at(13), pytest.raises(Stop):
        train(data, tmp_path / "run", model=NETWORK, recipe=recipe, threads=1, save_minutes=0)
    train(None, tmp_path / "run", resume=True, threads=1, say=said.append)
    assert "going on: in epoch 3, after step 3 of 5" in said
    assert_equal(tmp_path / "whole", tmp_path / "run")


def test_a_run_of_a_version_that_fitted_nothing_goes_on_as_it_was(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    path = tmp_path / "run" / "recipe.json"
    recipe = json.loads(path.read_text())
    for name in ("min_steps", "max_steps", "repeats", "fit_size", "centre_steps", "give_up"):
        del recipe[name]
    path.write_text(json.dumps(recipe))
    (tmp_path / "run" / "state.pt").unlink()
    train(None, tmp_path / "run", resume=True, threads=1)
    assert_equal(trained, tmp_path / "run")


def test_a_state_of_a_version_that_did_not_smooth_takes_the_next_epoch_for_the_best(
    data: Path, tmp_path: Path, quick: Recipe
) -> None:
    recipe = dataclasses.replace(quick, label_smoothing=0.1)

    def stop(line: str) -> None:
        if line.startswith("epoch 1/"):  # the state is that of the start
            raise Stop

    with pytest.raises(Stop):
        train(data, tmp_path / "run", model=NETWORK, recipe=recipe, threads=1, say=stop)
    path = tmp_path / "run" / "state.pt"
    state = torch.load(path, weights_only=True)
    state["best"]["val_loss"] = 0.0  # no loss is less
    torch.save(state, path)
    shutil.copytree(tmp_path / "run", tmp_path / "old")
    del state["start_losses"]
    torch.save(state, tmp_path / "old" / "state.pt")
    same, changed = (
        train(None, tmp_path / run, resume=True, threads=1).figures["best_epoch"] for run in ("run", "old")
    )
    assert same == 0
    assert changed in (1, 2)


def test_a_run_can_be_taken_up_before_it_saved_and_after_it_ended(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    before = weights(tmp_path / "run")
    train(None, tmp_path / "run", resume=True, threads=1)
    (tmp_path / "run" / "state.pt").unlink()
    train(None, tmp_path / "run", resume=True, threads=1)
    after = weights(tmp_path / "run")
    for key in before:
        np.testing.assert_array_equal(before[key], after[key])


def cut_state(run: Path) -> None:
    (run / "state.pt").write_bytes((run / "state.pt").read_bytes()[:300])


def change(name: str, **values: Any) -> Callable[[Path], None]:
    """A function that puts other values into the run's JSON file of this name."""

    def changed(run: Path) -> None:
        content = json.loads((run / name).read_text(encoding="utf-8"))
        (run / name).write_text(json.dumps({**content, **values}), encoding="utf-8")

    return changed


def put_state(value: Any) -> Callable[[Path], None]:
    return lambda run: torch.save(value, run / "state.pt")


def change_state(**values: Any) -> Callable[[Path], None]:
    def changed(run: Path) -> None:
        torch.save({**torch.load(run / "state.pt", weights_only=True), **values}, run / "state.pt")

    return changed


class Payload:
    def __reduce__(self) -> Any:
        return print, ("run",)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_state, r"state\.pt: cannot be read .*remove it to train from the start"),
        (put_state({"step": 1}), r"state\.pt: is no state of this run"),
        (put_state([1, 2]), r"state\.pt: is no state of this run"),
        (put_state(torch.zeros(3)), r"state\.pt: is no state of this run"),
        (put_state(Payload()), r"state\.pt: cannot be read \(it is damaged, or holds more than numbers\)"),
        (change_state(learner={"a": torch.zeros(3)}), r"state\.pt: is no state of this run"),
        (change_state(optimizer=3), r"state\.pt: is no state of this run"),
        (change_state(best=None), r"state\.pt: is no state of this run"),
        (change_state(steps=77), "the run had 77 steps an epoch"),
        (
            change("run.json", classes=None),
            r"run\.json: is not what fusiform train writes \(classes\): start a new run",
        ),
        (change("run.json", classes=[1]), r"run\.json: is not what fusiform train writes \(classes\)"),
        (change("run.json", teacher=[], data=2), r"run\.json: is not what fusiform train writes \(data, teacher\)"),
        (lambda run: (run / "run.json").write_text("[]"), r"run\.json: is not what fusiform train writes"),
        (lambda run: (run / "data.csv").write_text("a,b\n1,2\n"), r"data\.csv: is not what fusiform train writes"),
        (lambda run: (run / "data.csv").write_text(""), r"data\.csv: is not the list that the run began with"),
        (lambda run: (run / "recipe.json").write_text("{}x"), r"recipe\.json"),
    ],
)
def test_a_folder_of_wrong_contents_is_told(
    trained: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    damage(run)
    with pytest.raises(FusiformError, match=message):
        train(None, run, resume=True, threads=1)


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no locks there")
def test_two_trainings_never_write_into_one_folder(trained: Path, data: Path, tmp_path: Path, quick: Recipe) -> None:
    """A child that is killed leaves no lock, and what it left of files is removed."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    code = (
        "import pathlib, sys, time; from fusiform.training.run_folder import RunFolder;"
        "folder = RunFolder(pathlib.Path(sys.argv[1]), print); folder.lock();"
        "print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(UsageError, match="run: another training is writing there: wait for its end, or choose"):
            train(None, run, resume=True, threads=1)
        (run / "run.json").rename(run / "kept.json")  # as before the other has written anything
        with pytest.raises(UsageError, match="another training is writing there"):
            train(data, run, recipe=quick, threads=1)
        (run / "kept.json").rename(run / "run.json")
        other.kill()
    (run / "state.pt.1-ab.part").write_bytes(b"half")
    train(None, run, resume=True, threads=1)
    assert not list(run.glob("*.part"))
    assert_equal(run, trained)


def test_a_full_disk_leaves_the_last_checkpoint(
    data: Path, trained: Path, tmp_path: Path, quick: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fusiform.training import run_folder

    real, written = run_folder.write_file, 0

    def full(path: Any, content: bytes) -> None:
        nonlocal written
        written += Path(path).name == "state.pt"
        if written > 2:
            raise OutputError(f"cannot write {path} (No space left on device): choose another place")
        real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "write_file", full)
        with pytest.raises(OutputError, match="No space"):
            train(data, tmp_path / "run", model=NETWORK, recipe=quick, threads=1)
    train(None, tmp_path / "run", resume=True, threads=1)
    assert_equal(trained, tmp_path / "run")
