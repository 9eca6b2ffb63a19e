"""The server as a whole: its end, its reloading, its processes, its metrics and its log."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import fusiform
from fusiform.errors import InputError
from fusiform.serving import models
from fusiform.serving.models import Served
from fusiform.serving.shutdown import _begin_no_more

from .conftest import ask, encoded, form, port_of, talk

Start = Callable[..., fusiform.Server]
ROOT = Path(__file__).parents[2]
PREDICT = "/v1/models/colors:predict"
CAT = (ROOT / "examples" / "cat.jpg").read_bytes()


@contextmanager
def command(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """``fusiform serve`` on a free port, and the port, once it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fusiform", "serve", *arguments, "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("fusiform: listening at http://127.0.0.1:"), (line, process.communicate()[1])
        yield process, int(line.rpartition(":")[2])
    finally:
        process.kill()
        process.communicate()


class Load:
    """Clients that ask all the time, each with a connection for each request, and what became of it."""

    def __init__(self, port: int, clients: int = 4) -> None:
        self.port = port
        self.answers: list[int] = []
        self.refused = 0
        self.reset: list[str] = []
        self._stopped = False
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped = True
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        request = (
            "POST /v1/models/shufflenet_v2_x1_0:predict HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
            f"Content-Length: {len(CAT)}\r\n\r\n"
        ).encode() + CAT
        while not self._stopped:
            try:
                connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
            except ConnectionRefusedError:  # the socket is closed: nothing was accepted
                self.refused += 1
                time.sleep(0.01)
                continue
            except OSError as error:
                self.reset.append(f"connecting: {error}")
                continue
            with connection:
                try:
                    connection.sendall(request)
                    received = b""
                    while piece := connection.recv(1 << 16):
                        received += piece
                    self.answers.append(int(received[9:12]))
                    assert received.endswith(b"}")
                except (OSError, ValueError, AssertionError) as error:
                    self.reset.append(f"{error!r}")


def stop_under_load(drain: float) -> None:
    with command("shufflenet_v2_x1_0", "--log", "nothing", "--drain", str(drain), "--threads", "2") as (process, port):
        load = Load(port)
        try:
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            time.sleep(0.1)
        finally:
            load.stop()
    assert load.reset == []
    assert load.refused > 0
    assert 200 in load.answers
    assert set(load.answers) <= {200, 429}


def test_sigterm_under_load_answers_all_that_was_accepted() -> None:
    stop_under_load(0.3)


@pytest.mark.slow
def test_sigterm_under_load_time_and_again() -> None:
    for k in range(int(os.environ.get("FUSIFORM_TEST_STOPS", "6"))):
        stop_under_load((0.0, 0.1, 0.5)[k % 3])


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is Linux's")
def test_no_connection_begins_while_those_that_wait_are_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as made, socket.create_connection(address) as waiting:
            taken, _ = listener.accept()
            assert _begin_no_more(listener)
            with pytest.raises(TimeoutError):
                socket.create_connection(address, timeout=0.3)
            # What is there goes on.
            made.sendall(bytes(200_000))
            assert len(taken.recv(200_000, socket.MSG_WAITALL)) == 200_000
            taken.sendall(b"x")
            assert made.recv(1) == b"x"
            listener.accept()[0].close()
            assert waiting.recv(1) == b""
            taken.close()
        refusing = threading.Timer(0.3, listener.close)
        refusing.start()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=10)
        refusing.join()


def test_readiness_fails_at_once_and_requests_go_on(start: Start, colors: list[Served]) -> None:
    server = start("colors=slow", drain=1.0)
    assert ask(server, "/readyz").status == 200
    server.stop()
    began = time.monotonic()
    for path in ("/readyz", "/v2/health/ready", "/ping"):
        answer = ask(server, path)
        assert (answer.status, answer.json["code"], answer.headers["connection"]) == (503, "draining", "close")
    assert ask(server, "/healthz").status == 200
    assert ask(server, PREDICT, encoded()).status == 200
    assert not server.wait(0.1)
    assert server.wait(10)
    assert time.monotonic() - began > 0.9
    with pytest.raises(ConnectionRefusedError):
        ask(server, "/healthz")


