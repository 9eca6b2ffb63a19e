"""What a verification found, whether that is enough, and how it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from fusiform.errors import FusiformError
from fusiform.report import Cell, Report, Row, Tabular, printable
from fusiform.spec import FEATURES, Task
from fusiform.tasks import classification_metrics as metrics
from fusiform.tasks.bootstrap import RESAMPLES
from fusiform.tasks.detection import SCORE_THRESHOLD

TOGETHER = 3
"""The batch beside 1: a file made for one picture, or that mixes pictures up, shows."""
MIN_AGREEMENT = 0.85
"""How often an int8 file must name the reference's class: published int8 forms of these networks do so nine times in
ten on ImageNet's thousand classes, and more often on fewer. The same share of boxes, or of pixels, for other tasks."""
FEW = 50
"""Photographs, or boxes, below which the agreement counts only where its interval excludes the floor."""
MIN_COSINE = 0.9
"""What the features of an int8 file have in common with the reference's: the cosine of the angle between both, on
average. The bundled networks' were 0.996 and 0.998 on photographs and 0.97 on synthetic images in every runtime;
colours in the wrong order gave 0.88 and 0.85, another photograph 0.62 and 0.54."""
MAX_DROP: Mapping[Task, float] = {"classification": 1.0, "detection": 2.0, "segmentation": 2.0}
"""What an int8 file may lose on labelled photographs, in percentage points: of top-1, of mAP, of mIoU."""
SAME_BOX = 0.95
"""Intersection over union from which boxes of a float file are the reference's."""
NEAR_BOX = 0.5
"""The same for an int8 file."""

ANSWERS: Mapping[Task, tuple[str, ...]] = {
    "classification": ("logits",),
    "detection": ("logits", "codes"),
    "segmentation": ("logits",),
}
"""What is compared, before it is decoded; a classifier's probabilities as their logarithms."""
MEASURES: Mapping[Task, str] = {"classification": "top1", "detection": "map", "segmentation": "miou"}


class Comparison(NamedTuple):
    """A file's ``answer`` to some ``pictures`` of a kind, shown ``batch`` at a time, beside the reference's.

    ``largest_error`` is the largest difference of a number of the answer as a share of the largest number of the same
    picture, ``worst`` the picture it occurred on. ``error`` is the root mean square of the differences as a share of
    the numbers' own, those of logits without the mean of each row, which no probability depends on. For a classifier
    ``agreement`` is the share of pictures with the same likeliest class, ``others`` the number with another one
    although the reference's margin is larger than the tolerance. ``cosine`` is the similarity, on average.
    """

    kind: str
    batch: int
    pictures: int
    largest_error: float
    worst: str
    error: float
    agreement: float | None = None
    others: int = 0
    answer: str = "logits"
    cosine: float = 1.0


class Decoded(NamedTuple):
    """What users see of the answers to the pictures of a kind, beside what they see of the reference's.

    ``number`` is that of the boxes of both sides, or of pixels. ``same`` is the share of them that the other side has
    too, boxes with an intersection over union of ``SAME_BOX``; ``near`` that of boxes with one of ``NEAR_BOX``, and
    for masks ``same`` again. All are 1 where there is nothing to compare. ``worst`` is the picture with most others.
    """

    kind: str
    what: Literal["boxes", "masks"]
    pictures: int
    number: int
    same: float
    near: float
    worst: str


class Measured(NamedTuple):
    """How good the file and the reference are on labelled photographs: mAP (0.50:0.95) or mIoU in [0, 1].

    ``drop`` is how much higher the reference's is, with the 95 % interval over the photographs: both sides are measured
    on the same resamples (``bootstrap.compare``).
    """

    value: float
    reference: float
    drop: metrics.Difference


