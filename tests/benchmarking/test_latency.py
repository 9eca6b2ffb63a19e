"""One picture's time by a clock that only engines move, against a calculation by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fusiform.benchmarking import latency as module
from fusiform.benchmarking.latency import measure_latency
from fusiform.errors import UsageError
from fusiform.spec import ModelSpec, Preprocess

SPEC = ModelSpec("mobilenet_v2", 0.35, ("red", "green"), input_size=32, preprocess=Preprocess(resize=32, crop=32))


class Clock:
    """Time that only engines take."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Slow:
    """An engine whose answers take as many seconds of the clock as the list says, one after the other, and then 1."""

    spec = SPEC

    def __init__(self, clock: Clock, seconds: list[float]) -> None:
        self.clock, self.seconds, self.shapes = clock, seconds, []

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        self.clock.now += self.seconds.pop(0) if self.seconds else 1.0
        self.shapes.append((batch.dtype.name, batch.shape))
        return {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def test_latency_by_hand(clock: Clock) -> None:
    # Two to warm up, which do not count; then 21 runs: numpy's 95th percentile of 1..21 is the 20th.
    engine = Slow(clock, [50.0, 50.0, *map(float, range(21, 0, -1))])
    latency = measure_latency(engine, seconds=sum(range(1, 22)), warm_up=2)
    assert (latency.best_ms, latency.median_ms, latency.p95_ms, latency.runs) == (1000, 11000, 20000, 21)
    assert set(engine.shapes) == {("uint8", (1, 32, 32, 3))}


def test_latency_is_of_at_least_ten_runs(clock: Clock) -> None:
    assert measure_latency(Slow(clock, []), seconds=0, warm_up=0).runs == 10
    assert measure_latency(Slow(clock, []), seconds=12.5).runs == 13


def test_latency_of_a_network_for_grey_pictures(clock: Clock) -> None:
    engine = Slow(clock, [])
    engine.spec = replace(SPEC, input_channels=1)
    measure_latency(engine, seconds=0)
    assert set(engine.shapes) == {("float32", (1, 1, 32, 32))}


@pytest.mark.parametrize(
    "wrong", [{"seconds": -1.0}, {"seconds": float("nan")}, {"seconds": float("inf")}, {"warm_up": -1}]
)
def test_latency_refuses(clock: Clock, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must be numbers from 0 on"):
        measure_latency(Slow(clock, []), **wrong)
