"""Does ``fusiform add-class`` learn a class from five photographs, and what does it lose on the old ones?

The six scenes are the old classes: MobileNetV2's features of their photographs are computed once, a last layer learns
the 4,200 training photographs as the first phase of ``finetune_small`` does, and ``--at-hand`` of each scene are what
sets the new class apart. Each of the 20 ImageNet classes of ``imagenet_val`` is added alone, from five of its
photographs, ``--draws`` times (seeds 0, 1, ...), to that layer. Given for each class are the recall on its other
photographs, the points of top-1 accuracy that were lost on the scenes' 1,200 test photographs, and the least and the
greatest of both; the last row is the mean over all classes, with its 95 % interval over the classes.
"""

from __future__ import annotations

from pathlib import Path

import common
import numpy as np
from numpy.typing import NDArray

from fusiform.advice.seen import see
from fusiform.data.dataset import Sample
from fusiform.data.image import find_images
from fusiform.data.open import open_dataset
from fusiform.embedding.prototypes import Features, Head, Labels, added_class, added_without
from fusiform.report import Cell
from fusiform.training.classification import train_head
from fusiform.training.recipes import finetune_small
from fusiform.zoo.model import open_model

FROM = 5


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--data", type=Path, default=common.SHARED_DATA, help="the shared data")
    parser.add_argument("--draws", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--at-hand", type=int, default=300, help="photographs of each scene (default: %(default)s)")
    parser.add_argument("--without", action="store_true", help="without any image of the old classes")
    parser.add_argument("--seen", type=Path, help="where the features are kept for another time, an npz file")
    arguments = parser.parse_args()
    seen = look(arguments.data, arguments.seen)
    weight, bias = train_head(seen["train"], seen["train_y"], 6, finetune_small)
    head = Head(weight.astype(np.float64), bias.astype(np.float64))
    lines = (arguments.data / "imagenet_classes.tsv").read_text(encoding="utf-8").splitlines()
    called = {line.split("\t")[1]: line.split("\t")[2] for line in lines}
    rows: list[dict[str, Cell]] = []
    recalls, losses = [], []
    for number, name in enumerate(seen["names"]):
        mine = seen["new"][seen["new_y"] == number]
        told = [one(head, seen, mine, draw, arguments.at_hand, arguments.without) for draw in range(arguments.draws)]
        recall, lost = np.array(told).T
        recalls.append(float(recall.mean()))
        losses.append(float(lost.mean()))
        rows.append({"class": called.get(str(name), str(name)), **figures(recall, lost)})
    whole: dict[str, Cell] = {"class": "mean of the classes"}
    for title, values in (("recall", recalls), ("lost", losses)):
        mean, half = float(np.mean(values)), 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5
        whole |= {title: round(mean, 4), f"{title}_low": round(mean - half, 4), f"{title}_high": round(mean + half, 4)}
    about = {"photographs": FROM, "draws": arguments.draws, "at hand": 0 if arguments.without else arguments.at_hand}
    common.finish("added class", common.machine("numpy"), about, [*rows, whole], arguments.json)


def figures(recall: NDArray[np.float64], lost: NDArray[np.float64]) -> dict[str, Cell]:
    return {
        "recall": round(float(recall.mean()), 4),
        "least_recall": round(float(recall.min()), 4),
        "lost": round(float(lost.mean()), 4),
        "most_lost": round(float(lost.max()), 4),
    }


def look(data: Path, keep: Path | None) -> dict[str, NDArray[np.generic]]:
    """The features and classes of all photographs."""
    if keep is not None and keep.is_file():
        return dict(np.load(keep))
    scenes = open_dataset(data / "intel_scenes", task="classification").splits
    files = find_images(data / "imagenet_val")
    names = sorted({file.parent.name for file in files})
    samples = {**scenes, "new": [Sample(file, names.index(file.parent.name)) for file in files]}
    found: dict[str, NDArray[np.generic]] = {"names": np.array(names)}
    for name in ("train", "test", "new"):
        told = see(open_model("mobilenet_v2"), samples[name])
        found |= {name: told.features, f"{name}_y": np.array([samples[name][k].label for k in told.numbers])}
    if keep is not None:
        np.savez(keep, **found)
    return found


def one(
    head: Head, seen: dict[str, NDArray[np.generic]], mine: Features, draw: int, at_hand: int, without: bool
) -> tuple[float, float]:
    """The recall on the other photographs of the class, and what was lost of the scenes' accuracy."""
    random = np.random.default_rng(draw)
    order = random.permutation(len(mine))
    new, others = mine[order[:FROM]], mine[order[FROM:]]
    if without:
        added = added_without(head, new)
    else:
        chosen = np.concatenate(
            [random.permutation(np.flatnonzero(seen["train_y"] == label))[:at_hand] for label in range(6)]
        )
        added = added_class(head, new, seen["train"][chosen], seen["train_y"][chosen])

    def named(features: Features) -> Labels:
        old = features @ head.weight.T + head.bias
        return np.where(features @ added.weight + added.bias > old.max(1), 6, old.argmax(1))

    before = (seen["test"] @ head.weight.T + head.bias).argmax(1) == seen["test_y"]
    after = named(seen["test"]) == seen["test_y"]
    return float((named(others) == 6).mean()), float(before.mean() - after.mean())


if __name__ == "__main__":
    main()
