"""How long an engine takes for one picture, timed in this process."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fusiform.engines import Engine
from fusiform.engines.batch import Batch
from fusiform.errors import UsageError
from fusiform.spec import ModelSpec

MIN_RUNS = 10
"""The fewest runs that a median and a 95th percentile are taken of."""


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
    picture = make_picture(engine.spec)
    for _ in range(warm_up):
        engine.run(picture)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < MIN_RUNS or time.perf_counter() < end:
        times.append(timed(engine, picture))
    return latency_of(times)


def make_picture(spec: ModelSpec) -> Batch:
    """One picture, always the same: uint8 pixels, or normalised float32 for a network that reads no three channels."""
    random = np.random.default_rng(0)
    side, channels = spec.input_size, spec.input_channels
    if channels == 3:
        return random.integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    return random.standard_normal((1, channels, side, side), dtype=np.float32)


def timed(engine: Engine, picture: Batch) -> float:
    """Seconds for one answer."""
    begun = time.perf_counter()
    engine.run(picture)
    return time.perf_counter() - begun


def latency_of(times: Sequence[float]) -> Latency:
    """From seconds."""
    median, p95 = np.percentile(times, [50, 95])
    return Latency(1000 * float(median), 1000 * float(p95), 1000 * min(times), len(times))
