"""What an ONNX file claims, held against what it has, before its arrays are made or a runtime opens it.

A runtime computes what does not depend on the picture while it opens a file: a ``Tile`` of one number to a terabyte is
a line of it. Files of other tools pass as long as they stay within what networks for pictures need.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorShapeProto, ValueInfoProto, numpy_helper, shape_inference

from fusiform.errors import WeightsError
from fusiform.fields import show
from fusiform.spec import MAX_ACTIVATION_BYTES

_MAX_NODES = 20_000
"""Operators, and constants; MobileNetV2 in int8 has 400 and 1,200."""
_MAX_VALUES = MAX_ACTIVATION_BYTES // 4
"""Values of one tensor, as of all that a network holds at a time."""
_SHORT = 64
"""Values of a constant that may be a shape."""
_ROUNDS = 4
"""How many times shapes may be computed from what was made by shapes that were computed."""
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
# Operators that exporters compute shapes with.
_FOLLOWED = (
    *("Add", "Cast", "Ceil", "Concat", "ConstantOfShape", "Div", "Expand", "Floor", "Gather", "Identity", "Max", "Min"),
    *("Mul", "Neg", "Reshape", "Shape", "Slice", "Sqrt", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze"),
)
_KINDS = "biuf"
_UNKNOWN = "unk__"
"""How ONNX's names for sides of unknown length begin."""
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
    growing = [node for node in model.graph.node if node.op_type in _GROWING]
    sides = (side for value in model.graph.input for side in value.type.tensor_type.shape.dim)
    free = {side.dim_param for side in sides if side.dim_param and not side.dim_param.startswith(_UNKNOWN)}
    for _ in range(_ROUNDS):
        for node in growing:
            for name in _how_much(node):
                if name in constants:
                    _check_values(node, constants[name], source)
        found = _infer(_outline(model, constants), source)
        waiting = [node for node in growing if not _is_known(node, found, free)]
        if not waiting:
            return
        if not (computed := _computed(model, found, constants)):
            break
        constants |= computed
    raise WeightsError(
        f"{source}: its {waiting[0].op_type} {show(waiting[0].name)} would make as much as the file computes while "
        "it runs, which no network for pictures needs: export it again"
    )


def _how_much(node: Any) -> list[str]:
    """The inputs that say how much an operator makes."""
    return [node.input[k] for k in _GROWING.get(node.op_type, ()) if k < len(node.input) and node.input[k]]


def _is_known(node: Any, found: Mapping[str, Any], free: Container[str]) -> bool:
    """Whether the shapes of what an operator makes are known, but for sides that are ``free`` in the inputs."""
    made = [found[output].type.tensor_type for output in node.output if output in found]
    return len(made) == len(node.output) and all(
        value.HasField("shape")
        and all(side.HasField("dim_value") or side.dim_param in free for side in value.shape.dim)
        for value in made
    )


def _computed(model: Any, found: Mapping[str, Any], constants: Mapping[str, Any]) -> dict[str, Any]:
    """Further constants of few values, that operators make of those there are and of shapes.

    ONNX's inference can follow values by itself, but does so for every one of thousands of millions.
    """
    from onnx.reference import ReferenceEvaluator  # takes long to import, and few files need it

    opsets = {each.domain: each.version for each in model.opset_import}
    made: dict[str, Any] = {}
    values = {name: array for name, tensor in constants.items() if (array := _array(tensor)) is not None}
    for node in model.graph.node:
        if node.op_type not in _FOLLOWED or len(node.output) != 1 or node.output[0] in values:
            continue
        if node.op_type == "Shape":
            array = _sides(node, found)
        elif set(node.input) - {""} <= values.keys() and not _grows(node, values):
            try:
                inputs = {name: values[name] for name in node.input if name}
                answers: Any = ReferenceEvaluator(node, opsets=opsets).run(None, inputs)
                array = np.asarray(answers[0])
            except Exception:  # of many kinds, for what does not fit: the runtime refuses it
                continue
        else:
            continue
        if array is not None and array.size <= _SHORT:
            values[node.output[0]] = array
            made[node.output[0]] = numpy_helper.from_array(array, node.output[0])
    return made


