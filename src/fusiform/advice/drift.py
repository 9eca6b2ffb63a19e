"""Whether a model still sees what it was judged on, and if not, what has changed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.advice.seen import Seen, see
from fusiform.advice.sketch import Sketch, make_sketch, own_sketch, read_sketch
from fusiform.calibration.reference import Measure, to_columns
from fusiform.data.dataset import DataSet
from fusiform.data.open import open_dataset
from fusiform.errors import InputError, UsageError
from fusiform.files import check_place
from fusiform.prediction.kept import Kept, is_kept, read_kept
from fusiform.prediction.sources import Source, find_pictures
from fusiform.progress import Tracker, tracker
from fusiform.report import Cell, Report, Row, Tabular
from fusiform.spec import ModelSpec
from fusiform.tasks.betting import class_wealth, conformal_ranks, wealth
from fusiform.tasks.two_samples import sizes_of_tests, tell_apart
from fusiform.zoo.model import Model, open_model

ALARM = 0.01
"""How often images that are as the reference ones may raise an alarm, however many there are."""
EXAMPLES = 8
_FEARED = 8.0
"""What is begun with by each kind of bet on what a model has to fear most, and what is hardest to see where it is few:
strangers, and less sure answers. All others but the next begin with 1."""
_TAKEN = 40.0
"""What the tests for what takes a class's name have of the chance, as much as all bets: of new images few are strangers
among all. Where the reference does not keep its images together, it is the bets' that a class is named more often."""
_FIRST = 0.9
_WORDS = {
    "brightness": ("darker", "brighter"),
    "contrast": ("flatter", "of more contrast"),
    "sharpness": ("blurred", "sharper"),
    "colourfulness": ("paler", "more colourful"),
    "warmth": ("bluer", "redder"),
    "tint": ("more magenta", "greener"),
    "size": ("smaller files", "larger files"),
    "confidence": ("less sure answers", "surer answers"),
    "strangeness": ("more usual", "strangers"),
    "residual": ("more usual", "strangers"),
}
"""What small and large numbers of each measure are called."""


@dataclass(frozen=True, repr=False)
class Drift(Tabular):
    """Whether there was an ``alarm``, after how many images, and a row for each thing that was measured.

    A row has the ``evidence`` against no change, the largest factor that a bet on it won, in powers of ten; how it
    ``changed``, where that is worth an alarm; the medians of the reference and of the images; and the
    ``examples`` that show it most.
    """

    figures: dict[str, Cell]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def alarm(self) -> bool:
        return self.figures["alarm_after"] is not None

    def report(self) -> Report:
        """All of it."""
        changed = ", ".join(dict.fromkeys(str(row["changed"]) for row in self.rows if row["changed"]))
        told = f"changed: {changed}" if self.alarm else "nothing has changed that was seen"
        return Report(told, self.rows, {**self.figures, "notes": self.notes}, schema="fusiform.drift/1")

    def __str__(self) -> str:
        return self.report().to_table()


