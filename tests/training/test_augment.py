from __future__ import annotations

import dataclasses
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fusiform.data.preprocess import crop_pixels
from fusiform.spec import Preprocess
from fusiform.training.augment import apply_seeded, make_transform, mix_batch
from fusiform.training.recipe import Augment, Recipe

PLAIN = Recipe("plain", 10)


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(get_args(Augment)),
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(32, 48),
    st.integers(0, 2**64 - 1),
)
def test_any_picture_becomes_a_square_of_bytes_and_its_seed_decides(
    augment: Any, height: int, width: int, size: int, seed: int
) -> None:
    transform = make_transform(dataclasses.replace(PLAIN, augment=augment, color_jitter=0.4, random_erasing=0.5), size)
    before = picture(height, width)
    first = apply_seeded(transform, before, seed)
    assert (first.dtype, first.shape) == (torch.uint8, (3, size, size))
    torch.rand(7)  # what was drawn in between does not matter
    assert torch.equal(apply_seeded(transform, before, seed), first)
    assert torch.equal(before, picture(height, width))


def test_seeds_differ_and_leave_the_generator_alone() -> None:
    transform = make_transform(PLAIN, 32)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    answers = {apply_seeded(transform, picture(40, 50), seed).numpy().tobytes() for seed in range(20)}
    assert len(answers) == 20
    assert torch.equal(torch.rand(3), expected)


def test_without_augmentation_it_is_what_evaluation_sees() -> None:
    transform = make_transform(dataclasses.replace(PLAIN, augment="none"), 48)
    rows = np.linspace(0, 255, 90)[:, None, None] * np.ones((1, 120, 1))
    pixels = np.concatenate([rows, rows[::-1], np.full_like(rows, 77)], axis=2).astype(np.uint8)
    expected = crop_pixels(Image.fromarray(pixels), Preprocess(resize=48, crop=48))
    answer = transform(torch.from_numpy(pixels).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(answer.astype(int), expected.astype(int), atol=1)
    assert np.ptp(answer) > 200


def test_flip_mirrors_half_of_the_pictures_and_nothing_else() -> None:
    transform = make_transform(dataclasses.replace(PLAIN, augment="flip"), 32)
    original = picture(32, 32)
    mirrored = [bool((apply_seeded(transform, original, seed) != original).any()) for seed in range(100)]
    assert 30 < sum(mirrored) < 70
    assert torch.equal(apply_seeded(transform, original, mirrored.index(True)), original.flip(2))


def gradient(height: int, width: int) -> torch.Tensor:
    """Brighter from left to right and from top to bottom."""
    x = torch.linspace(0, 255, width).expand(height, width)
    y = torch.linspace(0, 255, height)[:, None].expand(height, width)
    return torch.stack([x, y, x]).round().to(torch.uint8)


def test_without_flip_left_stays_left() -> None:
    for augment in ("crop", "crop_randaugment", "crop_trivial"):
        recipe = dataclasses.replace(PLAIN, augment=augment, flip=False)
        if augment != "crop":
            # The other two add colours and rotations, so that only their steps can be compared.
            steps = [type(step).__name__ for step in make_transform(recipe, 32).transforms]  # type: ignore[attr-defined]
            assert "RandomHorizontalFlip" not in steps
            continue
        for seed in range(20):
            answer = apply_seeded(make_transform(recipe, 32), gradient(100, 100), seed).float()
            assert answer[0, :, -1].mean() > answer[0, :, 0].mean()


def test_crops_cover_the_share_that_the_recipe_says() -> None:
    transform = make_transform(dataclasses.replace(PLAIN, augment="crop", crop_scale=(0.3, 0.6)), 32)
    shares = []
    for seed in range(60):
        answer = apply_seeded(transform, gradient(300, 300), seed).float()
        # From the middle of the first pixel to that of the last are 31 of 32 pixels.
        wide = (answer[0, :, -1].mean() - answer[0, :, 0].mean()).abs() * 32 / 31 / 255
        high = (answer[1, -1].mean() - answer[1, 0].mean()).abs() * 32 / 31 / 255
        shares.append(float(wide * high))
    assert 0.28 < min(shares) < 0.36
    assert 0.54 < max(shares) < 0.62


def test_erasing_leaves_a_rectangle_of_the_mean_colour() -> None:
    transform = make_transform(dataclasses.replace(PLAIN, augment="none", random_erasing=1.0), 32)
    answer = apply_seeded(transform, torch.zeros(3, 32, 32, dtype=torch.uint8), 3)
    erased = (answer == torch.tensor([124, 116, 104], dtype=torch.uint8)[:, None, None]).all(0)
    assert erased.any()
    assert (answer[:, ~erased] == 0).all()
    rows, columns = erased.any(1).sum(), erased.any(0).sum()
    assert erased.sum() == rows * columns


def batch(count: int = 6, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures that are 1 in the channel of their own number, so that their shares can be read off."""
    pictures = torch.zeros(count, count, size, size)
    pictures[range(count), range(count)] = 1
    return pictures, torch.arange(count)


def mixed(recipe: Recipe, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    pictures, labels = batch()
    return mix_batch(pictures, labels, 6, recipe=recipe, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_the_targets_are_the_shares_of_the_pictures(mixup: float, cutmix: float) -> None:
    recipe = dataclasses.replace(PLAIN, mixup=mixup, cutmix=cutmix)
    for seed in range(20):
        pictures, targets = mixed(recipe, seed)
        torch.testing.assert_close(targets, pictures.mean((2, 3)))
        torch.testing.assert_close(targets.sum(1), torch.ones(6))


def is_cutmix(pictures: torch.Tensor) -> bool:
    return bool(((pictures == 0) | (pictures == 1)).all())


def test_a_coin_decides_between_the_two() -> None:
    def cut(**fields: float) -> list[bool]:
        recipe = dataclasses.replace(PLAIN, **fields)  # type: ignore[arg-type]
        return [is_cutmix(mixed(recipe, seed)[0]) for seed in range(100)]

    assert not any(cut(mixup=1.0))
    assert all(cut(cutmix=1.0))
    assert 30 < sum(cut(mixup=1.0, cutmix=1.0)) < 70


def test_the_shares_are_distributed_as_beta_says() -> None:
    shares = np.array([mixed(dataclasses.replace(PLAIN, mixup=0.2), seed)[1][0, 0].item() for seed in range(400)])
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)).
    assert shares.mean() == pytest.approx(0.5, abs=0.07)
    assert shares.var() == pytest.approx(1 / (4 * 1.4), abs=0.03)


def test_only_the_given_generator_decides() -> None:
    recipe = dataclasses.replace(PLAIN, mixup=0.4, cutmix=1.0)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first = mixed(recipe, 7)
    assert torch.equal(torch.rand(2), expected)
    second = mixed(recipe, 7)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(mixed(recipe, 8)[0], first[0])


def test_without_mixing_the_pictures_come_back() -> None:
    pictures, labels = batch()
    generator = torch.Generator().manual_seed(0)
    answer, targets = mix_batch(pictures, labels, 6, recipe=PLAIN, generator=generator)
    assert answer is pictures
    assert torch.equal(targets, torch.eye(6))
