"""The benchmark as a whole, from models to a report."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import cast

from fusiform.benchmarking.accuracy import look_up_accuracy, measure_accuracy
from fusiform.benchmarking.contenders import Contender, list_entries
from fusiform.benchmarking.draw import draw_benchmark
from fusiform.benchmarking.rounds import ROUNDS, open_all, take_turns
from fusiform.data.annotated import AnnotatedSet
from fusiform.data.dataset import DataSet
from fusiform.data.masks import Ignore
from fusiform.data.open import check_named
from fusiform.drawing.pareto import check_place
from fusiform.engines import ENGINES, EngineName
from fusiform.engines.installed import DISTRIBUTIONS
from fusiform.errors import UsageError
from fusiform.machine import usable_cores
from fusiform.progress import Tracker, tracker
from fusiform.report import Cell, Report, Row


def benchmark(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    engine: str | Sequence[str] = (),
    threads: int | Sequence[int] = 1,
    seconds: float = 1.0,
    data: DataSet | AnnotatedSet | str | os.PathLike[str] | None = None,
    ignore: Ignore | None = None,
    root: str | os.PathLike[str] | None = None,
    plot: str | os.PathLike[str] | None = None,
    progress: bool | Tracker | None = None,
) -> Report:
    """Measure on this machine how fast every model is in every engine with every number of threads, in turns.

    Args:
        models: Names or files of any kind.
        engine: Runtimes; none is the one that ``fusiform.predict`` takes, ``all`` every one that can run it.
        threads: Numbers of threads inside the runtime.
        seconds: About how long each contender is timed at latency, and again at throughput.
        data: A labelled dataset, or where it lies, to measure the accuracy on; None is what the models' descriptions
            say.
        ignore: For segmenters: what 255 is in the masks, see ``fusiform.train``.
        root: The folder that the paths in a list begin in; None is the list's own.
        plot: A PNG or JPEG to draw latency against accuracy into, or against size where there is none for all.
        progress: Whether to show how far it is; None does on a terminal and in a notebook.

    Returns:
        A report with a row for each contender, with all of ``COLUMNS``; see below.

    Raises:
        UsageError: For arguments that do not fit, and for classes of ``data`` that a model does not know.
        FusiformError: The first model's, where none can be opened.

    Example:
        >>> import fusiform
        >>> report = fusiform.benchmark("mobilenet_v2", engine="litert", seconds=0.1)
        >>> report.rows[0]["engine"], report.rows[0]["median_ms"] > 0
        ('litert', True)

    - ``precision`` is what the engine is given the weights in, int8, float16 or float32: what the file has, but
      float32 where PyTorch runs an int8 file dequantised, or a float16 file is converted for another runtime.
    - ``median_ms``, ``p95_ms``, ``best_ms``: of ``runs`` answers to one picture, warm, as ``measure_latency`` says,
      over all rounds.
    - ``decode_ms``: the median of what it takes to make boxes or a mask at the photograph's size of an answer, which is
      no part of the other times; on photographs of ``data``, else on the answer to the made picture as if it were a
      photograph of 640 x 480 pixels, where a detector finds little. None for classifiers.
    - ``images_per_second``: with as many ``workers`` at once as there are cores for their threads, each a thread
      with an engine of its own, as ``predict`` works through a folder; the median of the rounds.
    - ``load_ms``: in a fresh process that has numpy and fusiform loaded, from there to the first answer: importing the
      runtime, reading the file, converting it where it is not the runtime's own, and the first picture, which some
      runtimes put part of their preparations off to.
    - ``memory_bytes``: how much that raises the largest resident size of the process, after a few more pictures;
      ``process_bytes`` is the largest resident size itself, Python included. None where the system does not tell.
    - ``bytes``: the size of the model's file or files.
    - ``top1``: a share in [0, 1], measured in that engine on ``data`` (a dataset or where it lies, as for
      ``evaluate``) or, if there is none, as the model's description has it; on one dataset for all models if they have
      one in common. ``map`` and ``miou`` are a detector's mean average precision (0.50:0.95) and a segmenter's mean
      intersection over union on ``data``, shares too. ``measured_on`` says on what.
    - ``error``: why there is no more in this row: a runtime that is not installed, a file that cannot be read, a
      process that crashed. The others are measured all the same.

    """
    check_named(data, ignore=ignore, root=root)
    models = [models] if isinstance(models, (str, os.PathLike)) else models
    named = [engine] if isinstance(engine, str) else list(engine)
    numbers = [threads] if isinstance(threads, int) else list(threads)
    tracked = tracker(progress)
    if plot is not None:
        check_place(plot)
    if not models:
        raise UsageError("there is nothing to measure: name a model")
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"seconds must be a positive number, got {seconds}")
    for number in numbers:
        if number < 1:
            raise UsageError(f"threads must be at least 1, got {number}")
    for name in named:
        if name not in (*ENGINES, "all"):
            raise UsageError(f"there is no engine {name!r}; there are {', '.join(ENGINES)}, and all")
    engines: Sequence[EngineName] = ENGINES if "all" in named else cast("list[EngineName]", named)

    entries = list_entries(models, engines, list(dict.fromkeys(numbers)) or [1], data, ignore=ignore, root=root)
    with ExitStack() as stack:
        contenders = [entry for entry in entries if isinstance(entry, Contender)]
        open_all(contenders, stack, tracked)
        take_turns(contenders, seconds, tracked)
    if data is not None:
        measure_accuracy(contenders, tracked)
    else:
        look_up_accuracy(contenders)
    rows = tuple(dict(entry.row if isinstance(entry, Contender) else entry) for entry in entries)
    figures: dict[str, Cell] = {
        "processor": _processor(),
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "fusiform": _version("fusiform"),
    }
    figures |= {"timed_seconds": seconds, "rounds": ROUNDS}
    used = [entry.engine for entry in contenders if not entry.failed]
    packages: list[Row] = [
        {"package": DISTRIBUTIONS[engine], "version": _version(DISTRIBUTIONS[engine])}
        for engine in ENGINES
        if engine in used
    ]
    report = Report("Benchmark", rows, figures, {"packages": packages}, "fusiform.benchmark/1")
    if plot is not None and any(row["median_ms"] is not None for row in rows):
        draw_benchmark(report, plot)
    return report


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
