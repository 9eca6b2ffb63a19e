"""Which augmentation of ``fusiform train`` buys back most of what corruptions take, of each kind of them.

From ``benchmarks/augmentations.py``, whose results are in ``benchmarks/results/augmentations.json``: on six scenes,
what was added to the recipe ``finetune_small``. Another dataset may have another answer: it is where to begin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

PAGE = "docs/guides/evaluate.md#which-augmentation-buys-it-back"
"""Where the repository has the whole table."""


class Bought(NamedTuple):
    """A hyperparameter, and by how much the accuracy on corrupted images was higher with it.

    The interval is one that holds for all that were tried together for 95 %.
    """

    setting: str
    gain: float
    low: float
    high: float


BOUGHT: Mapping[str, Bought | None] = {
    "noise": Bought("augment=crop_randaugment", 0.121, 0.079, 0.164),
    "blur": None,
    "weather": None,
    "digital": Bought("random_erasing=0.25", 0.021, 0.006, 0.035),
}
"""By the family of ``corruptions.FAMILIES``, the one that bought most; None where none did beyond chance."""


def advice(families: Mapping[str, float]) -> list[str]:
    """What to try against the families of corruptions that a classifier does worse on than on the mean of them.

    ``families`` are its accuracies; the worst comes first.
    """
    mean = sum(families.values()) / len(families)
    lines = []
    for family, top1 in sorted(families.items(), key=lambda item: item[1]):
        if top1 >= mean:
            break
        bought = BOUGHT[family]
        begin = f"{family.capitalize()} harms it more than other corruptions: {100 * top1:.1f} % are right."
        if bought is None:
            lines.append(f"{begin} No augmentation of fusiform train bought that back beyond chance on six scenes.")
            continue
        lines.append(
            f"{begin} What bought most of it back on six scenes is fusiform train DATA --set {bought.setting}: "
            f"{100 * bought.gain:+.1f} points (interval {100 * bought.low:+.1f} to {100 * bought.high:+.1f}). "
            f"The table: {PAGE}"
        )
    return lines
