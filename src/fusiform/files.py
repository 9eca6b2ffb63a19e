"""Writing files so that nobody ever finds half of one, and where to keep those that can be had again."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Collection
from pathlib import Path

from fusiform.errors import OutputError, UsageError


def check_place(path: str | os.PathLike[str], endings: Collection[str], advice: str) -> None:
    """Make sure, before any work is done, that a file can be written there; an existing one will be replaced.

    Raises UsageError, which ends in ``advice``, for a name with none of the ``endings`` (in lower case, with their
    dots), and OutputError where nothing can be written.
    """
    import tempfile  # only when asked for: each import counts against the time to the first answer

    path = Path(path)
    if path.suffix.lower() not in endings:
        raise UsageError(f"{path}: {advice}")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder: name a file")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror or error}): choose another place") from None


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` under a temporary name in the same folder and rename it; an existing file is replaced whole.

    Raises OutputError where that cannot be done; nothing is left behind then.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)  # noqa: PTH105  # says that it replaces
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror or error}): choose another place") from None
    finally:
        part.unlink(missing_ok=True)


def cache_dir() -> Path:
    r"""The folder of downloaded and unpacked files, which need not exist yet.

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
