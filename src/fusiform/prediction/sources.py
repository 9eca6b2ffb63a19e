"""Where pictures come from: files, folders, patterns, addresses, standard input and memory."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from fusiform.data.image import find_images, is_of_system, natural_key
from fusiform.errors import ImageError

Source = str | os.PathLike[str] | bytes | Image.Image


DOWNLOAD_LIMIT = 64 * 2**20
"""Bytes; an address that sends more is no photograph."""


DOWNLOAD_SECONDS = 60


STALL_SECONDS = 15
"""How long a download may take as a whole, and how long the server may send nothing."""


class Picture(NamedTuple):
    """A picture not yet read: the name to show for it, and what gives its file, bytes or image, or raises.

    ``keep`` asks for a thumbnail with the answer; ``fleeting`` says that it cannot be read a second time.
    """

    path: str
    fetch: Callable[[], Source]
    keep: bool = False
    fleeting: bool = False


def stem_of(path: str) -> str:
    """What a file about the picture may be called, from its file or address, without an ending; never empty."""
    name = path
    if name.lower().startswith(("http://", "https://")):
        from urllib.parse import unquote, urlsplit

        try:
            name = unquote(urlsplit(name).path)
        except ValueError:  # an address of no known form
            name = ""
    # What some file system or other does not take, and the ends that Windows drops.
    stem = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", Path(name).stem).rstrip(" .")
    return "picture" if stem in ("", "-") else stem


def find_pictures(sources: Source | Iterable[Source]) -> Iterator[Picture]:
    """Every picture that the sources stand for, in their order, none of them read yet."""
    if isinstance(sources, (str, os.PathLike, bytes, Image.Image)):
        sources = (sources,)
    for source in sources:
        if isinstance(source, bytes):
            yield Picture("<bytes>", partial(_same, source), fleeting=True)
        elif isinstance(source, Image.Image):
            yield Picture(str(getattr(source, "filename", "")) or "<image>", partial(_same, source), fleeting=True)
        else:
            yield from _find_named(os.fspath(source))


def _find_named(name: str) -> Iterator[Picture]:
    if name == "-":
        # Here and not in a worker, so that Ctrl-C can interrupt the wait for input; closed, it is None.
        yield Picture(name, partial(_same, sys.stdin.buffer.read() if sys.stdin else b""), fleeting=True)
    elif name.lower().startswith(("http://", "https://")):
        yield Picture(name, partial(_download, name), fleeting=True)
    elif os.path.isdir(name):  # noqa: PTH112  # Path("./a") would not show the name as it was given
        yield from _find_in_folder(name)
    elif os.path.exists(name) or not any(c in name for c in "*?["):  # noqa: PTH110  # as above
        yield Picture(name, partial(_same, name))
    else:
        yield from _find_matches(name)


def _find_in_folder(folder: str) -> Iterator[Picture]:
    unlisted: list[str] = []
    try:
        unread: list[Path] = []
        files = find_images(Path(folder), unlisted=unlisted, unread=unread)
        # Named like all the others, so that whoever opens them says that they are not read.
        files = (
            sorted([*files, *unread], key=lambda path: [natural_key(part) for part in path.parts]) if unread else files
        )
    except OSError as error:
        yield Picture(folder, partial(_fail, str(error)))
        return
    for message in unlisted:
        yield Picture(folder, partial(_fail, message))
    if not files and not unlisted:
        yield Picture(folder, partial(_fail, f"{folder}: no pictures in this folder"))
    for path in files:
        yield Picture(str(path), partial(_same, path))


def _find_matches(pattern: str) -> Iterator[Picture]:
    import glob

    matches = sorted(glob.glob(pattern, recursive=True), key=natural_key)  # noqa: PTH207  # the pattern may be absolute
    if not matches:
        yield Picture(pattern, partial(_fail, f"{pattern}: no file matches this pattern"))
    for match in matches:
        if is_of_system(os.path.basename(match)):  # noqa: PTH119
            continue
        if os.path.isdir(match):  # noqa: PTH112
            yield from _find_in_folder(match)
        else:
            yield Picture(match, partial(_same, match))


def _same(source: Source) -> Source:
    return source


def _fail(message: str) -> Source:
    raise ImageError(message)


def _download(address: str) -> bytes:
    """The bytes at an http(s) address; whatever goes wrong on the way is an ImageError that names the address."""
    # Imported only for addresses: it takes longer than naming a picture.
    import time
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.parse import quote, urlsplit, urlunsplit
    from urllib.request import Request, urlopen

    if os.environ.get("FUSIFORM_OFFLINE", "0") not in ("", "0"):
        raise ImageError(f"{address}: not fetched, because FUSIFORM_OFFLINE is set")
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    received = bytearray()
    try:
        parts = urlsplit(address)
        # Addresses are often pasted with the spaces and letters that a browser shows.
        path, query = (quote(part, safe="/%:@!$&'()*+,;=?~") for part in (parts.path, parts.query))
        encoded = urlunsplit((parts.scheme, parts.netloc, path, query, ""))
        with urlopen(Request(encoded, headers={"User-Agent": "fusiform"}), timeout=STALL_SECONDS) as response:
            while piece := response.read1(2**16):
                received += piece
                if len(received) > DOWNLOAD_LIMIT:
                    raise ImageError(f"{address}: larger than {DOWNLOAD_LIMIT >> 20} MiB; download and shrink it first")
                if time.monotonic() > deadline:
                    raise ImageError(f"{address}: not complete after {DOWNLOAD_SECONDS} seconds; try again later")
            expected = response.headers.get("Content-Length")
    except HTTPError as error:
        with error:
            raise ImageError(f"{address}: the server answered {error.code} {error.reason}: check the address") from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ImageError(f"{address}: cannot be fetched: {reason or type(error).__name__}") from None
    if expected is not None and expected.isdecimal() and len(received) < int(expected):
        raise ImageError(f"{address}: broke off after {len(received)} of {expected} bytes; try again")
    return bytes(received)
