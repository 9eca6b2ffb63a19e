"""How far a long job has come, told on standard error."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol, TextIO

Unit = Literal["B", "pictures"]

REDRAW_SECONDS = 0.1
BAR_WIDTH = 24


class Progress(Protocol):
    """What a long job tells as it goes on; safe to call from several threads."""

    def advance(self, amount: int = 1) -> None:
        """Say that ``amount`` more bytes or pictures are done."""
        ...


class Tracker(Protocol):
    """The shape of ``track`` and ``silent``: what a function takes to report its progress."""

    def __call__(
        self, *, total: int | None, label: str, unit: Unit = "pictures"
    ) -> AbstractContextManager[Progress]: ...


@contextmanager
def track(
    *, total: int | None, label: str, unit: Unit = "pictures", stream: TextIO | None = None
) -> Iterator[Progress]:
    """Show progress on ``stream`` (standard error): a bar on a terminal, elsewhere a line for every tenth.

    ``total`` is in bytes or pictures, None where it is not known; then only a terminal sees the job under way.
    """
    bar = _Bar(total, label, unit, sys.stderr if stream is None else stream)
    try:
        yield bar
    finally:
        bar.close()


@contextmanager
def silent(*, total: int | None, label: str, unit: Unit = "pictures") -> Iterator[Progress]:  # noqa: ARG001
    """Take the same arguments as ``track`` and show nothing."""
    yield _Silent()


def tracker(progress: bool | Tracker | None) -> Tracker:
    """What shows the progress that a caller asks for: ``track`` for True, ``silent`` for False, a tracker as it is.

    None is True where someone watches: on a terminal and in a notebook.
    """
    if progress is None:
        progress = (sys.stderr is not None and sys.stderr.isatty()) or "ipykernel.zmqshell" in sys.modules
    if isinstance(progress, bool):
        return track if progress else silent
    return progress


class _Silent:
    def advance(self, amount: int = 1) -> None:
        """Show nothing."""


class _Bar:
    def __init__(self, total: int | None, label: str, unit: Unit, stream: TextIO) -> None:
        self.total, self.label, self.unit, self.stream = total, label, unit, stream
        self.terminal = stream.isatty()
        self.done = 0
        self.shown = -1  # ``done`` when it was last shown
        self.started = self.redrawn = time.monotonic()
        self.lock = threading.Lock()
        if self.terminal:
            self._show()

    def advance(self, amount: int = 1) -> None:
        with self.lock:
            before, self.done = self.done, self.done + amount
            if self.terminal:
                now = time.monotonic()
                if now - self.redrawn >= REDRAW_SECONDS:
                    self.redrawn = now
                    self._show()
            elif self.total and 10 * before // self.total < 10 * self.done // self.total:
                self._show()

    def close(self) -> None:
        with self.lock:
            if self.done != self.shown:
                self._show()
            if self.terminal:
                print(file=self.stream)

    def _show(self) -> None:
        self.shown = self.done
        if not self.terminal:
            print(self._figures(), file=self.stream, flush=True)
            return
        columns = shutil.get_terminal_size().columns - 1
        text = self._figures()
        if self.total and len(text) + BAR_WIDTH + 3 <= columns:
            filled = min(BAR_WIDTH, BAR_WIDTH * self.done // self.total)
            text += f" [{'#' * filled:{BAR_WIDTH}}]"
        print(f"\r{text[:columns]:{columns}}", end="", file=self.stream, flush=True)

    def _figures(self) -> str:
        rate = self.done / max(time.monotonic() - self.started, 1e-3)
        counted = self._count(self.done) + (f"/{self._count(self.total)}" if self.total else "")
        percent = f"{min(100, 100 * self.done // self.total):3d} % " if self.total else ""
        unit = "MB" if self.unit == "B" else self.unit
        return f"{self.label}: {percent}{counted} {unit}, {self._count(rate)} {unit}/s"

    def _count(self, amount: float) -> str:
        return f"{amount / 1e6:.1f}" if self.unit == "B" else f"{amount:.0f}"
