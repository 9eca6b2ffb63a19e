"""TIFF pictures of every depth: Pillow reads those of 8 bits and less, this file the deeper ones."""

from __future__ import annotations

import io
import logging
import math
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

from fusiform.data.deep import grey_levels, in_strips
from fusiform.data.image import DeepScale, UnreadKindError

_BAND_BYTES = 16 << 20
"""About as much is decoded at a time, in whole strips or tiles."""

# Tags and values of TIFF 6.0.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES, _MAX_SAMPLE = 273, 274, 277, 278, 279, 281
_PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 284, 317, 322, 323, 324, 325
_EXTRA_SAMPLES, _SAMPLE_FORMAT, _SMIN, _SMAX, _ICC_PROFILE = 338, 339, 340, 341, 34675
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK = 0, 1, 2, 5
_COLOURS = {_WHITE_IS_ZERO: ("L", 1), _BLACK_IS_ZERO: ("L", 1), _RGB: ("RGB", 3), _CMYK: ("CMYK", 4)}
# Those that give the bytes back that went in: none, LZW, Deflate under both of its numbers, PackBits, LZMA, Zstandard.
_BYTEWISE = (1, 5, 8, 32946, 32773, 34925, 50000)
_TYPES = {_UNSIGNED: "u", _SIGNED: "i", _FLOAT: "f"}
_DEPTHS = {_UNSIGNED: (8, 10, 12, 14, 16, 32, 64), _SIGNED: (16, 32), _FLOAT: (16, 32, 64)}


@lru_cache(maxsize=1)
def _silence_readers() -> None:
    """Keep what libtiff and Pillow's reader say on standard error to themselves: it names no file, and the error does.

    libtiff's handlers are one for the process (TIFFError(3tiff)), and the library is the one that Pillow has loaded.
    Pillow's logger is heard no more only where a program has not asked for logs.
    """
    import ctypes

    TiffImagePlugin.logger.addHandler(logging.NullHandler())
    try:
        with open("/proc/self/maps", encoding="utf-8") as maps:  # noqa: PTH123
            paths = {line.split(maxsplit=5)[-1].strip() for line in maps if "/libtiff" in line}
        for path in paths:
            library = ctypes.CDLL(path)
            for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
                setter = getattr(library, name)
                setter.argtypes, setter.restype = (ctypes.c_void_p,), ctypes.c_void_p
                setter(None)
    except (OSError, AttributeError):  # another system, where its lines are seen
        return


def open_tiff(stream: BinaryIO) -> ImageFile.ImageFile:
    """A TIFF picture, nothing decoded yet; UnreadKindError for a kind that would be read wrong or not at all."""
    _silence_readers()
    tags = _first_directory(stream)
    if _is_deep(tags) or _has_strange_planes(tags):
        return DeepTiff(stream)
    stream.seek(0)
    try:
        return TiffImagePlugin.TiffImageFile(stream)
    except SyntaxError as error:
        # So Pillow says that it has no way of reading these tags; damage has other words.
        if "unknown" not in str(error) or not {_WIDTH, _HEIGHT, _PHOTOMETRIC} <= tags.keys():
            raise
        raise UnreadKindError(_describe(tags)) from error


