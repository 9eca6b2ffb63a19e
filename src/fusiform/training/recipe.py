"""Every number of a training run, in one frozen value that is printed, written beside the run and read back."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fusiform.errors import InputError, UsageError
from fusiform.fields import check_types, describe, from_dict, show
from fusiform.spec import Task

Optimizer = Literal["sgd", "adamw", "rmsprop"]
Schedule = Literal["cosine", "step", "exponential", "linear", "poly", "constant"]
BatchNorm = Literal["train", "frozen"]
Augment = Literal["none", "flip", "crop", "crop_randaugment", "crop_trivial"]
Balance = Literal["none", "balanced"]
Sampler = Literal["shuffle", "balanced"]
Precision = Literal["float32", "bfloat16", "float16"]
Metric = Literal["top1", "loss", "map", "map50", "miou"]
BoxLoss = Literal["multibox", "focal"]
Cache = Literal["memory", "none", "fit"]
HeadKind = Literal["trained", "prototypes"]


@dataclass(frozen=True)
class Recipe:
    """How to train; the defaults are the plainest choice, with everything optional off.

    An epoch is one pass over the training pictures, or ``repeats`` of them. Wrong types and values raise UsageError,
    which names the field, what it was and what is allowed.
    """

    name: str
    """What the recipe is called."""
    epochs: int
    """Epochs of the main phase; 0 trains the head only."""
    min_steps: int = 0
    """Fewest optimiser steps of the main phase: few pictures are shown as often as that takes; 0 is ``epochs``."""
    max_steps: int = 0
    """Most optimiser steps of the main phase: with many pictures there are fewer epochs, at least one; 0 is
    ``epochs``."""
    repeats: int = 1
    """How often an epoch shows each picture; ``min_steps`` raises it for sets so small that measuring would take longer
    than learning."""
    task: Task = "classification"
    """What is learned: to name pictures, to find objects in them (SSDLite), or to outline them (DeepLabv3)."""
    head_epochs: int = 0
    """Epochs of the fresh head alone, on features that the frozen backbone computes once; 0 for none."""
    head: HeadKind = "trained"
    """How the head begins: with ``head_epochs``, or (``prototypes``) in closed form from one pass over the features, as
    ``embedding.prototypes`` says."""
    head_lr: float = 1e-3
    """Learning rate of the head's epochs."""
    batch: int = 64
    """Pictures of an optimiser step, over all processes and micro-steps; a multiple of ``accumulate``."""
    accumulate: int = 1
    """Micro-steps whose gradients are added up into a step, for a batch that does not fit into memory."""
    size: int = 224
    """Side in pixels of the square that training sees, 32 or more."""
    eval_size: int = 224
    """Side in pixels of the square that evaluation and the finished model see, 32 or more."""
    eval_resize: int = 0
    """Shorter side in pixels that the centre of ``eval_size`` is cut from; 0 is ``eval_size`` itself, nothing cut."""
    fit_size: bool = False
    """Whether the sizes are smaller where the images are, see ``fitting.fit_size``; sizes that are set stay."""
    sizes: tuple[int, ...] = ()
    """Progressive resizing: training sides in pixels, each for an equal part of ``epochs``; none is always ``size``."""
    optimizer: Optimizer = "sgd"
    """``sgd`` with momentum, ``adamw`` (arXiv 1711.05101), ``rmsprop`` as TensorFlow computes it."""
    lr: float = 0.01
    """Highest learning rate of the main phase, for a whole ``batch``."""
    momentum: float = 0.9
    """Momentum of SGD and RMSProp, beta 1 of AdamW; 0 or more and below 1."""
    rmsprop_decay: float = 0.9
    """RMSProp's decay of the average of squared gradients; 0 or more and below 1."""
    eps: float = 1e-8
    """What AdamW adds to the root of the average square, and RMSProp to the average square within the root."""
    centre_steps: bool = False
    """Whether AdamW's steps of a kernel sum to 0 over its inputs, see ``optim.CentredAdamW``: with frozen batch
    normalisation, whole steps would shift what the layers after it see, and lose what a trained head knows."""
    weight_decay: float = 0.0
    """L2 penalty of SGD and RMSProp, decoupled decay of AdamW."""
    decay_norms_and_biases: bool = False
    """Whether weight decay acts on batch normalisation and biases too, not on the weight matrices and kernels alone."""
    nesterov: bool = False
    """Nesterov's momentum; SGD only."""
    schedule: Schedule = "cosine"
    """How the learning rate falls after the warm-up: to ``min_lr`` (``cosine``, ``linear``), by ``decay_rate`` every
    ``step_epochs`` (``step``) or evenly (``exponential``), with a ``power`` of the epochs left (``poly``), or not at
    all (``constant``)."""
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate rises from 0."""
    step_epochs: float = 1.0
    """Epochs between two falls of the ``step`` schedule."""
    power: float = 0.9
    """Exponent of the ``poly`` schedule (arXiv 1606.00915, Section 4.1)."""
    decay_rate: float = 0.1
    """Factor on the learning rate: of each fall (``step``), of each epoch (``exponential``); above 0, at most 1."""
    min_lr: float = 0.0
    """Learning rate below which no schedule goes; ``cosine`` and ``linear`` end at it."""
    backbone_lr: float = 1.0
    """Factor on the learning rate for the backbone; the head has 1."""
    freeze: float = 0.0
    """Share of the backbone's stages, from the input on, that never learns; 0 to 1."""
    unfreeze_epochs: float = 0.0
    """Epochs until one more of the backbone's stages learns, from the topmost down; 0 for all at once."""
    batch_norm: BatchNorm = "train"
    """``train`` normalises with the batch's statistics, ``frozen`` with those the weights came with, but for fresh
    layers."""
    sync_batch_norm: bool = False
    """Whether the batch's statistics are those of all processes' pictures together; for ``batch_norm`` train."""
    dropout: float | None = None
    """Dropout before the classifier, 0 or more and below 1; none is the network's own."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over the classes (arXiv 1512.00567, Section 7); 0 or more and below 1."""
    mixup: float = 0.0
    """Alpha of MixUp's beta distribution (arXiv 1710.09412); 0 is off."""
    cutmix: float = 0.0
    """Alpha of CutMix's beta distribution (arXiv 1905.04899); 0 is off. With both on, a coin decides each batch."""
    augment: Augment = "crop"
    """What happens to a picture: ``none``, mirroring (``flip``), a random part of it mirrored (``crop``), and after
    that RandAugment (arXiv 1909.13719) or TrivialAugment (arXiv 2103.10158). A detector's random part keeps a share of
    an object (arXiv 1512.02325, Section 2.2), a segmenter's is a square of the picture resized by ``scale_range``."""
    crop_scale: tuple[float, float] = (0.25, 1.0)
    """Smallest and largest share of the picture's area that a random part has; above 0, at most 1."""
    flip: bool = True
    """Whether pictures may be mirrored; false where left and right differ in meaning, as in text."""
    color_jitter: float = 0.0
    """Strength of random changes to brightness, contrast and saturation; 0 is off, 0.4 common; at most 1."""
    random_erasing: float = 0.0
    """Probability that a rectangle of the picture is greyed out (arXiv 1708.04896); 0 to 1."""
    class_weights: Balance = "none"
    """``balanced`` weighs each class in the loss by the inverse of its number of pictures; a segmenter's by the median
    of the classes' shares of pixels over its own (arXiv 1411.4734, Section 6.1)."""
    sampler: Sampler = "shuffle"
    """``shuffle`` shows every picture once an epoch, ``balanced`` every class equally often."""
    ema: float = 0.0
    """Decay of the moving average of the weights at each step, 0 or more and below 1; 0 is off."""
    clip: float = 0.0
    """Largest norm of the gradient over all weights; 0 is off."""
    precision: Precision = "float32"
    """What convolutions are computed in; the weights stay float32."""
    channels_last: bool = False
    """Whether pictures lie in memory with their channels last, which many devices prefer."""
    fused: bool = True
    """Whether a CPU computes convolution, batch normalisation and ReLU together: the same but for rounding, faster."""
    compile: bool = False
    """Whether the network is compiled first: a minute at the start, faster steps after it."""
    early_stop: int = 0
    """Epochs without improvement after which training ends; 0 is off."""
    give_up: float = 0.0
    """Share of the epochs after which training ends if none was better than its start; 0 is off."""
    metric: Metric = "top1"
    """What decides which epoch was best, on the validation pictures: ``loss``, ``top1`` of a classifier, ``map`` or
    ``map50`` of a detector, ``miou`` of a segmenter."""
    box_loss: BoxLoss = "multibox"
    """What a detector's class scores are made to learn: ``multibox``, cross-entropy with as many background priors as
    are hardest (arXiv 1512.02325, Section 2.2), or ``focal`` on all of them (arXiv 1708.02002)."""
    negatives: float = 3.0
    """Background priors for each that stands for an object, in ``multibox``."""
    box_weight: float = 1.0
    """Weight of the boxes' places beside their classes in a detector's loss."""
    focal_gamma: float = 2.0
    """Exponent of ``focal``: how little of the loss sure answers have."""
    focal_alpha: float = 0.25
    """Weight of objects in ``focal``, that of background being the rest; above 0, at most 1."""
    expand: float = 0.0
    """Probability that a detector's training picture is placed on a larger canvas, up to four times as wide."""
    scale_range: tuple[float, float] = (0.5, 2.0)
    """Smallest and largest factor that a segmenter's training picture is resized by before it is cut to ``size``."""
    output_stride: int = 16
    """Pixels of the picture for each of a segmenter's logits, along a side: 8 or 16."""
    aspp: bool = False
    """Whether a segmenter has atrous branches beside the 1x1 one (arXiv 1706.05587)."""
    val_fraction: float = 0.15
    """Share of the pictures kept for validation where the data has no validation split; 0 or more and below 1."""
    temperature: float = 2.0
    """What both networks' logits are divided by in distillation (arXiv 1503.02531); above 0."""
    distill: float = 0.0
    """Weight of the teacher's term in the loss, 0 to 1; the labels' term has the rest."""
    distill_features: float = 0.0
    """Weight of the distance between the teacher's features before its classifier and a linear map of the student's
    (arXiv 1412.6550, Section 2.2), beside the loss of the answers; 0 is off."""
    seed: int = 0
    """Where all randomness starts; 0 to 4,294,967,295."""
    deterministic: bool = False
    """Whether the same run gives the same bits, at the price of slower kernels."""
    cache: Cache = "fit"
    """Whether decoded pictures stay in memory: always, never, or if they fit."""
    workers: int = -1
    """Processes that read pictures; 0 for none beside the main one, -1 to choose."""

    def __post_init__(self) -> None:
        check_types(self, UsageError)
        for field, (allowed, holds) in _RANGES.items():
            value = getattr(self, field)
            for number in value if isinstance(value, tuple) else (value,):
                # NaN and infinity are in no range: the comparison alone would let infinity through.
                if number is not None and not (math.isfinite(number) and holds(number)):
                    raise UsageError(f"recipe: {field} must be {allowed}, got {show(value)}")
        self._check_together()

    def _check_together(self) -> None:
        allowed: dict[Task, tuple[Metric, ...]] = {
            "classification": ("top1", "loss"),
            "detection": ("map50", "map", "loss"),
            "segmentation": ("miou", "loss"),
        }
        if self.metric not in allowed[self.task]:
            raise UsageError(f"recipe: metric must be {' or '.join(allowed[self.task])} for {self.task}")
        if self.task != "classification":
            self._check_classifiers_fields()
        if self.batch % self.accumulate:
            raise UsageError(f"recipe: batch must be a multiple of accumulate, got {self.batch} and {self.accumulate}")
        if self.crop_scale[0] > self.crop_scale[1]:
            raise UsageError(f"recipe: crop_scale must be the smaller share, then the larger, got {self.crop_scale}")
        if self.scale_range[0] > self.scale_range[1]:
            raise UsageError(f"recipe: scale_range must be the smaller factor, then the larger, got {self.scale_range}")
        if self.max_steps and self.min_steps > self.max_steps:
            raise UsageError(
                f"recipe: min_steps must be at most max_steps ({self.max_steps}), got {self.min_steps}: set both"
            )
        if self.min_lr > self.lr:
            raise UsageError(f"recipe: min_lr must be at most lr ({self.lr}), got {self.min_lr}")
        if self.epochs and self.warmup_epochs >= self.epochs:
            raise UsageError(
                f"recipe: warmup_epochs must be less than epochs ({self.epochs}), got {self.warmup_epochs}: "
                "set warmup_epochs=0 or train for longer"
            )
        if len(self.sizes) > max(self.epochs, 1):
            raise UsageError(f"recipe: {len(self.sizes)} sizes do not share {self.epochs} epochs: give fewer")
        if self.centre_steps and self.optimizer != "adamw":
            raise UsageError(f"recipe: centre_steps is for adamw, not for {self.optimizer}: set centre_steps=false")
        if self.optimizer == "sgd" and self.nesterov and self.momentum == 0:
            raise UsageError("recipe: nesterov needs a momentum above 0: set momentum=0.9 or nesterov=false")
        if self.augment == "flip" and not self.flip:
            raise UsageError("recipe: augment is flip, but flip is false: set augment=none or flip=true")
        if self.class_weights == "balanced" and self.sampler == "balanced":
            raise UsageError(
                "recipe: class_weights and sampler are both balanced, which counts rare classes twice: choose one"
            )

    def _check_classifiers_fields(self) -> None:
        """Raise UsageError for what only classifiers are trained with."""
        unset = {field.name: field.default for field in dataclasses.fields(self)}
        names = ["head_epochs", "mixup", "cutmix", "random_erasing", "label_smoothing", "sampler", "sizes", "distill"]
        names += ["distill_features"] + (["class_weights"] if self.task == "detection" else [])
        for name in names:
            if getattr(self, name) != unset[name]:
                raise UsageError(f"recipe: {name} is for classification: leave it at {show(unset[name])}")
        if self.augment not in ("none", "flip", "crop"):
            raise UsageError(f"recipe: augment must be none, flip or crop for {self.task}, got {self.augment!r}")
        if self.output_stride not in (8, 16):
            raise UsageError(f"recipe: output_stride must be 8 or 16, got {self.output_stride}")

    def to_json(self, *, indent: int | None = None) -> str:
        """The JSON text that ``from_json`` reads back to an equal recipe."""
        return json.dumps(dataclasses.asdict(self), indent=indent, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str = "recipe") -> Recipe:
        """Read a recipe; unknown, missing or wrong fields raise UsageError, which names ``source``, the file."""
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{source}: the recipe is not JSON ({error})") from None
        try:
            return from_dict(cls, fields, UsageError)
        except UsageError as error:
            raise InputError(f"{source}: {error}") from None


