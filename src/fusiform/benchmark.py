"""How fast models are on this machine, how much memory they take, and how long they take to load.

What is compared is measured in turns: each contender (a model in an engine with a number of threads) has a process of
its own, and in every round each of them answers some pictures, one contender after the other. What slows the machine
down for a while then slows all of them down; no runtime finds another's threads or memory in its process; and one that
crashes takes nothing with it.
"""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.annotated import AnnotatedSet
from fusiform.data.dataset import DataSet
from fusiform.data.image import read_image
from fusiform.data.labels import bind_classes
from fusiform.data.layouts import read_dataset
from fusiform.data.preprocess import crop_pixels, placement
from fusiform.engines import ENGINES, Engine, EngineName, open_engine, own_engine
from fusiform.engines.batch import Batch
from fusiform.errors import FusiformError, ImageError, UsageError
from fusiform.evaluate.boxes import BoxEvaluation, read_boxes
from fusiform.evaluate.boxes import evaluate as evaluate_boxes
from fusiform.evaluate.classification import Evaluation, evaluate
from fusiform.evaluate.crew import choose_split
from fusiform.evaluate.masks import MaskEvaluation, read_masks
from fusiform.evaluate.masks import evaluate as evaluate_masks
from fusiform.machine import usable_cores
from fusiform.pareto import Point, draw_pareto
from fusiform.progress import Tracker, silent
from fusiform.report import Cell, Report
from fusiform.spec import ModelSpec, Task
from fusiform.tasks import detection, segmentation
from fusiform.zoo.info import precision_of, size_of
from fusiform.zoo.model import PROGRAMS, Model, open_model

ROUNDS = 10
"""How many turns a contender has at latency."""
THROUGHPUT_ROUNDS = 3
"""How many turns it has at throughput: longer ones, since a turn with many workers takes a while to begin and end."""
WARM_UP = 3
"""Runs before each turn that do not count: the weights are in the cache again, the last contender's threads asleep."""
MIN_RUNS = 10
"""The fewest runs that a median and a 95th percentile are taken of."""

COLUMNS = (
    "model",
    "engine",
    "precision",
    "threads",
    "median_ms",
    "p95_ms",
    "best_ms",
    "runs",
    "decode_ms",
    "pictures_per_second",
    "workers",
    "load_ms",
    "memory_mb",
    "process_mb",
    "bytes",
    "top1",
    "map",
    "miou",
    "measured_on",
    "error",
)
"""The columns of a report's rows, all of them in every row."""

MEASURES: Mapping[Task, str] = {"classification": "top1", "detection": "map", "segmentation": "miou"}
"""The column that tells how good a model is."""
_MEASURE_NAMES = {"top1": "top-1 %", "map": "mAP %", "miou": "mIoU %"}
DECODED = 8
"""Photographs whose answers are decoded, over and over."""
DECODED_SIZE = (640, 480)
"""The size in pixels of the photograph that the made picture stands for where there are no others."""

_DISTRIBUTIONS: Mapping[EngineName, str] = {
    "litert": "ai-edge-litert",
    "onnxruntime": "onnxruntime",
    "torch": "torch",
    "openvino": "openvino",
    "executorch": "executorch",
}


@dataclass(frozen=True)
class Latency:
    """How long one picture takes, in milliseconds: the median, the 95th percentile and the best of so many runs."""

    median_ms: float
    p95_ms: float
    best_ms: float
    runs: int


def measure_latency(engine: Engine, *, seconds: float = 1.0, warm_up: int = 3) -> Latency:
    """Time an engine's answers to one picture, again and again for so many seconds, and at least ten times.

    The picture is uint8 pixels (1, size, size, 3) (a network that does not read three channels is given normalised
    float32). What the engine itself does around its runtime counts: checking the batch, normalising it where the
    model reads floats, and handing out the answers. ``warm_up`` runs before do not count. Raises UsageError for
    negative numbers.
    """
    if not (math.isfinite(seconds) and seconds >= 0 and warm_up >= 0):
        raise UsageError(f"seconds and warm_up must be numbers from 0 on, got {seconds} and {warm_up}")
    picture = _picture(engine.spec)
    for _ in range(warm_up):
        engine.run(picture)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < MIN_RUNS or time.perf_counter() < end:
        times.append(_timed(engine, picture))
    return _latency(times)


