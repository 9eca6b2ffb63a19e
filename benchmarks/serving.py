"""A server under load: CPU time and latency an image, what is left at twice the capacity, and SIGTERM.

    pip install fastapi
    python benchmarks/serving.py cost [--rounds 3] [--round 4] [--litserve PYTHON] [--json FILE]
    python benchmarks/serving.py overload [--seconds 60] [--times 2] [--json FILE]
    python benchmarks/serving.py stop [--runs 20] [--json FILE]

cost: contenders take turns, each with all cores, a process of its own and the same int8 file, over the same photographs
(ImageNet's validation set of the shared data, or --folder):
  predict           fusiform.predict of the photographs, warm: what an image costs without HTTP
  fusiform serve    the command, in one process and in two
  plain FastAPI     an UploadFile endpoint and a lock around one LiteRT interpreter with a thread a core
  LitServe          its API with LiteRT, a worker a core; with --litserve, the Python that has it
  torchvision       FastAPI and eager PyTorch in float32, a thread a core
A closed loop of --clients connections loads each for --round seconds (wrk where it is installed, which takes a tenth of
the CPU; else aiohttp), and an open loop of half of what it answered in that (aiohttp), for p50 and p99. The CPU time is
the server's own, with its children. By the clock: the generator runs on the same cores, which predict has to itself, so
that what was answered is set against the cores that were left: images a second / (1 - the generator's CPU seconds /
(cores x seconds)); both are told. Each round's predict is that round's measure, and medians are of the rounds' ratios.
Targets: fusiform serve at most 1.25 times predict's CPU an image, and at least 0.8 times its images a second; plain
FastAPI 1.2, LitServe 1.25 times as much as fusiform serve by CPU; torchvision 5 times by the clock; at most 80 MB.

overload: requests in an open loop at --times the capacity measured first. Targets: answers at least 80 % of the
capacity, the rest 429, nothing else, p99 of the answers at most 0.5 s above --queue-seconds, no answer other than
predict's, and memory within 20 MB: what it grows from a tenth of the time on, when the queue has filled with bodies.

stop: SIGTERM while clients with a new connection for each request ask all the time. Target: nothing reset, all that was
accepted answered, exit code 0.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import common

from fusiform.report import Cell

QUEUE_SECONDS = 1.0
MODEL = "mobilenet_v2"


Result = tuple[str, dict[str, Cell], list[dict[str, Cell]]]
"""A benchmark's name, what was measured on, and its rows."""


@dataclass
class Load:
    """What became of a load: the seconds of each answer by status, and what was answered wrong or not at all."""

    seconds: float = 0.0
    latencies: dict[int, list[float]] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    answered: int = 0
    told: dict[float, float] = field(default_factory=dict)
    """Percentiles in ms, where a program has told them and not the latencies."""

    @property
    def count(self) -> int:
        return self.answered or len(self.latencies.get(200, ()))

    @property
    def rate(self) -> float:
        return self.count / self.seconds

    def percentile(self, share: float) -> float | None:
        if share in self.told:
            return self.told[share]
        found = sorted(self.latencies.get(200, ()))
        return 1000 * found[min(len(found) - 1, int(share * len(found)))] if found else None


Body = tuple[bytes, str]
"""An image and the name that it has to be given; empty where any will do."""


async def closed_loop(url: str, bodies: list[Body], *, clients: int, seconds: float, form: str | None) -> Load:
    """``clients`` connections, each asking again once it is answered, for so long."""
    import aiohttp

    load, waiting = Load(), itertools.cycle(bodies)
    start = time.perf_counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client() -> None:
            while time.perf_counter() < start + seconds:
                await _ask(session, url, next(waiting), load, form)

        await asyncio.gather(*(client() for _ in range(clients)))
    load.seconds = time.perf_counter() - start
    return load


async def open_loop(url: str, bodies: list[Body], *, rate: float, seconds: float, form: str | None = None) -> Load:
    """``rate`` requests a second, sent on time whether or not those before are answered."""
    import aiohttp

    load, tasks = Load(), set()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        start = time.perf_counter()
        for k in range(int(rate * seconds)):
            await asyncio.sleep(max(0, start + k / rate - time.perf_counter()))
            task = asyncio.create_task(_ask(session, url, bodies[k % len(bodies)], load, form))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        load.seconds = time.perf_counter() - start
        await asyncio.gather(*tasks)
    return load


