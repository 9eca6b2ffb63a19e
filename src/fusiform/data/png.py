"""What Pillow does not tell of PNG files, and texts in them that it takes for a danger: read chunk by chunk."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO


def is_16_bit(stream: BinaryIO) -> bool:
    """Whether a PNG keeps 16 bits a channel."""
    stream.seek(24)  # the bit depth, ISO/IEC 15948, 11.2.2
    return stream.read(1) == b"\x10"


def significant_bits(stream: BinaryIO) -> int | None:
    """The bits that a grey PNG's sBIT chunk states; None without it."""
    for kind, start, _ in _chunks(stream):
        if kind == b"IDAT":
            return None
        if kind == b"sBIT":
            stream.seek(start + 8)
            return (stream.read(1) or b"\0")[0]
    return None


def _chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """The kind, the start and the end of each whole chunk of a PNG, none of its content read."""
    size, start = stream.seek(0, os.SEEK_END), 8
    for _ in range(_MOST_CHUNKS):
        stream.seek(start)
        if start + 12 > size:
            return
        length, kind = struct.unpack(">I4s", stream.read(8))
        end = start + 12 + length
        if end > size or not kind.isalpha():
            return
        yield kind, start, end
        start = end


_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_LONGEST_TEXT = 1 << 20
_MOST_CHUNKS = 1 << 18
"""As many as the largest picture has in pieces of 4 KB."""


def without_long_text(stream: BinaryIO) -> BinaryIO:
    """A PNG without the texts and profiles that Pillow refuses the whole picture for: they say nothing of its pixels.

    Short ones stay, since an orientation may be among them. No more than a megabyte of any is looked at.
    """
    dropped, kept, texts = [], [], 0
    for kind, start, end in _chunks(stream):
        if kind in _TEXT:
            long = end - start > _LONGEST_TEXT
            if not long:
                stream.seek(start + 8)
                length = _text_length(kind, stream.read(end - start - 12))
                texts += length
                long = length > _LONGEST_TEXT or texts > 4 * _LONGEST_TEXT
            if long:
                dropped.append((start, end))
    if not dropped:
        stream.seek(0)
        return stream
    at = 0
    for start, end in (*dropped, (stream.seek(0, os.SEEK_END), 0)):
        stream.seek(at)
        kept.append(stream.read(start - at))
        at = end
    return io.BytesIO(b"".join(kept))


def _text_length(kind: bytes, content: bytes) -> int:
    """The bytes that a text or profile takes when it is not compressed, as far as just above the limit."""
    if kind == b"tEXt":
        return len(content)
    keyword, _, rest = content.partition(b"\0")
    if kind == b"iTXt":
        # Whether it is compressed, and how; then language, translated keyword and text.
        if rest[:1] != b"\1":
            return len(content)
        rest = b"\0".join(rest[2:].split(b"\0", 2)[2:])
    else:
        rest = rest[1:]
    try:
        return len(keyword) + len(zlib.decompressobj().decompress(rest, _LONGEST_TEXT + 1))
    except zlib.error:  # Pillow passes over it
        return len(content)
