"""How much memory this process has had."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_memory() -> int | None:
    """The largest resident size that this process has had, in bytes; None where the system does not tell."""
    if sys.platform == "win32":
        return _windows_peak()
    try:
        # Not getrusage, which on Linux counts the process that started this one into it.
        lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
    except (OSError, ValueError, StopIteration):  # not Linux
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def _windows_peak() -> int | None:
    """PeakWorkingSetSize (PROCESS_MEMORY_COUNTERS in psapi.h)."""
    if sys.platform != "win32":
        return None
    import ctypes
    from ctypes import wintypes

    sizes = ("peak", "size", "peak_paged", "paged", "peak_nonpaged", "nonpaged", "file", "peak_file")

    class Counters(ctypes.Structure):
        _fields_ = [
            ("length", wintypes.DWORD),
            ("faults", wintypes.DWORD),
            *((name, ctypes.c_size_t) for name in sizes),
        ]

    counters = Counters(length=ctypes.sizeof(Counters))
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel.GetCurrentProcess.restype = wintypes.HANDLE
    ask = kernel.K32GetProcessMemoryInfo
    ask.argtypes = [wintypes.HANDLE, ctypes.POINTER(Counters), wintypes.DWORD]
    return int(counters.peak) if ask(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.length) else None
