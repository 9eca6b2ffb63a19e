"""What was found in a dataset, whatever it is labelled with, and how it is told: table, report, page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from PIL import Image

from fusiform.data.annotated import AnnotatedSample, AnnotatedSet
from fusiform.data.dataset import SPLIT_ORDER, DataSet, Sample, Split
from fusiform.data.faults import FileFault, ReadingFault, Severity
from fusiform.data.layouts.summary import headline, task_of
from fusiform.doctor.thumbnails import Mark, annotated_thumbnail
from fusiform.drawing.page import Card, Headline, Number, Page, TableCell
from fusiform.errors import ImageError
from fusiform.report import Cell, Report, Row, Tabular, printable, rows_table

EXAMPLES = 10
"""Findings of a kind that the table shows."""
TABLE_CLASSES = 30
"""Classes that the table shows."""

SPLITS = tuple(split for split in SPLIT_ORDER if split != "all")
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

Kind = Literal[
    FileFault,
    ReadingFault,
    "dataset",
    "grey",
    "small",
    "shortcut",
    "exact duplicates",
    "near duplicates",
    "leak between splits",
    "contradictory labels",
    "contradictory annotations",
    "suspicious label",
    "missed object",
    "shifted box",
    "wrong class",
    "box of nothing",
    "wrong region",
    "judged by a model",
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


PICTURES = 60
"""Pictures of a kind that the page shows."""
NAMED = 60
"""Findings of a kind without pictures that the page lists."""
GROUP = 8
"""Copies of one picture that stand side by side."""
SIDE = 480
"""The longer side of a picture in pixels; there may be hundreds of them."""

_GROUPS: dict[Severity, tuple[str, str]] = {
    "error": ("Errors", "Training is wrong or impossible with these, or figures come out too good."),
    "warning": ("Warnings", "These probably make the model worse."),
    "note": ("Notes", "Good to know; usually nothing is to be done."),
}
_ABOUT_MASKS: frozenset[Kind] = frozenset(
    (
        "orientation",
        "picture of another size",
        "mask of nothing",
        "RGB mask",
        "missing mask",
        "label of no class",
        "contradictory annotations",
        "near duplicates",
        "nothing annotated",
        "wrong region",
    )
)
"""Kinds of findings whose pictures are shown under their masks, which the others have nothing to do with."""
_COUNT = re.compile(r"(?:only )?([\d,]+) (\w+?)s?((?: .*)?)")
"""What a message says that a class has: a number, of what, and where."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found: its ``kind``, and a ``message`` that says what it is and what to do.

    ``sample`` is the picture, ``split`` and ``class_name`` where it belongs; each is None for what concerns more than
    one. ``path`` is what to call it: the picture's name, a folder's, or nothing. ``others`` are related pictures,
    ``marks`` the boxes of ``sample`` that it is about: the labelled one before the one that a model found. Of a label
    that is probably wrong, ``suggested`` is the class to give it, and ``gain`` how many more right labels that is
    expected to make, in (0, 1]; of a region of a mask, the share of its pixels.
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
    suggested: str | None = None
    gain: float | None = None

    def row(self) -> dict[str, Cell]:
        """The finding as a report's row; of several boxes it has the first."""
        edges = self.marks[0].edges if self.marks else (None,) * 4
        found = self.marks[1].edges if self.gain is not None and len(self.marks) > 1 else (None,) * 4
        return {
            "kind": self.kind,
            "severity": self.severity,
            "path": self.path or None,
            "split": self.split,
            "class": self.class_name,
            "message": self.message,
            "suggested": self.suggested,
            "gain": None if self.gain is None else float(f"{self.gain:.6g}"),
            "others": tuple(other.name for other in self.others),
            **dict(zip(("left", "top", "right", "bottom"), edges, strict=True)),
            **dict(zip(("found_left", "found_top", "found_right", "found_bottom"), found, strict=True)),
        }


Data = TypeVar("Data", DataSet, AnnotatedSet)


