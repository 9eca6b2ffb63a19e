"""Images on other machines are asked for before their turn, in bounded memory, and come in their order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from fusiform.errors import ImageError
from fusiform.prediction.ahead import read_ahead
from fusiform.prediction.sources import Picture


class Far:
    """Pictures that take a while; counts how many are on their way and how many bytes lie there."""

    def __init__(self, size: int, pause: float) -> None:
        self.size, self.pause = size, pause
        self.lock = threading.Lock()
        self.now = self.most = self.asked = self.taken = self.held = 0

    def fetch(self, number: int) -> bytes:
        with self.lock:
            self.now += 1
            self.asked += 1
            self.most = max(self.most, self.now)
        time.sleep(self.pause * (1 + number % 3))
        with self.lock:
            self.now -= 1
            self.held = max(self.held, (self.asked - self.taken) * self.size)
        if number % 10 == 7:
            raise ImageError(f"{number}: none")
        return str(number).encode().ljust(self.size)

    def pictures(self, count: int) -> Iterator[Picture]:
        for number in range(count):
            yield Picture(str(number), lambda number=number: self.fetch(number), far=number % 5 != 2)


@pytest.mark.parametrize(("reads", "limit"), [(1, 1000), (8, 1000), (8, 10**9), (3, 0)])
def test_they_come_in_their_order_whatever_the_bounds(reads: int, limit: int) -> None:
    far = Far(300, 0.001)
    names, failed = [], []
    for picture in read_ahead(far.pictures(50), reads=reads, limit=limit):
        names.append(picture.path)
        try:
            data = picture.fetch()
            assert isinstance(data, bytes)
            assert data.strip().decode() == picture.path
        except ImageError as error:
            failed.append(str(error))
        far.taken += 1
    assert names == [str(k) for k in range(50)]
    assert failed == [f"{k}: none" for k in (7, 17, 27, 37, 47)]
    assert far.most <= reads + 1  # those that are near are read where they are asked for


def test_many_are_on_their_way_and_bytes_bound_them() -> None:
    far = Far(1000, 0.01)
    for picture in read_ahead(far.pictures(60), reads=16):
        if not picture.path.endswith("7"):
            picture.fetch()
    assert far.most > 8
    tight = Far(1000, 0.002)
    for picture in read_ahead(tight.pictures(60), reads=16, limit=3000):
        time.sleep(0.004)
        if not picture.path.endswith("7"):
            picture.fetch()
        tight.taken += 1
    # Before the first one came nobody knew how large they are.
    assert tight.held <= 17 * 1000
    late = tight.asked - tight.taken
    assert late <= 0


def test_it_ends_with_who_asks() -> None:
    before = threading.active_count()
    far = Far(10, 0.001)
    stream = read_ahead(far.pictures(1000), reads=4)
    next(stream)
    stream.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
    assert far.asked < 20
