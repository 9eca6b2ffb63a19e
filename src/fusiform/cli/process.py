"""What the system does to a process: closed and full streams, signals, too little memory."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import click

ended: list[int] = []
"""The signals that asked the process to end: a library that is being imported may make another error of one."""


class Ended(KeyboardInterrupt):
    """A signal that asks the process to end; everything that clears up after Ctrl-C does so after this."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


def exit_code_of(interrupt: KeyboardInterrupt) -> int:
    """130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP: 128 and the signal's number, as shells have it."""
    return interrupt.exit_code if isinstance(interrupt, Ended) else 130


def tell_interruption(interrupt: KeyboardInterrupt) -> None:
    """Say in a line what an interruption left: what the command says in the exception, else nothing was written."""
    left = str(interrupt.args[0]) if interrupt.args else "nothing was written"
    if left:
        from fusiform.report import printable

        with suppress(OSError):
            click.echo(f"fusiform: interrupted: {printable(left)}", err=True)


def command_line(*more: str) -> str:
    """What was typed, to be typed again, with ``more`` options."""
    import shlex

    return shlex.join(["fusiform", *sys.argv[1:], *(option for option in more if option not in sys.argv)])


def end_on_signals() -> None:
    """Let SIGTERM and SIGHUP clear up as Ctrl-C does; those that are ignored (``nohup``) or handled stay so."""
    import signal

    process = os.getpid()

    def end(number: int, _: FrameType | None) -> NoReturn:
        signal.signal(number, signal.SIG_DFL)  # asked again, it ends at once
        ended.append(number)
        if os.getpid() != process:  # a child that was started meanwhile has nothing to clear up
            os.kill(os.getpid(), number)
        raise Ended(number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)


def open_standard_streams() -> None:
    """Give standard streams that are closed something to stand on, and let no file name end the program.

    Otherwise the next file that is opened would be taken for standard output. Standard error goes nowhere; what is
    written to standard output fails as it does on a full disk, and says so.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr) and os.name == "posix":
        # The lowest free descriptor is given, so that those that are closed are opened in their order. To write to what
        # is open for reading fails.
        while (descriptor := os.open(os.devnull, os.O_RDONLY)) < 2:
            pass
        if descriptor > 2:
            os.close(descriptor)
        if sys.stdout is None:
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    # A file name that the terminal's encoding cannot show must not end the program; CR LF of a CSV stays CR LF.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", newline="\n")


def fail(message: str) -> NoReturn:
    """Print a line and exit with 1."""
    try:
        click.echo(f"fusiform: {message}", err=True)
    finally:
        drop_output()
    sys.exit(1)


def drop_output() -> None:
    """Forget what standard output could not take: Python would try again at its end, and complain in its own words."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
    except OSError:
        return


def lacks_memory(error: BaseException) -> bool:
    """Whether an error is of too little memory: also one of a library that could not be loaded for it."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, (ImportError, OSError, RuntimeError)):
        return False
    words = ("cannot allocate memory", "failed to map segment", "can't start new thread", "not enough memory")
    return any(word in str(error).lower() for word in words) or getattr(error, "errno", None) == 12  # ENOMEM


NO_MEMORY = (
    "there is not enough memory: end other programs, or raise the limit (ulimit -v, the container's); predicting takes "
    "up to 0.4 GB of address space, training 4 GB"
)
