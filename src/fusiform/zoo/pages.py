"""Web pages that hold a model, in one file: how bytes are written into their text, and how the model is read back.

A page is UTF-16 and begins with its byte order mark, which browsers go by whatever a server says. Each of its files is
a ``script`` of no language, with the file's name and the number of its bytes, packed by ``gzip`` or not; its text has a
character for 15 bits, from U+3400 to U+B3FF, all of which stand for themselves in HTML: 16 bits in the file for 15,
where base64 would take 20.
"""

from __future__ import annotations

import re
import zlib

import numpy as np

from fusiform.errors import WeightsError
from fusiform.spec import MAX_MODEL_BYTES

FIRST = 0x3400
"""The character for 15 bits that are 0."""
_BITS = 15
_MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"
_START = "<!doctype html>"


def write_text(data: bytes) -> str:
    """The bytes as text, 15 bits a character, the last one filled up with zeros."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    rows = np.zeros((-(-bits.size // _BITS), 16), np.uint8)
    rows[:, 1:].flat[: bits.size] = bits
    values = np.packbits(rows, axis=1).view(">u2").ravel()
    return str((values + np.uint16(FIRST)).astype("<u2").tobytes(), "utf-16-le")


def read_text(text: str, length: int) -> bytes:
    """The ``length`` bytes that ``write_text`` has written; ValueError for a text that it has not."""
    values = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), "<u2")
    if values.size != -(-8 * length // _BITS) or ((values < FIRST) | (values >= FIRST + (1 << _BITS))).any():
        raise ValueError("another text")
    rows = np.unpackbits((values - np.uint16(FIRST)).astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)
    return np.packbits(rows[:, 1:].ravel()[: 8 * length]).tobytes()


def is_page(data: bytes) -> bool:
    """Whether these are the bytes of a web page as fusiform writes them, or as an editor that makes UTF-8 of them."""
    return data.startswith((f"{_MARK}{_START}".encode("utf-16-le"), _START.encode(), f"{_MARK}{_START}".encode()))


def read_page_model(data: bytes, *, source: str) -> bytes:
    """The LiteRT file in a page; WeightsError where there is none, or only a part of one."""
    text = data.decode("utf-16" if data.startswith(_MARK.encode("utf-16-le")) else "utf-8", "replace")
    found = re.search(r'<script[^>]* data-file="[^"]*\.tflite" data-bytes="(\d{1,10})"( data-gzip)?>([^<]*)<', text)
    if found is None:
        raise WeightsError(
            f"{source}: is a web page without a model in it, or cut off: download it again, or write it with fusiform "
            "export --to web --single-file"
        )
    length, packed, content = found.groups()
    try:
        file = read_text(content, int(length))
        if packed:
            file = zlib.decompressobj(wbits=31).decompress(file, MAX_MODEL_BYTES)
        if file[4:8] != b"TFL3":
            raise ValueError("another file")
        return file
    except (ValueError, zlib.error):
        raise WeightsError(f"{source}: the model in this page is damaged; download or export it again") from None
