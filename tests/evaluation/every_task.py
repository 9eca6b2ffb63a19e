"""For each task a model of random weights and a few images of one dataset, all called after the task."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.graph.shapes import state_shapes
from fusiform.spec import ModelSpec, Preprocess, Task
from fusiform.zoo.checkpoint import write_safetensors

NAMES = ("red", "green", "blue")
TASKS: tuple[Task, ...] = ("classification", "detection", "segmentation")
Edges = tuple[int, int, int, int]


def random_weights(spec: ModelSpec, seed: int) -> dict[str, NDArray[Any]]:
    """Weights that answer differently from place to place."""
    random = np.random.default_rng(seed)
    state: dict[str, NDArray[Any]] = {}
    for name, shape in state_shapes(spec).items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(5)
        elif len(shape) == 1:
            low, high = (-0.3, 0.3) if name.endswith(("mean", "bias")) else (0.7, 1.3)
            state[name] = random.uniform(low, high, shape).astype(np.float32)
        else:
            state[name] = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
    return state


def write_model(path: Path, task: Task, seed: int) -> None:
    size = {"classification": 32, "detection": 64, "segmentation": 65}[task]
    fit: Any = {"classification": "crop", "detection": "stretch", "segmentation": "pad"}[task]
    more: dict[str, Any] = {"output_stride": 16} if task == "segmentation" else {}
    labels = ("background", *NAMES) if task == "segmentation" else NAMES
    preprocess = Preprocess(resize=size, crop=size, fit=fit)
    spec = ModelSpec("mobilenet_v2", 0.35, labels, task=task, input_size=size, preprocess=preprocess, **more)
    write_safetensors(path, random_weights(spec, seed), spec)


def one_box(_: int, edges: Edges) -> list[dict[str, Any]]:
    """The boxes of each image: the one that was painted."""
    return [{"bbox": [edges[0], edges[1], edges[2] - edges[0], edges[3] - edges[1]], "iscrowd": 0}]


def write_images(
    folder: Path,
    count: int,
    *,
    boxes: Callable[[int, Edges], Sequence[dict[str, Any]]] = one_box,
    broken: int | None = None,
) -> None:
    """Folders of classes, COCO's boxes and VOC's masks of the same images, each with a red rectangle.

    ``boxes`` gives the boxes of image k from the rectangle's edges; the image ``broken`` holds none.
    """
    for name in ("detection/val2017", "detection/annotations", "segmentation/JPEGImages"):
        (folder / name).mkdir(parents=True)
    (folder / "segmentation/SegmentationClass").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for k in range(count):
        pixels = np.random.default_rng(k).integers(0, 256, (50, 60 + k, 3), np.uint8)
        edges = (5 + k, 8, 35, 40)
        image, mask = Image.fromarray(pixels), Image.new("L", (60 + k, 50), 0)
        image.paste((200, 0, 0), edges)
        mask.paste(1, edges)
        (folder / "classification" / NAMES[k % 3]).mkdir(parents=True, exist_ok=True)
        for place in (f"classification/{NAMES[k % 3]}", "detection/val2017", "segmentation/JPEGImages"):
            image.save(folder / place / f"{k}.png")
            if k == broken:
                (folder / place / f"{k}.png").write_bytes(b"no image")
        mask.save(folder / "segmentation/SegmentationClass" / f"{k}.png")
        images.append({"id": k, "file_name": f"{k}.png", "width": image.width, "height": image.height})
        for box in boxes(k, edges):
            annotations.append({"id": len(annotations) + 1, "image_id": k, "category_id": 5, **box})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 5, "name": "red"}]}
    (folder / "detection/annotations/instances_val2017.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "segmentation/class_names.txt").write_text("background\nred", encoding="utf-8")
