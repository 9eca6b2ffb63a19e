"""Parts answered by one Predictor: all of a machine's in one stream, or one by a cluster's worker."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

from fusiform.engines import EngineName
from fusiform.prediction.listing import Item
from fusiform.prediction.predictor import Predictor
from fusiform.prediction.sources import Picture, pictures_of
from fusiform.prediction.worker import Asked
from fusiform.scaling.folder import Done, PartsFolder
from fusiform.scaling.plan import Plan
from fusiform.scaling.rows import PartFormat, Rows, count_rows, rows_to
from fusiform.zoo.model import Model

AnswerPart = Callable[[int, Sequence[Any], BinaryIO], Done]
"""Answers a part, of this number and these items, into a file."""


class Job(Protocol):
    """What a worker on another machine is sent: how to answer parts, and what it takes."""

    @property
    def threads(self) -> int | None:
        """Cores that a worker has; None is one."""
        ...

    @property
    def device(self) -> str:
        """Where it computes."""
        ...

    def open(self, cores: int) -> AnswerPart:
        """What answers parts, with so many cores."""
        ...


class Setup(NamedTuple):
    """What opens a Predictor, here or on another machine, and what it is asked."""

    model: Model
    asked: Asked
    engine: EngineName | None
    device: str
    threads: int | None
    batch: int
    fast: bool
    labels: str | tuple[str, ...] | None
    tiles: int | None
    overlap: float
    features: bool = False

    def predictor(self, threads: int | None = None) -> Predictor:
        """The Predictor, with other ``threads`` where these are given."""
        return Predictor(
            self.model,
            engine=self.engine,
            device=self.device,
            threads=threads or self.threads,
            batch=self.batch,
            fast=self.fast,
            labels=self.labels,
            tiles=self.tiles,
            overlap=self.overlap,
            features=self.features,
        )


@dataclass(frozen=True)
class Answering:
    """The job of answering pictures into rows of a form."""

    setup: Setup
    form: str

    @property
    def threads(self) -> int | None:
        return self.setup.threads

    @property
    def device(self) -> str:
        return self.setup.device

    def rows(self, predictor: Predictor, file: BinaryIO) -> Rows:
        """What writes the rows of a part."""
        return rows_to(file, cast("PartFormat", self.form), predictor.spec)

    def count(self, file: BinaryIO) -> tuple[int, int]:
        """How many images and errors a part holds; ValueError where it is none."""
        return count_rows(file, cast("PartFormat", self.form))

    def open(self, cores: int) -> AnswerPart:
        predictor = self.setup.predictor(cores)
        return partial(_answer_part, predictor, self.setup.asked, partial(self.rows, predictor))


def on_this_machine(
    predictor: Predictor,
    plan: Plan,
    waiting: Sequence[int],
    target: PartsFolder,
    asked: Asked,
    rows_of: Callable[[BinaryIO], Rows],
    advance: Callable[[int], None],
) -> Iterator[tuple[int, Done]]:
    """Answer parts one after the other, and give the number of each and what it holds once it is in its place.

    The pictures are one stream, so that no core waits at the end of a part. ``rows_of`` a file writes its rows.
    """
    source = _Pictures(plan, waiting)
    with closing(predictor.answers(source, asked)) as answers:
        for number in waiting:
            with target.writing(number) as file:
                rows = rows_of(file)
                images = errors = 0
                while source.has_more(number, images):
                    answer = next(answers)
                    rows.add(answer)
                    images, errors = images + 1, errors + (answer.error is not None)
                    advance(1)
                rows.close()
            yield number, Done(images, errors)


class _Pictures(Iterable[Picture]):
    """The pictures of several parts, and where each part ends."""

    def __init__(self, plan: Plan, parts: Sequence[int]) -> None:
        self._stream = self._pictures(plan, parts)
        self._counts: dict[int, int] = {}
        self._whole: set[int] = set()
        self._ahead: deque[Picture] = deque()

    def __iter__(self) -> Iterator[Picture]:
        while True:
            if self._ahead:
                yield self._ahead.popleft()
            elif (picture := next(self._stream, None)) is not None:
                yield picture
            else:
                return

    def _pictures(self, plan: Plan, parts: Sequence[int]) -> Iterator[Picture]:
        for number in parts:
            self._counts[number] = 0
            for item in plan.items(number):
                for picture in pictures_of(item):
                    self._counts[number] += 1
                    yield picture
            self._whole.add(number)

    def has_more(self, part: int, images: int) -> bool:
        """Whether a part has more pictures than so many, of which the last may be the last that was taken."""
        while self._counts.get(part, 0) <= images and part not in self._whole:
            picture = next(self._stream, None)
            if picture is None:
                break
            self._ahead.append(picture)
        return self._counts.get(part, 0) > images


def _answer_part(
    predictor: Predictor,
    asked: Asked,
    rows_of: Callable[[BinaryIO], Rows],
    _number: int,
    items: Sequence[Item],
    file: BinaryIO,
) -> Done:
    """Answer the pictures of one part, as a worker does that has nothing but this part."""
    rows = rows_of(file)
    images = errors = 0
    with closing(predictor.answers(_Items(items), asked)) as answers:
        for answer in answers:
            rows.add(answer)
            images, errors = images + 1, errors + (answer.error is not None)
    rows.close()
    return Done(images, errors)


class _Items(Iterable[Picture]):
    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Picture]:
        for item in self._items:
            yield from pictures_of(item)
