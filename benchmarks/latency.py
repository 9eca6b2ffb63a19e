"""Milliseconds a picture: engines x networks x {float, int8} x threads {1, 2}, from 224x224 pixels to logits.

    python benchmarks/latency.py [--rounds 30] [--runs 10] [--json FILE]

All contenders live in one process and take turns: in each round a contender runs the picture three times to warm up
and then ``--runs`` times by the clock, so that the threads of the one before have gone to sleep and its own weights are
back in the cache. Medians and best over all rounds; ``ratio`` is to the fastest engine with the same network and
threads. int8 is the bundled file, float its weights dequantised and written again; PyTorch has no int8 form. Engines
are given uint8 pixels; with a float network that includes their normalisation.

"bare LiteRT" is the runtime without fusiform: set_tensor, invoke and get_tensor on the same file, and the same pixels
in the form that the file reads. ``over bare %`` is what the engine adds: the best run of a round against the bare
runtime's best in the same round, and of that the median over the rounds; the best, because whatever else the machine
does only ever adds time. Target: no more than 5 % in LiteRT's engine with the int8 file.

"native" is fusiform's own engine with each set of kernels that the processor has, in one thread. ``cpu ms`` is the
process's time on processors, median: what others do on the machine adds to it less than to the clock's. ``x LiteRT`` is
LiteRT's processor time over the engine's, round by round, and of that the median. Targets: 2.0, and at least 1.6.

"OpenVINO", where it is installed, reads the network that fusiform exports for it; "OpenVINO x8" is given eight pictures
at a time, and its figures are those of one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import chain
from typing import NamedTuple

import common
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter

from fusiform.data.preprocess import normalize
from fusiform.engines import Engine
from fusiform.engines.litert import LiteRTEngine
from fusiform.engines.native.compiled import usable_kernels
from fusiform.engines.native.engine import NativeEngine
from fusiform.engines.onnxruntime import OnnxRuntimeEngine
from fusiform.engines.torch import TorchEngine
from fusiform.graph.build import build_graph
from fusiform.graph.onnx import to_onnx
from fusiform.graph.tflite import to_tflite
from fusiform.report import Cell
from fusiform.zoo.model import open_model

NETWORKS = ("mobilenet_v2", "shufflenet_v2_x1_0")
THREADS = (1, 2)
WARM_UP = 3
BATCH = 8


class Contender(NamedTuple):
    """What is measured, and what answers one picture."""

    network: str
    threads: int
    engine: str
    precision: str
    answer: Callable[[], object]
    pictures: int = 1

    @property
    def name(self) -> str:
        return " ".join((self.network, f"{self.threads}T", self.engine, self.precision))


def contenders_of(network: str, threads: int) -> list[Contender]:
    """Every engine in every precision there is."""
    model = open_model(network)
    spec, state = model.spec.with_logits(), model.state()
    side = spec.input_size
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    graphs = {"int8": model.graph(), "float": build_graph(spec, state)}
    made: list[Contender] = []
    for precision, graph in graphs.items():
        # The int8 file is the bundled one, byte for byte.
        file = model.tflite() if precision == "int8" else to_tflite(graph)
        engines: dict[str, Engine] = {
            "LiteRT": LiteRTEngine(file, model.spec if precision == "int8" else spec, threads=threads),
            "ONNX Runtime": OnnxRuntimeEngine(to_onnx(graph), spec, threads=threads),
        }
        if precision == "int8" and threads == 1:
            native = [name for name in usable_kernels() if name != "portable"]
            engines |= {f"native {name}": NativeEngine(file, model.spec, kernels=name) for name in native}
        if precision == "float":
            engines["PyTorch"] = TorchEngine(state, spec, threads=threads)
        ready = pixels if precision == "int8" else normalize(pixels, spec.preprocess, layout="nhwc")
        made.append(Contender(network, threads, "bare LiteRT", precision, _bare(file, threads, ready)))
        made += [Contender(network, threads, name, precision, partial(e.run, pixels)) for name, e in engines.items()]
        if find_spec("openvino") is not None:
            from fusiform.engines.openvino import OpenVinoEngine

            for name, batch in (("OpenVINO", 1), (f"OpenVINO x{BATCH}", BATCH)):
                run = partial(OpenVinoEngine(to_onnx(graph), spec, threads=threads).run, pixels.repeat(batch, axis=0))
                made.append(Contender(network, threads, name, precision, run, batch))
    return made


def _bare(file: bytes, threads: int, given: np.ndarray) -> Callable[[], object]:
    interpreter = Interpreter(model_content=file, num_threads=threads)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def answer() -> object:
        interpreter.set_tensor(source, given)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return answer


class Run(NamedTuple):
    """Milliseconds a picture by the clock, and of this process's time on processors."""

    wall: float
    cpu: float


