"""Train the int8 networks that ship inside the wheel.

    python scripts/train_bundled.py mobilenet_v2 --data ../shared/data
    python scripts/train_bundled.py shufflenet_v2 --data ../shared/data

Starts from float32 weights trained on ImageNet-1k, quantises them, and trains the quantised network to answer like
the float one (knowledge distillation with quantisation in the loop, arXiv 1503.02531 and 1712.05877) on photographs
without labels: ImageNet training samples, street and nature scenes, COCO training photographs. ImageNet's validation
photographs are never trained on, they only measure the result. Writes the .tflite file and its model card.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import hashlib
import json
import math
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# glibc hands every large tensor back to the kernel and pays for fresh pages at the next step; keeping freed memory
# makes training here 2 to 3 times faster. Before anything is allocated, so before PyTorch is imported.
if sys.platform == "linux":
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, -1)

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision import transforms

from fusiform.data.image import find_images, read_image
from fusiform.data.preprocess import crop_pixels
from fusiform.engines.litert import LiteRTEngine
from fusiform.exporting.quantization.equalize import equalize
from fusiform.exporting.quantization.quantize import QuantizedNetwork
from fusiform.graph.build import build_graph
from fusiform.graph.conventions import for_litert
from fusiform.graph.tflite import to_tflite
from fusiform.graph.tflite_metadata import to_described_tflite
from fusiform.spec import Accuracy, ModelSpec
from fusiform.zoo.catalog import imagenet_labels
from fusiform.zoo.checkpoint import read_safetensors

BUNDLED = Path(__file__).parents[1] / "src" / "fusiform" / "zoo" / "bundled"
SOURCES = {
    "mobilenet_v2": (
        "mobilenet_v2_1.0_224.safetensors",
        "the ONNX model zoo's float MobileNetV2 backbone (Apache-2.0) with the classifier of the PyTorch demo "
        "application's int8 model (BSD-3-Clause)",
        "Apache-2.0 AND BSD-3-Clause",
    ),
    "shufflenet_v2": (
        "shufflenet_v2_x1_0.safetensors",
        "the ONNX model zoo's shufflenet-v2-12-int8 (Apache-2.0; BSD-3-Clause on its page), dequantised",
        "Apache-2.0 AND BSD-3-Clause",
    ),
}
# Photographs to distil on, and how often a picture of each folder is drawn.
FOLDERS = {"imagenet_train_samples": 0.6, "coco/train2017": 0.2, "intel_scenes/train": 0.2}
SEEN = (
    "ImageNet validation photographs; they were measured every 100 steps, and in sight when the learning rate was "
    "chosen among 2e-5, 3e-5 and 2e-4"
)
PREPARED = (
    "cross-layer equalisation (balance 0.5), activation ranges of least squared error on every third of "
    "imagenet_train_samples"
)
SHORTER_SIDE = 320  # pictures are held in memory at this size


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=SOURCES)
    parser.add_argument("--data", type=Path, required=True, help="folder with weights/ and the photographs")
    parser.add_argument("--out", type=Path, default=BUNDLED)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=192, help="side of the training crops")
    parser.add_argument("--lr", type=float, default=3e-5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    train(**vars(arguments))


def train(network: str, data: Path, out: Path, steps: int, batch: int, size: int, lr: float, seed: int) -> None:
    """Calibrate, distil, write the file and its card."""
    torch.manual_seed(seed)
    random.seed(seed)
    file_name, source, license_ = SOURCES[network]
    weights = data / "weights" / file_name
    _, state = read_safetensors(weights)
    names, ids = imagenet_labels()
    spec = ModelSpec(network, 1.0, names, label_ids=ids, license=license_, provenance=f"distilled from {source}")
    teacher = QuantizedNetwork(build_graph(spec, state)).eval().to(memory_format=torch.channels_last)
    teacher.quantize = False
    pictures = {folder: load_pictures(data / folder) for folder in FOLDERS}
    print({folder: len(loaded) for folder, loaded in pictures.items()}, flush=True)

    samples = [pixels_of(picture, spec) for picture in pictures["imagenet_train_samples"][::3]]
    calibration = [batch.to(memory_format=torch.channels_last) for batch in torch.stack(samples).split(50)]
    student = QuantizedNetwork(equalize(build_graph(spec, state), teacher.channel_ranges(calibration)))
    student = student.to(memory_format=torch.channels_last)
    student.calibrate(calibration)
    validation = load_validation(data / "imagenet_val", ids, spec)
    reference = answers(to_tflite(build_graph(spec, state)), spec, validation)
    before = compare(reference, answers(to_tflite(student.freeze()), spec, validation), validation)
    print("calibrated only:", json.dumps(before), flush=True)

    optimizer = torch.optim.Adam(student.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    crops = Crops(pictures, batch, size, seed)
    start, losses = time.perf_counter(), []
    for step in range(steps):
        pixels = crops.next().to(memory_format=torch.channels_last)
        with torch.no_grad():
            wanted = teacher(pixels)
        loss = distillation_loss(student(pixels), wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % 20 == 0:
            pace = (time.perf_counter() - start) / (step + 1)
            print(f"step {step + 1}/{steps}  loss {np.mean(losses[-20:]):.4f}  {pace:.2f} s/step", flush=True)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            result = compare(reference, answers(to_tflite(student.freeze()), spec, validation), validation)
            print(f"step {step + 1}:", json.dumps(result), flush=True)
    minutes = (time.perf_counter() - start) / 60

    accuracy = Accuracy(
        "500 ImageNet-1k validation photographs of 20 classes",
        round(result["top1"] / 100, 6),
        round(result["top5"] / 100, 6),
        len(validation[1]),
        "fusiform: scripts/train_bundled.py",
    )
    graph = dataclasses.replace(student.freeze(), spec=spec.replace(accuracy=(accuracy,)))
    file = to_described_tflite(for_litert(graph))
    write(out / f"{spec.name}.tflite", file)
    card = {
        "file": f"{spec.name}.tflite",
        "sha256": hashlib.sha256(file).hexdigest(),
        "bytes": len(file),
        "network": spec.name,
        "task": "ImageNet-1k classification, 1000 classes, 224x224",
        "precision": "int8 weights (one scale an output channel) and activations (one scale a tensor)",
        "teacher and starting point": {"weights": source,
                                       "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()},
        "training photographs, unlabelled": {f: {"pictures": len(p), "share": FOLDERS[f]} for f, p in pictures.items()},
        "never trained on": SEEN,
        "before training": PREPARED,
        "loss": "4 KL(teacher || student) at temperature 2 + 0.1 mean squared error of the logits",
        "optimizer": f"Adam, lr {lr}, 20 steps warm-up, cosine to 0",
        "steps": steps, "batch": batch, "crops": f"{size}x{size}", "seed": seed, "minutes": round(minutes, 1),
        "torch": torch.__version__,
        "command": f"python scripts/train_bundled.py {network} --data DATA --steps {steps} --batch {batch} "
                   f"--size {size} --lr {lr} --seed {seed}",
        "licences": license_,
        "measured on 500 ImageNet validation photographs (20 classes)": {
            "float teacher": {k: result[f"teacher {k}"] for k in ("top1", "top5")},
            "after calibration alone": before, "this file": result,
        },
    }  # fmt: skip
    write(out / f"{spec.name}.card.json", (json.dumps(card, indent=2) + "\n").encode())


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Hinton's loss at ``temperature``, and the plain distance of the logits to pin their size."""
    soft = F.kl_div(
        F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1), log_target=True,
        reduction="batchmean",
    )  # fmt: skip
    return soft * temperature**2 + 0.1 * F.mse_loss(student, teacher)


