"""ExecuTorch programs against PyTorch and LiteRT, run by ExecuTorch itself."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

pytest.importorskip("executorch")
torch = pytest.importorskip("torch")

from fusiform.data.preprocess import normalize
from fusiform.engines import open_engine
from fusiform.engines.litert import LiteRTEngine
from fusiform.errors import MissingExtraError
from fusiform.exporting.quantization.quantize import QuantizedNetwork
from fusiform.exporting.targets.executorch import write
from fusiform.exporting.targets.module import to_module
from fusiform.graph.build import build_graph
from fusiform.graph.inputs import read_pixels
from fusiform.graph.ir import INPUT, Add, Conv, Graph, Linear, Mean
from fusiform.graph.tflite import to_tflite
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.model import open_model

SIZE = 32
LABELS = ("강아지", "a,b", "two\nlines", " ", 'a "quoted" one', *(f"class {k}" for k in range(5)))


def smooth_pixels(count, seed):
    """uint8 NHWC pictures of random soft blobs: noise would average out to one grey."""
    coarse = torch.from_numpy(np.random.default_rng(seed).uniform(-60, 315, (count, 3, 5, 5)).astype(np.float32))
    grown = torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
    return grown.round().clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8).contiguous().numpy()


def litert(graph, pixels):
    return LiteRTEngine(to_tflite(graph), graph.spec).run(pixels)["logits"]


def tiny(padding="symmetric"):
    """A few layers in the place of fifty, exported in a tenth of the time: two blocks, one with a shortcut."""
    spec = ModelSpec("mobilenet_v2", 0.5, LABELS, input_size=SIZE, padding=padding, preprocess=Preprocess(SIZE, SIZE))
    random = np.random.default_rng(7)

    def values(name, *shape):
        fans = np.prod(shape[1:])
        return {
            "name": name,
            "weight": random.normal(0, np.sqrt(1.5 / fans), shape).astype(np.float32),
            "bias": random.uniform(-0.3, 0.7, shape[0]).astype(np.float32),
        }

    def conv(name, source, shape, activation, stride=1):
        made, groups = values(name, *shape), 8 if shape[1] == 1 else 1
        return Conv(
            norm="", source=source, stride=stride, padding=padding, groups=groups, activation=activation, **made
        )

    nodes = (
        conv("stem", INPUT, (8, 3, 3, 3), "relu6", stride=2),
        conv("wide.1", "stem", (8, 1, 3, 3), "relu6"),
        conv("narrow.1", "wide.1", (8, 8, 1, 1), None),
        Add("shortcut", "stem", "narrow.1"),
        conv("wide.2", "shortcut", (8, 1, 3, 3), "relu6", stride=2),
        conv("narrow.2", "wide.2", (8, 8, 1, 1), None),
        conv("last", "narrow.2", (16, 8, 1, 1), "relu6"),
        Mean("pool", "last"),
        Linear(source="pool", **values("classifier", 10, 16)),
    )
    return Graph(spec, nodes)


def quantised(graph, *kept):
    network = QuantizedNetwork(graph)
    network.calibrate([torch.from_numpy(smooth_pixels(24, 1).transpose(0, 3, 1, 2).astype(np.float32))])
    network.kept = frozenset(kept)
    return network.freeze()


def shufflenet(small_spec, lived_in_state, padding):
    spec = small_spec("shufflenet_v2", size=SIZE, padding=padding).replace(labels=LABELS)
    return build_graph(spec, lived_in_state(spec))


# Exporting a whole network takes ExecuTorch up to half a minute; MobileNetV2's are in the engine's tests and in
# test_planted_faults.
BOTH = pytest.mark.parametrize(
    ("network", "padding"),
    [
        ("tiny", "symmetric"),
        ("tiny", "same"),
        pytest.param("shufflenet_v2", "same", marks=pytest.mark.slow),
    ],
)


@BOTH
def test_float32(network, padding, small_spec, lived_in_state, tmp_path, capfd):
    graph = tiny(padding) if network == "tiny" else shufflenet(small_spec, lived_in_state, padding)
    (written,) = write(graph, "float32", tmp_path)
    assert capfd.readouterr() == ("", "")
    assert written.path == tmp_path / f"{graph.spec.name}_float32.pte"
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


@BOTH
def test_int8_is_litert_s(network, padding, small_spec, lived_in_state, tmp_path):
    graph = quantised(tiny(padding) if network == "tiny" else shufflenet(small_spec, lived_in_state, "symmetric"))
    (written,) = write(graph, "int8", tmp_path)
    assert written.figures["not_delegated"] == 0
    assert open_model(written.path).spec == graph.spec
    if network != "tiny":
        layers = [node for node in graph.nodes if isinstance(node, Conv | Linear)]
        weights = sum(node.weight.nbytes + 4 * len(node.bias) for node in layers)
        assert written.path.stat().st_size < 1.5 * weights  # the int8 weights, and no float32 ones beside them
    pixels = smooth_pixels(16, 5)
    expected, actual = litert(graph, pixels), open_engine(written.path).run(pixels)["logits"]
    # Both compute with XNNPACK where there is one for LiteRT; its own kernels round a step apart here and there.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0.03 * np.abs(expected).max())
    assert (actual.argmax(1) == expected.argmax(1)).mean() >= 0.9


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_twice_gives_the_same_bytes(precision, tmp_path):
    graph = quantised(tiny()) if precision == "int8" else tiny()
    first, second = (write(graph, precision, tmp_path)[0].path.read_bytes() for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    "kept",
    [
        ("stem", "shortcut", "wide.2", "classifier"),  # the first, an addition and what reads it, the last
        ("wide.1", "narrow.1", "last"),  # two in a row, and the one before the average
    ],
)
def test_nodes_in_float(kept, tmp_path):
    graph = quantised(tiny(), *kept)
    (written,) = write(graph, "int8", tmp_path)
    assert written.figures["not_delegated"] == 0
    pixels = smooth_pixels(8, 5)
    expected, actual = litert(graph, pixels), open_engine(written.path).run(pixels)["logits"]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0.03 * np.abs(expected).max())
    # And they are in float: the answers are others than those of int8 alone.
    assert np.abs(expected - litert(quantised(tiny()), pixels)).max() > 1e-3


def test_float_pixels_in_and_what_the_file_says_of_itself(tmp_path):
    normal = tiny()
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


def test_a_saturated_bias_keeps_its_sign(tmp_path):
    """One more than 2**31 - 1, which float32 rounds up, and int32 is at its other end."""
    graph = quantised(tiny())
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


def test_without_executorch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "executorch.exir", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fusiform\[executorch\]'"):
        write(tiny(), "float32", tmp_path)
