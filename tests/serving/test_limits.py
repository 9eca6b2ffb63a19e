"""What a request may take, tokens, and clients that mean no good."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import fusiform
from fusiform.errors import InputError, UsageError
from fusiform.serving import limits
from fusiform.serving.connection import MAX_HEADER_BYTES, MAX_PIPELINED
from fusiform.serving.models import Served
from fusiform.serving.settings import read_count
from fusiform.serving.tokens import Tokens

from .conftest import ask, encoded, form, port_of, talk

Start = Callable[..., fusiform.Server]
PREDICT = "/v1/models/colors:predict"
TOKEN, OTHER = "a" * 32, "B0~-._/+" * 4


def head(*lines: str, method: str = "POST", path: str = PREDICT) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: a", *lines, "", ""]).encode()


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer[9:12])


def read_answer(connection: socket.socket) -> bytes:
    """The next small answer on a connection, which ends with JSON."""
    received = b""
    while not received.endswith(b"}"):
        received += connection.recv(1000)
    return received


def fine(server: fusiform.Server) -> bool:
    """Whether others are still served."""
    return ask(server, PREDICT, encoded()).status == 200


def test_a_length_that_is_too_large_is_refused_before_the_body(start: Start, colors: list[Served]) -> None:
    server = start(max_bytes="10K")
    began = time.monotonic()
    answer = talk(server, head("Content-Length: 2000000000"))
    assert status(answer) == 413
    assert b'"code":"too_large"' in answer
    assert time.monotonic() - began < 5
    assert ask(server, PREDICT, encoded() + bytes(10_000)).status == 413
    assert ask(server, PREDICT, encoded() + bytes(10_000 - len(encoded()))).status == 200


@pytest.mark.parametrize("kind", ["image/png", "application/json", "multipart/form-data; boundary=x"])
def test_a_body_without_end_is_cut_off(start: Start, colors: list[Served], kind: str) -> None:
    server = start(max_bytes="100K")
    chunk = b"4000\r\n" + bytes(0x4000) + b"\r\n"
    answer = talk(server, head("Transfer-Encoding: chunked", f"Content-Type: {kind}") + chunk * 10)
    assert status(answer) in (400, 413)
    assert b"connection: close" in answer.lower()
    assert fine(server)


def test_a_body_that_is_refused_is_thrown_away_so_that_the_answer_arrives(start: Start, colors: list[Served]) -> None:
    server = start(max_bytes="100K")
    # A client that reads nothing before it has sent all.
    for _ in range(5):
        assert ask(server, PREDICT, bytes(3_000_000)).status == 413
    assert fine(server)


def test_a_slow_body_is_refused(start: Start, colors: list[Served]) -> None:
    server = start(timeout=0.3)
    answer = talk(server, head("Content-Length: 1000") + b"some")
    assert status(answer) == 408
    assert b'"code":"slow_body"' in answer
    assert fine(server)


@pytest.mark.parametrize("begun", [b"", b"POST ", head()[:-2]])
def test_slow_headers_are_closed(start: Start, colors: list[Served], begun: bytes) -> None:
    server = start(timeout=0.3)
    began = time.monotonic()
    assert talk(server, begun) == b""
    assert 0.2 < time.monotonic() - began < 5


def test_slow_headers_on_a_connection_that_was_used(start: Start, colors: list[Served]) -> None:
    server = start(timeout=0.3)
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=10) as connection:
        for pause in (0.6, 0.0):  # idle for longer than headers may take
            connection.sendall(head(method="GET", path="/healthz"))
            assert status(read_answer(connection)) == 200
            time.sleep(pause)
        connection.sendall(b"GET /heal")
        assert connection.recv(1000) == b""


def test_trickled_headers_do_not_last(start: Start, colors: list[Served]) -> None:
    server = start(timeout=0.5)
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=10) as connection:
        try:
            for _ in range(100):
                connection.sendall(b"a")
                time.sleep(0.05)
        except OSError:  # the server has closed it
            pass
    assert time.monotonic() - began < 3


def test_headers_that_are_too_long(start: Start, colors: list[Served]) -> None:
    server = start()
    for begin in (b"GET /", head()[:-2] + b"X: "):
        assert status(talk(server, begin + b"a" * MAX_HEADER_BYTES)) == 431
    assert fine(server)


@pytest.mark.parametrize(
    "sent",
    [
        b"\0\1\2\3\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        head("Content-Length: x"),
        head("Content-Length: -5"),
        head("Content-Length: 5", "Content-Length: 6"),
        head("Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head("Transfer-Encoding: chunked") + b"zz\r\n",
        head("Content-Length: " + "9" * 30),
        head(path="/\xe4"),
        head(method="GET", path="*"),
    ],
)
def test_what_is_no_http(start: Start, colors: list[Served], sent: bytes) -> None:
    server = start()
    answer = talk(server, sent, seconds=2)
    assert answer == b"" or 400 <= status(answer) < 500
    assert fine(server)


def test_a_compressed_body_is_refused(start: Start, colors: list[Served]) -> None:
    server = start()
    for coding in ("gzip", "deflate", "br"):
        answer = ask(server, PREDICT, b"x", {"Content-Encoding": coding})
        assert (answer.status, answer.json["code"]) == (415, "unsupported_type")
    assert ask(server, PREDICT, encoded(), {"Content-Encoding": "identity"}).status == 200


def test_pipelined_requests_are_answered_in_their_order(start: Start, colors: list[Served]) -> None:
    server = start()
    image = encoded()
    asked = head(f"Content-Length: {len(image)}") + image
    last = head("Connection: close", method="GET", path="/v1/models/x")
    answer = talk(server, asked * 5 + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 5
    assert answer.endswith(b'"no_such_model"}')
    many = head(method="GET", path="/healthz") * (MAX_PIPELINED + 50)
    assert b"400" in talk(server, many, seconds=2)
    assert fine(server)


def test_who_asks_first_is_told_to_go_on_and_answered_in_one_piece(start: Start, colors: list[Served]) -> None:
    server = start()
    image = encoded()
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=10) as connection:
        connection.sendall(head(f"Content-Length: {len(image)}", "Expect: 100-continue"))
        assert connection.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(image)
        answer = connection.recv(1 << 16)  # headers and body come together
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"}")
    refused = talk(server, head("Content-Length: 999999999", "Expect: 100-continue"), seconds=2)
    assert refused.startswith(b"HTTP/1.1 413 ")


def test_answers_without_a_body(start: Start, colors: list[Served]) -> None:
    server = start()
    answer = talk(server, head("Connection: close", method="HEAD", path="/healthz"))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert b"content-length: 15\r\n" in answer


def test_bodies_in_memory_are_bounded_together(
    start: Start, colors: list[Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BODIES", 2)
    server = start(max_bytes=10_000, timeout=20)
    half = head("Content-Length: 10000") + bytes(9_000)
    held = []
    try:
        for _ in range(2):
            held.append(socket.create_connection(("127.0.0.1", port_of(server))))
            held[-1].sendall(half)
        time.sleep(0.3)
        answer = talk(server, half)
        assert status(answer) == 429
    finally:
        for connection in held:
            connection.close()
    time.sleep(0.3)
    assert fine(server), "what is held is given back"


def test_clients_that_leave(start: Start, colors: list[Served]) -> None:
    server = start("colors=slow", timeout=2)
    image = encoded()
    for cut in (0, 10, len(image)):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port_of(server))) as connection:
                connection.sendall(head(f"Content-Length: {len(image)}") + image[:cut])
                time.sleep(0.02)
    for _ in range(50):
        if b"fusiform_requests_in_flight 1.0" in ask(server, "/metrics").body:
            break
        time.sleep(0.1)
    else:
        pytest.fail("requests of clients that left are in flight")
    text = ask(server, "/metrics").body
    assert b"fusiform_queue_images 0.0" in text
    assert b'code="499"' in text
    assert fine(server)


def test_many_idle_connections_keep_nobody_out(start: Start, colors: list[Served]) -> None:
    server = start(timeout=1)
    idle = [socket.create_connection(("127.0.0.1", port_of(server))) for _ in range(300)]
    try:
        assert fine(server)
        time.sleep(1.5)
        assert all(connection.recv(1) == b"" for connection in idle), "they are closed after a time"
    finally:
        for connection in idle:
            connection.close()


def bombs() -> dict[str, bytes]:
    """Small files of 60 megapixels, and one that says so."""
    found = {}
    for form_ in ("PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG"):
        if form_ == "BMP":
            file = io.BytesIO()
            Image.new("RGB", (8, 8)).save(file, "BMP")
            data = bytearray(file.getvalue())
            data[18:26] = (60_000).to_bytes(4, "little") + (1_000).to_bytes(4, "little")
            found["bmp"] = bytes(data)
            continue
        file = io.BytesIO()
        options: dict[str, Any] = {"compression": "tiff_lzw"} if form_ == "TIFF" else {}
        Image.new("L", (10_000, 6_000)).save(file, form_, **options)
        found[form_.lower()] = file.getvalue()
    return found


@pytest.mark.slow
def test_bombs_are_not_decoded(start: Start, colors: list[Served]) -> None:
    server = start()
    for name, bomb in bombs().items():
        answer = ask(server, PREDICT, bomb)
        assert answer.status == 400, name
        assert "no more than 50,000,000 are taken" in answer.json["error"], (name, answer.body)
    assert fine(server)


def test_no_file_is_touched(start: Start, colors: list[Served], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    server = start()
    opened: list[str] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest, **more: opened.append(str(path)) or real(path, *rest, **more))
    large = encoded() + bytes(3_000_000)
    body, headers = form(("/etc/passwd", large), ("../../x", large))
    assert ask(server, PREDICT, body, headers).status == 200
    assert ask(server, PREDICT, large).status == 200
    assert ask(server, PREDICT, b"/etc/passwd").status == 400
    assert opened == []
    assert list(tmp_path.iterdir()) == []


def test_tokens(start: Start, colors: list[Served], tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# ours\n{TOKEN}\n\n{OTHER}\n")
    server = start(token_file=file)
    for path in ("/v1/models", "/metrics", "/v2", "/openapi.json", "/nothing"):
        answer = ask(server, path)
        assert (answer.status, answer.json["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    for path in limits.OPEN:
        assert ask(server, path).status == 200
    wrong = ["", "Bearer", "Bearer ", "Bearer x", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}a", f"Bearer {TOKEN[:-1]}"]
    for shown in wrong:
        assert ask(server, PREDICT, encoded(), {"Authorization": shown}).status == 401
    for token in (TOKEN, OTHER):
        assert ask(server, PREDICT, encoded(), {"Authorization": f"bearer {token}"}).status == 200
    new = "c" * 20
    file.write_text(new)
    server.reload()
    assert ask(server, "/v1/models", headers={"Authorization": f"Bearer {TOKEN}"}).status == 401
    assert ask(server, "/v1/models", headers={"Authorization": f"Bearer {new}"}).status == 200
    file.write_text("short")
    server.reload()
    assert ask(server, "/v1/models", headers={"Authorization": f"Bearer {new}"}).status == 200, "it stays as it was"


def test_tokens_of_the_environment(start: Start, colors: list[Served], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIFORM_TOKENS", f"{TOKEN} {OTHER}")
    server = start()
    assert ask(server, "/v1/models").status == 401
    assert ask(server, "/v1/models", headers={"Authorization": f"Bearer {OTHER}"}).status == 200


@pytest.mark.parametrize("text", ["", "# nothing\n", "short", "with blanks in between them", "ä" * 20, TOKEN + "\nx"])
def test_token_files_that_hold_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        Tokens(file)
    assert str(file) in str(error.value)
    assert TOKEN not in str(error.value)
    with pytest.raises(InputError, match="cannot be read"):
        Tokens(tmp_path / "missing")


def test_pages_of_other_origins(start: Start, colors: list[Served], tmp_path: Path) -> None:
    origin = {"Origin": "https://example.org"}
    plain = start()
    assert "access-control-allow-origin" not in ask(plain, "/v1/models", headers=origin).headers
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    server = start(cors=["https://example.org"], token_file=file)
    first = ask(
        server,
        PREDICT,
        headers={**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"},
        method="OPTIONS",
    )
    assert first.status == 200
    assert first.headers["access-control-allow-origin"] == "https://example.org"
    answer = ask(server, PREDICT, encoded(), {**origin, "Authorization": f"Bearer {TOKEN}"})
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "https://example.org")
    other = ask(server, "/v1/models", headers={"Origin": "https://else.org", "Authorization": f"Bearer {TOKEN}"})
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threads": 0}, "threads must be at least 1"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"threads": 1, "workers": 2}, "2 workers need a thread each"),
        ({"port": 70000}, "port must be"),
        ({"queue_seconds": 0}, "queue_seconds must be"),
        ({"timeout": float("nan")}, "timeout must be"),
        ({"drain": -1}, "drain must be"),
        ({"max_bytes": "20X"}, "max_bytes must be a number such as"),
        ({"max_bytes": "1G"}, "max_bytes must be up to"),
        ({"max_pixels": 0}, "max_pixels must be at least 1"),
        ({"cors": ["example.org"]}, "is no origin"),
        ({"cors": ["https://example.org/page"]}, "is no origin"),
        ({"engine": "none"}, "there is no engine"),
        ({"log": "all"}, "log must be"),
        ({"host": "no.such.host.invalid"}, "is no address of this machine"),
        ({"token_file": "missing"}, "cannot be read"),
    ],
)
def test_options_that_do_not_fit(start: Start, colors: list[Served], options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        start(**options)


def test_a_port_that_is_taken(start: Start, colors: list[Served]) -> None:
    with pytest.raises(InputError, match="choose another --port"):
        start(port=port_of(start()))


def test_counts() -> None:
    given = {"20M": 20_000_000, "1.5k": 1500, "7": 7, 9: 9, " 2 GB ": 2_000_000_000, "0.5M": 500_000}
    assert {text: read_count(text, "x") for text in given} == given
    for wrong in ("", "M", "-1", "1e6", "1_000", "20 MiB", "nan"):
        with pytest.raises(UsageError, match="x must be"):
            read_count(wrong, "x")