def turn(contender: Contender, runs: int) -> list[Run]:
    """Each run that counts."""
    torch.set_num_threads(contender.threads)  # one setting for the whole process, and the others do not heed it
    for _ in range(WARM_UP):
        contender.answer()
    times = []
    for _ in range(runs):
        start, busy = time.perf_counter(), time.process_time()
        contender.answer()
        busy, wall = time.process_time() - busy, time.perf_counter() - start
        times.append(Run(1000 * wall / contender.pictures, 1000 * busy / contender.pictures))
    return times


def main() -> None:
    parser = common.parser(__doc__, rounds=30)
    parser.add_argument("--runs", type=int, default=10, help="runs a round (default: %(default)s)")
    arguments = parser.parse_args()
    about = common.machine("fusiform", "ai-edge-litert", "onnxruntime", "openvino", "torch", "numpy")
    contenders = {c.name: c for network in NETWORKS for threads in THREADS for c in contenders_of(network, threads)}
    times = common.in_turns(
        {name: partial(turn, c, arguments.runs) for name, c in contenders.items()}, arguments.rounds
    )

    medians = {name: statistics.median(run.wall for run in chain.from_iterable(t)) for name, t in times.items()}
    best = {name: [min(run.wall for run in turn) for turn in turns] for name, turns in times.items()}
    busy = {name: [statistics.median(run.cpu for run in turn) for turn in turns] for name, turns in times.items()}
    rows: list[dict[str, Cell]] = []
    for name, (network, threads, engine, precision, *_) in contenders.items():
        column = [m for n, m in medians.items() if contenders[n][:2] == (network, threads) and "bare" not in n]
        bare, litert = (
            Contender(network, threads, one, precision, contenders[name].answer).name
            for one in ("bare LiteRT", "LiteRT")
        )
        over_bare = common.median_ratio(best[name], best[bare]) - 1
        one = threads == 1  # threads that wait for each other spin, and that counts too
        rows.append({
            "network": network,
            "threads": threads,
            "engine": engine,
            "precision": precision,
            "median ms": round(medians[name], 3),
            "best ms": round(min(best[name]), 3),
            "cpu ms": round(statistics.median(busy[name]), 3) if one else None,
            "x LiteRT": round(common.median_ratio(busy[litert], busy[name]), 2) if one else None,
            "ratio": round(medians[name] / min(column), 2),
            "over bare %": round(100 * over_bare, 1) if engine == "LiteRT" else None,
        })  # fmt: skip
    rows += [
        {"network": network, "threads": threads, "engine": "PyTorch", "precision": "int8: there is none"}
        for network in NETWORKS
        for threads in THREADS
    ]
    default = [row for row in rows if row["engine"] == "LiteRT" and row["precision"] == "int8"]
    figures = {
        "rounds": arguments.rounds,
        "runs a round": arguments.runs,
        "warm-up": f"{WARM_UP} runs in each round, and one round",
        "batch": 1,
        **{
            f"the default engine over bare LiteRT, %, {row['network']} {row['threads']}T (target: 5)": row[
                "over bare %"
            ]
            for row in default
        },
        **{
            f"{row['engine']} over LiteRT's processor time, {row['network']} (target: 2.0, at least 1.6)": row[
                "x LiteRT"
            ]
            for row in rows
            if str(row["engine"]).startswith("native")
        },
    }
    rows.sort(key=lambda row: (str(row["network"]), int(str(row["threads"])), float(str(row.get("median ms", "inf")))))
    common.finish("latency", about, figures, rows, arguments.json)


if __name__ == "__main__":
    main()
