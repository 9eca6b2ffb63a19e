"""What was found in a dataset, whatever it is labelled with, and how it is told: table, report, page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from PIL import Image

from fusiform.data.annotated import AnnotatedSample, AnnotatedSet
from fusiform.data.dataset import SPLIT_ORDER, DataSet, Sample, Split
from fusiform.data.faults import FileFault, ReadingFault, Severity
from fusiform.data.layouts.summary import headline, task_of
from fusiform.doctor.thumbnails import Mark, annotated_thumbnail
from fusiform.drawing.page import THUMBNAIL, Page
from fusiform.errors import ImageError
from fusiform.report import Cell, Report, Row, Tabular, printable, rows_table

EXAMPLES = 10
"""Findings of a kind that the table shows."""
TABLE_CLASSES = 30
"""Classes that the table shows."""
PAGE_PICTURES = 60
"""Pictures of a kind that the page shows."""

SPLITS = tuple(split for split in SPLIT_ORDER if split != "all")
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

Kind = Literal[
    FileFault,
    ReadingFault,
    "dataset",
    "grey",
    "small",
    "exact duplicates",
    "near duplicates",
    "leak between splits",
    "contradictory labels",
    "contradictory annotations",
    "suspicious label",
    "class not judged",
    "class names",
    "imbalance",
    "empty class",
    "small class",
    "class missing",
    "class not learned",
    "class not measured",
    "pictures not read",
    "other files",
    "box twice",
    "box of two classes",
    "small boxes",
    "nothing annotated",
]
"""What a finding is about: faults of one file or annotation, and what only the whole dataset shows."""

Picture = Sample | AnnotatedSample


@dataclass(frozen=True)
class Finding:
    """One thing that was found: its ``kind``, and a ``message`` that says what it is and what to do.

    ``sample`` is the picture, ``split`` and ``class_name`` where it belongs; each is None for what concerns more than
    one. ``path`` is what to call it: the picture's name, a folder's, or nothing. ``others`` are related pictures,
    ``marks`` the boxes of ``sample`` that it is about.
    """

    kind: Kind
    severity: Severity
    message: str
    path: str = ""
    sample: Picture | None = None
    split: Split | None = None
    class_name: str | None = None
    others: tuple[Picture, ...] = ()
    marks: tuple[Mark, ...] = ()

    def row(self) -> dict[str, Cell]:
        """The finding as a report's row; of several boxes it has the first."""
        edges = self.marks[0].edges if self.marks else (None,) * 4
        return {
            "kind": self.kind,
            "severity": self.severity,
            "path": self.path or None,
            "split": self.split,
            "class": self.class_name,
            "message": self.message,
            "others": tuple(other.name for other in self.others),
            **dict(zip(("left", "top", "right", "bottom"), edges, strict=True)),
        }


Data = TypeVar("Data", DataSet, AnnotatedSet)


