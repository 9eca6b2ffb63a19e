"""Speed and size of every network, input size and precision, measured with random weights before any training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fusiform.benchmarking.latency import measure_latency
from fusiform.engines import EngineName, open_engine
from fusiform.exporting.targets.base import Precision
from fusiform.graph.build import build_graph
from fusiform.graph.count import count_multiply_adds
from fusiform.graph.inputs import fold_normalization, pixel_zero_point
from fusiform.graph.ir import INPUT, Add, Conv, Gather, Graph, Linear, MaxPool, Quantization, Scale
from fusiform.graph.shapes import expected_shapes
from fusiform.graph.tflite import to_tflite
from fusiform.progress import Tracker, silent
from fusiform.selection.budget import Candidate, Plan
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tables import TRAITS
from fusiform.zoo.model import FileFormat, Model

SIZES = (96, 128, 160, 192, 224)
"""Input sizes that are searched, in pixels."""
PRECISIONS: tuple[Precision, ...] = ("float32", "int8")
PASSES, PASS_SECONDS = 3, 0.25
"""Every candidate is measured in turns with all others, so that a slow moment of the machine hits no one alone."""

ChooseEngine = Literal["litert", "onnxruntime", "native"]


def runtime_of(engine: ChooseEngine, precision: Precision) -> EngineName:
    """What runs a model for ``engine``: the native one has kernels for int8 alone, and LiteRT runs its other files."""
    return "litert" if engine == "native" and precision != "int8" else engine


def plans(sizes: Iterable[int], *, scratch: bool) -> list[Plan]:
    """Every network at every size; those without weights to start from only for ``scratch``."""
    widths = [(architecture, width) for architecture, traits in TRAITS.items() for width in traits.widths]
    every = [Plan(architecture, width, size) for architecture, width in widths for size in dict.fromkeys(sizes)]
    return [plan for plan in every if scratch or plan.start != "random"]


def stand_in(plan: Plan, labels: Sequence[str], precision: Precision) -> Graph:
    """A network of random weights, as fast and as large as a trained one: float32, or int8 with made-up scales."""
    spec = ModelSpec(
        plan.architecture,
        plan.width,
        tuple(labels),
        input_size=plan.size,
        preprocess=Preprocess(resize=plan.size, crop=plan.size),
    )
    random = np.random.default_rng(0)
    state: dict[str, Any] = {}
    for name, shape in expected_shapes(plan.architecture, plan.width, num_classes=len(labels)).items():
        if len(shape) > 1:  # keeps the activations' size, so that no number is too small for the processor's fast path
            state[name] = random.standard_normal(shape, np.float32) * math.sqrt(2 / math.prod(shape[1:]))
        else:
            state[name] = np.full(shape, name.endswith((".running_var", ".weight")), np.float32)
    graph = build_graph(spec, state)
    if precision == "float32":
        return graph
    graph = fold_normalization(graph)
    # Two scales will do, since what is gathered together has passed a ReLU, and what is added together has not.
    positive, signed = Scale(6 / 255, -128), Scale(12 / 255, 0)
    activations = {INPUT: Scale(1.0, pixel_zero_point(spec.preprocess) - 128)}
    scales: dict[str, Any] = {}
    nodes = []
    for node in graph.nodes:
        if isinstance(node, Conv | Add | Gather | MaxPool):
            linear = isinstance(node, Add) or (isinstance(node, Conv) and node.activation is None)
            activations[node.name] = signed if linear else positive
        if isinstance(node, Conv | Linear):
            largest = np.abs(node.weight).max(axis=tuple(range(1, node.weight.ndim)), keepdims=True)
            scales[node.name] = (largest / 127).ravel().astype(np.float32)
            weight = np.rint(node.weight / largest * 127).astype(np.int8)
            bias: Any = np.zeros_like(node.bias, np.int32 if isinstance(node, Conv) else np.float32)
            node = dataclasses.replace(node, weight=weight, bias=bias)
        nodes.append(node)
    return Graph(graph.spec, tuple(nodes), Quantization(activations, scales))


def measure(
    of: Sequence[Plan],
    labels: Sequence[str],
    *,
    engine: ChooseEngine,
    threads: int,
    seconds: float = PASS_SECONDS,
    progress: Tracker = silent,
) -> list[Candidate]:
    """Latency and size of every plan in every precision, in ``PASSES`` turns of so many seconds each."""
    models: list[tuple[Plan, Precision, Model, int]] = []
    with progress(total=len(of) * len(PRECISIONS), label="build candidates", unit="models") as bar:
        for plan in of:
            for precision in PRECISIONS:
                graph = stand_in(plan, labels, precision)
                models.append((plan, precision, _in_memory(graph, engine), count_multiply_adds(graph)))
                bar.advance()
    passes: list[list[float]] = [[] for _ in models]
    with progress(total=PASSES * len(models), label="latency", unit="rounds") as bar:
        for turn in range(PASSES):
            # Every other turn backwards, so that nobody always comes after the same one.
            for k in range(len(models))[:: -1 if turn % 2 else 1]:
                opened = open_engine(models[k][2], engine=runtime_of(engine, models[k][1]), threads=threads)
                passes[k].append(measure_latency(opened, seconds=seconds).median_ms)
                bar.advance()
    return [
        Candidate(plan, precision, tuple(times), len(model.data) / 1e6, multiply_adds)
        for (plan, precision, model, multiply_adds), times in zip(models, passes, strict=True)
    ]


def _in_memory(graph: Graph, engine: ChooseEngine) -> Model:
    form: FileFormat = "tflite"
    if engine != "onnxruntime":
        data = to_tflite(graph)
    else:
        from fusiform.graph.onnx import to_onnx

        form, data = "onnx", to_onnx(graph)
    return Model(Path(f"{graph.spec.name} of random weights"), form, graph.spec, data)


def noise(candidates: Iterable[Candidate]) -> float:
    """By which share a latency may come out higher when measured again, as seen between the passes; 0.02 to 0.2."""
    above = [max(candidate.passes) / candidate.ms - 1 for candidate in candidates]
    return float(np.clip(np.quantile(above, 0.9), 0.02, 0.2))
