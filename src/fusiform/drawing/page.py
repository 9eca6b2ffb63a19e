"""A page to look at: one HTML file that needs no other, with tables, drawings and pictures inside.

It reads without scripts and loads nothing: a policy in it (CSP) forbids everything but its own style, its own script,
which sorts tables and opens pictures large, and the pictures inside. No template engine is needed for it, so that the
light install writes pages, too; ``markup`` does the escaping.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from fusiform.drawing.markup import Markup, element, joined, prose
from fusiform.files import write_file
from fusiform.report import Cell, cell_text

if TYPE_CHECKING:
    from PIL import Image

THUMBNAIL = 160
"""The longer side, in pixels, of what is drawn for a small place."""
LARGE = 640
"""The longer side, in pixels, of a picture within the page: it is shown small and opens large."""
SHOWN_CARDS = 12
"""Cards of one kind that are seen at once; the others are folded away."""


class Number(NamedTuple):
    """A number in a table as people read it, and the value that it is sorted by."""

    text: str
    value: float


TableCell = Cell | Number


class Headline(NamedTuple):
    """A large figure: ``value`` and its ``unit``, what it is, and a note such as its interval.

    ``bar`` is (low, value, high) in [0, 1], drawn as an interval on a line from 0 to 1.
    """

    value: str
    name: str
    unit: str = ""
    note: str = ""
    bar: tuple[float, float, float] | None = None
    mark: Literal["", "error", "warning"] = ""


@dataclass(frozen=True)
class Card:
    """One thing and its ``pictures``, each with what it shows: "" for the photograph alone, None for no picture.

    ``said`` is the first line below them, ``lines`` the others, ``name`` the file's; ``mark`` says whether an answer is
    right or wrong.
    """

    pictures: Sequence[tuple[Image.Image | None, str]]
    said: str = ""
    lines: Sequence[str] = ()
    name: str = ""
    mark: Literal["", "right", "wrong"] = ""


@dataclass
class _Section:
    title: str = ""
    parts: list[Markup] = field(default_factory=list)
    wide: bool = True
    folded: bool = False
    below: bool = False
    kind: str = ""
    count: int | None = None


class Page:
    """Figures, then sections of text, tables, drawings and pictures, in the order they were added.

    Text is escaped wherever it comes from, so that a file name cannot put markup into the page. ``kind`` stands above
    the title, ``about`` below it, a line each.
    """

    def __init__(self, title: str, *, kind: str = "", about: Sequence[str] = ()) -> None:
        self.title = title
        self.kind = kind
        self.about = tuple(about)
        self._sections = [_Section()]
        self._pictures = 0

    def add_heading(
        self,
        text: str,
        *,
        wide: bool = True,
        folded: bool = False,
        below: bool = False,
        kind: Literal["", "group", "error", "warning", "note"] = "",
        count: int | None = None,
    ) -> None:
        """A heading that starts a section, which takes the whole width unless it is not ``wide``.

        A ``folded`` section is closed until somebody opens it; one ``below`` belongs to the last that is not.
        """
        self._sections.append(_Section(text, wide=wide, folded=folded, below=below, kind=kind, count=count))

    def add_headlines(self, first: Sequence[Headline], others: Sequence[Headline] = ()) -> None:
        """The figures that decide, large, with others beside them."""
        hero = [element("div", {"class": f"hero {each.mark}".strip()}, _figure(each)) for each in first]
        small = [element("div", {}, _figure(each)) for each in others]
        if small:
            hero.append(element("div", {"class": f"small-figures in-{3 if len(small) in (3, 5, 6) else 4}"}, *small))
        self._add(element("div", {"class": "figures"}, *hero))

    def add_lead(self, text: str) -> None:
        """A sentence or two that say it all."""
        self._add(element("p", {"class": "lead"}, prose(text)))

    def add_text(self, text: str) -> None:
        """A paragraph of plain text."""
        self._add(element("p", {"class": "text"}, prose(text)))

    def add_notes(self, notes: Iterable[str]) -> None:
        """Short remarks, a paragraph each."""
        for note in notes:
            self._add(element("p", {"class": "notes"}, prose(note)))

    def add_figures(self, figures: Mapping[str, Cell]) -> None:
        """Names and values, a line each."""
        lines = (
            element("tr", {}, element("th", {"scope": "row"}, name), element("td", {}, cell_text(value)))
            for name, value in figures.items()
        )
        self._add(_scrolling(element("table", {}, element("tbody", {}, *lines))))

    def add_terms(self, terms: Iterable[tuple[str, str, str]]) -> None:
        """Terms, each with its value and what it means."""
        parts = [
            element("div", {}, element("dt", {}, term), element("dd", {}, value), element("dd", {}, prose(meaning)))
            for term, value, meaning in terms
        ]
        self._add(element("dl", {"class": "terms"}, *parts))

    def add_table(
        self, rows: Sequence[Mapping[str, TableCell]], *, caption: str = "", first: Literal[10, 20] | None = None
    ) -> None:
        """Rows under the names of their columns; the first column names them, and numbers stand to the right.

        A column without any value is left out. With ``first`` the rows after so many are folded away. The table can be
        sorted by every column.
        """
        names = [
            name
            for name in dict.fromkeys(name for row in rows for name in row)
            if any(row.get(name) not in (None, "") for row in rows)
        ]
        numeric = {name for name in names if all(_value(row.get(name)) is not None for row in rows if name in row)}
        head = [
            element("th", {"scope": "col", "class": "number" if name in numeric else False}, name) for name in names
        ]
        body = [
            element("tr", {}, *(_cell(row.get(name), head=name == names[0], number=name in numeric) for name in names))
            for row in rows
        ]
        title = caption or self._sections[-1].title
        shown = element("caption", {"class": False if caption else "hidden"}, title)
        table = _scrolling(
            element(
                "table",
                {"class": "sortable" if len(rows) > 1 else False},
                shown,
                element("thead", {}, element("tr", {}, *head)),
                element("tbody", {}, *body),
            )
        )
        if first is not None and len(rows) > first:
            box = element("input", {"type": "checkbox"})
            more = element("label", {"class": "more"}, box, f"Show all {len(rows):,}")
            table = element("div", {"class": f"folded-{first}"}, table, more)
        self._add(table)

    def add_drawing_with_table(self, svg: str, rows: Sequence[Mapping[str, TableCell]], *, caption: str) -> None:
        """A drawing beside the numbers that it shows, for those who cannot see it or want to know them."""
        self.add_svg(svg)
        self.add_table(rows, caption=caption)
        drawing, table = self._sections[-1].parts[-2:]
        self._sections[-1].parts[-2:] = [element("div", {"class": "two"}, drawing, table)]

    def add_svg(self, svg: str, *, keeps_size: bool = False) -> None:
        """A drawing, as an ``<svg>`` element whose texts the caller has escaped; ``currentColor`` is the text's.

        It becomes smaller with the page, or one that ``keeps_size`` scrolls in its own box.
        """
        self._add(element("div", {"class": "drawing keeps-size" if keeps_size else "drawing"}, Markup(svg)))

    def add_legend(self, entries: Iterable[tuple[str, tuple[int, int, int]]]) -> None:
        """Names with the colours (red, green, blue) that stand for them."""
        items = [
            element(
                "li",
                {},
                Markup(
                    '<svg width="12" height="12" viewBox="0 0 12 12" aria-hidden="true"><rect width="12" height="12" '
                    f'rx="2" fill="rgb({color[0]},{color[1]},{color[2]})"/></svg> '
                ),
                name,
            )
            for name, color in entries
        ]
        self._add(element("ul", {"class": "chips"}, *items))

    def add_list(
        self, items: Iterable[str | tuple[str, str]], *, kind: Literal["advice", "chips", "plain"] = "plain"
    ) -> None:
        """Texts as a list; of a pair the second, smaller part stands behind the first, or in a plain list above it."""
        lines = []
        for item in items:
            text, more = (item, "") if isinstance(item, str) else item
            small = element("span", {"class": "where"}, more) if more else Markup("")
            parts = (small, prose(text)) if kind == "plain" else (prose(text), Markup(" ") if more else "", small)
            lines.append(element("li", {}, *parts))
        self._add(element("ul", {"class": kind}, *lines))

    def add_cards(self, cards: Iterable[Card], *, side: int = LARGE, shown: int = SHOWN_CARDS) -> None:
        """Cards of pictures, at most ``side`` pixels long, side by side; those after ``shown`` are folded away."""
        made, most = [], 1
        for card in cards:
            most = max(most, min(len(card.pictures), 3))
            made.append(self._card(card, side))
        kind = f"cards of-{most}"
        self._add(element("div", {"class": kind}, *made[:shown]))
        if rest := made[shown:]:
            summary = element("summary", {}, f"{len(rest):,} more")
            self._add(element("details", {}, summary, element("div", {"class": kind}, *rest)))

    def _card(self, card: Card, side: int) -> Markup:
        shots = []
        for image, what in card.pictures:
            label = element("span", {"class": "what"}, what) if what else Markup("")
            if image is None:
                none = element("span", {"class": "none"}, "cannot be shown")
                shots.append(element("span", {"class": "shot"}, none, label))
                continue
            self._pictures += 1
            place = f"picture-{self._pictures}"
            alt = ", ".join(part for part in (what, card.said, card.name) if part)
            shown = element("img", {"alt": alt, "src": _data_address(image, side)})
            shots.append(element("a", {"class": "shot", "id": place, "href": f"#{place}"}, shown, label))
        lines = [element("p", {"class": "said"}, prose(card.said))] if card.said else []
        lines += [element("p", {}, prose(line)) for line in card.lines]
        lines += [element("p", {"class": "name"}, card.name)] if card.name else []
        kind = f"card {card.mark}".strip()
        below = element("figcaption", {}, *lines)
        return element("figure", {"class": kind}, element("div", {"class": "shots"}, *shots), below)

    def render(self) -> str:
        """The whole page as HTML."""
        title = joined([self.title])
        intro, *sections = self._sections
        heading = [
            *([element("p", {"class": "kind"}, self.kind)] if self.kind else []),
            element("h1", {}, self.title),
            *(element("p", {"class": "about"}, line) for line in self.about),
            *intro.parts,
        ]
        links = [
            element("a", {"href": f"#s{k}", "class": "below" if section.below else False}, _name(section))
            for k, section in enumerate(sections, 1)
        ]
        contents = element("ol", {}, *(element("li", {}, link) for link in links))
        beside = element("div", {}, element("p", {}, "Contents"), contents)
        beside = element("nav", {"class": "contents", "aria-label": "Contents"}, beside)
        folded = element("details", {"class": "contents"}, element("summary", {}, "Contents"), contents)
        main = element("main", {"id": "main"}, *(_section(k, section) for k, section in enumerate(sections, 1)))
        framed = element(
            "div",
            {"class": "frame"},
            element("header", {}, *heading),
            *([element("div", {"class": "beside"}, beside, element("div", {}, folded, main))] if sections else []),
        )
        style, script = _own("page.css"), _own("page.js")
        policy = (
            f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
            "base-uri 'none'; form-action 'none'"
        )
        skip = element("a", {"class": "skip", "href": "#main"}, "Skip to the content") if sections else Markup("")
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            f"<title>{title}</title>"
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{style}</style></head>\n<body>{skip}{framed}\n<script>{script}</script></body></html>\n"
        )

    def fragment(self) -> str:
        """The sections alone, to stand within another page, as in a notebook's cell: no style, which would reach it."""
        parts = []
        for section in self._sections:
            parts += [element("h2", {}, section.title)] if section.title else []
            parts += section.parts
        return element("div", {}, joined(parts, "\n"))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the page, whole or not at all; OutputError where that cannot be done."""
        write_file(path, self.render().encode("utf-8", "replace"))

    def _add(self, part: Markup) -> None:
        self._sections[-1].parts.append(part)


def percent_cell(share: float | None) -> TableCell:
    """A share in [0, 1] as percent with one decimal, for a column whose name has the unit."""
    return None if share is None else Number(f"{100 * share:.1f}", share)


def percent_text(share: float, decimals: int = 1) -> str:
    """A share in [0, 1] in a sentence; the sign stays with its number."""
    return f"{100 * share:.{decimals}f}\N{NO-BREAK SPACE}%"


def _name(section: _Section) -> Markup:
    count = Markup("") if section.count is None else element("span", {"class": "count"}, f" {section.count:,}")
    return joined([section.title, count])


def _section(number: int, section: _Section) -> Markup:
    level = "h3" if section.below else "h2"
    heading = element(level, {"id": f"h{number}"}, _name(section))
    content: tuple[Markup, ...] = (heading, *section.parts)
    if section.folded:
        content = (element("details", {}, element("summary", {}, heading), *section.parts),)
    kinds = ["wide"] * section.wide + ["part"] * section.below + [section.kind] * bool(section.kind)
    attributes = {"id": f"s{number}", "class": " ".join(kinds), "aria-labelledby": f"h{number}"}
    return element("section", attributes, *content)


def _figure(figure: Headline) -> Markup:
    unit = element("span", {"class": "unit"}, figure.unit) if figure.unit else Markup("")
    parts = [
        element("p", {"class": "value"}, figure.value, unit),
        element("p", {"class": "figure-name"}, figure.name),
    ]
    if figure.bar is not None:
        parts.append(_interval(*figure.bar))
    if figure.note:
        parts.append(element("p", {"class": "figure-note"}, prose(figure.note)))
    return joined(parts)


def _interval(low: float, value: float, high: float) -> Markup:
    """A line from 0 to 1 with the interval on it, and a point at the value."""
    left, right, y = 8, 264, 12

    def x(share: float) -> str:
        return f"{left + (right - left) * share:.1f}"

    label = f"95 % interval from {100 * low:.1f} to {100 * high:.1f} of 100"
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="272" height="24" viewBox="0 0 272 24" role="img" '
        f'aria-label="{label}"><line x1="{left}" x2="{right}" y1="{y}" y2="{y}" stroke="var(--line)" stroke-width="2"/>'
        + "".join(
            f'<line x1="{x(end)}" x2="{x(end)}" y1="{y - 4}" y2="{y + 4}" stroke="var(--line)" stroke-width="2"/>'
            for end in (0, 0.5, 1)
        )
        + f'<line x1="{x(low)}" x2="{x(high)}" y1="{y}" y2="{y}" stroke="var(--accent)" stroke-opacity=".45" '
        f'stroke-width="8" stroke-linecap="round"/><circle cx="{x(value)}" cy="{y}" r="5" fill="var(--accent)"/></svg>'
    )


def _scrolling(table: Markup) -> Markup:
    return element("div", {"class": "scroll"}, table)


def _value(cell: TableCell) -> float | None:
    """What a cell is sorted by; NaN for none, None for a text."""
    if cell is None:
        return float("nan")
    if isinstance(cell, Number):
        return cell.value
    return cell if isinstance(cell, (int, float)) and not isinstance(cell, bool) else None


def _cell(cell: TableCell, *, head: bool, number: bool) -> Markup:
    text = cell.text if isinstance(cell, Number) else cell_text(cell)
    value = _value(cell)
    attributes: dict[str, str | bool] = {"scope": "row"} if head else {}
    if number:
        attributes["class"] = "number"
        if cell is not None:
            attributes["data-value"] = f"{value:.6g}"
    return element("th" if head else "td", attributes, text if number else prose(text))


@cache
def _own(name: str) -> str:
    """A file of the page that lies beside this one."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """How a policy names a style or a script that it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _data_address(image: Image.Image, side: int) -> str:
    small = image.convert("RGB")
    small.thumbnail((side, side))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
