"""What is wrong with a labelled data set: its files, its labels, its splits, and pictures that it holds twice."""

from __future__ import annotations

import os
import re
import threading
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from fusiform.data.checks import PICTURE_ENDINGS, UNREAD_PICTURE_ENDINGS, Fault, Severity, check_picture
from fusiform.data.dataset import DataSet, Sample, Split
from fusiform.data.duplicates import Fingerprint, find_groups, fingerprint
from fusiform.data.image import natural_key
from fusiform.data.labels import bind_classes
from fusiform.data.layouts import read_dataset
from fusiform.data.preprocess import crop_pixels
from fusiform.engines import Engine, open_engine
from fusiform.errors import ImageError, OutputError, UsageError
from fusiform.files import write_file
from fusiform.machine import usable_cores
from fusiform.page import THUMBNAIL, Page
from fusiform.progress import Tracker, silent
from fusiform.report import Cell, Report, csv_lines, printable, rows_table
from fusiform.tasks.classification import softmax

SURE = 0.9
"""The probability from which a model's other answer makes a label suspicious."""
UNLIKELY = 0.05
"""The probability below which the given label has to be for that."""
KNOWN = 0.5
"""A class whose pictures get their own label with less than this on average is not one that the model can judge."""
FEW = 5
"""Pictures; a class with fewer to train on is hardly learned."""
IMBALANCE = 10
"""The largest class to the smallest; beyond it the small ones are lost without a remedy."""
INPUT_SIDE = 224
"""Pixels; the usual input, for a data set that is examined without a model."""
LOOK_AHEAD = 4
"""Pictures a thread that may be examined before their turn."""
EXAMPLES = 10
"""Findings of a kind that the table shows."""
TABLE_CLASSES = 30
"""Classes that the table shows."""
PAGE_PICTURES = 60
"""Pictures of a kind that the page shows."""

_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
# Of the copies of a picture in several splits, the one with the highest number stays.
_KEPT: dict[Split, int] = {"all": 0, "train": 0, "val": 1, "test": 2}


