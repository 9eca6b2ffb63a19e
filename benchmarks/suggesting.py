"""How many labels does ``fusiform suggest`` save, against picking at random?

The scenes' 4,200 training photographs are the pool, shown to MobileNetV2 once. For each of ``--seeds`` and each way,
labels are bought step by step up to 600; after each step a last layer learns the labelled photographs and is measured
on the 1,200 test photographs. ``suggest`` picks the first fifty without knowing any class (``--diverse``), the others
as with ``--labelled``; ``margin`` picks those with the least margin alone. Two last layers learn: ``discriminant`` is
the linear discriminant that also says what is uncertain, ``trained`` the one that ``fusiform train`` begins with.

``held out`` is the same without the test photographs: for each seed 1,000 training photographs are drawn to be
measured on, and the pool is the other 3,200.

Given are means over the seeds with 95 % intervals of them (Student's t). They are about other draws of labels: those
of ``test`` say nothing of other test photographs. ``gained`` is against random picking with the same seed. ``needed``
is the number of labels with which a way reaches what random picking reaches with 600, between two budgets by a straight
line (its interval by 2,000 bootstrap samples of the seeds; None is more than 600), and ``400 less random's 600`` a
difference of accuracies.
"""

from __future__ import annotations

import math
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
from fusiform.training.classification import train_head
from fusiform.training.recipes import finetune_small
from fusiform.zoo.model import open_model

BUDGETS = (50, 100, 150, 200, 300, 400, 500, 600)
WAYS = ("random", "suggest", "margin")
HEADS = ("discriminant", "trained")
HELD_OUT = 1000
_SAMPLES = 2000

Floats = NDArray[np.float64]
Photographs = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Features and labels."""


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--data", type=Path, default=common.SHARED_DATA, help="the shared data")
    parser.add_argument("--seeds", type=int, default=30, help="(default: %(default)s)")
    parser.add_argument(
        "--seen", type=Path, help="an npz file with train, train_y, test and test_y, in place of the data"
    )
    arguments = parser.parse_args()
    about = common.machine("numpy", "torch")
    train, test = read(arguments.data, arguments.seen)
    rows: list[dict[str, Cell]] = []
    for judged in ("test", "held out"):
        values: dict[str, list[Floats]] = {way: [] for way in WAYS}
        for seed in range(arguments.seeds):
            pool, other = (train, test) if judged == "test" else hold_out(train, seed)
            for way in WAYS:
                values[way].append(bought(way, pool, other, seed))
        rows += sum_up(judged, {way: np.array(found) for way, found in values.items()})
    common.finish("suggesting", about, {"seeds": arguments.seeds}, rows, arguments.json)


def read(data: Path, kept: Path | None) -> tuple[Photographs, Photographs]:
    if kept is not None:
        with np.load(kept) as stored:
            return (stored["train"], stored["train_y"]), (stored["test"], stored["test_y"])
    splits = open_dataset(data / "intel_scenes", task="classification").splits
    model, found = open_model("mobilenet_v2"), []
    for split in ("train", "test"):
        seen = see(model, splits[split])
        found.append((seen.features, np.array([splits[split][i].label for i in seen.numbers])))
    return found[0], found[1]


def hold_out(train: Photographs, seed: int) -> tuple[Photographs, Photographs]:
    """A pool and what is measured on, both of the training photographs."""
    order = np.random.default_rng(seed).permutation(len(train[0]))
    other, pool = order[:HELD_OUT], order[HELD_OUT:]
    return (train[0][pool], train[1][pool]), (train[0][other], train[1][other])


def bought(way: str, pool: Photographs, other: Photographs, seed: int) -> Floats:
    """The accuracy (budgets, heads)."""
    random = np.random.default_rng(seed)
    features, labels = pool
    have = np.empty(0, np.int64)
    reached = []
    classes = int(labels.max()) + 1
    for step, budget in enumerate(BUDGETS):
        free = np.setdiff1d(np.arange(len(features)), have)
        count = budget - len(have)
        if way == "random":
            new = random.choice(free, count, replace=False)
        elif not len(have):
            new = free[pick(features[free], count, seed=seed)]
        else:
            slope = out_of_fold(features[have], labels[have], classes, seed=seed).slope
            head = fit_head(features[have], labels[have], classes, slope=slope)
            first = np.partition(softmax(head(features[free])), -2, axis=1)
            margins = first[:, -1] - first[:, -2]
            least = np.argsort(margins, kind="stable")[:count]
            new = free[least if way == "margin" else pick(features[free], count, margins=margins, seed=seed + step)]
        have = np.concatenate([have, new])
        logits = fit_head(features[have], labels[have], classes)(other[0])
        weight, bias = train_head(features[have], labels[have], classes, finetune_small)
        reached.append([float((each.argmax(1) == other[1]).mean()) for each in (logits, other[0] @ weight.T + bias)])
    return np.array(reached)


def sum_up(judged: str, values: dict[str, Floats]) -> list[dict[str, Cell]]:
    """Rows of accuracies (seeds, budgets, heads) by way: one for each budget, and one with what is needed."""
    rows: list[dict[str, Cell]] = []
    for number, head in enumerate(HEADS):
        random = values["random"][:, :, number]
        for way in WAYS:
            own = values[way][:, :, number]
            what: dict[str, Cell] = {"judged on": judged, "head": head, "way": way}
            for k, budget in enumerate(BUDGETS):
                gained = own[:, k] - random[:, k]
                row = {**what, "labels": budget, **interval("accuracy", own[:, k]), **interval("gained", gained)}
                rows.append(row | {"least": round(float(gained.min()), 4), "greatest": round(float(gained.max()), 4)})
            less = own[:, BUDGETS.index(400)] - random[:, -1]
            rows.append({**what, **needed(own, random), **interval("400 less random's 600", less)})
    return rows


def interval(name: str, values: Floats) -> dict[str, Cell]:
    """The mean and its 95 % interval; Student's quantile by its expansion (Abramowitz and Stegun, 26.7.5)."""
    mean, free = float(values.mean()), len(values) - 1
    normal = 1.959964
    quantile = normal + (normal**3 + normal) / (4 * free) + (5 * normal**5 + 16 * normal**3 + 3 * normal) / 96 / free**2
    half = quantile * float(values.std(ddof=1)) / math.sqrt(len(values))
    return {name: round(mean, 4), f"{name}_low": round(mean - half, 4), f"{name}_high": round(mean + half, 4)}


def needed(own: Floats, random: Floats) -> dict[str, Cell]:
    """With how many labels a way reaches random picking's 600."""
    generator = np.random.default_rng(0)
    # The same seeds of both: where photographs are held out, both ways are measured on the same ones.
    drawn = [
        crossing(own[rows].mean(0), random[rows, -1].mean())
        for rows in generator.integers(len(own), size=(_SAMPLES, len(own)))
    ]
    found = (crossing(own.mean(0), random[:, -1].mean()), *np.quantile(drawn, (0.025, 0.975), method="nearest"))
    names = ("needed", "needed_low", "needed_high")
    return {name: round(value) if math.isfinite(value) else None for name, value in zip(names, found, strict=True)}


def crossing(curve: Floats, goal: float) -> float:
    """Where a curve over the budgets first reaches the goal; infinite where it does not."""
    for k, reached in enumerate(curve):
        if reached >= goal - 1e-12:
            if k == 0:
                return float(BUDGETS[0])
            share = (goal - curve[k - 1]) / (reached - curve[k - 1])
            return float(BUDGETS[k - 1] + share * (BUDGETS[k] - BUDGETS[k - 1]))
    return math.inf


if __name__ == "__main__":
    main()
