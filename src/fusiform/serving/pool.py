"""A bounded queue, and threads that answer what waits in it, each with an engine of its own.

The queue is bounded by time: what would wait longer than it may is refused at once, and what did wait longer is refused
when its turn comes, so that whoever is answered is answered soon. Nothing waits for others to fill a batch: runtimes on
a CPU answer a batch picture by picture. A thread takes what waits, its share of it, up to ``GROUP`` pictures.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Protocol

from fusiform.engines.crew import GROUP
from fusiform.prediction.results import Prediction
from fusiform.prediction.sources import Picture
from fusiform.prediction.worker import Asked, Worker
from fusiform.serving.models import Served

LEARNING = 0.03
"""The weight of the last picture in a model's mean seconds a picture: some take a hundred times as long as others."""

GROUP_SECONDS = 0.1
"""Pictures that take longer together are no group."""
MOST_BEHIND = 0.75
"""The share of the seconds that a picture may wait that being behind may take: where all is slow, some are answered."""
RUSH = 32
"""Pictures that wait at the same time; their bodies have taken memory that is worth giving back."""
REST_SECONDS = 0.1
"""How long nothing waits before that is done."""


class BusyError(Exception):
    """The queue is as long as it may be; ``seconds`` is how long a picture would wait in it."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the queue is {seconds:.1f} s long")
        self.seconds = seconds


class Observer(Protocol):
    """Who is told what happens to pictures; called from any thread."""

    def waiting(self, change: int) -> None:
        """So many more pictures, or less, wait in the queue."""
        ...

    def answered(self, model: str, waited: Sequence[float], decode: float, network: float) -> None:
        """A group of a model's pictures was answered: the seconds that each waited, and that the group took."""
        ...

    def shed(self, count: int) -> None:
        """So many pictures were refused because the queue was too long."""
        ...

    def dropped(self, count: int) -> None:
        """So many pictures were not answered because nobody waits for them any more."""
        ...


def give_back_memory() -> None:
    """Give back to the system what is free in between what is in use: of glibc; others do it by themselves, or cannot.

    The bodies of a long queue are small enough for the heap, which otherwise stays as large as it was.
    """
    import ctypes

    with suppress(AttributeError, OSError, TypeError):  # no malloc_trim; Windows
        ctypes.CDLL(None).malloc_trim(0)


class _Job:
    """A picture that waits, and who waits for its answer; times by ``time.monotonic``, ``cost`` in seconds of work."""

    __slots__ = ("asked", "came", "cost", "deadline", "future", "model", "picture")

    def __init__(
        self, model: Served, picture: Picture, asked: Asked, came: float, deadline: float, cost: float
    ) -> None:
        self.model, self.picture, self.asked = model, picture, asked
        self.came, self.deadline, self.cost = came, deadline, cost
        self.future: Future[Prediction] = Future()


