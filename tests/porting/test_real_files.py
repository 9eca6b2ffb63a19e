"""Weight files that others publish: on photographs, what is read of them answers as their own runtimes do."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fusiform.engines.litert import LiteRTEngine
from fusiform.errors import WeightsError
from fusiform.graph.build import build_graph
from fusiform.graph.tflite import to_tflite
from fusiform.porting.port import port, read_foreign
from fusiform.spec import ModelSpec, Padding, Preprocess
from fusiform.zoo.checkpoint import State, read_safetensors

sys.path.insert(0, str(Path(__file__).parent))

from foreign_files import logits

sys.path.pop(0)


def photographs(shared_data: Path, spec: ModelSpec) -> NDArray[np.uint8]:
    from PIL import Image

    from fusiform.data.preprocess import crop_pixels

    files = sorted((shared_data / "imagenet_val").glob("*/*.JPEG"))
    assert len(files) == 500
    return np.stack([crop_pixels(Image.open(file), spec.preprocess) for file in files])


def samoyed(shared_data: Path, spec: ModelSpec, state: State) -> bool:
    from PIL import Image

    from fusiform.data.preprocess import crop_pixels

    pixels = crop_pixels(Image.open(shared_data / "dog.jpg"), spec.preprocess)
    answer = LiteRTEngine(to_tflite(build_graph(spec, state)), spec).run(pixels[None])[spec.output][0]
    return spec.labels[int(answer.argmax())] == "Samoyed" and int(answer.argmax()) == 258


@pytest.mark.slow
def test_googles_mobilenet_v2_agrees_with_litert(shared_data: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    path = shared_data / "weights" / "mobilenet_v2_1.0_224_quant.tflite"
    spec, state = read_foreign(path)
    assert (spec.name, spec.padding, spec.num_classes) == ("mobilenet_v2_x1_0", "same", 1000)
    assert spec.preprocess.mean == pytest.approx([128 / 255] * 3)
    assert spec.preprocess.std == pytest.approx([128 / 255] * 3)
    assert samoyed(shared_data, spec, state)

    pixels = photographs(shared_data, spec)
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    given, made = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    theirs = []
    for picture in pixels:
        interpreter.set_tensor(given, picture[None])
        interpreter.invoke()
        theirs.append(int(interpreter.get_tensor(made)[0, 1:].argmax()))

    def agreement(padding: Padding) -> float:
        padded = spec.replace(padding=padding)
        ours = LiteRTEngine(to_tflite(build_graph(padded, state)), padded).run(pixels)["logits"].argmax(1)
        return float((ours == theirs).mean())

    same, symmetric = agreement("same"), agreement("symmetric")
    print(f"top-1 agreement with LiteRT: {same:.1%} with same padding, {symmetric:.1%} with symmetric")
    assert same >= 0.96
    assert symmetric < same - 0.05


@pytest.mark.slow
def test_the_onnx_model_zoos_shufflenet_v2(shared_data: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    path = shared_data / "weights" / "shufflenet-v2-12-int8.onnx"
    spec, state = read_foreign(path)
    assert (spec.name, spec.padding, spec.preprocess) == ("shufflenet_v2_x1_0", "symmetric", Preprocess())
    assert samoyed(shared_data, spec, state)

    _, expected = read_safetensors(shared_data / "weights" / "shufflenet_v2_x1_0.safetensors")
    assert state.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(state[name], array, rtol=1e-6, atol=1e-7, err_msg=name)

    from fusiform.data.preprocess import normalize

    batch = normalize(photographs(shared_data, spec)[::5], spec.preprocess)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    theirs = np.array([session.run(None, {"input": picture[None]})[0][0].argmax() for picture in batch])
    agreement = (logits(spec, state, batch).argmax(1) == theirs).mean()
    print(f"top-1 agreement with ONNX Runtime's int8: {agreement:.1%}")
    assert agreement >= 0.85


@pytest.mark.slow
def test_real_weights_with_torchvisions_names(shared_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "mobilenet_v2.tflite"
    spec = port(shared_data / "weights" / "mobilenet_v2_1.0_224.safetensors", out)
    assert spec.name == "mobilenet_v2_x1_0"
    again, state = read_foreign(out)
    assert again == spec.with_logits()
    assert samoyed(shared_data, again, state)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deeplabv3_mnv2_pascal_quant.tflite", "dilation 2"),
    ],
)
def test_real_files_of_other_networks_are_refused(shared_data: Path, name: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_foreign(shared_data / "weights" / name)
