"""The machine and the software of a training run, so that its numbers can be understood later."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fusiform.machine import installed_version, usable_cores
from fusiform.training.allocator import keeps_freed_memory, malloc_library

PACKAGES = ("torch", "torchvision", "numpy", "pillow")

# Only those that change how fast or on what a run computes, and that hold no secrets.
_VARIABLES = re.compile(
    r"(OMP|MKL|OPENBLAS)_NUM_THREADS|KMP_.*|MALLOC_.*|GLIBC_TUNABLES|LD_PRELOAD|FUSIFORM_MALLOC|CUDA_VISIBLE_DEVICES"
    r"|CUBLAS_WORKSPACE_CONFIG|PYTORCH_(CUDA_)?ALLOC_CONF|WORLD_SIZE|RANK|LOCAL_RANK|LOCAL_WORLD_SIZE"
)
_PASSWORD = re.compile(r"(?<=://)[^/@\s]+@")


def describe_environment() -> dict[str, object]:
    """What a run's folder says of where the run took place, ready to be written as JSON.

    ``started`` is the time of the call, ISO 8601 in UTC; memory is in bytes, None where it is
    unknown, as are versions of packages that are not installed. ``commit`` is that of the checkout that fusiform was
    imported from, None outside of one; changes that were not committed do not show. Passwords in addresses on the
    command line are left out. To be called after a process has chosen its GPU, because it wakes CUDA.
    """
    return {
        "schema": "fusiform.environment/1",
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": [_shown(argument) for argument in sys.orig_argv],
        "fusiform": installed_version() or "0+unknown",
        "commit": _commit(Path(__file__).resolve().parents[3]),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_bytes": _memory(),
        "malloc": malloc_library() or None,
        "keeps_freed_memory": keeps_freed_memory(),
        **_torch(),
        "variables": {name: _shown(value) for name, value in sorted(os.environ.items()) if _VARIABLES.fullmatch(name)},
    }


def _shown(text: str) -> str:
    # What no JSON can hold is a file name in another encoding.
    return _PASSWORD.sub("", text).encode("utf-8", "backslashreplace").decode("utf-8")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit(root: Path) -> str | None:
    """The commit checked out at ``root``, read from git's own files (gitrepository-layout(5))."""
    try:
        git = root / ".git"
        if git.is_file():  # a linked worktree: "gitdir: " and where its files are
            git = root / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head
        branch = head.removeprefix("ref: ")
        common = git / "commondir"
        if common.is_file():
            git = git / common.read_text(encoding="utf-8").strip()
        if (git / branch).is_file():
            return (git / branch).read_text(encoding="utf-8").strip()
        packed = (git / "packed-refs").read_text(encoding="utf-8").splitlines()
        return next((line.partition(" ")[0] for line in packed if line.endswith(f" {branch}")), None)
    except (OSError, UnicodeDecodeError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _memory() -> int | None:
    """The machine's memory in bytes, or its container's where that is less."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None
    with contextlib.suppress(OSError, ValueError):  # no cgroups here, or no limit: "max"
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return total


def _torch() -> dict[str, object]:
    try:
        import torch
    except ImportError:
        return {"threads": None, "devices": []}
    cudnn: Any = torch.backends.cudnn  # has no types
    devices: list[dict[str, object]] = []
    if torch.cuda.is_available():
        for k in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(k)
            devices.append(
                {
                    "device": f"cuda:{k}",
                    "name": properties.name,
                    "memory_bytes": properties.total_memory,
                    "capability": f"{properties.major}.{properties.minor}",
                }
            )
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "name": _processor()})
    return {
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version() if torch.cuda.is_available() else None,
        "devices": devices,
    }
