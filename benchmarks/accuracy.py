"""How often the answers are right, and how often two ways of getting them agree.

    python benchmarks/accuracy.py [--folder FOLDER] [--reference FILE ...] [--json FILE]

FOLDER holds a folder of photographs for each WordNet id; by default the 500 of ImageNet's validation set in the shared
data. They are of 20 of the 1000 classes: compare these figures with each other, never with a published accuracy.
Measured over all 1000 classes, with Wilson's 95 % intervals:
  - top-1 and top-5 of each bundled model in each engine; PyTorch runs it dequantised, as fusiform.load gives it
  - of the float weights it was made from (--reference, safetensors; by default those of the shared data), and how often
    both give the same first answer
  - of the fast mode, and how often it gives the exact mode's first answer: on the photographs as they are, and on a set
    made from them, each enlarged 4 times (bicubic, JPEG quality 92). Few of the photographs are large enough for
    libjpeg to decode them at a reduced scale, all of the enlarged ones are. Enlarged pictures hold no fine detail, so
    they show the path at work rather than what a sharp photograph of that size would lose.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import common
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.image import find_images, read_image
from fusiform.data.preprocess import crop_pixels
from fusiform.engines import ENGINES, Engine, open_engine
from fusiform.prediction.predictor import FAST_MARGIN
from fusiform.report import Cell
from fusiform.spec import ModelSpec
from fusiform.zoo.catalog import imagenet_labels
from fusiform.zoo.model import open_model

Answers = NDArray[np.intp]
"""(N, 5): the likeliest classes of each picture, likeliest first."""

MODELS = ("mobilenet_v2", "shufflenet_v2_x1_0")
REFERENCES = ("mobilenet_v2_1.0_224.safetensors", "shufflenet_v2_x1_0.safetensors")
ENLARGED = 4


class Photographs(NamedTuple):
    """Files and the index of what each shows."""

    files: list[Path]
    classes: list[int]


class Pixels(NamedTuple):
    """Photographs ready for an engine, (N, crop, crop, 3) uint8, and milliseconds a picture to get there."""

    values: NDArray[np.uint8]
    milliseconds: float


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--folder", type=Path, default=common.SHARED_DATA / "imagenet_val")
    parser.add_argument("--reference", type=Path, nargs="+", metavar="FILE", help="float weights of these networks")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        sys.exit(f"accuracy: skipped, {arguments.folder} is not there: name a folder of WordNet ids with --folder")
    references = arguments.reference or [common.SHARED_DATA / "weights" / name for name in REFERENCES]
    if missing := [path.name for path in references if not path.is_file()]:
        print(f"accuracy: no reference weights ({', '.join(missing)}): their rows are left out", file=sys.stderr)
        references = [path for path in references if path.is_file()]

    about = common.machine("fusiform", "ai-edge-litert", "onnxruntime", "torch", "numpy", "pillow")
    photographs = find_photographs(arguments.folder)
    floats = {open_model(path).spec.name: path for path in references}
    rows: list[dict[str, Cell]] = []
    with tempfile.TemporaryDirectory() as folder:
        enlarged = enlarge(photographs, Path(folder))
        for name in MODELS:
            rows += measure(name, floats.get(open_model(name).spec.name), photographs, enlarged)
    figures: dict[str, Cell] = {
        "photographs": len(photographs.files),
        "classes among them": len(set(photographs.classes)),
        "warm-up": "none, nothing is compared by time but reading: milliseconds a picture, one thread",
    }
    common.finish("accuracy", about, figures, rows, arguments.json)


def measure(
    name: str, reference: Path | None, photographs: Photographs, enlarged: Photographs
) -> list[dict[str, Cell]]:
    """The rows of one bundled model."""
    spec = open_model(name).spec
    pixels = read(photographs, spec)
    cores = common.usable_cores()
    rows = []

    def add(engine: str, form: str, given: Answers, other: str = "", others: Answers | None = None) -> None:
        row: dict[str, Cell] = {"model": name, "engine": engine, "form": form}
        for top in (1, 5):
            right = sum(c in best[:top] for c, best in zip(photographs.classes, given.tolist(), strict=True))
            row |= share(f"top-{top}", right, len(given))
        if others is not None:
            row["compared with"] = other
            row |= share("same first answer", int((given[:, 0] == others[:, 0]).sum()), len(given))
        rows.append(row)

    original = None
    if reference is not None:
        original = answer(open_engine(reference, threads=cores), pixels)
        add("litert", "reference", original)
    for engine in ENGINES:
        given = answer(open_engine(name, engine=engine, threads=cores), pixels)
        add(engine, "dequantised" if engine == "torch" else "int8", given, "reference", original)

    default = open_engine(name, threads=cores)
    large = f"int8, enlarged x{ENLARGED}"
    for form, pictures, exact in (("int8", photographs, pixels), (large, enlarged, read(enlarged, spec))):
        first, fast = answer(default, exact), read(pictures, spec, fast=True)
        add("litert", f"{form}, exact", first)
        rows[-1]["read ms"] = round(exact.milliseconds, 2)
        add("litert", f"{form}, fast", answer(default, fast), "exact", first)
        rows[-1]["read ms"] = round(fast.milliseconds, 2)
    return rows


def find_photographs(folder: Path) -> Photographs:
    """The pictures in the folder's subfolders, which are named by WordNet ids."""
    index = {wnid: number for number, wnid in enumerate(imagenet_labels()[1])}
    files = find_images(folder)
    if not files or (unknown := sorted({file.parent.name for file in files} - set(index))):
        found = f"{unknown[0]} is not one" if files else "it holds no pictures"
        sys.exit(f"accuracy: {folder} must hold folders named by the WordNet ids of ImageNet-1k; {found}")
    return Photographs(files, [index[file.parent.name] for file in files])


