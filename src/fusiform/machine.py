"""What this machine lets this process use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def installed_version(distribution: str = "fusiform") -> str | None:
    """The version of a package that is installed; None where it is not."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def usable_cores() -> int:
    """The cores this process may use: those of its affinity, and no more than its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = map(int, (_CGROUP / "cpu.max").read_text(encoding="ascii").split())
    except (OSError, ValueError):  # no cgroups here, or no quota: "max 100000"
        return cores
    return max(1, min(cores, -(-quota // period)))


def free_memory() -> int:
    """The bytes this process may still take, of the machine and of its container; 4 GB where nothing says."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):  # not Linux
        return 4 << 30
    try:
        limit, used = ((_CGROUP / name).read_text(encoding="ascii") for name in ("memory.max", "memory.current"))
        return max(0, min(free, int(limit) - int(used)))
    except (OSError, ValueError):  # no cgroups here, or no limit: "max"
        return free


def wait_without_spinning() -> None:
    """Let threads that wait for each other in PyTorch sleep soon; to be called before it is loaded.

    By default they look for work for milliseconds, during which no other program gets their core: alone on the machine
    nothing is lost with 1000 looks (some microseconds), and a training beside others is several times faster. None are
    too few: to wake a thread takes longer than most layers do. What the user has set stays. It is of GCC's OpenMP,
    which PyTorch has on Linux.
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