@dataclass(frozen=True)
class Finding:
    """One thing that was found: its ``kind`` in a few words, and a ``message`` that says what it is and what to do.

    ``sample`` is the picture, ``split`` and ``class_name`` where it belongs; each is None for what concerns more than
    one. ``path`` is what to call it: the picture's name, a folder's, or nothing. ``others`` are related pictures.
    """

    kind: str
    severity: Severity
    message: str
    path: str = ""
    sample: Sample | None = None
    split: Split | None = None
    class_name: str | None = None
    others: tuple[Sample, ...] = ()

    def row(self) -> dict[str, Cell]:
        """The finding as a report's row; the names of other pictures are a line each."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "path": self.path,
            "split": self.split,
            "class": self.class_name,
            "message": self.message,
            "others": "\n".join(other.name for other in self.others) or None,
        }


@dataclass(frozen=True)
class Diagnosis:
    """What ``examine`` found in ``dataset``.

    ``findings`` come errors first, then warnings, then notes, those of a kind together. ``clean`` is the data set
    without pictures that cannot be read, with one copy of each picture, and without pictures that have two labels.
    """

    dataset: DataSet
    findings: tuple[Finding, ...]
    clean: DataSet

    @property
    def pictures(self) -> int:
        return sum(map(len, self.dataset.splits.values()))

    def count(self, severity: Severity) -> int:
        """How many findings are of this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def kinds(self) -> dict[tuple[Severity, str], list[Finding]]:
        """The findings by severity and kind, in the order of ``findings``."""
        kinds: dict[tuple[Severity, str], list[Finding]] = {}
        for finding in self.findings:
            kinds.setdefault((finding.severity, finding.kind), []).append(finding)
        return kinds

    def class_rows(self) -> list[dict[str, Cell]]:
        """A row for each class: its name, and its pictures in each split."""
        counts = {split: Counter(s.label for s in samples) for split, samples in self.dataset.splits.items()}
        return [
            {"class": name, **{("pictures" if s == "all" else s): counts[s][label] for s in counts}}
            for label, name in enumerate(self.dataset.classes)
        ]

    def figures(self) -> dict[str, Cell]:
        """How many pictures, classes, and findings of each severity and kind there are."""
        figures: dict[str, Cell] = {"pictures": self.pictures, "classes": len(self.dataset.classes)}
        figures |= {"errors": self.count("error"), "warnings": self.count("warning"), "notes": self.count("note")}
        return figures | {f"{kind} ({severity})": len(found) for (severity, kind), found in self.kinds().items()}

    def report(self) -> Report:
        """Every finding as a row, and the counts as figures."""
        return Report(self._title(), tuple(finding.row() for finding in self.findings), self.figures())

    def to_table(self) -> str:
        """For people: the classes, then the findings by kind, the first ten of each."""
        rows = self.class_rows()
        parts = [printable(self._title()), rows_table(rows[:TABLE_CLASSES])]
        if len(rows) > TABLE_CLASSES:
            parts[-1] += f"\n... and {len(rows) - TABLE_CLASSES:,} more classes"
        for (severity, kind), found in self.kinds().items():
            lines = [f"{severity}: {kind} ({len(found):,})"]
            for finding in found[:EXAMPLES]:
                where = self._shown(finding)
                lines.append("  " + printable(f"{where}: {finding.message}" if where else finding.message))
            if len(found) > EXAMPLES:
                lines.append(f"  ... and {len(found) - EXAMPLES:,} more (--format json has all)")
            parts.append("\n".join(lines))
        if not self.findings:
            parts.append("Nothing was found.")
        return "\n\n".join(parts) + "\n"

    def page(self) -> Page:
        """The findings as a page with pictures, at most sixty of a kind; the files are read again for that."""
        page = Page(self._title())
        page.add_figures(self.figures())
        page.add_heading("Classes")
        page.add_table(self.class_rows())
        for (severity, kind), found in self.kinds().items():
            page.add_heading(f"{severity}: {kind} ({len(found):,})")
            self._add_section(page, found)
        if not self.findings:
            page.add_text("Nothing was found.")
        return page

    def _add_section(self, page: Page, found: Sequence[Finding]) -> None:
        told = [finding for finding in found if finding.sample is None][:PAGE_PICTURES]
        if told:
            page.add_table([{"where": self._shown(finding), "message": finding.message} for finding in told])
        groups: list[list[tuple[Sample, str]]] = []
        alone: list[tuple[Sample, str]] = []
        shown, room = len(told), PAGE_PICTURES
        for finding in found:
            if finding.sample is None or room <= 0:
                continue
            pictures = [(finding.sample, f"{self._caption(finding.sample)}\n{finding.message}")]
            pictures += [(other, self._caption(other)) for other in finding.others]
            if finding.others:
                groups.append(pictures[:room])
            else:
                alone += pictures
            shown += 1
            room -= len(pictures)
        # A row for each group, so that the copies stand side by side.
        for row in (*groups, alone):
            if row:
                page.add_pictures(_thumbnails(row))
        if shown < len(found):
            page.add_text(f"... and {len(found) - shown:,} more (--format json has all)")

    def _title(self) -> str:
        return f"{self.dataset.source}: {_counted(self.pictures, 'picture')}, " + ", ".join(
            _counted(self.count(severity), severity) for severity in _SEVERITIES
        )

    def _caption(self, sample: Sample) -> str:
        return f"{_relative(self.dataset, sample.name)}\n{self.dataset.classes[sample.label]}"

    def _shown(self, finding: Finding) -> str:
        return _relative(self.dataset, finding.path)