def enlarge(photographs: Photographs, folder: Path) -> Photographs:
    """The same photographs, enlarged, as JPEGs in ``folder``."""
    files = []
    for number, file in enumerate(photographs.files):
        image = read_image(file)
        size = (image.width * ENLARGED, image.height * ENLARGED)
        files.append(folder / f"{number:05}.jpg")
        image.resize(size, Image.Resampling.BICUBIC).save(files[-1], quality=92)
    return Photographs(files, photographs.classes)


def read(photographs: Photographs, spec: ModelSpec, *, fast: bool = False) -> Pixels:
    """Read photographs as ``fusiform.predict`` does, in one thread."""
    start = time.perf_counter()
    shorter_side = FAST_MARGIN * spec.preprocess.resize if fast else None
    values = [
        crop_pixels(read_image(file, shorter_side=shorter_side), spec.preprocess, fast=fast)
        for file in photographs.files
    ]
    return Pixels(np.stack(values), 1000 * (time.perf_counter() - start) / len(values))


def answer(engine: Engine, pixels: Pixels) -> Answers:
    """The five likeliest classes of each picture."""
    batches = np.array_split(pixels.values, max(1, len(pixels.values) // 20))
    logits = np.concatenate([engine.run(batch)[engine.spec.output] for batch in batches])
    return np.argsort(-logits, axis=1, kind="stable")[:, :5]


def share(name: str, part: int, whole: int) -> dict[str, Cell]:
    """``part`` of ``whole`` in percent, and its 95 % interval after Wilson (1927)."""
    z, p = 1.96, part / whole
    middle = (p + z * z / (2 * whole)) / (1 + z * z / whole)
    half = z / (1 + z * z / whole) * math.sqrt(p * (1 - p) / whole + z * z / (4 * whole * whole))
    low, high = 100 * (middle - half), 100 * (middle + half)
    return {f"{name} %": round(100 * p, 1), f"{name} 95%": f"{low:.1f} to {high:.1f}"}


if __name__ == "__main__":
    main()
