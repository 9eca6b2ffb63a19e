"""Training in two processes, as torchrun starts them, against one."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fusiform.data.dataset import Sample
from fusiform.data.open import open_dataset
from fusiform.errors import UsageError
from fusiform.modules import build_network
from fusiform.modules.layers import LoneBatchNorm2d
from fusiform.progress import silent
from fusiform.spec import ModelSpec, Preprocess
from fusiform.training.classification import look, sum_up
from fusiform.training.detection import BoxExamples, DetectionTask, start_detector
from fusiform.training.distributed import SyncedBatchNorm2d, World, join, sync_batch_norm
from fusiform.training.job import train
from fusiform.training.loader import ClassExamples, Loaded, Pictures, load
from fusiform.training.loop import fit
from fusiform.training.recipe import Recipe
from fusiform.training.segmentation import MaskExamples, SegmentationTask, start_segmenter
from fusiform.zoo.checkpoint import read_safetensors

pytestmark = pytest.mark.usefixtures("unrendered_curves")

NETWORK = "mobilenet_v2_x0_35"


def run_twice(*arguments: str) -> str:
    """Run a Python program in two processes of one thread each."""
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def train_twice(data: Path, out: Path, recipe: Recipe) -> Any:
    """What ``fusiform train`` prints where torchrun starts it in two processes."""
    changed = [
        f"{field.name}={_text(getattr(recipe, field.name))}"
        for field in dataclasses.fields(Recipe)
        if field.name not in ("name", "task")
    ]
    settings = [part for setting in changed for part in ("--set", setting)]
    named = {"classification": [], "detection": ["--task", "detection"], "segmentation": ["--task", "segmentation"]}
    arguments = ["train", str(data), *named[recipe.task], "--out", str(out), "--model", NETWORK, "--threads", "1"]
    return json.loads(run_twice("-m", "fusiform", *arguments, *settings, "--format", "json"))


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_two_processes_learn_what_one_learns(
    tmp_path: Path, make_pictures: Callable[..., None], quick: Recipe, batch_norm: str
) -> None:
    make_pictures(tmp_path / "data", {"red": 12, "green": 12, "blue": 13})
    # SGD: its steps are as large as the differences of the gradients, where AdamW makes all of one size.
    recipe = dataclasses.replace(
        quick, optimizer="sgd", lr=1e-3, dropout=0.0, batch_norm=batch_norm, sync_batch_norm=batch_norm == "train"
    )
    one, two = tmp_path / "one", tmp_path / "two"
    train(tmp_path / "data", one, model=NETWORK, recipe=recipe, threads=1)
    printed = train_twice(tmp_path / "data", two, recipe)
    assert printed["figures"]["epochs"] == 2  # printed once

    first, second = read_safetensors(one / "last.safetensors")[1], read_safetensors(two / "last.safetensors")[1]
    start = {name: value.numpy() for name, value in torch.load(one / "state.pt")["learner"].items()}
    assert len(start)
    for name in first:
        np.testing.assert_allclose(second[name], first[name], rtol=1e-4, atol=2e-5, err_msg=name)
    records = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, two)]
    for a, b in zip(*records, strict=True):
        assert a["val_images"] == b["val_images"]
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-3, abs=1e-3)
        assert a.get("train_loss", 0) == pytest.approx(b.get("train_loss", 0), rel=1e-3, abs=1e-3)


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return str(value).lower()


# Detectors and segmenters: pictures with no object, one, or three, so that processes have unequal shares of them.

# Statistics of a few pictures on maps of one cell make much of rounding: small steps, and not fused, which rounds more.
DETECT = Recipe(
    name="boxes", task="detection", epochs=2, batch=6, size=64, eval_size=64, optimizer="sgd", lr=1e-4, augment="crop",
    sync_batch_norm=True, fused=False, ema=0.5, metric="map50", val_fraction=0.25, cache="memory",
)  # fmt: skip
SEGMENT = dataclasses.replace(
    DETECT, name="masks", task="segmentation", size=65, eval_size=65, metric="miou", dropout=0.0, fused=True, lr=1e-3
)


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coloured rectangles on noise, in COCO's layout, and in VOC's, whose masks leave out a part of some pictures."""
    root = tmp_path_factory.mktemp("annotated")
    random = np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass", "annotations", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for k in range(16):
        pixels = random.integers(60, 190, (64, 64, 3)).astype(np.uint8)
        mask = np.zeros((64, 64), np.uint8)
        for label in (1, 2, 1)[: (0, 0, 1, 3)[k % 4]]:
            left, top = (int(n) for n in random.integers(0, 36, 2))
            wide, high = (int(n) for n in random.integers(16, 29, 2))
            pixels[top : top + high, left : left + wide] = (220, 30, 30) if label == 1 else (40, 60, 230)
            mask[top : top + high, left : left + wide] = label
            box = {"image_id": k + 1, "category_id": label, "bbox": [left, top, wide, high], "iscrowd": 0}
            boxes.append({"id": len(boxes) + 1, "area": wide * high, **box})
        mask[: 16 * (k % 5)] = 255  # nothing counts in the last of five
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{k:02}.png")
        Image.fromarray(mask).save(root / "SegmentationClass" / f"{k:02}.png")
        images.append({"id": k + 1, "file_name": f"{k:02}.png", "width": 64, "height": 64})
    categories = [{"id": k, "name": name} for k, name in ((1, "red"), (2, "blue"))]
    document = {"images": images, "annotations": boxes, "categories": categories}
    (root / "annotations" / "instances_all.json").write_text(json.dumps(document))
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("".join(f"{k:02}\n" for k in range(16)))
    (root / "class_names.txt").write_text("background\nred\nblue\n")
    return root


