"""ExecuTorch programs against PyTorch and LiteRT, run by ExecuTorch itself."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

pytest.importorskip("executorch")
torch = pytest.importorskip("torch")

from fusiform.data.preprocess import normalize  # noqa: E402
from fusiform.engines import open_engine  # noqa: E402
from fusiform.engines.litert import LiteRTEngine  # noqa: E402
from fusiform.errors import MissingExtraError  # noqa: E402
from fusiform.export.executorch import write  # noqa: E402
from fusiform.export.module import to_module  # noqa: E402
from fusiform.export.quantize import QuantizedNetwork  # noqa: E402
from fusiform.graph.build import build_graph, read_pixels  # noqa: E402
from fusiform.graph.ir import Add, Conv, Linear  # noqa: E402
from fusiform.graph.tflite import to_tflite  # noqa: E402
from fusiform.zoo.model import open_model  # noqa: E402

SIZE = 32
LABELS = ("강아지", "a,b", "two\nlines", " ", 'a "quoted" one', *(f"class {k}" for k in range(5)))


def smooth_pixels(count, seed):
    """uint8 NHWC pictures of random soft blobs: noise would average out to one grey."""
    coarse = torch.from_numpy(np.random.default_rng(seed).uniform(-60, 315, (count, 3, 5, 5)).astype(np.float32))
    grown = torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
    return grown.round().clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8).contiguous().numpy()


@pytest.fixture(scope="module")
def float_graph(small_spec, lived_in_state):
    def make(architecture, padding):
        spec = small_spec(architecture, size=SIZE, padding=padding).replace(labels=LABELS)
        return build_graph(spec, lived_in_state(spec))

    return make


@pytest.fixture(scope="module")
def int8_graph(float_graph):
    def make(architecture, padding, kept=()):
        network = QuantizedNetwork(float_graph(architecture, padding))
        network.calibrate([torch.from_numpy(smooth_pixels(24, 1).transpose(0, 3, 1, 2).astype(np.float32))])
        network.kept = frozenset(kept)
        return network.freeze()

    return make


def litert(graph, pixels):
    return LiteRTEngine(to_tflite(graph), graph.spec).run(pixels)["logits"]


# Exporting takes ExecuTorch up to half a minute for the longest graphs.
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("architecture", "padding"),
    [
        ("mobilenet_v2", "symmetric"),
        pytest.param("shufflenet_v2", "same", marks=SLOW),
    ],
)
def test_float32(architecture, padding, float_graph, tmp_path, capfd):
    graph = float_graph(architecture, padding)
    (written,) = write(graph, "float32", tmp_path)
    assert capfd.readouterr() == ("", "")
    assert written.path == tmp_path / f"{architecture}_x0_5_float32.pte"
    assert written.files == (written.path,)
    assert written.figures["not_delegated"] == 0
    assert written.figures["delegated"] >= len(graph.nodes)
    assert open_model(written.path).spec == graph.spec
    pixels = smooth_pixels(3, 5)
    pictures = normalize(pixels, graph.spec.preprocess)
    expected = to_module(graph)(torch.from_numpy(pictures)).numpy()
    engine = open_engine(written.path)
    for batch in (pixels, pictures):
        np.testing.assert_allclose(engine.run(batch)["logits"], expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("architecture", "padding"),
    [
        ("mobilenet_v2", "same"),
        pytest.param("shufflenet_v2", "symmetric", marks=SLOW),
    ],
)
def test_int8_is_litert_s(architecture, padding, int8_graph, tmp_path):
    graph = int8_graph(architecture, padding)
    (written,) = write(graph, "int8", tmp_path)
    assert written.figures["not_delegated"] == 0
    assert open_model(written.path).spec == graph.spec
    weights = sum(node.weight.nbytes + 4 * len(node.bias) for node in graph.nodes if isinstance(node, Conv | Linear))
    assert written.path.stat().st_size < 1.5 * weights  # the int8 weights, and no float32 ones beside them
    pixels = smooth_pixels(16, 5)
    expected, actual = litert(graph, pixels), open_engine(written.path).run(pixels)["logits"]
    # Both compute with XNNPACK where there is one for LiteRT; its own kernels round a step apart here and there.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0.03 * np.abs(expected).max())
    assert (actual.argmax(1) == expected.argmax(1)).mean() >= 0.9


@pytest.mark.parametrize("precision", ["float32", pytest.param("int8", marks=SLOW)])
def test_twice_gives_the_same_bytes(precision, float_graph, int8_graph, tmp_path):
    graph = (int8_graph if precision == "int8" else float_graph)("mobilenet_v2", "symmetric")
    first, second = (write(graph, precision, tmp_path)[0].path.read_bytes() for _ in range(2))
    assert first == second


@SLOW
@pytest.mark.parametrize("architecture", ["mobilenet_v2"])
def test_nodes_in_float(architecture, int8_graph, tmp_path):
    nodes = int8_graph(architecture, "symmetric").nodes
    convs = [node.name for node in nodes if isinstance(node, Conv)]
    adds = [node.name for node in nodes if isinstance(node, Add)]
    # The first, two in a row, the one before the average, an addition, the classifier.
    kept = {convs[0], convs[7], convs[8], convs[-1], *adds[:1], nodes[-1].name}
    graph = int8_graph(architecture, "symmetric", kept)
    (written,) = write(graph, "int8", tmp_path)
    assert written.figures["not_delegated"] == 0
    pixels = smooth_pixels(8, 5)
    expected, actual = litert(graph, pixels), open_engine(written.path).run(pixels)["logits"]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0.03 * np.abs(expected).max())
    # And they are in float: the answers are others than those of int8 alone.
    assert np.abs(expected - litert(int8_graph(architecture, "symmetric"), pixels)).max() > 1e-3


def test_float_pixels_in_and_what_the_file_says_of_itself(float_graph, tmp_path):
    normal = float_graph("mobilenet_v2", "symmetric")
    graph = read_pixels(normal)
    (written,) = write(graph, "float32", tmp_path)
    engine = open_engine(written.path)
    pixels = smooth_pixels(2, 5)
    expected = to_module(normal)(torch.from_numpy(normalize(pixels, graph.spec.preprocess))).numpy()
    np.testing.assert_allclose(engine.run(pixels)["logits"], expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(written.path.read_bytes())

    def says(name):
        return program.load_method(name).execute([])

    assert tuple(says("labels")) == LABELS
    assert says("input_size") == [SIZE]
    assert says("color_order") == ["rgb"]
    assert says("reads_pixels") == [True]
    # What an app computes with them, (pixel / 255 - mean) / std, is what forward reads.
    assert says("mean") == [0.0] * 3
    assert says("std") == [1 / 255] * 3
    given = torch.from_numpy(np.ascontiguousarray(pixels[:1].transpose(0, 3, 1, 2), np.float32))
    (answer,) = program.load_method("forward").execute([(given / 255 - says("mean")[0]) / says("std")[0]])
    np.testing.assert_allclose(answer.numpy(), expected[:1], rtol=0, atol=1e-4 * np.abs(expected).max())


@SLOW
def test_a_saturated_bias_keeps_its_sign(int8_graph, tmp_path):
    """One more than 2**31 - 1, which float32 rounds up, and int32 is at its other end."""
    graph = int8_graph("mobilenet_v2", "symmetric")
    first, *others = graph.nodes
    bias = first.bias.copy()
    bias[:2] = 2**31 - 1, -(2**31 - 1)
    graph = dataclasses.replace(graph, nodes=(dataclasses.replace(first, bias=bias), *others))
    (written,) = write(graph, "int8", tmp_path)
    pixels = smooth_pixels(4, 5)
    bias[:2] = 10**7, -(10**7)  # no less out of the range of the first layer's outputs, and far from that of int32
    expected = litert(dataclasses.replace(graph, nodes=(dataclasses.replace(first, bias=bias), *others)), pixels)
    actual = open_engine(written.path).run(pixels)["logits"]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0.03 * np.abs(expected).max())


def test_without_executorch(float_graph, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "executorch.exir", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fusiform\[executorch\]'"):
        write(float_graph("mobilenet_v2", "symmetric"), "float32", tmp_path)
