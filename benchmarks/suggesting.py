"""How many labels does ``fusiform suggest`` save, against picking at random?

The scenes' 4,200 training photographs are the pool, shown to MobileNetV2 once. For each of ``--seeds`` and each way,
labels are bought step by step up to 600; after each step a last layer learns the labelled photographs and is measured
on the 1,200 test photographs. ``suggest`` picks the first fifty without knowing any class (``--diverse``), the others
as with ``--labelled``; ``margin`` picks those with the least margin alone. The means over the seeds are given, and the
least and the greatest difference from random picking with the same seed.
"""

from __future__ import annotations

from pathlib import Path

import common
import numpy as np
from numpy.typing import NDArray

from fusiform.advice.seen import see
from fusiform.data.open import open_dataset
from fusiform.report import Cell
from fusiform.tasks.classification import softmax
from fusiform.tasks.linear_head import fit_head, out_of_fold
from fusiform.tasks.picking import pick
from fusiform.zoo.model import open_model

BUDGETS = (50, 100, 150, 200, 300, 400, 500, 600)
WAYS = ("random", "suggest", "margin")


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--data", type=Path, default=common.SHARED_DATA, help="the shared data")
    parser.add_argument("--seeds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument(
        "--seen", type=Path, help="an npz file with train, train_y, test and test_y, in place of the data"
    )
    arguments = parser.parse_args()
    pool, labels, test, truth = read(arguments.data, arguments.seen)
    reached = {
        way: np.array([bought(way, pool, labels, test, truth, seed) for seed in range(arguments.seeds)]) for way in WAYS
    }
    goal = reached["random"][:, -1].mean()
    rows: list[dict[str, Cell]] = []
    for way, values in reached.items():
        first = next((budget for budget, mean in zip(BUDGETS, values.mean(0), strict=True) if mean >= goal), None)
        for k, budget in enumerate(BUDGETS):
            gained = values[:, k] - reached["random"][:, k]
            rows.append(
                {"way": way, "labels": budget, "accuracy": round(float(values[:, k].mean()), 4)}
                | {"gained": round(float(gained.mean()), 4), "least": round(float(gained.min()), 4)}
                | {"greatest": round(float(gained.max()), 4), "random's 600 with": first}
            )
    common.finish("suggesting", common.machine("numpy"), {"seeds": arguments.seeds}, rows, arguments.json)


def read(data: Path, kept: Path | None) -> tuple[NDArray[np.float32], ...]:
    if kept is not None:
        with np.load(kept) as stored:
            return tuple(stored[name] for name in ("train", "train_y", "test", "test_y"))
    splits = open_dataset(data / "intel_scenes", task="classification").splits
    model, found = open_model("mobilenet_v2"), []
    for split in ("train", "test"):
        seen = see(model, splits[split])
        found += [seen.features, np.array([splits[split][i].label for i in seen.numbers])]
    return tuple(found)


def bought(
    way: str,
    pool: NDArray[np.float32],
    labels: NDArray[np.int64],
    test: NDArray[np.float32],
    truth: NDArray[np.int64],
    seed: int,
) -> list[float]:
    """The accuracy with each budget."""
    random = np.random.default_rng(seed)
    have = np.empty(0, np.int64)
    reached = []
    classes = int(labels.max()) + 1
    for step, budget in enumerate(BUDGETS):
        free = np.setdiff1d(np.arange(len(pool)), have)
        count = budget - len(have)
        if way == "random":
            new = random.choice(free, count, replace=False)
        elif not len(have):
            new = free[pick(pool[free], count, seed=seed)]
        else:
            slope = out_of_fold(pool[have], labels[have], classes, seed=seed).slope
            first = np.partition(
                softmax(fit_head(pool[have], labels[have], classes, slope=slope)(pool[free])), -2, axis=1
            )
            margins = first[:, -1] - first[:, -2]
            least = np.argsort(margins, kind="stable")[:count]
            new = free[least if way == "margin" else pick(pool[free], count, margins=margins, seed=seed + step)]
        have = np.concatenate([have, new])
        head = fit_head(pool[have], labels[have], classes)
        reached.append(float((head(test).argmax(1) == truth).mean()))
    return reached


if __name__ == "__main__":
    main()