@pytest.mark.parametrize("recipe", [DETECT, SEGMENT], ids=lambda recipe: recipe.task)
def test_two_processes_learn_of_objects_what_one_learns(annotated: Path, tmp_path: Path, recipe: Recipe) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    figures = train(annotated, one, model=NETWORK, recipe=recipe, threads=1).figures
    printed = train_twice(annotated, two, recipe)["figures"]
    score = "map50" if recipe.task == "detection" else "miou"
    for name in ("network", "classes", "train_images", "epochs", "best_epoch", "split", "images"):
        assert printed[name] == figures[name], name
    assert printed[score] == pytest.approx(figures[score], abs=5e-3)

    # One writes, and writes all.
    files = [{path.name.split(".1")[0] for path in run.iterdir()} for run in (one, two)]  # events have times in names
    assert files[0] == files[1]
    assert len(list(two.iterdir())) == len(list(one.iterdir()))
    for name in ("data.json", "data.sha256"):
        assert (one / name).read_text() == (two / name).read_text(), name
    for run, processes in ((one, 1), (two, 2)):
        assert json.loads((run / "run.json").read_text())["processes"] == processes
    first, second = read_safetensors(one / "last.safetensors")[1], read_safetensors(two / "last.safetensors")[1]
    assert first.keys() == second.keys()
    for name in first:
        # Where a map of one cell is not normalised over both, a detector's are off by 0.01 and more.
        atol = 3e-4 if recipe.task == "detection" else 1e-4
        np.testing.assert_allclose(second[name], first[name], rtol=1e-3, atol=atol, err_msg=name)
    records = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, two)]
    assert [record["epoch"] for record in records[0]] == [0, 1, 2]
    for a, b in zip(*records, strict=True):
        assert a.keys() == b.keys()
        assert a["val_images"] == b["val_images"] == 4
        for name in ("train_loss", "val_loss"):
            assert a.get(name, 0) == pytest.approx(b.get(name, 0), rel=2e-3), name
        for name in {f"val_{score}", "val_map", "val_pixel_accuracy"} & a.keys():
            assert a[name] == pytest.approx(b[name], abs=5e-3), name


