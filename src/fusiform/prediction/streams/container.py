"""Frames of video files, devices and network streams, through PyAV (FFmpeg)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fusiform.data.limits import MAX_PIXELS, too_large
from fusiform.errors import ImageError, InputError, MissingExtraError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MOST_FAULTS = 1000
"""Damaged parts of a file in a row, after which the rest is given up."""

_ATTACHED_PICTURE = 0x400  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC
_TRANSPOSE = Image.Transpose
# The display matrix's first two rows, as signs, and what brings such a picture upright: (x, y) is shown at
# (a x + c y, b x + d y) (ISO/IEC 14496-12, 8.5.2; FFmpeg's libavutil/display.h).
_UPRIGHT = {
    (0, 1, -1, 0): _TRANSPOSE.ROTATE_270,
    (-1, 0, 0, -1): _TRANSPOSE.ROTATE_180,
    (0, -1, 1, 0): _TRANSPOSE.ROTATE_90,
    (-1, 0, 0, 1): _TRANSPOSE.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): _TRANSPOSE.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): _TRANSPOSE.TRANSPOSE,
    (0, -1, -1, 0): _TRANSPOSE.TRANSVERSE,
}


def import_av(purpose: str = "reading a video") -> Any:
    """PyAV; MissingExtraError where it is not installed."""
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "video", purpose) from None
    return av


class Video:
    """A video that is open: its first video stream, and its frames."""

    def __init__(self, container: InputContainer, stream: VideoStream, shown: str) -> None:
        self.container, self.stream, self.shown = container, stream, shown
        self.start = 0.0 if container.start_time is None else container.start_time / 1e6

    def decoded(self) -> Iterator[VideoFrame | BaseException]:
        """The frames in the order of their times, and in the place of what cannot be read the error that was met."""
        import av

        faults = 0
        packets = self.container.demux(self.stream)
        while faults < MOST_FAULTS:
            try:
                packet = next(packets)
            except (StopIteration, EOFError):
                return
            except av.FFmpegError as error:  # it ends the generator
                faults += 1
                yield error
                packets = self.container.demux(self.stream)
                continue
            try:
                frames = packet.decode()
            except EOFError:
                return
            except av.FFmpegError as error:
                faults += 1
                yield error
                continue
            for frame in frames:
                faults = 0
                yield frame

    def seconds(self, frame: VideoFrame, number: int) -> float:
        """When a frame is shown, from the beginning; by its number where the file has no times."""
        if frame.time is not None:
            return max(0.0, float(frame.time) - self.start)
        rate = self.stream.average_rate or self.stream.guessed_rate or 25
        return number / float(rate)


@contextmanager
def opened(
    address: str,
    shown: str,
    *,
    protocols: str,
    kind: str | None = None,
    options: Mapping[str, str] | None = None,
    stall: float | None = None,
) -> Iterator[Video]:
    """The video at an address, of which only those ``protocols`` of FFmpeg may be used, within the ``with`` block.

    ``shown`` is what messages call it, ``kind`` the device's format; a source that says nothing for ``stall`` seconds
    is given up. Raises InputError for what is no video.
    """
    av = import_av()
    given = {"protocol_whitelist": protocols, **(options or {})}
    try:
        container = av.open(address, format=kind, options=given, timeout=stall, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError(f"{shown}: {reason(error)}") from None
    with container:
        streams = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not streams:
            raise InputError(f"{shown}: there is no video in it")
        if streams[0].codec_context is None:
            raise InputError(f"{shown}: its video has a form that is not known: convert it, to H.264 perhaps")
        yield Video(container, streams[0], shown)


def _is_cover(stream: Any) -> bool:
    """Whether it is the picture of a record's cover."""
    return bool(int(getattr(stream, "disposition", 0)) & _ATTACHED_PICTURE)  # older versions of PyAV do not tell


def reason(error: BaseException) -> str:
    """What went wrong, in words without the address, which may have a password."""
    import av

    if isinstance(error, FileNotFoundError):
        return "no such file: check the path"
    if isinstance(error, PermissionError):
        return "may not be read (permission denied): change its permissions"
    if isinstance(error, av.error.InvalidDataError):
        return "is no video, or damaged: check that it plays"
    if isinstance(error, av.error.ExitError):
        return "nothing came in time"
    words = getattr(error, "strerror", None) or type(error).__name__
    return f"cannot be read ({words})"


def picture_of(frame: Any, shown: str) -> Image.Image:
    """The frame as an upright RGB picture; ImageError for one that is too large or has a form that is not known."""
    import av

    if frame.width * frame.height > MAX_PIXELS:
        raise too_large(shown, (frame.width, frame.height))
    try:
        image: Image.Image = frame.to_image()
    except (av.FFmpegError, ValueError) as error:
        raise ImageError(f"{shown}: a frame cannot be converted ({reason(error)})") from None
    turn = _turn(frame)
    return image if turn is None else image.transpose(turn)


def reader(frame: VideoFrame, shown: str) -> partial[Image.Image]:
    """What gives the frame's picture when it is asked for."""
    return partial(picture_of, frame, shown)


def _turn(frame: Any) -> Image.Transpose | None:
    """What the display matrix asks for; other angles than quarters are left as they are, as players do."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    values = np.frombuffer(bytes(data), "<i4")
    a, b, c, d = (int(np.sign(round(values[k] / 2**16))) for k in (0, 1, 3, 4))
    return _UPRIGHT.get((a, b, c, d))
