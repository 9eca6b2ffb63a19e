"""How far a long job has come and how long it will take, told on standard error or in a notebook's cell."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any, Literal, Protocol, TextIO

from fusiform.errors import FusiformError

Unit = Literal["B", "images", "files", "models", "rounds", "steps", "epochs", "layers"]
"""What is counted; B are bytes, which are shown as MB."""

REDRAW_SECONDS = 0.1
"""A terminal's line is drawn again no sooner than this after the last time, where something was done meanwhile."""
TICK_SECONDS = 1.0
"""It is drawn again after this where nothing was done."""
LINE_SECONDS = 30.0
"""In a log nobody waits longer than this for a line."""
GAP_SECONDS = 2.0
"""A line for a tenth comes no sooner than this after the one before it, so that short jobs say little."""
BAR_WIDTH = 24


class Progress(Protocol):
    """What a long job tells as it goes on; safe to call from several threads."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Say that ``amount`` more of what is counted is done; ``note`` is shown beside it, such as the loss."""
        ...


class Tracker(Protocol):
    """The shape of ``track`` and ``silent``: what a function takes to report its progress."""

    def __call__(self, *, total: int | None, label: str, unit: Unit = "images") -> AbstractContextManager[Progress]: ...


@contextmanager
def track(*, total: int | None, label: str, unit: Unit = "images", stream: TextIO | None = None) -> Iterator[Progress]:
    """Show progress on ``stream`` (standard error): a bar on a terminal, elsewhere a line for every tenth.

    Elsewhere a line comes at least every 30 seconds, also while nothing is done, and a job of less than 2 seconds has
    none. In a notebook, and without a ``stream``, the cell gets a line that changes. ``total`` is None where it
    is not known, or where nothing is counted and only the time is told.
    """
    cell = _notebook_cell() if stream is None else None
    place = sys.stderr if stream is None else stream
    face: _Face
    if cell is not None:
        face = _Cell(cell)
    elif place.isatty():
        face = _Terminal(place)
    else:
        face = _Log(lambda line: print(line, file=place, flush=True))
    with _Bar(total, label, unit, face).shown() as bar:
        yield bar


def lines_to(say: Callable[[str], None]) -> Tracker:
    """A tracker that hands the lines of a log, see ``track``, to ``say``."""

    @contextmanager
    def tracker(*, total: int | None, label: str, unit: Unit = "images") -> Iterator[Progress]:
        with _Bar(total, label, unit, _Log(say)).shown() as bar:
            yield bar

    return tracker


def named(progress: Tracker, label: str) -> Tracker:
    """A tracker with a label of its own, for work that goes by another name where it is a part of more."""
    given = label

    @contextmanager
    def tracker(*, total: int | None, label: str, unit: Unit = "images") -> Iterator[Progress]:  # noqa: ARG001
        with progress(total=total, label=given, unit=unit) as bar:
            yield bar

    return tracker


def both(first: Tracker, second: Tracker) -> Tracker:
    """A tracker that tells two others."""

    @contextmanager
    def tracker(*, total: int | None, label: str, unit: Unit = "images") -> Iterator[Progress]:
        with ExitStack() as stack:
            yield _Several([stack.enter_context(each(total=total, label=label, unit=unit)) for each in (first, second)])

    return tracker


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
def silent(*, total: int | None, label: str, unit: Unit = "images") -> Iterator[Progress]:  # noqa: ARG001
    """Take the same arguments as ``track`` and show nothing."""
    yield _Several([])


def clock(seconds: float) -> str:
    """A time to wait: 0:07, 12:30, 1:02:03."""
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class _Several:
    """Progress that is told in several places, or in none."""

    def __init__(self, places: list[Progress]) -> None:
        self.places = places

    def advance(self, amount: int = 1, note: str = "") -> None:
        """See ``Progress``."""
        for place in self.places:
            place.advance(amount, note)


class _Face(Protocol):
    """Where a bar is shown; ``live`` where the next line takes the place of the one before."""

    live: bool

    def show(self, text: str, share: float | None) -> None:
        """Show a line, of a job of which this share is done; None where that is not known."""
        ...

    def close(self, *, empty: bool) -> None:
        """Nothing more comes; ``empty`` where nothing was counted, so that the line says nothing that is worth it."""
        ...


class _Log:
    """Lines, one below the other."""

    live = False

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say

    def show(self, text: str, share: float | None) -> None:  # noqa: ARG002  # a log draws no bar
        self.say(text)

    def close(self, *, empty: bool) -> None:
        """See ``_Face``: there is nothing to do."""


