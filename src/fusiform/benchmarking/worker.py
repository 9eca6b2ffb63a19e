"""What runs in a contender's process. It tells the parent the results as lines of JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.benchmarking.latency import make_picture, measure_latency, timed
from fusiform.benchmarking.memory import peak_memory
from fusiform.data.image import read_image
from fusiform.data.preprocess import crop_pixels, placement
from fusiform.engines import Engine, EngineName, open_engine
from fusiform.engines.batch import Batch
from fusiform.errors import FusiformError, ImageError
from fusiform.spec import ModelSpec
from fusiform.tasks import detection, segmentation

WARM_UP = 3
"""Runs before each turn that do not count: the weights are in the cache again, the last contender's threads asleep."""

DECODED_SIZE = (640, 480)
"""The size in pixels of the photograph that the made picture stands for where there are no others."""


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
            return {"times": [timed(engine, self.picture) for _ in range(request["runs"])]}
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
        self.picture = make_picture(first.spec)
        load += timed(first, self.picture)
        self.crew = [first]
        estimate = measure_latency(first, seconds=0, warm_up=WARM_UP).median_ms / 1000
        after = peak_memory()
        return {
            "estimate": estimate,
            "load_ms": 1000 * load,
            "memory_bytes": None if before is None or after is None else after - before,
            "process_bytes": after,
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
        detection.detect(answer.answers, spec, sizes=[answer.size])
    else:
        place = placement(answer.size, spec.preprocess)
        (values,) = answer.answers.values()
        segmentation.decode(values[0], spec, answer.size, placement=place)