def override(recipe: Recipe, settings: Mapping[str, object] | Iterable[str]) -> Recipe:
    """The recipe with some fields set: ``["lr=0.1", "flip=false", "dropout=none", "sizes=96,128"]``.

    The same in Python is ``{"lr": 0.1, "flip": False, "dropout": None, "sizes": (96, 128)}``.

    Lists are separated by commas, ``none`` is an empty list; of two settings of a field the later one holds. Where so
    few epochs are set that the recipe's warm-up or sizes would not fit, these are shortened, unless set too. Epochs
    that are set are as many as that, without the recipe's limits of the steps and its giving up, and sizes are not
    fitted to the images, unless ``min_steps``, ``max_steps``, ``give_up`` or ``fit_size`` is set too. Raises
    UsageError for an unknown field, which names those that come close, and for a value that the field does not take.
    """
    hints = typing.get_type_hints(Recipe)
    changes: dict[str, Any] = {}
    if isinstance(settings, Mapping):
        settings = [f"{name}={_text(value)}" for name, value in settings.items()]
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals:
            raise UsageError(f"{show(setting)} sets nothing: write NAME=VALUE, such as lr=0.1")
        if name not in hints:
            close = difflib.get_close_matches(name, hints, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(hints)}"
            raise UsageError(f"a recipe has no field {show(name)}: {hint}")
        changes[name] = _parse(hints[name], text.strip(), name)
    if "epochs" in changes:
        changes = {"min_steps": 0, "max_steps": 0, "give_up": 0.0, **changes}
    if changes.keys() & {"size", "eval_size", "eval_resize", "sizes"}:
        changes = {"fit_size": False, **changes}
    epochs = changes.get("epochs", recipe.epochs)
    if 0 <= epochs < recipe.epochs:
        # What the preset has for longer trainings, and nobody asked for here.
        if epochs and "warmup_epochs" not in changes and recipe.warmup_epochs >= epochs:
            changes["warmup_epochs"] = shortened_warmup(recipe, epochs)
        if "sizes" not in changes:
            changes["sizes"] = recipe.sizes[-max(epochs, 1) :]
    return dataclasses.replace(recipe, **changes)


