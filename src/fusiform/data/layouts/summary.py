"""What a dataset was taken for, in a few lines: its task, layout, splits and classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from fusiform.data.annotated import AnnotatedSet
from fusiform.data.dataset import DataSet, Split
from fusiform.report import printable
from fusiform.spec import Task

_SHOWN = 10
"""Classes that are shown with their counts; of more, half of these are the largest and half the smallest."""

AnySet = DataSet | AnnotatedSet


def task_of(data: AnySet) -> Task:
    """What the dataset is for."""
    return data.task if isinstance(data, AnnotatedSet) else "classification"


def headline(data: AnySet) -> str:
    """Task, layout, pictures and classes in a line, and how many pictures each split has."""
    pictures = sum(map(len, data.splits.values()))
    parts = [_counted(pictures, "picture")]
    if isinstance(data, AnnotatedSet) and data.task == "detection":
        parts.append(_counted(sum(sum(counts.values()) for counts in _counts(data).values()), "object"))
    layout = f", laid out as {data.layout}" if data.layout else ""
    classes = _counted(len(data.classes), "class")
    splits = ""
    if set(data.splits) != {"all"}:
        splits = f": {', '.join(f'{split} {len(samples):,}' for split, samples in data.splits.items())}"
    return printable(f"{task_of(data)}{layout}: {classes}, {', '.join(parts)}{splits}")


def summary(data: AnySet, *, held_out: Split | None = None) -> list[str]:
    """What was understood of a dataset, before it is trained on: a few lines whatever its size.

    ``held_out`` is the split that the pictures of ``val`` were taken from, None where the data has all its splits.
    """
    lines = [headline(data)]
    if set(data.splits) != {"all"}:
        came = f"val was held out of {'all pictures' if held_out == 'all' else held_out}" if held_out else ""
        lines.append(f"splits: {came or 'as the data has them'}")
    counts = _counts(data)
    if not counts:  # masks, whose pixels nobody has counted
        lines.append(f"classes: {_named(list(data.classes))}")
        return lines
    what = "pictures" if isinstance(data, DataSet) else "objects"
    where = "" if set(counts) == {"all"} else f" in {'/'.join(counts)}"
    total = sum(counts.values(), Counter[int]())
    labels = sorted(range(len(data.classes)), key=lambda label: -total[label])

    def shown(some: Sequence[int]) -> str:
        return ", ".join(
            f"{printable(data.classes[label])} {'/'.join(f'{count[label]:,}' for count in counts.values())}"
            for label in some
        )

    if len(labels) <= _SHOWN:
        lines.append(f"classes, {what}{where}: {shown(sorted(labels))}")
    else:
        half = _SHOWN // 2
        lines.append(f"largest classes, {what}{where}: {shown(labels[:half])}")
        lines.append(f"smallest classes: {shown(labels[-half:])}; {len(labels) - 2 * half:,} more between them")
    return lines


def _counts(data: AnySet) -> Mapping[Split, Counter[int]]:
    """How many pictures, or objects, each class has in each split; empty for masks."""
    if isinstance(data, DataSet):
        return {split: Counter(sample.label for sample in samples) for split, samples in data.splits.items()}
    if data.task == "segmentation":
        return {}
    return {
        split: Counter(box.label for sample in samples for box in sample.boxes or ())
        for split, samples in data.splits.items()
    }


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(printable(name) for name in names[:_SHOWN]) + more


def _counted(count: int, noun: str) -> str:
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}{'es' if noun.endswith('s') else 's'}"
