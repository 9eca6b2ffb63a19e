"""Shortcuts: can an image's class be told from its size, its file, its camera or its light alone?

A model learns whatever tells the classes apart. Where all cats came from one camera, or all dogs are 500 pixels wide,
it need not look at the animals, and fails on other images (Geirhos et al., arXiv 2004.07780).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.data.appearance import BLURRED, DARK, LIGHT, LITTLE, Appearance
from fusiform.data.faults import Fault
from fusiform.doctor.findings import Finding

MOST_IMAGES = 2000
"""Images that the test looks at; more are drawn from by class."""
NEIGHBOURS = 15
PERMUTATIONS = 199
LEVEL = 0.05
"""The probability with which any shortcut at all is reported where there is none, over all properties together."""
FEW = 8
"""Images of a class without which it takes no part."""


class Property(NamedTuple):
    """What a class might be told by: ``columns`` makes numbers or words of an image, None where it has none.

    ``note`` and ``warning`` are the shares of the way from chance to always right from which it is worth one. What
    classes may well differ in by what they show, such as light, has to tell them apart better.
    """

    name: str
    columns: Callable[[Appearance], tuple[float | str, ...] | None]
    advice: str
    note: float = 0.25
    warning: float = 0.5


PROPERTIES = (
    Property(
        "size", lambda a: (a.width, a.height), "crop and resize the images of all classes alike, or collect others"
    ),
    Property(
        "file (format, compression, bytes a pixel)",
        lambda a: (a.format, a.quality, a.bytes / (a.width * a.height)),
        "save the images of all classes alike",
        note=0.35,
    ),
    Property("camera", lambda a: (a.camera or "",), "take images of every class with every camera"),
    Property("date", lambda a: None if a.taken is None else (a.taken,), "take images of every class on every day"),
    Property(
        "border",
        lambda a: a.border,
        "look whether one class has frames or another background, and crop them off",
        note=0.45,
        warning=0.65,
    ),
    Property(
        "brightness and contrast",
        lambda a: (a.brightness, a.contrast),
        "take images of every class in every light, and train with changes of brightness",
        note=0.45,
        warning=0.65,
    ),
)


def faults_of(seen: Appearance) -> Iterator[Fault]:
    """What one image looks like that shows little."""
    if seen.dark < DARK:
        yield Fault("dark", "note", f"is very dark: 99 % of its pixels are below {255 * seen.dark:.0f} of 255")
    if seen.light > LIGHT:
        yield Fault(
            "overexposed", "note", f"is nearly white: 95 % of its pixels are above {255 * seen.light:.0f} of 255"
        )
    if seen.entropy < LITTLE and not (seen.dark < DARK or seen.light > LIGHT):
        yield Fault("little to see", "note", f"has few shades of grey ({seen.entropy:.1f} bits): it may show nothing")
    elif seen.sharpness < BLURRED and not (seen.dark < DARK or seen.light > LIGHT):
        yield Fault("blurred", "note", "is blurred: it has no sharp edges, even made small")


def about_shortcuts(seen: Sequence[Appearance], labels: Sequence[int], classes: Sequence[str]) -> Iterator[Finding]:
    """A finding for each property that tells the classes apart, more often than chance and than it should.

    Each image's class is guessed from the 15 images that are most like it in the property, and the share of right
    guesses (the mean over the classes) compared with those after 199 permutations of the labels (Good, Permutation,
    Parametric and Bootstrap Tests of Hypotheses, 2005); the properties' p-values are corrected by Holm's method. A few
    images more or less do not matter: a share far above chance does.
    """
    luck = np.random.default_rng(0)
    chosen = _chosen(np.array(labels), luck)
    names, truth = np.unique(np.array(labels)[chosen], return_inverse=True)
    if len(names) < 2:
        return
    tested: list[tuple[float, float, Property]] = []
    for each in PROPERTIES:
        told = [each.columns(seen[i]) for i in chosen]
        rows = [row for row in told if row is not None]
        if len(rows) < len(told) or len(set(rows)) < 2:
            continue
        found, p = _test(_ranked(rows, luck), truth, len(names), luck)
        tested.append((p, found, each))
    held = True
    for k, (p, found, each) in enumerate(sorted(tested, key=lambda test: test[0])):
        corrected = min(1.0, p * (len(tested) - k))
        held = held and corrected <= LEVEL
        gain = (found - 1 / len(names)) / (1 - 1 / len(names))
        if not held or gain < each.note:
            continue
        which = f"{classes[names[0]]} or {classes[names[1]]}" if len(names) == 2 else f"one of {len(names)} classes"
        chance = f"chance is {100 / len(names):.0f} %; permutation test, p <= {corrected:.2g} corrected"
        text = (
            f"whether an image is {which} can be told from its {each.name} alone, in {100 * found:.0f} % of the images "
            f"({chance}): a model may learn this in place of what the images show; {each.advice}"
        )
        yield Finding("shortcut", "warning" if gain >= each.warning else "note", text)


def _chosen(labels: NDArray[np.int64], luck: np.random.Generator) -> NDArray[np.intp]:
    """The images that take part: of each class that has enough as many as there is room for."""
    counts = np.bincount(labels) if len(labels) else np.zeros(0, int)
    enough = np.flatnonzero(counts >= FEW)
    room = max(FEW, MOST_IMAGES // max(1, len(enough)))
    parts = [luck.permutation(np.flatnonzero(labels == label))[:room] for label in enough]
    return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.intp)


def _ranked(rows: Sequence[tuple[float | str, ...]], luck: np.random.Generator) -> NDArray[np.float64]:
    """Columns in which only the order counts; words are far from each other. Equal images get no order."""
    columns = []
    for column in zip(*rows, strict=True):
        _, place, counts = np.unique(np.array(column), return_inverse=True, return_counts=True)
        if isinstance(column[0], str):
            columns.append(10.0 * place)
        else:
            middles = np.cumsum(counts) - counts / 2
            columns.append(middles[place] / len(column))
    return np.column_stack(columns) + luck.uniform(0, 1e-6, (len(rows), len(columns)))


def _test(
    columns: NDArray[np.float64], truth: NDArray[np.intp], classes: int, luck: np.random.Generator
) -> tuple[float, float]:
    """The mean over the classes of the share that their neighbours name rightly, and its p-value."""
    distances = np.zeros((len(columns), len(columns)))
    for column in columns.T:
        distances += (column[:, None] - column) ** 2
    np.fill_diagonal(distances, np.inf)
    count = min(NEIGHBOURS, len(columns) - 1)
    nearest = np.argpartition(distances, count - 1, axis=1)[:, :count]
    sizes = np.bincount(truth, minlength=classes)
    weights = 1 / sizes  # a large class is not to win by its size
    rows = np.arange(len(truth))[:, None] * classes

    def share(labels: NDArray[np.intp]) -> float:
        votes = labels[nearest]
        sums = np.bincount((rows + votes).ravel(), weights[votes].ravel(), len(labels) * classes)
        right = sums.reshape(-1, classes).argmax(1) == labels
        return float((np.bincount(labels, right, classes) / sizes).mean())

    found = share(truth)
    as_good = sum(share(luck.permutation(truth)) >= found for _ in range(PERMUTATIONS))
    return found, (1 + as_good) / (1 + PERMUTATIONS)