class Crops:
    """An endless supply of random crops, made by another thread one batch ahead."""

    def __init__(self, pictures: dict[str, list[Image.Image]], batch: int, size: int, seed: int) -> None:
        self.pictures, self.batch = pictures, batch
        self.random = random.Random(seed)
        self.crop = transforms.RandomResizedCrop(size, scale=(0.3, 1.0), ratio=(0.8, 1.25))
        self.pool = ThreadPoolExecutor(1)
        self.ahead = self.pool.submit(self.make)

    def make(self) -> Tensor:
        folders = self.random.choices(list(FOLDERS), list(FOLDERS.values()), k=self.batch)
        return torch.stack([self.one(self.random.choice(self.pictures[folder])) for folder in folders])

    def one(self, picture: Image.Image) -> Tensor:
        crop = self.crop(picture)
        if self.random.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(crop)).permute(2, 0, 1).float()

    def next(self) -> Tensor:
        batch, self.ahead = self.ahead.result(), self.pool.submit(self.make)
        return batch


def load_pictures(folder: Path) -> list[Image.Image]:
    """All photographs of a folder, the shorter side at SHORTER_SIDE or less."""

    def load(path: Path) -> Image.Image:
        picture = read_image(path)
        scale = SHORTER_SIDE / min(picture.size)
        if scale < 1:
            picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
        return picture

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(load, find_images(folder)))


def pixels_of(picture: Image.Image, spec: ModelSpec) -> Tensor:
    """The picture as the network sees it when it predicts: float32 (3, 224, 224) in [0, 255]."""
    return torch.from_numpy(crop_pixels(picture, spec.preprocess).copy()).permute(2, 0, 1).float()


def load_validation(folder: Path, ids: tuple[str, ...], spec: ModelSpec) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 224, 224, 3) and class indices of the validation photographs."""
    paths = find_images(folder)
    pixels = np.stack([crop_pixels(read_image(path), spec.preprocess) for path in paths])
    return pixels, np.array([ids.index(path.parent.name) for path in paths])


def answers(file: bytes, spec: ModelSpec, validation: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    engine = LiteRTEngine(file, spec, threads=2)
    return np.concatenate([engine.run(picture[None])["logits"] for picture in validation[0]])


def compare(teacher: np.ndarray, student: np.ndarray, validation: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """Percentages: accuracy of both, and how often their first answers agree."""
    truth = validation[1]

    def top(logits: np.ndarray, k: int) -> float:
        best = np.argsort(-logits, 1, kind="stable")[:, :k]
        return round(100 * float((best == truth[:, None]).any(1).mean()), 2)

    agreement = round(100 * float((teacher.argmax(1) == student.argmax(1)).mean()), 2)
    error = round(float(np.square(teacher - student).mean()), 4)
    return {
        "mean squared error of logits": error,
        "top1": top(student, 1),
        "top5": top(student, 5),
        "agreement": agreement,
        "teacher top1": top(teacher, 1),
        "teacher top5": top(teacher, 5),
    }


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(data)
    temporary.replace(path)


if __name__ == "__main__":
    main()
