"""A TFLite file that answers with a classifier's features too, made of one that does not: no weight is read or moved.

What the last layer reads is a tensor of the file already. It becomes an output by a longer list of outputs behind the
file's last byte, and one distance that leads there.
"""

from __future__ import annotations

import struct

from fusiform.errors import WeightsError
from fusiform.graph.flatbuffer import field_of, follow, numbers_of, tables_of
from fusiform.spec import ModelSpec

_MODEL_CODES, _MODEL_SUBGRAPHS = 1, 2
_CODE_OLD, _CODE = 0, 3
_GRAPH_TENSORS, _GRAPH_OUTPUTS, _GRAPH_OPERATORS = 0, 2, 3
_TENSOR_SHAPE, _TENSOR_KIND = 0, 1
_OPCODE, _INPUTS = 0, 1
_FULLY_CONNECTED, _FLOAT32 = 9, 0


def add_features(data: bytes, spec: ModelSpec, *, source: str) -> bytes:
    """The file of a classifier that ``spec`` describes, with the features as its last answer.

    Raises WeightsError, which names ``source``, for a file whose last layer does not read them in float32. The file has
    to be sound: see ``tflite_checks``.
    """
    try:
        found = _features(data, spec)
        graph = follow(data, tables_of(data, follow(data, 0), _MODEL_SUBGRAPHS)[0])
        place = field_of(data, graph, _GRAPH_OUTPUTS)
        outputs = numbers_of(data, graph, _GRAPH_OUTPUTS)
    except (struct.error, IndexError):
        raise WeightsError(f"{source}: damaged TensorFlow Lite file; download or write it again") from None
    if found is None:
        raise WeightsError(
            f"{source}: its last layer does not read {spec.num_features} features in float32: write it again with "
            f"fusiform export {source} --to litert --features"
        )
    longer = [*outputs, found]
    whole = bytearray(data)
    whole += bytes(-len(whole) % 4)
    struct.pack_into("<I", whole, place, len(whole) - place)
    return bytes(whole) + struct.pack(f"<I{len(longer)}i", len(longer), *longer)


def _features(data: bytes, spec: ModelSpec) -> int | None:
    """The tensor that the only fully connected layer reads; None where that is not one of features."""
    model = follow(data, 0)
    graph = follow(data, tables_of(data, model, _MODEL_SUBGRAPHS)[0])
    codes = [_code(data, follow(data, at)) for at in tables_of(data, model, _MODEL_CODES)]
    tensors = [follow(data, at) for at in tables_of(data, graph, _GRAPH_TENSORS)]
    read = []
    for at in tables_of(data, graph, _GRAPH_OPERATORS):
        operator = follow(data, at)
        place = field_of(data, operator, _OPCODE)
        if codes[struct.unpack_from("<I", data, place)[0] if place else 0] == _FULLY_CONNECTED:
            read.append(numbers_of(data, operator, _INPUTS)[0])
    if len(read) != 1:
        return None
    tensor = tensors[read[0]]
    kind = field_of(data, tensor, _TENSOR_KIND)
    real = not kind or data[kind] == _FLOAT32
    return read[0] if real and numbers_of(data, tensor, _TENSOR_SHAPE) == [1, spec.num_features] else None


def _code(data: bytes, at: int) -> int:
    """An operator's number: small ones were of one byte once."""
    old, new = field_of(data, at, _CODE_OLD), field_of(data, at, _CODE)
    return max(data[old] if old else 0, struct.unpack_from("<i", data, new)[0] if new else 0)
