"""The Python client, against a server and against what only says that it is one."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fusiform
from fusiform.errors import InputError, UsageError
from fusiform.serving.models import Served

from .conftest import COLORS, encoded

Start = Callable[..., fusiform.Server]
ROOT = Path(__file__).parents[2]


def test_answers_are_predicts(start: Start, tmp_path: Path) -> None:
    server = start("mobilenet_v2")
    sources: Any = [ROOT / "examples", tmp_path / "missing.jpg", tmp_path / "empty.png", ROOT / "README.md"]
    (tmp_path / "empty.png").touch()
    with fusiform.Client(server.address) as client:
        found, expected = client.predict(sources, top=3), fusiform.predict(sources, top=3)
        assert found.spec == expected.spec
        assert found.to_dict() == expected.to_dict()
        with Image.open(ROOT / "examples" / "cat.jpg") as image:
            pixels = np.array(image.convert("RGB"))
        for source in (pixels, Image.fromarray(pixels), io.BytesIO((ROOT / "examples" / "cat.jpg").read_bytes())):
            assert client.predict(source)[0].top[0].name == "Egyptian cat"
        assert len(client.predict([pixels] * 9)) == 9
        assert client.predict([]) == []
        assert repr(client) == f"<Client of {server.address}>"


def test_boxes_and_masks(start: Start, colors: list[Served]) -> None:
    client = fusiform.Client(start(["boxes=detection", "pixels=segmentation"]).address)
    boxes = client.predict(encoded(size=(200, 100)), "boxes", limit=1)
    detections = boxes[0].detections
    assert detections is not None
    assert (detections.width, detections.height, [box.name for box in detections.boxes]) == (200, 100, ["b"])
    assert client.predict(encoded(), "boxes", score=1.0)[0].to_dict()["boxes"] == []
    mask = client.predict(encoded(size=(60, 30)), "pixels")[0].segmentation
    assert mask is not None
    assert np.array_equal(mask.classes, np.ones((30, 60)))


def test_what_is_refused(start: Start, colors: list[Served]) -> None:
    client = fusiform.Client(start(["a=colors", "b=colors"], max_bytes=2000).address)
    with pytest.raises(UsageError, match="serves a, b: name one"):
        client.predict(encoded())
    with pytest.raises(UsageError, match="there is no model c"):
        client.predict(encoded(), "c")
    with pytest.raises(UsageError, match="score is for detection"):
        client.predict(encoded(), "a", score=0.5)
    (large,) = client.predict(encoded() + bytes(3000), "a")
    assert large.error is not None
    assert "no more are taken" in large.error


@pytest.mark.parametrize(
    "address",
    ["", "x", "127.0.0.1:80", "ftp://a", "http://", "http://a:x", "http://a:99999", "http://u:p@a", "http://a?b"],
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(UsageError, match="is no address of a server"):
        fusiform.Client(address)


def test_tokens(start: Start, colors: list[Served], monkeypatch: pytest.MonkeyPatch) -> None:
    token = "t" * 20
    monkeypatch.setenv("FUSIFORM_TOKENS", token)
    server = start()
    assert fusiform.Client(server.address, token).predict(encoded("blue"))[0].top[0].name == "blue"
    with pytest.raises(InputError, match="asks for a token") as error:
        fusiform.Client(server.address, "w" * 20).models()
    assert "w" * 20 not in str(error.value)
    with pytest.raises(UsageError, match="one word of ASCII"):
        fusiform.Client(server.address, "a\r\nb: c")


def test_nobody_is_there() -> None:
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:9: cannot be asked .*: is the server running there"):
        fusiform.Client("http://127.0.0.1:9").models()


class Script:
    """A server that answers as it is told, one after the other, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.asked: list[str] = []


@contextmanager
def scripted(*answers: tuple[int, dict[str, str], bytes]) -> Iterator[tuple[str, Script]]:
    script = Script()
    script.answers = list(answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            script.asked.append(self.path)
            status, headers, body = script.answers.pop(0)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            if headers.get("X-Close"):
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", script
        finally:
            server.shutdown()


GOOD = (200, {}, json.dumps({"models": [{"name": "a"}]}).encode())
BUSY = (429, {"Retry-After": "1"}, b'{"error": "busy", "code": "busy"}')


def test_it_asks_again_when_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    draining = (503, {"Retry-After": "2"}, b'{"error": "draining", "code": "draining"}')
    with scripted(BUSY, draining, GOOD) as (address, script):
        assert fusiform.Client(address).models() == ["a"]
        assert len(script.asked) == 3
    assert [round(seconds) for seconds in slept if seconds >= 0.9] == [1, 2]


def test_its_patience_ends() -> None:
    with scripted(BUSY, BUSY, BUSY) as (address, script):
        client = fusiform.Client(address, patience=0.5)
        began = time.monotonic()
        with pytest.raises(InputError, match="busy"):
            client.models()
        assert time.monotonic() - began < 5
        assert len(script.asked) == 2


def test_a_connection_that_was_closed_meanwhile_is_opened_again() -> None:
    closed = (200, {"X-Close": "1"}, GOOD[2])
    with scripted(closed, GOOD) as (address, _):
        client = fusiform.Client(address)
        assert client.models() == ["a"]
        time.sleep(0.1)
        assert client.models() == ["a"]


@pytest.mark.parametrize(
    "answer",
    [(200, {}, b""), (200, {}, b"<html>"), (200, {}, b"[]"), (502, {}, b"Bad Gateway"), (302, {"Location": "/x"}, b"")],
)
def test_what_is_no_server_of_fusiform(answer: tuple[int, dict[str, str], bytes]) -> None:
    with scripted(answer) as (address, _), pytest.raises(InputError, match="is it a server of fusiform"):
        fusiform.Client(address).models()


def test_a_path_in_front() -> None:
    with scripted(GOOD) as (address, script):
        assert fusiform.Client(f"{address}/pictures/").models() == ["a"]
        assert script.asked == ["/pictures/v1/models"]


def test_several_threads_ask_one_client(start: Start, colors: list[Served]) -> None:
    client = fusiform.Client(start(threads=2, queue_seconds=30).address)
    wrong = []

    def asks(color: str) -> None:
        for _ in range(10):
            (answer,) = client.predict(encoded(color))
            if not answer.top or answer.top[0].name != color:
                wrong.append(answer)

    threads = [threading.Thread(target=asks, args=(color,)) for color in COLORS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_client_needs_nothing_of_the_extra() -> None:
    code = (
        "import sys, fusiform\nfusiform.Client('http://127.0.0.1:9')\n"
        "print(*{'starlette', 'uvicorn', 'httptools', 'prometheus_client', 'ai_edge_litert'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""
