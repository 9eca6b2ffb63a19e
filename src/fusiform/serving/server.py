"""``fusiform.serve``: a server in a thread of this process, or in several processes behind one socket."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from fusiform.engines import EngineName
from fusiform.errors import FusiformError, InputError, MissingExtraError, OutputError, UsageError
from fusiform.serving.log import Log, LogLevel
from fusiform.serving.settings import Settings, read_count, read_settings

if TYPE_CHECKING:
    from fusiform.serving.models import Served
    from fusiform.serving.page import Page

KEEP_ALIVE = 75
"""Seconds that an idle connection is kept: longer than proxies keep theirs, so that it is they who close it."""
BACKLOG = 2048
LAST_SECONDS = 5.0
"""How long to wait at the end for a thread whose engine hangs."""
RESTART_SECONDS = 1.0
"""How long to wait before a process that ended is started again."""


class _Running(Protocol):
    """What serves: threads of this process or others."""

    def stop(self, drain: float) -> None: ...

    def reload(self) -> None: ...

    def wait(self, seconds: float | None) -> bool: ...


class Server:
    """A server that runs; ``fusiform.serve`` starts it. Leaving a ``with`` statement closes it.

    Example:
        >>> import fusiform
        >>> with fusiform.serve("mobilenet_v2", port=0, threads=1, log="nothing") as server:
        ...     client = fusiform.Client(server.address)
        ...     client.predict("examples/cat.jpg", top=1)[0].top[0].name
        'Egyptian cat'

    """

    def __init__(self, running: _Running, address: str, drain: float) -> None:
        self.address = address
        """Where it is: ``http://HOST:PORT``."""
        self._running, self._drain = running, drain

    def stop(self, drain: float | None = None) -> None:
        """Begin its end: ``/readyz`` fails at once, and after ``drain`` seconds (as it was started) nobody is let in.

        It returns at once, and may be called again, from a signal's handler too; ``wait`` says when all is answered.
        """
        self._running.stop(self._drain if drain is None else drain)

    def reload(self) -> None:
        """Open all models again, and read the tokens; the old ones stay where that fails."""
        self._running.reload()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait, for so long at most, until it has ended, and say whether it has; raises what ended it, if anything."""
        return self._running.wait(seconds)

    def close(self) -> None:
        """End it now, answering what it was asked; returns when that is done."""
        self.stop(0)
        self.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Server at {self.address}>"


def serve(
    models: str | Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    threads: int | None = None,
    workers: int = 1,
    queue_seconds: float = 1.0,
    max_bytes: int | str = "20M",
    max_pixels: int | str = "50M",
    timeout: float = 10.0,
    drain: float = 2.0,
    token_file: str | os.PathLike[str] | None = None,
    cors: Sequence[str] = (),
    page: bool = False,
    sketch: str | os.PathLike[str] | None = None,
    engine: EngineName | None = None,
    device: str = "auto",
    fast: bool = False,
    log: LogLevel = "requests",
) -> Server:
    """Answer over HTTP, from threads of this process, until the server is closed.

    Args:
        models: A model (a name, a file, the folder of a training run), or several; ``NAME=MODEL`` says under which
            name, by default the model's own, the file's or the folder's.
        host: The address to listen at; ``0.0.0.0`` is every network's.
        port: The port; 0 is any that is free.
        threads: The number of cores to use, with a thread and an engine for each; None is all.
        workers: How many processes they are spread over, behind one socket.
        queue_seconds: The longest that an image may wait: what would wait longer is answered with 429.
        max_bytes: The largest body of a request, such as ``20000000`` or ``"20M"``.
        max_pixels: The most pixels of an image, likewise; it is not decoded where it has more.
        timeout: Seconds in which a request's headers, and then its body, have to arrive.
        drain: Seconds for which requests are taken after the server was told to stop.
        token_file: A file with tokens, one a line, of which clients have to show one; None is those in the environment
            variable ``FUSIFORM_TOKENS``, separated by blanks, if it is set.
        cors: Origins (``https://example.org``, or ``*``) whose web pages may ask.
        page: Answer ``/`` with the page of ``fusiform.demo``, of the first model: it runs the model in the visitor's
            browser. It asks for no token, and has the model in it: the tokens are for asking the server alone.
        sketch: A folder in which to keep a sketch of what each model sees, ``NAME-MARK.json``, for ``fusiform.drift``:
            some kilobytes without image or name. A model that changes gets a new file; one that is there is gone on
            with. All models have to be calibrated classifiers. Of several ``workers`` one keeps it.
        engine: The runtime; None is the one that each file is for, or ``native`` where that is faster.
        device: Where the engine ``torch`` computes: ``auto`` (``cuda`` where it finds such a GPU, else ``cpu``),
            ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        fast: Decode large JPEGs at a reduced size: the answers may differ a little.
        log: What is written to standard error, in lines of JSON: all ``requests``, other ``events`` alone, or
            ``nothing``.

    Returns:
        The server, ready: its models are opened, and have answered. ``address`` says where it is, ``close`` ends it.

    Raises:
        UsageError: For arguments that do not fit, and for an address that is taken.
        MissingExtraError: Where the extra ``serve`` is not installed.
        FusiformError: For a model that cannot be opened.

    Example:
        >>> import fusiform
        >>> server = fusiform.serve(["mobilenet_v2", "small=shufflenet_v2_x1_0"], port=0, threads=1, log="nothing")
        >>> fusiform.Client(server.address).models()
        ['mobilenet_v2', 'small']
        >>> server.close()

    """
    settings = read_settings(
        models,
        threads=threads,
        workers=workers,
        host=host,
        port=port,
        queue_seconds=queue_seconds,
        max_bytes=read_count(max_bytes, "max_bytes"),
        max_pixels=read_count(max_pixels, "max_pixels"),
        timeout=timeout,
        drain=drain,
        token_file=None if token_file is None else os.fspath(token_file),
        cors=tuple(cors),
        page=page,
        sketch=None if sketch is None else os.fspath(sketch),
        engine=engine,
        device=device,
        fast=fast,
        log=log,
    )
    check_installed()
    listener = _listen(settings)
    try:
        name, number = listener.getsockname()[:2]
        where = f"[{name}]" if ":" in name else name
        running: _Running
        running = _Processes(settings, listener) if settings.workers > 1 else Serving(settings, listener)
    except BaseException:
        listener.close()
        raise
    return Server(running, f"http://{where}:{number}", drain)


def check_installed() -> None:
    """MissingExtraError unless what the extra brings is there."""
    from importlib.util import find_spec

    for package, module in (
        ("Starlette", "starlette"),
        ("uvicorn", "uvicorn"),
        ("httptools", "httptools"),
        ("python-multipart", "python_multipart"),
        ("prometheus-client", "prometheus_client"),
    ):
        if find_spec(module) is None:
            raise MissingExtraError(package, "serve", "fusiform serve")


def _listen(settings: Settings) -> socket.socket:
    """A socket at the address, not listening yet: whoever connects before the models are open is refused."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"{settings.host}: is no address of this machine ({error.strerror}): see --host") from None
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise InputError(
            f"{settings.host}:{settings.port}: cannot be listened at ({error.strerror}): choose another --port, or end "
            "what has it"
        ) from None
    return listener


class Serving:
    """The server of this process: an event loop in a thread, and the pool's threads beside it."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        """Open the models, let each answer, then listen; raises what hinders that."""
        import uvicorn

        from fusiform.serving.answering import Answering
        from fusiform.serving.app import make_app
        from fusiform.serving.connection import Connection
        from fusiform.serving.limits import Limits
        from fusiform.serving.metrics import Metrics
        from fusiform.serving.models import Models, Opening
        from fusiform.serving.overload import Overload
        from fusiform.serving.pool import Pool
        from fusiform.serving.shutdown import MOST_SECONDS, Stopping
        from fusiform.serving.tokens import Tokens

        allow_connections()
        self._log = Log(settings.log)
        self._metrics = metrics = Metrics()
        self._tokens = tokens = Tokens(settings.token_file)
        opening = Opening(
            settings.threads,
            engine=settings.engine,
            device=settings.device,
            fast=settings.fast,
            max_pixels=settings.max_pixels,
            sketch=settings.sketch,
        )
        self._first = next(iter(settings.models))
        self._page = _open_page(settings.models[self._first]) if settings.page else None
        self._models = Models(settings.models, opening, self._tell)
        self._pool = Pool(settings.threads, seconds=settings.queue_seconds, observer=metrics)
        self._answering = Answering(self._models, self._pool, self._log)
        limits = Limits(max_bytes=settings.max_bytes, timeout=settings.timeout)
        app = make_app(self._answering, limits, tokens, metrics, self._log, cors=settings.cors, page=self._page)
        refusing = Overload(self._answering, limits, tokens, metrics).refusal
        options = {"seconds": settings.timeout, "refusing": staticmethod(refusing)}
        connection = type("Connection", (Connection,), options)
        self._server = Stopping(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=connection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=MOST_SECONDS,
            )
        )
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listener,), name="fusiform-http", daemon=True)
        self._thread.start()
        while not self._server.started and not self._ended.is_set():
            time.sleep(0.005)
        self._models.watch()
        names = ", ".join(settings.models)
        self._log.event("ready", models=names, threads=settings.threads, process=os.getpid())

    def stop(self, drain: float) -> None:
        self._answering.draining = True
        self._server.stop(drain)

    def reload(self) -> None:
        self._models.reload()
        try:
            self._tokens.read()
        except InputError as error:
            self._log.error("the tokens are as they were", error)

    def wait(self, seconds: float | None) -> bool:
        ended = self._ended.wait(seconds)
        if ended and self._error is not None:
            raise self._error
        return ended

    def _run(self, listener: socket.socket) -> None:
        try:
            asyncio.run(self._server.serve(sockets=[listener]))
        except BaseException as error:  # it belongs to whoever waits
            self._error = error
        finally:
            self._pool.close(LAST_SECONDS)
            self._models.close()
            for model in self._models.values():
                self._keep(model)
            self._log.event("ended", process=os.getpid())
            self._ended.set()

    def _keep(self, model: Served) -> None:
        try:
            model.keep()
        except OutputError as error:
            self._log.error("the sketch was not written", error, model=model.name, reason=str(error))

    def _tell(self, name: str, why: str, error: Exception | None) -> None:
        self._metrics.loaded(name, well=error is None)
        if error is None:
            self._log.event("a model was opened again", model=name, why=why)
            if self._page is not None and name == self._first:
                try:
                    self._page.make()
                except (FusiformError, MemoryError, OSError) as fault:
                    self._log.error("the page stays as it was", fault, model=name, why=why, reason=str(fault))
        else:
            self._log.error("a model stays as it was", error, model=name, why=why, reason=str(error))


def _open_page(source: str) -> Page:
    from fusiform.serving.page import Page  # what a page is made with takes memory

    return Page(source)


class _Processes:
    """Several processes that accept from one socket; one that ends unasked is started again."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        if os.name != "posix":
            raise UsageError("several workers share a socket, which Windows does not: leave workers out, take threads")
        self._listener = listener
        listener.listen(BACKLOG)
        listener.set_inheritable(True)
        self._log = Log(settings.log)
        self._counts = tempfile.TemporaryDirectory(prefix="fusiform-counts-")
        share, more = divmod(settings.threads, settings.workers)
        self._settings = [
            # Two processes that keep one sketch would write over each other's.
            replace(settings, threads=share + (k < more), workers=1, sketch=settings.sketch if k == 0 else None)
            for k in range(settings.workers)
        ]
        self._drain: float | None = None
        self._ended = threading.Event()
        self._processes = [self._start(each) for each in self._settings]
        try:
            for process in self._processes:
                _await_ready(process)
        except BaseException:
            for process in self._processes:
                process.kill()
                _close(process)
            self._counts.cleanup()
            raise
        self._thread = threading.Thread(target=self._look, name="fusiform-processes", daemon=True)
        self._thread.start()

    def stop(self, drain: float) -> None:
        self._drain = drain
        for process in self._processes:
            _send(process, f"stop {drain}")

    def reload(self) -> None:
        for process in self._processes:
            _send(process, "reload")

    def wait(self, seconds: float | None) -> bool:
        return self._ended.wait(seconds)

    def _start(self, settings: Settings) -> subprocess.Popen[str]:
        from fusiform.serving.metrics import SHARED

        process = subprocess.Popen(
            [sys.executable, "-m", "fusiform.serving.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            pass_fds=(self._listener.fileno(),),
            env={**os.environ, SHARED: self._counts.name},
            start_new_session=True,  # a terminal's Ctrl-C is for this process, which tells them
        )
        _send(process, json.dumps({**asdict(settings), "listener": self._listener.fileno()}))
        return process

    def _look(self) -> None:
        while self._drain is None:
            for k, process in enumerate(self._processes):
                if process.poll() is not None and self._drain is None:
                    self._log.error(
                        "a process ended and is started again", process=process.pid, code=process.returncode
                    )
                    _close(process)
                    _mark_dead(process.pid, self._counts.name)
                    time.sleep(RESTART_SECONDS)
                    self._processes[k] = self._start(self._settings[k])
            time.sleep(0.1)
        for process in self._processes:
            _send(process, f"stop {self._drain}")
        self._listener.close()  # the others have it, each until it has taken who waits there
        for process in self._processes:
            _close(process)
        self._counts.cleanup()
        self._ended.set()


def _send(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    with suppress(OSError, ValueError):  # one that has ended
        process.stdin.write(line + "\n")
        process.stdin.flush()


def _close(process: subprocess.Popen[str]) -> None:
    """Wait for a process to end, and close what led to it."""
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):  # what was not written any more
                stream.close()


def _await_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    answer = process.stdout.readline().strip()
    if answer != "ready":
        raise InputError(answer or "a process of the server ended before it was ready: see its messages")


def _mark_dead(process: int, counts: str) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    with suppress(OSError):
        mark_process_dead(process, counts)  # type: ignore[no-untyped-call]


def allow_connections() -> None:
    """Let this process have as many connections as the system lets it: often it starts with 1,024."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
