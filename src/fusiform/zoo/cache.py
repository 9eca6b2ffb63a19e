"""The folder of downloaded files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fusiform.errors import DownloadError


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