def test_a_request_under_way_is_answered(start: Start, colors: list[Served]) -> None:
    server = start()
    engine: Any = colors[0].workers[0].engine
    engine.gate.clear()
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(ask(server, PREDICT, encoded()).status))
    thread.start()
    while not engine.batches:
        time.sleep(0.001)
    server.stop(0)
    assert not server.wait(0.5)
    engine.gate.set()
    assert server.wait(10)
    thread.join()
    assert answers == [200]


def test_a_second_signal_cuts_the_wait_short() -> None:
    with command("shufflenet_v2_x1_0", "--drain", "60", "--log", "nothing") as (process, _):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_ctrl_c_ends_without_a_wait() -> None:
    with command("shufflenet_v2_x1_0", "--drain", "60", "--log", "nothing") as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def wait_for(condition: Callable[[], bool], seconds: float = 15) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def network(server: fusiform.Server, name: str) -> str:
    return str(ask(server, f"/v1/models/{name}").json["spec"]["architecture"])


def test_a_file_that_is_replaced_is_opened_again(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "POLL", 0.05)
    bundled = fusiform.open_model("mobilenet_v2").path.parent
    first, second = (next(bundled.glob(f"{name}*.tflite")) for name in ("mobilenet_v2", "shufflenet_v2"))
    file = tmp_path / "model.tflite"
    shutil.copy(first, file)
    server = start(str(file))
    assert network(server, "model") == "mobilenet_v2"

    def replace(content: bytes) -> None:
        (tmp_path / "new").write_bytes(content)
        (tmp_path / "new").rename(file)

    replace(b"damaged")
    failed = b'fusiform_model_loads_total{model="model",result="failed"} 1.0'
    assert wait_for(lambda: failed in ask(server, "/metrics").body)
    assert ask(server, "/v1/models/model:predict", CAT).status == 200, "the old one goes on"
    replace(second.read_bytes())
    assert wait_for(lambda: network(server, "model") == "shufflenet_v2")
    answer = ask(server, "/v1/models/model:predict", CAT)
    assert answer.json["predictions"][0]["top"] == fusiform.predict(CAT, file).to_dict()["predictions"][0]["top"]
    file.unlink()
    time.sleep(0.3)
    assert ask(server, "/v1/models/model:predict", CAT).status == 200
    assert ask(server, "/metrics").body.count(b"fusiform_model_loads_total{") == 2


def test_sighup_opens_the_models_again() -> None:
    with command("shufflenet_v2_x1_0", "--log", "events") as (process, _):
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        for line in process.stderr:
            told = json.loads(line)
            if told["event"] == "a model was opened again":
                assert told["model"] == "shufflenet_v2_x1_0"
                break
        else:
            pytest.fail("it was not opened again")


