"""The file of answers that a watched folder is written to: JSON lines that tell at the next start what was answered."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fusiform import files
from fusiform.errors import InputError, OutputError

_BEGIN = b'{"bytes": '
"""How every line begins."""


class State(NamedTuple):
    """What a file is known by: its length in bytes, and when it was last changed, in UTC, to the nanosecond."""

    bytes: int
    modified: str


class AnswersFile:
    """Lines that are appended whole; ``answered`` has the state in which each file was answered last, by its path.

    What a killed process left of a line is cut off: ``notes`` says so. Raises InputError for a file that holds
    something else, or that another process writes, and OutputError where it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.answered: dict[str, State] = {}
        self.notes: list[str] = []
        self._path = path
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
            self._descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            raise self._failed(error) from None
        try:
            if not files.hold(self._descriptor):
                raise InputError(f"{path}: another process writes to it: name another file, or end that one")
            self._read()
        except OSError as error:
            self.close()
            raise self._failed(error) from None
        except BaseException:
            self.close()
            raise

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record as a line, with one call; nothing of it is left where that fails, with OutputError."""
        line = f"{json.dumps(record, ensure_ascii=True)}\n".encode("ascii")
        try:
            end = os.fstat(self._descriptor).st_size
            left = line
            try:
                while left:
                    left = left[os.write(self._descriptor, left) :]
            except OSError:
                os.ftruncate(self._descriptor, end)  # the disk is full
                raise
        except OSError as error:
            raise self._failed(error) from None
        self.answered[record["path"]] = State(record["bytes"], record["modified"])

    def close(self) -> None:
        """Let another process write to it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self) -> None:
        end = 0
        with open(self._descriptor, "rb", closefd=False) as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    if not (line.startswith(_BEGIN) or _BEGIN.startswith(line)):
                        raise self._foreign(number)
                    os.ftruncate(self._descriptor, end)
                    self.notes.append(f"{self._path}: line {number} was not complete and is written again")
                    return
                try:
                    record = json.loads(line)
                    self.answered[str(record["path"])] = State(int(record["bytes"]), str(record["modified"]))
                except (ValueError, KeyError, TypeError):
                    raise self._foreign(number) from None
                end += len(line)

    def _foreign(self, number: int) -> InputError:
        return InputError(f"{self._path}: line {number} is no answer of fusiform watch: name another file")

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(f"cannot write {self._path} ({error.strerror or error}): choose another place")
