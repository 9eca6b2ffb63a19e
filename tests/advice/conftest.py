"""Two classes of noise in two colours, and a small model that sees colours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusiform.graph.build import build_graph
from fusiform.graph.tflite import to_tflite
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.model import Model, open_model

SPEC = ModelSpec("mobilenet_v2", 0.35, ("one", "two"), input_size=32, preprocess=Preprocess(resize=32, crop=32))
HUES = {"green": (40, 150, 40), "red": (150, 40, 40)}


def noise(path: Path, hue: tuple[int, int, int], seed: int, *, side: int = 40) -> None:
    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = random.integers(0, 90, (side, side, 3)) + np.array(hue)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("fusiform.advice.plan.ORDERS", 2)  # each takes time
    return tmp_path / "cache"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """40 images to learn from and 20 to measure on."""
    for k, (name, hue) in enumerate(HUES.items()):
        for number in range(30):
            split = "test" if number >= 20 else "train"
            noise(tmp_path / "data" / split / name / f"{number}.png", hue, 100 * k + number)
    return tmp_path / "data"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, lived_in_state: Callable[..., Any]) -> Model:
    path = tmp_path_factory.mktemp("model") / "small.tflite"
    path.write_bytes(to_tflite(build_graph(SPEC, lived_in_state(SPEC))))
    return open_model(path)
