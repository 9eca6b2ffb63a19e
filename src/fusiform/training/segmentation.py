"""Segmentation as a task of the training loop: pictures with masks, a fresh head, the loss and the measure."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fusiform.data.annotated import AnnotatedSample
from fusiform.data.masks import IGNORE
from fusiform.data.preprocess import mean_color, placement
from fusiform.engines import EngineName
from fusiform.errors import ImageError, MissingExtraError, WeightsError
from fusiform.evaluation.segmentation import outline, overlaps
from fusiform.graph.shapes import state_shapes
from fusiform.modules import DeepLabV3, build_network
from fusiform.progress import Tracker, silent
from fusiform.report import printable
from fusiform.spec import ModelSpec, Preprocess
from fusiform.training.augment import apply_seeded
from fusiform.training.classification import State, in_memory
from fusiform.training.distributed import World
from fusiform.training.loader import Batch, Example, Normalization, Pictures
from fusiform.training.recipe import Recipe
from fusiform.zoo.load import load_state
from fusiform.zoo.model import Model

Mask = NDArray[np.uint8]

GPU_BATCH = 16
"""Pictures that go through the network together where a GPU measures."""


class MaskExamples:
    """Segmentation's ``Examples``: a picture and its mask, uint8 (height, width), no larger than training needs.

    With ``recipe.augment`` crop, a picture's longer side becomes ``size`` times a factor from ``recipe.scale_range``,
    and a square of ``size`` is cut out at random (arXiv 1706.05587, Section 4.1); a smaller picture lies in it at
    random. Otherwise the longer side becomes ``size``, and the picture lies at the top left, as evaluation has it. The
    rest of the square has the mean colour and belongs to no class.
    """

    def __init__(self, recipe: Recipe, spec: ModelSpec) -> None:
        self.cuts = recipe.augment == "crop"
        self.scale_range = recipe.scale_range if self.cuts else (1.0, 1.0)
        self.flips = recipe.flip and recipe.augment != "none"
        self.color_jitter = recipe.color_jitter
        self.longer_side = math.ceil(recipe.size * self.scale_range[1])
        self.classes = spec.num_classes
        # Training pictures are RGB until they are normalised.
        color = mean_color(spec.preprocess)[:: -1 if spec.preprocess.color_order == "bgr" else 1]
        self.mean = torch.tensor(color, dtype=torch.uint8).view(3, 1, 1)

    def decode(self, sample: AnnotatedSample) -> Example:
        """See ``Examples``."""
        image, mask = read_pair(sample, classes=self.classes)
        if max(image.size) > self.longer_side:
            size = _resized(image.size, self.longer_side)
            # The very pixels of evaluation, where the picture is not resized again.
            image, mask = image.resize(size, Image.Resampling.BILINEAR), _resize_mask(mask, size)
        return Example(np.array(image), mask)

    def augment(self, example: Example, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """See ``Examples``; the label is the mask, uint8 (size, size)."""
        pair: Any = (torch.from_numpy(example.pixels).permute(2, 0, 1), torch.from_numpy(example.target))
        changed: Any = apply_seeded(lambda given: self._change(given, size), pair, seed)
        return cast("tuple[Tensor, Tensor]", changed)

    def _change(self, pair: Any, size: int) -> Any:
        try:
            from torchvision import tv_tensors
            from torchvision.transforms import v2
        except ImportError:
            raise MissingExtraError("torchvision", "torch", "augmenting pictures") from None
        picture, mask = pair
        factor = float(torch.empty(()).uniform_(*self.scale_range))
        width, height = _resized((picture.shape[2], picture.shape[1]), size * factor)
        picture = v2.functional.resize(picture, [height, width], antialias=True)
        # As plain pixels, because a mask's nearest neighbour is half a pixel off in torchvision.
        exact = v2.InterpolationMode.NEAREST_EXACT
        mask = v2.functional.resize(mask[None], [height, width], interpolation=exact)[0]
        if self.flips:
            picture, mask = v2.RandomHorizontalFlip()(tv_tensors.Image(picture), tv_tensors.Mask(mask))

        canvas = self.mean.repeat(1, size, size)
        labels = torch.full((size, size), IGNORE, dtype=torch.uint8)
        (taken_rows, rows), (taken_columns, columns) = (self._cut(length, size) for length in (height, width))
        part = picture[:, taken_rows, taken_columns]
        if self.color_jitter:
            strength = self.color_jitter
            part = v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength)(part)
        canvas[:, rows, columns] = part
        labels[rows, columns] = mask[taken_rows, taken_columns]
        return canvas, labels

    def _cut(self, length: int, size: int) -> tuple[slice, slice]:
        """What is taken of a side of the picture, and where it goes in the square."""
        at = int(torch.randint(abs(length - size) + 1, ())) if self.cuts else 0
        return (slice(at, at + size), slice(0, size)) if length > size else (slice(0, length), slice(at, at + length))


def read_pair(sample: AnnotatedSample, *, classes: int) -> tuple[Image.Image, Mask]:
    """A picture and its mask, uint8 (height, width) of the same size; ImageError where either cannot be read."""
    if not sample.has_mask:
        raise ImageError(f"{printable(sample.name)}: has no mask: draw one, or leave the picture out of the lists")
    image = sample.read()
    return image, sample.read_labels(image.size, classes=classes)


def _resized(size: tuple[int, int], longer_side: float) -> tuple[int, int]:
    """Width and height with the longer one of ``longer_side`` pixels, rounded as ``placement`` does."""
    width, height = (max(1, math.floor(longer_side * length / max(size) + 0.5)) for length in size)
    return width, height


def _resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    return np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def resize_logits(coarse: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Logits (N, K, h, w) in float32 for each pixel of masks of ``size`` (height, width)."""
    # Contiguous, since softmax and loss want each class's plane in one piece.
    coarse = coarse.float().contiguous()
    return F.interpolate(coarse, size=size, mode="bilinear", align_corners=align_corners)


