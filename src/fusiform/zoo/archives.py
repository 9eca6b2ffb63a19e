"""Zip archives that come from anywhere, before they are unpacked: apart, since importing zipfile takes 2 ms."""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib

from fusiform.errors import WeightsError

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
