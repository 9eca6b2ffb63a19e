"""A small web server for the files of a page: it has them in memory, so that no request can lead anywhere else."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from fusiform.errors import InputError, UsageError
from fusiform.exporting.demo.files import SAFE, TYPES, Served, answer, name_of, serve_all

DEFAULT_PORT = 3874
"""FUSI on a telephone's keys. Browsers keep a page's copy by address: one that no other program is usually at."""
TRIED_PORTS = 20
"""Ports from the default one on that are tried before the system chooses one."""
SILENCE = 30.0
"""Seconds that a client may say nothing, or take nothing."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "fusiform", ""
    timeout = SILENCE
    server: _Server

    def __getattr__(self, name: str) -> Callable[[], None]:
        """What answers a method: the library looks for ``do_GET``, ``do_HEAD`` and whatever a client may name."""
        if not name.startswith("do_"):
            raise AttributeError(name)
        return self._answer if name in ("do_GET", "do_HEAD") else self._refuse

    def _refuse(self) -> None:
        self.close_connection = True  # what else it may have sent is not read
        self._say(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"})

    def _answer(self) -> None:
        path, _, query = self.path.partition("#")[0].partition("?")
        if "://" in path:  # as to a proxy
            path = urlsplit(path).path
        served = self.server.files.get(name_of(unquote(path, errors="replace")))
        if served is None:
            self._say(HTTPStatus.NOT_FOUND, {})
            return
        found = answer(
            served,
            query,
            accepted=self.headers.get("Accept-Encoding", ""),
            known=self.headers.get("If-None-Match", ""),
        )
        self._say(found.status, found.headers, found.data, length=found.status != HTTPStatus.NOT_MODIFIED)

    def _say(
        self,
        status: HTTPStatus,
        headers: Mapping[str, str],
        data: bytes | None = None,
        *,
        length: bool = True,
    ) -> None:
        if data is None:
            data = f"{status.value} {status.phrase}\n".encode() if length else b""
            if length:
                headers = {**headers, "Content-Type": TYPES[".txt"]}
        self.send_response(status)
        for name, value in {**headers, **SAFE}.items():
            self.send_header(name, value)
        if length:
            self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any, **__: Any) -> None:
        """Say nothing: the terminal is for the address."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a client that hangs does not keep the process
    block_on_close = False
    allow_reuse_address = os.name == "posix"  # Windows would share a port that is in use

    def __init__(self, files: Mapping[str, Served], host: str, port: int) -> None:
        self.files = files
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """As the library's, without asking the network for this machine's name, which may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1 if self.allow_reuse_address else 0)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over clients that have gone or hang; what is wrong here is told."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Server:
    """Serves files until it is closed, from threads of its own; ``port`` is where."""

    def __init__(self, files: Mapping[str, bytes], host: str, port: int | None) -> None:
        self._server = _listen(serve_all(files), host, port)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="fusiform demo", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it; connections that are open end with what they are sent."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _listen(files: Mapping[str, Served], host: str, port: int | None) -> _Server:
    """A server that listens: at the ``port``, or at None at the first free one from the default on."""
    if port is not None and not 0 <= port <= 65535:
        raise UsageError(f"--port: a port is 0 to 65535, where 0 is any free one, not {port}")
    found = _bind(files, host, DEFAULT_PORT if port is None else port)
    if port is None:
        for each in (*range(DEFAULT_PORT + 1, DEFAULT_PORT + TRIED_PORTS), 0):
            if isinstance(found, _Server) or found.errno not in (errno.EADDRINUSE, errno.EACCES):
                break
            found = _bind(files, host, each)
    if isinstance(found, _Server):
        return found
    raise _refusal(found, host, port or 0)


def _bind(files: Mapping[str, Served], host: str, port: int) -> _Server | OSError:
    try:
        return _Server(files, host, port)
    except OSError as error:
        return error


def _refusal(error: OSError, host: str, port: int) -> InputError:
    if error.errno == errno.EADDRINUSE:
        return InputError(f"--port {port}: another program has it: name another, or leave --port out for a free one")
    if error.errno == errno.EACCES:
        return InputError(f"--port {port}: this user may not have it: name one from 1024 on, or leave --port out")
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return InputError(f"--host {host}: is no address of this machine: 127.0.0.1 is itself, 0.0.0.0 all that it has")
    return InputError(f"cannot listen at {host}, port {port} ({error.strerror or error}): name others")
