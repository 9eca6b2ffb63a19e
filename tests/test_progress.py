from __future__ import annotations

import io
import sys
import threading
from types import SimpleNamespace

import pytest

from fusiform import progress
from fusiform.progress import silent, track, tracker


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_gets_a_line_for_every_tenth() -> None:
    stream = io.StringIO()
    with track(total=1000, label="predict", stream=stream) as bar:
        for _ in range(1000):
            bar.advance()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("predict:  10 % 100/1000 pictures, ")
    assert lines[-1].startswith("predict: 100 % 1000/1000 pictures, ")
    assert "\r" not in stream.getvalue()


def test_bytes_are_told_in_megabytes() -> None:
    stream = io.StringIO()
    with track(total=14_200_000, label="m.pth", unit="B", stream=stream) as bar:
        bar.advance(14_200_000)
    assert stream.getvalue().startswith("m.pth: 100 % 14.2/14.2 MB, ")


def test_an_unknown_total_is_told_at_the_end() -> None:
    stream = io.StringIO()
    with track(total=None, label="m.pth", unit="B", stream=stream) as bar:
        bar.advance(1_000_000)
        bar.advance(1_500_000)
    assert stream.getvalue().splitlines()[0].startswith("m.pth: 2.5 MB, ")
    assert len(stream.getvalue().splitlines()) == 1


def test_nothing_to_do_is_no_division_by_zero() -> None:
    with track(total=0, label="predict", stream=io.StringIO()) as bar:
        bar.advance(0)
    with track(total=0, label="predict", stream=Terminal()):
        pass


def test_a_terminal_gets_a_bar_that_fits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)
    monkeypatch.setenv("COLUMNS", "90")
    stream = Terminal()
    with track(total=4, label="predict", stream=stream) as bar:
        for _ in range(4):
            bar.advance()
    drawn = stream.getvalue().removesuffix("\n").split("\r")[1:]
    assert len(drawn) == 5
    assert [line.count("#") for line in drawn] == [0, 6, 12, 18, 24]
    assert {len(line) for line in drawn} == {89}
    monkeypatch.setenv("COLUMNS", "20")
    stream = Terminal()
    with track(total=4, label="predict", stream=stream):
        pass
    assert stream.getvalue() == "\rpredict:   0 % 0/4 \n"


def test_a_terminal_is_not_redrawn_for_every_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 3600.0)
    stream = Terminal()
    with track(total=10_000, label="predict", stream=stream) as bar:
        for _ in range(10_000):
            bar.advance()
    assert stream.getvalue().count("\r") == 2  # the first and the last


def test_an_error_goes_through_and_the_line_ends() -> None:
    def job() -> None:
        with track(total=10, label="predict", stream=stream):
            raise KeyboardInterrupt

    stream = Terminal()
    with pytest.raises(KeyboardInterrupt):
        job()
    assert stream.getvalue().endswith("\n")


def test_threads_may_advance_the_same_bar() -> None:
    stream = io.StringIO()
    with track(total=8000, label="predict", stream=stream) as bar:
        threads = [threading.Thread(target=lambda: [bar.advance() for _ in range(1000)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(stream.getvalue().splitlines()) == 10
    assert "100 % 8000/8000" in stream.getvalue().splitlines()[-1]


def test_standard_error_is_the_default_and_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with silent(total=1, label="quiet") as bar:
        bar.advance()
    assert capsys.readouterr() == ("", "")
    with track(total=1, label="loud") as bar:
        bar.advance()
    out, err = capsys.readouterr()
    assert (out, err[:5]) == ("", "loud:")


def test_a_caller_chooses_whether_it_is_shown() -> None:
    assert tracker(True) is track
    assert tracker(False) is silent
    assert tracker(silent) is silent


@pytest.mark.parametrize(
    ("stream", "shell", "shown"),
    [
        (Terminal(), None, True),
        (io.StringIO(), None, False),
        (io.StringIO(), {"TerminalIPythonApp": {}}, False),
        (io.StringIO(), {"IPKernelApp": {}}, True),
        (None, None, False),
    ],
)
def test_by_default_it_is_shown_where_someone_watches(
    stream: io.StringIO | None, shell: dict[str, object] | None, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = None if shell is None else SimpleNamespace(config=shell)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: running))
    monkeypatch.setattr(sys, "stderr", stream)
    assert tracker(None) is (track if shown else silent)