def gradients(root: Path, recipe: Recipe, world: World) -> tuple[dict[str, Tensor], Tensor, Any]:
    """The gradients of one step over the first eight pictures, this process's labels, and the task."""
    dataset = open_dataset(root, task=recipe.task)
    samples = dataset.splits["all" if "all" in dataset.splits else "train"][:8]
    base = ModelSpec("mobilenet_v2", 0.35, ("anything",))
    task: DetectionTask | SegmentationTask
    if recipe.task == "detection":
        spec, state, _ = start_detector(base, {}, dataset.classes, recipe)
        boxes = BoxExamples(recipe, spec)
        pictures = Pictures(load(samples, boxes, cache="memory", threads=1, progress=silent), boxes, recipe, world)
        task = DetectionTask(spec, state, pictures, (), recipe, world, fresh=frozenset())
    else:
        spec, state, _ = start_segmenter(base, {}, dataset.classes, recipe)
        masks = MaskExamples(recipe, spec)
        pictures = Pictures(load(samples, masks, cache="memory", threads=1, progress=silent), masks, recipe, world)
        task = SegmentationTask(spec, state, pictures, (), recipe, world)
    found: dict[str, Tensor] = {}

    def keep(*_: object) -> None:
        named = task.network.named_parameters()
        found.update({name: value.grad.clone() for name, value in named if value.grad is not None})

    hook = register_optimizer_step_pre_hook(keep)
    fit(task, recipe, world, run=None)
    hook.remove()
    return found, next(task.batches(0, 0)).labels, task


# Batch normalisation is left as it came, so that nothing but the loss depends on what else is in a batch.
STEP = dataclasses.replace(DETECT, epochs=1, batch=8, batch_norm="frozen", sync_batch_norm=False, ema=0.0, seed=8)
STEPS = (
    STEP,
    dataclasses.replace(STEP, box_loss="focal"),
    dataclasses.replace(STEP, task="segmentation", size=65, eval_size=65, metric="miou", dropout=0.0),
    dataclasses.replace(
        STEP, task="segmentation", size=65, eval_size=65, metric="miou", dropout=0.0, class_weights="balanced"
    ),
)


def gradients_of_steps(root: Path, world: World, *, accumulate: int) -> list[dict[str, Tensor]]:
    return [gradients(root, dataclasses.replace(step, accumulate=accumulate), world)[0] for step in STEPS]


def test_gradients_of_parts_add_up_to_those_of_the_batch(annotated: Path, together: Any) -> None:
    """Though some have more objects, or pixels that count, than others, and some none at all."""
    alone = World(0, 1, torch.device("cpu"))
    whole = []
    for step in STEPS:
        found, labels, task = gradients(annotated, step, alone)
        halves, quarters = ([task.amount(part) for part in labels.chunk(count)] for count in (2, 4))
        assert max(halves) > 1.5 * min(halves)
        assert step.task == "segmentation" or 0 in quarters
        assert len(found) == len(list(task.network.parameters()))
        whole.append(found)
    parts = dict(zip(("two processes", "two of two parts"), together["gradients"], strict=True))
    parts["four parts"] = gradients_of_steps(annotated, alone, accumulate=4)
    for name, steps in parts.items():
        for step, expected, found in zip(STEPS, whole, steps, strict=True):
            assert found.keys() == expected.keys()
            for key, value in expected.items():
                distance = float((found[key] - value).norm())
                assert distance <= 1e-3 * float(value.norm()) + 1e-7, (name, step.task, step.box_loss, key)


# What two processes are asked besides whole trainings, all in one start of both: to import PyTorch takes seconds.

NORMS = {
    "batch": (nn.BatchNorm2d, (8, 5, 3, 4), 1.0),
    "batch, far from 0": (nn.BatchNorm2d, (8, 5, 3, 4), 1e3),
    "lone": (LoneBatchNorm2d, (2, 5, 1, 1), 1.0),
}


def norm_and_input(name: str) -> tuple[nn.Module, Tensor]:
    norm, shape, mean = NORMS[name]
    torch.manual_seed(0)
    return nn.Sequential(norm(5)), torch.randn(shape) * 3 + mean


def normalize_together(world: World, name: str) -> list[Tensor]:
    """Answers, gradients and statistics of this process's half, put together with the other's."""
    whole, x = norm_and_input(name)
    sync_batch_norm(whole, world)
    mine = x.chunk(2)[world.rank].clone().requires_grad_()
    y = whole(mine)
    (y.square().sum() + y.pow(3).sum()).backward()
    parts = world.gather((y.detach(), mine.grad))
    for parameter in whole.parameters():
        dist.all_reduce(parameter.grad)
    halves = [torch.cat([part[k] for part in parts]) for k in (0, 1)]
    return [*halves, *(parameter.grad for parameter in whole.parameters()), *whole.buffers()]


