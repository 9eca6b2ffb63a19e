"""Where frames come from: video files, devices, network streams, and JPEG pictures on standard input."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fusiform.data.image import read_image
from fusiform.errors import InputError, UsageError
from fusiform.prediction.streams import mjpeg
from fusiform.prediction.streams.frames import Frame, Pick, clock
from fusiform.prediction.streams.live import STALL_SECONDS, Newest, Read

_FOREVER = 10 * 365 * 86400.0
_HEADER_SECONDS = 30.0
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # one letter is a drive of Windows
_NETWORK = "http,https,httpproxy,tcp,tls,crypto,data"
_STREAMS = {
    "rtsp": "rtsp,rtsps,rtp,rtcp,srtp,udp,tcp,tls,http,https,httpproxy",
    "rtsps": "rtsp,rtsps,rtp,rtcp,srtp,udp,tcp,tls,http,https,httpproxy",
    "rtmp": "rtmp,tcp",
    "rtmps": "rtmps,rtmp,tls,tcp",
    "srt": "srt,udp",
    "udp": "udp",
    "rtp": "rtp,udp,rtcp",
    "tcp": "tcp",
}
"""FFmpeg's protocols that each kind of address may use: a stream can name further addresses, and no files of ours."""


class Opened(NamedTuple):
    """A source of frames: what it is called, the frames, and whether they come by themselves."""

    shown: str
    frames: Iterator[Frame]
    newest: Newest | None


def open_source(source: str | os.PathLike[str], pick: Pick, *, reconnect: float) -> Opened:
    """The frames of a file, a device (``/dev/video0``), an address, or standard input (``-``).

    Raises UsageError for what is none of these, InputError for a file that is not there or an address that must not be
    asked because ``FUSIFORM_OFFLINE`` is set; what cannot be read is told with the first frame.
    """
    name = os.fspath(source)
    if name == "-":
        return _standard_input(pick)
    if (scheme := _SCHEME.match(name)) and scheme[1].lower() != "file":
        return _address(name, scheme[1].lower(), pick, reconnect)
    if scheme or name.lower().startswith("file:/"):
        from urllib.parse import urlsplit
        from urllib.request import url2pathname

        name = url2pathname(urlsplit(name).path)
    try:
        mode = Path(name).stat().st_mode
    except FileNotFoundError:
        raise InputError(f"{name}: no such file: check the path") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{name}: is a folder: name a video in it; fusiform watch answers a folder's images")
    address = f"file:{name}"  # whatever its name looks like, it is a file
    if stat.S_ISCHR(mode):
        if not sys.platform.startswith("linux"):
            raise InputError(f"{name}: devices are read on Linux: send its frames to standard input, as --video -")
        connect = partial(_live, name, name, protocols="file", kind="v4l2")
        return _newest(connect, name, pick, reconnect)
    if stat.S_ISFIFO(mode):
        return _newest(partial(_live, address, name, protocols="file"), name, pick, reconnect, again=False)
    return Opened(name, _frames(address, name, pick, "file,crypto,data"), None)


def _standard_input(pick: Pick) -> Opened:
    if sys.stdin is None:
        raise InputError("-: standard input is closed")
    if sys.stdin.isatty():
        raise UsageError("--video - reads JPEG pictures from a pipe: rpicam-vid -t 0 --codec mjpeg -o - | fusiform ...")
    if stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode):  # a file waits: all of it is answered
        return Opened("-", _of_pictures("-", pick), None)

    def connect() -> Generator[Read, None, None]:
        for data in mjpeg.of_standard_input():
            yield partial(read_image, data, name="-")

    return _newest(connect, "-", pick, 0, again=False)


def _of_pictures(shown: str, pick: Pick) -> Iterator[Frame]:
    """The pictures of a file that has nothing else in it, and no times: 25 a second, as FFmpeg takes them."""
    for number, data in enumerate(mjpeg.of_standard_input()):
        if pick(number, number / 25):
            yield Frame(number, number / 25, partial(read_image, data, name=shown))


