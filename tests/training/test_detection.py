"""Training of detectors: losses by hand and against torchvision's, pictures with boxes, and that all of it learns."""

from __future__ import annotations

import ctypes
import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.ssd import SSD
from torchvision.ops import sigmoid_focal_loss

from fusiform.data.annotated import AnnotatedSample, BoxLabel
from fusiform.data.preprocess import crop_pixels
from fusiform.errors import ImageError, UsageError, WeightsError
from fusiform.evaluation.detection import box_figures
from fusiform.graph.shapes import state_shapes
from fusiform.modules import build_network
from fusiform.progress import silent
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tasks.detection import decode_boxes, make_targets, match_priors, prior_boxes
from fusiform.training.classification import in_memory
from fusiform.training.detection import (
    BoxExamples,
    DetectionTask,
    box_loss,
    count_right,
    find_objects,
    focal_loss,
    make_label,
    multibox_loss,
    start_detector,
)
from fusiform.training.distributed import World
from fusiform.training.fused import fuse
from fusiform.training.loader import Example, Pictures, load
from fusiform.training.loop import fit
from fusiform.training.recipe import Recipe

SIZE = 96
PLAIN = Recipe(
    "plain", 1, task="detection", metric="map50", size=SIZE, eval_size=SIZE, augment="none", batch=4, cache="memory"
)
HERE = World(0, 1, torch.device("cpu"))
CLASSES = ("red", "green", "blue")
COLORS = ((220, 30, 30), (30, 200, 40), (40, 60, 230))


def make_spec(
    size: int = SIZE, *, architecture: Any = "mobilenet_v2", width: float = 0.35, **changes: Any
) -> ModelSpec:
    preprocess = Preprocess(size, size, fit="stretch")
    return ModelSpec(architecture, width, CLASSES, task="detection", input_size=size, preprocess=preprocess, **changes)


def fresh_state(spec: ModelSpec, seed: int = 0) -> dict[str, NDArray[Any]]:
    torch.manual_seed(seed)
    return {name: value.numpy().copy() for name, value in build_network(spec).state_dict().items()}


def make_samples(
    folder: Path, count: int, *, seed: int = 0, size: tuple[int, int] = (120, 90)
) -> list[AnnotatedSample]:
    """Pictures of noise with one or two coloured rectangles; none in every fifth."""
    random = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        width, height = size
        pixels = random.integers(90, 160, (height, width, 3)).astype(np.uint8)
        boxes = []
        for _ in range(0 if number % 5 == 4 else random.integers(1, 3)):
            side_x, side_y = random.integers(25, 60, 2)
            left, top = random.integers(width - side_x), random.integers(height - side_y)
            label = int(random.integers(3))
            pixels[top : top + side_y, left : left + side_x] = COLORS[label]
            boxes.append(BoxLabel(label, float(left), float(top), float(left + side_x), float(top + side_y)))
        file = folder / f"{seed}_{number}.png"
        Image.fromarray(pixels).save(file)
        samples.append(AnnotatedSample(file, tuple(boxes), size=size))
    return samples


def make_task(
    samples: list[AnnotatedSample], recipe: Recipe, *, spec: ModelSpec | None = None, world: World = HERE, **more: Any
) -> DetectionTask:
    spec = spec or make_spec(recipe.eval_size)
    examples = BoxExamples(recipe, spec)
    loaded = load(samples, examples, cache="memory", threads=1, progress=silent)
    pictures = Pictures(loaded, examples, recipe, world)
    return DetectionTask(spec, more.pop("state", fresh_state(spec)), pictures, samples, recipe, world, **more)


