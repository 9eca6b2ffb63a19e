"""What LiteRT is never given: files that would end the process, refused before the runtime sees them."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as tfl

from fusiform.errors import WeightsError
from fusiform.graph.build import build_graph
from fusiform.graph.inputs import read_pixels
from fusiform.graph.ir import INPUT, Conv, Graph, Linear, Mean, Quantization, Scale
from fusiform.graph.shapes import state_shapes
from fusiform.graph.tflite import to_tflite
from fusiform.graph.tflite_checks import check_tflite
from fusiform.graph.tflite_metadata import to_described_tflite
from fusiform.graph.tflite_operators import RULES
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.catalog import BUNDLED_FOLDER

OLDER = Path(__file__).with_name("int8_of_version_0_1.tflite.gz")
KINDS = ("float32", "float16", "pixels", "int8", "mixed", "decoded", "int8 decoded", "probabilities")
OPERATORS = {code: name for name, code in vars(tfl.BuiltinOperator).items() if isinstance(code, int)}


def spec_of(architecture: str, task: Any) -> ModelSpec:
    size = {"classification": 32, "detection": 64, "segmentation": 33}[task]
    more: dict[str, Any] = {}
    if task == "segmentation":
        more = {"output_stride": 16, "aspp": architecture == "mobilenet_v2"}
    if task == "detection" and architecture == "mobilenet_v2":
        more = {"scores": "sigmoid"}
    preprocess = Preprocess(resize=size, crop=size, fit="crop" if task == "classification" else "stretch")
    width = 0.1 if architecture == "mobilenet_v2" else 0.5
    labels = tuple(f"class {k}" for k in range(4))
    return ModelSpec(architecture, width, labels, task=task, input_size=size, preprocess=preprocess, **more)


def float_graph(spec: ModelSpec) -> Graph:
    luck = np.random.default_rng(0)
    state: dict[str, Any] = {}
    for name, shape in state_shapes(spec).items():
        state[name] = luck.uniform(0.5, 1, shape).astype(np.float32) / max(1, math.prod(shape[1:]))
    return build_graph(spec, state)


def int8_graph(graph: Graph, *, in_float: frozenset[str] = frozenset()) -> Graph:
    """Numbers by chance, every activation in one scale."""
    luck = np.random.default_rng(0)
    nodes, scales = [], {}
    for node in graph.nodes:
        if isinstance(node, Conv | Linear) and node.name not in in_float:
            scales[node.name] = luck.uniform(0.001, 0.01, len(node.bias)).astype(np.float32)
            weight = luck.integers(-127, 128, node.weight.shape).astype(np.int8)
            bias = luck.integers(-100, 100, len(node.bias)).astype(np.int32) if isinstance(node, Conv) else node.bias
            nodes.append(dataclasses.replace(node, weight=weight, bias=bias))
        else:
            nodes.append(node)
    vectors = {
        node.name for node in graph.nodes if isinstance(node, Linear) or (isinstance(node, Mean) and not node.as_map)
    }
    activations = {INPUT: Scale(1.0, -14)}
    activations |= {node.name: Scale(float(np.float32(0.02)), -128) for node in graph.nodes if node.name not in vectors}
    return Graph(graph.spec, tuple(nodes), Quantization(activations, scales, in_float))


def written(architecture: str, task: str, kind: str) -> bytes | None:
    """A file of a kind as fusiform writes it; None of what there is not."""
    spec = spec_of(architecture, task)
    graph = float_graph(spec)
    if kind == "probabilities":
        if task != "classification":
            return None
        return to_described_tflite(
            dataclasses.replace(graph, spec=spec.replace(output="probabilities", temperature=2.0))
        )
    if "decoded" in kind:
        if task == "classification":
            return None
        graph = int8_graph(graph) if "int8" in kind else graph
        return to_described_tflite(dataclasses.replace(graph, spec=spec.replace(decoded=True)))
    if kind == "mixed":
        first = next(node for node in graph.nodes if isinstance(node, Conv))
        return to_described_tflite(int8_graph(graph, in_float=frozenset({first.name})))
    if kind == "pixels":
        return to_described_tflite(read_pixels(graph))
    return to_described_tflite(int8_graph(graph) if kind == "int8" else graph, half=kind == "float16")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
def test_what_fusiform_writes_is_known_to_be_sound(architecture: str, task: str, kind: str) -> None:
    data = written(architecture, task, kind)
    if data is None:
        pytest.skip(f"{task} has no such files")
    assert check_tflite(data, source="x", described=True) is None


def test_what_it_wrote_before_and_what_it_comes_with_too() -> None:
    files = [gzip.decompress(OLDER.read_bytes()), *(path.read_bytes() for path in BUNDLED_FOLDER.glob("*.tflite"))]
    assert len(files) == 3
    for data in files:
        assert check_tflite(data, source="x", described=True) is None


# Changes


def changed(data: bytes, change: Callable[[Any], object]) -> bytes:
    """The file with ``change`` made in its tables."""
    model = tfl.ModelT.InitFromPackedBuf(data)
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def find(model: Any, name: str, nth: int = 0) -> Any:
    """An operator of a kind."""
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    operators = [one for one in model.subgraphs[0].operators if OPERATORS[codes[one.opcodeIndex]] == name]
    return operators[nth]


def tensor(model: Any, operator: Any, position: int) -> Any:
    return model.subgraphs[0].tensors[operator.inputs[position]]


def put(model: Any, operator: Any, position: int, values: list[int]) -> None:
    """Other values for a constant that an operator reads."""
    model.buffers[tensor(model, operator, position).buffer].data = np.frombuffer(
        struct.pack(f"<{len(values)}i", *values), np.uint8
    )


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Files that have every operator between them."""
    made = {
        "int8": written("mobilenet_v2", "classification", "int8"),
        "float": written("shufflenet_v2", "classification", "probabilities"),
        "boxes": written("mobilenet_v2", "detection", "int8 decoded"),
        "mask": written("mobilenet_v2", "segmentation", "decoded"),
        "pixels": written("mobilenet_v2", "classification", "pixels"),
        "half": written("mobilenet_v2", "classification", "float16"),
    }
    return {name: data for name, data in made.items() if data is not None}


