"""One file from an address to a path: whole and verified, or not at all."""

from __future__ import annotations

import glob
import hashlib
import http.client
import os
import secrets
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path
from urllib.parse import urlsplit

from fusiform.errors import DownloadError
from fusiform.files import create, put, remove_leftovers
from fusiform.progress import Tracker
from fusiform.zoo.cache import holds
from fusiform.zoo.web import DeadlineError, length_of, opened, reason_for, reason_of, without_password

TIMEOUT_SECONDS = 30.0
"""How long a server may say nothing; a slow one that goes on sending is fine."""
HEADER_SECONDS = 60.0
DEADLINE_SECONDS = 3600.0
"""How long it may take to begin the file, redirects and all, and for the whole: a line of 5 kB a second is in time."""
RETRY_DELAYS = (1.0, 2.0, 4.0)
TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
CHUNK_BYTES = 1 << 16


def download(url: str, path: Path, expected: str, *, progress: Tracker, limit: int | None = None) -> str:
    """Bring the file at an http(s) or file address to ``path`` and return its SHA-256, 64 hexadecimal digits.

    ``expected`` is that hash or its first digits, empty where it is not known; no more than ``limit`` bytes are taken.
    The file is written under a name of its own in the same folder, checked, then renamed. What may pass (a server
    error, a broken or silent connection)
    is tried again after 1, 2 and 4 s. Raises DownloadError; nothing is left behind then.
    """
    shown = without_password(url)
    try:
        scheme = urlsplit(url).scheme.lower()
    except ValueError as error:
        raise DownloadError(
            f"{shown} is not an address ({reason_for(error, url)}): give one like https://host/file"
        ) from None
    if scheme not in ("http", "https", "file"):
        raise DownloadError(f"{shown}: only http, https and file addresses can be fetched")
    for delay in (*RETRY_DELAYS, None):
        try:
            return _attempt(url, path, expected, limit, progress)
        except (_AttemptError, DeadlineError) as error:  # noqa: PERF203  # the loop waits for a network
            if delay is None or isinstance(error, DeadlineError) or not error.transient:
                raise DownloadError(
                    f"{shown}: {error}. Nothing was kept. Try again later, name another base address or a folder in "
                    "FUSIFORM_MIRROR, or get the file by other means and give its path instead of a name"
                ) from None
            time.sleep(delay)
        except OSError as error:  # the network's are all _AttemptErrors by now
            raise DownloadError(
                f"cannot write {path} ({error.strerror or error}): make room, or set FUSIFORM_CACHE to another folder"
            ) from None
    raise AssertionError("the last attempt returns or raises")


class _AttemptError(Exception):
    """Why one attempt failed, and whether the next may do better."""

    def __init__(self, what: str, *, transient: bool = False) -> None:
        super().__init__(what)
        self.transient = transient


def _attempt(url: str, path: Path, expected: str, limit: int | None, progress: Tracker) -> str:
    # One name for each attempt of each process: nobody writes into another's file.
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    digest, received = hashlib.sha256(), 0
    with ExitStack() as stack:
        with _said_plainly(url):
            response, total = stack.enter_context(_open(url))
        most = sys.maxsize if limit is None else limit
        try:
            if total is not None and total > most:
                raise _AttemptError(f"it is {total:,} bytes long, and the file has no more than {most:,}")
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.parent, f"{glob.escape(path.name)}.*.part")
            with create(part) as file:
                with progress(total=total, label=path.name, unit="B") as bar:
                    while chunk := _read(response, url):
                        file.write(chunk)
                        digest.update(chunk)
                        received += len(chunk)
                        bar.advance(len(chunk))
                        if received > most:
                            raise _AttemptError(f"more than {most:,} bytes came, and the file has no more")
                if total is not None and received != total:
                    raise _AttemptError(
                        f"the connection broke off after {received:,} of {total:,} bytes", transient=True
                    )
                if received == 0:
                    raise _AttemptError("nothing came, the answer is empty")
                if not digest.hexdigest().startswith(expected.lower()):
                    raise _AttemptError(
                        f"{received:,} bytes came whose SHA-256 begins {digest.hexdigest()[: max(8, len(expected))]}, "
                        f"not {expected}: this is another file, perhaps a proxy's or a login page"
                    )
                try:
                    put(file, part, path)
                except PermissionError:  # Windows: another process fetched the same file and is reading it
                    if not holds(path, digest.hexdigest()):
                        raise
        finally:
            part.unlink(missing_ok=True)
    return digest.hexdigest()


@contextmanager
def _open(url: str) -> Iterator[tuple[BufferedReader | http.client.HTTPResponse, int | None]]:
    """The open address, and its length in bytes if that is known."""
    parts = urlsplit(url)
    if parts.scheme.lower() == "file":
        if parts.netloc not in ("", "localhost"):
            raise _AttemptError("a file address must name a local file, file:///...")
        path = Path(urllib.request.url2pathname(parts.path))
        if path.exists() and not path.is_file():
            raise _AttemptError("it is no file")
        with path.open("rb") as file:
            yield file, os.fstat(file.fileno()).st_size
        return
    with opened(url, stall=TIMEOUT_SECONDS, seconds=DEADLINE_SECONDS, header_seconds=HEADER_SECONDS) as response:
        yield response, length_of(response)


def _read(response: BufferedReader | http.client.HTTPResponse, url: str) -> bytes:
    with _said_plainly(url):
        return response.read1(CHUNK_BYTES)  # what has come; read would wait for the whole chunk on a slow line


@contextmanager
def _said_plainly(url: str) -> Iterator[None]:
    """Turn what the network raises into an _AttemptError that says it in words."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        raise _AttemptError(
            f"the server answers {error.code} {reason_of(error)}", transient=error.code in TRANSIENT_STATUS
        ) from None
    except DeadlineError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        inner = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(inner, TimeoutError):
            raise _AttemptError(f"the server said nothing for {TIMEOUT_SECONDS:g} s", transient=True) from None
        if isinstance(inner, ssl.SSLCertVerificationError):
            raise _AttemptError(
                f"the server's certificate is not trusted ({inner.verify_message}); update the system's certificates "
                "or point SSL_CERT_FILE at your organisation's"
            ) from None
        if isinstance(inner, FileNotFoundError):
            raise _AttemptError("there is no such file") from None
        broken = isinstance(inner, (ConnectionResetError, ConnectionAbortedError, BrokenPipeError, ssl.SSLEOFError))
        broken |= isinstance(inner, http.client.HTTPException) and not isinstance(inner, http.client.InvalidURL)
        raise _AttemptError(f"it cannot be fetched ({reason_for(error, url)})", transient=broken) from None
