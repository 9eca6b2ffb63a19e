"""How many images a second do parts answer from an object store that takes 20 ms a request, against a local folder?

    python benchmarks/remote.py --moto PATH/TO/moto_server [--json FILE]

The images of ImageNet's validation (``--data`` for others) lie in a folder and in a bucket of moto's S3 on this
machine. In front of it stands a proxy, a process of its own, that keeps what it was answered once and answers each
request no sooner than 20 ms after it came: moto itself would take more of the two cores than the network. Both
contenders run ``fusiform.predict_parts`` in a fresh process, in turns; the ratio is the median over the rounds of the
ratio within a round. CPU is the process's own. A store elsewhere takes none of this machine's: what the proxy took is
told, and what the ratio is with so much less time on all cores.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import common

DELAY = 0.020
TARGET = 0.9
RUN = """
import json, sys, tempfile, time
import fusiform
source, threads = sys.argv[1], int(sys.argv[2])
started, used = time.perf_counter(), time.process_time()
parts = fusiform.predict_parts(source, tempfile.mkdtemp(), "mobilenet_v2", format="jsonl", threads=threads)
print(json.dumps([parts.images, parts.errors, time.perf_counter() - started, time.process_time() - used]))
"""


def main() -> None:
    parser = common.parser(__doc__, rounds=5)
    parser.add_argument("--data", type=Path, default=common.SHARED_DATA / "imagenet_val", help="a folder of images")
    parser.add_argument("--limit", type=int, default=2500, help="so many, repeated if need be (default: %(default)s)")
    parser.add_argument("--moto", default=shutil.which("moto_server"), help="the program moto_server")
    parser.add_argument("--proxy", nargs=2, help="run the proxy: its port and moto's address")
    arguments = parser.parse_args()
    if arguments.proxy:
        asyncio.run(proxy(int(arguments.proxy[0]), arguments.proxy[1]))
        return
    from fusiform.data.image import find_images

    about = common.machine("ai-edge-litert", "obstore", "numpy", "pillow")
    images = list(itertools.islice(itertools.cycle(find_images(arguments.data)), arguments.limit))
    with tempfile.TemporaryDirectory() as temporary, store(arguments.moto) as (moto, address, server):
        folder = Path(temporary, "images")
        folder.mkdir()
        put(f"{moto}/images")
        for number, image in enumerate(images):
            name = f"{number:06}{image.suffix.lower()}"
            shutil.copyfile(image, folder / name)
            put(f"{moto}/images/{name}", image.read_bytes())
        environment = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": address,
            "AWS_ALLOW_HTTP": "true",
        }
        contenders = {
            "folder": partial(measure, str(folder), {}, len(images), server),
            "S3, 20 ms a request": partial(measure, "s3://images/", environment, len(images), server),
        }
        results = common.in_turns(contenders, arguments.rounds)
    cores = common.usable_cores()
    rates = {name: [len(images) / wall for wall, _, _ in found] for name, found in results.items()}
    alone = {
        name: [len(images) / (wall - beside / cores) for wall, _, beside in found] for name, found in results.items()
    }
    costs = {name: [1000 * used / len(images) for _, used, _ in found] for name, found in results.items()}
    stores = {name: [1000 * beside / len(images) for _, _, beside in found] for name, found in results.items()}
    local, remote = contenders
    ratio = common.median_ratio(rates[remote], rates[local])
    figures = {
        "images": len(images),
        "bytes an image": round(statistics.mean(image.stat().st_size for image in images)),
        "rounds": arguments.rounds,
        "S3 against the folder": round(ratio, 3),
        f"the same without the store's processor time (target: at least {TARGET})": round(
            common.median_ratio(alone[remote], alone[local]), 3
        ),
        "CPU of S3 against the folder": round(common.median_ratio(costs[remote], costs[local]), 3),
    }
    rows = [
        {
            "source": name,
            "images/s": round(statistics.median(rates[name]), 1),
            "best": round(max(rates[name]), 1),
            "CPU ms an image": round(statistics.median(costs[name]), 2),
            "the store's": round(statistics.median(stores[name]), 2),
        }
        for name in contenders
    ]
    common.finish("remote", about, figures, rows, arguments.json)


def measure(source: str, environment: dict[str, str], count: int, server: int) -> tuple[float, float, float]:
    """Seconds and CPU seconds of one run in a fresh process, and the CPU seconds of the proxy meanwhile."""
    before = cpu_seconds(server)
    done = subprocess.run(
        [sys.executable, "-c", RUN, source, str(common.usable_cores())],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    images, errors, wall, used = json.loads(done.stdout)
    assert (images, errors) == (count, 0), (images, errors)
    return wall, used, cpu_seconds(server) - before


def cpu_seconds(process: int) -> float:
    """Of another process on Linux, in user and system mode."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def put(address: str, data: bytes = b"") -> None:
    # Of urllib's own type, a form, moto waits for more.
    request = urllib.request.Request(address, data, {"Content-Type": "application/octet-stream"}, method="PUT")
    with urllib.request.urlopen(request, timeout=10):
        pass


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def store(program: str) -> Iterator[tuple[str, str, int]]:
    """The addresses of moto and of the proxy before it, and the proxy's process."""
    ports = free_port(), free_port()
    moto, address = (f"http://127.0.0.1:{port}" for port in ports)
    commands = (
        [program, "-H", "127.0.0.1", "-p", str(ports[0])],
        [sys.executable, __file__, "--proxy", str(ports[1]), moto],
    )
    processes = [subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for line in commands]
    try:
        deadline = time.monotonic() + 120
        for port in ports:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
        yield moto, address, processes[1].pid
    finally:
        for process in processes:
            process.terminate()
            process.wait()


async def proxy(port: int, behind: str) -> None:
    """Answer GET and HEAD as the server behind does, from memory after the first time, DELAY after the request."""
    kept: dict[tuple[str, str], bytes] = {}

    def fetch(method: str, path: str, headers: dict[str, str]) -> bytes:
        request = urllib.request.Request(behind + path, headers=headers, method=method)
        with urllib.request.urlopen(request) as response:
            body = response.read()
            names = ("Content-Type", "ETag", "Last-Modified")
            lines = [f"{name}: {response.headers[name]}" for name in names if response.headers[name]]
            length = response.headers["Content-Length"] or len(body)
        head = "\r\n".join([f"HTTP/1.1 {response.status} OK", *lines, f"Content-Length: {length}", "", ""])
        return head.encode() + body

    class Connection(asyncio.Protocol):
        """One at a time, as obstore asks; a protocol, since asyncio's streams take twice the processor time."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport, self.received = transport, b""

        def data_received(self, data: bytes) -> None:
            self.received += data
            while b"\r\n\r\n" in self.received:
                head, _, self.received = self.received.partition(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                method, path, _ = first.split(" ", 2)
                if (method, path) in kept:
                    loop.call_later(DELAY, self.answer, method, path)
                else:
                    headers = dict(line.split(": ", 1) for line in lines)
                    headers = {name: text for name, text in headers.items() if name.lower() != "connection"}
                    kept[method, path] = fetch(method, path, headers)
                    self.answer(method, path)

        def answer(self, method: str, path: str) -> None:
            if not self.transport.is_closing():
                self.transport.write(kept[method, path])

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    main()