def random_answers(seed: int, *, classes: int = 4, pictures: int = 3) -> tuple[Tensor, Tensor, Tensor, list[Any]]:
    """Logits, codes and targets for the priors of 64 pixels, and the boxes and labels that the targets are of."""
    random = np.random.default_rng(seed)
    priors = prior_boxes(64)
    truth = []
    for _ in range(pictures):
        count = random.integers(1, 5)
        corner = random.uniform(0, 0.7, (count, 2))
        boxes = np.concatenate([corner, corner + random.uniform(0.05, 0.3, (count, 2))], 1)
        truth.append((boxes, random.integers(0, classes, count)))
    targets = [make_targets(boxes, labels, priors) for boxes, labels in truth]
    stacked = torch.stack([torch.from_numpy(np.column_stack((t.classes, t.codes))).float() for t in targets])
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(pictures, len(priors), 1 + classes, generator=generator)
    codes = torch.randn(pictures, len(priors), 4, generator=generator)
    return logits, codes, stacked, truth


# The losses


def test_multibox_by_hand() -> None:
    # Background priors whose odds for the class are k: their cross-entropy is log(1 + k).
    odds = torch.tensor([1.0, 1.0, 3.0, 15.0, 7.0, 0.5])
    logits = torch.stack([torch.zeros(6), odds.log()], 1)[None]
    targets = torch.zeros(1, 6, 5)
    targets[0, 0] = torch.tensor([1.0, 0.5, 0.0, -1.0, 0.0])
    codes = torch.zeros(1, 6, 4)
    codes[0, 0] = torch.tensor([0.0, 0.0, 1.0, 0.0])  # 0.5 and 2 away: 0.5 * 0.25 and 2 - 0.5
    codes[0, 3] = 100.0  # background has no place
    found = multibox_loss(logits, codes, targets, negatives=1.0, box_weight=2.0)
    # One object prior asks for one, and gets the three that every picture has.
    assert found.item() == pytest.approx(math.log(2 * 16 * 8 * 4) + 2 * (0.125 + 1.5), rel=1e-6)
    found = multibox_loss(logits, codes, targets, negatives=4.0, box_weight=0.0)
    assert found.item() == pytest.approx(math.log(2 * 16 * 8 * 4 * 2), rel=1e-6)


def test_a_picture_without_objects_teaches_that_there_is_nothing() -> None:
    logits = torch.tensor([[[0.0, 5.0], [0.0, 4.0], [0.0, -2.0], [0.0, 3.0], [0.0, -9.0]]], requires_grad=True)
    loss = multibox_loss(logits, torch.zeros(1, 5, 4), torch.zeros(1, 5, 5), negatives=3.0, box_weight=1.0)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[0, :, 1] > 0).tolist() == [True, True, False, True, False]
    assert loss.item() == pytest.approx(sum(math.log1p(math.exp(x)) for x in (5, 4, 3)), rel=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_multibox_is_torchvisions_ssd(seed: int) -> None:
    logits, codes, targets, truth = random_answers(seed)
    priors = prior_boxes(64)
    matches = [torch.from_numpy(match_priors(boxes, priors)) for boxes, _ in truth]
    assume(all((match >= 0).any() for match in matches))
    reference = SSD.compute_loss(
        SimpleNamespace(neg_to_pos_ratio=3, box_coder=BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))),
        [{"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels) + 1} for boxes, labels in truth],
        {"bbox_regression": codes.double(), "cls_logits": logits.double()},
        [torch.from_numpy(priors.copy())] * len(truth),
        matches,
    )
    found = multibox_loss(logits, codes, targets, negatives=3.0, box_weight=0.7)
    assert found.item() == pytest.approx(
        (reference["classification"] + 0.7 * reference["bbox_regression"]).item(), rel=1e-5
    )


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.floats(0, 4), st.floats(0.05, 1))
def test_focal_is_torchvisions(seed: int, gamma: float, alpha: float) -> None:
    logits, codes, targets, _ = random_answers(seed)
    classes = targets[..., 0].long()
    wanted = torch.zeros_like(logits).scatter(-1, classes[..., None], 1.0)[..., 1:]
    reference = sigmoid_focal_loss(logits[..., 1:], wanted, alpha=alpha, gamma=gamma, reduction="sum")
    found = focal_loss(logits, codes, targets, gamma=gamma, alpha=alpha, box_weight=0.0)
    assert found.item() == pytest.approx(reference.item() / int((classes > 0).sum()), rel=1e-4)


