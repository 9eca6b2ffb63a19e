"""What is told of a model without running it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fusiform.benchmarking.contenders import possible_engines
from fusiform.errors import UsageError
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.info import precision_of, size_of
from fusiform.zoo.model import Model, open_model

SPEC = ModelSpec("mobilenet_v2", 0.35, ("red", "green"), input_size=32, preprocess=Preprocess(resize=32, crop=32))


def test_size_engines_and_precision(folder: Path, tmp_path: Path) -> None:
    weights, lite = open_model(folder / "weights.safetensors"), open_model(folder / "lite.tflite")
    assert size_of(weights) == (folder / "weights.safetensors").stat().st_size
    assert possible_engines(weights) == ("litert", "onnxruntime", "torch", "openvino") == possible_engines(lite)
    assert precision_of(weights) == precision_of(lite) == "float32"
    assert precision_of(open_model("mobilenet_v2")) == "int8"

    (tmp_path / "a.xml").write_bytes(b"<net>" + b"x" * 95)
    (tmp_path / "a.bin").write_bytes(b"w" * 1000)
    data = b'<net version="11"> <data element_type="i8" shape="8, 3, 3, 3" offset="0" size="216"/>'
    program = Model(tmp_path / "a.xml", "openvino", SPEC, data)
    assert size_of(program) == 1100
    assert possible_engines(program) == ("openvino",)
    assert precision_of(program) == "int8"
    assert precision_of(replace(program, data=data.replace(b"i8", b"f16"))) == "float16"
    assert precision_of(replace(program, data=data.replace(b"i8", b"f32"))) == "float32"

    # The parameters of MobileNetV2 0.35: torchvision's count for 1000 classes, less the classifier's other 998.
    count = 1_677_128 - 998 * 1281
    assert precision_of(Model(tmp_path / "a.pte", "executorch", SPEC, bytes(4 * count))) == "float32"
    assert precision_of(Model(tmp_path / "a.pte", "executorch", SPEC, bytes(count + 200_000))) == "int8"

    package = tmp_path / "a.mlpackage"
    (package / "Data").mkdir(parents=True)
    (package / "Manifest.json").write_bytes(b"{}")
    (package / "Data" / "weights").write_bytes(b"w" * 10)
    apple = Model(package, "coreml", SPEC, b"")
    assert size_of(apple) == 12
    assert precision_of(apple) is None
    with pytest.raises(UsageError, match="Apple"):
        possible_engines(apple)
