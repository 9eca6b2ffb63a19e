"""Write the networks that ship inside the wheel again, in the form that LiteRT files have now: the same weights.

    python scripts/renew_bundled.py --data ../shared/data/imagenet_val

A file is replaced only if it answers the photographs as before: the same five likeliest classes in the same order, and
probabilities equal to rounding. Prints how far they are apart and how much larger the file is, and renews its card.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np

from fusiform.data.image import find_images, read_image
from fusiform.data.preprocess import crop_pixels
from fusiform.engines import open_engine
from fusiform.files import write_file
from fusiform.graph.conventions import for_litert
from fusiform.graph.tflite_metadata import to_described_tflite
from fusiform.spec import ModelSpec
from fusiform.tasks.classification import softmax
from fusiform.zoo.catalog import BUNDLED_FOLDER
from fusiform.zoo.model import Model, open_model

ROUNDING = 1e-6


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="photographs to compare both forms on")
    arguments = parser.parse_args()
    for path in sorted(BUNDLED_FOLDER.glob("*.tflite")):
        renew(path, arguments.data)


def renew(path: Path, data: Path) -> None:
    """Compare, then replace the file and the two figures of its card that change."""
    before = open_model(path)
    graph = for_litert(before.graph())
    file = to_described_tflite(graph)
    after = Model(path, "tflite", graph.spec, file)
    pixels = np.stack([crop_pixels(read_image(photo), before.spec.preprocess) for photo in find_images(data)])
    old, new = (shares(model, pixels) for model in (before, after))
    apart = float(np.abs(old - new).max())
    same = int((top(old) == top(new)).all(1).sum())
    growth = len(file) / len(before.data) - 1
    print(f"{path.name}: top-5 the same on {same} of {len(pixels)}, {apart:.1e} apart, {growth:+.2%} bytes")
    if same != len(pixels) or apart > ROUNDING:
        raise SystemExit(f"{path}: answers otherwise; left as it is")
    write_file(path, file)
    card = path.with_suffix(".card.json")
    content = json.loads(card.read_text(encoding="utf-8"))
    content |= {"sha256": hashlib.sha256(file).hexdigest(), "bytes": len(file)}
    write_file(card, (json.dumps(content, indent=2) + "\n").encode())


def shares(model: Model, pixels: np.ndarray) -> np.ndarray:
    """Probabilities (N, classes), whichever form the file answers in."""
    engine = open_engine(model, threads=2)
    values = engine.run(pixels)[engine.spec.output]
    return probabilities(values, engine.spec)


def probabilities(values: np.ndarray, spec: ModelSpec) -> np.ndarray:
    return softmax(values / spec.temperature) if spec.output == "logits" else values.astype(np.float64)


def top(values: np.ndarray) -> np.ndarray:
    return np.argsort(-values, 1, kind="stable")[:, :5]


if __name__ == "__main__":
    main()
