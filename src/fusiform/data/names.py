"""Names of classes, as they are compared and shown."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from fusiform.report import printable

_SHOWN = 10


def listed(names: Sequence[str]) -> str:
    """The first names of a list for a message, made printable, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(printable(name) for name in names[:_SHOWN]) + more


def nfc(name: str) -> str:
    """A name in Unicode's form NFC, in which names are compared."""
    return unicodedata.normalize("NFC", name)