async def _ask(session: Any, url: str, body: Body, load: Load, form: str | None) -> None:
    import aiohttp

    data: Any = body[0]
    if form:
        data = aiohttp.FormData()
        data.add_field(form, body[0], filename="image.jpg")
    start = time.perf_counter()
    try:
        async with session.post(url, data=data, timeout=aiohttp.ClientTimeout(120)) as response:
            text = await response.read()
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        load.failed[type(error).__name__] += 1
        return
    load.latencies.setdefault(response.status, []).append(time.perf_counter() - start)
    if response.status == 200 and body[1] and body[1].encode() not in text[:300]:
        load.wrong += 1


_WRK = """
local bodies, k = {}, 0
for name in io.lines(os.getenv("BODIES")) do
  local file = io.open(name, "rb")
  bodies[#bodies + 1] = file:read("*a")
  file:close()
end
request = function()
  k = k % #bodies + 1
  return wrk.format("POST", nil, {["Content-Type"] = os.getenv("KIND")}, bodies[k])
end
"""
BOUNDARY = "0123456789abcdef"


def fill(url: str, bodies: list[Body], *, clients: int, seconds: float, form: str | None) -> tuple[Load, float]:
    """A closed loop for so long, by wrk where it is installed, and the CPU seconds of the generator."""
    if shutil.which("wrk") is None:
        own = time.process_time()
        load = asyncio.run(closed_loop(url, bodies, clients=clients, seconds=seconds, form=form))
        return load, time.process_time() - own
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(k) for k in range(len(bodies))]
        for file, (data, _) in zip(files, bodies, strict=True):
            file.write_bytes(_in_form(data, form) if form else data)
        script, listed = Path(folder) / "script.lua", Path(folder) / "bodies"
        script.write_text(_WRK)
        listed.write_text("\n".join(map(str, files)))
        kind = f"multipart/form-data; boundary={BOUNDARY}" if form else "image/jpeg"
        before = os.times()
        text = subprocess.run(
            ["wrk", "-t1", f"-c{clients}", f"-d{round(seconds)}s", "--timeout", "60s", "--latency", "-s", script, url],
            env={**os.environ, "BODIES": str(listed), "KIND": kind},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        after = os.times()
    generator = after.children_user + after.children_system - before.children_user - before.children_system
    return _read_wrk(text), generator


def _in_form(data: bytes, field: str) -> bytes:
    name = f'Content-Disposition: form-data; name="{field}"; filename="image.jpg"'
    return f"--{BOUNDARY}\r\n{name}\r\n\r\n".encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


def _read_wrk(text: str) -> Load:
    """What wrk has printed; of the latencies p50 and p99 alone."""
    if (wrong := re.search(r"Non-2xx.*|Socket errors.*", text)) is not None:
        raise SystemExit(wrong[0])
    done = re.search(r"(\d+) requests in ([\d.]+)(m?s)", text)
    assert done is not None, text
    load = Load(seconds=float(done[2]) / (1000 if done[3] == "ms" else 1), answered=int(done[1]))
    for share in (50, 99):
        found = re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", text)
        assert found is not None, text
        load.told[share / 100] = float(found[1]) * {"us": 1e-3, "ms": 1, "s": 1e3}[found[2]]
    return load


@contextmanager
def running(command: list[str], port: int, path: str = "/healthz") -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process group of its own, from when it answers."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        _await(process, port, path)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await(process: subprocess.Popen[bytes], port: int, path: str) -> None:
    from urllib.error import HTTPError
    from urllib.request import urlopen

    for _ in range(1200):
        if process.poll() is not None:
            raise SystemExit(f"{process.args!r} ended with {process.returncode}")
        try:
            urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).close()
        except HTTPError:
            return
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"{process.args!r} does not answer")


