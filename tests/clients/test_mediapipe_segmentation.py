"""Decoded segmenters in MediaPipe's ImageSegmenter: the masks that fusiform finds, in the file and in its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

mediapipe = pytest.importorskip("mediapipe", exc_type=ImportError)  # without the system's libGL, too

from mediapipe.tasks.python import BaseOptions
from mediapipe.tasks.python.vision import ImageSegmenter, ImageSegmenterOptions

from fusiform.data.image import read_image
from fusiform.graph.build import build_graph
from fusiform.graph.inputs import read_pixels
from fusiform.graph.shapes import state_shapes
from fusiform.graph.tflite_metadata import to_described_tflite
from fusiform.porting.deeplab_v3 import port
from fusiform.prediction.predictor import Predictor
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.checkpoint import read_safetensors, write_safetensors

LABELS = ("background", "fox", "barn owl", "newt")
SIZE = 97


def make_model(path: Path, *, one_mean: bool, align_corners: bool) -> tuple[ModelSpec, dict[str, Any]]:
    """Weights of chance."""
    numbers: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3} if one_mean else {}
    spec = ModelSpec(
        "mobilenet_v2",
        0.35,
        LABELS,
        task="segmentation",
        input_size=SIZE,
        output_stride=16,
        align_corners=align_corners,
        preprocess=Preprocess(SIZE, SIZE, fit="stretch", **numbers),
    )
    random = np.random.default_rng(3)
    state: dict[str, Any] = {}
    for name, shape in state_shapes(spec).items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(5)
        elif name.endswith(("bias", "running_mean")):
            state[name] = random.uniform(-0.3, 0.5, shape).astype(np.float32)
        elif len(shape) == 1:
            state[name] = random.uniform(0.7, 1.3, shape).astype(np.float32)
        else:
            state[name] = random.normal(0, np.sqrt(1.5 / np.prod(shape[1:])), shape).astype(np.float32)
    write_safetensors(path, state, spec)
    return spec, state


def with_mediapipe(path: Path, picture: Image.Image) -> tuple[NDArray[np.uint8], NDArray[np.float32], list[str]]:
    """The class of each pixel, the confidence of each class, and the names of the classes."""
    options = ImageSegmenterOptions(
        base_options=BaseOptions(model_asset_path=str(path)), output_category_mask=True, output_confidence_masks=True
    )
    with ImageSegmenter.create_from_options(options) as segmenter:
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.asarray(picture))
        answer = segmenter.segment(image)
        masks = np.stack([mask.numpy_view().squeeze().copy() for mask in answer.confidence_masks])
        return answer.category_mask.numpy_view().squeeze().copy(), masks, list(segmenter.labels)


def with_fusiform(path: Path, picture: Path) -> NDArray[Any]:
    with Predictor(path, threads=1) as predictor:
        (answer,) = predictor(picture)
    assert answer.segmentation is not None
    return answer.segmentation.classes


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("form", ["normalized", "pixels"])
def test_masks(form: str, align_corners: bool, tmp_path: Path) -> None:
    # MediaPipe normalises by one mean alone; files that read pixels need none.
    model = tmp_path / "model.safetensors"
    spec, state = make_model(model, one_mean=form == "normalized", align_corners=align_corners)
    graph = build_graph(spec.replace(decoded=True), state)
    graph = read_pixels(graph) if form == "pixels" else graph
    path = tmp_path / "decoded.tflite"
    path.write_bytes(to_described_tflite(graph))
    coarse = np.random.default_rng(1).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    picture = Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "picture.png")
    classes, masks, labels = with_mediapipe(path, picture)
    assert labels == list(LABELS)
    assert masks.shape == (len(LABELS), SIZE, SIZE)
    np.testing.assert_allclose(masks.sum(0), 1, atol=1e-4)
    assert (masks.argmax(0) == classes).mean() >= 0.999
    assert len(np.unique(classes)) > 1
    for file in (path, model):
        assert (classes == with_fusiform(file, tmp_path / "picture.png")).mean() >= 0.99


@pytest.mark.slow
def test_tensorflow_s_deeplab_on_a_photograph(shared_data: Path, tmp_path: Path) -> None:
    labels = tuple("dog" if k == 12 else f"class {k}" for k in range(21))
    preprocess = Preprocess(513, 513, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), fit="pad")
    spec = ModelSpec(
        "mobilenet_v2",
        1.0,
        labels,
        task="segmentation",
        input_size=513,
        output_stride=16,
        padding="same",
        preprocess=preprocess,
    )
    state = port(read_safetensors(shared_data / "weights" / "deeplab_v3_mobilenet_v2_voc_tf.safetensors")[1])
    write_safetensors(tmp_path / "deeplab.safetensors", state, spec)
    graph = build_graph(spec.replace(decoded=True), state)
    path = tmp_path / "decoded.tflite"
    path.write_bytes(to_described_tflite(graph))
    photograph = read_image(shared_data / "dog.jpg")
    side = min(photograph.size)
    picture = photograph.crop((0, 0, side, side))  # which the model pads and MediaPipe stretches to the same square
    picture.save(tmp_path / "square.png")
    classes, _, named = with_mediapipe(path, picture)
    assert (classes == named.index("dog")).mean() > 0.2
    for file in (path, tmp_path / "deeplab.safetensors"):
        assert (classes == with_fusiform(file, tmp_path / "square.png")).mean() >= 0.99
