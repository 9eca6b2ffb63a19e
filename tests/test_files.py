"""Files that are whole or not there, and what is left of those whose process was killed."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from fusiform import files
from fusiform.cli.output import open_output
from fusiform.errors import OutputError
from fusiform.files import create, held, hold, remove_leftovers, write_file

if sys.platform == "win32":
    pytest.skip("there are no such locks", allow_module_level=True)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"one")
    write_file(tmp_path / "a", b"two")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"two")]
    with pytest.raises(OutputError, match="cannot write"):
        write_file(tmp_path / "a" / "b", b"")


def test_leftovers_go_and_what_is_held_stays(tmp_path: Path) -> None:
    (tmp_path / "x.1-a.part").write_bytes(b"left")
    (tmp_path / "x.2-b.part").write_bytes(b"being written")
    (tmp_path / "other").write_bytes(b"")
    for name in (".export-left", ".export-held"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_bytes(b"")
    with (tmp_path / "x.2-b.part").open("rb") as file, held(tmp_path / ".export-held") as folder:
        assert folder == tmp_path / ".export-held"
        assert hold(file.fileno())
        remove_leftovers(tmp_path, "*.part")
        remove_leftovers(tmp_path, ".export-*")
        assert sorted(path.name for path in tmp_path.iterdir()) == [".export-held", "other", "x.2-b.part"]
    remove_leftovers(tmp_path, "*")
    assert list(tmp_path.iterdir()) == []
    remove_leftovers(tmp_path / "nowhere", "*")


def test_what_was_taken_for_a_leftover_before_it_was_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may look for leftovers just between the making and the holding."""
    comes = []

    def late(descriptor: int) -> bool:
        if not comes:
            comes.append(descriptor)
            remove_leftovers(tmp_path, "*")
            assert list(tmp_path.iterdir()) == []
        return hold(descriptor)

    monkeypatch.setattr(files, "hold", late)
    with create(tmp_path / "x.part") as file:
        file.write(b"all")
        remove_leftovers(tmp_path, "*")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x.part", b"all")]
    comes.clear()
    write_file(tmp_path / "x.part", b"more")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x.part", b"more")]
    comes.clear()
    (tmp_path / ".export-a").mkdir()
    with held(tmp_path / ".export-a") as folder:
        (folder / "file").write_bytes(b"")
        remove_leftovers(tmp_path, ".export-*")
        assert [path.name for path in folder.iterdir()] == ["file"]


def test_what_was_written_is_held_until_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def late(source: Path, place: Path) -> None:
        remove_leftovers(tmp_path, "*.part")
        replace(source, place)

    monkeypatch.setattr(os, "replace", late)
    write_file(tmp_path / "a", b"one")
    with open_output(tmp_path / "b") as stream:
        stream.write("two")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"one", "b": b"two"}


def test_what_another_process_is_removing_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, taken = tmp_path / "x.part", []

    def late(descriptor: int) -> bool:
        if not taken:  # another process has the lock, and removes the file a moment later
            taken.append(threading.Timer(0.05, path.unlink))
            taken[0].start()
            return False
        return hold(descriptor)

    monkeypatch.setattr(files, "hold", late)
    with create(path) as file:
        file.write(b"all")
    taken[0].join()
    assert path.read_bytes() == b"all"


def test_a_lock_is_one_process_s(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    assert hold(first)
    assert not hold(second)
    os.close(first)
    assert hold(second)
    os.close(second)