def mask_loss(logits: Tensor, masks: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy, the mean over the pixels of masks (N, H, W) that are not ``IGNORE``, as a scalar.

    ``logits`` are (N, K, H, W), masks whole numbers of any type. ``weights`` (K,) makes it a weighted mean, with the
    weights of the pixels' classes. Where no pixel counts, the loss is 0, and so are its gradients. A batch in several
    parts, on several processes or in micro-steps, has the loss of the whole: the loop weighs the parts by
    ``SegmentationTask.amount``.
    """
    targets = masks.long()
    total = F.cross_entropy(logits, targets, weights, ignore_index=IGNORE, reduction="sum")
    counted = targets != IGNORE
    weight = counted.sum().float() if weights is None else weights[targets[counted]].sum()
    return total / torch.where(weight > 0, weight, 1.0)


def right_share(logits: Tensor, masks: Tensor) -> Tensor:
    """For each picture the share (N,) of its pixels that count whose true class has the largest logit; 0 where none
    counts.
    """
    counted = masks != IGNORE
    # The largest and the true class's: an argmax over the channels of maps takes a sixth of a whole training step.
    true = logits.gather(1, masks.long().clamp(max=logits.shape[1] - 1)[:, None])[:, 0]
    right = (true >= logits.amax(1)) & counted
    return right.sum((1, 2)) / counted.sum((1, 2)).clamp(min=1)


def count_pixels(masks: Iterable[Mask], classes: int) -> NDArray[np.int64]:
    """Counts (2, classes): each class's pixels, and the counted pixels of all the masks that show it."""
    counts = np.zeros((2, classes), np.int64)
    for mask in masks:
        found = np.bincount(mask[mask != IGNORE], minlength=classes)
        counts += found, np.where(found > 0, found.sum(), 0)
    return counts


def median_frequency_weights(counts: NDArray[np.integer[Any]]) -> Tensor:
    """Weights (K,) for ``mask_loss`` from ``count_pixels``: the median frequency of all classes / the class's own.

    A class's frequency is its share of the pictures that show it (Eigen and Fergus, arXiv 1411.4734), so that a thing
    seen seldom, but large, does not outweigh all others. A class that no picture shows has weight 0.
    """
    pixels, shown = counts
    present = pixels > 0
    frequency = pixels / np.maximum(shown, 1)
    median = np.median(frequency[present]) if present.any() else 0.0
    return torch.tensor(np.where(present, median / np.where(present, frequency, 1.0), 0.0), dtype=torch.float32)


class SegmentationTask:
    """A segmenter of photographs, as ``loop.Task`` describes it; ``fresh`` are the names of weights that start anew."""

    score = "pixel_accuracy"

    def __init__(
        self,
        spec: ModelSpec,
        state: Mapping[str, NDArray[Any]],
        pictures: Pictures,
        validation: Sequence[AnnotatedSample],
        recipe: Recipe,
        world: World,
        *,
        threads: int = 1,
        fresh: frozenset[str] = frozenset(),
    ) -> None:
        self.spec, self.recipe, self.pictures, self.validation = spec, recipe, pictures, validation
        network = cast("DeepLabV3", build_network(spec, dropout=recipe.dropout))
        load_state(network, state, source=spec.name)
        self.network: nn.Module = network.to(world.device)
        self.head = [parameter for name, parameter in network.named_parameters() if name in fresh]
        self.extra = nn.ModuleDict()
        # Without the last 1x1 convolution, which a segmenter's backbone does not have.
        self.stages = [stage for stage in network.backbone.stages() if any(True for _ in stage.parameters())]
        self.steps, self.batch = pictures.steps, pictures.batch
        self.threads = threads
        self.normalize = Normalization(spec.preprocess, recipe, world)
        self.weights: Tensor | None = None
        if recipe.class_weights == "balanced":
            self.weights = self._balanced(world).to(world.device)

    def _balanced(self, world: World) -> Tensor:
        """The classes' weights, from all training masks; each process counts its share."""
        data, classes = self.pictures.dataset, self.spec.num_classes
        mine = range(world.rank, len(data.samples), world.size)

        def masks() -> Iterator[Mask]:
            for i in mine:
                example = data.decoded[i]
                try:
                    yield example.target if example else read_pair(data.samples[i], classes=classes)[1]
                except ImageError:  # training leaves it out, too
                    continue

        counts = world.sum(count_pixels(masks(), classes).ravel().tolist())
        return median_frequency_weights(np.array(counts, np.int64).reshape(2, classes))

    def batches(self, epoch: int, step: int) -> Iterator[Batch]:
        """See ``Pictures.batches``."""
        return self.pictures.batches(epoch, step)

    def loss(self, network: nn.Module, batch: Batch, seed: int) -> tuple[Tensor, float]:  # noqa: ARG002
        """Cross-entropy at the pictures' own size, and the sum over them of the share of pixels that were right."""
        masks = batch.labels
        coarse = cast("DeepLabV3", network).forward_coarse(self.normalize(batch.pictures))
        size = (masks.shape[1], masks.shape[2])
        logits = resize_logits(coarse, size, align_corners=self.spec.align_corners)
        loss = mask_loss(logits, masks, weights=self.weights)
        return loss, float(right_share(logits.detach(), masks).sum())

    def amount(self, labels: Tensor) -> float:
        """The pixels that count, each with its class's weight, as ``mask_loss`` has them; see ``loop.CountingTask``."""
        pixels = torch.bincount(labels.flatten(), minlength=IGNORE + 1)[: self.spec.num_classes].double()
        return float(pixels.sum() if self.weights is None else pixels @ self.weights.to(pixels))

    def measure(self, world: World, progress: Tracker = silent) -> dict[str, float]:
        """Loss, mIoU and pixel accuracy on the validation pictures; on a CPU in LiteRT, as users will run the model."""
        if not self.validation:
            return {}
        state = {name: value.detach().cpu().numpy() for name, value in self.network.state_dict().items()}
        model = in_memory(state, self.spec)
        return measure(model, self.validation, world, threads=self.threads, progress=progress)


def measure(
    model: Model, samples: Sequence[AnnotatedSample], world: World, *, threads: int, progress: Tracker = silent
) -> dict[str, float]:
    """``val_loss``, ``val_miou``, ``val_pixel_accuracy`` (0 to 1) and ``val_images`` over all processes.

    The loss is the mean over all pixels that count, at the size that the network sees; the others are at the
    photographs' own. Each picture is looked at by one process; those that cannot be read are not counted; {} where
    there are none.
    """
    on_cpu = world.device.type == "cpu"
    engine: EngineName | None = None if on_cpu else "torch"
    device, batch = ("cpu", 1) if on_cpu else (str(world.device), GPU_BATCH)
    mine = samples[world.rank :: world.size]
    loss = ValidationLoss(model.spec)
    found = outline(
        model, mine, engine=engine, device=device, threads=threads, batch=batch, progress=progress, look=loss
    )
    # Means over classes do not add up, but the pixels that they come from do.
    counts = found.counts.sum(0)
    pictures, total, pixels, *counted = world.sum(
        [float(len(mine) - len(found.errors)), loss.total, loss.pixels, *counts.ravel().tolist()]
    )
    if not pictures:
        return {}
    figures = overlaps(np.array(counted).reshape(counts.shape))
    return {
        "val_loss": total / max(pixels, 1),
        "val_miou": figures["miou"],
        "val_pixel_accuracy": figures["pixel_accuracy"],
        "val_images": int(pictures),
    }


class ValidationLoss:
    """Adds up the cross-entropy over all pixels that count of the network's inputs, shown what ``outline`` looks at."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.total, self.pixels = 0.0, 0.0
        self._adding = threading.Lock()

    def __call__(self, _: int, values: NDArray[np.float32], truth: NDArray[np.int32]) -> None:
        """Take in the logits (h, w, classes) of a picture and its true mask, -1 where a pixel belongs to no class."""
        mask = place_mask(np.where(truth < 0, IGNORE, truth).astype(np.uint8), self.spec.preprocess)
        coarse = torch.from_numpy(values[None]).permute(0, 3, 1, 2)
        logits = resize_logits(coarse, mask.shape, align_corners=self.spec.align_corners)
        targets = torch.from_numpy(mask[None])
        count = int((targets != IGNORE).sum())
        with self._adding:
            self.total += float(mask_loss(logits, targets)) * count
            self.pixels += count


def place_mask(mask: Mask, preprocess: Preprocess) -> Mask:
    """A photograph's mask in the network's square, (crop, crop): where the photograph is, ``IGNORE`` elsewhere."""
    place = placement((mask.shape[1], mask.shape[0]), preprocess)
    square = np.full((place.input_height, place.input_width), IGNORE, np.uint8)
    inside = slice(place.top, place.top + place.height), slice(place.left, place.left + place.width)
    square[inside] = _resize_mask(mask, (place.width, place.height))
    return square


def start_segmenter(
    base: ModelSpec, state: Mapping[str, NDArray[Any]], classes: tuple[str, ...], recipe: Recipe
) -> tuple[ModelSpec, State, frozenset[str]]:
    """What training of a segmenter of ``classes``, the background first, starts from: spec, weights, fresh names.

    ``base`` and ``state`` are a model of any task, of which at least the backbone is kept. A segmenter keeps its head
    where ``recipe.aspp`` is what it has, and of that the classifier where its classes are the same. What is fresh is
    drawn from ``recipe.seed``: all of it without a ``state``. Padding, colours, mean and std are those of ``base``.

    Raises WeightsError for a network that does not read photographs.
    """
    if base.input_channels != 3:
        raise WeightsError(f"{base.name}: reads {base.input_channels} channels; photographs have 3")
    old = base.preprocess
    spec = base.replace(
        task="segmentation",
        labels=classes,
        label_ids=(),
        input_size=recipe.eval_size,
        output="logits",
        temperature=1.0,
        scores="softmax",
        output_stride=recipe.output_stride,
        aspp=recipe.aspp,
        align_corners=True,
        # Resized as training pictures are.
        preprocess=Preprocess(
            resize=recipe.eval_size,
            crop=recipe.eval_size,
            mean=old.mean,
            std=old.std,
            color_order=old.color_order,
            fit="pad",
        ),
        accuracy=(),
    )
    given = {f"backbone.{name}" if base.task == "classification" else name: value for name, value in state.items()}
    same_head = base.task == "segmentation" and base.aspp == spec.aspp
    fresh = frozenset(
        name
        for name in state_shapes(spec)
        if not state
        or not (name.startswith("backbone.") or same_head)
        or (name.startswith("classifier.") and base.labels != classes)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        drawn = {name: value.numpy() for name, value in build_network(spec).state_dict().items()}
    weights = {name: drawn[name] if name in fresh else given[name] for name in drawn if name in fresh or name in given}
    return spec, weights, fresh
