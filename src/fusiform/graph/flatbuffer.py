"""The metadata of a TFLite file, read without the generated schema: a prediction needs nothing else of the file.

FlatBuffers' binary format: https://flatbuffers.dev/internals. A table starts with the distance back to its vtable,
whose 16-bit entries say where each field lies; vectors, strings and tables are reached by 32-bit distances.
"""

from __future__ import annotations

import struct

from fusiform.errors import SpecError, WeightsError
from fusiform.spec import METADATA_KEY

_MODEL_BUFFERS, _MODEL_METADATA = 4, 6
_METADATA_NAME, _METADATA_BUFFER = 0, 1
_BUFFER_DATA = 0


def read_metadata(data: bytes | memoryview, *, source: str, key: str = METADATA_KEY) -> bytes:
    """The metadata entry ``key`` of a TFLite file.

    Raises WeightsError when ``data`` is not a TFLite file and SpecError when it has no such entry; both name
    ``source``.
    """
    if bytes(data[4:8]) != b"TFL3":
        raise WeightsError(f"{source}: not a TensorFlow Lite file")
    try:
        model = _follow(data, 0)
        for entry in _vector(data, model, _MODEL_METADATA):
            if _bytes(data, entry, _METADATA_NAME).decode() == key:
                at = _field(data, entry, _METADATA_BUFFER)
                index = struct.unpack_from("<I", data, at)[0] if at else 0
                return _bytes(data, _vector(data, model, _MODEL_BUFFERS)[index], _BUFFER_DATA)
    except (struct.error, IndexError, UnicodeDecodeError):
        raise WeightsError(f"{source}: damaged TensorFlow Lite file; download or write it again") from None
    raise SpecError(
        f"{source}: carries no description by fusiform (labels, preprocessing); "
        f"write one with: fusiform port {source} --out FILE"
    )


def _follow(data: bytes | memoryview, at: int) -> int:
    return at + int(struct.unpack_from("<I", data, at)[0])


def _field(data: bytes | memoryview, table: int, index: int) -> int:
    """Where a field of a table lies; 0 when it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if 4 + 2 * index >= struct.unpack_from("<H", data, vtable)[0]:
        return 0
    offset = struct.unpack_from("<H", data, vtable + 4 + 2 * index)[0]
    return table + int(offset) if offset else 0


def _vector(data: bytes | memoryview, table: int, index: int) -> list[int]:
    """Where each table of a vector of tables lies."""
    at = _field(data, table, index)
    if not at:
        return []
    vector = _follow(data, at)
    (length,) = struct.unpack_from("<I", data, vector)
    return [_follow(data, vector + 4 + 4 * k) for k in range(length)]


def _bytes(data: bytes | memoryview, table: int, index: int) -> bytes:
    """A string or a vector of bytes."""
    at = _field(data, table, index)
    if not at:
        return b""
    vector = _follow(data, at)
    (length,) = struct.unpack_from("<I", data, vector)
    if vector + 4 + length > len(data):
        raise IndexError
    return bytes(data[vector + 4 : vector + 4 + length])
