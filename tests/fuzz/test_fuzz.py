"""Files changed at random: each is read, or refused by a FusiformError, in bounded time and memory.

Some hundred changes with a fixed seed are among the tests. By hand, in a process of its own that may die::

    python tests/fuzz/test_fuzz.py pictures --count 20000 --seed 7
    python tests/fuzz/test_fuzz.py models --count 5000 --seed 7

``models`` takes every format of model files in turn, from ``model_files`` and ``model_changes``. What it finds lies in
``--keep`` afterwards; once mended, it belongs into ``kept/TARGET``, which every run reads first. Another kind of file
is another entry in ``TARGETS``: some whole files, and what is done with one.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image, features

from fusiform.data.image import read_image
from fusiform.data.preprocess import crop_pixels
from fusiform.errors import FusiformError
from fusiform.spec import Preprocess

sys.path.insert(0, str(Path(__file__).parent))
import model_changes
import model_files

sys.path.pop(0)
resource: Any = pytest.importorskip("resource")  # Windows counts neither memory nor processor time so

KEPT = Path(__file__).with_name("kept")
SECONDS = 5.0
"""Of the processor, the most for one file."""
CHILD_SECONDS = 15.0
"""The same for the processes that try it first, of which importing PyTorch takes a third."""
MEGABYTES = 1000
"""The most that one file may add to the memory."""
DATA_LIMIT = 6 << 30
"""Bytes that a process of a run by hand may have, so that a fault does not take the machine."""
LONGEST = 60
"""Seconds of the processor after which a process of a run by hand ends with a file that it still reads."""


class Target(NamedTuple):
    """A kind of file: ``seeds`` makes whole ones, by name; ``read`` does with one what the program does with it.

    ``change`` makes another file of a whole one, with the help of a second: by default bytes are changed.
    """

    seeds: Callable[[], Mapping[str, bytes]]
    read: Callable[[bytes, str], object]
    change: Callable[[bytes, bytes, random.Random], bytes] | None = None


# Changes


def mutate(content: bytes, other: bytes, luck: random.Random) -> bytes:
    """The content with one to eight changes of the kinds that damage and malice make."""
    data = bytearray(content)
    for _ in range(luck.choice((1, 1, 1, 2, 3, 8))):
        if not data:
            break
        # Headers decide more than what follows them.
        at = luck.randrange(min(len(data), luck.choice((64, 512, len(data)))))
        length = luck.choice((1, 2, 4, 16, 256, 4096))
        kind = luck.randrange(9)
        if kind == 0:
            data[at] ^= 1 << luck.randrange(8)
        elif kind == 1:
            data[at] = luck.choice((0, 1, 0x7F, 0x80, 0xFF, luck.randrange(256)))
        elif kind == 2:
            form = luck.choice(("<H", ">H", "<I", ">I"))
            most = 256 ** struct.calcsize(form) - 1
            value = luck.choice((0, 1, most, most >> 1, luck.randrange(most), luck.randrange(300)))
            data[at : at + struct.calcsize(form)] = struct.pack(form, value)
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = bytes(luck.choice((0, 0xFF, luck.randrange(256))) for _ in range(length))
        elif kind == 5:
            data[at:at] = data[at : at + length] * luck.choice((1, 2, 20))
        elif kind == 6:
            data[at : at + length] = luck.randbytes(length)
        elif kind == 7:
            del data[luck.randrange(len(data)) :]
        else:
            start = luck.randrange(len(other))
            data[at : at + length] = other[start : start + length]
    return bytes(data)


def case(target: Target, names: list[str], seeds: Mapping[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """The name of the file that was changed, and what became of it: always the same for the same numbers."""
    luck = random.Random(f"{seed}/{number}")
    name = luck.choice(names)
    return name, (target.change or mutate)(seeds[name], seeds[luck.choice(names)], luck)


def fault(target: Target, content: bytes, name: str) -> str | None:
    """What is wrong with how a file is read, or None."""
    before, began, others = most_memory(afresh=True), time.process_time(), time_of_children()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            target.read(content, name)
    except FusiformError as error:
        if len(str(error)) > 2000 or not str(error).isprintable():
            return f"its message cannot be shown: {str(error)[:200]!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    if (seconds := time.process_time() - began) > SECONDS:
        return f"{seconds:.1f} s"
    if (seconds := time_of_children() - others) > CHILD_SECONDS:
        return f"{seconds:.1f} s in other processes"
    if (grown := most_memory() - before) > MEGABYTES:
        return f"{grown:.0f} MB"
    return None


def time_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return float(used.ru_utime + used.ru_stime)


def most_memory(*, afresh: bool = False) -> float:
    """The most that this process has taken so far, in megabytes; on Linux counted ``afresh`` from now on if asked."""
    status = Path("/proc/self/status")
    if status.exists():
        if afresh:
            Path("/proc/self/clear_refs").write_text("5")
        return float(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1]) / (1 << 10)
    # macOS counts bytes, others kilobytes.
    most: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1 << 20 if sys.platform == "darwin" else 1 << 10)


# Pictures


def pictures() -> Mapping[str, bytes]:
    """Small pictures in every format and mode that is read in a way of its own."""
    shape, luck = (24, 32), np.random.default_rng(0)
    grey = luck.integers(0, 256, shape, np.uint8)
    rgb = Image.fromarray(luck.integers(0, 256, (*shape, 3), np.uint8))
    modes = {mode: rgb.convert(mode) for mode in ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV")}
    alpha = Image.fromarray(grey)
    modes |= {"RGBA": Image.merge("RGBA", (*rgb.split(), alpha)), "LA": Image.merge("LA", (alpha, alpha))}
    modes |= {"I;16": Image.fromarray(grey.astype(np.uint16) * 257), "F": Image.fromarray(grey.astype(np.float32))}
    modes["I"] = modes["I;16"].convert("I")
    turned = Image.Exif()
    turned[274] = 6
    more = {"exif": turned, "icc_profile": bytes(16) + b"RGB " + bytes(120)}
    options: dict[str, list[dict[str, object]]] = {
        "JPEG": [{}, {"progressive": True}, {"subsampling": 0, "restart_marker_rows": 1}, more],
        "PNG": [{}, more, {"bits": 2}],
        "WEBP": [{}, {"lossless": True}, more],
        "GIF": [{}, {"save_all": True, "append_images": [rgb.convert("P")], "transparency": 1}],
        "BMP": [{}],
        "TIFF": [
            {},
            *({"compression": f"tiff_{kind}"} for kind in ("lzw", "adobe_deflate")),
            {"compression": "packbits"},
        ],
        "PPM": [{}],
        **({"AVIF": [{"speed": 10}]} if features.check("avif") else {}),
        **({"JPEG2000": [{}, {"no_jp2": True}]} if features.check("jpg_2000") else {}),
    }
    seeds: dict[str, bytes] = {}
    for form, choices in options.items():
        for mode, picture in modes.items():
            for number, choice in enumerate(choices):
                stream = io.BytesIO()
                try:
                    picture.save(stream, form, **choice)
                except (OSError, ValueError, KeyError, SystemError, TypeError):  # not every format has every mode
                    continue
                seeds[f"{form.lower()}_{mode}_{number}".replace(";", "")] = stream.getvalue()
    for kind, largest, samples in ((b"P6", 254, 3), (b"P5", 1023, 2), (b"P2", 255, 0)):
        values = b" ".join(b"%d" % value for value in grey.ravel()) if not samples else bytes(24 * 32 * samples)
        seeds[f"ppm_{kind.decode()}_{largest}"] = b"%s 32 24 %d\n" % (kind, largest) + values
    return seeds


def read_picture(content: bytes, name: str) -> object:
    return crop_pixels(read_image(content, name=name), Preprocess())


def of_models(kind: str, seeds: Callable[[], Mapping[str, bytes]]) -> Target:
    return Target(seeds, model_files.reader(kind), partial(model_changes.changed, kind, change=mutate))


MODELS = {
    "tflite": model_files.exported("litert"),
    "onnx": model_files.exported("onnx"),
    "safetensors": model_files.safetensors,
    "pth": model_files.checkpoints,
    "torchscript": model_files.exported("torchscript"),
    "openvino": model_files.exported("openvino"),
    "executorch": model_files.exported("executorch"),
    "coreml": model_files.exported("coreml"),
}
TARGETS = {"pictures": Target(pictures, read_picture)} | {
    kind: of_models(kind, seeds) for kind, seeds in MODELS.items()
}


# The tests


@pytest.mark.parametrize("kind", ["pictures"])
def test_what_was_not_changed_is_read(kind: str) -> None:
    target = TARGETS[kind]
    seeds = target.seeds()
    assert len(seeds) > 60
    for name, content in seeds.items():
        target.read(content, name)


NEEDED = {
    "onnx": ("onnx", "onnxruntime"),
    "pth": ("torch",),
    "torchscript": ("torch",),
    "openvino": ("onnx", "openvino"),
    "executorch": ("executorch", "torch"),
    "coreml": ("coremltools", "torch"),
}
KINDS = [pytest.param(kind, marks=[pytest.mark.slow] * (kind in ("executorch", "coreml"))) for kind in MODELS]


@cache  # ExecuTorch takes ten seconds a file
def seeds_of(kind: str) -> Mapping[str, bytes]:
    for package in NEEDED.get(kind, ()):
        pytest.importorskip(package)
    return TARGETS[kind].seeds()


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_file_that_was_not_changed_is_read_and_answers(kind: str, tmp_path: Path) -> None:
    seeds = seeds_of(kind)
    assert len(seeds) >= 6
    for name, content in seeds.items():
        path = tmp_path / f"{name}{model_files.SUFFIXES[kind]}"
        model_files.unpack(content, path)
        if kind == "pth" and "classification" not in name:  # a state dict does not say what its network is for
            continue
        describe, predict, *_ = model_files.commands(kind, name, content, path)
        describe()
        if kind == "coreml":
            with pytest.raises(FusiformError, match="runs on Apple's machines alone"):
                predict()
        else:
            predict()


@pytest.mark.parametrize("kind", ["pictures", *KINDS])
def test_whatever_is_changed_ends_in_an_answer_or_an_error_for_users(kind: str) -> None:
    target, seeds = TARGETS[kind], seeds_of(kind)
    names = sorted(seeds)
    target.read(seeds[names[0]], names[0])  # what is imported for it is nobody's fault
    # Each of ExecuTorch's is run by two processes that import PyTorch.
    for number in range({"pictures": 400, "executorch": 4}.get(kind, 12)):
        name, content = case(target, names, seeds, 0, number)
        assert fault(target, content, name) is None, f"{kind}, seed 0, number {number}, {name}"


@pytest.mark.parametrize("path", sorted(KEPT.rglob("*.*")), ids=lambda path: path.name)
def test_what_once_was_a_fault_is_none(path: Path) -> None:
    assert fault(TARGETS[path.parent.name], path.read_bytes(), path.name) is None


def test_faults_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(content: bytes, _: str) -> object:
        if content == b"error":
            raise KeyError("x")
        if content == b"warn":
            warnings.warn("x", stacklevel=1)
        if content == b"message":
            raise FusiformError("a\x1b")
        if content == b"refuse":
            raise FusiformError("fine")
        return time.sleep(0) if content != b"slow" else sum(range(3_000_000))

    target = Target(dict, fail)
    monkeypatch.setattr(sys.modules[__name__], "SECONDS", 0.01)
    found = {name: fault(target, name.encode(), "") for name in ("error", "warn", "message", "slow", "refuse", "good")}
    assert [name for name, what in found.items() if what is None] == ["refuse", "good"]


# By hand


def work(kind: str, seeds: Mapping[str, bytes], seed: int, first: int, last: int, at: Path) -> None:
    """Read the cases one after the other, and say of each before it is read which it is."""
    target = TARGETS[kind]
    names = sorted(seeds)
    target.read(seeds[names[0]], names[0])  # what is imported for it is nobody's fault
    resource.setrlimit(resource.RLIMIT_DATA, (DATA_LIMIT, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    with at.open("r+b", buffering=0) as place:
        for number in range(first, last):
            os.pwrite(place.fileno(), struct.pack("<q", number), 0)
            signal.setitimer(signal.ITIMER_PROF, LONGEST)
            name, content = case(target, names, seeds, seed, number)
            what = fault(target, content, name)
            if what is not None and re.match(r"\d.* s", what):  # other programs may have been in its way
                what = fault(target, content, name)
            if what is not None:
                print(f"{number}\t{name}\t{what}", flush=True)
        os.pwrite(place.fileno(), struct.pack("<q", last), 0)


def hunt(kind: str, count: int, seed: int, keep: Path) -> int:
    """Read so many changed files in a process that may die, and is then started again; the number of faults."""
    target = TARGETS[kind]
    keep.mkdir(parents=True, exist_ok=True)
    place, found, first, began = keep / f"{kind}.at", 0, 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name, content in target.seeds().items():
            (Path(folder) / name).write_bytes(content)
        seeds = read_seeds(Path(folder))
        names = sorted(seeds)
        while first < count:
            place.write_bytes(struct.pack("<q", first))
            command = [sys.executable, __file__, kind, "--seed", str(seed), "--count", str(count)]
            command += ["--first", str(first), "--work", str(place), "--seeds", folder]
            done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
            (reached,) = struct.unpack("<q", place.read_bytes())
            lines = done.stdout.splitlines()
            if done.stderr.strip() and done.returncode >= 0:
                lines.append(f"{reached}\t?\tsaid on standard error: {done.stderr.strip()[-300:]}")
            if reached < count:
                lines.append(f"{reached}\t?\tthe process ended with {done.returncode}")
            for line in lines:
                number = int(line.split("\t")[0])
                if number < count:
                    name, content = case(target, names, seeds, seed, number)
                    (keep / f"{kind}_{seed}_{number}.{name}").write_bytes(content)
                print(f"{kind}\t{line}", flush=True)
            found += len(lines)
            first = reached + 1 if reached < count else count
    place.unlink()
    print(f"{count:,} {kind}, seed {seed}: {found} faults, {time.monotonic() - began:.0f} s", flush=True)
    return found


def read_seeds(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[*TARGETS, "models"])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--keep", type=Path, default=Path("fuzz-found"))
    for name, form in (("first", int), ("work", Path), ("seeds", Path)):
        parser.add_argument(f"--{name}", type=form, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.kind, read_seeds(given.seeds), given.seed, given.first, given.count, given.work)
        return 0
    kinds = list(MODELS) if given.kind == "models" else [given.kind]
    found = sum(hunt(kind, -(-given.count // len(kinds)), given.seed, given.keep) for kind in kinds)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
