"""Small detectors and segmenters, and files of them that decode boxes and masks themselves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusiform.exporting.targets.base import Precision, TargetName
from fusiform.exporting.targets.targets import TARGETS
from fusiform.graph.build import build_graph
from fusiform.graph.ir import Graph
from fusiform.graph.shapes import state_shapes
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.model import open_model

LABELS = ("fox", "barn owl", "newt", "ibis")
PHOTOGRAPH = (130, 90)
"""Width and height in pixels: oblong, so that squeezing differs from padding."""
BACKGROUND = 6.0
"""What the background's logits have more than chance gives them: some 60 boxes of 100 score above the threshold, and
some are suppressed."""


def make_spec(task: Any, **changes: Any) -> ModelSpec:
    size = 96 if task == "detection" else 97
    preprocess = Preprocess(size, size, fit="stretch" if task == "detection" else "pad")
    stride = 16 if task == "segmentation" else 32
    spec = ModelSpec(
        "mobilenet_v2", 0.5, LABELS, task=task, input_size=size, output_stride=stride, preprocess=preprocess
    )
    return spec.replace(**changes)


def make_state(spec: ModelSpec, *, codes: float = 0.3, background: float = BACKGROUND) -> dict[str, Any]:
    """Weights of chance, statistics and biases far from those that they are born with; ``codes`` are so much larger."""
    random = np.random.default_rng(3)
    state: dict[str, Any] = {}
    for name, shape in state_shapes(spec).items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(5)
            continue
        if name.endswith("running_mean"):
            values = random.uniform(-0.3, 0.3, shape)
        elif name.endswith("bias"):
            values = random.uniform(-0.3, 0.7, shape)
        elif len(shape) == 1:
            values = random.uniform(0.7, 1.3, shape)
        else:
            values = random.normal(0, np.sqrt(1.5 / np.prod(shape[1:])), shape)
        if name.startswith("boxes.") and ".1." in name:
            values = values * codes
        if name.startswith("classes.") and name.endswith(".1.bias"):
            if spec.scores == "softmax":
                values[:: len(LABELS) + 1] += background
            else:
                values -= background / 6
        state[name] = values.astype(np.float32)
    return state


class Healthy:
    """A network, as a file of weights and as a graph."""

    def __init__(self, task: str, folder: Path) -> None:
        self.spec = make_spec(task)
        self.state = make_state(self.spec)
        self.path = folder / f"{task}.safetensors"
        write_safetensors(self.path, self.state, self.spec)
        self.model = open_model(self.path)
        self.graph = build_graph(self.spec, self.state)


def soft_picture(seed: int, size: tuple[int, int] = PHOTOGRAPH) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def decoded(graph: Graph) -> Graph:
    return dataclasses.replace(graph, spec=graph.spec.replace(decoded=True))


def write(target: TargetName, graph: Graph, folder: Path, precision: Precision = "float32") -> Path:
    if target == "openvino":
        pytest.importorskip("openvino")
    return TARGETS[target].writer()(graph, precision, folder)[0].path
