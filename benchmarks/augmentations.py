"""Which augmentation of ``fusiform train`` buys back most of what corruptions take?

ShuffleNetV2 x1.0 learns the scenes by ``finetune_small`` from ``--images`` of their training photographs at 112 pixels,
once for each augmentation and each of ``--seeds``; what is added to the recipe's own (``crop``) is the only difference.
Every model is shown the same ``--test`` test photographs as they are and corrupted, by ``evaluate --stress``'s fifteen
corruptions at strengths 1, 3 and 5. ``bought back`` is the share of what corruptions take from ``crop``'s accuracy that
the other has more on corrupted photographs. Intervals are over the photographs, drawn anew in pairs, and hold for all
augmentations together for 95 % (Bonferroni), since the best of them is chosen by these photographs; seeds are averaged
first, and each one's difference stands beside. A folder for ``--keep`` lets a run that was ended go on.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import common
import numpy as np
from numpy.typing import NDArray

import fusiform
from fusiform.data.corruptions import CORRUPTIONS, FAMILIES, corrupt
from fusiform.data.dataset import Sample
from fusiform.data.open import open_dataset
from fusiform.data.preprocess import crop_pixels
from fusiform.engines import open_engine
from fusiform.report import Cell
from fusiform.tasks import bootstrap

OWN = "crop"
VARIANTS: dict[str, dict[str, object]] = {
    "none": {"augment": "none"},
    "flip": {"augment": "flip"},
    OWN: {},
    "crop_randaugment": {"augment": "crop_randaugment"},
    "crop_trivial": {"augment": "crop_trivial"},
    "color_jitter=0.4": {"color_jitter": 0.4},
    "random_erasing=0.25": {"random_erasing": 0.25},
    "mixup=0.2": {"mixup": 0.2},
    "cutmix=1": {"cutmix": 1.0},
}
STRENGTHS = (1, 3, 5)
SIDE = 112
BATCH = 60


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--data", type=Path, default=common.SHARED_DATA, help="the shared data")
    parser.add_argument("--keep", type=Path, required=True, metavar="DIR", help="where runs and answers are kept")
    parser.add_argument("--images", type=int, default=900, help="training photographs (default: %(default)s)")
    parser.add_argument("--test", type=int, default=180, help="test photographs (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    arguments = parser.parse_args()
    keep: Path = arguments.keep
    keep.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset(arguments.data / "intel_scenes", task="classification")
    listed = some(dataset.splits["train"], arguments.images)
    with (keep / "train.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(
            [("path", "label"), *((sample.file, dataset.classes[sample.label]) for sample in listed)]
        )
    shown = some(dataset.splits["test"], arguments.test)
    found = {
        (name, seed): answers(arguments, keep, name, settings, seed, shown)
        for seed in range(arguments.seeds)
        for name, settings in VARIANTS.items()
    }
    # (seeds, 1 + corruptions x strengths, images)
    right = {name: np.stack([found[name, seed] for seed in range(arguments.seeds)]) for name in VARIANTS}
    about = common.machine("fusiform", "torch", "numpy")
    figures: dict[str, Cell] = {
        "training photographs": len(listed),
        "test photographs": len(shown),
        "seeds": arguments.seeds,
        "clean of crop, %": percent(right[OWN][:, 0].mean()),
        "corrupted of crop, %": percent(right[OWN][:, 1:].mean()),
    }
    rows = [row for name in VARIANTS for row in compared(name, right[name], right[OWN])]
    common.finish("augmentations", about, figures, rows, arguments.json)


def some(samples: Sequence[Sample], count: int) -> list[Sample]:
    """As many, evenly over the list, in which the classes stand one after the other."""
    return [samples[i] for i in np.linspace(0, len(samples) - 1, count).round().astype(int)]


def answers(
    arguments: argparse.Namespace,
    keep: Path,
    name: str,
    settings: dict[str, object],
    seed: int,
    shown: Sequence[Sample],
) -> NDArray[np.bool_]:
    """Whether a model is right, (1 + corruptions x strengths, images): the first row of the images as they are."""
    folder = keep / f"{name}_{seed}"
    kept = keep / f"{name}_{seed}.npy"
    if kept.exists():
        found: NDArray[np.bool_] = np.load(kept)
        return found
    if (folder / "run.json").exists() and not (folder / "report.json").exists():
        fusiform.train(None, folder, resume=True, progress=False)
    if not (folder / "report.json").exists():
        fusiform.train(
            keep / "train.csv",
            folder,
            model=arguments.data / "weights" / "shufflenet_v2_x1_0.safetensors",
            recipe="finetune_small",
            settings={"epochs": 4, "size": 96, "eval_size": SIDE, "eval_resize": SIDE, "seed": seed, **settings},
            threads=arguments.threads,
            progress=False,
        )
    engine = open_engine(folder / "best.safetensors", engine="torch", threads=arguments.threads)
    spec = engine.spec
    pixels = corrupted(keep, [crop_pixels(sample.read(), spec.preprocess) for sample in shown])
    truth = np.array([sample.label for sample in shown])
    rows = []
    for seen in pixels:
        parts = [engine.run(seen[k : k + BATCH])[spec.output].argmax(1) for k in range(0, len(seen), BATCH)]
        rows.append(np.concatenate(parts) == truth)
    np.save(kept, np.stack(rows))
    print(f"{name}, seed {seed}: {rows[0].mean():.3f}, {np.mean(rows[1:]):.3f}", file=sys.stderr, flush=True)
    return np.stack(rows)


def corrupted(keep: Path, clean: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The images, and after them each corruption at each strength: (1 + 45, images, side, side, 3)."""
    file = keep / "pixels.npy"
    if not file.exists():
        ways = [(corruption, strength) for corruption in CORRUPTIONS for strength in STRENGTHS]
        made = [np.stack([corrupt(x, *way, seed=i) for i, x in enumerate(clean)]) for way in ways]
        np.save(file, np.stack([np.stack(clean), *made]))
    pixels: NDArray[np.uint8] = np.load(file, mmap_mode="r")
    return pixels