def shortened_warmup(recipe: Recipe, epochs: int) -> float:
    """The warm-up for fewer epochs than a recipe's own: the same share of them."""
    return recipe.warmup_epochs * epochs / recipe.epochs


def _text(value: object) -> str:
    """A setting as it is written on the command line."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(_text, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _parse(hint: Any, text: str, name: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):  # an optional value
        return None if text.lower() == "none" else _parse(args[0], text, name)
    if origin is tuple:
        items = [] if text.lower() in ("", "none", "()") else text.strip("()").split(",")
        return tuple(_parse(args[0], item.strip(), name) for item in items)
    if hint is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            pass
    elif hint is not bool:
        return text  # of a text; what stands in a Literal is checked with the whole recipe
    raise UsageError(f"{name} must be {describe(hint)}, got {show(text)}")


_Range = tuple[str, Callable[[float], bool]]
_NOT_NEGATIVE: _Range = ("0 or more", lambda x: x >= 0)
_POSITIVE: _Range = ("above 0", lambda x: x > 0)
_ONE_OR_MORE: _Range = ("1 or more", lambda x: x >= 1)
_PIXELS: _Range = ("32 pixels or more", lambda x: x >= 32)
_ZERO_TO_ONE: _Range = ("0 to 1", lambda x: 0 <= x <= 1)
_BELOW_ONE: _Range = ("0 or more and below 1", lambda x: 0 <= x < 1)
_UP_TO_ONE: _Range = ("above 0 and at most 1", lambda x: 0 < x <= 1)

_RANGES: dict[str, _Range] = {
    "epochs": _NOT_NEGATIVE,
    "min_steps": _NOT_NEGATIVE,
    "max_steps": _NOT_NEGATIVE,
    "repeats": _ONE_OR_MORE,
    "head_epochs": _NOT_NEGATIVE,
    "head_lr": _POSITIVE,
    "batch": _ONE_OR_MORE,
    "accumulate": _ONE_OR_MORE,
    "size": _PIXELS,
    "eval_size": _PIXELS,
    "sizes": _PIXELS,
    "lr": _POSITIVE,
    "momentum": _BELOW_ONE,
    "rmsprop_decay": _BELOW_ONE,
    "eps": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "warmup_epochs": _NOT_NEGATIVE,
    "step_epochs": _POSITIVE,
    "power": _POSITIVE,
    "decay_rate": _UP_TO_ONE,
    "min_lr": _NOT_NEGATIVE,
    "backbone_lr": _NOT_NEGATIVE,
    "freeze": _ZERO_TO_ONE,
    "unfreeze_epochs": _NOT_NEGATIVE,
    "dropout": _BELOW_ONE,
    "label_smoothing": _BELOW_ONE,
    "mixup": _NOT_NEGATIVE,
    "cutmix": _NOT_NEGATIVE,
    "crop_scale": _UP_TO_ONE,
    "color_jitter": _ZERO_TO_ONE,
    "random_erasing": _ZERO_TO_ONE,
    "ema": _BELOW_ONE,
    "clip": _NOT_NEGATIVE,
    "give_up": _ZERO_TO_ONE,
    "early_stop": _NOT_NEGATIVE,
    "negatives": _POSITIVE,
    "box_weight": _NOT_NEGATIVE,
    "focal_gamma": _NOT_NEGATIVE,
    "focal_alpha": _UP_TO_ONE,
    "expand": _ZERO_TO_ONE,
    "scale_range": _POSITIVE,
    "val_fraction": _BELOW_ONE,
    "temperature": _POSITIVE,
    "distill": _ZERO_TO_ONE,
    "distill_features": _NOT_NEGATIVE,
    "seed": ("0 to 4294967295", lambda x: 0 <= x < 1 << 32),
    "workers": ("-1 (to choose) or more", lambda x: x >= -1),
}
