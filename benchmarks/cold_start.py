"""From nothing to a top-5: ``fusiform predict PHOTO`` against the script of PyTorch Hub's page.

    python benchmarks/cold_start.py [PHOTO] [--weights FILE] [--rounds 15] [--json FILE]

Each run is a new process, the two take turns, and the first rounds do not count: the files are in the page cache then.
Measured from before the process is started until it has ended, with the largest memory it held (ru_maxrss). fusiform
runs as a user runs it, by its console script; the hub page's script (hub_page.py) has the same network, MobileNetV2
1.0, with the bundled weights dequantised and saved as a .pth, or those of --weights. Both with their own choice of
threads. Targets: at least 10 times faster, at least 5 times less memory.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import common

from fusiform.report import Cell

HUB_PAGE = Path(__file__).with_name("hub_page.py")

# In a process of its own, because it imports PyTorch: see common.py.
SAVE_WEIGHTS = """
import sys, torch, fusiform
from fusiform.zoo.model import open_model
torch.save(fusiform.load("mobilenet_v2").state_dict(), sys.argv[1])
with open(sys.argv[2], "w", encoding="utf-8") as file:
    file.write("\\n".join(open_model("mobilenet_v2").spec.labels))
"""


class Run(NamedTuple):
    """One process from start to end: ``megabytes`` is its largest resident memory in 10**6 bytes."""

    seconds: float
    megabytes: float
    output: str


def main() -> None:
    parser = common.parser(__doc__, rounds=15)
    parser.add_argument(
        "photo", type=Path, nargs="?", default=common.EXAMPLES / "cat.jpg", help="default: examples/cat.jpg"
    )
    parser.add_argument("--weights", type=Path, help="a .pth for the hub page's script")
    arguments = parser.parse_args()
    if not arguments.photo.is_file():
        parser.error(f"{arguments.photo} is not there: name a photograph")
    script = shutil.which("fusiform", path=Path(sys.executable).parent)
    if script is None:
        parser.error("the console script fusiform is not installed beside this Python: pip install -e '.[torch]'")

    about = common.machine("fusiform", "ai-edge-litert", "numpy", "pillow", "torch", "torchvision")
    with tempfile.TemporaryDirectory() as folder:
        saved, classes = Path(folder, "mobilenet_v2.pth"), Path(folder, "imagenet_classes.txt")
        subprocess.run([sys.executable, "-c", SAVE_WEIGHTS, str(saved), str(classes)], check=True)
        hub = [sys.executable, str(HUB_PAGE), str(arguments.photo), str(arguments.weights or saved), str(classes)]
        runs = common.in_turns(
            {
                "fusiform predict": lambda: run([script, "predict", str(arguments.photo)]),
                "PyTorch Hub's script": lambda: run(hub),
            },
            arguments.rounds,
            warm_up=2,
        )

    ours, theirs = runs.values()
    # The page prints "Samoyed 0.83", fusiform "  65.8%  ████  Samoyed" under the picture's name.
    hub_first = theirs[0].output.splitlines()[-5].rpartition(" ")[0]
    figures: dict[str, Cell] = {
        "photo": arguments.photo.name,
        "rounds": arguments.rounds,
        "times faster (target: 10)": round(
            common.median_ratio(*([r.seconds for r in side] for side in (theirs, ours))), 2
        ),
        "times less memory (target: 5)": round(
            common.median_ratio(*([r.megabytes for r in side] for side in (theirs, ours))), 2
        ),
        "hub's first answer": hub_first,
        "same first answer": ours[0].output.splitlines()[1].endswith(f" {hub_first}"),
    }
    rows: list[dict[str, Cell]] = [
        {
            "contender": name,
            "median s": round(statistics.median(r.seconds for r in side), 4),
            "best s": round(min(r.seconds for r in side), 4),
            "median MB": round(statistics.median(r.megabytes for r in side), 1),
        }
        for name, side in runs.items()
    ]
    common.finish("cold_start", about, figures, rows, arguments.json)


def run(command: list[str]) -> Run:
    """Run a command to its end; what it prints on standard error is shown only if it fails."""
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        assert process.stdout is not None
        with process.stdout as stdout:
            output = stdout.read().decode("utf-8", "replace")
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)  # wait4 has taken it from Popen
        if process.returncode != 0:
            errors.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{errors.read().decode('utf-8', 'replace')}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(seconds, usage.ru_maxrss * unit / 1e6, output)


if __name__ == "__main__":
    main()
