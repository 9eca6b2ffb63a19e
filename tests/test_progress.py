from __future__ import annotations

import io
import itertools
import sys
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusiform import progress
from fusiform.progress import both, lines_to, named, silent, track, tracker


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A time that goes on when it is told to."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_file_gets_a_line_for_every_tenth(clock: Clock) -> None:
    stream = io.StringIO()
    with track(total=1000, label="predict", stream=stream) as bar:
        for _ in range(1000):
            clock.now += 0.125
            bar.advance()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "predict:  10 % 100/1000 images, 8 images/s, 1:53 left"
    assert lines[-1] == "predict: 100 % 1000/1000 images, 8 images/s, 2:05 in all"
    assert "\r" not in stream.getvalue()


@given(
    total=st.none() | st.integers(0, 3000),
    steps=st.lists(st.tuples(st.integers(0, 90), st.floats(0, 29.5)), max_size=300),
)
@settings(max_examples=200, deadline=None)
def test_no_log_waits_longer_than_half_a_minute_and_none_is_flooded(
    total: int | None, steps: list[tuple[int, float]]
) -> None:
    clock, told = Clock(), list[tuple[float, str]]()
    began, done = clock.now, 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "time", clock)
        with lines_to(lambda line: told.append((clock.now, line)))(total=total, label="job") as bar:
            for amount, seconds in steps:
                clock.now += seconds
                done += amount
                bar.advance(amount)
    moments = [began, *(moment for moment, _ in told), clock.now]
    # An advance comes at least every 29.5 seconds here: so late may the line that is due after 30 be.
    assert max(later - earlier for earlier, later in itertools.pairwise(moments)) <= 60
    taken = clock.now - began
    tenths = 0 if not total else min(10, 10 * done // total) if done <= total else 10 * done // total
    assert len(told) <= taken // 30 + tenths + 1
    if taken < 2:
        assert told == []
    assert all(line.startswith("job: ") and "\n" not in line for _, line in told)


def test_a_single_long_call_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.02)
    told: list[str] = []
    three = threading.Event()

    def say(line: str) -> None:
        told.append(line)
        if len(told) == 3:
            three.set()

    with lines_to(say)(total=7, label="export", unit="files"):
        assert three.wait(20)
    assert told[0].startswith("export:   0 % 0/7 files, 0:01 so far")
    with lines_to(say)(total=None, label="export"):
        told.clear()
        three.clear()
        assert three.wait(20)
    assert told[0] == "export: 0:01 so far"


def test_a_watch_that_cannot_write_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)
    tried = threading.Event()

    def say(_: str) -> None:
        tried.set()
        raise OSError(28, "No space left on device")

    with lines_to(say)(total=None, label="export"):
        assert tried.wait(20)


def test_a_short_job_says_nothing_in_a_log(clock: Clock) -> None:
    stream = io.StringIO()
    with track(total=1000, label="predict", stream=stream) as bar:
        for _ in range(1000):
            clock.now += 0.0019
            bar.advance()
    assert stream.getvalue() == ""


def test_what_is_counted_and_what_else_is_known(clock: Clock) -> None:
    stream = io.StringIO()
    with track(total=3, label="epoch 1/2", unit="steps", stream=stream) as bar:
        clock.now += 40
        bar.advance(1, "loss 0.500")
        clock.now += 40
        bar.advance(2, "loss 0.400")
    assert stream.getvalue().splitlines() == [
        "epoch 1/2:  33 % 1/3 steps, 0.025 steps/s, 1:20 left, loss 0.500",
        "epoch 1/2: 100 % 3/3 steps, 0.037 steps/s, 1:20 in all, loss 0.400",
    ]


def test_two_are_told_and_a_part_has_its_own_name(clock: Clock) -> None:
    first, second = list[str](), list[str]()
    with named(both(lines_to(first.append), lines_to(second.append)), "validate")(total=2, label="evaluate") as bar:
        clock.now += 3
        bar.advance(2)
    assert first == second == ["validate: 100 % 2/2 images, 0.67 images/s, 0:03 in all"]


def test_bytes_are_told_in_megabytes(clock: Clock) -> None:
    stream = io.StringIO()
    with track(total=14_200_000, label="m.pth", unit="B", stream=stream) as bar:
        clock.now += 10
        bar.advance(14_200_000)
    assert stream.getvalue() == "m.pth: 100 % 14.2/14.2 MB, 1.4 MB/s, 0:10 in all\n"


def test_an_unknown_total_is_told_at_the_end(clock: Clock) -> None:
    stream = io.StringIO()
    with track(total=None, label="m.pth", unit="B", stream=stream) as bar:
        bar.advance(1_000_000)
        clock.now += 5
        bar.advance(1_500_000)
    assert stream.getvalue() == "m.pth: 2.5 MB, 0.5 MB/s, 0:05 so far\n"


def test_a_terminal_is_wiped_where_nothing_was_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    stream = Terminal()
    with track(total=None, label="port", stream=stream):
        pass
    assert stream.getvalue() == f"\r{'port: 0:00 so far':29}\r{'':29}\r"


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
    monkeypatch.setattr(progress, "TICK_SECONDS", 3600.0)
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


def test_threads_may_advance_the_same_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "GAP_SECONDS", 0.0)
    stream = io.StringIO()
    with track(total=8000, label="predict", stream=stream) as bar:
        threads = [threading.Thread(target=lambda: [bar.advance() for _ in range(1000)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(stream.getvalue().splitlines()) == 10
    assert "100 % 8000/8000" in stream.getvalue().splitlines()[-1]


def test_standard_error_is_the_default_and_silence_is_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "GAP_SECONDS", 0.0)
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
