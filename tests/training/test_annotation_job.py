"""Training detectors and segmenters from their data to their runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import fusiform.cli
from fusiform.data.annotated import AnnotatedSet
from fusiform.data.open import open_dataset
from fusiform.errors import UsageError
from fusiform.evaluation.job import evaluate
from fusiform.evaluation.segmentation import SegmentationEvaluation
from fusiform.progress import silent
from fusiform.selection.job import choose
from fusiform.training.annotation_job import AnnotatedJob, read_annotated_list
from fusiform.training.base import open_base
from fusiform.training.batch_norm import is_folded
from fusiform.training.distributed import World
from fusiform.training.job import train
from fusiform.training.recipe import Recipe
from fusiform.training.recipes import DEFAULTS, RECIPES
from fusiform.zoo.checkpoint import read_safetensors
from fusiform.zoo.model import open_model

pytestmark = pytest.mark.usefixtures("unrendered_curves")

COLORS = {"red": (200, 40, 40), "blue": (50, 70, 210)}
NETWORK = "mobilenet_v2_x0_35"

detect = Recipe(
    name="quick_boxes",
    task="detection",
    epochs=2,
    batch=8,
    size=64,
    eval_size=64,
    optimizer="sgd",
    lr=1e-2,
    batch_norm="frozen",
    augment="crop",
    ema=0.5,
    metric="map50",
    val_fraction=0.25,
    cache="memory",
    deterministic=True,
)
segment = dataclasses.replace(
    detect, name="quick_masks", task="segmentation", size=65, eval_size=65, metric="miou", schedule="poly"
)


def make_set(root: Path, count: int = 16) -> Path:
    """Pictures of a coloured rectangle on noise, in COCO's layout and in VOC's with masks."""
    random = np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass", "annotations", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for k in range(count):
        pixels = random.integers(90, 170, (8, 10, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        label = k % 2
        left, top = (int(n) for n in random.integers(0, 30, 2))
        wide, high = (int(n) for n in random.integers(20, 33, 2))
        pixels[top : top + high, left : left + wide] = list(COLORS.values())[label]
        mask = np.zeros((64, 80), np.uint8)
        mask[top : top + high, left : left + wide] = label + 1
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{k:03}.png")
        Image.fromarray(mask).save(root / "SegmentationClass" / f"{k:03}.png")
        images.append({"id": k + 1, "file_name": f"{k:03}.png", "width": 80, "height": 64})
        boxes.append({"id": k + 1, "image_id": k + 1, "category_id": label + 3, "bbox": [left, top, wide, high]})
    categories = [{"id": k + 3, "name": name} for k, name in enumerate(COLORS)]
    document = {"images": images, "annotations": boxes, "categories": categories}
    (root / "annotations" / "instances_all.json").write_text(json.dumps(document))
    names = "".join(f"{k:03}\n" for k in range(count))
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text(names)
    (root / "class_names.txt").write_text("background\nred\nblue\n")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("annotated") / "data")


@pytest.mark.parametrize("recipe", [detect, segment], ids=lambda recipe: recipe.task)
def test_a_run_and_what_is_in_it(data: Path, tmp_path: Path, recipe: Recipe) -> None:
    run = tmp_path / "run"
    figures = train(data, run, model=NETWORK, recipe=recipe, threads=1).figures
    model = open_model(run)
    assert model.spec.task == recipe.task
    assert model.spec.labels == (("red", "blue") if recipe is detect else ("background", "red", "blue"))
    assert model.spec.preprocess.fit == ("stretch" if recipe is detect else "pad")
    assert figures["train_images"] == 12
    assert figures["images"] == 4
    assert 0 <= float(str(figures["map50" if recipe is detect else "miou"])) <= 1
    assert {path.name for path in run.iterdir()} >= {
        *("best.safetensors", "last.safetensors", "state.pt", "run.json", "recipe.json", "metrics.jsonl"),
        *("data.json", "data.sha256", "environment.json", "curves.png", "train.log"),
    }
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [0, 1, 2]
    assert records[-1]["train_loss"] < 1.2 * records[1]["train_loss"]
    assert ("train_object_accuracy" if recipe is detect else "train_pixel_accuracy") in records[-1]

    listed = read_annotated_list(run)
    assert isinstance(listed, AnnotatedSet)
    assert {split: len(samples) for split, samples in listed.splits.items()} == {"train": 12, "val": 4}
    whole = open_dataset(data, task=recipe.task)
    (samples,) = whole.splits.values()
    assert {sample for split in listed.splits.values() for sample in split} == set(samples)
    text = (run / "data.json").read_text()
    log = (run / "train.log").read_text()
    assert f"{recipe.task}, laid out as {whole.layout}: " in log
    assert f"splits: val was held out of {'all pictures' if recipe is detect else 'train'}" in log
    # A run of a version that did not know what 255 is but ignored.
    old = json.loads(text)
    for samples_of_split in old["splits"].values():
        for entry in samples_of_split:
            del entry["ignore"]
    (run / "data.json").write_text(json.dumps(old))
    assert read_annotated_list(run).splits == listed.splits
    (run / "data.json").write_text(text.replace("000.png", "001.png"))
    with pytest.raises(UsageError, match="is not the list that the run began with"):
        read_annotated_list(run)
    (run / "data.json").write_text("{")
    with pytest.raises(UsageError, match="is damaged"):
        read_annotated_list(run)


def test_outlines_are_learned_as_their_masks_are_and_listed_in_the_run(data: Path, tmp_path: Path) -> None:
    outlined = tmp_path / "outlined"
    outlined.mkdir()
    content = json.loads((data / "annotations" / "instances_all.json").read_text())
    for entry in content["annotations"]:
        left, top, wide, high = entry["bbox"]
        right, bottom = left + wide, top + high
        entry["segmentation"] = [[left, top, right, top, right, bottom, left, bottom]]
    for entry in content["images"]:
        (outlined / entry["file_name"]).write_bytes((data / "JPEGImages" / entry["file_name"]).read_bytes())
    (outlined / "outlines.json").write_text(json.dumps(content))
    recipe = dataclasses.replace(segment, epochs=1)
    run = tmp_path / "run"
    figures = train(outlined, run, model=NETWORK, recipe=recipe, threads=1).figures
    assert (figures["train_images"], figures["images"]) == (12, 4)
    listed, whole = read_annotated_list(run), open_dataset(outlined, task="segmentation")
    assert {sample for split in listed.splits.values() for sample in split} == set(whole.splits["all"])
    evaluation = evaluate(run, outlined, threads=1, html=tmp_path / "page.html")
    masks = evaluate(run, open_dataset(data, task="segmentation"), threads=1)
    assert isinstance(evaluation, SegmentationEvaluation)
    assert isinstance(masks, SegmentationEvaluation)
    assert len(evaluation.samples) == 16
    assert (evaluation.confusion == masks.confusion).all()


class _Stop(Exception):
    pass


@pytest.mark.parametrize("recipe", [detect, segment], ids=lambda recipe: recipe.task)
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    data: Path, tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fusiform.training import loop

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    recipe = dataclasses.replace(recipe, batch=4)
    train(data, whole, model=NETWORK, recipe=recipe, threads=1)
    step = loop._Fit._step
    steps = []

    def stop(self: Any, batches: Any) -> None:
        if len(steps) == 4:
            raise _Stop
        steps.append(0)
        step(self, batches)

    monkeypatch.setattr(loop._Fit, "_step", stop)
    with pytest.raises(_Stop):
        train(data, parts, model=NETWORK, recipe=recipe, threads=1, save_minutes=0)
    monkeypatch.setattr(loop._Fit, "_step", step)
    train(None, parts, resume=True, threads=1)
    first, second = (read_safetensors(run / "last.safetensors")[1] for run in (whole, parts))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize("recipe", [detect, segment], ids=lambda recipe: recipe.task)
def test_a_trained_model_is_trained_on(data: Path, tmp_path: Path, recipe: Recipe) -> None:
    quick = dataclasses.replace(recipe, epochs=1)
    train(data, tmp_path / "first", model=NETWORK, recipe=quick, threads=1)
    train(data, tmp_path / "second", model=tmp_path / "first" / "best.safetensors", recipe=quick, threads=1)
    records = [
        json.loads((tmp_path / run / "metrics.jsonl").read_text().splitlines()[k])
        for run, k in (("first", -1), ("second", 0))
    ]
    assert records[1]["val_loss"] == pytest.approx(records[0]["val_loss"], rel=1e-4)


def test_what_is_refused(data: Path, tmp_path: Path) -> None:
    coco = tmp_path / "coco"
    (coco / "annotations").mkdir(parents=True)
    text = (data / "annotations" / "instances_all.json").read_text()
    (coco / "annotations" / "instances_all.json").write_text(text)
    with pytest.raises(UsageError, match="none of its 16 pictures is there"):
        open_dataset(coco, task="segmentation")
    empty = json.loads(text) | {"annotations": []}
    bare = make_set(tmp_path / "bare")
    (bare / "annotations" / "instances_all.json").write_text(json.dumps(empty))
    with pytest.raises(UsageError, match="no training picture has an object"):
        train(bare, tmp_path / "run", model=NETWORK, recipe=detect, threads=1)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="no folder JPEGImages"):
        train(bare / "JPEGImages", tmp_path / "run", model=NETWORK, recipe=segment, threads=1)
    with pytest.raises(UsageError, match="has boxes or masks, and recipe finetune_small is for classifiers"):
        train(data, tmp_path / "run", model=NETWORK, recipe=RECIPES["finetune_small"], threads=1)
    segmenter = dataclasses.replace(segment, epochs=0)
    train(data, tmp_path / "segmenter", model=NETWORK, recipe=segmenter, threads=1)
    with pytest.raises(UsageError, match="a segmenter has no layer that ends the backbone"):
        train(data, tmp_path / "run", model=tmp_path / "segmenter", recipe=detect, threads=1)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="choose is for classifiers"):
        choose(data, tmp_path / "run", max_ms=5)
    for changes, message in (
        ({"metric": "top1"}, "metric must be map50 or map or loss for detection"),
        ({"mixup": 0.2}, "mixup is for classification: leave it at 0.0"),
        ({"augment": "crop_trivial"}, "augment must be none, flip or crop"),
    ):
        with pytest.raises(UsageError, match=message):
            dataclasses.replace(detect, **changes)  # type: ignore[arg-type]


def test_the_command_knows_the_task_by_the_data(data: Path, tmp_path: Path) -> None:
    def show(*arguments: str) -> dict[str, Any]:
        words = ["train", *arguments, "--out", str(tmp_path / "run"), "--show"]
        result = CliRunner().invoke(fusiform.cli.commands, words, prog_name="fusiform")
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads(result.output)
        return found

    assert show(str(data))["name"] == DEFAULTS["detection"]
    assert show(str(data), "--task", "segmentation")["name"] == DEFAULTS["segmentation"]
    (tmp_path / "classes" / "one").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(tmp_path / "classes" / "one" / "a.png")
    assert show(str(tmp_path / "classes"))["name"] == DEFAULTS["classification"]
    words = ["train", str(data), "--out", str(tmp_path / "run"), "--task", "detection", "--recipe", "deeplab_small"]
    result = CliRunner().invoke(fusiform.cli.commands, words, prog_name="fusiform")
    assert result.exit_code == 2
    assert "is for segmentation, not for --task detection" in result.output
    assert all(RECIPES[name].task == task for task, name in DEFAULTS.items())


def test_gradients_of_small_maps_are_finite_in_bfloat16(data: Path, tmp_path: Path) -> None:
    """oneDNN leaves what it does not write of a depthwise gradient on a map of one cell as it found it."""
    recipe = dataclasses.replace(detect, precision="bfloat16", epochs=1, deterministic=False)
    # What it finds is not finite.
    waste = [torch.full((1 << k,), float("nan"), dtype=torch.bfloat16) for k in range(4, 16) for _ in range(50)]
    del waste
    figures = train(data, tmp_path / "run", model=NETWORK, recipe=recipe, threads=1).figures
    assert figures["epochs"] == 1


@pytest.mark.parametrize("recipe", [detect, segment], ids=lambda recipe: recipe.task)
def test_only_what_came_folded_is_given_statistics(data: Path, recipe: Recipe) -> None:
    recipe = dataclasses.replace(recipe, batch_norm="train")
    job = AnnotatedJob(World(0, 1, torch.device("cpu")), None, recipe, 1, 0, silent)
    dataset = job.prepare(data)
    start = job.adapt(open_base("mobilenet_v2", None, scratch=False), dataset, "mobilenet_v2")
    assert is_folded({name: torch.from_numpy(value) for name, value in start.state.items()})
    network = job.make_task(start, dataset, None, None).network
    norms = {name: norm for name, norm in network.named_modules() if isinstance(norm, torch.nn.BatchNorm2d)}
    for name, norm in norms.items():
        assert norm.running_mean is not None
        assert bool(norm.running_mean.abs().max() > 0) == name.startswith("backbone."), name
