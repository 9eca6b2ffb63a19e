"""The video with the answers drawn on its frames."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from fusiform import files
from fusiform.errors import OutputError
from fusiform.prediction.formats import percent
from fusiform.prediction.streams.container import import_av, reason

if TYPE_CHECKING:
    from fusiform.prediction.answer import Answer

ENDINGS = (".mp4", ".mov", ".mkv")
TIME_BASE = Fraction(1, 90_000)
"""Seconds; what all usual frame rates are whole numbers of."""
LISTED = 3
"""Names on a frame that has neither boxes nor a mask."""


def check_place(path: str | os.PathLike[str]) -> None:
    """Make sure, before any work is done, that a video can be written there.

    Raises UsageError for another ending, OutputError where nothing can be written, and MissingExtraError.
    """
    files.check_place(path, ENDINGS, f"videos are saved as {', '.join(ENDINGS)}: let the name end in one of them")
    import_av("writing a video")


def drawn(image: Image.Image, answer: Answer) -> Image.Image:
    """The frame with its boxes, its mask and the names of what that shows, or its likeliest names."""
    from fusiform.drawing.overlay import draw_boxes, draw_mask, draw_names

    if answer.detections is not None:
        return draw_boxes(image, answer.detections)
    if answer.segmentation is not None:
        shares = [share for share in answer.segmentation.shares() if share.index]
        names = [(share.index, f"{share.name} {percent(share.share).strip()}") for share in shares]
        return draw_names(draw_mask(image, answer.segmentation), names)
    names = [(guess.index, f"{guess.name} {guess.probability:.0%}") for guess in answer.top[:LISTED]]
    if answer.prefix:
        names[0] = (names[0][0], answer.prefix + names[0][1])
    return draw_names(image, names)


class VideoFile:
    """A video that is written frame by frame, H.264, under another name until ``close`` renames it.

    All frames have the first one's size, less a row or column where that is odd. Nothing is left where writing fails.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        self._container: Any = None
        self._stream: Any = None
        self._size = (0, 0)
        self._last = -1
        self._resized = 0
        self._handle: Any = None

    def add(self, image: Image.Image, seconds: float) -> None:
        """Write a frame to be shown at a time, in seconds from the beginning; raises OutputError."""
        av = import_av("writing a video")
        try:
            if self._container is None:
                self._open(av, image)
            if _even(image.size) != self._size:
                image, self._resized = image.resize(self._size), self._resized + 1
            elif image.size != self._size:
                image = image.crop((0, 0, *self._size))
            frame = av.VideoFrame.from_image(image)
            # Times that do not grow, as of a stream that began anew, cannot be written.
            self._last = max(self._last + 1, round(seconds / TIME_BASE))
            frame.pts, frame.time_base = self._last, TIME_BASE
            self._container.mux(self._stream.encode(frame))
        except (av.FFmpegError, OSError) as error:
            self._discard()
            raise self._failed(error) from None

    def close(self) -> list[str]:
        """Complete the file and put it in its place; what there is to say of it. Raises OutputError."""
        if self._container is None:
            return []
        av = import_av("writing a video")
        container, self._container = self._container, None
        try:
            container.mux(self._stream.encode(None))
            container.close()
            files.put(self._handle, self._part, self._path)
            self._handle.close()
        except (av.FFmpegError, OSError) as error:
            self._discard()
            raise self._failed(error) from None
        notes = [f"{self._path}: has no sound"]
        if self._resized:
            width, height = self._size
            notes.append(f"{self._path}: {self._resized} frames of another size were brought to {width} x {height}")
        return notes

    def _open(self, av: Any, image: Image.Image) -> None:
        from glob import escape

        files.remove_leftovers(self._path.parent, f".{escape(self._path.name)}.*.part")
        self._handle = files.create(self._part)
        kind = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}[self._path.suffix.lower()]
        self._container = av.open(self._handle, "w", format=kind)
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self._stream = self._container.add_stream(codec, rate=30)
        self._size = _even(image.size)
        self._stream.width, self._stream.height = self._size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = self._stream.time_base = TIME_BASE

    def _discard(self) -> None:
        self._container = None
        if self._handle is not None:
            with suppress(OSError):
                self._handle.close()
        with suppress(OSError):
            self._part.unlink()

    def _failed(self, error: BaseException) -> OutputError:
        return OutputError(f"cannot write {self._path} ({reason(error)}): choose another place")


def _even(size: tuple[int, int]) -> tuple[int, int]:
    """The size that H.264 takes: its colours are of two by two pixels."""
    return max(2, size[0] - size[0] % 2), max(2, size[1] - size[1] % 2)
