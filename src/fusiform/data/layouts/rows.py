"""Rows of Parquet files: whole small tables, and one picture's bytes at a time out of large ones."""

from __future__ import annotations

import bisect
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fusiform.errors import MissingExtraError

KEPT_BYTES = 256 * 1024 * 1024
"""Bytes of pictures that are kept for the rows beside those asked for; the group read last is kept whatever it has."""


def need_pyarrow(path: Path) -> Any:
    """The package; MissingExtraError, which names the file, where it is not installed."""
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise MissingExtraError("pyarrow", "parquet", f"reading {path}") from error
    return pyarrow


def open_parquet(path: Path, *, metadata: Any = None) -> Any:
    """The file as a pyarrow.parquet.ParquetFile; raises what pyarrow raises for a damaged one.

    ``metadata`` are the file's own, where they were read before.
    """
    need_pyarrow(path)
    from pyarrow import parquet

    return parquet.ParquetFile(path, metadata=metadata, memory_map=True)


def read_rows(path: Path) -> list[Mapping[str, Any]]:
    """All rows of a small file by the columns' names; OSError for a damaged one, MissingExtraError without pyarrow."""
    return _read(path, lambda file: list(file.read().to_pylist()))


def read_picture(path: Path, column: str, row: int) -> bytes:
    """The bytes in a row (from 0) of a column of pictures, or of its field ``bytes``.

    Parquet is compressed by groups of rows, so that a group is read whole; ``KEPT_BYTES`` of them are kept. May be
    called from several threads. Raises OSError for a file that cannot be read or has no such row.
    """
    file = _identity(path)
    ends, metadata = _know(path, file)
    number = bisect.bisect_right(ends, row)
    if number == len(ends):
        raise OSError(f"there is no row {row}")
    group = _keep(file, column, number)
    with group.lock:
        if group.chunks is None:
            group.chunks = _read(path, lambda opened: _read_group(opened, column, number), metadata)
            _forget(group)
    at = row - (ends[number - 1] if number else 0)
    for chunk in group.chunks:
        if at < len(chunk):
            data = chunk[at].as_py()
            if data is None:
                raise OSError("it holds no picture")
            return bytes(data)
        at -= len(chunk)
    raise OSError(f"there is no row {row}")


class _Group:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.chunks: list[Any] | None = None


# A file goes by its path, size and time: one that is written anew is another.
_File = tuple[str, int, int]
_lock = threading.Lock()
_groups: OrderedDict[tuple[_File, str, int], _Group] = OrderedDict()
# Where each group of rows ends, and pyarrow's metadata, which take longer to read than a picture.
_known: dict[_File, tuple[list[int], Any]] = {}


def _identity(path: Path) -> _File:
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


def _know(path: Path, file: _File) -> tuple[list[int], Any]:
    with _lock:
        known = _known.get(file)
    if known is None:
        (metadata,) = _read(path, lambda opened: [opened.metadata])
        sizes = (metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
        known = list(itertools.accumulate(sizes)), metadata
        with _lock:
            _known[file] = known
    return known


def _read_group(file: Any, column: str, number: int) -> list[Any]:
    from pyarrow import types

    is_struct = types.is_struct(file.schema_arrow.field(column).type)
    values = file.read_row_group(number, columns=[f"{column}.bytes" if is_struct else column]).column(column)
    return [chunk.field("bytes") if is_struct else chunk for chunk in values.chunks]


def _read(path: Path, ask: Callable[[Any], list[Any]], metadata: Any = None) -> list[Any]:
    pyarrow = need_pyarrow(path)
    try:
        with open_parquet(path, metadata=metadata) as file:
            return ask(file)
    except (pyarrow.ArrowException, KeyError) as error:
        raise OSError(f"damaged: {error}") from error


def _keep(file: _File, column: str, number: int) -> _Group:
    key = (file, column, number)
    with _lock:
        group = _groups.setdefault(key, _Group())
        _groups.move_to_end(key)
    return group


def _forget(latest: _Group) -> None:
    """Drop the groups that were not asked for the longest, beyond what is kept."""
    with _lock:
        kept = 0
        for key in reversed(list(_groups)):
            group = _groups[key]
            kept += sum(chunk.nbytes for chunk in group.chunks or ())
            if kept > KEPT_BYTES and group is not latest:
                del _groups[key]
