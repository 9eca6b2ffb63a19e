"""JPEG pictures one after the other, as cameras send them: found in the bytes, without a library."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

from fusiform.errors import InputError

LARGEST_FRAME = 32 * 2**20
"""Bytes; what goes on for longer without an end is no picture of a camera."""
PIECE = 2**16

_START = b"\xff\xd8\xff"
_END, _START_OF_IMAGE, _SCAN, _STUFFED, _FILL = 0xD9, 0xD8, 0xDA, 0x00, 0xFF
# Markers without a length: TEM, and RST0 to RST7 within the picture's data (ITU-T T.81, table B.1).
_BARE = {0x01, *range(0xD0, 0xD8)}


class Splitter:
    """Finds the pictures in the bytes that ``feed`` is given, in pieces of any length.

    It goes from marker to marker (ITU-T T.81, B.1.1), so that the thumbnail that a picture has in its EXIF is not taken
    for one. What lies between pictures, such as the headers of a multipart stream, is passed over. ``damaged`` counts
    the beginnings that no picture followed: broken off, or longer than ``LARGEST_FRAME``.
    """

    def __init__(self) -> None:
        self.damaged = 0
        self._data = bytearray()
        self._at = 0  # the place up to which the picture was read; 0 while a beginning is looked for
        self._in_scan = False

    def feed(self, data: bytes) -> list[bytes]:
        """The pictures that these bytes complete."""
        self._data += data
        found = []
        while self._find_start():
            end = self._walk()
            if end:
                found.append(bytes(self._data[:end]))
                del self._data[:end]
                self._at = 0
            elif end is None:
                if len(self._data) <= LARGEST_FRAME:
                    break
                self._give_up()
        return found

    def _find_start(self) -> bool:
        if not self._at:
            start = self._data.find(_START)
            if start < 0:
                del self._data[:-2]  # the beginning of a beginning
                return False
            del self._data[:start]
            self._at, self._in_scan = 2, False
        return True

    def _walk(self) -> int | None:
        """Where the picture ends; None where more bytes are needed, 0 where it turned out to be none."""
        data = self._data
        while self._at + 2 <= len(data):
            if self._in_scan:
                self._at = data.find(b"\xff", self._at)
                if self._at < 0:
                    self._at = len(data)
                    return None
                if self._at + 2 > len(data):
                    return None
            code = data[self._at + 1]
            if data[self._at] != _FILL or code == _START_OF_IMAGE or (code == _STUFFED and not self._in_scan):
                self._give_up()
                return 0
            if code == _END:
                return self._at + 2
            if code == _FILL:
                self._at += 1
            elif code in _BARE or code == _STUFFED:
                self._at += 2
            else:
                if self._at + 4 > len(data):
                    return None
                length = int.from_bytes(data[self._at + 2 : self._at + 4], "big")
                if length < 2:
                    self._give_up()
                    return 0
                self._at += 2 + length
                self._in_scan = code == _SCAN
        return None

    def _give_up(self) -> None:
        """Look for the next beginning: behind what was read, where no thumbnail can lie."""
        self.damaged += 1
        del self._data[: max(2, min(self._at, len(self._data)))]
        self._at = 0


def pictures(read: Callable[[], bytes]) -> Iterator[bytes]:
    """The JPEG files in what ``read`` gives piece by piece, until it gives nothing."""
    splitter = Splitter()
    while piece := read():
        yield from splitter.feed(piece)


def of_standard_input() -> Iterator[bytes]:
    """The JPEG files that come on standard input."""
    if sys.stdin is None:
        raise InputError("-: standard input is closed")
    # Not through sys.stdin.buffer: a thread that waits in it holds its lock, which Python's end would wait for.
    descriptor = sys.stdin.fileno()
    return pictures(lambda: os.read(descriptor, PIECE))
