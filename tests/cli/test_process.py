"""Streams that are closed or full, signals, and little memory: a line, the documented code, nothing left."""

from __future__ import annotations

import functools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("signals, /dev/full and limits of memory are Linux's here", allow_module_level=True)

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
COMMAND = f"{shlex.quote(sys.executable)} -m fusiform"
QUOTED = shlex.quote(str(CAT))
FULL = "fusiform: standard output cannot be written: No space left on device\n"
NO_FOLDER = f"fusiform: {CAT}/x.csv: cannot be written: Not a directory\n"


def shell(line: str) -> tuple[int, str, str]:
    """The exit code, standard output and standard error of a command as a shell runs it."""
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, encoding="utf-8", check=False, timeout=300)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("line", "code", "output", "errors"),
    [
        (f"predict {QUOTED} >&-", 1, "", "fusiform: standard output cannot be written: Bad file descriptor\n"),
        (f"predict {QUOTED} >/dev/full", 1, "", FULL),
        ("--help >/dev/full", 1, "", FULL),
        ("models >/dev/full", 1, "", FULL),
        ("models --format json >&-", 1, "", "fusiform: standard output cannot be written: Bad file descriptor\n"),
        (f"predict {QUOTED} --top 1 2>&-", 0, "Egyptian cat", ""),
        (f"predict {QUOTED} --top 1 <&- 2>&-", 0, "Egyptian cat", ""),
        ("predict missing.jpg >&- 2>&- <&-", 1, "", ""),
        (f"predict {QUOTED} --out {QUOTED}/x.csv", 1, "", NO_FOLDER),
    ],
)
def test_streams_that_are_closed_or_full(line: str, code: int, output: str, errors: str) -> None:
    found = shell(f"{COMMAND} {line}")
    assert (found[0], found[2]) == (code, errors)
    assert output in found[1]


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    code, _, errors = shell(f"{COMMAND} predict {QUOTED} --format csv --out {out} >&-")
    assert (code, errors) == (0, "")
    assert out.read_text().startswith("path,rank")


# LiteRT, which may abort by itself where there is more, and the engine native, which has enough at 50,000.
@pytest.mark.parametrize(("kilobytes", "engine"), [(60_000, "litert"), (120_000, "litert"), (30_000, ""), (40_000, "")])
def test_little_memory_is_told(kilobytes: int, engine: str) -> None:
    code, _, errors = shell(f"ulimit -v {kilobytes}; FUSIFORM_ENGINE={engine} {COMMAND} predict {QUOTED}")
    assert code == 1
    assert "Traceback" not in errors
    # By the number of its threads it is an import, OpenBLAS in its own words or the runtime that has too little.
    assert re.search("there is not enough memory|OpenBLAS error: Memory allocation|LiteRT cannot run", errors)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)],
    ids=lambda value: str(value),
)
def test_a_signal_ends_a_command_as_ctrl_c_does(number: signal.Signals, code: int, tmp_path: Path) -> None:
    pipe, out = tmp_path / "pipe", tmp_path / "answers.csv"
    os.mkfifo(pipe)  # a picture that does not come: so it is in the middle of its work
    command = [sys.executable, "-m", "fusiform", "predict", str(CAT), "-", "--out", str(out), "--format", "csv"]
    # As in a terminal, also where the tests run under nohup or in the background, which ignore one or the other.
    heard = functools.partial(signal.signal, number, signal.SIG_DFL)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heard) as running:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".answers.csv.*.part")) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        running.send_signal(number)
        assert running.wait(timeout=30) == code
        assert running.stderr is not None
        assert running.stderr.read().decode() == f"fusiform: interrupted: nothing was written to {out}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


IMPORTING = """
import os, signal, sys
import click
from fusiform import cli

def importing(**_):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:  # as a compiled module's first lines do
        raise ImportError("initialization failed") from None

command = cli.commands.get_command(click.Context(cli.commands), "models")
command.callback = importing
sys.argv = ["fusiform", "models"]
cli.main()
"""


def test_a_signal_that_an_import_makes_another_error_of_is_one_all_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTING], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (143, "fusiform: interrupted: nothing was written\n")


def test_what_a_killed_command_left_is_removed_by_the_next(tmp_path: Path) -> None:
    out = tmp_path / "a[1].csv"
    command = [sys.executable, "-m", "fusiform", "predict", str(CAT), "-", "--out", str(out), "--format", "csv"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as running:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".a*.part")) and time.monotonic() < deadline:
            time.sleep(0.01)
        # Another command that writes the same file leaves what is being written.
        assert shell(f"{COMMAND} predict {QUOTED} --out '{out}' --format csv")[0] == 0
        assert len(list(tmp_path.glob(".a*.part"))) == 1
        running.kill()
    assert len(list(tmp_path.glob(".a*.part"))) == 1
    assert shell(f"{COMMAND} predict {QUOTED} --out '{out}' --format csv")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a[1].csv"]


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".export-left").mkdir()
    (tmp_path / ".export-left" / "model.tflite").write_bytes(b"half")
    assert shell(f"{COMMAND} export shufflenet_v2_x1_0 --to litert --out {tmp_path}")[0] == 0
    assert not list(tmp_path.glob(".export-*"))


def test_nohup_goes_on(tmp_path: Path) -> None:
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); from fusiform.cli import process;"
        "process.end_on_signals(); print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], encoding="utf-8") == "True\n"