def test_focal_by_hand() -> None:
    # Of two classes the first is there with p = 3/4 and the second, which is not, with 1/2; a column for background.
    logits = torch.tensor([[[77.0, math.log(3), 0.0]]], requires_grad=True)
    targets = torch.tensor([[[1.0, 0.0, 0.0, 0.0, 0.0]]])
    loss = focal_loss(logits, torch.tensor([[[3.0, 0, 0, 0]]]), targets, gamma=2.0, alpha=0.25, box_weight=1.0)
    expected = 0.25 * (1 / 4) ** 2 * math.log(4 / 3) + 0.75 * (1 / 2) ** 2 * math.log(2) + 2.5
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0, 0, 0] == 0


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_gradients_are_finite_under_autocast(scale: float) -> None:
    logits, codes, targets, _ = random_answers(1)
    for focal in (False, True):
        given = (scale * logits).bfloat16().requires_grad_()
        places = codes.bfloat16().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            if focal:
                loss = focal_loss(given, places, targets, gamma=0.5, alpha=0.25, box_weight=1.0)
            else:
                loss = multibox_loss(given, places, targets, negatives=3.0, box_weight=1.0)
        assert loss.dtype == torch.float32
        loss.backward()
        for tensor in (given, places):
            assert tensor.grad is not None
            assert tensor.grad.isfinite().all()
            assert tensor.grad.any()


def test_counting_right_answers() -> None:
    targets = torch.zeros(4, 3, 5)
    targets[0, 0, 0], targets[0, 1, 0] = 1, 2  # two objects, one of them right
    targets[1, 2, 0] = 2  # taken for background
    # The last two pictures have no objects; in the last one something is seen.
    logits = torch.tensor(
        [
            [[0.0, 3, 1], [0, 2, 1], [5, 0, 0]],
            [[5.0, 0, 0], [0, 1, 0], [2, 0, 1]],
            [[5.0, -1, -1], [4, -1, -2], [3, -2, -2]],
            [[5.0, -1, -1], [0, 1, -2], [3, -2, -2]],
        ]
    )
    assert count_right(logits, targets, "softmax") == 0.5 + 0 + 1 + 0
    assert count_right(logits, targets, "sigmoid") == 0.5 + 1 + 1 + 0  # without the background, 1 is more than 0


# The pictures