class DeepTiff(ImageFile.ImageFile):
    """A picture of more than 8 bits, of signed or floating-point samples or odd planes, read as 8 bits a channel.

    ``tag_v2`` has its tags. ``scale`` is there after ``load``; None where it comes from the samples themselves, as that
    of floating-point and signed ones does.
    """

    format = "TIFF"
    format_description = "TIFF of more than 8 bits"
    scale: DeepScale | None = None

    def _open(self) -> None:
        self.tag_v2 = tags = _first_directory(cast(BinaryIO, self.fp))
        if not {_WIDTH, _HEIGHT, _PHOTOMETRIC} <= tags.keys():
            raise SyntaxError("its directory is cut short")
        self._kind, self._depth = _number(tags, _SAMPLE_FORMAT, _UNSIGNED), _number(tags, _BITS, 1)
        self._samples, photometric = _number(tags, _SAMPLES, 1), _number(tags, _PHOTOMETRIC, -1)
        if (
            not _alike(tags, _BITS)
            or not _alike(tags, _SAMPLE_FORMAT)
            or self._depth not in _DEPTHS.get(self._kind, ())
            or photometric not in _COLOURS
            or _number(tags, _COMPRESSION, 1) not in _BYTEWISE
            or _number(tags, _FILL_ORDER, 1) != 1
            or _number(tags, _PREDICTOR, 1) not in ((1, 3) if self._kind == _FLOAT else (1, 2))
            or (_number(tags, _PREDICTOR, 1) != 1 and self._depth % 8)
        ):
            raise UnreadKindError(_describe(tags))
        colours, self._channels = _COLOURS[photometric]
        extra = tags.get(_EXTRA_SAMPLES, ())
        if not self._channels <= self._samples <= 8:
            raise UnreadKindError(_describe(tags))
        # Associated (1) and unassociated (2) alpha; without the tag one further sample is taken for alpha, as Pillow
        # does of 8 bits. Others mean nothing to a picture.
        self._alpha = colours != "CMYK" and self._samples > self._channels
        if _EXTRA_SAMPLES in tags:
            self._alpha = self._alpha and bool(extra) and extra[0] in (1, 2)
        else:
            self._alpha = self._alpha and self._samples == self._channels + 1
        associated = self._alpha and bool(extra) and extra[0] == 1
        self._inverted = photometric == _WHITE_IS_ZERO
        self._mode = colours + (("a" if associated else "A") if self._alpha else "")
        self._size = _number(tags, _WIDTH, 0), _number(tags, _HEIGHT, 0)
        if min(self._size) < 1:
            raise SyntaxError("a side of no pixels")
        if isinstance(profile := tags.get(_ICC_PROFILE), bytes):
            self.info["icc_profile"] = profile
        self.tile = []
        pieces, shape = _Pieces.of(tags, self._size, self._samples, self._depth), (*self._size, self._samples)
        levels = math.prod(self._size) * (self._channels + self._alpha)
        # The samples and a band of them on its way, or their levels.
        self.decoding_bytes = math.prod(shape) * max(self._depth, 16) // 8 + max(4 * pieces.band_bytes, levels)

    def load(self) -> Any:
        """Decode the picture, once."""
        if self._im is None:
            values = _samples(cast(BinaryIO, self.fp), self.tag_v2, self._size, self._samples, self._depth, self._kind)
            pixels = np.empty((*values.shape[:2], self._channels + self._alpha), np.uint8)
            pixels[..., : self._channels] = self._levels(values[..., : self._channels])
            if self._inverted:
                np.subtract(255, pixels[..., : self._channels], out=pixels[..., : self._channels])
            if self._alpha:
                pixels[..., self._channels :] = self._levels(
                    values[..., self._channels : self._channels + 1], alpha=True
                )
            del values
            self.im = Image.frombuffer(self.mode, self.size, pixels, "raw", self.mode, 0, 1).im
        return self.im.pixel_access(self.readonly)

    def getexif(self) -> Image.Exif:
        exif = Image.Exif()
        exif[_ORIENTATION] = self.tag_v2.get(_ORIENTATION, 1)
        return exif

    def _levels(self, values: NDArray[Any], *, alpha: bool = False) -> NDArray[np.uint8]:
        """The samples in 0..255, by what the file declares of them and else by what their type holds."""
        declared = _declared(self.tag_v2)
        if self._kind == _UNSIGNED:
            full = type_full = 2**self._depth - 1
            if not alpha:
                largest = int(values.max())
                if declared is not None and max(1, largest) <= declared[1] < full:
                    full = int(declared[1])
                self.scale = DeepScale(largest, full, type_full)
            if full == type_full:
                return in_strips(values, lambda rows: rows >> (self._depth - 8))
            return in_strips(values, lambda rows: np.rint(rows * (255 / full)))
        if alpha:  # it holds 0 to 1, or as much as its type
            ends = (0.0, 1.0 if self._kind == _FLOAT and values.max() <= 1 else float(values.max()))
        elif declared is not None and declared[0] < declared[1]:
            ends = declared
        elif self._kind == _SIGNED and self._depth == 16 and values.min() >= 0:
            ends = (0.0, 32767.0)
        else:
            return grey_levels(values)

        def within(rows: NDArray[Any]) -> NDArray[Any]:
            finite = np.where(np.isfinite(rows), rows, 0).astype(np.float64)
            levels: NDArray[Any] = np.rint(((finite - ends[0]) / ((ends[1] - ends[0]) or 1)).clip(0, 1) * 255)
            return levels

        return in_strips(values, within)


