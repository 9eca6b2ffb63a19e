from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusiform.training.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parent))

from small_runs import NETWORK

sys.path.pop(0)

COLORS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (50, 70, 210), "grey": (128, 128, 128)}


def make_pictures(folder: Path, counts: dict[str, int], *, seed: int = 0, side: int = 40) -> None:
    """Pictures of one colour under noise, a folder a class: easy to learn, and no two alike."""
    random = np.random.default_rng(seed)
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        color = list(COLORS.values())[number % len(COLORS)]
        for i in range(count):
            # Coarse noise, so that no picture is a near-duplicate of another.
            noise = random.normal(0, 40, (5, 5, 3)).repeat(side // 5, 0).repeat(side // 5, 1)
            pixels = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


@pytest.fixture(scope="session", name="make_pictures")
def make_pictures_fixture() -> Callable[..., None]:
    return make_pictures


@pytest.fixture(scope="session")
def quick() -> Recipe:
    """A recipe that trains the narrowest network on the smallest pictures in a second or two."""
    return Recipe(
        name="quick",
        epochs=2,
        head_epochs=30,
        head_lr=0.01,
        batch=8,
        size=48,
        eval_size=48,
        optimizer="adamw",
        lr=1e-4,
        batch_norm="frozen",
        augment="crop",
        crop_scale=(0.6, 1.0),
        ema=0.5,
        val_fraction=0.25,
        channels_last=True,
        cache="memory",
    )


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, make_pictures: Callable[..., None]) -> Path:
    """Pictures for all tests: a test that changes them makes a copy."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    make_pictures(folder, {"red": 12, "green": 12, "blue": 12})
    return folder


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory, quick: Recipe) -> Path:
    """A run of the quick recipe, to look at; a test that goes on with it makes a copy."""
    from fusiform.training.job import train

    run = tmp_path_factory.mktemp("trained") / "run"
    train(data, run, model=NETWORK, recipe=quick, threads=1)
    return run
