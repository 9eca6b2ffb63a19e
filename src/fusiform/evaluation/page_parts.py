"""What the pages of all evaluations share: large figures, columns in percent, a comparison, advice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from fusiform.drawing.page import Headline, Number, Page, TableCell, percent_cell
from fusiform.evaluation.comparison import ClassificationComparison
from fusiform.report import Cell
from fusiform.tasks.bootstrap import RESAMPLES, Comparison, Interval

if TYPE_CHECKING:
    from PIL import Image

WIDE_INTERVAL = 0.06
"""An interval from which more images are worth more than another decimal."""
FEW_IMAGES = 20
"""Images, or objects, of a class, from which its figures say something about it."""

_COLUMNS = {
    "pictures": "images",
    "precision": "precision, %",
    "recall": "recall, %",
    "f1": "F1, %",
    "share": "of the class, %",
    "ap": "AP, %",
    "ap50": "AP at IoU 0.50, %",
    "iou": "IoU, %",
    "miou": "mean IoU, %",
    **{f"strength_{k}": f"strength {k}, %" for k in range(1, 6)},
    "top1": "mean, %",
    "top1_low": "from, %",
    "top1_high": "to, %",
    "pixel_accuracy": "pixels right, %",
}
"""What people call the columns of reports; shares, which are in [0, 1] there, are in percent on a page."""


def shares(rows: Sequence[Mapping[str, Cell]]) -> list[dict[str, TableCell]]:
    """A report's rows for people, with its shares in percent."""
    return [
        {
            _COLUMNS.get(name, name): percent_cell(value) if isinstance(value, float) and name in _COLUMNS else value
            for name, value in row.items()
        }
        for row in rows
    ]


def deciding(interval: Interval, name: str, over: str) -> Headline:
    """The large figure: a share with its interval."""
    value, low, high = interval
    if value is None:
        return Headline("none", name, note=f"there is nothing to measure, over {over}")
    if low is None or high is None:
        return Headline(f"{100 * value:.1f}", name, "%", f"over {over}")
    note = f"95 % interval {100 * low:.1f} to {100 * high:.1f}, over {over}"
    return Headline(f"{100 * value:.1f}", name, "%", note, (low, value, high))


def figure(value: float | None, name: str, note: str = "") -> Headline:
    """A share as one of the smaller figures."""
    return Headline("none", name, note=note) if value is None else Headline(f"{100 * value:.1f}", name, "%", note)


def add_comparison(page: Page, comparison: ClassificationComparison | Comparison | None) -> None:
    """Two models on the same images: what it says in words, and the numbers behind it."""
    if comparison is None:
        return
    page.add_heading("Comparison")
    page.add_text(comparison.sentence + ".")
    if isinstance(comparison, ClassificationComparison):
        c = comparison
        who = ("both", f"only {c.model}", f"only {c.other}", "neither")
        counts = (c.both, c.only_model, c.only_other, c.neither)
        page.add_table(
            [
                {"who is right": right, "images": count, "of the images, %": percent_cell(count / c.pictures)}
                for right, count in zip(who, counts, strict=True)
            ]
        )
        return
    rows: list[dict[str, TableCell]] = []
    for name, value, other, difference in comparison.compared:
        low, high = difference.low, difference.high
        known = difference.value is not None and low is not None and high is not None
        rows.append(
            {
                "figure": {"map": "mAP 0.50:0.95", "map50": "mAP 0.50", "miou": "mean IoU"}.get(
                    name, name.replace("_", " ")
                ),
                "this model, %": percent_cell(value),
                "the other, %": percent_cell(other),
                "difference, points": Number(f"{100 * difference.value:+.1f}", difference.value)
                if difference.value is not None
                else None,
                "95 % interval": f"{100 * low:+.1f} to {100 * high:+.1f}"
                if known and low is not None and high is not None
                else None,
            }
        )
    page.add_table(rows, caption=f"Intervals over {RESAMPLES:,} resamples of {comparison.pictures:,} images.")


def interval_advice(interval: Interval, images: int) -> list[str]:
    """That more images would tell more, where the interval is wide."""
    value, low, high = interval
    if value is None or low is None or high is None or high - low < WIDE_INTERVAL:
        return []
    return [
        f"The interval is {100 * (high - low):.0f} points wide. Differences smaller than that cannot be seen on these "
        f"{images:,} images; with four times as many it is half as wide."
    ]


def add_advice(page: Page, advice: Iterable[str]) -> None:
    """What to do next, each with its reason."""
    if told := list(advice):
        page.add_heading("What to do next", wide=False)
        page.add_list(told, kind="advice")


def text_size(image: Image.Image) -> int:
    """The pixels of names on a picture that is shown at a third of its size."""
    return max(12, max(image.size) // 25)