def _first_directory(stream: BinaryIO) -> TiffImagePlugin.ImageFileDirectory_v2:
    stream.seek(0)
    head = stream.read(8)
    if head[2:3] == b"+" or head[3:4] == b"+":  # BigTIFF has an offset of 8 bytes
        head += stream.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(head)
    stream.seek(tags.next)
    tags.load(stream)
    return tags


def _number(tags: TiffImagePlugin.ImageFileDirectory_v2, tag: int, default: int) -> int:
    value = tags.get(tag, default)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else default


def _numbers(tags: TiffImagePlugin.ImageFileDirectory_v2, tag: int) -> tuple[int, ...]:
    value = tags.get(tag, ())
    return value if isinstance(value, tuple) else (value,)


def _alike(tags: TiffImagePlugin.ImageFileDirectory_v2, tag: int) -> bool:
    return len(set(_numbers(tags, tag))) <= 1


def _is_deep(tags: TiffImagePlugin.ImageFileDirectory_v2) -> bool:
    return max(_numbers(tags, _BITS), default=1) > 8 or any(
        kind != _UNSIGNED for kind in _numbers(tags, _SAMPLE_FORMAT)
    )


def _has_strange_planes(tags: TiffImagePlugin.ImageFileDirectory_v2) -> bool:
    """Whether these are 8 bits of separate planes or of grey with alpha, of which Pillow reads only a few."""
    samples = _number(tags, _SAMPLES, 1)
    return (
        set(_numbers(tags, _BITS)) == {8}
        and _number(tags, _PHOTOMETRIC, -1) in _COLOURS
        and _number(tags, _COMPRESSION, 1) in _BYTEWISE
        and _number(tags, _FILL_ORDER, 1) == 1
        and (samples == 2 or (samples > 1 and _number(tags, _PLANAR, 1) == 2))
    )


def _describe(tags: TiffImagePlugin.ImageFileDirectory_v2) -> str:
    bits = " + ".join(map(str, dict.fromkeys(_numbers(tags, _BITS)))) or "1"
    kinds = {_UNSIGNED: "", _SIGNED: " signed", _FLOAT: " floating-point"}
    return (
        f"{_number(tags, _SAMPLES, 1)} x {bits}{kinds.get(_number(tags, _SAMPLE_FORMAT, 1), ' other')} bits, "
        f"photometric {_number(tags, _PHOTOMETRIC, -1)}, compression {_number(tags, _COMPRESSION, 1)}"
    )


def _declared(tags: TiffImagePlugin.ImageFileDirectory_v2) -> tuple[float, float] | None:
    """The range of the samples that the file states, or None.

    MaxSampleValue is meant for statistics (TIFF 6.0, section 8): it counts where it is what some number of bits holds.
    """
    low, high = tags.get(_SMIN, 0), tags.get(_SMAX)
    low = min(low) if isinstance(low, tuple) and low else low
    high = max(high) if isinstance(high, tuple) and high else high
    if high is None and (most := _number(tags, _MAX_SAMPLE, 0)) > 255 and not most & (most + 1):
        high = most
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        return None
    return (float(low), float(high)) if math.isfinite(low) and math.isfinite(high) else None


