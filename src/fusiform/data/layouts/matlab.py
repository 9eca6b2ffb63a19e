"""The numbers of a MATLAB file, level 5: what the lists of Oxford's flowers are kept in."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fusiform.errors import InputError

# MAT-File Format, MathWorks: table 1-1, data types; the header is 128 bytes.
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED = 14, 15
_HEADER = 128
_LARGEST = 1 << 26
"""Bytes that a compressed matrix may have: the flowers' largest has 64 KB."""


def read_numbers(path: Path) -> dict[str, list[int]]:
    """The file's matrices of whole numbers by name, column after column; other values are passed over.

    Raises UsageError for a file that cannot be read or is of another kind.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): check its permissions") from None
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise InputError(f"{path}: is no MATLAB file of level 5: save it with -v7 or older, or write a CSV list")
    found: dict[str, list[int]] = {}
    try:
        for kind, content in _elements(data[_HEADER:], order):
            if kind == _COMPRESSED:
                unpacked = zlib.decompressobj().decompress(content, _LARGEST)
                kind, content = next(_elements(unpacked, order))
            if kind == _MATRIX and (matrix := _matrix(content, order)) is not None:
                found[matrix[0]] = matrix[1]
    except (struct.error, zlib.error, StopIteration, ValueError) as error:
        raise InputError(f"{path}: is damaged ({error}): copy or download it again") from None
    return found


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each element; ValueError where one ends outside the data."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start = at + 8
        following = start + size + (-size % 8 if kind != _COMPRESSED else 0)
        if kind >> 16:  # the small form: both in four bytes, and the content in the next four
            kind, size, start, following = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        if start + size > len(data):
            raise ValueError(f"an element ends {start + size - len(data):,} bytes after the file")
        yield kind, data[start : start + size]
        at = following


def _matrix(content: bytes, order: str) -> tuple[str, list[int]] | None:
    """Flags, dimensions, name, numbers; None for a matrix of something else."""
    parts = list(_elements(content, order))
    if len(parts) < 4 or parts[3][0] not in _NUMBERS:
        return None
    kind, values = parts[3]
    numbers = np.frombuffer(values, order + _NUMBERS[kind]).astype(np.float64)
    if not np.array_equal(numbers, np.rint(numbers)):
        return None
    return parts[2][1].decode("ascii", "replace"), [int(number) for number in numbers]
