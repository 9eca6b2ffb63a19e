"""How much of memory and time one picture may take, whoever made it: stated here, and checked before it is decoded."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from PIL import ImageFile

from fusiform.errors import ImageError

MAX_DECODED_BYTES = 870_000_000
"""The most memory that decoding a picture may take, and all the pictures that threads decode at the same time.

Pillow holds a pixel of RGB in 4 bytes, and turning a photograph takes them twice: this is a photograph of 108
megapixels that has to be turned, or one of 200 as the sensor gives it, the most that telephones take; with what Python
and a runtime take beside it, a process stays below 1 GB.
"""
MAX_FILE_BYTES = 256 << 20
"""The most that is read into memory of a file, a pipe or a stream; formats that are read in pieces may be larger."""
MAX_PIXELS = 200_000_000
"""The most pixels of a mask that is drawn from outlines: as many as a photograph that ``MAX_DECODED_BYTES`` allows."""
MAX_SCANS_PIXELS = 4_000_000_000
"""Pixels times scans of a JPEG that is sent in several: 20 of 200 megapixels; 3 seconds where the scans are empty."""
_PASSING = 8 << 20
"""Bytes; what decodes in less waits for nobody, even with a hundred threads."""
_TRIMMED = 128 << 20
"""Bytes; before and after larger ones freed memory is given back, for a few thousandths of the time that they take."""
_HEADER_READS = 1 << 17
_READS = 1 << 20
"""How often Pillow may ask for the next bytes of a header, and of pixels: it walks over some formats byte by byte.

A tenth of a second, and one. Photographs need some dozens, a PNG in pieces of 8 KB four for each; runs of equal pixels
in a BMP two for each run, of which are granted as many as there could be of four pixels.
"""

_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
"""Pillow's bytes for a pixel of a mode; 4 for all others (``Storage.c``)."""


def too_large(name: str, size: tuple[int, int] | None = None, needed: int | None = None) -> ImageError:
    """The error of a picture that takes more than ``MAX_DECODED_BYTES``; ``size`` and bytes where they are known."""
    most = f"no more than {MAX_DECODED_BYTES // 10**6} MB are used"
    if size is None:
        return ImageError(f"{name}: takes too much memory to decode, {most}: make the picture smaller", "too large")
    takes = "" if needed is None else f", which take {needed / 1e6:,.0f} MB to decode"
    return ImageError(
        f"{name}: is {size[0]} x {size[1]} pixels{takes}, and {most}: make the picture smaller", "too large"
    )


def check_kind(path: str | os.PathLike[str], name: str) -> None:
    """ImageError for a named pipe, a device or a socket, which may never end or never begin; links are followed.

    What this process has open already, as ``/dev/stdin`` or what a shell's ``<(command)`` gives, is read, so far as
    ``MAX_FILE_BYTES``.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  # a Path costs more than the question
    except (OSError, ValueError):
        return  # opening it says why
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return
    kinds = {
        stat.S_IFIFO: "a named pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    given = os.fspath(path).startswith(("/dev/fd/", "/proc/self/fd/")) or os.fspath(path) == "/dev/stdin"
    if given and not stat.S_ISCHR(mode):
        return
    kind = kinds.get(stat.S_IFMT(mode), "no file")
    raise ImageError(f"{name}: is {kind}, not a file: write the picture to a file, or give - for standard input")


def read_bounded(stream: Any, name: str) -> bytes:
    """All that a binary stream gives; ImageError where that is more than ``MAX_FILE_BYTES``."""
    pieces, left = [], MAX_FILE_BYTES
    while piece := stream.read(min(left + 1, 1 << 24)):
        if not isinstance(piece, bytes):
            raise ImageError(f"{name}: gives {type(piece).__name__}, not bytes: open it in binary mode")
        pieces.append(piece)
        if (left := left - len(piece)) < 0:
            raise _too_long(name)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def read_file(path: Path, name: str) -> bytes:
    """A picture file's content; ImageError for what is no file or longer than ``MAX_FILE_BYTES``, OSError as usual."""
    check_kind(path, name)
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
            raise _too_long(name)
        return read_bounded(file, name)


