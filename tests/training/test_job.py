"""Whole trainings, small: what they leave behind, and what they say of poor data."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

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

sys.path.insert(0, str(Path(__file__).parent))

from small_runs import NETWORK, assert_equal, weights

sys.path.pop(0)

pytestmark = pytest.mark.usefixtures("unrendered_curves")

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


def test_how_long_the_rest_of_a_run_takes() -> None:
    recipe = Recipe(name="r", epochs=4, sizes=(32, 64))
    rest = loop.Rest(recipe, 10)
    assert rest.seconds(0, 0) == 0
    rest.measured(3)
    rest.stepped(0, 2.0)
    # 9 and 10 steps of 32 pixels at 2 seconds, 20 of 64 pixels at 8, and four validations.
    assert rest.seconds(0, 1) == pytest.approx(19 * 2 + 20 * 8 + 4 * 3)
    assert rest.seconds(3, 10) == pytest.approx(3)


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


def test_what_beats_the_head_says_nothing_of_it(data: Path, tmp_path: Path, quick: Recipe) -> None:
    said: list[str] = []
    recipe = dataclasses.replace(quick, head_epochs=0, lr=1e-3, backbone_lr=0.1, epochs=6, give_up=0.5)
    report = train(data, tmp_path / "run", model=NETWORK, recipe=recipe, threads=1, say=said.append)
    assert report.figures["best_epoch"] > 0
    assert not any("beaten" in line for line in said)


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
