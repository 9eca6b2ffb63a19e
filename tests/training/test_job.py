"""Whole trainings, small: what they leave behind, how they are taken up again, and what they say of poor data."""

from __future__ import annotations

import dataclasses
import json
import math
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
from PIL import Image

import fusiform
from fusiform.data.dataset import DataSet
from fusiform.data.open import open_dataset
from fusiform.errors import FusiformError, OutputError, UsageError
from fusiform.evaluation.classification import answers
from fusiform.evaluation.uses import read_uses
from fusiform.progress import silent
from fusiform.training import classification, loop
from fusiform.training.classification_job import ClassificationJob, read_list
from fusiform.training.curves import draw_curves, read_metrics
from fusiform.training.distributed import World, join
from fusiform.training.job import find_rate, train
from fusiform.training.recipe import Recipe, override
from fusiform.training.recipes import finetune_small
from fusiform.zoo.checkpoint import read_safetensors

pytestmark = pytest.mark.usefixtures("unrendered_curves")

NETWORK = "mobilenet_v2_x0_35"
FILES = {
    "best.safetensors",
    "last.safetensors",
    "state.pt",
    "run.json",
    "recipe.json",
    "data.csv",
    "data.sha256",
    "environment.json",
    "metrics.jsonl",
    "train.log",
    "report.json",
    "curves.png",
}


def weights(run: Path, name: str = "last.safetensors") -> dict[str, np.ndarray]:
    return read_safetensors(run / name)[1]


