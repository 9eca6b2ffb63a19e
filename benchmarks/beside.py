"""How many images a second does training get beside other work?

`fusiform train` on some of the Intel scenes (three epochs, the default recipe, all cores), in processes of its own:

    alone       nothing else runs
    two busy    beside two processes that compute without end: on two cores the fair share is half of alone
    two at once two of these trainings at the same time, the mean of both: half of alone again

Contenders take turns: this checkout, and with ``--before SRC`` the sources of an earlier one. Images a second are those
that the run says of itself (``images_per_second`` of its metrics.jsonl), the median over the epochs; decoding, the
features of the head and validation are not in them.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import common

DATA = common.SHARED_DATA / "intel_scenes"
A_CLASS = 80
SITUATIONS = ("alone", "two busy", "two at once")


def main() -> None:
    parser = common.parser(__doc__, rounds=3)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with train/ and test/")
    parser.add_argument("--before", type=Path, metavar="SRC", help="the src folder of an earlier checkout")
    arguments = parser.parse_args()
    about = common.machine("torch", "ai-edge-litert")
    sources = {"now": common.ROOT / "src"}
    if arguments.before:
        sources["before"] = arguments.before
    with tempfile.TemporaryDirectory() as temporary:
        some(arguments.data, Path(temporary, "scenes"))
        contenders = {
            (name, situation): partial(rate, Path(temporary), source, situation)
            for situation in SITUATIONS
            for name, source in sources.items()
        }
        rates = common.in_turns({str(key): job for key, job in contenders.items()}, arguments.rounds, warm_up=0)
    figures: dict[str, common.Cell] = {"rounds": arguments.rounds, "images": 6 * A_CLASS}
    rows: list[Mapping[str, common.Cell]] = []
    for name in sources:
        row: dict[str, common.Cell] = {"contender": name}
        for situation in SITUATIONS:
            mine = rates[str((name, situation))]
            row[f"{situation}, images/s"] = round(statistics.median(mine), 1)
            if situation != "alone":
                alone = rates[str(("now", "alone"))]
                row[f"{situation}, of the fair share"] = round(2 * common.median_ratio(mine, alone), 2)
        rows.append(row)
    common.finish("beside", about, figures, rows, arguments.json)


def some(source: Path, target: Path) -> None:
    """The first images of each class of the training split, and a few to test."""
    for split, count in (("train", A_CLASS), ("test", 10)):
        for folder in sorted((source / split).iterdir()):
            made = target / split / folder.name
            made.mkdir(parents=True)
            for file in sorted(folder.iterdir())[:count]:
                shutil.copy(file, made)


def rate(temporary: Path, source: Path, situation: str) -> float:
    """Images a second of a training, the mean where there are two."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (situation == "two busy"))]
    outs = [temporary / f"run{number}" for number in range(1 + (situation == "two at once"))]
    try:
        trainings = []
        for out in outs:
            shutil.rmtree(out, ignore_errors=True)
            command = [sys.executable, "-m", "fusiform", "train", temporary / "scenes", "--out", out]
            command += ["--set", "epochs=3", "--set", "warmup_epochs=0.3"]
            environment = {**os.environ, "PYTHONPATH": str(source)}
            trainings.append(
                subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
        if any(training.wait() for training in trainings):
            raise SystemExit(f"a training of {source} failed: run it by hand to see why")
    finally:
        for process in busy:
            process.kill()
            process.wait()
    rates = []
    for out in outs:
        records = map(json.loads, (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        rates.append(statistics.median(r["images_per_second"] for r in records if r["phase"] == "network"))
    return statistics.mean(rates)


if __name__ == "__main__":
    main()