def drift(
    model: str | os.PathLike[str] | Model,
    sources: Source | Iterable[Source] = (),
    *,
    reference: str | os.PathLike[str] | DataSet | None = None,
    false_alarms: float = ALARM,
    sketch: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    seed: int = 0,
    progress: bool | Tracker | None = None,
) -> Drift:
    """Say whether images are still as those that the model was judged on, and what has changed.

    Looked at are brightness, contrast, sharpness, colours and size, how sure the model is, how strange its features
    are, and which classes it names; and after 50, 100, 200 images, and so on, all of that together among the images of
    each name, for a new class mostly takes a known one's. Images are taken one after the other, in the order of
    ``sources``; if they are as the reference images, in random order, the chance of an alarm is at most
    ``false_alarms``, however many there are. The same holds for a sketch that ``predict``, ``serve`` or a model's page
    keeps, however often it is looked at while it grows.

    Args:
        model: The classifier that is in use.
        sources: The images that it sees now, as ``predict`` takes them; or the sketch that ``predict``, ``serve``
            or a model's page kept of them, a file that ends in .json. None only writes the sketch of the reference.
        reference: What it was judged on: labelled images as ``evaluate`` takes them, of which the split test, val or
            all is used; or a sketch of them, a file that ends in .json. None is what a calibrated model has in it.
        false_alarms: The chance of a false alarm, in (0, 1).
        sketch: Where to write the sketch of the reference images, some kilobytes of JSON that hold no image.
        root: The folder that the paths in a list of reference images begin in; None is the list's own.
        threads: Cores to use, all by default.
        seed: Of which reference images the others are ranked among, and of ties.
        progress: Whether to show on standard error how far it is; None where that is a terminal or a notebook.

    Returns:
        What was found: ``alarm``, ``figures``, and ``rows`` with the strongest evidence first.

    Raises:
        UsageError: For arguments that do not fit, for a model without features, and for one without a reference of its
            own where none is named.
        InputError: For fewer than 40 reference images, and for a sketch of another model.
        OutputError: For a sketch that cannot be written.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> import fusiform
        >>> from PIL import Image
        >>> folder = Path(mkdtemp())
        >>> for name in ("cat", "dog"):
        ...     (folder / name).mkdir()
        ...     for k in range(30):
        ...         Image.effect_noise((64, 64), 20 + k).save(folder / name / f"{k}.png")
        >>> found = fusiform.drift("mobilenet_v2", folder / "cat", reference=folder, threads=1)
        >>> found.alarm, found.figures["images"]
        (False, 30)

    """
    if not 0 < false_alarms < 1:
        raise UsageError(f"false_alarms must be between 0 and 1, got {false_alarms}")
    if sketch is not None:
        check_place(sketch, (".json",), "a sketch is a file that ends in .json")
    opened = open_model(model)
    show = tracker(progress)
    kept = _kept(sources)
    pictures = [] if kept else list(find_pictures(sources))
    if not pictures and not kept and sketch is None:
        raise UsageError("there are no images to look at: name some, or name a file with --sketch")
    held = read_kept(kept, opened) if kept else None
    known = _reference(opened, reference, root, threads, seed, show)
    if sketch is not None:
        known.write(Path(sketch), opened.spec.labels)
    figures: dict[str, Cell] = {"model": opened.path.name, "reference_images": known.reference.images}
    if held is not None:
        if known.mean is not None:
            raise InputError(f"{reference}: says nothing of the unknown, as {kept} does: make it with this model")
        if not len(held.rows):
            raise InputError(f"{kept}: has no image in it yet: let the model see some")
        after, rows = look_at(known, held, opened.spec, false_alarms=false_alarms, seed=seed)
        note = f"of {held.images:,} images {'' if held.every == 1 else f'about one in {held.every:,} '}was kept"
        figures |= {"images": len(held.rows), "false_alarms": false_alarms, "alarm_after": after}
        return Drift(figures, tuple(rows), (note,) if len(held.rows) < held.images else ())
    if not pictures:
        return Drift({**figures, "images": 0, "false_alarms": false_alarms, "alarm_after": None}, (), ())
    seen = see(opened, pictures, threads=threads, progress=show)
    paths = [pictures[i].path for i in seen.numbers]
    after, rows = compare(known, seen, paths, opened.spec, false_alarms=false_alarms, seed=seed)
    notes = (f"{len(seen.errors):,} images could not be read",) if seen.errors else ()
    figures |= {"images": len(paths), "false_alarms": false_alarms, "alarm_after": after}
    return Drift(figures, tuple(rows), notes)


def _kept(sources: Source | Iterable[Source]) -> Path | None:
    """The file of a sketch that was kept, where that is the source; UsageError for one among others."""
    given = list(sources) if isinstance(sources, (list, tuple)) else [sources]
    named = [Path(each) for each in given if isinstance(each, (str, os.PathLike)) and Path(each).suffix == ".json"]
    if not named or not is_kept(named[0]):
        return None
    if len(given) > 1:
        raise UsageError(f"{named[0]}: is a sketch, and has an order of its own: name it alone")
    return named[0]


def _reference(
    model: Model,
    reference: str | os.PathLike[str] | DataSet | None,
    root: str | os.PathLike[str] | None,
    threads: int | None,
    seed: int,
    show: Tracker,
) -> Sketch:
    if reference is None:
        own = own_sketch(model.spec)
        if own is None:
            raise UsageError(
                f"{model.path}: has no reference in it: name what it was judged on with --reference, or calibrate it "
                "(fusiform evaluate MODEL DATA --calibrate FILE)"
            )
        return own
    if not isinstance(reference, DataSet) and Path(reference).suffix.lower() == ".json":
        return read_sketch(Path(reference), model.spec)
    if not isinstance(reference, DataSet):
        reference = open_dataset(reference, task="classification", root=root)
    splits = reference.splits
    samples = splits.get("test") or splits.get("val") or splits.get("all") or splits["train"]
    return make_sketch(see(model, samples, threads=threads, progress=show), model.spec, seed=seed)


def compare(
    known: Sketch, seen: Seen, paths: list[str], spec: ModelSpec, *, false_alarms: float = ALARM, seed: int = 0
) -> tuple[int | None, list[Row]]:
    """After how many images there is an alarm, None for never, and a row for each thing that is measured."""
    return judge(known, known.measure(seen, spec), paths, spec, false_alarms=false_alarms, seed=seed)


def look_at(
    known: Sketch, kept: Kept, spec: ModelSpec, *, false_alarms: float = ALARM, seed: int = 0
) -> tuple[int | None, list[Row]]:
    """The same of a sketch that was kept, and may grow: however often it is looked at, the chance is as stated.

    As long as it has a row for each image, it is one stream that grows. Each time that its rows are thinned it becomes
    another one, which is given half of what is left of the chance: together they have no more than was stated.
    """
    spent = _FIRST if kept.every == 1 else (1 - _FIRST) / kept.every
    values = to_columns(kept.rows, known.measures(spec))
    return judge(known, values, None, spec, false_alarms=false_alarms * spent, seed=seed)


