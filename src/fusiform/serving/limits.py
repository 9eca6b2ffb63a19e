"""What a request may take: bytes, seconds and memory; and who may ask. Pure ASGI, around the application.

Bytes are counted as they arrive, and a length that is too large is refused before anything is read. An answer to a
request whose body was not read to its end is followed by a moment in which the rest is thrown away: a connection that
is closed on bytes that nobody read is reset, and takes the answer with it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from starlette.responses import JSONResponse

from fusiform.serving.refusals import Refusal, busy, too_large
from fusiform.serving.tokens import Tokens

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OPEN = frozenset(("/healthz", "/readyz", "/ping", "/v2/health/live", "/v2/health/ready"))
"""Addresses that need no token: load balancers ask there."""
LINGER = 1.0
"""Seconds for which the rest of a refused body is thrown away."""
KEPT_OPEN = 1 << 20
"""Bytes; after a refused body that is said to be no longer, the connection is kept."""
BODIES = 16
"""So many of the largest bodies are held at the same time, in the memory of all requests together."""


class Limits:
    """The limits of a server: ``max_bytes`` of a body, and ``timeout`` seconds for it to arrive."""

    def __init__(self, *, max_bytes: int, timeout: float) -> None:
        self.max_bytes, self.timeout = max_bytes, timeout
        self.held = 0
        """The bytes of bodies in memory."""

    @property
    def most_held(self) -> int:
        """The bytes of bodies that may be in memory."""
        return BODIES * self.max_bytes


class Guard:
    """An application behind its limits and tokens; addresses of which ``public`` says so need no token."""

    def __init__(self, app: Application, limits: Limits, tokens: Tokens, public: Callable[[str], bool]) -> None:
        self._app, self._limits, self._tokens, self._public = app, limits, tokens, public

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        body = _Body(self._limits, receive, send, headers)
        try:
            refusal = self._refusal(scope, headers)
            if refusal is None:
                await self._app(scope, body.receive, body.send)
            else:
                answer = JSONResponse(refusal.to_dict(), refusal.status, refusal.headers)
                await answer(scope, body.receive, body.send)
        finally:
            self._limits.held -= body.count

    def _refusal(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> Refusal | None:
        """What is wrong with a request before its body is read."""
        if self._tokens and not self._public(scope["path"]) and not self._tokens.admit(headers.get(b"authorization")):
            return Refusal(
                401,
                "unauthorized",
                "this server asks for a token: send the header Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )
        if int(headers.get(b"content-length", b"0")) > self._limits.max_bytes:
            return too_large("the body has", self._limits.max_bytes)
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            return Refusal(415, "unsupported_type", "the body is compressed: send it as it is (images are already)")
        return None


async def _within(waited: Awaitable[Message], deadline: float) -> Message:
    """``asyncio.wait_for`` without a task of its own, which most bodies, all there already, would pay for."""
    task, expired = asyncio.current_task(), False
    assert task is not None

    def expire() -> None:
        nonlocal expired
        expired = True
        task.cancel()

    timer = asyncio.get_running_loop().call_at(deadline, expire)
    try:
        return await waited
    except asyncio.CancelledError:
        if not expired:
            raise
        if sys.version_info >= (3, 11):
            task.uncancel()
        raise asyncio.TimeoutError from None
    finally:
        timer.cancel()


class _Body:
    """The way of one request's body and answer."""

    def __init__(self, limits: Limits, receive: Receive, send: Send, headers: dict[bytes, bytes]) -> None:
        self._limits, self._receive, self._send = limits, receive, send
        self.count = 0
        """The bytes that arrived, all still in memory."""
        chunked = b"transfer-encoding" in headers
        length = int(headers.get(b"content-length", b"0"))
        self._unread = chunked or length > 0
        """Whether there is more to come."""
        self._long = chunked or length > KEPT_OPEN
        self._deadline = asyncio.get_running_loop().time() + limits.timeout
        self._seen = False

    async def receive(self) -> Message:
        """The next piece; Refusal where it is one too many, or late, or where memory is short."""
        if not self._unread and self._seen:
            return await self._receive()  # that the client left
        self._seen = True
        try:
            message = await _within(self._receive(), self._deadline)
        except asyncio.TimeoutError:
            self._long = True
            seconds = f"{self._limits.timeout:g} s"
            raise Refusal(408, "slow_body", f"the body took more than {seconds} to arrive: send it at once") from None
        if message["type"] != "http.request":
            self._unread = False
            return message
        self._unread = message.get("more_body", False)
        piece = len(message.get("body", b""))
        self.count += piece
        self._limits.held += piece
        if self.count > self._limits.max_bytes:
            self._long = True
            raise too_large("the body has", self._limits.max_bytes)
        if self._limits.held > self._limits.most_held:
            raise busy(1)
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer; after its end, throw away what is left of the body."""
        if not self._unread:
            await self._send(message)
            return
        if message["type"] == "http.response.start":
            if self._long:
                message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            await self._send(message)
        elif message.get("more_body", False) or not self._long:
            await self._send(message)
        else:
            await self._send({**message, "more_body": True})
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._throw_away(), LINGER)
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _throw_away(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] != "http.request" or not message.get("more_body", False):
                return