@dataclass(frozen=True, repr=False)
class Diagnosis(Tabular, Generic[Data]):
    """What was found in ``dataset``.

    ``findings`` come errors first, then warnings, then notes, those of a kind together. ``clean`` is the dataset
    without what training should not see; who examines says what that is. ``rows`` say of each class how much there is
    of it, ``counts`` of the whole what ``figures`` has beside pictures and classes.
    """

    dataset: Data
    findings: tuple[Finding, ...]
    clean: Data
    rows: tuple[Mapping[str, Cell], ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def pictures(self) -> int:
        return sum(map(len, self.dataset.splits.values()))

    def count(self, severity: Severity) -> int:
        """How many findings are of this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def kinds(self) -> dict[tuple[Severity, Kind], list[Finding]]:
        """The findings by severity and kind, in the order of ``findings``."""
        kinds: dict[tuple[Severity, Kind], list[Finding]] = {}
        for finding in self.findings:
            kinds.setdefault((finding.severity, finding.kind), []).append(finding)
        return kinds

    def figures(self) -> dict[str, Cell]:
        """How many pictures, classes, and findings of each severity there are."""
        splits = self.dataset.splits
        return {
            "data": str(self.dataset.source),
            "task": task_of(self.dataset),
            "layout": self.dataset.layout or None,
            "images": self.pictures,
            "objects": self.counts.get("objects"),
            "classes": len(self.dataset.classes),
            **{f"{split}_images": len(splits[split]) if split in splits else None for split in SPLITS},
            **{f"{severity}_count": self.count(severity) for severity in SEVERITIES},
        }

    def report(self) -> Report:
        """Every finding as a row, the counts as figures, and tables of the kinds of findings and of the classes."""
        kinds = [
            {"kind": kind, "severity": severity, "findings": len(found)}
            for (severity, kind), found in self.kinds().items()
        ]
        rows = tuple(finding.row() for finding in self.findings)
        tables = {"kinds": kinds, "by_class": self.rows}
        return Report(self._title(), rows, self.figures(), tables, "fusiform.diagnosis/1")

    def to_table(self) -> str:
        """For people: the classes, then the findings by kind, the first ten of each."""
        parts = [headline(self.dataset), printable(self._title()), rows_table(self._shown_rows()[:TABLE_CLASSES])]
        if len(self.rows) > TABLE_CLASSES:
            parts[-1] += f"\n... and {len(self.rows) - TABLE_CLASSES:,} more classes"
        for (severity, kind), found in self.kinds().items():
            lines = [f"{severity}: {kind} ({len(found):,})"]
            for finding in found[:EXAMPLES]:
                where = self._relative(finding.path)
                lines.append("  " + printable(f"{where}: {finding.message}" if where else finding.message))
            if len(found) > EXAMPLES:
                lines.append(f"  ... and {len(found) - EXAMPLES:,} more (--format json has all)")
            parts.append("\n".join(lines))
        if not self.findings:
            parts.append("Nothing was found.")
        return "\n\n".join(parts) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, with a row for each finding."""
        return self.report().to_dict()

    def to_json(self) -> str:
        """``to_dict`` as JSON text, which is what ``fusiform doctor --format json`` prints."""
        return self.report().to_json()

    def __str__(self) -> str:
        return self.to_table()

    def __repr__(self) -> str:
        return f"<Diagnosis {printable(self._title())}>"

    def _repr_html_(self) -> str:
        # Without pictures, which would be read again; ``page`` has them.
        tables = [Report(self._title(), tuple(self._shown_rows()[:TABLE_CLASSES]), schema="fusiform.diagnosis/1")]
        for (severity, kind), found in self.kinds().items():
            count = f"{len(found):,}" if len(found) <= EXAMPLES else f"the first {EXAMPLES} of {len(found):,}"
            rows = ({"where": self._relative(one.path), "message": one.message} for one in found[:EXAMPLES])
            tables.append(Report(f"{severity}: {kind} ({count})", tuple(rows)))
        return "".join(table._repr_html_() for table in tables)

    def page(self) -> Page:
        """The findings as a page with pictures, at most sixty of a kind; the files are read again for that."""
        page = Page(self._title())
        page.add_figures(self.figures())
        page.add_heading("Classes")
        page.add_table(self.rows)
        for (severity, kind), found in self.kinds().items():
            page.add_heading(f"{severity}: {kind} ({len(found):,})")
            self._add_section(page, found)
        if not self.findings:
            page.add_text("Nothing was found.")
        return page

    def _add_section(self, page: Page, found: Sequence[Finding]) -> None:
        told = [finding for finding in found if finding.sample is None][:PAGE_PICTURES]
        if told:
            page.add_table([{"where": self._relative(finding.path), "message": finding.message} for finding in told])
        groups: list[list[tuple[Picture, str, Sequence[Mark]]]] = []
        alone: list[tuple[Picture, str, Sequence[Mark]]] = []
        shown, room = len(told), PAGE_PICTURES
        for finding in found:
            pictures: list[tuple[Picture, str, Sequence[Mark]]] = []
            if finding.sample is not None:
                caption = f"{self._caption(finding.sample)}\n{finding.message}"
                pictures.append((finding.sample, caption, finding.marks))
            pictures += [(other, self._caption(other), ()) for other in finding.others]
            if not pictures or room <= 0:
                continue
            if finding.others:
                groups.append(pictures[:room])
            else:
                alone += pictures
            shown += finding.sample is not None
            room -= len(pictures)
        # A row for each group, so that the copies stand side by side.
        for row in (*groups, alone):
            if row:
                page.add_pictures((_thumbnail(sample, marks), caption) for sample, caption, marks in row)
        if shown < len(found):
            page.add_text(f"... and {len(found) - shown:,} more (--format json has all)")

    def _title(self) -> str:
        counted_ = [counted(self.pictures, "picture")]
        counted_ += [counted(count, name.removesuffix("s")) for name, count in self.counts.items()]
        counted_ += [counted(self.count(severity), severity) for severity in SEVERITIES]
        return f"{self.dataset.source}: {', '.join(counted_)}"

    def _caption(self, sample: Picture) -> str:
        name = self._relative(sample.name)
        return f"{name}\n{self.dataset.classes[sample.label]}" if isinstance(sample, Sample) else name

    def _relative(self, name: str) -> str:
        return relative(self.dataset, name)

    def _shown_rows(self) -> list[Row]:
        """The rows of the classes for people: without their sums where there are splits."""
        sums = () if set(self.dataset.splits) == {"all"} else ("images", "objects")
        return [{name: value for name, value in row.items() if name not in sums} for row in self.rows]


def in_severity(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings by severity, and those of one severity by kind, in the order in which the kinds first came up."""
    findings = list(findings)
    kinds = list(dict.fromkeys(finding.kind for finding in findings))
    return tuple(sorted(findings, key=lambda finding: (SEVERITIES.index(finding.severity), kinds.index(finding.kind))))


def _thumbnail(sample: Picture, marks: Sequence[Mark]) -> Image.Image | None:
    try:
        if isinstance(sample, Sample):
            return sample.read(shorter_side=THUMBNAIL)
        return annotated_thumbnail(sample, marks)
    except ImageError:
        return None


def relative(dataset: DataSet | AnnotatedSet, name: str) -> str:
    """A name below the dataset's source without it."""
    roots = [dataset.source]
    if isinstance(dataset, AnnotatedSet) and dataset.source.is_file():
        # A JSON file names pictures beside it, or beside the folder that it lies in.
        roots += [dataset.source.parent, dataset.source.parent.parent]
    path = Path(name)
    for root in roots:
        if name and path.is_relative_to(root):
            return str(path.relative_to(root))
    return name


def by_split(counts: Mapping[Split, int], noun: str) -> dict[str, Cell]:
    """Counts of a class as columns of its row: of the whole, and of each split there is."""
    found: dict[str, Cell] = {noun: sum(counts.values())}
    return found | {f"{split}_{noun}": counts.get(split) for split in SPLITS}


def in_split(split: Split) -> str:
    """Where something is, for a message: " in train", and nothing for data without splits."""
    return "" if split == "all" else f" in {split}"


def counted(count: int, noun: str) -> str:
    """A number and its noun, with the s that it needs."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
