"""Contenders answer in turns: first answers one after the other, then rounds of latency and of throughput."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from contextlib import ExitStack

from fusiform.benchmarking.contenders import Contender
from fusiform.benchmarking.latency import MIN_RUNS, latency_of
from fusiform.benchmarking.process import Child
from fusiform.benchmarking.rows import rounded
from fusiform.machine import usable_cores
from fusiform.progress import Tracker

ROUNDS = 10
"""How many turns a contender has at latency."""
THROUGHPUT_ROUNDS = 3
"""How many turns it has at throughput: longer ones, since a turn with many workers takes a while to begin and end."""


def open_all(contenders: Sequence[Contender], stack: ExitStack, progress: Tracker) -> None:
    """Start every contender's process, one after the other; load time and memory are known then."""
    with progress(total=len(contenders), label="first answers") as bar:
        for contender in contenders:
            contender.child = stack.enter_context(Child())
            request = {
                "do": "open",
                "model": contender.name,
                "engine": contender.engine,
                "threads": contender.threads,
            }
            if opened := contender.ask(request):
                contender.estimate = opened.pop("estimate")
                contender.row |= {
                    name: value if isinstance(value, int) else rounded(value) for name, value in opened.items()
                }
            bar.advance()


def take_turns(contenders: Sequence[Contender], seconds: float, progress: Tracker) -> None:
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
    times: dict[Contender, list[float]] = {c: [] for c in ready}
    decoding: dict[Contender, list[float]] = {c: [] for c in ready}
    rates: dict[Contender, list[float]] = {c: [] for c in ready}
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
            latency = latency_of(times[c])
            c.row |= {
                "median_ms": rounded(latency.median_ms),
                "p95_ms": rounded(latency.p95_ms),
                "best_ms": rounded(latency.best_ms),
                "runs": latency.runs,
                "decode_ms": rounded(1000 * statistics.median(decoding[c])) if decoding[c] else None,
                "images_per_second": rounded(statistics.median(rates[c])),
            }


def _in_order(contenders: Sequence[Contender], number: int) -> Sequence[Contender]:
    """Every other round backwards, so that nobody always comes after the same one."""
    return contenders if number % 2 == 0 else contenders[::-1]
