"""Files that LiteRT runs: read back, byte for byte, and refused when damaged."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from fusiform.errors import SpecError, WeightsError
from fusiform.graph.build import build_graph
from fusiform.graph.ir import INPUT, Add, Conv, Graph, Linear, Mean, Quantization, Scale
from fusiform.graph.tflite import from_tflite, to_tflite
from fusiform.spec import ModelSpec, Preprocess

SCRIPT = """
import hashlib, sys
import numpy as np
from fusiform.graph.build import build_graph
from fusiform.graph.tflite import to_tflite
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.checkpoint import expected_shapes
spec = ModelSpec("shufflenet_v2", 0.5, ("a", "b"), input_size=32, preprocess=Preprocess(resize=32, crop=32))
shapes = expected_shapes("shufflenet_v2", 0.5, num_classes=2)
state = {name: np.full(shape, (k % 7 + 1) / 8, np.float32) for k, (name, shape) in enumerate(shapes.items())}
print(hashlib.sha256(to_tflite(build_graph(spec, state))).hexdigest())
"""


def quantised(graph, seed=3):
    """An int8 graph of random numbers: what is in it does not matter to a file."""
    random = np.random.default_rng(seed)
    nodes, scales = [], {}
    for node in graph.nodes:
        if isinstance(node, Conv | Linear):
            scales[node.name] = random.uniform(0.001, 0.01, len(node.bias)).astype(np.float32)
            weight = random.integers(-127, 128, node.weight.shape).astype(np.int8)
            bias = random.integers(-1000, 1000, len(node.bias)).astype(np.int32)
            node = dataclasses.replace(node, weight=weight, bias=bias if isinstance(node, Conv) else node.bias)
        nodes.append(node)
    activations = {INPUT: Scale(1.0, -14)}
    for node in graph.nodes:
        if not isinstance(node, Mean | Linear):
            shared = graph.spec.architecture == "shufflenet_v2"
            scale = 0.02 if shared else random.uniform(0.01, 0.03)
            activations[node.name] = Scale(
                float(np.float32(scale)), -128 if shared else int(random.integers(-128, 127))
            )
    return Graph(graph.spec, tuple(nodes), Quantization(activations, scales))


@pytest.fixture(params=["mobilenet_v2", "shufflenet_v2"])
def graph(request, small_spec, lived_in_state):
    spec = small_spec(request.param, padding="same")
    spec = spec.replace(labels=("Zürich", "\N{CAT FACE}", *spec.labels[2:]), provenance="a test")
    return build_graph(spec, lived_in_state(spec))


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_graph_comes_back(graph, precision):
    if precision == "int8":
        graph = quantised(graph)
    file = to_tflite(graph)
    back = from_tflite(file)
    assert back.spec == graph.spec
    for node, read in zip(graph.nodes, back.nodes, strict=True):
        assert type(node) is type(read)
        for field in dataclasses.fields(node):
            np.testing.assert_array_equal(getattr(read, field.name), getattr(node, field.name), strict=True)
    if graph.quantization is not None:
        assert back.quantization.activations == graph.quantization.activations
        assert back.quantization.weights.keys() == graph.quantization.weights.keys()
        for name, scales in graph.quantization.weights.items():
            np.testing.assert_array_equal(back.quantization.weights[name], scales, strict=True)
    assert to_tflite(back) == file
    assert to_tflite(graph) == file


def test_the_bytes_do_not_depend_on_the_process():
    def digest(seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        answer = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
        )
        return answer.stdout.strip()

    digests = {digest("1"), digest("2")}
    assert len(digests) == 1
    assert len(digests.pop()) == len(hashlib.sha256().hexdigest())


def test_weights_are_aligned_for_the_kernels(graph):
    file = to_tflite(graph)
    for node in graph.nodes:
        if isinstance(node, Linear):
            assert file.index(node.weight.tobytes()) % 16 == 0


def test_a_file_cut_anywhere_is_damaged(graph):
    file = to_tflite(quantised(graph))
    for length in (8, 100, 5000, len(file) // 2, len(file) - 3000, len(file) - 5, len(file) - 1):
        with pytest.raises((WeightsError, SpecError), match=r"a\.tflite"):
            from_tflite(file[:length], source="a.tflite")


def test_a_spec_of_another_network_is_noticed(graph):
    file = to_tflite(graph)
    other = b'"width": 0.5'
    assert file.count(other) == 1
    with pytest.raises(WeightsError, match=r"b\.tflite: .* another network"):
        from_tflite(file.replace(other, b'"width": 1.0'), source="b.tflite")


def test_other_files(tmp_path):
    with pytest.raises(WeightsError, match="c: not a TensorFlow Lite file"):
        from_tflite(b"GIF89a and more", source="c")
    with pytest.raises(WeightsError, match="c: not a TensorFlow Lite file"):
        from_tflite(b"", source="c")


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
def test_random_damage_never_ends_in_a_traceback(architecture, small_spec, lived_in_state):
    file = bytearray(to_tflite(build_graph(small_spec(architecture), lived_in_state(small_spec(architecture)))))
    # The tables of tensors and operators, where distances and lengths are, lie behind the weights.
    random = np.random.default_rng(0)
    for at in random.integers(len(file) - 50_000, len(file) - 4, 50):
        damaged = bytearray(file)
        damaged[at : at + 4] = random.bytes(4)
        try:
            from_tflite(bytes(damaged), source="d.tflite")
        except (WeightsError, SpecError) as error:
            assert "d.tflite" in str(error)  # noqa: PT017  # not every damage shows


def test_the_file_describes_itself_to_other_tools(graph):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=to_tflite(quantised(graph)))
    interpreter.allocate_tensors()
    given, made = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    assert (given["dtype"], tuple(given["shape"])) == (np.uint8, (1, 32, 32, 3))
    assert given["quantization"] == (1.0, 0)  # pixels as they are
    assert (made["dtype"], tuple(made["shape"])) == (np.float32, (1, 10))


def test_a_description_of_any_length_fits():
    names = tuple(f"{k:05} " + "x" * 300 for k in range(3000))
    spec = ModelSpec("shufflenet_v2", 0.5, names, input_size=32, preprocess=Preprocess(resize=32, crop=32))
    from fusiform.graph.shapes import expected_shapes

    shapes = expected_shapes("shufflenet_v2", 0.5, num_classes=3000)
    state = {name: np.broadcast_to(np.float32(0.5), shape) for name, shape in shapes.items()}
    assert from_tflite(to_tflite(build_graph(spec, state))).spec == spec


def test_pixels_come_in_exactly_as_they_came_in_as_int8(graph):
    """LiteRT's tensor behind the input is pixels less 128, with the zero point that makes the grey a zero."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=to_tflite(quantised(graph)),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    pixels = np.arange(32 * 32 * 3).reshape(1, 32, 32, 3).astype(np.uint8)  # each of the 256
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
    interpreter.invoke()
    (inside,) = (detail for detail in interpreter.get_tensor_details() if detail["name"] == f"{INPUT}/int8")
    assert inside["quantization"] == (1.0, 114 - 128)
    np.testing.assert_array_equal(interpreter.get_tensor(inside["index"]), pixels.astype(np.int16) - 128)


