"""Whether a model still sees what it was judged on, and if not, what has changed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform.advice.seen import Seen, see
from fusiform.advice.sketch import Sketch, make_sketch, read_sketch
from fusiform.data.dataset import DataSet
from fusiform.data.open import open_dataset
from fusiform.errors import UsageError
from fusiform.files import check_place
from fusiform.prediction.sources import Source, find_pictures
from fusiform.progress import Tracker, tracker
from fusiform.report import Cell, Report, Row, Tabular
from fusiform.spec import ModelSpec
from fusiform.tasks.betting import conformal_ranks, pooled, wealth
from fusiform.zoo.model import Model, open_model

ALARM = 0.01
"""How often images that are as the reference ones may raise an alarm, however many there are."""
EXAMPLES = 8
_STRANGERS, _UNSURE = 6.0, 3.0
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
}
"""What small and large numbers of each measure are called."""


@dataclass(frozen=True, repr=False)
class Drift(Tabular):
    """Whether there was an ``alarm``, after how many images, and a row for each thing that was measured.

    A row has the ``evidence`` against no change, the largest factor that bets on it won, in powers of ten; how it
    ``changed``, where that alone is worth an alarm; the medians of the reference and of the images; and the
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
        changed = ", ".join(str(row["changed"]) for row in self.rows if row["changed"])
        told = f"changed: {changed or 'it cannot be told what'}" if self.alarm else "nothing has changed that was seen"
        return Report(told, self.rows, {**self.figures, "notes": self.notes}, schema="fusiform.drift/1")

    def __str__(self) -> str:
        return self.report().to_table()


def drift(
    model: str | os.PathLike[str] | Model,
    sources: Source | Iterable[Source] = (),
    *,
    reference: str | os.PathLike[str] | DataSet,
    false_alarms: float = ALARM,
    sketch: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    seed: int = 0,
    progress: bool | Tracker | None = None,
) -> Drift:
    """Say whether images are still as those that the model was judged on, and what has changed.

    Looked at are brightness, contrast, sharpness, colours and size, how sure the model is, how strange its features
    are, and which classes it names. Images are taken one after the other, in the order of ``sources``; if they are as
    the reference images, in random order, the chance of an alarm is at most ``false_alarms``, however many there are.

    Args:
        model: The classifier that is in use.
        sources: The images that it sees now, as ``predict`` takes them; none only writes the sketch.
        reference: What it was judged on: labelled images as ``evaluate`` takes them, of which the split test, val or
            all is used; or a sketch of them, a file that ends in .json.
        false_alarms: The chance of a false alarm, in (0, 1).
        sketch: Where to write the sketch of the reference images, some kilobytes of JSON that hold no image.
        root: The folder that the paths in a list of reference images begin in; None is the list's own.
        threads: Cores to use, all by default.
        seed: Of which reference images the others are ranked among, and of ties.
        progress: Whether to show on standard error how far it is; None where that is a terminal or a notebook.

    Returns:
        What was found: ``alarm``, ``figures``, and ``rows`` with the strongest evidence first.

    Raises:
        UsageError: For arguments that do not fit, and for a model without features.
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
    pictures = list(find_pictures(sources))
    if not pictures and sketch is None:
        raise UsageError("there are no images to look at: name some, or name a file with --sketch")
    known = _reference(opened, reference, root, threads, seed, show)
    if sketch is not None:
        known.write(Path(sketch))
    figures: dict[str, Cell] = {"model": opened.path.name, "reference_images": len(known.values)}
    if not pictures:
        return Drift({**figures, "images": 0, "false_alarms": false_alarms, "alarm_after": None}, (), ())
    seen = see(opened, pictures, threads=threads, progress=show)
    paths = [pictures[i].path for i in seen.numbers]
    after, rows = compare(known, seen, paths, opened.spec, false_alarms=false_alarms, seed=seed)
    notes = (f"{len(seen.errors):,} images could not be read",) if seen.errors else ()
    figures |= {"images": len(paths), "false_alarms": false_alarms, "alarm_after": after}
    return Drift(figures, tuple(rows), notes)


def _reference(
    model: Model,
    reference: str | os.PathLike[str] | DataSet,
    root: str | os.PathLike[str] | None,
    threads: int | None,
    seed: int,
    show: Tracker,
) -> Sketch:
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
    values = known.measure(seen, spec)
    reference = known.values.astype(np.float64)
    random = np.random.default_rng(seed)
    ranks = np.array([conformal_ranks(reference[:, k], values[:, k], random) for k in range(len(known.names))])
    wealths = np.array([wealth(own) for own in ranks])
    shares = shares_of(known.names)
    bound = -np.log(false_alarms)
    over = np.flatnonzero(pooled(wealths, shares) >= bound)
    after = int(over[0]) + 1 if len(over) else None
    # What one bettor needs alone, whose share of the beginning was that small.
    needed = bound - np.log(shares / shares.sum())
    peaks = wealths.max(2)
    rows: list[Row] = []
    for k in np.argsort(-peaks.max(1), kind="stable"):
        side = int(peaks[k].argmax())
        alone = after is not None and peaks[k, side] >= needed[k, side]
        name = known.names[k]
        extreme = np.argsort(ranks[k] if side == 0 else -ranks[k], kind="stable")[:EXAMPLES]
        rows.append(
            {
                "measure": _called(name, known),
                "changed": _changed(name, side, known) if alone else None,
                "evidence": float(f"{peaks[k, side] / np.log(10):.4g}"),
                "reference_median": _middle(name, reference[:, k]),
                "now": _middle(name, values[:, k]),
                "examples": tuple(paths[i] for i in extreme) if alone else (),
            }
        )
    return after, rows


def shares_of(names: tuple[str, ...]) -> NDArray[np.float64]:
    """What the bets on small and on large numbers of each measure begin with (names, 2).

    All with as much, but that the classes share one part, and that strangers and answers that are less sure, which are
    what a model has to fear most and are hardest to see where they are few, have more.
    """
    of_class = np.array([name.startswith("class ") for name in names])
    shares = np.where(of_class, 1 / max(int(of_class.sum()), 1), 1.0)[:, None].repeat(2, axis=1)
    shares[names.index("strangeness"), 1] = _STRANGERS
    shares[names.index("confidence"), 0] = _UNSURE
    return shares


def _called(name: str, known: Sketch) -> str:
    return f"class {known.labels[int(name.split()[1])]}" if name.startswith("class ") else name


def _changed(name: str, side: int, known: Sketch) -> str:
    if name.startswith("class "):
        return f"{('less', 'more')[side]} {known.labels[int(name.split()[1])]}"
    return _WORDS[name][side]


def _middle(name: str, values: NDArray[np.float64]) -> float:
    """The median; of a class how often it is named."""
    found = values.mean() if name.startswith("class ") else np.median(values)
    return float(f"{found:.4g}")