def measure_together(world: World, picture: Path) -> tuple[float, float]:
    """How many pictures are counted and how many of them are right, where every answer is the first class."""
    spec = ModelSpec("mobilenet_v2", 0.35, ("a", "b"), input_size=32, preprocess=Preprocess(resize=32, crop=32))
    samples = [Sample(picture, i % 2) for i in range(1201)]
    network = build_network(spec).eval()
    network.classifier[1].bias.data[0] = 1.0
    figures = sum_up(*look(network, spec, samples, world, threads=1))
    return figures["val_images"], figures["val_top1"]


@pytest.fixture(scope="module")
def together(annotated: Path, tmp_path_factory: pytest.TempPathFactory, make_pictures: Callable[..., None]) -> Any:
    """What two processes answered to all that ``__main__`` below asks them."""
    folder = tmp_path_factory.mktemp("together")
    make_pictures(folder, {"red": 1})
    run_twice(__file__, str(annotated), str(folder / "red" / "0.png"), str(folder / "out.pt"))
    return torch.load(folder / "out.pt")


def test_two_processes_count_each_of_1201_pictures_once(together: Any) -> None:
    count, top1 = together["measure"]
    assert count == 1201
    assert top1 == pytest.approx(601 / 1201)


@pytest.mark.parametrize("name", NORMS)
def test_synced_batch_norm_is_batch_norm_over_all_pictures(together: Any, name: str) -> None:
    network, x = norm_and_input(name)
    x.requires_grad_()
    y = network(x)
    (y.square().sum() + y.pow(3).sum()).backward()
    expected = [y.detach(), x.grad, *(p.grad for p in network.parameters()), *network.buffers()]
    for mine, other in zip(together["norms"][name], expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_a_world_of_one() -> None:
    with join("cpu") as world:
        assert (world.rank, world.size, world.writes) == (0, 1, True)
        assert world.sum([1.5, 2.0]) == [1.5, 2.0]
        assert world.share("x") == "x"
        assert world.gather(3) == [3]
        network = nn.Linear(2, 2)
        assert world.wrap(network) is network


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="no device"), join("cuda:99"):
        pass


def test_a_batch_that_the_processes_cannot_share(tmp_path: Path, make_pictures: Callable[..., None]) -> None:
    samples = [Sample(tmp_path / "x.png", 0)] * 9
    loaded = Loaded(samples, [None] * 9, [], 0)
    world = World(0, 2, torch.device("cpu"))
    recipe = Recipe(name="x", epochs=1, batch=9, size=32, eval_size=32)
    examples = ClassExamples(recipe, shorter_side=32)
    with pytest.raises(UsageError, match="multiple of 2 processes"):
        Pictures(loaded, examples, recipe, world)
    # Nine pictures for two processes make batches of eight.
    made = Pictures(loaded, examples, dataclasses.replace(recipe, batch=64), world)
    assert (made.batch, made.steps) == (8, 1)


def test_synced_batch_norm_keeps_the_parameters_that_others_know() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(LoneBatchNorm2d(4)))
    network[1].running_mean.uniform_(-1, 1)
    parameters, state = list(network.parameters()), {name: v.clone() for name, v in network.state_dict().items()}
    sync_batch_norm(network, World(0, 2, torch.device("cpu")))
    assert sum(isinstance(module, SyncedBatchNorm2d) for module in network.modules()) == 2
    assert [id(parameter) for parameter in network.parameters()] == [id(parameter) for parameter in parameters]
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_synced_batch_norm_in_evaluation_is_plain() -> None:
    plain = nn.BatchNorm2d(3)
    plain.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
    synced = SyncedBatchNorm2d(3)
    synced.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(synced.eval()(x), plain.eval()(x))


if __name__ == "__main__":  # in each of two processes; see the fixture together
    torch.set_num_threads(1)
    annotations, photograph, answers = map(Path, sys.argv[1:])
    with join() as both:
        found = {
            "gradients": [gradients_of_steps(annotations, both, accumulate=count) for count in (1, 2)],
            "measure": measure_together(both, photograph),
            "norms": {name: normalize_together(both, name) for name in NORMS},
        }
        if both.writes:
            torch.save(found, answers)
