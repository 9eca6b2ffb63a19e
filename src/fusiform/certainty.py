"""What a classifier's description says of how sure its answers are: thresholds of scores that were seen before.

Two promises stand here, both of split conformal prediction (Vovk et al., Algorithmic Learning in a Random World, 2005,
Section 4.2): a set of names holds the right one for a stated share of images, and a stated share of images of the known
classes is not called unknown. They hold for images that are drawn like those of the calibration.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from typing import Literal

from fusiform.errors import SpecError
from fusiform.fields import check_types, show

CERTAIN = 0.95
"""The share of images that both promises are for, if nothing else is asked for."""

# As of all of a description, whoever wrote it may ask for any number. docs/reference/models.md has the same limits.
MAX_TABLE = 2000
"""Scores of a table: 10,000,000 images leave 560."""
MAX_IMAGES = 10_000_000
"""Images of a calibration."""
MAX_DIMENSIONS = 256
"""Numbers that a detector keeps of an image's features."""
MAX_POINTS = 10_000
"""Points that a detector compares an image with."""
MAX_ENCODED = 1 << 22
"""Characters of a detector's arrays together."""
MAX_REFERENCE = 1 << 16
"""Characters of a reference: 800 images take some 9,000."""
MAX_KEPT = 2000
"""Images whose numbers a reference holds."""
MAX_PRICED = 256
"""Classes of a cost matrix."""

_DENSE = 1.03
"""How much rarer each score of a table is than the next one: a promise of 90 % is kept for at most 90.3 %."""
_LARGEST = 1e30

SetScore = Literal["lac", "aps", "raps"]
Evidence = Literal["softmax", "energy", "mahalanobis", "knn", "residual"]


def kept_ranks(count: int) -> list[int]:
    """The ranks, from 1, that a table of ``count`` scores keeps: all of the largest, ever fewer below them."""
    above, ranks = 1, []
    while above <= count:
        ranks.append(count + 1 - above)
        above = max(above + 1, int(above * _DENSE))
    return ranks[::-1]


@dataclass(frozen=True, repr=False)
class Table:
    """How ``count`` images of the calibration scored: ``values[i]`` is the ``ranks[i]``-th smallest score.

    Ranks rise from 1 at least to ``count``; what lies between two of them is taken for the larger, so that promises are
    kept for rather more images than stated.
    """

    count: int
    ranks: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        check_types(self, SpecError)
        if not 1 <= self.count <= MAX_IMAGES:
            raise SpecError(f"certainty: count must be 1 to {MAX_IMAGES:,}, got {show(self.count)}")
        if not 1 <= len(self.ranks) == len(self.values) <= MAX_TABLE:
            raise SpecError(
                f"certainty: a table has as many ranks as values, up to {MAX_TABLE:,}, got {len(self.ranks):,} and "
                f"{len(self.values):,}"
            )
        if list(self.ranks) != sorted(set(self.ranks)) or self.ranks[0] < 1 or self.ranks[-1] != self.count:
            raise SpecError(f"certainty: the ranks of a table must rise from 1 or more to its count, {self.count}")
        if not all(abs(value) <= _LARGEST for value in self.values):
            raise SpecError("certainty: the values of a table must be numbers")
        if list(self.values) != sorted(self.values):
            raise SpecError("certainty: the values of a table must rise")

    def __repr__(self) -> str:
        return f"<Table of {self.count:,} scores>"

    @property
    def most(self) -> float:
        """The largest share that so many images can promise anything for."""
        return self.count / (self.count + 1)

    def threshold(self, share: float) -> float | None:
        """What a new score stays at or below with a probability of ``share``; None where it takes more images.

        The ceil((n + 1) share)-th smallest of n (Lei et al., arXiv 1604.04173, Section 2).
        """
        rank = max(1, math.ceil((self.count + 1) * share - 1e-9))
        if rank > self.count:
            return None
        return self.values[bisect.bisect_left(self.ranks, rank)]

    def p_value(self, score: float) -> float:
        """The conformal p-value of a score: how rare one as large is among the calibration's, itself counted.

        Among images like those it is at most ``share`` for at most that share of them.
        """
        below = bisect.bisect_left(self.values, score)
        larger = self.count - (self.ranks[below - 1] if below else 0)
        return (1 + larger) / (self.count + 1)


