"""How accurate a classifier becomes with more images, told from subsets of those that there are; in numpy.

The error falls as a power of the number of images, down to what no number of them mends (Cortes et al., NIPS 1993;
Rosenfeld et al., arXiv 1909.12673). Beyond the images that there are, a pure power law, which has no floor, and the
inverse square root above a floor bracket what is seen: which of them holds cannot be told from the subsets alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.10
"""How often the accuracy may lie outside of the interval."""
RESAMPLES = 1000
_FLOOR_POWER = 0.5


class Foretold(NamedTuple):
    """An accuracy in [0, 1] with its 90 % interval."""

    accuracy: float
    low: float
    high: float


class Curve:
    """The learning curve through measured subsets.

    ``sizes`` (subsets,) are their numbers of training images, ascending; ``right`` (orders, subsets, test images) says
    which test images were named right, for each order in which the images were taken. The last subset is the same in
    all orders.
    """

    def __init__(self, sizes: NDArray[np.int64], right: NDArray[np.bool_], *, seed: int = 0) -> None:
        if len(sizes) < 3 or right.shape[1] != len(sizes):
            raise ValueError(f"{len(sizes)} sizes and {right.shape} answers are no curve: three subsets are the least")
        self.sizes, self.errors = sizes.astype(float), 1 - right.mean(2)
        random = np.random.default_rng(seed)
        orders, _, images = right.shape
        wrong = (~right).astype(np.float64)
        taken = random.multinomial(images, np.full(images, 1 / images), size=RESAMPLES) / images
        by_order = np.einsum("osi,ri->ros", wrong, taken, optimize=True)
        chosen = random.integers(orders, size=(RESAMPLES, orders))
        self._drawn = np.take_along_axis(by_order, chosen[..., None], 1).mean(1)
        # What another draw of as many images would have given: of all of them there is only the one.
        spread = self.errors[:, :-1].std(0, ddof=1) if orders > 1 else np.zeros(len(sizes) - 1)
        self._noise = random.normal(0, float(spread[-1]), RESAMPLES)

    def at(self, images: int) -> Foretold:
        """The accuracy with so many training images."""
        errors = np.concatenate(
            [_power_law(self.sizes, self._drawn, images), _floored(self.sizes, self._drawn, images)]
        )
        errors = np.clip(errors + np.tile(self._noise, 2), 0, 1)
        low, middle, high = np.quantile(1 - errors, [LEVEL / 2, 0.5, 1 - LEVEL / 2])
        return Foretold(float(middle), float(low), float(high))


def _weights(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The larger a subset is, the less it varies and the more like what is asked for it is."""
    weights: NDArray[np.float64] = np.sqrt(sizes / sizes[-1])
    return weights


def _power_law(sizes: NDArray[np.float64], errors: NDArray[np.float64], images: int) -> NDArray[np.float64]:
    """The error of b n^-c, c at least 0, fitted to the logarithms of each row of ``errors``."""
    x, y, weights = np.log(sizes), np.log(np.maximum(errors, 1e-4)), _weights(sizes)
    weights = weights / weights.sum()
    x_mean, y_mean = float(x @ weights), y @ weights
    slope = np.minimum(((y - y_mean[:, None]) @ (weights * (x - x_mean))) / float(weights @ (x - x_mean) ** 2), 0)
    found: NDArray[np.float64] = np.exp(y_mean + slope * (np.log(images) - x_mean))
    return found


def _floored(sizes: NDArray[np.float64], errors: NDArray[np.float64], images: int) -> NDArray[np.float64]:
    """The error of a + b n^-1/2, b at least 0, fitted to each row of ``errors``; a is no less than 0 either."""
    x, weights = sizes**-_FLOOR_POWER, _weights(sizes)
    weights = weights / weights.sum()
    x_mean, y_mean = float(x @ weights), errors @ weights
    slope = np.maximum(((errors - y_mean[:, None]) @ (weights * (x - x_mean))) / float(weights @ (x - x_mean) ** 2), 0)
    found: NDArray[np.float64] = np.maximum(y_mean + slope * (images**-_FLOOR_POWER - x_mean), 0)
    return found
