"""The largest size of a real process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fusiform.benchmarking.memory import peak_memory


def test_peak_memory_grows_with_what_is_held() -> None:
    if peak_memory() is None:
        pytest.skip("this system does not tell")
    code = (
        "from fusiform.benchmarking.memory import peak_memory\n"
        "a = peak_memory(); b'x' * 90_000_000; b = peak_memory()\n"
        "print(a, b, peak_memory())"
    )
    # Started by a process that is larger than the new one is to become.
    held = b"x" * 300_000_000
    before, with_it, later = map(int, subprocess.check_output([sys.executable, "-c", code]).split())
    assert len(held) == 300_000_000
    assert 80_000_000 < with_it - before < 100_000_000
    assert with_it <= later < with_it + 10_000_000
    assert before < 200_000_000
