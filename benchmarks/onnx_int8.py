"""int8 ONNX files of this version beside those of an earlier one: CPU time in OpenVINO and ONNX Runtime, and answers.

    fusiform export mobilenet_v2 --to onnx --precision int8 --out BEFORE    # with the earlier version
    python benchmarks/onnx_int8.py BEFORE/mobilenet_v2_x1_0_int8.onnx [--rounds 30] [--runs 20] [--json FILE]

FILE's network is written again from its own weights and scales, and both are run by one thread, one picture at a time,
from uint8 pixels to logits. Contenders take turns; in each round one runs the picture three times to warm up and then
``--runs`` times by the clock of the process, which counts the time of all its threads and not that of the machine's
other work. A turn's time is the median of its runs, ``ratio`` the median over the rounds of the time before over the
time now in the same runtime.

"before" in OpenVINO is the earlier file compiled for any number of pictures, as the engine did it then; "before, engine
of now" tells what the file alone gains. ``--folder`` has photographs in one folder for each WordNet id, on which top-1
is measured in pairs: ``only before`` and ``only now`` are the photographs that one of the two files alone names right.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import common
import numpy as np
from numpy.typing import NDArray

from fusiform.data.image import find_images, read_image
from fusiform.data.preprocess import crop_pixels
from fusiform.engines.onnxruntime import OnnxRuntimeEngine
from fusiform.engines.openvino import OpenVinoEngine, open_core
from fusiform.graph.onnx import to_onnx
from fusiform.report import Cell
from fusiform.zoo.model import Model, open_model

WARM_UP = 3
SETTINGS = {
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_PRECISION_HINT": "f32",
    "ENABLE_CPU_PINNING": False,
}
BEFORE = {
    "OpenVINO": "OpenVINO, before",
    "OpenVINO, before, engine of now": "OpenVINO, before",
    "ONNX Runtime": "ONNX Runtime, before",
}
"""What each contender of now is held against."""

Answer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def contenders_of(earlier: Model) -> dict[str, Answer]:
    """What answers a batch of pixels with logits, by name."""
    spec, now = earlier.spec, to_onnx(earlier.graph())
    core = open_core("this benchmark")
    compiled = core.compile_model(core.read_model(earlier.data), "CPU", SETTINGS)

    def answer_as_then(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.array(compiled(np.ascontiguousarray(pixels))[0], np.float32)

    # Those that are compared follow each other: what one leaves in the cache, its neighbour finds.
    engines = {
        "OpenVINO": OpenVinoEngine(now, spec),
        "OpenVINO, before, engine of now": OpenVinoEngine(earlier.data, spec),
        "ONNX Runtime, before": OnnxRuntimeEngine(earlier.data, spec),
        "ONNX Runtime": OnnxRuntimeEngine(now, spec),
    }

    def answer(name: str, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return engines[name].run(pixels)[spec.output]

    return {"OpenVINO, before": answer_as_then, **{name: partial(answer, name) for name in engines}}


def turn(answer: Answer, pixels: NDArray[np.uint8], runs: int) -> float:
    """Milliseconds of CPU time of a picture, the median of the runs."""
    for _ in range(WARM_UP):
        answer(pixels)
    times = []
    for _ in range(runs):
        start = time.process_time()
        answer(pixels)
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times)


def name_photographs(contenders: dict[str, Answer], earlier: Model, folder: Path) -> dict[str, NDArray[np.bool_]]:
    """Which photographs each contender names right; their folders are the WordNet ids of their classes."""
    files = find_images(folder)
    right: dict[str, list[bool]] = {name: [] for name in contenders}
    for file in files:
        pixels = crop_pixels(read_image(file), earlier.spec.preprocess)[None]
        for name, answer in contenders.items():
            right[name].append(earlier.spec.label_ids[int(answer(pixels)[0].argmax())] == file.parent.name)
    return {name: np.array(found) for name, found in right.items()}


def main() -> None:
    parser = common.parser(__doc__, rounds=30)
    parser.add_argument("before", type=Path, help="an int8 ONNX file that an earlier version wrote")
    parser.add_argument("--runs", type=int, default=20, help="runs a round (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=common.SHARED_DATA / "imagenet_val", help="labelled photographs")
    arguments = parser.parse_args()
    about = common.machine("fusiform", "openvino", "onnxruntime", "numpy")
    earlier = open_model(arguments.before)
    contenders = contenders_of(earlier)
    picture = crop_pixels(read_image(common.EXAMPLES / "cat.jpg"), earlier.spec.preprocess)[None]
    times = common.in_turns(
        {name: partial(turn, answer, picture, arguments.runs) for name, answer in contenders.items()}, arguments.rounds
    )
    right = name_photographs(contenders, earlier, arguments.folder) if arguments.folder.is_dir() else {}

    rows: list[dict[str, Cell]] = []
    for name, turns in times.items():
        row: dict[str, Cell] = {"contender": name, "cpu ms": round(statistics.median(turns), 3)}
        row |= {"best cpu ms": round(min(turns), 3)}
        if name in BEFORE:
            row["ratio"] = round(common.median_ratio(times[BEFORE[name]], turns), 2)
        if name in right:
            row["top-1 %"] = round(100 * float(right[name].mean()), 1)
        if name in right and name in BEFORE:
            row["only before"] = int((right[BEFORE[name]] & ~right[name]).sum())
            row["only now"] = int((right[name] & ~right[BEFORE[name]]).sum())
        rows.append(row)
    figures: dict[str, Cell] = {
        "network": earlier.spec.name,
        "rounds": arguments.rounds,
        "runs a round": arguments.runs,
        "batch": 1,
        "photographs": len(next(iter(right.values()), ())),
        "OpenVINO, before over now (target: 1.3)": next(r["ratio"] for r in rows if r["contender"] == "OpenVINO"),
    }
    common.finish("int8 ONNX", about, figures, rows, arguments.json)


if __name__ == "__main__":
    main()
