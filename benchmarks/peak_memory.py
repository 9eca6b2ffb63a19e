"""The most memory that activations take, measured plain and in slices, beside the prediction and the paper's formula.

    python benchmarks/peak_memory.py [--size 224] [--slices 4] [--json FILE]

MobileNetV2 at its six widths, one picture, float32, one thread. What is measured, each by what really holds it:

- PyTorch: the network itself in eval mode and channels_last, plain and after ``split_expansion``. All that the CPU
  allocator gave out and did not have back yet, as torch.profiler records it, kernels' own tensors included. Predicted
  with batch normalisation apart from its convolution for the plain network; in slices it is folded on the fly.
- PyTorch, folded: the graph as a module (``exporting/targets/module.py``), plain and split, its ReLU6 in place.
- PyTorch, NCHW: the network again without channels_last. Not predicted: oneDNN copies what it reads into an order of
  its own, which depends on the processor.
- LiteRT: the span of the arena that the interpreter planned for the activations, with its own kernels; predicted by
  planning as it plans. The padding is TensorFlow's, which needs no operators of its own there.
- LiteRT, XNNPACK: resident memory that a new process gains by preparing and running the file. Not predicted: XNNPACK's
  copy of the weights is in it, and tables of pointers for each depthwise convolution, of which slices have more.
- ONNX Runtime: resident memory that a run needs for a while in a new process, its own arena switched off. It chooses
  the order of the nodes itself, and does not keep to one slice after the other.

The predictions (``graph/memory.py``) have no measured number in them. Target: within 10 % for PyTorch and LiteRT.
Linux only.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import common

from fusiform.report import Cell
from fusiform.tables import MOBILENET_V2_WIDTHS

if TYPE_CHECKING:
    from fusiform.graph.ir import Graph
    from fusiform.spec import Padding

# A block this large is then given back to the system as soon as it is free, and taken from it when it is needed.
RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}


class Pair(NamedTuple):
    """Bytes of the plain network and of the one in slices."""

    plain: int
    sliced: int


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--size", type=int, default=224, help="the picture's side (default: %(default)s)")
    parser.add_argument("--slices", type=int, default=4, help="slices of each expansion (default: %(default)s)")
    parser.add_argument("--width", type=float, action="append", help="only this one; may be given again")
    parser.add_argument("--resident", nargs=2, metavar=("RUNTIME", "FILE"), help="what a process of its own measures")
    arguments = parser.parse_args()
    if arguments.resident:
        runtime, file = arguments.resident
        print({"litert": litert_resident, "onnxruntime": onnxruntime_resident}[runtime](Path(file)))
        return

    about = common.machine("fusiform", "torch", "ai-edge-litert", "onnxruntime")
    rows: list[dict[str, Cell]] = []
    for width in arguments.width or MOBILENET_V2_WIDTHS:
        rows += measure(width, arguments.size, arguments.slices)
    exact = [row for row in rows if row["program"] in ("PyTorch", "PyTorch, folded", "LiteRT")]
    differences = [abs(row[key]) for row in exact for key in ("off_percent", "off_percent_sliced")]  # type: ignore[arg-type]
    figures: dict[str, Cell] = {
        "picture": f"{arguments.size}x{arguments.size}",
        "slices": arguments.slices,
        "largest difference of PyTorch and LiteRT, % (target: 10)": max(differences),
    }
    common.finish("peak memory of activations, bytes", about, figures, rows, arguments.json)


def measure(width: float, size: int, slices: int) -> list[dict[str, Cell]]:
    """One row for each program, and one for the paper's formula."""
    import torch
    import torch.nn.functional as F

    from fusiform.exporting.targets.module import to_module
    from fusiform.graph.memory import arena_memory, formula_memory, held_by_resolution, peak_memory
    from fusiform.graph.onnx import to_onnx
    from fusiform.graph.split import split_expansion
    from fusiform.graph.tflite import to_tflite
    from fusiform.modules import MobileNetV2

    torch.set_num_threads(1)
    graph = graph_of(width, size)
    split = split_expansion(graph, slices)
    fused = Pair(peak_memory(graph).bytes, peak_memory(split).bytes)
    eager = Pair(peak_memory(graph, separate_norms=True).bytes, fused.sliced)
    picture = torch.zeros(1, 3, size, size)

    def network(count: int, order: torch.memory_format) -> int:
        module = MobileNetV2(width).eval().split_expansion(count).to(memory_format=order)  # type: ignore[call-overload]
        return torch_peak(lambda x: module(x), picture.to(memory_format=order))

    def folded(of: Graph) -> int:
        module = to_module(of).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for node in module.graph.nodes:
            if node.target is F.relu6:
                node.kwargs = {"inplace": True}
        module.recompile()
        return torch_peak(lambda x: module(x), picture.to(memory_format=torch.channels_last))

    rows: list[dict[str, Cell]] = []

    def add(program: str, predicted: Pair | None, measured: Pair) -> None:
        row: dict[str, Cell] = {"width": width, "program": program}
        for key, k in (("", 0), ("_sliced", 1)):
            if predicted is not None:
                row[f"predicted{key}"] = predicted[k]
            row[f"measured{key}"] = measured[k]
            if predicted is not None:
                row[f"off_percent{key}"] = round(100 * (measured[k] / predicted[k] - 1), 2)
        rows.append(row)

    last, first = torch.channels_last, torch.contiguous_format
    add("PyTorch", eager, Pair(network(1, last), network(slices, last)))
    add("PyTorch, folded", fused, Pair(folded(graph), folded(split)))
    add("PyTorch, NCHW", None, Pair(network(1, first), network(slices, first)))

    tensorflow = graph_of(width, size, padding="same")
    graphs = [tensorflow, split_expansion(tensorflow, slices)]
    files = [to_tflite(of) for of in graphs]
    add("LiteRT", Pair(*(arena_memory(of) for of in graphs)), Pair(*(litert_arena(data) for data in files)))
    add("LiteRT, XNNPACK", None, Pair(*(in_new_process("litert", data) for data in files)))
    # The caller's picture was there before.
    without_picture = Pair(*(value - picture.nbytes for value in fused))
    files = [to_onnx(graph), to_onnx(split)]
    add("ONNX Runtime", without_picture, Pair(*(in_new_process("onnxruntime", data) for data in files)))

    paper = [formula_memory(graph, slices=count, bytes_per_value=4).bytes for count in (1, slices)]
    held = max(row.bytes for row in held_by_resolution(graph, bytes_per_value=2))
    rows.append(
        {
            "width": width,
            "program": "the paper's formula",
            "predicted": paper[0],
            "predicted_sliced": paper[1],
            "table_3_16_bit": held,
        }
    )
    return rows