@dataclass(frozen=True, repr=False)
class Parity(Tabular):
    """What a verification found; it passed if there are no ``failures``.

    ``tolerance`` bounds ``Comparison.largest_error`` of a float file and is None for int8, where ``max_error`` bounds
    ``Comparison.error`` by answer; ``explained_error`` has those of a plain quantisation of the reference.
    ``batch_error`` is the largest difference between a picture's answers alone and together with others, as a share of
    its largest number. ``outcomes`` counts the labelled photographs that both name right, only the file, only the
    reference, and neither. Detectors and segmenters have what was ``decoded``, and if labelled what was ``measured``.
    ``max_drop`` is in percentage points of top-1, mAP or mIoU.
    """

    file: str
    reference: str
    engine: str
    tolerance: float | None
    max_drop: float
    min_agreement: float | None
    max_error: Mapping[str, float]
    pictures: int
    comparisons: tuple[Comparison, ...] = ()
    batch_error: float | None = None
    explained_error: Mapping[str, float] = field(default_factory=dict)
    outcomes: tuple[int, int, int, int] | None = None
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    task: Task = "classification"
    decoded: tuple[Decoded, ...] = ()
    measured: Measured | None = None

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def int8(self) -> bool:
        return self.tolerance is None

    @property
    def agreement(self) -> float | None:
        """The share of the photographs that the file and the reference name alike; None without photographs."""
        return next((c.agreement for c in self.comparisons if c.kind == "photographs"), None)

    @property
    def largest_error(self) -> float | None:
        """The largest difference of any number, features apart, as a share of the picture's largest."""
        return max((c.largest_error for c in self.comparisons if c.answer != FEATURES), default=None)

    @property
    def features(self) -> Sequence[Comparison]:
        """The comparisons of a classifier's features; none where the file does not answer them."""
        return [c for c in self.comparisons if c.answer == FEATURES]

    @property
    def drop(self) -> metrics.Difference | None:
        """How much more often the reference is right, in [-1, 1], with its paired 95 % interval; None unlabelled."""
        if self.outcomes is None:
            return None
        both, only_file, only_reference, neither = self.outcomes
        return metrics.paired_difference(both, only_reference, only_file, neither)

    def __repr__(self) -> str:
        verdict = "passed" if self.passed else f"failed: {'; '.join(self.failures)}"
        return f"<Parity of {printable(self.file)} with {printable(self.reference)}: {printable(verdict)}>"

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()

    def to_dict(self) -> dict[str, Any]:
        """The figures and rows of ``report``."""
        return self.report().to_dict()

    def to_json(self) -> str:
        """The same as JSON text."""
        return self.report().to_json()

    def report(self) -> Report:
        """The figures of the whole, and a row for each kind of picture, batch and answer; shares are in [0, 1].

        A detector's or segmenter's mAP or mIoU has a row too, the last, for files that have rows alone.
        """
        figures: dict[str, Cell] = {
            "file": self.file,
            "reference": self.reference,
            "engine": self.engine,
            "task": self.task,
            "int8": self.int8,
            "passed": self.passed,
            "failures": self.failures,
            "images": self.pictures,
        }
        for answer in ANSWERS[self.task]:
            end = "" if answer == "logits" else f"_{answer}"
            figures |= {f"explained_error{end}": _rounded(self.explained_error.get(answer))}
            figures |= {f"max_error{end}": _rounded(self.max_error.get(answer))}
        figures |= {"tolerance": self.tolerance}
        figures |= {"largest_error": _rounded(self.largest_error), "batch_error": _rounded(self.batch_error)}
        figures |= self._named_figures() if self.task == "classification" else self._decoded_figures()
        figures |= {"min_agreement": self.min_agreement, "allowed_drop": self._allowed_drop, "notes": self.notes}
        rows = self._named_rows() if self.task == "classification" else self._decoded_rows()
        verdict = "the same answers" if self.passed else "NOT the same answers"
        title = f"{self.file} against {self.reference}: {verdict}"
        return Report(title, tuple(rows), figures, schema="fusiform.verification/1")

    @property
    def _allowed_drop(self) -> float | None:
        """As a share, where there is a drop that it is for."""
        measured = self.outcomes is not None or self.measured is not None
        return _rounded(self.max_drop / 100) if self.int8 and measured else None

    def _named_figures(self) -> dict[str, Cell]:
        figures: dict[str, Cell] = {}
        named = None if self.agreement is None else round(self.agreement * self.pictures)
        figures |= self._with_interval("agreement", named)
        right = file_right = None
        if self.outcomes is not None:
            both, only_file, only_reference, _ = self.outcomes
            file_right, right = both + only_file, both + only_reference
        figures |= self._with_interval("top1", file_right)
        figures |= self._with_interval("reference_top1", right)
        figures |= _drop(self.drop)
        p_value = None if self.outcomes is None else metrics.mcnemar(self.outcomes[1], self.outcomes[2])
        return figures | {"p_value": _rounded(p_value)} | self._of_features()

    def _of_features(self) -> dict[str, Cell]:
        judged = next(iter(self.features), None)
        return {
            "explained_error_features": _rounded(self.explained_error.get(FEATURES)),
            "max_error_features": _rounded(self.max_error.get(FEATURES)),
            "features_error": _rounded(max((c.largest_error for c in self.features), default=None)),
            "features_cosine": None if judged is None else _rounded(judged.cosine),
        }

    def _with_interval(self, name: str, count: int | None) -> dict[str, Cell]:
        """The share of the images that so many are, with its interval."""
        if count is None:
            return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
        low, high = metrics.wilson_interval(count, self.pictures)
        share = _rounded(count / self.pictures)
        return {name: share, f"{name}_low": _rounded(low), f"{name}_high": _rounded(high)}

    def _decoded_figures(self) -> dict[str, Cell]:
        found = self.decoded[0] if self.decoded else None
        figures: dict[str, Cell]
        if self.task == "detection":
            figures = {
                "boxes": found and found.number,
                "boxes_same": found and _rounded(found.same),
                "boxes_near": found and _rounded(found.near),
            }
        else:
            figures = {"pixel_agreement": found and _rounded(found.same)}
        return figures | self._measured() | {"resamples": None if self.measured is None else RESAMPLES}

    def _measured(self) -> dict[str, Cell]:
        """How good both are, by their task's measure, and the drop."""
        name, found = MEASURES[self.task], self.measured
        figures: dict[str, Cell] = {
            name: found and _rounded(found.value),
            f"reference_{name}": found and _rounded(found.reference),
        }
        return figures | _drop(found and found.drop)

    def _named_rows(self) -> list[Row]:
        return [
            {
                "kind": c.kind,
                "batch": c.batch,
                "images": c.pictures,
                "largest_error": _rounded(c.largest_error),
                "rms_error": _rounded(c.error),
                "agreement": _rounded(c.agreement),
                "other_class": c.others,
            }
            for c in self.comparisons
            if c.answer != FEATURES
        ]

    def _decoded_rows(self) -> list[Row]:
        measured = self._measured()
        columns = ("kind", "compared", "batch", "images", "largest_error", "rms_error", "count", "same", "near")
        empty: dict[str, Cell] = dict.fromkeys((*columns, *measured))
        rows: list[Row] = [
            {
                **empty,
                "kind": c.kind,
                "compared": c.answer,
                "batch": c.batch,
                "images": c.pictures,
                "largest_error": _rounded(c.largest_error),
                "rms_error": _rounded(c.error),
            }
            for c in self.comparisons
        ]
        for d in self.decoded:
            row: dict[str, Cell] = {"kind": d.kind, "compared": d.what, "batch": 1, "images": d.pictures}
            row |= {
                "count": d.number,
                "same": _rounded(d.same),
                "near": _rounded(d.near) if d.what == "boxes" else None,
            }
            rows.append({**empty, **row})
        if self.measured is not None:
            row = {"kind": "photographs", "compared": MEASURES[self.task], "batch": 1, "images": self.pictures}
            rows.append({**empty, **row, **measured})
        return rows


class ParityError(FusiformError):
    """A file does not give the answers of the model it was made from; ``parity`` has the figures."""

    def __init__(self, parity: Parity) -> None:
        self.parity = parity
        super().__init__(
            f"{printable(parity.file)}: does not give the answers of {printable(parity.reference)}: "
            f"{'; '.join(parity.failures)}: do not use it; export it again, or allow more if that is meant"
        )


def find_failures(found: Parity) -> list[str]:
    """What in the answers is not as it should be, in words, by the rules of ``verify``."""
    return _failures_of_int8(found) if found.int8 else _failures_of_float(found)


def _failures_of_float(found: Parity) -> list[str]:
    assert found.tolerance is not None
    failures = []
    for kind, answer in dict.fromkeys((c.kind, c.answer) for c in found.comparisons):
        rows = [c for c in found.comparisons if (c.kind, c.answer) == (kind, answer)]
        worst = max(rows, key=lambda c: c.largest_error)
        if worst.largest_error > found.tolerance:
            failures.append(
                f"a {answer.removesuffix('s')} differs by {worst.largest_error:.2g} of the largest, more than "
                f"{found.tolerance:g} ({kind}, batch {worst.batch}: {printable(worst.worst)})"
            )
        others = max(c.others for c in rows)
        if others:
            failures.append(f"another class is the likeliest for {others} of {worst.pictures} {kind}")
    for decoded in found.decoded:
        where = f"({decoded.kind}, most on {printable(decoded.worst)})"
        if decoded.what == "boxes" and decoded.same < 1:
            missing = round((1 - decoded.same) * decoded.number)
            scored = f" scored above {SCORE_THRESHOLD}" if found.comparisons else ""  # of a decoded file's, more
            failures.append(f"{missing} of {decoded.number} boxes{scored} are not on both sides {where}")
        if decoded.what == "masks" and decoded.same < 1 - found.tolerance:
            failures.append(f"{1 - decoded.same:.2%} of the pixels are of another class {where}")
    if found.batch_error is not None and found.batch_error > found.tolerance:
        failures.append(f"alone and in a batch of {TOGETHER} the answers differ by {found.batch_error:.2g}")
    return failures


