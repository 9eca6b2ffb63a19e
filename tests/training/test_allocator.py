from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys

import pytest

from fusiform.training import allocator

GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
needs_glibc = pytest.mark.skipif(not GLIBC, reason="only glibc's allocator is told anything")

# Blocks of 64 MB, as a training step's activations are, by malloc itself.
PROGRAM = """
import ctypes, resource, sys
from fusiform.training.allocator import keep_freed_memory, keeps_freed_memory
assert "torch" not in sys.modules and "numpy" not in sys.modules
kept = keep_freed_memory()
assert keeps_freed_memory() is kept
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def pages(): return int(open("/proc/self/statm").read().split()[1])
def use():
    block = libc.malloc(64 << 20)
    libc.memset(block, 1, 64 << 20)
    libc.free(block)
resident = pages()
use()
grown = (pages() - resident) * resource.getpagesize() / 2**20
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): use()
print(kept, grown, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


def measure(**environment: str) -> tuple[bool, float, int]:
    """Whether memory is said to be kept, the megabytes still held after 64 were freed, and the page faults then."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_"))}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        encoding="utf-8",
        env={**inherited, **environment},
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    kept, grown, faults = result.stdout.split()
    return kept == "True", float(grown), int(faults)


@needs_glibc
def test_freed_memory_stays_and_is_used_again() -> None:
    kept, grown, faults = measure()
    assert kept
    assert 60 < grown < 140
    off, grown_off, faults_off = measure(FUSIFORM_MALLOC="0")
    assert not off
    assert grown_off < 10
    assert faults_off > 10 * max(faults, 1)


@pytest.mark.parametrize(
    ("library", "expected"),
    [
        ("libc.so.6", GLIBC),
        ("libc-2.31.so", GLIBC),
        ("libjemalloc.so.2", False),
        ("libtcmalloc_minimal.so.4", False),
        ("libmimalloc.so", False),
        ("libasan.so.8", False),
        ("", False),
    ],
)
def test_other_allocators_are_left_alone(monkeypatch: pytest.MonkeyPatch, library: str, expected: bool) -> None:
    assert allocator._is_glibc(library) is expected
    if not expected:
        monkeypatch.setattr(allocator, "malloc_library", lambda: library)
        assert allocator.keep_freed_memory() is False


@pytest.mark.parametrize("name", ["darwin", "win32"])
def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(sys, "platform", name)
    assert allocator.malloc_library() == ""
    assert allocator.keep_freed_memory() is False


@needs_glibc
def test_musl_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Musl:
        malloc = ctypes.CDLL(None).malloc

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Musl())
    assert not allocator._is_glibc("libc.so")
    assert allocator.malloc_library() == ""  # nor does it fail where there is no dladdr
    assert allocator.keep_freed_memory() is False


@needs_glibc
def test_malloc_is_found_in_the_library_that_provides_it() -> None:
    with open("/proc/self/maps") as maps:  # noqa: PTH123
        loaded = {line.split()[-1].rpartition("/")[2] for line in maps}
    assert allocator.malloc_library() in loaded
