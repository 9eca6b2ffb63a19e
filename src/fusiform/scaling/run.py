"""A shard's parts from the first to the last: what is there is left alone, what is missing is answered and told of."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from fusiform.errors import FusiformError, InputError, UsageError
from fusiform.progress import Progress, Tracker, clock
from fusiform.scaling.folder import Done, PartsFolder, Shard
from fusiform.scaling.plan import Planned
from fusiform.zoo.model import Model

PART = 10_000
"""Images a part: a minute or two of work, which is what a kill costs."""

Answer = Callable[[Sequence[int], Callable[[int], None]], Iterator[tuple[int, Done]]]
"""Answers parts of these numbers, telling of so many images as they come, and gives each once it is in its place."""


class Parts(NamedTuple):
    """What a shard's parts in ``folder`` hold: so many ``images``, ``errors`` of them without an answer.

    ``parts`` is the number of its parts, ``earlier`` of those that were there before.
    """

    folder: Path
    images: int
    errors: int
    parts: int
    earlier: int


def check_parts(part: int, shard: tuple[int, int] | None) -> Shard:
    """The shard; UsageError for numbers that are out of range."""
    if part < 1:
        raise UsageError(f"part must be at least 1, got {part}")
    ours = Shard(*(shard or (0, 1)))
    if not 0 <= ours.number < ours.machines:
        raise UsageError(f"shard must be I/N with I from 0 to N - 1, got {ours.number}/{ours.machines}")
    return ours


def folder_of(out: str | os.PathLike[str]) -> Path:
    """The folder for parts; InputError where a file has its name."""
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, and parts need a folder: choose another place for --out")
    return folder


def run_parts(plan: Planned, target: PartsFolder, ours: Shard, answer: Answer, *, show: Tracker, label: str) -> Parts:
    """Answer the parts of a shard that are not there yet, and say what all of them hold."""
    there = target.finished()
    mine = [number for number in range(len(plan)) if ours.has(number)]
    done = {number: there[number] for number in mine if number in there}
    waiting = [number for number in mine if number not in there]
    earlier = len(done)
    counts = [plan.count(number) for number in waiting]
    total = None if None in counts else sum(count or 0 for count in counts)
    try:
        if waiting:
            with show(total=total, label=label, unit="images") as bar:
                tell = _Telling(bar, len(mine), earlier, counted=total is not None)
                for number, finished in answer(waiting, tell.advance):
                    target.tell(number, finished)
                    done[number] = finished
                    tell.finished()
    except KeyboardInterrupt as interrupt:
        interrupt.args = (f"{len(done)} of {len(mine)} parts are finished in {target.folder}",)
        raise
    images, errors = (sum(each[k] for each in done.values()) for k in (0, 1))
    return Parts(target.folder, int(images), int(errors), len(mine), earlier)


def hash_model(model: Model) -> str:
    """The SHA-256 of the model's file, or of the files of its folder."""
    digest = sha256()
    files = [model.path] if model.path.is_file() else sorted(each for each in model.path.rglob("*") if each.is_file())
    try:
        for path in files:
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
    except OSError as error:
        raise FusiformError(f"{error.filename}: cannot be read ({error.strerror}): check the path") from None
    return digest.hexdigest()


class _Telling:
    """Progress in images, with the parts beside it, and the time left where only parts can be counted."""

    def __init__(self, bar: Progress, parts: int, earlier: int, *, counted: bool) -> None:
        self.bar, self.parts, self.done, self.earlier, self.counted = bar, parts, earlier, earlier, counted
        self.started = time.monotonic()

    def advance(self, amount: int) -> None:
        """So many more images are answered."""
        note = f"{self.done} of {self.parts} parts"
        if self.done > self.earlier and not self.counted:
            each = (time.monotonic() - self.started) / (self.done - self.earlier)
            note += f", {clock(each * (self.parts - self.done))} left"
        self.bar.advance(amount, note)

    def finished(self) -> None:
        """One more part is."""
        self.done += 1
