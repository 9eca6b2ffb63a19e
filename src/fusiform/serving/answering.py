"""What all protocols share: the server's parts, and the way from a request's images to their answers."""

from __future__ import annotations

import asyncio
import json
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
from fusiform.serving.limits import Receive
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


class Json(Response):
    """JSON in ASCII: whatever a client's names hold, it can be written."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class Answering:
    """The parts of a server that answers; ``draining`` says that it is about to stop."""

    def __init__(self, models: Models, pool: Pool, log: Log) -> None:
        self.models, self.pool, self.log = models, pool, log
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
        self, model: Served, pictures: Sequence[Picture], asked: Asked, receive: Receive
    ) -> list[Prediction]:
        """The answers for images, in their order; those whose client leaves are dropped.

        Raises Refusal where the queue is full, the client left or the model fails.
        """
        try:
            futures = self.pool.submit(model, pictures, asked)
            return await _unless_left(futures, receive)
        except BusyError as error:
            raise busy(error.seconds) from None
        except Refusal:
            raise
        except MemoryError:
            raise Refusal(503, "no_memory", "there is not enough memory for this image: send a smaller one") from None
        except Exception as error:
            self.log.error("a model failed", error, model=model.name)
            raise Refusal(500, "failed", "the model failed on this image; the server's log says how") from None


async def _unless_left(futures: Sequence[Future[Prediction]], receive: Receive) -> list[Prediction]:
    answers = asyncio.gather(*map(asyncio.wrap_future, futures))
    left = asyncio.ensure_future(_leaves(receive))
    try:
        await asyncio.wait((answers, left), return_when=asyncio.FIRST_COMPLETED)
        if answers.done():
            return answers.result()
        raise Refusal(499, "client_left", "the client left before its answer")
    finally:
        left.cancel()
        if not answers.done():
            answers.cancel()
        for future in futures:  # where one failed, the others are not waited for either
            future.cancel()


async def _leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


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