def compared(name: str, right: NDArray[np.bool_], own: NDArray[np.bool_]) -> list[dict[str, Cell]]:
    """A row for all corruptions, and one for each family: accuracies, the difference to ``crop``, what is bought."""
    rows: list[dict[str, Cell]] = []
    ways = list(CORRUPTIONS)
    for family, members in (("all", ways), *FAMILIES.items()):
        chosen = [1 + len(STRENGTHS) * ways.index(each) + k for each in members for k in range(len(STRENGTHS))]
        mine, base = (x[:, chosen].mean((0, 1)) for x in (right, own))  # (images,)
        taken = own[:, 0].mean() - base.mean()

        def gain(weights: NDArray[np.int32], mine: NDArray = mine, base: NDArray = base) -> NDArray[np.float64]:
            drawn: NDArray[np.float64] = (weights @ (mine - base) / weights.sum(1))[:, None]
            return drawn

        drawn = np.concatenate([gain(weights) for weights in bootstrap.resamples(len(mine))])[:, 0]
        tail = 100 * 0.05 / (len(VARIANTS) - 1) / 2
        low, high = np.percentile(drawn, (tail, 100 - tail))
        row: dict[str, Cell] = {
            "augmentation": name,
            "corruptions": family,
            "clean %": percent(right[:, 0].mean()),
            "corrupted %": percent(mine.mean()),
            "points": percent((mine - base).mean()),
            "points from": percent(low),
            "points to": percent(high),
            "bought back %": percent((mine - base).mean() / taken),
        }
        for seed in range(len(right)):
            row[f"points, seed {seed}"] = percent(right[seed][chosen].mean() - own[seed][chosen].mean())
        rows.append(row)
    return rows


def percent(share: float) -> float:
    return round(100 * float(share), 1) + 0.0  # no -0.0


if __name__ == "__main__":
    main()
