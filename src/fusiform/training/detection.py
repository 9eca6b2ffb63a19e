"""Detection as a task of the training loop: its pictures with boxes, its two losses, its measure (SSDLite)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fusiform.data.annotated import AnnotatedSample, BoxLabel
from fusiform.data.preprocess import mean_color
from fusiform.engines import EngineName
from fusiform.errors import InputError, MissingExtraError, WeightsError
from fusiform.evaluation.detection import find_boxes, precisions
from fusiform.modules import SSDLite, build_network
from fusiform.progress import Tracker, silent
from fusiform.spec import ModelSpec, Preprocess, Scores
from fusiform.tables import TRAITS
from fusiform.tasks import detection
from fusiform.tasks.detection import Detections
from fusiform.training.augment import apply_seeded
from fusiform.training.classification import GPU_BATCH, State, in_memory
from fusiform.training.distributed import World
from fusiform.training.loader import Batch, Example, Normalization, Pictures, shrink
from fusiform.training.recipe import Recipe
from fusiform.zoo.load import load_state

FEWEST_NEGATIVES = 3
"""Background priors that ``multibox_loss`` takes from a picture with few objects or none (``min_negatives_per_image``
in TensorFlow's configuration)."""
FIRST_SCORE = 0.01
"""What focal loss wants each fresh class to say of each prior: with halves, all that is background would drown the
objects in the first steps (arXiv 1708.02002, Section 4.1)."""

_HEADS = ("extras.", "classes.", "boxes.")


class Objects(NamedTuple):
    """The objects of a picture: boxes (N, 4) float64 in units of the picture, 0 to 1, and labels (N,) int64."""

    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]


class BoxExamples:
    """Detection's ``Examples``: what becomes of a picture and its boxes before a step sees them.

    A picture is kept with a shorter side of ``recipe.size`` pixels, or twice that where parts of it are cut out.
    Crowds and difficult objects are no targets: unless something else lies there, their place counts as background.
    """

    def __init__(self, recipe: Recipe, spec: ModelSpec) -> None:
        self.shorter_side = recipe.size * (2 if recipe.augment == "crop" else 1)
        color = mean_color(spec.preprocess)
        fill = color[::-1] if spec.preprocess.color_order == "bgr" else color
        self.transforms = {
            has_objects: _make_transform(recipe, fill, crop=has_objects) for has_objects in (True, False)
        }

    def decode(self, sample: AnnotatedSample) -> Example:
        """See ``Examples``; the target is the picture's ``Objects``."""
        image = sample.read()
        return Example(np.array(shrink(image, self.shorter_side)), find_objects(sample, image.size))

    def augment(self, example: Example, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """A picture, uint8 (3, size, size), and float32 (priors, 5): class, 0 for background, and codes of each prior.

        ``size`` is the recipe's. Objects are left out whose middle is not in the part of the picture that is shown, or
        of which less than a pixel's width or height is.
        """
        from torchvision import tv_tensors

        height, width = example.pixels.shape[:2]
        objects: Objects = example.target
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(objects.boxes * (width, height, width, height)), format="XYXY", canvas_size=(height, width)
        )
        picture = tv_tensors.Image(torch.from_numpy(example.pixels).permute(2, 0, 1))
        labelled = {"picture": picture, "boxes": boxes, "labels": torch.from_numpy(objects.labels)}
        # apply_seeded is annotated for pictures alone.
        changed: Any = apply_seeded(self.transforms[len(objects.labels) > 0], cast("Any", labelled), seed)
        found = Objects(changed["boxes"].numpy() / size, changed["labels"].numpy())
        return changed["picture"].as_subclass(torch.Tensor), make_label(found, size)


def _make_transform(recipe: Recipe, fill: tuple[int, ...], *, crop: bool) -> Any:
    """What ``recipe.augment``, ``flip``, ``expand`` and ``color_jitter`` do to a picture and its boxes, on tv_tensors.

    SSD's augmentation (arXiv 1512.02325, Sections 2.2 and 3.6), but the colours change last, where the picture is
    smallest, and are never exchanged, as in SSD's own configuration. Each of the four changes happens to half of the
    pictures. ``crop`` is whether there are objects to choose a part by: where there are none, all of the picture is
    shown.
    """
    try:
        from torchvision.transforms import v2
    except ImportError:
        raise MissingExtraError("torchvision", "torch", "augmenting pictures") from None
    steps: list[Any] = []
    if recipe.expand:
        steps.append(v2.RandomZoomOut(fill, side_range=(1.0, 4.0), p=recipe.expand))
    if recipe.augment == "crop" and crop:
        steps.append(v2.RandomIoUCrop())
    steps.append(v2.Resize((recipe.size, recipe.size), antialias=True))
    # By rounding alone a box at the edge may leave the picture, which the next step would take for a fault.
    steps.append(v2.ClampBoundingBoxes())
    # What the crop left out has no area now, and goes with what has become too small.
    steps.append(v2.SanitizeBoundingBoxes(min_size=1.0))
    if recipe.augment != "none" and recipe.flip:
        steps.append(v2.RandomHorizontalFlip())
    if strength := recipe.color_jitter:
        changes = ({"brightness": strength}, {"contrast": strength}, {"saturation": strength}, {"hue": strength / 8})
        steps += [v2.RandomApply([v2.ColorJitter(**change)], p=0.5) for change in changes]
    return v2.Compose(steps)


