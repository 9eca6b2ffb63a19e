"""Equalised networks: the same function, with ranges that lose less."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fusiform.exporting.quantization.equalize import equalize
from fusiform.exporting.quantization.quantize import QuantizedNetwork
from fusiform.graph.build import build_graph
from fusiform.graph.ir import Add, Conv, Gather, Linear


def pixels(count, size, seed=0):
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.uniform(0, 255, (count, 3, 5, 5)).astype(np.float32))
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear").round()


def in_float(graph, pictures):
    network = QuantizedNetwork(graph)
    with torch.no_grad(), network.in_float():
        return network(pictures).numpy()


def unbalanced(graph, seed=0):
    """Channels of very different sizes, as trained networks have them: int8's trouble."""
    random = np.random.default_rng(seed)
    nodes = []
    for node in graph.nodes:
        if isinstance(node, Conv):
            factor = np.exp(random.uniform(-2, 0.3, len(node.bias))).astype(np.float32)
            node = dataclasses.replace(node, weight=node.weight * factor[:, None, None, None], bias=node.bias * factor)
        nodes.append(node)
    return dataclasses.replace(graph, nodes=tuple(nodes))


@pytest.fixture(scope="module", params=["mobilenet_v2", "shufflenet_v2"])
def graph(request, small_spec, lived_in_state):
    spec = small_spec(request.param, size=64)
    return unbalanced(build_graph(spec, lived_in_state(spec)))


@pytest.mark.parametrize("balance", [0.0, 0.5, 0.8, 1.0])
def test_the_function_stays(graph, balance):
    pictures = pixels(6, 64)
    ranges = QuantizedNetwork(graph).channel_ranges([pictures[:3], pictures[3:]])
    changed = equalize(graph, ranges, balance=balance)
    before, after = in_float(graph, pictures), in_float(changed, pictures)
    assert np.abs(after - before).max() <= 1e-4 * np.abs(before).max()
    assert any(
        not np.allclose(node.weight, old.weight)
        for node, old in zip(changed.nodes, graph.nodes, strict=True)
        if isinstance(node, Conv)
    )
    assert [node.name for node in changed.nodes] == [node.name for node in graph.nodes]


def test_ranges_are_what_the_network_computes(graph):
    pictures = pixels(4, 64)
    ranges = QuantizedNetwork(graph).channel_ranges([pictures[:2], pictures[2:]])
    together = QuantizedNetwork(graph).channel_ranges([pictures])
    for node in graph.nodes:
        if isinstance(node, Conv):
            assert ranges[node.name].shape == (len(node.bias),)
            np.testing.assert_allclose(ranges[node.name], together[node.name], rtol=1e-4, atol=1e-4)
            if node.activation == "relu6":
                assert ranges[node.name].max() <= 6


def test_no_tensor_grows_and_small_channels_do(graph):
    pictures = pixels(6, 64)
    ranges = QuantizedNetwork(graph).channel_ranges([pictures])
    after = QuantizedNetwork(equalize(graph, ranges)).channel_ranges([pictures])
    passed_on = {name for node in graph.nodes if isinstance(node, Gather) for name, _, _ in node.pieces}
    added = {name for node in graph.nodes if isinstance(node, Add) for name in (node.name, node.left, node.right)}
    balance_before, balance_after = [], []
    for name, before in ranges.items():
        if name in added:  # these share their factors, and only the largest of them is known not to grow
            continue
        assert after[name].max() <= before.max() * 1.001
        if name in passed_on:
            np.testing.assert_allclose(after[name], before, rtol=1e-3, atol=1e-3)
        elif before.min() > 0:
            balance_before.append(np.log(before / before.max()).mean())
            balance_after.append(np.log(after[name] / after[name].max()).mean())
    assert np.mean(balance_after) > np.mean(balance_before) + 0.2


def test_read_only_by_depthwise_convolutions_all_channels_become_one_range(small_spec, lived_in_state):
    spec = small_spec("shufflenet_v2", size=64)
    graph = unbalanced(build_graph(spec, lived_in_state(spec)))
    pictures = pixels(6, 64)
    ranges = QuantizedNetwork(graph).channel_ranges([pictures])
    after = QuantizedNetwork(equalize(graph, ranges)).channel_ranges([pictures])["stage3.2.branch2.0"]
    alive = ranges["stage3.2.branch2.0"] > 0.011 * ranges["stage3.2.branch2.0"].max()
    np.testing.assert_allclose(after[alive], after.max(), rtol=1e-3)


def test_what_relu6_clipped_is_clipped_still(small_spec, lived_in_state):
    spec = small_spec("mobilenet_v2", size=64)
    state = lived_in_state(spec)
    loud = {
        name: array * 1.6 if name.endswith("1.weight") and array.ndim == 1 else array for name, array in state.items()
    }
    graph = build_graph(spec, loud)
    pictures = pixels(6, 64)
    ranges = QuantizedNetwork(graph).channel_ranges([pictures])
    clipped = sum(int((values == 6).sum()) for values in ranges.values())
    assert clipped > 100
    before, after = in_float(graph, pictures), in_float(equalize(graph, ranges), pictures)
    assert np.abs(after - before).max() <= 1e-4 * np.abs(before).max()


def test_int8_loses_less(small_spec, lived_in_state):
    spec = small_spec("mobilenet_v2", size=64)
    graph = unbalanced(build_graph(spec, lived_in_state(spec)))
    pictures, others = pixels(16, 64, seed=1), pixels(16, 64, seed=2)
    ranges = QuantizedNetwork(graph).channel_ranges([pictures])

    def loss(graph):
        network = QuantizedNetwork(graph)
        network.calibrate([pictures])
        with torch.no_grad():
            rounded = network(others)
            with network.in_float():
                return float((rounded - network(others)).square().mean())

    assert loss(equalize(graph, ranges)) < 0.8 * loss(graph)


def test_dead_channels_and_dead_tensors_stay_finite(graph):
    nodes = list(graph.nodes)
    for k, node in enumerate(nodes):
        if isinstance(node, Conv) and k in (2, 3):
            nodes[k] = dataclasses.replace(node, weight=node.weight * 0, bias=node.bias * 0)
    dead = dataclasses.replace(graph, nodes=tuple(nodes))
    pictures = pixels(2, 64)
    changed = equalize(dead, QuantizedNetwork(dead).channel_ranges([pictures]))
    assert all(np.isfinite(node.weight).all() for node in changed.nodes if isinstance(node, Conv | Linear))
    np.testing.assert_allclose(in_float(changed, pictures), in_float(dead, pictures), rtol=1e-3, atol=1e-4)
