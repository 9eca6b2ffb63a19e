"""How often test images were used: a line for each time in the run's folder, and what that makes of an interval.

Whoever looks at the test images once for each of several models and takes the best has chosen by them: the best one's
figure is too good, and its 95 % interval holds the truth less often. With K models that may have been chosen among, an
interval at 1 - 0.05 / K holds for all of them together, the chosen one included (Bonferroni; Dunn 1961, JASA 56,
52-64).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import NormalDist
from typing import Any

from fusiform.data.annotated import AnnotatedSample
from fusiform.data.dataset import Sample
from fusiform.evaluation.figures import rounded
from fusiform.machine import installed_version
from fusiform.report import printable
from fusiform.tasks.bootstrap import Interval
from fusiform.tasks.classification_metrics import wilson_interval

USES = "evaluations.jsonl"
"""The file of a run's folder that has a line for each time that test images were used."""
ERROR_RATE = 0.05
"""How often an interval, or any of several together, may miss."""
READ_BYTES = 1 << 16
"""Bytes of an image, from its start, that tell it from others, with its size."""
_TEXTS = ("date", "file", "split", "images_sha256")
ROWS = 1000
"""Classes whose figures a line has, at most."""


@dataclass(frozen=True)
class TestUse:
    """How often the images of an evaluation were used, this time included: ``times``, for ``runs`` in ``folder``.

    ``widened`` is the deciding figure with the interval that holds for all ``runs`` together, at ``level``. The use was
    ``recorded``, or the run's folder may not be written to.
    """

    __test__ = False  # no class of tests

    times: int
    runs: int
    folder: Path
    what: str
    widened: Interval
    recorded: bool = True

    @property
    def level(self) -> float:
        """The level of the widened interval, such that all of them hold together for 95 %."""
        return 1 - ERROR_RATE / self.runs

    @property
    def sentence(self) -> str:
        """It in words."""
        where = "this folder" if self.folder == Path() else self.folder
        who = "this run" if self.runs == 1 else f"{self.runs:,} runs in {where}"
        text = f"The test images have been used {_times(self.times)} by {who}"
        value, low, high = self.widened
        if self.runs > 1 and value is not None and low is not None and high is not None:
            text += (
                f". If this is the one that did best on them, its {self.what} is {100 * value:.1f} % with an interval "
                f"of {100 * low:.1f} to {100 * high:.1f}, which holds for all {self.runs:,} together for 95 %"
            )
        return text + ("." if self.recorded else ". This time is not recorded: the run's folder cannot be written to.")

    def to_dict(self) -> dict[str, Any]:
        """What JSON has of it."""
        _, low, high = (None if each is None else rounded(each) for each in self.widened)
        return {
            "uses": self.times,
            "runs_compared": self.runs,
            "level": rounded(self.level),
            "widened_low": low,
            "widened_high": high,
            "recorded": self.recorded,
        }


def find_run(path: Path) -> Path | None:
    """The folder of the run that a model file is of: its own, one above it, or what ``choose`` made it from."""
    for folder in list(path.absolute().parents)[:3]:
        if (folder / "run.json").is_file():
            return folder
        try:
            chosen = json.loads((folder / "choose.json").read_text(encoding="utf-8"))["chosen"]["run"]
            run = folder / "runs" / Path(chosen).name
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return run if (run / "run.json").is_file() else None
    return None


def learned_from(run: Path, data: Path) -> bool:
    """Whether a run was trained on the dataset at ``data``; also where that cannot be told."""
    try:
        source = json.loads((run / "run.json").read_text(encoding="utf-8"))["data"]
        return Path(source).resolve() == data.resolve()
    except (OSError, ValueError, KeyError, TypeError):
        return True


def hash_images(samples: Sequence[Sample | AnnotatedSample]) -> str:
    """The SHA-256 of a set of images, from the size and the first bytes of each; names and labels do not count.

    Of an image inside another file (a shard, a Parquet file) it is that file's name and the image's.
    """
    hasher = hashlib.sha256()
    for each in sorted(map(_hash_image, samples)):
        hasher.update(each)
    return hasher.hexdigest()