def find_objects(sample: AnnotatedSample, size: tuple[int, int]) -> Objects:
    """What training wants found in a picture of ``size`` (width, height): no crowds and nothing difficult."""
    width, height = size
    found = [box for box in sample.boxes or () if not (box.crowd or box.difficult)]
    edges = np.array([(box.left, box.top, box.right, box.bottom) for box in found], np.float64).reshape(-1, 4)
    # Clipped, for where annotations do not say how large the picture is, some may reach out of it.
    boxes = (edges / (width, height, width, height)).clip(0, 1)
    return Objects(boxes, np.array([box.label for box in found], np.int64))


def make_label(objects: Objects, size: int) -> Tensor:
    """What a network that sees ``size`` pixels a side should say: float32 (priors, 5), see ``make_targets``."""
    targets = detection.make_targets(objects.boxes, objects.labels, detection.prior_boxes(size))
    return torch.from_numpy(np.column_stack((targets.classes.astype(np.float32), targets.codes)))


def multibox_loss(logits: Tensor, codes: Tensor, targets: Tensor, *, negatives: float, box_weight: float) -> Tensor:
    """SSD's loss as a scalar: cross-entropy of classes, and smooth L1 of codes times ``box_weight``.

    ``logits`` are (N, priors, 1 + classes), ``codes`` (N, priors, 4), ``targets`` (N, priors, 5): the class, 0 for
    background, and the codes. Beside the priors that stand for objects count the background priors that are most
    wrong: ``negatives`` of them for each object prior of the same picture (arXiv 1512.02325, Section 2.2), and at
    least ``FEWEST_NEGATIVES``, so that pictures without objects teach that there is nothing. Both parts are divided by
    the number of object priors in the batch, if there is one. A batch in several parts, on several processes or in
    micro-steps, has the loss of the whole: the loop weighs the parts by ``DetectionTask.amount``, and which background
    priors count is a matter of each picture. Computed in float32.
    """
    classes = targets[..., 0].long()
    objects = classes > 0
    losses = F.cross_entropy(logits.float().flatten(0, 1), classes.flatten(), reduction="none").view(classes.shape)
    wanted = (negatives * objects.sum(1, keepdim=True)).clamp(min=FEWEST_NEGATIVES)
    hardest_first = losses.detach().masked_fill(objects, -math.inf).argsort(1, descending=True)
    hard = (hardest_first.argsort(1) < wanted) & ~objects
    total = (losses * (objects | hard)).sum() + box_weight * _box_distance(codes, targets)
    return total / objects.sum().clamp(min=1)


def focal_loss(
    logits: Tensor, codes: Tensor, targets: Tensor, *, gamma: float, alpha: float, box_weight: float
) -> Tensor:
    """Focal loss of each class of each prior (arXiv 1708.02002), and smooth L1 of codes times ``box_weight``.

    The arguments and the division are those of ``multibox_loss``. Each class is a question of its own, answered with
    a sigmoid, and background that none of them is: its column of the logits is not looked at. With p the probability
    of what is true, an answer's loss is -(1 - p)^gamma log p, times ``alpha`` where the class is there and 1 -
    ``alpha`` where it is not. Computed in float32.
    """
    classes = targets[..., 0].long()
    there = F.one_hot(classes, logits.shape[-1])[..., 1:].bool()
    # The logit of what is true. In logarithms, where neither the power of 0 nor its slope can become infinite.
    true = torch.where(there, logits[..., 1:].float(), -logits[..., 1:].float())
    losses = -(gamma * F.logsigmoid(-true)).exp() * F.logsigmoid(true)
    total = (losses * torch.where(there, alpha, 1 - alpha)).sum() + box_weight * _box_distance(codes, targets)
    return total / (classes > 0).sum().clamp(min=1)


