"""Commands that are killed, ended, out of disk or not alone, at random moments: nothing half, nothing left, goes on.

A few moments of each kind are among the slow tests. By hand, say twenty of each command and kind::

    python tests/fuzz/test_interruptions.py --count 20 --seed 3
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from fusiform.zoo.catalog import BUNDLED_FOLDER

if sys.platform != "linux":
    pytest.skip("signals and small disks are Linux's here", allow_module_level=True)

SMALL = (
    "epochs=2 head_epochs=2 batch=8 size=32 eval_size=32 lr=1e-4 ema=0.5 val_fraction=0.25 sizes=none precision=float32"
)
NETWORK = "shufflenet_v2_x1_0"
SET = tuple(part for setting in SMALL.split() for part in ("--set", setting))


class Job(NamedTuple):
    """A command that writes ``DATA`` into ``OUT``, and what it writes that is the same each time."""

    arguments: tuple[str, ...]
    whole: tuple[str, ...]
    resume: tuple[str, ...] = ()
    """What goes on with what was begun; without it the command itself is run again."""


JOBS = {
    "predict": Job(("predict", "DATA", "--format", "csv", "--out", "OUT/answers.csv"), ("answers.csv",)),
    "parts": Job(
        ("predict", "DATA", "--out", "OUT/answers", "--part", "3", "--format", "jsonl", "--threads", "2"),
        ("answers/part-*.jsonl", "answers/parts.json"),
    ),
    "export": Job(("export", NETWORK, "--to", "litert,onnx", "--out", "OUT"), ("*.tflite", "*.onnx")),
    "doctor": Job(("doctor", "DATA", "--html", "OUT/page.html", "--fix", "OUT/clean.csv"), ("page.html", "clean.csv")),
    "evaluate": Job(
        ("evaluate", NETWORK, "DATA", "--html", "OUT/page.html", "--format", "json", "--out", "OUT/figures.json"),
        ("page.html", "figures.json"),
    ),
    "port": Job(("port", str(BUNDLED_FOLDER / f"{NETWORK}.tflite"), "--out", "OUT/a.safetensors"), ("a.safetensors",)),
    "train": Job(
        ("train", "DATA", "--out", "OUT/run", "--model", "mobilenet_v2_x0_35", "--save-every", "0", *SET),
        ("run/best.safetensors", "run/last.safetensors"),
        ("train", "--resume", "--out", "OUT/run"),
    ),
}
TIMES = re.compile(rb'"seconds": [\d.]+|[\d,.]+ s, [\d,.]+ images/s')
"""What an evaluation says of how long it took, in JSON and on its page."""
KINDS = ("kill", "term", "full", "two")
PARTS = {"answers/done-0-of-1.jsonl"}
"""What parts leave that differs: which of them an interrupted run has told of."""
TRAINED = {"run/metrics.jsonl", "run/train.log", "run/curves.png", "run/report.json", "run/environment.json"}


def make_data(folder: Path) -> Path:
    drawn = np.random.default_rng(0)
    for name in ("goldfish", "tench"):  # which the bundled networks know
        (folder / name).mkdir(parents=True)
        for number in range(20):
            pixels = drawn.integers(0, 256, (8, 8, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


class Bench:
    """One command and what it leaves when nothing disturbs it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.job, self.folder = JOBS[name], folder
        self.data = make_data(folder / "data")
        self.out = folder / "out"
        self.out.mkdir()
        began = time.monotonic()
        code, errors = self.ended(self.start())
        self.seconds = time.monotonic() - began
        assert code == 0, errors
        self.names, self.hashes = self.listing(), self.results()
        self.bytes = sum(file.stat().st_size for file in self.out.rglob("*") if file.is_file())

    def start(self, arguments: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        places = {"DATA": str(self.data), "OUT": str(self.out)}
        line = [
            "/".join(places.get(part, part) for part in argument.split("/"))
            for argument in (arguments or self.job.arguments)
        ]
        return subprocess.Popen(
            [sys.executable, "-m", "fusiform", *line],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def ended(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        _, errors = process.communicate(timeout=600)
        assert "Traceback" not in errors, errors
        return process.returncode, errors

    def listing(self) -> set[str]:
        names = {str(file.relative_to(self.out)) for file in self.out.rglob("*") if file.is_file()}
        return {name for name in names if "events.out" not in name}

    def results(self) -> dict[str, str]:
        """The hashes of what is the same each time."""
        files = [file for pattern in self.job.whole for file in self.out.glob(pattern)]
        return {
            str(file.relative_to(self.out)): sha256(TIMES.sub(b"", file.read_bytes())).hexdigest() for file in files
        }

    def empty(self) -> None:
        for path in self.out.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def finish(self) -> None:
        """Run it again, or go on with it: all is there that would be there undisturbed, and nothing else."""
        begun = (self.out / "run" / "run.json").exists()
        code, errors = self.ended(self.start(self.job.resume if begun and self.job.resume else ()))
        assert code == 0, errors
        assert self.results() == self.hashes
        assert self.listing() == self.names

    # The kinds

    def kill(self, luck: random.Random) -> None:
        process = self.start()
        time.sleep(luck.uniform(0.1, 1.0) * self.seconds)
        process.send_signal(signal.SIGKILL)
        code, errors = self.ended(process)
        assert code in (0, -signal.SIGKILL), errors
        self.nothing_half()
        self.finish()

    def term(self, luck: random.Random) -> None:
        process = self.start()
        time.sleep(luck.uniform(0.1, 1.0) * self.seconds)
        process.send_signal(signal.SIGTERM)
        code, errors = self.ended(process)
        # Before Python hears of signals, the system ends it.
        assert code in (0, 143, -signal.SIGTERM), errors
        self.nothing_half()
        assert self.listing() <= self.names | TRAINED | PARTS
        self.finish()

    def full(self, luck: random.Random) -> None:
        with small_disk(self.out, int(luck.uniform(0.02, 0.95) * self.bytes)):
            code, errors = self.ended(self.start())
            assert (code, "No space left" in errors) == (1, True), errors
            self.nothing_half()
            assert not [name for name in self.listing() if name.endswith(".part") or ".export-" in name]
            subprocess.run(["mount", "-o", "remount,size=1g", str(self.out)], check=True)
            self.finish()

    def two(self, luck: random.Random) -> None:
        first = self.start()
        time.sleep(luck.uniform(0.0, 0.6) * self.seconds)
        second = self.start()
        codes = [self.ended(process) for process in (first, second)]
        assert 0 in [code for code, _ in codes], codes
        assert all(code in (0, 1, 2) for code, _ in codes), codes
        assert self.results() == self.hashes
        assert self.listing() == self.names

    def nothing_half(self) -> None:
        """What is there under its own name is whole; a checkpoint of an earlier epoch is, too."""
        for name, found in self.results().items():
            if name.endswith(".safetensors"):
                from fusiform.zoo.checkpoint import read_safetensors

                assert read_safetensors(self.out / name)
            else:
                assert found == self.hashes[name], name


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={max(size, 4096)}", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("a small disk can be mounted only by root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", JOBS)
def test_an_interrupted_command(name: str, kind: str, tmp_path: Path) -> None:
    bench = Bench(name, tmp_path)
    bench.empty()
    getattr(bench, kind)(random.Random(f"{name} {kind}"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(JOBS), metavar="COMMAND")
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    failed = 0
    for name in arguments.names:
        with tempfile.TemporaryDirectory() as temporary:
            bench = Bench(name, Path(temporary))
            for kind in arguments.kind or KINDS:
                held = 0
                for number in range(arguments.count):
                    bench.empty()
                    try:
                        getattr(bench, kind)(random.Random(f"{arguments.seed} {name} {kind} {number}"))
                        held += 1
                    except AssertionError as error:
                        print(f"{name} {kind} {number}: {error}", flush=True)
                print(f"{name:8} {kind:5} {held} of {arguments.count}", flush=True)
                failed += arguments.count - held
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
