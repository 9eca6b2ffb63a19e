"""Graphs against the PyTorch networks, and ShuffleNetV2's missing shuffle against the paper's."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from fusiform.engines.litert import LiteRTEngine
from fusiform.errors import WeightsError
from fusiform.graph.build import build_graph, number_weights
from fusiform.graph.builder import fold_batch_norm
from fusiform.graph.inputs import fold_normalization, pixel_zero_point, unfold_normalization
from fusiform.graph.ir import INPUT, Conv, Gather, Graph, Linear, MaxPool, Mean, Quantization, Scale
from fusiform.graph.numbers import dequantize, to_state
from fusiform.graph.shapes import expected_shapes
from fusiform.graph.tflite import to_tflite
from fusiform.tables import SHUFFLENET_V2_CHANNELS, SHUFFLENET_V2_REPEATS

NETWORKS = [("mobilenet_v2", 0.35), ("mobilenet_v2", 1.0), ("shufflenet_v2", 0.5), ("shufflenet_v2", 1.0)]
each_network = pytest.mark.parametrize(("architecture", "width"), NETWORKS)
both_paddings = pytest.mark.parametrize("padding", ["symmetric", "same"])


def pictures(spec, count=1, seed=0):
    shape = (count, spec.input_channels, spec.input_size, spec.input_size)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def answers(graph, batch):
    return LiteRTEngine(to_tflite(graph), graph.spec).run(batch)["logits"]


def assert_close(actual, expected, tolerance=1e-4):
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


@each_network
@both_paddings
@pytest.mark.parametrize("size", [32, 96, 97, 224])
def test_litert_answers_as_pytorch(architecture, width, padding, size, small_spec, lived_in_state):
    torch = pytest.importorskip("torch")
    from fusiform.modules import build_network
    from fusiform.zoo.load import load_state

    spec = small_spec(architecture, width, size=size, padding=padding)
    state = lived_in_state(spec)
    network = build_network(spec).eval()
    load_state(network, state, source="test")
    batch = pictures(spec)
    with torch.inference_mode():
        expected = network(torch.from_numpy(batch)).numpy()
    assert expected.std() > 0.1
    assert_close(answers(build_graph(spec, state), batch), expected)


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_numbers_of_channels(architecture, channels, small_spec, lived_in_state):
    torch = pytest.importorskip("torch")
    from fusiform.modules import build_network
    from fusiform.zoo.load import load_state

    spec = small_spec(architecture, channels=channels)
    state = lived_in_state(spec)
    network = build_network(spec).eval()
    load_state(network, state, source="test")
    batch = pictures(spec)
    with torch.inference_mode():
        expected = network(torch.from_numpy(batch)).numpy()
    assert_close(answers(build_graph(spec, state), batch), expected)


@each_network
def test_the_state_comes_back(architecture, width, small_spec, lived_in_state):
    spec = small_spec(architecture, width)
    state = lived_in_state(spec)
    graph = build_graph(spec, state)
    back = to_state(graph)
    assert {name: array.shape for name, array in back.items()} == expected_shapes(architecture, width, num_classes=10)
    # Every weight is where torchvision has it, reordered by nothing, and holds its batch normalisation to the bit.
    for node in graph.nodes:
        if isinstance(node, Conv):
            weight, bias = fold_batch_norm(state, node.name, node.norm)
            np.testing.assert_array_equal(back[f"{node.name}.weight"], weight)
            np.testing.assert_array_equal(back[f"{node.norm}.bias"], bias)
        elif isinstance(node, Linear):
            np.testing.assert_array_equal(back[f"{node.name}.weight"], state[f"{node.name}.weight"])
            np.testing.assert_array_equal(back[f"{node.name}.bias"], state[f"{node.name}.bias"])
    batch = pictures(spec)
    assert_close(answers(build_graph(spec, back), batch), answers(graph, batch), 1e-5)


def test_batch_normalisation_is_folded_by_its_formula():
    random = np.random.default_rng(0)
    state = {"c.weight": random.normal(size=(4, 2, 3, 3))}
    state |= {f"n.{part}": random.uniform(0.5, 1.5, 4) for part in ("weight", "bias", "running_mean", "running_var")}
    weight, bias = fold_batch_norm(state, "c", "n")
    for k in range(4):
        factor = state["n.weight"][k] / (state["n.running_var"][k] + 1e-5) ** 0.5
        np.testing.assert_allclose(weight[k], state["c.weight"][k] * factor, rtol=1e-6)
        np.testing.assert_allclose(bias[k], state["n.bias"][k] - state["n.running_mean"][k] * factor, rtol=1e-5)


# The shuffle


def shuffle(channels):
    """Figure 3 of the paper, literally: two groups, transposed."""
    half = len(channels) // 2
    return [name for pair in zip(channels[:half], channels[half:], strict=True) for name in pair]


def outputs(conv, count):
    return [f"{conv}:{k}" for k in range(count)]


def what_the_paper_reads(width):
    """For each convolution the channels that its weight meets, by convolution and number, split and shuffled."""
    stem, *stages, last = SHUFFLENET_V2_CHANNELS[width]
    reads = {"conv1.0": outputs(INPUT, 3)}
    x = outputs("conv1.0", stem)
    for stage, repeats, channels in zip((2, 3, 4), SHUFFLENET_V2_REPEATS, stages, strict=True):
        half = channels // 2
        for unit in range(repeats):
            left, right = f"stage{stage}.{unit}.branch1", f"stage{stage}.{unit}.branch2"
            if unit == 0:
                reads[f"{left}.0"], reads[f"{left}.2"] = x, outputs(f"{left}.0", len(x))
                passing, entering = outputs(f"{left}.2", half), x
            else:
                passing, entering = x[:half], x[half:]
            reads[f"{right}.0"] = entering
            reads[f"{right}.3"], reads[f"{right}.5"] = outputs(f"{right}.0", half), outputs(f"{right}.3", half)
            x = shuffle(passing + outputs(f"{right}.5", half))
    return reads | {"conv5.0": x, "fc": outputs("conv5.0", last)}


@pytest.mark.parametrize("width", [0.5, 1.0, 1.5, 2.0])
def test_every_weight_meets_the_channel_that_the_paper_gives_it(width, small_spec):
    shapes = expected_shapes("shufflenet_v2", width, num_classes=10)
    arrays = {name[:-7]: np.broadcast_to(np.float32(0), s) for name, s in shapes.items() if name.endswith(".weight")}
    made = {INPUT: outputs(INPUT, 3)}  # tensor: which of the paper's channels each of its channels is
    reads = {}
    for node in number_weights(small_spec("shufflenet_v2", width), arrays).nodes:
        match node:
            case Conv() | Linear():
                numbers = node.weight.astype(int)
                _, ins, *window = arrays[node.name].shape
                rows, columns = numbers // math.prod((ins, *window)), numbers // math.prod(window) % ins
                if isinstance(node, Conv):
                    assert (numbers % math.prod(window) == np.arange(math.prod(window)).reshape(window)).all()
                    assert (rows == node.bias.reshape(-1, 1, 1, 1)).all()
                    made[node.name] = [f"{node.name}:{k}" for k in rows[:, 0, 0, 0]]
                depthwise = isinstance(node, Conv) and node.depthwise
                inputs = (rows if depthwise else columns.swapaxes(0, 1)).reshape(len(made[node.source]), -1)[:, 0]
                reads[node.name] = [made[node.source][k] for k in np.argsort(inputs)]
                assert sorted(inputs) == list(range(len(inputs)))
            case Gather():
                made[node.name] = [label for name, first, end in node.pieces for label in made[name][first:end]]
            case MaxPool() | Mean():
                made[node.name] = made[node.source]
    assert reads == what_the_paper_reads(width)


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_every_channel_is_read_once(width, small_spec, lived_in_state):
    spec = small_spec("shufflenet_v2", width)
    graph = build_graph(spec, lived_in_state(spec))
    pieces = [piece for node in graph.nodes if isinstance(node, Gather) for piece in node.pieces]
    for tensor in {name for name, _, _ in pieces}:
        spans = sorted((first, end) for name, first, end in pieces if name == tensor)
        assert [0, *(end for _, end in spans)] == [*(first for first, _ in spans), graph.shapes[tensor][2]]


# Normalisation inside the first convolution


@pytest.mark.parametrize(("mean", "grey"), [((0.485, 0.456, 0.406), 114), ((0.5, 0.5, 0.5), 128), ((0.0, 0.0, 0.0), 0)])
def test_normalisation_folds_and_unfolds(mean, grey, small_spec, lived_in_state):
    spec = small_spec("mobilenet_v2", 0.35)
    spec = spec.replace(preprocess=dataclasses.replace(spec.preprocess, mean=mean))
    graph = build_graph(spec, lived_in_state(spec))
    assert pixel_zero_point(spec.preprocess) == grey
    folded = fold_normalization(graph)
    assert folded.nodes[1:] == graph.nodes[1:]

    # One window of the first convolution, in the middle of a picture of pixels.
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 3)).astype(np.float64)
    std = np.array(spec.preprocess.std)[:, None, None]
    normalised = (pixels / 255 - np.array(mean)[:, None, None]) / std
    first, before = folded.nodes[0], graph.nodes[0]
    expected = (before.weight * normalised).sum((1, 2, 3)) + before.bias
    actual = (first.weight.astype(np.float64) * (pixels - grey)).sum((1, 2, 3)) + first.bias
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)

    back = unfold_normalization(folded).nodes[0]
    np.testing.assert_allclose(back.weight, before.weight, rtol=3e-7)
    np.testing.assert_allclose(back.bias, before.bias, rtol=0, atol=1e-5)


def test_dequantised_weights_are_scale_times_number(small_spec, lived_in_state):
    spec = small_spec("mobilenet_v2", 0.35)
    graph = build_graph(spec, lived_in_state(spec))
    nodes, scales = [], {}
    for node in graph.nodes:
        if isinstance(node, Conv | Linear):
            scales[node.name] = np.linspace(0.01, 0.02, len(node.bias)).astype(np.float32)
            weight = np.random.default_rng(1).integers(-127, 128, node.weight.shape).astype(np.int8)
            bias = np.arange(len(node.bias), dtype=np.int32) if isinstance(node, Conv) else node.bias
            node = dataclasses.replace(node, weight=weight, bias=bias)
        nodes.append(node)
    activations = {name: Scale(0.25, 3) for name in graph.shapes} | {INPUT: Scale(1.0, -14)}
    quantised = Graph(spec, tuple(nodes), Quantization(activations, scales))
    for node, real in zip(quantised.nodes, dequantize(quantised).nodes, strict=True):
        if isinstance(node, Conv | Linear):
            for k in (0, len(node.bias) - 1):
                np.testing.assert_allclose(real.weight[k], node.weight[k] * scales[node.name][k], rtol=1e-6)
            step = 1.0 if node.source == INPUT else 0.25
            expected = node.bias * (scales[node.name].astype(float) * step) if isinstance(node, Conv) else node.bias
            np.testing.assert_allclose(real.bias, expected, rtol=1e-6)


# Weights that do not fit


def without(name):
    return lambda state: {key: value for key, value in state.items() if key != name}


def reshaped(name, shape):
    return lambda state: state | {name: np.zeros(shape, np.float32)}


@pytest.mark.parametrize(
    ("architecture", "change", "message"),
    [
        ("mobilenet_v2", without("features.3.conv.1.0.weight"), r"lack 'features\.3\.conv\.1\.0\.weight'"),
        ("mobilenet_v2", without("features.18.1.running_var"), r"lack 'features\.18\.1\.running_var'"),
        ("mobilenet_v2", without("classifier.1.bias"), r"lack 'classifier\.1\.bias'"),
        (
            "mobilenet_v2",
            reshaped("features.2.conv.0.0.weight", (48, 8)),
            r"shape \(48, 8\), but .* needs \(48, 8, 1, 1\)",
        ),
        ("mobilenet_v2", reshaped("features.0.0.weight", (16, 3, 7, 7)), r"needs \(16, 3, 3, 3\)"),
        ("mobilenet_v2", reshaped("features.0.1.weight", (1,)), r"features\.0\.1 does not have one value"),
        ("mobilenet_v2", reshaped("classifier.1.weight", (10, 1000)), r"needs \(10, 1280\)"),
        ("mobilenet_v2", lambda state: {}, r"lack 'features\.0\.0\.weight'"),
        ("shufflenet_v2", reshaped("stage2.1.branch2.0.weight", (24, 48, 1, 1)), r"needs \(24, 24, 1, 1\)"),
        ("shufflenet_v2", reshaped("stage2.1.branch2.3.weight", (24, 24, 3, 3)), r"needs \(24, 1, 3, 3\)"),
        ("shufflenet_v2", without("fc.weight"), r"lack 'fc\.weight'"),
    ],
)
def test_weights_that_do_not_fit(architecture, change, message, small_spec, lived_in_state):
    spec = small_spec(architecture)
    with pytest.raises(WeightsError, match=message):
        build_graph(spec, change(lived_in_state(spec)))


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
@pytest.mark.parametrize(("said", "held"), [(0.5, 1.0), (1.0, 0.5)])
def test_weights_of_another_width(architecture, said, held, small_spec, lived_in_state):
    state = lived_in_state(small_spec(architecture, held))
    with pytest.raises(WeightsError, match=f"{architecture}_x{said}".replace(".", "_") + " needs .* another network"):
        build_graph(small_spec(architecture, said), state)


def test_weights_of_the_other_network(small_spec, lived_in_state):
    with pytest.raises(WeightsError, match=r"lack 'conv1\.0\.weight', which shufflenet_v2_x0_5 needs"):
        build_graph(small_spec("shufflenet_v2"), lived_in_state(small_spec("mobilenet_v2")))


def test_another_number_of_classes(small_spec, lived_in_state):
    state = lived_in_state(small_spec("shufflenet_v2", classes=11))
    with pytest.raises(WeightsError, match="answer with 11 classes, the spec names 10"):
        build_graph(small_spec("shufflenet_v2"), state)
