"""How far a long job has come and how long it will take, told on standard error or in a notebook's cell."""

from __future__ import annotations

import math
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Protocol, TextIO

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

    In a notebook, and without a ``stream``, the cell gets a line that changes. ``total`` is in bytes or pictures, None
    where it is not known; then only a terminal and a notebook see the job under way.
    """
    cell = _notebook_cell() if stream is None else None
    bar = _Bar(total, label, unit, sys.stderr if stream is None else stream, cell)
    try:
        yield bar
    finally:
        bar.close()


def tracker(progress: bool | Tracker | None) -> Tracker:
    """What shows a public function's progress: ``track`` for True, ``silent`` for False, and another as it is.

    None is True where somebody looks on: standard error is a terminal, or the code runs in a notebook.
    """
    if progress is None:
        # Of a program without a console, standard error is None.
        progress = in_notebook() or (sys.stderr is not None and sys.stderr.isatty())
    if isinstance(progress, bool):
        return track if progress else silent
    return progress


def tell(text: str) -> None:
    """Print a line for people on standard error; in a notebook, which shows that in red, on standard output."""
    print(text, file=sys.stdout if in_notebook() else sys.stderr, flush=True)


def in_notebook() -> bool:
    """Whether the code runs in a notebook's cell, where HTML can be shown."""
    # Never imported for the question: where nobody did, there is no notebook.
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


@contextmanager
def silent(*, total: int | None, label: str, unit: Unit = "pictures") -> Iterator[Progress]:  # noqa: ARG001
    """Take the same arguments as ``track`` and show nothing."""
    yield _Silent()


class _Silent:
    def advance(self, amount: int = 1) -> None:
        """Show nothing."""


def _notebook_cell() -> Callable[[str], None] | None:
    """What shows a line in the running cell, in place of the one before; None where there is no notebook."""
    if not in_notebook():
        return None
    import IPython.display

    display: Any = IPython.display.display  # some of its versions have types, others none
    handle = display({"text/plain": ""}, raw=True, display_id=True)
    if handle is None:
        return None
    return lambda line: handle.update({"text/plain": line}, raw=True)


class _Bar:
    def __init__(
        self, total: int | None, label: str, unit: Unit, stream: TextIO, cell: Callable[[str], None] | None = None
    ) -> None:
        self.total, self.label, self.unit, self.stream, self.cell = total, label, unit, stream, cell
        self.terminal = cell is not None or stream.isatty()
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
            if self.terminal and self.cell is None:
                print(file=self.stream)

    def _show(self) -> None:
        self.shown = self.done
        if not self.terminal:
            print(self._figures(), file=self.stream, flush=True)
            return
        if self.cell is not None:
            self.cell(self._figures())
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
        left = f", {_clock((self.total - self.done) / rate)} left" if self.total and 0 < self.done < self.total else ""
        return f"{self.label}: {percent}{counted} {unit}, {self._count(rate)} {unit}/s{left}"

    def _count(self, amount: float) -> str:
        return f"{amount / 1e6:.1f}" if self.unit == "B" else f"{amount:.0f}"


def _clock(seconds: float) -> str:
    """A time to wait: 0:07, 12:30, 1:02:03."""
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
