"""The end of a server: it is told first, goes on being asked for a while, and answers all that it was asked.

A load balancer learns from ``/readyz`` that it is to send no more, and needs a moment for that. Whoever connected
meanwhile waits in the socket's backlog, which the system resets when the socket is closed: those are taken first. So
that nobody connects between that and the close, Linux is told to let no new connection begin: who tries is refused a
second later, when it tries again.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from fusiform.serving.connection import Connection

NEW_SECONDS = 1.0
"""How long, after the end of the drain, a connection that has not asked anything yet may still ask."""
HANDSHAKE_SECONDS = 0.05
"""How long a connection that has begun by then may take to be made."""
MOST_SECONDS = 60
"""How long requests may be answered after that, at the most."""


class Stopping(uvicorn.Server):
    """uvicorn's server, whose signals are its owner's; ``stop`` begins its end from any thread."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._until: float | None = None
        self.seconds = 0.0

    def stop(self, drain: float) -> None:
        """Go on for ``drain`` seconds, then accept no more; said again, the shorter time holds."""
        until = time.monotonic() + drain
        self._until = until if self._until is None else min(self._until, until)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to the owner, who may serve in another thread than the main one."""
        yield

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or (self._until is not None and time.monotonic() >= self._until)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take who waits in the backlog, close the sockets, and answer everybody."""
        filtered = [_begin_no_more(listener) for listener in sockets or []]
        if any(filtered):
            await asyncio.sleep(HANDSHAKE_SECONDS)
        waiting = [each for listener in sockets or [] for each in _backlog(listener)]
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        loop = asyncio.get_running_loop()
        for each in waiting:
            await loop.connect_accepted_socket(self._connection, each)
        await self._hear_out()
        await super().shutdown(sockets)

    def _connection(self) -> Connection:
        return Connection(config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=None)

    async def _hear_out(self) -> None:
        """Wait a moment for the first request of new connections, and for what is on its way on others."""
        end = time.monotonic() + NEW_SECONDS
        await asyncio.sleep(0.05)
        while time.monotonic() < end and not all(getattr(each, "asked", True) for each in self._connections()):
            await asyncio.sleep(0.02)

    def _connections(self) -> list[object]:
        return list(self.server_state.connections)


# Linux's classic BPF, <linux/filter.h>: (code, jump if true, jump if false, value). A segment begins with TCP's header,
# whose 14th byte has the flags; the one that begins a connection has SYN, and is dropped: none of its bytes are kept.
_NO_SYN = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFF_FFFF))
_SO_ATTACH_FILTER = 26


def _begin_no_more(listener: socket.socket) -> bool:
    """Let no new connection begin, and those that have begun be made; returns whether the system can do that."""
    if sys.platform != "linux":
        return False
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in _NO_SYN))
    described = struct.pack("HP", len(_NO_SYN), ctypes.addressof(program))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)
    except OSError:  # of the sandboxes that stand for Linux, some have no filters
        return False
    return True


def _backlog(listener: socket.socket) -> Iterator[socket.socket]:
    """The connections that the system has accepted, and nobody taken yet; the listener does not block."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # BlockingIOError: there are no more
            return
        connection.setblocking(False)
        yield connection
