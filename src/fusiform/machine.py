"""What this machine lets this process use."""

from __future__ import annotations

import os
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