@dataclass(frozen=True, repr=False)
class Diagnosis(Tabular, Generic[Data]):
    """What was found in ``dataset``.

    ``findings`` come errors first, then warnings, then notes, those of a kind together. ``clean`` is the dataset
    without what training should not see; who examines says what that is. ``rows`` say of each class how much there is
    of it, ``counts`` of the whole what ``figures`` has beside pictures and classes. ``quality`` is that of the masks
    that a model judged, in [0, 1], by the pictures' names.
    """

    dataset: Data
    findings: tuple[Finding, ...]
    clean: Data
    rows: tuple[Mapping[str, Cell], ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)

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

    def doubtful_images(self) -> list[Row]:
        """The images whose boxes or masks a model doubts, those first whose correction is expected to gain most."""
        doubts: dict[tuple[str, Split | None], list[float]] = {}
        for finding in self.findings:
            if finding.gain is not None:
                doubts.setdefault((finding.path, finding.split), []).append(finding.gain)
        order = sorted(doubts.items(), key=lambda item: -sum(item[1]))
        return [
            {
                "path": path,
                "split": split,
                "doubts": len(gains),
                "gains": round(sum(gains), 6),
                "quality": None if path not in self.quality else round(self.quality[path], 6),
            }
            for (path, split), gains in order
        ]

    def report(self) -> Report:
        """Every finding as a row, the counts as figures, and tables of the kinds of findings and of the classes."""
        kinds = [
            {"kind": kind, "severity": severity, "findings": len(found)}
            for (severity, kind), found in self.kinds().items()
        ]
        rows = tuple(finding.row() for finding in self.findings)
        tables: dict[str, Sequence[Row]] = {"kinds": kinds, "by_class": self.rows}
        if isinstance(self.dataset, AnnotatedSet):
            tables["by_image"] = self.doubtful_images()
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
        return _page(self)

    def _title(self) -> str:
        counted_ = [counted(self.pictures, "picture")]
        counted_ += [counted(count, name.removesuffix("s")) for name, count in self.counts.items()]
        counted_ += [counted(self.count(severity), severity) for severity in SEVERITIES]
        return f"{self.dataset.source}: {', '.join(counted_)}"

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


# --- the page ---


def _page(diagnosis: Diagnosis[Any]) -> Page:
    """The findings as a page with pictures, at most sixty of a kind; the files are read again for that."""
    d = diagnosis
    source = Path(d.dataset.source)
    page = Page(source.name or str(source), kind="Dataset check", about=(f"Data: {source}", headline(d.dataset)))
    others = {"note": d.count("note"), "image": d.pictures, "object": d.counts.get("objects", 0)}
    classes = len(d.dataset.classes)
    page.add_headlines(
        [_number(d.count("error"), "error", mark="error"), _number(d.count("warning"), "warning", mark="warning")],
        [
            *(_number(count, noun) for noun, count in others.items() if count or noun != "object"),
            Headline(f"{classes:,}", "class" if classes == 1 else "classes"),
        ],
    )
    page.add_lead(_lead(d))
    for severity in SEVERITIES:
        _add_severity(page, d, severity)
    if isinstance(d.dataset, AnnotatedSet) and (doubtful := d.doubtful_images()):
        page.add_heading("Images to look at first", count=len(doubtful))
        page.add_text("Those first whose correction is expected to make most labels right.")
        page.add_table([_image_row(d, row) for row in doubtful], first=20)
    if d.rows:
        page.add_heading("Classes", count=len(d.rows))
        page.add_table([_class_row(row) for row in d.rows], first=20)
    return page


def _number(count: int, noun: str, *, mark: Literal["", "error", "warning"] = "") -> Headline:
    """A count and its noun; the colour of ``mark`` only where there is any."""
    return Headline(f"{count:,}", noun if count == 1 else f"{noun}s", mark=mark if count else "")


