from __future__ import annotations

import hashlib
import io
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fusiform.engines.litert import LiteRTEngine
from fusiform.errors import FusiformError, MissingExtraError, OutputError, UsageError, WeightsError
from fusiform.graph.build import build_graph
from fusiform.graph.shapes import expected_shapes
from fusiform.graph.tflite import input_type, to_tflite
from fusiform.graph.tflite_metadata import read_label_file
from fusiform.porting.port import port, read_foreign
from fusiform.spec import METADATA_KEY, Accuracy, Architecture, ModelSpec, Padding, Preprocess
from fusiform.zoo.catalog import imagenet_labels
from fusiform.zoo.checkpoint import State, read_safetensors, write_safetensors
from fusiform.zoo.model import open_model

SIZE = 64


def make_spec(
    architecture: Architecture = "mobilenet_v2",
    *,
    width: float = 0.35,
    classes: int = 5,
    padding: Padding = "symmetric",
    size: int = SIZE,
) -> ModelSpec:
    labels = tuple(f"name {k}" for k in range(classes))
    preprocess = Preprocess(resize=size, crop=size)
    return ModelSpec(architecture, width, labels, input_size=size, padding=padding, preprocess=preprocess)


def random_state(spec: ModelSpec, seed: int = 0) -> State:
    random = np.random.default_rng(seed)
    state: State = {}
    for name, shape in expected_shapes(spec.architecture, spec.width, num_classes=spec.num_classes).items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(7, np.int64)
        elif name.endswith("running_var"):
            state[name] = random.uniform(0.5, 2, shape).astype(np.float32)
        elif len(shape) > 1:
            deviation = np.sqrt(2 / np.prod(shape[1:]))
            state[name] = random.normal(0, deviation, shape).astype(np.float32)
        else:
            state[name] = random.normal(1 if name.endswith("weight") else 0, 0.2, shape).astype(np.float32)
    return state


def as_foreign(tflite: bytes) -> bytes:
    """The same file without a description that fusiform knows."""
    assert METADATA_KEY.encode() in tflite
    return tflite.replace(METADATA_KEY.encode(), b"someone.elses")


def write_foreign(folder: Path, spec: ModelSpec, state: State) -> Path:
    path = folder / "foreign.tflite"
    path.write_bytes(as_foreign(to_tflite(build_graph(spec, state))))
    return path


