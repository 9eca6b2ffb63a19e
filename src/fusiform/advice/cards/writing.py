"""A card as Markdown and as a page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fusiform.advice.cards.sections import Block, Items, Questions, Section, Table
from fusiform.drawing.page import Headline, Page
from fusiform.report import Cell, cell_text, printable

TO_ASK = "For the author to answer"
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")


def markdown(title: str, lead: str, sections: Sequence[Section], metadata: Mapping[str, Any]) -> str:
    """The text of a file: metadata as YAML between lines of dashes, if there are any, and the sections."""
    parts = [f"---\n{''.join(_yaml(metadata))}---\n"] if metadata else []
    parts += [f"# {_plain(title)}\n", f"{_plain(lead)}\n"]
    for section in sections:
        parts.append(f"## {section.title}\n")
        parts += [text for block in section.blocks for text in _block(block)]
    return "\n".join(parts)


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, str):
        yield f"{_plain(block)}\n"
    elif isinstance(block, Table):
        if block.rows:
            yield f"{_plain(block.caption)}:\n" if block.caption else ""
            yield _table(block.rows)
    elif isinstance(block, Questions):
        yield f"**{TO_ASK}**\n"
        yield "".join(f"- [ ] {_plain(line)}\n" for line in block.lines)
    elif isinstance(block, Items):
        yield "".join(f"- {_plain(line)}\n" for line in block.lines)
    else:
        yield "".join(f"- **{_plain(name)}**: {_plain(cell_text(value))}\n" for name, value in block.items())


def _table(rows: Sequence[Mapping[str, Cell]]) -> str:
    names = _columns(rows)
    lines = [names, ["---"] * len(names), *([cell_text(row.get(name)) for name in names] for row in rows)]
    escaped = [[cell if k == 1 else _plain(cell) for cell in line] for k, line in enumerate(lines)]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def _columns(rows: Sequence[Mapping[str, Cell]]) -> list[str]:
    """The names of the columns that have any value."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if any(row.get(name) not in (None, "") for row in rows)]


def _plain(text: str) -> str:
    """A text that Markdown shows as it is, whoever wrote it: a class or a file may be called anything."""
    return _SPECIAL.sub(r"\\\1", printable(text))


def _yaml(value: object, indent: str = "") -> Iterator[str]:
    """YAML of objects, lists and plain values, which are written as JSON: that is YAML, too."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _entry(f"{indent}{name}:", inner, indent + "  ")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            if isinstance(inner, Mapping):
                first, *rest = _yaml(inner, indent + "  ")
                yield f"{indent}- {first.removeprefix(indent + '  ')}"
                yield from rest
            else:
                yield f"{indent}- {_scalar(inner)}\n"


def _entry(head: str, value: object, indent: str) -> Iterator[str]:
    if isinstance(value, (Mapping, list, tuple)):
        yield f"{head}\n"
        yield from _yaml(value, indent)
    else:
        yield f"{head} {_scalar(value)}\n"


def _scalar(value: object) -> str:
    plain = isinstance(value, str) and re.fullmatch(r"[a-z][a-z0-9.-]*[a-z0-9]", value)
    words = ("true", "false", "null", "yes", "no", "on", "off")
    return str(value) if plain and value not in words else json.dumps(value, ensure_ascii=False)


def page(
    title: str,
    lead: str,
    headlines: Sequence[Headline],
    parts: Sequence[tuple[str, Sequence[Section]]],
    *,
    about: Sequence[str],
) -> Page:
    """All of it as a page: each part with its name as a group of its sections."""
    made = Page(title, kind="Model card", about=about)
    if headlines:
        made.add_headlines(headlines[:1], headlines[1:])
    made.add_lead(lead)
    for name, sections in parts:
        if not sections:
            continue
        made.add_heading(name, kind="group")
        for section in sections:
            made.add_heading(section.title, folded=section.folded, below=True)
            for block in section.blocks:
                _add(made, block)
    return made


def _add(made: Page, block: Block) -> None:
    if isinstance(block, str):
        made.add_text(block)
    elif isinstance(block, Table):
        if block.rows:
            made.add_table(block.rows, caption=block.caption, first=20 if len(block.rows) > 20 else None)
    elif isinstance(block, Questions):
        made.add_text(f"{TO_ASK}:")
        made.add_list(block.lines)
    elif isinstance(block, Items):
        made.add_list(block.lines)
    else:
        made.add_figures(block)
