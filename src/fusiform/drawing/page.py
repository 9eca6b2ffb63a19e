"""A page to look at: one HTML file that needs no other, with tables, drawings and thumbnails inside."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from fusiform.files import write_file
from fusiform.report import Cell, cell_text

if TYPE_CHECKING:
    from PIL import Image

THUMBNAIL = 160
"""The longer side of a thumbnail in pixels."""

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --bad: #c0392b; --good: #2e7d32; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; margin: 1rem 0;
  font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: left; }
td.number, th.number { text-align: right; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; width: 160px; font-size: .8rem; overflow-wrap: anywhere; }
figure img { max-width: 160px; max-height: 160px; display: block; margin-bottom: .3rem; }
svg { max-width: 100%; height: auto; }
svg text { fill: currentColor; font: 12px system-ui, sans-serif; }
"""


class Page:
    """Sections of text, tables, drawings and pictures, in the order they were added; ``write`` makes the file.

    Text is escaped wherever it comes from, so that a file name cannot put markup into the page.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = []

    def add_heading(self, text: str) -> None:
        """A heading that starts a section."""
        self._parts.append(f"<h2>{_text(text)}</h2>")

    def add_text(self, text: str) -> None:
        """A paragraph of plain text."""
        self._parts.append(f"<p>{_text(text)}</p>")

    def add_figures(self, figures: Mapping[str, Cell]) -> None:
        """Names and values, a line each."""
        lines = (f"<tr><th>{_text(k)}</th><td class=number>{_text(cell_text(v))}</td></tr>" for k, v in figures.items())
        self._parts.append(f"<table>{''.join(lines)}</table>")

    def add_table(self, rows: Sequence[Mapping[str, Cell]]) -> None:
        """Rows under the names of their columns; numbers stand to the right."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        head = "".join(f"<th>{_text(name)}</th>" for name in columns)
        body = "".join("<tr>" + "".join(_cell(row.get(name)) for name in columns) + "</tr>" for row in rows)
        self._parts.append(f"<table><tr>{head}</tr>{body}</table>")

    def add_svg(self, svg: str) -> None:
        """A drawing, as an ``<svg>`` element whose texts the caller has escaped; ``currentColor`` is the text's."""
        self._parts.append(svg)

    def add_pictures(self, pictures: Iterable[tuple[Image.Image | None, str]]) -> None:
        """Thumbnails, each over its caption; lines of a caption stay lines. None where there is no picture to show."""
        figures = []
        for image, caption in pictures:
            shown = "" if image is None else f'<img alt="" src="{_data_address(image)}">'
            lines = "<br>".join(_text(line) for line in caption.split("\n"))
            figures.append(f"<figure>{shown}<figcaption>{lines}</figcaption></figure>")
        self._parts.append(f"<div class=pictures>{''.join(figures)}</div>")

    def render(self) -> str:
        """The whole page as HTML."""
        title = _text(self.title)
        body = "\n".join(self._parts)
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n{body}\n</body></html>\n"
        )

    def fragment(self) -> str:
        """The sections alone, to stand within another page, as in a notebook's cell: no style, which would reach it."""
        return "<div>" + "\n".join(self._parts) + "</div>"

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the page, whole or not at all; OutputError where that cannot be done."""
        write_file(path, self.render().encode("utf-8", "replace"))


def _text(text: str) -> str:
    return html.escape(text)


def _cell(value: Cell) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    text = "" if value is None else _text(cell_text(value))
    return f"<td class=number>{text}</td>" if number else f"<td>{text}</td>"


def _data_address(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
