"""int8 files as version 0.1 wrote them, which read pixels less 128 and answer with logits, are read everywhere.

``int8_of_version_0_1.tflite.gz`` is one: MobileNetV2 of width 0.05 at 32 pixels, its weights drawn by chance.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

import fusiform
from fusiform.engines import open_engine
from fusiform.engines.litert import LiteRTEngine
from fusiform.graph.ir import INPUT, Scale
from fusiform.graph.tflite import from_tflite, input_type, to_tflite
from fusiform.zoo.info import describe
from fusiform.zoo.model import open_model
from fusiform.zoo.restamp import restamp

FILE = Path(__file__).with_name("int8_of_version_0_1.tflite.gz")
PIXELS = (np.arange(32 * 32 * 3).reshape(1, 32, 32, 3) * 7 % 256).astype(np.uint8)
LOGITS = [0.9977863430976868, -0.1777435690164566, -1.0977529287338257]
"""What version 0.1 answered."""


@pytest.fixture
def older(tmp_path):
    path = tmp_path / "older.tflite"
    path.write_bytes(gzip.decompress(FILE.read_bytes()))
    return path


def test_it_answers_as_it_did(older):
    model = open_model(older)
    assert input_type(model.data) == "int8"
    assert open_engine(model).run(PIXELS)["logits"][0].tolist() == LOGITS


def test_written_again_it_reads_uint8_and_answers_the_same(older):
    graph = from_tflite(older.read_bytes())
    assert graph.quantization.activations[INPUT] == Scale(1.0, 114 - 128)
    file = to_tflite(graph)
    assert input_type(file) == "uint8"
    np.testing.assert_allclose(LiteRTEngine(file, graph.spec).run(PIXELS)["logits"][0], LOGITS, rtol=1e-6)
    back = from_tflite(file)
    assert back.quantization.activations == graph.quantization.activations
    assert to_tflite(back) == file


def test_a_temperature_is_written_into_it(older):
    model = open_model(older)
    older.write_bytes(restamp(model, model.spec.replace(temperature=2.0)))
    assert open_model(older).spec.temperature == 2
    np.testing.assert_allclose(open_engine(older).run(PIXELS)["logits"][0], LOGITS, rtol=1e-6)


def test_commands_read_it(older, tmp_path):
    figures = describe(older).figures
    assert (figures["input_type"], figures["output"]) == ("int8", "logits")
    fusiform.port(older, tmp_path / "ported.tflite")
    again = describe(tmp_path / "ported.tflite").figures
    assert (again["input_type"], again["output"]) == ("uint8", "probabilities")
    picture = np.kron(PIXELS[0], np.ones((8, 8, 1), np.uint8))
    old, new = (fusiform.predict(picture, model=path)[0] for path in (older, tmp_path / "ported.tflite"))
    assert old.classification.top[0].name == new.classification.top[0].name
    assert fusiform.verify(older, older).passed