def benchmark(
    models: Sequence[str | os.PathLike[str]],
    *,
    engines: Sequence[EngineName] = (),
    threads: Sequence[int] = (1,),
    seconds: float = 1.0,
    data: DataSet | AnnotatedSet | str | os.PathLike[str] | None = None,
    progress: Tracker = silent,
) -> Report:
    """Measure every model, by name or file of any kind, in every engine with every number of threads, in turns.

    ``engines`` empty is the runtime that each file is for; all of ``ENGINES`` are, for each file, those that can run
    it; any others are tried as they are named. ``seconds`` is about how long each contender is timed at latency, and
    again at throughput. The report has a row for each contender, with all of ``COLUMNS``:

    - ``precision`` is what the engine is given the weights in, int8, float16 or float32: what the file has, but
      float32 where PyTorch runs an int8 file dequantised, or a float16 file is converted for another runtime.
    - ``median_ms``, ``p95_ms``, ``best_ms``: of ``runs`` answers to one picture, warm, as ``measure_latency`` says,
      over all rounds.
    - ``decode_ms``: the median of what it takes to make boxes or a mask at the photograph's size of an answer, which is
      no part of the other times; on photographs of ``data``, else on the answer to the made picture as if it were a
      photograph of 640 x 480 pixels, where a detector finds little. None for classifiers.
    - ``pictures_per_second``: with as many ``workers`` at once as there are cores for their threads, each a thread
      with an engine of its own, as ``predict`` works through a folder; the median of the rounds.
    - ``load_ms``: in a fresh process that has numpy and fusiform loaded, from there to the first answer: importing the
      runtime, reading the file, converting it where it is not the runtime's own, and the first picture, which some
      runtimes put part of their preparations off to.
    - ``memory_mb``: how much that raises the largest resident size of the process, after a few more pictures, in
      10**6 bytes; ``process_mb`` is the largest resident size itself, Python included. None where the system does not
      tell.
    - ``bytes``: the size of the model's file or files.
    - ``top1``: percent, measured in that engine on ``data`` (a data set or where it lies, as for ``evaluate``) or, if
      there is none, as the model's description has it; on one data set for all models if they have one in common.
      ``map`` and ``miou`` are a detector's mean average precision (0.50:0.95) and a segmenter's mean intersection over
      union on ``data``, percent too. ``measured_on`` says on what.
    - ``error``: why there is no more in this row: a runtime that is not installed, a file that cannot be read, a
      process that crashed. The others are measured all the same.

    Raises UsageError for arguments that do not fit and classes of ``data`` that a model does not know; and the first
    model's error where none can be opened.
    """
    if not models:
        raise UsageError("there is nothing to measure: name a model")
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"seconds must be a positive number, got {seconds}")
    for number in threads:
        if number < 1:
            raise UsageError(f"threads must be at least 1, got {number}")
    for engine in engines:
        if engine not in ENGINES:
            raise UsageError(f"there is no engine {engine!r}; there are {', '.join(ENGINES)}")

    entries = _entries(models, engines, list(dict.fromkeys(threads)) or [1], data)
    with ExitStack() as stack:
        contenders = [entry for entry in entries if isinstance(entry, _Contender)]
        _open_all(contenders, stack, progress)
        _take_turns(contenders, seconds, progress)
    if data is not None:
        _measure_accuracy(contenders, progress)
    else:
        _look_up_accuracy(contenders)
    rows = tuple(dict(entry.row if isinstance(entry, _Contender) else entry) for entry in entries)
    figures: dict[str, Cell] = {
        "processor": _processor(),
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "fusiform": _version("fusiform"),
    }
    used = [entry.engine for entry in contenders if not entry.failed]
    figures |= {_DISTRIBUTIONS[engine]: _version(_DISTRIBUTIONS[engine]) for engine in ENGINES if engine in used}
    figures |= {"seconds": seconds, "rounds": ROUNDS}
    return Report("Benchmark", rows, figures)


def possible_engines(model: Model) -> tuple[EngineName, ...]:
    """The engines that can run a model's file: its own for a program, for weights all but ExecuTorch.

    Raises UsageError for Core ML, which runs on Apple's machines alone.
    """
    if model.format in PROGRAMS:
        return (own_engine(model),)
    return tuple(engine for engine in ENGINES if engine != "executorch")


