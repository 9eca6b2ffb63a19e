"""What an ONNX file claims, held against what it has, before its arrays are made or a runtime opens it.

A runtime computes what does not depend on the picture while it opens a file: a ``Tile`` of one number to a terabyte is
a line of it. Files of other tools pass as long as they stay within what networks for pictures need.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from onnx import ModelProto, numpy_helper, shape_inference

from fusiform.errors import WeightsError
from fusiform.fields import show
from fusiform.spec import MAX_ACTIVATION_BYTES

_MAX_NODES = 20_000
"""Operators, and constants; MobileNetV2 in int8 has 400 and 1,200."""
_MAX_VALUES = MAX_ACTIVATION_BYTES // 4
"""Values of one tensor, as of all that a network holds at a time."""
_SHORT = 64
"""Values of a constant that may be a shape."""
# Operators that make more than they read, as a constant says: the inputs that say how much.
_GROWING = {
    "CenterCropPad": (1,),
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1),
    "Resize": (1, 2, 3),
    "Tile": (1,),
    "Upsample": (1,),
}
_WITH_GRAPHS = ("If", "Loop", "Scan", "SequenceMap")


def check_sizes(model: Any, source: str, *, external: bool = False) -> None:
    """Raise WeightsError for a model whose constants are not what they claim, or that has more than a network.

    With ``external`` constants may lie in files of their own, which whoever reads them has checked.
    """
    try:
        _check_sizes(model, source, external=external)
    except UnicodeDecodeError:  # a name, which protobuf looks at when it is asked for
        raise WeightsError(f"{source}: is damaged (a name in it is no text): fetch or export it again") from None


def _check_sizes(model: Any, source: str, *, external: bool) -> None:
    graph = model.graph
    most = max(len(graph.node), len(graph.initializer), len(graph.input))
    if most > _MAX_NODES:
        raise WeightsError(f"{source}: has {most:,} operators or constants, which no network here has: fetch another")
    if model.functions or graph.sparse_initializer or any(node.op_type in _WITH_GRAPHS for node in graph.node):
        raise WeightsError(
            f"{source}: has graphs within its graph, or sparse constants, which no network here has: export it again"
        )
    for tensor in graph.initializer:
        _check_constant(tensor, tensor.name, source, external=external)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _check_constant(attribute.t, node.name, source, external=external)
            if attribute.tensors or attribute.graphs or attribute.sparse_tensors or attribute.HasField("g"):
                raise WeightsError(f"{source}: {show(node.name)} has graphs or lists of constants: export it again")


def check_growth(model: Any, source: str) -> None:
    """Raise WeightsError where a tensor of a checked model would be larger than all that a network holds."""
    try:
        _check_growth(model, source)
    except UnicodeDecodeError:
        raise WeightsError(f"{source}: is damaged (a name in it is no text): fetch or export it again") from None


def _check_growth(model: Any, source: str) -> None:
    constants = {tensor.name: tensor for tensor in model.graph.initializer if math.prod(tensor.dims) <= _SHORT}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output and node.attribute and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
        for position in _GROWING.get(node.op_type, ()):
            if position < len(node.input) and (tensor := constants.get(node.input[position])) is not None:
                _check_values(node, _numbers(tensor), source)
    for value in _inferred(model, constants):
        sides = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        if math.prod(max(1, side) for side in sides) > _MAX_VALUES:
            raise WeightsError(
                f"{source}: {show(value.name)} would have the shape {show(tuple(sides))}, more than a network for "
                "pictures needs: export it again"
            )


def _check_constant(tensor: Any, name: str, source: str, *, external: bool) -> None:
    if tensor.external_data or tensor.data_location:
        if external:
            return
        raise WeightsError(
            f"{source}: keeps {show(name)} in a file of its own, and external data is not read: save the model as one "
            "file, in Python onnx.save(onnx.load(file), new_file)"
        )
    listed = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
    # Four numbers of two bits are the most that a byte holds, and eight bytes that a number of a list does.
    there = 4 * len(tensor.raw_data) + 8 * max(*map(len, listed), len(tensor.string_data))
    if min(tensor.dims, default=1) < 0 or max(tensor.dims, default=1) > _MAX_VALUES or math.prod(tensor.dims) > there:
        raise WeightsError(
            f"{source}: {show(name)} has the shape {show(tuple(tensor.dims))}, but not the values: fetch or export it "
            "again"
        )


def _numbers(tensor: Any) -> list[float]:
    try:
        return [float(value) for value in numpy_helper.to_array(tensor).reshape(-1)[:_SHORT]]
    except Exception:  # onnx and numpy raise many kinds; what cannot be read, no runtime reads either
        return []


def _check_values(node: Any, numbers: Iterable[float], source: str) -> None:
    grown = math.prod(max(1.0, abs(number)) for number in numbers)
    if not grown <= _MAX_VALUES:
        raise WeightsError(
            f"{source}: its {node.op_type} {show(node.name)} would make {grown:,.0f} values, more than a network for "
            "pictures needs: export it again"
        )


def _inferred(model: Any, constants: Mapping[str, Any]) -> list[Any]:
    """The tensors whose shapes follow from the file; none of large constants' values are looked at."""
    outline = ModelProto()
    outline.ir_version = model.ir_version
    outline.opset_import.extend(model.opset_import)
    outline.graph.name = "outline"
    given = {tensor.name for tensor in model.graph.initializer}
    outline.graph.input.extend(value for value in model.graph.input if value.name not in given)
    outline.graph.output.extend(model.graph.output)
    outline.graph.node.extend(model.graph.node)
    for tensor in model.graph.initializer:
        if tensor.name in constants:
            outline.graph.initializer.add().CopyFrom(tensor)
            continue
        value = outline.graph.input.add()
        value.name = tensor.name
        value.type.tensor_type.elem_type = tensor.data_type
        for side in tensor.dims:
            value.type.tensor_type.shape.dim.add().dim_value = side
    try:
        found = shape_inference.infer_shapes(outline, data_prop=True)
    except Exception:  # what it does not understand, the runtime will not either
        return []
    return [*found.graph.value_info, *found.graph.input, *found.graph.output]
