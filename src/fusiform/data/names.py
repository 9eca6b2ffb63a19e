"""Names of classes, as they are compared and shown, and of files, as data sets give them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from fusiform.report import printable

_SHOWN = 10


def listed(names: Sequence[str]) -> str:
    """The first names of a list for a message, made printable, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(printable(name) for name in names[:_SHOWN]) + more


def nfc(name: str) -> str:
    """A name in Unicode's form NFC, in which names are compared."""
    return unicodedata.normalize("NFC", name)


def is_file(path: Path) -> bool:
    """Whether there is such a file; what no system takes for a name (too long, with a zero) names none."""
    return os.path.isfile(path)  # noqa: PTH113  # Path.is_file raises for those
