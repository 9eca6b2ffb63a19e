"""Pictures on other machines, asked for before their turn comes, so that nobody waits for each answer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator
from functools import partial
from queue import SimpleQueue

from fusiform.errors import ImageError
from fusiform.prediction.sources import Content, Picture

READS = 64
"""Pictures that are asked for at the same time; ``READS_A_CORE`` for each core where that is more."""
READS_A_CORE = 16
BYTES = 256 * 2**20
"""Bytes of pictures that may lie there before their turn; one picture is always read."""


def read_ahead(
    pictures: Iterator[Picture], *, reads: int = READS, limit: int = BYTES
) -> Generator[Picture, None, None]:
    """The pictures in their order, those that are ``far`` being fetched by ``reads`` threads meanwhile.

    No more is asked for while ``limit`` bytes lie there, counting for a picture that is on its way the mean of those
    that came.
    """
    store = _Store(limit)
    todo: SimpleQueue[_Read | None] = SimpleQueue()

    def work() -> None:
        while (read := todo.get()) is not None:
            read.run()

    threads = 0
    waiting: deque[Picture] = deque()
    try:
        while True:
            while len(waiting) < reads and (store.has_room() or not waiting):
                picture = next(pictures, None)
                if picture is None:
                    break
                if picture.far:
                    read = _Read(picture, store)
                    store.ask()
                    todo.put(read)
                    if threads < reads:
                        # Daemons: a thread that hangs in a download must not keep an interrupted program alive.
                        threading.Thread(target=work, daemon=True).start()
                        threads += 1
                    picture = picture._replace(fetch=partial(_taken, read))
                waiting.append(picture)
            if not waiting:
                return
            yield waiting.popleft()
    finally:
        for _ in range(threads):
            todo.put(None)


class _Store:
    """The bytes that lie there and those that are expected."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.lock = threading.Lock()
        self.there = self.asked = self.came = self.total = 0

    def has_room(self) -> bool:
        with self.lock:
            mean = self.total / self.came if self.came else 0
            return self.there + self.asked * mean < self.limit

    def ask(self) -> None:
        with self.lock:
            self.asked += 1

    def receive(self, size: int) -> None:
        with self.lock:
            self.asked -= 1
            self.came += 1
            self.total += size
            self.there += size

    def give(self, size: int) -> None:
        with self.lock:
            self.there -= size


class _Read:
    """A picture on its way."""

    def __init__(self, picture: Picture, store: _Store) -> None:
        self.fetch, self.store = picture.fetch, store
        self.done = threading.Event()
        self.content: Content | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        size = 0
        try:
            self.content = self.fetch()
            size = len(self.content) if isinstance(self.content, bytes) else 0
        except BaseException as error:  # whatever it is, it belongs to who waits
            self.error = error
        self.store.receive(size)
        self.done.set()

    def take(self) -> Content:
        self.done.wait()
        if self.error is not None:
            raise self.error
        if self.content is None:
            raise ImageError("the picture was taken already")
        content, self.content = self.content, None
        if isinstance(content, bytes):
            self.store.give(len(content))
        return content


def _taken(read: _Read) -> Content:
    return read.take()
