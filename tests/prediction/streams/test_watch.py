"""A watched folder: each image once, when it is complete, over restarts, replacements and kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fusiform
from fusiform.errors import InputError, OutputError, UsageError
from fusiform.prediction.streams import arrivals
from fusiform.prediction.streams.watch import FilePrediction
from fusiform.zoo.model import Model

sys.path.insert(0, str(Path(__file__).parent))

from numbered_frames import jpeg

sys.path.pop(0)

ROOT = Path(__file__).parents[3]


@pytest.fixture(params=["told", "polled"])
def poll(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways to learn of changes."""
    if request.param == "told":
        pytest.importorskip("watchfiles")
    monkeypatch.setattr(arrivals, "POLL_SECONDS", 0.05)
    return request.param == "polled"


class Watching:
    """A watch in a thread: what it has answered so far."""

    def __init__(self, folder: Path, model: Model, **how: Any) -> None:
        self.found: list[FilePrediction] = []
        self.notes: list[str] = []
        self.errors: list[BaseException] = []
        self._answers = fusiform.watch(folder, model=model, say=self.notes.append, **how)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watching:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        return  # a generator is closed in the thread that runs it: its folder goes after the test

    def _run(self) -> None:
        try:
            for answer in self._answers:
                self.found.append(answer)
        except BaseException as error:
            self.errors.append(error)

    def wait_for(self, count: int, seconds: float = 20) -> list[str]:
        """The names of the files that were answered, in their order, once they are so many."""
        until = time.monotonic() + seconds
        while len(self.found) < count and time.monotonic() < until and not self.errors:
            time.sleep(0.02)
        assert not self.errors
        assert len(self.found) >= count, [answer.path for answer in self.found]
        return self.names()

    def names(self) -> list[str]:
        return [os.path.relpath(answer.path, self._folder) for answer in self.found]

    _folder = Path()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that is watched; that it goes ends the threads that watch it."""
    place = tmp_path / "in"
    place.mkdir()
    monkeypatch.setattr(Watching, "_folder", place)
    yield place
    shutil.rmtree(place, ignore_errors=True)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_is_there_comes_first_and_then_what_comes(
    folder: Path, model: Model, poll: bool, tmp_path: Path, valid: Any
) -> None:
    for name in ("10.jpg", "2.jpg", ".hidden.jpg", "notes.txt"):
        (folder / name).write_bytes(jpeg(1))
        os.utime(folder / name, (1e9, 1e9))
    out = tmp_path / "answers.jsonl"
    with Watching(folder, model, out=out, poll=poll) as watching:
        assert watching.wait_for(2) == ["2.jpg", "10.jpg"]
        (folder / "new.png.part").write_bytes(jpeg(2))
        (folder / "new.png.part").rename(folder / "new.png")
        assert watching.wait_for(3)[2] == "new.png"
        time.sleep(0.7)
        assert len(watching.found) == 3
    assert [answer.top[0].name for answer in watching.found] == ["red"] * 3
    for line in out.read_text().splitlines():
        valid(line, "watched")
    assert lines(out)[0]["modified"] == "2001-09-09T01:46:40.000000000Z"
    assert lines(out)[0]["bytes"] == len(jpeg(1))
    assert [line["path"] for line in lines(out)] == [answer.path for answer in watching.found]


def test_a_file_is_taken_when_it_is_written_whole(folder: Path, model: Model, poll: bool) -> None:
    data = jpeg(5, (640, 480))
    with Watching(folder, model, poll=poll) as watching:
        # Reopened for each piece, as some cameras do.
        for start in range(0, len(data), len(data) // 6 + 1):
            with (folder / "pieces.jpg").open("ab") as file:
                file.write(data[start : start + len(data) // 6 + 1])
            time.sleep(0.2)
        watching.wait_for(1)
        time.sleep(0.7)
        assert watching.names() == ["pieces.jpg"]
        assert watching.found[0].error is None
        assert watching.found[0].bytes == len(data)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not tell who writes")
def test_a_file_that_is_open_to_write_is_not_taken_though_it_rests(folder: Path, model: Model, poll: bool) -> None:
    data = jpeg(5)
    with Watching(folder, model, poll=poll) as watching:
        with (folder / "slow.jpg").open("wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            time.sleep(1.2)
            assert watching.found == []
            file.write(data[len(data) // 2 :])
        watching.wait_for(1)
        assert watching.found[0].error is None


def test_a_replaced_file_is_answered_again_and_a_touched_one_too(folder: Path, model: Model, poll: bool) -> None:
    with Watching(folder, model, poll=poll) as watching:
        (folder / "a.jpg").write_bytes(jpeg(1))
        watching.wait_for(1)
        other = folder / "b.tmp"
        other.write_bytes(jpeg(200, (80, 60)))
        other.rename(folder / "a.jpg")
        watching.wait_for(2)
        time.sleep(0.7)
        assert watching.names() == ["a.jpg", "a.jpg"]
        assert watching.found[0].bytes != watching.found[1].bytes


def test_a_file_that_is_deleted_before_it_is_read_is_passed_over(folder: Path, model: Model, poll: bool) -> None:
    with Watching(folder, model, poll=poll) as watching:
        (folder / "gone.jpg").write_bytes(jpeg(1))
        time.sleep(0.1)
        (folder / "gone.jpg").unlink()
        (folder / "stays.jpg").write_bytes(jpeg(1))
        assert watching.wait_for(1) == ["stays.jpg"]


def test_what_is_no_picture_is_a_line_with_an_error_once(folder: Path, model: Model, poll: bool) -> None:
    with Watching(folder, model, poll=poll) as watching:
        (folder / "broken.jpg").write_bytes(jpeg(1)[:300])
        watching.wait_for(1)
        assert watching.found[0].error is not None
        time.sleep(0.7)
        assert len(watching.found) == 1


def test_folders_within_count_where_they_are_asked_for(folder: Path, model: Model, poll: bool) -> None:
    (folder / "old").mkdir()
    (folder / "old" / "a.jpg").write_bytes(jpeg(1))
    with Watching(folder, model, poll=poll) as flat, Watching(folder, model, poll=poll, recursive=True) as deep:
        deep.wait_for(1)
        (folder / "new" / "deeper").mkdir(parents=True)
        (folder / "new" / "deeper" / "b.jpg").write_bytes(jpeg(1))
        (folder / ".git").mkdir()
        (folder / ".git" / "c.jpg").write_bytes(jpeg(1))
        (folder / "top.jpg").write_bytes(jpeg(1))
        assert sorted(deep.wait_for(3)) == ["new/deeper/b.jpg", "old/a.jpg", "top.jpg"]
        assert flat.wait_for(1) == ["top.jpg"]


def test_a_folder_that_goes_ends_it(folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "POLL_SECONDS", 0.05)
    answers = fusiform.watch(folder, model=model, poll=True)
    (folder / "a.jpg").write_bytes(jpeg(1))
    next(answers)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="no such folder"):
        next(answers)


def test_without_the_extra_it_looks_by_itself_and_says_so(
    folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    monkeypatch.setattr(arrivals, "POLL_SECONDS", 0.05)
    with Watching(folder, model) as watching:
        (folder / "a.jpg").write_bytes(jpeg(1))
        assert watching.wait_for(1) == ["a.jpg"]
    assert [note for note in watching.notes if "pip install 'fusiform[watch]'" in note]


# The file of answers.


def first(folder: Path, model: Model, out: Path, count: int) -> list[FilePrediction]:
    """So many answers of a watch that then ends."""
    answers = fusiform.watch(folder, out, model, poll=True)
    try:
        return [next(answers) for _ in range(count)]
    finally:
        answers.close()


def nothing_new(folder: Path, model: Model, out: Path) -> bool:
    """Whether a watch has nothing to answer: it comes to the file that is put there for it first."""
    (folder / "zzz.jpg").write_bytes(jpeg(1))
    return first(folder, model, out, 1)[0].path.endswith("zzz.jpg")


def test_a_restart_answers_what_is_new_or_changed(folder: Path, model: Model, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    for name in "abc":
        (folder / f"{name}.jpg").write_bytes(jpeg(1))
    first(folder, model, out, 3)
    (folder / "b.jpg").write_bytes(jpeg(2, (80, 60)))
    (folder / "d.jpg").write_bytes(jpeg(2))
    assert sorted(Path(answer.path).name for answer in first(folder, model, out, 2)) == ["b.jpg", "d.jpg"]
    assert nothing_new(folder, model, out)
    assert len(lines(out)) == 6


@pytest.mark.parametrize("left", [1, 5, 40, -1])
def test_a_line_that_was_not_complete_is_written_again(folder: Path, model: Model, tmp_path: Path, left: int) -> None:
    out = tmp_path / "answers.jsonl"
    for name in "ab":
        (folder / f"{name}.jpg").write_bytes(jpeg(1))
    first(folder, model, out, 2)
    whole = out.read_bytes()
    head, tail = whole[: whole.index(b"\n") + 1], whole[whole.index(b"\n") + 1 :]
    out.write_bytes(head + tail[:left])
    notes: list[str] = []
    answers = fusiform.watch(folder, out, model, poll=True, say=notes.append)
    assert Path(next(answers).path).name == "b.jpg"
    answers.close()
    assert out.read_bytes() == whole
    assert notes == [f"{out}: line 2 was not complete and is written again"]


@pytest.mark.parametrize("content", ["hello\n", "hello", '{"path": "a"}\n', "[1]\n", "\x00\x01", '{"bytes": 1}\n'])
def test_a_file_of_something_else_is_left_as_it_is(folder: Path, model: Model, tmp_path: Path, content: str) -> None:
    out = tmp_path / "answers.jsonl"
    out.write_text(content)
    with pytest.raises(InputError, match="line 1 is no answer of fusiform watch: name another file"):
        fusiform.watch(folder, out, model)
    assert out.read_text() == content


def test_two_processes_do_not_write_to_one_file(folder: Path, model: Model, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    answers = fusiform.watch(folder, out, model)
    with pytest.raises(InputError, match="another process writes to it"):
        fusiform.watch(folder, out, model)
    answers.close()


def test_a_full_disk_leaves_whole_lines(
    folder: Path, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "answers.jsonl"
    for name in "ab":
        (folder / f"{name}.jpg").write_bytes(jpeg(1))
    first(folder, model, out, 1)
    whole, write, calls = out.read_bytes(), os.write, []

    def half(descriptor: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) % 2:
            return write(descriptor, data[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OutputError, match="No space left"):
        first(folder, model, out, 1)
    assert out.read_bytes() == whole


def test_arguments_that_do_not_fit_are_told_at_once(folder: Path, model: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: no such folder"):
        fusiform.watch(tmp_path / "absent", model=model)
    with pytest.raises(UsageError, match="score is for detection"):
        fusiform.watch(folder, model=model, score=0.5)
    with pytest.raises(OutputError, match="cannot write"):
        fusiform.watch(folder, tmp_path / "absent" / "x.jsonl", model)


# The command.


def started(folder: Path, out: Path, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fusiform", "watch", str(folder), "--out", str(out), "--threads", "1"]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, encoding="utf-8")


def wait_for_lines(out: Path, count: int, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not out.exists() or out.read_bytes().count(b"\n") < count:
        assert time.monotonic() < until, out.read_text() if out.exists() else "no file"
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_the_command_goes_on_until_it_is_ended(folder: Path, tmp_path: Path, number: int, code: int) -> None:
    out = tmp_path / "answers.jsonl"
    shutil.copy(ROOT / "examples" / "cat.jpg", folder)
    process = started(folder, out)
    wait_for_lines(out, 1)
    time.sleep(0.3)
    process.send_signal(number)
    output, told = process.communicate(timeout=20)
    assert process.returncode == code, told
    assert "cat.jpg: Egyptian cat" in output
    assert f"1 answer written to {out}; the same command goes on" in told


def arrive(folder: Path, count: int) -> Iterator[str]:
    """Files that come in pieces, by being renamed, at once, and some that are replaced: their names."""
    data = {name: (ROOT / "examples" / name).read_bytes() for name in ("cat.jpg", "coffee.jpg")}
    for number in range(count):
        name, content = f"{number:04}.jpg", data["cat.jpg" if number % 2 else "coffee.jpg"]
        place = folder / name
        if number % 4 == 0:
            with place.open("wb") as file:
                for start in range(0, len(content), len(content) // 3 + 1):
                    file.write(content[start : start + len(content) // 3 + 1])
                    file.flush()
                    time.sleep(0.005)
        elif number % 4 == 1:
            part = folder / f".{name}.part"
            part.write_bytes(content)
            part.rename(place)
        else:
            place.write_bytes(content)
        yield name


@pytest.mark.slow
def test_a_thousand_files_over_kills_and_a_restart_are_answered_once_each(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    process = started(folder, out, subprocess.DEVNULL)
    names = []
    for number, name in enumerate(arrive(folder, 1000)):
        names.append(name)
        if number in (300, 700):
            wait_for_lines(out, number // 3, 300)
            process.kill()
            process.communicate()
            process = started(folder, out, subprocess.DEVNULL)
    wait_for_lines(out, 1000, 300)
    for name in names[::10]:  # replaced by the other picture
        other = (ROOT / "examples" / ("coffee.jpg" if int(name[:4]) % 2 else "cat.jpg")).read_bytes()
        part = folder / f".{name}.part"
        part.write_bytes(other)
        part.rename(folder / name)
    wait_for_lines(out, 1100, 300)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0
    answers = lines(out)
    counts = Counter(Path(answer["path"]).name for answer in answers)
    assert counts == {name: 2 if name in names[::10] else 1 for name in names}
    assert {answer["error"] for answer in answers} == {None}
    last = {Path(answer["path"]).name: answer["top"][0]["name"] for answer in answers}
    for name in names:
        swapped = name in names[::10]
        assert last[name] == ("Egyptian cat" if bool(int(name[:4]) % 2) != swapped else "espresso")