def test_without_augmentation_it_is_what_evaluation_sees(tmp_path: Path) -> None:
    (sample,) = make_samples(tmp_path, 1, size=(96, 96))
    spec = make_spec()
    examples = BoxExamples(PLAIN, spec)
    picture, label = examples.augment(examples.decode(sample), SIZE, 3)
    expected = crop_pixels(sample.read(), spec.preprocess)
    assert (picture.permute(1, 2, 0).numpy() == expected).all()
    assert sample.boxes is not None
    edges = np.array([(b.left, b.top, b.right, b.bottom) for b in sample.boxes]) / 96
    targets = make_targets(edges, np.array([b.label for b in sample.boxes]), prior_boxes(SIZE))
    assert label.dtype == torch.float32
    assert (label[:, 0].numpy() == targets.classes).all()
    assert np.allclose(label[:, 1:].numpy(), targets.codes, atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["none", "flip", "crop"]),
    st.sampled_from([0.0, 1.0]),
    st.integers(30, 300),
    st.integers(30, 300),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.integers(0, 2**63),
)
@example("none", 1.0, 30, 256, (0.0, 0.03125, 0.0, 1.0), 238)
def test_boxes_stay_on_their_objects(
    augment: Any, expand: float, height: int, width: int, edges: tuple[float, ...], seed: int
) -> None:
    (x0, x1), (y0, y1) = sorted(edges[:2]), sorted(edges[2:])
    left, right, top, bottom = round(x0 * width), round(x1 * width), round(y0 * height), round(y1 * height)
    assume(right - left >= 8 and bottom - top >= 8)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[top:bottom, left:right] = 255
    recipe = dataclasses.replace(PLAIN, augment=augment, expand=expand)
    examples = BoxExamples(recipe, make_spec())
    sample = AnnotatedSample(Path("white.png"), (BoxLabel(2, left, top, right, bottom),), size=(width, height))
    example = Example(pixels, find_objects(sample, (width, height)))
    picture, label = examples.augment(example, SIZE, seed)
    assert (picture.dtype, picture.shape) == (torch.uint8, (3, SIZE, SIZE))
    again = examples.augment(example, SIZE, seed)
    assert torch.equal(picture, again[0])
    assert torch.equal(label, again[1])
    objects = label[:, 0] > 0
    assert (label[objects, 0] == 3).all()
    bright = picture.amin(0).numpy() > 190  # more than the canvas's grey
    assume(bright.any())
    # On a canvas of four times its sides, what is smaller than a pixel then is left out.
    shares = (right - left) / width, (bottom - top) / height
    if augment != "crop" and SIZE * min(shares) / (4 if expand else 1) > 1.01:
        assert objects.any()
    if objects.any():
        boxes = SIZE * decode_boxes(label[objects, 1:].numpy(), prior_boxes(SIZE)[objects.numpy()])
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        seen = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        # Canvas and part are cut at whole pixels, of which one may become several, and the threshold is a shade off.
        slack = 2 + 2 * SIZE / min(height, width) / (0.3 if augment == "crop" else 1)
        assert np.abs(boxes - seen).max() <= slack


def test_parts_differ_by_seed_and_colours_change(tmp_path: Path) -> None:
    (sample,) = make_samples(tmp_path, 1, size=(200, 160))
    recipe = dataclasses.replace(PLAIN, augment="crop", expand=0.5, color_jitter=0.4)
    examples = BoxExamples(recipe, make_spec())
    example = examples.decode(sample)
    kept = example.pixels.copy()
    assert len({examples.augment(example, SIZE, seed)[0].numpy().tobytes() for seed in range(12)}) == 12
    assert (example.pixels == kept).all()
    colors = BoxExamples(dataclasses.replace(PLAIN, color_jitter=0.4), make_spec())
    plain = BoxExamples(PLAIN, make_spec()).augment(example, SIZE, 0)
    changed = [colors.augment(example, SIZE, seed) for seed in range(12)]
    assert all(torch.equal(label, plain[1]) for _, label in changed)
    assert sum(not torch.equal(picture, plain[0]) for picture, _ in changed) > 6


@pytest.mark.parametrize("augment", ["none", "crop"])
def test_crowds_and_difficult_objects_are_no_targets(tmp_path: Path, augment: Any) -> None:
    (sample,) = make_samples(tmp_path, 1)
    assert sample.boxes
    (box, *_) = sample.boxes
    marked = (dataclasses.replace(box, crowd=True), dataclasses.replace(box, difficult=True))
    examples = BoxExamples(dataclasses.replace(PLAIN, augment=augment, expand=0.5), make_spec())
    for boxes in (marked, (), None):
        example = examples.decode(dataclasses.replace(sample, boxes=boxes))
        assert example.target.boxes.shape == (0, 4)
        picture, label = examples.augment(example, SIZE, 1)
        assert picture.shape == (3, SIZE, SIZE)
        assert label.shape == (len(prior_boxes(SIZE)), 5)
        assert not label.any()


