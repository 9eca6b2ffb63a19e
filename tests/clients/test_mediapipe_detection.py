"""Decoded detectors in MediaPipe's ObjectDetector: the boxes that fusiform finds, in the file and in its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

mediapipe = pytest.importorskip("mediapipe", exc_type=ImportError)  # without the system's libGL, too

from mediapipe.tasks.python import BaseOptions
from mediapipe.tasks.python.vision import ObjectDetector, ObjectDetectorOptions

from fusiform.graph.build import build_graph
from fusiform.graph.inputs import read_pixels
from fusiform.graph.ir import Graph
from fusiform.graph.shapes import state_shapes
from fusiform.graph.tflite_metadata import to_described_tflite
from fusiform.prediction.predictor import Predictor
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tasks.detection import EVALUATED_SCORE, MAX_BOXES, SCORE_THRESHOLD, iou_matrix
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.model import open_model

BACKGROUND = {"mobilenet_v2": 12, "shufflenet_v2": 9}
"""What the background's logits have more than chance gives them, so that there are few boxes."""
LABELS = ("fox", "barn owl", "newt")
SIZE = 320
"""Of the input and of the pictures: what weights of chance find depends on how pictures are resized."""


class Found(NamedTuple):
    """What a program found in a picture: labels, scores, and edges (N, 4) in pixels, highest-scoring first."""

    labels: list[str]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]


def make_spec(architecture: str, *, one_mean: bool) -> ModelSpec:
    numbers: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3} if one_mean else {}
    preprocess = Preprocess(SIZE, SIZE, fit="stretch", **numbers)
    return ModelSpec(architecture, 0.5, LABELS, task="detection", input_size=SIZE, preprocess=preprocess)


def make_state(spec: ModelSpec) -> dict[str, Any]:
    """Weights of chance that take most priors for background, and a few for an object."""
    random = np.random.default_rng(3)
    state: dict[str, Any] = {}
    for name, shape in state_shapes(spec).items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(5)
        elif name.endswith("running_mean"):
            state[name] = random.uniform(-0.3, 0.3, shape).astype(np.float32)
        elif name.endswith("bias"):
            state[name] = random.uniform(-0.3, 0.7, shape).astype(np.float32)
        elif len(shape) == 1:
            state[name] = random.uniform(0.7, 1.3, shape).astype(np.float32)
        else:
            state[name] = random.normal(0, np.sqrt(1.5 / np.prod(shape[1:])), shape).astype(np.float32)
        if name.startswith("classes.") and name.endswith(".1.bias"):
            state[name][:: len(LABELS) + 1] += BACKGROUND[spec.architecture]
    return state


def soft_picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def with_mediapipe(path: Path, picture: Image.Image, *, score: float = SCORE_THRESHOLD) -> Found:
    base = BaseOptions(model_asset_path=str(path))
    with ObjectDetector.create_from_options(
        ObjectDetectorOptions(base_options=base, score_threshold=score)
    ) as detector:
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.asarray(picture))
        detections = detector.detect(image).detections
    boxes = [d.bounding_box for d in detections]
    edges = [(b.origin_x, b.origin_y, b.origin_x + b.width, b.origin_y + b.height) for b in boxes]
    first = [d.categories[0] for d in detections]
    scores = np.array([category.score for category in first])
    return Found([category.category_name for category in first], scores, np.array(edges, float).reshape(-1, 4))


def with_fusiform(path: Path, picture: Path) -> Found:
    with Predictor(path, threads=1) as predictor:
        (answer,) = predictor(picture)
    assert answer.detections is not None
    boxes = answer.detections.boxes
    edges = np.array([(b.left, b.top, b.right, b.bottom) for b in boxes]).reshape(-1, 4)
    return Found([box.name for box in boxes], np.array([box.score for box in boxes]), edges)


def check(found: Found, expected: Found) -> None:
    assert len(found.labels) == len(expected.labels)
    # MediaPipe cuts left, top, width and height to whole pixels, which can be a lot of a small box.
    near = np.abs(found.boxes[:, None] - expected.boxes).max(-1) < 2
    shared = np.maximum(iou_matrix(found.boxes, expected.boxes), near)
    shared *= np.array(found.labels)[:, None] == np.array(expected.labels)
    shared *= np.abs(found.scores[:, None] - expected.scores) <= 0.01
    assert shared.max(0).min() >= 0.95
    assert shared.max(1).min() >= 0.95


@pytest.mark.parametrize("form", ["normalized", "pixels", "half"])
@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
def test_boxes(architecture: str, form: str, tmp_path: Path) -> None:
    # MediaPipe normalises by one mean alone; files that read pixels need none.
    spec = make_spec(architecture, one_mean=form != "pixels")
    state = make_state(spec)
    write_safetensors(tmp_path / "model.safetensors", state, spec)
    graph: Graph = build_graph(spec.replace(decoded=True), state)
    graph = read_pixels(graph) if form == "pixels" else graph
    (tmp_path / "decoded.tflite").write_bytes(to_described_tflite(graph, half=form == "half"))
    count = 0
    for seed in range(4):
        picture = soft_picture(seed)
        picture.save(tmp_path / "picture.png")
        found = with_mediapipe(tmp_path / "decoded.tflite", picture)
        check(found, with_fusiform(tmp_path / "decoded.tflite", tmp_path / "picture.png"))
        if form != "half":  # whose weights are rounded
            check(found, with_fusiform(tmp_path / "model.safetensors", tmp_path / "picture.png"))
        assert len(found.labels) < MAX_BOXES
        count += len(found.labels)
    assert count >= 20


def test_the_program_s_own_threshold(tmp_path: Path) -> None:
    """In Python it is 0 where none is given, and the metadata's counts for nothing."""
    spec = make_spec("mobilenet_v2", one_mean=True)
    graph = build_graph(spec.replace(decoded=True), make_state(spec))
    path = tmp_path / "decoded.tflite"
    path.write_bytes(to_described_tflite(graph))
    assert open_model(path).spec.decoded
    picture = soft_picture(0)
    every, few = (with_mediapipe(path, picture, score=score) for score in (0.0, 0.5))
    assert len(every.labels) == MAX_BOXES
    assert every.scores.min() >= EVALUATED_SCORE
    assert 0 < len(few.labels) == (every.scores >= 0.5).sum() < MAX_BOXES