class _Cell:
    """A notebook's cell."""

    live = True

    def __init__(self, update: Callable[[str], None]) -> None:
        self.update = update

    def show(self, text: str, share: float | None) -> None:  # noqa: ARG002  # the text says it
        self.update(text)

    def close(self, *, empty: bool) -> None:
        """See ``_Face``: an empty line goes."""
        if empty:
            self.update("")


class _Terminal:
    """The last line of a terminal, as wide as that is."""

    live = True

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def show(self, text: str, share: float | None) -> None:
        import shutil  # here, because nothing else is to wait for it

        columns = shutil.get_terminal_size().columns - 1
        if share is not None and len(text) + BAR_WIDTH + 3 <= columns:
            text += f" [{'#' * min(BAR_WIDTH, int(BAR_WIDTH * share)):{BAR_WIDTH}}]"
        print(f"\r{text[:columns]:{columns}}", end="", file=self.stream, flush=True)

    def close(self, *, empty: bool) -> None:
        """See ``_Face``: an empty line is wiped out for what is printed next."""
        if empty:
            self.show("", None)
            print("\r", end="", file=self.stream, flush=True)
        else:
            print(file=self.stream)


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
    """What is done of a job, and when to say so; a thread says that the job lives while nothing is done."""

    def __init__(self, total: int | None, label: str, unit: Unit, face: _Face) -> None:
        self.total, self.label, self.unit, self.face = total, label, unit, face
        self.done, self.note = 0, ""
        self.told = -1  # ``done`` when it was last shown
        self.started = self.redrawn = time.monotonic()
        self.lock = threading.Lock()
        self.ended = threading.Event()

    @contextmanager
    def shown(self) -> Iterator[_Bar]:
        """Show it, as it changes, for as long as the block lasts."""
        if self.face.live:
            self._show(self.started)
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            yield self
        finally:
            self.ended.set()
            with self.lock:
                now = time.monotonic()
                if self.done != self.told and (self.face.live or self.told >= 0 or now - self.started >= GAP_SECONDS):
                    self._show(now)
                self.face.close(empty=not self.total and not self.done)

    def advance(self, amount: int = 1, note: str = "") -> None:
        """See ``Progress``."""
        with self.lock:
            before, self.done, self.note = self.done, self.done + amount, note
            now = time.monotonic()
            since = now - self.redrawn
            if self.face.live:
                due = since >= REDRAW_SECONDS
            else:
                tenth = self.total and 10 * before // self.total < 10 * self.done // self.total
                due = since >= LINE_SECONDS or bool(tenth and since >= GAP_SECONDS)
            if due:
                self._show(now)

    def _watch(self) -> None:
        pause = TICK_SECONDS if self.face.live else LINE_SECONDS
        wait = pause
        # What cannot be written is the business of the job, which writes to the same place.
        with suppress(OSError, ValueError, FusiformError):
            while not self.ended.wait(wait):
                with self.lock:
                    now = time.monotonic()
                    if now - self.redrawn >= pause and not self.ended.is_set():
                        self._show(now)
                    wait = max(pause - (now - self.redrawn), 0.01)

    def _show(self, now: float) -> None:
        self.redrawn, self.told = now, self.done
        self.face.show(self._figures(now - self.started), self.done / self.total if self.total else None)

    def _figures(self, taken: float) -> str:
        """The line: how much is done, how fast, and how long the rest will take."""
        unit = "MB" if self.unit == "B" else self.unit
        counted = self._count(self.done)
        if self.total:
            counted = f"{min(100, 100 * self.done // self.total):3d} % {counted}/{self._count(self.total)}"
        parts = [f"{counted} {unit}"] if self.total or self.done else []
        if self.done:
            rate = self.done / max(taken, 1e-3)
            parts.append(f"{self._pace(rate)} {unit}/s")
            if self.total and self.done < self.total:
                parts.append(f"{clock((self.total - self.done) / rate)} left")
        if not self.done or not self.total:
            parts.append(f"{clock(taken)} so far")
        elif self.done >= self.total and taken >= GAP_SECONDS:
            parts.append(f"{clock(taken)} in all")
        return f"{self.label}: " + ", ".join([*parts, *([self.note] if self.note else [])])

    def _count(self, amount: float) -> str:
        return f"{amount / 1e6:.1f}" if self.unit == "B" else f"{amount:.0f}"

    def _pace(self, rate: float) -> str:
        # Three images a minute are 0.05 a second, and not 0.
        return self._count(rate) if self.unit == "B" or rate >= 10 else f"{rate:.2g}"