def test_pictures_are_kept_no_larger_than_needed(tmp_path: Path) -> None:
    (sample,) = make_samples(tmp_path, 1, size=(400, 300))
    spec = make_spec()
    assert BoxExamples(PLAIN, spec).decode(sample).pixels.shape == (96, 128, 3)
    cropped = BoxExamples(dataclasses.replace(PLAIN, augment="crop"), spec).decode(sample)
    assert cropped.pixels.shape == (192, 256, 3)
    assert sample.boxes
    box = sample.boxes[0]
    assert np.allclose(cropped.target.boxes[0], (box.left / 400, box.top / 300, box.right / 400, box.bottom / 300))
    with pytest.raises(ImageError, match="nothing"):
        BoxExamples(PLAIN, spec).decode(AnnotatedSample(tmp_path / "nothing.png", ()))


def test_one_pixel_boxes_and_boxes_that_leave_the_picture() -> None:
    pixels = np.zeros((60, 80, 3), np.uint8)
    boxes = (BoxLabel(0, 10, 10, 11, 11), BoxLabel(1, -20, -20, 200, 200))
    example = Example(pixels, find_objects(AnnotatedSample(Path("x.png"), boxes), (80, 60)))
    for augment in ("none", "crop"):
        recipe = dataclasses.replace(PLAIN, augment=augment, expand=0.5)
        examples = BoxExamples(recipe, make_spec())
        for seed in range(10):
            label = examples.augment(example, SIZE, seed)[1]
            assert label.isfinite().all()
            assert (label[:, 0] == 2).any() or (augment == "crop" and label[:, 0].any())


# What is started from


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
def test_a_classifier_gives_its_backbone(architecture: Any, small_spec: Any, lived_in_state: Any) -> None:
    base = small_spec(architecture)
    state = lived_in_state(base)
    recipe = dataclasses.replace(PLAIN, seed=5)
    spec, weights, fresh = start_detector(base, state, CLASSES, recipe)
    assert (spec.task, spec.labels, spec.input_size, spec.scores) == ("detection", CLASSES, SIZE, "softmax")
    assert (spec.preprocess.fit, spec.preprocess.crop, spec.preprocess.mean) == ("stretch", SIZE, base.preprocess.mean)
    shapes = state_shapes(spec)
    assert {name: value.shape for name, value in weights.items() if name in shapes} == shapes
    for name, value in state.items():
        if not name.startswith(("classifier", "fc.")):
            assert weights[f"backbone.{name}"] is value
    parameters = {name for name, _ in build_network(spec).named_parameters()}
    assert fresh == {name for name in parameters if not name.startswith("backbone.")}
    again = start_detector(base, state, CLASSES, recipe)[1]
    other = start_detector(base, state, CLASSES, dataclasses.replace(recipe, seed=6))[1]
    assert all((weights[name] == again[name]).all() for name in weights)
    assert (weights["boxes.0.1.weight"] != other["boxes.0.1.weight"]).any()


def test_a_detector_keeps_what_fits() -> None:
    base = make_spec()
    state = fresh_state(base)
    spec, weights, fresh = start_detector(base, state, CLASSES, PLAIN)
    assert not fresh
    assert spec == base
    assert all(weights[name] is value for name, value in state.items())
    larger = dataclasses.replace(PLAIN, eval_size=128)
    assert start_detector(base, state, CLASSES, larger)[0].input_size == 128
    for classes, recipe in ((("cat", "dog"), PLAIN), (CLASSES, dataclasses.replace(PLAIN, box_loss="focal"))):
        spec, weights, fresh = start_detector(base, state, classes, recipe)
        assert spec.labels == classes
        assert all(name.startswith("classes.") for name in fresh)
        assert all(weights[name] is value for name, value in state.items() if not name.startswith("classes."))
        assert {name: value.shape for name, value in weights.items()} | state_shapes(spec) == {
            name: value.shape for name, value in weights.items()
        }


