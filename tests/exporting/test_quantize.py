"""The int8 arithmetic: the simulation against the runtime, and its pieces against their definitions."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ai_edge_litert.interpreter import Interpreter, OpResolverType

from fusiform.engines.litert import LiteRTEngine
from fusiform.errors import UsageError
from fusiform.exporting.quantization.quantize import QuantizedNetwork, _dynamic_int8, _Round, weight_scales
from fusiform.graph.build import build_graph
from fusiform.graph.ir import INPUT, Add, Conv, Gather, Linear, MaxPool, Mean, Scale
from fusiform.graph.numbers import to_state
from fusiform.graph.tflite import from_tflite, to_tflite

NETWORKS = [
    ("mobilenet_v2", "symmetric"),
    ("mobilenet_v2", "same"),
    ("shufflenet_v2", "symmetric"),
    ("shufflenet_v2", "same"),
]


def smooth_pictures(count, size, seed=0):
    """Pixels of random soft blobs, float32 NCHW in [0, 255]: noise would average out to one grey."""
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.uniform(-60, 315, (count, 3, 5, 5)).astype(np.float32))
    grown = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    return grown.round().clamp(0, 255)


@pytest.fixture(scope="module")
def networks(small_spec, lived_in_state):
    """Calibrated networks by architecture and padding, made once."""
    made = {}

    def network(architecture, padding="symmetric"):
        if (architecture, padding) not in made:
            spec = small_spec(architecture, size=64, padding=padding)
            quantised = QuantizedNetwork(build_graph(spec, lived_in_state(spec)))
            quantised.calibrate([smooth_pictures(16, 64, seed=1), smooth_pictures(16, 64, seed=2)])
            made[architecture, padding] = quantised
        return made[architecture, padding]

    return network


@pytest.mark.parametrize(("architecture", "padding"), NETWORKS)
def test_each_layer_is_litert_s_to_one_step(architecture, padding, networks, monkeypatch):
    """Layer by layer, each given LiteRT's own tensors: int8 differences would otherwise grow from layer to layer."""
    network = networks(architecture, padding)
    graph = network.freeze()
    pictures = smooth_pictures(1, 64, seed=5)
    interpreter = Interpreter(
        model_content=to_tflite(graph),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    pixels = pictures.numpy().transpose(0, 2, 3, 1).astype(np.uint8)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
    interpreter.invoke()
    tensors = {detail["name"]: detail["index"] for detail in interpreter.get_tensor_details()}
    rounded = network.activation
    compared = []

    def compare(name, x):
        scale = graph.quantization.activations[name]
        runtime = torch.from_numpy(interpreter.get_tensor(tensors[name]).transpose(0, 3, 1, 2).astype(np.float32))
        simulated = (rounded(name, x) / scale.scale).round() + scale.zero_point
        difference = (runtime - simulated).abs()
        # LiteRT's kernels round twice here and there, so a value close to a half may go either way.
        assert difference.max() <= 1, name
        assert (difference > 0).float().mean() < 0.03, name
        compared.append(name)
        return (runtime - scale.zero_point) * scale.scale

    monkeypatch.setattr(network, "activation", compare)
    with torch.no_grad():
        simulated = network(pictures).numpy()
    assert compared == [node.name for node in graph.nodes if isinstance(node, Conv | Add)]
    actual = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(actual, simulated, rtol=0, atol=0.005 * np.abs(simulated).max())


@pytest.mark.parametrize(("architecture", "padding"), NETWORKS)
def test_the_whole_network_loses_no_more_than_simulated(architecture, padding, networks):
    network = networks(architecture, padding)
    pictures = smooth_pictures(16, 64, seed=5)
    graph = network.freeze()
    engine = LiteRTEngine(to_tflite(graph), graph.spec)
    actual = engine.run(pictures.numpy().transpose(0, 2, 3, 1).astype(np.uint8))["logits"]
    with torch.no_grad():
        simulated = network(pictures).numpy()
        with network.in_float():
            real = network(pictures).numpy()
    assert np.abs(actual - real).mean() < 1.3 * np.abs(simulated - real).mean()
    assert np.corrcoef(actual.ravel(), real.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
def test_in_float_it_is_the_float_network(architecture, networks, small_spec, lived_in_state):
    from fusiform.data.preprocess import normalize

    network = networks(architecture)
    spec = small_spec(architecture, size=64)
    pixels = smooth_pictures(2, 64).numpy().transpose(0, 2, 3, 1).astype(np.uint8)
    # The padding is grey instead of the mean colour, which is the grey's own normalisation away.
    grey = dataclasses.replace(spec.preprocess, mean=(114 / 255,) * 3, std=(0.25,) * 3)
    spec = spec.replace(preprocess=grey)
    graph = build_graph(spec, lived_in_state(spec))
    with torch.no_grad():
        same = QuantizedNetwork(graph)
        same.quantize = False
        actual = same(torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32))).numpy()
    expected = LiteRTEngine(to_tflite(graph), spec).run(normalize(pixels, grey))["logits"]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert network.quantize  # in_float ends with its block


