"""Servers on free ports, and models whose engines are a few lines of numpy."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import fusiform
from fusiform.prediction.worker import Worker
from fusiform.serving import models
from fusiform.serving.models import Opening, Served
from fusiform.spec import ModelSpec, Preprocess, Task

for needed in ("starlette", "uvicorn", "httptools", "python_multipart", "prometheus_client"):
    pytest.importorskip(needed)

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def encoded(color: str = "green", size: tuple[int, int] = (40, 40), form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, COLORS[color]).save(file, form)
    return file.getvalue()


def color_spec(task: Task = "classification") -> ModelSpec:
    """Of a classifier the three colours, of a detector or segmenter two classes."""
    if task == "classification":
        preprocess = Preprocess(resize=32, crop=32)
        return ModelSpec("mobilenet_v2", 1.0, tuple(COLORS), input_size=32, preprocess=preprocess)
    size = 64 if task == "detection" else 33
    preprocess = Preprocess(resize=size, crop=size, fit="stretch" if task == "detection" else "pad")
    return ModelSpec(
        "mobilenet_v2",
        1.0,
        ("a", "b"),
        task=task,
        input_size=size,
        output_stride=32 if task == "detection" else 16,
        preprocess=preprocess,
    )


class ColorEngine:
    """Answers which channel is brightest; of other tasks that class b is in the middle, or everywhere.

    It waits for ``gate``, and breaks off at pictures that are all black.
    """

    def __init__(self, spec: ModelSpec, seconds: float = 0.0) -> None:
        self.spec, self.seconds = spec, seconds
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def run(self, batch: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        self.batches.append(len(batch))
        self.gate.wait()
        time.sleep(self.seconds)
        if not batch.reshape(len(batch), -1).any(1).all():
            raise RuntimeError("a black picture")
        if self.spec.task == "classification":
            return {"logits": batch.mean(axis=(1, 2), dtype=np.float32) / 32}
        answers = {name: np.zeros((len(batch), *shape), np.float32) for name, shape in self.spec.answers.items()}
        if self.spec.task == "segmentation":
            answers["logits"][..., 1] = 1
        else:
            answers["logits"][..., 0] = 30
            answers["logits"][:, -6, 2] = 40  # the square of scale 0.95
        return answers


def served(
    name: str = "colors", threads: int = 1, *, task: Task = "classification", seconds: float = 0.0, **limits: Any
) -> Served:
    spec = color_spec(task)

    def start() -> Worker:
        return Worker(ColorEngine(spec, seconds), spec, Path(f"{name}.tflite"), **limits)

    return Served(name, spec, [start() for _ in range(threads)], start, max(seconds, 0.001))


@pytest.fixture
def colors(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Served]]:
    """Have servers open models of ColorEngines: of the task that is their source, ``slow`` of 50 ms a picture."""
    opened: list[Served] = []

    def open_served(name: str, source: str, opening: Opening, _old: Served | None = None) -> tuple[Served, Path]:
        slow = source.startswith("slow")
        task: Any = source if source in ("detection", "segmentation") else "classification"
        limits = {"max_pixels": opening.max_pixels}
        opened.append(served(name, opening.threads, task=task, seconds=0.05 if slow else 0.0, **limits))
        return opened[-1], Path(source)

    monkeypatch.setattr(models, "open_served", open_served)
    yield opened
    for model in opened:
        for worker in model.workers:
            worker.engine.gate.set()  # type: ignore[attr-defined]


@pytest.fixture
def start() -> Iterator[Callable[..., fusiform.Server]]:
    """Start a server on a free port; it is closed at the end of the test."""
    running: list[fusiform.Server] = []

    def start(names: Any = "colors=colors", **options: Any) -> fusiform.Server:
        options = {"port": 0, "threads": 1, "log": "nothing", **options}
        running.append(fusiform.serve(names, **options))
        return running[-1]

    yield start
    for server in running:
        server.close()


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def port_of(server: fusiform.Server) -> int:
    return int(server.address.rpartition(":")[2])


def ask(
    server: fusiform.Server,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    method: str | None = None,
) -> Answer:
    """One request on a connection of its own."""
    connection = HTTPConnection("127.0.0.1", port_of(server), timeout=20)
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, response.read())
    finally:
        connection.close()


def talk(server: fusiform.Server, data: bytes, *, seconds: float = 10.0, end: bool = False) -> bytes:
    """Send bytes as they are, and read until the server closes the connection, or says nothing for so long."""
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=seconds) as connection:
        connection.sendall(data)
        if end:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while piece := connection.recv(1 << 16):
                received += piece
        except TimeoutError:
            pass
        return received


def form(*files: tuple[str, bytes], boundary: str = "xyz", field: str = "images") -> tuple[bytes, dict[str, str]]:
    """A form's body and headers."""
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for name, data in files
    )
    return body + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}
