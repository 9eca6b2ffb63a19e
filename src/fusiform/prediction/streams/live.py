"""Sources that do not wait: of their frames the newest is answered, and they are connected again when they are lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

from PIL import Image

from fusiform.errors import FusiformError, InputError
from fusiform.prediction.streams.frames import Frame, Pick

STALL_SECONDS = 10.0
"""A source without a frame for so long counts as lost."""
FIRST_DELAY, LONGEST_DELAY = 1.0, 16.0
"""Seconds before the first attempt to connect again, and before each at most; it doubles every time."""

Read = Callable[[], Image.Image]


class Newest:
    """The frames of a live source, each the newest at the time that it is asked for.

    ``connect`` gives, in a thread of its own, what reads each frame as it comes, and ends or raises where the source
    does. A frame that is waiting when the next one comes is dropped; ``dropped`` counts them, ``lost`` the connections
    that broke off. A source that is lost is connected again (``again``) for up to ``reconnect`` seconds; the first
    connection has to succeed, or InputError is raised.
    """

    def __init__(
        self,
        connect: Callable[[], Generator[Read, None, None]],
        shown: str,
        pick: Pick,
        *,
        reconnect: float,
        again: bool = True,
        stall: float = STALL_SECONDS,
        first_delay: float = FIRST_DELAY,
    ) -> None:
        self.dropped = self.lost = 0
        self._connect, self._shown, self._pick = connect, shown, pick
        self._reconnect, self._again, self._stall, self._delay = reconnect, again, stall, first_delay
        self._changed = threading.Condition()
        self._generation = 0
        self._count = 0
        self._begun: float | None = None
        self._waiting: Frame | None = None
        self._since = 0
        """Frames dropped since the last one that was taken."""
        self._end: str | None = None
        """Why this connection is over."""

    def __iter__(self) -> Iterator[Frame]:
        self._start()
        try:
            while True:
                frame = self._take(self._stall)
                if frame is not None:
                    yield frame
                    continue
                why = self._end or f"no frame for {self._stall:g} seconds"
                if not self._count:
                    check = "check the address, and that it sends pictures"
                    if self._shown == "-":
                        check = "send whole JPEG pictures, one after the other"
                    raise InputError(f"{self._shown}: {why}: {check}")
                if not self._again:
                    if self._end != _ENDED:
                        yield Frame(None, self._now(), None, f"{self._shown}: {why}")
                    return
                self.lost += 1
                trying = f": connecting again, for up to {self._reconnect:g} seconds" if self._reconnect else ""
                yield Frame(None, self._now(), None, f"{self._shown}: {why}{trying}")
                back = self._come_back()
                if back is None:
                    if self._reconnect:
                        yield Frame(None, self._now(), None, f"{self._shown}: did not come back")
                    return
                yield back
        finally:
            with self._changed:
                self._generation += 1  # the thread ends with the next frame that it reads

    def _start(self) -> None:
        with self._changed:
            self._generation += 1
            self._waiting, self._end = None, None
            generation = self._generation
        # A daemon: a library that waits for a camera must not keep the program alive.
        threading.Thread(target=self._read, args=(generation,), daemon=True).start()

    def _read(self, generation: int) -> None:
        try:
            with closing(self._connect()) as frames:
                for read in frames:
                    if not self._put(generation, read):
                        return
            end = _ENDED
        except FusiformError as error:
            end = str(error).removeprefix(f"{self._shown}: ")
        except OSError as error:
            end = error.strerror or type(error).__name__
        except Exception as error:  # of a library: its thread is not to end unnoticed, its words may have the address
            end = type(error).__name__
        with self._changed:
            if generation == self._generation:
                self._end = end
                self._changed.notify()

    def _put(self, generation: int, read: Read) -> bool:
        """Let this frame wait in the place of the last; False where nobody asks for this connection any more."""
        arrived = time.monotonic()
        with self._changed:
            if generation != self._generation:
                return False
            self._begun = arrived if self._begun is None else self._begun
            number, seconds = self._count, arrived - self._begun
            self._count += 1
            if self._pick(number, seconds):
                if self._waiting is not None:
                    self._since += 1
                    self.dropped += 1
                self._waiting = Frame(number, seconds, read, arrived=arrived)
            self._seen = arrived
            self._changed.notify()
        return True

    def _take(self, seconds: float) -> Frame | None:
        """The newest frame, as soon as there is one; None where the source ended, or sent none in so many seconds."""
        with self._changed:
            began = self._seen = time.monotonic()
            while self._waiting is None and self._end is None:
                # Frames that are not picked show that it is alive, too.
                left = max(began, self._seen) + seconds - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)
            frame, self._waiting = self._waiting, None
            if frame is not None:
                frame, self._since = frame._replace(dropped=self._since), 0
            return frame

    def _come_back(self) -> Frame | None:
        """Connect again, less and less often; the first frame, or None where there was none in time."""
        delay, until = self._delay, time.monotonic() + self._reconnect
        while time.monotonic() < until:
            with self._changed:
                self._generation += 1  # what the lost one still sends is not wanted
                self._changed.wait(min(delay, max(0.0, until - time.monotonic())))
            self._start()
            if (frame := self._take(self._stall)) is not None:
                return frame
            delay = min(2 * delay, LONGEST_DELAY)
        return None

    def _now(self) -> float | None:
        return None if self._begun is None else time.monotonic() - self._begun


_ENDED = "the source ended"
