"""Small models of every task, and photographs for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusiform.graph.build import build_graph
from fusiform.graph.shapes import state_shapes
from fusiform.graph.tflite import to_tflite
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.checkpoint import write_safetensors

SPEC = ModelSpec("mobilenet_v2", 0.35, ("red", "green"), input_size=32, preprocess=Preprocess(resize=32, crop=32))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, lived_in_state: Callable[..., Any]) -> Path:
    """Weights, and the same network as a file for LiteRT."""
    folder = tmp_path_factory.mktemp("models")
    state = lived_in_state(SPEC)
    write_safetensors(folder / "weights.safetensors", state, SPEC)
    (folder / "lite.tflite").write_bytes(to_tflite(build_graph(SPEC, state)))
    return folder


def write_task(folder: Path, task: Any, fit: Any, labels: tuple[str, ...]) -> Path:
    """A small network of random weights."""
    preprocess = Preprocess(resize=64, crop=64, fit=fit)
    stride = 16 if task == "segmentation" else 32
    spec = ModelSpec(
        "mobilenet_v2", 0.35, labels, task=task, input_size=64, output_stride=stride, preprocess=preprocess
    )
    random = np.random.default_rng(0)
    state = {
        name: np.array(5)
        if not shape
        else random.uniform(0.8, 1.2, shape).astype(np.float32)
        if name.endswith("running_var")
        else random.normal(0, (1.5 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        for name, shape in state_shapes(spec).items()
    }
    (folder / f"{task}.tflite").write_bytes(to_tflite(build_graph(spec, state)))
    return folder / f"{task}.tflite"


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tasks")
    return {
        "detection": write_task(folder, "detection", "stretch", ("fox", "owl")),
        "segmentation": write_task(folder, "segmentation", "pad", ("background", "fox", "owl")),
    }


@pytest.fixture(scope="session")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs in Pascal VOC's layout, each with a box and a mask; a third that cannot be read."""
    root = tmp_path_factory.mktemp("voc")
    for name in ("JPEGImages", "Annotations", "SegmentationClass"):
        (root / name).mkdir()
    (root / "class_names.txt").write_text("background\nfox\nowl")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>50</xmax><ymax>40</ymax></bndbox>"
    for k in range(3):
        Image.effect_noise((90, 60), 80).convert("RGB").save(root / "JPEGImages" / f"{k}.png")
        size = "<size><width>90</width><height>60</height><depth>3</depth></size>"
        text = f"<annotation>{size}<object><name>fox</name>{box}</object></annotation>"
        (root / "Annotations" / f"{k}.xml").write_text(text)
        Image.new("L", (90, 60), k).save(root / "SegmentationClass" / f"{k}.png")
    (root / "JPEGImages" / "2.png").write_bytes(b"no picture")
    return root
