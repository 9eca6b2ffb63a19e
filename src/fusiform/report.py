"""What a command returns: rows and figures that print as a table and serialise as JSON, JSON lines or CSV."""

from __future__ import annotations

import json
import math
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fusiform.errors import UsageError

Cell = str | int | float | bool | None
Format = Literal["table", "json", "jsonl", "csv"]


@dataclass(frozen=True, repr=False)
class Report:
    """A title, named ``figures`` about the whole, and ``rows`` that need not all have the same columns.

    Values are texts, numbers, booleans or None; a float must be finite. Anything else raises ValueError, so that
    every report can be written in every format.

    Example:
        >>> import fusiform
        >>> report = fusiform.analyze("shufflenet_v2_x0_5")
        >>> print(report.title, len(report.rows), report.to_csv().split(",")[:2])
        shufflenet_v2_x0_5 at 224x224 75 ['name', 'operator']

    """

    title: str
    rows: tuple[Mapping[str, Cell], ...] = ()
    figures: Mapping[str, Cell] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for mapping in (self.figures, *self.rows):
            for name, value in mapping.items():
                if not (value is None or isinstance(value, (str, int, float))):
                    raise ValueError(f"report {self.title!r}: {name} must be a text, a number or None, got {value!r}")
                if isinstance(value, float) and not math.isfinite(value):
                    raise ValueError(f"report {self.title!r}: {name} is {value}")

    def render(self, form: Format) -> str:
        """The text in one of the formats; see the methods below."""
        return {"table": self.to_table, "json": self.to_json, "jsonl": self.to_jsonl, "csv": self.to_csv}[form]()

    def to_table(self) -> str:
        """For people: the title, the figures one a line, the rows in aligned columns."""
        parts = [printable(self.title)]
        if self.figures:
            parts.append(align([[printable(name), cell_text(value)] for name, value in self.figures.items()], "<<"))
        if self.rows:
            parts.append(rows_table(self.rows))
        return "\n\n".join(parts) + "\n"

    def to_json(self) -> str:
        """One object with ``title``, ``figures`` and ``rows``."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def to_jsonl(self) -> str:
        """One object a line for each row, or one line with the figures where there are no rows."""
        return "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in self.rows or (self.figures,))

    def to_dict(self) -> dict[str, Any]:
        """What ``to_json`` writes: ``title``, ``figures`` and ``rows``."""
        return {"title": self.title, "figures": dict(self.figures), "rows": [dict(row) for row in self.rows]}

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

        figures = [cells([printable(name), cell_text(value)], "td") for name, value in self.figures.items()]
        names = _columns(self.rows)
        rows = [cells([cell_text(row.get(name)) for name in names], "td") for row in self.rows]
        head = [cells(map(printable, names), "th")] if rows else []
        tables = [f"<table>{''.join(lines)}</table>" for lines in (figures, [*head, *rows]) if lines]
        return f"<div><b>{html.escape(printable(self.title))}</b></div>{''.join(tables)}"

    def to_csv(self) -> str:
        """RFC 4180: a line of column names, then a line for each row (or the figures where there are no rows)."""
        rows = self.rows or (self.figures,)
        columns = _columns(rows)
        return csv_lines([columns, *([row.get(name) for name in columns] for row in rows)])


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


def to_pandas(rows: Sequence[Mapping[str, Cell]]) -> Any:
    """Rows as a pandas.DataFrame; UsageError where pandas is not installed."""
    try:
        import pandas
    except ImportError:
        raise UsageError("a DataFrame needs pandas, which is not installed: pip install pandas") from None
    # Whole numbers stay whole where some are missing.
    return pandas.DataFrame(rows, columns=_columns(rows)).convert_dtypes()


def to_arrow(rows: Sequence[Mapping[str, Cell]]) -> Any:
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
        cells = [str(value).lower() if isinstance(value, bool) else value for value in record]
        writer.writerow(cells if exact else [harmless(cell) if isinstance(cell, str) else cell for cell in cells])
    return text.getvalue()


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


def rows_table(rows: Sequence[Mapping[str, Cell]]) -> str:
    """Rows in aligned columns under their names: numbers to the right, everything else to the left."""
    names = _columns(rows)
    sides = ""
    columns = []
    for name in names:
        values = [row.get(name) for row in rows]
        texts = [cell_text(value) for value in values]
        present = [value for value in values if value is not None]
        if present and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in present):
            sides += ">"
            texts = _same_decimals(texts)
        else:
            sides += "<"
        columns.append([printable(name), *texts])
    return align(list(zip(*columns, strict=True)), sides)


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
    """A value for people: thousands separated, six digits of a float, yes and no, nothing for None."""
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


def _columns(rows: Iterable[Mapping[str, Cell]]) -> list[str]:
    """Every column's name, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))
