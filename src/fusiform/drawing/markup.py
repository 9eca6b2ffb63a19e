"""HTML in which every text is escaped, unless it was made here: a file's name cannot put markup into a page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping

from fusiform.report import printable

Attributes = Mapping[str, str | bool]
"""Values by name; True is an attribute without a value, False one that is left out."""

_EMPTY = ("img", "input")
"""Elements that have no content and no end."""
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(name: str, attributes: Attributes | None = None, *children: str) -> Markup:
    """An element with its children, of which those that are no ``Markup`` are escaped."""
    given = "".join(
        f" {key}" if value is True else f' {key}="{_escaped(value)}"'
        for key, value in (attributes or {}).items()
        if value is not False
    )
    return Markup(f"<{name}{given}>" if name in _EMPTY else f"<{name}{given}>{joined(children)}</{name}>")


def joined(children: Iterable[str], between: str = "") -> Markup:
    """Parts behind each other, of which those that are no ``Markup`` are escaped."""
    return Markup(between.join(child if isinstance(child, Markup) else _escaped(child) for child in children))


def prose(text: str) -> Markup:
    """A text whose options, such as ``--fix``, are set as code, which is not broken after the dashes."""
    return Markup(_OPTION.sub(lambda found: f"<code>{found[0]}</code>", _escaped(text)))


def _escaped(text: str) -> str:
    return html.escape(printable(text))
