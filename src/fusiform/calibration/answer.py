"""What a calibrated classifier's answer says beside its probabilities: a set of names, and whether it is known."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.calibration.conformal import in_sets
from fusiform.calibration.decision import NO_CLASS, decide
from fusiform.calibration.unknown import Detector
from fusiform.certainty import Certainty


class Said(NamedTuple):
    """For each image: the indices of the classes in its set, likeliest first, and its p-value (None: not told)."""

    sets: list[list[int]]
    p_known: list[float | None]


class Reader:
    """A description's promises, ready to be kept: from probabilities and features to sets and p-values."""

    def __init__(self, certainty: Certainty) -> None:
        self.certainty = certainty
        self._detector = None if certainty.unknown is None else Detector.of(certainty.unknown)

    def read(self, probabilities: NDArray[Any], features: NDArray[Any] | None, share: float) -> Said:
        """For ``probabilities`` (images, classes) and ``features`` (images, features) what a promise of ``share`` says.

        Without features nothing is told of what is known.
        """
        inside = in_sets(probabilities, self.certainty.sets, share)
        order = np.argsort(-probabilities, axis=1, kind="stable")
        sets = [row[chosen[row]].tolist() for row, chosen in zip(order, inside, strict=True)]
        return Said(sets, self.p_known(features, len(probabilities)))

    def p_known(self, features: NDArray[Any] | None, images: int) -> list[float | None]:
        """The conformal p-value of each image's being one of the known classes'."""
        unknown = self.certainty.unknown
        if features is None or self._detector is None or unknown is None:
            return [None] * images
        return [unknown.table.p_value(float(score)) for score in self._detector.scores(features)]

    def rows(self, looks: NDArray[Any], probabilities: NDArray[Any], features: NDArray[Any]) -> NDArray[np.float16]:
        """What a sketch keeps of images; see ``calibration.reference``."""
        from fusiform.calibration.reference import rows_of  # only what is kept is to wait for it

        assert self._detector is not None
        return rows_of(looks, probabilities, features, self._detector)

    def decided(self, probabilities: NDArray[Any]) -> list[list[int]]:
        """The class that the description's rule gives each image, or none; there must be a rule."""
        assert self.certainty.decision is not None
        found = decide(probabilities, self.certainty.decision).tolist()
        return [[] if index == NO_CLASS else [index] for index in found]

    def scores(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """What p-values are made from: larger for images that show none of the classes."""
        assert self._detector is not None
        return self._detector.scores(features)
