"""What is measured before any training: which networks, of which size, and how surely."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from fusiform.engines.litert import LiteRTEngine
from fusiform.engines.native.compiled import usable_kernels
from fusiform.exporting.quantization.quantize import QuantizedNetwork
from fusiform.exporting.targets.base import Precision
from fusiform.graph.ir import Graph
from fusiform.graph.tflite import to_tflite
from fusiform.selection.budget import Candidate, Plan
from fusiform.selection.latency import SIZES, ChooseEngine, measure, noise, plans, stand_in

LABELS = ("one", "two", "three")


def test_without_scratch_every_plan_has_weights_to_start_from() -> None:
    assert {p.network for p in plans(SIZES, scratch=False)} == {
        "mobilenet_v2_x0_35",
        "mobilenet_v2_x0_5",
        "mobilenet_v2_x0_75",
        "mobilenet_v2_x1_0",
        "shufflenet_v2_x1_0",
    }
    every = plans(SIZES, scratch=True)
    assert len(every) == len(set(every)) == 10 * len(SIZES)


def test_noise_is_how_much_more_a_latency_may_be_when_measured_again() -> None:
    def passes(*times: float) -> Candidate:
        return Candidate(Plan("shufflenet_v2", 1.0, 224), "int8", times, 1.0, 1)

    assert noise([passes(1.0, 1.0, 1.08)]) == pytest.approx(0.08)
    assert noise([passes(1.0, 1.0, 1.0)]) == 0.02
    assert noise([passes(1.0, 1.0, 9.0)]) == 0.2
    assert noise([*[passes(1.0, 1.0, 1.05)] * 10, passes(1.0, 1.0, 3.0)]) == pytest.approx(0.05)  # one in eleven


@pytest.mark.parametrize("plan", [Plan("mobilenet_v2", 0.35, 64), Plan("shufflenet_v2", 0.5, 64)], ids=str)
def test_the_stand_in_has_the_size_and_operators_of_a_real_network(
    plan: Plan,
    small_spec: Callable[..., Any],
    lived_in_state: Callable[..., Any],
) -> None:
    import torch

    from fusiform.graph.build import build_graph

    spec = small_spec(plan.architecture, plan.width, size=64, classes=3)
    real = build_graph(spec, lived_in_state(spec))
    quantised = QuantizedNetwork(real)
    quantised.calibrate([torch.randint(0, 256, (2, 3, 64, 64)).float()])
    graphs: dict[Precision, Graph] = {"float32": real, "int8": quantised.freeze()}
    for precision, graph in graphs.items():
        made = stand_in(plan, spec.labels, precision)
        assert [type(node) for node in made.nodes] == [type(node) for node in graph.nodes]
        assert made.shapes == graph.shapes
        file, expected = to_tflite(made), to_tflite(graph)
        assert abs(len(file) - len(expected)) < 0.01 * len(expected)
        if graph.quantization is not None:
            assert made.quantization is not None
            assert made.quantization.activations.keys() == graph.quantization.activations.keys()
        answer = LiteRTEngine(file, made.spec).run(np.full((1, 64, 64, 3), 90, np.uint8))["logits"]
        assert np.isfinite(answer).all()
        assert np.ptp(answer) > 0  # the picture reaches the answer: no layer stands still at zero


NATIVE = pytest.param("native", marks=pytest.mark.skipif(not usable_kernels(), reason="it was not compiled"))


@pytest.mark.parametrize("engine", ["litert", "onnxruntime", NATIVE])
def test_measuring_gives_every_plan_in_every_precision(engine: ChooseEngine) -> None:
    wanted = [Plan("mobilenet_v2", 0.35, 32), Plan("shufflenet_v2", 0.5, 32)]
    measured = measure(wanted, LABELS, engine=engine, threads=1, seconds=0)
    assert [(c.plan, c.precision) for c in measured] == [(p, q) for p in wanted for q in ("float32", "int8")]
    for one in measured:
        assert len(one.passes) == 3
        assert min(one.passes) > 0
    for float32, int8 in zip(measured[::2], measured[1::2], strict=True):
        assert float32.multiply_adds == int8.multiply_adds
        assert 2.5 < float32.megabytes / int8.megabytes < 4  # a fourth of the weights' bytes, and the rest stays