def test_the_int8_graph_is_close_to_its_dequantised_weights(networks):
    for architecture in ("mobilenet_v2", "shufflenet_v2"):
        network = networks(architecture)
        graph = network.freeze()
        state = to_state(from_tflite(to_tflite(graph)))
        real = to_state(network.graph)
        for node in graph.nodes:
            if not isinstance(node, Conv | Linear) or node.source == INPUT:
                continue
            step = real[f"{node.name}.weight"].__abs__().reshape(len(node.bias), -1).max(1) / 127
            difference = np.abs(state[f"{node.name}.weight"] - real[f"{node.name}.weight"])
            assert (difference.reshape(len(node.bias), -1).max(1) <= 0.5001 * step).all()


# Weights and biases


def test_a_scale_for_each_output_channel():
    weight = torch.tensor([[[[-2.54]], [[1.0]]], [[[0.0]], [[0.0]]], [[[0.127]], [[-0.05]]]])
    np.testing.assert_allclose(weight_scales(weight).numpy(), [0.02, 1e-8 / 127, 0.001], rtol=1e-6)


def test_frozen_weights_and_biases_are_rounded_to_the_nearest(networks):
    network = networks("mobilenet_v2")
    frozen = network.freeze()
    for node, real in zip(frozen.nodes, network.graph.nodes, strict=True):
        if not isinstance(node, Conv | Linear):
            assert node == real
            continue
        scales = frozen.quantization.weights[node.name]
        shape = (-1, *(1,) * (node.weight.ndim - 1))
        assert node.weight.dtype == np.int8
        assert np.abs(node.weight.astype(int)).reshape(len(scales), -1).max(1).tolist() == [127] * len(scales)
        error = node.weight * scales.reshape(shape).astype(float) - real.weight
        assert (np.abs(error) <= 0.5001 * scales.reshape(shape)).all()
        if isinstance(node, Conv):
            step = scales.astype(float) * frozen.quantization.activations[node.source].scale
            assert node.bias.dtype == np.int32
            assert (np.abs(node.bias * step - real.bias) <= 0.5001 * step).all()
        else:
            np.testing.assert_array_equal(node.bias, real.bias, strict=True)


def test_a_bias_too_large_for_its_step_stays_in_range(small_spec, lived_in_state):
    spec = small_spec("mobilenet_v2")
    graph = build_graph(spec, lived_in_state(spec))
    first = graph.nodes[0]
    weight, bias = first.weight.copy(), first.bias.copy()
    weight[0], bias[0], bias[1] = 1e-12, 5e3, 0  # a dead channel whose scale is the smallest there is
    changed = dataclasses.replace(graph, nodes=(dataclasses.replace(first, weight=weight, bias=bias), *graph.nodes[1:]))
    network = QuantizedNetwork(changed)
    network.calibrate([smooth_pictures(2, 32)])
    assert network.freeze().nodes[0].bias[0] == 2**31 - 1


# Activations


def test_gathered_and_pooled_tensors_share_a_scale(networks):
    graph = networks("shufflenet_v2").freeze()
    activations = graph.quantization.activations
    gathers = [node for node in graph.nodes if isinstance(node, Gather)]
    assert len(gathers) == 16
    for node in gathers:
        assert {activations[name] for name, _, _ in node.pieces} == {activations[node.name]}
    (pool,) = (node for node in graph.nodes if isinstance(node, MaxPool))
    assert activations[pool.name] == activations[pool.source]
    # A stage's tensors are one group; the tensors inside a branch are nobody's.
    assert len({activations[node.name] for node in gathers}) == 3
    assert activations["stage2.1.branch2.0"] != activations["stage2.1.branch2.5"]


def test_mobilenets_tensors_have_a_scale_each(networks):
    graph = networks("mobilenet_v2").freeze()
    activations = graph.quantization.activations
    own = [node.name for node in graph.nodes if isinstance(node, Conv | Add)]
    assert set(activations) == {INPUT, *own}
    assert not any(isinstance(node, (Mean, Linear)) and node.name in activations for node in graph.nodes)
    groups = networks("mobilenet_v2").groups
    assert groups == {name: name for name in own}


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
def test_zero_is_exact_and_activations_end_where_they_clip(architecture, networks):
    graph = networks(architecture).freeze()
    assert graph.quantization.activations[INPUT] == Scale(1.0, -14)
    for node in graph.nodes:
        if isinstance(node, Conv) and node.activation is not None:
            scale = graph.quantization.activations[node.name]
            assert scale.zero_point == -128  # int8's lowest value is the ReLU's zero
            if node.activation == "relu6":
                assert scale.scale * 255 <= 6 * (1 + 1e-6)


