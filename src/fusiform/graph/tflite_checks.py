"""Whether LiteRT can be trusted with a TFLite file, found out before it sees the file.

LiteRT checks the flatbuffer, and of what the operators are given some: others of its kernels follow an operand that is
not there, divide by a stride of 0 or abort the process over a scale, and no caller can stop that. So the graph is read
here, in about two milliseconds and with nothing but Python's own, and held against the rules of each operator in
``tflite_operators``. The numbers of fields are their places in TFLite's schema (schema.fbs, version 3).
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from fusiform.errors import WeightsError
from fusiform.graph.tflite_operators import (
    CUSTOM,
    FLOAT32,
    INT8,
    MOST_MEMORY,
    RULES,
    SIZES,
    UINT8,
    MismatchError,
    Operator,
    Tensor,
    UnknownError,
    UnsoundError,
)

_MODEL_CODES, _MODEL_SUBGRAPHS, _MODEL_BUFFERS, _MODEL_SIGNATURES = 1, 2, 4, 7
_MODEL_FIELDS = 8
_GRAPH_TENSORS, _GRAPH_INPUTS, _GRAPH_OUTPUTS, _GRAPH_OPERATORS, _GRAPH_FIELDS = 0, 1, 2, 3, 5
_CODE_OLD, _CODE_CUSTOM, _CODE = 0, 1, 3
_SHAPE, _KIND, _BUFFER, _QUANTIZATION, _VARIABLE, _SPARSITY = 0, 1, 2, 4, 5, 6
_TENSOR_FIELDS = 9
_SCALE, _ZERO_POINT, _DETAILS, _DIMENSION = 2, 3, 4, 6
_OPCODE, _INPUTS, _OUTPUTS, _OPTIONS_KIND, _OPTIONS, _CUSTOM_OPTIONS = 0, 1, 2, 3, 4, 5
_OPERATOR_FIELDS = 7
_SIGNATURE_INPUTS, _SIGNATURE_OUTPUTS, _SIGNATURE_GRAPH, _MAP_TENSOR = 0, 1, 4, 1
_MOST_DIMENSIONS = 6

_u16, _i32, _u32, _i8, _u8 = (struct.Struct(form).unpack_from for form in ("<H", "<i", "<I", "<b", "<B"))
_i64 = struct.Struct("<q").unpack_from


def check_tflite(data: bytes, *, source: str, described: bool) -> str | None:
    """Why a TFLite file cannot be known to be sound, None if it is: all that it has its runtime do follows the rules.

    ``described`` says that fusiform wrote the file, which states every shape as it is; other tools may not. Raises
    WeightsError, which names ``source``, for a file that no runtime may be given: damaged, or made to do harm.
    """
    try:
        return _Graph(data, described=described).check()
    except UnsoundError as wrong:
        raise WeightsError(f"{source}: is damaged ({wrong}): write it again, or fetch it again") from None
    except (struct.error, IndexError, OverflowError):  # distances that lead out of the file
        raise WeightsError(f"{source}: damaged TensorFlow Lite file; download or write it again") from None


class Step(NamedTuple):
    """An operator of a file, with its number in TFLite's schema and those of the tensors that it reads and makes."""

    code: int
    reads: Sequence[int]
    makes: Sequence[int]
    operator: Operator


def read_steps(data: bytes, *, source: str) -> tuple[list[Step], Tensor, Sequence[int]] | None:
    """The operators of a TFLite file as they run, what it reads, and the numbers of the tensors that it answers with.

    None where it has other operators than fusiform's files. Raises WeightsError as ``check_tflite`` does.
    """
    graph = _Graph(data, described=True)
    try:
        if graph.check() is not None:
            return None
    except UnsoundError as wrong:
        raise WeightsError(f"{source}: is damaged ({wrong}): write it again, or fetch it again") from None
    except (struct.error, IndexError, OverflowError):
        raise WeightsError(f"{source}: damaged TensorFlow Lite file; download or write it again") from None
    return graph.steps, graph.given, graph.answers


