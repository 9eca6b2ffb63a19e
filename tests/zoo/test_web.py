"""A server that does on purpose what none should: nothing it says may hold, fill or fool a program."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from fusiform import predict
from fusiform.errors import DownloadError
from fusiform.progress import silent
from fusiform.zoo import download, web

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
TO = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: "
SLOWLY, ENDLESSLY = 0.05, 0.0

# What is sent first, and what again and again behind it, with how long a rest.
BEHAVIOURS: dict[str, tuple[bytes, bytes, float]] = {
    "slow header": (b"", b"H", SLOWLY),
    "slow lines": (HEAD, b"a: b\r\n", SLOWLY),
    "slow 100": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", SLOWLY),
    "flood of 100": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, ENDLESSLY),
    "flood of headers": (HEAD, b"a: b\r\n" * 1000, ENDLESSLY),
    "endless line": (b"", b"H" * 10000, ENDLESSLY),
    "slow body": (HEAD + b"\r\n", b"x", SLOWLY),
    "endless body": (HEAD + b"\r\n", bytes(1 << 16), ENDLESSLY),
    "endless trailers": (CHUNKED, b"a: b\r\n" * 1000, ENDLESSLY),
    "slow trailers": (CHUNKED, b"a: b\r\n", SLOWLY),
    "long digits": (HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nx", b"", 0),
    "long length": (HEAD + b"Content-Length: 99999999999\r\n\r\nx", b"", 0),
    "no number": (HEAD + b"Content-Length: \xb2\r\n\r\nx", b"", 0),
    "chunk of many digits": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 6000 + b"\r\nx", b"", 0),
    "no chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzzz\r\nx", b"", 0),
    "long reason": (b"HTTP/1.1 404 " + b"n" * 60000 + b"\r\n\r\n", b"", 0),
    "no http": (b"\0\xff" * 100, b"", 0),
    "nothing": (b"", b"", 0),
    "to ftp": (TO + b"ftp://127.0.0.1/x\r\n\r\n", b"", 0),
    "to file": (TO + b"file:///etc/passwd\r\n\r\n", b"", 0),
    "to data": (TO + b"data:text/plain,x\r\n\r\n", b"", 0),
    "to itself": (TO + b"/\r\n\r\n", b"", 0),
    "to no port": (TO + b"http://127.0.0.1:x/\r\n\r\n", b"", 0),
}


@contextmanager
def serving(behaviour: tuple[bytes, bytes, float], asked: list[bytes]) -> Iterator[str]:
    """The host and port of a server that answers each request so, and writes down what it was asked."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            asked.append(connection.recv(1 << 16))
            first, again, rest = behaviour
            connection.sendall(first)
            while again:
                connection.sendall(again)
                time.sleep(rest)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


@pytest.fixture(autouse=True)
def _short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSIFORM_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("fusiform.prediction.sources.DOWNLOAD_SECONDS", 0.7)
    monkeypatch.setattr("fusiform.prediction.sources.STALL_SECONDS", 0.5)
    monkeypatch.setattr(download, "DEADLINE_SECONDS", 0.7)
    monkeypatch.setattr(download, "HEADER_SECONDS", 0.5)
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.4)
    monkeypatch.setattr(download, "RETRY_DELAYS", (0.0,))


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_no_address_holds_a_batch_or_ends_it(name: str) -> None:
    began = time.monotonic()
    with serving(BEHAVIOURS[name], []) as host:
        address, array = predict([f"http://{host}/x.jpg", np.zeros((9, 9, 3), np.uint8)], threads=1)
    assert address.error is not None
    assert address.error.startswith(f"http://{host}/x.jpg: ")
    assert len(address.error) < 400
    assert "Errno" not in address.error
    assert array.error is None
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_no_mirror_holds_a_program_or_fills_a_disk(name: str, tmp_path: Path) -> None:
    began = time.monotonic()
    with serving(BEHAVIOURS[name], []) as host, pytest.raises(DownloadError) as caught:
        download.download(f"http://{host}/x", tmp_path / "x", "0" * 64, progress=silent, limit=1 << 20)
    assert str(caught.value).startswith(f"http://{host}/x: ")
    assert "Errno" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert time.monotonic() - began < 10


def test_what_is_slow_is_told_by_its_deadline(tmp_path: Path) -> None:
    with serving(BEHAVIOURS["slow header"], []) as host:
        assert predict(f"http://{host}/x")[0].error == (
            f"http://{host}/x: not complete after 0.7 seconds; try again later"
        )
        with pytest.raises(DownloadError, match=r"x: not complete after 0\.5 seconds\. Nothing was kept"):
            download.download(f"http://{host}/x", tmp_path / "x", "", progress=silent)
    with (
        serving(BEHAVIOURS["slow body"], []) as host,
        pytest.raises(DownloadError, match=r"x: not complete after 0\.7 seconds\. Nothing was kept"),
    ):
        download.download(f"http://{host}/x", tmp_path / "x", "", progress=silent)
    with serving(BEHAVIOURS["long digits"], []) as host:
        assert "larger than 64 MiB" in str(predict(f"http://{host}/x")[0].error)
    with serving(BEHAVIOURS["to ftp"], []) as host:
        assert "unknown url type: ftp" in str(predict(f"http://{host}/x")[0].error)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://user:secret@host/a.jpg", "http://***@host/a.jpg"),
        ("https://secret@host:81/a?b=c", "https://***@host:81/a?b=c"),
        ("http://u:se@cret@host/", "http://***@host/"),
        ("http://u:se/cret@host/a", "http://***@host/a"),
        ("http://u:se?cret@host/a", "http://***@host/a"),
        ("http://host:80/npm/pkg@1.2/a.png", "http://host:80/npm/pkg@1.2/a.png"),
        ("https://host/a@b.png?x@y", "https://host/a@b.png?x@y"),
        ("http://[::1]/a@b", "http://[::1]/a@b"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
    ],
)
def test_a_password_is_never_shown(address: str, shown: str) -> None:
    assert web.without_password(address) == shown


def test_a_password_is_sent_to_its_own_host_alone_and_never_printed(tmp_path: Path) -> None:
    first: list[bytes] = []
    second: list[bytes] = []
    with serving((HEAD + b"\r\nno picture", b"", 0), second) as other:
        there = (TO + f"http://{other}/b\r\n\r\n".encode(), b"", 0.0)
        with serving(there, first) as host:
            (answer,) = predict(f"http://me:sec%20ret@{host}/a.jpg")
            assert answer.path == f"http://***@{host}/a.jpg"
            assert str(answer.error).startswith(f"http://***@{host}/a.jpg: is not a picture")
    assert b"Authorization: Basic " + base64.b64encode(b"me:sec ret") in first[0]
    assert b"Authorization" not in second[0]
    for address in (
        "http://me:secret@127.0.0.1:1/x",
        "http://me:sec/ret@[",
        "http://me:secret@[/x",
        "http://me:sec ret@x:y/",
    ):
        (answer,) = predict(address)
        assert "sec" not in f"{answer}{answer.path}{answer.error}"
        with pytest.raises(DownloadError) as caught:
            download.download(address, tmp_path / "x", "", progress=silent)
        assert "sec" not in str(caught.value)
