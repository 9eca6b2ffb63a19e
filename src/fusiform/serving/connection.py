"""A connection: uvicorn's, with limits on what it leaves open.

uvicorn waits for ever for the headers of a request, takes headers of any length, and reads requests that are sent
ahead of their answers (pipelining) faster than it answers them.
"""

from __future__ import annotations

from asyncio import Event, TimerHandle, Transport
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 32 << 10
"""The most of a request line and headers together."""
MAX_PIPELINED = 100
"""The most requests that may wait for their turn on a connection."""


MAX_UNREAD_BYTES = 256 << 10
"""The most of a body that waits to be taken: as much as arrives at once, so that most images need no second reading."""
MAX_JOINED_BYTES = 64 << 10
"""The most of a body that is copied to go with its headers."""
_SCOPE = "fusiform.connection"


def connection_of(scope: MutableMapping[str, Any]) -> Connection:
    """The connection that a request came on."""
    return cast("Connection", scope[_SCOPE])


class _Joined:
    """A transport that sends an answer's headers together with the first of its body.

    That is one packet in place of two, and one call in place of two at which this thread lets others run, and then
    waits for its turn.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._headers: bytes | None = None
        self._started = False

    def write(self, data: bytes) -> None:
        if not self._started and not data.startswith(b"HTTP/1.1 100 "):
            self._headers, self._started = data, True
            return
        if self._headers is not None:
            if len(data) <= MAX_JOINED_BYTES:
                data = self._headers + data
            else:
                self._transport.write(self._headers)
            self._headers = None
        self._transport.write(data)

    def close(self) -> None:
        if self._headers is not None:  # something went wrong before the body
            self.write(b"")
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class _Refused:
    """In place of the application's answer to a request that got its own at once."""

    response_complete = True
    message_event = Event()
    """What nobody waits for."""


Refusing = Callable[[bytes, bytes, Sequence[tuple[bytes, bytes]]], "bytes | None"]
"""From a request's method, address and headers to what follows ``429 Too Many Requests`` and the date, if it is so."""


class Connection(HttpToolsProtocol):
    """A connection that is closed where a request does not arrive in ``seconds``, or is too long in its headers.

    ``refusing`` is asked of each request.
    """

    seconds = 10.0
    refusing: Refusing | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._header_bytes = 0
        self._in_headers = True
        self._in_body = False
        self._late: TimerHandle | None = None
        self._stuck: TimerHandle | None = None
        self.asked = False
        """Whether a request has come."""
        self.gone = False
        """Whether the client has left."""
        self.left: set[Callable[[], None]] = set()
        """What is called when it leaves."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._stuck is not None:
            self._stuck.cancel()
        super().connection_lost(exc)
        self.gone = True
        for tell in tuple(self.left):
            tell()

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
        cast("dict[str, Any]", self.scope)[_SCOPE] = self
        self._in_headers = True

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests at once")  # which the parser answers with 400
        self._in_headers, self._in_body, self._header_bytes = False, True, 0
        self.asked = True
        self._stop_waiting()
        if self._refuse():
            return
        super().on_headers_complete()
        if self.scope["method"] != "HEAD":  # whose answers have no body
            self.cycle.transport = cast("Transport", _Joined(self.transport))

    def _refuse(self) -> bool:
        """Answer a request that is refused at once; the rest of it is thrown away as it comes."""
        parser, turn = self.parser, self.cycle is None or self.cycle.response_complete
        if self.refusing is None or not turn or self.flow.write_paused:  # who does not read is answered no faster
            return False
        if parser.get_http_version() != "1.1" or not parser.should_keep_alive():
            return False
        answer = self.refusing(parser.get_method(), self.url, self.headers)
        if answer is None:
            return False
        before = b"".join(b"%b: %b\r\n" % header for header in self.server_state.default_headers)
        self.transport.write(b"HTTP/1.1 429 Too Many Requests\r\n" + before + answer)
        self.cycle = cast("Any", _Refused())
        self.server_state.total_requests += 1
        self._wait()  # for the rest of the body
        return True

    def on_body(self, body: bytes) -> None:
        """As uvicorn's, which stops reading earlier."""
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > MAX_UNREAD_BYTES:
                self.flow.pause_reading()
            cycle.message_event.set()

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