def examine(
    source: str | os.PathLike[str] | DataSet,
    *,
    model: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress: Tracker = silent,
) -> Diagnosis:
    """Examine a labelled data set: every file, the labels, the splits, and which pictures it holds more than once.

    ``source`` is what ``read_dataset`` reads, or what it returned. With ``model``, a name or file whose classes bind
    to the data set's, labels are suspicious where the model is sure of another one. That is confident learning
    (Northcutt et al., arXiv 1911.00068, Section 3.1) in a simple form: the model's first answer among all its classes
    is another class of the data set, with a probability among the data set's classes of 0.9 or more and at least the
    mean that pictures of that class get for it, while the given class has less than 0.05. Classes whose own pictures
    get less than 0.5 on average are not judged. A model that was trained on the pictures has learned their wrong
    labels, too, and finds few of them.

    The files are read once, in ``threads`` threads, all cores by default. Raises what ``read_dataset``,
    ``open_engine`` and ``bind_classes`` raise; what is wrong with a picture is a finding.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}")
    dataset = source if isinstance(source, DataSet) else read_dataset(source)
    judge = None if model is None else _Judge(model, dataset.classes)
    entries = [(split, sample) for split, samples in dataset.splits.items() for sample in samples]

    findings: list[Finding] = []
    fingerprints: list[Fingerprint | None] = []
    pixels: list[int] = []
    grey = small = 0
    side = INPUT_SIDE if judge is None else judge.spec.input_size
    with progress(total=len(entries), label="doctor") as bar:
        seen = _in_order(lambda entry: _look(entry[1], judge), entries, threads or usable_cores())
        for number, ((split, sample), look) in enumerate(zip(entries, seen, strict=True)):
            findings += [
                Finding(f.kind, f.severity, f.message, sample.name, sample, split, dataset.classes[sample.label])
                for f in look.faults
            ]
            fingerprints.append(look.fingerprint)
            pixels.append(look.width * look.height)
            grey += look.grey
            small += 0 < min(look.width, look.height) < side
            if judge is not None and look.answer is not None:
                judge.note(number, sample.label, look.answer)
            bar.advance()

    readable = _counted(sum(map(bool, pixels)), "picture")
    if grey:
        text = f"{grey:,} of {readable} hold grey values only: red, green and blue are equal when they are read"
        findings.append(Finding("grey", "note", text))
    if small:
        text = f"{small:,} of {readable} are smaller than the input of {side} pixels: they are enlarged for it"
        findings.append(Finding("small", "note", text))
    groups = find_groups(fingerprints)
    for group in groups:
        findings += _about_group(dataset, group.kind, [entries[i] for i in group.members])
    findings += _about_classes(dataset)
    findings += _about_other_files(dataset)
    findings += [Finding("data set", "note", note) for note in dataset.notes]
    if judge is not None:
        findings += judge.findings(dataset, entries)

    # Kinds of one severity come in the order in which they were first found.
    kinds = list(dict.fromkeys(finding.kind for finding in findings))
    findings.sort(key=lambda finding: (_SEVERITIES.index(finding.severity), kinds.index(finding.kind)))
    clean = _clean(dataset, entries, pixels, [group.members for group in groups])
    return Diagnosis(dataset, tuple(findings), clean)


def check_listable(dataset: DataSet, path: str | os.PathLike[str]) -> None:
    """Raise UsageError if ``write_clean_list`` could not write a list of this data set's pictures to ``path``."""
    if any(sample.size is not None for samples in dataset.splits.values() for sample in samples):
        raise UsageError(
            f"{dataset.source}: its pictures lie in tar files, which a list cannot name: unpack them and examine the "
            "folder"
        )
    if Path(path).suffix.lower() != ".csv":
        raise UsageError(f"{path}: a list of pictures has a name that ends in .csv: call it so")
    if Path(path).resolve() == dataset.source.resolve():
        raise UsageError(f"{path}: is the data set itself, which stays as it is: write the clean list elsewhere")


def write_clean_list(diagnosis: Diagnosis, path: str | os.PathLike[str]) -> None:
    """Write ``diagnosis.clean`` as a list that ``read_dataset`` reads: CSV in UTF-8 with path, label and split.

    Paths are relative to the list's folder, or absolute where the pictures lie on another drive; data without splits
    have no column for them. No other file is touched. Raises UsageError as ``check_listable`` says, and OutputError
    where the list cannot be written.
    """
    check_listable(diagnosis.dataset, path)
    folder = Path(path).parent.resolve()
    clean = diagnosis.clean
    split_column = () if set(clean.splits) == {"all"} else ("split",)
    records: list[Sequence[Cell]] = [("path", "label", *split_column)]
    for split, samples in clean.splits.items():
        for sample in samples:
            record = (_path_from(folder, sample.file), clean.classes[sample.label], split)
            if not (_is_listable(record[1]) and _is_listable(record[0]) and "\\" not in record[0]):
                raise OutputError(
                    f"{path}: cannot be written, because a list cannot hold the name of {sample.name!r}: it is not "
                    "Unicode text, begins or ends with a space, or has a backslash; rename it"
                )
            records.append(record[: 2 + len(split_column)])
    if len(records) == 1:
        raise OutputError(f"{path}: cannot be written, because no picture is left: mend the data set first")
    write_file(path, csv_lines(records).encode())


