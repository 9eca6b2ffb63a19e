"""How far off a figure might be with other pictures, as many as these: the bootstrap, in numpy.

Each resample draws as many pictures as there are, some of them several times and others not at all, and computes the
figure again (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, Section 13.3). Resamples are weights: how
often each picture was drawn.

The middle 95 % of the values are as wide as the interval, but not where it lies: a picture that was drawn twice is
found or missed twice, and average precision, which takes the highest precision from each recall on, comes out too high,
sometimes all 95 % of it. The values are moved so that their mean is the figure itself. What remains is that average
precision is higher over few pictures than over many: the interval is about as many as these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
_CELLS = 1 << 22
"""The most weights that are drawn at once."""

Figure = Callable[[NDArray[np.int32]], NDArray[np.float64]]
"""From weights (resamples, pictures) to values (resamples, figures), NaN where a figure has no value."""


class Interval(NamedTuple):
    """A figure with its 95 % interval; None where there is nothing that it could be about."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether all of the interval lies on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def resamples(pictures: int, *, count: int = RESAMPLES, seed: int = 0) -> Iterator[NDArray[np.int32]]:
    """How often each of the ``pictures`` is in each of ``count`` resamples: (some, pictures) at a time.

    Always the same for the same numbers.
    """
    random = np.random.default_rng(seed)
    rows = max(1, _CELLS // max(1, pictures))
    shares = np.full(pictures, 1 / max(1, pictures))
    for start in range(0, count, rows):
        drawn = random.multinomial(pictures, shares, size=min(rows, count - start)) if pictures else np.zeros((1, 0))
        yield drawn.astype(np.int32)


def intervals(figure: Figure, pictures: int, *, least: float = 0.0, most: float = 1.0) -> list[Interval]:
    """Each of a figure's values over all ``pictures``, with its interval over ``RESAMPLES`` resamples.

    The interval stays between ``least`` and ``most``, which the figure cannot leave. Resamples in which it has no value
    are left out; a class that none of a resample's pictures has is no part of its mean.
    """
    values = figure(np.ones((1, pictures), np.int32))[0]
    drawn = np.concatenate([figure(weights) for weights in resamples(pictures)])
    return [
        _interval(value, column[~np.isnan(column)], least, most) for value, column in zip(values, drawn.T, strict=True)
    ]


def _interval(value: np.floating[Any], drawn: NDArray[np.float64], least: float, most: float) -> Interval:
    if np.isnan(value) or not len(drawn):
        return Interval(None, None, None)
    low, high = np.clip(np.percentile(drawn, (2.5, 97.5)) + value - drawn.mean(), least, most)
    return Interval(float(value), float(low), float(high))


class Compared(NamedTuple):
    """A figure of two models on the same pictures, and how much larger the first one's is."""

    name: str
    value: float | None
    other: float | None
    difference: Interval


class Comparison(NamedTuple):
    """Two models on the same ``pictures``: figures in [0, 1], the first of which decides; people call it ``what``."""

    model: str
    other: str
    pictures: int
    what: str
    compared: tuple[Compared, ...]

    @property
    def sentence(self) -> str:
        """What the comparison says, in words."""
        value, low, high = self.compared[0].difference
        if value is None or low is None or high is None:
            return f"{self.model} and {self.other} cannot be compared: there is nothing to find in these pictures"
        if value == low == high == 0:
            return f"{self.model} and {self.other} have the same {self.what} on all of these pictures"
        better, worse = (self.model, self.other) if value >= 0 else (self.other, self.model)
        if value < 0:
            low, high = -high, -low
        verdict = "is real" if low > 0 else "cannot be told from chance: the interval has zero in it"
        return (
            f"{better} has the higher {self.what}, by {100 * abs(value):.1f} percentage points over {worse} "
            f"(95 % interval {100 * low:.1f} to {100 * high:.1f}); the difference {verdict}"
        )


def compare(
    names: Sequence[str], first: Figure, second: Figure, *, pairs: Sequence[tuple[int, int]], pictures: tuple[int, int]
) -> tuple[Compared, ...]:
    """Figures of two models over the pictures that both were shown, with the interval of each difference.

    ``first`` and ``second`` compute the figures called ``names`` from weights of their own ``pictures``; ``pairs`` are
    the places of the same picture in both. Both get the same resamples, so that what is hard for both is no difference
    (Efron and Tibshirani, 1993, Section 8.3).
    """
    places = [np.array(side, np.intp) for side in zip(*pairs, strict=True)]

    def figure(weights: NDArray[np.int32]) -> NDArray[np.float64]:
        values = []
        for each, place, count in zip((first, second), places, pictures, strict=True):
            spread = np.zeros((len(weights), count), np.int32)
            spread[:, place] = weights
            values.append(each(spread))
        return np.concatenate([*values, values[0] - values[1]], axis=1)

    found = intervals(figure, len(pairs), least=-1)
    count = len(names)
    return tuple(
        Compared(name, found[k].value, found[count + k].value, found[2 * count + k]) for k, name in enumerate(names)
    )
