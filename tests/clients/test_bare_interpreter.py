"""A program that follows a LiteRT file's parameters and TensorFlow Lite's metadata alone gives fusiform's answers."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from flatbuffers.number_types import Float32Flags
from flatbuffers.table import Table

from fusiform.graph.flatbuffer import read_metadata

# Fields of metadata_schema.fbs 1.0.0, by the place in the vtable.
SUBGRAPHS, INPUTS, OUTPUTS, PROCESS_UNITS, OPTIONS, MEAN, STD, FILES, NAME = 10, 8, 10, 12, 6, 4, 6, 16, 4


def tables(table, field):
    at = table.Offset(field)
    count = table.VectorLen(at) if at else 0
    return [Table(table.Bytes, table.Indirect(table.Vector(at) + 4 * k)) for k in range(count)]


def floats(table, field):
    at = table.Offset(field)
    return np.array([table.Get(Float32Flags, table.Vector(at) + 4 * k) for k in range(table.VectorLen(at))], np.float32)


class Program:
    """Reads and answers by TensorFlow Lite's guide to metadata, with nothing of fusiform's."""

    def __init__(self, data):
        self.data = data
        metadata = read_metadata(data, source="the file", key="TFLITE_METADATA")
        (subgraph,) = tables(Table(metadata, int.from_bytes(metadata[:4], "little")), SUBGRAPHS)
        (self.given,), (self.made,) = tables(subgraph, INPUTS), tables(subgraph, OUTPUTS)
        self.interpreter = Interpreter(model_content=data)
        self.interpreter.allocate_tensors()
        (self.reads,), (self.answers,) = self.interpreter.get_input_details(), self.interpreter.get_output_details()

    def prepare(self, pixels):
        picture = pixels[None].astype(np.float32)
        for unit in tables(self.given, PROCESS_UNITS):
            options = Table(unit.Bytes, unit.Indirect(unit.Offset(OPTIONS) + unit.Pos))
            picture = (picture - floats(options, MEAN)) / floats(options, STD)
        if self.reads["dtype"] != np.float32:
            scale, zero_point = self.reads["quantization"]
            limits = np.iinfo(self.reads["dtype"])
            picture = np.clip(np.rint(picture / scale + zero_point if scale else picture), limits.min, limits.max)
        return picture.astype(self.reads["dtype"])

    def ask(self, pixels):
        """The five likeliest labels and their scores."""
        self.interpreter.set_tensor(self.reads["index"], self.prepare(pixels))
        self.interpreter.invoke()
        values = self.interpreter.get_tensor(self.answers["index"])[0]
        (labels,) = tables(self.made, FILES)
        name = labels.String(labels.Offset(NAME) + labels.Pos).decode()
        with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
            names = archive.read(name).decode().splitlines()
        return [(names[k], float(values[k])) for k in np.argsort(-values, kind="stable")[:5]]


@pytest.fixture
def program(classifier):
    return Program(classifier.path.read_bytes())


def test_it_finds_the_same(classifier, program):
    classifier.check(program.ask(classifier.pixels))


def test_the_signature_answers_the_same(classifier, program):
    run = program.interpreter.get_signature_runner("serving_default")
    (answer,) = run(image=program.prepare(classifier.pixels)).values()
    likeliest = np.sort(answer[0])[::-1][:5]
    np.testing.assert_allclose(likeliest, [share for _, share in classifier.expected], atol=1e-5)