def names_in(data: bytes) -> set[str]:
    model = tfl.ModelT.InitFromPackedBuf(data)
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    return {OPERATORS[codes[operator.opcodeIndex]] for operator in model.subgraphs[0].operators}


def test_no_operator_goes_without_an_operand(files: dict[str, bytes]) -> None:
    """LiteRT follows what is not there: -1 for an operand, and tensors behind the last."""
    seen = set()
    for data in files.values():
        for name in names_in(data) - seen:
            count = len(find(tfl.ModelT.InitFromPackedBuf(data), name).inputs)
            for position in range(count):
                for index in (-1, 10**6):

                    def take(model: Any) -> None:
                        operator = find(model, name)  # noqa: B023  # called at once
                        operator.inputs = [*operator.inputs]
                        operator.inputs[position] = index  # noqa: B023

                    if name == "FULLY_CONNECTED" and position == 2 and index == -1:
                        continue  # has no bias, which may be
                    with pytest.raises(WeightsError, match=r"^x: is damaged \(its operator \d+ "):
                        check_tflite(changed(data, take), source="x", described=True)
            seen.add(name)
    known = {name for name, _ in RULES.values()}
    # What other tools' files have, and fusiform's do not.
    assert known - seen == {"AVERAGE_POOL_2D", "RELU", "RELU6", "TRANSPOSE"}


def option(name: str, field: str, value: Any) -> Callable[[Any], None]:
    return lambda model: setattr(find(model, name).builtinOptions, field, value)