def _lead(d: Diagnosis[Any]) -> str:
    if not d.findings:
        return "Nothing was found."
    kinds = [(severity, kind, len(found)) for (severity, kind), found in d.kinds().items() if severity != "note"]
    if not kinds:
        return "No errors and no warnings: the notes need nothing done. The data can be trained on."
    named = ", ".join(f"{kind} ({count:,})" for _, kind, count in kinds[:4])
    more = f" and {len(kinds) - 4} more kinds" if len(kinds) > 4 else ""
    return f"To look at: {named}{more}. Nothing on disk is changed; --fix writes what is left without the faults."


def _image_row(d: Diagnosis[Any], row: Row) -> dict[str, TableCell]:
    """An image's doubts for people."""
    quality = row["quality"]
    shown: dict[str, TableCell] = {"image": relative(d.dataset, str(row["path"])), "split": row["split"]}
    shown |= {"doubts": row["doubts"], "expected gain": Number(f"{row['gains']:.2f}", float(str(row["gains"])))}
    return shown | ({} if quality is None else {"mask quality": Number(f"{quality:.2f}", float(str(quality)))})


def _class_row(row: Mapping[str, Cell]) -> dict[str, TableCell]:
    """A class's numbers for people; shares are in percent, with two decimals, since many are small."""
    shown: dict[str, TableCell] = {}
    for name, value in row.items():
        if name == "pixel_share" and isinstance(value, float):
            shown["of all pixels, %"] = Number(f"{100 * value:.2f}", value)
        else:
            shown[name.replace("_", " ")] = Number(f"{value:.2f}", value) if isinstance(value, float) else value
    return shown


def _add_severity(page: Page, d: Diagnosis[Any], severity: Severity) -> None:
    """The findings of a severity: a heading for all of them, and one below it for each kind."""
    kinds = [(kind, found) for (of, kind), found in d.kinds().items() if of == severity]
    if not kinds:
        return
    title, about = _GROUPS[severity]
    page.add_heading(title, kind="group", count=sum(len(found) for _, found in kinds))
    page.add_text(about)
    for kind, found in kinds:
        wide = severity == "note" or _has_pictures(found)
        page.add_heading(kind, wide=wide, below=True, kind=severity, folded=severity == "note", count=len(found))
        _add_kind(page, d, kind, found)


def _has_pictures(found: Sequence[Finding]) -> bool:
    return any(finding.sample is not None or finding.others for finding in found)


def _add_kind(page: Page, d: Diagnosis[Any], kind: Kind, found: Sequence[Finding]) -> None:
    """What is the same of all once, then those without pictures as a list, then the others as cards."""
    messages = {_message(finding) for finding in found}
    common = messages.pop() if len(messages) == 1 and len(found) > 1 else ""
    if common:
        page.add_text(f"Each {common}" if common.startswith(("is ", "has ")) else common)
    plain = [finding for finding in found if finding.sample is None]
    if plain:
        _add_plain(page, d, plain, common)
    masked = kind in _ABOUT_MASKS
    shown, room = 0, PICTURES
    groups: list[Card] = []
    alone: list[Card] = []
    for finding in found:
        if room <= 0:
            break
        members: list[tuple[Picture, Sequence[Mark]]] = [(other, ()) for other in finding.others]
        if finding.sample is not None:
            members.insert(0, (finding.sample, finding.marks))
            shown += 1
        if not members:
            continue
        said = "" if common or finding.sample is None else _message(finding)
        cards = list(_cards(d, members[:room], said, masked=masked))
        room -= sum(len(card.pictures) for card in cards)
        (groups if any(len(card.pictures) > 1 for card in cards) else alone).extend(cards)
    for cards in (groups, alone):
        if any(image is not None for card in cards for image, _ in card.pictures):
            page.add_cards(cards, side=SIDE)
        elif cards:  # files that no picture can be made of
            page.add_list((card.said, ", ".join((card.name, *card.lines))) for card in cards)
    if (left := sum(finding.sample is not None for finding in found) - shown) > 0:
        page.add_text(f"... and {left:,} more (--format json has all)")


