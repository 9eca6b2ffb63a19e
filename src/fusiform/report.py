"""What a command returns: rows and figures that print as a table and serialise as JSON, JSON lines or CSV."""

from __future__ import annotations

import json
import math
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeGuard

from fusiform.errors import UsageError

Scalar = str | int | float | bool | None
Cell = Scalar | tuple[str, ...] | tuple[int, ...] | tuple[float, ...]
Row = Mapping[str, Cell]
Format = Literal["table", "json", "jsonl", "csv"]

LISTED = 5
"""Texts of a list that people see."""


@dataclass(frozen=True, repr=False)
class Report:
    """A title, named ``figures`` about the whole, and ``rows`` that need not all have the same columns.

    ``tables`` are further rows, by name. ``schema`` names what keys there are, and is one of ``fusiform.schemas``, or
    empty for a report of your own. ``title`` is for people: what it says is in the figures too.

    Values are texts, numbers, booleans, None, or a list of texts or of numbers as a tuple; a float must be finite.
    Anything else raises ValueError, so that every report can be written in every format. They are exact: shares in
    [0, 1], bytes, seconds, milliseconds; in tables people see percent and MB (10^6 bytes), by ``vocabulary.KEYS``.

    Example:
        >>> import fusiform
        >>> report = fusiform.analyze("shufflenet_v2_x0_5")
        >>> print(report.title, len(report.rows), report.to_csv().split(",")[:2])
        shufflenet_v2_x0_5 at 224x224 75 ['layer', 'operator']

    """

    title: str
    rows: tuple[Row, ...] = ()
    figures: Row = field(default_factory=dict)
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    schema: str = ""

    def __post_init__(self) -> None:
        for mapping in (self.figures, *self.rows, *(row for rows in self.tables.values() for row in rows)):
            for name, value in mapping.items():
                for one in value if isinstance(value, tuple) else (value,):
                    if not (one is None or isinstance(one, (str, int, float))):
                        raise ValueError(f"report {self.title!r}: {name} must be a text, a number or None, got {one!r}")
                    if isinstance(one, float) and not math.isfinite(one):
                        raise ValueError(f"report {self.title!r}: {name} is {one}")

    def render(self, form: Format) -> str:
        """The text in one of the formats; see the methods below."""
        return {"table": self.to_table, "json": self.to_json, "jsonl": self.to_jsonl, "csv": self.to_csv}[form]()

    def to_table(self) -> str:
        """For people: the title, the figures one a line, the rows in aligned columns, and the further tables."""
        parts = [printable(self.title)]
        units = bool(self.schema)  # the keys of a report of one's own may mean anything
        if figures := shown_figures(self.figures, units=units):
            parts.append(align([[printable(name), text] for name, text in figures], "<<"))
        if self.rows:
            parts.append(rows_table(self.rows, units=units))
        for name, rows in self.tables.items():
            if rows:
                parts.append(f"{printable(name).replace('_', ' ')}\n\n{rows_table(rows, units=units)}")
        return "\n\n".join(parts) + "\n"

    def to_json(self) -> str:
        """``to_dict`` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def to_jsonl(self) -> str:
        """One object a line for each row; where there are no rows, one line with the figures and the tables."""
        lines: list[dict[str, Any]] = [plain_row(row) for row in self.rows]
        if not lines:
            lines = [{**plain_row(self.figures), **plain_tables(self.tables)}]
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)

    def to_dict(self) -> dict[str, Any]:
        """All of it: ``schema`` (for one of ``fusiform.schemas``), ``title``, ``figures``, ``rows``, and the tables."""
        schema = {"schema": self.schema} if self.schema else {}
        named = {"title": self.title, "figures": plain_row(self.figures), "rows": [plain_row(row) for row in self.rows]}
        return {**schema, **named, **plain_tables(self.tables)}

    def to_pandas(self) -> Any:
        """The rows as a pandas.DataFrame; raises UsageError where pandas is not installed."""
        return to_pandas(self.rows or (self.figures,))

    def to_arrow(self) -> Any:
        """The rows as a pyarrow.Table; raises UsageError where pyarrow is not installed."""
        return to_arrow(self.rows or (self.figures,))

    def __str__(self) -> str:
        return self.to_table()

    def __repr__(self) -> str:
        return f"<Report {printable(self.title)}: {len(self.figures)} figures, {len(self.rows)} rows>"

    def _repr_html_(self) -> str:
        import html

        def cells(values: Iterable[str], kind: str) -> str:
            return "<tr>" + "".join(f"<{kind}>{html.escape(value)}</{kind}>" for value in values) + "</tr>"

        units = bool(self.schema)
        figures = [cells((printable(name), text), "td") for name, text in shown_figures(self.figures, units=units)]
        tables = [f"<table>{''.join(figures)}</table>"] if figures else []
        for rows in (self.rows, *self.tables.values()):
            if columns := shown_columns(rows, units=units):
                head = cells((printable(column.heading) for column in columns), "th")
                body = (cells(row, "td") for row in zip(*(column.texts for column in columns), strict=True))
                tables.append(f"<table>{head}{''.join(body)}</table>")
        return f"<div><b>{html.escape(printable(self.title))}</b></div>{''.join(tables)}"

    def to_csv(self) -> str:
        """RFC 4180: a line of column names, then a line for each row (or the figures where there are no rows).

        Lists are JSON within their cell.
        """
        rows = self.rows or (self.figures,)
        columns = _columns(rows)
        return csv_lines([columns, *([row.get(name) for name in columns] for row in rows)])

    def left_out(self, form: Format) -> tuple[str, ...]:
        """What a format has no place for: ``figures`` beside rows, and the names of the tables with rows."""
        if form not in ("csv", "jsonl") or (form == "jsonl" and not self.rows):
            return ()
        figures = ["figures"] if self.rows and self.figures else []
        return (*figures, *(name for name, rows in self.tables.items() if rows))


def plain_row(row: Row) -> dict[str, Any]:
    """A row of values that JSON knows."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in row.items()}


