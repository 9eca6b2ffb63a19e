"""The application: which address is answered by what."""

from __future__ import annotations

import time
from collections.abc import MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fusiform.schemas.server import Code
from fusiform.serving.answering import Answering, Json, query
from fusiform.serving.limits import OPEN, Application, Guard, Limits, Message, Receive, Send
from fusiform.serving.log import Log
from fusiform.serving.metrics import Metrics
from fusiform.serving.models import NAME
from fusiform.serving.openapi import openapi
from fusiform.serving.protocols.oip import OpenInference
from fusiform.serving.protocols.own import Own
from fusiform.serving.protocols.torchserve import TorchServe
from fusiform.serving.refusals import Refusal
from fusiform.serving.tokens import Tokens

if TYPE_CHECKING:
    from fusiform.serving.page import Page


class _Name(Convertor[str]):
    """A model's name in an address."""

    regex = NAME

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


def make_app(
    answering: Answering,
    limits: Limits,
    tokens: Tokens,
    metrics: Metrics,
    log: Log,
    *,
    cors: Sequence[str] = (),
    page: Page | None = None,
) -> Application:
    """All endpoints, behind tokens and limits, counted and logged; ``cors`` are origins whose pages may ask.

    The ``page`` is for everybody, as a browser that follows a link shows no token.
    """
    register_url_convertor("model", _Name())
    own, oip, torchserve = Own(answering), OpenInference(answering), TorchServe(answering)
    about = _About(answering, metrics, tokens)
    routes = [
        Route("/v1/models/{name:model}:predict", own.predict, methods=["POST"]),
        Route("/v1/models", own.models),
        Route("/v1/models/{name:model}", own.model),
        Route("/v2", oip.server),
        Route("/v2/health/live", oip.live),
        Route("/v2/health/ready", about.ready),
        Route("/v2/models/{name:model}", oip.model),
        Route("/v2/models/{name:model}/ready", oip.ready),
        Route("/v2/models/{name:model}/infer", oip.infer, methods=["POST"]),
        Route("/predictions/{name:model}", torchserve.predictions, methods=["POST", "PUT"]),
        Route("/ping", about.ping),
        Route("/healthz", about.health),
        Route("/readyz", about.ready),
        Route("/metrics", about.metrics),
        Route("/openapi.json", about.openapi),
    ]
    app = Starlette(routes=routes, exception_handlers={Refusal: _refuse, HTTPException: _refuse_http, Exception: _fail})
    app.router.redirect_slashes = False
    guarded: Application = Guard(
        app if page is None else page.before(app),
        limits,
        tokens,
        lambda path: path in OPEN or (page is not None and page.has(path)),
    )
    if cors:  # outside of the guard: a browser asks first, and without the token
        guarded = CORSMiddleware(
            guarded,
            allow_origins=list(cors),
            allow_methods=["GET", "POST", "PUT"],
            allow_headers=["Authorization", "Content-Type", "Inference-Header-Content-Length"],
            expose_headers=["Retry-After", "Inference-Header-Content-Length"],
        )
    return _Counted(guarded, answering, metrics, log)


class _About:
    """What the server says of itself."""

    def __init__(self, answering: Answering, metrics: Metrics, tokens: Tokens) -> None:
        self._answering, self._metrics, self._tokens = answering, metrics, tokens

    async def health(self, request: Request) -> Json:
        query(request, ())
        return Json({"status": "ok"})

    async def ping(self, request: Request) -> Json:
        self._check(request)
        return Json({"status": "Healthy"})

    async def ready(self, request: Request) -> Json:
        self._check(request)
        return Json({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        query(request, ())
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def openapi(self, request: Request) -> Json:
        query(request, ())
        tasks = {name: model.spec.task for name, model in self._answering.models.items()}
        calibrated = any(model.spec.certainty is not None for model in self._answering.models.values())
        return Json(openapi(tasks, tokens=bool(self._tokens), calibrated=calibrated))

    def _check(self, request: Request) -> None:
        query(request, ())
        if self._answering.draining:
            raise Refusal(503, "draining", "the server is about to stop: ask another one", {"Retry-After": "1"})


async def _refuse(_: Request, error: Exception) -> Json:
    assert isinstance(error, Refusal)
    return Json(error.to_dict(), error.status, error.headers)


async def _refuse_http(_: Request, error: Exception) -> Json:
    """What Starlette itself refuses: addresses and methods."""
    assert isinstance(error, HTTPException)
    code: Code = "not_allowed" if error.status_code == 405 else "not_found"
    said = "this address is asked in another way" if error.status_code == 405 else "there is nothing at this address"
    refusal = Refusal(error.status_code, code, f"{said}: see /openapi.json", error.headers)
    return Json(refusal.to_dict(), refusal.status, refusal.headers)


async def _fail(_: Request, __: Exception) -> Json:
    """What nobody expected; Starlette raises it once more for the log."""
    refusal = Refusal(500, "failed", "the server failed on this request; its log says how")
    return Json(refusal.to_dict(), refusal.status)


class _Counted:
    """The outermost layer: counts and logs each request, and lets no connection live on while the server stops."""

    def __init__(self, app: Application, answering: Answering, metrics: Metrics, log: Log) -> None:
        self._app, self._answering, self._metrics, self._log = app, answering, metrics, log

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        status = 500  # what uvicorn answers where nothing else does

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._answering.draining:
                    message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            await send(message)

        self._metrics.began()
        try:
            await self._app(scope, receive, counted)
        finally:
            # The function's name: an address may hold anything.
            endpoint = getattr(scope.get("endpoint"), "__name__", "none")
            seconds = time.perf_counter() - start
            self._metrics.ended(endpoint, status, seconds)
            self._log.request(scope["method"], endpoint, status, seconds)
