"""The corruptions of ``evaluate --stress`` beside those of ImageNet-C's authors: how often is a network right on each?

    pip install imagecorruptions 'setuptools<80'
    python benchmarks/corruptions.py [--folder IMAGENET_VAL] [--every 4] [--json FILE]

imagecorruptions is the authors' program as a package, in which the elastic transform has strengths of its own; its
calls of scikit-image and numpy are for older ones, and are translated here. Images are corrupted after resizing and
cropping. FOLDER holds a folder of photographs for each WordNet id; every fourth is taken, since there are 150 ways.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
from numpy.typing import NDArray

from fusiform.data.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from fusiform.data.image import find_images, read_image
from fusiform.data.preprocess import crop_pixels
from fusiform.engines import open_engine
from fusiform.report import Cell


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--folder", type=Path, default=common.SHARED_DATA / "imagenet_val")
    parser.add_argument("--every", type=int, default=4, help="take every so many-th photograph (default: %(default)s)")
    arguments = parser.parse_args()
    theirs = authors()
    about = common.machine("fusiform", "ai-edge-litert", "imagecorruptions", "numpy")
    engine = open_engine("mobilenet_v2", threads=common.usable_cores())
    spec = engine.spec
    classes = {wnid: k for k, wnid in enumerate(spec.label_ids)}
    files = find_images(arguments.folder)[:: arguments.every]
    images = [crop_pixels(read_image(file), spec.preprocess) for file in files]
    truth = [classes[file.parent.name] for file in files]

    def right(shown: list[NDArray[np.uint8]]) -> float:
        answers = (int(engine.run(image[None])[spec.output].argmax()) for image in shown)
        return sum(answer == true for answer, true in zip(answers, truth, strict=True)) / len(truth)

    rows: list[dict[str, Cell]] = []
    for name in CORRUPTIONS:
        row: dict[str, Cell] = {"corruption": name}
        for strength in STRENGTHS:
            np.random.seed(0)  # noqa: NPY002  # theirs draws from it
            row[f"theirs {strength}"] = round(100 * right([theirs(image, name, strength) for image in images]), 1)
            ours = [corrupt(image, name, strength, seed=i) for i, image in enumerate(images)]
            row[f"ours {strength}"] = round(100 * right(ours), 1)
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    figures: dict[str, Cell] = {"photographs": len(images), "right as they are, %": round(100 * right(images), 1)}
    for who in ("theirs", "ours"):
        mean = float(np.mean([float(str(row[f"{who} {k}"])) for row in rows for k in STRENGTHS]))
        figures[f"{who}: mean right, %"] = round(mean, 1)
    common.finish("corruptions", about, figures, rows, arguments.json)


def authors() -> Callable[[NDArray[np.uint8], str, int], NDArray[np.uint8]]:
    """The authors' program: an image (height, width, 3), the name and the strength."""
    for old, new in (("float_", "float64"), ("int0", "intp")):
        if not hasattr(np, old):
            setattr(np, old, getattr(np, new))
    warnings.simplefilter("ignore")
    try:
        from imagecorruptions import corruptions
    except ImportError as error:
        sys.exit(f"corruptions: {error}: pip install imagecorruptions 'setuptools<80', in an environment of its own")
    blur = corruptions.gaussian

    def gaussian(image: Any, sigma: Any = 1, multichannel: bool = False, **more: Any) -> Any:
        return blur(image, sigma=sigma, channel_axis=-1 if multichannel else None, **more)

    corruptions.gaussian = gaussian
    from imagecorruptions import corrupt as theirs

    return lambda image, name, strength: theirs(image, corruption_name=name, severity=strength)


if __name__ == "__main__":
    main()