def _is_listable(cell: str) -> bool:
    """Whether a cell of a list is read back as it was: ``read_dataset`` takes UTF-8 and drops spaces around it."""
    return cell == cell.strip() and not any("\ud800" <= character <= "\udfff" for character in cell)


def _path_from(folder: Path, file: Path) -> str:
    try:
        return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:  # on another drive
        return file.absolute().as_posix()


class _Answer(NamedTuple):
    """A model's answer: the given class's probability, and the first answer (-1 for none of the data set's)."""

    given: float
    top: int
    probability: float


@dataclass(frozen=True)
class _Look:
    """What one look at a picture left; its sides are 0 where it cannot be read."""

    faults: tuple[Fault, ...]
    width: int = 0
    height: int = 0
    grey: bool = False
    fingerprint: Fingerprint | None = None
    answer: _Answer | None = None


def _look(sample: Sample, judge: _Judge | None) -> _Look:
    try:
        data = sample.read_bytes()
    except ImageError as error:
        return _Look((Fault("unreadable", "error", str(error).removeprefix(f"{sample.name}: ")),))
    checked = check_picture(data, name=sample.name)
    if checked.image is None:
        return _Look(checked.faults)
    try:
        known = fingerprint(data, name=sample.name)
    except ImageError as error:  # decoded once more, at a smaller scale, which damage may hinder that hit nothing else
        message = str(error).removeprefix(f"{sample.name}: ")
        return _Look((*checked.faults, Fault("corrupt", "error", message)))
    answer = None if judge is None else judge.answer(checked.image, sample.label)
    return _Look(checked.faults, *checked.image.size, checked.grey, known, answer)


class _Judge:
    """A model that looks at the labels; ``answer`` may be called from several threads."""

    def __init__(self, model: str | os.PathLike[str], classes: Sequence[str]) -> None:
        self.model = model
        self.classes = classes
        # Opened here, so that a wrong model is told before any picture is read.
        engine = open_engine(model)
        self.spec = engine.spec
        self.outputs = np.array(bind_classes(classes, self.spec))
        self._spare = [engine]
        self._mine = threading.local()
        self._given: list[list[float]] = [[] for _ in classes]
        self._doubted: list[tuple[int, int, _Answer]] = []

    def answer(self, image: Image.Image, label: int) -> _Answer:
        """The model's answer for a picture that is labelled with the class of this index."""
        values = self._engine().run(crop_pixels(image, self.spec.preprocess)[None])[self.spec.output][0]
        values = values.astype(np.float64)
        if self.spec.output == "logits":
            probabilities = softmax(values[self.outputs] / self.spec.temperature)
        else:
            probabilities = values[self.outputs] / max(values[self.outputs].sum(), 1e-12)
        top = int(probabilities.argmax())
        is_first = values[self.outputs[top]] == values.max()
        return _Answer(float(probabilities[label]), top if is_first else -1, float(probabilities[top]))

    def note(self, number: int, label: int, answer: _Answer) -> None:
        """Remember what matters of an answer for ``findings``."""
        self._given[label].append(answer.given)
        if answer.top not in (-1, label) and answer.probability >= SURE and answer.given < UNLIKELY:
            self._doubted.append((number, label, answer))

    def findings(self, dataset: DataSet, entries: Sequence[tuple[Split, Sample]]) -> Iterator[Finding]:
        """The labels that the model doubts, and the classes that it cannot judge."""
        means = [float(np.mean(given)) if given else 0.0 for given in self._given]
        for number, label, answer in self._doubted:
            if min(means[label], means[answer.top]) < KNOWN or answer.probability < means[answer.top]:
                continue
            split, sample = entries[number]
            message = (
                f"is labelled {self._named(label)}, but the model says {self._named(answer.top)} "
                f"({answer.probability:.1%}, and {answer.given:.1%} for the label): look at it, and correct the label "
                "(--fix does not)"
            )
            yield Finding("suspicious label", "warning", message, sample.name, sample, split, dataset.classes[label])
        for label, name in enumerate(dataset.classes):
            if self._given[label] and means[label] < KNOWN:
                message = (
                    f"the model gives pictures of {self._named(label)} only {means[label]:.0%} for their class on "
                    "average, so their labels were not judged: it does not know the class, or most labels are wrong"
                )
                yield Finding("class not judged", "note", message, class_name=name)

    def _named(self, label: int) -> str:
        """The data set's name for a class, and the model's where that is another one."""
        name, other = self.classes[label], self.spec.labels[self.outputs[label]]
        return name if name == other else f"{name} ({other})"

    def _engine(self) -> Engine:
        """The engine of this thread: one serves one thread at a time."""
        if not hasattr(self._mine, "engine"):
            try:
                self._mine.engine = self._spare.pop()
            except IndexError:
                self._mine.engine = open_engine(self.model)
        engine: Engine = self._mine.engine
        return engine


