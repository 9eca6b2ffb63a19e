"""What the evaluations of all tasks share: what was measured, on which images, and how it is told."""

from __future__ import annotations

import copy
import json
import os
from abc import abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from fusiform.data.annotated import AnnotatedSample
from fusiform.data.dataset import Sample, Split
from fusiform.drawing.page import Page
from fusiform.engines import EngineName
from fusiform.errors import InputError, UsageError
from fusiform.evaluation.calibration import Calibration, calibration_figures, calibration_text
from fusiform.evaluation.comparison import ClassificationComparison, comparison_figures
from fusiform.evaluation.figures import interval_text, shortened
from fusiform.evaluation.uses import TestUse
from fusiform.report import Cell, Format, Report, Tabular, align, printable, rows_table, shown_figures
from fusiform.spec import ModelSpec
from fusiform.tasks import bootstrap
from fusiform.tasks.bootstrap import Comparison, Interval

SCHEMA = "fusiform.evaluation/1"

SHOWN = 10
"""Rows of each table for people beside that of the classes; json has all."""
SHOWN_CLASSES = 20
"""Rows of the classes' table in a notebook's cell."""

Rows = Sequence[Mapping[str, Cell]]
E = TypeVar("E", bound="Evaluation")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Evaluation(Tabular):
    """A model's answers to the images of a dataset, and what follows from them.

    ``samples`` are the images that could be read, ``skipped`` the messages about the others, ``notes`` what a user
    should know of how the dataset was read. ``comparison`` with another model and ``calibration`` are None where they
    were not asked for, ``test_use`` where the model is of no run or the images are no test. ``seconds`` is how long the
    images took.
    """

    main: ClassVar[str]
    """What people call the figure that decides."""

    model: str
    spec: ModelSpec
    engine: EngineName
    source: str
    split: Split
    samples: tuple[Sample | AnnotatedSample, ...]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    comparison: ClassificationComparison | Comparison | None = None
    calibration: Calibration | None = None
    test_use: TestUse | None = None

    @property
    def title(self) -> str:
        """Model, dataset and split in a line."""
        return f"{self.model} on {self.source} ({self.split})"

    @property
    @abstractmethod
    def value(self) -> float | None:
        """The figure that decides, a share in [0, 1]; None where there is nothing that it could be about."""

    @property
    @abstractmethod
    def interval(self) -> Interval:
        """The same with its 95 % interval."""

    @property
    @abstractmethod
    def metrics(self) -> dict[str, float | None]:
        """The headline numbers by name, None where there is nothing that one could be about."""

    @abstractmethod
    def report(self) -> Report:
        """The figures about the whole, and a row for each class; shares are in [0, 1]."""

    @abstractmethod
    def headlines(self) -> dict[str, str]:
        """The figures of the report in the words of people; shares in percent."""

    @abstractmethod
    def compare(self, other: Evaluation) -> ClassificationComparison | Comparison:
        """The two models, of one task, on the images that both were shown; UsageError where there are none."""

    @abstractmethod
    def _details(self) -> dict[str, Any]:
        """What ``to_dict`` has beside the report, between its classes and what was skipped."""

    @abstractmethod
    def _tables(self) -> dict[str, Rows]:
        """Rows for people by their heading: where it is worst."""

    @abstractmethod
    def _fill(self, page: Page) -> None:
        """Add to a page that has a title all that it shows."""

    def to_dict(self) -> dict[str, Any]:
        """All of it, of values that JSON knows: the report, then what the task has more."""
        return {
            **self.report().to_dict(),
            **self._details(),
            "skipped_images": list(self.skipped),
            "notes": list(self.notes),
            "comparison": None if self.comparison is None else comparison_figures(self.comparison),
            "calibration": None if self.calibration is None else calibration_figures(self.calibration),
            "test_use": None if self.test_use is None else self.test_use.to_dict(),
        }

    def left_out(self, form: Format) -> tuple[str, ...]:
        """What a format has no place for: the names of what ``to_dict`` has beside the rows."""
        if form not in ("csv", "jsonl"):
            return ()
        return tuple(
            name for name, value in self.to_dict().items() if name not in ("schema", "title", "rows") and value
        )

    def to_json(self) -> str:
        """``to_dict`` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def to_table(self) -> str:
        """For people: the headlines, a row for each class, where it is worst, and the comparison if there is one."""
        made = self.report()
        parts = [printable(made.title), align(list(self.headlines().items()), "<<")]
        if made.rows:
            parts.append(rows_table(made.rows))
        parts += [f"{name}\n\n" + rows_table(rows[:SHOWN]) for name, rows in self._tables().items() if rows]
        if self.comparison is not None:
            figures = _without_sentence(comparison_figures(self.comparison))
            parts.append(printable(self.comparison.sentence))
            parts.append(align([[printable(name), text] for name, text in shown_figures(figures)], "<<"))
        if self.calibration is not None:
            parts.append(calibration_text(self.calibration))
        if self.test_use is not None:
            parts.append(printable(self.test_use.sentence))
        parts += [printable(note) for note in self.notes]
        return "\n\n".join(parts) + "\n"

    def render(self, form: Format) -> str:
        """The text in one of the formats: all of it as ``table`` or ``json``, the classes as ``jsonl`` or ``csv``."""
        if form == "table":
            return self.to_table()
        return self.to_json() if form == "json" else self.report().render(form)

    def page(self) -> Page:
        """All of it as a page to look at, with drawings and pictures: the models' and data's short names above all."""
        model = Path(self.model)
        short = model.parent.name if model.name in ("best.safetensors", "last.safetensors") else model.name
        split = "all images" if self.split == "all" else f"split {self.split}"
        page = Page(
            f"{short or self.model} on {Path(self.source).name or self.source}",
            kind=f"Evaluation, {self.spec.task}",
            about=(f"Model: {self.model}", f"Data: {self.source}, {split}", *self._used()),
        )
        self._fill(page)
        return page

    def _used(self) -> tuple[str, ...]:
        return () if self.test_use is None else (self.test_use.sentence,)

    def _add_end(self, page: Page, terms: Iterable[tuple[str, str, str]]) -> None:
        """Images that could not be read, and what only some ask for: names, values, and lines that explain them."""
        if self.skipped:
            page.add_heading("Not read", count=len(self.skipped))
            page.add_text("These images do not count in any figure.")
            page.add_table([{"reason": message} for message in self.skipped], first=10)
        page.add_heading("Details", folded=True)
        side = self.spec.input_size
        rate = f", {len(self.samples) / self.seconds:,.0f} images/s" if self.seconds else ""
        page.add_terms(
            [
                *terms,
                ("engine", self.engine, "The runtime that answered. Others give the same answers up to rounding."),
                ("time", f"{self.seconds:.1f} s{rate}", "Reading, preparing and answering; no benchmark."),
                (
                    "input",
                    f"{side} x {side} pixels",
                    "What the network sees of each image.",
                ),
            ]
        )

    def write_page(self, path: str | os.PathLike[str]) -> None:
        """Write the page as one HTML file that needs no other; OutputError where it cannot be written."""
        self.page().write(path)

    def _same_task(self: E, other: Evaluation) -> E:
        """The other evaluation, if it is one of this kind; else UsageError."""
        if not isinstance(other, type(self)):
            raise UsageError(f"{self.title} and {other.title} are for two tasks: compare models of one task")
        return other

    def _common(self, other: Evaluation) -> list[tuple[int, int]]:
        """The places of the images that this evaluation and another one share; UsageError where there are none."""
        places = {key: i for i, key in enumerate(other._keys())}
        pairs = [(i, places[key]) for i, key in enumerate(self._keys()) if key in places]
        if not pairs:
            raise InputError(
                f"{self.title} and {other.title} have no picture in common: evaluate both on the same data"
            )
        return pairs

    def _keys(self) -> Sequence[Hashable]:
        """What tells each of ``samples`` from the others."""
        return self.samples

    def including(self: E, **found: object) -> E:
        """A copy with other fields, which keeps what was computed already, as ``dataclasses.replace`` does not."""
        made = copy.copy(self)
        vars(made).update(found)
        return made

    def __repr__(self) -> str:
        figure = f"{self.main} {interval_text(*self.interval)}"
        return f"<{type(self).__name__} {printable(self.title)}: {figure}, {len(self.samples)} images>"

    def _repr_html_(self) -> str:
        """For a notebook's cell: figures and classes, without pictures, so that looking costs no time."""
        page = Page(self.title)
        page.add_heading(self.title)
        page.add_figures(self.headlines())
        for text in (
            self.comparison and self.comparison.sentence,
            self.calibration and calibration_text(self.calibration),
        ):
            if text:
                page.add_text(text)
        rows = self.report().rows
        if rows:
            page.add_table(shortened(rows[:SHOWN_CLASSES]))
        if len(rows) > SHOWN_CLASSES:
            page.add_text(f"and {len(rows) - SHOWN_CLASSES} more classes: see report()")
        return page.fragment()


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class AnnotationEvaluation(Evaluation):
    """A detector's or a segmenter's: its figures are of all images together.

    Whatever ``names`` name can be computed for any selection of the images: an interval comes from that, and a
    comparison.
    """

    names: ClassVar[tuple[str, ...]]
    """What has an interval, and is compared; the first is ``main``."""

    samples: tuple[AnnotatedSample, ...]

    @abstractmethod
    def figure(self, weights: NDArray[np.int32]) -> NDArray[np.float64]:
        """What ``names`` name, for resamples of the images: from (resamples, images) to (resamples, figures)."""

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Each of ``names`` with its interval over the images."""
        found = bootstrap.intervals(self.figure, len(self.samples))
        return dict(zip(self.names, found, strict=True))

    @property
    def value(self) -> float | None:
        value = float(self.figure(np.ones((1, len(self.samples)), np.int32))[0, 0])
        return None if np.isnan(value) else value

    @property
    def interval(self) -> Interval:
        return self.intervals[self.names[0]]

    def _keys(self) -> Sequence[Hashable]:
        """The files: two models of other classes do not read the same labels."""
        return [sample.file for sample in self.samples]

    def compare(self, other: Evaluation) -> Comparison:
        other = self._same_task(other)
        pairs = self._common(other)
        count = len(self.samples), len(other.samples)
        compared = bootstrap.compare(self.names, self.figure, other.figure, pairs=pairs, pictures=count)
        return Comparison(self.model, other.model, len(pairs), self.main, compared)


def _without_sentence(figures: Mapping[str, Cell]) -> dict[str, Cell]:
    return {name: value for name, value in figures.items() if name != "sentence"}