def _too_long(name: str) -> ImageError:
    return ImageError(
        f"{name}: is longer than {MAX_FILE_BYTES >> 20} MB, which is not read into memory: make the picture smaller",
        "too large",
    )


class BoundedStream:
    """A stream of which only so much, and only so often, may be read; SyntaxError beyond, as Pillow says of damage."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._read = stream.read
        self._reads, self._bytes = _HEADER_READS, MAX_FILE_BYTES
        self.seek, self.tell, self.close = stream.seek, stream.tell, stream.close

    def read(self, size: int = -1, /) -> bytes:
        if size is None or size < 0:
            size = self._bytes + 1
        self._reads -= 1
        data = self._read(size)
        self._bytes -= len(data)
        if self._reads < 0 or self._bytes < 0:
            raise SyntaxError("it goes on and on without a picture")
        return data

    def begin_pixels(self, count: int) -> None:
        """The header is read, and there are so many pixels."""
        self._reads, self._bytes = max(_READS, count // 2), 1 << 62

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def check_memory(image: ImageFile.ImageFile, stream: BinaryIO, name: str) -> int:
    """The bytes that ``decoding_bytes`` says; ImageError where those are too many, SyntaxError where no size fits."""
    needed = decoding_bytes(image, image.size, stream, again=False)
    if needed > MAX_DECODED_BYTES:
        raise too_large(name, image.size, needed)
    return needed


def decoding_bytes(image: ImageFile.ImageFile, size: tuple[int, int], stream: BinaryIO, *, again: bool) -> int:
    """The most memory that an open picture takes on its way to upright 8-bit RGB; SyntaxError where no size fits.

    ``size`` is the file's; ``image.size`` may be smaller in the fast mode of JPEG. ``again`` says that the RGB picture
    will be made once more, turned or in other colours. Each figure was measured (``tests/data/test_limits.py``).
    """
    pixels = image.size[0] * image.size[1]
    stored = _STORED.get(image.mode, 4)
    own = getattr(image, "decoding_bytes", None)  # tiff.py's reader of deep pictures knows it itself
    reading = own if isinstance(own, int) else pixels * stored + _reader_bytes(image, size, stream)
    converting = pixels * _pixel_bytes(image, stored)
    if image.format == "WEBP":  # which keeps its canvases for as long
        converting += reading - pixels * stored
    return max(reading, converting, 8 * pixels if again else 0)


def _pixel_bytes(image: ImageFile.ImageFile, stored: int) -> int:
    """Bytes for a pixel while it is made RGB, ``stored`` of them in its own mode."""
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return stored
    if mode == "RGBA":
        return 2 * stored
    palette = image.palette if mode == "P" else None
    if mode in ("LA", "La", "PA", "RGBa") or "transparency" in image.info or (palette and palette.mode != "RGB"):
        return stored + 8 + (4 if mode == "La" else 0)
    if mode.startswith("I") or mode == "F":
        return 2 * stored + 6  # a copy for numpy, and 8 bits of it, twice
    return stored + 4


def _reader_bytes(image: ImageFile.ImageFile, size: tuple[int, int], stream: BinaryIO) -> int:
    """What the reader of a format takes beside the pixels."""
    pixels = size[0] * size[1]
    if image.format == "JPEG":
        return _jpeg_bytes(image, pixels, stream)
    if image.format == "WEBP":
        return 12 * pixels + 2 * _length(stream)  # two canvases, and the bytes of one
    if image.format == "AVIF":
        return 10 * pixels + 2 * _length(stream)  # planes of up to 12 bits, and the bytes of a picture
    if image.format == "HEIF":
        return 8 * pixels + 2 * _length(stream)
    if image.format == "JPEG2000":
        return 6 * pixels * len(image.getbands())  # a whole number of 32 bits for each value, and the decoder's own
    if image.format == "GIF":
        return pixels
    if image.format == "TIFF":
        return _tiff_bytes(image, stream)
    if image.format in ("PPM", "BMP") and image.tile and image.tile[0][0] not in ("raw", "ppm"):
        return 2 * pixels * len(image.getbands())  # bytes that Python collects
    return 0


def _jpeg_bytes(image: ImageFile.ImageFile, pixels: int, stream: BinaryIO) -> int:
    """The coefficients that libjpeg keeps of a picture in several scans, 2 bytes each; SyntaxError for too many scans.

    ``image.layer`` has each component's horizontal and vertical sampling.
    """
    layers: list[tuple[int, int, int, int]] = getattr(image, "layer", [])
    at = stream.tell()  # behind the first scan's header
    stream.seek(max(0, at - 16))  # which has 16 bytes for four components
    ends = stream.read(min(at, 16))
    start = ends.rfind(b"\xff\xda")
    in_first = ends[start + 4] if 0 <= start < len(ends) - 4 else 0
    stream.seek(at)
    if "progressive" not in image.info and in_first == len(layers):
        return 0
    # In the pixels FF is followed by 00 or a marker: whatever looks like a scan's header is one.
    scans, last = 1, b""
    while piece := stream.read(1 << 20):
        scans += (last + piece).count(b"\xff\xda")
        last = piece[-1:]
    stream.seek(at)
    if scans * pixels > MAX_SCANS_PIXELS:
        raise SyntaxError(f"it is sent in {scans} scans")
    across, down = max((layer[1] for layer in layers), default=1), max((layer[2] for layer in layers), default=1)
    return 2 * pixels * sum(layer[1] * layer[2] for layer in layers) // max(1, across * down)


def _tiff_bytes(image: ImageFile.ImageFile, stream: BinaryIO) -> int:
    """The compressed bytes and one strip or tile, which may be larger than the picture (TIFF 6.0, section 15)."""
    tags: Any = getattr(image, "tag_v2", {})
    if tags.get(259, 1) == 1:  # Compression
        return 0
    width, height = image.size
    sides = (tags.get(322, width), tags.get(323, height)) if 322 in tags else (width, tags.get(278, height))
    if not all(isinstance(side, int) and side > 0 for side in sides):
        raise SyntaxError("a strip or tile of no pixels")
    strip: int = sides[0] * (sides[1] if 322 in tags else min(sides[1], height))
    return 2 * strip * max(4, len(image.getbands())) + min(_length(stream), MAX_FILE_BYTES)


def _length(stream: BinaryIO) -> int:
    at = stream.tell()
    end = stream.seek(0, os.SEEK_END)
    stream.seek(at)
    return end


class _Budget:
    """``MAX_DECODED_BYTES`` for all threads of the process."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._used = 0

    def take(self, amount: int) -> None:
        with self._turn:
            while self._used and self._used + amount > MAX_DECODED_BYTES:
                self._turn.wait()
            self._used += amount

    def give_back(self, amount: int) -> None:
        with self._turn:
            self._used -= amount
            self._turn.notify_all()


