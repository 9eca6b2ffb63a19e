"""Weight files as other programs write them, made from random weights: for the tests of porting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform.engines.litert import LiteRTEngine
from fusiform.graph.build import build_graph
from fusiform.graph.shapes import expected_shapes
from fusiform.graph.tflite import to_tflite
from fusiform.spec import METADATA_KEY, Architecture, ModelSpec, Padding, Preprocess
from fusiform.zoo.checkpoint import State

SIZE = 64


def make_spec(
    architecture: Architecture = "mobilenet_v2",
    *,
    width: float = 0.35,
    classes: int = 5,
    padding: Padding = "symmetric",
    size: int = SIZE,
) -> ModelSpec:
    labels = tuple(f"name {k}" for k in range(classes))
    preprocess = Preprocess(resize=size, crop=size)
    return ModelSpec(architecture, width, labels, input_size=size, padding=padding, preprocess=preprocess)


def random_state(spec: ModelSpec, seed: int = 0) -> State:
    random = np.random.default_rng(seed)
    state: State = {}
    for name, shape in expected_shapes(spec.architecture, spec.width, num_classes=spec.num_classes).items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(7, np.int64)
        elif name.endswith("running_var"):
            state[name] = random.uniform(0.5, 2, shape).astype(np.float32)
        elif len(shape) > 1:
            deviation = np.sqrt(2 / np.prod(shape[1:]))
            state[name] = random.normal(0, deviation, shape).astype(np.float32)
        else:
            state[name] = random.normal(1 if name.endswith("weight") else 0, 0.2, shape).astype(np.float32)
    return state


def as_foreign(tflite: bytes) -> bytes:
    """The same file without a description that fusiform knows."""
    assert METADATA_KEY.encode() in tflite
    return tflite.replace(METADATA_KEY.encode(), b"someone.elses")


def write_foreign(folder: Path, spec: ModelSpec, state: State) -> Path:
    path = folder / "foreign.tflite"
    path.write_bytes(as_foreign(to_tflite(build_graph(spec, state))))
    return path


def pictures(size: int = SIZE, count: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(0, 1, (count, 3, size, size)).astype(np.float32)


def logits(spec: ModelSpec, state: State, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    return LiteRTEngine(to_tflite(build_graph(spec, state)), spec).run(batch)["logits"]


def damaged(whole: bytes, count: int) -> list[bytes]:
    """Files cut short, and files with wrong bytes near the beginning, near the end or anywhere."""
    random = np.random.default_rng(3)
    cut = [whole[: int(len(whole) * part)] for part in np.linspace(0.001, 0.999, count)]
    wrong = []
    for k in range(count):
        array = np.frombuffer(whole, np.uint8).copy()
        low, high = [(8, 4096), (len(array) - 40_000, len(array)), (8, len(array))][k % 3]
        array[random.integers(low, high, 20)] = random.integers(0, 256, 20)
        wrong.append(array.tobytes())
    return cut + wrong