def cpu_seconds(process: int) -> float:
    """The CPU time of a process and of its children that run, now."""
    total = 0.0
    for each in _family(process):
        try:
            fields = Path(f"/proc/{each}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def memory(process: int) -> float:
    """The proportional set size of a process and its children, in MB."""
    total = 0
    for each in _family(process):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1e3 * 1.024


class Memory:
    """The memory of a process and its children, taken twice a second while it is open."""

    def __init__(self, process: int) -> None:
        self.taken = [memory(process)]
        self._process, self._ended = process, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._ended.wait(0.5):
            self.taken.append(memory(self._process))

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.taken.append(memory(self._process))


def _family(process: int) -> list[int]:
    found = [process]
    for each in found:
        with suppress(OSError):
            found += map(int, Path(f"/proc/{each}/task/{each}/children").read_text(encoding="ascii").split())
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Contender:
    """A server: its command, where it is asked, and as which field of a form, if in one."""

    command: Callable[[int], list[str]]
    path: str
    form: str | None
    ready: str = "/"


def contenders(litserve: str | None) -> dict[str, Contender]:
    """All servers that can run here."""
    here = Path(__file__).resolve().parent
    others = [sys.executable, str(here / "serving_others.py")]
    found = {
        "fusiform serve": Contender(
            lambda port: serve_command(port, 60), f"/v1/models/{MODEL}:predict", form=None, ready="/readyz"
        ),
        "fusiform serve, 2 processes": Contender(
            lambda port: [*serve_command(port, 60), "--workers", "2"],
            f"/v1/models/{MODEL}:predict",
            form=None,
            ready="/readyz",
        ),
        "plain FastAPI": Contender(lambda port: [*others, "plain", str(port)], "/predict", form="file"),
        "torchvision": Contender(lambda port: [*others, "torchvision", str(port)], "/predict", form="file"),
    }
    if litserve is not None:
        import fusiform

        file, cores = str(fusiform.open_model(MODEL).path), str(common.usable_cores())
        found["LitServe"] = Contender(
            lambda port: [litserve, str(here / "serving_litserve.py"), file, str(port), cores],
            "/predict",
            form="request",
            ready="/health",
        )
    return found


def serve_command(port: int, queue_seconds: float = QUEUE_SECONDS) -> list[str]:
    """``fusiform serve``, as it comes but for its log, and for its queue where everything is to be answered."""
    return [
        *(sys.executable, "-m", "fusiform", "serve", MODEL, "--port", str(port)),
        *("--log", "events", "--queue-seconds", str(queue_seconds), "--drain", "0.5"),
    ]


def photographs(folder: Path | None) -> list[Path]:
    """100 photographs of a folder, by default of the shared data, else the examples."""
    where = folder or common.SHARED_DATA / "imagenet_val"
    files = sorted(path for path in where.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    step = max(1, len(files) // 100)
    return files[::step][:100] or sorted(common.EXAMPLES.glob("*.jpg"))


def cost(arguments: argparse.Namespace) -> Result:
    """CPU time an image, images a second, latency and memory of each contender."""
    import fusiform

    if find_spec("fastapi") is None:
        sys.exit("serving: two contenders are FastAPI's: pip install fastapi")
    files = photographs(arguments.folder)
    bodies: list[Body] = [(path.read_bytes(), "") for path in files]
    cores = common.usable_cores()
    rows: list[dict[str, Cell]] = []
    servers = contenders(arguments.litserve)
    predictor = fusiform.Predictor(MODEL)
    predictor(files)

    def predict() -> dict[str, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        predictor([files[k % len(files)] for k in range(arguments.images)], progress=False)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        rate = arguments.images / wall
        return {"cpu": 1000 * cpu / arguments.images, "rate": rate, "accounted": rate, "generator": 0.0}

    def ask(name: str, server: Contender) -> dict[str, float]:
        port = free_port()
        with running(server.command(port), port, server.ready) as process:
            url = f"http://127.0.0.1:{port}{server.path}"
            fill(url, bodies, clients=4, seconds=1, form=server.form)
            before = cpu_seconds(process.pid)
            load, own = fill(url, bodies, clients=arguments.clients, seconds=arguments.round, form=server.form)
            cpu = cpu_seconds(process.pid) - before
            if not load.count or len(load.latencies.keys() - {200}) or load.failed:
                raise SystemExit(f"{name}: {load.count} answered, {list(load.latencies)}, {load.failed}")
            half = asyncio.run(open_loop(url, bodies, rate=load.rate / 2, seconds=arguments.round, form=server.form))
            return {
                "cpu": 1000 * cpu / load.count,
                "rate": load.rate,
                "accounted": load.rate / (1 - own / (cores * load.seconds)),
                "generator": 1000 * own / load.count,
                "p50 full": load.percentile(0.5) or 0,
                "p99 full": load.percentile(0.99) or 0,
                "p50 half": half.percentile(0.5) or 0,
                "p99 half": half.percentile(0.99) or 0,
                "memory": memory(process.pid),
            }

    calls: dict[str, Callable[[], dict[str, float]]] = {"predict": predict}
    calls |= {name: (lambda name=name, server=server: ask(name, server)) for name, server in servers.items()}
    results = common.in_turns(calls, arguments.rounds, warm_up=0)
    ours, alone = results["fusiform serve"], results["predict"]
    for name, rounds in results.items():
        middle = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
        rows.append(
            {
                "contender": name,
                "CPU ms an image": round(middle["cpu"], 2),
                "generator's CPU ms": round(middle["generator"], 2),
                "images a second": round(middle["rate"], 1),
                "generator accounted": round(middle["accounted"], 1),
                "share of predict's": round(_ratio(rounds, alone, "accounted"), 2),
                "times predict's CPU": round(_ratio(rounds, alone, "cpu"), 2),
                "p50 ms, full": _rounded(middle.get("p50 full")),
                "p99 ms, full": _rounded(middle.get("p99 full")),
                "p50 ms, half": _rounded(middle.get("p50 half")),
                "p99 ms, half": _rounded(middle.get("p99 half")),
                "memory MB": _rounded(middle.get("memory")),
                "times fusiform's CPU": round(_ratio(rounds, ours, "cpu"), 2),
                "fusiform is x faster": round(_ratio(ours, rounds, "accounted"), 2),
            }
        )
    about = common.machine("fusiform", "starlette", "uvicorn", "fastapi", "torch", "aiohttp")
    return f"A server's cost, {len(files)} photographs, {cores} cores", about, rows


def _ratio(numerators: list[dict[str, float]], denominators: list[dict[str, float]], key: str) -> float:
    return common.median_ratio([each[key] for each in numerators], [each[key] for each in denominators])


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def overload(arguments: argparse.Namespace) -> Result:
    """What is answered at ``--times`` the capacity."""
    import fusiform

    files = photographs(arguments.folder)
    expected = fusiform.predict(files, MODEL, top=1, progress=False)
    # As the answer has it: JSON escapes what is not ASCII.
    bodies = [
        (path.read_bytes(), json.dumps(answer.top[0].name))
        for path, answer in zip(files, expected, strict=True)
        if answer.top
    ]
    port = free_port()
    with running(serve_command(port), port, "/readyz") as process:
        url = f"http://127.0.0.1:{port}/v1/models/{MODEL}:predict"
        # The generator takes CPU too: the capacity is what it can be asked at most in a closed loop beside it.
        began = time.process_time()
        closed = asyncio.run(closed_loop(url, bodies, clients=16, seconds=arguments.round, form=None))
        capacity, of_closed = closed.rate, time.process_time() - began
        with Memory(process.pid) as sizes:
            began = time.process_time()
            load = asyncio.run(open_loop(url, bodies, rate=arguments.times * capacity, seconds=arguments.seconds))
            of_open = time.process_time() - began
            filled = sizes.taken[max(1, len(sizes.taken) // 10)]
            time.sleep(1)
    statuses = {status: len(found) for status, found in sorted(load.latencies.items())}
    rows: list[dict[str, Cell]] = [
        {
            "capacity": round(capacity, 1),
            "asked a second": round(sum(statuses.values()) / load.seconds, 1),
            "answered a second": round(load.rate, 1),
            "share of capacity": round(load.rate / capacity, 3),
            # Twice as many requests take the generator more than they do in a closed loop, on the same cores.
            "generator accounted": round(_accounted(load, of_open) / _accounted(closed, of_closed), 3),
            "generator's cores": round(of_open / load.seconds, 2),
            "200": statuses.get(200, 0),
            "429": statuses.get(429, 0),
            "other statuses": sum(count for status, count in statuses.items() if status not in (200, 429)),
            "failed": sum(load.failed.values()),
            "wrong": load.wrong,
            "p50 ms": _rounded(load.percentile(0.5)),
            "p99 ms": _rounded(load.percentile(0.99)),
            "p99 ms, target": 1000 * (QUEUE_SECONDS + 0.5),
            "memory before MB": round(sizes.taken[0], 1),
            "queue filled MB": round(filled, 1),
            "highest MB": round(max(sizes.taken), 1),
            "after MB": round(sizes.taken[-1], 1),
        }
    ]
    about = common.machine("fusiform", "aiohttp")
    return f"{arguments.times:g} times the capacity for {arguments.seconds:g} s", about, rows


def _accounted(load: Load, cpu: float) -> float:
    """Answers a second on the cores that the generator, which took so many CPU seconds, left."""
    return load.rate / (1 - cpu / load.seconds / common.usable_cores())


def stop(arguments: argparse.Namespace) -> Result:
    """SIGTERM under load, again and again."""
    body = photographs(arguments.folder)[0].read_bytes()
    request = (
        f"POST /v1/models/{MODEL}:predict HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    rows: list[dict[str, Cell]] = []
    for number in range(arguments.runs):
        outcomes: Counter[str] = Counter()
        ended = threading.Event()
        port = free_port()

        def client(port: int = port, outcomes: Counter[str] = outcomes, ended: threading.Event = ended) -> None:
            while not ended.is_set():
                try:
                    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
                except ConnectionRefusedError:
                    return  # the socket is closed
                except OSError:
                    outcomes["reset"] += 1
                    continue
                with connection:
                    try:
                        connection.sendall(request)
                        received = b""
                        while piece := connection.recv(1 << 16):
                            received += piece
                        whole = received.startswith(b"HTTP/1.1 ") and received.endswith(b"}")
                        outcomes[received[9:12].decode() if whole else "cut short"] += 1
                    except OSError:
                        outcomes["reset"] += 1

        with running(serve_command(port), port, "/readyz") as process:
            clients = [threading.Thread(target=client) for _ in range(arguments.clients)]
            for each in clients:
                each.start()
            time.sleep(1 + 0.05 * number)
            process.terminate()
            began = time.perf_counter()
            code = process.wait(60)
            seconds = time.perf_counter() - began
            ended.set()
            for each in clients:
                each.join()
        rows.append(
            {
                "run": number + 1,
                "200": outcomes["200"],
                "429": outcomes["429"],
                "others": sum(outcomes.values()) - outcomes["200"] - outcomes["429"],
                "exit code": code,
                "seconds": round(seconds, 2),
            }
        )
    return f"SIGTERM under load of {arguments.clients} clients", common.machine("fusiform"), rows


def main() -> None:
    """Run one of the three, print it, and keep it where --json says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cost", "overload", "stop"])
    parser.add_argument("--folder", type=Path, help="photographs")
    parser.add_argument("--images", type=int, default=1000, help="cost: images of predict a round")
    parser.add_argument("--round", type=float, default=4, help="seconds of a closed loop")
    parser.add_argument("--clients", type=int, default=16, help="connections of the closed loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--litserve", metavar="PYTHON", help="a Python that has litserve and ai-edge-litert")
    parser.add_argument("--seconds", type=float, default=60, help="overload: how long")
    parser.add_argument("--times", type=float, default=2, help="overload: times the capacity")
    parser.add_argument("--runs", type=int, default=20, help="stop: how often")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    name, about, rows = {"cost": cost, "overload": overload, "stop": stop}[arguments.what](arguments)
    common.finish(name, about, {}, rows, arguments.json)


if __name__ == "__main__":
    main()
