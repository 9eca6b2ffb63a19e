"""What every target makes of the networks: verified files, their size, accuracy, agreement and speed.

    python benchmarks/formats.py [--scenes RUN] [--keep DIR] [--json FILE]

Exports MobileNetV2 1.0 and ShuffleNetV2 x1.0 (the shared data's float weights, ImageNet) and the network of a training
run on the Intel scenes (``--scenes``, the folder of the run; docs/guides/train.md has the command) to every
target, in float32, and float16 and int8 where the target has them. int8 is calibrated on 160 of the 300 shared ImageNet
training photographs, or of the run's training photographs; nothing is trained. Each file passed the verification of
``fusiform export`` or is listed as failed.

Accuracy is top-1 on the 500 ImageNet validation photographs, or on the 1,200 test scenes, of the file in its own
runtime, with Wilson's 95 % interval; agreement is how often the float network in PyTorch gives the same first answer,
on 500 of them. Latency is one picture, one thread, median, all files of a network in turns. Core ML runs on Apple's
machines alone: its files are verified by an interpreter and not timed.
The documentation's table is made from the JSON file.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import common
import exported

from fusiform.report import Cell

NETWORKS = ("mobilenet_v2_1.0_224.safetensors", "shufflenet_v2_x1_0.safetensors")


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--scenes", type=Path, metavar="RUN", help="the folder of a training run on the Intel scenes")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the files there")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each file's latency (default: %(default)s)")
    arguments = parser.parse_args()
    if not common.SHARED_DATA.is_dir():
        sys.exit(f"formats: needs the shared weights and photographs ({common.SHARED_DATA} is not there)")
    from fusiform.training.allocator import keep_freed_memory

    keep_freed_memory()
    about = common.machine(*exported.PACKAGES)
    rows: list[dict[str, Cell]] = []
    with tempfile.TemporaryDirectory() as scratch:
        keep: Path = arguments.keep or Path(scratch)
        data = common.SHARED_DATA
        for name in NETWORKS:
            rows += measure(
                data / "weights" / name,
                keep / Path(name).stem,
                calibrate=data / "imagenet_train_samples",
                photographs=data / "imagenet_val",
                seconds=arguments.seconds,
            )
        if arguments.scenes is not None:
            scenes = data / "intel_scenes"
            rows += measure(
                arguments.scenes, keep / "scenes", calibrate=None, photographs=scenes, seconds=arguments.seconds
            )
    common.finish("formats", about, {"latency": "one picture, one thread, median of turns"}, rows, arguments.json)


def measure(
    model: Path, out: Path, *, calibrate: Path | None, photographs: Path, seconds: float
) -> list[dict[str, Cell]]:
    """A row for each file of one network; the first is PyTorch with the weights as they were."""
    from fusiform.evaluation.job import evaluate
    from fusiform.zoo.model import open_model

    files = exported.export_all(model, out, calibrate_on=calibrate, data=photographs)
    opened = open_model(model)
    about: dict[str, Cell] = {"network": opened.spec.name, "classes": opened.spec.num_classes}
    float_figures = evaluate(model, photographs, engine="torch").report().figures
    rows: list[dict[str, Cell]] = [
        {**about, "target": "PyTorch eager", "precision": "float32", "bytes": opened.path.stat().st_size}
        | accuracy(float_figures)
    ]
    told = ("agreement", "largest_error", "quantised", "layers_in_float")
    told += ("delegated", "not_delegated", "int8_layers", "layers")
    for found in files:
        row: dict[str, Cell] = {**about, "target": exported.label(found), "precision": found["precision"]}
        row |= {"passed": found["passed"]}
        if found["passed"]:
            row |= {"bytes": found["bytes"], **{key: found[key] for key in told if key in found}}
        if exported.runs_here(found):
            row |= accuracy(evaluate(found["file"], photographs).report().figures)
        rows.append(row)
    exported.measure_times(model, files, rows, data=None, seconds=seconds)
    return rows


def accuracy(figures: Any) -> dict[str, Cell]:
    return {"pictures": figures["images"], **{key: figures[key] for key in ("top1", "top1_low", "top1_high")}}


if __name__ == "__main__":
    main()