def peak_memory() -> int | None:
    """The largest resident size that this process has had, in bytes; None where the system does not tell."""
    if sys.platform == "win32":
        return _windows_peak()
    try:
        # Not getrusage, which on Linux counts the process that started this one into it.
        lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
    except (OSError, ValueError, StopIteration):  # not Linux
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def draw_benchmark(report: Report, path: str | os.PathLike[str]) -> None:
    """Draw a benchmark's latency against accuracy into a PNG, or against size where accuracies cannot be compared.

    They can if every contender that was measured has one, on the same pictures. Raises what ``draw_pareto`` raises.
    """
    rows = [row for row in report.rows if row["median_ms"] is not None]
    names = _short_names([str(row["model"]) for row in rows])
    several = len({row["threads"] for row in rows}) > 1
    told = [name for name in MEASURES.values() if all(row[name] is not None for row in rows)]
    accurate = len({row["measured_on"] for row in rows}) == 1 and bool(told)
    points = [
        Point(
            f"{name}, {row['threads']} thread{'' if row['threads'] == 1 else 's'}" if several else name,
            _number(row["median_ms"]),
            _number(row[told[0]]) if accurate else _number(row["bytes"]) / 1e6,
            f"{row['engine']} {row['precision'] or ''}".strip(),
        )
        for name, row in zip(names, rows, strict=True)
    ]
    draw_pareto(
        points,
        path,
        x_label="median latency of one picture, ms",
        y_label=f"{_MEASURE_NAMES[told[0]]}, {rows[0]['measured_on']}" if accurate else "size of the file, MB",
        title="Latency and accuracy" if accurate else "Latency and size",
        smaller_y=not accurate,
    )


_Data = DataSet | AnnotatedSet


class _Contender:
    """A model in an engine with so many threads, the process that runs it, and the row that tells of it."""

    def __init__(self, name: str, model: Model, engine: EngineName, threads: int, data: _Data | None) -> None:
        self.name, self.spec, self.engine, self.threads, self.data = name, model.spec, engine, threads, data
        self.row: dict[str, Cell] = dict.fromkeys(COLUMNS)
        self.row |= {
            "model": name,
            "engine": engine,
            "precision": _given_precision(model, engine),
            "threads": threads,
            "bytes": size_of(model),
        }
        self.child: _Child | None = None
        self.estimate = 0.0
        """Seconds that a picture takes, roughly."""

    @property
    def failed(self) -> bool:
        return self.row["error"] is not None

    @property
    def photographs(self) -> list[str]:
        """Some of the data's, to decode answers to; none for classifiers."""
        if not isinstance(self.data, AnnotatedSet):
            return []
        _, samples = choose_split(self.data.source, self.data.splits, None)
        chosen = np.linspace(0, len(samples) - 1, min(DECODED, len(samples))).round().astype(int)
        return [os.fspath(samples[k].file) for k in chosen]

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of the contender's process; what it cannot do ends in the row, and the answer is empty."""
        if self.failed or self.child is None:
            return {}
        try:
            return self.child.ask(request)
        except FusiformError as error:
            self.row |= dict.fromkeys(("median_ms", "p95_ms", "best_ms", "runs", "decode_ms", "pictures_per_second"))
            self.row["error"] = str(error)
            self.child.close()
            return {}


def _given_precision(model: Model, engine: EngineName) -> str | None:
    stored = precision_of(model)
    as_it_is = model.format not in ("safetensors", "pth") and engine == own_engine(model)
    if stored is None or as_it_is or (stored == "int8" and engine != "torch"):
        return stored
    return "float32"


def _entries(
    models: Sequence[str | os.PathLike[str]],
    engines: Sequence[EngineName],
    threads: Sequence[int],
    data: DataSet | AnnotatedSet | str | os.PathLike[str] | None,
) -> list[_Contender | dict[str, Cell]]:
    """The contenders in order, and a row with the reason for each model that cannot be one."""
    entries: list[_Contender | dict[str, Cell]] = []
    errors: list[FusiformError] = []
    for name in dict.fromkeys(os.fspath(model) for model in models):
        try:
            opened = open_model(name)
            chosen = list(dict.fromkeys(engines)) or [own_engine(opened)]
            if set(chosen) == set(ENGINES):
                chosen = list(possible_engines(opened))
        except FusiformError as error:
            errors.append(error)
            entries.append({**dict.fromkeys(COLUMNS), "model": name, "error": str(error)})
            continue
        read = None
        if data is not None:
            read = _read(data, opened.spec, name)  # what is wrong with it is told before the work, and not after it
            if isinstance(read, DataSet):
                data = read  # once is enough for all classifiers
        entries += [_Contender(name, opened, engine, number, read) for engine in chosen for number in threads]
    if len(errors) == len(entries):
        raise errors[0]
    return entries