def _sides(node: Any, found: Mapping[str, Any]) -> NDArray[np.int64] | None:
    """What the operator Shape answers with, where that is known."""
    if not node.input or node.input[0] not in found:
        return None
    between = {attribute.name: attribute.i for attribute in node.attribute}
    sides = [side.dim_value for side in found[node.input[0]].type.tensor_type.shape.dim]
    sides = sides[between.get("start", 0) : between.get("end")]
    return np.array(sides, np.int64) if all(sides) else None


def _grows(node: Any, values: Mapping[str, NDArray[Any]]) -> bool:
    """Whether an operator makes more than few values of those that it is given."""
    return any(_made_by(values[name]) > _SHORT for name in _how_much(node) if values[name].dtype.kind in _KINDS)


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


def _array(tensor: Any) -> NDArray[Any] | None:
    """The values of a small constant."""
    try:
        array: NDArray[Any] = numpy_helper.to_array(tensor)
    except Exception:  # onnx and numpy raise many kinds; what cannot be read, no runtime reads either
        return None
    return array if array.size <= _SHORT else None


def _made_by(numbers: NDArray[Any]) -> float:
    """How many values these numbers ask for, one or a list of sides or of times."""
    return math.prod(max(1.0, abs(number)) for number in numbers.reshape(-1).tolist())


def _check_values(node: Any, tensor: Any, source: str) -> None:
    array = _array(tensor)
    if array is not None and array.dtype.kind in _KINDS and not (made := _made_by(array)) <= _MAX_VALUES:
        raise WeightsError(
            f"{source}: its {node.op_type} {show(node.name)} would make {made:,.0f} values, more than a network for "
            "pictures needs: export it again"
        )


def _outline(model: Any, constants: Mapping[str, Any]) -> Any:
    """The model without the values of large constants, and without what makes the small ones."""
    outline = ModelProto()
    outline.ir_version = model.ir_version
    outline.opset_import.extend(model.opset_import)
    outline.graph.name = "outline"
    outline.graph.node.extend(node for node in model.graph.node if not all(map(constants.__contains__, node.output)))
    given = {*constants, *(tensor.name for tensor in model.graph.initializer)}
    outline.graph.input.extend(value for value in model.graph.input if value.name not in given)
    for value in outline.graph.input:
        # One picture: what a Resize by factors makes of any number of them has no name, and would not be known.
        for side in value.type.tensor_type.shape.dim[:1]:
            if not side.HasField("dim_value"):
                side.dim_value = 1
    for name, tensor in constants.items():
        outline.graph.initializer.add().CopyFrom(tensor)
        outline.graph.initializer[-1].name = name
    for tensor in model.graph.initializer:
        if tensor.name not in constants:
            outline.graph.input.append(_value(tensor))
    return outline


def _value(tensor: Any) -> Any:
    """What is said of a tensor in the place of its values."""
    value = ValueInfoProto(name=tensor.name)
    value.type.tensor_type.elem_type = tensor.data_type
    value.type.tensor_type.shape.dim.extend(TensorShapeProto.Dimension(dim_value=side) for side in tensor.dims)
    return value


def _infer(outline: Any, source: str) -> dict[str, Any]:
    """The shapes that follow for the tensors of an outline; WeightsError where one is too large."""
    try:
        graph = shape_inference.infer_shapes(outline).graph
    except Exception as error:  # onnx raises many kinds for damaged files
        reason = show((str(error).splitlines() or [type(error).__name__])[0])
        raise WeightsError(f"{source}: is damaged ({reason}): fetch or export it again") from None
    found = {value.name: value for value in (*graph.value_info, *graph.input)}
    found |= {tensor.name: _value(tensor) for tensor in graph.initializer}
    for value in found.values():
        sides = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        if math.prod(max(1, side) for side in sides) > _MAX_VALUES:
            raise WeightsError(
                f"{source}: {show(value.name)} would have the shape {show(tuple(sides))}, more than a network for "
                "pictures needs: export it again"
            )
    return found