def test_random_weights_and_the_first_scores_of_focal_loss() -> None:
    base = ModelSpec("mobilenet_v2", 0.35, ("anything",))
    focal = dataclasses.replace(PLAIN, box_loss="focal")
    spec, weights, fresh = start_detector(base, {}, CLASSES, focal)
    assert spec.scores == "sigmoid"
    assert fresh == {name for name, _ in build_network(spec).named_parameters()}
    for k in range(6):
        assert 1 / (1 + np.exp(-weights[f"classes.{k}.1.bias"])) == pytest.approx(0.01)
    assert not start_detector(base, {}, CLASSES, PLAIN)[1]["classes.0.1.bias"].any()


def test_what_no_detector_can_start_from() -> None:
    segmenter = ModelSpec("mobilenet_v2", 0.35, ("a", "b"), task="segmentation", output_stride=16)
    with pytest.raises(UsageError, match="classifier, such as mobilenet_v2"):
        start_detector(segmenter, {}, CLASSES, PLAIN)
    with pytest.raises(WeightsError, match="4 channels"):
        start_detector(ModelSpec("mobilenet_v2", 0.35, ("a",), input_channels=4), {}, CLASSES, PLAIN)


# The task


@pytest.mark.parametrize("loss", ["multibox", "focal"])
def test_it_measures_what_evaluation_measures(tmp_path: Path, loss: Any) -> None:
    samples = make_samples(tmp_path, 6)
    recipe = dataclasses.replace(PLAIN, box_loss=loss)
    spec = make_spec(scores="sigmoid" if loss == "focal" else "softmax")
    task = make_task(samples, recipe, spec=spec)
    found = task.measure(HERE)
    assert found["val_images"] == 6

    pixels = torch.stack([torch.from_numpy(crop_pixels(s.read(), spec.preprocess)).permute(2, 0, 1) for s in samples])
    task.network.eval()
    with torch.no_grad():
        logits, codes = task.network(task.normalize(pixels))
        labels = torch.stack([make_label(find_objects(sample, (120, 90)), SIZE) for sample in samples])
        expected = box_loss(logits, codes, labels, recipe)
    assert found["val_loss"] == pytest.approx(expected.item(), rel=1e-3)

    state = {name: value.numpy() for name, value in task.network.state_dict().items()}
    figures = box_figures(in_memory(state, spec), samples, threads=1)
    assert found["val_map"] == pytest.approx(figures["map"], abs=1e-6)
    assert found["val_map50"] == pytest.approx(figures["map50"], abs=1e-6)


def test_each_picture_is_measured_by_one_process(tmp_path: Path) -> None:
    samples = make_samples(tmp_path, 5)
    samples.append(AnnotatedSample(tmp_path / "missing.png", ()))
    task = make_task(samples[:5], PLAIN)
    task.validation = samples
    alone = task.measure(HERE)
    assert alone["val_images"] == 5

    class Half(World):
        """One of two processes, which is told what the other one holds."""

        others: dict[str, Any]
        told: dict[str, Any]

        def sum(self, numbers: Any) -> list[float]:
            self.told["sum"] = list(numbers)
            return [a + b for a, b in zip(numbers, self.others["sum"], strict=True)] if self.others else list(numbers)

        def gather(self, value: Any) -> list[Any]:
            self.told["gather"] = value
            return [value, self.others["gather"]] if self.others else [value]

    second, first = Half(1, 2, HERE.device), Half(0, 2, HERE.device)
    for world, others in ((second, {}), (first, second.__dict__.setdefault("told", {}))):
        object.__setattr__(world, "told", world.__dict__.get("told", {}))
        object.__setattr__(world, "others", others)
        together = task.measure(world)
    assert together == pytest.approx(alone)
    task.validation = ()
    assert task.measure(HERE) == {}