def note_use(
    run: Path,
    file: Path,
    samples: Sequence[Sample | AnnotatedSample],
    *,
    split: str,
    what: str,
    interval: Interval,
    figures: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]] = (),
    stress: Mapping[str, Any] | None = None,
) -> TestUse:
    """Write down that a model ``file`` of a run was shown test images, with what came of it, and count the uses.

    ``interval`` is the deciding figure's, of which people say ``what``. Nothing that goes wrong with the record ends an
    evaluation.
    """
    images = hash_images(samples)
    line = {
        "schema": "fusiform.use/1",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "fusiform": installed_version() or "0+unknown",
        "file": name_in(run, file),
        "split": split,
        "images_sha256": images,
        "figures": dict(figures),
        "rows": [dict(row) for row in rows[:ROWS]],
        "stress": None if stress is None else dict(stress),
    }
    recorded = True
    try:
        # One write at the end of the file: two that end at the same time both have their line.
        descriptor = os.open(run / USES, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, (json.dumps(line) + "\n").encode())
        finally:
            os.close(descriptor)
    except OSError:
        recorded = False
    times, runs = count_uses(run, images)
    if not recorded:
        times, runs = times + 1, max(1, runs + (not any(True for _ in _of(run, images))))
    return TestUse(times, runs, run.parent, what, widen(interval, runs, len(samples)), recorded)


def name_in(run: Path, file: Path) -> str:
    """What lines call a model's file: its path from the run's folder, or its name where it lies outside."""
    file = file.absolute()
    return printable(file.relative_to(run.absolute()).as_posix() if file.is_relative_to(run.absolute()) else file.name)


def count_uses(run: Path, images_sha256: str) -> tuple[int, int]:
    """How often images were used by a run and those beside it, and how many runs that were."""
    uses = [sum(1 for _ in _of(folder, images_sha256)) for folder in _beside(run)]
    return sum(uses), sum(1 for each in uses if each)


def read_uses(run: Path) -> list[dict[str, Any]]:
    """The lines of a run, the oldest first; those that are damaged are left out."""
    try:
        lines = (run / USES).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            use = json.loads(line)
        except ValueError:
            continue
        kinds = {**dict.fromkeys(_TEXTS, str), "figures": dict, "rows": list}
        if isinstance(use, dict) and all(isinstance(use.get(name), kind) for name, kind in kinds.items()):
            found.append(use)
    return found


def widen(interval: Interval, models: int, images: int) -> Interval:
    """A share's 95 % interval at the level that holds for so many ``models`` together.

    Wilson's where it is Wilson's; others are stretched about the value as normal ones are, within [0, 1].
    """
    value, low, high = interval
    if models <= 1 or value is None or low is None or high is None:
        return interval
    level = 1 - ERROR_RATE / models
    right = round(value * images)
    if images and abs(right / images - value) < 1e-5 and _alike(wilson_interval(right, images), (low, high)):
        return Interval(value, *wilson_interval(right, images, level=level))
    stretch = NormalDist().inv_cdf((1 + level) / 2) / NormalDist().inv_cdf(1 - ERROR_RATE / 2)
    return Interval(value, max(0.0, value - stretch * (value - low)), min(1.0, value + stretch * (high - value)))


def _alike(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return all(abs(a - b) < 1e-4 for a, b in zip(one, other, strict=True))


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count:,} times")


def _beside(run: Path) -> Iterator[Path]:
    try:
        yield from sorted(folder.parent for folder in run.absolute().parent.glob(f"*/{USES}"))
    except OSError:
        return


def _of(run: Path, images_sha256: str) -> Iterator[dict[str, Any]]:
    return (use for use in read_uses(run) if use["images_sha256"] == images_sha256)


def _hash_image(sample: Sample | AnnotatedSample) -> bytes:
    if isinstance(sample, Sample) and sample.key:
        return hashlib.sha256(f"{sample.file.name}/{sample.key}".encode("utf-8", "surrogateescape")).digest()
    try:
        with sample.file.open("rb") as stream:
            start, size = stream.read(READ_BYTES), os.fstat(stream.fileno()).st_size
    except OSError:  # gone since it was read
        start, size = sample.file.name.encode("utf-8", "surrogateescape"), -1
    return hashlib.sha256(f"{size} ".encode() + start).digest()