def pictures(size: int = SIZE, count: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(0, 1, (count, 3, size, size)).astype(np.float32)


def logits(spec: ModelSpec, state: State, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    return LiteRTEngine(to_tflite(build_graph(spec, state)), spec).run(batch)["logits"]


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


def damaged(whole: bytes, count: int) -> list[bytes]:
    """Files cut short, and files with wrong bytes near the beginning, near the end or anywhere."""
    random = np.random.default_rng(3)
    cut = [whole[: int(len(whole) * part)] for part in np.linspace(0.001, 0.999, count)]
    wrong = []
    for k in range(count):
        array = np.frombuffer(whole, np.uint8).copy()
        low, high = [(8, 4096), (len(array) - 40_000, len(array)), (8, len(array))][k % 3]
        array[random.integers(low, high, 20)] = random.integers(0, 256, 20)
        wrong.append(array.tobytes())
    return cut + wrong


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


# ONNX, as PyTorch writes it.


def export(network: Any, path: Path, *, size: int = SIZE, pictures: int = 1, **options: Any) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's about its own exporter
        torch.onnx.export(network, (torch.zeros(pictures, 3, size, size),), str(path), dynamo=False, **options)


def torchvision_network(name: str, seed: int = 0, **options: Any) -> Any:
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision").models
    network = getattr(models, name)(num_classes=5, **options).eval()
    generator = torch.Generator().manual_seed(seed)
    for key, value in network.state_dict().items():
        if value.ndim == 1:
            low, high = (0.5, 2.0) if key.endswith(("running_var", "weight")) else (-0.2, 0.2)
            value.uniform_(low, high, generator=generator)
    return network


def answers(network: Any, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch

    with torch.no_grad():
        made: NDArray[np.float32] = network(torch.from_numpy(batch)).numpy()
    return made


def assert_answers_like(network: Any, path: Path, name: str) -> State:
    spec, state = read_foreign(path)
    assert (spec.name, spec.padding, spec.input_size) == (name, "symmetric", SIZE)
    assert spec.preprocess.mean == (0.485, 0.456, 0.406)
    batch = pictures()
    expected = answers(network, batch)
    np.testing.assert_allclose(logits(spec, state, batch), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 1e-2  # the answers are worth comparing
    return state


@pytest.mark.parametrize(("opset", "keep_normalizations"), [(9, False), (13, True), (18, False)])
@pytest.mark.parametrize(
    ("network", "name", "options"),
    [
        ("mobilenet_v2", "mobilenet_v2_x0_35", {"width_mult": 0.35}),
        ("shufflenet_v2_x0_5", "shufflenet_v2_x0_5", {}),
    ],
)
def test_an_onnx_file_of_torchvisions_answers_like_it(
    tmp_path: Path, network: str, name: str, options: dict[str, Any], opset: int, keep_normalizations: bool
) -> None:
    model = torchvision_network(network, **options)
    path = tmp_path / "foreign.onnx"
    more: dict[str, Any] = {}
    if keep_normalizations:
        import torch

        more = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    export(model, path, opset_version=opset, **more)
    onnx = pytest.importorskip("onnx")
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert ("BatchNormalization" in kinds) == keep_normalizations

    state = assert_answers_like(model, path, name)
    if not keep_normalizations:
        from fusiform.graph.numbers import to_state

        # The weights come out in torchvision's own order of channels.
        original = {key: value.numpy() for key, value in model.state_dict().items()}
        folded = to_state(build_graph(read_foreign(path)[0], original))
        for key, value in folded.items():
            np.testing.assert_allclose(state[key], value, atol=1e-5, rtol=1e-4, err_msg=key)


def test_an_onnx_file_for_any_number_and_size_of_pictures(tmp_path: Path) -> None:
    model = torchvision_network("shufflenet_v2_x0_5")
    path = tmp_path / "foreign.onnx"
    export(model, path, input_names=["image"], dynamic_axes={"image": {0: "pictures"}})
    assert_answers_like(model, path, "shufflenet_v2_x0_5")
    export(model, path, input_names=["image"], dynamic_axes={"image": {0: "pictures", 2: "height", 3: "width"}})
    assert read_foreign(path)[0].input_size == 224


def test_an_onnx_file_for_three_pictures(tmp_path: Path) -> None:
    model = torchvision_network("shufflenet_v2_x0_5")
    path = tmp_path / "foreign.onnx"
    export(model, path, pictures=3)
    assert_answers_like(model, path, "shufflenet_v2_x0_5")


def test_a_shufflenet_that_shuffles_first_and_splits_by_parity(tmp_path: Path) -> None:
    """As the paper's authors write it: even channels pass by, odd ones are filtered, the next unit splits again."""
    torch = pytest.importorskip("torch")
    model = torchvision_network("shufflenet_v2_x0_5")

    class ByParity(torch.nn.Module):  # type: ignore[misc]  # torch is Any here
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Any) -> Any:
            x = model.maxpool(model.conv1(x))
            for stage in (model.stage2, model.stage3, model.stage4):
                x = torch.cat((stage[0].branch1(x), stage[0].branch2(x)), 1)
                for unit in stage[1:]:
                    pairs = x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2], x.shape[3])
                    x = torch.cat((pairs[:, :, 0], unit.branch2(pairs[:, :, 1])), 1)
            return model.fc(model.conv5(x).mean([2, 3]))

    network = ByParity().eval()
    path = tmp_path / "foreign.onnx"
    export(network, path)
    assert np.abs(answers(network, pictures()) - answers(model, pictures())).max() > 0.01  # another network indeed
    assert_answers_like(network, path, "shufflenet_v2_x0_5")


def test_a_shufflenet_with_another_shuffle_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = torchvision_network("shufflenet_v2_x0_5")

    class Unshuffled(torch.nn.Module):  # type: ignore[misc]  # torch is Any here
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Any) -> Any:
            x = model.maxpool(model.conv1(x))
            for stage in (model.stage2, model.stage3, model.stage4):
                x = torch.cat((stage[0].branch1(x), stage[0].branch2(x)), 1)
                for unit in stage[1:]:
                    passing, filtered = x.chunk(2, 1)
                    x = torch.cat((passing, unit.branch2(filtered)), 1)
            return model.fc(model.conv5(x).mean([2, 3]))

    path = tmp_path / "foreign.onnx"
    export(Unshuffled().eval(), path)
    with pytest.raises(WeightsError, match=r"foreign\.onnx is no ShuffleNetV2.*a shuffle of two groups was expected"):
        read_foreign(path)