def plain_tables(tables: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """Tables of such rows."""
    return {name: [plain_row(row) for row in rows] for name, rows in tables.items()}


class Tabular(ABC):
    """What has a report: its rows are tables of other libraries, too."""

    @abstractmethod
    def report(self) -> Report:
        """The figures and rows."""

    def to_pandas(self) -> Any:
        """The rows of ``report`` as a pandas.DataFrame; raises UsageError where pandas is not installed."""
        return self.report().to_pandas()

    def to_arrow(self) -> Any:
        """The rows of ``report`` as a pyarrow.Table; raises UsageError where pyarrow is not installed."""
        return self.report().to_arrow()


def to_pandas(rows: Sequence[Row]) -> Any:
    """Rows as a pandas.DataFrame; UsageError where pandas is not installed."""
    try:
        import pandas
    except ImportError:
        raise UsageError("a DataFrame needs pandas, which is not installed: pip install pandas") from None
    # Whole numbers stay whole where some are missing.
    return pandas.DataFrame(rows, columns=_columns(rows)).convert_dtypes()


def to_arrow(rows: Sequence[Row]) -> Any:
    """Rows as a pyarrow.Table; UsageError where pyarrow is not installed."""
    try:
        import pyarrow
    except ImportError:
        raise UsageError("an Arrow table needs pyarrow, which is not installed: pip install pyarrow") from None
    return pyarrow.table({name: [row.get(name) for row in rows] for name in _columns(rows)})


def csv_lines(records: Iterable[Sequence[Cell]], *, exact: bool = False) -> str:
    """Records as RFC 4180 text, lines ending in CR LF; None is an empty field, booleans as in JSON.

    It is made for terminals and spreadsheets: texts that those would obey are made harmless (``harmless``), unless
    what reads the file again needs them ``exact``. JSON always has them as they are.
    """
    import csv  # only when asked for: each import counts against the time to the first answer
    import io

    text = io.StringIO(newline="")
    writer = csv.writer(text)
    for record in records:
        cells = [_csv_cell(value) for value in record]
        writer.writerow(cells if exact else [harmless(cell) if isinstance(cell, str) else cell for cell in cells])
    return text.getvalue()


def _csv_cell(value: Cell) -> Scalar:
    """Booleans as in JSON, and lists as JSON."""
    if isinstance(value, tuple):
        return json.dumps(value, ensure_ascii=False)
    return str(value).lower() if isinstance(value, bool) else value


def harmless(text: str) -> str:
    """A text that no terminal and no spreadsheet obeys: ``printable``, and after a quote where it might be a formula.

    Line feeds stay, for CSV quotes them.
    Spreadsheets compute what begins with =, +, - or @ (OWASP, CSV injection), unless it is a number or the sign alone.
    """
    shown = "\n".join(map(printable, text.split("\n")))
    if shown[:1] not in ("=", "+", "-", "@") or len(shown) == 1:
        return shown
    try:
        float(shown)
    except ValueError:
        return f"'{shown}"
    return shown


def rows_table(rows: Sequence[Row], *, units: bool = True) -> str:
    """Rows in aligned columns under their names: numbers to the right, everything else to the left.

    With ``units`` values and names are shown by ``vocabulary.KEYS``, for rows whose keys are of it. A column without
    any value is left out.
    """
    columns = shown_columns(rows, units=units)
    lines = zip(*([printable(column.heading), *column.texts] for column in columns), strict=True)
    return align(list(lines), "".join(">" if column.number else "<" for column in columns))


class Column(NamedTuple):
    """A column as people see it: its heading with the unit, its cells, and whether they are numbers."""

    heading: str
    texts: list[str]
    number: bool


def shown_columns(rows: Sequence[Row], *, units: bool = True) -> list[Column]:
    """The columns of rows as people see them; see ``rows_table``."""
    columns = []
    for name in _columns(rows):
        values = [row.get(name) for row in rows]
        numbers = [value for value in values if _is_number(value)]
        if not units and not any(value is not None for value in values):
            columns.append(Column(name, [""] * len(rows), False))
        elif numbers and len(numbers) == sum(value is not None for value in values):
            columns.append(_number_column(name, values, max(map(abs, numbers)), units=units))
        elif any(value is not None for value in values):
            texts = [value_text(name, value, units=units) for value in values]
            columns.append(Column(_label(name) if units else name, texts, False))
    return columns


def shown_figures(figures: Row, *, units: bool = True) -> list[tuple[str, str]]:
    """Names and values as people see them, without those that are None; an interval stands beside its value."""
    shown = []
    for name, value in figures.items():
        end = name.endswith(("_low", "_high")) and name.rpartition("_")[0] in figures
        if units and (value is None or end):
            continue
        text = value_text(name, value, units=units)
        low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
        if units and _is_number(low) and _is_number(high):
            text += f" (95 % interval {100 * low:.1f} to {100 * high:.1f})"
        shown.append((_label(name) if units else name, text))
    return shown


def value_text(name: str, value: Cell, *, units: bool = True) -> str:
    """A value for people, with its unit where it has one: shares in percent, bytes in MB (10^6)."""
    from fusiform.vocabulary import SHOWN

    unit = _unit(name) if units else None
    if units and isinstance(value, str):
        value = SHOWN.get(name, {}).get(value, value)
    if isinstance(value, tuple) and unit == "shape":
        return "x".join(map(str, value))
    if not _is_number(value):
        return cell_text(value)
    if unit == "share":
        return f"{100 * value:.1f} %"
    if unit == "difference":
        return f"{100 * value:.1f} points"
    if unit == "bytes":
        size, letters, decimals = _in_bytes(value)
        return f"{value / size:,.{decimals}f} {letters}"
    if unit in ("seconds", "milliseconds"):
        return f"{value:,.4g} {'s' if unit == 'seconds' else 'ms'}"
    if unit in ("ratio", "rate"):
        return f"{value:.3g}" if unit == "ratio" else f"{value:,.1f}"
    return cell_text(value)


def _number_column(name: str, values: Sequence[Cell], largest: float, *, units: bool) -> Column:
    """A column of numbers, with one unit, which the heading has, and as many decimals everywhere."""
    unit = _unit(name) if units else None
    scale, letters, decimals = 1.0, "", None
    if unit in ("share", "difference"):
        scale, letters, decimals = 100.0, "%" if unit == "share" else "points", 1
    elif unit == "bytes":
        size, letters, decimals = _in_bytes(largest)
        scale = 1 / size
    elif unit in ("seconds", "milliseconds"):
        letters, decimals = "s" if unit == "seconds" else "ms", min(3, max(0, 4 - len(str(int(largest)))))
    heading = f"{_label(name)} {letters}".rstrip() if units else name
    if decimals is None:
        return Column(heading, _same_decimals([value_text(name, value, units=units) for value in values]), True)
    return Column(heading, [f"{scale * v:,.{decimals}f}" if _is_number(v) else "" for v in values], True)


def _in_bytes(largest: float) -> tuple[float, str, int]:
    """The unit for so many bytes, what it is called, and how many decimals are worth showing."""
    for size, letters, decimals in ((1e9, "GB", 2), (1e6, "MB", 2), (1e3, "kB", 1)):
        if largest >= size:
            return size, letters, decimals
    return 1.0, "bytes", 0


def _label(name: str) -> str:
    from fusiform.vocabulary import KEYS, label_of

    label = label_of(name)
    return label if name in KEYS and KEYS[name].label else label.removesuffix(" bytes").removesuffix(" ms")


def _unit(name: str) -> str | None:
    from fusiform.vocabulary import KEYS

    return KEYS[name].unit if name in KEYS else None


def _is_number(value: Cell) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _same_decimals(texts: list[str]) -> list[str]:
    """Numbers with their points under each other: zeros make up for digits that others have; e-notation stays."""
    if any("e" in text for text in texts):
        return texts
    decimals = max(len(text.partition(".")[2]) for text in texts)
    if decimals == 0:
        return texts
    return [text and f"{whole}.{part:0<{decimals}}" for text in texts for whole, _, part in [text.partition(".")]]


def align(lines: Sequence[Sequence[str]], sides: str) -> str:
    """Pad the cells of each column to one width in terminal columns, to the side that ``sides`` says (< or >)."""
    widths = [max(map(display_width, column)) for column in zip(*lines, strict=True)]
    padded = []
    for line in lines:
        cells = []
        for cell, width, side in zip(line, widths, sides, strict=True):
            space = " " * (width - display_width(cell))
            cells.append(space + cell if side == ">" else cell + space)
        padded.append("  ".join(cells).rstrip())
    return "\n".join(padded)


def cell_text(value: Cell) -> str:
    """A value for people: thousands separated, six digits of a float, yes and no, nothing for None, some of a list."""
    if isinstance(value, tuple):
        return ", ".join([*map(cell_text, value[:LISTED]), *(["..."] if len(value) > LISTED else [])])
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.6g}"
    return printable(value)


def printable(text: str) -> str:
    """The text with control characters and undecodable bytes escaped: a file name must not steer the terminal.

    Joiners stay, since Persian and Indic words need them; line breaks and marks that reorder the line do not.
    """
    if text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode("ascii") if _steers(c) else c for c in text)


def _steers(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or (
        unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    )


def display_width(text: str) -> int:
    """How many terminal columns the text takes: wide East Asian characters two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _columns(rows: Iterable[Row]) -> list[str]:
    """Every column's name, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))
