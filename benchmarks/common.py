"""What the benchmarks share: taking turns, the machine's description, and how results are printed and kept.

Imports nothing heavy: Linux counts the memory of the process that starts a child into the child's peak.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from fusiform.report import Cell, align, cell_text, rows_table

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = Path(os.environ.get("FUSIFORM_TEST_DATA", ROOT.parent / "shared" / "data"))
EXAMPLES = ROOT / "examples"
"""Photographs that come with the repository."""

T = TypeVar("T")


def in_turns(contenders: Mapping[str, Callable[[], T]], rounds: int, *, warm_up: int = 1) -> dict[str, list[T]]:
    """Call every contender once a round, in an order that reverses each round; the first ``warm_up`` do not count.

    What slows the machine down for a while then slows all of them down, and nobody always goes first.
    """
    results: dict[str, list[T]] = {name: [] for name in contenders}
    for number in range(-warm_up, rounds):
        order = list(contenders) if number % 2 == 0 else list(contenders)[::-1]
        for name in order:
            result = contenders[name]()
            if number >= 0:
                results[name].append(result)
    return results


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median over the rounds of the ratio within a round, which a slow round does not touch."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def usable_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(*packages: str) -> dict[str, Cell]:
    """The processor, its cores, how busy it is, and the versions of Python and ``packages``."""
    about: dict[str, Cell] = {
        "processor": _processor(),
        "cores": usable_cores(),
        "load before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    about |= {package: _version(package) for package in packages}
    return about


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    model = fields.get("model name", platform.machine())
    # Virtual machines hide the name; family, model and stepping still say which chip it is.
    numbers = [fields.get(key) for key in ("cpu family", "model", "stepping")]
    return f"{model} (family {numbers[0]}, model {numbers[1]}, stepping {numbers[2]})" if all(numbers) else model


def parser(description: str | None, *, rounds: int | None = None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")
    if rounds is not None:
        made.add_argument("--rounds", type=int, default=rounds, help="rounds that count (default: %(default)s)")
    return made


def finish(
    name: str,
    about: Mapping[str, Cell],
    figures: Mapping[str, Cell],
    rows: Sequence[Mapping[str, Cell]],
    to: Path | None,
) -> None:
    """Print the result as a table and, last, as one line of JSON; write it to the file ``to`` as well."""
    print(f"{name}\n")
    print(align([[key, cell_text(value)] for key, value in {**about, **figures}.items()], "<<"), end="\n\n")
    print(rows_table(rows), end="\n\n")
    result = {"benchmark": name, "about": dict(about), "figures": dict(figures), "rows": [dict(row) for row in rows]}
    if to is not None:
        part = to.with_name(f"{to.name}.{secrets.token_hex(4)}.part")
        try:
            part.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            os.replace(part, to)  # noqa: PTH105  # says that it replaces
        finally:
            part.unlink(missing_ok=True)
    print(json.dumps(result, ensure_ascii=False), flush=True)