def _address(address: str, scheme: str, pick: Pick, reconnect: float) -> Opened:
    from fusiform.zoo.web import without_password

    shown = without_password(address)
    if scheme not in (*_STREAMS, "http", "https"):
        raise UsageError(f"{shown}: {scheme} is not read; --video takes {', '.join(('http', 'https', *_STREAMS))}")
    if os.environ.get("FUSIFORM_OFFLINE", "0") not in ("", "0"):
        raise InputError(f"{shown}: not fetched, because FUSIFORM_OFFLINE is set")
    if scheme in _STREAMS:
        options = {"fflags": "nobuffer", "flags": "low_delay"}
        if scheme.startswith("rtsp"):
            options["rtsp_flags"] = "prefer_tcp"  # by UDP, which is FFmpeg's first choice, packets are lost
        connect = partial(_live, address, shown, protocols=_STREAMS[scheme], options=options)
        return _newest(connect, shown, pick, reconnect)
    if _sends_pictures(address, shown):
        return _newest(partial(_over_http, address, shown), shown, pick, reconnect)
    if re.search(r"\.m3u8($|\?)", address.lower()):  # a list that grows
        return _newest(partial(_live, address, shown, protocols=f"hls,{_NETWORK}"), shown, pick, reconnect)
    return Opened(shown, _frames(address, shown, pick, _NETWORK, stall=3 * STALL_SECONDS), None)


def _newest(
    connect: Callable[[], Generator[Read, None, None]], shown: str, pick: Pick, reconnect: float, *, again: bool = True
) -> Opened:
    newest = Newest(connect, shown, pick, reconnect=reconnect, again=again)
    return Opened(shown, iter(newest), newest)


def _sends_pictures(address: str, shown: str) -> bool:
    """Whether an http address sends JPEG after JPEG, as network cameras and phones do."""
    with _http(address, shown) as response:
        kind: str = response.headers.get_content_type()
        return kind == "multipart/x-mixed-replace"


def _over_http(address: str, shown: str) -> Generator[Read, None, None]:
    with _http(address, shown) as response:
        for data in mjpeg.pictures(lambda: response.read1(mjpeg.PIECE)):
            yield partial(read_image, data, name=shown)


class _http:  # noqa: N801  # a context manager, as a function's name
    """The open address; what goes wrong becomes an InputError that names it."""

    def __init__(self, address: str, shown: str) -> None:
        from fusiform.zoo.web import opened

        self._address, self._shown = address, shown
        self._opened = opened(address, stall=STALL_SECONDS, seconds=_FOREVER, header_seconds=_HEADER_SECONDS)

    def __enter__(self) -> Any:
        from http.client import HTTPException

        try:
            return self._opened.__enter__()
        except (OSError, HTTPException, ValueError) as error:
            raise self._told(error) from None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        from http.client import HTTPException

        try:
            self._opened.__exit__(kind, error, traceback)
        except (OSError, HTTPException, ValueError) as raised:
            raise self._told(raised) from None

    def _told(self, error: BaseException) -> InputError:
        from urllib.error import HTTPError

        from fusiform.zoo.web import reason_for, reason_of

        if isinstance(error, HTTPError):
            with error:
                return InputError(f"{self._shown}: the server answered {error.code} {reason_of(error)}")
        return InputError(f"{self._shown}: cannot be fetched: {reason_for(error, self._address)}")


def _live(address: str, shown: str, **how: Any) -> Generator[Read, None, None]:
    """What reads each frame of a device or a stream; those that arrive damaged are passed over."""
    from fusiform.prediction.streams.container import opened, reader

    with opened(address, shown, stall=STALL_SECONDS, **how) as video:
        for frame in video.decoded():
            if not isinstance(frame, BaseException):
                yield reader(frame, shown)


def _frames(address: str, shown: str, pick: Pick, protocols: str, *, stall: float | None = None) -> Iterator[Frame]:
    """The picked frames of a video that waits for whoever reads it, and its faults."""
    from fusiform.prediction.streams.container import opened, reader, reason

    with opened(address, shown, protocols=protocols, stall=stall) as video:
        number, seconds = 0, 0.0
        for frame in video.decoded():
            if isinstance(frame, BaseException):
                words = reason(frame)
                if "damaged" in words:
                    words = "is damaged"
                yield Frame(None, seconds, None, f"{shown}: after {clock(seconds)}: {words}")
            else:
                seconds = video.seconds(frame, number)
                if pick(number, seconds):
                    yield Frame(number, seconds, reader(frame, shown))
            # What a damaged packet held counts, so that frames behind it keep their numbers where each packet has one.
            number += 1
        if not number:
            raise InputError(f"{shown}: there is no frame in it")
