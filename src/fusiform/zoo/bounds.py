"""What a file may claim before it is read."""

from __future__ import annotations

import stat
from pathlib import Path

from fusiform.errors import WeightsError
from fusiform.spec import MAX_MODEL_BYTES


def check_file(path: Path, *, most: int = MAX_MODEL_BYTES) -> None:
    """WeightsError for a device or a pipe, which may have no end, and for a file larger than any model.

    What this process was given open, as by a shell's ``<(command)``, is read. What is not there is not told here.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):
        return
    given = str(path).startswith(("/dev/fd/", "/proc/self/fd/")) and stat.S_ISFIFO(status.st_mode)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) or given):
        raise WeightsError(f"{path}: is no file but a device or a pipe: write the model into a file first")
    if status.st_size > most:
        raise WeightsError(
            f"{path}: has {status.st_size:,} bytes, more than any model here ({most:,}): fetch it again, or of a "
            "checkpoint save the state dict alone"
        )
