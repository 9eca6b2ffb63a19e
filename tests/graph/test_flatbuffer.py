"""Reading metadata out of files that nobody vouches for."""

from __future__ import annotations

import contextlib
import struct
import time
import tracemalloc

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as tfl
from hypothesis import given, settings
from hypothesis import strategies as st

from fusiform.errors import FusiformError, SpecError, WeightsError
from fusiform.graph.flatbuffer import read_metadata

KEY = "fusiform.spec"
TEXT = b'{"architecture": "mobilenet_v2"}'


def tflite(entries: list[tuple[str, bytes]]) -> bytes:
    """A file that holds nothing but metadata, written by the official library."""
    model = tfl.ModelT()
    model.buffers, model.metadata = [tfl.BufferT()], []
    for name, value in entries:
        entry, buffer = tfl.MetadataT(), tfl.BufferT()
        entry.name, entry.buffer = name, len(model.buffers)
        buffer.data = list(value)
        model.metadata.append(entry)
        model.buffers.append(buffer)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


GOOD = tflite([("min_runtime_version", b"1.5.0"), (KEY, TEXT), ("other", b"")])


def outcome(data: bytes) -> str:
    """``read``, ``damaged`` or ``no description``; any other exception is a failure."""
    try:
        text = read_metadata(data, source="x.tflite")
    except FusiformError as error:
        raised = error
    else:
        assert isinstance(text, bytes)
        return "read"
    assert str(raised).startswith("x.tflite: ")
    return {WeightsError: "damaged", SpecError: "no description"}[type(raised)]


def test_the_wanted_entry_is_read():
    assert read_metadata(GOOD, source="x") == TEXT
    assert read_metadata(memoryview(GOOD), source="x") == TEXT
    assert read_metadata(GOOD, source="x", key="min_runtime_version") == b"1.5.0"
    assert read_metadata(GOOD, source="x", key="other") == b""


def test_no_such_entry():
    for file in (tflite([]), tflite([("fusiform.spe", b""), ("fusiform.spec2", b""), ("", b"")])):
        with pytest.raises(SpecError, match=r"y\.tflite: carries no description .* fusiform port y\.tflite --out FILE"):
            read_metadata(file, source="y.tflite")


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\0\0\0\0TFL2\0\0\0\0", GOOD[:7]])
def test_not_tflite_at_all(data):
    with pytest.raises(WeightsError, match="z: not a TensorFlow Lite file"):
        read_metadata(data, source="z")


def test_cut_at_every_length():
    """A description comes whole or not at all."""
    outcomes = set()
    for length in range(len(GOOD)):
        outcomes.add(outcome(GOOD[:length]))
        with contextlib.suppress(WeightsError, SpecError):
            assert read_metadata(GOOD[:length], source="x") == TEXT
    assert "damaged" in outcomes
    assert outcome(GOOD) == "read"


def test_a_description_longer_than_the_file():
    at = GOOD.index(struct.pack("<I", len(TEXT)) + TEXT)
    for claimed in (len(GOOD) - at - 3, 2**31, 2**32 - 1):
        damaged = bytearray(GOOD)
        struct.pack_into("<I", damaged, at, claimed)
        assert outcome(bytes(damaged)) == "damaged"


def test_every_bit_flipped():
    outcomes = set()
    for at in range(len(GOOD)):
        for bit in range(8):
            damaged = bytearray(GOOD)
            damaged[at] ^= 1 << bit
            outcomes.add(outcome(bytes(damaged)))
    assert outcomes == {"read", "damaged", "no description"}


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 4), st.integers(0, 2**32 - 1)), min_size=1, max_size=6),
    st.integers(0, len(GOOD)),
)
def test_numbers_replaced_and_the_end_cut_off(changes, length):
    damaged = bytearray(GOOD)
    for at, value in changes:
        struct.pack_into("<I", damaged, at, value)
    assert outcome(bytes(damaged[:length])) in ("read", "damaged", "no description")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_after_the_magic_number(data):
    assert outcome(data[:4].ljust(4, b"\0") + b"TFL3" + data[4:]) in ("read", "damaged", "no description")


def malicious(names: int, name_length: int, claimed: int | None = None) -> bytes:
    """Many entries of metadata that are all the same one, whose name is very long."""
    builder = flatbuffers.Builder()
    name = builder.CreateString("x" * name_length)
    tfl.MetadataStart(builder)
    tfl.MetadataAddName(builder, name)
    entry = tfl.MetadataEnd(builder)
    tfl.ModelStartMetadataVector(builder, names)
    for _ in range(names):
        builder.PrependUOffsetTRelative(entry)
    vector = builder.EndVector()
    tfl.ModelStart(builder)
    tfl.ModelAddMetadata(builder, vector)
    builder.Finish(tfl.ModelEnd(builder), file_identifier=b"TFL3")
    data = bytearray(builder.Output())
    if claimed is not None:
        struct.pack_into("<I", data, len(data) - vector, claimed)
    return bytes(data)


@pytest.mark.parametrize("claimed", [None, 2**32 - 1, 2**31, 250_000])
def test_lengths_that_lie_cost_neither_time_nor_memory(claimed):
    # Read naively, the names alone would be 100 gigabytes, and the claimed vector billions of entries.
    data = malicious(100_000, 1_000_000, claimed)
    start = time.perf_counter()
    assert outcome(data) in ("damaged", "no description")
    assert time.perf_counter() - start < 5
    tracemalloc.start()
    try:
        outcome(data[:-4000])
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data)
    finally:
        tracemalloc.stop()
