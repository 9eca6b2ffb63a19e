"""Does the doctor find planted wrong labels, beside cleanlab on the same out-of-fold predictions?

The scenes' training photographs are shown to MobileNetV2 once; 3, 5 and 10 % of them, drawn by each of ``--seeds``, get
another class, each as likely as the others. Both judge by the same probabilities: heads in five folds, none of which
has seen the photograph (``fusiform.tasks.linear_head``). Precision is the share of those named that were planted,
recall the share of the planted ones that are named; the means over the seeds stand with their least and greatest.

With no wrong label planted, ``undoubted`` is the share of the photographs that are named though a head on another
network's features, ShuffleNetV2's, which shares no weight with the first, gives their label half or more.

Needs ``pip install cleanlab``.
"""

from __future__ import annotations

from pathlib import Path

import common
import numpy as np
from cleanlab.filter import find_label_issues
from numpy.typing import NDArray

from fusiform.advice.seen import see
from fusiform.data.open import open_dataset
from fusiform.report import Cell
from fusiform.tasks.label_noise import doubted_labels
from fusiform.tasks.linear_head import out_of_fold
from fusiform.zoo.model import open_model

FILTERS = ("prune_by_noise_rate", "prune_by_class", "both", "confident_learning")


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--data", type=Path, default=common.SHARED_DATA, help="the shared data")
    parser.add_argument("--seeds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--seen", type=Path, help="an npz file with features, other and labels, in place of the data")
    arguments = parser.parse_args()
    features, other, labels = read(arguments.data, arguments.seen)
    classes = int(labels.max()) + 1
    sure = out_of_fold(other, labels, classes).probabilities[np.arange(len(labels)), labels] >= 0.5
    rows: list[dict[str, Cell]] = []
    for rate in (0, 3, 5, 10):
        found: dict[str, list[tuple[float, ...]]] = {}
        for seed in range(arguments.seeds if rate else 1):
            given = planted(labels, classes, rate, seed)
            probabilities = out_of_fold(features, given, classes, seed=seed).probabilities
            named = np.zeros(len(given), bool)
            named[[doubt.number for doubt in doubted_labels(probabilities, given)]] = True
            found.setdefault("fusiform", []).append(figures(named, given != labels, sure))
            for way in FILTERS:
                named = find_label_issues(given, probabilities, filter_by=way, n_jobs=1)
                found.setdefault(f"cleanlab, {way}", []).append(figures(named, given != labels, sure))
        rows += [row(rate, name, np.array(values)) for name, values in found.items()]
    about = common.machine("numpy", "cleanlab")
    common.finish("label noise", about, {"photographs": len(labels), "seeds": arguments.seeds}, rows, arguments.json)


def read(data: Path, kept: Path | None) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    if kept is not None:
        with np.load(kept) as stored:
            return stored["features"], stored["other"], stored["labels"]
    samples = open_dataset(data / "intel_scenes", task="classification").splits["train"]
    models = ("mobilenet_v2", data / "weights" / "shufflenet_v2_x1_0.safetensors")
    first, second = (see(open_model(model), samples) for model in models)
    return first.features, second.features, np.array([samples[i].label for i in first.numbers])


def planted(labels: NDArray[np.int64], classes: int, rate: int, seed: int) -> NDArray[np.int64]:
    random = np.random.default_rng([rate, seed])
    given = labels.copy()
    wrong = random.choice(len(labels), len(labels) * rate // 100, replace=False)
    given[wrong] = (given[wrong] + random.integers(1, classes, len(wrong))) % classes
    return given


def figures(named: NDArray[np.bool_], wrong: NDArray[np.bool_], sure: NDArray[np.bool_]) -> tuple[float, ...]:
    hits = float((named & wrong).sum())
    return hits / max(1, named.sum()), hits / max(1, wrong.sum()), named.mean(), (named & sure).mean()


def row(rate: int, name: str, values: NDArray[np.float64]) -> dict[str, Cell]:
    precision, recall, named, undoubted = values.mean(0)
    about: dict[str, Cell] = {"planted %": rate, "contender": name, "named %": round(100 * named, 2)}
    if not rate:
        return about | {"undoubted %": round(100 * undoubted, 2)}
    for key, column, mean in (("precision", 0, precision), ("recall", 1, recall)):
        low, high = values[:, column].min(), values[:, column].max()
        about |= {key: round(float(mean), 3), f"{key} from": round(float(low), 3), f"{key} to": round(float(high), 3)}
    return about


if __name__ == "__main__":
    main()
