"""http and https that no server can hold up: one deadline for all it says, and counts for what might be endless."""

from __future__ import annotations

import base64
import http.client
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

MOST_INTERIM = 20
"""Answers that announce another (100 Continue, RFC 9110, 15.2), of which a server sends one."""
MOST_TRAILERS = 100
"""Lines behind the last chunk, as many as Python takes of headers."""
LONGEST_REASON = 200


class DeadlineError(OSError):
    """A server did not come to an end in time."""


def without_password(address: str) -> str:
    """The address as it may be shown: user and password are stars."""
    shown = re.sub(r"^(\w+:/*)[^/?#]*@", r"\1***@", address)
    # With a slash, ? or # in it that was not encoded, a password goes on behind the host's end.
    unencoded = shown == address and re.match(r"^\w+:/*[^/?#\[]*:(?!\d*(?:[/?#]|$))", address)
    return re.sub(r"^(\w+:/*).*@", r"\1***@", address, flags=re.DOTALL) if unencoded else shown


def reason_of(error: BaseException) -> str:
    """What went wrong, in the system's words or the library's, without its number and of a length that can be read."""
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    words = (inner.strerror if isinstance(inner, OSError) else None) or str(inner) or type(inner).__name__
    return words if len(words) <= LONGEST_REASON else f"{words[:LONGEST_REASON]}…"


def reason_for(error: BaseException, address: str) -> str:
    """As ``reason_of``, of an error that may tell a part of the address, where its password is."""
    told = isinstance(error, (ValueError, http.client.InvalidURL)) and without_password(address) != address
    return "it is no address like http://user:password@host/path" if told else reason_of(error)


def length_of(response: http.client.HTTPResponse) -> int | None:
    """The length in bytes that the server announces, or None; one of more digits than any file has is 10^18."""
    text = response.headers.get("Content-Length", "").strip()
    if not re.fullmatch("[0-9]+", text) or response.chunked:
        return None
    return int(text) if len(text) <= 18 else 10**18


@contextmanager
def opened(
    url: str, *, stall: float, seconds: float, header_seconds: float | None = None
) -> Iterator[http.client.HTTPResponse]:
    """The open address, read by the caller within the block.

    A server may say nothing for ``stall`` seconds, and has ``seconds`` for everything, redirects and what comes behind
    the content too; ``header_seconds`` of them until the content begins. Redirects lead to http and https alone. A
    user and password in the address are sent to its own host. Raises what urllib and http.client do, ValueError for
    what is no address, and DeadlineError, also where the content merely seems to end.
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host, fragment="")))
    request.add_header("User-Agent", "fusiform")
    request.add_header("Accept-Encoding", "identity")
    if "@" in parts.netloc:
        secret = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(secret).decode('ascii')}")
    guard = _Guard()
    guard.set(seconds if header_seconds is None else min(seconds, header_seconds))
    try:
        with closing(_opener(guard).open(request, timeout=stall)) as response:
            if header_seconds is not None:
                guard.set(seconds)
            yield response
    except Exception:  # what the caller made of a connection that was ended for it, too
        if guard.over:
            raise DeadlineError(f"not complete after {guard.seconds:g} seconds") from None
        raise
    finally:
        guard.end()
    if guard.over:
        raise DeadlineError(f"not complete after {guard.seconds:g} seconds")


class _Guard:
    """Ends a connection at its deadline, whatever is waited for then: Python's timeouts start again with each byte."""

    def __init__(self) -> None:
        self.over, self.seconds = False, 0.0
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._timer: threading.Timer | None = None

    def set(self, seconds: float) -> None:
        """So many seconds from now."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self.seconds = seconds
            self._timer = threading.Timer(max(0, seconds), self._stop)
            self._timer.daemon = True
            self._timer.start()

    def connect(self, *given: Any, **more: Any) -> socket.socket:
        """As ``socket.create_connection``."""
        connection = socket.create_connection(*given, **more)
        with self._lock:
            # A second handle on the connection, since TLS takes the first one over.
            self._sockets.append(connection.dup())
        if self.over:
            self._stop()
        return connection

    def end(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            for handle in self._sockets:
                handle.close()
            self._sockets = []

    def _stop(self) -> None:
        with self._lock:
            self.over = True
            for handle in self._sockets:
                with suppress(OSError):  # it has ended by itself
                    handle.shutdown(socket.SHUT_RDWR)


class _Response(http.client.HTTPResponse):
    """Counts what Python reads until it ends."""

    _interim = 0

    def _read_status(self) -> Any:
        self._interim += 1
        if self._interim > MOST_INTERIM:
            raise http.client.HTTPException(f"{MOST_INTERIM} answers announced another")
        return super()._read_status()  # type: ignore[misc]  # not in typeshed

    def _read_and_discard_trailer(self) -> None:
        for _ in range(MOST_TRAILERS):
            if self.fp.readline(1 << 16) in (b"\r\n", b"\n", b""):
                return
        raise http.client.HTTPException(f"more than {MOST_TRAILERS} lines come behind the content")


def _connection(kind: Any, guard: _Guard, *given: Any, **more: Any) -> Any:
    connection = kind(*given, **more)
    connection.response_class = _Response
    connection._create_connection = guard.connect
    return connection


def _opener(guard: _Guard) -> urllib.request.OpenerDirector:
    class Http(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(partial(_connection, http.client.HTTPConnection, guard), request)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            connect = partial(_connection, http.client.HTTPSConnection, guard)
            return self.do_open(connect, request, context=getattr(self, "_context", None))

    opener = urllib.request.OpenerDirector()  # urllib's own opener would also follow to ftp
    for handler in (
        urllib.request.ProxyHandler,
        Http,
        Https,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener
