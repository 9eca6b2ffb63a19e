"""Downloads from a server on this machine that does everything wrong that servers do."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fusiform.errors import DownloadError, WeightsError
from fusiform.progress import Progress, Unit, silent
from fusiform.zoo import download
from fusiform.zoo.catalog import TORCHVISION_BASE, Weights, find_weights
from fusiform.zoo.fetch import cache_dir, fetch

CONTENT = bytes(range(256)) * 1200
DIGEST = hashlib.sha256(CONTENT).hexdigest()

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.close_connection = True
        with suppress(BrokenPipeError, ConnectionResetError):  # the client has given up, as it should
            self.server.answers[min(len(self.server.paths), len(self.server.answers)) - 1](self)

    def begin(self, status: int = 200, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class Server(ThreadingHTTPServer):
    """Answers its requests with ``answers`` in turn, the last one again and again."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: tuple[Answer, ...] = (right,)
        self.paths: list[str] = []
        self.ended = threading.Event()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


def right(handler: Handler) -> None:
    handler.begin(Content_Length=len(CONTENT))
    handler.wfile.write(CONTENT)


def without_length(handler: Handler) -> None:
    handler.begin()
    handler.wfile.write(CONTENT)


def chunked(handler: Handler) -> None:
    handler.begin(Transfer_Encoding="chunked")
    for start in range(0, len(CONTENT), 100_000):
        piece = CONTENT[start : start + 100_000]
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    handler.wfile.write(b"0\r\n\r\n")


def chunked_cut_off(handler: Handler) -> None:
    handler.begin(Transfer_Encoding="chunked")
    handler.wfile.write(b"%x\r\n%s" % (len(CONTENT), CONTENT[:1000]))


def trickle(handler: Handler) -> None:
    handler.begin(Content_Length=len(CONTENT))
    for start in range(0, len(CONTENT), 1 << 15):
        handler.wfile.write(CONTENT[start : start + (1 << 15)])
        time.sleep(0.1)


def cut_off(handler: Handler) -> None:
    handler.begin(Content_Length=len(CONTENT))
    handler.wfile.write(CONTENT[: len(CONTENT) // 2])


def length_too_large(handler: Handler) -> None:
    handler.begin(Content_Length=len(CONTENT) + 1)
    handler.wfile.write(CONTENT)


def length_too_small(handler: Handler) -> None:
    handler.begin(Content_Length=len(CONTENT) - 1)
    handler.wfile.write(CONTENT)


def wrong_bytes(handler: Handler) -> None:
    handler.begin(Content_Length=len(CONTENT))
    handler.wfile.write(CONTENT[::-1])


def empty(handler: Handler) -> None:
    handler.begin(Content_Length=0)


def hang_at_once(handler: Handler) -> None:
    handler.server.ended.wait(30)


def hang_midway(handler: Handler) -> None:
    handler.begin(Content_Length=len(CONTENT))
    handler.wfile.write(CONTENT[:200_000])
    handler.server.ended.wait(30)


def drop(handler: Handler) -> None:
    handler.connection.close()


def garbage(handler: Handler) -> None:
    handler.wfile.write(b"no server speaks like this\r\n\r\n")


def status(code: int) -> Answer:
    return lambda handler: handler.begin(code, Content_Length=0)


def redirect(location: str) -> Answer:
    return lambda handler: handler.begin(302, Location=location, Content_Length=0)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.ended.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("FUSIFORM_MIRROR", "FUSIFORM_OFFLINE", "http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "RETRY_DELAYS", (0.0, 0.0))
    return tmp_path / "cache"


def record(server: Server, *, sha256: str = DIGEST) -> Weights:
    url = server.base + "m.pth"
    return Weights("mobilenet_v2", 1.0, "t", file="m.pth", size_mb=1, license="", source="", url=url, sha256=sha256)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("answer", [right, without_length, chunked, trickle], ids=lambda answer: answer.__name__)
def test_a_whole_file_arrives(server: Server, cache: Path, answer: Answer) -> None:
    server.answers = (answer,)
    path = fetch(record(server), progress=silent)
    assert path == cache / "m.pth"
    assert path.read_bytes() == CONTENT
    assert files(cache) == ["m.pth"]


def test_a_prefix_of_the_hash_is_enough_and_case_does_not_matter(server: Server) -> None:
    assert fetch(record(server, sha256=DIGEST[:8].upper()), progress=silent).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("answer", "requests", "message"),
    [
        (cut_off, 3, "broke off after 153,600 of 307,200 bytes"),
        (chunked_cut_off, 3, "IncompleteRead"),
        (length_too_large, 3, "broke off after 307,200 of 307,201 bytes"),
        (length_too_small, 1, f"SHA-256 begins .*, not {DIGEST}"),
        (wrong_bytes, 1, f"307,200 bytes came whose SHA-256 begins .*, not {DIGEST}"),
        (empty, 1, "the answer is empty"),
        (hang_at_once, 3, "said nothing for 0.5 s"),
        (hang_midway, 3, "said nothing for 0.5 s"),
        (drop, 3, "cannot be fetched"),
        (garbage, 3, "cannot be fetched"),
        (status(403), 1, "answers 403 Forbidden"),
        (status(404), 1, "answers 404 Not Found"),
        (status(429), 3, "answers 429 Too Many Requests"),
        (status(500), 3, "answers 500 Internal Server Error"),
        (status(503), 3, "answers 503 Service Unavailable"),
        (redirect("/again"), 5, "answers 302"),
        (redirect("ftp://127.0.0.1/m.pth"), 1, "unknown url type: ftp"),
        (redirect("file:///etc/hostname"), 1, "answers 302"),
    ],
)
def test_a_failure_leaves_nothing_and_says_what_to_do(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer, requests: int, message: str
) -> None:
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.5)
    server.answers = (answer,)
    with pytest.raises(DownloadError, match=message) as error:
        fetch(record(server), progress=silent)
    assert str(error.value).startswith(server.base + "m.pth: ")
    assert "FUSIFORM_MIRROR" in str(error.value)
    assert files(cache) == []
    assert len(server.paths) == requests


@pytest.mark.parametrize("failure", [status(500), cut_off, chunked_cut_off, hang_midway, drop])
def test_what_may_pass_is_tried_again(server: Server, monkeypatch: pytest.MonkeyPatch, failure: Answer) -> None:
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.5)
    server.answers = (failure, failure, right)
    assert fetch(record(server), progress=silent).read_bytes() == CONTENT
    assert len(server.paths) == 3


def test_retries_wait_longer_each_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(download, "RETRY_DELAYS", (1.0, 2.0, 4.0))
    monkeypatch.setattr(download.time, "sleep", waits.append)
    server.answers = (status(503),)
    with pytest.raises(DownloadError):
        fetch(record(server), progress=silent)
    assert waits == [1.0, 2.0, 4.0]


def test_a_slow_server_may_take_longer_than_the_timeout(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.8)
    server.answers = (trickle,)  # a second in all
    assert fetch(record(server), progress=silent).read_bytes() == CONTENT
    assert len(server.paths) == 1


def test_a_redirect_is_followed(server: Server) -> None:
    server.answers = (redirect("/elsewhere"), right)
    assert fetch(record(server), progress=silent).read_bytes() == CONTENT
    assert server.paths == ["/m.pth", "/elsewhere"]


def test_nobody_listens(server: Server, cache: Path) -> None:
    weights = record(server)
    server.server_close()
    with pytest.raises(DownloadError, match=r"cannot be fetched .*refused"):
        fetch(weights, progress=silent)
    assert files(cache) == []


def test_a_cached_file_needs_no_network(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch(record(server), progress=silent)
    assert fetch(record(server), progress=silent) == path
    monkeypatch.setenv("FUSIFORM_OFFLINE", "1")
    assert fetch(record(server), progress=silent) == path
    assert len(server.paths) == 1


@pytest.mark.parametrize("damage", [b"", CONTENT[:-1], CONTENT[::-1], CONTENT + b"\0"])
def test_a_damaged_cache_is_noticed_and_mended(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    path = fetch(record(server), progress=silent)
    path.write_bytes(damage)
    monkeypatch.setenv("FUSIFORM_OFFLINE", "1")
    with pytest.raises(DownloadError, match=r"m\.pth is damaged, and FUSIFORM_OFFLINE forbids"):
        fetch(record(server), progress=silent)
    monkeypatch.setenv("FUSIFORM_OFFLINE", "0")
    assert fetch(record(server), progress=silent).read_bytes() == CONTENT
    assert files(cache) == ["m.pth"]


def test_offline_without_the_file_says_what_to_do(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIFORM_OFFLINE", "1")
    with pytest.raises(DownloadError, match=r"m\.pth is not there, and FUSIFORM_OFFLINE .*unset it, or copy the file"):
        fetch(record(server), progress=silent)
    assert server.paths == []


@contextmanager
def interrupted(*, total: int | None, label: str, unit: Unit = "images") -> Iterator[Progress]:
    class Interrupt:
        def advance(self, amount: int = 1, note: str = "") -> None:
            raise KeyboardInterrupt

    yield Interrupt()


def test_an_interruption_leaves_nothing(server: Server, cache: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch(record(server), progress=interrupted)
    assert files(cache) == []


def test_progress_adds_up_to_the_length(server: Server) -> None:
    told: list[object] = []

    @contextmanager
    def listener(*, total: int | None, label: str, unit: Unit = "images") -> Iterator[Progress]:
        class Listener:
            def advance(self, amount: int = 1, note: str = "") -> None:
                told.append(amount)

        told.extend((total, label, unit))
        yield Listener()

    fetch(record(server), progress=listener)
    total, label, unit, *amounts = told
    assert (total, label, unit) == (len(CONTENT), "m.pth", "B")
    assert sum(amounts) == len(CONTENT)  # type: ignore[arg-type]


FETCH_IN_A_PROCESS = """
import sys
from fusiform.progress import silent
from fusiform.zoo.catalog import Weights
from fusiform.zoo.fetch import fetch
url, sha256 = sys.argv[1:]
fetch(Weights("mobilenet_v2", 1.0, "t", file="m.pth", size_mb=1, license="", source="", url=url, sha256=sha256),
      progress=silent)
"""


def start_process(server: Server) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", FETCH_IN_A_PROCESS, server.base + "m.pth", DIGEST])


def test_several_processes_and_threads_fetch_the_same_file_at_once(server: Server, cache: Path) -> None:
    together = threading.Barrier(4, timeout=60)

    def wait_for_all(handler: Handler) -> None:
        together.wait()
        trickle(handler)

    server.answers = (wait_for_all, wait_for_all, wait_for_all, wait_for_all, right)
    processes = [start_process(server) for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        paths = list(pool.map(lambda _: fetch(record(server), progress=silent), range(2)))
    assert [process.wait(60) for process in processes] == [0, 0]
    assert paths == [cache / "m.pth"] * 2
    assert paths[0].read_bytes() == CONTENT
    assert files(cache) == ["m.pth"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_process_does_not_poison_the_cache(server: Server, cache: Path) -> None:
    server.answers = (hang_midway, right)
    process = start_process(server)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any(path.stat().st_size for path in cache.glob("*.part")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [Path(name).suffix for name in files(cache)] == [".part"]
    assert fetch(record(server), progress=silent).read_bytes() == CONTENT


def test_a_mirror_replaces_torchvisions_base_address(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIFORM_MIRROR", server.base + "mirror/")
    server.answers = (status(404),)
    with pytest.raises(DownloadError, match=f"{server.base}mirror/mobilenet_v2-b0353104.pth: the server answers 404"):
        fetch(find_weights("mobilenet_v2", "IMAGENET1K_V1"), progress=silent)
    assert server.paths == ["/mirror/mobilenet_v2-b0353104.pth"]


@pytest.mark.parametrize("as_address", [False, True])
def test_a_folder_as_mirror_works_offline(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, as_address: bool
) -> None:
    folder = tmp_path / "my mirror #1"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "m.pth").write_bytes(CONTENT)
    monkeypatch.setenv("FUSIFORM_MIRROR", folder.as_uri() if as_address else str(folder))
    monkeypatch.setenv("FUSIFORM_OFFLINE", "1")
    url = TORCHVISION_BASE + "sub/m.pth"
    weights = Weights(
        "mobilenet_v2", 1.0, "t", file="m.pth", size_mb=1, license="", source="", url=url, sha256_prefix=DIGEST[:8]
    )
    assert fetch(weights, progress=silent).read_bytes() == CONTENT
    (cache / "m.pth").unlink()
    (folder / "sub" / "m.pth").write_bytes(b"other")
    with pytest.raises(DownloadError, match=r"sub/m\.pth: 5 bytes came whose SHA-256"):
        fetch(weights, progress=silent)
    (folder / "sub" / "m.pth").unlink()
    with pytest.raises(DownloadError, match=r"sub/m\.pth: there is no such file"):
        fetch(weights, progress=silent)
    assert files(cache) == []


def test_unloadable_weights_are_not_even_downloaded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIFORM_MIRROR", server.base)
    with pytest.raises(WeightsError, match="cannot be loaded"):
        fetch(find_weights("mobilenet_v2", "IMAGENET1K_QNNPACK_V1"), progress=silent)
    assert server.paths == []


def test_bundled_weights_lie_in_the_package_and_import_no_network() -> None:
    code = """
import sys
from fusiform.zoo import fetch
from fusiform.zoo.catalog import find_weights
from fusiform.errors import WeightsError
try:
    assert fetch.fetch(find_weights("mobilenet_v2")).name == "mobilenet_v2_x1_0.tflite"
except WeightsError as error:
    assert "install the package again" in str(error)
sys.exit(bool({"ssl", "http.client", "urllib.request", "torch", "numpy"} & sys.modules.keys()))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/m.pth",
        "data:,x",
        "m.pth",
        "http://[",
        "http://127.0.0.1:port/",
        "file://host/m.pth",
        "http:///m",
    ],
)
def test_only_sound_http_and_file_addresses(url: str, cache: Path) -> None:
    with pytest.raises(DownloadError):
        download.download(url, cache / "m.pth", "", progress=silent)
    assert files(cache) == []


def test_a_mirror_that_is_no_address_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIFORM_MIRROR", "http://[")
    with pytest.raises(DownloadError, match=r"is not an address .*: give one like https://host/file"):
        fetch(find_weights("shufflenet_v2_x1_0", "IMAGENET1K_V1"), progress=silent)
    assert files(cache) == []


def test_an_untrusted_certificate_is_told(server: Server, cache: Path, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    # The handshake belongs in the request's thread, where its failure is the client's affair.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    url = server.base.replace("http:", "https:") + "m.pth"
    with pytest.raises(DownloadError, match=r"certificate is not trusted .*SSL_CERT_FILE"):
        download.download(url, cache / "m.pth", "", progress=silent)


def test_a_full_disk_is_told(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DownloadError, match=r"cannot write .*m\.pth \(No space left on device\): make room"):
        fetch(record(server), progress=silent)
    assert files(cache) == []
    assert len(server.paths) == 1


def test_a_cache_that_cannot_be_is_told(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DownloadError, match="FUSIFORM_CACHE"):
        fetch(record(server), progress=silent)


@pytest.mark.parametrize("theirs", [CONTENT, CONTENT[:-1]])
def test_windows_refuses_to_replace_a_file_that_another_process_reads(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, theirs: bytes
) -> None:
    def refuse(part: Path, path: Path) -> None:
        path.write_bytes(theirs)
        raise PermissionError(13, "Access is denied")

    monkeypatch.setattr(os, "replace", refuse)
    if theirs == CONTENT:
        assert fetch(record(server), progress=silent).read_bytes() == CONTENT
    else:
        with pytest.raises(DownloadError, match="Access is denied"):
            fetch(record(server), progress=silent)
    assert files(cache) == ["m.pth"]


@pytest.mark.skipif(sys.platform == "win32", reason="reads other variables there")
def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("FUSIFORM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "Local"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_dir() == tmp_path / "xdg" / "fusiform"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == tmp_path / ".cache" / "fusiform"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == tmp_path / ".cache" / "fusiform"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_dir() == tmp_path / "Library" / "Caches" / "fusiform"
    monkeypatch.setattr(sys, "platform", "win32")
    assert cache_dir() == tmp_path / "Local" / "fusiform"
