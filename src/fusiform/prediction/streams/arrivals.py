"""Files that appear in a folder: found when they are complete, by the system's word or by looking again and again."""

from __future__ import annotations

import os
import queue
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from fusiform.data.image import EXTENSIONS, is_of_system, natural_key
from fusiform.errors import InputError
from fusiform.prediction.streams.answers_file import State

REST_SECONDS = 0.5
"""A file that was not changed for so long, and that nobody has open to write, is complete."""
LONGEST_WRITE = 60.0
"""Seconds; a file that rests for so long is taken though somebody has it open to write."""
POLL_SECONDS = 1.0
"""Between two looks at a folder, where the system does not tell of changes; longer where a look takes long."""
NET_SECONDS = 30.0
"""The same where it does, since it may lose some: a queue overflows, a folder is new."""
POLL_SHARE, NET_SHARE = 0.2, 0.05
"""The share of the time that may go into looking."""
GROUP = 64
"""The most files that are given at once."""


@dataclass(frozen=True)
class Arrival:
    """A file that is complete, and the state in which it was found to be."""

    path: str
    state: State


@dataclass
class _Pending:
    """A file that is not known to be complete: its state, and since when it has it, by ``time.monotonic``."""

    state: State
    modified: float
    since: float


class Arrivals:
    """The images in a folder that are not ``known``, in groups, each when it is complete; it goes on for ever.

    ``known(path, state)`` says whether a file was answered in that state. Folders within are looked into where
    ``recursive``. ``poll`` looks for changes by itself, which also works where other machines make them (NFS, SMB).
    ``notes`` says what there is to tell. Raises InputError where the folder is or becomes none.
    """

    def __init__(self, folder: Path, known: Callable[[str, State], bool], *, recursive: bool, poll: bool) -> None:
        self.folder = os.path.abspath(folder)  # noqa: PTH100  # a link stays the link
        self.notes: list[str] = []
        self._shown, self._known, self._recursive = folder, known, recursive
        self._pending: dict[str, _Pending] = {}
        self._changes: queue.SimpleQueue[set[str] | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._told = not poll and self._begin_to_listen()
        self._next_look = 0.0
        self._looks = 0

    def __iter__(self) -> Iterator[list[Arrival]]:
        try:
            while True:
                if time.monotonic() >= self._next_look:
                    self._look()
                if ready := self._ready():
                    yield ready
                    self._collect(0)
                else:
                    self._collect(self._until())
        finally:
            self._stop.set()

    def still(self, arrival: Arrival) -> bool | None:
        """Whether the file still is as it was found; None where it is gone."""
        found = _state_of(arrival.path)
        return None if found is None else found[0] == arrival.state

    def again(self, arrival: Arrival) -> None:
        """Wait for the file once more: it was changed while it was read."""
        self._note(arrival.path)

    def _until(self) -> float:
        """Seconds until there may be something to do."""
        soon = 0.1 if self._pending else 3600.0
        return max(0.0, min(soon, self._next_look - time.monotonic()))

    def _ready(self) -> list[Arrival]:
        """The files that are complete, those that have waited longest first, as many as make a group."""
        ready: list[Arrival] = []
        for path, pending in list(self._pending.items()):
            if len(ready) == GROUP:
                break
            found = _state_of(path)
            if found is None:
                del self._pending[path]
                continue
            state, modified = found
            now = time.monotonic()
            if state != pending.state:
                self._pending[path] = _Pending(state, modified, now)
                continue
            # What is moved in, or lies there at the start, was changed long ago.
            rested = max(now - pending.since, time.time() - modified)
            if rested < REST_SECONDS or (rested < LONGEST_WRITE and _is_written(path)):
                continue
            del self._pending[path]
            ready.append(Arrival(path, state))
        return ready

    def _collect(self, seconds: float) -> None:
        """Take note of the changes that the system tells of, the first of which may come within so many seconds."""
        try:
            changes = self._changes.get(timeout=seconds) if seconds else self._changes.get_nowait()
            while True:
                if changes is None:  # it cannot tell any more
                    self._told, self._next_look = False, 0.0
                for path in changes or ():
                    self._note(path)
                changes = self._changes.get_nowait()
        except queue.Empty:
            return

    def _note(self, path: str) -> None:
        inside = path[len(self.folder) :].strip(os.sep).split(os.sep)  # noqa: PTH206  # of each of a million files
        if any(is_of_system(part) for part in inside) or (len(inside) > 1 and not self._recursive):
            return
        if EXTENSIONS.fullmatch(os.path.splitext(inside[-1])[1]):  # noqa: PTH122
            found = _state_of(path)
            if found is None or self._known(path, found[0]):
                self._pending.pop(path, None)
            elif path not in self._pending or self._pending[path].state != found[0]:
                self._pending[path] = _Pending(*found, time.monotonic())
        elif self._recursive and os.path.isdir(path):  # noqa: PTH112
            self._note_all(path)

    def _look(self) -> None:
        """Look at every file of the folder."""
        began = time.monotonic()
        if not os.path.isdir(self.folder):  # noqa: PTH112
            raise InputError(f"{self._shown}: no such folder: check the path")
        self._note_all(self.folder)
        took = time.monotonic() - began
        self._looks += 1
        # A second look soon after the first finds what came before the system began to tell.
        often = POLL_SECONDS if not self._told or self._looks == 1 else NET_SECONDS
        self._next_look = time.monotonic() + max(often, took / (NET_SHARE if self._told else POLL_SHARE))

    def _note_all(self, folder: str) -> None:
        visited: set[tuple[int, int]] = set()
        waiting = [folder]
        while waiting:
            try:
                here = waiting.pop()
                where = Path(here).stat()
                with os.scandir(here) as entries:
                    found = sorted(entries, key=lambda entry: natural_key(entry.name))
            except OSError:  # gone meanwhile, or not to be read
                continue
            if (where.st_dev, where.st_ino) in visited:
                continue
            visited.add((where.st_dev, where.st_ino))
            for entry in found:
                if is_of_system(entry.name):
                    continue
                with suppress(OSError):
                    if not entry.is_dir():
                        self._note(entry.path)
                    elif self._recursive:
                        waiting.append(entry.path)

    def _begin_to_listen(self) -> bool:
        try:
            import watchfiles
        except ImportError:
            self.notes.append(
                f"{self._shown}: looked at every second, because watchfiles is not installed: "
                "pip install 'fusiform[watch]'"
            )
            return False

        def listen() -> None:
            try:
                for changes in watchfiles.watch(
                    self.folder,
                    watch_filter=None,
                    debounce=200,
                    step=50,
                    rust_timeout=500,
                    stop_event=self._stop,
                    recursive=self._recursive,
                    raise_interrupt=False,
                    ignore_permission_denied=True,
                ):
                    self._changes.put({path for _, path in changes})
            except Exception:  # too many folders for the system to watch: look for changes instead
                self._changes.put(None)

        threading.Thread(target=listen, daemon=True).start()
        return True


def _state_of(path: str) -> tuple[State, float] | None:
    """The state of a file, and when it was changed, in seconds; None where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return State(found.st_size, _as_text(found.st_mtime_ns)), found.st_mtime_ns / 1e9


def _as_text(nanoseconds: int) -> str:
    """A time in UTC, as ISO 8601 has it: JSON's numbers do not hold nanoseconds."""
    seconds, rest = divmod(nanoseconds, 10**9)
    try:
        whole = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    except (OverflowError, ValueError, OSError):  # a file system may say anything
        return str(nanoseconds)
    return f"{whole}.{rest:09}Z"


def _is_written(path: str) -> bool:
    """Whether somebody has the file open to write, where Linux tells: it then grants no lease to read (fcntl(2))."""
    if not sys.platform.startswith("linux"):
        return False
    import fcntl
    import signal

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Whoever opens it to write in this moment has a signal sent to us: one that is ignored.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:  # another user's file, or a file system without leases
        return False
    finally:
        os.close(descriptor)
    return False
