"""Threads that work with engines: what prediction and the evaluations of all tasks share."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol, TypeVar

from PIL import Image

from fusiform.data.limits import one_picture
from fusiform.engines import Engine
from fusiform.engines.native.resize import crop_pixels
from fusiform.errors import ImageError, InputError, UsageError, WeightsError
from fusiform.machine import usable_cores
from fusiform.progress import Tracker, silent
from fusiform.spec import ModelSpec
from fusiform.zoo.model import Model

if TYPE_CHECKING:  # prediction has no dataset, and is not to wait for it
    import numpy as np
    from numpy.typing import NDArray

    from fusiform.data.dataset import Split

GROUP = 8
"""Pictures that a thread takes through one stage after the other: enough to find its code in the cache again."""
LOOK_AHEAD = 4
"""Groups a thread that may be worked on before their turn: enough to go on beside one slow picture, yet bounded."""

Job = TypeVar("Job")
Result = TypeVar("Result")


class Engines:
    """Up to ``count`` engines of one model, opened by ``start`` when they are needed, each lent to one thread."""

    def __init__(self, start: Callable[[], Engine], count: int) -> None:
        self._start = start
        self._count = count
        self._turns = threading.Semaphore(count)
        self._lock = threading.Lock()
        self._opened = 0
        self._free: list[tuple[int | None, Engine]] = []
        """Engines that nobody has, each with the thread that had it last."""

    def warm(self) -> None:
        """Open the first engine if there is none yet; raises what ``start`` does."""
        with self._lock:
            if not self._opened:
                self._free.append((None, self._start()))
                self._opened = 1

    @contextmanager
    def lend(self) -> Iterator[Engine]:
        """An engine for the length of a ``with`` statement; waits while all are lent. Raises what ``start`` does.

        A thread gets the one that it had before, which its core's cache may still hold.
        """
        me = threading.get_ident()
        with self._turns:
            engine = self._take(me) or self._open()
            try:
                yield engine
            finally:
                with self._lock:
                    self._free.append((me, engine))

    def _take(self, me: int) -> Engine | None:
        with self._lock:
            users = [user for user, _ in self._free]
            if me in users:
                return self._free.pop(users.index(me))[1]
            if None in users:
                return self._free.pop(users.index(None))[1]
            if self._opened < self._count:
                self._opened += 1
                return None
            return self._free.pop()[1]

    def _open(self) -> Engine:
        try:
            return self._start()
        except BaseException:
            with self._lock:
                self._opened -= 1
            raise


def in_order(
    jobs: Iterable[Job], answer: Callable[[Job], Result], *, workers: int, ahead: int = LOOK_AHEAD
) -> Generator[Result, None, None]:
    """Answer the jobs in ``workers`` threads, and yield the results in the jobs' order.

    So many jobs a thread may be taken from the iterable ``ahead`` of their turn. Pillow and the runtimes release the
    interpreter's lock, so threads use all cores. What ``answer`` raises ends the work and is raised here; closing the
    generator ends it too.
    """
    waiting = iter(jobs)
    todo: SimpleQueue[tuple[int, Job] | None] = SimpleQueue()
    done: SimpleQueue[tuple[int, Result] | BaseException] = SimpleQueue()
    stopped = threading.Event()

    def work() -> None:
        try:
            while (job := todo.get()) is not None and not stopped.is_set():
                done.put((job[0], answer(job[1])))
        except BaseException as error:  # whatever it is, it belongs to the caller's thread
            done.put(error)

    # Daemons: a thread that hangs in a download must not keep an interrupted program alive.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        results: dict[int, Result] = {}
        started = finished = 0
        while True:
            for job in islice(waiting, ahead * workers - (started - finished)):
                todo.put((started, job))
                started += 1
            if finished == started:
                return
            while finished not in results:
                result = done.get()
                if isinstance(result, BaseException):
                    raise result
                results[result[0]] = result[1]
            yield results.pop(finished)
            finished += 1
    finally:
        stopped.set()
        for _ in threads:
            todo.put(None)
        for thread in threads:
            thread.join(timeout=0.5)


class Crew:
    """Shows a dataset's pictures to a model, in a thread for each core with an engine of its own.

    ``start`` opens an engine with the number of cores it may use; ``count`` is the number of pictures, ``threads``
    that of cores, all by default, and ``batch`` the number of pictures that go through a network together. Raises
    UsageError for numbers below 1, and what ``start`` raises: a wrong model is told before any picture is read.
    """

    def __init__(self, start: Callable[[int], Engine], count: int, *, threads: int | None, batch: int) -> None:
        for name, value in (("batch", batch), ("threads", 1 if threads is None else threads)):
            if value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        cores = threads or usable_cores()
        size = max(batch, min(GROUP, -(-count // cores)))
        self._groups = [range(begin, min(begin + size, count)) for begin in range(0, count, size)]
        self._workers = max(1, min(cores, len(self._groups)))
        each = max(1, cores // self._workers)
        self._engines = Engines(lambda: start(each), self._workers)
        self._count = count
        self._engines.warm()
        with self._engines.lend() as first:
            self.spec = first.spec

    def work(
        self, answer: Callable[[Engine, range], None], progress: Tracker = silent, *, label: str = "evaluate"
    ) -> None:
        """Call ``answer`` with an engine and the numbers of some pictures, until all were shown, each once.

        It is called in several threads at the same time. What it raises ends the work and is raised here.
        """

        def show(group: range) -> int:
            with self._engines.lend() as engine:
                answer(engine, group)
            return len(group)

        with progress(total=self._count, label=label) as bar:
            for finished in in_order(self._groups, show, workers=self._workers):
                bar.advance(finished)


def readable(source: Path, split: Split, count: int, errors: Mapping[int, str]) -> list[int]:
    """The numbers of a split's ``count`` pictures that could be read: those without a message in ``errors``.

    Raises UsageError, which names the data's ``source``, where none could.
    """
    read = [i for i in range(count) if i not in errors]
    if not read:
        first = next(iter(errors.values()))
        raise InputError(f"{source}: none of the {count} pictures of {split} could be read: {first}")
    return read


class Readable(Protocol):
    """A picture of a dataset, for any task."""

    def read(self) -> Image.Image:
        """The picture, upright and RGB; ImageError, which names it."""
        ...


def read_pixels(
    samples: Sequence[Readable], spec: ModelSpec, errors: dict[int, str], *, first: int = 0
) -> tuple[list[tuple[int, tuple[int, int]]], list[NDArray[np.uint8]]]:
    """The numbers, counted from ``first``, and sizes of the pictures that can be read, and what the network sees.

    ``errors`` gets, by number, the messages about the others.
    """
    read: list[tuple[int, tuple[int, int]]] = []
    pixels: list[NDArray[np.uint8]] = []
    for i, sample in enumerate(samples, first):
        seen = _see(sample, spec)
        if isinstance(seen, str):
            errors[i] = seen
        else:
            read.append((i, seen[0]))
            pixels.append(seen[1])
    return read, pixels


def _see(sample: Readable, spec: ModelSpec) -> tuple[tuple[int, int], NDArray[np.uint8]] | str:
    """The picture's size and pixels, ready for the engine, or the message that says why there are none."""
    try:
        with one_picture():
            image = sample.read()
            return image.size, crop_pixels(image, spec.preprocess)
    except ImageError as error:
        return str(error)


def not_finite(model: str | os.PathLike[str] | Model) -> WeightsError:
    """What to raise where a model answers with NaN or infinity."""
    name = str(model.path if isinstance(model, Model) else model)
    return WeightsError(f"{name}: answers with values that are not finite: export or train it again")