@dataclass(frozen=True)
class Sets:
    """How sets of names are made: the classes whose ``score`` is no larger than the threshold of a share.

    ``lac`` scores a class by 1 less its probability (Sadinle et al., arXiv 1609.00451); ``aps`` by the probabilities of
    the likelier ones together (Romano et al., arXiv 2006.02544, without randomisation); ``raps`` adds ``penalty`` for
    each rank after ``free`` (Angelopoulos et al., arXiv 2009.14193). The likeliest class scores 0: no set is empty.
    ``classes`` are tables of each class's own images, or none, for a promise to each class.
    """

    score: SetScore
    table: Table
    coverage: float = CERTAIN
    penalty: float = 0.0
    free: int = 0
    classes: tuple[Table, ...] = ()

    def __post_init__(self) -> None:
        check_types(self, SpecError)
        _check_share("coverage", self.coverage)
        if not 0 <= self.penalty <= 1 or not 0 <= self.free <= MAX_IMAGES:
            raise SpecError(f"certainty: penalty must be 0 to 1, free 0 or more, got {self.penalty}, {show(self.free)}")

    @property
    def most(self) -> float:
        """The largest share that a set can be promised for."""
        return self.table.most

    def kept(self, share: float) -> float:
        """What is promised where ``share`` is asked for: more where the likeliest class, which scores 0, keeps more."""
        alone = []
        for table in self.classes or (self.table,):
            right = bisect.bisect_right(table.values, 0.0)
            alone.append(table.ranks[right - 1] / (table.count + 1) if right else 0.0)
        return max(share, min(alone))


@dataclass(frozen=True)
class Part:
    """A kind of evidence that an image shows none of the classes, and its weight in the sum."""

    evidence: Evidence
    weight: float

    def __post_init__(self) -> None:
        check_types(self, SpecError)
        if not 0 < self.weight <= _LARGEST:
            raise SpecError(f"certainty: a weight must be above 0, got {self.weight}")


