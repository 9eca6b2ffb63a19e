"""Does ``fusiform plan`` foretell from a quarter of the images what all of them give?

The scenes' photographs are shown to MobileNetV2 once. ``--draws`` times a quarter of the 4,200 training photographs is
drawn, and from it alone the accuracy with all of them foretold: a last layer on nested subsets in five orders, measured
on the 1,200 test photographs. It is held against what a last layer of all 4,200 reaches on the same photographs. The
stated interval is one of 90 %: it has to hold the accuracy in nine draws of ten, and to be narrower than 3 points to
each side.
"""

from __future__ import annotations

from pathlib import Path

import common
import numpy as np

from fusiform.advice.plan import Parts, subsets
from fusiform.advice.seen import see
from fusiform.data.open import open_dataset
from fusiform.report import Cell
from fusiform.tasks.learning_curve import Curve
from fusiform.zoo.model import open_model


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--data", type=Path, default=common.SHARED_DATA, help="the shared data")
    parser.add_argument("--draws", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument(
        "--seen", type=Path, help="an npz file with train, train_y, test and test_y, in place of the data"
    )
    arguments = parser.parse_args()
    if arguments.seen:
        with np.load(arguments.seen) as stored:
            train, train_y, test, test_y = (stored[name] for name in ("train", "train_y", "test", "test_y"))
        features, labels, count = np.concatenate([train, test]), np.concatenate([train_y, test_y]), len(train)
    else:
        splits = open_dataset(arguments.data / "intel_scenes", task="classification").splits
        samples, count = (*splits["train"], *splits["test"]), len(splits["train"])
        seen = see(open_model("mobilenet_v2"), samples)
        features, labels = seen.features, np.array([samples[i].label for i in seen.numbers])
    features = features.astype(np.float32) - features[:count].mean(0)
    classes, measured = int(labels.max()) + 1, np.arange(count, len(labels))
    whole = subsets(features, labels, classes, Parts(np.arange(count), measured, "test"), 0, orders=1)[1][0, -1].mean()
    rows: list[dict[str, Cell]] = []
    for draw in range(arguments.draws):
        quarter = np.random.default_rng(draw).permutation(count)[: count // 4]
        sizes, right = subsets(features, labels, classes, Parts(quarter, measured, "test"), draw)
        accuracy, low, high = Curve(sizes, right, seed=draw).at(count)
        row: dict[str, Cell] = {"draw": draw, "with a quarter": round(float(right[:, -1].mean()), 4)}
        row |= {"foretold": round(accuracy, 4), "low": round(low, 4), "high": round(high, 4)}
        rows.append(row | {"holds": bool(low <= whole <= high)})
    figures: dict[str, Cell] = {"with all": round(float(whole), 4), "held": sum(bool(row["holds"]) for row in rows)}
    common.finish("learning curve", common.machine("numpy"), figures, rows, arguments.json)


if __name__ == "__main__":
    main()