_BUDGET = _Budget()


class _Taken(threading.local):
    """What this thread has of the budget, and whether it keeps it until the end of a block."""

    amount = 0
    keeps = False


_taken = _Taken()


@contextmanager
def memory_for(needed: int) -> Iterator[None]:
    """Wait until there is so much memory for this thread's picture; what decodes in little never waits."""
    # Whoever has some already is not made to wait, for others may be waiting for that.
    amount = 0 if needed < _PASSING or _taken.amount else min(needed, MAX_DECODED_BYTES)
    if amount:
        _BUDGET.take(amount)
        _taken.amount = amount
        if amount >= _TRIMMED:
            _trim()
    try:
        yield
    finally:
        if amount and not _taken.keeps:
            _give_back()


@contextmanager
def one_picture() -> Iterator[None]:
    """A block that reads a picture and is done with its pixels at the end: as long they count in the budget."""
    _taken.keeps = True
    try:
        yield
    finally:
        _taken.keeps = False
        _give_back()


def _give_back() -> None:
    amount, _taken.amount = _taken.amount, 0
    if amount:
        if amount >= _TRIMMED:
            _trim()
        _BUDGET.give_back(amount)


def _trim() -> None:
    """Give freed memory back to the system: glibc keeps it for each thread apart, where no other finds it."""
    import ctypes

    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # another C library
        return