def test_a_first_convolution_in_float_reads_pixels_too(graph):
    int8 = quantised(graph)
    first = graph.nodes[0]
    nodes = (dataclasses.replace(first, weight=first.weight / 58), *int8.nodes[1:])
    kept = Quantization(int8.quantization.activations, int8.quantization.weights, frozenset({first.name}))
    mixed = Graph(graph.spec, nodes, kept)
    back = from_tflite(to_tflite(mixed))
    assert back.quantization.activations == kept.activations
    assert back.quantization.in_float == {first.name}
    assert to_tflite(back) == to_tflite(mixed)


def test_a_network_all_of_whose_layers_are_in_float_is_still_an_int8_graph(graph):
    int8 = quantised(graph)
    names = frozenset(node.name for node in graph.nodes if isinstance(node, Conv | Linear | Add))
    mixed = Graph(graph.spec, graph.nodes, Quantization(int8.quantization.activations, {}, names))
    back = from_tflite(to_tflite(mixed))
    assert back.quantization is not None
    assert back.quantization.in_float == names


@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_probabilities_are_the_softmax_of_the_logits(graph, precision, temperature):
    from fusiform.engines.litert import LiteRTEngine
    from fusiform.tasks.classification import softmax, to_logits

    spec = graph.spec.replace(output="probabilities", temperature=temperature)
    graph = graph if precision == "float32" else quantised(graph)
    # Answers of the size that trained networks give.
    last = graph.nodes[-1]
    small = dataclasses.replace(last, bias=np.linspace(-5, 5, 10, dtype=np.float32))
    if precision == "float32":
        small = dataclasses.replace(small, weight=last.weight * np.float32(0.01))
    else:
        graph.quantization.weights[last.name][:] /= 1000
    graph = dataclasses.replace(graph, nodes=(*graph.nodes[:-1], small))
    file = to_tflite(dataclasses.replace(graph, spec=spec))
    assert from_tflite(file).spec == spec
    assert to_tflite(from_tflite(file)) == file
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    logits = LiteRTEngine(to_tflite(graph), graph.spec).run(pixels)["logits"]
    shares = LiteRTEngine(file, spec).run(pixels)["probabilities"]
    np.testing.assert_allclose(shares, softmax(logits / temperature), rtol=1e-5)
    back = to_logits(shares, spec)
    np.testing.assert_allclose(
        back - back.mean(1, keepdims=True), logits - logits.mean(1, keepdims=True), atol=1e-4 * np.abs(logits).max()
    )


def test_a_signature_names_input_and_answers(graph):
    from ai_edge_litert.interpreter import Interpreter

    spec = graph.spec.replace(output="probabilities")
    for given, name in ((graph, "logits"), (dataclasses.replace(graph, spec=spec), "probabilities")):
        interpreter = Interpreter(model_content=to_tflite(given))
        assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["image"], "outputs": [name]}}
        answer = interpreter.get_signature_runner()(image=np.zeros((1, 32, 32, 3), np.float32))
        assert answer[name].shape == (1, 10)