def test_calibration_clips_what_costs_least():
    from fusiform.exporting.quantization.quantize import _Histograms

    histograms = _Histograms({"x": "x"})
    values = torch.randn(1, 1, 100, 100, generator=torch.Generator().manual_seed(0))
    values[0, 0, 0, 0] = 60.0  # one outlier
    for histograms.counting in (False, True):
        histograms.see("x", values)
    chosen = histograms.scales()["x"]

    def squared_error(scale):
        rounded = (values / scale.scale).round().add(scale.zero_point).clamp(-128, 127).sub(scale.zero_point)
        return float(((rounded * scale.scale - values) ** 2).sum())

    whole = (60.0 - float(values.min())) / 255
    everything = Scale(whole, round(-128 - float(values.min()) / whole))
    assert squared_error(chosen) <= squared_error(everything) * 1.01
    best = min(
        squared_error(
            Scale(whole * share, int(np.clip(round(-128 - float(values.min()) / (whole * share)), -128, 127)))
        )
        for share in np.linspace(0.3, 1, 141)
    )
    assert squared_error(chosen) <= best * 1.05


def test_calibration_covers_zero_even_where_all_values_are_positive():
    from fusiform.exporting.quantization.quantize import _Histograms

    histograms = _Histograms({"x": "x", "dead": "dead"})
    for histograms.counting in (False, True):
        histograms.see("x", torch.full((1, 1, 4, 4), 5.0))
        histograms.see("dead", torch.zeros(1, 1, 4, 4))
    scales = histograms.scales()
    assert scales["x"].zero_point == -128
    np.testing.assert_allclose(scales["x"].scale * 255, 5.0, rtol=0.05)
    assert scales["dead"].scale > 0


@pytest.mark.parametrize("zero_point", [-128, -3, 40])
def test_rounding_and_its_gradient_are_pytorchs(zero_point):
    scale = 0.03
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * 3
    near_a_tie = ((x / scale) % 1 - 0.5).abs() < 1e-3  # the two multiply in another order
    x = x[~near_a_tie]
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    rounded = _Round.apply(ours, scale, zero_point)
    expected = torch.fake_quantize_per_tensor_affine(theirs, scale, zero_point, -128, 127)
    torch.testing.assert_close(rounded, expected, rtol=0, atol=1e-6)
    weight = torch.randn(len(x), generator=torch.Generator().manual_seed(1))
    (rounded * weight).sum().backward()
    (expected * weight).sum().backward()
    # Values that are rounded to the very ends of the range may count as clipped or not.
    low, high = (-128 - zero_point) * scale, (127 - zero_point) * scale
    inside = (x < low - scale) | ((x > low) & (x < high)) | (x > high + scale)
    assert torch.equal(ours.grad[inside], theirs.grad[inside])
    assert 0 < (ours.grad == 0).sum() < len(x)


def test_features_are_rounded_with_each_pictures_own_range():
    x = torch.tensor([[0.0, 1.0, 2.55], [0.0, 100.0, 255.0]]) + torch.tensor([[0.0, 0.004, 0.0], [0.0, 0.4, 0.0]])
    torch.testing.assert_close(_dynamic_int8(x), torch.tensor([[0.0, 1.0, 2.55], [0.0, 100.0, 255.0]]))
    assert torch.equal(_dynamic_int8(torch.zeros(1, 4)), torch.zeros(1, 4))
    leaf = x.clone().requires_grad_()
    _dynamic_int8(leaf).sum().backward()
    assert torch.equal(leaf.grad, torch.ones_like(x))


def test_simulated_weights_are_the_frozen_ones_and_the_classifier_answers_in_float(networks):
    """Training sees the very weights that the file holds; the runtime's answers are compared layer by layer above."""
    network = networks("mobilenet_v2")
    graph = network.freeze()
    for node, real in zip(graph.nodes, network.graph.nodes, strict=True):
        if isinstance(node, Conv | Linear):
            with torch.no_grad():
                seen = network.weight(real).numpy()
            scales = graph.quantization.weights[node.name].reshape(-1, *(1,) * (node.weight.ndim - 1))
            np.testing.assert_allclose(seen, node.weight * scales, rtol=1e-6, atol=1e-9)
    interpreter = Interpreter(model_content=to_tflite(graph))
    interpreter.allocate_tensors()
    types = {detail["name"]: detail["dtype"] for detail in interpreter.get_tensor_details()}
    classifier = [types[name] for name in ("classifier.1.weight", "classifier.1.bias", "logits")]
    assert classifier == [np.int8, np.float32, np.float32]


