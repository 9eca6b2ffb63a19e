"""Every kind of model file, recognised by what is in it, and refused by name when it is not one."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from fusiform.engines import open_engine
from fusiform.errors import DownloadError, FusiformError, MissingExtraError, SpecError, UsageError, WeightsError
from fusiform.graph.build import build_graph
from fusiform.graph.ir import Graph
from fusiform.graph.tflite import to_tflite
from fusiform.spec import ModelSpec
from fusiform.zoo.catalog import CATALOG, imagenet_labels
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.model import open_model

KINDS = ("tflite", "safetensors", "foreign safetensors", "onnx", "pth", "legacy pth", "nested pth")


def write(kind: str, path, spec, state) -> str:
    """Write a model file of a kind; the format that it should be recognised as."""
    if kind == "tflite":
        path.write_bytes(to_tflite(build_graph(spec, state)))
        return "tflite"
    if kind == "safetensors":
        write_safetensors(path, state, spec)
        return "safetensors"
    if kind == "foreign safetensors":
        from safetensors.numpy import save_file

        save_file(state, path, metadata={"format": "pt"})
        return "safetensors"
    if kind == "onnx":
        pytest.importorskip("onnx")
        from fusiform.graph.onnx import to_onnx

        path.write_bytes(to_onnx(build_graph(spec, state)))
        return "onnx"
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
    if kind == "nested pth":
        tensors = {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}
    torch.save(tensors, path, _use_new_zipfile_serialization=kind != "legacy pth")
    return "pth"


@pytest.mark.parametrize("suffix", ["", ".bin", ".tflite"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_content_decides(kind, suffix, tmp_path, small_spec, lived_in_state):
    spec = small_spec("shufflenet_v2")
    state = lived_in_state(spec)
    path = tmp_path / f"model{suffix}"
    expected = write(kind, path, spec, state)
    model = open_model(path)
    assert (model.format, model.path) == (expected, path)
    described = "pth" not in kind and "foreign" not in kind
    if described:
        assert model.spec == spec
    else:
        assert model.spec.name == spec.name
        assert model.spec.labels == tuple(f"class {k}" for k in range(10))
        assert path.name in model.spec.provenance
        assert model.spec.input_size == 224
    graph = model.graph()
    assert isinstance(graph, Graph)
    assert graph.spec == model.spec
    back = model.state()
    assert back.keys() == state.keys()
    rebuilt = build_graph(spec, back)
    for node, original in zip(rebuilt.nodes, build_graph(spec, state).nodes, strict=True):
        if hasattr(node, "weight"):
            np.testing.assert_allclose(node.weight, original.weight, rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(node.bias, original.bias, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["tflite", "safetensors", "onnx"])
def test_all_kinds_answer_alike(kind, tmp_path, small_spec, lived_in_state):
    spec = small_spec("mobilenet_v2")
    state = lived_in_state(spec)
    path = tmp_path / "model"
    write(kind, path, spec, state)
    batch = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    expected = tmp_path / "expected.safetensors"
    write_safetensors(expected, state, spec)
    np.testing.assert_allclose(
        open_engine(path).run(batch)["logits"], open_engine(expected).run(batch)["logits"], rtol=1e-4, atol=1e-4
    )


def test_an_int8_file_stays_int8():
    model = open_model("shufflenet_v2_x1_0")
    assert model.format == "tflite"
    assert model.graph().quantization is not None
    assert model.tflite() is model.data
    assert all(array.dtype in (np.float32, np.int64) for array in model.state().values())


def test_an_int8_onnx_file(tmp_path):
    pytest.importorskip("onnx")
    model = open_model("shufflenet_v2_x1_0")
    path = tmp_path / "int8.onnx"
    path.write_bytes(model.onnx())
    again = open_model(path)
    assert again.onnx() is again.data
    assert again.spec == model.spec.with_logits()
    assert again.tflite() == to_tflite(model.graph())  # byte for byte, there and back


@pytest.mark.parametrize("classes", [10, 1000])
def test_imagenets_names_are_given_to_a_thousand_classes(classes, tmp_path, small_spec, lived_in_state):
    spec = small_spec("shufflenet_v2", classes=classes)
    write("foreign safetensors", tmp_path / "m.safetensors", spec, lived_in_state(spec))
    guessed = open_model(tmp_path / "m.safetensors").spec
    assert (guessed.labels == imagenet_labels()[0]) == (classes == 1000)
    assert bool(guessed.label_ids) == (classes == 1000)


def test_names_of_the_catalogue():
    for name in ("mobilenet_v2", "mobilenet_v2_x1_0", "mobilenet_v2_x1_0.bundled"):
        model = open_model(name)
        assert (model.spec.name, model.format) == ("mobilenet_v2_x1_0", "tflite")
    assert open_model("shufflenet_v2_x1_0").spec.num_classes == 1000


@pytest.mark.parametrize("name", ["mobilenet", "MobileNet_V2", "", "no such thing"])
def test_an_unknown_name(name):
    with pytest.raises(UsageError, match=f"no weights are called {name!r}.* fusiform models lists all weights"):
        open_model(name)


def test_a_download_that_is_forbidden(monkeypatch, tmp_path):
    monkeypatch.setenv("FUSIFORM_OFFLINE", "1")
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path))
    with pytest.raises(DownloadError, match="FUSIFORM_OFFLINE forbids fetching https://download"):
        open_model("mobilenet_v2_x1_0.torchvision_v2")


def test_weights_that_no_network_here_takes(monkeypatch, tmp_path):
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path))
    monkeypatch.setenv("FUSIFORM_OFFLINE", "1")
    unloadable = [record.name for record in CATALOG.values() if record.unloadable]
    assert unloadable
    for name in unloadable:
        with pytest.raises(WeightsError, match=f"{name} cannot be loaded: it is a quantised PyTorch pickle"):
            open_model(name)


def test_a_cached_download_has_the_catalogues_description(monkeypatch, tmp_path, lived_in_state):
    from fusiform.zoo import model as module

    torch = pytest.importorskip("torch")
    from fusiform.zoo.catalog import find_weights

    record = find_weights("shufflenet_v2_x0_5")
    state = lived_in_state(record.spec())
    torch.save({name: torch.from_numpy(np.array(array)) for name, array in state.items()}, tmp_path / record.file)
    monkeypatch.setattr("fusiform.zoo.fetch.fetch", lambda weights: tmp_path / weights.file)
    opened = module.open_model("shufflenet_v2_x0_5")
    assert (opened.format, opened.spec) == ("pth", record.spec())


# Files by name


def test_a_file_in_this_folder_goes_before_a_name(tmp_path, monkeypatch, small_spec, lived_in_state):
    spec = small_spec("shufflenet_v2")
    write("tflite", tmp_path / "mobilenet_v2", spec, lived_in_state(spec))
    (tmp_path / "shufflenet_v2_x1_0").mkdir()  # a folder is no file, and hides no name
    monkeypatch.chdir(tmp_path)
    assert open_model("mobilenet_v2").spec == spec
    assert open_model("shufflenet_v2_x1_0").spec.num_classes == 1000


@pytest.mark.parametrize("name", ["gone", "gone.tflite", "mobilenet_v2"])
def test_a_missing_file_is_named(name, tmp_path):
    with pytest.raises(WeightsError, match=rf"{name}: no such model file; fusiform models lists"):
        open_model(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["gone.tflite", "gone.onnx", "gone.safetensors", "gone.pth", "gone.pt", "./gone", "a/b"]
)
def test_what_looks_like_a_path_is_no_unknown_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="no such model file"):
        open_model(name)


@pytest.mark.parametrize("suffix", ["", ".tflite", ".pth", ".onnx", ".safetensors"])
def test_a_folder_and_an_empty_file(suffix, tmp_path):
    folder, empty = tmp_path / f"folder{suffix}", tmp_path / f"empty{suffix}"
    folder.mkdir()
    empty.touch()
    with pytest.raises(WeightsError, match=rf"folder{suffix}: is a folder without a model in it"):
        open_model(folder)
    with pytest.raises(WeightsError, match=f"empty{suffix}: the file is empty; download or write it again"):
        open_model(empty)


def test_the_model_in_a_folder(tmp_path, monkeypatch, small_spec, lived_in_state):
    spec = small_spec("shufflenet_v2")
    folder = tmp_path / "run"
    folder.mkdir()
    write("tflite", folder / "a.tflite", spec, lived_in_state(spec))
    (folder / "labels.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert open_model("run").path == folder.relative_to(tmp_path) / "a.tflite"
    write("tflite", folder / "b.tflite", spec, lived_in_state(spec))
    with pytest.raises(WeightsError, match=r"run: is a folder with several models \(a\.tflite, b\.tflite\): name one"):
        open_model(folder)
    write("safetensors", folder / "best.safetensors", spec, lived_in_state(spec))
    assert open_model(folder).path == folder / "best.safetensors"


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "secret.tflite"
    path.write_bytes(b"x")

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(path), "read_bytes", refuse)
    with pytest.raises(WeightsError, match=r"secret\.tflite: cannot be read \(Permission denied\)"):
        open_model(path)


GARBAGE = {
    "text": b"The quick brown fox jumps over the lazy dog.\n" * 20,
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "json": json.dumps({"a": {"b": [1, 2, 3]}}).encode(),
    "random": np.random.default_rng(0).bytes(5000),
    "zeros": bytes(5000),
    "zip": b"PK\x03\x04" + bytes(200),
    "pickle": b"\x80\x02" + bytes(200),
    "protobuf": b"\x08\x08" + bytes(200),
    "one byte": b"\x08",
    "magic number": b"\0\0\0\0TFL3",
    "safetensors header": (50).to_bytes(8, "little") + b"{" * 50,
}


@pytest.mark.parametrize("suffix", ["", ".tflite", ".pth", ".onnx", ".safetensors"])
@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_named(kind, suffix, tmp_path):
    path = tmp_path / f"garbage{suffix}"
    path.write_bytes(GARBAGE[kind])
    with pytest.raises((WeightsError, SpecError)) as raised:
        open_model(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_off_is_named(kind, tmp_path, small_spec, lived_in_state):
    spec = small_spec("shufflenet_v2")
    path = tmp_path / "whole"
    write(kind, path, spec, lived_in_state(spec))
    data = path.read_bytes()
    cut = tmp_path / "cut"
    for length in (9, 200, len(data) // 2, len(data) - 9):
        cut.write_bytes(data[:length])
        with pytest.raises(FusiformError, match="cut") as raised:
            open_engine(cut) if kind == "tflite" else open_model(cut).state()
        assert isinstance(raised.value, (WeightsError, SpecError))


def test_weights_of_other_networks(tmp_path):
    from safetensors.numpy import save_file

    save_file({"layer1.0.conv1.weight": np.zeros((64, 64, 1, 1), np.float32)}, tmp_path / "resnet.safetensors")
    with pytest.raises(WeightsError, match=r"resnet\.safetensors is no MobileNetV2 or ShuffleNetV2"):
        open_model(tmp_path / "resnet.safetensors")


def test_a_network_for_other_pictures(tmp_path, small_spec, lived_in_state):
    spec = small_spec("shufflenet_v2", channels=4)
    write("foreign safetensors", tmp_path / "rgbd.safetensors", spec, lived_in_state(spec))
    with pytest.raises(SpecError, match=r"rgbd\.safetensors: the network reads 4 channels; photographs have 3"):
        open_model(tmp_path / "rgbd.safetensors")
    write("safetensors", tmp_path / "described.safetensors", spec, lived_in_state(spec))
    assert open_model(tmp_path / "described.safetensors").spec.input_channels == 4


def test_a_description_that_does_not_fit_its_weights(tmp_path, small_spec, lived_in_state):
    path = tmp_path / "liar.safetensors"
    write_safetensors(path, lived_in_state(small_spec("mobilenet_v2")), small_spec("mobilenet_v2", 1.0))
    with pytest.raises(WeightsError, match=r"liar\.safetensors: .* mobilenet_v2_x1_0 needs .* another network"):
        open_model(path).graph()


@pytest.mark.parametrize("engine", ["litert", "onnxruntime", "torch"])
def test_weights_that_do_not_fit_are_named_by_every_engine(engine, tmp_path, small_spec, lived_in_state):
    pytest.importorskip(engine if engine == "torch" else "onnx")
    path = tmp_path / "liar.safetensors"
    write_safetensors(path, lived_in_state(small_spec("mobilenet_v2")), small_spec("mobilenet_v2", 1.0))
    with pytest.raises(WeightsError, match=r"liar\.safetensors"):
        open_engine(path, engine=engine)


def test_pickles_need_pytorch_and_nothing_else_does(tmp_path, monkeypatch, small_spec, lived_in_state):
    spec = small_spec("shufflenet_v2")
    write("pth", tmp_path / "m.pth", spec, lived_in_state(spec))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"reading m\.pth needs PyTorch"):
        open_model(tmp_path / "m.pth")


def test_bundled_models_open_without_pytorch_or_onnx():
    script = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None\n"
        "from fusiform.zoo.model import open_model\n"
        "model = open_model('mobilenet_v2'); model.state(); print(type(model.spec).__name__)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (answer.stdout, answer.stderr) == (ModelSpec.__name__ + "\n", "")


def test_a_bundled_model_is_opened_without_what_reads_archives():
    """Its label file is compared where it lies: importing zipfile, or the schema of LiteRT, takes longer than that."""
    script = (
        "import sys; from fusiform.zoo.model import open_model; open_model('mobilenet_v2')\n"
        "print([name for name in ('zipfile', 'ai_edge_litert.schema_py_generated') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


def test_other_labels_in_the_archive_are_noticed(tmp_path):
    data = open_model("mobilenet_v2").data
    at = data.rindex(b"tench\n")
    path = tmp_path / "other.tflite"
    path.write_bytes(data[:at] + b"Tench\n" + data[at + 6 :])
    with pytest.raises(FusiformError, match=r"other\.tflite: its label"):
        open_model(path)
    path.write_bytes(data[:-30])
    with pytest.raises(WeightsError, match=r"other\.tflite: is cut off"):
        open_model(path)
