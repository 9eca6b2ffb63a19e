"""One file from an address to a path: whole and verified, or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import secrets
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import BufferedReader
from pathlib import Path
from urllib.parse import urlsplit

from fusiform.errors import DownloadError
from fusiform.progress import Tracker
from fusiform.zoo.cache import holds

TIMEOUT_SECONDS = 30.0
"""How long a server may say nothing; a slow one that goes on sending is fine."""
RETRY_DELAYS = (1.0, 2.0, 4.0)
TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
CHUNK_BYTES = 1 << 16


def download(url: str, path: Path, expected: str, *, progress: Tracker) -> str:
    """Bring the file at an http(s) or file address to ``path`` and return its SHA-256, 64 hexadecimal digits.

    ``expected`` is that hash or its first digits, empty where it is not known. The file is written under a name of
    its own in the same folder, checked, then renamed. What may pass (a server error, a broken or silent connection)
    is tried again after 1, 2 and 4 s. Raises DownloadError; nothing is left behind then.
    """
    try:
        scheme = urlsplit(url).scheme.lower()
    except ValueError as error:
        raise DownloadError(f"{url} is not an address ({error}): give one like https://host/file") from None
    if scheme not in ("http", "https", "file"):
        raise DownloadError(f"{url}: only http, https and file addresses can be fetched")
    for delay in (*RETRY_DELAYS, None):
        try:
            return _attempt(url, path, expected, progress)
        except _AttemptError as error:  # noqa: PERF203  # the loop waits for a network
            if delay is None or not error.transient:
                raise DownloadError(
                    f"{url}: {error}. Nothing was kept. Try again later, name another base address or a folder in "
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


def _attempt(url: str, path: Path, expected: str, progress: Tracker) -> str:
    # One name for each attempt of each process: nobody writes into another's file.
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    digest, received = hashlib.sha256(), 0
    with _said_plainly():
        response, total = _open(url)
    with closing(response):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("xb") as file, progress(total=total, label=path.name, unit="B") as bar:
                while chunk := _read(response):
                    file.write(chunk)
                    digest.update(chunk)
                    received += len(chunk)
                    bar.advance(len(chunk))
            if total is not None and received != total:
                raise _AttemptError(f"the connection broke off after {received:,} of {total:,} bytes", transient=True)
            if received == 0:
                raise _AttemptError("nothing came, the answer is empty")
            if not digest.hexdigest().startswith(expected.lower()):
                raise _AttemptError(
                    f"{received:,} bytes came whose SHA-256 begins {digest.hexdigest()[: max(8, len(expected))]}, not "
                    f"{expected}: this is another file, perhaps a proxy's or a login page"
                )
            try:
                os.replace(part, path)  # noqa: PTH105  # says that it replaces
            except PermissionError:  # Windows: another process fetched the same file and is reading it
                if not holds(path, digest.hexdigest()):
                    raise
        finally:
            part.unlink(missing_ok=True)
    return digest.hexdigest()


def _open(url: str) -> tuple[BufferedReader | http.client.HTTPResponse, int | None]:
    """The open address, and its length in bytes if that is known."""
    parts = urlsplit(url)
    if parts.scheme.lower() == "file":
        if parts.netloc not in ("", "localhost"):
            raise _AttemptError("a file address must name a local file, file:///...")
        file = Path(urllib.request.url2pathname(parts.path)).open("rb")  # noqa: SIM115  # the caller closes it
        return file, os.fstat(file.fileno()).st_size
    opener = urllib.request.OpenerDirector()  # urllib's own opener would also follow to ftp
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    opener.addheaders = [("User-Agent", "fusiform"), ("Accept-Encoding", "identity")]
    response: http.client.HTTPResponse = opener.open(url, timeout=TIMEOUT_SECONDS)
    length = response.headers.get("Content-Length", "")
    return response, int(length) if length.isdecimal() and not response.chunked else None


def _read(response: BufferedReader | http.client.HTTPResponse) -> bytes:
    with _said_plainly():
        return response.read1(CHUNK_BYTES)  # what has come; read would wait for the whole chunk on a slow line


@contextmanager
def _said_plainly() -> Iterator[None]:
    """Turn what the network raises into an _AttemptError that says it in words."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        raise _AttemptError(
            f"the server answers {error.code} {error.reason}", transient=error.code in TRANSIENT_STATUS
        ) from None
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
        words = inner.strerror if isinstance(inner, OSError) and inner.strerror else str(inner) or type(inner).__name__
        raise _AttemptError(f"it cannot be fetched ({words})", transient=broken) from None