def test_gradients_reach_every_weight(networks):
    network = networks("shufflenet_v2")
    network(smooth_pictures(2, 64)).square().sum().backward()
    try:
        for parameter in network.parameters():
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()
            assert parameter.grad.any()
    finally:
        network.zero_grad()


# What it refuses


def test_int8_again_is_refused(networks):
    with pytest.raises(UsageError, match="int8 already: quantise the float32 network"):
        QuantizedNetwork(networks("mobilenet_v2").freeze())


def test_pixels_have_three_colours(small_spec, lived_in_state):
    spec = small_spec("mobilenet_v2", channels=4)
    with pytest.raises(UsageError, match="pixels of 3 colours, this one has 4 channels"):
        QuantizedNetwork(build_graph(spec, lived_in_state(spec)))


@pytest.mark.parametrize("method", ["calibrate", "channel_ranges"])
def test_a_calibration_that_fails_leaves_nothing_behind(method, small_spec, lived_in_state):
    spec = small_spec("mobilenet_v2")
    network = QuantizedNetwork(build_graph(spec, lived_in_state(spec)))
    with pytest.raises(RuntimeError):
        getattr(network, method)([torch.zeros(1, 5, 32, 32)])
    assert network.observer is None
    assert network.quantize


# Layers in float, corrected biases, the error of each layer


@pytest.mark.parametrize(
    ("architecture", "kept"),
    [
        ("mobilenet_v2", ["features.0.0", "features.3.conv.2", "features.3", "features.4.conv.0.0", "classifier.1"]),
        ("shufflenet_v2", ["conv1.0", "stage2.0.branch1.0", "stage2.1.branch2.5", "conv5.0", "fc"]),
    ],
)
def test_layers_kept_in_float_are_what_the_runtime_computes(architecture, kept, networks):
    network = copy.deepcopy(networks(architecture))
    pictures = smooth_pictures(8, 64, seed=5)
    network.kept = frozenset(kept)
    graph = network.freeze()
    for node in graph.nodes:
        if isinstance(node, Conv | Linear):
            assert node.weight.dtype == (np.float32 if node.name in kept else np.int8)
    actual = LiteRTEngine(to_tflite(graph), graph.spec).run(pictures.numpy().transpose(0, 2, 3, 1).astype(np.uint8))
    with torch.no_grad():
        simulated = network(pictures).numpy()
        with network.in_float():
            real = network(pictures).numpy()
    assert np.abs(actual["logits"] - real).mean() < 1.3 * np.abs(simulated - real).mean()


def test_everything_in_float_is_the_float_network(networks):
    network = copy.deepcopy(networks("mobilenet_v2"))
    network.kept = frozenset(node.name for node in network.graph.nodes)
    pictures = smooth_pictures(2, 64, seed=5)
    with torch.no_grad():
        kept = network(pictures)
        with network.in_float():
            assert torch.equal(kept, network(pictures))


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
def test_corrected_biases_bring_the_means_back(architecture, networks, monkeypatch):
    """Every weight rounded down: a bias in the other direction is all that is missing."""
    network = copy.deepcopy(networks(architecture))

    def weight(self, node):
        exact = self.weights[node.name.replace(".", "_")]
        scales = weight_scales(exact).reshape(-1, *(1,) * (exact.ndim - 1))
        return (exact / scales).floor() * scales if self.rounds(node) else exact

    monkeypatch.setattr(type(network), "weight", weight)
    seen, unseen = smooth_pictures(32, 64, seed=8), smooth_pictures(32, 64, seed=9)

    def error():
        with torch.no_grad():
            found = network(unseen)
            return float((found - wanted).norm() / wanted.norm())

    with torch.no_grad(), network.in_float():
        wanted = network(unseen)
    before = error()
    network.correct_biases(seen)
    assert error() < 0.5 * before


def test_the_layer_that_suffers_most_comes_first(networks):
    network = copy.deepcopy(networks("mobilenet_v2"))
    with torch.no_grad():
        network.weights["features_5_conv_1_0"][0] *= 300  # not its own scale's, but its activation's
    network.calibrate([smooth_pictures(16, 64, seed=1)])
    network.scales["features.5.conv.1.0"] = Scale(network.scales["features.5.conv.1.0"].scale * 60, -128)
    errors = network.layer_errors(smooth_pictures(4, 64, seed=2))
    layers = [node.name for node in network.graph.nodes if isinstance(node, Conv | Add | Linear)]
    assert sorted(error.name for error in errors) == sorted(layers)
    assert errors[0].name == "features.5.conv.1.0"
    assert [error.logits for error in errors] == sorted((error.logits for error in errors), reverse=True)
    (last,) = (error for error in errors if error.name == "classifier.1")
    assert last.noise == last.logits > 0
