"""Ctrl-C and other requests to end, which wait until a training has saved where it is."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Interruption:
    """Within ``with``, the first Ctrl-C, SIGTERM or SIGHUP that Python would raise an exception for is only noted.

    ``obey`` then does what the signal would have done. The second one does it at once, and so does the first in a
    block of ``at_once``. Where signals cannot be heard, in other threads than the first, nothing is changed. Child
    processes, which get a terminal's Ctrl-C too, leave it to this one.

    ``asked`` says that a signal came, and ``insisted`` that a second one did, which may have broken off anything.
    """

    def __init__(self) -> None:
        self.asked = self.insisted = False
        self._number = 0
        self._waits = True
        self._before: dict[int, Handler] = {}
        self._process = os.getpid()

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for name in SIGNALS:
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                handler = None if number is None else signal.getsignal(number)
                if number is not None and callable(handler):  # not one that is ignored, or ends the process
                    self._before[number] = handler
                    signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._hear:
                signal.signal(number, handler)

    def obey(self) -> None:
        """Do now what a signal asked for, if one came: raise KeyboardInterrupt, most likely."""
        if self.asked:
            self._before[self._number](self._number, None)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within ``with``, obey at once: for work that may be broken off anywhere."""
        self._waits = False
        try:
            self.obey()
            yield
        finally:
            self._waits = True

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            if number != signal.SIGINT:
                self._before[number](number, frame)
            return
        self.insisted = self.asked
        self.asked, self._number = True, number
        if self.insisted or not self._waits:
            self._before[number](number, frame)