class _Bet(NamedTuple):
    """That a measure ``changed``, begun with a ``share``: the logarithm of what it won on ``ranks``; large ones win.

    What a test wins is its share of the chance over its p-value: it is as much as is needed for an alarm if and only if
    the p-value is small enough for one.
    """

    changed: str
    share: float
    ranks: NDArray[np.float64]
    wealth: NDArray[np.float64]


def judge(
    known: Sketch,
    values: list[NDArray[np.float64]],
    paths: list[str] | None,
    spec: ModelSpec,
    *,
    false_alarms: float,
    seed: int = 0,
) -> tuple[int | None, list[Row]]:
    """The same from what was measured of images, a column for each of the sketch's measures; no paths, no examples."""
    measures, reference = known.measures(spec), known.columns(spec)
    named = known.reference.named if known.reference.together else None
    bets: dict[Measure, list[_Bet]] = {}
    for k, (measure, old, new) in enumerate(zip(measures, reference, values, strict=True)):
        # Each measure draws its own ties, so that those of the first images stay what they were when more come.
        ranks = conformal_ranks(old, new, np.random.default_rng([seed, k]))
        bets[measure] = _bets(measure, ranks, spec, oftener=named is None)
    whole = sum(bet.share for own in bets.values() for bet in own)
    if named is not None:
        whole += _TAKEN
        for bet, label in _tests(reference, values, named, spec, false_alarms * _TAKEN / whole, seed):
            bets[Measure("class", label)].append(bet)
    bound = -np.log(false_alarms)
    firsts: list[int] = []
    rows: list[tuple[float, Row]] = []
    for measure, old, new in zip(measures, reference, values, strict=True):
        # What a bet needs, whose share of the beginning was that small.
        needed = [bound - np.log(bet.share / whole) for bet in bets[measure]]
        over = [np.flatnonzero(bet.wealth >= least) for bet, least in zip(bets[measure], needed, strict=True)]
        firsts += [int(steps[0]) + 1 for steps in over if len(steps)]
        peaks = [bet.wealth.max(initial=-np.inf) for bet in bets[measure]]
        best = int(np.argmax(np.subtract(peaks, needed)))
        bet, alone = bets[measure][best], len(over[best]) > 0
        extreme = np.argsort(-bet.ranks, kind="stable")[:EXAMPLES]
        evidence = float(f"{peaks[best] / np.log(10):.4g}")
        told: Row = {
            "measure": measure.name if measure.label is None else f"class {spec.labels[measure.label]}",
            "changed": bet.changed if alone else None,
            "evidence": evidence,
            "reference_median": _middle(measure, old),
            "now": _middle(measure, new),
            "examples": tuple(paths[i] for i in extreme) if alone and paths else (),
        }
        rows.append((evidence, told))
    rows.sort(key=lambda each: -each[0])
    return min(firsts, default=None), [each for _, each in rows]


def _bets(measure: Measure, ranks: NDArray[np.float64], spec: ModelSpec, *, oftener: bool) -> list[_Bet]:
    """What is bet on a measure; not that nothing is strange, which is no alarm."""
    if measure.label is None:
        small, large = wealth(ranks)
        less, more = _WORDS[measure.name]
        if measure.name in ("strangeness", "residual"):
            return [_Bet(more, _FEARED, ranks, large)]
        share = _FEARED if measure.name == "confidence" else 1.0
        return [_Bet(less, share, 1 - ranks, small), _Bet(more, 1.0, ranks, large)]
    label, classes = spec.labels[measure.label], spec.num_classes
    small, large = class_wealth(ranks, classes)
    bets = [_Bet(f"less {label}", 1 / classes, 1 - ranks, small)]
    return [*bets, _Bet(f"more {label}", _TAKEN / classes, ranks, large)] if oftener else bets


def _tests(
    reference: list[NDArray[np.float64]],
    values: list[NDArray[np.float64]],
    counts: tuple[int, ...],
    spec: ModelSpec,
    level: float,
    seed: int,
) -> list[tuple[_Bet, int]]:
    """What the tests found that have ``level`` of the chance together, each as a bet on the class that it names."""
    classes, images = len(counts), len(values[0])
    old, new = (np.column_stack(columns[: len(columns) - classes]) for columns in (reference, values))
    known = np.repeat(np.arange(classes), counts)
    named = np.argmax(values[len(values) - classes :], axis=0)
    found = []
    for number, (size, share) in enumerate(sizes_of_tests(images)):
        random = np.random.default_rng([seed, len(values) + number])
        told = tell_apart((old, known), (new[:size], named[:size]), classes, level * share, random)
        label = spec.labels[told.label]
        won, unlike = np.full(images, -np.inf), np.full(images, -np.inf)
        won[size - 1], unlike[:size] = np.log(share / told.p), told.unlike
        changed = f"more {label}" if told.oftener else f"strangers named {label}"
        found.append((_Bet(changed, _TAKEN, unlike, won), told.label))
        if told.p <= level * share:
            break  # it is known, and later tests take ever longer
    return found


def _middle(measure: Measure, values: NDArray[np.float64]) -> float:
    """The median; of a class how often it is named."""
    found = values.mean() if measure.name == "class" else np.median(values)
    return float(f"{found:.4g}")
