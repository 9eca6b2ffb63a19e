"""What the documentation site makes while it is built: MkDocs calls ``on_page_markdown`` for every page.

A page asks with a comment, which GitHub does not show: ``<!-- build: commands -->`` becomes the reference of the
commands, ``<!-- build: table formats -->`` a table of benchmarks/results/formats.json, and so on; see ``_MAKERS``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# MkDocs takes its hooks' folder off the path again; what they import on demand still has to be found.
for folder in (str(ROOT / "src"), str(Path(__file__).parent)):
    if folder not in sys.path:
        sys.path.insert(0, folder)

import api_pages  # noqa: E402
import command_pages  # noqa: E402
import drawings  # noqa: E402
import recipe_pages  # noqa: E402
import result_tables  # noqa: E402
import schema_pages  # noqa: E402

MARK = re.compile(r"<!-- build: (\w+) ?(.*?) -->")


def _file(name: str) -> str:
    """A text of the repository's root, without its first heading, which the page has."""
    return re.sub(r"\A# .*\n", "", (ROOT / name).read_text(encoding="utf-8"))


def _drawing(name: str) -> str:
    """An SVG in docs/, written into the page so that it takes the page's colours."""
    return drawings.framed((ROOT / "docs" / name).read_text(encoding="utf-8"))


_MAKERS: dict[str, Callable[[str], str]] = {
    "api": api_pages.render,
    "channels": drawings.channels,
    "commands": lambda _: command_pages.render(),
    "costs": drawings.costs,
    "drawing": _drawing,
    "file": _file,
    "hyperparameters": recipe_pages.hyperparameters,
    "machine": result_tables.machine,
    "presets": recipe_pages.presets,
    "schemas": schema_pages.schemas,
    "table": result_tables.table,
    "value": result_tables.value,
    "vocabulary": schema_pages.vocabulary,
    "widths": drawings.widths,
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with every request answered; one for something unknown raises KeyError, which ends the build."""
    return MARK.sub(lambda found: _MAKERS[found[1]](found[2]), markdown)