def shape(name: str, position: int, value: list[int]) -> Callable[[Any], None]:
    return lambda model: setattr(tensor(model, find(model, name), position), "shape", value)


def constant(name: str, position: int, values: list[int]) -> Callable[[Any], None]:
    return lambda model: put(model, find(model, name), position, values)


def scales(value: list[float], name: str = "CONV_2D", position: int = 0) -> Callable[[Any], None]:
    return lambda model: setattr(
        tensor(model, find(model, name), position).quantization, "scale", np.array(value, np.float32)
    )


def swap(model: Any) -> None:
    operators = model.subgraphs[0].operators
    operators[3], operators[8] = operators[8], operators[3]


def twice(model: Any) -> None:
    model.subgraphs[0].operators.append(model.subgraphs[0].operators[5])


def short(model: Any) -> None:
    buffer = model.buffers[tensor(model, find(model, "CONV_2D"), 1).buffer]
    buffer.data = buffer.data[:-1]


def no_output(model: Any) -> None:
    model.subgraphs[0].outputs = [len(model.subgraphs[0].tensors)]


def no_graph(model: Any) -> None:
    model.subgraphs = []


def other_graph(model: Any) -> None:
    model.signatureDefs[0].subgraphIndex = 3


def other_tensor(model: Any) -> None:
    model.signatureDefs[0].inputs[0].tensorIndex = 10**6


def sum_in_too_small_a_scale(model: Any) -> None:
    """LiteRT aborts the process for it."""
    operator = find(model, "ADD")
    model.subgraphs[0].tensors[operator.outputs[0]].quantization.scale = np.array([1e-12], np.float32)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("int8", option("CONV_2D", "strideW", 0), "in steps of"),
        ("int8", option("CONV_2D", "strideH", -2), "in steps of"),
        ("int8", option("CONV_2D", "dilationWFactor", 0), "in steps of"),
        ("int8", option("CONV_2D", "padding", 7), "the padding number 7"),
        ("int8", option("DEPTHWISE_CONV_2D", "depthMultiplier", 0), "has weights"),
        ("int8", option("DEPTHWISE_CONV_2D", "dilationHFactor", 1 << 30), "in steps of"),
        ("float", option("MAX_POOL_2D", "filterWidth", 0), "in steps of"),
        ("float", option("MAX_POOL_2D", "strideW", 0), "in steps of"),
        ("float", option("CONCATENATION", "axis", 9), "along the dimension 9"),
        ("float", option("SOFTMAX", "beta", float("nan")), "a beta of nan"),
        ("boxes", option("GATHER", "axis", 5), "takes what"),
        ("int8", shape("CONV_2D", 1, [3, 3, 3, 8]), "8 scales"),
        ("float", shape("CONV_2D", 1, [25, 3, 3, 3]), "bytes of values"),
        ("int8", shape("CONV_2D", 0, [1, -32, 32, 3]), "negative side"),
        ("int8", shape("CONV_2D", 0, [1, 1 << 20, 1 << 20, 3]), "follows from what it reads"),
        ("float", shape("SLICE", 0, [1, 8, 8]), "follows from what it reads|cuts"),
        ("float", constant("SLICE", 1, [0, 0, 0, 10**6]), "cuts"),
        ("float", constant("SLICE", 2, [1, 1, -5, 1]), "cuts"),
        ("float", constant("PAD", 1, [0, 0, -1, 0, 0, 0, 0, 0]), "pads by less than nothing"),
        ("float", constant("PAD", 1, [0, 0, 1 << 30, 0, 0, 0, 0, 0]), "follows from what it reads"),
        ("float", constant("MEAN", 1, [1, 9]), "goes along"),
        ("boxes", constant("RESHAPE", 1, [1, -1, -1]), "makes"),
        ("boxes", constant("RESHAPE", 1, [1, 7, 4]), "makes"),
        ("boxes", constant("GATHER", 1, [0, 1, 2, 99]), "takes what"),
        ("mask", constant("RESIZE_BILINEAR", 1, [0, 33]), "resizes"),
        ("mask", constant("RESIZE_BILINEAR", 1, [1 << 20, 1 << 20]), "follows from what it reads"),
        ("int8", scales([0.0]), "scale is not a positive number"),
        ("int8", scales([float("nan")]), "scale is not a positive number"),
        ("int8", scales([1.0, 2.0]), "2 scales"),
        ("int8", sum_in_too_small_a_scale, "has scales that do not go together"),
        ("float", swap, "that nothing has made"),
        ("float", twice, "that is there before"),
        ("float", short, "bytes of values"),
        ("float", no_output, "a tensor that is not there"),
        ("float", no_graph, "it has no graph"),
        ("float", other_graph, "signature"),
        ("float", other_tensor, "signature"),
    ],
)
def test_refused(file: str, change: Callable[[Any], None], words: str, files: dict[str, bytes]) -> None:
    with pytest.raises(WeightsError, match=rf"^x: is damaged \(.*(?:{words}).*\): write it again, or fetch it again$"):
        check_tflite(changed(files[file], change), source="x", described=True)


