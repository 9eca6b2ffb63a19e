"""Pictures that an engine knows by their number, and a detector and a segmenter that are asked of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.graph.build import build_graph
from fusiform.graph.shapes import state_shapes
from fusiform.graph.tflite import to_tflite
from fusiform.spec import ModelSpec, Preprocess

DETECTOR = ModelSpec(
    "mobilenet_v2",
    0.35,
    ("cat", "dog", "bird"),
    task="detection",
    input_size=64,
    preprocess=Preprocess(resize=64, crop=64, fit="stretch"),
)
SEGMENTER = ModelSpec(
    "mobilenet_v2",
    0.35,
    ("background", "cat", "dog", "bird"),
    task="segmentation",
    input_size=65,
    output_stride=16,
    preprocess=Preprocess(resize=65, crop=65, fit="pad"),
)
PICTURES = 6


def write_model(path: Path, spec: ModelSpec) -> Path:
    """A file with a network of the spec; what it answers does not matter."""
    random = np.random.default_rng(3)
    state = {
        name: np.array(5) if name.endswith("tracked") else random.uniform(0.1, 0.5, shape).astype(np.float32)
        for name, shape in state_shapes(spec).items()
    }
    path.write_bytes(to_tflite(build_graph(spec, state)))
    return path


def size_of(k: int) -> tuple[int, int]:
    """The pictures are wide, high, and of any size."""
    return (90 + 7 * k, 60) if k % 2 else (50, 80 + 11 * k)


class NumberedPictures:
    """An engine that knows a picture by its colour, which is its number; ``answers`` says what to answer."""

    def __init__(self, spec: ModelSpec, answers: list[dict[str, NDArray[np.float32]]]) -> None:
        self.spec, self.known = spec, answers

    def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        chosen = [self.known[int(pixels[0, 0, 0]) // 10] for pixels in batch]
        return {name: np.stack([one[name] for one in chosen]) for name in chosen[0]}


def write_pictures(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    paths = []
    for k in range(PICTURES):
        Image.new("RGB", size_of(k), (10 * k, 99, 99)).save(folder / f"{k}.png")
        paths.append(folder / f"{k}.png")
    return paths