def _add_plain(page: Page, d: Diagnosis[Any], found: Sequence[Finding], common: str) -> None:
    """Findings without a picture: those of classes that ask for the same are one line, and the classes with theirs."""
    if common and not any(finding.path for finding in found):
        return  # it is said already
    grouped = _of_classes(found)
    if grouped is not None:
        advice, chips = grouped
        page.add_text(f"{len(chips):,} classes, {advice}")
        page.add_list(chips, kind="chips")
        return
    items = [("" if common else _message(finding), relative(d.dataset, finding.path)) for finding in found[:NAMED]]
    page.add_list(items, kind="plain")
    if len(found) > NAMED:
        page.add_text(f"... and {len(found) - NAMED:,} more (--format json has all)")


def _of_classes(found: Sequence[Finding]) -> tuple[str, list[tuple[str, str]]] | None:
    """What to do about several classes, and each with what it has; None where they do not ask for the same."""
    if len(found) < 2:
        return None
    named, advice = [], set()
    for finding in found:
        start = f"{finding.class_name} has "
        if finding.class_name is None or finding.path or not finding.message.startswith(start):
            return None
        fact, separator, what = finding.message.removeprefix(start).partition(": ")
        advice.add(f": {what}" if separator else "")
        named.append((finding.class_name, fact))
    if len(advice) > 1:
        return None
    (told,) = advice
    facts = {fact for _, fact in named}
    if len(facts) == 1:  # the same of all: once is enough
        return f"{facts.pop()}{told}", [(name, "") for name, _ in named]
    counts = [_COUNT.fullmatch(fact) for fact in facts]
    nouns = {f"{count[2]}s{count[3]}" for count in counts if count is not None}
    if None in counts or len(nouns) > 1:
        return f"the numbers are beside them{told}", named
    numbers = sorted((int(fact.removeprefix("only ").split()[0].replace(",", "")), name) for name, fact in named)
    return f"the numbers are their {nouns.pop()}{told}", [(name, f"{number:,}") for number, name in numbers]


def _cards(
    d: Diagnosis[Any], members: Sequence[tuple[Picture, Sequence[Mark]]], said: str, *, masked: bool
) -> Iterator[Card]:
    """One card for a few copies side by side; for many pictures that one finding is about, a card each."""
    if len(members) > GROUP:
        for k, (sample, marks) in enumerate(members):
            yield Card([(_thumbnail(sample, marks, masked), "")], said if k == 0 else "", name=_name(d, sample))
        return
    if len(members) == 1:
        ((sample, marks),) = members
        yield Card([(_thumbnail(sample, marks, masked), "")], said, _class_of(d, sample), _name(d, sample))
        return
    pictures = [(_thumbnail(sample, marks, masked), " ".join(_class_of(d, sample))) for sample, marks in members]
    yield Card(pictures, said, [_name(d, sample) for sample, _ in members])


def _name(d: Diagnosis[Any], sample: Picture) -> str:
    return relative(d.dataset, sample.name)


def _class_of(d: Diagnosis[Any], sample: Picture) -> list[str]:
    return [d.dataset.classes[sample.label]] if isinstance(sample, Sample) else []


def _message(finding: Finding) -> str:
    """The message without the name of the file that it is about, which stands below the picture."""
    sample = finding.sample
    mask = getattr(sample, "mask_file", None)
    for file in (mask, None if sample is None else sample.file):
        if file is not None and finding.message.startswith(f"{file.name}: "):
            return finding.message.removeprefix(f"{file.name}: ")
    return finding.message


def _thumbnail(sample: Picture, marks: Sequence[Mark], masked: bool) -> Image.Image | None:
    try:
        if isinstance(sample, Sample):
            return sample.read(shorter_side=SIDE)
        return annotated_thumbnail(sample, marks, side=SIDE, masked=masked)
    except ImageError:
        return None
