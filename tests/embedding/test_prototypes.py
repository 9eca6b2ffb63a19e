"""Classifiers in closed form, and classes that are added to one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import fusiform
from fusiform.cli import commands
from fusiform.embedding.prototypes import (
    LOST,
    Spread,
    added_class,
    added_without,
    prototype_head,
)
from fusiform.errors import InputError, UsageError
from fusiform.zoo.checkpoint import read_safetensors, write_safetensors

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "noise": (128, 128, 128)}


def clouds(classes, count, size=40, seed=0, spread=1.0):
    """Features of ``count`` images a class around random means, with one covariance."""
    random = np.random.default_rng(seed)
    means = np.random.default_rng(9).uniform(0, 4, (8, size))[:classes]
    labels = np.repeat(np.arange(classes), count)
    mix = np.random.default_rng(8).normal(0, spread / np.sqrt(size), (size, size))
    return (means[labels] + random.normal(size=(len(labels), size)) @ mix).astype(np.float32), labels.astype(np.int64)


def test_the_discriminant_is_scikit_learns_definition():
    features, labels = clouds(3, 60)
    spread = Spread(features, labels, 3)
    means = np.stack([features[labels == k].mean(0, dtype=np.float64) for k in range(3)])
    rest = features - means[labels]
    covariance = rest.T @ rest / (len(features) - 3)
    shrunk = 0.7 * covariance + 0.3 * np.trace(covariance) / 40 * np.eye(40)
    head = spread.discriminant(0.3)
    expected = np.linalg.solve(shrunk, means.T).T
    assert np.allclose(head.weight, expected, rtol=1e-6, atol=1e-8)
    assert np.allclose(head.bias, -0.5 * (expected * means).sum(1))


def test_fewer_images_than_features_give_the_same_by_the_smaller_matrix():
    features, labels = clouds(3, 8)  # 24 images of 40 features
    means = np.stack([features[labels == k].mean(0, dtype=np.float64) for k in range(3)])
    rest = features - means[labels]
    covariance = rest.T @ rest / (len(features) - 3)
    shrunk = 0.5 * covariance + 0.5 * np.trace(covariance) / 40 * np.eye(40)
    assert np.allclose(
        Spread(features, labels, 3).discriminant(0.5).weight, np.linalg.solve(shrunk, means.T).T, rtol=1e-5, atol=1e-6
    )


def test_a_head_names_images_that_it_has_not_seen_and_knows_how_sure_it_is():
    features, labels = clouds(4, 40, spread=4)
    head = prototype_head(features, labels, 4)
    new, truth = clouds(4, 200, seed=1, spread=4)
    logits = new @ head.weight.T + head.bias
    top1 = (logits.argmax(1) == truth).mean()
    assert top1 > 0.85
    assert head.top1 == max(share for _, share in head.tried) == dict(head.tried)[head.way]
    assert abs(head.top1 - top1) < 0.08
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    assert abs(shares.max(1).mean() - top1) < 0.1
    assert len(head.tried) == 6


def test_one_image_of_a_class_is_enough_to_go_on():
    features, labels = clouds(3, 5)
    head = prototype_head(features[[0, 1, 2, 5, 6, 7, 10]], labels[[0, 1, 2, 5, 6, 7, 10]], 3)
    assert head.weight.shape == (3, 40)
    assert np.isfinite(head.weight).all()


def test_an_added_class_is_named_and_takes_few_of_the_others():
    features, labels = clouds(4, 100)
    head = prototype_head(features[labels < 3], labels[labels < 3], 3)
    old, truth = features[labels < 3], labels[labels < 3]
    added = added_class(head, features[labels == 3][:5], old, truth)
    test, answers = clouds(4, 300, seed=5)
    best = (test @ head.weight.T + head.bias).max(1)
    taken = test @ added.weight + added.bias > best
    assert taken[answers == 3].mean() > 0.85
    assert taken[answers != 3].mean() < LOST + 0.01
    assert 0.6 <= added.recall <= 1


def test_without_old_images_the_new_ones_are_named_by_each_other():
    features, labels = clouds(4, 100)
    head = prototype_head(features[labels < 3], labels[labels < 3], 3)
    new = features[labels == 3][:5]
    added = added_without(head, new)
    assert ((new @ added.weight + added.bias) >= (new @ head.weight.T + head.bias).max(1)).all()
    assert added_without(head, new[:1]).weight.shape == (40,)


# Models


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, small_spec, lived_in_state):
    """A small network with a head for three colours, and folders of images of them and of noise."""
    folder = tmp_path_factory.mktemp("colours")
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / "data" / name).mkdir(parents=True)
        for k in range(12):
            reach = 128 if name == "noise" else 25
            pixels = random.integers(-reach, reach, (40, 40, 3)) + np.array(colour)
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / "data" / name / f"{k:02}.png")
    spec = small_spec("shufflenet_v2", size=32, classes=3).replace(labels=("blue", "green", "red"))
    state = dict(lived_in_state(spec))
    base = folder / "base.safetensors"
    write_safetensors(base, state, spec)
    old = {name: fusiform.embed(folder / "data" / name, base).features for name in spec.labels}
    features = np.concatenate(list(old.values()))
    head = prototype_head(features, np.repeat(np.arange(3), 12).astype(np.int64), 3)
    state |= {"fc.weight": head.weight.astype(np.float32), "fc.bias": head.bias.astype(np.float32)}
    write_safetensors(folder / "model.safetensors", state, spec)
    (folder / "old").mkdir()
    for name in spec.labels:
        (folder / "old" / name).symlink_to(folder / "data" / name)
    return folder


@pytest.mark.parametrize("known", [True, False])
def test_a_class_is_added_and_the_others_stay(scenes, tmp_path, known):
    out = tmp_path / "more.safetensors"
    report = fusiform.add_class(
        scenes / "model.safetensors", scenes / "data" / "noise", out, data=scenes / "old" if known else None
    )
    (row,) = report.rows
    assert (row["class"], row["images"]) == ("noise", 12)
    assert report.figures["classes"] == 4
    if known:
        assert report.figures["top1_before"] - report.figures["top1_after"] <= 0.03
        assert report.figures["images"] == 36
    else:
        assert report.figures["top1_before"] is None
    spec, state = read_safetensors(out)
    before = read_safetensors(scenes / "model.safetensors")[1]
    assert spec.labels == ("blue", "green", "red", "noise")
    assert np.array_equal(state["fc.weight"][:3], before["fc.weight"])
    named = [answer.top[0].name for answer in fusiform.predict(scenes / "data" / "noise", out)]
    assert named.count("noise") >= 10


def test_a_class_by_another_name_and_of_a_file_without_pytorch(scenes, tmp_path):
    tflite = tmp_path / "model.tflite"
    tflite.write_bytes(fusiform.open_model(scenes / "model.safetensors").tflite())
    out = tmp_path / "more.safetensors"
    run = CliRunner().invoke(
        commands,
        ["add-class", str(tflite), str(scenes / "data" / "noise"), "--name", "gold", "--out", str(out), "-f", "json"],
    )
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["rows"][0]["class"] == "gold"
    assert "name them with --data" in run.stderr
    assert fusiform.open_model(out).spec.labels[-1] == "gold"


def test_a_class_that_looks_like_the_old_ones_is_told(scenes, tmp_path):
    (tmp_path / "some").mkdir()
    for name in ("blue", "green", "red"):
        for k in range(2):
            (tmp_path / "some" / f"{name}{k}.png").symlink_to(scenes / "data" / name / f"{k:02}.png")
    out = tmp_path / "more.safetensors"
    words = ["add-class", str(scenes / "model.safetensors"), str(tmp_path / "some"), "--out", str(out)]
    run = CliRunner().invoke(commands, [*words, "--data", str(scenes / "old")])
    assert run.exit_code == 0, run.output
    assert "some: of its images only" in run.stderr
    noise = ["add-class", str(scenes / "model.safetensors"), str(scenes / "data" / "noise"), "--out", str(out)]
    assert "only" not in CliRunner().invoke(commands, [*noise, "--data", str(scenes / "old")]).stderr


@pytest.mark.parametrize(
    ("folders", "name", "message"),
    [
        (["data/red"], None, "red: the model knows this class already"),
        (["data/noise"], "green", "green: the model knows this class already"),
        (["data/noise", "data/red"], "gold", "name is for one folder, and there are 2"),
        (["data/missing"], None, "is no folder"),
        (["old"], None, None),
        ([], None, "name a folder of images"),
    ],
)
def test_what_cannot_be_added_is_told(scenes, tmp_path, folders, name, message):
    out = tmp_path / "more.safetensors"
    if message is None:  # a folder of folders is one class of all that is in it
        assert fusiform.add_class(scenes / "model.safetensors", scenes / "old", out).rows[0]["class"] == "old"
        return
    with pytest.raises((UsageError, InputError), match=message):
        fusiform.add_class(scenes / "model.safetensors", [scenes / folder for folder in folders], out, name=name)
    assert not out.exists()


def test_an_empty_folder_and_another_ending_are_told(scenes, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no image that can be read"):
        fusiform.add_class(scenes / "model.safetensors", tmp_path / "empty", tmp_path / "more.safetensors")
    with pytest.raises(UsageError, match=r"let the name end in \.safetensors"):
        fusiform.add_class(scenes / "model.safetensors", tmp_path / "empty", tmp_path / "more.onnx")


def test_the_recipe_learns_in_one_pass_and_says_how(scenes, tmp_path):
    pytest.importorskip("torch")
    said: list[str] = []
    fusiform.train(
        scenes / "data", tmp_path / "run", model=scenes / "model.safetensors", recipe="prototypes", say=said.append
    )
    assert any("cross-validated top-1: cosine" in line for line in said)
    spec = fusiform.open_model(tmp_path / "run").spec
    assert spec.labels == ("blue", "green", "noise", "red")
    named = [answer.top[0].name for answer in fusiform.predict(scenes / "data" / "noise", tmp_path / "run")]
    assert named.count("noise") >= 10
    # The folder of a run has its own images of the old classes.
    (tmp_path / "grey").mkdir()
    for k in range(5):
        grey = np.random.default_rng(k).integers(100, 150, (40, 40, 1)).astype(np.uint8)
        Image.fromarray(np.repeat(grey, 3, 2)).save(tmp_path / "grey" / f"{k}.png")
    report = fusiform.add_class(tmp_path / "run", tmp_path / "grey", tmp_path / "more.safetensors")
    assert Path(str(report.figures["data"])).name == "data.csv"
    assert report.figures["images"] > 30


@pytest.mark.slow
def test_five_photographs_of_a_new_class_are_named_and_one_point_lost_at_most(shared_data):
    scenes, classes = shared_data / "intel_scenes", shared_data / "imagenet_val"
    names = sorted(path.name for path in (scenes / "train").iterdir())

    def features(folder, count):
        return fusiform.embed(sorted(folder.iterdir())[:count]).features

    def all_of(split, count):
        parts = [features(scenes / split / name, count) for name in names]
        return np.concatenate(parts), np.repeat(np.arange(6), [len(part) for part in parts]).astype(np.int64)

    (old, labels), (test, truth) = all_of("train", 100), all_of("test", 100)
    head = prototype_head(old, labels, 6)
    logits = test @ head.weight.T + head.bias
    right = logits.argmax(1) == truth
    found = []
    for folder in sorted(classes.iterdir()):
        images = features(folder, 100)
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(len(images))
            added = added_class(head, images[order[:5]], old, labels)
            rest = images[order[5:]]
            recall = (rest @ added.weight + added.bias > (rest @ head.weight.T + head.bias).max(1)).mean()
            found.append((recall, (right & (test @ added.weight + added.bias > logits.max(1))).mean()))
    recalls, lost = np.array(found).T
    print(f"recall {recalls.mean():.3f} sd {recalls.std():.3f} min {recalls.min():.2f}; lost {lost.mean():.4f}")
    assert recalls.mean() >= 0.85
    assert lost.mean() <= 0.01