def test_requests_while_models_are_opened_again(start: Start) -> None:
    server = start("shufflenet_v2_x1_0", queue_seconds=10)
    answers: list[int] = []
    stopped = threading.Event()

    def asks() -> None:
        while not stopped.is_set():
            answers.append(ask(server, "/v1/models/shufflenet_v2_x1_0:predict", CAT).status)

    threads = [threading.Thread(target=asks) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        server.reload()
        time.sleep(0.3)
    stopped.set()
    for thread in threads:
        thread.join()
    assert set(answers) == {200}


@pytest.mark.skipif(os.name != "posix", reason="Windows shares no socket")
def test_several_processes_behind_one_socket(capfd: pytest.CaptureFixture[str]) -> None:
    with fusiform.serve("shufflenet_v2_x1_0", port=0, threads=2, workers=2, log="events") as server:
        for _ in range(20):
            assert ask(server, "/v1/models/shufflenet_v2_x1_0:predict", CAT).status == 200
        counted = ask(server, "/metrics").body
        assert re.search(rb'fusiform_images_total\{model="shufflenet_v2_x1_0"\} 20\.0', counted), counted.decode()
        running: Any = server._running
        victim = running._processes[0]
        victim.kill()
        assert wait_for(lambda: running._processes[0] is not victim, 20)
        assert wait_for(lambda: all(each.poll() is None for each in running._processes))
        for _ in range(10):
            assert ask(server, "/v1/models/shufflenet_v2_x1_0:predict", CAT).status == 200
        processes = list(running._processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert "a process ended and is started again" in capfd.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="Windows shares no socket")
def test_processes_say_what_is_wrong() -> None:
    with pytest.raises(InputError, match=r"missing\.tflite: no such model file"):
        fusiform.serve("missing.tflite", port=0, threads=2, workers=2, log="nothing")


@pytest.mark.slow
def test_ten_thousand_idle_connections() -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 11_000:
        pytest.skip(f"this process may open {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    idle: list[socket.socket] = []
    try:
        with command("shufflenet_v2_x1_0", "--log", "nothing", "--timeout", "20") as (process, port):
            idle += [socket.create_connection(("127.0.0.1", port)) for _ in range(10_000)]
            load = Load(port, clients=1)
            assert wait_for(lambda: len(load.answers) >= 10, 30)
            load.stop()
            assert set(load.answers) == {200}
            assert load.reset == []
            kept = Path(f"/proc/{process.pid}/fd")
            assert wait_for(lambda: len(list(kept.iterdir())) < 100, 40), "they are closed after a time"
    finally:
        for connection in idle:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_metrics(start: Start, colors: list[Served]) -> None:
    server = start()
    for _ in range(3):
        ask(server, PREDICT, encoded())
    ask(server, PREDICT, b"no image")
    ask(server, "/nothing")
    answer = ask(server, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.body.decode().splitlines()
    for expected in (
        'fusiform_requests_total{code="200",endpoint="predict"} 3.0',
        'fusiform_requests_total{code="400",endpoint="predict"} 1.0',
        'fusiform_requests_total{code="404",endpoint="none"} 1.0',
        'fusiform_images_total{model="colors"} 4.0',
        'fusiform_stage_seconds_count{stage="queue"} 4.0',
        'fusiform_stage_seconds_count{stage="decode"} 4.0',
        'fusiform_stage_seconds_count{stage="network"} 4.0',
        "fusiform_queue_images 0.0",
        "fusiform_requests_in_flight 1.0",
        "fusiform_shed_images_total 0.0",
        "fusiform_dropped_images_total 0.0",
    ):
        assert expected in lines


def test_the_log_has_no_name_and_no_token(
    start: Start, colors: list[Served], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "t0ps3cret" * 4
    monkeypatch.setenv("FUSIFORM_TOKENS", secret)
    server = start(log="requests")

    token = {"Authorization": f"Bearer {secret}"}
    body, headers = form(("private.png", encoded()))
    assert ask(server, PREDICT, body, {**headers, **token}).status == 200
    assert ask(server, f"/private?token={secret}", headers=token).status == 404
    assert ask(server, "/v1/models/private", headers={"Authorization": f"Bearer {secret}x"}).status == 401

    black = io.BytesIO()
    Image.new("RGB", (32, 32)).save(black, "PNG")
    body, headers = form(("private.png", black.getvalue()))
    assert ask(server, PREDICT, body, {**headers, **token}).status == 500
    talk(server, b"private nonsense\r\n\r\n", seconds=1)
    server.close()
    text = capfd.readouterr().err
    assert "private" not in text
    assert secret not in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["status"] for line in lines if line["event"] == "request"] == [200, 404, 401, 500]
    assert {"ready", "a model failed", "ended"} <= {line["event"] for line in lines}


def test_no_descriptors_and_threads_are_left(start: Start, colors: list[Served]) -> None:
    def left() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc")
    start().close()
    before = left()
    for _ in range(3):
        server = start()
        assert ask(server, PREDICT, encoded()).status == 200
        server.close()
    assert left() == before


def test_without_the_extra_the_command_says_so() -> None:
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'uvicorn' else find(name)\n"
        "sys.argv = ['fusiform', 'serve', 'mobilenet_v2']\n"
        "from fusiform.cli import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert (
        done.stderr == "fusiform: fusiform serve needs uvicorn, which is not installed: pip install 'fusiform[serve]'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["missing.tflite"], 1, "missing.tflite: no such model file"),
        (["a b=mobilenet_v2"], 2, "cannot be a model's name"),
        (["mobilenet_v2", "mobilenet_v2"], 2, "two models are called"),
        (["mobilenet_v2", "--max-bytes", "x"], 2, "max_bytes must be"),
        (["mobilenet_v2", "--host", "256.1.1.1"], 1, "is no address"),
        ([], 2, "Missing argument"),
    ],
)
def test_what_the_command_refuses(arguments: list[str], code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fusiform", "serve", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_of_the_command_is_told_as_it_is(start: Start, colors: list[Served]) -> None:
    server = start()
    assert server.address == f"http://127.0.0.1:{port_of(server)}"
    assert port_of(server) > 0
    assert repr(server) == f"<Server at {server.address}>"