class _Pieces(NamedTuple):
    """The strips or tiles of a picture: their size in pixels, bytes a row, their numbers a plane, and the planes."""

    width: int
    height: int
    row_bytes: int
    across: int
    down: int
    planes: int
    tiled: bool
    rows: int
    """How many rows of strips or tiles make a band."""

    @property
    def band_bytes(self) -> int:
        return self.across * self.row_bytes * self.height * self.rows

    @classmethod
    def of(
        cls, tags: TiffImagePlugin.ImageFileDirectory_v2, size: tuple[int, int], samples: int, depth: int
    ) -> _Pieces:
        """SyntaxError for those without a size."""
        width, height = size
        planes = samples if samples > 1 and _number(tags, _PLANAR, 1) == 2 else 1
        tiled = _TILE_WIDTH in tags
        piece_width, piece_height = width, min(height, _number(tags, _ROWS_PER_STRIP, height))
        if tiled:
            piece_width, piece_height = _number(tags, _TILE_WIDTH, 0), _number(tags, _TILE_HEIGHT, 0)
        if min(piece_width, piece_height) < 1:
            raise SyntaxError("a strip or tile of no pixels")
        row_bytes = -(-piece_width * (samples // planes) * depth // 8)
        if not tiled and piece_height == height and _number(tags, _COMPRESSION, 1) == 1:
            # A single strip of plain bytes is as many as one likes.
            piece_height = max(1, min(height, _BAND_BYTES // row_bytes))
        # Whole tiles, for the sums of a predictor run over those beyond the edge too.
        across, down = -(-width // piece_width), -(-height // piece_height)
        rows = max(1, min(down, _BAND_BYTES // (across * row_bytes * piece_height)))
        return cls(piece_width, piece_height, row_bytes, across, down, planes, tiled, rows)


def _samples(
    stream: BinaryIO,
    tags: TiffImagePlugin.ImageFileDirectory_v2,
    size: tuple[int, int],
    samples: int,
    depth: int,
    kind: int,
) -> NDArray[Any]:
    """The samples (height, width, samples) of the first picture, unsigned ones widened to 16 bits at least."""
    width, height = size
    pieces = _Pieces.of(tags, size, samples, depth)
    together, a_plane = samples // pieces.planes, pieces.across * pieces.down
    offsets, lengths = _places(tags, pieces, height)
    compression, order = _number(tags, _COMPRESSION, 1), ">" if tags.prefix == b"MM" else "<"
    type_ = np.dtype(np.uint16 if kind == _UNSIGNED and depth <= 16 else f"{_TYPES[kind]}{depth // 8}")
    values: NDArray[Any] = np.empty((height, width, samples), type_)
    for plane in range(pieces.planes):
        channels = slice(plane, plane + 1) if pieces.planes > 1 else slice(None)
        for first in range(0, pieces.down, pieces.rows):
            last = min(first + pieces.rows, pieces.down)
            these = range(plane * a_plane + first * pieces.across, plane * a_plane + last * pieces.across)
            parts = [_piece(stream, offsets[k], lengths[k], pieces.row_bytes * pieces.height) for k in these]
            top, bottom = first * pieces.height, last * pieces.height
            stored = bottom - top if pieces.tiled else min(bottom, height) - top
            shape = (pieces.across * pieces.row_bytes, stored)
            rows = _unpack(parts, compression, shape, (pieces.row_bytes, pieces.height), tiled=pieces.tiled)
            for k in range(pieces.across):
                left, right = k * pieces.width, min((k + 1) * pieces.width, width)
                bytes_ = rows[:, k * pieces.row_bytes : (k + 1) * pieces.row_bytes]
                typed = _typed(bytes_, pieces.width, together, depth, kind, order, tags)
                values[top : min(bottom, height), left:right, channels] = typed[: height - top, : right - left]
    return values


def _places(
    tags: TiffImagePlugin.ImageFileDirectory_v2, pieces: _Pieces, height: int
) -> tuple[Sequence[int], Sequence[int]]:
    """The offset and length in bytes of each strip or tile; EOFError where some are missing."""
    offsets = _numbers(tags, _TILE_OFFSETS if pieces.tiled else _STRIP_OFFSETS)
    lengths = _numbers(tags, _TILE_BYTES if pieces.tiled else _STRIP_BYTES)
    whole = [
        pieces.row_bytes * min(pieces.height, height - top)
        for top in range(0, pieces.down * pieces.height, pieces.height)
    ]
    if _number(tags, _COMPRESSION, 1) == 1 and not pieces.tiled:
        if not lengths:  # old writers leave them out
            lengths = tuple(whole) * pieces.planes
        elif len(lengths) == len(offsets) == pieces.planes < pieces.planes * pieces.down:  # a single strip was divided
            if min(lengths) < sum(whole):
                raise EOFError("truncated: its strips are too short")
            lengths = tuple(whole) * pieces.planes
        if len(offsets) == pieces.planes < pieces.planes * pieces.down:
            step = whole[0]
            offsets = tuple(offset + k * step for offset in offsets for k in range(pieces.down))
    if min(len(offsets), len(lengths)) < pieces.planes * pieces.across * pieces.down:
        raise EOFError("truncated: some of its strips are missing")
    return offsets, lengths


def _piece(stream: BinaryIO, offset: int, length: int, whole: int) -> bytes:
    # What compression makes larger, it makes little larger.
    if not 0 <= length <= 2 * whole + 4096:
        raise SyntaxError("a strip or tile is longer than its pixels")
    stream.seek(offset)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError("truncated: a strip or tile ends early")
    return data


def _unpack(
    parts: list[bytes], compression: int, size: tuple[int, int], piece: tuple[int, int], *, tiled: bool
) -> NDArray[np.uint8]:
    """The bytes (rows, bytes a row) of a plane: Pillow undoes the compression of what it takes for an 8-bit picture."""
    if compression == 1 and not tiled:
        data = np.frombuffer(b"".join(parts), np.uint8)
        if data.size < size[0] * size[1]:
            raise EOFError("truncated: its strips are too short")
        return data[: size[0] * size[1]].reshape(size[1], size[0])
    body = io.BytesIO()
    body.write(b"II*\0" + bytes(4))
    offsets = []
    for part in parts:
        offsets.append(body.tell())
        body.write(part)
    places, lengths = (_TILE_OFFSETS, _TILE_BYTES) if tiled else (_STRIP_OFFSETS, _STRIP_BYTES)
    # Tiles are padded to 16 pixels (section 15), so that those of bytes are too.
    shape = {_TILE_WIDTH: (piece[0],), _TILE_HEIGHT: (piece[1],)} if tiled else {_ROWS_PER_STRIP: (piece[1],)}
    entries = {
        _WIDTH: (size[0],),
        _HEIGHT: (size[1],),
        _BITS: (8,),
        _COMPRESSION: (compression,),
        _PHOTOMETRIC: (1,),
        _SAMPLES: (1,),
        **shape,
        places: tuple(offsets),
        lengths: tuple(map(len, parts)),
    }
    end = body.tell()
    body.write(_directory(entries, end))
    body.seek(4)
    body.write(struct.pack("<I", end))
    body.seek(0)
    picture = TiffImagePlugin.TiffImageFile(body)
    picture.load()
    return np.asarray(picture)


def _directory(entries: dict[int, tuple[int, ...]], at: int) -> bytes:
    """A directory of whole numbers (LONG, section 2) that stands at ``at``."""
    table = struct.pack("<H", len(entries))
    beyond, behind = b"", at + 2 + 12 * len(entries) + 4
    for tag, values in sorted(entries.items()):
        data = struct.pack(f"<{len(values)}I", *values)
        if len(data) > 4:
            data, beyond = struct.pack("<I", behind + len(beyond)), beyond + data
        table += struct.pack("<HHI", tag, 4, len(values)) + data
    return table + bytes(4) + beyond


def _typed(
    rows: NDArray[np.uint8],
    width: int,
    samples: int,
    depth: int,
    kind: int,
    order: str,
    tags: TiffImagePlugin.ImageFileDirectory_v2,
) -> NDArray[Any]:
    """Rows of bytes as samples (rows, width, samples), their predictor undone (TIFF 6.0, section 14)."""
    predictor, height = _number(tags, _PREDICTOR, 1), len(rows)
    if depth % 8:  # packed without gaps, the highest bit first, whatever the byte order
        unpacked = np.empty((height, width * samples), np.uint16)
        weights = (1 << np.arange(depth)[::-1]).astype(np.uint16)
        for y in range(height):
            bits = np.unpackbits(rows[y])[: width * samples * depth].reshape(-1, depth)
            unpacked[y] = bits @ weights
        return unpacked.reshape(height, width, samples)
    size = depth // 8
    values: NDArray[Any]
    if predictor == 3:
        # Adobe's Technical Note 3: the bytes of a row by their weight, highest first, then their differences.
        summed = np.cumsum(rows.reshape(height, -1, samples), axis=1, dtype=np.uint8)
        data = summed.reshape(height, size, width * samples).transpose(0, 2, 1)
        values = np.ascontiguousarray(data).view(f">{_TYPES[kind]}{size}")
    else:
        values = np.ascontiguousarray(rows).view(f"{order}{_TYPES[kind]}{size}")
    values = values.reshape(height, width, samples)
    values = values.astype(values.dtype.newbyteorder("="))
    if predictor == 2:
        values = np.cumsum(values, axis=1, dtype=values.dtype)
    return values.astype(np.uint16) if kind == _UNSIGNED and size == 1 else values