def _read(data: _Data | str | os.PathLike[str], spec: ModelSpec, name: str) -> _Data:
    """The data set as a model can use it."""
    if spec.task == "detection":
        return data if isinstance(data, AnnotatedSet) else read_boxes(_place(data), spec, model=name)
    if spec.task == "segmentation":
        return data if isinstance(data, AnnotatedSet) else read_masks(_place(data), spec, model=name)
    if isinstance(data, AnnotatedSet):
        raise UsageError(f"{data.source}: has boxes or masks, and {name} is a classifier: measure it on its own data")
    found = data if isinstance(data, DataSet) else read_dataset(data)
    bind_classes(found.classes, spec)
    return found


def _place(data: _Data | str | os.PathLike[str]) -> str | os.PathLike[str]:
    return data.source if isinstance(data, DataSet | AnnotatedSet) else data


def _open_all(contenders: Sequence[_Contender], stack: ExitStack, progress: Tracker) -> None:
    """Start every contender's process, one after the other; load time and memory are known then."""
    with progress(total=len(contenders), label="first answers") as bar:
        for contender in contenders:
            contender.child = stack.enter_context(_Child())
            request = {
                "do": "open",
                "model": contender.name,
                "engine": contender.engine,
                "threads": contender.threads,
            }
            if opened := contender.ask(request):
                contender.estimate = opened.pop("estimate")
                contender.row |= {name: _rounded(value) for name, value in opened.items()}
            bar.advance()


