"""What features and promises cost: ``embed`` beside ``predict``, ``plan``, and a calibrated file beside its plain one.

    python benchmarks/certainty_cost.py [DATA] [--rounds 5] [--json FILE]

DATA is the folder with ``intel_scenes`` and ``imagenet_val``. Each command is a process of its own; what is compared
takes turns.

- embed: ``fusiform embed FOLDER`` beside ``fusiform predict FOLDER``, both with MobileNetV2 as it is bundled, of 4,200
  photographs of scenes, and of ImageNet's 500, where it shows that predict starts without NumPy. Target: at least 0.95
  of predict's throughput.
- plan: ``fusiform plan`` of the scenes' 5,400 photographs with an empty cache, once. Target: under 60 s.
- promises: a classifier of the scenes (``train --recipe prototypes``) exported as int8, with its promises and with
  these taken out of its description: how much larger the file is, and how much longer ``fusiform predict PHOTO`` and
  ``fusiform predict FOLDER`` take, as commands and within a process. A model that promises nothing is answered without
  NumPy by the engine native, which is part of the difference there; LiteRT's is what promises take alone. Targets: at
  most 5 % larger, and 3 % slower.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import common

import fusiform
from fusiform.report import Cell
from fusiform.zoo.model import open_model
from fusiform.zoo.restamp import restamp

ENGINES = ("native", "litert")
PHOTOS = 10
"""How often a photograph is answered in a turn: one answer takes little beside what a machine varies by."""


def main() -> None:
    parser = common.parser(__doc__, rounds=5)
    parser.add_argument("data", type=Path, nargs="?", default=common.SHARED_DATA, help="(default: the shared data)")
    arguments = parser.parse_args()
    script = shutil.which("fusiform", path=Path(sys.executable).parent)
    if script is None:
        parser.error("the console script fusiform is not installed beside this Python: pip install -e '.[torch]'")
    scenes, photographs = arguments.data / "intel_scenes", arguments.data / "imagenet_val"
    rows: list[dict[str, Cell]] = []

    def compare(what: str, one: Callable[[], float], other: Callable[[], float], times: int = 1) -> None:
        def turn(run: Callable[[], float]) -> Callable[[], float]:
            return lambda: sum(run() for _ in range(times))

        taken = common.in_turns({"one": turn(one), "other": turn(other)}, arguments.rounds)
        ratios = sorted(a / b for a, b in zip(taken["other"], taken["one"], strict=True))
        rows.append(
            {
                "what": what,
                "rounds": arguments.rounds,
                "ratio": round(common.median_ratio(taken["other"], taken["one"]), 3),
                "least": round(ratios[0], 3),
                "greatest": round(ratios[-1], 3),
            }
        )
        print(rows[-1], flush=True)

    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)

        def command(*words: object) -> Callable[[], float]:
            return lambda: seconds([script, *map(str, words)], folder)

        for source in (scenes / "train", photographs):
            compare(
                f"embed's throughput beside predict's, {source.name}",
                command("embed", source, "--out", folder / "features.npz"),
                command("predict", source, "--format", "jsonl"),
            )
        took = command("plan", scenes)()
        rows.append({"what": "plan of 5,400 photographs, empty cache, s", "rounds": 1, "ratio": round(took, 1)})
        print(rows[-1], flush=True)
        command("train", scenes, "--recipe", "prototypes", "--out", folder / "run")()
        command("export", folder / "run", "--to", "litert", "--precision", "int8", "--out", folder / "ship")()
        promised = next((folder / "ship").glob("*.tflite"))
        plain = folder / "plain.tflite"
        model = open_model(promised)
        plain.write_bytes(restamp(model, model.spec.replace(certainty=None)))
        size = promised.stat().st_size / plain.stat().st_size
        rows.append({"what": "size of the file with promises", "rounds": 1, "ratio": round(size, 4)})
        for what, source, times in (("first answer", common.EXAMPLES / "cat.jpg", PHOTOS), ("folder", photographs, 1)):
            with_, without = (command("predict", source, "--model", file, "-f", "jsonl") for file in (promised, plain))
            compare(f"time with promises, {what}", without, with_, times)
        for engine in ENGINES:
            with_, without = (answers(photographs, file, engine) for file in (promised, plain))
            compare(f"the same in one process, folder, {engine}", without, with_)
    common.finish("cost of certainty", common.machine("numpy"), {"rounds": arguments.rounds}, rows, arguments.json)


def answers(folder: Path, file: Path, engine: str) -> Callable[[], float]:
    """How long the answers to a folder take in this process, the opening of the model included."""

    def run() -> float:
        start = time.perf_counter()
        fusiform.predict(folder, file, engine=engine, progress=False)
        return time.perf_counter() - start

    return run


def seconds(words: Sequence[str], folder: Path) -> float:
    """How long a command takes, with a cache of its own."""
    start = time.perf_counter()
    ended = subprocess.run(
        words, check=False, capture_output=True, env={**os.environ, "FUSIFORM_CACHE": str(folder / "cache")}
    )
    if ended.returncode:
        sys.exit(f"{' '.join(words)} ended with {ended.returncode}: {ended.stderr.decode()[-400:]}")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
