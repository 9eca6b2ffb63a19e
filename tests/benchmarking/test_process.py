"""A real process, and how it ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest


def test_a_process_ends_when_its_parent_does() -> None:
    code = "from fusiform.benchmarking.process import Child; print(Child()._process.pid, flush=True)"
    code += "; import os; os._exit(0)"
    pid = int(subprocess.check_output([sys.executable, "-W", "ignore", "-c", code]))
    status = Path(f"/proc/{pid}/status")
    if not Path("/proc/self/status").is_file():
        pytest.skip("no /proc here")
    for _ in range(300):
        if not status.is_file() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.1)
    raise AssertionError("it still runs")
