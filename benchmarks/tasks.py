"""What every target makes of a detector and a segmenter: verified files, their size, mAP or mIoU, and speed.

    python benchmarks/tasks.py RUN... [--data SHAPES] [--keep DIR] [--json FILE]

Exports the best model of each training run (docs/guides/detect-and-segment.md) to every target that runs on Linux, in
float32, and float16 and int8 where the target has them. int8 is calibrated on 160 of the run's training pictures;
nothing is trained. Each file passed the verification of ``fusiform export`` or is listed as failed: boxes matched at
IoU 0.95 or pixels that agree for float files, at most two points of mAP or mIoU less for int8.

mAP@0.5 or mIoU is of the file in its own runtime on the validation pictures of ``--data``, with the 95 % interval of a
bootstrap over the pictures. Latency is one picture, one thread, median, all files of a network in turns; decoding, with
the suppression of boxes or the enlarging of masks, comes on top and is the same for every runtime. Core ML runs on
Apple's machines alone: its files are verified by an interpreter and not timed.
The documentation's table is made from the JSON file.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
import exported

from fusiform.report import Cell

FIGURES = {"detection": ("map50", "map"), "segmentation": ("miou", "pixel_accuracy")}
"""Of each task: the figure with an interval, and another."""


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="the folder of a training run")
    parser.add_argument("--data", type=Path, metavar="SHAPES", help="the dataset that they were trained on")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the files there")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each file's latency (default: %(default)s)")
    arguments = parser.parse_args()
    if not arguments.runs or arguments.data is None:
        sys.exit("tasks: name the folders of training runs, and their data with --data")
    from fusiform.training.allocator import keep_freed_memory

    keep_freed_memory()
    about = common.machine(*exported.PACKAGES)
    rows: list[dict[str, Cell]] = []
    with tempfile.TemporaryDirectory() as scratch:
        keep: Path = arguments.keep or Path(scratch)
        for run in arguments.runs:
            rows += measure(run, keep / run.name, arguments.data, seconds=arguments.seconds)
    common.finish("tasks", about, {"latency": "one picture, one thread, median of turns"}, rows, arguments.json)


def measure(run: Path, out: Path, data: Path, *, seconds: float) -> list[dict[str, Cell]]:
    """A row for each file of one network; the first is PyTorch with the weights as they were."""
    from fusiform.zoo.model import open_model

    files = exported.export_all(run, out)
    opened = open_model(run)
    about: dict[str, Cell] = {"network": opened.spec.name, "task": opened.spec.task, "side": opened.spec.input_size}
    rows: list[dict[str, Cell]] = [
        {**about, "target": "PyTorch eager", "precision": "float32", "bytes": opened.path.stat().st_size}
        | score(opened.path, data, engine="torch")
    ]
    for found in files:
        row: dict[str, Cell] = {**about, "target": exported.label(found), "precision": found["precision"]}
        row |= {"passed": found["passed"]}
        if found["passed"]:
            row |= {"bytes": found["bytes"]}
            row |= {key: found[key] for key in ("delegated", "not_delegated", "layers_in_float") if key in found}
        if exported.runs_here(found):
            row |= score(Path(found["file"]), data)
        rows.append(row)
    exported.measure_times(run, files, rows, data=some(opened, data), seconds=seconds)
    return rows


def score(file: Path, data: Path, *, engine: Any = None) -> dict[str, Cell]:
    """mAP@0.5 and mAP, or mIoU, with its interval."""
    from fusiform.evaluation.job import evaluate

    result = evaluate(file, data, split="val", engine=engine)
    figures = result.report().figures
    main, other = FIGURES[result.spec.task]
    kept = {name: figures[name] for name in (main, f"{main}_low", f"{main}_high", other)}
    return {"pictures": figures["images"], **kept}


def some(model: Any, data: Path) -> Any:
    """Eight of the validation pictures, whose answers are decoded to time that: all were counted before."""
    from fusiform.data.open import open_dataset

    whole = open_dataset(data, spec=model.spec, model=str(model.path))
    samples = whole.splits["val"]
    return dataclasses.replace(whole, splits={"val": samples[:: max(1, len(samples) // 8)][:8]})


if __name__ == "__main__":
    main()
