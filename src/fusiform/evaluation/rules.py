"""What a user asks of a decision: thresholds and precisions of classes by their names, and costs in a CSV file."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path

from fusiform.calibration.decision import Rule
from fusiform.certainty import MAX_PRICED
from fusiform.data.names import listed
from fusiform.data.open import bind_classes
from fusiform.errors import InputError, UsageError
from fusiform.report import printable
from fusiform.spec import ModelSpec

UNSURE = "unsure"
"""The column of what it costs to give no class."""
MOST_BYTES = 10_000_000
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*", re.ASCII)


def read_rule(
    spec: ModelSpec,
    *,
    precision: Mapping[str, float] | None,
    threshold: Mapping[str, float] | None,
    costs: str | os.PathLike[str] | None,
) -> Rule | None:
    """The rule that is asked for, None where none is.

    Raises UsageError for a class that the model does not have, a share that is none, and what ``read_costs`` raises.
    """
    precision, threshold = dict(precision or {}), dict(threshold or {})
    if costs is not None and (precision or threshold):
        raise UsageError("--costs decides by itself: leave out --precision and --threshold, or --costs")
    for word, shares in (("precision", precision), ("threshold", threshold)):
        for name, share in shares.items():
            if not 0 < share < 1:
                raise UsageError(f"{word} of {printable(name)} must be between 0 and 1, got {share:g}")
    if costs is None and not (precision or threshold):
        return None
    if costs is not None:
        return Rule(spec.labels, {}, {}, read_costs(costs, spec))
    wanted = dict(zip(_bound(precision, spec, "--precision"), precision.values(), strict=True))
    given = dict(zip(_bound(threshold, spec, "--threshold"), threshold.values(), strict=True))
    if both := sorted(set(wanted) & set(given)):
        raise UsageError(f"{printable(spec.labels[both[0]])} has --precision and --threshold: give one of them")
    return Rule(spec.labels, given, wanted)


def _bound(names: Mapping[str, float], spec: ModelSpec, where: str) -> tuple[int, ...]:
    try:
        return bind_classes(tuple(names), spec)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def read_costs(path: str | os.PathLike[str], spec: ModelSpec) -> tuple[tuple[float, ...], ...]:
    """A cost matrix, as ``certainty.Decision`` has it, from a CSV file: true classes are rows, answers columns.

    The first line names the answers, the first column the classes, in any order; what stands in the corner is free. A
    column "unsure" is the cost of giving no class, unless the model has a class of that name. Raises UsageError, which
    names the line, for a class that is missing, unknown or there twice, and a cost that is no number, negative, or
    below that of the right answer.
    """
    if spec.num_classes > MAX_PRICED:
        raise InputError(f"{path}: costs are for up to {MAX_PRICED} classes, and {spec.name} has {spec.num_classes:,}")
    lines = _lines(path)
    answers, rows = [name.strip() for name in lines[0][1][1:]], lines[1:]
    unsure = [k for k, name in enumerate(answers) if name.casefold() == UNSURE]
    if any(label.strip().casefold() == UNSURE for label in spec.labels):
        unsure = []
    if len(unsure) > 1:
        raise InputError(f"{path}: line 1 has two columns {UNSURE}: leave one out")
    columns = [k for k in range(len(answers)) if k not in unsure]
    order = _all_classes(path, [answers[k] for k in columns], spec, "column")
    places = _all_classes(path, [row[0].strip() for _, row in rows], spec, "row")
    found: list[tuple[float, ...]] = [()] * spec.num_classes
    for place, (number, row) in zip(places, rows, strict=True):
        if len(row) != len(answers) + 1:
            raise InputError(f"{path}: line {number} has {len(row)} cells, and line 1 has {len(answers) + 1}")
        costs = [_cost(path, number, text) for text in row[1:]]
        ordered = [0.0] * spec.num_classes
        for output, column in zip(order, columns, strict=True):
            ordered[output] = costs[column]
        found[place] = (*ordered, *(costs[k] for k in unsure))
        if ordered[place] > min(found[place]):
            raise InputError(
                f"{path}: line {number}: the right answer costs {ordered[place]:g} and another "
                f"{min(found[place]):g}: rows are true classes, and the right answer must cost no more than any other"
            )
    return tuple(found)


def _lines(path: str | os.PathLike[str]) -> list[tuple[int, list[str]]]:
    """The lines that are not empty, by their numbers: two or more, of two cells or more."""
    try:
        if Path(path).stat().st_size > MOST_BYTES:
            raise InputError(f"{path}: is no cost matrix: it has more than {MOST_BYTES:,} bytes")
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: the costs are not UTF-8 text ({error}): save the file as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read the costs: {error.strerror or error}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        lines = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num} is not CSV ({error})") from None
    if len(lines) < 2 or len(lines[0][1]) < 2:
        other = next((name for mark, name in ((";", "semicolons"), ("\t", "tabs")) if mark in text), None)
        instead = f"its cells seem to be separated by {other}: take commas" if other else "see the guide for one"
        raise InputError(
            f"{path}: is no cost matrix, which has a first line with the answers and a line for each class: {instead}"
        )
    return lines


def _all_classes(path: str | os.PathLike[str], names: list[str], spec: ModelSpec, what: str) -> tuple[int, ...]:
    """The model's outputs of rows or columns, which must be all of its classes."""
    if "" in names:
        raise InputError(f"{path}: a {what} has no name")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: two {what}s are called {printable(twice[0])}: leave one out")
    try:
        found = bind_classes(names, spec)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    missing = [label for index, label in enumerate(spec.labels) if index not in found]
    if missing:
        raise InputError(f"{path}: has no {what} for {listed(missing)}: add what it costs")
    return found


def _cost(path: str | os.PathLike[str], number: int, text: str) -> float:
    if not text.strip():
        raise InputError(f"{path}: line {number} has an empty cell: write what the answer costs, 0 or more")
    cost = float(text) if _NUMBER.fullmatch(text) else float("nan")
    if not 0 <= cost <= 1e30:
        raise InputError(
            f"{path}: line {number}: {printable(text.strip())[:40]!r} is no cost: write a number, 0 or more"
        )
    return cost
