"""Detectors and segmenters as graphs: what PyTorch answers, in the files of both runtimes, float32 and int8."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fusiform.engines.litert import LiteRTEngine
from fusiform.engines.onnxruntime import OnnxRuntimeEngine
from fusiform.errors import WeightsError
from fusiform.graph.build import build_graph
from fusiform.graph.count import count_multiply_adds, count_parameters
from fusiform.graph.numbers import to_state
from fusiform.graph.onnx import from_onnx, to_onnx
from fusiform.graph.shapes import state_shapes
from fusiform.graph.tflite import from_tflite, to_tflite
from fusiform.spec import ModelSpec, Preprocess

torch = pytest.importorskip("torch")
from fusiform.engines.torch import TorchEngine
from fusiform.exporting.quantization.calibrate import calibrate
from fusiform.exporting.quantization.quantize import QuantizedNetwork
from fusiform.modules import build_network

State = dict[str, NDArray[Any]]

TASKS: dict[str, dict[str, Any]] = {
    "detection": {"task": "detection", "input_size": 96},
    "segmentation": {"task": "segmentation", "input_size": 97, "output_stride": 16},
    "segmentation_aspp_8": {"task": "segmentation", "input_size": 65, "output_stride": 8, "aspp": True},
}
all_networks = pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
all_tasks = pytest.mark.parametrize("task", TASKS)


def make_spec(architecture: Any, task: str, *, padding: Any = "symmetric", width: float = 0.5) -> ModelSpec:
    fields = TASKS[task]
    size = fields["input_size"]
    preprocess = Preprocess(resize=size, crop=size, fit="stretch")
    labels = tuple(f"class {k}" for k in range(5))
    return ModelSpec(architecture, width, labels, padding=padding, preprocess=preprocess, **fields)


def lived_in(spec: ModelSpec) -> State:
    """Weights whose statistics and biases are far from those that they were born with."""
    random = np.random.default_rng(3)
    state: State = {}
    for name, shape in state_shapes(spec).items():
        fans = max(1, int(np.prod(shape[1:])))
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(5)
            continue
        if name.endswith("running_mean"):
            values = random.uniform(-0.3, 0.3, shape)
        elif name.endswith("running_var"):
            values = random.uniform(0.7, 1.3, shape)
        elif name.endswith("bias"):
            values = random.uniform(-0.3, 0.7, shape)
        elif len(shape) == 1:
            values = random.uniform(0.7, 1.3, shape)
        else:
            values = random.normal(0, np.sqrt(1.5 / fans), shape)
        state[name] = values.astype(np.float32)
    return state


def pictures(spec: ModelSpec, count: int = 2) -> NDArray[np.uint8]:
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, 14, 14, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(7, 1).repeat(7, 2)[:, : spec.input_size, : spec.input_size])


def difference(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@all_networks
@all_tasks
def test_the_names_and_shapes_are_the_networks(architecture: str, task: str) -> None:
    spec = make_spec(architecture, task)
    network = build_network(spec)
    assert state_shapes(spec) == {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert list(state_shapes(spec)) == list(network.state_dict())
    assert count_parameters(build_graph(spec, lived_in(spec))) == sum(p.numel() for p in network.parameters())


@all_networks
@all_tasks
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_both_runtimes_answer_like_pytorch(architecture: str, task: str, padding: str) -> None:
    spec = make_spec(architecture, task, padding=padding)
    state = lived_in(spec)
    graph, pixels = build_graph(spec, state), pictures(spec)
    wanted = TorchEngine(state, spec).run(pixels)
    assert {name: values.shape[1:] for name, values in wanted.items()} == spec.answers
    again = TorchEngine(to_state(graph), spec).run(pixels)
    for found in (
        LiteRTEngine(to_tflite(graph), spec).run(pixels),
        OnnxRuntimeEngine(to_onnx(graph), spec).run(pixels),
    ):
        for name in spec.answers:
            np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=1e-5 * np.abs(wanted[name]).max())
            np.testing.assert_allclose(again[name], wanted[name], rtol=0, atol=1e-5 * np.abs(wanted[name]).max())


@all_networks
@all_tasks
def test_files_are_read_back(architecture: str, task: str) -> None:
    spec = make_spec(architecture, task)
    graph = build_graph(spec, lived_in(spec))
    assert to_tflite(from_tflite(to_tflite(graph))) == to_tflite(graph)
    assert to_onnx(from_onnx(to_onnx(graph))) == to_onnx(graph)


@functools.cache
def calibrated(architecture: str, task: str) -> tuple[ModelSpec, State, QuantizedNetwork]:
    """To calibrate takes longer than all that is done with it here."""
    spec = make_spec(architecture, task)
    state = lived_in(spec)
    return spec, state, calibrate(build_graph(spec, state), pictures(spec, 24)).network


@all_networks
@all_tasks
@pytest.mark.parametrize("kept", [0, 4])
def test_int8_files_are_near_and_are_read_back(architecture: str, task: str, kept: int) -> None:
    spec, state, network = calibrated(architecture, task)
    network.kept = frozenset()
    sensitive = network.layer_errors(torch.from_numpy(pictures(spec, 4)).permute(0, 3, 1, 2).float()) if kept else []
    network.kept = frozenset(layer.name for layer in sensitive[:kept])
    graph = network.freeze()
    pixels = pictures(spec)
    real = TorchEngine(state, spec).run(pixels)
    first, second = (
        LiteRTEngine(to_tflite(graph), spec).run(pixels),
        OnnxRuntimeEngine(to_onnx(graph), spec).run(pixels),
    )
    for name in spec.answers:
        # Random weights are as hard to quantise as weights can be.
        assert difference(first[name], real[name]) < 0.35
        assert difference(second[name], first[name]) < 0.03
    assert to_tflite(from_tflite(to_tflite(graph))) == to_tflite(graph)
    assert to_tflite(from_onnx(to_onnx(graph))) == to_tflite(graph)


@pytest.mark.parametrize(
    ("changes", "parameters", "multiply_adds"),
    [
        ({"task": "detection", "input_size": 320}, 4_337_013, 0.789e9),
        ({"task": "segmentation", "input_size": 513, "output_stride": 16}, 2_113_557, 2.741e9),
        ({"task": "segmentation", "input_size": 513, "output_stride": 16, "aspp": True}, 4_523_541, 5.364e9),
    ],
)
def test_the_papers_counts(changes: dict[str, Any], parameters: int, multiply_adds: float) -> None:
    """Table 6: 4.3M and 0.8B; Table 7: 2.11M and 2.75B, 4.52M and 5.8B as TensorFlow computes it."""
    size = changes["input_size"]
    labels = tuple(f"class {k}" for k in range(80 if changes["task"] == "detection" else 21))
    preprocess = Preprocess(resize=size, crop=size, fit="stretch")
    spec = ModelSpec("mobilenet_v2", 1.0, labels, preprocess=preprocess, **changes)
    zeros = {name: np.broadcast_to(np.float32(0), shape) for name, shape in state_shapes(spec).items()}
    graph = build_graph(spec, zeros)
    assert count_parameters(graph) == parameters
    assert count_multiply_adds(graph) == pytest.approx(multiply_adds, rel=1e-3)


def test_weights_for_other_classes_are_refused() -> None:
    spec = make_spec("mobilenet_v2", "detection")
    with pytest.raises(WeightsError, match=r"has the shape \(18, .* but ssdlite_mobilenet_v2_x0_5 needs \(15, "):
        build_graph(spec.replace(labels=spec.labels[:4]), lived_in(spec))
