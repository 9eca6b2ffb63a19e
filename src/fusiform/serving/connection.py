"""A connection: uvicorn's, with limits on what it leaves open.

uvicorn waits for ever for the headers of a request, takes headers of any length, and reads requests that are sent
ahead of their answers (pipelining) faster than it answers them.
"""

from __future__ import annotations

from asyncio import TimerHandle
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 32 << 10
"""The most of a request line and headers together."""
MAX_PIPELINED = 100
"""The most requests that may wait for their turn on a connection."""


class Connection(HttpToolsProtocol):
    """A connection that is closed where a request does not arrive in ``seconds``, or is too long in its headers."""

    seconds = 10.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._header_bytes = 0
        self._in_headers = True
        self._in_body = False
        self._late: TimerHandle | None = None
        self._stuck: TimerHandle | None = None
        self.asked = False
        """Whether a request has come."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._stuck is not None:
            self._stuck.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_headers:
            self._header_bytes += len(data)
            if self._late is None:
                self._wait()
        super().data_received(data)
        # Looked at afterwards: the piece that ends them may bring much of a body along.
        if self._in_headers and self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
            self.transport.write(b"content-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests at once")  # which the parser answers with 400
        self._in_headers, self._in_body, self._header_bytes = False, True, 0
        self.asked = True
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_headers, self._in_body = True, False
        if self.cycle.response_complete:
            self._stop_waiting()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body and not self.transport.is_closing():
            self._wait()  # for the rest of a body that nobody wants

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = None
        self._watch_writing(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()

    def _watch_writing(self, size: int) -> None:
        """Cut the connection off where its client takes nothing of an answer any more."""
        now = self.transport.get_write_buffer_size()
        if self._stuck is not None and now >= size:
            self.transport.abort()
        else:
            self._stuck = self.loop.call_later(self.seconds, self._watch_writing, now)

    def _wait(self) -> None:
        self._stop_waiting()
        self._late = self.loop.call_later(self.seconds, self._close)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
