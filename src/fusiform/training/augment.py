"""Training pictures changed at random, each from its own seed, and mixed in batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from fusiform.errors import MissingExtraError
from fusiform.training.recipe import Recipe

# ImageNet's mean, rounded: close to 0 once normalised, as the paper's random erasing has it on average.
_GREY = (124, 116, 104)


def make_transform(recipe: Recipe, size: int) -> Callable[[Tensor], Tensor]:
    """What ``recipe.augment`` does to a picture: uint8 (3, height, width) of any size to uint8 (3, size, size).

    ``none`` and ``flip`` resize the shorter side to ``size`` and cut out the centre. The others resize a random part of
    the picture, of an area in ``crop_scale`` and sides of 3:4 to 4:3 (Inception, arXiv 1409.4842, Section 6). All
    resize bilinearly with antialiasing, as evaluation does. Random numbers come from PyTorch's default generator; see
    ``apply_seeded``. Raises MissingExtraError without torchvision.
    """
    v2 = _torchvision_v2()
    steps: list[Any]
    if recipe.augment in ("none", "flip"):
        steps = [v2.Resize(size, antialias=True), v2.CenterCrop(size)]
    else:
        steps = [v2.RandomResizedCrop(size, scale=recipe.crop_scale, antialias=True)]
    if recipe.augment != "none" and recipe.flip:
        steps.append(v2.RandomHorizontalFlip())
    if recipe.augment == "crop_randaugment":
        steps.append(v2.RandAugment(interpolation=v2.InterpolationMode.BILINEAR))
    if recipe.augment == "crop_trivial":
        steps.append(v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR))
    if recipe.color_jitter:
        strength = recipe.color_jitter
        steps.append(v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength))
    if recipe.random_erasing:
        steps.append(v2.RandomErasing(recipe.random_erasing, value=_GREY))
    return cast("Callable[[Tensor], Tensor]", v2.Compose(steps))


def apply_seeded(transform: Callable[[Tensor], Tensor], picture: Tensor, seed: int) -> Tensor:
    """The transform of a picture with the random numbers of ``seed``, 0 to 2^64 - 1, whatever was drawn before.

    With a seed from the epoch and the picture's number, the answer does not depend on how many processes share the
    work. PyTorch's default generator is left as it was; it is one for all threads, so that only one thread of a process
    may be in here.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the accelerators' generators too.
        torch.default_generator.manual_seed(seed)
        return transform(picture)


def mix_batch(
    pictures: Tensor, labels: Tensor, num_classes: int, *, recipe: Recipe, generator: Generator
) -> tuple[Tensor, Tensor]:
    """MixUp or CutMix, as the recipe says, of each picture with the one before it in the batch.

    ``pictures`` are floating-point (N, C, H, W) and ``labels`` int64 (N,), on any device; the answer is new pictures
    and the probabilities (N, num_classes) of each class. With both on, half of the batches get each; with neither, the
    pictures come back as they are. ``generator`` lies on the CPU; all random numbers come from it.
    """
    if not (recipe.mixup or recipe.cutmix):
        return pictures, F.one_hot(labels, num_classes).to(pictures.dtype)
    v2 = _torchvision_v2()
    # Always two numbers, so that the settings of a recipe do not shift what is drawn later.
    coin, seed = torch.randint(1 << 62, (2,), generator=generator).tolist()
    use_cutmix = bool(recipe.cutmix) and (not recipe.mixup or coin % 2 == 1)
    mix = (
        v2.CutMix(alpha=recipe.cutmix, num_classes=num_classes)
        if use_cutmix
        else v2.MixUp(alpha=recipe.mixup, num_classes=num_classes)
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return cast("tuple[Tensor, Tensor]", mix(pictures, labels))


def _torchvision_v2() -> Any:
    try:
        from torchvision.transforms import v2
    except ImportError:
        raise MissingExtraError("torchvision", "torch", "augmenting pictures") from None
    return v2
