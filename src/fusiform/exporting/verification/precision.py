"""What precision a model file's weights are stored in, whoever wrote it."""

from __future__ import annotations

import math
import re
from pathlib import Path

from fusiform.errors import MissingExtraError, WeightsError
from fusiform.exporting.targets.base import Precision
from fusiform.graph.shapes import state_shapes
from fusiform.spec import ModelSpec
from fusiform.zoo.model import Model


def stored_precision(model: Model) -> Precision:
    """The precision of a file's weights, whoever wrote it: read from its content, or told by its size."""
    if model.format == "tflite":
        return _narrowest(_tflite_types(model))
    if model.format == "onnx":
        return _narrowest(_onnx_types(model))
    if model.format == "openvino":
        constants = re.findall(rb'<layer [^>]*type="Const"[^>]*>\s*<data [^>]*element_type="(\w+)"', model.data)
        types = {"i8": "int8", "u8": "int8", "f16": "float16"}
        return _narrowest({types.get(name.decode(), "float32") for name in constants})
    if model.format in ("safetensors", "pth"):
        return "float32"  # read as such
    # Between a byte and four for each weight a file may also be float16, or int8 with some layers in float.
    per_weight = _size_on_disk(model.path) / _weights(model.spec)
    if per_weight < 1.6:
        return "int8"
    if per_weight > 3.5:
        return "float32"
    return "int8" if "int8" in model.path.name else "float16"


def _narrowest(types: set[str]) -> Precision:
    return "int8" if "int8" in types else "float16" if "float16" in types else "float32"


def _tflite_types(model: Model) -> set[str]:
    """The types of the constants that have more than one dimension: weights."""
    from ai_edge_litert import schema_py_generated as tfl

    names = {tfl.TensorType.INT8: "int8", tfl.TensorType.UINT8: "int8", tfl.TensorType.FLOAT16: "float16"}
    try:
        file = tfl.ModelT.InitFromPackedBuf(model.data, 0)
        buffers = file.buffers
        return {
            names.get(tensor.type, "float32")
            for tensor in file.subgraphs[0].tensors
            if tensor.shape is not None and len(tensor.shape) > 1 and buffers[tensor.buffer].data is not None
        }
    except Exception as error:  # the generated code raises many kinds for damaged files
        raise WeightsError(f"{model.path}: damaged ({type(error).__name__}); fetch or write it again") from None


def _onnx_types(model: Model) -> set[str]:
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("onnx", "onnx", f"reading {model.path.name}") from None
    types = onnx.TensorProto
    names = {types.INT8: "int8", types.UINT8: "int8", types.FLOAT16: "float16"}
    try:
        graph = onnx.load_from_string(model.data).graph
    except Exception:  # protobuf's DecodeError is not ours to import
        raise WeightsError(f"{model.path}: not an ONNX file, or a damaged one") from None
    found = {names.get(tensor.data_type, "float32") for tensor in graph.initializer if len(tensor.dims) > 1}
    # Weights may also be kept in float and rounded when the file is opened.
    return found | {"int8" for node in graph.node if node.op_type == "QuantizeLinear"}


def _size_on_disk(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size


def _weights(spec: ModelSpec) -> int:
    shapes = state_shapes(spec)
    return sum(math.prod(shape) for shape in shapes.values())
