"""Names of classes, as they are compared and shown, and of files, as data sets give them."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

from fusiform.report import printable

_SHOWN = 10


def listed(names: Sequence[str]) -> str:
    """The first names of a list for a message, made printable, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(printable(name) for name in names[:_SHOWN]) + more


def is_name(value: object) -> TypeGuard[str]:
    """Whether something that JSON holds can be the name of a class or a file.

    A lone surrogate, which JSON can spell, is no character: no file and no terminal can bear the name.
    """
    return isinstance(value, str) and bool(value.strip()) and re.search("[\0\ud800-\udfff]", value) is None


def nfc(name: str) -> str:
    """A name in Unicode's form NFC, in which names are compared."""
    return unicodedata.normalize("NFC", name)


def is_file(path: Path) -> bool:
    """Whether there is such a file; what no system takes for a name (too long, with a zero) names none."""
    return os.path.isfile(path)  # noqa: PTH113  # Path.is_file raises for those