def test_memory_is_added_up(files: dict[str, bytes]) -> None:
    """Shapes that follow from each other all the same can be larger than any machine."""

    def grow(model: Any) -> None:
        operator = find(model, "RESIZE_BILINEAR", -1)
        put(model, operator, 1, [1 << 14, 1 << 14])
        graph = model.subgraphs[0]
        graph.tensors[operator.outputs[0]].shape = [1, 1 << 14, 1 << 14, 4]
        graph.operators = graph.operators[: graph.operators.index(operator) + 1]
        graph.outputs = [int(operator.outputs[0])]
        model.signatureDefs = []

    with pytest.raises(WeightsError, match=r"would need 4,\d{3} MB for one picture, more than 1,074 MB"):
        check_tflite(changed(files["mask"], grow), source="x", described=True)


def test_cut_at_any_length(files: dict[str, bytes]) -> None:
    data = to_tflite(float_graph(spec_of("mobilenet_v2", "classification")))
    for length in [*range(0, 400, 7), *np.linspace(400, len(data) - 1, 60).astype(int).tolist()]:
        with contextlib.suppress(WeightsError):
            check_tflite(data[:length], source="x", described=True)


def stale(model: Any) -> None:
    """A shape that the runtime would set right: other tools leave such."""
    operator = find(model, "CONV_2D", -1)
    model.subgraphs[0].tensors[operator.outputs[0]].shape = [1, 9, 9, 8]


def foreign(model: Any) -> None:
    model.operatorCodes[model.subgraphs[0].operators[-1].opcodeIndex].builtinCode = 20  # RELU_N1_TO_1


def no_bias(model: Any) -> None:
    operator = find(model, "CONV_2D")
    operator.inputs = operator.inputs[:2]


def keeps(model: Any) -> None:
    model.subgraphs[0].tensors[3].isVariable = True


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (foreign, "(number 20) is not one of those"),
        (no_bias, "(CONV_2D) has no bias"),
        (keeps, "a tensor keeps its values"),
        (option("CONV_2D", "fusedActivationFunction", 2), "an activation that is not known"),
        (option("FULLY_CONNECTED", "weightsFormat", 1), "its weights in another order"),
    ],
)
def test_what_may_be_sound_is_left_to_a_trial(
    change: Callable[[Any], None], words: str, files: dict[str, bytes]
) -> None:
    data = changed(files["int8"], change)
    assert words in str(check_tflite(data, source="x", described=True))


def test_a_stale_shape_is_damage_in_fusiforms_files_alone(files: dict[str, bytes]) -> None:
    data = changed(files["float"], stale)
    with pytest.raises(WeightsError, match="follows from what it reads"):
        check_tflite(data, source="x", described=True)
    assert "follows from what it reads" in str(check_tflite(data, source="x", described=False))
