"""What a file may claim before it is read: bounds for files and archives that come from anywhere."""

from __future__ import annotations

import io
import lzma
import stat
import zipfile
import zlib
from pathlib import Path

from fusiform.errors import WeightsError
from fusiform.spec import MAX_MODEL_BYTES

DAMAGED_ZIP = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError),
    *(RuntimeError, OSError, EOFError, ValueError),
)
"""What zipfile raises for a file that is not as it should be: the last for positions before its beginning."""
_MAX_ENTRIES = 65_535
"""Of a zip archive: checkpoints have some thousand, and each takes several hundred bytes once it is listed."""


def check_archive(data: bytes, *, source: str) -> None:
    """Raise WeightsError for a zip archive that would unpack to far more than itself: PyTorch unpacks any."""
    if (entries := data.count(b"PK\x01\x02")) > _MAX_ENTRIES:  # as many as it lists, whatever it says
        raise WeightsError(f"{source}: is an archive of {entries:,} entries, which no model is; fetch another")
    try:
        unpacked = sum(entry.file_size for entry in zipfile.ZipFile(io.BytesIO(data)).infolist())
    except DAMAGED_ZIP:
        return  # whoever reads it says so
    # PyTorch stores weights as they are and compresses code, a few times.
    if unpacked > 10 * len(data) + (16 << 20):
        raise WeightsError(
            f"{source}: would unpack to {unpacked:,} bytes, which no model does; fetch it from elsewhere"
        )


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