class Pool:
    """``threads`` threads that answer pictures in the order in which they come.

    ``seconds`` is the longest that a picture may wait. A ``Served`` model has a worker for each thread. ``behind`` is
    set by whoever asks: the seconds that it comes late to asking, and to hearing the answer.
    """

    def __init__(self, threads: int, *, seconds: float, observer: Observer) -> None:
        self.threads, self.seconds = threads, seconds
        self.behind = 0.0
        self._observer = observer
        self._jobs: deque[_Job] = deque()
        self._queued = 0.0
        """The seconds of work that wait in the queue."""
        self._turn = threading.Condition()
        self._closed = self._rush = False
        self._running = [
            threading.Thread(target=self._work, args=(k,), name=f"fusiform-{k}", daemon=True) for k in range(threads)
        ]
        for thread in self._running:
            thread.start()

    def wait(self) -> float:
        """The seconds that a picture would wait if it came now."""
        return self._queued / self.threads + self._lost

    @property
    def _lost(self) -> float:
        """Of the seconds that a picture may wait, those that are lost before and after the queue."""
        return min(2 * self.behind, MOST_BEHIND * self.seconds)

    def refuse(self) -> None:
        """Count a picture that was refused before it was read."""
        self._observer.shed(1)

    def submit(self, model: Served, pictures: Sequence[Picture], asked: Asked) -> list[Future[Prediction]]:
        """A future answer for each picture; one that is cancelled before its turn is dropped.

        Raises BusyError where the last of them would wait too long, unless nothing waits. A future raises it too where
        its turn came too late, and else what ``Worker.answer`` does.
        """
        now = time.monotonic()
        with self._turn:
            if self._closed:
                raise RuntimeError("the pool is closed")
            cost = model.seconds
            work = cost * len(pictures)
            wait = (self._queued + work - cost) / self.threads + self._lost
            if self._jobs and wait > self.seconds:
                self._observer.shed(len(pictures))
                raise BusyError(wait)
            # Pictures of one request wait for each other, too: of many, the last one may.
            deadline = now + self.seconds - self._lost + 2 * (work - cost) / self.threads
            jobs = [_Job(model, picture, asked, now, deadline, cost) for picture in pictures]
            self._jobs += jobs
            self._queued += work
            self._rush = self._rush or len(self._jobs) > RUSH
            self._turn.notify(len(jobs))
        self._observer.waiting(len(jobs))
        return [job.future for job in jobs]

    def close(self, seconds: float | None = None) -> None:
        """Answer what waits, then end the threads; wait so long for each, at most."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()
        for thread in self._running:
            thread.join(seconds)

    def _work(self, number: int) -> None:
        since = 0.0
        while taken := self._take(since):
            since = self._answer(number, *taken)

    def _take(self, since: float) -> tuple[list[_Job], float] | None:
        """The next pictures of one model with the same options; None once the pool is closed and the queue empty.

        With them comes the time from which on they cost this thread: ``since``, at which it was done with those before,
        where it did not have to wait for these.
        """
        with self._turn:
            while not self._jobs and not self._closed:
                if not self._turn.wait(REST_SECONDS if self._rush else None) and self._rush:
                    self._rush = False
                    self._turn.release()  # it takes some milliseconds
                    try:
                        give_back_memory()
                    finally:
                        self._turn.acquire()
                since = 0.0
            since = since or time.monotonic()
            most = min(GROUP, -(-len(self._jobs) // self.threads))
            if self._jobs:  # the first of a group waits for the last
                most = min(most, max(1, int(GROUP_SECONDS / self._jobs[0].cost)))
            jobs: list[_Job] = []
            while self._jobs and len(jobs) < most:
                job = self._jobs[0]
                if jobs and (job.model is not jobs[0].model or job.asked != jobs[0].asked):
                    break
                jobs.append(self._jobs.popleft())
                self._queued -= jobs[-1].cost
            if not self._jobs:
                self._queued = 0.0  # and nothing of rounding
        if not jobs:
            return None
        self._observer.waiting(-len(jobs))
        return jobs, since

    def _answer(self, number: int, taken: list[_Job], since: float) -> float:
        """Answer pictures that have cost this thread time ``since`` then; returns when it was done."""
        now = time.monotonic()
        jobs, late, left = [], 0, 0
        for job in taken:
            if not job.future.set_running_or_notify_cancel():
                left += 1
            elif now > job.deadline:
                late += 1
                job.future.set_exception(BusyError(now - job.came))
            else:
                jobs.append(job)
        if left:
            self._observer.dropped(left)
        if late:
            self._observer.shed(late)
        if not jobs:
            return since
        model = jobs[0].model
        worker = model.workers[number]
        try:
            read = [worker.read(job.picture) for job in jobs]
            between = time.monotonic()
            answers = worker.infer(read, jobs[0].asked)
        except Exception as error:  # whatever it is, it belongs to those who wait, and the thread goes on
            model.mend(number)
            self._one_by_one(model.workers[number], jobs, error)
            return time.monotonic()
        end = time.monotonic()
        model.seconds += (1 - (1 - LEARNING) ** len(jobs)) * ((end - since) / len(jobs) - model.seconds)
        self._observer.answered(model.name, [now - job.came for job in jobs], between - now, end - between)
        for job, answer in zip(jobs, answers, strict=True):
            job.future.set_result(answer)
        if model.keeper is not None:
            model.keeper.add(answers)
        return end

    def _one_by_one(self, worker: Worker, jobs: list[_Job], error: Exception) -> None:
        """Answer those of a group that failed that can be answered alone; one alone gets the error."""
        if len(jobs) == 1:
            jobs[0].future.set_exception(error)
            return
        for job in jobs:
            self._alone(worker, job)

    def _alone(self, worker: Worker, job: _Job) -> None:
        try:
            (answer,) = worker.answer([job.picture], job.asked)
        except Exception as error:
            job.future.set_exception(error)
        else:
            job.future.set_result(answer)