def _take_turns(contenders: Sequence[_Contender], seconds: float, progress: Tracker) -> None:
    """Latency first, all rounds of it, then throughput, whose engines would only be in the way before."""
    cores = usable_cores()
    ready = [contender for contender in contenders if not contender.failed]
    runs, shown = {}, {}
    for c in ready:
        pictures = seconds / max(c.estimate, 1e-6)
        workers = max(1, cores // c.threads)
        runs[c] = max(math.ceil(MIN_RUNS / ROUNDS), round(pictures / ROUNDS))
        shown[c] = max(workers, round(pictures * workers / THROUGHPUT_ROUNDS))
        c.row["workers"] = workers
    times: dict[_Contender, list[float]] = {c: [] for c in ready}
    decoding: dict[_Contender, list[float]] = {c: [] for c in ready}
    rates: dict[_Contender, list[float]] = {c: [] for c in ready}
    total = sum(ROUNDS * runs[c] + THROUGHPUT_ROUNDS * shown[c] for c in ready)
    with progress(total=total, label="benchmark") as bar:
        for number in range(ROUNDS):
            for c in _in_order(ready, number):
                times[c] += c.ask({"do": "latency", "runs": runs[c]}).get("times", [])
                if c.spec.task != "classification":
                    decoding[c] += c.ask({"do": "decode", "photographs": c.photographs}).get("times", [])
                bar.advance(runs[c])
        for number in range(THROUGHPUT_ROUNDS):
            for c in _in_order(ready, number):
                answer = c.ask({"do": "throughput", "workers": c.row["workers"], "pictures": shown[c]})
                rates[c] += [answer["rate"]] if answer else []
                bar.advance(shown[c])
    for c in ready:
        if not c.failed:
            latency = _latency(times[c])
            c.row |= {
                "median_ms": _rounded(latency.median_ms),
                "p95_ms": _rounded(latency.p95_ms),
                "best_ms": _rounded(latency.best_ms),
                "runs": latency.runs,
                "decode_ms": _rounded(1000 * statistics.median(decoding[c])) if decoding[c] else None,
                "pictures_per_second": _rounded(statistics.median(rates[c])),
            }


def _in_order(contenders: Sequence[_Contender], number: int) -> Sequence[_Contender]:
    """Every other round backwards, so that nobody always comes after the same one."""
    return contenders if number % 2 == 0 else contenders[::-1]


def _measure_accuracy(contenders: Sequence[_Contender], progress: Tracker) -> None:
    """Each model in each engine on the data; threads change nothing in the answers."""
    done: dict[tuple[str, EngineName], dict[str, Cell]] = {}
    for c in contenders:
        if c.failed:
            continue
        key = (c.name, c.engine)
        if key not in done:
            try:
                done[key] = _accuracy(c, progress)
            except FusiformError as error:
                done[key] = {"error": f"measured, but not its accuracy: {error}"}
        c.row |= done[key]


def _accuracy(c: _Contender, progress: Tracker) -> dict[str, Cell]:
    """How good a contender is on its data."""
    result: Evaluation | BoxEvaluation | MaskEvaluation
    if isinstance(c.data, AnnotatedSet):
        find = evaluate_boxes if c.spec.task == "detection" else evaluate_masks
        result = find(c.name, c.data, engine=c.engine, progress=progress)
        value = float(result.figure(np.ones((1, len(result.samples)), np.int32))[0, 0])
    else:
        assert c.data is not None
        result = evaluate(c.name, c.data, engine=c.engine, progress=progress)
        value = float(result.right.mean())
    source = Path(result.source).resolve().name
    return {
        MEASURES[c.spec.task]: None if math.isnan(value) else _rounded(100 * value),
        "measured_on": f"{len(result.samples)} pictures of {source} ({result.split})",
    }


def _look_up_accuracy(contenders: Sequence[_Contender]) -> None:
    """What the models say of themselves, on a data set that all of them were measured on if there is one."""
    measured = [c for c in contenders if not c.failed and c.spec.task == "classification"]
    known = [{accuracy.dataset: accuracy.top1 for accuracy in c.spec.accuracy} for c in measured]
    common = [dataset for dataset in next(iter(known), ()) if all(dataset in each for each in known)]
    for c, accuracies in zip(measured, known, strict=True):
        if accuracies:
            dataset = common[0] if common else next(iter(accuracies))
            c.row |= {"top1": accuracies[dataset], "measured_on": dataset}


# What runs in a contender's process. It tells the parent the results as lines of JSON.

_START = """
import sys
sys.path = [place for place in sys.path if place] + [sys.argv[1]]
from fusiform.benchmark import serve
serve()
"""


class _Child:
    """A contender's process; ``ask`` raises FusiformError for what it cannot do and where it has ended."""

    def __init__(self) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        # The empty place that -c puts first would let a file in the user's folder stand for a package.
        root = str(Path(__file__).parents[1])
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="ascii",  # as json writes
        )

    def __enter__(self) -> _Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None and not stream.closed:
                with suppress(OSError):  # about what was still to be written
                    stream.close()

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:  # it has ended
            line = ""
        if not line.endswith("\n"):
            raise FusiformError(f"the process that ran it ended with {self._process.wait()}{self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise FusiformError(answer["error"])
        return answer

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f": {said[-1]}" if said else ""


def serve() -> None:
    """Answer the requests on standard input until it ends: the main function of a contender's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to hear, which ends this process then
    # Runtimes write on standard output, past Python too: the answers go where only they go.
    with os.fdopen(os.dup(1), "w", encoding="ascii") as answers:
        os.dup2(2, 1)
        bench = _Bench()
        for line in sys.stdin:
            try:
                answer = bench.answer(json.loads(line))
            except FusiformError as error:
                answer = {"error": str(error)}
            except Exception as error:  # whatever a runtime raises is the reason why it cannot be measured
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


class _Bench:
    """The engines of a contender: one for latency, and when they are asked for the others that make up the crew."""

    def __init__(self) -> None:
        self.start: Callable[[], Engine]
        self.picture: Batch
        self.crew: list[Engine] = []
        self.answers: list[_Answer] = []

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if request["do"] == "open":
            return self.open(request["model"], request["engine"], request["threads"])
        if request["do"] == "latency":
            engine = self.crew[0]
            for _ in range(WARM_UP):
                engine.run(self.picture)
            return {"times": [_timed(engine, self.picture) for _ in range(request["runs"])]}
        if request["do"] == "decode":
            return self.decode(request["photographs"])
        return self.throughput(request["workers"], request["pictures"])

    def open(self, model: str, engine: EngineName, threads: int) -> dict[str, Any]:
        """Load the runtime and the model, and answer the first pictures."""
        self.start = lambda: open_engine(model, engine=engine, threads=threads)
        np.random.default_rng(0)  # so that numpy's own modules do not count as the engine's
        before = peak_memory()
        begun = time.perf_counter()
        first = self.start()
        load = time.perf_counter() - begun
        self.picture = _picture(first.spec)
        load += _timed(first, self.picture)
        self.crew = [first]
        estimate = measure_latency(first, seconds=0, warm_up=WARM_UP).median_ms / 1000
        after = peak_memory()
        return {
            "estimate": estimate,
            "load_ms": 1000 * load,
            "memory_mb": None if before is None or after is None else (after - before) / 1e6,
            "process_mb": None if after is None else after / 1e6,
        }

    def decode(self, photographs: Sequence[str]) -> dict[str, Any]:
        """Time what makes boxes or masks of the engine's answers to photographs, once for each."""
        engine = self.crew[0]
        if not self.answers:
            for file in photographs:
                with suppress(ImageError):  # the evaluation tells of it
                    self.answers.append(_show(engine, read_image(file)))
            self.answers = self.answers or [_Answer(engine.run(self.picture), DECODED_SIZE)]
            _decode(self.answers[0], engine.spec)  # warm
        times = []
        for answer in self.answers:
            begun = time.perf_counter()
            _decode(answer, engine.spec)
            times.append(time.perf_counter() - begun)
        return {"times": times}

    def throughput(self, workers: int, pictures: int) -> dict[str, Any]:
        """So many pictures, whoever of the workers is free takes the next one."""
        from concurrent.futures import ThreadPoolExecutor

        self.crew += [self.start() for _ in range(workers - len(self.crew))]
        for engine in self.crew:
            engine.run(self.picture)
        waiting = iter(range(pictures))
        taking = threading.Lock()
        begun: list[float] = []
        together = threading.Barrier(workers, action=lambda: begun.append(time.perf_counter()))

        def work(engine: Engine) -> None:
            together.wait()
            while True:
                with taking:
                    if next(waiting, None) is None:
                        return
                engine.run(self.picture)

        with ThreadPoolExecutor(workers) as pool:
            jobs = [pool.submit(work, engine) for engine in self.crew]
            for job in jobs:
                job.result()
            taken = time.perf_counter() - begun[0]
        return {"rate": pictures / taken}


class _Answer(NamedTuple):
    """An engine's answer to one photograph, and its size in pixels (width, height)."""

    answers: Mapping[str, NDArray[np.float32]]
    size: tuple[int, int]


def _show(engine: Engine, image: Image.Image) -> _Answer:
    return _Answer(engine.run(crop_pixels(image, engine.spec.preprocess)[None]), image.size)


def _decode(answer: _Answer, spec: ModelSpec) -> None:
    """What ``predict`` does with an answer."""
    if spec.task == "detection":
        detection.decode(answer.answers["logits"], answer.answers["codes"], spec, sizes=[answer.size])
    else:
        place = placement(answer.size, spec.preprocess)
        segmentation.decode(answer.answers["logits"][0], spec, answer.size, placement=place)


def _picture(spec: ModelSpec) -> Batch:
    random = np.random.default_rng(0)
    side, channels = spec.input_size, spec.input_channels
    if channels == 3:
        return random.integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    return random.standard_normal((1, channels, side, side), dtype=np.float32)


def _timed(engine: Engine, picture: Batch) -> float:
    """Seconds for one answer."""
    begun = time.perf_counter()
    engine.run(picture)
    return time.perf_counter() - begun


def _latency(times: Sequence[float]) -> Latency:
    """From seconds."""
    median, p95 = np.percentile(times, [50, 95])
    return Latency(1000 * float(median), 1000 * float(p95), 1000 * min(times), len(times))


def _windows_peak() -> int | None:
    """PeakWorkingSetSize (PROCESS_MEMORY_COUNTERS in psapi.h)."""
    if sys.platform != "win32":
        return None
    import ctypes
    from ctypes import wintypes

    sizes = ("peak", "size", "peak_paged", "paged", "peak_nonpaged", "nonpaged", "file", "peak_file")

    class Counters(ctypes.Structure):
        _fields_ = [
            ("length", wintypes.DWORD),
            ("faults", wintypes.DWORD),
            *((name, ctypes.c_size_t) for name in sizes),
        ]

    counters = Counters(length=ctypes.sizeof(Counters))
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel.GetCurrentProcess.restype = wintypes.HANDLE
    ask = kernel.K32GetProcessMemoryInfo
    ask.argtypes = [wintypes.HANDLE, ctypes.POINTER(Counters), wintypes.DWORD]
    return int(counters.peak) if ask(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.length) else None


def _short_names(models: Sequence[str]) -> list[str]:
    """The last part of each path, without the ending, or with it, or the path, whatever tells the models apart."""
    # What training wrote is known by its run's folder.
    paths = [path.parent if path.name == "best.safetensors" else path for path in map(Path, models)]
    for short in ([path.stem for path in paths], [path.name for path in paths]):
        if all(short) and len(set(short)) == len(set(models)):
            return short
    return list(models)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:  # a checkout, or under another name, as builds for a GPU are
        return None


def _number(value: Cell) -> float:
    assert isinstance(value, (int, float))
    return float(value)


def _rounded(value: float | None) -> float | None:
    """Six significant digits: more than any clock is good for."""
    return None if value is None else float(f"{value:.6g}")
