"""Shows a dataset's pictures to a model, with an engine for each core: what the evaluations of all tasks share."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.data.dataset import Split
from fusiform.data.preprocess import crop_pixels
from fusiform.engines import Engine
from fusiform.errors import ImageError, UsageError, WeightsError
from fusiform.machine import usable_cores
from fusiform.progress import Tracker, silent
from fusiform.spec import ModelSpec
from fusiform.zoo.model import Model

GROUP = 8
"""Pictures that a worker takes through one stage after the other, as ``predict`` does."""


def readable(source: Path, split: Split, count: int, errors: Mapping[int, str]) -> list[int]:
    """The numbers of a split's ``count`` pictures that could be read: those without a message in ``errors``.

    Raises UsageError, which names the data's ``source``, where none could.
    """
    read = [i for i in range(count) if i not in errors]
    if not read:
        first = next(iter(errors.values()))
        raise UsageError(f"{source}: none of the {count} pictures of {split} could be read: {first}")
    return read


class Crew:
    """Threads that show pictures to a model, each with an engine of its own.

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
        self._start = start
        self._cores = max(1, cores // self._workers)
        self._count = count
        self._first = start(self._cores)
        self.spec = self._first.spec

    def work(self, answer: Callable[[Engine, range], None], progress: Tracker = silent) -> None:
        """Call ``answer`` with an engine and the numbers of some pictures, until all were shown, each once.

        It is called in several threads at the same time. What it raises ends the work and is raised here.
        """
        groups = iter(self._groups)
        taking, stopped = threading.Lock(), threading.Event()
        done: SimpleQueue[int | BaseException] = SimpleQueue()

        def work(mine: Engine | None) -> None:
            try:
                mine = mine or self._start(self._cores)
                while not stopped.is_set():
                    with taking:
                        group = next(groups, None)
                    if group is None:
                        return
                    answer(mine, group)
                    done.put(len(group))
            except BaseException as error:  # whatever it is, it belongs to the caller's thread
                done.put(error)

        # Pillow and the runtimes release the interpreter's lock. Daemons: an interrupted program ends at once.
        first = (self._first, *[None] * (self._workers - 1))
        crew = [threading.Thread(target=work, args=(engine,), daemon=True) for engine in first]
        for thread in crew:
            thread.start()
        try:
            with progress(total=self._count, label="evaluate") as bar:
                for _ in self._groups:
                    finished = done.get()
                    if isinstance(finished, BaseException):
                        raise finished
                    bar.advance(finished)
        finally:
            stopped.set()
            for thread in crew:
                thread.join(timeout=0.5)


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
        image = sample.read()
        return image.size, crop_pixels(image, spec.preprocess)
    except ImageError as error:
        return str(error)


def not_finite(model: str | os.PathLike[str] | Model) -> WeightsError:
    """What to raise where a model answers with NaN or infinity."""
    name = str(model.path if isinstance(model, Model) else model)
    return WeightsError(f"{name}: answers with values that are not finite: export or train it again")