def graph_of(width: float, size: int, *, padding: Padding = "symmetric") -> Graph:
    """MobileNetV2 with 1000 classes; its weights are zeros, which take the memory that all others take."""
    from fusiform.analysis import graph_of_zeros
    from fusiform.spec import ModelSpec, Preprocess

    labels = tuple(f"class {k}" for k in range(1000))
    preprocess = dataclasses.replace(Preprocess(), crop=size)
    return graph_of_zeros(
        ModelSpec("mobilenet_v2", width, labels, input_size=size, padding=padding, preprocess=preprocess)
    )


def torch_peak(network: Callable[..., object], picture: object) -> int:
    """The most bytes that PyTorch's CPU allocator held for ``network(picture)``, a copy of the picture among them."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    assert isinstance(picture, torch.Tensor)
    with torch.inference_mode():
        network(picture)  # what is prepared only once is not the network's
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
            copy = picture.clone()
            network(copy)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        recorded.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def litert_arena(data: bytes) -> int:
    """The span of memory that LiteRT's interpreter planned for a file's activations, without XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=data,
        num_threads=1,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    spans = []
    for tensor in interpreter.get_tensor_details():
        # Constants lie in the file, and kernels' own tensors have no name.
        if tensor["name"] and not tensor["name"].endswith((".weight", ".bias", "/pads", "/axes")):
            array = interpreter.tensor(tensor["index"])()
            start = array.__array_interface__["data"][0]
            spans.append((start, start + array.nbytes))
    return max(end for _, end in spans) - min(start for start, _ in spans)


def in_new_process(runtime: str, data: bytes) -> int:
    """What ``--resident`` prints for a file with this content."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model")
        file.write_bytes(data)
        command = [sys.executable, __file__, "--resident", runtime, str(file)]
        environment = {**os.environ, **RETURN_MEMORY}
        done = subprocess.run(command, env=environment, capture_output=True, check=True, encoding="utf-8")
    return int(done.stdout.split()[-1])


def litert_resident(file: Path) -> int:
    """The resident memory that preparing and running the file adds and keeps, XNNPACK's weights included."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=file.read_bytes(), num_threads=1)
    before = resident("VmRSS")
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()[0]
    interpreter.set_tensor(details["index"], np.ones(details["shape"], np.float32))
    interpreter.invoke()
    return resident("VmRSS") - before


def onnxruntime_resident(file: Path) -> int:
    """The most resident memory that a run takes for a while: the least of three runs after one that does not count."""
    import numpy as np

    from fusiform.engines.quiet import import_onnxruntime

    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    feeds = {image.name: np.ones((1, *image.shape[1:]), np.float32)}
    gains = []
    for _ in range(4):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts again from here
        before = resident("VmRSS")
        session.run(None, feeds)
        gains.append(resident("VmHWM") - before)
    return min(gains[1:])


def resident(line: str) -> int:
    """Bytes of this process's memory, as a line of Linux's /proc/self/status has them: VmRSS now, VmHWM the peak."""
    found = re.search(rf"^{line}:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


if __name__ == "__main__":
    main()