@dataclass(frozen=True, repr=False)
class Unknown:
    """What tells images of the classes from others by the features of a classifier; see ``calibration.unknown``.

    The score of an image is the sum of its ``parts``; ``table`` has those of the calibration. Arrays are base64 of
    little-endian numbers: ``projection`` int8 (features, dimensions), with a factor for each column in ``scales``
    float32; ``centre`` float16 (features,), ``means`` float16 (classes, dimensions), ``whitening`` float32
    (dimensions, dimensions), ``head`` float16 (classes, dimensions + 1), ``points`` float16 (points, dimensions); what
    no part needs is empty. ``auroc`` is how well classes were told from the others that were left out of a fit, in
    [0, 1].
    """

    parts: tuple[Part, ...]
    table: Table
    features: int
    classes: int
    dimensions: int
    centre: str
    projection: str
    scales: str
    means: str = ""
    whitening: str = ""
    head: str = ""
    points: str = ""
    auroc: float = 0.0

    def __post_init__(self) -> None:
        check_types(self, SpecError)
        kinds = [part.evidence for part in self.parts]
        if not kinds or len(set(kinds)) < len(kinds):
            raise SpecError("certainty: a detector has one part or more, each of another evidence")
        if not (1 <= self.features <= 100_000 and 1 <= self.classes <= 100_000):
            raise SpecError(
                f"certainty: features and classes must be 1 to 100,000, got {show(self.features)}, {show(self.classes)}"
            )
        if not 1 <= self.dimensions <= min(MAX_DIMENSIONS, self.features):
            raise SpecError(
                f"certainty: dimensions must be 1 to {min(MAX_DIMENSIONS, self.features)}, got {show(self.dimensions)}"
            )
        if not 0 <= self.auroc <= 1:
            raise SpecError(f"certainty: auroc must be 0 to 1, got {self.auroc}")
        if sum(len(getattr(self, name)) for name in ARRAYS) > MAX_ENCODED:
            raise SpecError(f"certainty: the arrays of a detector have at most {MAX_ENCODED:,} characters")
        for name, size in self.sizes().items():
            if len(getattr(self, name)) != 4 * -(-size // 3):
                raise SpecError(
                    f"certainty: {name} must be the base64 of {size:,} bytes, got {len(getattr(self, name)):,} "
                    "characters"
                )

    def sizes(self) -> dict[str, int]:
        """How many bytes each array has, decoded."""
        kinds = {part.evidence for part in self.parts}
        d, points = self.dimensions, len(self.points) * 3 // 4 // (2 * self.dimensions)
        if points > MAX_POINTS:
            raise SpecError(f"certainty: a detector has at most {MAX_POINTS:,} points, got {points:,}")
        return {
            "centre": 2 * self.features,
            "projection": self.features * d,
            "scales": 4 * d,
            "means": 2 * self.classes * d if "mahalanobis" in kinds else 0,
            "whitening": 4 * d * d if "mahalanobis" in kinds else 0,
            "head": 2 * self.classes * (d + 1) if kinds & {"softmax", "energy"} else 0,
            "points": 2 * d * max(1, points) if "knn" in kinds else 0,
        }

    def __repr__(self) -> str:
        return f"<Unknown by {' + '.join(part.evidence for part in self.parts)}, {self.table.count:,} images>"


ARRAYS = ("centre", "projection", "scales", "means", "whitening", "head", "points")
"""The fields of a detector that are base64."""


@dataclass(frozen=True, repr=False)
class Reference:
    """What the ``images`` of the calibration looked like, to see later whether others still do: numbers, no image.

    ``values`` is the text of ``kept`` images' measures: those of an image ``together``, images in the order of the
    classes that they were named, or each apart and sorted; see ``calibration.reference``. ``classes`` is how often each
    class was named, none where there are many; ``named`` the same of the images that were kept. Earlier files have all
    measures apart, and some no ``named``.
    """

    images: int
    kept: int
    values: str
    classes: tuple[int, ...] = ()
    named: tuple[int, ...] = ()
    together: bool = False

    def __post_init__(self) -> None:
        check_types(self, SpecError)
        if not 1 <= self.kept <= min(self.images, MAX_KEPT) or self.images > MAX_IMAGES:
            raise SpecError(
                f"certainty: a reference keeps 1 to {MAX_KEPT:,} of its images, got {show(self.kept)} of "
                f"{show(self.images)}"
            )
        if len(self.values) > MAX_REFERENCE:
            raise SpecError(f"certainty: a reference has at most {MAX_REFERENCE:,} characters")
        if self.classes and (min(self.classes) < 0 or sum(self.classes) != self.images):
            raise SpecError("certainty: the classes of a reference must be counts, and together its images")
        if self.named and (
            len(self.named) != len(self.classes)
            or sum(self.named) != self.kept
            or not all(0 <= few <= all_ for few, all_ in zip(self.named, self.classes, strict=True))
        ):
            raise SpecError("certainty: the named classes of a reference must be counts, and together what it keeps")
        if self.together and not self.named:
            raise SpecError("certainty: a reference that keeps images together must count the classes of these")

    def __repr__(self) -> str:
        return f"<Reference of {self.images:,} images>"


@dataclass(frozen=True)
class Threshold:
    """The class ``index`` is the answer where its probability reaches ``value``, in (0, 1], and nowhere else.

    One that was chosen for a ``precision`` also has to be the likeliest: at least that share of the images that get the
    answer are to be of the class. It is None where a person gave the value.
    """

    index: int
    value: float
    precision: float | None = None

    def __post_init__(self) -> None:
        check_types(self, SpecError)
        if self.index < 0:
            raise SpecError(f"certainty: the class of a threshold must be 0 or more, got {show(self.index)}")
        if not 0 < self.value <= 1:
            raise SpecError(f"certainty: a threshold must be above 0 and at most 1, got {self.value}")
        if self.precision is not None:
            _check_share("the precision of a threshold", self.precision)


@dataclass(frozen=True, repr=False)
class Decision:
    """How a classifier decides, in place of taking the likeliest class: by ``thresholds`` of classes, or by ``costs``.

    ``costs`` are (classes, answers): what each answer costs for an image of each class, 0 or more; the decision is the
    answer of the least expected cost. An answer more than there are classes is that of no class, "unsure". See
    ``calibration.decision.decide``.
    """

    thresholds: tuple[Threshold, ...] = ()
    costs: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        check_types(self, SpecError)
        if bool(self.thresholds) == bool(self.costs):
            raise SpecError("certainty: a decision has either thresholds or costs")
        if len({each.index for each in self.thresholds}) < len(self.thresholds):
            raise SpecError("certainty: a class has one threshold")
        if len(self.costs) > MAX_PRICED:
            raise SpecError(f"certainty: costs are for at most {MAX_PRICED} classes, got {len(self.costs):,}")
        for index, row in enumerate(self.costs):
            if len(row) not in (len(self.costs), len(self.costs) + 1) or len(row) != len(self.costs[0]):
                raise SpecError("certainty: costs have a row for each class, and a column for each, or one more")
            if not all(0 <= cost <= _LARGEST for cost in row):
                raise SpecError("certainty: costs must be numbers, 0 or more")
            if row[index] > min(row):
                raise SpecError("certainty: the right answer must cost no more than any other")

    @property
    def rule(self) -> Literal["thresholds", "costs"]:
        """What it decides by."""
        return "costs" if self.costs else "thresholds"

    def __repr__(self) -> str:
        return f"<Decision by {self.rule}>"


@dataclass(frozen=True)
class Certainty:
    """What was found on ``images`` images of ``source`` that took no part in training: sets of names, and a detector.

    ``unknown`` is None where there were too few images of some class to tell it from none; ``reference`` says what the
    images looked like, where there is a detector. ``decision`` is None where the likeliest class is the answer.
    """

    sets: Sets
    unknown: Unknown | None
    images: int
    source: str
    reference: Reference | None = None
    decision: Decision | None = None

    def __post_init__(self) -> None:
        check_types(self, SpecError)
        if not 1 <= self.images <= MAX_IMAGES:
            raise SpecError(f"certainty: images must be 1 to {MAX_IMAGES:,}, got {show(self.images)}")

    def check(self, classes: int, features: int) -> None:
        """SpecError for a network of other classes or features."""
        if self.sets.classes and len(self.sets.classes) != classes:
            raise SpecError(f"certainty: tables of {len(self.sets.classes)} classes for a network of {classes}")
        found = self.unknown
        if found is not None and (found.classes, found.features) != (classes, features):
            raise SpecError(
                f"certainty: a detector for {found.classes} classes and {found.features} features, and the network has "
                f"{classes} and {features}"
            )
        if self.reference is not None and len(self.reference.classes) not in (0, classes):
            raise SpecError(
                f"certainty: a reference of {len(self.reference.classes)} classes for a network of {classes}"
            )
        if self.decision is not None:
            if self.decision.costs and len(self.decision.costs) != classes:
                raise SpecError(f"certainty: costs of {len(self.decision.costs)} classes for a network of {classes}")
            if max((each.index for each in self.decision.thresholds), default=0) >= classes:
                raise SpecError(f"certainty: a threshold of a class that a network of {classes} classes does not have")

    def check_share(self, certain: float | None) -> float:
        """The share to promise, ``certain`` or the usual one; ValueError for one that takes more images."""
        if certain is None:
            return self.sets.coverage
        if not 0 < certain <= self.sets.most:
            raise ValueError(
                f"certain must be above 0 and at most {self.sets.most:.4g}, which is what the {self.sets.table.count} "
                f"images of its calibration can promise, got {certain:g}: calibrate on more images"
            )
        return certain


def _check_share(name: str, share: float) -> None:
    if not 0 < share < 1:
        raise SpecError(f"certainty: {name} must be between 0 and 1, got {share}")
