"""Weight files on this machine: from the package, from the cache, or downloaded into it.

``FUSIFORM_CACHE`` is the cache folder. ``FUSIFORM_MIRROR`` is another base address, or a local folder, in place of
torchvision's. ``FUSIFORM_OFFLINE=1`` forbids the network; what is in the cache or in a local mirror still works.
"""

from __future__ import annotations

import os
from pathlib import Path

from fusiform.errors import DownloadError, WeightsError
from fusiform.files import cache_dir
from fusiform.progress import Tracker, track
from fusiform.zoo.cache import holds
from fusiform.zoo.catalog import BUNDLED_FOLDER, TORCHVISION_BASE, Weights


def fetch(weights: Weights, *, progress: Tracker = track) -> Path:
    """The path of a weight file: in the package if bundled, else in the cache, downloaded when it is not there.

    A cached file is hashed each time (15 ms for 14 MB) and fetched again if it is damaged. Raises WeightsError for
    weights that no network here can take, and DownloadError.
    """
    weights.check_loadable()
    if weights.bundled:
        path = BUNDLED_FOLDER / weights.file
        if not path.is_file():
            raise WeightsError(f"{path} is missing, though it comes with fusiform: install the package again")
        return path
    path = cache_dir() / weights.file
    expected = weights.sha256 or weights.sha256_prefix
    if not holds(path, expected):
        # The catalogue's size is rounded; a mirror sends what it likes.
        limit = int((weights.size_mb + 1) * 1.1 * 2**20)
        _download(_mirrored(weights.url), path, expected, progress, limit)
    return path


def _mirrored(url: str) -> str:
    mirror = os.environ.get("FUSIFORM_MIRROR", "")
    if not mirror or not url.startswith(TORCHVISION_BASE):
        return url
    path = url.removeprefix(TORCHVISION_BASE)
    return f"{mirror.rstrip('/')}/{path}" if "://" in mirror else (Path(mirror).expanduser().absolute() / path).as_uri()


def _download(url: str, path: Path, expected: str, progress: Tracker, limit: int) -> str:
    if not url.lower().startswith("file:") and os.environ.get("FUSIFORM_OFFLINE", "") not in ("", "0"):
        from fusiform.zoo.web import without_password

        state = "is damaged" if path.exists() else "is not there"
        raise DownloadError(
            f"{path} {state}, and FUSIFORM_OFFLINE forbids fetching {without_password(url)}: unset it, or copy the "
            "file to that path"
        )
    from fusiform.zoo.download import download  # urllib takes longer to import than a picture to classify

    return download(url, path, expected, progress=progress, limit=limit)