def test_the_loss_reaches_every_parameter_and_is_the_same_when_quickened(tmp_path: Path) -> None:
    samples = make_samples(tmp_path, 8)
    recipe = dataclasses.replace(PLAIN, batch=8, channels_last=True)
    losses, gradients = [], []
    for quick in (False, True):
        task = make_task(samples, recipe)
        # In float64: in float32 a small batch's statistics by way of covariances are a hundredth off.
        task.network.double().train()
        task.normalize.mean, task.normalize.std = task.normalize.mean.double(), task.normalize.std.double()
        if quick:
            fuse(task.network)
        loss, right = task.loss(task.network, next(task.batches(0, 0)), 0)
        loss.backward()
        assert 0 <= right <= 8
        losses.append(loss.item())
        gradients.append({name: p.grad for name, p in task.network.named_parameters()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, one in gradients[0].items():
        other = gradients[1][name]
        assert one is not None, name
        assert other is not None, name
        assert (one - other).norm() <= 1e-4 * one.norm() + 1e-5, name


def test_head_and_stages(tmp_path: Path) -> None:
    samples = make_samples(tmp_path, 4)
    task = make_task(samples, PLAIN)
    heads = [p for name, p in task.network.named_parameters() if not name.startswith("backbone.")]
    assert [id(p) for p in task.head] == [id(p) for p in heads]
    assert len(task.stages) == 19
    some = make_task(samples, PLAIN, fresh=frozenset({"classes.0.1.weight", "classes.0.1.bias"}))
    assert [p.shape[0] for p in some.head] == [12, 12]
    assert not make_task(samples, PLAIN, fresh=frozenset()).head


@pytest.mark.parametrize("k", range(4))
def test_kernels_of_the_extra_layers_learn_from_a_map_of_one_cell(tmp_path: Path, k: int) -> None:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        pytest.skip("this C library cannot fill memory with garbage")
    task = make_task(make_samples(tmp_path, 4), PLAIN)
    kernel: Any = task.network.get_submodule(f"extras.{k}.1.0")
    generator = torch.Generator().manual_seed(k)
    seen = torch.randn(8, 1, 1, kernel.in_channels, generator=generator).permute(0, 3, 1, 2)
    # Filled with garbage before it is used: a kernel that reads what was never written is right where that is 0.
    mallopt(-6, 1)  # M_PERTURB
    try:
        with torch.autocast("cpu", torch.bfloat16):
            kernel(seen.bfloat16()).sum().backward()
    finally:
        mallopt(-6, 0)
    # Of the nine weights only the middle one meets the cell.
    expected = torch.zeros_like(kernel.weight)
    expected[:, 0, 1, 1] = seen.bfloat16().float().sum((0, 2, 3))
    assert torch.allclose(kernel.weight.grad, expected, atol=1e-4)


def test_the_loop_trains_it(tmp_path: Path) -> None:
    samples = make_samples(tmp_path, 8)
    recipe = dataclasses.replace(PLAIN, epochs=2, augment="crop", expand=0.5, color_jitter=0.2, ema=0.5)
    outcome = fit(make_task(samples, recipe), recipe, HERE, run=None)
    assert outcome.epochs == 2
    assert set(outcome.best) == {"val_loss", "val_map", "val_map50", "val_images"}


@pytest.mark.slow
def test_it_learns_eight_pictures_by_heart(tmp_path: Path) -> None:
    samples = make_samples(tmp_path, 8, size=(160, 160))
    recipe = dataclasses.replace(
        PLAIN, epochs=80, size=128, eval_size=128, batch=8, augment="flip", optimizer="adamw", lr=2e-3, backbone_lr=0.3,
        warmup_epochs=3.0, precision="bfloat16", channels_last=True,
    )  # fmt: skip
    base = ModelSpec("mobilenet_v2", 0.35, CLASSES)
    spec, state, fresh = start_detector(base, {}, CLASSES, recipe)
    task = make_task(samples, recipe, spec=spec, state=state, fresh=fresh)
    measured = task.measure

    def at_the_end(world: World, _: Any) -> dict[str, float]:
        return {}

    task.measure = at_the_end
    fit(task, recipe, HERE, run=None)
    assert measured(HERE)["val_map50"] > 0.9
