"""What is wrong with a dataset's classes: their names, and how much there is of each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from fusiform.data.dataset import Split
from fusiform.doctor.findings import Finding, counted, in_split

IMBALANCE = 10
"""The largest class to the smallest; beyond it the small ones are lost without a remedy."""
FEW = 10
"""Objects, or pictures with a class; of a class with fewer to train on little is learned."""


def alike_names(classes: Sequence[str]) -> Iterator[Finding]:
    """Classes that are probably one, by their names."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(re.sub(r"[\s_-]+", " ", name.casefold()).strip(), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            shown = ", ".join(map(repr, names))
            message = f"{shown} differ only by case, spaces or dashes: join them if they are one class"
            yield Finding("class names", "warning", message, class_name=names[0])


def about_imbalance(
    classes: Mapping[int, str], counts: Mapping[int, int] | Sequence[int], split: Split, noun: str, advice: str
) -> Iterator[Finding]:
    """That a split has far more of one class than of another; ``classes`` are names by label, ``counts`` by label too.

    ``noun`` is what is counted, ``advice`` what to do about it.
    """
    there = [label for label in classes if counts[label]]
    if not there:
        return
    largest, smallest = (find(there, key=lambda label: counts[label]) for find in (max, min))
    if counts[largest] > IMBALANCE * counts[smallest]:
        message = (
            f"{classes[largest]} has {counted(counts[largest], noun)} and {classes[smallest]} has "
            f"{counts[smallest]:,}{in_split(split)}: {advice}"
        )
        yield Finding("imbalance", "warning", message, split=split)


def about_counts(classes: Mapping[int, str], counts: Mapping[Split, Sequence[int]], noun: str) -> Iterator[Finding]:
    """Classes of annotated pictures that are too small, or missing somewhere.

    ``classes`` are the names by label, without a background; ``counts`` say how many things of each label a split has,
    and ``noun`` what things.
    """
    learned: Split = "train" if "train" in counts else next(iter(counts))
    yield from about_imbalance(classes, counts[learned], learned, noun, "collect more of the small classes")
    for label, name in classes.items():
        if not any(count[label] for count in counts.values()):
            message = f"{name} has no {noun}s: annotate some, or remove the class"
            yield Finding("empty class", "warning", message, class_name=name)
            continue
        for split, count in counts.items():
            if count[label]:
                continue
            if split == learned:
                found = ", ".join(f"{counted(c[label], noun)} in {s}" for s, c in counts.items() if c[label])
                message = f"{name} has {found} and none in {split}, so that it is not learned: put some there"
                yield Finding("class not learned", "warning", message, split=split, class_name=name)
            else:
                message = f"{name} has no {noun}s in {split}, so that it is not measured there"
                yield Finding("class not measured", "note", message, split=split, class_name=name)
        if 0 < counts[learned][label] < FEW:
            message = f"{name} has only {counted(counts[learned][label], noun)}{in_split(learned)}: collect more"
            yield Finding("small class", "warning", message, split=learned, class_name=name)
