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
        model = follow(data, 0)
        for slot in tables_of(data, model, _MODEL_METADATA):
            entry = follow(data, slot)
            if _bytes(data, entry, _METADATA_NAME) == key.encode():
                at = field_of(data, entry, _METADATA_BUFFER)
                index = struct.unpack_from("<I", data, at)[0] if at else 0
                return bytes(_bytes(data, follow(data, tables_of(data, model, _MODEL_BUFFERS)[index]), _BUFFER_DATA))
    except (struct.error, IndexError):
        raise WeightsError(f"{source}: damaged TensorFlow Lite file; download or write it again") from None
    raise SpecError(
        f"{source}: carries no description by fusiform (labels, preprocessing); "
        f"write one with: fusiform port {source} --out FILE"
    )


def follow(data: bytes | memoryview, at: int) -> int:
    """Where the distance at ``at`` leads."""
    return at + int(struct.unpack_from("<I", data, at)[0])


def field_of(data: bytes | memoryview, table: int, index: int) -> int:
    """Where a field of a table lies; 0 when it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if 4 + 2 * index >= struct.unpack_from("<H", data, vtable)[0]:
        return 0
    offset = struct.unpack_from("<H", data, vtable + 4 + 2 * index)[0]
    return table + int(offset) if offset else 0


def tables_of(data: bytes | memoryview, table: int, index: int) -> range:
    """Where the distance to each table of a vector of tables lies."""
    at = field_of(data, table, index)
    if not at:
        return range(0)
    vector = follow(data, at)
    (length,) = struct.unpack_from("<I", data, vector)
    if vector + 4 + 4 * length > len(data):
        raise IndexError
    return range(vector + 4, vector + 4 + 4 * length, 4)


def numbers_of(data: bytes | memoryview, table: int, index: int) -> list[int]:
    """A vector of 32-bit numbers."""
    return [struct.unpack_from("<i", data, at)[0] for at in tables_of(data, table, index)]


def _bytes(data: bytes | memoryview, table: int, index: int) -> memoryview:
    """A string or a vector of bytes, not copied: every entry of a damaged file can claim the whole file."""
    at = field_of(data, table, index)
    if not at:
        return memoryview(b"")
    vector = follow(data, at)
    (length,) = struct.unpack_from("<I", data, vector)
    if vector + 4 + length > len(data):
        raise IndexError
    return memoryview(data)[vector + 4 : vector + 4 + length]