def assert_equal(first: Path, second: Path, name: str = "last.safetensors", tolerance: float = 0.0) -> None:
    a, b = weights(first, name), weights(second, name)
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(a[key], b[key], rtol=tolerance, atol=tolerance, err_msg=key)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_pictures: Callable[..., None]) -> Path:
    """Pictures for all tests: a test that changes them makes a copy."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    make_pictures(folder, {"red": 12, "green": 12, "blue": 12})
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory, quick: Recipe) -> Path:
    """A run of the quick recipe, to look at; a test that goes on with it makes a copy."""
    run = tmp_path_factory.mktemp("trained") / "run"
    train(data, run, model=NETWORK, recipe=quick, threads=1)
    return run


def test_a_run_leaves_a_model_that_learned_and_everything_about_it(data: Path, tmp_path: Path, quick: Recipe) -> None:
    said: list[str] = []
    out = tmp_path / "run"
    report = train(data, out, model=NETWORK, recipe=dataclasses.replace(quick, epochs=4, ema=0.0), say=said.append)
    names = {path.name for path in out.iterdir()}
    assert names >= FILES
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not any(name.endswith(".part") for name in names)

    spec, _ = read_safetensors(out / "best.safetensors")
    assert spec is not None
    assert spec.labels == ("blue", "green", "red")
    assert (spec.architecture, spec.width, spec.input_size) == ("mobilenet_v2", 0.35, 48)
    assert spec.preprocess.crop == 48
    assert report.figures["top1"] == pytest.approx(spec.accuracy[0].top1)

    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [0, 1, 2, 3, 4]
    assert all(record["val_images"] == 9 for record in records)
    assert report.figures["images"] == 9
    assert report.figures["top1"] > 0.8  # type: ignore[operator]  # colours are easy; guessing gives a third
    assert report.figures["top5"] is None  # of three classes, five answers are all
    assert Recipe.from_json((out / "recipe.json").read_text()).epochs == 4
    assert "epoch 4/4" in (out / "train.log").read_text()
    assert len((out / "data.csv").read_text().splitlines()) == 37
    draw_curves(read_metrics(out / "metrics.jsonl"), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 300

    answers = fusiform.predict(data / "red", model=out / "best.safetensors", top=1, threads=1)
    assert np.mean([answer.top[0].name == "red" for answer in answers]) > 0.7


def test_the_test_pictures_are_noted_as_used(data: Path, trained: Path, tmp_path: Path, quick: Recipe) -> None:
    """Once by the training itself, and then by whoever evaluates, on the same pictures wherever they lie."""
    shutil.copytree(trained, tmp_path / "runs" / "one")
    best = tmp_path / "runs" / "one" / "best.safetensors"
    whole = open_dataset(data)
    assert isinstance(whole, DataSet)
    dataset = dataclasses.replace(whole, splits={"test": whole.splits["all"][::4]})
    with join("cpu") as world:
        found = ClassificationJob(world, None, quick, 1, 5.0, silent).figures(best, dataset)
    (line,) = read_uses(best.parent)
    assert (line["file"], line["split"], line["figures"]["top1"]) == ("best.safetensors", "test", found["top1"])
    used = fusiform.evaluate(best.parent, dataset).test_use
    assert used is not None
    assert (used.times, used.runs) == (2, 1)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(
    data: Path, trained: Path, tmp_path: Path, quick: Recipe
) -> None:
    for seed in (0, 1):
        recipe = dataclasses.replace(quick, seed=seed)
        train(data, tmp_path / str(seed), model=NETWORK, recipe=recipe, threads=1)
    assert quick.seed == 0
    assert_equal(trained, tmp_path / "0")
    with pytest.raises(AssertionError):
        assert_equal(trained, tmp_path / "1")


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


def test_how_long_the_rest_of_a_run_takes() -> None:
    recipe = Recipe(name="r", epochs=4, sizes=(32, 64))
    rest = loop.Rest(recipe, 10)
    assert rest.seconds(0, 0) == 0
    rest.measured(3)
    rest.stepped(0, 2.0)
    # 9 and 10 steps of 32 pixels at 2 seconds, 20 of 64 pixels at 8, and four validations.
    assert rest.seconds(0, 1) == pytest.approx(19 * 2 + 20 * 8 + 4 * 3)
    assert rest.seconds(3, 10) == pytest.approx(3)


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


def test_no_pass_shows_a_picture_as_another_did(
    quick: Recipe, tmp_path: Path, make_pictures: Callable[..., None]
) -> None:
    """Two passes in an epoch are what two epochs are, so that old runs and new ones see the same."""
    from fusiform.training.loader import ClassExamples, Pictures, load

    make_pictures(tmp_path / "data", {"red": 8, "blue": 8})
    samples = open_dataset(tmp_path / "data", task="classification").splits["all"]
    world = World(0, 1, torch.device("cpu"))

    def shown(epochs: int, repeats: int) -> list[torch.Tensor]:
        recipe = dataclasses.replace(quick, epochs=epochs, repeats=repeats)
        examples = ClassExamples(recipe, shorter_side=48)
        loaded = load(samples, examples, cache="memory", threads=1, progress=silent)
        return [batch.pictures for batch in Pictures(loaded, examples, recipe, world).batches(0, 0)]

    once, twice = shown(4, 1), shown(2, 2)
    assert len(once) == len(twice) == 8
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
    assert not any(torch.equal(once[0], other) for other in once[1:])


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


def test_the_first_epoch_keeps_what_the_head_has_learnt(tmp_path: Path) -> None:
    """Eight steps of the default recipe on noisy textures, of which the head gets three in four right."""
    make_textures(tmp_path / "data", each=64)
    changes = ["epochs=1", "schedule=constant", "size=96", "eval_size=96", "batch=16", "val_fraction=0.5"]
    ends = {}
    for centred in (True, False):
        recipe = override(finetune_small, [*changes, f"centre_steps={centred}"])
        train(tmp_path / "data", tmp_path / str(centred), model="mobilenet_v2", recipe=recipe, threads=1)
        head, ends[centred] = read_metrics(tmp_path / str(centred) / "metrics.jsonl")
    assert 0.6 < head["val_top1"] < 0.9
    assert ends[True]["val_top1"] > head["val_top1"] - 0.05
    assert ends[False]["val_top1"] < head["val_top1"] - 0.1  # what AdamW does otherwise


def make_textures(folder: Path, *, each: int) -> None:
    """Rings, stripes, checks and dots in noise, 48 pixels."""
    chance = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48]
    for kind in ("rings", "stripes", "checks", "dots"):
        (folder / kind).mkdir(parents=True)
        for number in range(each):
            rate, (p, q), angle = chance.uniform(0.3, 0.9), chance.uniform(0, 6, 2), chance.uniform(0, 3.14)
            u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
            dots = np.sin(rate * u + p) * np.sin(rate * v + q)
            rings = np.sin(rate * np.hypot(x - 24 - p, y - 24 - q))
            pattern = {"rings": rings, "stripes": np.sin(rate * u + p), "checks": np.sign(dots), "dots": dots}[kind]
            pixels = 128 + chance.uniform(20, 60) * pattern[..., None] * chance.uniform(0.3, 1, 3)
            pixels += chance.normal(0, 30, pixels.shape)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / kind / f"{number}.png")


def test_training_that_brings_nothing_stops_and_says_so(data: Path, tmp_path: Path, quick: Recipe) -> None:
    said: list[str] = []
    ruinous = dataclasses.replace(quick, lr=0.5, ema=0.0, epochs=6, give_up=0.5)
    report = train(data, tmp_path / "run", model=NETWORK, recipe=ruinous, threads=1, say=said.append)
    assert (report.figures["best_epoch"], report.figures["epochs"]) == (0, 3)
    assert "stopped after 3 of 6 epochs: none was better than the start" in said
    assert any(line.startswith("fine-tuning has not beaten the head: best.safetensors has the head") for line in said)
    assert any("--set lr=0.2" in line for line in said)
    # What is kept is no worse than the head that it started from: it is that.
    train(data, tmp_path / "head", model=NETWORK, recipe=dataclasses.replace(quick, epochs=0), threads=1)
    assert_equal(tmp_path / "run", tmp_path / "head", "best.safetensors")
    said.clear()
    more = dataclasses.replace(quick, lr=0.5, ema=0.0, epochs=1, head_epochs=0)
    train(
        data, tmp_path / "more", model=tmp_path / "head" / "best.safetensors", recipe=more, threads=1, say=said.append
    )
    assert any(line.startswith("training has not beaten the model that it started from") for line in said)


def test_the_validation_loss_is_smoothed_as_training_s_is(data: Path, tmp_path: Path, quick: Recipe) -> None:
    """Fine-tuning makes answers less sure: without it the head, which is surer, would seem the better one."""
    recipe = dataclasses.replace(quick, epochs=1, label_smoothing=0.3)
    train(data, tmp_path / "run", model=NETWORK, recipe=recipe, threads=1)
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    held_out = read_list(tmp_path / "run").splits["val"]
    logits = torch.from_numpy(answers(tmp_path / "run" / "last.safetensors", held_out, threads=1).values)
    labels = torch.tensor([sample.label for sample in held_out])
    loss = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.3)
    assert last["val_loss"] == pytest.approx(loss.item(), rel=1e-4)
    plain = torch.nn.functional.cross_entropy(logits, labels)
    assert last["val_loss"] != pytest.approx(plain.item(), rel=1e-2)


def test_chance_is_the_standard_error_of_what_each_image_gains() -> None:
    gains = torch.tensor([0.2, 0.1, 0.3, math.nan, 0.2])
    assert loop.is_beyond_chance(gains)
    assert not loop.is_beyond_chance(-gains)
    # A mean of 0.1 with a standard error of 0.1: of one image in four.
    assert not loop.is_beyond_chance(torch.tensor([0.4, 0.0, 0.0, 0.0]))
    assert loop.is_beyond_chance(torch.tensor([0.4, 0.0, 0.0, 0.0] * 4))
    assert not loop.is_beyond_chance(torch.tensor([1.0]))


@pytest.mark.parametrize(("gains", "best"), [((0.5, 0.0, 0.0), 0), ((0.5, 0.4, 0.5), 1)])
def test_the_head_is_kept_until_it_is_beaten_beyond_chance(
    gains: tuple[float, ...], best: int, data: Path, tmp_path: Path, quick: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([np.ones(3), np.ones(3) - gains])
    monkeypatch.setattr(classification, "look", lambda *_, **__: (next(losses), np.ones(3, bool)))
    recipe = dataclasses.replace(quick, epochs=1, metric="loss")
    report = train(data, tmp_path / "run", model=NETWORK, recipe=recipe, threads=1)
    assert report.figures["best_epoch"] == best


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


def test_what_beats_the_head_says_nothing_of_it(data: Path, tmp_path: Path, quick: Recipe) -> None:
    said: list[str] = []
    recipe = dataclasses.replace(quick, head_epochs=0, lr=1e-3, backbone_lr=0.1, epochs=6, give_up=0.5)
    report = train(data, tmp_path / "run", model=NETWORK, recipe=recipe, threads=1, say=said.append)
    assert report.figures["best_epoch"] > 0
    assert not any("beaten" in line for line in said)


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


def test_another_worker_count_changes_nothing(data: Path, tmp_path: Path, quick: Recipe) -> None:
    for workers, cache in ((0, "memory"), (2, "none")):
        recipe = dataclasses.replace(quick, workers=workers, cache=cache)
        train(data, tmp_path / str(workers), model=NETWORK, recipe=recipe, threads=1)
    assert_equal(tmp_path / "0", tmp_path / "2")


def test_accumulated_gradients_are_those_of_the_whole_batch(data: Path, tmp_path: Path, quick: Recipe) -> None:
    # Without the moving average and with SGD, whose steps are as large as the gradients.
    recipe = dataclasses.replace(quick, optimizer="sgd", lr=1e-3, ema=0.0, dropout=0.0, precision="float32")
    train(data, tmp_path / "whole", model=NETWORK, recipe=recipe, threads=1)
    train(data, tmp_path / "parts", model=NETWORK, recipe=dataclasses.replace(recipe, accumulate=4), threads=1)
    assert_equal(tmp_path / "whole", tmp_path / "parts", tolerance=2e-4)


def test_frozen_stages_keep_their_weights(data: Path, tmp_path: Path, quick: Recipe) -> None:
    train(data, tmp_path / "head", model=NETWORK, recipe=dataclasses.replace(quick, epochs=0), threads=1)
    train(data, tmp_path / "half", model=NETWORK, recipe=dataclasses.replace(quick, freeze=0.5), threads=1)
    start, end = weights(tmp_path / "head"), weights(tmp_path / "half")
    same = {key.split(".")[1] for key in start if key.startswith("features") and np.array_equal(start[key], end[key])}
    assert {"0", "4", "8"} <= same
    assert not np.array_equal(start["features.17.conv.1.0.weight"], end["features.17.conv.1.0.weight"])


def test_batch_statistics_can_be_learned_from_weights_that_have_none(data: Path, tmp_path: Path, quick: Recipe) -> None:
    said: list[str] = []
    recipe = dataclasses.replace(quick, batch_norm="train")
    train(data, tmp_path / "run", model=NETWORK, recipe=recipe, threads=1, say=said.append)
    assert any("statistics estimated" in line for line in said)
    assert np.abs(weights(tmp_path / "run")["features.3.conv.0.1.running_mean"]).max() > 0


def test_a_teacher_of_the_same_classes_and_one_of_others(
    data: Path, trained: Path, tmp_path: Path, quick: Recipe
) -> None:
    recipe = dataclasses.replace(quick, distill=0.9, epochs=1)
    for name, teacher in (("same", trained / "best.safetensors"), ("others", "shufflenet_v2_x1_0")):
        report = train(data, tmp_path / name, model=NETWORK, recipe=recipe, teacher=teacher, threads=1)
        assert report.figures["epochs"] == 1
        spec, state = read_safetensors(tmp_path / name / "best.safetensors")
        assert spec is not None
        assert state["classifier.1.weight"].shape == (3, 1280)  # the second head is not in the file
    with pytest.raises(UsageError, match="--teacher"):
        train(data, tmp_path / "none", model=NETWORK, recipe=recipe)
    assert not (tmp_path / "none").exists()


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


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"a": 1, "b": 1, "c": 1}, "sensible"),
        ({"a": 2, "b": 1}, "sensible"),
        ({"only": 5}, "two or more"),
        ({"바다": 4, "old town": 4, "empty": 0}, "sensible"),
    ],
)
def test_poor_data_gives_a_model_or_a_clear_error(
    tmp_path: Path, make_pictures: Callable[..., None], quick: Recipe, counts: dict[str, int], expected: str
) -> None:
    make_pictures(tmp_path / "data", counts)
    if expected == "sensible":
        train(tmp_path / "data", tmp_path / "run", model=NETWORK, recipe=quick, threads=1)
        spec, _ = read_safetensors(tmp_path / "run" / "best.safetensors")
        assert spec is not None
        assert set(spec.labels) == {name for name, count in counts.items() if count}
    else:
        with pytest.raises(UsageError, match=expected):
            train(tmp_path / "data", tmp_path / "run", model=NETWORK, recipe=quick, threads=1)
        assert not (tmp_path / "run").exists()


def test_pictures_that_cannot_be_read_are_left_out_and_named(data: Path, tmp_path: Path, quick: Recipe) -> None:
    data = shutil.copytree(data, tmp_path / "scenes")
    (data / "red" / "bad.jpg").write_bytes(b"\xff\xd8\xff cut short")
    for cache in ("memory", "none"):
        said: list[str] = []
        recipe = dataclasses.replace(quick, cache=cache, val_fraction=0.0)
        train(data, tmp_path / cache, model=NETWORK, recipe=recipe, threads=1, say=said.append)
        assert cache == "none" or any("left out" in line and "bad.jpg" in line for line in said)


def test_wrong_requests_say_what_to_do(data: Path, tmp_path: Path, quick: Recipe) -> None:
    train(data, tmp_path / "run", model=NETWORK, recipe=dataclasses.replace(quick, epochs=0), threads=1)
    with pytest.raises(UsageError, match="--resume"):
        train(data, tmp_path / "run", model=NETWORK, recipe=quick)
    with pytest.raises(UsageError, match="no run"):
        train(None, tmp_path / "nowhere", resume=True)
    with pytest.raises(UsageError, match="no weights"):
        train(data, tmp_path / "other", model="shufflenet_v2_x9_9", recipe=quick)
    with pytest.raises(FusiformError, match="nothing_like_it"):
        train(data, tmp_path / "other", model="nothing_like_it", recipe=quick)
    with pytest.raises(UsageError, match="device"):
        train(data, tmp_path / "other", model=NETWORK, recipe=quick, device="cuda:99")
    assert not (tmp_path / "other").exists()
    with pytest.raises(UsageError, match="within the data"):
        train(data, data / "run", model=NETWORK, recipe=quick)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        train(data, tmp_path / "file" / "run", model=NETWORK, recipe=quick)


def test_a_model_of_the_same_classes_keeps_its_head(data: Path, tmp_path: Path, quick: Recipe) -> None:
    once = dataclasses.replace(quick, epochs=0)
    train(data, tmp_path / "first", model=NETWORK, recipe=once, threads=1)
    again = dataclasses.replace(quick, epochs=0, head_epochs=0)
    train(data, tmp_path / "second", model=tmp_path / "first" / "best.safetensors", recipe=again, threads=1)
    assert_equal(tmp_path / "first", tmp_path / "second")


def test_the_learning_rate_finder_suggests_a_rate_and_draws_it(data: Path, tmp_path: Path, quick: Recipe) -> None:
    recipe = dataclasses.replace(quick, epochs=20, head_epochs=0)
    report = find_rate(data, tmp_path / "look", model=NETWORK, recipe=recipe, threads=1)
    rate = report.figures["lr"]
    assert isinstance(rate, float)
    assert 1e-6 <= rate < 1
    with Image.open(tmp_path / "look" / "lr_finder.png") as picture:
        assert picture.width > 300
    assert [path.name for path in (tmp_path / "look").iterdir()] == ["lr_finder.png"]