def _failures_of_int8(found: Parity) -> list[str]:
    failures = []
    first = next(iter(found.comparisons), None)  # a decoded file has none
    kind, count = (first.kind, first.pictures) if first is not None else ("", 0)
    for answer, limit in found.max_error.items():
        error = max(c.error for c in found.comparisons if (c.kind, c.answer) == (kind, answer))
        if error > limit:
            what = "answers to" if found.task == "classification" and answer != FEATURES else f"{answer} of"
            explained = found.explained_error.get(answer)
            failures.append(
                f"the {what} the {kind} are {error:.2g} off, more than {limit:.2g}"
                + (f" (rounding explains {explained:.2g})" if explained is not None else "")
            )
    floor = found.min_agreement
    cosine = min((c.cosine for c in found.features if c.kind == kind), default=1.0)
    if cosine < MIN_COSINE:
        failures.append(
            f"the features of the {kind} have a cosine similarity of {cosine:.3f} to the reference's, less than "
            f"{MIN_COSINE:g}"
        )
    if (
        found.agreement is not None
        and floor is not None
        and (_at_most(found.agreement, count) if count < FEW else found.agreement) < floor
    ):
        failures.append(f"it names the same class for {found.agreement:.1%} of {count} {kind}, less than {floor:.0%}")
    if found.decoded and found.measured is None and floor is not None:
        decoded = found.decoded[0]
        near = decoded.near
        if decoded.what == "boxes" and decoded.number < FEW:
            near = _at_most(near, decoded.number)
        if near < floor:
            what = f"{decoded.number} boxes" if decoded.what == "boxes" else "the pixels"
            failures.append(
                f"only {decoded.near:.1%} of {what} are on both sides, less than {floor:.0%} ({decoded.kind}, most of "
                f"the others on {printable(decoded.worst)})"
            )
    if found.drop is not None and 100 * found.drop.value > found.max_drop + 1e-9:  # 100 * 0.07 is more than 7
        low, high = 100 * found.drop.low, 100 * found.drop.high
        failures.append(
            f"it is right {100 * found.drop.value:.1f} points less often (95 % interval {low:.1f} to {high:.1f}), more "
            f"than the {found.max_drop:g} allowed"
        )
    if found.measured is not None:
        value, reference, drop = found.measured
        if 100 * (reference - value) > found.max_drop + 1e-9:
            failures.append(
                f"its {MEASURES[found.task]} is {value:.4f}, {100 * (reference - value):.1f} points below the "
                f"reference's {reference:.4f} (95 % interval {100 * drop.low:.1f} to {100 * drop.high:.1f}), more than "
                f"the {found.max_drop:g} allowed"
            )
    return failures


def _at_most(share: float, count: int) -> float:
    """The upper end of the 95 % interval of a share."""
    return metrics.wilson_interval(round(share * count), count)[1] if count else 1.0


def _drop(drop: metrics.Difference | None) -> dict[str, Cell]:
    """A drop and its interval, as differences of shares."""
    low, high = (None, None) if drop is None else (drop.low, drop.high)
    return {"drop": _rounded(drop and drop.value), "drop_low": _rounded(low), "drop_high": _rounded(high)}


def _rounded(value: float | None) -> float | None:
    """Six significant digits: more than float32 networks agree on between two machines."""
    return None if value is None else float(f"{value:.6g}")
