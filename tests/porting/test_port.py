"""Weight files of other programs: what is read of a file, what a port writes, and what is refused."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest

from fusiform.engines.litert import LiteRTEngine
from fusiform.errors import FusiformError, OutputError, UsageError, WeightsError
from fusiform.graph.build import build_graph
from fusiform.graph.shapes import expected_shapes
from fusiform.graph.tflite import input_type, to_tflite
from fusiform.graph.tflite_metadata import read_label_file
from fusiform.porting.port import port, read_foreign
from fusiform.spec import METADATA_KEY, Accuracy, Architecture, Padding, Preprocess
from fusiform.zoo.catalog import imagenet_labels
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.model import open_model

sys.path.insert(0, str(Path(__file__).parent))

from foreign_files import SIZE, as_foreign, damaged, logits, make_spec, pictures, random_state, write_foreign

sys.path.pop(0)


@pytest.mark.parametrize(
    ("architecture", "width", "padding"),
    [
        ("mobilenet_v2", 0.35, "symmetric"),
        ("mobilenet_v2", 0.35, "same"),
        ("mobilenet_v2", 0.22, "same"),
        ("shufflenet_v2", 0.5, "symmetric"),
        ("shufflenet_v2", 1.0, "same"),
    ],
)
def test_a_tflite_file_comes_back(tmp_path: Path, architecture: Architecture, width: float, padding: Padding) -> None:
    own = make_spec(architecture, width=width, padding=padding)
    state = random_state(own)
    spec, ported = read_foreign(write_foreign(tmp_path, own, state))

    assert (spec.name, spec.padding, spec.input_size) == (own.name, padding, SIZE)
    assert spec.labels == ("class 0", "class 1", "class 2", "class 3", "class 4")
    expected = expected_shapes(architecture, width, num_classes=5)
    assert {name: array.shape for name, array in ported.items()} == expected
    assert list(ported) == list(expected)
    batch = pictures()
    np.testing.assert_allclose(logits(spec, ported, batch), logits(own, state, batch), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("padding", "mean"), [("symmetric", 0.485), ("same", 0.5)])
def test_preprocessing_is_what_the_padding_suggests(tmp_path: Path, padding: Padding, mean: float) -> None:
    own = make_spec(padding=padding, size=96)
    spec, _ = read_foreign(write_foreign(tmp_path, own, random_state(own)))
    assert spec.preprocess.mean[0] == mean
    assert (spec.preprocess.resize, spec.preprocess.crop) == (110, 96)
    assert (spec.preprocess.interpolation, spec.preprocess.antialias) == ("bilinear", True)


def test_an_odd_size_has_the_padding_of_its_framework(tmp_path: Path) -> None:
    # 33 pixels: 33, 17, 9, 5, 3, 2; both paddings are the same at every odd size.
    own = make_spec(padding="symmetric", size=33)
    state = random_state(own)
    spec, ported = read_foreign(write_foreign(tmp_path, own, state))
    assert spec.padding == "same"
    batch = pictures(33)
    np.testing.assert_allclose(logits(spec, ported, batch), logits(own, state, batch), atol=1e-4, rtol=1e-4)


def test_provenance_names_the_file_and_its_hash(tmp_path: Path) -> None:
    own = make_spec()
    foreign = write_foreign(tmp_path, own, random_state(own))
    spec, _ = read_foreign(foreign)
    digest = hashlib.sha256(foreign.read_bytes()).hexdigest()
    assert spec.provenance == f"foreign.tflite (SHA-256 {digest}), ported from TensorFlow Lite"
    assert spec.license == ""


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_an_int8_tflite_file_is_dequantised(tmp_path: Path, padding: Padding) -> None:
    torch = pytest.importorskip("torch")
    from fusiform.exporting.quantization.quantize import QuantizedNetwork
    from fusiform.graph.numbers import to_state

    # The border of an int8 file is grey: that of a network whose mean is this grey.
    preprocess = Preprocess(32, 32, mean=(128 / 255,) * 3, std=(0.5, 0.25, 0.2))
    measured = (Accuracy("somewhere", 0.5, 0.6, 70, "someone"),)
    own = make_spec(padding=padding, size=32).replace(preprocess=preprocess, accuracy=measured, provenance="at home")
    network = QuantizedNetwork(build_graph(own, random_state(own)))
    pixels = np.random.default_rng(2).integers(0, 256, (2, 3, 32, 32)).astype(np.float32)
    network.calibrate([torch.from_numpy(pixels)])
    graph = network.freeze()
    path = tmp_path / "int8.tflite"
    path.write_bytes(as_foreign(to_tflite(graph)))

    spec, ported = read_foreign(path)
    expected = to_state(graph)
    for name in expected:
        if not name.startswith("features.0."):
            np.testing.assert_allclose(ported[name], expected[name], rtol=1e-6, atol=1e-7, err_msg=name)
    # The file reads pixels less their mean grey, and its first convolution does the rest.
    assert spec.preprocess.mean == pytest.approx([128 / 255] * 3)
    assert spec.preprocess.std == pytest.approx([1 / 255] * 3)
    batch = pixels.transpose(0, 2, 3, 1).astype(np.uint8)
    ours = LiteRTEngine(to_tflite(build_graph(spec, ported)), spec).run(batch)["logits"]
    theirs = LiteRTEngine(to_tflite(build_graph(own, expected)), own).run(batch)["logits"]
    np.testing.assert_allclose(ours, theirs, atol=1e-3)

    path.write_bytes(to_tflite(graph))
    spec, ported = read_foreign(path)
    assert spec == own.replace(accuracy=(), provenance="at home; dequantised from int8.tflite")
    for name, array in expected.items():
        np.testing.assert_array_equal(ported[name], array, err_msg=name)


def test_the_background_class_is_dropped(tmp_path: Path) -> None:
    own = make_spec(classes=1001, padding="same")
    state = random_state(own)
    foreign = write_foreign(tmp_path, own, state)
    batch = pictures()
    everything = logits(own, state, batch)

    spec, ported = read_foreign(foreign)
    assert (spec.labels, spec.label_ids) == imagenet_labels()
    assert "background" in spec.provenance
    np.testing.assert_allclose(logits(spec, ported, batch), everything[:, 1:], atol=1e-4, rtol=1e-4)

    names = [f"thing {k}" for k in range(1001)]
    assert read_foreign(foreign, names[1:])[0].labels == tuple(names[1:])
    spec, ported = read_foreign(foreign, names)
    assert spec.labels == tuple(names)
    np.testing.assert_allclose(logits(spec, ported, batch), everything, atol=1e-4, rtol=1e-4)
    with pytest.raises(WeightsError, match=r"foreign\.tflite answers with 1001 classes, but 999 labels were given"):
        read_foreign(foreign, names[2:])


def test_a_file_with_a_spec_keeps_it(tmp_path: Path) -> None:
    own = make_spec("shufflenet_v2", width=0.5).replace(license="MIT", provenance="grown here")
    state = random_state(own)
    path = tmp_path / "own.tflite"
    path.write_bytes(to_tflite(build_graph(own, state)))
    spec, ported = read_foreign(path)
    assert spec == own
    batch = pictures()
    np.testing.assert_allclose(logits(spec, ported, batch), logits(own, state, batch), atol=1e-4, rtol=1e-4)

    assert read_foreign(path, list("abcde"))[0] == own.replace(labels=tuple("abcde"))
    with pytest.raises(WeightsError, match="answers with 5 classes, but 2 labels were given"):
        read_foreign(path, list("ab"))


@pytest.mark.parametrize("ending", [".safetensors", ".tflite", ".TFLITE"])
def test_port_writes_a_file_that_describes_itself(tmp_path: Path, ending: str) -> None:
    own = make_spec(padding="same")
    state = random_state(own)
    out = tmp_path / f"ported{ending}"
    spec = port(write_foreign(tmp_path, own, state), out, labels=list("vwxyz"))
    assert spec.labels == tuple("vwxyz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign.tflite", out.name]
    (tmp_path / "labels.txt").write_text("v\nw\nx\ny\nz\n", encoding="utf-8")
    named = port(write_foreign(tmp_path, own, state), tmp_path / f"named{out.suffix}", labels=tmp_path / "labels.txt")
    assert named == spec
    assert open_model(out).spec == spec
    again, weights = read_foreign(out)
    assert again == spec.with_logits()
    if ending != ".safetensors":  # one mean for all colours: it reads what other programs normalise
        assert (spec.output, input_type(out.read_bytes())) == ("probabilities", "float32")
        assert read_label_file(out.read_bytes()) == spec.labels
    batch = pictures()
    np.testing.assert_allclose(logits(again, weights, batch), logits(own, state, batch), atol=1e-4, rtol=1e-4)


def test_port_without_a_known_ending_writes_nothing(tmp_path: Path) -> None:
    own = make_spec()
    foreign = write_foreign(tmp_path, own, random_state(own))
    for name in ("out.onnx", "out"):
        with pytest.raises(UsageError, match=rf"{name}: a port is written as \.safetensors or \.tflite"):
            port(foreign, tmp_path / name)
    assert list(tmp_path.iterdir()) == [foreign]


@pytest.mark.parametrize("ending", [".safetensors", ".tflite"])
def test_a_failed_port_leaves_the_old_file_alone(tmp_path: Path, ending: str) -> None:
    foreign, out = tmp_path / "foreign.tflite", tmp_path / f"out{ending}"
    foreign.write_bytes(b"\x00\x00\x00\x00TFL3 and no more")
    out.write_bytes(b"precious")
    with pytest.raises(WeightsError, match=r"foreign\.tflite is damaged"):
        port(foreign, out)
    assert out.read_bytes() == b"precious"
    assert sorted(tmp_path.iterdir()) == sorted([foreign, out])


@pytest.mark.parametrize("ending", [".safetensors", ".tflite"])
def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, ending: str) -> None:
    own = make_spec()
    foreign = write_foreign(tmp_path, own, random_state(own))
    with pytest.raises(OutputError, match=r"cannot write .*nowhere.*choose another place"):
        port(foreign, tmp_path / "nowhere" / f"out{ending}")
    assert list(tmp_path.iterdir()) == [foreign]


def test_torchvision_names_in_safetensors(tmp_path: Path) -> None:
    own = make_spec("shufflenet_v2", width=0.5)
    state = random_state(own)
    path = tmp_path / "foreign.bin"  # the content says what it is
    write_safetensors(path, {name: a for name, a in state.items() if "num_batches" not in name}, own)
    path.write_bytes(path.read_bytes().replace(METADATA_KEY.encode(), b"someone.elses"))

    spec, ported = read_foreign(path, list("abcde"))
    assert (spec.name, spec.labels, spec.padding) == (own.name, tuple("abcde"), "symmetric")
    assert (spec.input_size, spec.preprocess) == (224, Preprocess())
    assert list(ported) == list(expected_shapes("shufflenet_v2", 0.5, num_classes=5))
    for name, array in state.items():
        if "num_batches" not in name:
            np.testing.assert_array_equal(ported[name], array)


def test_a_pth_file(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    own = make_spec()
    state = random_state(own)
    path = tmp_path / "model.pth"
    torch.save({"state_dict": {f"module.{name}": torch.from_numpy(a) for name, a in state.items()}}, path)
    spec, ported = read_foreign(path)
    assert spec.provenance.endswith("ported from PyTorch")
    assert list(ported) == list(state)
    for name, array in state.items():
        np.testing.assert_array_equal(ported[name], array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty, and no TensorFlow Lite, ONNX, PyTorch or safetensors file: fetch it again"),
        (b"<html>404</html>", "is no TensorFlow Lite, ONNX, PyTorch or safetensors file: fetch it again"),
        (b"\x10\0\0\0\0\0\0\0{not json at all", "is not a whole safetensors file"),
        (b"PK\x03\x04 and nothing", "is damaged or no PyTorch state dict"),
    ],
)
def test_what_is_no_weight_file_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    if content.startswith(b"PK"):
        pytest.importorskip("torch")
    path = tmp_path / "foreign.weights"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"foreign\.weights {message}"):
        read_foreign(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nothing\.onnx cannot be read \(No such file or directory\)"):
        read_foreign(tmp_path / "nothing.onnx")


def test_damaged_tflite_files_give_a_clear_error_or_weights_but_never_a_traceback(tmp_path: Path) -> None:
    own = make_spec(size=32)
    whole = as_foreign(to_tflite(build_graph(own, random_state(own))))
    path = tmp_path / "foreign.tflite"
    refused = 0
    for content in damaged(whole, 30):
        path.write_bytes(content)
        try:
            read_foreign(path)
        except FusiformError as error:
            assert "foreign.tflite" in str(error)  # noqa: PT017  # not every damage shows
            refused += 1
    assert refused >= 40


def test_another_network_in_tflite_is_told(tmp_path: Path) -> None:
    # A stride that the network does not have, and an operator: both are one byte of the file's options.
    from ai_edge_litert import schema_py_generated as tfl

    own = make_spec(padding="same")
    model = tfl.ModelT.InitFromPackedBuf(as_foreign(to_tflite(build_graph(own, random_state(own)))), 0)
    path = tmp_path / "foreign.tflite"

    def write() -> None:
        import flatbuffers

        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        path.write_bytes(bytes(builder.Output()))

    write()
    read_foreign(path)
    options = model.subgraphs[0].operators[0].builtinOptions
    options.fusedActivationFunction = tfl.ActivationFunctionType.RELU
    write()
    with pytest.raises(
        WeightsError,
        match=r"foreign\.tflite is no MobileNetV2, the network it resembles: for features\.0\.0, a 3x3 convolution at "
        r"stride 2 with relu6 was expected, and it has a 3x3 convolution at stride 2 with relu with 16 channels",
    ):
        read_foreign(path)
    options.fusedActivationFunction = tfl.ActivationFunctionType.RELU6

    code = next(c for c in model.operatorCodes if c.builtinCode == tfl.BuiltinOperator.ADD)
    code.builtinCode = code.deprecatedBuiltinCode = tfl.BuiltinOperator.HARD_SWISH
    write()
    with pytest.raises(WeightsError, match=r"foreign\.tflite: the operator HARD_SWISH \(for features\.3\)"):
        read_foreign(path)