Item = TypeVar("Item")
Result = TypeVar("Result")


def _in_order(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """The function's results in the order of the items, computed in threads not far ahead of where they are taken."""
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= LOOK_AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _about_group(
    dataset: DataSet, kind: Literal["exact", "near"], members: list[tuple[Split, Sample]]
) -> Iterator[Finding]:
    """What it means that these are one picture."""
    # First the copy that is better left out, which is the one to name.
    members = sorted(members, key=lambda member: _KEPT[member[0]])
    (split, first), *rest = members
    others = tuple(sample for _, sample in rest)
    own_class = dataset.classes[first.label]
    same = "byte for byte the same as" if kind == "exact" else "nearly the same picture as"

    def about(name: str, severity: Severity, other: tuple[Split, Sample], what: str) -> Finding:
        more = f" (one of {len(rest):,} copies)" if len(rest) > 1 else ""
        message = f"is {same} {_relative(dataset, other[1].name)}{more}{what}"
        return Finding(name, severity, message, first.name, first, split, own_class, others)

    different = next((member for member in rest if member[1].label != first.label), None)
    elsewhere = next((member for member in rest if member[0] != split), None)
    if different is not None:
        what = (
            f", which is labelled {dataset.classes[different[1].label]} and this {own_class}: keep it once with the "
            "right label (--fix leaves all of them out)"
        )
        yield about("contradictory labels", "error", different, what)
    if elsewhere is not None:
        what = (
            f" in {elsewhere[0]}, so that figures on {elsewhere[0]} are too good: remove it from {split} (--fix does)"
        )
        yield about("leak between splits", "error", elsewhere, what)
    if different is None and elsewhere is None:
        yield about(f"{kind} duplicates", "note", rest[0], ": one of them is enough (--fix keeps the largest)")


def _about_classes(dataset: DataSet) -> Iterator[Finding]:
    """Classes that are too small, missing somewhere, or named alike."""
    counts = {split: Counter(sample.label for sample in samples) for split, samples in dataset.splits.items()}
    labels = range(len(dataset.classes))
    learned: Split = "train" if "train" in counts else next(iter(counts))
    present = [label for label in labels if counts[learned][label]]
    if present:
        largest = max(present, key=lambda label: counts[learned][label])
        smallest = min(present, key=lambda label: counts[learned][label])
        if counts[learned][largest] > IMBALANCE * counts[learned][smallest]:
            message = (
                f"{dataset.classes[largest]} has {_counted(counts[learned][largest], 'picture')} and "
                f"{dataset.classes[smallest]} has {counts[learned][smallest]:,}{_in_split(learned)}: collect more of "
                "the small classes, or weigh them up in training"
            )
            yield Finding("imbalance", "warning", message, split=learned)
    for label, name in enumerate(dataset.classes):
        if not any(count[label] for count in counts.values()):
            yield Finding(
                "empty class", "warning", f"{name} has no pictures: collect some, or remove it", class_name=name
            )
            continue
        for split, count in counts.items():
            if count[label] == 0:
                message = f"{name} has no pictures in {split}: put some there, or remove the class"
                yield Finding("class missing", "warning", message, split=split, class_name=name)
        if 0 < counts[learned][label] < FEW:
            message = (
                f"{name} has only {_counted(counts[learned][label], 'picture')}{_in_split(learned)}: collect more, or "
                "join it with another class"
            )
            yield Finding("small class", "warning", message, split=learned, class_name=name)
    alike: dict[str, list[str]] = {}
    for name in dataset.classes:
        alike.setdefault(re.sub(r"[\s_-]+", " ", name.casefold()).strip(), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            shown = ", ".join(map(repr, names))
            message = f"{shown} differ only by case, spaces or dashes: join them if they are one class"
            yield Finding("class names", "warning", message, class_name=names[0])


def _about_other_files(dataset: DataSet) -> Iterator[Finding]:
    """The files in class folders that are not read, by folder and ending."""
    source = dataset.source
    in_folders = {(s.file.parent, s.label) for group in dataset.splits.values() for s in group if s.size is None}
    if not in_folders or not source.is_dir():
        return
    # Beside the class folders lie lists and read-me files, which nobody takes for pictures.
    above = {source, *(p.parent for folder, label in in_folders for p in _class_folders(dataset, folder, label))}
    visited: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(source, followlinks=True):
        folder = Path(parent)
        status = folder.stat()
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted((n for n in folders if not (n.startswith(".") or n == "__MACOSX")), key=natural_key)
        if folder in above:
            continue
        endings = Counter(Path(name).suffix.lower() for name in files if not name.startswith("."))
        for ending, count in sorted(endings.items()):
            if ending in PICTURE_ENDINGS:
                continue
            called = (
                f"{_counted(count, 'file')} ending in {ending}"
                if ending
                else f"{_counted(count, 'file')} without ending"
            )
            if ending in UNREAD_PICTURE_ENDINGS:
                message = f"{called}: pictures of this kind are not read; save them as JPEG or PNG"
                yield Finding("pictures not read", "warning", message, str(folder))
            else:
                message = f"{called}: not read as pictures; nothing to do if they are none"
                yield Finding("other files", "note", message, str(folder))


def _class_folders(dataset: DataSet, folder: Path, label: int) -> Iterator[Path]:
    """The folder of a class, which ``folder`` is or lies in."""
    for path in (folder, *folder.parents):
        if path == dataset.source:
            return
        if unicodedata.normalize("NFC", path.name) == dataset.classes[label]:
            yield path


def _clean(
    dataset: DataSet,
    entries: Sequence[tuple[Split, Sample]],
    pixels: Sequence[int],
    groups: Iterable[Sequence[int]],
) -> DataSet:
    """The data set without unreadable pictures, with one copy of each, none of those with two labels."""
    left_out = {i for i, size in enumerate(pixels) if size == 0}
    for members in _joined(groups):
        if len({entries[i][1].label for i in members}) > 1:
            left_out |= members
        else:
            left_out |= members - {max(members, key=lambda i: (_KEPT[entries[i][0]], pixels[i], -i))}
    kept: dict[Split, list[Sample]] = {split: [] for split in dataset.splits}
    for i, (split, sample) in enumerate(entries):
        if i not in left_out:
            kept[split].append(sample)
    return replace(dataset, splits={split: tuple(samples) for split, samples in kept.items()})


def _joined(groups: Iterable[Sequence[int]]) -> list[set[int]]:
    """Groups that share a member as one."""
    group_of: dict[int, set[int]] = {}
    for group in groups:
        joined = set(group).union(*(group_of[i] for i in group if i in group_of))
        group_of.update(dict.fromkeys(joined, joined))
    return list({id(group): group for group in group_of.values()}.values())


def _thumbnails(samples: Iterable[tuple[Sample, str]]) -> Iterator[tuple[Image.Image | None, str]]:
    return ((_read(sample), caption) for sample, caption in samples)


def _read(sample: Sample) -> Image.Image | None:
    try:
        return sample.read(shorter_side=THUMBNAIL)
    except ImageError:
        return None


def _relative(dataset: DataSet, name: str) -> str:
    """A name below the data set's source without it."""
    path = Path(name)
    return str(path.relative_to(dataset.source)) if name and path.is_relative_to(dataset.source) else name


def _in_split(split: Split) -> str:
    return "" if split == "all" else f" in {split}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