class _Graph:
    """A TFLite file's first graph. ``doubt`` is the first thing that no rule is known for."""

    def __init__(self, data: bytes, *, described: bool) -> None:
        self.data = data
        self.described = described
        self.doubt: str | None = None
        self.layouts: dict[int, tuple[int, ...]] = {}
        """The fields' distances of each kind of table, by where its vtable lies."""
        self.steps: list[Step] = []
        self.vectors: dict[int, bool] = {}
        """Whether a vector of zero points holds nothing but zeros: files share them."""

    def check(self) -> str | None:
        model = self.follow(0)
        if self.field(model, _MODEL_FIELDS) or self.field(model, _MODEL_FIELDS + 1):
            self.wonder("it keeps tensors in other files")
        graphs = self.tables(model, _MODEL_SUBGRAPHS)
        if not graphs:
            raise UnsoundError("it has no graph")
        if len(graphs) > 1:
            self.wonder("it has several graphs")
        self.buffers = self.tables(model, _MODEL_BUFFERS)
        self.codes = [self.code(at) for at in self.tables(model, _MODEL_CODES)]
        graph = graphs[0]
        if self.layout(graph)[_GRAPH_FIELDS + 1 :].count(0) < len(self.layout(graph)[_GRAPH_FIELDS + 1 :]):
            self.wonder("its graph has fields that are not known")
        self.tensors = [self.tensor(at) for at in self.tables(graph, _GRAPH_TENSORS)]
        inputs, outputs = (self.numbers(graph, field) for field in (_GRAPH_INPUTS, _GRAPH_OUTPUTS))
        self.signatures(model, len(graphs))
        if not inputs or not outputs:
            raise UnsoundError(f"it has {len(inputs)} inputs and {len(outputs)} outputs")
        if len(inputs) > 1 or self.known(inputs[0]).kind not in (FLOAT32, UINT8, INT8):
            if self.described:
                raise UnsoundError("it does not read one picture, as float32 or pixels")
            self.wonder("it does not read one picture")
        self.given, self.answers = self.known(inputs[0]), outputs
        made = self.run(self.tables(graph, _GRAPH_OPERATORS), inputs, outputs)
        for index in outputs:
            if index not in made and self.known(index).data is None:
                raise UnsoundError("nothing makes what it answers")
        return self.doubt

    def wonder(self, what: str) -> None:
        self.doubt = self.doubt or what

    def run(self, operators: Sequence[int], inputs: Sequence[int], outputs: Sequence[int]) -> set[int]:
        """Go through the operators in their order; the tensors that there are at the end."""
        made = {index for index in inputs if self.known(index)}
        last: dict[int, int] = dict.fromkeys(outputs, len(operators))
        sizes: dict[int, int] = {index: self.size(index) for index in made}
        reads: list[Sequence[int]] = []
        for number, at in enumerate(operators):
            name, given, results = self.operator(at, number, made)
            reads.append(given)
            for index in given:
                last[index] = max(last.get(index, 0), number)
            for index in results:
                if index in made or self.known(index).data is not None:
                    raise UnsoundError(f"{name} makes a tensor that is there before")
                made.add(index)
                sizes[index] = self.size(index)
        self.weigh(operators, sizes, last, inputs)
        return made

    def weigh(
        self, operators: Sequence[int], sizes: dict[int, int], last: dict[int, int], inputs: Sequence[int]
    ) -> None:
        """Raise UnsoundError where the tensors needed at the same time take more than any network of these does."""
        ending: dict[int, int] = {}
        now = sum(sizes[index] for index in inputs)
        for index, number in last.items():
            if index in sizes:
                ending[number] = ending.get(number, 0) + sizes[index]
        for number, at in enumerate(operators):
            now += sum(sizes[index] for index in self.numbers(at, _OUTPUTS))
            if now > MOST_MEMORY:
                most = f"{MOST_MEMORY / 1e6:,.0f} MB"
                raise UnsoundError(f"it would need {now / 1e6:,.0f} MB for one picture, more than {most}")
            now -= ending.get(number, 0)

    def operator(self, at: int, number: int, made: set[int]) -> tuple[str, Sequence[int], Sequence[int]]:
        """Hold one operator against its rule; its name, and the tensors that it reads and makes."""
        (index,) = _u32(self.data, place) if (place := self.field(at, _OPCODE)) else (0,)
        if index >= len(self.codes):
            raise UnsoundError(f"its operator {number} is of a kind that it does not list")
        code, custom = self.codes[index]
        name = f"its operator {number} ({RULES[code][0] if code in RULES else f'number {code}'})"
        given, results = self.numbers(at, _INPUTS), self.numbers(at, _OUTPUTS)
        read: list[Tensor | None] = []
        for one in given:
            if one == -1:
                read.append(None)
                continue
            tensor = self.known(one, name)
            if tensor.data is None and one not in made:
                raise UnsoundError(f"{name} reads a tensor that nothing has made")
            read.append(tensor)
        produced = [self.known(one, name) for one in results]
        if not produced:
            raise UnsoundError(f"{name} makes nothing")
        fields = self.layout(at)
        kind = _u8(self.data, at + fields[_OPTIONS_KIND])[0] if fields[_OPTIONS_KIND] else 0
        options = self.follow(at + fields[_OPTIONS]) if fields[_OPTIONS] and kind else 0
        extra = self.bytes(at, _CUSTOM_OPTIONS) if code == CUSTOM else b""
        rule = RULES.get(code)
        try:
            if rule is None or any(fields[_OPERATOR_FIELDS:13]):
                raise UnknownError("is not one of those that fusiform's files have")
            operator = Operator(
                read, produced, kind, self.data, options, self.layout(options) if options else (), custom, extra
            )
            rule[1](operator)
            self.steps.append(Step(code, given, results, operator))
        except MismatchError as mismatch:
            if self.described:
                raise UnsoundError(f"{name} {mismatch}") from None
            self.wonder(f"{name} {mismatch}")
        except UnknownError as unknown:
            self.wonder(f"{name} {unknown}")
        except UnsoundError as wrong:
            raise UnsoundError(f"{name} {wrong}") from None
        return name, given, results

    def known(self, index: int, name: str = "it") -> Tensor:
        if not 0 <= index < len(self.tensors):
            raise UnsoundError(f"{name} names a tensor that is not there")
        return self.tensors[index]

    def size(self, index: int) -> int:
        tensor = self.tensors[index]
        return tensor.numbers * SIZES.get(tensor.kind, 8)

    def code(self, at: int) -> tuple[int, bytes]:
        """An operator's number, and the name of one that is not built in."""
        old, new = self.field(at, _CODE_OLD), self.field(at, _CODE)
        number = max(_i8(self.data, old)[0] if old else 0, _i32(self.data, new)[0] if new else 0)
        return number, self.bytes(at, _CODE_CUSTOM)

    def tensor(self, at: int) -> Tensor:
        data, fields = self.data, self.layout(at)
        shape = self.integers(at + fields[_SHAPE]) if fields[_SHAPE] else ()
        count = 1
        for side in shape:
            if side < 0:
                raise UnsoundError("a tensor has a negative side")
            count *= side
        kind = _i8(data, at + fields[_KIND])[0] if fields[_KIND] else 0
        if len(shape) > _MOST_DIMENSIONS or any(fields[_TENSOR_FIELDS:13]) or fields[_SPARSITY]:
            self.wonder("a tensor has a form that is not known")
        if fields[_VARIABLE] and data[at + fields[_VARIABLE]]:
            self.wonder("a tensor keeps its values from one run to the next")
        (buffer,) = _u32(data, at + fields[_BUFFER]) if fields[_BUFFER] else (0,)
        if buffer >= len(self.buffers):
            raise UnsoundError("a tensor's values lie in a buffer that is not there")
        constant: tuple[int, int] | None = None
        if buffer:
            table = self.buffers[buffer]
            if place := self.field(table, 0):
                vector = self.follow(place)
                (length,) = _u32(data, vector)
                if vector + 4 + length > len(data):
                    raise IndexError
                if length:
                    constant = vector + 4, length
            elif self.field(table, 1):
                self.wonder("a buffer lies outside the model")
        if constant is not None and kind in SIZES and constant[1] != count * SIZES[kind]:
            raise UnsoundError(f"a tensor of shape {list(shape)} has {constant[1]} bytes of values")
        if kind not in SIZES:
            self.wonder(f"a tensor is of the type number {kind}")
        place = fields[_QUANTIZATION]
        scales, zeros, axis = self.quantization(self.follow(at + place)) if place else ((), (), 0)
        if len(scales) > 1 and (axis >= len(shape) or shape[axis] != len(scales)):
            raise UnsoundError(f"a tensor of shape {list(shape)} has {len(scales)} scales")
        return Tensor(shape, count, kind, constant, scales, zeros, axis)

    def quantization(self, at: int) -> tuple[Sequence[float], Sequence[int], int]:
        """The scales of a tensor, their zero points and the dimension that they go along."""
        data, fields = self.data, self.layout(at)
        if not fields[_SCALE]:
            return (), (), 0
        if fields[_DETAILS] and data[at + fields[_DETAILS]]:
            self.wonder("a tensor is quantised in a way that is not known")
        vector = self.follow(at + fields[_SCALE])
        (count,) = _u32(data, vector)
        if vector + 4 + 4 * count > len(data):
            raise IndexError
        scales = array("f", data[vector + 4 : vector + 4 + 4 * count])  # in the order of bytes of the machines here
        if scales and not (min(scales) > 0 and sum(scales) < math.inf):  # the sum of what is no number is none
            raise UnsoundError("a tensor's scale is not a positive number")
        zeros: Sequence[int] = ()
        if fields[_ZERO_POINT]:
            vector = self.follow(at + fields[_ZERO_POINT])
            (length,) = _u32(data, vector)
            if length == 1:
                zeros = _i64(data, vector + 4)
            elif length:
                if vector + 4 + 8 * length > len(data):
                    raise IndexError
                if vector not in self.vectors:
                    self.vectors[vector] = data[vector + 4 : vector + 4 + 8 * length] == bytes(8 * length)
                # None at all is what none but zeros means.
                zeros = () if self.vectors[vector] else range(1, length + 1)
            if length not in (0, 1, count):
                raise UnsoundError(f"a tensor has {count} scales and {length} zero points")
        (axis,) = _i32(data, at + fields[_DIMENSION]) if fields[_DIMENSION] else (0,)
        if axis < 0:
            raise UnsoundError("a tensor's scales go along a dimension that it does not have")
        return scales, zeros, axis

    def signatures(self, model: int, graphs: int) -> None:
        for signature in self.tables(model, _MODEL_SIGNATURES):
            place = self.field(signature, _SIGNATURE_GRAPH)
            if place and _u32(self.data, place)[0] >= graphs:
                raise UnsoundError("its signature is of a graph that is not there")
            for field in (_SIGNATURE_INPUTS, _SIGNATURE_OUTPUTS):
                for entry in self.tables(signature, field):
                    place = self.field(entry, _MAP_TENSOR)
                    if place and graphs == 1:
                        self.known(_u32(self.data, place)[0], "its signature")

    # FlatBuffers' binary format, as in ``flatbuffer``, with each kind of table looked up once.

    def layout(self, table: int) -> tuple[int, ...]:
        """The distances of a table's first 14 fields from its start, 0 where one is absent."""
        vtable = table - _i32(self.data, table)[0]
        fields = self.layouts.get(vtable)
        if fields is None:
            if vtable < 0:
                raise IndexError
            count = min(max(0, _u16(self.data, vtable)[0] // 2 - 2), 14)
            fields = struct.unpack_from(f"<{count}H", self.data, vtable + 4) + (0,) * (14 - count)
            self.layouts[vtable] = fields
        return fields

    def field(self, table: int, index: int) -> int:
        distance = self.layout(table)[index]
        return table + distance if distance else 0

    def follow(self, at: int) -> int:
        return at + int(_u32(self.data, at)[0])

    def tables(self, table: int, index: int) -> Sequence[int]:
        """Where each table of a vector of tables lies."""
        place = self.field(table, index)
        if not place:
            return ()
        vector = self.follow(place)
        (length,) = _u32(self.data, vector)
        if vector + 4 + 4 * length > len(self.data):
            raise IndexError
        distances = struct.unpack_from(f"<{length}I", self.data, vector + 4)
        return [vector + 4 + 4 * k + distance for k, distance in enumerate(distances)]

    def numbers(self, table: int, index: int) -> Sequence[int]:
        place = self.field(table, index)
        return self.integers(place) if place else ()

    def integers(self, place: int) -> tuple[int, ...]:
        vector = self.follow(place)
        (length,) = _u32(self.data, vector)
        if vector + 4 + 4 * length > len(self.data):
            raise IndexError
        return struct.unpack_from(f"<{length}i", self.data, vector + 4)

    def bytes(self, table: int, index: int) -> bytes:
        place = self.field(table, index)
        if not place:
            return b""
        vector = self.follow(place)
        (length,) = _u32(self.data, vector)
        if vector + 4 + length > len(self.data):
            raise IndexError
        return self.data[vector + 4 : vector + 4 + length]
