from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from fusiform.engines import open_engine
from fusiform.errors import UsageError
from fusiform.exporting.targets.base import Precision
from fusiform.exporting.targets.litert import write as write_litert
from fusiform.graph.build import build_graph
from fusiform.graph.onnx import to_onnx
from fusiform.graph.tflite import stores_halves, to_tflite
from fusiform.graph.tflite_metadata import read_label_file
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.model import Model, open_model
from fusiform.zoo.restamp import restamp


@pytest.fixture(params=["tflite", "onnx", "safetensors"])
def model(
    request: pytest.FixtureRequest, tmp_path: Path, small_spec: Callable[..., Any], lived_in_state: Callable[..., Any]
) -> Model:
    spec = small_spec("shufflenet_v2")
    state, path = lived_in_state(spec), tmp_path / f"model.{request.param}"
    if request.param == "safetensors":
        write_safetensors(path, state, spec)
    else:
        path.write_bytes({"tflite": to_tflite, "onnx": to_onnx}[request.param](build_graph(spec, state)))
    return open_model(path)


def test_the_description_changes_and_the_weights_do_not(model: Model, tmp_path: Path) -> None:
    spec = model.spec.replace(
        temperature=1.7, labels=tuple(f"Käse {k}" for k in range(10)), provenance='re"stamped" ' * 40
    )
    copy = tmp_path / f"copy.{model.format}"
    copy.write_bytes(restamp(model, spec))
    again = open_model(copy)
    assert again.spec == spec
    assert again.format == model.format
    before, after = model.state(), again.state()
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    pixels = np.random.default_rng(5).integers(0, 256, (2, 32, 32, 3), np.uint8)
    answers = [open_engine(path).run(pixels)["logits"] for path in (model.path, copy)]
    assert answers[0].tobytes() == answers[1].tobytes()


def test_the_same_description_gives_the_same_file(model: Model) -> None:
    assert restamp(model, model.spec) == model.data


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_what_export_wrote_for_other_programs_stays(
    precision: Precision, tmp_path: Path, small_spec: Callable[..., Any], lived_in_state: Callable[..., Any]
) -> None:
    """A calibrated copy of an exported file is as small, and its label file has the new names."""
    if precision == "int8":
        graph = open_model("shufflenet_v2_x1_0").graph()
    else:
        spec = small_spec("mobilenet_v2", 0.35)
        graph = build_graph(spec, lived_in_state(spec))
    (written,) = write_litert(graph, precision, tmp_path)
    model = open_model(written.path)
    assert restamp(model, model.spec) == model.data
    names = tuple(f"class {k}" for k in range(graph.spec.num_classes))
    copy = tmp_path / "copy.tflite"
    copy.write_bytes(restamp(model, model.spec.replace(labels=names, label_ids=())))
    assert open_model(copy).spec.labels == names  # which refuses a label file with others
    assert read_label_file(copy.read_bytes()) == names
    quantization = open_model(copy).graph().quantization
    assert (quantization and quantization.activations) == (graph.quantization and graph.quantization.activations)
    assert stores_halves(copy.read_bytes()) == (precision == "float16")


def test_the_int8_weights_of_a_bundled_model_stay(tmp_path: Path) -> None:
    model = open_model("shufflenet_v2_x1_0")
    copy = tmp_path / "copy.tflite"
    copy.write_bytes(restamp(model, model.spec.replace(temperature=2.0)))
    before, after = model.graph(), open_model(copy).graph()
    assert before.quantization is not None
    assert after.quantization is not None
    assert after.quantization.activations == before.quantization.activations
    assert after.spec.temperature == 2
    for one, two in zip(before.nodes, after.nodes, strict=True):
        if hasattr(one, "weight"):
            assert one.weight.dtype == np.int8
            assert np.array_equal(one.weight, two.weight)
            assert np.array_equal(one.bias, two.bias)


def test_weights_without_a_description_get_one(tmp_path: Path, small_spec: Any, lived_in_state: Any) -> None:
    spec = small_spec("mobilenet_v2", 0.35, size=224)
    state, path = lived_in_state(spec), tmp_path / "foreign.safetensors"
    path.write_bytes(save(state, metadata={"format": "pt"}))
    model = open_model(path)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(restamp(model, model.spec.replace(labels=spec.labels)))
    assert open_model(copy).spec.labels == spec.labels
    read = load(copy.read_bytes())  # by the format's own library
    assert all(np.array_equal(read[name], state[name]) for name in state)


def test_what_cannot_be_described_is_refused(model: Model) -> None:
    with pytest.raises(UsageError, match="num_classes is 10 and cannot become 2"):
        restamp(model, model.spec.replace(labels=("a", "b")))
    segmenter = model.spec.replace(task="segmentation", output_stride=16)
    with pytest.raises(UsageError, match="task is classification and cannot become segmentation"):
        restamp(model, segmenter)
    for name, value in {"output_stride": 8, "aspp": True, "align_corners": False}.items():
        with pytest.raises(UsageError, match=f"{name} is .* and cannot become {value}"):
            restamp(Model(Path("a.tflite"), "tflite", segmenter, b""), segmenter.replace(**{name: value}))
    detector = model.spec.replace(task="detection")
    with pytest.raises(UsageError, match="scores is softmax and cannot become sigmoid"):
        restamp(Model(Path("a.tflite"), "tflite", detector, b""), detector.replace(scores="sigmoid"))
    with pytest.raises(UsageError, match=r"fusiform port .*--out FILE\.safetensors"):
        restamp(Model(Path("a.pth"), "pth", model.spec, b""), model.spec)
