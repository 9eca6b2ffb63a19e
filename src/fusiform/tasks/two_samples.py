"""Whether images that take a class's name are still that class's alone: an exact permutation test, in numpy.

A new class mostly takes the name of a known one, which is then named more often, and whose images are, taken together,
unlike before, if only a little each: a test of many images at once sees what none of them tells. The statistic is of
the class that shows it most, and permutations say what it reaches by chance, so that it needs no correction for the
number of classes and measures, nor any distribution of theirs.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FIRST = 50
"""Images of a stream that are tested at first, then twice as many each time."""
SHARES = (0.25, 0.25, 0.25)
"""What the first tests have of the chance of a false alarm; each later one has half of what is left."""
_DRAWS = 10
"""Permutations that are expected to reach a statistic on the verge of an alarm."""
_MOST = 100_000
_RARE = 1_000_000
"""Permutations at most, the second where a level is so small that none of them may reach the statistic."""
_AT_ONCE = 1 << 21
_AT_MOST = 100
"""Numbers of a matrix of permutations, and permutations in it."""
_FEWEST = 3
"""Images of a name that say something of where the name's images lie."""
_RANGE = 36.0
"""Standard deviations, up to which chances are numbers."""

Floats = NDArray[np.float64]
Single = NDArray[np.float32]


class Told(NamedTuple):
    """The chance ``p`` that images from one source look so unlike, and the class ``label`` that does most.

    ``oftener`` is whether that is for its number more than for its images; ``unlike`` is how far each of the stream's
    images lies where they have moved to, less than all numbers for those that are named otherwise.
    """

    p: float
    label: int
    oftener: bool
    unlike: Floats


def sizes_of_tests(images: int) -> list[tuple[int, float]]:
    """After how many images a stream is tested, and with what share of the chance; the shares sum to less than 1."""
    found: list[tuple[int, float]] = []
    size, left = FIRST, 1.0
    while size <= images:
        share = SHARES[len(found)] if len(found) < len(SHARES) else left / 2
        found.append((size, share))
        size, left = 2 * size, left - share
    return found


def tell_apart(
    known: tuple[Floats, NDArray[Any]],
    stream: tuple[Floats, NDArray[Any]],
    classes: int,
    level: float,
    random: np.random.Generator,
) -> Told:
    """Test measures (images, measures) and the classes that were named (images,), of a reference and of a stream.

    If all of them come in random order from one source, ``p`` is at most ``level`` with no more than that chance. It is
    exact as far as it matters: permutations end as soon as there are too many for ``level``.
    """
    values, named = (np.concatenate(pair) for pair in zip(known, stream, strict=True))
    count, new = len(values), len(stream[0])
    columns, sizes = _columns(values, named, classes)
    member = np.zeros((1, count), np.float32)
    member[0, count - new :] = 1
    often, moved = _scores(columns, sizes, member, new)
    each = often + moved
    label = int(each[0].argmax())
    # A hair less, so that what is equal but for rounding counts as equal.
    reached, hits, drawn = each.max() * (1 - 1e-5), 1, 1
    draws = max(min(math.ceil(_DRAWS / level), _MOST), min(math.ceil(1 / level), _RARE))
    while drawn < draws and hits <= level * draws:
        member = np.zeros((min(max(1, _AT_ONCE // count), draws - drawn, _AT_MOST), count), np.float32)
        chosen = random.random(member.shape, np.float32).argpartition(new - 1, axis=1)[:, :new]
        np.put_along_axis(member, chosen, 1, axis=1)
        hits += int((_scores(columns, sizes, member, new).sum(0).max(1) >= reached).sum())
        drawn += len(member)
    start = classes + sum(sizes[:label])
    own = columns[count - new :, start : start + sizes[label]].astype(np.float64)
    unlike = np.where(stream[1] == label, own @ own.sum(0), -np.inf)
    return Told(hits / drawn, label, bool(often[0, label] > moved[0, label]), unlike)


def _columns(values: Floats, named: NDArray[Any], classes: int) -> tuple[Single, list[int]]:
    """Whether each image is named each class; then what it measures among those of its name, and how many columns that
    takes of each class: normal scores of ranks, without the correlation between them.
    """
    found, sizes = [(named == label) for label in range(classes)], []
    for label in range(classes):
        mine = np.flatnonzero(named == label)
        white = np.empty((len(mine), 0))
        if len(mine) > 2 * values.shape[1]:
            scores = np.column_stack([_normal(column) for column in values[mine].T])
            spread, axes = np.linalg.eigh(scores.T @ scores / len(mine))
            kept = spread > max(1e-3 * spread.max(), 1e-9)
            white = scores @ (axes[:, kept] / np.sqrt(spread[kept]))
        whole = np.zeros((len(values), white.shape[1]))
        whole[mine] = white
        found += list(whole.T)
        sizes.append(white.shape[1])
    return np.column_stack(found).astype(np.float32), sizes


def _normal(values: Floats) -> Floats:
    """What a normal distribution has at each value's rank; ties share the middle of theirs."""
    ordered = np.sort(values)
    ranks = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
    normal, halves = NormalDist(), np.arange(1, 2 * len(values)) / (2 * len(values))
    scores = np.array([normal.inv_cdf(half) for half in halves])[np.rint(2 * ranks).astype(int) - 1]
    found: Floats = scores - scores.mean()
    return found


def _scores(columns: Single, sizes: list[int], member: Single, new: int) -> Floats:
    """(2, samples, classes): how much more often each class is named in samples of ``new`` images, and how far its
    images there lie from all of its; as about the negative logarithm of the chance, whose sum is Fisher's (1932).
    """
    count, classes = len(columns), len(sizes)
    sums = (member @ columns).astype(np.float64)
    share = columns[:, :classes].mean(0, dtype=np.float64)
    spread = np.sqrt(np.maximum(new * (count - new) / (count - 1) * share * (1 - share), 1e-9))
    often = (sums[:, :classes] - new * share) / spread
    moved, start = np.full_like(often, -_RANGE), classes
    for label, size in enumerate(sizes):
        if size:
            mine, named = share[label] * count, sums[:, label]
            square = np.square(sums[:, start : start + size]).sum(1)
            square *= (named >= _FEWEST) * (mine - 1) / np.maximum(named * (mine - named), 1)
            # Wilson and Hilferty 1931: the cube root of chi-squared is about normal.
            moved[:, label] = (np.cbrt(square / size) - (1 - 2 / (9 * size))) / math.sqrt(2 / (9 * size))
        start += size
    found: Floats = np.interp([often, moved], *_tail())
    return found


@cache
def _tail() -> tuple[Floats, Floats]:
    """Standard deviations, and the negative logarithm of the chance of more."""
    places = np.linspace(-_RANGE, _RANGE, 4001)
    return places, -np.log([math.erfc(place / math.sqrt(2)) / 2 for place in places])
