"""Segmentation in training: pictures and masks that stay together, the loss by hand, and networks to start from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.annotated import AnnotatedSample
from fusiform.data.masks import IGNORE
from fusiform.data.preprocess import crop_pixels
from fusiform.errors import ImageError, WeightsError
from fusiform.evaluation.segmentation import outline
from fusiform.modules import DeepLabV3, build_network
from fusiform.progress import silent
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tasks.segmentation_metrics import class_counts, mean_iou, pixel_accuracy, pixel_confusion
from fusiform.training.batch_norm import unfold
from fusiform.training.classification import in_memory
from fusiform.training.distributed import World
from fusiform.training.fused import fuse
from fusiform.training.loader import Example, Loaded, Pictures, load
from fusiform.training.loop import fit, set_modes
from fusiform.training.narrowing import slice_state
from fusiform.training.recipe import Recipe
from fusiform.training.segmentation import (
    MaskExamples,
    SegmentationTask,
    ValidationLoss,
    count_pixels,
    mask_loss,
    median_frequency_weights,
    place_mask,
    resize_logits,
    right_share,
    start_segmenter,
)
from fusiform.zoo.load import load_state
from fusiform.zoo.model import open_model

CLASSES = ("background", "red", "blue")
ALONE = World(0, 1, torch.device("cpu"))
PLAIN = Preprocess()
BGR = Preprocess(mean=(0.2, 0.4, 0.6), std=(0.3, 0.2, 0.25), color_order="bgr")


def make_recipe(**changes: Any) -> Recipe:
    plain = Recipe(
        "masks", 1, task="segmentation", metric="miou", size=65, eval_size=65, batch=4, fused=False, cache="memory"
    )
    return dataclasses.replace(plain, **changes)


def make_spec(recipe: Recipe, architecture: Any = "mobilenet_v2", *, preprocess: Preprocess = PLAIN) -> ModelSpec:
    """A small segmenter of ``CLASSES``."""
    size = recipe.eval_size
    return ModelSpec(
        architecture,
        0.5,
        CLASSES,
        task="segmentation",
        input_size=size,
        output_stride=recipe.output_stride,
        aspp=recipe.aspp,
        preprocess=dataclasses.replace(preprocess, resize=size, crop=size, fit="pad"),
    )


def save(folder: Path, name: str, pixels: NDArray[np.uint8], mask: NDArray[np.uint8]) -> AnnotatedSample:
    Image.fromarray(pixels).save(folder / f"{name}.png")
    Image.fromarray(mask).save(folder / f"{name}_mask.png")
    return AnnotatedSample(folder / f"{name}.png", mask_file=folder / f"{name}_mask.png")


def made_pictures(folder: Path, count: int, *, side: int = 97) -> list[AnnotatedSample]:
    """A red and a blue rectangle on noisy grey each, with their masks and some pixels that belong to no class."""
    random = np.random.default_rng(5)
    samples = []
    for number in range(count):
        pixels = random.integers(90, 160, (side, side, 3))
        mask = np.zeros((side, side), np.uint8)
        for label, color in ((1, (210, 40, 40)), (2, (40, 60, 220))):
            top = int(random.integers(side // 2))
            left = int(random.integers(side // 8)) + (label - 1) * side // 2
            area = slice(top, top + side // 2), slice(left, left + side // 3)
            pixels[area] = color + random.integers(-20, 20, (*mask[area].shape, 3))
            mask[area] = label
        mask[0] = IGNORE
        samples.append(save(folder, str(number), pixels.clip(0, 255).astype(np.uint8), mask))
    return samples


def load_pictures(samples: list[AnnotatedSample], recipe: Recipe, spec: ModelSpec) -> Pictures:
    examples = MaskExamples(recipe, spec)
    loaded = load(samples, examples, cache="memory", threads=1, progress=silent)
    assert not loaded.errors
    return Pictures(loaded, examples, recipe, ALONE)


def lived_in(spec: ModelSpec) -> dict[str, NDArray[Any]]:
    """Weights whose answers differ from pixel to pixel and between classes."""
    torch.manual_seed(2)
    network = build_network(spec)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values, low, high in (
                (module.weight, 0.8, 1.3),
                (module.bias, -0.2, 0.5),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.6, 1.2),
            ):
                assert values is not None
                values.data.uniform_(low, high)
    torch.nn.init.normal_(network.get_parameter("classifier.weight"), std=0.3)
    return {name: value.numpy() for name, value in network.state_dict().items()}


# Pictures and masks


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from(["none", "flip", "crop"]),
    st.tuples(st.floats(0.3, 2.5), st.floats(0.3, 2.5)).map(lambda pair: (min(pair), max(pair))),
    st.integers(0, 2**60),
)
def test_pictures_and_masks_stay_together(
    width: int, height: int, augment: Any, scale_range: tuple[float, float], seed: int
) -> None:
    recipe = make_recipe(size=48, augment=augment, scale_range=scale_range)
    examples = MaskExamples(recipe, make_spec(recipe))
    mask = np.random.default_rng(seed).integers(0, 2, (4, 4), dtype=np.uint8).repeat(23, 0).repeat(23, 1)
    mask = np.ascontiguousarray(mask[:height, :width])
    example = Example(np.repeat(255 * mask[..., None], 3, axis=2), mask)
    picture, labels = examples.augment(example, 48, seed)
    assert (type(picture), picture.dtype, picture.shape) == (torch.Tensor, torch.uint8, (3, 48, 48))
    assert (type(labels), labels.dtype, labels.shape) == (torch.Tensor, torch.uint8, (48, 48))
    # A pixel that is wholly black or white had no other neighbours; all that is neither is padding.
    padding = labels == IGNORE
    assert (labels[(picture == 0).all(0) & ~padding] == 0).all()
    assert (labels[(picture == 255).all(0) & ~padding] == 1).all()
    assert (torch.tensor([124, 116, 104]) == picture[:, padding].T).all()
    # What is seen of the picture is one rectangle, and some of it always is.
    rows, columns = (~padding).any(1), (~padding).any(0)
    assert int((~padding).sum()) == int(rows.sum()) * int(columns.sum()) > 0


@pytest.mark.parametrize("size", [(130, 97), (70, 200), (200, 200), (40, 31)])
@pytest.mark.parametrize("preprocess", [PLAIN, BGR])
def test_unaugmented_training_pictures_are_those_of_evaluation(
    tmp_path: Path, size: tuple[int, int], preprocess: Preprocess
) -> None:
    random = np.random.default_rng(1)
    pixels = np.array(
        Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    )
    mask = np.array(Image.fromarray(random.integers(0, 3, (9, 9), dtype=np.uint8)).resize(size, 0))
    sample = save(tmp_path, "picture", pixels, mask)
    recipe = make_recipe(augment="none")
    spec = make_spec(recipe, preprocess=preprocess)
    examples = MaskExamples(recipe, spec)
    picture, labels = examples.augment(examples.decode(sample), 65, 3)
    wanted = crop_pixels(Image.fromarray(pixels), spec.preprocess)
    if preprocess.color_order == "bgr":
        wanted = wanted[..., ::-1]
    # Enlarging is PyTorch's here and Pillow's there; reduced pictures are the same to the bit.
    tolerance = 1 if max(size) < 65 else 0
    np.testing.assert_allclose(picture.permute(1, 2, 0).numpy().astype(int), wanted.astype(int), atol=tolerance)
    np.testing.assert_array_equal(labels.numpy(), place_mask(mask, spec.preprocess))


def test_pictures_are_kept_no_larger_than_training_needs(tmp_path: Path) -> None:
    pixels, mask = np.zeros((300, 150, 3), np.uint8), np.zeros((300, 150), np.uint8)
    mask[:, 75:] = 1
    sample = save(tmp_path, "picture", pixels, mask)
    for changes, longer in (({}, 130), ({"scale_range": (0.5, 1.2)}, 78), ({"augment": "flip"}, 65)):
        recipe = make_recipe(**changes)
        example = MaskExamples(recipe, make_spec(recipe)).decode(sample)
        assert example.pixels.shape == (longer, -(-longer // 2), 3)
        assert example.target.shape == example.pixels.shape[:2]
        assert example.target.dtype == np.uint8
        assert (example.target[:, 0] == 0).all()
        assert (example.target[:, -1] == 1).all()


def test_the_scale_is_that_of_the_recipe_and_the_place_is_chance() -> None:
    example = Example(np.full((60, 120, 3), 9, np.uint8), np.ones((60, 120), np.uint8))

    def seen(seed: int, **changes: Any) -> tuple[int, int, int, int]:
        recipe = make_recipe(**changes)
        labels = MaskExamples(recipe, make_spec(recipe)).augment(example, 65, seed)[1] != IGNORE
        rows, columns = np.flatnonzero(labels.any(1)), np.flatnonzero(labels.any(0))
        return int(rows[0]), int(columns[0]), len(rows), len(columns)

    found = [seen(seed, scale_range=(0.6, 0.6)) for seed in range(40)]
    assert {place[2:] for place in found} == {(20, 39)}  # 65 x 0.6 = 39, and half of that
    assert min(place[0] for place in found) < 10
    assert max(place[0] for place in found) > 35
    assert {seen(seed, scale_range=(2.0, 2.0))[2:] for seed in range(5)} == {(65, 65)}
    widths = [seen(seed, scale_range=(0.5, 1.0))[3] for seed in range(40)]
    assert 32 <= min(widths) < 40
    assert 58 < max(widths) <= 65
    assert {seen(seed, augment="flip") for seed in range(9)} == {(0, 0, 33, 65)}


def test_mirroring_is_of_both_or_neither_and_never_where_the_recipe_forbids_it() -> None:
    pixels, mask = np.zeros((65, 65, 3), np.uint8), np.zeros((65, 65), np.uint8)
    pixels[:, 40:], mask[:, 40:] = 200, 2
    example = Example(pixels, mask)

    def sides(**changes: Any) -> set[tuple[bool, bool]]:
        recipe = make_recipe(scale_range=(1.0, 1.0), **changes)
        examples = MaskExamples(recipe, make_spec(recipe))
        found = [examples.augment(example, 65, seed) for seed in range(12)]
        return {(bool(picture[0, 0, 0] == 200), bool(labels[0, 0] == 2)) for picture, labels in found}

    assert sides(augment="flip") == sides(augment="crop") == {(True, True), (False, False)}
    assert sides(augment="none") == sides(augment="crop", flip=False) == {(False, False)}


def test_changed_colours_leave_the_mask_and_the_padding_alone() -> None:
    example = Example(np.full((30, 65, 3), (200, 90, 40), np.uint8), np.ones((30, 65), np.uint8))
    recipe = make_recipe(augment="none")
    spec = make_spec(recipe)
    plain = MaskExamples(recipe, spec).augment(example, 65, 4)
    changed = MaskExamples(dataclasses.replace(recipe, color_jitter=0.4), spec).augment(example, 65, 4)
    assert torch.equal(plain[1], changed[1])
    assert torch.equal(plain[0][:, 30:], changed[0][:, 30:])
    assert not torch.equal(plain[0][:, :30], changed[0][:, :30])


def test_a_seed_decides_everything() -> None:
    random = np.random.default_rng(0)
    example = Example(random.integers(0, 256, (80, 70, 3), dtype=np.uint8), np.zeros((80, 70), np.uint8))
    recipe = make_recipe(color_jitter=0.4)
    examples = MaskExamples(recipe, make_spec(recipe))
    torch.manual_seed(1)
    first = examples.augment(example, 65, 77)
    torch.manual_seed(2)
    again, other = examples.augment(example, 65, 77), examples.augment(example, 65, 78)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_what_cannot_be_read_is_told_by_name(tmp_path: Path) -> None:
    recipe = make_recipe()
    examples = MaskExamples(recipe, make_spec(recipe))
    pixels, mask = np.zeros((10, 20, 3), np.uint8), np.zeros((10, 20), np.uint8)
    with pytest.raises(ImageError, match=r"small_mask.png: the mask is 5 x 10"):
        examples.decode(save(tmp_path, "small", pixels, mask[:, :5].copy()))
    with pytest.raises(ImageError, match=r"labels beyond the 3 classes, most of them 3"):
        examples.decode(save(tmp_path, "unknown", pixels, mask + np.uint8(3)))
    with pytest.raises(ImageError, match=r"picture.png: has no mask"):
        examples.decode(AnnotatedSample(tmp_path / "picture.png"))
    sample = save(tmp_path, "good", pixels, mask)
    with pytest.raises(ImageError, match=r"none.png: no such mask"):
        examples.decode(dataclasses.replace(sample, mask_file=tmp_path / "none.png"))
    assert examples.decode(sample).target.shape == (10, 20)


# The loss


def test_the_loss_by_hand() -> None:
    three = float(np.log(3))
    # Pixels with probabilities 1/4, 3/4 | 1/2, 1/2 | anything, ignored.
    logits = torch.tensor([[0.0, 0.0, 5.0], [three, 0.0, -5.0]]).view(1, 2, 1, 3)
    masks = torch.tensor([[[1, 0, IGNORE]]], dtype=torch.uint8)
    assert float(mask_loss(logits, masks)) == pytest.approx((np.log(4 / 3) + np.log(2)) / 2)
    weighted = mask_loss(logits, masks, weights=torch.tensor([3.0, 1.0]))
    assert float(weighted) == pytest.approx((np.log(4 / 3) + 3 * np.log(2)) / 4)
    assert right_share(logits, masks).tolist() == [1.0]
    wrong = torch.tensor([[[1, 1, 0]], [[0, 0, IGNORE]], [[IGNORE] * 3]], dtype=torch.uint8)
    # Of equal logits none is larger than the true one's.
    assert right_share(logits.expand(3, -1, -1, -1), wrong).tolist() == pytest.approx([1.0, 0.5, 0.0])
    assert right_share(-logits, masks).tolist() == [0.5]


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_pytorchs(weighted: bool) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 7, 9, requires_grad=True)
    masks = torch.randint(0, 5, (3, 7, 9))
    masks[torch.rand(3, 7, 9) < 0.3] = IGNORE
    weights = torch.rand(5) + 0.1 if weighted else None
    wanted = F.cross_entropy(logits, masks, weights, ignore_index=IGNORE)
    found = mask_loss(logits, masks.to(torch.uint8), weights=weights)
    torch.testing.assert_close(found, wanted)
    for a, b in zip(torch.autograd.grad(found, logits), torch.autograd.grad(wanted, logits), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("weights", [None, torch.ones(4), torch.tensor([0.0, 1.0, 1.0, 1.0])])
def test_masks_of_which_nothing_counts_have_no_loss_and_no_gradient(weights: torch.Tensor | None) -> None:
    masks = torch.full((2, 3, 3), IGNORE, dtype=torch.uint8)
    if weights is not None and weights[0] == 0:
        masks[0] = 0  # a class of no weight
    logits = torch.randn(2, 4, 3, 3, requires_grad=True)
    loss = mask_loss(logits, masks, weights=weights)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0
    assert (gradient == 0).all()


def test_logits_are_resized_as_the_spec_says() -> None:
    coarse = torch.tensor([[0.0, 4.0], [8.0, 12.0]], dtype=torch.bfloat16).view(1, 1, 2, 2)
    aligned = resize_logits(coarse, (3, 5), align_corners=True)
    assert aligned.dtype == torch.float32
    assert aligned[0, 0].tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9, 10, 11, 12]]
    # In the middles of equal parts: half a cell of each side is constant.
    assert resize_logits(coarse, (2, 4), align_corners=False)[0, 0].tolist() == [[0, 1, 3, 4], [8, 9, 11, 12]]


def test_rare_classes_weigh_more_by_how_large_they_are_where_they_are() -> None:
    # Class 1 fills a quarter of the one mask that shows it, class 2 an eighth of both, class 3 is nowhere.
    first = np.array([[0, 0, 0, 1], [0, 0, 1, 2]], np.uint8)
    second = np.array([[0, 0, 0, 0], [0, 0, 0, 2], [IGNORE] * 4], np.uint8)
    counts = count_pixels([first, second], 4)
    assert counts.tolist() == [[12, 2, 2, 0], [16, 8, 16, 0]]
    # Frequencies 3/4, 1/4, 1/8: the median is 1/4.
    assert median_frequency_weights(counts).tolist() == pytest.approx([1 / 3, 1.0, 2.0, 0.0])
    assert count_pixels([], 2).tolist() == [[0, 0], [0, 0]]
    assert median_frequency_weights(count_pixels([], 2)).tolist() == [0, 0]


# The task


def make_task(
    folder: Path, recipe: Recipe, *, validation: int = 0, count: int = 4, architecture: Any = "mobilenet_v2"
) -> SegmentationTask:
    samples = made_pictures(folder, count)
    base = ModelSpec(architecture, 0.5, ("x",), preprocess=BGR)
    spec = start_segmenter(base, {}, CLASSES, recipe)[0]
    pictures = load_pictures(samples, recipe, spec)
    return SegmentationTask(spec, lived_in(spec), pictures, samples[:validation], recipe, ALONE)


def test_the_loss_of_a_batch_is_that_of_the_networks_full_sized_logits(tmp_path: Path) -> None:
    task = make_task(tmp_path, make_recipe(channels_last=True, class_weights="balanced"))
    task.network.eval()
    batch = next(task.batches(0, 0))
    assert batch.pictures.shape == (4, 3, 65, 65)
    loss, right = task.loss(task.network, batch, 0)
    normalized = (batch.pictures.flip(1) / 255 - torch.tensor(BGR.mean).view(3, 1, 1)) / torch.tensor(BGR.std).view(
        3, 1, 1
    )
    logits = task.network(normalized)
    masks = batch.labels.long()
    assert task.weights is not None
    expected = median_frequency_weights(count_pixels([e.target for e in task.pictures.dataset.decoded if e], 3))
    torch.testing.assert_close(task.weights, expected)
    torch.testing.assert_close(loss, F.cross_entropy(logits, masks, expected, ignore_index=IGNORE))
    shares = [float((logits[k].argmax(0) == masks[k])[masks[k] != IGNORE].float().mean()) for k in range(len(masks))]
    assert 0 < right < 4
    assert right == pytest.approx(sum(shares))
    loss.backward()
    assert all(parameter.grad is not None for parameter in task.network.parameters())


def test_weights_of_classes_are_the_same_whether_pictures_are_kept_or_read_again(tmp_path: Path) -> None:
    recipe = make_recipe(class_weights="balanced", size=97)
    samples = made_pictures(tmp_path, 3)
    spec = make_spec(recipe)
    kept = load_pictures(samples, recipe, spec)
    broken = AnnotatedSample(tmp_path / "gone.png", mask_file=tmp_path / "gone.png")
    read = Pictures(Loaded([*samples, broken], [None] * 4, [], 0), MaskExamples(recipe, spec), recipe, ALONE)
    found = [SegmentationTask(spec, lived_in(spec), pictures, [], recipe, ALONE).weights for pictures in (kept, read)]
    assert found[0] is not None
    assert found[1] is not None
    assert torch.equal(found[0], found[1])
    assert len(set(found[0].tolist())) > 1


@pytest.mark.parametrize(("architecture", "stages"), [("mobilenet_v2", 18), ("shufflenet_v2", 17)])
def test_stages_are_those_of_the_backbone_that_is_left(tmp_path: Path, architecture: str, stages: int) -> None:
    recipe = make_recipe(freeze=1.0)
    task = make_task(tmp_path, recipe, architecture=architecture)
    # The stem, and 17 bottlenecks or 16 units.
    assert len(task.stages) == stages
    set_modes(task, recipe, stages)
    learning = {name.split(".")[0] for name, value in task.network.named_parameters() if value.requires_grad}
    assert learning == {"pooling", "branches", "projection", "classifier"}


def test_the_head_is_what_is_fresh(tmp_path: Path) -> None:
    recipe = make_recipe()
    spec, state, fresh = start_segmenter(ModelSpec("mobilenet_v2", 0.5, ("x",)), {}, CLASSES, recipe)
    pictures = load_pictures(made_pictures(tmp_path, 2), recipe, spec)
    names = frozenset({"classifier.weight", "classifier.bias", "projection.1.running_mean"})
    task = SegmentationTask(spec, state, pictures, [], recipe, ALONE, fresh=names)
    assert [id(parameter) for parameter in task.head] == [
        id(task.network.get_parameter("classifier.weight")),
        id(task.network.get_parameter("classifier.bias")),
    ]
    everything = SegmentationTask(spec, state, pictures, [], recipe, ALONE, fresh=fresh)
    assert len(everything.head) == len(list(everything.network.parameters()))
    assert SegmentationTask(spec, state, pictures, [], recipe, ALONE).head == []


def test_the_measure_by_the_network_itself(tmp_path: Path) -> None:
    task = make_task(tmp_path, make_recipe(), validation=3)
    broken = AnnotatedSample(tmp_path / "0.png", mask_file=tmp_path / "missing.png")
    task.validation = [*task.validation, broken]
    task.network.train()
    found = task.measure(ALONE)
    assert all(module.training for module in task.network.modules())

    network = task.network.eval()
    confusion, losses, counts = np.zeros((3, 3), int), 0.0, 0
    for sample in task.validation[:3]:
        image, mask = sample.read(), np.array(Image.open(sample.mask_file or ""))
        pixels = torch.tensor(crop_pixels(image, task.spec.preprocess)).permute(2, 0, 1)[None] / 255
        x = (pixels - torch.tensor(BGR.mean).view(3, 1, 1)) / torch.tensor(BGR.std).view(3, 1, 1)
        with torch.no_grad():
            logits = network(x)
        placed = torch.tensor(place_mask(mask, task.spec.preprocess)).long()[None]
        losses += float(F.cross_entropy(logits, placed, ignore_index=IGNORE, reduction="sum"))
        counts += int((placed != IGNORE).sum())
        # The picture fills the square; its own 97 pixels lie between those of the input, to half a pixel.
        at = (torch.arange(97) + 0.5) * 65 / 97 - 0.5
        grid = torch.stack(torch.meshgrid(at / 32 - 1, at / 32 - 1, indexing="xy"), -1)[None]
        fine = F.grid_sample(
            network.forward_coarse(x).detach(),
            grid,
            padding_mode="border",
            align_corners=True,
        )
        confusion += pixel_confusion(mask, fine[0].argmax(0).numpy(), 3)
    totals = class_counts(confusion)
    assert found.keys() == {"val_loss", "val_miou", "val_pixel_accuracy", "val_images"}
    assert found["val_images"] == 3
    assert found["val_loss"] == pytest.approx(losses / counts, rel=1e-4)
    assert found["val_pixel_accuracy"] == pytest.approx(float(pixel_accuracy(totals)), abs=2e-3)
    assert found["val_miou"] == pytest.approx(float(mean_iou(totals, range(3))), abs=2e-3)

    # Any number of threads, and pictures that go through together, give the same loss.
    model = in_memory({name: value.numpy() for name, value in network.state_dict().items()}, task.spec)
    again = ValidationLoss(task.spec)
    outline(model, task.validation, engine="torch", threads=2, batch=2, look=again)
    assert again.total / again.pixels == pytest.approx(found["val_loss"], rel=1e-4)


def test_without_pictures_there_is_nothing_to_measure(tmp_path: Path) -> None:
    task = make_task(tmp_path, make_recipe())
    assert task.measure(ALONE) == {}
    task.validation = [AnnotatedSample(tmp_path / "gone.png", mask_file=tmp_path / "gone.png")]
    assert task.measure(ALONE) == {}


# Networks to start from


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_a_classifier_gives_its_backbone(architecture: Any, padding: Any, small_spec: Any, lived_in_state: Any) -> None:
    base = dataclasses.replace(
        small_spec(architecture, padding=padding), preprocess=Preprocess(32, 32, mean=BGR.mean, std=BGR.std)
    )
    state = lived_in_state(base)
    recipe = make_recipe(output_stride=8, aspp=True, seed=4)
    base = base.replace(output="logits", temperature=2.0, license="some")
    spec, weights, fresh = start_segmenter(base, state, CLASSES, recipe)
    assert (spec.task, spec.labels, spec.padding, spec.license) == ("segmentation", CLASSES, padding, "some")
    assert (spec.output_stride, spec.aspp, spec.align_corners, spec.temperature) == (8, True, True, 1.0)
    assert (spec.input_size, spec.preprocess.crop, spec.preprocess.resize, spec.preprocess.fit) == (65, 65, 65, "pad")
    assert (spec.preprocess.mean, spec.preprocess.std) == (BGR.mean, BGR.std)

    network = build_network(spec)
    load_state(network, weights, source="start")
    assert {name.split(".")[0] for name in fresh} == {"pooling", "branches", "projection", "classifier"}
    assert fresh == {name for name in network.state_dict() if not name.startswith("backbone.")}
    # The map that the head reads is the classifier's, of the same stride where it is not dilated.
    classifier = build_network(base)
    load_state(classifier, state, source="base")
    picture = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        first = network.eval().backbone.forward_stages(picture)["stride_8"]  # type: ignore[union-attr,operator]
        wanted = classifier.eval().forward_stages(picture)["stride_8"]
    torch.testing.assert_close(first, wanted)


def test_a_segmenter_keeps_what_still_fits() -> None:
    recipe = make_recipe()
    base, state, fresh = start_segmenter(ModelSpec("shufflenet_v2", 0.5, ("x",)), {}, CLASSES, recipe)
    assert fresh == set(state)
    assert base.output_stride == 16

    spec, kept, fresh = start_segmenter(base, state, CLASSES, dataclasses.replace(recipe, output_stride=8, seed=9))
    assert fresh == frozenset()
    assert spec.output_stride == 8
    assert all(np.array_equal(kept[name], value) for name, value in state.items())

    spec, kept, fresh = start_segmenter(base, state, ("background", "cat"), dataclasses.replace(recipe, seed=9))
    assert fresh == {"classifier.weight", "classifier.bias"}
    assert kept["classifier.weight"].shape == (2, 256, 1, 1)
    assert np.array_equal(kept["projection.0.weight"], state["projection.0.weight"])
    # The same classes in another order are others.
    assert start_segmenter(base, state, CLASSES[::-1], recipe)[2] == fresh

    spec, kept, fresh = start_segmenter(base, state, CLASSES, dataclasses.replace(recipe, aspp=True))
    assert fresh == {name for name in kept if not name.startswith("backbone.")}
    assert "branches.3.0.weight" in fresh
    load_state(build_network(spec), kept, source="start")


def test_a_detector_gives_its_backbone() -> None:
    recipe = make_recipe()
    base = ModelSpec("mobilenet_v2", 0.5, ("a",), task="detection", scores="sigmoid", input_size=224)
    state = {name: value.numpy() for name, value in build_network(base).state_dict().items()}
    spec, weights, fresh = start_segmenter(base, state, CLASSES, recipe)
    assert spec.scores == "softmax"
    assert not any(name.startswith("backbone.") for name in fresh)
    name = "backbone.features.17.conv.2.weight"
    assert np.array_equal(weights[name], state[name])
    load_state(build_network(spec), weights, source="start")


def test_fresh_weights_are_those_of_the_seed_and_missing_ones_are_told() -> None:
    base, recipe = ModelSpec("mobilenet_v2", 0.35, ("x",)), make_recipe()
    first, again, other = (
        start_segmenter(base, {}, CLASSES, dataclasses.replace(recipe, seed=seed))[1] for seed in (3, 3, 4)
    )
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["classifier.weight"], other["classifier.weight"])
    with pytest.raises(WeightsError, match="reads 1 channels; photographs have 3"):
        start_segmenter(base.replace(input_channels=1), {}, CLASSES, recipe)

    spec, state, _ = start_segmenter(base, {}, CLASSES, recipe)
    state = {name: value for name, value in state.items() if name != "backbone.features.3.conv.2.weight"}
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    spec, weights, _ = start_segmenter(spec, state, CLASSES, recipe)
    with pytest.raises(WeightsError, match=r"missing \['backbone.features.3.conv.2.weight'\]"):
        load_state(build_network(spec), weights, source="start")


# Training


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
def test_the_quick_step_computes_what_the_plain_one_does(architecture: Any) -> None:
    spec = make_spec(make_recipe(output_stride=8, aspp=True), architecture)
    network = build_network(spec, dropout=0.0).double()
    assert isinstance(network, DeepLabV3)
    torch.nn.init.normal_(network.classifier.weight, std=0.3)
    pictures = torch.randn(2, 3, 65, 65, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    masks = torch.randint(0, 3, (2, 65, 65), generator=torch.Generator().manual_seed(1))

    def gradients() -> list[torch.Tensor]:
        loss = F.cross_entropy(network(pictures), masks)
        return list(torch.autograd.grad(loss, list(network.parameters())))

    plain = gradients()
    fuse(network)
    quick = gradients()
    largest = max(float(gradient.abs().max()) for gradient in plain)
    for a, b in zip(quick, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8 * largest)


@pytest.mark.slow
def test_a_few_pictures_are_learned_by_heart(tmp_path: Path) -> None:
    recipe = make_recipe(
        epochs=64,
        size=97,
        eval_size=97,
        batch=8,
        output_stride=8,
        augment="flip",
        optimizer="adamw",
        lr=4e-3,
        schedule="poly",
        dropout=0.0,
        channels_last=True,
        fused=True,
    )
    samples = made_pictures(tmp_path, 8)
    classifier = open_model("mobilenet_v2")
    narrow = slice_state(classifier.state(), classifier.spec, 0.35)
    spec, state, fresh = start_segmenter(classifier.spec.replace(width=0.35), narrow, CLASSES, recipe)
    pictures = load_pictures(samples, recipe, spec)
    task = SegmentationTask(spec, state, pictures, samples, recipe, ALONE, fresh=fresh)
    looked = [torch.stack([pictures.look(k, 97, seed) for k in range(8)]) for seed in range(4)]
    unfold(task.network.get_submodule("backbone"), [task.normalize(batch) for batch in looked])
    measure = task.measure
    task.measure = lambda *_: {}  # only the last weights are of interest
    fit(task, recipe, ALONE, run=None)
    found = measure(ALONE)
    assert found["val_miou"] > 0.85
    assert found["val_pixel_accuracy"] > 0.93
