"""What this process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusiform import machine


def test_cores_are_those_of_the_affinity() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("no affinity on this system")
    allowed = os.sched_getaffinity(0)
    assert 1 <= machine.usable_cores() <= len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert machine.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_a_container_that_allows_less_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    whole = machine.free_memory()
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert machine.usable_cores() == 1
    assert machine.free_memory() in (600_000, whole)  # the latter where there is no /proc
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.free_memory() > 600_000
