"""The folder of downloaded files."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from fusiform.errors import DownloadError


def cache_dir() -> Path:
    r"""The folder of downloaded files, which need not exist yet.

    ``FUSIFORM_CACHE``, or the platform's place: ``$XDG_CACHE_HOME/fusiform`` (``~/.cache/fusiform``), on macOS
    ``~/Library/Caches/fusiform``, on Windows ``%LOCALAPPDATA%\fusiform``.
    """
    if chosen := os.environ.get("FUSIFORM_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fusiform"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "fusiform"
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))  # the convention says to ignore a relative one
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "fusiform"


def holds(path: Path, expected: str) -> bool:
    """Whether ``path`` is a file whose SHA-256 starts with ``expected``; DownloadError where it cannot be read."""
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DownloadError(
            f"{path}: cannot read the cache ({error.strerror or error}): set FUSIFORM_CACHE to a folder of yours"
        ) from None
    return digest.hexdigest().startswith(expected.lower())