def _box_distance(codes: Tensor, targets: Tensor) -> Tensor:
    """Smooth L1, the sum over the codes of all priors that stand for objects."""
    distances = F.smooth_l1_loss(codes.float(), targets[..., 1:].float(), reduction="none").sum(-1)
    return (distances * (targets[..., 0] > 0)).sum()


def count_right(logits: Tensor, targets: Tensor, scores: Scores) -> float:
    """The sum over pictures of the share of object priors whose likeliest class is right.

    A picture without objects counts as 1 where the likeliest of every prior is background (softmax), or no class of
    any has a score above a half (sigmoid), and else as 0.
    """
    classes = targets[..., 0].long()
    objects = classes > 0
    if scores == "softmax":
        likeliest = logits.argmax(-1)
        shown = likeliest > 0
    else:
        best, likeliest = logits[..., 1:].max(-1)
        likeliest, shown = likeliest + 1, best > 0
    count = objects.sum(1)
    share = ((likeliest == classes) & objects).sum(1) / count.clamp(min=1)
    return float(torch.where(count > 0, share, (~shown).all(1).float()).sum())


def start_detector(
    base: ModelSpec, state: Mapping[str, NDArray[Any]], classes: tuple[str, ...], recipe: Recipe
) -> tuple[ModelSpec, State, frozenset[str]]:
    """What a detector of ``classes`` starts from: its spec, all its weights, and the names of those that are fresh.

    ``base`` and ``state`` are a classifier's, whose backbone is kept; or a detector's, which is kept whole, but for the
    layers of the classes where it has others or learned their scores in another way; or an empty state, for random
    weights. What is fresh is drawn from the recipe's seed. Raises UsageError for a segmenter, which lacks the
    backbone's last layer, and WeightsError for a network of other than three input channels.
    """
    if base.task == "segmentation":
        raise InputError(
            f"{base.name}: a segmenter has no layer that ends the backbone, which a detector needs: start from a "
            "classifier, such as mobilenet_v2, or from a detector"
        )
    if base.input_channels != 3:
        raise WeightsError(f"{base.name}: reads {base.input_channels} channels; photographs have 3")
    scores: Scores = "sigmoid" if recipe.box_loss == "focal" else "softmax"
    side, old = recipe.eval_size, base.preprocess
    spec = base.replace(
        task="detection",
        labels=classes,
        label_ids=(),
        input_size=side,
        output="logits",
        temperature=1.0,
        scores=scores,
        preprocess=Preprocess(side, side, mean=old.mean, std=old.std, color_order=old.color_order, fit="stretch"),
        accuracy=(),
    )
    kept = dict(state)
    fresh: tuple[str, ...] = _HEADS
    if not state:
        fresh = ("",)
    elif base.task == "classification":
        classifier = f"{TRAITS[base.architecture].classifier}."
        kept = {f"backbone.{name}": v for name, v in state.items() if not name.startswith(classifier)}
    elif (base.labels, base.scores) == (classes, scores):
        return spec, kept, frozenset()
    else:
        fresh = ("classes.",)
        kept = {name: value for name, value in state.items() if not name.startswith(fresh)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = cast("SSDLite", build_network(spec))
    if scores == "sigmoid":
        for layer in network.classes:
            nn.init.constant_(
                cast("Tensor", cast("nn.Sequential", layer)[1].bias), math.log(FIRST_SCORE / (1 - FIRST_SCORE))
            )
    drawn = {name: value.numpy() for name, value in network.state_dict().items() if name.startswith(fresh)}
    names = frozenset(name for name, _ in network.named_parameters() if name.startswith(fresh))
    return spec, {**kept, **drawn}, names


class _WideConv2d(nn.Conv2d):
    """A convolution in the type of its weights, whatever autocast says; parameters and their names are nn.Conv2d's."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            answer: Tensor = self._conv_forward(x.to(self.weight.dtype), self.weight, self.bias)
        return answer


def _widen(network: SSDLite) -> None:
    """Let the depthwise convolutions of the extra layers be computed in float32, in place.

    For inputs of 256 pixels or less the last of them sees a map of one cell. There oneDNN's bfloat16 gradient of a
    depthwise kernel at stride 2 holds whatever lay in memory (PyTorch 2.15 on a processor with AMX). The maps are so
    small that float32 takes no longer.
    """
    for extra in network.extras:
        layers = cast("nn.Sequential", cast("nn.Sequential", extra)[1])
        plain = layers[0]
        if type(plain) is nn.Conv2d:  # the other padding rule makes the map larger first
            wide = _WideConv2d(plain.in_channels, plain.out_channels, 3, 2, 1, groups=plain.groups, bias=False)
            wide.weight = plain.weight
            layers[0] = wide


class DetectionTask:
    """A detector of objects in photographs, as ``loop.Task`` describes it.

    ``fresh`` names the parameters of the head, by default all beside the backbone's. The score, ``object_accuracy``, is
    what ``count_right`` counts.
    """

    score = "object_accuracy"

    def __init__(
        self,
        spec: ModelSpec,
        state: Mapping[str, NDArray[Any]],
        pictures: Pictures,
        validation: Sequence[AnnotatedSample],
        recipe: Recipe,
        world: World,
        *,
        fresh: frozenset[str] | None = None,
        threads: int = 1,
    ) -> None:
        self.spec, self.recipe, self.pictures, self.validation = spec, recipe, pictures, validation
        network = cast("SSDLite", build_network(spec))
        load_state(network, state, source=spec.name)
        _widen(network)
        self.network: nn.Module = network.to(world.device)
        named = self.network.named_parameters()
        self.head = [value for name, value in named if (name.startswith(_HEADS) if fresh is None else name in fresh)]
        self.stages = network.backbone.stages()
        self.steps, self.batch = pictures.steps, pictures.batch
        self.threads = threads
        self.extra = nn.ModuleDict()
        self.normalize = Normalization(spec.preprocess, recipe, world)

    def batches(self, epoch: int, step: int) -> Iterator[Batch]:
        """See ``Pictures.batches``."""
        return self.pictures.batches(epoch, step)

    def loss(self, network: nn.Module, batch: Batch, seed: int) -> tuple[Tensor, float]:  # noqa: ARG002  # no chance
        """The recipe's loss of classes and places, and what ``count_right`` says."""
        logits, codes = network(self.normalize(batch.pictures))
        right = count_right(logits.detach(), batch.labels, self.spec.scores)
        return box_loss(logits, codes, batch.labels, self.recipe), right

    def amount(self, labels: Tensor) -> float:
        """The number of object priors, which both losses are divided by; see ``loop.CountingTask``."""
        return float((labels[..., 0] > 0).sum())

    def measure(self, world: World, progress: Tracker = silent) -> dict[str, float]:
        """Loss and average precision on the validation pictures; on a CPU in LiteRT, as users will run the model.

        ``val_loss`` is the loss of all pictures as one batch, ``val_map`` and ``val_map50`` are COCO's, 0 to 1 (0
        without any object), ``val_images`` the pictures. Each is looked at by one process; those that cannot be read
        are not counted. {} where there are none.
        """
        if not self.validation:
            return {}
        state = {name: value.detach().cpu().numpy() for name, value in self.network.state_dict().items()}
        model = in_memory(state, self.spec)
        mine = self.validation[world.rank :: world.size]
        losses, objects = np.zeros(len(mine)), np.zeros(len(mine))

        def look(i: int, size: tuple[int, int], said: Mapping[str, NDArray[np.float32]]) -> None:
            """What a picture adds to the loss of them all as one batch."""
            label = make_label(find_objects(mine[i], size), self.spec.input_size)[None]
            logits, codes = (torch.from_numpy(said[name][None]) for name in ("logits", "codes"))
            objects[i] = self.amount(label)
            losses[i] = box_loss(logits, codes, label, self.recipe).item() * max(objects[i], 1)

        engine: EngineName = "litert" if world.device.type == "cpu" else "torch"
        batch = 1 if world.device.type == "cpu" else GPU_BATCH
        answers = find_boxes(
            model,
            mine,
            engine=engine,
            device=str(world.device),
            threads=self.threads,
            batch=batch,
            progress=progress,
            look=look,
        )
        loss, count = world.sum([sum(losses.tolist()), sum(objects.tolist())])
        pairs = zip(answers.truth, answers.found, strict=True)
        parts = world.gather([(truth, found) for truth, found in pairs if found is not None])
        every: list[tuple[tuple[BoxLabel, ...], Detections]] = [one for part in parts for one in part]
        if not every:
            return {}
        found = precisions(every, self.spec.num_classes)
        return {
            "val_loss": loss / max(count, 1),
            "val_map": found["map"],
            "val_map50": found["map50"],
            "val_images": len(every),
        }


def box_loss(logits: Tensor, codes: Tensor, targets: Tensor, recipe: Recipe) -> Tensor:
    """``recipe.box_loss`` with the recipe's numbers."""
    if recipe.box_loss == "focal":
        gamma, alpha = recipe.focal_gamma, recipe.focal_alpha
        return focal_loss(logits, codes, targets, gamma=gamma, alpha=alpha, box_weight=recipe.box_weight)
    return multibox_loss(logits, codes, targets, negatives=recipe.negatives, box_weight=recipe.box_weight)
