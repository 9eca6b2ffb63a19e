"""What all protocols share: the server's parts, and the way from a request's images to their answers."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from fusiform.errors import UsageError
from fusiform.prediction.results import Prediction
from fusiform.prediction.sources import Picture
from fusiform.prediction.worker import Asked, check_asked
from fusiform.report import printable
from fusiform.serving.connection import Connection, connection_of
from fusiform.serving.log import Log
from fusiform.serving.models import Models, Served
from fusiform.serving.pool import BusyError, Pool
from fusiform.serving.refusals import Refusal, bad, busy
from fusiform.spec import ModelSpec

_OPTIONS: Mapping[str, Callable[[Any], float | int]] = {
    "top": int,
    "certain": float,
    "score": float,
    "iou": float,
    "limit": int,
}
"""The options of ``Asked`` and what reads them."""


FORGETTING = 0.95
"""How much of what the event loop was behind counts at the next answer."""


class Json(Response):
    """JSON in ASCII: whatever a client's names hold, it can be written."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class Answering:
    """The parts of a server that answers; ``draining`` says that it is about to stop."""

    def __init__(self, models: Models, pool: Pool, log: Log) -> None:
        self.models, self.pool, self.log = models, pool, log
        self._mailbox = _Mailbox(pool)
        self.draining = False

    def model(self, name: str) -> Served:
        """The model of a name; Refusal for another."""
        try:
            return self.models[name]
        except KeyError:
            known = ", ".join(self.models)
            raise Refusal(
                404, "no_such_model", f"there is no model {printable(name)} here; there are {known}"
            ) from None

    def check_queue(self) -> None:
        """Refusal where the queue is full: to be called before a body is read."""
        if (wait := self.pool.wait()) > self.pool.seconds:
            self.pool.refuse()
            raise busy(wait)

    async def answer(
        self, model: Served, pictures: Sequence[Picture], asked: Asked, request: Request
    ) -> list[Prediction]:
        """The answers for a request's images, in their order; they are dropped where its client leaves.

        Raises Refusal where the queue is full, the client left or the model fails.
        """
        try:
            futures = self.pool.submit(model, pictures, asked)
            return await self._mailbox.collect(futures, connection_of(request.scope))
        except BusyError as error:
            raise busy(error.seconds) from None
        except Refusal:
            raise
        except MemoryError:
            raise Refusal(503, "no_memory", "there is not enough memory for this image: send a smaller one") from None
        except Exception as error:
            self.log.error("a model failed", error, model=model.name)
            raise Refusal(500, "failed", "the model failed on this image; the server's log says how") from None


class _Mailbox:
    """The way of answers from the pool's threads to the event loop.

    Each way into another thread costs a system call and a turn at the interpreter's lock: answers that come while the
    loop is still at others go with them. How long they lie here is how far the loop is behind; new requests wait as
    long for it to see them, which the pool is told.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._arrived: deque[tuple[asyncio.Future[None], float]] = deque()
        self._called = False

    async def collect(self, futures: Sequence[Future[Prediction]], connection: Connection) -> list[Prediction]:
        """The results of all, in their order; raises the first error, and Refusal where the client leaves."""
        loop = asyncio.get_running_loop()
        complete: asyncio.Future[None] = loop.create_future()
        waiting, lock = len(futures), threading.Lock()

        def arrive(future: Future[Prediction]) -> None:  # in any thread
            nonlocal waiting
            with lock:
                waiting -= 1
            if waiting == 0 or (not future.cancelled() and future.exception() is not None):
                self._arrived.append((complete, time.monotonic()))
                if not self._called and not loop.is_closed():
                    self._called = True
                    loop.call_soon_threadsafe(self._deliver)

        def leave() -> None:
            if not complete.done():
                complete.set_exception(Refusal(499, "client_left", "the client left before its answer"))

        connection.left.add(leave)
        if connection.gone:  # while the body was made into images in another thread
            leave()
        try:
            for future in futures:
                future.add_done_callback(arrive)
            await complete
            for future in futures:
                if future.done() and (error := future.exception()) is not None:
                    raise error
            return [future.result() for future in futures]
        finally:
            connection.left.discard(leave)
            for future in futures:  # where one failed, the others are not waited for either
                future.cancel()

    def _deliver(self) -> None:
        self._called = False  # first: what arrives from now on calls again
        now = time.monotonic()
        while self._arrived:
            complete, arrived = self._arrived.popleft()
            self._pool.behind = max(now - arrived, FORGETTING * self._pool.behind)
            if not complete.done():
                complete.set_result(None)


def read_options(given: Mapping[str, object], spec: ModelSpec) -> Asked:
    """The options of a question from texts or numbers by their names; Refusal for what they cannot be."""
    values: dict[str, Any] = {}
    for name, value in given.items():
        read = _OPTIONS[name]
        try:
            if isinstance(value, bool) or not isinstance(value, (str, int, float)):
                raise ValueError
            values[name] = read(value)
            if not isinstance(value, str) and values[name] != value:  # 1.5 names
                raise ValueError
        except (ValueError, OverflowError):
            kind = "a whole number" if read is int else "a number from 0 to 1"
            raise bad(f"{name} must be {kind}, not {printable(str(value))[:50]!r}") from None
    asked = Asked(**values)
    try:
        check_asked(spec, asked)
    except UsageError as error:
        raise bad(str(error)) from None
    return asked


def query(request: Request, known: Sequence[str]) -> dict[str, str]:
    """The options in a request's address; Refusal for one that is unknown or that comes twice."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            options = f"there are {', '.join(known)}" if known else "none are taken here"
            raise bad(f"there is no option {printable(name)[:50]!r}; {options}")
        if name in found:
            raise bad(f"the option {name} is there twice: give it once")
        found[name] = value
    return found


OPTIONS = tuple(_OPTIONS)
"""The names of a question's options."""
