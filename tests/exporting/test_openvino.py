"""OpenVINO files against the PyTorch network and LiteRT, opened with OpenVINO itself."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

openvino = pytest.importorskip("openvino")
torch = pytest.importorskip("torch")

from fusiform.data.preprocess import normalize
from fusiform.engines import open_engine
from fusiform.engines.litert import LiteRTEngine
from fusiform.engines.openvino import open_core
from fusiform.errors import MissingExtraError
from fusiform.exporting.quantization.quantize import QuantizedNetwork
from fusiform.exporting.targets.openvino import to_openvino, write
from fusiform.graph.build import build_graph
from fusiform.graph.inputs import read_pixels
from fusiform.graph.ir import Add, Conv, Linear
from fusiform.graph.tflite import to_tflite
from fusiform.modules import build_network
from fusiform.spec import Preprocess
from fusiform.zoo.load import load_state
from fusiform.zoo.model import open_model

NETWORKS = [(network, padding) for network in ("mobilenet_v2", "shufflenet_v2") for padding in ("symmetric", "same")]
LABELS = ('a "quoted" & <tagged> one', "강아지", "it's", "two\nlines", " ", *(f"class {k}" for k in range(5)))
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


def smooth_pixels(count, size, seed):
    """uint8 NHWC pictures of random soft blobs: noise would average out to one grey."""
    coarse = torch.from_numpy(np.random.default_rng(seed).uniform(-60, 315, (count, 3, 5, 5)).astype(np.float32))
    grown = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    return grown.round().clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8).contiguous().numpy()


@dataclasses.dataclass
class Made:
    """A small network: in PyTorch, as a graph, and as an int8 graph."""

    network: object
    graph: object
    int8: object

    def expected(self, pictures):
        with torch.inference_mode():
            return self.network(torch.from_numpy(pictures)).numpy()


@pytest.fixture(scope="module")
def make(small_spec, lived_in_state):
    """A function from architecture and padding to what was made of it, once."""
    made = {}

    def make_one(architecture, padding="symmetric", keep=()):
        key = architecture, padding, keep
        if key not in made:
            spec = small_spec(architecture, size=64, padding=padding).replace(labels=LABELS)
            state = lived_in_state(spec)
            network = build_network(spec)
            load_state(network, state, source="the test")
            graph = build_graph(spec, state)
            quantised = QuantizedNetwork(graph)
            pixels = torch.from_numpy(smooth_pixels(16, 64, seed=1)).permute(0, 3, 1, 2).float()
            quantised.calibrate([pixels])
            quantised.kept = frozenset(keep)
            made[key] = Made(network.eval(), graph, quantised.freeze())
        return made[key]

    return make_one


def answers(path, batch):
    return open_core("tests").compile_model(path, "CPU", EXACT)(batch)["logits"]


def distance(actual, expected):
    assert actual.shape == expected.shape
    return np.abs(actual - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(("architecture", "padding"), NETWORKS)
def test_float_files_answer_like_the_network_at_any_batch_size(architecture, padding, make, tmp_path):
    made = make(architecture, padding)
    (whole,) = write(made.graph, "float32", tmp_path)
    (half,) = write(made.graph, "float16", tmp_path)
    assert whole.path.name == f"{made.graph.spec.name}_float32.xml"
    assert whole.files == (whole.path, whole.path.with_suffix(".bin"))
    assert sorted(tmp_path.iterdir()) == sorted((*whole.files, *half.files))
    assert half.files[1].stat().st_size < 0.51 * whole.files[1].stat().st_size
    for batch in (1, 3):
        pictures = np.random.default_rng(batch).normal(size=(batch, 3, 64, 64)).astype(np.float32)
        expected = made.expected(pictures)
        assert distance(answers(whole.path, pictures), expected) <= 1e-4
        assert 1e-5 < distance(answers(half.path, pictures), expected) <= 2e-2


@pytest.mark.parametrize(("architecture", "padding"), NETWORKS)
def test_int8_files_answer_like_litert(architecture, padding, make, tmp_path):
    made = make(architecture, padding)
    (written,) = write(made.int8, "int8", tmp_path)
    # Of the convolutions and the classifier all but the last compute in int8.
    layers = sum(isinstance(node, Conv | Linear) for node in made.graph.nodes)
    assert written.figures == {"int8_layers": layers - 1, "layers": layers}
    (whole,) = write(made.graph, "float32", tmp_path)
    assert written.files[1].stat().st_size < 0.29 * whole.files[1].stat().st_size
    litert = LiteRTEngine(to_tflite(made.int8), made.graph.spec)
    pixels = smooth_pixels(3, 64, seed=5)
    actual = answers(written.path, pixels)
    # Each layer rounds to 256 values, and what is close to a half may go either way.
    assert distance(actual, litert.run(pixels)["logits"]) <= 0.1
    assert distance(actual, made.expected(normalize(pixels, made.graph.spec.preprocess))) <= 0.1
    np.testing.assert_allclose(answers(written.path, pixels[:1]), actual[:1], rtol=0, atol=1e-5 * np.abs(actual).max())


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
def test_layers_that_stay_in_float(architecture, make):
    plain = make(architecture)
    names = [node.name for node in plain.int8.nodes if isinstance(node, Conv | Add | Linear)]
    keep = (names[0], names[1], *names[5:7], names[-1])
    kept = make(architecture, keep=keep)
    compiled = open_core("tests").compile_model(to_openvino(kept.int8), "CPU", EXACT)
    stored = {node.get_friendly_name(): node for node in to_openvino(kept.int8).get_ordered_ops()}
    weights = {
        name: stored[f"{name}.weight"].get_element_type().get_type_name()
        for name in names
        if name + ".weight" in stored
    }
    assert {name for name, kind in weights.items() if kind == "f32"} == set(keep) & set(weights)
    assert set(weights.values()) == {"f32", "i8"}
    pixels = smooth_pixels(3, 64, seed=5)
    litert = LiteRTEngine(to_tflite(kept.int8), kept.graph.spec)
    assert distance(compiled(pixels)["logits"], litert.run(pixels)["logits"]) <= 0.1


def test_every_layer_in_float_is_the_float_network(make):
    names = tuple(node.name for node in make("mobilenet_v2").int8.nodes if isinstance(node, Conv | Add | Linear))
    made = make("mobilenet_v2", "same", names)
    pixels = smooth_pixels(2, 64, seed=5)
    actual = open_core("tests").compile_model(to_openvino(made.int8), "CPU", EXACT)(pixels)["logits"]
    expected = made.expected(normalize(pixels, made.graph.spec.preprocess))
    # All but the padding of the first convolution: grey instead of the mean colour; and what is pooled is rounded.
    assert distance(actual, expected) <= 0.02


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
def test_a_float_network_that_reads_pixels(architecture, make, tmp_path):
    made = make(architecture, "same")
    (written,) = write(read_pixels(made.graph), "float32", tmp_path)
    pixels = smooth_pixels(2, 64, seed=6)
    expected = made.expected(normalize(pixels, made.graph.spec.preprocess))
    assert distance(answers(written.path, pixels), expected) <= 1e-4


def test_other_channels_than_three(small_spec, lived_in_state, tmp_path):
    spec = small_spec("shufflenet_v2", channels=1)
    (written,) = write(build_graph(spec, lived_in_state(spec)), "float32", tmp_path)
    assert answers(written.path, np.zeros((2, 1, 32, 32), np.float32)).shape == (2, 10)
    model = open_core("tests").read_model(written.path)
    assert not model.has_rt_info(["model_info", "mean_values"])


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_the_same_graph_gives_the_same_bytes(precision, make, tmp_path):
    made = make("mobilenet_v2")
    graph = made.int8 if precision == "int8" else made.graph
    contents = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (written,) = write(graph, precision, tmp_path / name)
        contents.append([file.read_bytes() for file in written.files])
    assert contents[0] == contents[1]
    assert str(tmp_path).encode() not in contents[0][0]


def test_the_files_describe_themselves(make, tmp_path):
    made = make("mobilenet_v2")
    (written,) = write(made.graph, "float32", tmp_path)
    opened = open_model(written.path)
    assert opened.format == "openvino"
    assert opened.spec == made.graph.spec
    model = open_core("tests").read_model(written.path)
    # Model API splits labels at spaces.
    labels = model.get_rt_info(["model_info", "labels"]).astype(str).split()
    assert labels[:6] == ['a_"quoted"_&_<tagged>_one', "강아지", "it's", "two_lines", "_", "class_0"]
    assert len(labels) == len(LABELS)
    assert model.get_rt_info(["model_info", "model_type"]).astype(str) == "Classification"
    assert model.get_rt_info(["model_info", "resize_type"]).astype(str) == "crop"


@pytest.mark.parametrize("reads", ["normalised", "pixels", "int8"])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_model_api_prepares_pictures_as_we_do(reads, order, make, tmp_path):
    """What Model API builds with OpenVINO's own preprocessing from ``model_info``; it is given pictures in BGR."""
    made = make("shufflenet_v2")
    preprocess = Preprocess(64, 64, mean=(0.1, 0.4, 0.6), std=(0.2, 0.3, 0.4), color_order=order)
    graph = made.int8 if reads == "int8" else made.graph
    graph = dataclasses.replace(graph, spec=graph.spec.replace(preprocess=preprocess))
    if reads == "pixels":
        graph = read_pixels(graph)
    (written,) = write(graph, "int8" if reads == "int8" else "float32", tmp_path)
    model = open_core("tests").read_model(written.path)
    layout = openvino.layout_helpers.get_layout(model.input()).to_string()
    assert layout == ("[N,C,H,W]" if reads == "normalised" else "[N,H,W,C]")

    def numbers(key):
        return [float(value) for value in model.get_rt_info(["model_info", key]).astype(str).split()]

    steps = openvino.preprocess.PrePostProcessor(model)
    given = steps.input()
    given.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    given.tensor().set_color_format(openvino.preprocess.ColorFormat.BGR)
    given.model().set_layout(openvino.Layout(layout))
    if model.get_rt_info(["model_info", "reverse_input_channels"]).astype(str) == "True":
        given.preprocess().convert_color(openvino.preprocess.ColorFormat.RGB)
    given.preprocess().convert_element_type(openvino.Type.f32)
    if model.has_rt_info(["model_info", "mean_values"]):
        given.preprocess().mean(numbers("mean_values")).scale(numbers("scale_values"))
    pictures = smooth_pixels(2, 64, seed=8)
    compiled = open_core("tests").compile_model(steps.build(), "CPU", EXACT)
    # Our engines take pixels in the order that the network wants.
    expected = open_engine(written.path).run(pictures)["logits"]
    in_bgr = pictures if order == "bgr" else np.ascontiguousarray(pictures[..., ::-1])
    assert distance(compiled(in_bgr)["logits"], expected) <= 1e-4


def test_without_openvino(make, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fusiform\[openvino\]'"):
        write(make("mobilenet_v2").graph, "float32", tmp_path)
