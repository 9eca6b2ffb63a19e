"""Requests that are refused as soon as their headers are there, and those that the application answers all the same."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import fusiform
from fusiform.serving.models import Served
from fusiform.serving.overload import Overload
from fusiform.serving.pool import Pool

from .conftest import ask, encoded, port_of, talk

Start = Callable[..., fusiform.Server]
PREDICT = "/v1/models/colors:predict"
PROTOCOLS = {"predict": PREDICT, "infer": "/v2/models/colors/infer", "predictions": "/predictions/colors"}
TOKEN = "a" * 32


class Full:
    """Switches what the pool says of its queue, and counts what is refused at once."""

    def __init__(self) -> None:
        self.seconds = 1.4
        self.at_once = 0


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Full:
    state, refusal = Full(), Overload.refusal

    def counted(self: Overload, method: bytes, address: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
        answer = refusal(self, method, address, headers)
        state.at_once += answer is not None
        return answer

    monkeypatch.setattr(Pool, "wait", lambda self: state.seconds)
    monkeypatch.setattr(Overload, "refusal", counted)
    return state


@pytest.mark.parametrize("endpoint", PROTOCOLS)
def test_it_is_the_answer_that_the_application_gives(
    start: Start, colors: list[Served], full: Full, endpoint: str
) -> None:
    server = start()
    address = PROTOCOLS[endpoint]
    at_once = ask(server, address, encoded())
    assert full.at_once == 1
    by_application = ask(server, address, encoded(), {"Origin": "https://example.org"})
    assert full.at_once == 1
    assert (at_once.status, at_once.json) == (429, by_application.json)
    for answer in (at_once, by_application):
        answer.headers.pop("date")
    assert at_once.headers == by_application.headers
    assert at_once.headers["retry-after"] == "2"
    counted = ask(server, "/metrics").body.decode()
    assert f'fusiform_requests_total{{code="429",endpoint="{endpoint}"}} 2.0' in counted
    assert "fusiform_shed_images_total 2.0" in counted
    assert "fusiform_requests_in_flight 1.0" in counted


def test_the_connection_is_kept_and_the_body_thrown_away(start: Start, colors: list[Served], full: Full) -> None:
    server = start()
    body = encoded() + bytes(300_000)
    asked = f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    last = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=10) as connection:
        for _ in range(3):
            connection.sendall(asked)
            time.sleep(0.05)
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 429 "), "before any of the body was sent"
            connection.sendall(body)
        full.seconds = 0.0
        connection.sendall(asked + body + last)
        answers = b""
        while piece := connection.recv(1 << 16):
            answers += piece
    assert full.at_once == 3
    assert answers.count(b"HTTP/1.1 200 OK") == 2, "what follows on the connection is answered"


def test_several_in_one_packet_are_answered_in_their_order(start: Start, colors: list[Served], full: Full) -> None:
    server = start()
    asked = f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd".encode()
    last = b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer = talk(server, asked * 5 + last)
    assert answer.count(b"HTTP/1.1 429 Too Many Requests") == 5
    assert b'"fusiform.served/1"' in answer.rpartition(b"HTTP/1.1 200 OK")[2]


def test_what_else_is_wrong_with_a_request_is_told_first(
    start: Start, colors: list[Served], full: Full, tmp_path: Path
) -> None:
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    server = start(max_bytes="10K", token_file=file)
    admitted = {"Authorization": f"Bearer {TOKEN}"}
    image = encoded()
    assert ask(server, PREDICT, image).status == 401
    assert ask(server, PREDICT, image, {"Authorization": "Bearer " + "b" * 32}).status == 401
    assert ask(server, "/v1/models/other:predict", image, admitted).status == 404
    assert ask(server, "/v1/models/colors:predicts", image, admitted).status == 404
    assert ask(server, PREDICT, image, admitted, method="PUT").status == 405
    assert ask(server, PREDICT, bytes(10_001), admitted).status == 413
    assert ask(server, PREDICT, image, {**admitted, "Content-Encoding": "gzip"}).status == 415
    assert ask(server, f"{PREDICT}?top=none", image, admitted).status == 400
    assert full.at_once == 0
    assert ask(server, "/healthz").status == ask(server, "/v1/models", headers=admitted).status == 200
    assert ask(server, PREDICT, image, admitted).status == 429
    assert full.at_once == 1


@pytest.mark.parametrize(
    "lines",
    [
        ["Transfer-Encoding: chunked"],
        ["Content-Length: 4", "Expect: 100-continue"],
        ["Content-Length: 4", "Connection: close"],
        ["Content-Length: 2000000"],
        [],
    ],
)
def test_what_needs_more_than_its_headers_goes_to_the_application(
    start: Start, colors: list[Served], full: Full, lines: list[str]
) -> None:
    server = start()
    asked = "\r\n".join([f"POST {PREDICT} HTTP/1.1", "Host: a", *lines, "", ""]).encode()
    answer = talk(server, asked, seconds=1)
    assert answer.startswith(b"HTTP/1.1 429 ")
    assert full.at_once == 0


def test_who_does_not_read_is_refused_no_further(start: Start, colors: list[Served], full: Full) -> None:
    server = start(timeout=1)
    asked = f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode() * 1000
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=0.5) as connection:
        sent, began = 0, time.monotonic()
        try:
            while time.monotonic() < began + 10:
                sent += connection.send(asked)
        except (OSError, TimeoutError):
            pass
        else:
            pytest.fail("it takes requests for ever")
    assert sent < 100_000_000
    full.seconds = 0.0
    assert ask(server, PREDICT, encoded()).status == 200
