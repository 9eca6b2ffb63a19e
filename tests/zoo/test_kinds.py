"""Files of other tools that are not read are named as what they are, by every way in."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

import fusiform
from fusiform.errors import FusiformError, WeightsError
from fusiform.graph.build import build_graph
from fusiform.graph.onnx import to_onnx
from fusiform.zoo.model import open_model


def archive(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for name in names:
            zipped.writestr(name, b"{}")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "model.h5",
            b"\x89HDF\r\n\x1a\n" + bytes(40),
            "an HDF5 file, as Keras writes, which fusiform does not read: in",
        ),
        ("weights.pth", b"\x89HDF\r\n\x1a\n" + bytes(40), r"load_model\('?weights\.pth'?\)"),
        ("model.keras", archive("config.json", "model.weights.h5"), "a Keras model, .*TFLiteConverter"),
        ("frozen.pb", b"\x0a\x10" + bytes(30), r"a graph of TensorFlow's, .* --graphdef frozen\.pb"),
        ("apple.mlmodel", b"\x08\x04\x12\x10" + bytes(30), "a Core ML model, .* take the model that it was made from"),
        ("fast.engine", b"ptrt" + bytes(40), "a TensorRT engine"),
        ("fast.bin", b"ftrt" + bytes(40), "a TensorRT engine"),
        ("phone.ptl", archive("m/bytecode.pkl"), "a program for PyTorch's mobile runtime"),
        ("net.param", b"7767517\n75 83\n", "an ncnn network"),
        ("model.ort", b"\x20\x00\x00\x00ORTM" + bytes(40), "a model in ONNX Runtime's own format"),
        ("arrays.npz", archive("a.npy"), "an archive of numpy's"),
        ("arrays", b"\x93NUMPY\x01\x00" + bytes(40), "an array of numpy's"),
        ("net.caffemodel", b"\x0a\x04" + bytes(40), "weights of Caffe's"),
        ("net.pdparams", b"\x80\x02" + bytes(40), "weights of PaddlePaddle's"),
        ("llama.gguf", b"GGUF\x03" + bytes(40), "a GGUF file"),
    ],
)
def test_the_kind_and_the_way_out(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    for use in (lambda: open_model(path), lambda: fusiform.port(path, tmp_path / "out.safetensors")):
        with pytest.raises(WeightsError, match=message) as caught:
            use()
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("saved_model.pb", r"a SavedModel of TensorFlow's, .*from_saved_model\('folder'\)"),
        ("checkpoint", "a checkpoint of TensorFlow's"),
        ("model.ckpt-7.index", "a checkpoint of TensorFlow's"),
        ("coremldata.bin", "a compiled Core ML model"),
    ],
)
def test_folders(file: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / file).write_bytes(b"\x0a\x10")
    monkeypatch.chdir(tmp_path)
    for use in (
        lambda: open_model(folder),
        lambda: open_model("folder"),
        lambda: fusiform.port(folder, tmp_path / "out.safetensors"),
    ):
        with pytest.raises(WeightsError, match=message):
            use()
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="is a folder: name the model file in it"):
        fusiform.port(tmp_path / "empty", tmp_path / "out.safetensors")


def test_torchscript_of_others_says_how_its_weights_are_saved(tmp_path: Path) -> None:
    path = tmp_path / "scripted.pt"
    path.write_bytes(archive("m/code/__torch__.py", "m/data.pkl"))
    for use in (lambda: open_model(path), lambda: fusiform.port(path, tmp_path / "out.safetensors")):
        with pytest.raises(FusiformError, match=r"torch\.save\(torch\.jit\.load\(file\)\.state_dict\(\), new_file\)"):
            use()


def test_a_file_that_another_tool_rewrote_is_ported_as_that_tools(small_spec, lived_in_state, tmp_path: Path) -> None:
    """The description stayed, the layers are no longer as fusiform writes them: port never sends to port."""
    onnx = pytest.importorskip("onnx")
    spec = small_spec("mobilenet_v2", 0.35, classes=3)
    state = lived_in_state(spec)
    model = onnx.load_from_string(to_onnx(build_graph(spec, state)))
    names = {array.name: f"constant {k}" for k, array in enumerate(model.graph.initializer)}
    for array in model.graph.initializer:
        array.name = names[array.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    path = tmp_path / "rewritten.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match="was not written by fusiform"):
        open_model(path).graph()
    assert fusiform.port(path, tmp_path / "again.safetensors") == spec
    ported, own = open_model(tmp_path / "again.safetensors").state(), state
    assert ported.keys() == own.keys()