@pytest.mark.parametrize(("form", "per_channel"), [("QDQ", True), ("QOperator", False)])
@pytest.mark.parametrize(("network", "options"), [("mobilenet_v2", {"width_mult": 0.35}), ("shufflenet_v2_x0_5", {})])
def test_a_quantised_onnx_file_is_dequantised(
    tmp_path: Path, network: str, options: dict[str, Any], form: str, per_channel: bool
) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    model = torchvision_network(network, **options)
    plain, path = tmp_path / "float.onnx", tmp_path / "foreign.onnx"
    export(model, plain, input_names=["image"], opset_version=13)

    class Calibration(quantization.CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            self.batches = iter([{"image": picture[None]} for picture in pictures(count=8)])

        def get_next(self) -> Any:
            return next(self.batches, None)

    quantization.quantize_static(
        plain, path, Calibration(), quant_format=quantization.QuantFormat[form], per_channel=per_channel
    )
    _, expected = read_foreign(plain)
    spec, state = read_foreign(path)
    assert spec.num_classes == 5
    for name, array in expected.items():
        # Within the rounding of 8 bits; the bias, of 32, is finer.
        step = np.abs(array).max() / 127 if array.ndim > 1 else 1e-3
        np.testing.assert_allclose(state[name], array, atol=1.1 * step, err_msg=name)


def test_weights_in_a_file_beside_an_onnx_file(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = torchvision_network("mobilenet_v2", width_mult=0.35)
    path = tmp_path / "foreign.onnx"
    export(model, path)
    loaded = onnx.load(path)
    onnx.save_model(loaded, path, save_as_external_data=True, location="foreign.data", size_threshold=0)
    assert_answers_like(model, path, "mobilenet_v2_x0_35")
    (tmp_path / "foreign.data").unlink()
    with pytest.raises(WeightsError, match=r"foreign\.onnx keeps its weights in foreign\.data, which is not beside it"):
        read_foreign(path)


def test_onnx_files_from_tensorflow(tmp_path: Path) -> None:
    """As tf2onnx writes them: NHWC pictures, SAME_UPPER, biases added by operators of their own."""
    onnx = pytest.importorskip("onnx")
    own = make_spec(padding="same")
    state = random_state(own)
    nodes, weights = [], {}
    graph = build_graph(own, state)
    helper = onnx.helper
    nodes.append(helper.make_node("Transpose", ["pictures"], ["image"], perm=[0, 3, 1, 2]))
    from fusiform.graph.ir import Add, Conv, Linear

    for node in graph.nodes:
        if isinstance(node, Conv):
            weights[f"{node.name}.w"], weights[f"{node.name}.b"] = node.weight, node.bias.reshape(-1, 1, 1)
            options = {"strides": [node.stride] * 2, "group": node.groups, "auto_pad": "SAME_UPPER"}
            nodes.append(helper.make_node("Conv", [node.source, f"{node.name}.w"], [f"{node.name}/conv"], **options))
            added = f"{node.name}/add" if node.activation else node.name
            nodes.append(helper.make_node("Add", [f"{node.name}/conv", f"{node.name}.b"], [added]))
            if node.activation:
                nodes.append(helper.make_node("Clip", [added, "zero", "six"], [node.name]))
        elif isinstance(node, Add):
            nodes.append(helper.make_node("Add", [node.left, node.right], [node.name]))
        elif isinstance(node, Linear):
            nodes.append(helper.make_node("MatMul", ["pool", "matrix"], ["product"]))
            nodes.append(helper.make_node("Add", ["bias", "product"], ["logits"]))
            nodes.append(helper.make_node("Softmax", ["logits"], ["answer"]))
            weights |= {"matrix": node.weight.T, "bias": node.bias}
        else:
            nodes.append(helper.make_node("ReduceMean", [node.source], ["pool"], axes=[2, 3], keepdims=0))
    weights |= {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    shape = ["N", SIZE, SIZE, 3]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "tensorflow",
            [helper.make_tensor_value_info("pictures", onnx.TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("answer", onnx.TensorProto.FLOAT, ["N", 5])],
            [onnx.numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 13)],
    )
    path = tmp_path / "foreign.onnx"
    onnx.save(model, path)
    spec, ported = read_foreign(path)
    assert (spec.padding, spec.preprocess.mean) == ("same", (0.5, 0.5, 0.5))
    batch = pictures()
    np.testing.assert_allclose(logits(spec, ported, batch), logits(own, state, batch), atol=1e-4, rtol=1e-4)


def test_another_network_in_onnx_is_told(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    path = tmp_path / "foreign.onnx"
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    export(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), *head), path)
    with pytest.raises(WeightsError, match=r"foreign\.onnx is no MobileNetV2.*for features\.0\.0, a 3x3 conv.* relu6"):
        read_foreign(path)
    export(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Sigmoid(), *head), path)
    with pytest.raises(WeightsError, match=r"foreign\.onnx: the operator Sigmoid"):
        read_foreign(path)
    export(torchvision_network("mobilenet_v2", width_mult=0.35).features, path)
    with pytest.raises(WeightsError, match=r"foreign\.onnx is no MobileNetV2.*for the pooling, a mean was expected"):
        read_foreign(path)


def test_damaged_onnx_files_give_a_clear_error_or_weights_but_never_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    model = torchvision_network("mobilenet_v2", width_mult=0.35)
    buffer = io.BytesIO()
    export(model, path, size=32)
    buffer.write(path.read_bytes())
    refused = 0
    for content in damaged(buffer.getvalue(), 24):
        path.write_bytes(content)
        try:
            read_foreign(path)
        except FusiformError as error:
            assert "foreign.onnx" in str(error)  # noqa: PT017  # not every damage shows
            refused += 1
    assert refused >= 24


def test_without_onnx_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "foreign.onnx"
    path.write_bytes(b"\x08\x07")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"reading foreign\.onnx needs onnx.*fusiform\[onnx\]"):
        read_foreign(path)


# Real files.


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
