"""The queue and its threads, without HTTP."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from fusiform.prediction.results import Prediction
from fusiform.prediction.sources import Picture
from fusiform.prediction.worker import Asked
from fusiform.serving.answering import _Mailbox
from fusiform.serving.models import Served
from fusiform.serving.pool import REST_SECONDS, RUSH, BusyError, Pool, give_back_memory
from fusiform.serving.refusals import Refusal

from .conftest import COLORS, ColorEngine, served


class Seen:
    """What a pool tells."""

    def __init__(self) -> None:
        self.queue = self.shed_count = self.dropped_count = 0
        self.groups: list[int] = []

    def waiting(self, change: int) -> None:
        self.queue += change

    def answered(self, model: str, waited: Sequence[float], decode: float, network: float) -> None:
        assert min(*waited, decode, network) >= 0
        self.groups.append(len(waited))

    def shed(self, count: int) -> None:
        self.shed_count += count

    def dropped(self, count: int) -> None:
        self.dropped_count += count


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def make(seen: Seen) -> Iterator[Callable[..., Pool]]:
    pools = []

    def make(threads: int = 1, seconds: float = 5.0) -> Pool:
        pools.append(Pool(threads, seconds=seconds, observer=seen))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def picture(color: str = "green", name: str = "") -> Picture:
    rgb = COLORS.get(color, (0, 0, 0))
    return Picture(name or color, partial(Image.new, "RGB", (32, 32), rgb))


def engine(model: Served, number: int = 0) -> ColorEngine:
    found: Any = model.workers[number].engine
    assert isinstance(found, ColorEngine)
    return found


def names(futures: Sequence[Future[Prediction]]) -> list[str]:
    return [future.result(10).top[0].name for future in futures]


def held(model: Served, pool: Pool) -> Future[Prediction]:
    """Have every thread of one at work: the picture that it is at waits for the gate."""
    engine(model).gate.clear()
    (first,) = pool.submit(model, [picture()], Asked())
    while not engine(model).batches:
        time.sleep(0.001)
    return first


def test_each_picture_gets_its_own_answer(make: Callable[..., Pool], seen: Seen) -> None:
    model, pool = served(threads=3), make(3)
    colors = ["red", "green", "blue", "green"] * 20
    futures = [future for color in colors for future in pool.submit(model, [picture(color)], Asked(top=1))]
    assert names(futures) == colors
    assert len(futures[0].result().top) == 1
    assert seen.queue == 0
    assert sum(seen.groups) == len(colors)


def test_a_thread_takes_its_share_of_what_waits(make: Callable[..., Pool]) -> None:
    model, pool = served(), make()
    held(model, pool)
    futures = pool.submit(model, [picture()] * 20, Asked())
    engine(model).gate.set()
    names(futures)
    assert engine(model).batches == [1] * 21, "the network sees them one by one"


def test_groups_are_of_one_model_and_one_question(make: Callable[..., Pool], seen: Seen) -> None:
    model, other, pool = served(), served("other"), make()
    held(model, pool)
    waiting = [
        *pool.submit(model, [picture("red")] * 3, Asked(top=1)),
        *pool.submit(model, [picture("blue")] * 2, Asked(top=2)),
        *pool.submit(other, [picture("green")] * 10, Asked(top=2)),
    ]
    engine(model).gate.set()
    assert names(waiting) == ["red"] * 3 + ["blue"] * 2 + ["green"] * 10
    assert [len(future.result().top) for future in waiting] == [1] * 3 + [2] * 12
    assert seen.groups == [1, 3, 2, 8, 2]


def test_two_threads_share_what_waits(make: Callable[..., Pool], seen: Seen) -> None:
    model, pool = served(threads=2, seconds=0.01), make(2)
    names(pool.submit(model, [picture()] * 8, Asked()))
    assert max(seen.groups) <= 4


def test_slow_pictures_are_no_group(make: Callable[..., Pool], seen: Seen) -> None:
    model, pool = served(seconds=0.04), make(seconds=10)
    held(model, pool)
    waiting = pool.submit(model, [picture()] * 6, Asked())
    engine(model).gate.set()
    names(waiting)
    assert max(seen.groups) <= 2


def test_the_queue_is_bounded_by_time(make: Callable[..., Pool], seen: Seen) -> None:
    model, pool = served(seconds=0.1), make(seconds=0.35)
    first = held(model, pool)
    # Four wait 0.0, 0.1, 0.2 and 0.3 s; a fifth would wait 0.4.
    waiting = [future for _ in range(4) for future in pool.submit(model, [picture()], Asked())]
    assert pool.wait() == pytest.approx(0.4)
    with pytest.raises(BusyError) as refused:
        pool.submit(model, [picture()], Asked())
    assert refused.value.seconds == pytest.approx(0.4)
    assert seen.shed_count == 1
    assert seen.queue == 4
    for future in waiting:
        future.cancel()
    engine(model).gate.set()
    first.result(10)


def test_many_pictures_are_taken_where_nothing_waits(make: Callable[..., Pool]) -> None:
    model, pool = served(seconds=0.01), make(seconds=0.02)
    futures = pool.submit(model, [picture()] * 30, Asked())
    assert names(futures) == ["green"] * 30


def test_what_waited_too_long_is_refused_when_its_turn_comes(make: Callable[..., Pool], seen: Seen) -> None:
    model, pool = served(), make(seconds=0.1)
    first = held(model, pool)
    (late,) = pool.submit(model, [picture()], Asked())
    time.sleep(0.2)
    (soon,) = pool.submit(model, [picture("blue")], Asked())
    engine(model).gate.set()
    first.result(10)
    with pytest.raises(BusyError):
        late.result(10)
    assert names([soon]) == ["blue"]
    assert seen.shed_count == 1


def test_who_left_is_not_answered(make: Callable[..., Pool], seen: Seen) -> None:
    model, pool = served(), make()
    held(model, pool)
    waiting = [future for k in range(10) for future in pool.submit(model, [picture(name=str(k))], Asked())]
    for future in waiting[::2]:
        assert future.cancel()
    engine(model).gate.set()
    assert names(waiting[1::2]) == ["green"] * 5
    assert seen.dropped_count == 5
    assert sum(engine(model).batches) == 6
    with pytest.raises(CancelledError):
        waiting[0].result()


def test_a_picture_on_which_the_engine_breaks_off_takes_no_other_along(make: Callable[..., Pool]) -> None:
    model, pool = served(), make()
    broken = engine(model)
    first = held(model, pool)
    colors = ["red", "black", "blue"]
    futures = pool.submit(model, [picture(color) for color in colors], Asked())
    broken.gate.set()
    first.result(10)
    assert futures[0].result(10).top[0].name == "red"
    assert futures[2].result(10).top[0].name == "blue"
    with pytest.raises(RuntimeError, match="black"):
        futures[1].result(10)
    assert engine(model) is not broken, "an engine that broke off is opened again"
    assert names(pool.submit(model, [picture("red")], Asked())) == ["red"]


def test_a_picture_that_cannot_be_read_is_an_answer(make: Callable[..., Pool]) -> None:
    model, pool = served(max_pixels=1000), make()
    given = [Picture("a", lambda: b"no picture"), picture("red")]
    broken, well = pool.submit(model, given, Asked())
    assert broken.result(10).error is not None
    assert well.result(10).top[0].name == "red"


def test_closing_answers_what_waits(make: Callable[..., Pool]) -> None:
    model, pool = served(seconds=0.01), make()
    futures = pool.submit(model, [picture()] * 10, Asked())
    pool.close()
    assert all(future.done() for future in futures)
    assert names(futures) == ["green"] * 10
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(model, [picture()], Asked())
    assert not [thread for thread in threading.enumerate() if thread in pool._running]


def test_the_estimate_learns(make: Callable[..., Pool]) -> None:
    model, pool = served(seconds=0.02), make()
    model.seconds = 1.0
    for _ in range(100):
        names(pool.submit(model, [picture()], Asked()))
    assert 0.015 < model.seconds < 0.2


def test_being_behind_counts_as_waiting(make: Callable[..., Pool], seen: Seen) -> None:
    model, pool = served(seconds=0.1), make(seconds=1.0)
    first = held(model, pool)
    pool.behind = 0.2
    waiting = [future for _ in range(7) for future in pool.submit(model, [picture()], Asked())]
    assert pool.wait() == pytest.approx(1.1)
    with pytest.raises(BusyError):
        pool.submit(model, [picture()], Asked())
    # However far behind, some are taken.
    pool.behind = 100.0
    assert pool.wait() == pytest.approx(0.7 + 0.75)
    for future in waiting:
        future.cancel()
    engine(model).gate.set()
    first.result(10)
    assert names(pool.submit(model, [picture("red")], Asked())) == ["red"]


def test_what_passes_between_two_pictures_counts(make: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    model, pool = served(), make()

    def answered(*_: Any) -> None:
        time.sleep(0.05)  # as where the processor is others'

    monkeypatch.setattr(pool._observer, "answered", answered)
    names(pool.submit(model, [picture()] * 100, Asked()))
    assert model.seconds > 0.004, "0.05 s for up to 8"


def test_the_mailbox_says_how_far_the_loop_is_behind(make: Callable[..., Pool]) -> None:
    pool = make()
    mailbox = _Mailbox(pool)
    future: Future[Prediction] = Future()
    connection: Any = SimpleNamespace(left=set(), gone=False)

    async def ask() -> list[Prediction]:
        answers = asyncio.ensure_future(mailbox.collect([future], connection))
        await asyncio.sleep(0)
        future.set_result(Prediction("a", error="unreadable"))
        time.sleep(0.1)  # the loop is at something else
        return await answers

    assert [answer.path for answer in asyncio.run(ask())] == ["a"]
    assert 0.1 <= pool.behind < 0.5
    assert connection.left == set()


def test_memory_is_given_back_once_after_a_rush(make: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr("fusiform.serving.pool.give_back_memory", lambda: given.append(time.monotonic()))
    model, pool = served(threads=2), make(2)
    names(pool.submit(model, [picture()] * RUSH, Asked()))
    time.sleep(3 * REST_SECONDS)
    assert given == []
    names(pool.submit(model, [picture()] * (RUSH + 1), Asked()))
    for _ in range(100):
        if given:
            break
        time.sleep(0.05)
    time.sleep(3 * REST_SECONDS)
    assert len(given) == 1
    assert names(pool.submit(model, [picture("red")], Asked())) == ["red"]


def test_giving_back_memory_does_no_harm() -> None:
    held = [bytes(100_000) for _ in range(100)]
    give_back_memory()
    assert sum(map(len, held)) == 10_000_000


def test_the_mailbox_waits_for_nobody_who_has_left(make: Callable[..., Pool], seen: Seen) -> None:
    model, pool = served(), make()
    mailbox = _Mailbox(pool)
    first = held(model, pool)
    connection: Any = SimpleNamespace(left=set(), gone=False)

    async def ask() -> None:
        answers = asyncio.ensure_future(mailbox.collect(pool.submit(model, [picture()] * 2, Asked()), connection))
        await asyncio.sleep(0.01)
        connection.gone = True
        for tell in tuple(connection.left):
            tell()
        with pytest.raises(Refusal, match="the client left"):
            await answers
        with pytest.raises(Refusal, match="the client left"):
            await mailbox.collect(pool.submit(model, [picture()], Asked()), connection)

    asyncio.run(ask())
    engine(model).gate.set()
    first.result(10)
    pool.close()
    assert seen.dropped_count == 3
    assert sum(engine(model).batches) == 1
