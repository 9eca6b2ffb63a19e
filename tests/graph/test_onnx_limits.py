"""ONNX files that claim what they have not, or that compute without end: one line each, and nothing of it is made."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper

from fusiform.errors import SpecError, WeightsError
from fusiform.graph.build import build_graph
from fusiform.graph.onnx import to_onnx
from fusiform.graph.onnx_limits import check_growth, check_sizes
from fusiform.graph.shapes import state_shapes
from fusiform.porting.port import port
from fusiform.spec import MAX_MODEL_BYTES, ModelSpec, Preprocess
from fusiform.zoo.info import describe
from fusiform.zoo.model import open_model

SPEC = ModelSpec("mobilenet_v2", 0.35, ("cat", "dog"), input_size=32, preprocess=Preprocess(36, 32))
NAME = "features.0.0.weight"


@pytest.fixture(scope="module")
def written() -> bytes:
    luck = np.random.default_rng(0)
    state = {name: luck.random(shape, np.float32) for name, shape in state_shapes(SPEC).items()}
    return to_onnx(build_graph(SPEC, state))


def weight(model: Any) -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name == NAME)


def outside(place: str, **more: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        tensor = weight(model)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": place, **more}.items():
            tensor.external_data.add(key=key, value=value)

    return change


def of_type(number: int) -> Callable[[Any], None]:
    return lambda model: setattr(weight(model), "data_type", number)


def of_shape(*sides: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        tensor = weight(model)
        del tensor.dims[:]
        tensor.dims.extend(sides)

    return change


def cut(model: Any) -> None:
    weight(model).raw_data = weight(model).raw_data[:-3]


def without(field: str) -> Callable[[Any], None]:
    return lambda model: model.graph.ClearField(field)


OUTSIDE = "keeps 'features.0.0.weight' in a file of its own, and external data is not read: save the model as one file"
LIES: dict[str, tuple[Callable[[Any], None], str]] = {
    "outside, absolute": (outside("/etc/passwd"), OUTSIDE),
    "outside, above": (outside("../../secret", offset="0", length="64"), OUTSIDE),
    "outside, endless": (outside("/dev/zero"), OUTSIDE),
    "outside, beside": (outside("weights.bin"), OUTSIDE),
    "outside, nowhere": (outside(""), OUTSIDE),
    "unknown type": (of_type(99), "is damaged|was not written by fusiform"),
    "texts": (of_type(TensorProto.STRING), "is damaged"),
    "doubles": (of_type(TensorProto.DOUBLE), "is damaged"),
    "whole numbers": (of_type(TensorProto.INT32), "was not written by fusiform"),
    "no type": (of_type(0), "is damaged"),
    "larger": (
        of_shape(1 << 40, 3, 3, 3),
        r"'features.0.0.weight' has the shape \(1099511627776, 3, 3, 3\), but not the values",
    ),
    "larger in all": (
        of_shape(*[1 << 30] * 40),
        r"'features.0.0.weight' has the shape \(1073741824, .*but not the values",
    ),
    "negative": (of_shape(-1, 3, 3, 3), "'features.0.0.weight' has the shape .* but not the values"),
    "empty": (of_shape(0, 3, 3, 3), "is damaged"),
    "of many dimensions": (of_shape(*[1] * 100, 16, 3, 3, 3), "is damaged|was not written by fusiform"),
    "cut": (cut, "is damaged"),
    "no input": (without("input"), "has no input or no output"),
    "no output": (without("output"), "has no input or no output"),
    "no weights": (without("initializer"), "was not written by fusiform"),
    "no operators": (without("node"), "not an ONNX file, or an empty one"),
}


@pytest.mark.parametrize("kind", LIES)
def test_constants_that_are_not_what_they_claim(kind: str, written: bytes, tmp_path: Path) -> None:
    """M6: ``info`` told every fourth damaged file in a traceback."""
    change, message = LIES[kind]
    model = onnx.load_from_string(written)
    change(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises((WeightsError, SpecError), match=rf"m\.onnx: ({message})") as error:
        describe(tmp_path / "m.onnx")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 600


def test_external_data_is_read_by_port_alone_and_once(written: bytes, tmp_path: Path) -> None:
    model = onnx.load_from_string(written)
    del model.metadata_props[:]
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    assert port(tmp_path / "m.onnx", tmp_path / "x.safetensors", labels=("cat", "dog")).width == 0.35
    with (tmp_path / "huge.bin").open("wb") as file:
        file.truncate(MAX_MODEL_BYTES + 1)
    for name, place, message in (
        ("device", "/dev/zero", "keeps its weights in /dev/zero, which is not beside it"),
        ("huge", "huge.bin", r"huge\.bin: has 1,073,741,825 bytes, more than any model here"),
        ("missing", "gone\n.bin", r"keeps its weights in gone\\n\.bin, which is not beside it"),
    ):
        model = onnx.load_from_string(written)
        del model.metadata_props[:]
        outside(place)(model)
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(WeightsError, match=message):
            port(tmp_path / f"{name}.onnx", tmp_path / "y.safetensors")


def with_constants(model: Any, **constants: Any) -> None:
    for name, values in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))


def with_nodes(model: Any, *nodes: Sequence[Any], **attributes: Any) -> None:
    """Operators before all others, (kind, inputs, output) each; the last one's output is the network's too."""
    for place, (kind, inputs, output) in enumerate(nodes):
        model.graph.node.insert(place, helper.make_node(kind, inputs, [output], **attributes.get(kind, {})))
    model.graph.output.append(helper.make_tensor_value_info(nodes[-1][2], TensorProto.FLOAT, None))


def tile(model: Any) -> None:
    with_constants(model, one=np.zeros((1, 1), np.float32), often=[1 << 15, 1 << 15])
    with_nodes(model, ("Tile", ["one", "often"], "r"))


def count_up(model: Any) -> None:
    with_constants(model, a=np.float32(0), b=np.float32(1e6), d=np.float32(1e-6))
    with_nodes(model, ("Range", ["a", "b", "d"], "r"))


def outer(model: Any) -> None:
    with_constants(model, p=np.zeros((60_000, 1), np.float32), q=np.zeros((1, 60_000), np.float32))
    with_nodes(model, ("MatMul", ["p", "q"], "r"))


def doubling(model: Any) -> None:
    with_constants(model, c0=np.zeros(1000, np.float32))
    with_nodes(model, *(("Concat", [f"c{k}"] * 2, f"c{k + 1}") for k in range(40)), Concat={"axis": 0})


def multiplied(model: Any) -> None:
    with_constants(model, p=[1 << 8] * 2)
    with_nodes(model, ("Mul", ["p", "p"], "s"), ("ConstantOfShape", ["s"], "r"))


def root(model: Any) -> None:
    with_constants(model, p=np.array([1e10, 1e10], np.float32))
    with_nodes(model, ("Sqrt", ["p"], "s"), ("Cast", ["s"], "t"), ("ConstantOfShape", ["t"], "r"), Cast={"to": 7})


def sine(model: Any) -> None:
    with_constants(model, p=np.array([1e10, 1e10], np.float32))
    with_nodes(model, ("Sin", ["p"], "s"), ("Cast", ["s"], "t"), ("ConstantOfShape", ["t"], "r"), Cast={"to": 7})


def branch(model: Any) -> None:
    inner = helper.make_graph([], "inner", [], [helper.make_tensor_value_info("r", 1, None)])
    with_constants(model, yes=True)
    with_nodes(model, ("If", ["yes"], "r"), If={"then_branch": inner, "else_branch": inner})


def many(model: Any) -> None:
    model.graph.node.extend([model.graph.node[0]] * 20_001)


GROWING: dict[str, tuple[Callable[[Any], None], str]] = {
    "tile": (tile, "its Tile '' would make 1,073,741,824 values"),
    "range": (count_up, r"'r' would have the shape \(10\d+,\)"),
    "matmul": (outer, r"'r' would have the shape \(60000, 60000\)"),
    "doubling": (doubling, r"'c\d+' would have the shape \(\d+,\)"),
    "multiplied": (multiplied, "its ConstantOfShape '' would make 4,294,967,296 values"),
    "square root": (root, "its ConstantOfShape '' would make 10,000,000,000 values"),
    "sine": (sine, "its ConstantOfShape '' would make as much as the file computes while it runs"),
    "branch": (branch, "has graphs within its graph"),
    "operators": (many, r"has 20,\d+ operators or constants"),
}


@pytest.mark.parametrize("kind", GROWING)
def test_files_that_compute_far_more_than_they_have(kind: str, written: bytes, tmp_path: Path) -> None:
    change, message = GROWING[kind]
    model = onnx.load_from_string(written)
    change(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    begun = time.process_time()
    with pytest.raises(WeightsError, match=rf"m\.onnx: {message}"):
        open_model(tmp_path / "m.onnx")
    assert time.process_time() - begun < 5


def test_shapes_that_exporters_compute_are_followed() -> None:
    """Padding as PyTorch writes it: zeros of a computed length behind the amounts, and a shape of the input's."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 32, 32])
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Sub", ["eight", "four"], ["more"]),
                helper.make_node("ConstantOfShape", ["more"], ["zeros"], value=numpy_helper.from_array(np.array([0]))),
                helper.make_node("Concat", ["zeros", "amounts"], ["pads"], axis=0),
                helper.make_node("Pad", ["image", "pads"], ["padded"]),
                helper.make_node("Shape", ["padded"], ["shape"], start=2),
                helper.make_node("Concat", ["batch", "shape"], ["wanted"], axis=0),
                helper.make_node("Expand", ["plane", "wanted"], ["made"]),
            ],
            "padding",
            [image],
            [helper.make_tensor_value_info("made", TensorProto.FLOAT, None)],
            [
                numpy_helper.from_array(np.array(values, kind), name)
                for name, values, kind in (
                    ("eight", [8], np.int64),
                    ("four", [4], np.int64),
                    ("amounts", [0, 0, 1, 1], np.int64),
                    ("batch", [1, 1], np.int64),
                    ("plane", [[[[1]]]], np.float32),
                )
            ],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    check_sizes(model, "m.onnx")
    check_growth(model, "m.onnx")
    model.graph.initializer[3].CopyFrom(numpy_helper.from_array(np.array([1 << 20, 1]), "batch"))
    with pytest.raises(WeightsError, match="its Expand '' would make 1,141,899,264 values"):
        check_growth(model, "m.onnx")
